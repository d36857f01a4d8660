"""Search for narrow features in the formulas of equations, before they are solved.

The explicit terms of an equation are the parts of its formulas that are functions of the variables
and the unknowns, but not polynomials. The range of each variable is divided into intervals, called
cells. A term is resolved on a cell if its interpolant at Gauss points predicts the values of the
term at other, randomly shifted points. Cells on which a term is not resolved are halved; cells that
become narrow mark a narrow feature. `audit.py` applies the same test to the residual of a solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import sympy
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from sympy import Expr

from kanrun.engine.equations.cells import Axis, interpolation_rows
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import variable

Array = NDArray[np.float64]
#: Function of one variable; maps points (points,) to values (points,).
Curve = Callable[[Array], Array]

#: Number of test points along one variable. The range is divided into as many equal parts (strata),
#: each with one point. Neighbours are at most (1 + JITTER) / PLACES = 1.2e-5 of the range apart.
PLACES = 2**17
#: Width of the part of a stratum from which its test point is drawn. The random shift prevents
#: aliasing with waves whose period is one stratum.
JITTER = 0.5
#: Number of test points per variable for functions of two variables.
PLACES_OF_TWO = 2**10
#: Width of the narrowest features in one variable that are found, relative to its range.
SEEN_WIDTH = 1e-5
#: Width of the narrowest features that are found in two variables together, relative to their
#: ranges.
SEEN_WIDTH_IN_TWO = 1e-3
#: Number of equal cells with which a scan of one variable begins.
FIRST_CELLS = 64
#: Number of cells per variable in a scan of functions of two variables.
CELLS_OF_TWO = 16
#: Number of Gauss points per cell.
NODES = 12
#: Smallest number of test points per cell.
TESTS = 24
#: Largest error of the interpolant on a resolved cell, relative to the range of the function's
#: values.
RESOLVED = 1e-8
#: Additional error that is allowed for rounding, relative to the function's largest value.
ROUNDING = 1e-12
#: Cells are not halved if the halves would be narrower than this fraction of the range.
NARROWEST = 1e-6
#: Largest number of unresolved cells of one size; with more, halving stops.
MAX_CELLS = 2**15
#: Number of random lines parallel to an axis along which functions of several variables are
#: examined.
LINES = 6
#: Largest exponent of a power that counts as a polynomial. Polynomials are not scanned, because
#: every grid resolves them.
POLYNOMIAL_POWER = 8
#: Rounding error near narrow features, in units of the float64 epsilon divided by the relative
#: width of the narrowest cell.
NARROW_ROUNDING = 10.0
#: Number of test points of an audit in each narrow cell.
PLACES_OF_CELL = 3


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
        name = self.names[number]
        drawn = np.random.default_rng(number)
        curves = list[Curve]()
        for contained, terms in self.terms.items():
            if name not in contained or not set(contained) <= set(self.names):
                continue
            for _ in range(LINES if len(contained) > 1 else 1):
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
    found = set[Expr]()
    for node in expressions:
        explicit = node.free_symbols <= symbols
        whole = node.is_Pow and node.exp.is_Integer and 0 < node.exp <= POLYNOMIAL_POWER
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
    if len(contained) != 2:
        return False
    function = to_numpy(term, contained)
    count = PLACES_OF_TWO // CELLS_OF_TWO
    x, y = (
        Axis.of(np.linspace(low, high, CELLS_OF_TWO + 1), count, nodes=NODES)
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
    ends = np.union1d(np.linspace(low, high, FIRST_CELLS + 1), np.asarray(jumps, dtype=np.float64))
    left = ends[:-1]
    width = np.diff(ends)
    allowed = np.zeros((len(curves), 1))
    drawn = np.random.default_rng(0)
    done = [ends]
    nodes = (leggauss(NODES)[0] + 1) / 2
    while curves and 0 < len(left) <= MAX_CELLS:
        count = max(TESTS, ceil(places * width.max() / (high - low)))
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
    """Return random test points in narrow cells, `PLACES_OF_CELL` in each.

    `ends` are the ends of all cells.
    """
    width = np.diff(ends)
    drawn = np.random.default_rng(1)
    narrow = _is_narrow(ends)
    left = ends[:-1][narrow]
    width = width[narrow]
    strata = np.arange(PLACES_OF_CELL)
    jitter = drawn.random((len(left), PLACES_OF_CELL))
    found: Array = left[:, None] + width[:, None] * (strata + jitter) / PLACES_OF_CELL
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
    shares: Array = (1 - JITTER) / 2 + JITTER * drawn.random((ranges, count))
    return (np.arange(count) + shares) / count
