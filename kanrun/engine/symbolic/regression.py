"""Sparse regression: approximate y by sums of few terms of a dictionary.

The values that are approximated are y, or a function of y such as 1/y or log |y|; y may be divided
by a weight first. All pairs of terms are compared at once. Quotients of two sums can be fitted by
linear least squares too: each term of the denominator is multiplied by the approximated values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import (
    IDENTITY,
    TABLE,
    Array,
    Candidate,
    X,
    combination,
)
from kanrun.engine.symbolic.dictionary import Build, Dictionary, Objects, expand_dictionary
from kanrun.engine.symbolic.pairs import nearest_pairs
from kanrun.engine.symbolic.problem import SearchData

#: Number of the simplest dictionary entries that are used to fit y / weight, or a function of y.
_SIMPLE = 3200
#: Number of the simplest dictionary entries that are used for quotients, and to fit a function of y
#: / weight.
_FEW = 600
#: Number of the simplest entries that are tried as weights.
_WEIGHTS = 8
#: Largest fraction of the variance that a promising sum may leave unexplained.
_PROMISING = 1e-4
#: Fraction of the variance that rounding may leave unexplained. Pairs that leave less count as
#: equally good, so the simplest of these pairs is best.
_EXACT = 1e-11


@dataclass(frozen=True)
class OutputTransform:
    """A transformation of y, with y = factor * outer(values).

    Attributes:
        values: Transformed outputs (N,), to which terms are fitted instead of y.
        outer: The outer function.
        factor: A number, or the values of a weight, shape (N,).
        weight: The factor as an expression.
        size: A number, or one number per point (N,); errors of y are measured relative to it.
    """

    values: Array
    outer: Candidate = IDENTITY
    factor: Array | float = 1.0
    weight: sympy.Expr = sympy.S.One
    size: Array | float = 1.0

    @property
    def rows(self) -> Array:
        """Weights (N,) of the points in the regression.

        A weight converts an error of `values` to an error of y, relative to `size`. If `size` is a
        single number, all weights are 1, because exact points need no weights.
        """
        if np.ndim(self.size) == 0:
            return np.ones_like(self.values)
        with np.errstate(all="ignore"):
            rows = np.abs(self.factor * self.outer.slope(self.values) / self.size)
        return np.where(np.isfinite(rows), rows, 0.0)

    def restore(self, values: Array) -> Array:
        """Convert transformed values (N,) back to y."""
        return np.asarray(self.factor * self.outer.value(values))

    def inverse(self, expression: sympy.Expr) -> sympy.Expr:
        """Convert the expression of the transformed values to the expression of y."""
        return self.weight * self.outer.expression.xreplace({X: expression})


#: Outer functions of y: the name, the inverse, and the largest |y| for which the inverse is
#: defined, unique and finite.
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
#: Outer functions that require all y to have the same sign; if y is negative, -y is transformed.
_ONE_SIGN = ("1/x", "sqrt", "exp", "1/sqrt", "x^2", "1/x^2")


def output_transforms(
    y: Array,
    names: set[str],
    size: Array | float = 1.0,
    weight: tuple[Array, Build] | None = None,
) -> list[OutputTransform]:
    """Return the transformations of y that are tried; the identity comes first.

    Transformations that are not defined at all points are left out.

    Args:
        y: Outputs, shape (N,).
        names: Names of the outer functions that may be used.
        size: A number, or one number per point; errors of y are measured relative to it.
        weight: A weight by which y is divided first: its values (N,), and a function that returns
            its expression.
    """
    # A transform is left out if the range of its values is below this fraction of their size.
    flat = 1e-12
    factor, expression = (1.0, sympy.S.One) if weight is None else (weight[0], weight[1]())
    y = y / factor
    transforms = [OutputTransform(y, IDENTITY, factor, expression, size)]
    for name, function, largest in _OUTPUTS:
        sign = -1 if name in _ONE_SIGN and y[0] < 0 else 1
        if name not in names or not np.abs(y).max() <= largest:
            continue
        if name in _ONE_SIGN and not (sign * y > 0).all():
            continue
        with np.errstate(all="ignore"):
            values = function(sign * y)
        if np.isfinite(values).all() and np.ptp(values) >= flat * np.abs(values).max():
            outer = TABLE[name]
            restored = (sign * factor, sign * expression)
            transforms.append(OutputTransform(values, outer, *restored, size))
    return transforms


@dataclass(frozen=True)
class TermSum:
    """A sum of terms, or a quotient of sums, fitted by least squares.

    The transformed outputs are (sum of `above` + constant) / (1 - sum of `below`).

    Attributes:
        transform: Transformation of y that is fitted.
        above: For each term of the numerator, a function that returns the term as an expression.
        below: The same for each term of the denominator; empty for a sum.
        coefficients: Coefficients of the numerator, then of the denominator, then the constant.
        error: RMS error of y, relative to the standard deviation of y, or to `transform.size` if
            that has one number per point.
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
    """Fit the transformed outputs by (sum of `above` + constant) / (1 - sum of `below`).

    All terms are used. Coefficients whose contribution is only rounding are set to zero.
    """
    # A coefficient is set to zero if the norm of its term is below this fraction of the values'
    # norm.
    rounding = 1e-11
    t = transform.values
    below = above.chosen([]) if below is None else below
    columns = len(above) + len(below) + 1
    count_work(COSTS.step + COSTS.solved(t.size, columns))
    under = below.values
    design = np.stack([*above.values, *(under * t), np.ones_like(t)], axis=1)
    weighted = design * transform.rows[:, None]
    goal = t * transform.rows
    sizes = np.linalg.norm(weighted, axis=0)
    weighted = weighted / sizes
    solved = np.linalg.lstsq(weighted, goal, rcond=None)[0]
    small = np.abs(solved) < rounding * np.linalg.norm(goal)
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


