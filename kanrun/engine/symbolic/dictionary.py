"""The dictionary of terms for sparse regression: small expressions and their values at the points.

Terms are built from the inputs in two ways: as functions f(k u + b) of a term u, with constants (k,
b) that are common in formulas, and as products, quotients, sums and differences of two terms. The
regressions in `regression.py` choose among these terms.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
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
    input_names,
    power,
)
from kanrun.engine.symbolic.edge_functions import Symbolic
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
