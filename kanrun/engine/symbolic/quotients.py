"""Quotients of polynomials with few terms, by one sparse regression over many monomials at once.

P / Q = y is linear in the coefficients: terms are monomials, and monomials times -y. So is the
quadratic y^2 = A + B y. Cosines and sines of angles are variables as inputs are.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.symbolic.budget import COSTS, LEAST_SQUARES, count_work
from kanrun.engine.symbolic.candidates import Array, combination, input_names, input_symbols
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.problem import EXACT, SearchData
from kanrun.formulas import to_numpy

#: Maximum degree of a numerator.
_DEGREE = 6
#: Maximum degree of a denominator.
_DEGREE_BELOW = 4
#: Number of monomials to choose from.
_MAX_MONOMIALS = 250
#: Largest number of terms in the end.
_TERMS = 12
#: Error relative to y that counts as none.
_NO_ERROR = 1e-12
#: Factor by which the error must fall with the last degree.
_SUDDEN = 1e-4
#: Factor by which the error may grow with fewer monomials.
_GROWTH = 10.0
#: Least error relative to y, or to y^2 of a quadratic, that is asked for.
_EPSILON = 5e-15
#: Number of points on which quotients are found; they have to reproduce all.
_ROWS = 1000
Powers = tuple[int, ...]

#: Largest difference, relative to y, that a quotient has by rounding alone: another one that leaves
#: more may approximate a root, as one of degree 2 does to 1e-12 near 1.
_ROUNDING = 3e-14
#: Largest difference, relative to y, of a quotient, or of a root whose numbers were taken for
#: fractions.
_ROOT_ERROR = 1e-6
#: Smallest range of an input that may be an angle.
_LEAST_TURN = 0.95
#: Largest size of an input that may be an angle.
_MOST_TURNS = 2.001 * math.pi
#: Number of angles that are tried, one after the other.
_SETS = 6


def rational_functions(data: SearchData, waves: bool = False) -> list[sympy.Expr]:
    """Return quotients of polynomials with few terms, and roots of such, the simplest first.

    They reproduce y on all points: one quotient to rounding, or else several nearly. Where the
    inputs of a root are small, a quotient imitates it, and is less simple than the root. With
    `waves`, inputs are angles where there are no such quotients in the inputs themselves.
    """
    x = data.all_points.x
    y = data.all_points.y
    size = np.abs(y) if data.relative else np.full(len(y), np.abs(y).max())
    symbols = input_symbols(x.shape[1])
    names = input_names(x.shape[1])
    for angle in (None, *(_angles(x) if waves else ())):
        variables = symbols if angle is None else _with_waves(symbols, angle)
        values = np.column_stack([to_numpy(each, names)(x) for each in variables])
        swap = dict(zip(input_symbols(len(variables)), variables, strict=True))
        near = [each.xreplace(swap) for each in _near(values, y, size, angle is not None)]
        if near:
            return sorted(near, key=lambda f: graph_of_expression(f, len(names)).complexity)
    return []


def _near(x: Array, y: Array, size: Array, waves: bool) -> list[sympy.Expr]:
    """Return quotients, roots of such and solutions of quadratics that are near y (N,).

    Differences are relative to `size` (N,).
    """

    def left(found: sympy.Expr) -> float:
        rest = to_numpy(found, input_names(x.shape[1]))(x) - y
        return float(np.abs(rest / size).max())

    few = np.linspace(0, len(y) - 1, min(len(y), _ROWS)).astype(int)
    quotient = partial(quotient_of_polynomials, x[few], degree=_DEGREE, terms=_TERMS, waves=waves)
    plain = quotient(y[few], size=size[few])
    forms = [] if plain is None else [plain]
    with np.errstate(over="ignore"):
        squares = size[few] ** 2
    has_squares = bool(np.isfinite(squares).all() and squares.all())
    if has_squares and (plain is None or left(plain) > _ROUNDING):
        squared = quotient(y[few] ** 2, size=squares)
        forms += [] if squared is None else _roots(squared)
    if has_squares and not any(left(each) <= EXACT for each in forms):
        forms += _quadratics(x[few], y[few], size[few], waves)
    return [each for each in forms if each.free_symbols and left(each) <= _ROOT_ERROR]


def _angles(x: Array) -> list[sympy.Expr]:
    """Return what may be angles, that of the widest range first.

    These are inputs that vary by as much as an angle, over no more than two turns, and sums and
    differences of two of them.
    """
    turns = (np.ptp(x, axis=0) >= _LEAST_TURN) & (np.abs(x).max(0) <= _MOST_TURNS)
    inputs = [
        (u, column)
        for u, column, is_angle in zip(input_symbols(x.shape[1]), x.T, turns, strict=True)
        if is_angle
    ]
    for (u, a), (v, b) in itertools.combinations(tuple(inputs), 2):
        inputs += [(u - v, a - b), (u + v, a + b)]
    ranked = sorted(inputs, key=lambda entry: -float(np.ptp(entry[1])))
    return [angle for angle, _ in ranked[:_SETS]]


def _with_waves(symbols: Sequence[sympy.Symbol], angle: sympy.Expr) -> list[sympy.Expr]:
    """Return the variables with the cosine and the sine of an angle, last, for its inputs."""
    others = [each for each in symbols if each not in angle.free_symbols]
    return [*others, sympy.cos(angle), sympy.sin(angle)]


def quotient_of_polynomials(
    x: Array,
    y: Array,
    degree: int,
    terms: int,
    size: Array,
    known: float = 0.0,
    *,
    waves: bool = False,
) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms for y (N,) at x (N, inputs), or None.

    `known` is the error of y relative to `size` (N,). With `waves` the last inputs are the cosine
    and the sine of an angle.

    P / Q = y is linear in the coefficients, P - y (Q - 1) = y about the middle of the points, where
    Q is not 0. Degrees rise until least squares suddenly leaves nothing, not bit by bit as where a
    quotient approximates. Then monomials in the inputs themselves are eliminated as long as nothing
    is left.
    """
    left = max(_NO_ERROR * (1.0 if np.ptp(size) else min(float(np.ptp(y / size)), 1.0)), _EPSILON)
    bases = _bases(x, size)
    tried = (_sudden(base, y, 1, size, degree, max(left, known), waves) for base in bases)
    found = next(filter(None, tried), None)
    expression = _sparse_quotient(x, y, size, found, terms) if found else None
    return expression if expression is not None and expression.free_symbols else None


