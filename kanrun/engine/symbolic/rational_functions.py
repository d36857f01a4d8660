"""Quotients of polynomials in all inputs, by linear least squares and backward elimination."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work, counted_calls
from kanrun.engine.symbolic.candidates import Array, combination
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.pairs import few_terms
from kanrun.engine.symbolic.search_problem import QuotientPolicy
from kanrun.formulas import to_numpy, variable


def rational_function(data: SearchData, policy: QuotientPolicy) -> sympy.Expr | None:
    """A quotient of polynomials of few terms in all inputs, or its root, that gives y on all points to rounding, or
    None."""
    x, y = data.all_points.x, data.all_points.y
    if (plain := quotient_of_polynomials(x, y, policy)) is not None:
        return plain
    squared = quotient_of_polynomials(x, y**2, policy)
    if squared is None:
        return None
    with counted_calls():
        return _root(squared, x, y)


def quotient_of_polynomials(
    x: Array, y: Array, policy: QuotientPolicy, known: float = 0.0
) -> sympy.Expr | None:
    """A quotient of polynomials of few terms for y (N,), known to an error `known` of its size, at x (N, inputs), or
    None.

    P / Q = y is linear in the coefficients, P - y (Q - 1) = y about the middle of the points, where Q is not 0. Degrees
    rise until least squares suddenly leaves nothing, not bit by bit as where a quotient approximates; then monomials in
    the inputs themselves are left out as long as that stays so.
    """
    inputs, ranges, size = x.shape[1], np.ptp(x, axis=0), float(np.abs(y).max())
    most, allowed = min(len(y) // 3, policy.monomials), max(policy.nothing, known) * size
    if not ranges.all():
        return None
    about = (x - x.mean(0)) / ranges * 2
    found: tuple[int, list[tuple[int, ...]], list[tuple[int, ...]]] | None = None
    for q in range(policy.below + 1):
        below = _powers(inputs, q)[1:]
        fit = (p for p in range(policy.degree + 1) if len(below) + math.comb(inputs + p, p) <= most)
        above = _powers(inputs, max(fit, default=0))
        if len(below) + len(above) > most:
            break
        columns = _columns(about, y, above, below)
        count_work(COSTS.least_squares * columns.size * columns.shape[1])
        basis = np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[0]
        before = size
        for p in range(sum(above[-1]) + 1):
            k = len(below) + math.comb(inputs + p, p)
            rest = y - basis[:, :k] @ (basis[:, :k].T @ y)
            left = float(np.sqrt(np.mean(rest**2)))
            if (
                left <= allowed
                and left < policy.sudden * before
                and (found is None or k < found[0])
            ):
                found = k, above[: k - len(below)], below
            before = left
    expression = _quotient(x, y, found[1], found[2], policy, allowed) if found is not None else None
    return expression if expression is not None and expression.free_symbols else None


def _quotient(
    x: Array,
    t: Array,
    above: list[tuple[int, ...]],
    below: list[tuple[int, ...]],
    policy: QuotientPolicy,
    allowed: float,
) -> sympy.Expr | None:
    """The quotient of few terms with these monomials above and, beside a constant, below; the first of the
    denominator has the coefficient 1."""
    scale, below = np.abs(x).max(0), [above[0], *below]
    columns = _columns(x / scale, t, above, below)
    sizes = np.linalg.norm(columns, axis=0)
    null = np.linalg.svd(np.linalg.qr(columns / sizes)[1])[2][-1]
    one = int(np.argmax(np.abs(null[: len(below)])))
    solved = few_terms(np.delete(columns, one, axis=1), -columns[:, one], allowed)
    if solved is None or np.count_nonzero(solved) > policy.terms:
        return None
    natural = np.insert(solved, one, 1.0) / [
        float(np.prod(scale ** np.array(power))) for power in (*below, *above)
    ]
    natural = natural / next(c for c in natural if c)
    terms = [
        sympy.Mul(*(variable(f"x{i}") ** k for i, k in enumerate(power)))
        for power in (*below, *above)
    ]
    cut = len(below)
    return combination(natural[cut:], terms[cut:]) / combination(natural[:cut], terms[:cut])


def _root(quotient: sympy.Expr, x: Array, y: Array) -> sympy.Expr | None:
    """The root of a quotient of polynomials with the signs of y, or None: what divides it twice is outside the root."""
    exact = quotient.xreplace(
        {c: sympy.Rational(c).limit_denominator(10**6) for c in quotient.atoms(sympy.Float)}
    )
    outside, inside = sympy.Integer(1), sympy.Integer(1)
    for part, sign in zip(sympy.fraction(sympy.cancel(exact)), (1, -1), strict=True):
        constant, factors = sympy.factor_list(part)
        inside *= constant**sign
        for factor, times in factors:
            outside *= factor ** (sign * (times // 2))
            inside *= factor ** (sign * (times % 2))
    root = outside * sympy.sqrt(inside) if outside.free_symbols else sympy.sqrt(quotient)
    value = (
        to_numpy(root, [f"x{i}" for i in range(x.shape[1])])(x)
        if root.free_symbols
        else np.zeros_like(y)
    )
    root, value = (root, value) if value @ y > 0 else (-root, -value)
    return root if float(np.abs(value - y).max()) <= _ALMOST * float(np.abs(y).max()) else None


#: Largest difference between y and the root of a quotient whose numbers were taken for fractions.
_ALMOST = 1e-6


def _columns(
    x: Array, t: Array, above: Sequence[tuple[int, ...]], below: Sequence[tuple[int, ...]]
) -> Array:
    """Monomials of the denominator times -t, then those of the numerator, (N, monomials)."""
    return np.stack(
        [*(-t * _monomial(x, power) for power in below), *(_monomial(x, power) for power in above)],
        axis=1,
    )


def _powers(inputs: int, degree: int) -> list[tuple[int, ...]]:
    """Exponents of all monomials up to a degree, the constant one first."""
    every = itertools.product(range(degree + 1), repeat=inputs)
    return sorted((power for power in every if sum(power) <= degree), key=sum)


def _monomial(x: Array, power: tuple[int, ...]) -> Array:
    value: Array = np.prod(x ** np.array(power), axis=1)
    return value
