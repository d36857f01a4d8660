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

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial, reduce
from math import inf
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.legendre import legder, leggauss, legint, legroots, legval, legvander
from torch import Tensor

from kanrun.engine.equations.fields import Factor, Field, spline_field
from kanrun.engine.equations.space import DEGREE, Places, Space
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.equations.tensor_splines import (
    Patch,
    TensorProblem,
    TensorSpace,
    block_at,
    patch_at,
)
from kanrun.engine.least_squares import ElementRows, Pattern

#: Breakpoints of two spaces that differ by less than this fraction of the range are one.
SAME_BREAKPOINT = 1e-14


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

    def solution(self, system: EvolutionSystem, points: Array) -> Float[Array, "points unknowns"]:
        """Return the unknowns at points (points, variables) of the window."""
        none, (*space, at) = (0,) * system.variables, points.T
        x = space[0] if space else np.zeros(len(at))
        times = legvander(2 * (at - self.start) / (self.end - self.start) - 1, DEGREE)
        columns = []
        for unknown, parts in enumerate(self.parts):
            splines = np.sum([e.space.evaluate(e.coefficients, x) for e in parts], axis=0)
            columns.append((splines * times).sum(axis=1) + system.lift(unknown, none, points))
        return np.stack(columns, axis=1)

    def at_end(self, orders: Sequence[int]) -> list[Array]:
        """Return the coefficients (functions, order) of each unknown and its time derivatives.

        Fading parts and their derivatives vanish at the end.
        """
        half = (self.end - self.start) / 2
        return [
            parts[-1].coefficients @ legendre_values(np.ones(1), half, range(order))[:, :, 0].T
            for parts, order in zip(self.parts, orders, strict=True)
        ]


def window_field(window: Window, system: EvolutionSystem) -> Field:
    """Return a window as a network of splines, to rounding."""
    box = system.box.clone()
    box[-1] = box.new_tensor([window.start, window.end])
    count, edges, unit = len(system.orders), np.array([[-1.0, 1.0]]), np.eye(DEGREE + 1)

    def along(x: Array, times: Any) -> Array:
        return np.stack([total(parts, x, times) for parts in window.parts], axis=1)

    factors: list[Factor] = [lambda t: along(np.zeros(1), legvander(t, DEGREE).T).T]
    if system.variables > 1:
        # The breakpoints of all parts, and as many equal ones of time.
        every = (Counter(part.space.edges.tolist()) for part in window.parts[0])
        points, counts = np.array(sorted(reduce(Counter.__or__, every).items())).T
        apart = np.diff(points, prepend=-inf) > SAME_BREAKPOINT
        apart[-1] = True
        points = np.repeat(points, (apart * counts).astype(int))
        edges = np.stack([points, np.linspace(-1, 1, len(points))])
        factors = [
            lambda t: along(window.space.outer(t), unit),
            lambda t: np.repeat(legvander(t, DEGREE)[:, None], count, axis=1),
        ]
    if any(system.lifts):
        pairs = zip(factors, _lift_factors(system, box), strict=True)
        factors = [
            lambda t, pair=pair: np.concatenate([each(t) for each in pair], axis=2)  # type: ignore[misc]
            for pair in pairs
        ]
    return spline_field(box, edges, DEGREE, factors)


def _lift_factors(system: EvolutionSystem, box: Tensor) -> tuple[Factor, Factor]:
    """Return Legendre polynomials of space and functions of time whose products are the lifts."""
    unknowns = range(len(system.orders))
    highest = max(sum(len(rows) for rows in ends if rows is not None) for ends in system.walls)
    nodes, weights = leggauss(highest + 1)
    rows = legvander(nodes, highest) * weights[:, None] * (np.arange(highest + 1) + 0.5)
    middle, half = box.mean(1).numpy(), box.diff()[:, 0].numpy() / 2

    def along_time(t: Array) -> Array:
        s = np.stack(np.meshgrid(nodes, t), axis=-1).reshape(-1, 2)
        values = [system.lift(each, (0, 0), middle + s * half) for each in unknowns]
        at_nodes = np.stack(values).reshape(len(values), len(t), len(nodes))
        return (at_nodes @ rows).swapaxes(0, 1)

    return lambda t: np.repeat(legvander(t, highest)[:, None], len(unknowns), axis=1), along_time