def nearest_sums(
    transform: OutputTransform, entries: Dictionary, *, quotients: bool = False
) -> Iterator[tuple[float, TermSum]]:
    """Yield the `kept` best sums of two dictionary entries and a constant, best first.

    Args:
        transform: Transformation of y that is fitted.
        entries: The dictionary.
        quotients: Whether quotients are fitted instead of sums. The first entry and the constant
            are then in the numerator, and the second entry in the denominator.

    Yields:
        The fraction of the variance that is not explained, and the sum.
    """
    # Number of the best sums of each kind that are fitted.
    kept = 6
    rows = transform.rows
    t = transform.values * transform.rows
    values = entries.values * rows
    fixed = rows[None]
    others = values * transform.values if quotients else None
    for left, i, j in nearest_pairs(t, values, fixed, kept, others=others, floor=_EXACT):
        above, below = ([i], [j]) if quotients else ([i, j], [])
        yield left, solve_terms(transform, entries.chosen(above), entries.chosen(below))


def pair_formulas(data: SearchData, candidates: Sequence[Candidate]) -> Iterator[sympy.Expr]:
    """Yield formulas for y that are sums or quotients of two terms of a dictionary.

    Formulas that reproduce the sampled points are yielded as soon as they are found, the shortest
    of each kind first. The best of all other formulas follow.
    """
    # Largest relative error of an exact sum.
    exact_sum = 1e-10
    # Number of formulas that are returned at the end if none is exact.
    returned = 8
    # Largest number of points at which terms are compared.
    points = 80
    pick = np.linspace(0, len(data.y) - 1, min(points, len(data.y))).astype(int)
    entries = expand_dictionary(data.x[pick], candidates)
    names = {candidate.name for candidate in candidates}
    promising: list[TermSum] = []
    y = data.y[pick]
    size: Array | float = np.abs(y) if data.relative else 1.0
    for sums in _kinds(entries, y, names, size):
        near = [each for left, each in sums if left < _PROMISING]
        exact = [each.expression() for each in near if each.error <= exact_sum]
        yield from sorted(exact, key=sympy.count_ops)
        promising += near
    nearest = sorted(promising, key=lambda each: each.error)
    yield from (each.expression() for each in nearest[:returned])


def _kinds(
    entries: Dictionary, y: Array, names: set[str], size: Array | float
) -> Iterator[Iterator[tuple[float, TermSum]]]:
    """For each kind of regression in turn, yield an iterator over its best sums."""
    # Number of transformations of y, in the order of `output_transforms`, that are also fitted by
    # quotients.
    quotients = 3
    simple = entries.first(_SIMPLE)
    few = entries.first(_FEW)
    for place, target in enumerate(output_transforms(y, names, size)):
        yield nearest_sums(target, simple if place else entries)
        if place < quotients:
            yield nearest_sums(target, few, quotients=True)
    divisors = entries.chosen(np.flatnonzero(entries.values.all(axis=1))[:_WEIGHTS])
    weights = zip(divisors.values, divisors.builds, strict=True)
    weighted = [output_transforms(y, names, size, weight) for weight in weights]
    for plain, *_ in weighted:
        yield nearest_sums(plain, few, quotients=True)
    for targets in weighted:
        for place, target in enumerate(targets):
            yield nearest_sums(target, few if place else simple)
