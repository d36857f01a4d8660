"""Places where the explicit terms of equations change too fast for a grid that has not seen them.

Explicit terms are the parts of formulas that are known functions of the variables and of the
unknowns. A function is resolved on a cell if its interpolant at Gauss points predicts its values at
jittered places that the interpolant has not used; other cells are halved. The same comparison at
the residual of a solution (`audit.py`) shows what the solution has not seen.
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

from kanrun.formulas import to_numpy, variable

Array = NDArray[np.float64]
#: Function of one variable at points (points,), with values of the same shape.
Curve = Callable[[Array], Array]

#: Places along one variable at which functions of it are examined, one in each of as many strata.
#: Neighbours are at most (1 + JITTER) / PLACES = 1.2e-5 of the range apart.
PLACES = 2**17
#: Width within which a place is drawn, relative to its stratum. No wave is aliased, since the
#: phases of a wave with one period in a stratum differ by up to half a period.
JITTER = 0.5
#: Places of each variable at which functions of two variables are examined.
PLACES_OF_TWO = 2**10
#: Width of the narrowest features that are looked for in one variable, relative to its range.
SEEN_WIDTH = 1e-5
#: The same for features that are narrow in two variables together.
SEEN_WIDTH_IN_TWO = 1e-3
#: Cells that a scan of one variable begins with, and cells of each variable in a scan of two.
FIRST_CELLS = 64
CELLS_OF_TWO = 16
#: Gauss points of a cell, and the least number of places at which they are tested.
NODES = 12
TESTS = 24
#: Largest difference on a resolved cell, relative to the range of the function.
RESOLVED = 1e-8
#: The same relative to its largest value: rounding.
ROUNDING = 1e-12
#: Cells narrower than this fraction of the range are not halved.
NARROWEST = 1e-6
#: Largest number of cells that are halved together.
MAX_CELLS = 2**15
#: Lines parallel to an axis along which functions of several variables are examined.
LINES = 6
#: Powers up to this one are polynomials, which every grid resolves.
POLYNOMIAL_POWER = 8
#: Rounding where terms are narrow, in units in the last place over the relative width of a cell.
NARROW_ROUNDING = 10.0
#: Places that an audit has in each narrow cell.
PLACES_OF_CELL = 3


@dataclass(frozen=True)
class Scan:
    """Explicit terms of `expressions`, on `box` (variables, 2) of the variables `names`.

    Attributes:
        unknowns: Names of the unknowns.
        jumps: Known jumps and kinks inside the range of each variable.
    """

    expressions: tuple[Expr, ...]
    names: tuple[str, ...]
    unknowns: tuple[str, ...]
    box: Array
    jumps: tuple[tuple[float, ...], ...]

    @cached_property
    def terms(self) -> dict[tuple[str, ...], list[Expr]]:
        """Terms that are no polynomials, by the variables and unknowns that they contain."""
        found: dict[tuple[str, ...], list[Expr]] = {}
        every = (*self.names, *self.unknowns)
        for term in _terms(self.expressions, {variable(name) for name in every}):
            contained = tuple(name for name in every if variable(name) in term.free_symbols)
            found.setdefault(contained, []).append(term)
        return found

    @cached_property
    def cells(self) -> tuple[Array, ...]:
        """Ends of the cells of each variable on which all explicit terms of it are resolved."""
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
        """Whether terms of several variables or unknowns may be narrow in them together."""
        several = [names for names in self.terms if len(names) > 1]
        if any(set(names) & set(self.unknowns) for names in several):
            return True
        return any(not _resolved_in_two(t, n, self) for n in several for t in self.terms[n])

    def narrow(self, number: int) -> Array:
        """Return places of a variable in the cells narrower than those a scan begins with."""
        return narrow_places(self.cells[number])

    def narrow_values(self, number: int, low: float, high: float, places: int) -> Array:
        """Return values of an unknown between which terms of it alone change fast.

        The terms are examined at `places` values between `low` and `high`.
        """
        terms = self.terms.get((self.unknowns[number],), [])
        curves = [_along(term, (self.unknowns[number],), 0, np.zeros(1)) for term in terms]
        return narrow_places(resolved_cells(curves, low, high, places=places))


def _terms(expressions: Iterable[Expr], symbols: set[sympy.Symbol]) -> set[Expr]:
    """Return the parts of expressions that are functions of `symbols` alone but no polynomials.

    Factors of the same variables form one part, since one of them may be zero where another one
    changes fast.
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
    """Return a term as a function of one variable, the others being `fixed`."""
    function = to_numpy(term, names)

    def curve(at: Array) -> Array:
        points = np.tile(fixed, (len(at), 1))
        points[:, number] = at
        with np.errstate(all="ignore"):
            return function(points)

    return curve


