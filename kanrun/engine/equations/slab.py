"""Solution of an evolution equation on one slab: splines in space times polynomials in time.

On a slab, an unknown is u = sum_j C_j(x) P_j(s), where the C_j are splines and the P_j are Legendre
polynomials of s, which runs from -1 to 1 (`time_polynomials.py`). If a slab has other breakpoints
than the previous one, it still starts from exactly the old values: the difference between the old
and the new splines fades out over the slab as a polynomial of time. `slab_problem.py` solves for
the splines.
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
from numpy.polynomial.legendre import legvander

from kanrun.engine.equations.evolution import EvolutionSystem
from kanrun.engine.equations.fields import Factor, Field, spline_field
from kanrun.engine.equations.space import DEGREE, Space
from kanrun.engine.equations.system import Array
from kanrun.engine.equations.time_polynomials import held_polynomials, legendre_values

#: Breakpoints, scaled to [-1, 1], that differ by less than this count as equal.
SAME_BREAKPOINT = 1e-14


@dataclass(frozen=True)
class Part:
    """Term of a solution on a slab: splines in space times Legendre polynomials in time.

    Attributes:
        space: Space of the splines.
        coefficients: Spline coefficients for each Legendre polynomial, shape (functions, degrees).
    """

    space: Space
    coefficients: Array


def total(parts: Sequence[Part], x: Array, times: Array, space_order: int = 0) -> Array:
    """Evaluate the sum of several terms, or its derivative of order `space_order` in space.

    Args:
        parts: Terms of one unknown.
        x: Points in space, shape (points,).
        times: Values of Legendre polynomials, or of their time derivatives, shape (degrees, times).
        space_order: Order of the derivative in space.

    Returns:
        Values, shape (points, times).
    """
    found = [
        part.space.evaluate(part.coefficients, x, space_order) @ times[: part.coefficients.shape[1]]
        for part in parts
    ]
    values: Array = np.sum(found, axis=0)
    return values


@dataclass(frozen=True)
class Slab:
    """Solution on a slab of time.

    Attributes:
        start: Time at which the slab starts.
        end: Time at which the slab ends.
        parts: Terms of each unknown (see `Part`).
    """

    start: float
    end: float
    parts: tuple[tuple[Part, ...], ...]

    @property
    def space(self) -> Space:
        """Spline space in which the slab was solved: the space of the last term of each unknown."""
        return self.parts[0][-1].space

    @property
    def unknowns(self) -> int:
        """Number of coefficients of all unknown functions."""
        return len(self.parts) * self.space.functions * DEGREE

    def values(self, x: Array, s: Array) -> Float[Array, "unknowns points times"]:
        """Evaluate the unknowns at points `x` in space and at times `s` from -1 to 1."""
        degrees = max(part.coefficients.shape[1] for part in self.parts[0])
        times = legendre_values(s, 1.0, [0], degrees)[0]
        return np.stack([total(parts, x, times) for parts in self.parts])

    def at_end(self, orders: Sequence[int]) -> list[Array]:
        """Return each unknown and its time derivatives at the end of the slab.

        There is one array of spline coefficients per unknown, of shape (functions, order), for the
        derivatives 0 to order - 1; `orders` has the order of each unknown. Only the last term of an
        unknown is used, because the others vanish at the end.
        """
        half = (self.end - self.start) / 2
        degrees = self.parts[0][-1].coefficients.shape[1]
        end = legendre_values(np.ones(1), half, range(max(orders)), degrees)[:, :, 0].T
        return [
            parts[-1].coefficients @ end[:, :order]
            for parts, order in zip(self.parts, orders, strict=True)
        ]

    def jumps(self, state: EvolvingState, orders: Sequence[int]) -> list[tuple[Part, ...]]:
        """Return `state` minus the slab at its start, as terms that fade out over the slab.

        There are none for unknowns of first order in time. For higher orders, the time derivatives
        that enter the equations are polynomials of their own (see `free_polynomials`), which agree
        with the exact time derivatives at the Radau points only. At the start of the slab, its
        exact time derivatives therefore differ from those of `state`.
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
        """Return the slab with additional terms of each unknown, which must vanish at its end."""
        pairs = zip(more, self.parts, strict=True)
        return Slab(self.start, self.end, tuple((*a, *b) for a, b in pairs))

    def _squares(self, s: Array) -> Float[Array, "unknowns intervals times"]:
        """Return the square of each unknown at times `s`, integrated over each interval of space.

        The sum over the intervals is the mean over space.
        """
        places = self.space.gauss
        squares = np.square(self.values(places.at.ravel(), s))
        shaped = squares.reshape(-1, *places.at.shape, len(s))
        found: Array = (places.shares[..., None] * shaped).sum(axis=2)
        return found

    def norms(self, s: Array) -> Float[Array, "unknowns times"]:
        """Return the root mean square over space of each unknown at times `s` from -1 to 1."""
        found: Array = np.sqrt(self._squares(s).sum(axis=1))
        return found

    def by_interval(self, s: Array, sizes: Array) -> Float[Array, " intervals"]:
        """Return the integral of the squared unknowns over each interval of space.

        Each unknown u is divided by its entry in `sizes`. The integrals are summed over the times
        `s` (from -1 to 1) and over the unknowns.
        """
        found: Array = (self._squares(s).sum(axis=2) / np.square(sizes)[:, None]).sum(axis=0)
        return found


@dataclass(frozen=True)
class EvolvingState:
    """Solution at one time, from which a slab starts.

    Attributes:
        space: Space of the splines.
        values: For each unknown, the spline coefficients of its values and time derivatives, shape
             (functions, derivatives). Derivatives below the order of the equation in time are
            initial values of the slab; higher ones only improve the initial guess.
        exact: State on other breakpoints that this state approximates, or None.
    """

    space: Space
    values: Sequence[Array]
    exact: EvolvingState | None = None

    def moved(self, space: Space) -> EvolvingState:
        """Approximate the state in another spline space, for example with other breakpoints.

        The approximation is found by least squares; it keeps the original state as `exact`.
        """
        old = self.exact or self
        values = [
            space.project(
                partial(old.space.evaluate, c), unknown, old.space.wall_values(c, unknown)
            )
            for unknown, c in enumerate(old.values)
        ]
        return EvolvingState(space, values, old)


def slab_field(slab: Slab, system: EvolutionSystem) -> Field:
    """Convert a slab to a network of splines; the values agree to rounding."""
    box = system.box.clone()
    box[-1] = box.new_tensor([slab.start, slab.end])
    count = len(system.orders)
    edges = np.array([[-1.0, 1.0]])
    unit = np.eye(DEGREE + 1)

    def along(x: Array, times: Any) -> Array:
        return np.stack([total(parts, x, times) for parts in slab.parts], axis=1)

    factors: list[Factor] = [lambda t: along(np.zeros(1), legvander(t, DEGREE).T).T]
    if system.variables > 1:
        # Use the breakpoints of all terms in space, and as many equally spaced ones in time.
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
    return spline_field(box, edges, DEGREE, factors)
