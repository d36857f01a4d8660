"""Find quotients of polynomials with few terms, by one sparse regression over many monomials.

P / Q = y means P - y Q = 0, which is linear in the coefficients of P and Q. The quadratic equation
y^2 = A + B y with polynomials A and B is linear in their coefficients too. The cosine and the sine
of an angle may be variables in place of the angle.
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

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, combination, input_names, input_symbols
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.problem import EXACT, SearchData
from kanrun.formulas.conversion import to_numpy

#: Largest number of terms of a result.
_TERMS = 12
#: A quotient is accepted as exact only if raising the degree by one reduces the error to below this
#: fraction.
_SUDDEN = 1e-4
#: The RMS error that is demanded of a quotient is at least this, relative to y (or to y^2 for
#: quadratic equations).
_EPSILON = 5e-15
#: Exponents of the inputs in a monomial.
Powers = tuple[int, ...]

#: Largest difference from y, relative to y, that rounding alone can cause. A quotient with a larger
#: difference may be an approximation of a root: near 1, a quotient of degree 2 approximates a root
#: to 1e-12.
_ROUNDING = 3e-14
#: Largest absolute value (radians) of an input that is tried as an angle.
_MOST_TURNS = 2.001 * math.pi


def rational_functions(data: SearchData, waves: bool = False) -> list[sympy.Expr]:
    """Return quotients of polynomials with few terms, and square roots of them, simplest first.

    All results reproduce y on all points at least approximately. If a quotient is not exact to
    rounding, square roots and solutions of quadratic equations are tried too, because a quotient
    can imitate a root if its inputs are small.

    Args:
        data: Points of the search.
        waves: Whether cosines and sines of inputs, and of sums and differences of two inputs, are
            tried if no quotient in the inputs themselves is found.
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
        near = [each.xreplace(swap) for each in near_quotients(values, y, size, angle is not None)]
        if near:
            return sorted(near, key=lambda f: graph_of_expression(f, len(names)).complexity)
    return []


def near_quotients(x: Array, y: Array, size: Array, waves: bool) -> list[sympy.Expr]:
    """Return formulas in the variables x that are close to y.

    They are quotients of polynomials, square roots of quotients, and solutions of quadratic
    equations.

    Args:
        x: Variables, shape (N, inputs).
        y: Outputs, shape (N,).
        size: Sizes of the outputs, shape (N,); differences from y are measured relative to them.
        waves: Whether the last two variables are the cosine and the sine of an angle.
    """
    # Largest difference from y, relative to y, of a formula that is returned; replacing the numbers
    # under a root by fractions may cause such differences.
    root_error = 1e-6
    # Largest number of points to which quotients are fitted; the result must still agree with all
    # points.
    rows = 1000

    def left(form: sympy.Expr) -> float:
        rest = to_numpy(form, input_names(x.shape[1]))(x) - y
        return float(np.abs(rest / size).max())

    few = np.linspace(0, len(y) - 1, min(len(y), rows)).astype(int)
    plain = quotient_of_polynomials(x[few], y[few], size[few], waves)
    forms = [] if plain is None else [plain]
    with np.errstate(over="ignore"):
        squares = size[few] ** 2
    has_squares = bool(np.isfinite(squares).all() and squares.all())
    if has_squares and (plain is None or left(plain) > _ROUNDING):
        squared = quotient_of_polynomials(x[few], y[few] ** 2, squares, waves)
        forms += [] if squared is None else _roots(squared)
    if has_squares and not any(left(each) <= EXACT for each in forms):
        forms += _quadratics(x[few], y[few], size[few], waves)
    return [each for each in forms if each.free_symbols and left(each) <= root_error]


def _angles(x: Array) -> list[sympy.Expr]:
    """Return the expressions that may be angles, the one with the widest range first.

    These are the inputs with a range of at least `least_turn` and values of at most `_MOST_TURNS`,
    and the sums and differences of two such inputs.
    """
    # Largest number of angles that are tried.
    sets = 6
    # Smallest range (radians) of an input that is tried as an angle.
    least_turn = 0.95
    turns = (np.ptp(x, axis=0) >= least_turn) & (np.abs(x).max(0) <= _MOST_TURNS)
    inputs = [
        (u, column)
        for u, column, is_angle in zip(input_symbols(x.shape[1]), x.T, turns, strict=True)
        if is_angle
    ]
    for (u, a), (v, b) in itertools.combinations(tuple(inputs), 2):
        inputs += [(u - v, a - b), (u + v, a + b)]
    ranked = sorted(inputs, key=lambda entry: -float(np.ptp(entry[1])))
    return [angle for angle, _ in ranked[:sets]]


def _with_waves(symbols: Sequence[sympy.Symbol], angle: sympy.Expr) -> list[sympy.Expr]:
    """Replace the inputs of an angle by the cosine and the sine of the angle, which come last."""
    others = [each for each in symbols if each not in angle.free_symbols]
    return [*others, sympy.cos(angle), sympy.sin(angle)]


