"""Quotients of polynomials with few terms, by one sparse regression over many monomials at once.

P / Q = y is linear in the coefficients: terms are monomials, and monomials times -y.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, combination, input_names, input_symbols
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.problem import SearchData
from kanrun.formulas import to_numpy

#: Quotients of polynomials: maximum degrees of numerator and denominator, number of monomials to
#: choose from, number of terms in the end.
_DEGREE, _DEGREE_BELOW, _MAX_MONOMIALS, _TERMS = 6, 4, 250, 12
#: Error relative to y that counts as none, and factor by which it must fall with the last degree.
_NO_ERROR, _SUDDEN = 1e-12, 1e-4
Powers = tuple[int, ...]

#: Largest difference, relative to y, that a quotient has by rounding alone: another one that leaves
#: more may approximate a root, as one of degree 2 does to 1e-12 near 1.
_ROUNDING = 3e-14
#: Largest difference, relative to y, of a quotient, or of a root whose numbers were taken for
#: fractions.
_ROOT_ERROR = 1e-6


def rational_functions(data: SearchData) -> list[sympy.Expr]:
    """Return quotients of polynomials with few terms, and roots of such, the simplest first.

    They reproduce y on all points: one quotient to rounding, or else several nearly. Where the
    inputs of a root are small, a quotient imitates it, and is less simple than the root.
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
    near = [each for each in forms if left(each) <= _ROOT_ERROR]
    return sorted(near, key=lambda each: graph_of_expression(each, x.shape[1]).complexity)


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


def few_terms(columns: Array, y: Array, allowed: float) -> Array | None:
    """Return few coefficients that leave at most `allowed` of y (N,), by backward elimination.

    None if all columns (N, columns) leave more.
    """
    kept = np.arange(columns.shape[1])

    def solve(chosen: NDArray[np.intp]) -> Array | None:
        count_work(COSTS.least_squares * len(y) * len(chosen) ** 2)
        found = np.asarray(np.linalg.lstsq(columns[:, chosen], y, rcond=1e-17)[0], dtype=np.float64)
        left = float(np.sqrt(np.mean((columns[:, chosen] @ found - y) ** 2)))
        return found if left <= allowed else None

    if (first := solve(kept)) is None:
        return None
    solved, step = first, max(len(kept) // 2, 1)
    while step and len(kept) > 1:
        order = np.argsort(np.abs(solved) * np.linalg.norm(columns[:, kept], axis=0))
        fewer = [order[min(step, len(kept) - 1) :], *([np.delete(order, 1)] if step == 1 else [])]
        for chosen in (np.sort(kept[each]) for each in fewer):
            if (trial := solve(chosen)) is not None:
                kept, solved = chosen, trial
                break
        else:
            step //= 2
    full = np.zeros(columns.shape[1])
    full[kept] = solved
    return full
