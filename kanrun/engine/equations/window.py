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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre
from torch import Tensor

from kanrun.engine.equations.evolution_system import EvolutionSystem
from kanrun.engine.equations.space import DEGREE, Array, Patch, Space
from kanrun.engine.least_squares.banded import ElementRows, Pattern


@dataclass(frozen=True)
class Part:
    """Splines (functions, DEGREE + 1) of one space times Legendre polynomials of time."""

    space: Space
    coefficients: Array


def total(parts: Sequence[Part], x: Array, times: Array, space_order: int = 0) -> Array:
    """Return the sum of the parts at x (points,) and Legendre values (DEGREE + 1, times)."""
    found = [part.space.evaluate(part.coefficients, x, space_order) @ times for part in parts]
    values: Array = np.sum(found, axis=0)
    return values


@dataclass(frozen=True)
class Window:
    """Solved window: the parts of each unknown, whose sum is u - lift."""

    start: float
    end: float
    parts: tuple[tuple[Part, ...], ...]

    @property
    def space(self) -> Space:
        """Space in which the window was solved; that of its last part."""
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
    s: Array, half: float, orders: Sequence[int] | range, count: int = DEGREE + 1
) -> Float[Array, "orders degrees points"]:
    """Return time derivatives of Legendre polynomials on a window of length 2 `half`."""
    unit = np.eye(count)
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


def held_polynomials(
    order: int, half: float, ends: tuple[float, ...] = (-1.0,)
) -> Float[Array, "order degrees"]:
    """Return polynomials with time derivative r of 1 at the start for r < order, by Legendre.

    All their other derivatives below `order` vanish at the `ends` (-1 is the start). With both ends
    these fade out over the window.
    """
    count = len(ends) * order
    rows = [legendre_values(np.array([end]), half, range(order), count)[..., 0] for end in ends]
    found = np.linalg.inv(np.concatenate(rows)).T[:order]
    return np.pad(found, ((0, 0), (0, DEGREE + 1 - count)))


@dataclass(frozen=True)
class EvolvingState:
    """Solution at one time: u - lift and its time derivatives, (functions, order) each.

    `exact` is the state that this one approximates, if it lies in another space.
    """

    space: Space
    values: Sequence[Array]
    exact: EvolvingState | None = None

    def moved(self, space: Space) -> EvolvingState:
        """Return the nearest state in another space."""
        values = [
            space.project(partial(self.space.evaluate, c), unknown)
            for unknown, c in enumerate(self.values)
        ]
        return EvolvingState(space, values, self)


class WindowProblem:
    """Equations from `start` to `end` as a least squares problem.

    The unknowns are those of a window that begins at `state`, zero for its constant continuation.
    """

    def __init__(
        self,
        system: EvolutionSystem,
        state: EvolvingState,
        span: tuple[float, float],
        sizes: Array,
    ) -> None:
        self.system, self.state, self.span, self.sizes = system, state, span, sizes
        self.half = (span[1] - span[0]) / 2
        self._free = [free_polynomials(order) for order in system.orders]
        self._fixed = [self._given(unknown) for unknown in range(len(system.orders))]
        pattern = state.space.pattern(DEGREE * len(system.orders))
        self.unknowns = torch.zeros(pattern.unknowns, dtype=torch.float64)
        self._patches = self._unit_patches(pattern)
        zeros = self.unknowns.numpy()
        self._patches = [replace(e, scale=e.scale / self._unit(e, zeros)) for e in self._patches]

    def _given(self, unknown: int) -> list[Part]:
        """Return the parts of an unknown that the start of the window fixes."""
        state, order = self.state, self.system.orders[unknown]
        held = state.values[unknown] @ held_polynomials(order, self.half)
        if (old := state.exact) is None:
            return [Part(state.space, held)]
        fading = held_polynomials(order, self.half, (-1.0, 1.0))
        held = held - state.values[unknown] @ fading
        return [Part(old.space, old.values[unknown] @ fading), Part(state.space, held)]

    def _unit_patches(self, pattern: Pattern) -> list[Patch]:
        """Return the equations at Gauss points of space and Radau points of time."""
        space, system = self.state.space, self.system
        s, shares = radau_points(DEGREE)
        x, times = space.gauss_points, self.span[0] + self.half * (s + 1)
        shape = (*x.shape, len(s))
        roots = np.sqrt(space.gauss_weights[:, :, None] * shares / 2).ravel()
        grid = np.broadcast_to(x[:, :, None], shape), np.broadcast_to(times, shape)
        points = np.stack([each.ravel() for each in grid[-system.variables :]], axis=1)
        legendre_at = legendre_values(s, self.half, range(max(system.orders) + 1))
        along = [
            [(each / self.half**order @ legendre_at[0]).T[None] for order, each in enumerate(free)]
            for free in self._free
        ]
        bases, offsets = dict[str, tuple[Array, Array]](), dict[str, Array]()
        for each in system.derivatives:
            space_order, order = system.split(each)
            fixed = total(self._fixed[each.unknown], x.ravel(), legendre_at[order], space_order)
            offsets[each.name] = fixed.ravel() + system.lift(each.unknown, each.index, points)
            basis = space.gauss_basis(space_order, each.unknown)
            bases[each.name] = basis, along[each.unknown][order]
        return [Patch(r, points, pattern, bases, roots, offsets) for r in system.equations]

    def _unit(self, patch: Patch, zeros: Array) -> float:
        """Return the unit of an equation: its time derivatives, of size sizes / time."""
        with np.errstate(all="ignore"):
            slopes = patch.relation.slopes(patch.arguments(zeros))
        terms = [
            np.abs(slopes[:, i]).max() * self.sizes[each.unknown]
            for i, each in enumerate(patch.relation.derivatives)
            if each.index[-1] > 0
        ]
        largest = float(max(terms, default=1.0))
        return largest if np.isfinite(largest) and largest > 0 else 1.0

    def coefficients(self, unknowns: Tensor) -> list[Array]:
        """Return the splines (functions, polynomials) of each unknown function."""
        space, count = self.state.space, len(self.system.orders)
        rows = unknowns.view(space.functions, DEGREE, count).numpy()[space.order]
        return [space.complete(rows[..., u].copy(), u) for u in range(count)]

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

    def residual(self, unknowns: Tensor) -> Float[Tensor, " rows"]:
        """Return the residuals of all equations, relative to their units."""
        found = [each.residual(unknowns.numpy()) for each in self._patches]
        cells = len(self.state.space.local)
        return torch.as_tensor(np.concatenate([e.reshape(cells, -1) for e in found], 1).ravel())

    def rows(self, unknowns: Tensor) -> ElementRows:
        """Return the derivatives of the residuals."""
        blocks = [each.rows(unknowns.numpy()) for each in self._patches]
        return ElementRows(blocks[0].pattern, torch.cat([each.values for each in blocks], dim=1))
