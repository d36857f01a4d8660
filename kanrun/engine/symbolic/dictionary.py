"""The dictionary of terms for sparse regression: small expressions and their values at the points.

Terms are built from the inputs in two ways: as functions f(k u + b) of a term u, with constants (k,
b) that are common in formulas, and as products, quotients, sums and differences of two terms. The
regressions choose among these terms.

Sparse regressions approximate y by sums of few terms of a dictionary.

The values that are approximated are y, or a function of y such as 1/y or log |y|; y may be divided
by a weight first. All pairs of terms are compared at once. Quotients of two sums can be fitted by
linear least squares too: each term of the denominator is multiplied by the approximated values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import (
    IDENTITY,
    TABLE,
    TWINS,
    Array,
    Candidate,
    X,
    combination,
    input_names,
    power,
)
from kanrun.engine.symbolic.columns import nearest_pairs
from kanrun.engine.symbolic.graph import Symbolic
from kanrun.engine.symbolic.problem import SearchData
from kanrun.formulas.parsing import variable

#: Number of pairs (k, b) that are tried for each function f(k u + b) of a term u; twice as many if
#: u is an input.
_CONSTANTS_EACH = 4
#: Number of the simplest entries whose pairs are multiplied, divided, added and subtracted.
_FACTORS = 120
#: Number of the simplest products and sums to which functions are applied.
_INNER = 300
#: Largest number of entries of the dictionary.
_DICTIONARY_ENTRIES = 8000


Build = Callable[[], sympy.Expr]
Objects = NDArray[np.object_]
#: A function of two terms; it can be applied to arrays of values and to sympy expressions.
Operation = Callable[..., Any]


PRODUCT: tuple[Operation, ...] = (operator.mul,)
SUM: tuple[Operation, ...] = (operator.add,)
EVERY: tuple[Operation, ...] = (
    *PRODUCT,
    *SUM,
    operator.sub,
    operator.truediv,
    lambda a, b: b / a,
)


@dataclass(frozen=True)
class Dictionary:
    """Terms and their values at N points.

    Attributes:
        values: Values of the terms, shape (entries, N).
        sizes: Complexities of the terms, shape (entries,); 1 for an input.
        families: Names of the functions in each term, without constants, shape (entries,).
        builds: For each term, a function without arguments that returns its expression, shape
            (entries,).
    """

    values: Array
    sizes: Array
    families: Objects
    builds: Objects

    @classmethod
    def of_inputs(cls, x: Array) -> Dictionary:
        """Return a dictionary whose terms are the inputs x (N, inputs)."""
        names = input_names(x.shape[1])
        families = names if len(names) > 1 else ["x"]
        builds = [partial(variable, name) for name in names]
        return cls(x.T, np.ones(len(names)), _objects(families), _objects(builds))._usable()

    @classmethod
    def joined(cls, parts: Sequence[Dictionary], points: int) -> Dictionary:
        """Concatenate dictionaries, all of which have values at the same `points` points."""
        none = cls(np.zeros((0, points)), np.zeros(0), _objects([]), _objects([]))
        columns = zip(*(vars(part).values() for part in (none, *parts)), strict=True)
        return cls(*map(np.concatenate, columns))

    def __len__(self) -> int:
        return len(self.sizes)

    def __add__(self, other: Dictionary) -> Dictionary:
        return Dictionary.joined([self, other], self.values.shape[1])

    def chosen(self, index: Sequence[int] | NDArray[np.int64] | slice) -> Dictionary:
        """Return the entries with these indices, in this order."""
        return Dictionary(*(column[index] for column in vars(self).values()))

    def first(self, max_entries: int) -> Dictionary:
        """Return at most the first `max_entries` entries."""
        return self.chosen(slice(max_entries))

    def simplest(self, max_entries: int, *, shifted: bool = True) -> Dictionary:
        """Return the `max_entries` simplest entries, simplest first, without duplicates.

        Entries are duplicates if they differ by a factor or, if `shifted`, also by a constant.
        """
        # Smallest norm by which a row is divided.
        tiny = 1e-300
        # Number of decimal places to which values are rounded before entries are compared; each
        # entry is first scaled to length 1.
        digits = 9
        # Approximate number of points at which two entries are compared to decide whether they are
        # duplicates.
        compared = 12
        count_work(COSTS.value * self.values.size)
        order = np.argsort(self.sizes, kind="stable")
        values = self.values
        values = values - values.mean(axis=1, keepdims=True) if shifted else values
        sizes = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), tiny)
        rows = (values[:, :: max(1, values.shape[1] // compared)] / sizes)[order]
        rows *= np.where(rows[:, :1] < 0, -1.0, 1.0)
        _, first = np.unique(np.round(rows, digits), axis=0, return_index=True)
        return self.chosen(order[np.sort(first)[:max_entries]])

    def functions(self, candidate: Candidate, grid: Array) -> Dictionary:
        """Return f(k u + b) for all entries u and all rows (k, b) of `grid`, shape (rows, 2).

        The rows of `grid` are sorted from simple to complicated constants. Results are left out if
        f is not defined on the whole range of its argument.
        """
        low = self.values.min(axis=1, initial=np.inf)
        high = self.values.max(axis=1, initial=-np.inf)
        ends = np.multiply.outer(np.stack([low, high]), grid[:, 0]) + grid[:, 1]
        entry, row = np.nonzero(candidate.domain.allows(ends.min(axis=0), ends.max(axis=0)))
        with np.errstate(all="ignore"):
            values = candidate.value(self.values[entry] * grid[row, :1] + grid[row, 1:])
        sizes = self.sizes[entry] + max(candidate.complexity - 1, 1) + 0.3 * np.log2(1.0 + row)
        calls = [Symbolic(candidate, (k, b, 1.0, 0.0), "").expression for k, b in grid.tolist()]
        builds = [partial(_call, calls[j], self.builds[i]) for i, j in zip(entry, row, strict=True)]
        named = [
            candidate.name + (f"({family})" if family != "x" else "") for family in self.families
        ]
        return Dictionary(values, sizes, _objects(named)[entry], _objects(builds))._usable()

    def combined(
        self, others: Dictionary, operations: Sequence[Operation] = EVERY, *, distinct: bool = False
    ) -> Dictionary:
        """Apply `operations` to all pairs of an entry of this dictionary and an entry of `others`.

        With `distinct`, pairs of the same family are left out.
        """
        i, j = np.indices((len(self), len(others))).reshape(2, -1)
        keep = j <= i if self is others else i >= 0
        if distinct:
            keep &= self.families[i] != others.families[j]
        first = self.chosen(i[keep])
        second = others.chosen(j[keep])
        sizes = first.sizes + second.sizes
        sizes += np.where(np.maximum(first.sizes, second.sizes) > 1, 0.5, -0.5)
        families = first.families + " " + second.families
        parts = list[Dictionary]()
        for operation in operations:
            with np.errstate(all="ignore"):
                values = operation(first.values, second.values)
            pairs = zip(first.builds, second.builds, strict=True)
            builds = _objects([partial(_call, operation, *pair) for pair in pairs])
            parts.append(Dictionary(values, sizes, families, builds)._usable())
        return Dictionary.joined(parts, self.values.shape[1])

    def _usable(self) -> Dictionary:
        """Return the entries that are finite, not constant, and neither huge nor tiny."""
        # Entries are dropped as constant if their range is below this fraction of their size.
        flat = 1e-9
        # Entries are dropped if their largest absolute value is above this or below its reciprocal.
        largest = 1e9
        count_work(COSTS.term * len(self) + COSTS.term_value * self.values.size)
        with np.errstate(all="ignore"):
            low = self.values.min(axis=1, initial=np.inf)
            high = self.values.max(axis=1, initial=-np.inf)
            top = np.maximum(-low, high)
            good = np.isfinite(top) & (top > 1 / largest) & (top < largest)
            good &= high - low > flat * top
        return self if good.all() else self.chosen(np.flatnonzero(good))


def _objects(entries: Sequence[Any]) -> Objects:
    return np.array(entries, dtype=object)


def _call(function: Callable[..., sympy.Expr], *builds: Build) -> sympy.Expr:
    return function(*(build() for build in builds))


_TURN = np.pi / 2
_SCALES = (1.0, 2.0, 3.0, 0.5, 4.0, 5.0, 0.25, 1.5)
_SHIFTS = (0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 4.0, 5.0)
#: Frequencies of slow sines and cosines, which are tried after the simplest ones.
_SLOW = (1.5, 2.5, 6.0, _TURN, 3 * np.pi)
#: Frequencies of fast sines and cosines.
_FAST = (7.0, 8.0, 9.0, 10.0, 20.0)
_WAVES = (1.0, np.pi, 0.5, 2 * np.pi, 2.0, 3.0, 4.0, 5.0, *_SLOW, *_FAST)
_SHIFTED = [(1.0, b) for b in _SHIFTS]
_MIRRORED = [(s, b) for b in _SHIFTS for s in (1.0, -1.0)]
_SATURATING = [(k, b) for b in (0.0, 1.0, -1.0) for k in (*_SCALES, 10.0)]

#: For each candidate, pairs (k, b) for the argument k u + b, simple ones first. If only the ratio b
#: / k matters, k is 1 or -1.
_GRIDS: dict[str, list[tuple[float, float]]] = {
    "x": _SHIFTED[1:3],
    **dict.fromkeys(("1/x", "1/x^2", "x^2", "x^3", "abs"), _SHIFTED),
    **dict.fromkeys(("log", "sqrt", "1/sqrt"), _MIRRORED),
    **dict.fromkeys(("tanh", "arctan"), _SATURATING),
    "exp": [(s * k, 0.0) for k in (*_SCALES, 10.0, 0.1, 0.2, 0.3) for s in (1, -1)],
    "sin": [
        *((k, b) for k in _WAVES for b in (0.0, _TURN)),
        *((k, b) for k in _SCALES[:6] for b in (1.0, -1.0, 0.5, 2.0)),
    ],
    "gaussian": [
        (k, -k * b) for b in (0.0, 1.0, -1.0, 2.0, -2.0) for k in (1.0, 2**-0.5, 0.5, 2**0.5, 2.0)
    ],
    **{
        name: [(k, 0.0) for k in _SCALES[:4]] for name in ("tan", "arcsin", "arcsinh", "cosh", "j0")
    },
}
_ROOTS = ((1, 2), (-1, 2), (3, 2), (5, 2), (-3, 2), (1, 3), (2, 3))
_POWERS = (*range(2, 7), *range(-1, -7, -1), *(Fraction(p, q) for p, q in _ROOTS))
#: Exponents p that are tried in exp(p log u); a fit can then reach other exponents.
_EXPONENTS = np.arange(-49, 50) / 10
#: Coefficients k that are tried in u + k u^2.
_SLOPES = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
_PLAIN = np.array([(1.0, 0.0)])


def without_twins(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the nonlinear candidates, only one of each pair that differs by constants.

    The pairs are those of `TWINS`. Sigmoid, arccos and cos are left out if tanh, arcsin and sin are
    candidates too.
    """
    names = {candidate.name for candidate in candidates}
    return [
        each for each in candidates if each.complexity > 1 and TWINS.get(each.name) not in names
    ]


