"""Solution of an evolution equation on one slab: splines in space times polynomials in time.

On a slab, an unknown is u = sum_j C_j(x) P_j(s), where the C_j are splines and the P_j are Legendre
polynomials of s, which runs from -1 to 1 (see `legendre_values`). If a slab has other breakpoints
than the previous one, it still starts from exactly the old values: the difference between the old
and the new splines fades out over the slab as a polynomial of time. `slab_problem.py` solves for
the splines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial, reduce
from math import inf
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import legder, legint, legroots, legval, legvander

from kanrun.engine.equations.fields import Factor, Field, spline_field
from kanrun.engine.equations.space import DEGREE, Space
from kanrun.engine.equations.system import Array, EvolutionSystem


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
    # Breakpoints, scaled to [-1, 1], that differ by less than this count as equal.
    same_breakpoint = 1e-14
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
        apart = np.diff(points, prepend=-inf) > same_breakpoint
        apart[-1] = True
        points = np.repeat(points, (apart * counts).astype(int))
        edges = np.stack([points, np.linspace(-1, 1, len(points))])
        factors = [
            lambda t: along(slab.space.outer(t), unit),
            lambda t: np.repeat(legvander(t, DEGREE)[:, None], count, axis=1),
        ]
    return spline_field(box, edges, DEGREE, factors)


def legendre_values(
    s: Array, half: float, orders: Sequence[int] | range, count: int = DEGREE + 1
) -> Float[Array, "orders degrees points"]:
    """Return time derivatives of Legendre polynomials on a slab.

    Args:
        s: Times in the slab, from -1 to 1, shape (points,).
        half: Half the length of the slab.
        orders: Orders of the derivatives.
        count: Number of polynomials, of degrees 0 to `count` - 1.
    """
    unit = np.eye(count)
    rows = [legval(s, legder(unit, order)) / half**order for order in orders]
    return np.stack(rows)


@cache
def radau_points(stages: int) -> tuple[Array, Array]:
    """Return the points and weights of the Radau quadrature rule on [-1, 1].

    Both have the shape (stages,). The last point is 1, and the sum of the weights is 2.
    """
    unit = np.eye(stages + 1)
    points = np.sort(legroots(unit[-1] - unit[-2]).real)
    points[-1] = 1.0
    weights = np.linalg.solve(legvander(points, stages - 1).T, 2.0 * unit[0, :-1])
    return points, weights.astype(np.float64)


@cache
def free_polynomials(
    order: int, stages: int = DEGREE
) -> Float[Array, "derivatives polynomials degrees"]:
    """Return Legendre coefficients of polynomials with an `order`-fold zero at -1.

    There are `stages` polynomials. Entry 0 of the result holds the polynomials, and entry r their
    time derivatives of order r, up to `order`, as the equivalent system of first order defines
    them: the highest derivative is a polynomial of degree `stages` - 1, and each lower one is the
    integral of the interpolant of the next higher one at the Radau points. Exact second derivatives
    would amplify fast oscillations (van der Houwen, Sommeijer and Cong, BIT 31, 1991). The
    polynomials are scaled to a largest value of about 1.
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
    """Return Legendre coefficients of polynomials that continue the values at the start of a slab.

    For r < `order`, the time derivative of order r of polynomial r is 1 at the start. All other
    derivatives of orders below `order` vanish at all `ends`.

    Args:
        order: Order of the equation in time.
        half: Half the length of the slab.
        stages: Largest degree of the result.
        ends: (-1.0,) for the start alone. With (-1.0, 1.0), all derivatives vanish at the end of
            the slab as well, so that the polynomials fade out.
    """
    count = len(ends) * order
    rows = [legendre_values(np.array([end]), half, range(order), count)[..., 0] for end in ends]
    found = np.linalg.inv(np.concatenate(rows)).T[:order]
    return np.pad(found, ((0, 0), (0, stages + 1 - count)))


#: Smallest size of an unknown by which its errors are divided, as a fraction of the size of the
#: largest unknown.
SMALLEST_SIZE = 1e-12
#: Smallest divisor; protects against division by zero.
TINY = 1e-300
#: Number of intervals above which no interval is halved.
MAX_INTERVALS = 4000
#: Bounds of the ratio of the numbers of intervals of two successive slabs.
INTERVAL_GROWTH = (0.8, 1.5)
#: Bounds of the ratio of the lengths of two successive slabs.
SLAB_GROWTH = (0.2, 2.0)
#: The next slab has this fraction of its predicted length.
SAFETY = 0.9


