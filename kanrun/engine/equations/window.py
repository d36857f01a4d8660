"""One window of an evolution equation: splines of space times polynomials of time.

An unknown of order r in time is u = lift + sum_j C_j(x) P_j(s) on the window, s from -1 to 1, with
Legendre polynomials P_j of degree 0 to DEGREE. Given values and r - 1 time derivatives at the start
fix part of it; the unknowns of the least squares problem are the splines that multiply polynomials
which vanish there with r - 1 derivatives. Residuals are taken at Gauss points of each interval of
space and at the Radau points of time. In time this is the Radau IIA method of DEGREE stages for the
system of first order (Hairer and Wanner, Solving ODEs II, section IV.5).

A window on new breakpoints starts from the exact old state: its difference from the new splines
fades out over the window as a polynomial of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import factorial

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre, polynomial
from torch import Tensor

from kanrun.engine.equations.evolution_system import EvolutionSystem
from kanrun.engine.equations.space import DEGREE, Array, Space
from kanrun.engine.least_squares.banded import ElementRows
from kanrun.formulas.equations import Derivative


@dataclass(frozen=True)
class Part:
    """Splines (functions, DEGREE + 1) of one space times Legendre polynomials of time."""

    space: Space
    coefficients: Array

    def at(self, x: Array, times: Array, space_order: int = 0) -> Array:
        """Return a space derivative at x (points,) times Legendre values (DEGREE + 1, times)."""
        return self.space.evaluate(self.coefficients, x, space_order) @ times


def total(parts: Sequence[Part], x: Array, times: Array, space_order: int = 0) -> Array:
    """Return the sum of the parts at x (points,) and Legendre values (DEGREE + 1, times)."""
    values: Array = np.sum([part.at(x, times, space_order) for part in parts], axis=0)
    return values


@dataclass(frozen=True)
class Window:
    """A solved window: the parts of each unknown, whose sum is u - lift."""

    start: float
    end: float
    parts: tuple[tuple[Part, ...], ...]

    @property
    def space(self) -> Space:
        """The space in which the window was solved; that of its last part."""
        return self.parts[0][-1].space

    @property
    def unknowns(self) -> int:
        """Number of coefficients of all unknown functions."""
        return len(self.parts) * self.space.functions * DEGREE

    def at_end(self, orders: Sequence[int]) -> list[Array]:
        """Return the coefficients (functions, order) of each unknown and its time derivatives.

        Fading parts and their derivatives vanish at the end.
        """
        half = (self.end - self.start) / 2
        return [
            parts[-1].coefficients @ legendre_values(np.ones(1), half, range(order))[:, :, 0].T
            for parts, order in zip(self.parts, orders, strict=True)
        ]


def legendre_values(
    s: Array, half: float, orders: Sequence[int] | range
) -> Float[Array, "orders degrees points"]:
    """Return time derivatives of the Legendre polynomials on a window of length 2 `half`."""
    unit = np.eye(DEGREE + 1)
    rows = [legendre.legval(s, legendre.legder(unit, order)) / half**order for order in orders]
    return np.stack(rows)


def radau_points(count: int) -> tuple[Array, Array]:
    """Return the Radau points of [-1, 1], whose last is 1, and their weights."""
    unit = np.eye(count + 1)
    points: Array = np.sort(legendre.legroots(unit[count] - unit[count - 1]).real)
    points[-1] = 1.0
    moments = 2.0 * unit[0, :count]
    weights = np.linalg.solve(legendre.legvander(points, count - 1).T, moments)
    return points, weights.astype(np.float64)


def free_polynomials(order: int) -> Float[Array, "derivatives polynomials degrees"]:
    """Return polynomials with an `order`-fold zero at -1, by Legendre, and their derivatives.

    Derivatives 0 to `order` are those of the system of first order: each one below the highest is
    integrated from the interpolant of the next at the Radau points, at which both agree. Direct
    collocation of a second derivative would amplify fast oscillations (van der Houwen,
    Sommeijer and Cong, BIT 31, 1991). The largest value of a polynomial is 1.
    """
    points, _ = radau_points(DEGREE)
    unit = np.eye(DEGREE)
    interpolated = np.linalg.inv(legendre.legvander(points, DEGREE - 1)).T
    found = [unit, legendre.legint(unit, lbnd=-1, axis=1)]
    for _ in range(order - 1):
        values = legendre.legval(points, found[-1].T)
        found.append(legendre.legint(values @ interpolated, lbnd=-1, axis=1))
    at = legendre.legval(np.linspace(-1, 1, 101), found[-1].T)
    sizes = np.abs(at).max(axis=1, keepdims=True)
    width = DEGREE + 1
    return np.stack([np.pad(e, ((0, 0), (0, width - e.shape[1]))) / sizes for e in found[::-1]])


def held_polynomials(order: int, half: float) -> Float[Array, "order degrees"]:
    """Return (t - start)^r / r! for r < order, by Legendre."""
    rows = []
    for power in range(order):
        monomial = polynomial.polypow([half, half], power) / factorial(power)
        row = legendre.poly2leg(monomial)
        rows.append(np.pad(row, (0, DEGREE + 1 - len(row))))
    return np.stack(rows)


def fading_polynomials(order: int, half: float) -> Float[Array, "order degrees"]:
    """Return polynomials with time derivative r of 1 at the start for r < order, by Legendre.

    All their other derivatives below `order` vanish at both ends.
    """
    unit = np.eye(2 * order)
    rows = [
        legendre.legval(end, legendre.legder(unit, power)) / half**power
        for end in (-1.0, 1.0)
        for power in range(order)
    ]
    found = np.linalg.inv(np.stack(rows)).T[:order]
    return np.pad(found, ((0, 0), (0, DEGREE + 1 - 2 * order)))


@dataclass(frozen=True)
class EvolvingState:
    """The solution at one time: u - lift and its time derivatives, (functions, order) each."""

    space: Space
    values: Sequence[Array]

    def moved(self, space: Space) -> EvolvingState:
        """Return the nearest state in another space."""
        values = [
            space.project(partial(self.space.evaluate, c), unknown)
            for unknown, c in enumerate(self.values)
        ]
        return EvolvingState(space, values)


class WindowProblem:
    """The equations from `start` to `end` as a least squares problem.

    The unknowns are those of a window that begins at `state`, zero for its constant continuation.
    `old` is the exact state if it lies in another space.
    """

    def __init__(
        self,
        system: EvolutionSystem,
        state: EvolvingState,
        old: EvolvingState | None,
        span: tuple[float, float],
        sizes: Array,
    ) -> None:
        self.system, self.state, self.span, self.sizes = system, state, span, sizes
        self.half = (span[1] - span[0]) / 2
        self._free = [free_polynomials(order) for order in system.orders]
        self._offsets = DEGREE * np.arange(len(system.orders) + 1)
        self._pattern = state.space.pattern(int(self._offsets[-1]))
        self._fixed = [self._given(unknown, old) for unknown in range(len(system.orders))]
        self._points()
        self.unknowns = torch.zeros(self._pattern.unknowns, dtype=torch.float64)

    def _given(self, unknown: int, old: EvolvingState | None) -> list[Part]:
        """Return the parts of an unknown that the start of the window fixes."""
        state, order = self.state, self.system.orders[unknown]
        held = state.values[unknown] @ held_polynomials(order, self.half)
        if old is None:
            return [Part(state.space, held)]
        fading = fading_polynomials(order, self.half)
        held = held - state.values[unknown] @ fading
        return [Part(old.space, old.values[unknown] @ fading), Part(state.space, held)]

    def _points(self) -> None:
        space, system = self.state.space, self.system
        s, shares = radau_points(DEGREE)
        x, times = space.gauss_points, self.span[0] + self.half * (s + 1)
        self._shape = (*x.shape, len(s))
        roots = np.sqrt(space.gauss_weights[:, :, None] * shares / 2)
        grid = np.broadcast_to(x[:, :, None], self._shape), np.broadcast_to(times, self._shape)
        self._arguments = np.stack([each.reshape(-1) for each in grid[-system.variables :]], axis=1)
        legendre_at = legendre_values(s, self.half, range(max(system.orders) + 1))
        self._base, self._basis = dict[str, Array](), dict[str, Array]()
        self._times = dict[tuple[int, int], Array]()
        for each in system.derivatives:
            space_order, time_order = system.split(each)
            fixed = total(
                self._fixed[each.unknown], x.ravel(), legendre_at[time_order], space_order
            )
            lift = system.lift(each.unknown, each.index, self._arguments)
            self._base[each.name] = (fixed + lift.reshape(fixed.shape)).reshape(self._shape)
            self._basis[each.name] = space.gauss_basis(space_order, each.unknown)
            free = self._free[each.unknown][time_order] / self.half**time_order
            self._times[each.unknown, time_order] = free @ legendre_at[0]
        self._roots = [roots / unit for unit in self._units()]

    def _units(self) -> list[float]:
        """Return the unit of each equation: its time derivatives, of size sizes / time."""
        values = {name: base.reshape(-1) for name, base in self._base.items()}
        units = []
        for relation, slopes in zip(self.system.equations, self._slopes(values), strict=True):
            terms = [
                np.abs(slopes[:, i]).max() * self.sizes[each.unknown]
                for i, each in enumerate(relation.derivatives)
                if self.system.split(each)[1] > 0
            ]
            largest = float(max(terms, default=1.0))
            units.append(largest if np.isfinite(largest) and largest > 0 else 1.0)
        return units

    def coefficients(self, unknowns: Tensor) -> list[Array]:
        """Return the splines (functions, polynomials) of each unknown function."""
        space = self.state.space
        rows = unknowns.view(space.functions, -1).numpy()[space.order]
        parts = np.split(rows, self._offsets[1:-1], axis=1)
        return [space.complete(part.copy(), unknown) for unknown, part in enumerate(parts)]

    def window(self, unknowns: Tensor) -> Window:
        """Return the solved window."""
        parts = []
        pairs = zip(self._fixed, self.coefficients(unknowns), self._free, strict=True)
        for (*fading, held), found, free in pairs:
            parts.append((*fading, Part(held.space, held.coefficients + found @ free[0])))
        return Window(*self.span, tuple(parts))

    def last_coefficient(self, unknowns: Tensor) -> float:
        """Return the largest L2 norm of a term of the highest degree in time, relative to sizes."""
        space, norms = self.state.space, []
        for unknown, found in enumerate(self.coefficients(unknowns)):
            values = space.gauss_basis(0, unknown) @ found[:, -1][space.local][..., None]
            squares = np.square(values[..., 0]) * space.gauss_weights
            norms.append(np.sqrt(squares.sum()) / self.sizes[unknown])
        return float(max(norms))

    def largest_change(self, move: Tensor) -> float:
        """Return the largest change of a spline by a step, relative to the sizes."""
        found = self.coefficients(move)
        pairs = zip(found, self.sizes, strict=True)
        return max(float(np.abs(splines).max() / size) for splines, size in pairs)

    def _values(self, unknowns: Tensor) -> dict[str, Array]:
        found, local = self.coefficients(unknowns), self.state.space.local
        values = {}
        for each in self.system.derivatives:
            along = self._basis[each.name] @ found[each.unknown][local]
            varied = along @ self._times[each.unknown, each.index[-1]]
            values[each.name] = (self._base[each.name] + varied).reshape(-1)
        return values

    def _rows(self, values: Mapping[str, Array], derivatives: Sequence[Derivative]) -> Array:
        return np.concatenate(
            [self._arguments, np.stack([values[each.name] for each in derivatives], axis=1)], axis=1
        )

    def _slopes(self, values: Mapping[str, Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [
                relation.slopes(self._rows(values, relation.derivatives))
                for relation in self.system.equations
            ]

    def residual(self, unknowns: Tensor) -> Float[Tensor, " rows"]:
        """Return the residuals of all equations, relative to their units."""
        return self._residual(self._values(unknowns))

    def _residual(self, values: Mapping[str, Array]) -> Tensor:
        with np.errstate(all="ignore"):
            found = [
                relation.residual(self._rows(values, relation.derivatives)).reshape(self._shape)
                * root
                for relation, root in zip(self.system.equations, self._roots, strict=True)
            ]
        return torch.as_tensor(np.stack(found, axis=1).reshape(-1))

    def linearise(self, unknowns: Tensor) -> tuple[ElementRows, Float[Tensor, " rows"]]:
        """Return the Jacobian rows and the residuals."""
        values, blocks = self._values(unknowns), []
        for relation, slopes, root in zip(
            self.system.equations, self._slopes(values), self._roots, strict=True
        ):
            scaled = slopes.reshape(*self._shape, -1) * root[..., None]
            sums: list[dict[int, Array]] = [{} for _ in self._free]
            for i, each in enumerate(relation.derivatives):
                term = scaled[..., i, None] * self._basis[each.name][:, :, None]
                of_order, order = sums[each.unknown], self.system.split(each)[1]
                of_order[order] = of_order[order] + term if order in of_order else term
            shape = *self._shape, self.state.space.degree + 1, self._offsets[-1]
            block = np.zeros(shape)
            for unknown, of_order in enumerate(sums):
                if of_order:
                    times = np.stack([self._times[unknown, order].T for order in of_order], axis=1)
                    columns = slice(self._offsets[unknown], self._offsets[unknown + 1])
                    block[..., columns] = np.stack([*of_order.values()], axis=-1) @ times
            blocks.append(block.reshape(*self._shape[:1], -1, self._pattern.index.shape[1]))
        rows = ElementRows(self._pattern, torch.as_tensor(np.concatenate(blocks, axis=1)))
        return rows, self._residual(values)

    @cached_property
    def is_finite(self) -> bool:
        """Whether the residuals at the constant continuation are finite."""
        return bool(torch.isfinite(self.residual(self.unknowns)).all())
