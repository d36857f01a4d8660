"""Formulas of several inputs, each found by one sparse regression over many terms at once.

Terms of a quotient of polynomials are monomials, and monomials times -y. Other formulas are sums of
pairs of small expressions, and quotients of two of them, for y and functions of y, with
a weight or not.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import (
    Array,
    Candidate,
    combination,
    input_names,
    input_symbols,
)
from kanrun.engine.symbolic.dictionary import Dictionary, expand_dictionary
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.regression import (
    TermSum,
    few_terms,
    nearest_sums,
    output_transforms,
)
from kanrun.formulas import to_numpy

#: Quotients of polynomials: maximum degrees of numerator and denominator, number of monomials to
#: choose from, number of terms in the end.
_DEGREE, _DEGREE_BELOW, _MAX_MONOMIALS, _TERMS = 6, 4, 250, 12
#: Error relative to y that counts as none, and factor by which it must fall with the last degree.
_NO_ERROR, _SUDDEN = 1e-12, 1e-4
#: Maximum number of inputs of a dictionary, and points at which terms are compared.
_DICTIONARY_INPUTS, _POINTS = 5, 80
#: Entries for functions of y and for y divided by a weight; for quotients and for functions of y
#: divided by a weight; simplest entries that are tried as weights.
_SIMPLE, _FEW, _WEIGHTS = 3200, 600, 8
#: Sums of each kind that are looked at, and other formulas that are returned.
_KEPT, _RETURNED = 6, 8
#: Fraction of the variance that a sum may leave, and relative error of an exact formula.
_PROMISING, _EXACT_SUM = 1e-4, 1e-10

Powers = tuple[int, ...]

#: Largest difference, relative to y, that a quotient has by rounding alone: another one that leaves
#: more may approximate a root, as one of degree 2 does to 1e-12 near 1.
_ROUNDING = 3e-14
#: Largest difference, relative to y, of a quotient, or of a root whose numbers were taken for
#: fractions.
_ROOT_ERROR = 1e-6


def rational_function(data: SearchData) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms, or the square root of one, or None.

    It reproduces y on all points to rounding.
    """
    x, y = data.all_points.x, data.all_points.y

    def left(found: sympy.Expr) -> float:
        rest = to_numpy(found, input_names(x.shape[1]))(x) - y
        return float(np.abs(rest).max() / np.abs(y).max())

    plain = quotient_of_polynomials(x, y, _DEGREE, _TERMS)
    forms = [] if plain is None else [plain]
    if plain is None or left(plain) > _ROUNDING:
        squared = quotient_of_polynomials(x, y**2, _DEGREE, _TERMS)
        forms += [] if squared is None else _roots(squared)
    best = min(forms, key=left, default=None)
    return best if best is not None and left(best) <= _ROOT_ERROR else None