def _bases(x: Array, size: Array) -> list[Array]:
    """Return the inputs (N, inputs) about their middle, where monomials differ most.

    Over decades that loses the small ones, so that the inputs themselves come second.
    """
    centred = (x - x.mean(0)) / np.ptp(x, axis=0) * 2
    return [centred, x / np.abs(x).max(0)] if np.ptp(size) else [centred]


#: Monomials, those times a factor, and the error that fewer of them may leave.
_Monomials = tuple[Sequence[Powers], Sequence[Powers], float]


def _sudden(
    x: Array, y: Array, power: int, size: Array, degree: int, allowed: float, waves: bool
) -> _Monomials | None:
    """Return the fewest monomials, and those times y (N,), of which a power of y is a sum, or None.

    The power 1 makes y a quotient, of which the constant is none of the latter; 2 makes it the
    solution of a quadratic. Errors of the power are relative to that of `size` (N,).
    """
    inputs = x.shape[1]
    goal = (y / size) ** power
    unit = size[:, None] ** power
    max_terms = min(len(y) // 3, _MAX_MONOMIALS)
    powers = partial(_powers, inputs, waves=waves)
    found: tuple[int, _Monomials] | None = None
    # Higher powers of few values are sums of lower ones, by which y is a quotient of itself.
    values = min(len(np.unique(column)) for column in x.T)
    for q in range(min(_DEGREE_BELOW + 1, values)):
        below = powers(q)[1 if power == 1 else 0 :]
        counts = [len(below) + len(powers(p)) for p in range(degree + 1)]
        counts = [count for count in counts if count <= max_terms]
        if not counts:
            break
        above = powers(len(counts) - 1)
        columns = _columns(x, y, above, below) / unit
        columns = np.column_stack([columns / np.linalg.norm(columns, axis=0), goal])
        count_work(2 * COSTS.product * columns.size * columns.shape[1])
        # What is left of the goal, the last column, by the columns before each of its entries.
        triangle = np.asarray(np.linalg.qr(columns, mode="r"))
        rest = triangle[:, -1]
        before = 1.0
        for count in counts:
            left = float(np.linalg.norm(rest[count:])) / math.sqrt(len(y))
            sudden = left <= allowed and left < _SUDDEN * before
            if sudden and (found is None or count < found[0]):
                may_leave = min(allowed, max(_GROWTH * left, _ROUNDING))
                found = count, (above[: count - len(below)], below, may_leave)
            before = left
    return found[1] if found else None


def _sparse_quotient(
    x: Array, t: Array, size: Array, monomials: _Monomials, max_terms: int
) -> sympy.Expr | None:
    """Return the quotient with as few of these monomials as it needs, or None.

    The denominator has a constant and the monomials `below`; its largest coefficient in the null
    vector of all columns is set to 1.
    """
    above, below, allowed = monomials
    scale = np.abs(x).max(0)
    below = [above[0], *below]
    columns = _columns(x / scale, -t, above, below) / size[:, None]
    null = np.linalg.svd(np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[1])[2][-1]
    one = int(np.argmax(np.abs(null[: len(below)])))
    solved = few_terms(np.delete(columns, one, axis=1), -columns[:, one], allowed)
    if solved is None or np.count_nonzero(solved) > max_terms:
        return None
    every = [*below, *above]
    cut = len(below)
    natural = np.insert(solved, one, 1.0) / np.prod(scale ** np.array(every), axis=1)
    natural = natural / next(c for c in natural if c)
    return _polynomial(natural[cut:], above) / _polynomial(natural[:cut], below)


def _polynomial(coefficients: Array, powers: Sequence[Powers]) -> sympy.Expr:
    """Return the sum of monomials with these coefficients (monomials,)."""
    symbols = input_symbols(len(powers[0]))
    return combination(
        coefficients, [sympy.Mul(*map(operator.pow, symbols, each)) for each in powers]
    )


def _quadratics(x: Array, y: Array, size: Array, waves: bool) -> list[sympy.Expr]:
    """Return both solutions of y^2 = A + B y for polynomials A and B with few terms, if any."""
    found = _sudden(_bases(x, size)[0], y, 2, size, _DEGREE, _EPSILON, waves)
    if found is None:
        return []
    scale = np.abs(x).max(0)
    (above, below, allowed) = found
    columns = _columns(x / scale, y, above, below) / size[:, None] ** 2
    solved = few_terms(columns, (y / size) ** 2, allowed)
    if solved is None or np.count_nonzero(solved) > _TERMS:
        return []
    natural = solved / np.prod(scale ** np.array([*below, *above]), axis=1)
    a, b = (
        _polynomial(coefficients, powers)
        for coefficients, powers in zip(
            np.split(natural, [len(below)]), (below, above), strict=True
        )
    )
    root = _roots(sympy.expand(a**2 / 4 + b))
    return [a / 2 + each for each in root]


def _roots(quotient: sympy.Expr) -> list[sympy.Expr]:
    """Return the square roots of a quotient of polynomials.

    Squared factors are taken out of the first ones, so that these can change their sign.
    """
    exact = quotient.xreplace(
        {c: sympy.Rational(c).limit_denominator(10**6) for c in quotient.atoms(sympy.Float)}
    )
    factored = sympy.sqrt(sympy.factor(exact)).replace(sympy.Abs, lambda u: u)
    return [factored, -factored, sympy.sqrt(quotient), -sympy.sqrt(quotient)]


def _columns(x: Array, factor: Array, above: Sequence[Powers], below: Sequence[Powers]) -> Array:
    """Return the monomials `below` times a factor (N,), then those `above`, (N, monomials)."""
    chosen = [*below, *above]
    powers = [np.ones_like(x)]
    count_work(COSTS.term_value * len(x) * len(chosen))
    for _ in range(max(map(max, chosen))):
        powers.append(powers[-1] * x)
    every = np.ones((len(x), len(chosen)))
    for place, each in enumerate(chosen):
        for i, power in enumerate(each):
            if power:
                every[:, place] *= powers[power][:, i]
    every[:, : len(below)] *= factor[:, None]
    return every


@cache
def _powers(inputs: int, degree: int, waves: bool = False) -> tuple[Powers, ...]:
    """Return the exponents of all monomials up to a degree, by their degree.

    With `waves` the last inputs are the cosine and the sine of an angle. Squares of sines are those
    of cosines, and higher powers are waves of multiples of the angle, which have shorter forms.
    """
    chosen = itertools.combinations_with_replacement(range(inputs + 1), degree)  # the last is 1
    every = (tuple(each.count(i) for i in range(inputs)) for each in chosen)
    kept = (each for each in every if not waves or (sum(each[-2:]) <= 2 and each[-1] <= 1))
    return tuple(sorted(kept, key=lambda powers: (sum(powers), powers)))


def few_terms(columns: Array, y: Array, allowed: float) -> Array | None:
    """Return few coefficients that leave at most `allowed` of y (N,), by backward elimination.

    None if all columns (N, columns) leave more.
    """
    kept = np.arange(columns.shape[1])

    def solve(chosen: NDArray[np.intp]) -> Array | None:
        count_work(COSTS.product * LEAST_SQUARES * len(y) * len(chosen) ** 2)
        found = np.asarray(np.linalg.lstsq(columns[:, chosen], y, rcond=1e-17)[0], dtype=np.float64)
        left = float(np.sqrt(np.mean((columns[:, chosen] @ found - y) ** 2)))
        return found if left <= allowed else None

    if (first := solve(kept)) is None:
        return None
    solved = first
    step = max(len(kept) // 2, 1)
    while step and len(kept) > 1:
        order = np.argsort(np.abs(solved) * np.linalg.norm(columns[:, kept], axis=0))
        fewer = [order[min(step, len(kept) - 1) :], *([np.delete(order, 1)] if step == 1 else [])]
        for chosen in (np.sort(kept[each]) for each in fewer):
            if (trial := solve(chosen)) is not None:
                kept = chosen
                solved = trial
                break
        else:
            step //= 2
    full = np.zeros(columns.shape[1])
    full[kept] = solved
    return full