def powers_of(
    terms: Dictionary, candidates: Sequence[Candidate], exponents: Sequence[Fraction | int]
) -> Dictionary:
    """Return the powers of each term with these exponents, if the powers are candidates.

    Powers that are not in `TABLE` are used only if there are more than half as many `candidates` as
    functions in `TABLE`.
    """
    beyond = 2 * len(candidates) > len(TABLE)
    usable = [
        each
        for each in map(power, exponents)
        if each in candidates or (beyond and each.name not in TABLE)
    ]
    parts = [terms.functions(each, _PLAIN) for each in usable]
    return Dictionary.joined(parts, terms.values.shape[1])


def functions_of(
    terms: Dictionary, candidates: Sequence[Candidate], max_constants: int
) -> Dictionary:
    """Apply each candidate to each term, with its `max_constants` simplest pairs (k, b)."""
    parts = [
        terms.functions(each, np.array(_GRIDS.get(each.name, [(1.0, 0.0)]))[:max_constants])
        for each in without_twins(candidates)
    ]
    return Dictionary.joined(parts, terms.values.shape[1])


def expand_dictionary(x: Array, candidates: Sequence[Candidate]) -> Dictionary:
    """Return the dictionary for inputs x (N, inputs), simplest terms first.

    It contains functions of the inputs; functions of these functions; products, quotients, sums and
    differences of two of the simplest terms so far; functions of these; and combinations of the
    simplest terms with an input. For a single input, see `dictionary_of_one`.
    """
    # Number of the simplest entries that are combined with an input.
    thirds = 200
    if x.shape[1] == 1:
        return dictionary_of_one(x[:, 0], candidates)
    simple = [each for each in candidates if each.complexity <= _SIMPLE]
    inputs = Dictionary.of_inputs(x)
    every = inputs + functions_of(inputs, candidates, 2 * _CONSTANTS_EACH)

    def grow(terms: Dictionary) -> Dictionary:
        shifted = terms.functions(IDENTITY, np.array(_GRIDS["x"]))
        return functions_of(terms, simple, _CONSTANTS_EACH) + shifted

    factors = every.simplest(_FACTORS, shifted=False)
    every = every + grow(factors) + factors.combined(factors)
    inner = every.chosen(np.flatnonzero(every.sizes > 1)).simplest(_INNER, shifted=False)
    every = every + grow(inner)
    every = every + every.simplest(thirds, shifted=False).combined(inputs)
    return every.simplest(_DICTIONARY_ENTRIES, shifted=False)


