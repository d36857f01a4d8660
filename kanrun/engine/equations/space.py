"""Splines of one variable with conditions built in, and residuals at products of points.

The splines of a window are periodic, or combinations of clamped B-splines that satisfy linear
homogeneous conditions at both ends. An equation without a space variable has the space of one
constant function. Interval e holds the functions e to e + degree; the band matrices of a window
follow from that.

In two variables u = offset + sum_ij c_ij X_i(x) Y_j(y). The rows of one cell depend on the
functions of that cell alone, so that normal equations are banded. With splines of both variables
these are tensor products; with polynomials of time as Y, windows of an evolution equation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import pi
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from kanrun.engine.equations.system import System, highest_orders
from kanrun.engine.least_squares.banded import (
    ElementRows,
    GaussNewton,
    Pattern,
)
from kanrun.engine.splines import Grid, local_basis
from kanrun.formulas.equations import Relation

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: Degree of the splines and of the polynomials of time.
DEGREE = 7
#: Gauss points per interval of the equations.
GAUSS_POINTS = 4
#: Gauss points per interval of a projection onto splines.
PROJECTION_POINTS = 10
#: Fraction of the breakpoints that follow |d^4 u / dx^4|^(1/4), the density of breakpoints at which
#: splines have equal errors; the others are equally spaced.
ADAPTED = 0.7
#: Points per interval at which that density is measured, and the intervals over which it is
#: widened and averaged.
DENSITY_POINTS, DENSITY_WIDTH = 8, 1


@dataclass(frozen=True)
class Space:
    """Splines on `breakpoints` (intervals + 1,).

    Attributes:
        walls: For each unknown its homogeneous linear conditions at both ends, or None. Entry
            (i, r) is the factor of the derivative of order r in condition i.
        periodic: Whether the splines are periodic; they have no conditions then.
        degree: `DEGREE`, or 0 for one constant function on one interval.
    """

    breakpoints: Array
    walls: tuple[tuple[Array | None, Array | None], ...]
    periodic: bool = False
    degree: int = DEGREE

    @classmethod
    def constant(cls, walls: tuple[tuple[Array | None, Array | None], ...]) -> Space:
        """Return the space of one constant function on [0, 1]."""
        return cls(np.array([0.0, 1.0]), walls, degree=0)

    @property
    def intervals(self) -> int:
        return len(self.breakpoints) - 1

    @property
    def functions(self) -> int:
        """Number of basis functions, before the conditions are built in."""
        return self.intervals + (0 if self.periodic else self.degree)

    @cached_property
    def grid(self) -> Grid:
        """Knots: repeated at the ends, or continued periodically."""
        ends, degree = self.breakpoints, self.degree
        around = np.diff(ends) if self.periodic else np.zeros(1)
        right = ends[-1] + np.cumsum(np.resize(around, degree))
        left = (ends[0] - np.cumsum(np.resize(around[::-1], degree)))[::-1]
        return Grid(torch.as_tensor(np.concatenate([left, ends, right]))[None], degree)

    @cached_property
    def local(self) -> Index:
        """Numbers of the functions of each interval, shape (intervals, degree + 1)."""
        first, below = np.arange(self.intervals)[:, None], np.arange(self.degree + 1)
        return (first + below) % self.functions

    @cached_property
    def order(self) -> Index:
        """Place of each function: 0, n-1, 1, n-2, ... if periodic, so that the cycle is a band."""
        places = np.arange(self.functions)
        if self.periodic:
            places = np.minimum(2 * places, 2 * (self.functions - 1 - places) + 1)
        return places

    @cached_property
    def _kept(self) -> dict[tuple[str, int, int], Any]:
        """Patterns and bases of this space, which many windows share."""
        return {}

    def pattern(self, block: int) -> Pattern:
        """Return the unknowns of each interval if every function has `block` of them."""
        key = "pattern", block, 0
        if key not in self._kept:
            numbers = np.arange(self.intervals)[:, None] + np.arange(self.degree + 1)
            places = self.order[numbers % self.functions]
            index = (places[..., None] * block + np.arange(block)).reshape(self.intervals, -1)
            self._kept[key] = Pattern(torch.as_tensor(index), self.functions * block)
        return self._kept[key]  # type: ignore[no-any-return]

    def basis(self, x: Array, derivative: int) -> tuple[Array, Index]:
        """Return the derivatives of the functions at x (points,), and their numbers."""
        values, interval = local_basis(torch.as_tensor(x)[:, None], self.grid, derivative)
        return values[:, 0].numpy(), self.local[interval[:, 0].numpy()]

    def points(self, nodes: Array) -> Float[Array, "intervals nodes"]:
        """Return nodes of [-1, 1] in each interval."""
        shares = (nodes + 1) / 2
        return self.breakpoints[:-1, None] + np.diff(self.breakpoints)[:, None] * shares

    def gauss_basis(self, derivative: int, unknown: int) -> Float[Array, "intervals nodes local"]:
        """Return `elements` at the Gauss points of each interval."""
        key = "basis", derivative, unknown
        if key not in self._kept:
            self._kept[key] = self.elements(self.gauss_points, derivative, unknown)
        return self._kept[key]  # type: ignore[no-any-return]

    @cached_property
    def gauss_points(self) -> Float[Array, "intervals nodes"]:
        return self.points(self._gauss_rule[0])

    @cached_property
    def _gauss_rule(self) -> tuple[Array, Array]:
        return np.polynomial.legendre.leggauss(GAUSS_POINTS if self.degree else 1)

    @cached_property
    def gauss_weights(self) -> Float[Array, "intervals nodes"]:
        """Return weights of the Gauss points whose sum is 1."""
        widths = np.diff(self.breakpoints) / (self.breakpoints[-1] - self.breakpoints[0])
        shares: Array = widths[:, None] * self._gauss_rule[1] / 2
        return shares

    def elements(
        self, x: Float[Array, "intervals nodes"], derivative: int, unknown: int
    ) -> Float[Array, "intervals nodes local"]:
        """Return the derivatives at points of each interval, conditions of `unknown` built in."""
        values, _ = self.basis(x.reshape(-1), derivative)
        shaped = values.reshape(*x.shape, self.degree + 1)
        for side, count, follow in self._eliminated[unknown]:
            turned = shaped[::-1, :, ::-1] if side else shaped
            for interval in range(min(count, self.intervals)):
                near = turned[interval, :, : count - interval]
                last = count + follow.shape[1] - interval
                turned[interval, :, count - interval : last] += near @ follow[interval:]
                near[:] = 0
        return shaped

    @cached_property
    def _eliminated(self) -> list[list[tuple[int, int, Array]]]:
        """Factors of the functions next to a wall by those that follow, for each unknown.

        Each entry is the end, the number of functions, and their factors (functions, following).
        """
        found: list[list[tuple[int, int, Array]]] = [[] for _ in self.walls]
        for each, ends in zip(found, self.walls, strict=True):
            for side, rows in enumerate(ends):
                if rows is None or self.periodic:
                    continue
                (count, orders), wall = rows.shape, self.breakpoints[[-side]]
                at_wall = np.stack([self.basis(wall, order)[0][0] for order in range(orders)])
                values = rows @ (at_wall[:, ::-1] if side else at_wall)[:, :orders]
                values = values / np.abs(values).max(axis=1, keepdims=True)
                follow = -np.linalg.solve(values[:, :count], values[:, count:])
                each.append((side, count, follow))
        return found

    def complete(self, coefficients: Array, unknown: int) -> Array:
        """Return coefficients (functions, ...) with the eliminated ones set, in place."""
        for side, count, follow in self._eliminated[unknown]:
            turned = coefficients[::-1] if side else coefficients
            turned[:count] = np.tensordot(follow, turned[count : count + follow.shape[1]], 1)
        return coefficients

    def evaluate(self, coefficients: Array, x: Array, derivative: int = 0) -> Array:
        """Return splines with coefficients (functions, ...) at x (points,), shape (points, ...)."""
        values, numbers = self.basis(x, derivative)
        found: Array = np.einsum("xl,xl...->x...", values, coefficients[numbers])
        return found

    def project(self, function: Callable[[Array], Array], unknown: int) -> Array:
        """Return the coefficients (functions, ...) of the least squares fit of a function."""
        nodes, weights = np.polynomial.legendre.leggauss(PROJECTION_POINTS)
        x = self.points(nodes)
        shares = np.sqrt(weights * np.diff(self.breakpoints)[:, None])
        rows = torch.as_tensor(self.elements(x, 0, unknown) * shares[..., None])
        newton = GaussNewton.of(ElementRows(self.pattern(1), rows))
        values = function(x.ravel()).reshape(x.size, -1) * shares.reshape(-1, 1)
        found = [-newton.step(column) for column in torch.as_tensor(values).T]
        solved = torch.stack(found, dim=-1).numpy()[self.order]
        return self.complete(solved, unknown)

    def error(self, coefficients: Array) -> float:
        """Estimate the root mean square difference of a spline from what it approximates.

        The best spline of degree p differs by 2 / (2 pi)^(p+1) h^(p+1) |u^(p+1)| in the mean; the
        derivative of order p + 1 is read from the jumps of the one below.
        """
        width = np.diff(self.breakpoints)
        middle = (self.breakpoints[1:] + self.breakpoints[:-1]) / 2
        top = self.evaluate(coefficients, middle, DEGREE)
        jumps = np.abs(np.diff(top, append=top[:1] if self.periodic else top[-1:]))
        jumps[(width == 0) | (np.roll(width, -1) == 0)] = 0  # at kinks
        either = np.maximum(jumps, np.roll(jumps, 1))
        errors = 2 / (2 * pi) ** (DEGREE + 1) * width**DEGREE * either
        return float(np.sqrt(np.square(errors) @ width / width.sum()))

    def adapted(
        self, coefficients: Sequence[Array], sizes: Sequence[float], intervals: int
    ) -> Space:
        """Return the space whose breakpoints follow splines (functions,) of the given sizes.

        Kinks stay where they are.
        """
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
        share = ADAPTED * total / total[-1] + (1 - ADAPTED) * even if total[-1] > 0 else even
        edges = np.interp(np.linspace(0, 1, intervals + 1), share, x)
        edges[[0, -1]] = self.breakpoints[[0, -1]]
        return Space(with_kinks(edges, kinks), self.walls, self.periodic)


def with_kinks(breakpoints: Array, kinks: Array) -> Array:
    """Return breakpoints of which the nearest ones give way to `kinks`.

    A breakpoint of multiplicity m leaves DEGREE - m continuous derivatives. It has m - 1 intervals
    of length 0 beside it, whose rows have the weight 0.
    """
    for place in {*kinks}:
        breakpoints = np.delete(breakpoints, 1 + np.abs(breakpoints[1:-1] - place).argmin())
    return np.sort(np.concatenate([breakpoints, kinks]))


def kinks_of(system: System, number: int) -> Array:
    """Return the places at which the solution has a kink in a variable, each by its multiplicity.

    There its derivatives below the order of the equations are continuous.
    """
    order = max(highest_orders(system.equations, number))
    return np.repeat(system.jumps(number), DEGREE + 1 - order)


def _widened(density: Array, *, periodic: bool) -> Array:
    """Return the largest density of the neighbourhood of each point, averaged over it."""
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    mode: Literal["wrap", "nearest"] = "wrap" if periodic else "nearest"
    width = DENSITY_POINTS * DENSITY_WIDTH + 1
    found: Array = uniform_filter1d(maximum_filter1d(density, width, mode=mode), width, mode=mode)
    return found


@dataclass(frozen=True)
class Patch:
    """Relation at all products of points of x and y.

    Attributes:
        points: Points in the order of cells of x, cells of y, points of x, points of y.
        pattern: Unknowns of each cell.
        bases: Values of the functions of x and of y for each derivative by its name, shape (cells,
            points, functions).
        scale: Factors from residuals to rows, shape (points,).
        offsets: Derivatives of the offset by their names, shape (points,); 0 where missing.
    """

    relation: Relation
    points: Array
    pattern: Pattern
    bases: Mapping[str, tuple[Array, Array]]
    scale: Array
    offsets: Mapping[str, Array] = field(default_factory=dict)

    def arguments(self, vector: Array) -> Array:
        """Return the arguments of the relation at a vector of coefficients, (points, names)."""
        columns = [self.points]
        for each in self.relation.derivatives:
            x, y = self.bases[each.name]
            shape = len(x), len(y), x.shape[2], y.shape[2], -1
            local = vector[self.pattern.index.numpy()].reshape(shape)[..., each.unknown]
            found = (x[:, None] @ local @ y.swapaxes(1, 2)).ravel()
            columns.append((found + self.offsets.get(each.name, 0.0))[:, None])
        return np.concatenate(columns, axis=1)

    def residual(self, vector: Array) -> Float[Array, " points"]:
        """Return the rows at a vector of coefficients."""
        with np.errstate(all="ignore"):
            found: Array = self.relation.residual(self.arguments(vector)) * self.scale
        return found

    def rows(self, vector: Array) -> ElementRows:
        """Return the derivatives of the rows by the coefficients."""
        with np.errstate(all="ignore"):
            slopes = self.relation.slopes(self.arguments(vector)) * self.scale[:, None]
        # Derivatives that share their functions of y are summed before these multiply them.
        sums = dict[int, dict[int, tuple[Array, Array]]]()
        for number, each in enumerate(self.relation.derivatives):
            x, y = self.bases[each.name]
            shape = len(x), len(y), x.shape[1], y.shape[1], x.shape[2]
            factor = slopes[:, number].reshape(*shape[:4], 1)
            of_unknown = sums.setdefault(each.unknown, {})
            total, _ = of_unknown.get(id(y), (0.0, y))
            of_unknown[id(y)] = total + factor * x[:, None, :, None], y
        cells, terms = self.pattern.index.shape
        unknowns = terms // (shape[4] * y.shape[2])
        found = np.zeros((*shape, y.shape[2], unknowns))
        for unknown, pairs in sums.items():
            totals = np.stack([total for total, _ in pairs.values()], axis=-1)
            along = np.stack([y for _, y in pairs.values()], axis=-2)
            found[..., unknown] = totals @ along[:, None]
        return ElementRows(self.pattern, torch.as_tensor(found.reshape(cells, -1, terms)))
