"""Rewritings of expressions that textbooks use, each a function from an expression to another one.

A rewriting may hold for some points only: `simplification.py` keeps a form if it has the values of
the expression at the points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import sympy
from sympy import Expr

from kanrun.engine.symbolic.candidates import DIGITS, apart
from kanrun.engine.symbolic.written_numbers import as_written, nice, size, window_of

#: Relative difference of a sum's smallest coefficient from that of a perfect square.
_SQUARE = 1e-4
#: Size of a coefficient, relative to the largest, that is only rounding.
_ROUNDING = 1e-14
#: A function from an expression to another form of it.
Rewriting = Callable[[Expr], Expr]


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


def reciprocals(expression: Expr) -> Expr:
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
#: Sequences of rewritings that are tried, each from the shortest form so far.
TRANSFORMS: tuple[tuple[Rewriting, ...], ...] = (
    (_common_factors,),
    (sympy.expand,),
    (_divided,),
    (reciprocals,),
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
#: Rewritings that take most of the time.
HEAVY = (_factor, sympy.simplify, _simplify_positive)
#: Rewritings whose time is proportional to the size of the expression alone. With polynomials with
#: long coefficients, or trigonometric functions of multiples, one call of another takes minutes.
LIGHT = (
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