def legendre_values(
    s: Array, half: float, orders: Sequence[int] | range, count: int = DEGREE + 1
) -> Float[Array, "orders degrees points"]:
    """Return time derivatives of Legendre polynomials on a window of length 2 `half`."""
    unit = np.eye(count)
    rows = [legval(s, legder(unit, order)) / half**order for order in orders]
    return np.stack(rows)


@cache
def radau_points() -> tuple[Array, Array]:
    """Return `DEGREE` Radau points of [-1, 1], the last of which is 1, and their weights."""
    unit = np.eye(DEGREE + 1)
    points = np.sort(legroots(unit[-1] - unit[-2]).real)
    points[-1] = 1.0
    weights = np.linalg.solve(legvander(points, DEGREE - 1).T, 2.0 * unit[0, :-1])
    return points, weights.astype(np.float64)


@cache
def free_polynomials(order: int) -> Float[Array, "derivatives polynomials degrees"]:
    """Return polynomials with an `order`-fold zero at -1, by Legendre, and their derivatives.

    Derivatives 0 to `order` are those of the system of first order: each one below the highest is
    integrated from the interpolant of the next at the Radau points, at which both agree. Direct
    collocation of a second derivative would amplify fast oscillations (van der Houwen,
    Sommeijer and Cong, BIT 31, 1991). The largest value of a polynomial is 1.
    """
    points, _ = radau_points()
    unit = np.eye(DEGREE)
    interpolated = np.linalg.inv(legvander(points, DEGREE - 1)).T
    found = [unit, legint(unit, lbnd=-1, axis=1)]
    for _ in range(order - 1):
        values = legval(points, found[-1].T)
        found.append(legint(values @ interpolated, lbnd=-1, axis=1))
    at = legval(np.linspace(-1, 1, 101), found[-1].T)
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
    """Solution at one time: u - lift and its time derivatives, (functions, derivatives) each.

    From derivatives beyond those below the order, steps start. `exact` is the state that this one
    approximates, if it lies in another space.
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


@lru_cache(maxsize=1)
def _layout(space: Space, unknowns: int, variables: int) -> tuple[TensorSpace, Pattern]:
    """Return splines times polynomials of time, and the unknowns of each interval."""
    times = Space(np.array([0.0, 1.0]), (), degree=DEGREE - 1)  # As many as are free.
    axes = (space, times) if variables > 1 else (times, space)
    product = TensorSpace(axes, unknowns)
    return product, product.pattern([axis.gauss for axis in axes])


class WindowProblem(TensorProblem):
    """Equations from `start` to `end` as a least squares problem.

    The unknowns are those of a window that begins at `state`, zero for its constant continuation.
    Steps start from its Taylor polynomial.
    """

    def __init__(
        self, system: EvolutionSystem, state: EvolvingState, span: tuple[float, float], sizes: Array
    ) -> None:
        self.system, self.state, self.span, self.sizes = system, state, span, sizes
        self.half = (span[1] - span[0]) / 2
        self._fixed = [self._given(unknown) for unknown in range(len(system.orders))]
        space, pattern = _layout(state.space, len(system.orders), system.variables)
        super().__init__(space, self._unit_patches(pattern))
        zeros = self.unknowns.numpy()
        self.patches = [replace(e, scale=e.scale / self._unit(e, zeros)) for e in self.patches]
        start = np.stack([self._continued(unknown) for unknown in range(len(system.orders))])
        start = start if system.variables > 1 else start.swapaxes(1, 2)
        self.unknowns[torch.as_tensor(space.index)] = torch.as_tensor(start)

    def _given(self, unknown: int) -> list[Part]:
        """Return the parts of an unknown that the start of the window fixes."""
        state, order = self.state, self.system.orders[unknown]
        values = state.values[unknown][:, :order]
        held = values @ held_polynomials(order, self.half)
        if (old := state.exact) is None:
            return [Part(state.space, held)]
        fading = held_polynomials(order, self.half, (-1.0, 1.0))
        held = held - values @ fading
        return [Part(old.space, old.values[unknown][:, :order] @ fading), Part(state.space, held)]

    def _continued(self, unknown: int) -> Array:
        """Return the splines (functions, polynomials) of the Taylor polynomial at the start."""
        values, order = self.state.values[unknown], self.system.orders[unknown]
        orders = range(order, values.shape[1])
        powers = [legint(np.ones(1), each, lbnd=-1) * self.half**each for each in orders]
        terms = np.array([np.pad(each, (0, DEGREE + 1 - len(each))) for each in powers])
        terms = terms.reshape(-1, DEGREE + 1)
        found: Array = values[:, order:] @ terms @ np.linalg.pinv(free_polynomials(order)[0])
        return found

    def _unit_patches(self, pattern: Pattern) -> list[Patch]:
        """Return the equations at Gauss points of space and Radau points of time."""
        system, gauss = self.system, self.state.space.gauss
        s, weights = radau_points()
        at, numbers = self.span[0] + self.half * (s[None] + 1), np.arange(DEGREE)[None]
        legendre_polynomials = legvander(s, DEGREE).T

        @cache
        def polynomials(order: int, unknown: int) -> Array:
            """Return derivatives of free polynomials, (1, points, polynomials)."""
            free = free_polynomials(system.orders[unknown])[order] / self.half**order
            return np.asarray(free @ legendre_polynomials).T[None]

        time = Places(at, numbers, weights[None] / 2, polynomials)
        places = (gauss, time) if system.variables > 1 else (time, gauss)
        blocks = [block_at("equation", each, places) for each in system.equations]
        legendre_at = legendre_values(s, self.half, range(max(system.orders) + 1))
        points, offsets = blocks[0].points.numpy(), dict[str, Array]()
        for each in system.derivatives:
            order, time_order = system.split(each)
            parts, lift = self._fixed[each.unknown], system.lift(each.unknown, each.index, points)
            fixed = total(parts, gauss.at.ravel(), legendre_at[time_order], order)
            offsets[each.name] = fixed.ravel() + lift
        return [patch_at(block, places, pattern, offsets) for block in blocks]

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

    def residual(self, unknowns: Tensor) -> Float[Tensor, " rows"]:
        vector, cells = unknowns.numpy(), self.state.space.intervals
        found = [each.residual(vector).reshape(cells, -1) for each in self.patches]
        return torch.as_tensor(np.concatenate(found, axis=1).ravel())

    def rows(self, unknowns: Tensor) -> ElementRows:
        """Return the derivatives of the residuals; all equations have the same cells."""
        blocks = [each.rows(unknowns.numpy()) for each in self.patches]
        return ElementRows(blocks[0].pattern, torch.cat([each.values for each in blocks], dim=1))

    def splines(self, unknowns: Tensor) -> list[Array]:
        """Return the splines (functions, polynomials) of each unknown function."""
        found = self.coefficients(unknowns).reshape(len(self.sizes), -1, DEGREE)
        return [self.state.space.complete(each, number) for number, each in enumerate(found)]

    def window(self, unknowns: Tensor) -> Window:
        """Return the solved window."""
        free = (free_polynomials(order)[0] for order in self.system.orders)
        triples = zip(self._fixed, self.splines(unknowns), free, strict=True)
        parts = (
            (*fading, replace(held, coefficients=held.coefficients + found @ polynomials))
            for (*fading, held), found, polynomials in triples
        )
        return Window(*self.span, tuple(parts))

    def last_coefficient(self, unknowns: Tensor) -> float:
        """Return the largest L2 norm of a term of the highest degree in time, relative to sizes."""
        gauss, norms = self.state.space.gauss, []
        for unknown, found in enumerate(self.splines(unknowns)):
            values = gauss.values(0, unknown) @ found[:, -1][gauss.functions][..., None]
            norms.append(np.sqrt((np.square(values[..., 0]) * gauss.shares).sum()))
        return float((norms / self.sizes).max())

    def largest_change(self, move: Tensor) -> float:
        """Return the largest change of a spline by a step, relative to the sizes."""
        return float((np.abs(self.splines(move)).max(axis=(1, 2)) / self.sizes).max())