#: Largest complexity of functions that are also applied to sums and products.
_SIMPLE = 3.0


def dictionary_of_one(t: Array, candidates: Sequence[Candidate]) -> Dictionary:
    """Return the dictionary for a single input t (N,).

    It contains powers of t, functions of t with common constants, functions of these and of sums of
    two powers, and products of two terms.
    """
    # Number of pairs (k, b) that are tried in a function of a function.
    composed = 12
    # Number of the simplest functions of a single input by which the other entries of its
    # dictionary are multiplied.
    ones = 20
    # Largest number of entries in the dictionary of a single input before products are added.
    of_one = 3000
    inputs = Dictionary.of_inputs(t[:, None])
    simple = [each for each in candidates if each.complexity <= _SIMPLE]
    square, cube, inverse = (powers_of(inputs, candidates, [e]) for e in (2, 3, -1))
    quadratics: list[Operation] = [lambda a, b, k=k: a + k * b for k in _SLOPES]
    inner = [inputs.combined(square, quadratics), functions_of(inputs, simple, 2)]
    inner += [(inputs + square).combined(cube, SUM), inputs.combined(inverse, SUM)]
    parts = [inputs, powers_of(inputs, candidates, _POWERS)]
    parts.append(functions_of(inputs, candidates, len(_WAVES) ** 2))
    if {"exp", "log", "abs"} <= {candidate.name for candidate in candidates}:
        positive = inputs if t.min() > 0 else inputs.functions(TABLE["abs"], _PLAIN)
        exponents = np.stack([_EXPONENTS, np.zeros_like(_EXPONENTS)], axis=1)
        logarithm = positive.functions(TABLE["log"], _PLAIN)
        parts.append(logarithm.functions(TABLE["exp"], exponents))
    parts.append(functions_of(Dictionary.joined(inner, t.size), simple, composed))
    every = Dictionary.joined(parts, t.size).simplest(of_one)
    factors = (inputs + functions_of(inputs, candidates, _CONSTANTS_EACH)).simplest(ones)
    products = every.first(_INNER).combined(factors, PRODUCT, distinct=True)
    return (every + products).simplest(_DICTIONARY_ENTRIES)


#: Number of the simplest dictionary entries that are used to fit y / weight, or a function of y.
_SIMPLE_REGRESSION = 3200
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
    simple = entries.first(_SIMPLE_REGRESSION)
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