def quotient_of_polynomials(
    x: Array, y: Array, degree: int, terms: int, known: float = 0.0
) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms for y (N,) at x (N, inputs), or None.

    `known` is the error of y relative to its size.

    P / Q = y is linear in the coefficients, P - y (Q - 1) = y about the middle of the points, where
    Q is not 0. Degrees rise until least squares suddenly leaves nothing, not bit by bit as where a
    quotient approximates. Then monomials in the inputs themselves are eliminated as long as nothing
    is left.
    """
    inputs, ranges, size = x.shape[1], np.ptp(x, axis=0), float(np.abs(y).max())
    max_terms, allowed = min(len(y) // 3, _MAX_MONOMIALS), max(_NO_ERROR, known) * size
    centred = (x - x.mean(0)) / ranges * 2
    found: tuple[int, list[Powers], list[Powers]] | None = None
    # Higher powers of few values are sums of lower ones, by which y is a quotient of itself.
    values = min(len(np.unique(column)) for column in x.T)
    for q in range(min(_DEGREE_BELOW + 1, values)):
        below = _powers(inputs, q)[1:]
        counts = [len(below) + math.comb(inputs + p, p) for p in range(degree + 1)]
        counts = [count for count in counts if count <= max_terms]
        if not counts:
            break
        above = _powers(inputs, len(counts) - 1)
        columns = _columns(centred, y, above, below)
        count_work(COSTS.least_squares * columns.size * columns.shape[1])
        basis, before = np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[0], size
        for count in counts:
            left = float(np.sqrt(np.mean((y - basis[:, :count] @ (basis[:, :count].T @ y)) ** 2)))
            sudden = left <= allowed and left < _SUDDEN * before
            if sudden and (found is None or count < found[0]):
                found = count, above[: count - len(below)], below
            before = left
    expression = _sparse_quotient(x, y, found[1], found[2], terms, allowed) if found else None
    return expression if expression is not None and expression.free_symbols else None


def _sparse_quotient(
    x: Array,
    t: Array,
    above: list[Powers],
    below: list[Powers],
    max_terms: int,
    allowed: float,
) -> sympy.Expr | None:
    """Return the quotient with as few of these monomials as it needs, or None.

    The denominator has a constant and the monomials `below`; its largest coefficient in the null
    vector of all columns is set to 1.
    """
    scale, below = np.abs(x).max(0), [above[0], *below]
    columns = _columns(x / scale, t, above, below)
    null = np.linalg.svd(np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[1])[2][-1]
    one = int(np.argmax(np.abs(null[: len(below)])))
    solved = few_terms(np.delete(columns, one, axis=1), -columns[:, one], allowed)
    if solved is None or np.count_nonzero(solved) > max_terms:
        return None
    every, cut = [*below, *above], len(below)
    natural = np.insert(solved, one, 1.0) / np.prod(scale ** np.array(every), axis=1)
    natural = natural / next(c for c in natural if c)
    symbols = input_symbols(x.shape[1])
    terms = [sympy.Mul(*map(operator.pow, symbols, powers)) for powers in every]
    return combination(natural[cut:], terms[cut:]) / combination(natural[:cut], terms[:cut])


def _roots(quotient: sympy.Expr) -> list[sympy.Expr]:
    """Return the square roots of a quotient of polynomials.

    Squared factors are taken out of the first ones, so that these can change their sign.
    """
    exact = quotient.xreplace(
        {c: sympy.Rational(c).limit_denominator(10**6) for c in quotient.atoms(sympy.Float)}
    )
    factored = sympy.sqrt(sympy.factor(exact)).replace(sympy.Abs, lambda u: u)
    return [factored, -factored, sympy.sqrt(quotient), -sympy.sqrt(quotient)]


def _columns(x: Array, t: Array, above: Sequence[Powers], below: Sequence[Powers]) -> Array:
    """Return the monomials `below` times -t, then those `above`, (N, monomials)."""
    every = np.stack([np.prod(x ** np.array(each), axis=1) for each in (*below, *above)], axis=1)
    every[:, : len(below)] *= -t[:, None]
    return every


def _powers(inputs: int, degree: int) -> list[Powers]:
    """Return the exponents of all monomials up to a degree, by their degree."""
    chosen = itertools.combinations_with_replacement(range(inputs + 1), degree)  # the last is 1
    every = (tuple(each.count(i) for i in range(inputs)) for each in chosen)
    return sorted(every, key=lambda powers: (sum(powers), powers))


#: Fraction of the variance that rounding leaves: of pairs that leave no more the simplest is best.
_EXACT = 1e-11
#: Number of the first functions of y that are regressed as quotients.
_QUOTIENTS = 3


def pair_formulas(data: SearchData, candidates: Sequence[Candidate]) -> Iterator[sympy.Expr]:
    """Yield formulas of y from a dictionary of small expressions, exact ones first.

    Those that reproduce some of the points come as they are found, the plainest of each kind first;
    then the few nearest ones. Many inputs have none.
    """
    if data.x.shape[1] > _DICTIONARY_INPUTS:
        return
    pick = np.linspace(0, len(data.y) - 1, min(_POINTS, len(data.y))).astype(int)
    entries = expand_dictionary(data.x[pick], candidates)
    names = {candidate.name for candidate in candidates}
    found: list[TermSum] = []
    for sums in _kinds(entries, data.y[pick], names, data.relative):
        near = [each for left, each in sums if left < _PROMISING]
        exact = [each.expression() for each in near if each.error <= _EXACT_SUM]
        yield from sorted(exact, key=sympy.count_ops)
        found += near
    nearest = sorted(found, key=lambda each: each.error)
    yield from (each.expression() for each in nearest[:_RETURNED])


def _kinds(
    entries: Dictionary, y: Array, names: set[str], relative: bool
) -> Iterator[Iterator[tuple[float, TermSum]]]:
    """Yield the nearest sums of one kind after the other."""
    simple, few = entries.first(_SIMPLE), entries.first(_FEW)
    near = partial(nearest_sums, kept=_KEPT, floor=_EXACT)
    for place, target in enumerate(output_transforms(y, names, relative)):
        yield near(target, simple if place else entries)
        if place < _QUOTIENTS:
            yield near(target, few, quotients=True)
    weights = list(zip(entries.values[:_WEIGHTS], entries.builds, strict=False))
    for weight in weights:
        yield near(output_transforms(y, names, relative, weight)[0], few, quotients=True)
    for weight in weights:
        for place, target in enumerate(output_transforms(y, names, relative, weight)):
            yield near(target, few if place else simple)