def quotient_of_polynomials(x: Array, y: Array, size: Array, waves: bool) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms that reproduces y, or None.

    With the constant of Q set to 1, P / Q = y becomes P - y (Q - 1) = y, which is solved by least
    squares in centred inputs. The degrees are increased until the error suddenly drops to rounding;
    if it falls gradually instead, the quotient is only an approximation and is not returned.
    Monomials are then eliminated as long as the error stays at rounding.

    Args:
        x: Inputs, shape (N, inputs).
        y: Outputs, shape (N,).
        size: Sizes of the outputs, shape (N,); errors are measured relative to them.
        waves: Whether the last two inputs are the cosine and the sine of an angle.
    """
    # Largest RMS error, relative to y, at which a quotient counts as exact.
    no_error = 1e-12
    left = max(no_error * (1.0 if np.ptp(size) else min(float(np.ptp(y / size)), 1.0)), _EPSILON)
    bases = _bases(x, size)
    tried = (_sudden(base, y, 1, size, left, waves) for base in bases)
    monomials = next(filter(None, tried), None)
    expression = _sparse_quotient(x, y, size, monomials) if monomials else None
    return expression if expression is not None and expression.free_symbols else None


def _bases(x: Array, size: Array) -> list[Array]:
    """Return the sets of scaled inputs (N, inputs) in which quotients are searched, one by one.

    Centred inputs come first, because their monomials are least correlated. If y spans decades,
    centring loses digits of small inputs, so inputs that are scaled but not centred follow.
    """
    centred = (x - x.mean(0)) / np.ptp(x, axis=0) * 2
    return [centred, x / np.abs(x).max(0)] if np.ptp(size) else [centred]


#: Monomials of the numerator, monomials of the denominator (which are multiplied by y), and the
#: largest error allowed when some of them are eliminated.
_Monomials = tuple[Sequence[Powers], Sequence[Powers], float]


def _sudden(
    x: Array, y: Array, power: int, size: Array, allowed: float, waves: bool
) -> _Monomials | None:
    """Return the smallest set of monomials for which the error suddenly drops, or None.

    y^power is fitted by a sum of monomials and of monomials times y. If `power` is 1, y is a
    quotient, and the constant is not among the monomials times y; if it is 2, y solves a quadratic
    equation. Errors are relative to size^power.

    Args:
        x: Inputs, shape (N, inputs).
        y: Outputs, shape (N,).
        power: 1 or 2.
        size: Sizes of y, shape (N,).
        allowed: Largest relative RMS error.
        waves: Whether the last two inputs are the cosine and the sine of an angle.
    """
    # Largest factor by which the error may grow when monomials are eliminated.
    growth = 10.0
    # Largest number of monomials in the regression.
    max_monomials = 250
    # Maximum degree of a denominator.
    degree_below = 4
    # Maximum degree of a numerator.
    degree = 6
    inputs = x.shape[1]
    goal = (y / size) ** power
    unit = size[:, None] ** power
    max_terms = min(len(y) // 3, max_monomials)
    powers = partial(_powers, inputs, waves=waves)
    smallest: tuple[int, _Monomials] | None = None
    # If an input takes k values, its k-th power is a polynomial of lower degree. The linear problem
    # would then have a trivial solution for any y.
    values = min(len(np.unique(column)) for column in x.T)
    for q in range(min(degree_below + 1, values)):
        below = powers(q)[1 if power == 1 else 0 :]
        counts = [len(below) + len(powers(p)) for p in range(degree + 1)]
        counts = [count for count in counts if count <= max_terms]
        if not counts:
            break
        above = powers(len(counts) - 1)
        columns = _columns(x, y, above, below) / unit
        columns = np.column_stack([columns / np.linalg.norm(columns, axis=0), goal])
        count_work(3 * COSTS.product * columns.size * columns.shape[1])
        # The entries of the last column of the triangular factor from row k on are the part of
        # `goal` that the first k columns do not explain.
        triangle = np.asarray(np.linalg.qr(columns, mode="r"))
        rest = triangle[:, -1]
        before = 1.0
        for count in counts:
            left = float(np.linalg.norm(rest[count:])) / math.sqrt(len(y))
            sudden = left <= allowed and left < _SUDDEN * before
            if sudden and (smallest is None or count < smallest[0]):
                may_leave = min(allowed, max(growth * left, _ROUNDING))
                smallest = count, (above[: count - len(below)], below, may_leave)
            before = left
    return smallest[1] if smallest else None


def _sparse_quotient(x: Array, t: Array, size: Array, monomials: _Monomials) -> sympy.Expr | None:
    """Eliminate monomials from a quotient of polynomials as far as the error allows.

    The coefficients are the null vector of the matrix of all columns, which determines them up to a
    factor. The largest coefficient of the denominator is set to 1, and least squares determine the
    others. The result is None if more than `_TERMS` monomials remain.
    """
    above, below, allowed = monomials
    scale = np.abs(x).max(0)
    below = [above[0], *below]
    columns = _columns(x / scale, -t, above, below) / size[:, None]
    null = np.linalg.svd(np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[1])[2][-1]
    largest = int(np.argmax(np.abs(null[: len(below)])))
    solved = few_terms(np.delete(columns, largest, axis=1), -columns[:, largest], allowed)
    if solved is None or np.count_nonzero(solved) > _TERMS:
        return None
    exponents = [*below, *above]
    cut = len(below)
    natural = np.insert(solved, largest, 1.0) / np.prod(scale ** np.array(exponents), axis=1)
    natural = natural / next(c for c in natural if c)
    return _polynomial(natural[cut:], above) / _polynomial(natural[:cut], below)


def _polynomial(coefficients: Array, powers: Sequence[Powers]) -> sympy.Expr:
    """Return the polynomial with these `powers` and `coefficients` (monomials,)."""
    symbols = input_symbols(len(powers[0]))
    return combination(
        coefficients, [sympy.Mul(*map(operator.pow, symbols, each)) for each in powers]
    )


def _quadratics(x: Array, y: Array, size: Array, waves: bool) -> list[sympy.Expr]:
    """Find polynomials A and B with few terms such that y^2 = A + B y, and solve for y.

    Returns:
        Both solutions, each in two forms (see `_roots`); an empty list if there are no such
        polynomials.
    """
    monomials = _sudden(_bases(x, size)[0], y, 2, size, _EPSILON, waves)
    if monomials is None:
        return []
    scale = np.abs(x).max(0)
    (above, below, allowed) = monomials
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
    """Return the positive and the negative square root of a quotient, each in two forms.

    In the first two results, the quotient is factored and squared factors are taken out of the
    root, so that these factors can change their sign. In the last two, the quotient is left as it
    is.
    """
    exact = quotient.xreplace(
        {c: sympy.Rational(c).limit_denominator(10**6) for c in quotient.atoms(sympy.Float)}
    )
    factored = sympy.sqrt(sympy.factor(exact)).replace(sympy.Abs, lambda u: u)
    return [factored, -factored, sympy.sqrt(quotient), -sympy.sqrt(quotient)]


def _columns(x: Array, factor: Array, above: Sequence[Powers], below: Sequence[Powers]) -> Array:
    """Return the values of monomials, shape (N, monomials).

    The monomials `below`, times `factor` (N,), come first; the monomials `above` follow.
    """
    chosen = [*below, *above]
    powers = [np.ones_like(x)]
    count_work(COSTS.term_value * len(x) * len(chosen))
    for _ in range(max(map(max, chosen))):
        powers.append(powers[-1] * x)
    values = np.ones((len(x), len(chosen)))
    for place, each in enumerate(chosen):
        for i, power in enumerate(each):
            if power:
                values[:, place] *= powers[power][:, i]
    values[:, : len(below)] *= factor[:, None]
    return values


@cache
def _powers(inputs: int, degree: int, waves: bool = False) -> tuple[Powers, ...]:
    """Return the exponents of all monomials up to a degree, sorted by degree.

    With `waves`, the last two inputs are the cosine and the sine of an angle. Their total exponent
    is then at most 2 and the exponent of the sine at most 1, because sin^2 = 1 - cos^2, and higher
    powers have shorter forms as cosines and sines of multiples of the angle.
    """
    # Each monomial is a product of `degree` variables; the last index stands for the number 1.
    chosen = itertools.combinations_with_replacement(range(inputs + 1), degree)
    exponents = (tuple(each.count(i) for i in range(inputs)) for each in chosen)
    kept = (each for each in exponents if not waves or (sum(each[-2:]) <= 2 and each[-1] <= 1))
    return tuple(sorted(kept, key=lambda powers: (sum(powers), powers)))


def few_terms(columns: Array, y: Array, allowed: float) -> Array | None:
    """Fit y (N,) with few of the columns (N, columns), by backward elimination.

    Returns:
        Coefficients (columns,), most of them 0, for which the RMS residual is at most `allowed`;
        None if the residual is larger even with all columns.
    """
    kept = np.arange(columns.shape[1])

    def solve(chosen: NDArray[np.intp]) -> Array | None:
        count_work(COSTS.solved(len(y), len(chosen)))
        coefficients = np.asarray(
            np.linalg.lstsq(columns[:, chosen], y, rcond=1e-17)[0], dtype=np.float64
        )
        left = float(np.sqrt(np.mean((columns[:, chosen] @ coefficients - y) ** 2)))
        return coefficients if left <= allowed else None

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
