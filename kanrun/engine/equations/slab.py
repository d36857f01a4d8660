"""One slab of an evolution equation: splines of space times polynomials of time.

An unknown of order r in time is u = lift + sum_j C_j(x) P_j(s) on the slab, s from -1 to 1, with
Legendre polynomials P_j of degree 0 to the number of stages. Given values and r - 1 time
derivatives at the start fix part of it; the unknowns of the least squares problem are the splines
that multiply polynomials which vanish there with r - 1 derivatives. Residuals are taken at Gauss
points of each interval of space and at the Radau points of time. In time this is the Radau IIA
method for the system of first order (Hairer and Wanner, Solving ODEs II, section IV.5).

A slab on new breakpoints starts from the exact old state: its difference from the new splines fades
out over the slab as a polynomial of time. A solved slab is corrected by one Newton step of the same
problem in a richer space, which starts from the error of the slab before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
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
#: Stages of the richer space beyond those of a slab. One more shows the error of the time steps to
#: within a factor of its own size; each costs a quarter of a slab's time.
RICHER_STAGES = 2


@dataclass(frozen=True)
class Part:
    """Splines (functions, degrees) of one space times Legendre polynomials of time."""

    space: Space
    coefficients: Array


def total(parts: Sequence[Part], x: Array, times: Array, space_order: int = 0) -> Array:
    """Return the sum of the parts at x (points,) and Legendre values (degrees, times)."""
    found = [
        part.space.evaluate(part.coefficients, x, space_order) @ times[: part.coefficients.shape[1]]
        for part in parts
    ]
    values: Array = np.sum(found, axis=0)
    return values


@dataclass(frozen=True)
class Slab:
    """Solved slab: the parts of each unknown, whose sum is u - lift."""

    start: float
    end: float
    parts: tuple[tuple[Part, ...], ...]

    @property
    def space(self) -> Space:
        """Space in which the slab was solved; that of its last part."""
        return self.parts[0][-1].space

    @property
    def unknowns(self) -> int:
        """Number of coefficients of all unknown functions."""
        return len(self.parts) * self.space.functions * DEGREE

    def solution(self, system: EvolutionSystem, points: Array) -> Float[Array, "points unknowns"]:
        """Return the unknowns at points (points, variables) of the slab."""
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
        half, degrees = (self.end - self.start) / 2, self.parts[0][-1].coefficients.shape[1]
        end = legendre_values(np.ones(1), half, range(max(orders)), degrees)[:, :, 0].T
        return [
            parts[-1].coefficients @ end[:, :order]
            for parts, order in zip(self.parts, orders, strict=True)
        ]

    def jumps(self, state: EvolvingState, orders: Sequence[int]) -> list[tuple[Part, ...]]:
        """Return parts that fade out by which time derivatives at the start miss those of `state`.

        Polynomials of a second derivative agree with those of the first at the Radau points only.
        """
        half, found = (self.end - self.start) / 2, list[tuple[Part, ...]]()
        for parts, values, order in zip(self.parts, state.values, orders, strict=True):
            given = values[:, :order] if state.exact is None else 0.0
            at_start = legendre_values(-np.ones(1), half, range(order))[:, :, 0].T
            missed = given - parts[-1].coefficients @ at_start
            fading = held_polynomials(order, half, DEGREE, (-1.0, 1.0))
            found.append((Part(self.space, missed @ fading),) if order > 1 else ())
        return found

    def with_parts(self, more: Sequence[Sequence[Part]]) -> Slab:
        """Return the slab with more parts, which vanish at its end."""
        pairs = zip(more, self.parts, strict=True)
        return Slab(self.start, self.end, tuple((*a, *b) for a, b in pairs))

    def _squares(self, s: Array) -> Float[Array, "unknowns intervals times"]:
        """Return the squares of all unknowns - lift, integrated over each interval of space."""
        found, places = [], self.space.gauss
        for parts in self.parts:
            degrees = max(part.coefficients.shape[1] for part in parts)
            values = total(parts, places.at.ravel(), legendre_values(s, 1.0, [0], degrees)[0])
            squares = np.square(values).reshape(*places.at.shape, -1)
            found.append((places.shares[..., None] * squares).sum(axis=1))
        return np.stack(found)

    def norms(self, s: Array) -> Float[Array, "unknowns times"]:
        """Return the root mean squares over space of all unknowns - lift at times s of [-1, 1]."""
        found: Array = np.sqrt(self._squares(s).sum(axis=1))
        return found

    def by_interval(self, s: Array, sizes: Array) -> Float[Array, " intervals"]:
        """Return the sum of relative squares over times s and unknowns in each interval."""
        found: Array = (self._squares(s).sum(axis=2) / np.square(sizes)[:, None]).sum(axis=0)
        return found


def slab_field(slab: Slab, system: EvolutionSystem) -> Field:
    """Return a slab as a network of splines, to rounding."""
    box = system.box.clone()
    box[-1] = box.new_tensor([slab.start, slab.end])
    count, edges, unit = len(system.orders), np.array([[-1.0, 1.0]]), np.eye(DEGREE + 1)

    def along(x: Array, times: Any) -> Array:
        return np.stack([total(parts, x, times) for parts in slab.parts], axis=1)

    factors: list[Factor] = [lambda t: along(np.zeros(1), legvander(t, DEGREE).T).T]
    if system.variables > 1:
        # The breakpoints of all parts, and as many equal ones of time.
        every = (Counter(part.space.edges.tolist()) for part in slab.parts[0])
        points, counts = np.array(sorted(reduce(Counter.__or__, every).items())).T
        apart = np.diff(points, prepend=-inf) > SAME_BREAKPOINT
        apart[-1] = True
        points = np.repeat(points, (apart * counts).astype(int))
        edges = np.stack([points, np.linspace(-1, 1, len(points))])
        factors = [
            lambda t: along(slab.space.outer(t), unit),
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
    """Return time derivatives of Legendre polynomials on a slab of length 2 `half`."""
    unit = np.eye(count)
    rows = [legval(s, legder(unit, order)) / half**order for order in orders]
    return np.stack(rows)


@cache
def radau_points(stages: int) -> tuple[Array, Array]:
    """Return `stages` Radau points of [-1, 1], the last of which is 1, and their weights."""
    unit = np.eye(stages + 1)
    points = np.sort(legroots(unit[-1] - unit[-2]).real)
    points[-1] = 1.0
    weights = np.linalg.solve(legvander(points, stages - 1).T, 2.0 * unit[0, :-1])
    return points, weights.astype(np.float64)


@cache
def free_polynomials(
    order: int, stages: int = DEGREE
) -> Float[Array, "derivatives polynomials degrees"]:
    """Return polynomials with an `order`-fold zero at -1, by Legendre, and their derivatives.

    Derivatives 0 to `order` are those of the system of first order: each one below the highest is
    integrated from the interpolant of the next at the Radau points, at which both agree. Direct
    collocation of a second derivative would amplify fast oscillations (van der Houwen,
    Sommeijer and Cong, BIT 31, 1991). The largest value of a polynomial is 1.
    """
    points, _ = radau_points(stages)
    unit = np.eye(stages)
    interpolated = np.linalg.inv(legvander(points, stages - 1)).T
    found = [unit, legint(unit, lbnd=-1, axis=1)]
    for _ in range(order - 1):
        values = legval(points, found[-1].T)
        found.append(legint(values @ interpolated, lbnd=-1, axis=1))
    at = legval(np.linspace(-1, 1, 101), found[-1].T)
    sizes = np.abs(at).max(axis=1, keepdims=True)
    width = stages + 1
    return np.stack([np.pad(e, ((0, 0), (0, width - e.shape[1]))) / sizes for e in found[::-1]])


def held_polynomials(
    order: int, half: float, stages: int, ends: tuple[float, ...] = (-1.0,)
) -> Float[Array, "order degrees"]:
    """Return polynomials with time derivative r of 1 at the start for r < order, by Legendre.

    All their other derivatives below `order` vanish at the `ends` (-1 is the start). With both ends
    these fade out over the slab.
    """
    count = len(ends) * order
    rows = [legendre_values(np.array([end]), half, range(order), count)[..., 0] for end in ends]
    found = np.linalg.inv(np.concatenate(rows)).T[:order]
    return np.pad(found, ((0, 0), (0, stages + 1 - count)))


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
        old = self.exact or self
        values = [
            space.project(partial(old.space.evaluate, c), unknown)
            for unknown, c in enumerate(old.values)
        ]
        return EvolvingState(space, values, old)


@lru_cache(maxsize=2)
def _layout(
    space: Space, unknowns: int, variables: int, stages: int
) -> tuple[TensorSpace, Pattern]:
    """Return splines times polynomials of time, and the unknowns of each interval."""
    times = Space(np.array([0.0, 1.0]), (), degree=stages - 1)  # As many as are free.
    axes = (space, times) if variables > 1 else (times, space)
    product = TensorSpace(axes, unknowns)
    return product, product.pattern([axis.gauss for axis in axes])


class SlabProblem(TensorProblem):
    """Equations from `start` to `end` as a least squares problem.

    The unknowns are those of a slab that begins at `state`, zero for its constant continuation.
    Steps start from its Taylor polynomial. With a `base`, they are those of a correction of that
    solved slab.
    """

    def __init__(
        self,
        system: EvolutionSystem,
        state: EvolvingState,
        span: tuple[float, float],
        sizes: Array,
        base: Slab | None = None,
    ) -> None:
        self.system, self.state, self.span, self.sizes = system, state, span, sizes
        self.half, self.base = (span[1] - span[0]) / 2, base
        self.stages = DEGREE if base is None else DEGREE + RICHER_STAGES
        self.gauss = state.space.gauss if base is None else state.space.fewer_gauss
        self._fixed = [self._given(unknown) for unknown in range(len(system.orders))]
        count = len(system.orders)
        space, pattern = _layout(state.space, count, system.variables, self.stages)
        super().__init__(space, self._unit_patches(pattern))
        zeros = self.unknowns.numpy()
        self.patches = [replace(e, scale=e.scale / self._unit(e, zeros)) for e in self.patches]
        start = np.stack([self._continued(unknown) for unknown in range(count)])
        start = start if system.variables > 1 else start.swapaxes(1, 2)
        self.unknowns[torch.as_tensor(space.index)] = torch.as_tensor(start)

    def _given(self, unknown: int) -> list[Part]:
        """Return the parts of an unknown that the start of the slab fixes."""
        state, order = self.state, self.system.orders[unknown]
        values = state.values[unknown][:, :order]
        held = values @ held_polynomials(order, self.half, self.stages)
        if (old := state.exact) is None:
            return [Part(state.space, held)]
        fading = held_polynomials(order, self.half, self.stages, (-1.0, 1.0))
        held = held - values @ fading
        return [Part(old.space, old.values[unknown][:, :order] @ fading), Part(state.space, held)]

    def _continued(self, unknown: int) -> Array:
        """Return the splines (functions, polynomials) of the Taylor polynomial at the start."""
        values, order = self.state.values[unknown], self.system.orders[unknown]
        orders, width = range(order, values.shape[1]), self.stages + 1
        powers = [legint(np.ones(1), each, lbnd=-1) * self.half**each for each in orders]
        terms = np.array([np.pad(each, (0, width - len(each))) for each in powers])
        free = free_polynomials(order, self.stages)[0]
        found: Array = values[:, order:] @ terms.reshape(-1, width) @ np.linalg.pinv(free)
        return found

    def _unit_patches(self, pattern: Pattern) -> list[Patch]:
        """Return the equations at Gauss points of space and Radau points of time."""
        system, gauss, stages = self.system, self.gauss, self.stages
        s, weights = radau_points(stages)
        at, numbers = self.span[0] + self.half * (s[None] + 1), np.arange(stages)[None]
        legendre_polynomials = legvander(s, stages).T

        @cache
        def polynomials(order: int, unknown: int) -> Array:
            """Return derivatives of free polynomials, (1, points, polynomials)."""
            free = free_polynomials(system.orders[unknown], stages)[order] / self.half**order
            return np.asarray(free @ legendre_polynomials).T[None]

        time = Places(at, numbers, weights[None] / 2, polynomials)
        places = (gauss, time) if system.variables > 1 else (time, gauss)
        blocks = [block_at("equation", each, places) for each in system.equations]
        offsets, points = self._offsets(self._fixed), blocks[0].points.numpy()
        if self.base is not None:
            base = self._offsets(self.base.parts)
            offsets = {name: values + base[name] for name, values in offsets.items()}
        for each in system.derivatives:
            offsets[each.name] += system.lift(each.unknown, each.index, points)
        return [patch_at(block, places, pattern, offsets) for block in blocks]

    def _offsets(self, parts: Sequence[Sequence[Part]]) -> dict[str, Array]:
        """Return the derivatives of given parts of all unknowns at the points, by their names."""
        s, orders = radau_points(self.stages)[0], range(max(self.system.orders) + 1)
        times = legendre_values(s, self.half, orders, self.stages + 1)
        x, found = self.gauss.at.ravel(), dict[str, Array]()
        for each in self.system.derivatives:
            order, time_order = self.system.split(each)
            found[each.name] = total(parts[each.unknown], x, times[time_order], order).ravel()
        return found

    def starting(self, state: EvolvingState) -> SlabProblem:
        """Return the problem with another state at the start, from one that starts at zero."""
        found = copy(self)
        found.state = state
        found._fixed = [found._given(unknown) for unknown in range(len(self.sizes))]
        more = found._offsets(found._fixed)
        found.patches = [
            replace(each, offsets={name: v + more[name] for name, v in each.offsets.items()})
            for each in self.patches
        ]
        return found

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
        found = self.coefficients(unknowns).reshape(len(self.sizes), -1, self.stages)
        return [self.state.space.complete(each, number) for number, each in enumerate(found)]

    def slab(self, unknowns: Tensor) -> Slab:
        """Return the solved slab, or the correction of the base."""
        free = (free_polynomials(order, self.stages)[0] for order in self.system.orders)
        triples = zip(self._fixed, self.splines(unknowns), free, strict=True)
        parts = (
            (*fading, replace(held, coefficients=held.coefficients + found @ polynomials))
            for (*fading, held), found, polynomials in triples
        )
        return Slab(*self.span, tuple(parts))

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
