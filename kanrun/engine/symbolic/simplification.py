"""Equivalent forms of an expression, of which the shortest with the same values is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import sympy
from sympy import Expr
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import DIGITS, Array, apart
from kanrun.engine.symbolic.constants import (
    as_written,
    decimals,
    exact_decimals,
    nice,
    size,
    window_of,
)
from kanrun.engine.symbolic.problem import EXACT
from kanrun.errors import KanrunError
from kanrun.formulas import to_numpy

#: Maximum number of terms of an expanded expression; sympy has no limit of its own.
_MAX_TERMS = 400
#: Relative difference of a sum's smallest coefficient from that of a perfect square.
_SQUARE = 1e-4
#: Size of a coefficient, relative to the largest, that is only rounding.
_ROUNDING = 1e-14
#: Relative difference of equal forms: ten times the rounding, as forms cancel differently.
_EQUAL = 10 * EXACT
#: Quantile of the values to which the difference is relative where they are smaller.
_USUAL = 0.9
#: Errors that sympy raises for expressions that a transform cannot take.
CANNOT = (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError)
Rewriting = Callable[[Expr], Expr]


def equivalent_forms(
    expression: Expr, names: Sequence[str], points: Array, budget: float
) -> list[Expr]:
    """Return equivalent forms within work of `budget`, `expression` too, shortest first.

    A form counts only if it has the values of `expression` at `points` (N, d), to rounding. Of
    equally short forms those with fewer minus signs come first.
    """
    found = {expression: size(expression)}
    reference = to_numpy(expression, names)(points)
    allowance = Budget(budget)
    for steps in _TRANSFORMS:
        for start in dict.fromkeys([min(found, key=found.__getitem__), expression]):
            form = start
            try:
                for step in steps:
                    _claim(form, step, allowance.left)
                    form = step(form)
                if form not in found and _same(form, names, points, reference):
                    found[form] = size(form)
            except (KanrunError, _TooLarge, *CANNOT):
                # The expression as it is stands.
                continue
    return sorted(found, key=lambda form: (found[form], str(form).count("-")))


class _TooLarge(Exception):
    """A transform would take more work than is left, or expand too far."""


def _claim(form: Expr, step: Rewriting, left: float) -> None:
    """Count the work of a transform before it runs, by the size of the expression.

    Sympy has no limit of its own: transforms that may take more than is left are not begun, though
    most take less.
    """
    terms = expansion_terms(form)
    operations = float(sympy.count_ops(form))
    numbers = sum(1 if each.is_Float else len(str(each)) / _SHORT for each in decimals(form))
    most = COSTS.transform * operations * terms * (1 + numbers)
    if terms > _MAX_TERMS or (step not in _LIGHT and most > left):
        raise _TooLarge
    fraction, steps = (_HEAVY_WORK, _STEPS) if step in _HEAVY else (_USUAL_WORK, 1)
    count_work(COSTS.operation * steps * operations + (step not in _LIGHT) * fraction * most)


def proven_equal(first: Expr, second: Expr, budget: float) -> str:
    """Return `yes` or `no` if sympy shows whether the two are equal, else `unknown`."""
    difference = exact_decimals(first) - exact_decimals(second)
    try:
        _claim(difference, sympy.simplify, budget)
        zero = sympy.simplify(sympy.expand(difference))
    except (_TooLarge, *CANNOT):
        return "unknown"
    if zero == 0:
        return "yes"
    return "no" if not zero.atoms(sympy.Float) else "unknown"


def expansion_terms(expression: Expr) -> int:
    """Return an upper bound of the terms that any part of `expression` has when it is expanded."""
    return max([_terms(expression), *(expansion_terms(each) for each in expression.args)])


def _terms(expression: Expr) -> int:
    if expression.is_Add:
        return sum(_terms(each) for each in expression.args)
    if expression.is_Mul:
        return math.prod(_terms(each) for each in expression.args)
    if expression.is_Pow and expression.exp.is_Integer:
        terms = _terms(expression.base)
        power = abs(int(expression.exp))
        return math.comb(terms + power - 1, power) if terms > 1 else 1
    if isinstance(expression, TrigonometricFunction):
        # Sympy halves angles as long as their factor is even, and has twice the terms each time.
        factor = expression.args[0].as_coeff_Mul(rational=True)[0].p
        return doublings if (doublings := abs(factor & -factor)) > _MAX_TERMS else 1
    return 1


def _same(form: Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    """Return whether the form has the values of the reference (N,) wherever that is defined."""
    value = to_numpy(form, names)(points)
    defined = np.isfinite(reference)
    if not defined.any() or not np.isfinite(value[defined]).all():
        return False
    size = np.abs(reference[defined])
    allowed = _EQUAL * np.maximum(size, np.quantile(size, _USUAL))
    return bool(np.all(np.abs(value[defined] - reference[defined]) <= allowed))


def _simplify_positive(expression: Expr) -> Expr:
    """Simplify as if the variables were positive.

    The values at the points decide whether that was allowed.
    """
    positive, variables = sympy.posify(expression)
    return sympy.simplify(sympy.expand_log(positive, force=True)).xreplace(variables)


def _logarithms(expression: Expr) -> Expr:
    """Write atanh and acoth as logarithms, and logarithms of products as sums."""
    for function in (sympy.atanh, sympy.acoth):
        expression = expression.replace(function, lambda u, f=function: f(u).rewrite(sympy.log))
    expression = expression.replace(sympy.log, lambda u: sympy.log(_quotient(u)))
    expression = sympy.expand_log(expression, force=True)
    if expression.has(sympy.Float):
        # Only decimal numbers cancel these.
        logarithms = [each for each in expression.atoms(sympy.log) if each.is_number]
        expression = expression.xreplace({each: each.evalf(DIGITS) for each in logarithms})
    return sympy.expand(expression)


def _powers_outside(expression: Expr) -> Expr:
    """Write logarithms of powers, and of products of equal powers, as multiples of logarithms."""

    def outside(u: Expr) -> Expr:
        powers = [factor.as_base_exp() for factor in sympy.Mul.make_args(u)]
        first = powers[0][1]
        first = -first if first.could_extract_minus_sign() else first
        if any(not (exponent / first).is_Integer for _, exponent in powers):
            return sympy.log(u)
        inside = (base ** (exponent / first) for base, exponent in powers)
        return first * sympy.log(sympy.Mul(*inside))

    return expression.replace(sympy.log, outside)


def _signs(expression: Expr) -> Expr:
    """Move the minus sign of a product into an odd power of a sum or into a logarithm."""

    def moved(product: Expr) -> Expr:
        coefficient, rest = product.as_coeff_Mul()
        for factor in sympy.Mul.make_args(rest) if coefficient.is_negative else ():
            base, exponent = factor.as_base_exp()
            if isinstance(factor, sympy.log):
                return -coefficient * (rest / factor) * sympy.log(1 / factor.args[0])
            if base.is_Add and exponent.is_odd:
                return -coefficient * (rest / factor) * (-base) ** exponent
        return product

    return expression.replace(lambda part: part.is_Mul, moved)


def _by_functions(expression: Expr) -> Expr:
    """Collect the terms of each function: x + (y - x) exp(z) for x - x exp(z) + y exp(z)."""
    functions = sorted(expression.atoms(sympy.Function), key=str)
    return sympy.collect(sympy.expand(expression), functions)


def _roots(expression: Expr) -> Expr:
    """Write roots of quotients as quotients of roots, without minus signs under them."""

    def root(base: Expr, exponent: Expr) -> Expr:
        if not exponent.is_Rational or exponent.is_Integer:
            return base**exponent
        above, below = map(sympy.expand, sympy.fraction(sympy.together(base)))
        if above.could_extract_minus_sign():
            above = -above
            below = -below
        return above**exponent * below ** (-exponent)

    return expression.replace(sympy.Pow, root)


def _radicals(expression: Expr) -> Expr:
    """Write products and quotients of powers of equal roots as one root."""

    def joined(product: Expr) -> Expr:
        inside: dict[Expr, Expr] = {}
        for factor in product.args:
            base, exponent = factor.as_base_exp()
            if exponent.is_Rational and not exponent.is_Integer:
                root = sympy.Rational(1, exponent.q)
                inside[root] = inside.get(root, sympy.S.One) * base**exponent.p
            else:
                inside[sympy.S.One] = inside.get(sympy.S.One, sympy.S.One) * factor
        quotients = {exponent: sympy.fraction(base) for exponent, base in inside.items()}
        for exponent, (above, below) in quotients.items():
            if above.could_extract_minus_sign():
                inside[exponent] = sympy.expand(-above) / sympy.expand(-below)
        return sympy.Mul(*(base**exponent for exponent, base in inside.items()))

    return expression.replace(lambda part: part.is_Mul, joined)


def half_angles(expression: Expr) -> Expr:
    """Write cosines as squares of sines: sin(x)^2 for 1/2 - cos(2 x)/2."""
    return sympy.expand(expression.replace(sympy.cos, lambda u: 1 - 2 * sympy.sin(u / 2) ** 2))


def _complete_squares(expression: Expr) -> Expr:
    """Write c (a - k b)^2 for c a^2 - 2 c k a b + c k^2 b^2 in sums."""

    def root(square: Expr) -> Expr | None:
        powers = [factor.as_base_exp() for factor in sympy.Mul.make_args(square)]
        even = all((exponent / 2).is_Integer for base, exponent in powers if base != 1)
        return sympy.Mul(*(base ** (exponent / 2) for base, exponent in powers)) if even else None

    def squares(total: Expr) -> Expr:
        terms = {rest: factor for factor, rest in map(apart, total.args)}
        ranked = sorted(terms, key=lambda each: -abs(float(terms[each])))
        roots = [(each, found) for each in ranked if (found := root(each)) is not None]
        parts = []
        for (first, a), (second, b) in itertools.combinations(roots, 2):
            if {first, second, a * b} <= terms.keys() and math.isclose(
                terms[a * b] ** 2, 4 * terms[first] * terms[second], rel_tol=_SQUARE
            ):
                parts.append(terms[first] * (a + terms[a * b] / (2 * terms[first]) * b) ** 2)
                for each in (first, second, a * b):
                    del terms[each]
        return sympy.Add(*parts, *(factor * rest for rest, factor in terms.items()))

    return expression.replace(lambda part: part.is_Add, squares)


def _unsquared(expression: Expr) -> Expr:
    """Write a - b for the root of (a - b)^2, where that has the same values."""

    def root(base: Expr, exponent: Expr) -> Expr:
        factors = sympy.Mul.make_args(base) if abs(exponent) == sympy.S.Half else [base]
        powers = (factor.as_base_exp() for factor in factors)
        return sympy.Mul(*(inner ** (power * exponent) for inner, power in powers))

    squares = _complete_squares(sympy.together(expression)).replace(sympy.Pow, root)
    return squares.replace(sympy.Abs, lambda u: u)


def _inside(expression: Expr) -> Expr:
    """Move the number or a variable of a product into a power of a sum, or into a root.

    1/(x/c + 1) is c/(x + c), and sqrt(x^2 + y^2) is x sqrt(1 + y^2/x^2).
    """

    def moved(product: Expr) -> Expr:
        number, rest = apart(product)
        factors = sympy.Mul.make_args(rest)
        movable = [abs(number), *(each for each in factors if each.as_base_exp()[0].is_Symbol)]
        forms = [product]
        for factor, other in itertools.product(factors, movable):
            base, exponent = factor.as_base_exp()
            if exponent.is_Rational and not base.is_Symbol:
                above, below = sympy.fraction(sympy.together(base * other ** (1 / exponent)))
                inner = sympy.expand(above) / sympy.expand(below)
                forms.append(product / factor / other * inner**exponent)
        return min(forms, key=size)

    return expression.replace(lambda part: part.is_Mul, moved)


def _quotient(expression: Expr) -> Expr:
    """Return one fraction without coefficients that are only rounding."""

    def significant(total: Expr) -> Expr:
        terms = sympy.Add.make_args(sympy.expand(total))
        sizes = [abs(float(apart(term)[0])) for term in terms]
        pairs = zip(terms, sizes, strict=True)
        return sympy.Add(*(term for term, size in pairs if size > _ROUNDING * max(sizes)))

    above, below = sympy.fraction(sympy.together(expression))
    return sympy.factor_terms(significant(above)) / sympy.factor_terms(significant(below))


def _divided(expression: Expr) -> Expr:
    """Divide the parts of a numerator that other variables than the denominator's tell apart.

    (x + x y + y)/(x + 1) becomes y + x/(x + 1).
    """
    above, below = sympy.fraction(sympy.together(expression))
    if below.is_number or not below.is_polynomial():
        return expression
    factors = sympy.Mul.make_args(sympy.factor_terms(above))
    others = sorted(above.free_symbols - below.free_symbols, key=str)
    for factor in (each for each in factors if each.is_Add):
        parts = sympy.collect(sympy.expand(factor), others, evaluate=False)
        terms = (sympy.cancel(part / below) * product for product, part in parts.items())
        return sympy.Add(*terms) * sympy.Mul(*(each for each in factors if each != factor))
    return expression


def _reciprocals(expression: Expr) -> Expr:
    """Divide a denominator by factors of the numerator: 1/(1/x + 1/y) for x y/(x + y)."""
    above, below = sympy.fraction(sympy.together(expression))
    if len(above.free_symbols) < 2 or not below.is_polynomial():
        return expression
    factors = (above, *sympy.Mul.make_args(above))
    return min((above / each / sympy.expand(below / each) for each in factors), key=size)


def _common_factors(expression: Expr) -> Expr:
    """Factor out the coefficient of a sum to which all others have the shortest nice ratios.

    2.6 x + 2.6 becomes 2.6 (x + 1), its square 6.76 (x + 1)^2.
    """

    def close(value: float) -> Expr:
        found = nice(value, window_of(value))
        return sympy.nan if found is None else found

    def split(base: Expr) -> tuple[Expr, Expr]:
        pairs = [apart(term) for term in sympy.Add.make_args(base)]
        ranked: list[tuple[int, Expr, list[Expr]]] = []
        for factor in dict.fromkeys(abs(c) for c, _ in pairs):
            ratios = [close(float(c / factor)) for c, _ in pairs]
            if all(each.is_Rational for each in ratios):
                shown = "".join(str(as_written(each)).rstrip("0") for each in ratios)
                ranked.append((len(shown), factor, ratios))
        if not base.is_Add or not ranked:
            return sympy.S.One, base
        _, factor, ratios = min(ranked, key=lambda entry: entry[0])
        return factor, sympy.Add(*(r * rest for r, (_, rest) in zip(ratios, pairs, strict=True)))

    def power(base: Expr, exponent: Expr) -> Expr:
        factor, rest = split(base)
        if factor == 1 or not exponent.is_number:
            return base**exponent
        whole = close(float(factor**exponent))
        return (factor**exponent if whole is sympy.nan else whole) * rest**exponent

    expression = expression.replace(sympy.Pow, power)
    parts = [split(part) for part in sympy.Mul.make_args(expression)]
    return sympy.Mul(*(each for pair in parts for each in pair))


_expand_functions = partial(sympy.expand, trig=True, power_exp=True, log=True, deep=True)
_combine_logarithms = partial(sympy.logcombine, force=True)
_factor = partial(sympy.factor, deep=True)
_TRANSFORMS: tuple[tuple[Rewriting, ...], ...] = (
    (_common_factors,),
    (sympy.expand,),
    (_divided,),
    (_reciprocals,),
    (_by_functions,),
    (_expand_functions, sympy.together, sympy.cancel),
    (_logarithms,),
    (_powers_outside,),
    (_logarithms, _combine_logarithms),
    (_logarithms, sympy.factor_terms, _combine_logarithms),
    (_roots,),
    (_radicals,),
    (half_angles,),
    (sympy.together, _complete_squares),
    (_unsquared,),
    (_inside,),
    (sympy.factor_terms,),
    (_factor,),
    (sympy.simplify,),
    (_simplify_positive,),
    (_powers_outside, _signs),
)
#: Those that take most of the time.
_HEAVY = (_factor, sympy.simplify, _simplify_positive)
#: Operations of these for each operation of the expression, however small it is.
_STEPS = 4
#: Part of the most that these take on average.
_HEAVY_WORK = 0.35
#: Digits of a fraction that takes as long as a decimal number: exact arithmetic keeps all digits.
_SHORT = 4
#: Part of the most that others take on average.
_USUAL_WORK = 0.05
#: Those that take time in proportion to the size of the expression alone; polynomials with long
#: coefficients, and trigonometric functions of multiples, take the others minutes in one call.
_LIGHT = (
    _common_factors,
    _complete_squares,
    _unsquared,
    _inside,
    sympy.together,
    half_angles,
    _radicals,
    _powers_outside,
    _signs,
    sympy.expand,
    sympy.factor_terms,
)
