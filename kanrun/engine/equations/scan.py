"""Search for narrow features in the formulas of equations, before they are solved.

The explicit terms of an equation are the parts of its formulas that are functions of the variables
and the unknowns, but not polynomials. The range of each variable is divided into intervals, called
cells. A function is resolved on a cell if its interpolant at Gauss points predicts its values at
other, randomly shifted points. Cells on which a term is not resolved are halved; cells that become
narrow mark a narrow feature. `audit.py` applies the same test to the residual of a solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import sympy
from numpy.polynomial.legendre import leggauss, legvander
from numpy.typing import NDArray
from sympy import Expr

from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import variable

Array = NDArray[np.float64]
#: Function of one variable; maps points (points,) to values (points,).
Curve = Callable[[Array], Array]

#: Number of test points along one variable. The range is divided into as many equal parts (strata),
#: each with one point. Neighbours are at most (1 + JITTER) / PLACES = 1.2e-5 of the range apart.
PLACES = 2**17
#: Number of test points per variable for functions of two variables.
PLACES_OF_TWO = 2**10
#: Width of the narrowest features in one variable that are found, relative to its range.
SEEN_WIDTH = 1e-5
#: Width of the narrowest features that are found in two variables together, relative to their
#: ranges.
SEEN_WIDTH_IN_TWO = 1e-3
#: Number of equal cells with which a scan of one variable begins.
FIRST_CELLS = 64
#: Number of Gauss points per cell.
NODES = 12
#: Largest error of the interpolant on a resolved cell, relative to the range of the function's
#: values.
RESOLVED = 1e-8
#: Additional error that is allowed for rounding, relative to the function's largest value.
ROUNDING = 1e-12
#: Cells are not halved if the halves would be narrower than this fraction of the range.
NARROWEST = 1e-6
#: Rounding error near narrow features, in units of the float64 epsilon divided by the relative
#: width of the narrowest cell.
NARROW_ROUNDING = 10.0


@dataclass(frozen=True)
class Scan:
    """Search for narrow features in the explicit terms of formulas.

    Attributes:
        expressions: Formulas.
        names: Names of the variables.
        unknowns: Names of the unknowns.
        box: Range of each variable, shape (variables, 2).
        jumps: Known jumps and kinks inside the range of each variable.
    """

    expressions: tuple[Expr, ...]
    names: tuple[str, ...]
    unknowns: tuple[str, ...]
    box: Array
    jumps: tuple[tuple[float, ...], ...]

    @cached_property
    def terms(self) -> dict[tuple[str, ...], list[Expr]]:
        """Explicit terms, grouped by the names of the variables and unknowns in them."""
        found: dict[tuple[str, ...], list[Expr]] = {}
        every = (*self.names, *self.unknowns)
        for term in _terms(self.expressions, {variable(name) for name in every}):
            contained = tuple(name for name in every if variable(name) in term.free_symbols)
            found.setdefault(contained, []).append(term)
        return found

    @cached_property
    def cells(self) -> tuple[Array, ...]:
        """For each variable, the ends of the cells on which all explicit terms are resolved.

        There is one array per variable, shape (cells + 1,).
        """
        return tuple(map(self._cells, range(len(self.names))))

    def _cells(self, number: int) -> Array:
        # Number of random lines parallel to an axis along which functions of several variables are
        # examined.
        lines = 6
        name = self.names[number]
        drawn = np.random.default_rng(number)
        curves = list[Curve]()
        for contained, terms in self.terms.items():
            if name not in contained or not set(contained) <= set(self.names):
                continue
            for _ in range(lines if len(contained) > 1 else 1):
                fixed = self.box[:, 0] + drawn.random(len(self.box)) * np.diff(self.box)[:, 0]
                curves += [_along(term, self.names, number, fixed) for term in terms]
        low, high = self.box[number].tolist()
        return resolved_cells(curves, low, high, self.jumps[number])

    @cached_property
    def is_crossed(self) -> bool:
        """Whether a term may have features that are narrow in several of its arguments together."""
        several = [names for names in self.terms if len(names) > 1]
        if any(set(names) & set(self.unknowns) for names in several):
            return True
        return any(not _resolved_in_two(t, n, self) for n in several for t in self.terms[n])

    def narrow(self, number: int) -> Array:
        """Return test points in the narrow cells of variable `number`."""
        return narrow_places(self.cells[number])

    def narrow_values(self, number: int, low: float, high: float, places: int) -> Array:
        """Return values of an unknown near which terms change fast.

        Only terms that contain nothing but this unknown are examined.

        Args:
            number: Index of the unknown.
            low: Smallest value to examine.
            high: Largest value to examine.
            places: Smallest number of values at which terms are evaluated.
        """
        terms = self.terms.get((self.unknowns[number],), [])
        curves = [_along(term, (self.unknowns[number],), 0, np.zeros(1)) for term in terms]
        return narrow_places(resolved_cells(curves, low, high, places=places))


def _terms(expressions: Iterable[Expr], symbols: set[sympy.Symbol]) -> set[Expr]:
    """Return the largest sub-expressions that depend on `symbols` alone and are not polynomials.

    Factors of a product that depend on the same symbols are kept together, because a factor may
    change fast just where another one is zero.
    """
    # Largest exponent of a power that counts as a polynomial. Polynomials are not scanned, because
    # every grid resolves them.
    polynomial_power = 8
    found = set[Expr]()
    for node in expressions:
        explicit = node.free_symbols <= symbols
        whole = node.is_Pow and node.exp.is_Integer and 0 < node.exp <= polynomial_power
        if node.is_Mul:
            groups: dict[frozenset[sympy.Basic], list[Expr]] = {}
            for factor in node.args:
                groups.setdefault(frozenset(factor.free_symbols), []).append(factor)
            for contained, factors in groups.items():
                within = _terms(factors, symbols)
                together = len(within) > 1 and contained <= symbols
                found |= {sympy.Mul(*factors)} if together else within
        elif node.is_Add or whole or not explicit:
            found |= _terms(node.args, symbols)
        elif node.free_symbols and node.args:
            found.add(node)
    return found


def _along(term: Expr, names: Sequence[str], number: int, fixed: Array) -> Curve:
    """Return a term as a function of variable `number`; the others have the values `fixed`."""
    function = to_numpy(term, names)

    def curve(at: Array) -> Array:
        points = np.tile(fixed, (len(at), 1))
        points[:, number] = at
        with np.errstate(all="ignore"):
            return function(points)

    return curve


def _resolved_in_two(term: Expr, contained: Sequence[str], scan: Scan) -> bool:
    """Return whether a term in two variables is resolved on equal cells.

    `contained` are the names of the variables in the term. For three variables, return False.
    """
    # Number of cells per variable in a scan of functions of two variables.
    cells_of_two = 16
    if len(contained) != 2:
        return False
    function = to_numpy(term, contained)
    count = PLACES_OF_TWO // cells_of_two
    x, y = (
        Axis.of(np.linspace(low, high, cells_of_two + 1), count, nodes=NODES)
        for low, high in scan.box[[scan.names.index(name) for name in contained]]
    )

    def values(*axes: Array) -> Array:
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        with np.errstate(all="ignore"):
            return function(points).reshape(len(axes[0]), -1)

    found = values(x.places, y.places)
    predicted = x.predicted(y.predicted(values(x.nodes, y.nodes).T).T)
    if not np.isfinite([found, predicted]).all():
        return False
    bound = RESOLVED * np.ptp(found) + ROUNDING * np.abs(found).max()
    return bool(np.abs(found - predicted).max() <= bound)


def resolved_cells(
    curves: Sequence[Curve],
    low: float,
    high: float,
    jumps: Sequence[float] = (),
    places: int = PLACES,
) -> Array:
    """Halve cells of a range until functions are resolved on all; return the ends of the cells.

    Cells are not halved further if they become very narrow or too many.

    Args:
        curves: Functions to resolve.
        low: Lower end of the range.
        high: Upper end of the range.
        jumps: Additional ends of cells.
        places: Density of the test points, as the number of test points in the whole range.
    """
    # Largest number of unresolved cells of one size; with more, halving stops.
    max_cells = 2**15
    # Smallest number of test points per cell.
    tests = 24
    ends = np.union1d(np.linspace(low, high, FIRST_CELLS + 1), np.asarray(jumps, dtype=np.float64))
    left = ends[:-1]
    width = np.diff(ends)
    allowed = np.zeros((len(curves), 1))
    drawn = np.random.default_rng(0)
    done = [ends]
    nodes = (leggauss(NODES)[0] + 1) / 2
    while curves and 0 < len(left) <= max_cells:
        count = max(tests, ceil(places * width.max() / (high - low)))
        shares = jittered(drawn, len(left), count)
        rows = interpolation_rows(2 * shares.ravel() - 1, NODES).reshape(*shares.shape, NODES)
        points = left[:, None] + width[:, None] * np.hstack(
            [np.tile(nodes, (len(left), 1)), shares]
        )
        open_cells = np.zeros(len(left), dtype=bool)
        for curve, bound in zip(curves, allowed, strict=True):
            found = curve(points.ravel()).reshape(points.shape)
            if not bound[0]:
                finite = np.append(found[np.isfinite(found)], 0.0)
                bound[0] = RESOLVED * np.ptp(finite) + ROUNDING * np.abs(finite).max()
            predicted = np.einsum("cnk,ck->cn", rows, found[:, :NODES])
            is_seen = np.abs(found[:, NODES:] - predicted).max(axis=1) <= bound
            open_cells |= ~is_seen & np.isfinite(found).any(axis=1)
        open_cells &= width > 2 * NARROWEST * (high - low)
        left = left[open_cells]
        width = width[open_cells] / 2
        done.append(left + width)
        left = np.concatenate([left, left + width])
        width = np.tile(width, 2)
    return np.sort(np.concatenate(done))


def narrow_rounding(scan: Scan) -> float:
    """Estimate the relative rounding error of a solution near narrow explicit terms.

    It is the rounding error of a coordinate relative to the width of the narrowest cell.
    """
    widths = [float(np.diff(ends).min() / (ends[-1] - ends[0])) for ends in scan.cells]
    return NARROW_ROUNDING * float(np.finfo(float).eps) / min(widths)


def narrow_ends(ends: Array) -> Array:
    """Return the ends of the cells that a scan has halved, without the ends of the range.

    `ends` are the ends of all cells.
    """
    narrow = _is_narrow(ends)
    found = np.union1d(ends[:-1][narrow], ends[1:][narrow])
    return np.setdiff1d(found, ends[[0, -1]])


def _is_narrow(ends: Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.diff(ends) < 0.6 * (ends[-1] - ends[0]) / FIRST_CELLS
    return found


def narrow_places(ends: Array) -> Array:
    """Return random test points in narrow cells, `places_of_cell` in each.

    `ends` are the ends of all cells.
    """
    # Number of test points of an audit in each narrow cell.
    places_of_cell = 3
    width = np.diff(ends)
    drawn = np.random.default_rng(1)
    narrow = _is_narrow(ends)
    left = ends[:-1][narrow]
    width = width[narrow]
    strata = np.arange(places_of_cell)
    jitter = drawn.random((len(left), places_of_cell))
    found: Array = left[:, None] + width[:, None] * (strata + jitter) / places_of_cell
    return found.ravel()


def strata(low: float, high: float, count: int) -> Array:
    """Return one random point in each of `count` equal parts of a range, sorted."""
    shares = jittered(np.random.default_rng(count), 1, count)[0]
    found: Array = low + (high - low) * shares
    return found


def jittered(drawn: np.random.Generator, ranges: int, count: int) -> Array:
    """Draw one random point in each of `count` equal parts of [0, 1], `ranges` times.

    The result has the shape (ranges, count).
    """
    # Width of the part of a stratum from which its test point is drawn. The random shift prevents
    # aliasing with waves whose period is one stratum.
    jitter = 0.5
    shares: Array = (1 - jitter) / 2 + jitter * drawn.random((ranges, count))
    return (np.arange(count) + shares) / count


#: Number of Gauss points per cell and variable at which the residual is interpolated.
NODES_OF_CELL = 8


def interpolation_rows(s: Array, nodes: int) -> Array:
    """Return the matrix that maps values at Gauss points to the interpolant's values at `s`.

    `s` are points on [-1, 1], shape (points,). The matrix has the shape (points, nodes).
    """
    at, weights = leggauss(nodes)
    norms = weights[:, None] * (np.arange(nodes) + 0.5)
    found: Array = legvander(s, nodes - 1) @ (legvander(at, nodes - 1) * norms).T
    return found


@dataclass(frozen=True)
class Axis:
    """Cells of one variable, and the points at which interpolants are tested.

    For equations in one variable, there is a second axis, which consists of one cell with one
    point.

    Attributes:
        ends: Ends of the cells, shape (cells + 1,).
        places: Test points, sorted, shape (places,).
        nodes_of_cell: Number of Gauss points per cell.
    """

    ends: Array
    places: Array
    nodes_of_cell: int = NODES_OF_CELL

    @classmethod
    def of(
        cls, ends: Array, count: int, more: Sequence[Array] = (), nodes: int = NODES_OF_CELL
    ) -> Axis:
        """Return an axis with random test points.

        Args:
            ends: Ends of the cells, shape (cells + 1,).
            count: Number of test points per cell, one in each of equal parts of the cell.
            more: Arrays of additional test points; those outside the range are ignored.
            nodes: Number of Gauss points per cell.
        """
        drawn = np.random.default_rng(len(ends))
        width = np.diff(ends)
        shares = (np.arange(count) + drawn.random((len(width), count))) / count
        every = np.concatenate([(ends[:-1, None] + width[:, None] * shares).ravel(), *more])
        return cls(ends, np.unique(every[(every > ends[0]) & (every < ends[-1])]), nodes)

    @classmethod
    def point(cls) -> Axis:
        """Return the second axis of equations in one variable: one cell with one point."""
        return cls(np.array([0.0, 1.0]), np.zeros(1), 1)

    @property
    def exists(self) -> bool:
        """Whether the axis belongs to a variable of the equations."""
        return self.nodes_of_cell > 1

    @cached_property
    def nodes(self) -> Array:
        """Gauss points of all cells, shape (nodes,)."""
        shares = (leggauss(self.nodes_of_cell)[0] + 1) / 2
        found: Array = (self.ends[:-1, None] + np.diff(self.ends)[:, None] * shares).ravel()
        return found

    @cached_property
    def cell(self) -> NDArray[np.int64]:
        """Index of the cell that contains each test point, shape (places,)."""
        return (np.searchsorted(self.ends, self.places, "right") - 1).clip(0, len(self.ends) - 2)

    @cached_property
    def weights(self) -> Array:
        """Quadrature weights of the test points: fractions of the range whose sum is 1."""
        middle = (self.places[1:] + self.places[:-1]) / 2
        edges = np.concatenate([self.ends[:1], middle, self.ends[-1:]])
        found: Array = np.diff(edges) / (edges[-1] - edges[0])
        return found

    def predicted(self, values: Array) -> Array:
        """Interpolate values at the Gauss points cell by cell, and evaluate at the test points.

        `values` has the shape (nodes, columns), and the result has the shape (places, columns).
        """
        width = np.diff(self.ends)[self.cell]
        left = self.ends[self.cell]
        rows = interpolation_rows(2 * (self.places - left) / width - 1, self.nodes_of_cell)
        of_cells = values.reshape(len(self.ends) - 1, self.nodes_of_cell, -1)
        found: Array = np.empty((len(rows), of_cells.shape[2]))
        for number in np.unique(self.cell):
            at = self.cell == number
            found[at] = rows[at] @ of_cells[number]
        return found