def _resolved_in_two(term: Expr, contained: Sequence[str], scan: Scan) -> bool:
    """Return whether a function of two variables is resolved on equal cells; False for three."""
    if len(contained) != 2:
        return False
    function = to_numpy(term, contained)
    drawn = np.random.default_rng(0)
    box = scan.box[[scan.names.index(name) for name in contained]]
    strata = np.arange(PLACES_OF_TWO // CELLS_OF_TWO)
    nodes = leggauss(NODES)[0]
    largest = 0.0
    low = np.inf
    high = -np.inf
    for cell in np.ndindex(CELLS_OF_TWO, CELLS_OF_TWO):
        places = [2 * (strata + drawn.random(len(strata))) / len(strata) - 1 for _ in cell]
        values = []
        for sides in ((nodes, nodes), places):
            axes = [
                start + (end - start) * (i + (s + 1) / 2) / CELLS_OF_TWO
                for (start, end), i, s in zip(box, cell, sides, strict=True)
            ]
            points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
            with np.errstate(all="ignore"):
                values.append(function(points).reshape(len(sides[0]), -1))
        x, y = map(interpolation_rows, places)
        error = np.abs(values[1] - x @ values[0] @ y.T).max()
        largest = max(largest, float(np.nan_to_num(error, nan=np.inf)))
        low = min(low, float(values[1].min()))
        high = max(high, float(values[1].max()))
    return largest <= RESOLVED * (high - low) + ROUNDING * max(abs(low), abs(high))


def interpolation_rows(s: Array, nodes: int = NODES) -> Array:
    """Return the values at s (points,) of the polynomials that are 1 at one of the Gauss points."""
    at, weights = leggauss(nodes)
    norms = weights[:, None] * (np.arange(nodes) + 0.5)
    found: Array = legvander(s, nodes - 1) @ (legvander(at, nodes - 1) * norms).T
    return found


def resolved_cells(
    curves: Sequence[Curve],
    low: float,
    high: float,
    jumps: Sequence[float] = (),
    places: int = PLACES,
) -> Array:
    """Return the ends of cells of a range on which functions are resolved, as far as possible.

    Functions are examined at `places` points of the range.
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
        rows = interpolation_rows(2 * shares.ravel() - 1).reshape(*shares.shape, NODES)
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
    """Return the relative error that rounding leaves where the explicit terms are narrow.

    A place in the narrowest cell of a variable is known to within the spacing of float64 only.
    """
    widths = [float(np.diff(ends).min() / (ends[-1] - ends[0])) for ends in scan.cells]
    return NARROW_ROUNDING * float(np.finfo(float).eps) / min(widths)


def narrow_ends(ends: Array) -> Array:
    """Return the ends of the cells narrower than those that a scan begins with."""
    narrow = _is_narrow(ends)
    found = np.union1d(ends[:-1][narrow], ends[1:][narrow])
    return np.setdiff1d(found, ends[[0, -1]])


def _is_narrow(ends: Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.diff(ends) < 0.6 * (ends[-1] - ends[0]) / FIRST_CELLS
    return found


def narrow_places(ends: Array) -> Array:
    """Return jittered places in the cells narrower than those that a scan begins with."""
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
    """Return jittered places in equal strata of a range."""
    shares = jittered(np.random.default_rng(count), 1, count)[0]
    found: Array = low + (high - low) * shares
    return found


def jittered(drawn: np.random.Generator, ranges: int, count: int) -> Array:
    """Return jittered places in `count` equal strata of [0, 1], (ranges, count)."""
    shares: Array = (1 - JITTER) / 2 + JITTER * drawn.random((ranges, count))
    return (np.arange(count) + shares) / count
