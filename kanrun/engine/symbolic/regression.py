"""Sparse regression: explain values by sums of few terms of a dictionary.

The values are y, or a function of y such as 1/y or log |y|, optionally divided by a weight first.
Least squares over all pairs of terms needs only correlations of terms, so a million pairs take
about a second. Quotients of two sums are linear as well: each term of the denominator is multiplied
by the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, LEAST_SQUARES, count_work
from kanrun.engine.symbolic.candidates import (
    IDENTITY,
    TABLE,
    Array,
    Candidate,
    X,
    combination,
)
from kanrun.engine.symbolic.dictionary import Build, Dictionary, Objects, expand_dictionary
from kanrun.engine.symbolic.problem import SearchData

#: Largest number of points at which terms are compared.
_POINTS = 80
#: Number of dictionary entries for functions of y, and for y divided by a weight.
_SIMPLE = 3200
#: Number of dictionary entries for quotients, and for functions of y divided by a weight.
_FEW = 600
#: Number of the simplest entries that are tried as weights.
_WEIGHTS = 8
#: Number of the best sums of each kind that are fitted.
_KEPT = 6
#: Number of inexact formulas that are returned in the end.
_RETURNED = 8
#: Largest fraction of the variance that a promising sum may leave unexplained.
_PROMISING = 1e-4
#: Largest relative error of an exact sum.
_EXACT_SUM = 1e-10
#: Fraction of the variance that rounding may leave unexplained. Among pairs that leave less, the
#: simplest one is best.
_EXACT = 1e-11
#: Number of the first functions of y that are regressed as quotients.
_QUOTIENTS = 3
#: Number of pairs that are compared at once, so that they fit into the processor's cache.
_BLOCK = 100_000
#: Smallest number of terms that are compared with all others at once.
_ROWS = 32
#: An entry is dropped if the fixed terms leave less than this fraction of its norm.
_LEFT = 1e-8
#: A pair is dropped if one entry leaves less than this fraction of the other's squared norm.
_APART = 1e-7


@dataclass(frozen=True)
class OutputTransform:
    """A transformation of y, with y = factor * outer(values).

    Attributes:
        values: Transformed outputs (N,), which are regressed in place of y.
        outer: The outer function.
        factor: A number, or the values of a weight, shape (N,).
        weight: The factor as an expression.
        size: Number, or one number per point (N,), to which errors of y are relative.
    """

    values: Array
    outer: Candidate = IDENTITY
    factor: Array | float = 1.0
    weight: sympy.Expr = sympy.S.One
    size: Array | float = 1.0

    @property
    def rows(self) -> Array:
        """Weights (N,) of the points in the regression.

        They convert errors of `values` to relative errors of y. If `size` is a number, all weights
        are 1, because absolute errors of exact points need no weights.
        """
        if np.ndim(self.size) == 0:
            return np.ones_like(self.values)
        with np.errstate(all="ignore"):
            rows = np.abs(self.factor * self.outer.slope(self.values) / self.size)
        return np.where(np.isfinite(rows), rows, 0.0)

    def restore(self, values: Array) -> Array:
        """Return y for transformed values (N,)."""
        return np.asarray(self.factor * self.outer.value(values))

    def inverse(self, expression: sympy.Expr) -> sympy.Expr:
        """Return y as an expression, given the expression of the transformed values."""
        return self.weight * self.outer.expression.xreplace({X: expression})


#: Outer functions: the name, the inverse, and the largest |y| up to which the inverse is defined,
#: unique and does not overflow.
_OUTPUTS: tuple[tuple[str, Callable[[Array], Array], float], ...] = (
    ("1/x", lambda y: 1 / y, np.inf),
    ("sqrt", np.square, np.inf),
    ("exp", np.log, np.inf),
    ("1/sqrt", lambda y: 1 / y**2, np.inf),
    ("x^2", np.sqrt, np.inf),
    ("1/x^2", lambda y: 1 / np.sqrt(y), np.inf),
    ("log", np.exp, 20.0),
    ("arcsin", np.sin, np.pi / 2),
    ("arctan", np.tan, np.pi / 2),
    ("tanh", np.arctanh, 1.0),
    ("sin", np.arcsin, 1.0),
)
#: Outer functions for which y must have one sign; if y is negative, -y is transformed.
_ONE_SIGN = ("1/x", "sqrt", "exp", "1/sqrt", "x^2", "1/x^2")
#: A transform is left out if the range of its values is below this fraction of their size.
_FLAT = 1e-12


def output_transforms(
    y: Array,
    names: set[str],
    size: Array | float = 1.0,
    weight: tuple[Array, Build] | None = None,
) -> list[OutputTransform]:
    """Return the transforms of y that are regressed; the identity comes first.

    Transforms that are not defined at all points are left out.

    Args:
        y: Outputs, shape (N,).
        names: Names of the outer functions that may be used.
        size: Number, or one number per point, to which errors of y are relative.
        weight: Values (N,) and builder of the expression of a weight by which y is divided first.
    """
    factor, expression = (1.0, sympy.S.One) if weight is None else (weight[0], weight[1]())
    y = y / factor
    found = [OutputTransform(y, IDENTITY, factor, expression, size)]
    for name, function, largest in _OUTPUTS:
        sign = -1 if name in _ONE_SIGN and y[0] < 0 else 1
        if name not in names or not np.abs(y).max() <= largest:
            continue
        if name in _ONE_SIGN and not (sign * y > 0).all():
            continue
        with np.errstate(all="ignore"):
            values = function(sign * y)
        if np.isfinite(values).all() and np.ptp(values) >= _FLAT * np.abs(values).max():
            outer = TABLE[name]
            restored = (sign * factor, sign * expression)
            found.append(OutputTransform(values, outer, *restored, size))
    return found


@dataclass(frozen=True)
class TermSum:
    """A sum of terms, or a quotient of sums, fitted by least squares.

    The transformed outputs are (sum of `above` + constant) / (1 - sum of `below`).

    Attributes:
        transform: Transform of y that is regressed.
        above: Builders of the terms of the numerator.
        below: Builders of the terms of the denominator; empty for a sum.
        coefficients: Coefficients of the terms above, then of those below, then the constant.
        error: RMS error of y, relative to its standard deviation, or to the sizes of the transform
            if there is one per point.
    """

    transform: OutputTransform
    above: Objects
    below: Objects
    coefficients: Array
    error: float

    def expression(self) -> sympy.Expr:
        """Return y as an expression."""
        cut = len(self.above)
        terms = [*(build() for build in self.above), sympy.S.One]
        top = combination([*self.coefficients[:cut], self.coefficients[-1]], terms)
        below = combination(self.coefficients[cut:-1], [build() for build in self.below])
        return self.transform.inverse(top / (1 - below))


def solve_terms(
    transform: OutputTransform, above: Dictionary, below: Dictionary | None = None
) -> TermSum:
    """Fit the transformed outputs by all terms above and below, and a constant.

    Coefficients whose contribution is only rounding are set to zero.
    """
    t = transform.values
    below = above.chosen([]) if below is None else below
    columns = len(above) + len(below) + 1
    count_work(COSTS.step + COSTS.product * LEAST_SQUARES * t.size * columns**2)
    under = below.values
    design = np.stack([*above.values, *(under * t), np.ones_like(t)], axis=1)
    weighted = design * transform.rows[:, None]
    goal = t * transform.rows
    sizes = np.linalg.norm(weighted, axis=0)
    weighted = weighted / sizes
    solved = np.linalg.lstsq(weighted, goal, rcond=None)[0]
    small = np.abs(solved) < _ROUNDING * np.linalg.norm(goal)
    if small.any() and not small.all():
        solved = np.zeros_like(solved)
        solved[~small] = np.linalg.lstsq(weighted[:, ~small], goal, rcond=None)[0]
    solved = solved / sizes
    cut = len(above)
    with np.errstate(all="ignore"):
        top = design[:, :cut] @ solved[:cut] + solved[-1]
        y = transform.restore(t)
        values = transform.restore(top / (1 - solved[cut:-1] @ under))
        scale = np.std(y) if np.ndim(transform.size) == 0 else transform.size
        error = float(np.sqrt(np.mean(((values - y) / scale) ** 2)))
    error = error if np.isfinite(error) else np.inf
    return TermSum(transform, above.builds, below.builds, solved, error)


#: A coefficient is set to zero if the norm of its term is below this fraction of the values' norm.
_ROUNDING = 1e-11


def nearest_sums(
    transform: OutputTransform,
    entries: Dictionary,
    kept: int,
    *,
    quotients: bool = False,
    floor: float = 0.0,
) -> Iterator[tuple[float, TermSum]]:
    """Yield the `kept` best sums of two dictionary entries and a constant, best first.

    Args:
        transform: Transform of y that is regressed.
        entries: The dictionary.
        kept: Number of sums.
        quotients: Whether the second entry is in the denominator.
        floor: Sums that leave a smaller fraction of the variance unexplained count as equally good;
            among these, the simplest are best.

    Yields:
        The fraction of the variance that is not explained, and the sum.
    """
    rows = transform.rows
    t = transform.values * transform.rows
    values = entries.values * rows
    fixed = rows[None]
    others = values * transform.values if quotients else None
    for left, i, j in nearest_pairs(t, values, fixed, kept, others=others, floor=floor):
        above, below = ([i], [j]) if quotients else ([i, j], [])
        yield left, solve_terms(transform, entries.chosen(above), entries.chosen(below))


def nearest_pairs(
    y: Array,
    entries: Array,
    fixed: Array,
    kept: int,
    *,
    others: Array | None = None,
    floor: float = 0.0,
) -> list[tuple[float, int, int]]:
    """Return the pairs of entries that explain y best.

    For unit columns with the correlations p with y and g with each other, a pair leaves the
    fraction 1 - (p_i^2 + p_j^2 - 2 p_i p_j g_ij) / (1 - g_ij^2) of the variance unexplained.

    Args:
        y: Values to explain, shape (N,).
        entries: Values of the entries, shape (M, N).
        fixed: Rows (K, N) that are part of every sum.
        kept: Number of pairs.
        others: Entries among which the second of a pair is; by default `entries`.
        floor: Pairs that leave a smaller fraction count as equally good; among these, the pairs
            with the smallest indices are best.

    Returns:
        Tuples (fraction left, i, j), best first.
    """
    q = np.linalg.qr(fixed.T)[0]
    rest = y - q @ (q.T @ y)
    total = float(np.linalg.norm(rest))
    is_same = others is None
    use, left = _directions(entries, q)
    others_use, right = (use, left) if others is None else _directions(others, q)
    if total == 0.0 or min(use.size, others_use.size) < 2:
        return []
    p = left @ (rest / total)
    s = right @ (rest / total)
    step = max(_BLOCK // others_use.size, _ROWS)
    best: list[tuple[float, int, int]] = []
    least = 1.0
    last = np.inf
    for start in range(0, use.size, step):
        skipped = start if is_same else 0
        rows = slice(start, start + step)
        if least <= floor and use[start] + others_use[skipped] >= last:
            break  # later pairs are at most equally good, and have larger indices
        explained = _explained(left[rows], p[rows], right[skipped:], s[skipped:])
        if is_same:
            explained[np.tril_indices(len(explained), m=explained.shape[1])] = -np.inf
        row, column = np.nonzero(explained >= 1 - least)
        loss = np.maximum(1 - explained[row, column], floor)
        most = np.partition(loss, kept)[kept] if len(loss) > kept else 1.0
        few = np.flatnonzero(loss <= most)
        i = use[row[few] + start]
        j = others_use[column[few] + skipped]
        best += zip(loss[few].tolist(), i.tolist(), j.tolist(), strict=True)
        best = sorted(best, key=lambda each: (each[0], each[1] + each[2]))[:kept]
        if len(best) == kept:
            least = best[-1][0]
            last = sum(best[-1][1:])
    return best


def _explained(left: Array, p: Array, right: Array, s: Array) -> Array:
    """Return the fraction of the variance that each pair of unit rows explains, shape (M, L).

    Args:
        left: First rows of the pairs, shape (M, N).
        p: Correlations of the first rows with the values, shape (M,).
        right: Second rows of the pairs, shape (L, N).
        s: Correlations of the second rows with the values, shape (L,).

    Returns:
        The fractions; -inf for two rows that are parallel.
    """
    count_work(len(p) * len(s) * (COSTS.pair + COSTS.product * left.shape[1]))
    gram = left @ right.T
    explained = gram * s
    np.subtract(p[:, None], explained, out=explained)
    explained *= explained
    gram *= gram
    apart = np.subtract(1, gram, out=gram)
    is_one_direction = apart < _APART
    explained /= np.maximum(apart, _APART, out=apart)
    explained += s**2
    explained[is_one_direction] = -np.inf
    return np.asarray(explained)


def covered(values: Array, entries: Array, basis: Array) -> tuple[Array, Array]:
    """Regress `values` on each entry in addition to a fixed basis.

    Args:
        values: Values to explain, shape (N,).
        entries: Values of the entries, shape (M, N).
        basis: Orthonormal columns (N, K) that are part of every regression.

    Returns:
        The sum of squares that each entry explains in addition to the basis (M,), and its
        coefficient (M,). They are -inf and 0 for an entry in the span of the basis.
    """
    count_work(entries.size * (COSTS.value + COSTS.product * basis.shape[1]))
    left = entries - (entries @ basis) @ basis.T
    power = np.einsum("mn,mn->m", left, left)
    both = left @ (values - basis @ (basis.T @ values))
    usable = power > _LEFT**1.5 * np.einsum("mn,mn->m", entries, entries)
    power = np.where(usable, power, 1.0)
    return np.where(usable, both**2 / power, -np.inf), np.where(usable, both / power, 0.0)


def _directions(entries: Array, q: Array) -> tuple[np.ndarray, Array]:
    """Project entries (M, N) onto the orthogonal complement of the columns of q (N, K).

    Returns:
        The indices of the entries that are not in the span of q, and their projections, scaled to
        length 1, shape (indices, N).
    """
    count_work(entries.size * (COSTS.term_value + COSTS.product * q.shape[1]))
    left = entries - (entries @ q) @ q.T
    norm = np.linalg.norm(left, axis=1)
    use = np.flatnonzero(norm > _LEFT * np.linalg.norm(entries, axis=1))
    return use, left[use] / norm[use, None]


def pair_formulas(data: SearchData, candidates: Sequence[Candidate]) -> Iterator[sympy.Expr]:
    """Yield formulas for y that are sums or quotients of two terms of a dictionary.

    Formulas that reproduce the sampled points are yielded as soon as they are found, the shortest
    of each kind first. The best of all other formulas follow.
    """
    pick = np.linspace(0, len(data.y) - 1, min(_POINTS, len(data.y))).astype(int)
    entries = expand_dictionary(data.x[pick], candidates)
    names = {candidate.name for candidate in candidates}
    found: list[TermSum] = []
    y = data.y[pick]
    size: Array | float = np.abs(y) if data.relative else 1.0
    search = partial(nearest_sums, kept=_KEPT, floor=_EXACT)
    for sums in _kinds(entries, y, names, size, search):
        near = [each for left, each in sums if left < _PROMISING]
        exact = [each.expression() for each in near if each.error <= _EXACT_SUM]
        yield from sorted(exact, key=sympy.count_ops)
        found += near
    nearest = sorted(found, key=lambda each: each.error)
    yield from (each.expression() for each in nearest[:_RETURNED])


def _kinds(
    entries: Dictionary,
    y: Array,
    names: set[str],
    size: Array | float,
    search: Callable[..., Iterator[tuple[float, TermSum]]],
) -> Iterator[Iterator[tuple[float, TermSum]]]:
    """Yield, for one kind of regression after another, an iterator over its best sums."""
    simple = entries.first(_SIMPLE)
    few = entries.first(_FEW)
    for place, target in enumerate(output_transforms(y, names, size)):
        yield search(target, simple if place else entries)
        if place < _QUOTIENTS:
            yield search(target, few, quotients=True)
    divisors = entries.chosen(np.flatnonzero(entries.values.all(axis=1))[:_WEIGHTS])
    weights = zip(divisors.values, divisors.builds, strict=True)
    weighted = [output_transforms(y, names, size, weight) for weight in weights]
    for plain, *_ in weighted:
        yield search(plain, few, quotients=True)
    for targets in weighted:
        for place, target in enumerate(targets):
            yield search(target, few if place else simple)
