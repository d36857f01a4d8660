"""Solution of an evolution equation on one slab: splines of space times polynomials of time.

An unknown of order r in time is u = lift + sum_j C_j(x) P_j(s) on the slab, s from -1 to 1, with
Legendre polynomials P_j (`time_polynomials.py`) of degree 0 to the number of stages. A slab on new
breakpoints starts from the exact old state: its difference from the new splines fades out over the
slab as a polynomial of time. `slab_problem.py` solves for the splines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import inf
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss, legvander
from torch import Tensor

from kanrun.engine.equations.fields import Factor, Field, spline_field
from kanrun.engine.equations.space import DEGREE, Space
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.equations.time_polynomials import held_polynomials, legendre_values

#: Breakpoints of two spaces that differ by less than this fraction of the range are one.
SAME_BREAKPOINT = 1e-14


@dataclass(frozen=True)
class Part:
    """Splines (functions, degrees) of one space times Legendre polynomials of time."""

    space: Space
    coefficients: Array


def total(parts: Sequence[Part], x: Array, times: Array, space_order: int = 0) -> Array:
    """Return the sum of the parts at x (points,) and Legendre values (degrees, times).

    The sum, or its derivative of order `space_order` in space, has shape (points, times).
    """
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
        none = (0,) * system.variables
        *space, at = points.T
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
        degrees = self.parts[0][-1].coefficients.shape[1]
        end = legendre_values(np.ones(1), half, range(max(orders)), degrees)[:, :, 0].T
        return [
            parts[-1].coefficients @ end[:, :order]
            for parts, order in zip(self.parts, orders, strict=True)
        ]

    def jumps(self, state: EvolvingState, orders: Sequence[int]) -> list[tuple[Part, ...]]:
        """Return parts that fade out by which time derivatives at the start miss those of `state`.

        Polynomials of a second derivative agree with those of the first at the Radau points only.
        """
        half = (self.end - self.start) / 2
        found = list[tuple[Part, ...]]()
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
        found = []
        places = self.space.gauss
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


def slab_field(slab: Slab, system: EvolutionSystem) -> Field:
    """Return a slab as a network of splines, to rounding."""
    box = system.box.clone()
    box[-1] = box.new_tensor([slab.start, slab.end])
    count = len(system.orders)
    edges = np.array([[-1.0, 1.0]])
    unit = np.eye(DEGREE + 1)

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
    highest = max(map(system.lift_degree, unknowns))
    nodes, weights = leggauss(highest + 1)
    rows = legvander(nodes, highest) * weights[:, None] * (np.arange(highest + 1) + 0.5)
    middle = box.mean(1).numpy()
    half = box.diff()[:, 0].numpy() / 2

    def along_time(t: Array) -> Array:
        s = np.stack(np.meshgrid(nodes, t), axis=-1).reshape(-1, 2)
        values = [system.lift(each, (0, 0), middle + s * half) for each in unknowns]
        at_nodes = np.stack(values).reshape(len(values), len(t), len(nodes))
        return (at_nodes @ rows).swapaxes(0, 1)

    return lambda t: np.repeat(legvander(t, highest)[:, None], len(unknowns), axis=1), along_time
