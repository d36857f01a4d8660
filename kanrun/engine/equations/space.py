"""Spaces of splines of one variable that satisfy the boundary conditions.

Splines are periodic, or combinations of clamped B-splines that satisfy linear homogeneous
conditions at both ends. For equations in one variable, the second axis of a tensor product is the
space of one constant function. On interval e, only the basis functions e to e + degree differ from
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from math import pi
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from kanrun.engine.equations.system import Array, System, Walls, highest_orders
from kanrun.engine.least_squares import ElementRows, Pattern, gauss_newton
from kanrun.engine.splines import Grid, local_basis

Index = NDArray[np.int64]
#: Quadrature rule: nodes on [-1, 1], and weights whose sum is 2.
Rule = tuple[Array, Array]

#: Degree of the splines and of the polynomials in time.
DEGREE = 7
#: Gauss rules in each interval: 4 points for the residuals of equations, and 10 points for the
#: least squares projection of a function onto splines.
GAUSS, PROJECTION = map(np.polynomial.legendre.leggauss, (4, 10))
#: Gauss rule (3 points) for residuals in the space of halved intervals, in which errors are
#: estimated.
RICHER_GAUSS = np.polynomial.legendre.leggauss(3)
#: Number of points per interval at which |d^4 u / dx^4|^(1/4) is evaluated. Fewer points may miss a
#: peak; more only take time.
DENSITY_POINTS = 8
#: Intervals are not halved if the halves would be narrower than this fraction of the range.
NARROWEST = 1e-6


@dataclass(frozen=True)
class Places:
    """Points in the intervals of one variable, with the basis functions at these points.

    Attributes:
        at: The points, shape (intervals, nodes).
        functions: Indices of the basis functions that differ from zero on each interval, shape
            (intervals, local), where local = degree + 1.
        shares: Quadrature weights, shape (intervals, nodes); their sum is 1.
        values: Function that evaluates basis functions. Its arguments are the order of a derivative
            and the index of an unknown, whose boundary conditions the basis functions satisfy. It
            returns the derivative of each basis function, shape (intervals, nodes, local).
    """

    at: Array
    functions: Index
    shares: Array
    values: Callable[[int, int], Array]


@dataclass(frozen=True, eq=False)
class Space:
    """Splines of one variable, with boundary conditions for each unknown.

    Attributes:
        breakpoints: Ends of the intervals, shape (intervals + 1,).
        walls: Homogeneous boundary conditions of each unknown (`Walls`); empty if there are none.
        periodic: Whether the splines are periodic.
        degree: `DEGREE`, or 0 for one constant function on one interval.
    """

    breakpoints: Array
    walls: tuple[Walls, ...]
    periodic: bool = False
    degree: int = DEGREE

    @classmethod
    def constant(cls) -> Space:
        """Return the space of one constant function on [0, 1]."""
        return cls(np.array([0.0, 1.0]), (), degree=0)

    @property
    def edges(self) -> Array:
        """Breakpoints, scaled to [-1, 1]."""
        low, high = self.breakpoints[[0, -1]]
        found: Array = 2 * (self.breakpoints - low) / (high - low) - 1
        return found

    def outer(self, t: Array) -> Array:
        """Map points `t` in [-1, 1] to the range of the variable."""
        low, high = self.breakpoints[[0, -1]]
        found: Array = np.clip(low + (t + 1) / 2 * (high - low), low, high)
        return found

    @property
    def intervals(self) -> int:
        return len(self.breakpoints) - 1

    @property
    def functions(self) -> int:
        """Number of basis functions, including those that boundary conditions eliminate."""
        return self.intervals + (0 if self.periodic else self.degree)

    @cached_property
    def grid(self) -> Grid:
        """Grid of the splines: the breakpoints, with `degree` additional knots beyond either end.

        The additional knots repeat the end or, for periodic splines, continue the breakpoints
        periodically.
        """
        ends = self.breakpoints
        degree = self.degree
        around = np.diff(ends) if self.periodic else np.zeros(1)
        right = ends[-1] + np.cumsum(np.resize(around, degree))
        left = (ends[0] - np.cumsum(np.resize(around[::-1], degree)))[::-1]
        return Grid(torch.as_tensor(np.concatenate([left, ends, right]))[None], degree)

    @cached_property
    def order(self) -> Index:
        """Position of each basis function in a vector of unknowns, shape (functions,).

        Periodic functions are taken from both ends in turn (0, n-1, 1, n-2, ...), because the first
        and the last function overlap: in the natural order, matrices would not be banded.
        """
        places = np.arange(self.functions)
        if self.periodic:
            places = np.minimum(2 * places, 2 * (self.functions - 1 - places) + 1)
        return places

    def basis(self, x: Array, derivative: int) -> tuple[Array, Index]:
        """Return derivatives of the basis functions that differ from zero at `x`, with indices.

        `derivative` is the order of the derivatives, and `x` has the shape (points,). The second
        result holds the indices of the basis functions. Both have the shape (points, degree + 1).
        """
        values, interval = local_basis(torch.as_tensor(x)[:, None], self.grid, derivative)
        numbers = interval.numpy() + np.arange(self.degree + 1)
        return values[:, 0].numpy(), numbers % self.functions

    def points(self, nodes: Array) -> Float[Array, "intervals nodes"]:
        """Map `nodes`, points in [-1, 1], to every interval."""
        shares = (nodes + 1) / 2
        return self.breakpoints[:-1, None] + np.diff(self.breakpoints)[:, None] * shares

    def places(self, rule: Rule, fixed: float | None = None) -> Places:
        """Return the nodes of a quadrature rule in each interval, with basis functions.

        If `fixed` is given, return only this point; in a constant space, return only the point 0.
        """
        nodes, weights = rule
        widths = np.diff(self.breakpoints) / (self.breakpoints[-1] - self.breakpoints[0])
        at = self.points(nodes)
        shares = widths[:, None] * weights / 2
        if fixed is not None or not self.degree:
            at = np.array([[fixed or 0.0]])
            shares = np.ones((1, 1))
        values = cache(partial(self._values, at))
        return Places(at, self.basis(at[:, 0], 0)[1], shares, values)

    @cached_property
    def halved(self) -> Space:
        """Space in which every interval is halved; the same space if it is constant."""
        middle = (self.breakpoints[1:] + self.breakpoints[:-1])[np.diff(self.breakpoints) > 0] / 2
        if not self.degree:
            return self
        return replace(self, breakpoints=np.sort(np.concatenate([self.breakpoints, middle])))

    @cached_property
    def gauss(self) -> Places:
        """Gauss points of each interval, at which residuals are evaluated."""
        return self.places(GAUSS)

    @cached_property
    def fewer_gauss(self) -> Places:
        """Gauss points of `RICHER_GAUSS` in each interval, for spaces of halved intervals."""
        return self.places(RICHER_GAUSS)

    def _values(
        self, x: Float[Array, "intervals nodes"], derivative: int, unknown: int
    ) -> Float[Array, "intervals nodes local"]:
        """Return a derivative of the basis functions at points `x`, see `Places.values`."""
        shaped = self.basis(x.reshape(-1), derivative)[0].reshape(*x.shape, -1)
        for side, count, follow, _ in self._eliminated[unknown] if self.walls else ():
            turned = shaped[::-1, :, ::-1] if side else shaped
            for interval in range(min(count, self.intervals)):
                near = turned[interval, :, : count - interval]
                last = count + follow.shape[1] - interval
                turned[interval, :, count - interval : last] += near @ follow[interval:]
                near[:] = 0
        return shaped

    @cached_property
    def _eliminated(self) -> list[list[tuple[int, int, Array, Array]]]:
        """For each unknown, the basis functions that boundary conditions eliminate.

        An entry holds the end (0 lower, 1 upper), the number of eliminated functions next to it,
        and two matrices of shapes (eliminated, following) and (eliminated, conditions). The
        coefficients of the eliminated functions are the first matrix times the coefficients of the
        next functions, counted from the end, plus the second matrix times the prescribed values.
        """
        found: list[list[tuple[int, int, Array, Array]]] = [[] for _ in self.walls]
        for each, ends in zip(found, self.walls, strict=True):
            for side, rows in enumerate(ends):
                if rows is None:
                    continue
                (count, orders), wall = rows.shape, self.breakpoints[[-side]]
                at_wall = np.stack([self.basis(wall, order)[0][0] for order in range(orders)])
                values = rows @ (at_wall[:, ::-1] if side else at_wall)[:, :orders]
                sizes = np.abs(values).max(axis=1)
                values = values / sizes[:, None]
                inverse = np.linalg.inv(values[:, :count])
                each.append((side, count, -inverse @ values[:, count:], inverse / sizes))
        return found

    def complete(self, coefficients: Array, unknown: int, prescribed: Array | None = None) -> Array:
        """Set the coefficients that boundary conditions eliminate, in place; return all of them.

        Args:
            coefficients: Coefficients, shape (functions, columns).
            unknown: Index of the unknown whose boundary conditions are used.
            prescribed: Values that the conditions prescribe, shape (conditions, columns), those at
                the lower end first; None for zeros.
        """
        start = 0
        for side, count, follow, inverse in self._eliminated[unknown] if self.walls else ():
            turned = coefficients[::-1] if side else coefficients
            turned[:count] = follow @ turned[count : count + follow.shape[1]]
            if prescribed is not None:
                turned[:count] += inverse @ prescribed[start : start + count]
            start += count
        return coefficients

    def wall_values(self, coefficients: Array, unknown: int) -> Array:
        """Evaluate the left sides of the boundary conditions of an unknown for splines.

        `coefficients` has the shape (functions, columns), and the result the shape (conditions,
        columns), with the conditions at the lower end first.
        """
        found = [np.zeros((0, coefficients.shape[1]))]
        for side, rows in enumerate(self.walls[unknown] if self.walls else ()):
            if rows is not None:
                wall = self.breakpoints[[-side]]
                orders = range(rows.shape[1])
                found.append(rows @ [self.evaluate(coefficients, wall, k)[0] for k in orders])
        return np.concatenate(found)

    def evaluate(self, coefficients: Array, x: Array, derivative: int = 0) -> Array:
        """Evaluate splines, or their derivatives of order `derivative`, at `x` (points,).

        `coefficients` has the shape (functions, ...), the result (points, ...).
        """
        values, numbers = self.basis(x, derivative)
        found: Array = np.einsum("xl,xl...->x...", values, coefficients[numbers])
        return found

    def project(
        self,
        function: Callable[[Array], Array],
        unknown: int,
        prescribed: Array | None = None,
    ) -> Array:
        """Fit a function by least squares, and return the spline coefficients (functions, columns).

        `function` maps points (points,) to values (points, columns). The fit satisfies the boundary
        conditions of `unknown` with the values `prescribed` (see `complete`).
        """
        places = self.places(PROJECTION)
        pattern = Pattern(torch.as_tensor(self.order[places.functions]), self.functions)
        roots = np.sqrt(places.shares)
        rows = torch.as_tensor(places.values(0, unknown) * roots[..., None])
        newton = gauss_newton(ElementRows(pattern, rows))
        values = function(x := places.at.ravel()).reshape(roots.size, -1)
        if prescribed is not None:
            zeros = np.zeros((self.functions, values.shape[1]))
            values = values - self.evaluate(self.complete(zeros, unknown, prescribed), x)
        values = values * roots.reshape(-1, 1)
        found = [-newton(column) for column in torch.as_tensor(values).T]
        return self.complete(torch.stack(found, dim=-1).numpy()[self.order], unknown, prescribed)

    def error(self, coefficients: Array) -> float:
        """Estimate the root mean square error of a spline that approximates a smooth function u.

        On intervals of length h, the mean error of the best spline of degree p is about
        2 / (2 pi)^(p+1) h^(p+1) |u^(p+1)|. The derivative of order p + 1 is estimated from the
        jumps of the spline's derivative of order p.
        """
        width = np.diff(self.breakpoints)
        middle = (self.breakpoints[1:] + self.breakpoints[:-1]) / 2
        top = self.evaluate(coefficients, middle, DEGREE)
        jumps = np.abs(np.diff(top, append=top[:1] if self.periodic else top[-1:]))
        # At a kink the derivatives jump too, but that is not an error of the splines.
        jumps[(width == 0) | (np.roll(width, -1) == 0)] = 0
        either = np.maximum(jumps, np.roll(jumps, 1))
        errors = 2 / (2 * pi) ** (DEGREE + 1) * width**DEGREE * either
        return float(np.sqrt(np.square(errors) @ width / width.sum()))

    def adapted(
        self, coefficients: Sequence[Array], sizes: Sequence[float], intervals: int
    ) -> Space:
        """Return a space of about `intervals` intervals that are fine where splines curve strongly.

        Args:
            coefficients: Coefficients of each spline, shape (functions,).
            sizes: Magnitude of each spline, by which its derivatives are divided.
            intervals: Number of intervals. Repeated breakpoints (kinks) stay where they are.
        """
        # Fraction of the breakpoints whose density is proportional to |d^4 u / dx^4|^(1/4), so that
        # all intervals have similar errors; the others are equally spaced.
        adapted = 0.7
        places, counts = np.unique(self.breakpoints, return_counts=True)
        kinks = np.repeat(places, np.where(counts > 1, counts, 0))
        intervals -= len(kinks) - len({*kinks})
        each = np.linspace(-1, 1, DENSITY_POINTS, endpoint=False)
        x = np.append(self.points(each).ravel(), self.breakpoints[-1])
        fourth = [
            np.abs(self.evaluate(c, x, 4)) / s for c, s in zip(coefficients, sizes, strict=True)
        ]
        density = _widened(np.max(fourth, axis=0) ** 0.25, periodic=self.periodic)
        total = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x)))
        even = (x - x[0]) / (x[-1] - x[0])
        share = adapted * total / total[-1] + (1 - adapted) * even if total[-1] > 0 else even
        edges = np.interp(np.linspace(0, 1, intervals + 1), share, x)
        edges[[0, -1]] = self.breakpoints[[0, -1]]
        return Space(with_kinks(edges, kinks), self.walls, self.periodic)


def with_kinks(breakpoints: Array, kinks: Array) -> Array:
    """Insert `kinks` into breakpoints, each position as often as it occurs in `kinks`.

    For each position, the nearest inner breakpoint is removed if there are enough inner
    breakpoints. At a breakpoint of multiplicity m, splines have DEGREE - m continuous derivatives,
    and there are m - 1 intervals of length 0, whose quadrature weights are 0.
    """
    for place in {*kinks} if len(breakpoints) > 2 + len({*kinks}) else ():
        breakpoints = np.delete(breakpoints, 1 + np.abs(breakpoints[1:-1] - place).argmin())
    return np.sort(np.concatenate([breakpoints, kinks]))


def with_breakpoints(breakpoints: Array, more: Array) -> Array:
    """Add the points `more` to `breakpoints`, except those that coincide with a breakpoint."""
    # Breakpoints that differ by less than this fraction of the range count as equal.
    same_breakpoint = 1e-9
    after = np.searchsorted(breakpoints, more).clip(1, len(breakpoints) - 1)
    distance = np.minimum(np.abs(more - breakpoints[after - 1]), np.abs(more - breakpoints[after]))
    new = more[distance > same_breakpoint * (breakpoints[-1] - breakpoints[0])]
    return np.sort(np.concatenate([breakpoints, new]))


def kinks_of(system: System, number: int) -> Array:
    """Return the positions of kinks in variable `number`, each repeated by its multiplicity.

    Kinks are the values at which formulas of the equations jump or have a kink. If a position is
    used as a breakpoint as often as it is repeated here, only derivatives of the spline below the
    order of the equations are continuous there.
    """
    order = max(highest_orders(system.equations, number))
    return np.repeat(system.jumps(number), DEGREE + 1 - order)


def _widened(density: Array, *, periodic: bool) -> Array:
    """Smooth a density, shape (points,), by a moving maximum and then a moving average."""
    # Width, in intervals, of the moving maximum and the moving average that smooth the density of
    # breakpoints. A larger width spreads fine intervals further around a narrow feature.
    density_width = 1
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    mode: Literal["wrap", "nearest"] = "wrap" if periodic else "nearest"
    width = DENSITY_POINTS * density_width + 1
    return uniform_filter1d(maximum_filter1d(density, width, mode=mode), width, mode=mode)


def split_intervals(edges: Tensor, at: Tensor, squares: Tensor, intervals: int) -> Tensor:
    """Halve intervals between `edges` until there are `intervals` of them; return the new edges.

    The interval with the largest sum of `squares` is halved first. `squares` are squared residuals
    at the points `at`; both have the shape (points,).
    """
    # Added to the squared residual of each interval, as a fraction of the mean over all intervals,
    # so that no interval stays wide merely because a coarse solution happens to be zero there.
    negligible_squares = 1e-2
    # Factor by which halving an interval is assumed to reduce its squared residual. With a smaller
    # value, intervals are halved more evenly; with a larger one, refinement is more local.
    halved = 0.01
    number = (torch.searchsorted(edges.contiguous(), at.contiguous()) - 1).clamp(0, len(edges) - 2)
    sums = squares.new_zeros(len(edges) - 1).index_add_(0, number, squares)
    floor = float(sums.sum()) * negligible_squares / len(sums) + np.finfo(float).tiny
    ends = edges.tolist()
    sizes = (sums + floor).tolist()
    narrowest = 2 * NARROWEST * (ends[-1] - ends[0])
    while len(sizes) < intervals and (largest := max(sizes)) > 0:
        place = sizes.index(largest)
        low, high = ends[place : place + 2]
        if high - low < narrowest:
            sizes[place] = 0.0
            continue
        ends.insert(place + 1, (low + high) / 2)
        sizes[place : place + 1] = [largest * halved] * 2
    return edges.new_tensor(ends)


def products(matrices: Array, least: float, most: int | None = None) -> list[Array]:
    """Write matrices as sums of outer products of two vectors, by singular value decomposition.

    Args:
        matrices: One matrix per unknown, shape (unknowns, rows, columns).
        least: Terms whose singular value is below this fraction of the largest one are left out.
        most: Largest number of terms; None for no limit.

    Returns:
        The two factors, shapes (unknowns, rows, terms) and (unknowns, columns, terms).
    """
    left, s, right = np.linalg.svd(matrices, full_matrices=False)
    terms = max(1, min(int((s > least * s[:, :1]).sum(1).max()), most or s.shape[1]))
    roots = np.sqrt(s[:, None, :terms])
    return [left[..., :terms] * roots, right[:, :terms].swapaxes(1, 2) * roots]
