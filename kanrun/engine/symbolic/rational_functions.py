"""Quotients of polynomials: a sparse regression over monomials, and monomials times -y."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, combination
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.regression import few_terms
from kanrun.engine.symbolic.search_problem import QuotientPolicy
from kanrun.formulas import to_numpy, variable

Powers = tuple[int, ...]

#: Largest difference, relative to y, between y and the root of a quotient whose numbers were taken
#: for fractions.
_ROOT_ERROR = 1e-6


def rational_function(data: SearchData, policy: QuotientPolicy) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms, or the square root of one, or None.

    It reproduces y on all points to rounding.
    """
    x, y = data.all_points.x, data.all_points.y
    if (plain := quotient_of_polynomials(x, y, policy)) is not None:
        return plain
    squared = quotient_of_polynomials(x, y**2, policy)
    return None if squared is None else _root(squared, x, y)


def quotient_of_polynomials(
    x: Array, y: Array, policy: QuotientPolicy, known: float = 0.0
) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms for y (N,) at x (N, inputs), or None.

    `known` is the error of y relative to its size.

    P / Q = y is linear in the coefficients, P - y (Q - 1) = y about the middle of the points, where
    Q is not 0. Degrees rise until least squares suddenly leaves nothing, not bit by bit as where a
    quotient approximates. Then monomials in the inputs themselves are eliminated as long as nothing
    is left.
    """
    inputs, ranges, size = x.shape[1], np.ptp(x, axis=0), float(np.abs(y).max())
    max_terms, allowed = min(len(y) // 3, policy.monomials), max(policy.nothing, known) * size
    if not ranges.all():
        return None
    centred = (x - x.mean(0)) / ranges * 2
    found: tuple[int, list[Powers], list[Powers]] | None = None
    for q in range(policy.below + 1):
        below = _powers(inputs, q)[1:]
        counts = [len(below) + math.comb(inputs + p, p) for p in range(policy.degree + 1)]
        counts = [count for count in counts if count <= max_terms]
        if not counts:
            break
        above = _powers(inputs, len(counts) - 1)
        columns = _columns(centred, y, above, below)
        count_work(COSTS.least_squares * columns.size * columns.shape[1])
        basis, before = np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[0], size
        for count in counts:
            left = float(np.sqrt(np.mean((y - basis[:, :count] @ (basis[:, :count].T @ y)) ** 2)))
            sudden = left <= allowed and left < policy.sudden * before
            if sudden and (found is None or count < found[0]):
                found = count, above[: count - len(below)], below
            before = left
    expression = _sparse_quotient(x, y, found[1], found[2], policy, allowed) if found else None
    return expression if expression is not None and expression.free_symbols else None


def _sparse_quotient(
    x: Array,
    t: Array,
    above: list[Powers],
    below: list[Powers],
    policy: QuotientPolicy,
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
    if solved is None or np.count_nonzero(solved) > policy.terms:
        return None
    every, cut = [*below, *above], len(below)
    natural = np.insert(solved, one, 1.0) / np.prod(scale ** np.array(every), axis=1)
    natural = natural / next(c for c in natural if c)
    terms = [sympy.Mul(*(variable(f"x{i}") ** k for i, k in enumerate(powers))) for powers in every]
    return combination(natural[cut:], terms[cut:]) / combination(natural[:cut], terms[:cut])


def _root(quotient: sympy.Expr, x: Array, y: Array) -> sympy.Expr | None:
    """Return the square root of a quotient of polynomials with the signs of y, or None.

    Squared factors are taken out of the root, so that it can change its sign.
    """
    exact = quotient.xreplace(
        {c: sympy.Rational(c).limit_denominator(10**6) for c in quotient.atoms(sympy.Float)}
    )
    constant, factors = sympy.factor_list(sympy.fraction(sympy.cancel(exact))[0])
    below_constant, below = sympy.factor_list(sympy.fraction(sympy.cancel(exact))[1])
    outside, inside = sympy.Integer(1), constant / below_constant
    for factor, times in [*factors, *((factor, -times) for factor, times in below)]:
        outside *= factor ** int(times / 2)
        inside *= factor ** (times - 2 * int(times / 2))
    root = outside * sympy.sqrt(inside) if outside.free_symbols else sympy.sqrt(quotient)
    if not root.free_symbols:
        return None
    value = to_numpy(root, [f"x{i}" for i in range(x.shape[1])])(x)
    root, value = (root, value) if value @ y > 0 else (-root, -value)
    return root if float(np.abs(value - y).max()) <= _ROOT_ERROR * float(np.abs(y).max()) else None


def _columns(x: Array, t: Array, above: Sequence[Powers], below: Sequence[Powers]) -> Array:
    """Return the monomials `below` times -t, then those `above`, (N, monomials)."""
    every = np.stack([np.prod(x ** np.array(each), axis=1) for each in (*below, *above)], axis=1)
    every[:, : len(below)] *= -t[:, None]
    return every


def _powers(inputs: int, degree: int) -> list[Powers]:
    """Return the exponents of all monomials up to a degree, by their degree."""
    every = itertools.product(range(degree + 1), repeat=inputs)
    return sorted((powers for powers in every if sum(powers) <= degree), key=sum)