@dataclass(frozen=True)
class Accepted:
    """Accepted slab with its estimated error.

    Attributes:
        slab: The slab.
        errors: Mean square of each unknown's estimated error over the slab, shape (unknowns,).
        last_errors: Mean square of each unknown's estimated error over space at the end of the
            slab, shape (unknowns,).
        values: Mean square of each unknown over the slab, shape (unknowns,).
        seconds: CPU time in seconds that the slab took, including refused attempts.
    """

    slab: Slab
    errors: Array
    last_errors: Array
    values: Array
    seconds: float


@dataclass
class March:
    """Accepted slabs of one solution, from the start to `end`, with one local tolerance.

    Attributes:
        tolerance: Local tolerance.
        end: Time up to which the system is solved.
        accepted: Accepted slabs in order.
        steps: Number of Gauss-Newton steps, including those of refused slabs.
    """

    tolerance: float
    end: float
    accepted: list[Accepted] = field(default_factory=list)
    steps: int = 0
    #: Largest `Unseen.size` among the slabs accepted so far.
    unseen: float = 0.0
    #: Point of a feature that no slab resolves, or None.
    unresolved: list[float] | None = None
    #: Estimated CPU seconds so far, from the number of operations.
    counted: float = 0.0
    #: Why the solution ends before the end of the range; empty if it does not.
    stopped: str = ""

    @property
    def slabs(self) -> list[Slab]:
        return [each.slab for each in self.accepted]

    def _mean(self, squares: list[Array]) -> Array:
        """Return the mean of `squares` (one array per slab), weighted by the slabs' lengths."""
        lengths = np.array([each.slab.end - each.slab.start for each in self.accepted])
        found: Array = lengths @ np.stack(squares) / lengths.sum()
        return found

    def sizes(self) -> Array:
        """Return the root mean square of each unknown over all slabs, shape (unknowns,)."""
        squares = self._mean([each.values for each in self.accepted])
        found: Array = np.sqrt(np.maximum(squares, SMALLEST_SIZE**2 * squares.max()) + TINY)
        return found

    def errors(self) -> Array:
        """Return the estimated relative L2 error in each slab, shape (slabs,).

        If there are several unknowns, the error in a slab is that of the worst unknown.
        """
        squares = np.stack([each.errors for each in self.accepted])
        found: Array = (np.sqrt(squares) / self.sizes()).max(axis=1)
        return found

    @property
    def estimate(self) -> float:
        """Estimated relative L2 error of the worst unknown.

        It is the error over all slabs or the error at the end of the last slab, whichever is
        larger.
        """
        squares = self._mean([each.errors for each in self.accepted])
        last = self.accepted[-1].last_errors
        return float((np.sqrt(np.maximum(squares, last)) / self.sizes()).max())


def next_length(length: float, last: float) -> float:
    """Return the length of the next slab.

    Args:
        length: Length of this slab.
        last: Size of its term of the highest degree in time, divided by the local tolerance.
    """
    return length * float(np.clip(SAFETY * max(last, TINY) ** (-1 / DEGREE), *SLAB_GROWTH))


def next_intervals(intervals: int, fewest: int, error: float) -> int | None:
    """Return the number of intervals of the next slab, or None to keep the breakpoints.

    Args:
        intervals: Number of intervals of this slab.
        fewest: Smallest allowed number of intervals.
        error: Estimated error of the splines, divided by the local tolerance.
    """
    # Breakpoints are removed if the estimated error of the splines is below this fraction of
    # `spline_error`.
    superfluous = 1e-3
    # Breakpoints are added if the estimated error of the splines at the end of a slab exceeds this
    # fraction of the local tolerance.
    spline_error = 0.02
    relative = error / spline_error
    if relative <= 1 and not (relative < superfluous and intervals > fewest):
        return None
    factor = float(np.clip((4 * relative) ** (1 / (DEGREE + 1)), *INTERVAL_GROWTH))
    return int(np.clip(int(factor * intervals) + 1, fewest, MAX_INTERVALS))
