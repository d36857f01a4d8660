"""Simplify expressions: apply sympy's transformations and keep the shortest equivalent form.

The transformations are applied within a budget of work, and their results are compared by `size`.
Some transformations are valid only for some arguments, such as positive ones. Therefore a result is
kept only if its values at given points equal those of the original expression.

Write the numbers of formulas as a person would, and measure the size of a formula.

Nice numbers are simple fractions, short decimal numbers, and simple multiples of pi, e and roots.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import sympy
from sympy import Expr
from sympy.functions.elementary.hyperbolic import HyperbolicFunction
from sympy.functions.elementary.trigonometric import TrigonometricFunction
from sympy.simplify.fu import TR8

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import DIGITS, Array, apart
from kanrun.engine.symbolic.problem import EXACT
from kanrun.errors import KanrunError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse_expression

#: Smallest relative error that a constant is assumed to have.
PRECISION = 1e-9
#: Numbers of which nice numbers are rational multiples, by their description length in bits.
_UNITS = {
    0: "1",
    2: "pi",
    3: "sqrt(2)",
    4: "1/pi pi^2 sqrt(3) e",
    5: "sqrt(5) 1/e log(2) sqrt(pi) 1/sqrt(pi) 1/sqrt(2*pi)",
    6: "1/pi^2 pi^3 sqrt(6) sqrt(7) sqrt(10) e^2 log(10) sqrt(2*pi) sqrt(2)*pi",
    7: "1/e^2 log(3) sqrt(2)/pi",
    8: "1/pi^3",
}
_SIZED_UNITS = [
    (unit, float(unit), bits)
    for bits, texts in _UNITS.items()
    for unit in (parse_expression(text, ()) for text in texts.split())
]


def nice(value: float, window: float) -> Expr | None:
    """Return the simplest nice number within `window` of `value`, or None if there is none.

    A number that may be near `value` by chance does not count. Short decimal numbers are returned
    as fractions.
    """
    # A number near a constant counts as nice only if the probability that an equally simple number
    # is as near by chance is below this.
    chance = 0.05
    # Largest number of significant digits of a nice decimal number.
    max_digits = 9
    # Largest denominator of a nice fraction.
    max_denominator = 20
    if abs(value) <= window:
        return sympy.S.Zero
    count_work(COSTS.operation)
    found: list[tuple[float, int, Expr, Expr]] = []
    for unit, size, bits in _SIZED_UNITS:
        for q in range(1, max_denominator + 1):
            p = round(value / size * q)
            if p != 0 and math.gcd(p, q) == 1 and abs(p * size / q - value) <= window:
                cost = bits + math.log2(abs(p)) + 2 * math.log2(q)
                found.append((cost, len(found), sympy.Rational(p, q), unit))
    for digits in range(max_digits):
        text = f"{value:.{digits}e}"
        if abs(float(text) - value) <= window:
            mantissa = int(text.partition("e")[0].replace(".", "").replace("-", ""))
            # Decimal numbers cost two bits more than their digits, so that 1/2, 3/4 and 5/4 remain
            # fractions.
            cost = 2.0 + math.log2(mantissa)
            found.append((cost, len(found), sympy.Rational(text), sympy.S.One))
            break
    cost, _, number, unit = min(found, default=(math.inf, 0, sympy.S.Zero, sympy.S.One))
    is_no_accident = found and 2**cost * window / max(abs(value), 1.0) < chance
    return number * unit if is_no_accident else None


def window_of(value: float) -> float:
    """Return how far a number may be from the constant `value` to replace it without loss."""
    # A constant below this size is assumed to have the absolute error of a constant of this size.
    small = 1e-3
    return PRECISION * max(abs(value), small)


def nice_phase(value: float, window: float) -> Expr | None:
    """Return the nice phase of a sine or cosine within `window` of `value`, or None.

    A nice phase is a nice number plus 0, pi/2, -pi/2, pi or -pi.
    """
    for turn in (0, sympy.pi / 2, -sympy.pi / 2, sympy.pi, -sympy.pi):
        number = nice(value - float(turn), window)
        if number is not None:
            return number + turn
    return None


def decimals(expression: Expr) -> list[Expr]:
    """Return the numbers in an expression that are not integers."""
    numbers = expression.atoms(sympy.Rational, sympy.Float)
    return sorted((each for each in numbers if not each.is_Integer), key=str)


#: Number of significant digits of a float64 that rounding errors do not affect.
_SHOWN = 15
#: Largest number of characters of a decimal number that counts as exact.
_SHORT = 11
#: Length that is added to the size of an expression for a notation that is unusual in textbooks.
_UNUSUAL = 10.0


def as_written(expression: Expr) -> Expr:
    """Return the expression with its numbers written as a person would.

    Fractions with large denominators become decimal numbers if these are exact and not longer.
    Decimal numbers are rounded to 15 significant digits if that changes them by at most two float64
    rounding errors.
    """
    # Decimal numbers with integer values are written as integers below this size.
    largest_whole = 1e9
    # Smallest denominator of a fraction that may be written as a decimal number, if that is not
    # longer.
    least_decimal = 5

    def shown(number: Expr) -> Expr:
        if number.is_Float:
            value = float(number)
            short = float(f"{value:.{_SHOWN}g}")
            if math.isclose(short, value, rel_tol=2 * sys.float_info.epsilon):
                value = short
            is_whole = value.is_integer() and abs(value) < largest_whole
            return sympy.Integer(int(value)) if is_whole else sympy.Float(repr(value), DIGITS)
        decimal = repr(float(number))
        is_plain = number.q < least_decimal
        if is_plain or len(decimal) > len(str(number)) or sympy.Rational(decimal) != number:
            return number
        return sympy.Float(decimal, DIGITS)

    def is_half_decimal(product: Expr) -> bool:
        numbers = [each for each in product.args if product.is_Mul and each.is_number]
        return len(numbers) > 1 and any(each.is_Float for each in numbers)

    def one_number(product: Expr) -> Expr:
        numbers, rest = apart(product)
        return numbers.evalf(DIGITS) * rest

    expression = expression.replace(is_half_decimal, one_number)
    return expression.xreplace({number: shown(number) for number in decimals(expression)})


def exact_decimals(expression: Expr) -> Expr:
    """Replace the short decimal numbers of an expression by exact fractions."""
    texts = {number: repr(float(number)) for number in expression.atoms(sympy.Float)}
    short = {number: sympy.Rational(text) for number, text in texts.items() if len(text) <= _SHORT}
    return expression.xreplace(short)


def size(expression: Expr) -> float:
    """Return the size of an expression, by which equivalent forms are compared.

    The size is the number of operations, with functions counted twice, plus the lengths of numbers.
    Notations that are unusual in textbooks count more: logarithms of powers, minus signs under
    roots, and exponentials of inverse hyperbolic functions.
    """
    # Length of a decimal point or a fraction bar in the size of an expression.
    fraction = 0.3
    # Length of one digit in the size of an expression, in which an operation has length 1.
    digit = 0.1
    shown = as_written(expression)
    parts = list(sympy.preorder_traversal(shown))
    unusual = sum(
        (each.func is sympy.log and each.args[0].is_Pow)
        or (each.is_Pow and not each.exp.is_Integer and apart(each.base)[0].is_negative)
        or (each.func is sympy.exp and each.has(sympy.atanh, sympy.acoth))
        for each in parts
    )
    functions = sum(isinstance(each, sympy.Function) for each in parts)
    numbers = [each for each in parts if each.is_Number and abs(each) != 1]
    lengths = [min(digit * len(str(number).rstrip("0")), 1.0) for number in numbers]
    fractions = sum(not number.is_Integer for number in numbers)
    operations = sympy.count_ops(shown) + functions + _UNUSUAL * unusual
    return float(operations + sum(lengths) + fraction * fractions)


def round_numbers(expression: Expr, allowed: Callable[[Expr], bool]) -> Expr:
    """Round decimal numbers to nice numbers or zero, one after another.

    A rounding is kept if `allowed` returns True for the new expression.
    """
    waves = expression.atoms(sympy.sin, sympy.cos)
    phases = {part for wave in waves for part in sympy.Add.make_args(wave.args[0])}
    floats = expression.atoms(sympy.Float)
    for number in sorted(floats, key=lambda each: (abs(float(each)), str(each))):
        value = float(number)
        rounded = (nice_phase if number in phases else nice)(value, window_of(value))
        if rounded is not None:
            trial = expression.xreplace({number: rounded})
            if not trial.has(sympy.zoo, sympy.nan, sympy.oo) and allowed(trial):
                expression = trial
    return expression


#: Largest number of terms of an expanded expression; sympy itself has no limit.
_MAX_TERMS = 400
#: Largest relative difference between the values of equal forms. It exceeds EXACT because forms
#: lose different numbers of digits by cancellation.
_EQUAL = 10 * EXACT
#: Largest relative difference between b^2 and 4 a c at which a u^2 + b u v + c v^2 counts as a
#: perfect square.
_SQUARE = 1e-4
#: A wave is left out if its amplitude is below this fraction of the largest amplitude.
_FAINT = 1e-13
#: Errors that sympy raises for expressions that it cannot transform.
_CANNOT = (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError)


def half_angles(expression: Expr) -> Expr:
    """Write cosines as squares of sines: 1/2 - cos(2 x)/2 becomes sin(x)^2."""
    return sympy.expand(expression.replace(sympy.cos, lambda u: 1 - 2 * sympy.sin(u / 2) ** 2))


def _positive(expression: Expr) -> Expr:
    """Simplify as if the variables were positive."""
    positive, variables = sympy.posify(expression)
    return sympy.simplify(sympy.expand_log(positive, force=True)).xreplace(variables)


def _logarithms(expression: Expr) -> Expr:
    """Write inverse hyperbolic functions as logarithms, and logarithms of quotients as sums."""
    for function in (sympy.atanh, sympy.acoth):
        expression = expression.replace(function, lambda u, f=function: f(u).rewrite(sympy.log))
    whole = expression.replace(sympy.log, lambda u: sympy.log(sympy.factor(u)))
    return sympy.expand(sympy.expand_log(whole, force=True))


def _by_functions(expression: Expr) -> Expr:
    """Collect the terms of each function: x - x exp(z) + y exp(z) becomes x + (y - x) exp(z)."""
    functions = sorted(expression.atoms(sympy.Function), key=str)
    return sympy.collect(sympy.expand(expression), functions)


def _divided(expression: Expr) -> Expr:
    """Divide a numerator by a denominator, as polynomials in the denominator's variables.

    For example, (x + x y + y)/(x + 1) becomes y + x/(x + 1).
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
    """Divide a denominator by factors of the numerator: x y/(x + y) becomes 1/(1/x + 1/y)."""
    above, below = sympy.fraction(sympy.together(expression))
    factors = (above, *sympy.Mul.make_args(above))
    return min((above / each / sympy.expand(below / each) for each in factors), key=size)


def _roots(expression: Expr) -> Expr:
    """Write roots of quotients as quotients of roots: sqrt(-1/(x - 1)) becomes 1/sqrt(1 - x)."""

    def quotient(base: Expr, exponent: Expr) -> Expr:
        if exponent.is_Integer or not exponent.is_Rational:
            return base**exponent
        above, below = sympy.fraction(sympy.together(base))
        if apart(above)[0].is_negative:
            above, below = -above, sympy.expand(-below)
        return above**exponent * _split_powers(sympy.factor(below) ** -exponent)

    return expression.replace(sympy.Pow, quotient)


def _one_root(expression: Expr) -> Expr:
    """Write quotients of roots as roots of quotients: sqrt(x)/sqrt(y) becomes sqrt(x/y)."""

    def root(product: Expr) -> Expr:
        bases: dict[Expr, Expr] = {}
        for base, exponent in (factor.as_base_exp() for factor in product.args):
            is_root = exponent.is_Rational and not exponent.is_Integer
            degree = abs(exponent) if is_root else sympy.S.One
            bases[degree] = bases.get(degree, sympy.S.One) * base ** (exponent / degree)
        return sympy.Mul(*(base**degree for degree, base in bases.items()))

    return expression.replace(lambda part: part.is_Mul, root)


def _unsigned(expression: Expr) -> Expr:
    return expression.replace(sympy.Abs, lambda part: part)


def _squares(expression: Expr) -> Expr:
    """Complete squares in sums: c a^2 - 2 c k a b + c k^2 b^2 becomes c (a - k b)^2."""

    def root(square: Expr) -> Expr | None:
        powers = [factor.as_base_exp() for factor in sympy.Mul.make_args(square)]
        even = all((exponent / 2).is_Integer for base, exponent in powers if base != 1)
        return sympy.Mul(*(base ** (exponent / 2) for base, exponent in powers)) if even else None

    def squares(total: Expr) -> Expr:
        terms = {rest: factor for factor, rest in map(apart, total.args)}
        ranked = sorted(terms, key=lambda each: -abs(float(terms[each])))
        roots = [(each, base) for each in ranked if (base := root(each)) is not None]
        parts = []
        for (first, a), (second, b) in itertools.combinations(roots, 2):
            if {first, second, a * b} <= terms.keys() and math.isclose(
                terms[a * b] ** 2, 4 * terms[first] * terms[second], rel_tol=_SQUARE
            ):
                parts.append(terms[first] * (a + terms[a * b] / (2 * terms[first]) * b) ** 2)
                for each in (first, second, a * b):
                    del terms[each]
        return sympy.Add(*parts, *(factor * rest for rest, factor in terms.items()))

    return sympy.together(expression).replace(lambda part: part.is_Add, squares)


def _waves(expression: Expr) -> Expr:
    """Write powers and products of sines and cosines as single waves of multiples of their angles.

    For example, 4 cos(x)^3 - 3 cos(x) becomes cos(3 x), and 3 sin(x) + 4 cos(x) becomes
    5 cos(x - 0.6435). Waves that are only rounding are left out.
    """
    others = list[Expr]()
    amplitudes: dict[tuple[Expr, Expr], list[float]] = {}
    for term in sympy.Add.make_args(sympy.expand(TR8(expression))):
        waves = [each for each in sympy.Mul.make_args(term) if each.func in (sympy.cos, sympy.sin)]
        if len(waves) == 1:
            factor, rest = apart(term / waves[0])
            pair = amplitudes.setdefault((rest, waves[0].args[0]), [0.0, 0.0])
            pair[waves[0].func is sympy.sin] += float(factor)
        else:
            others.append(term)
    faint = _FAINT * max(map(abs, itertools.chain(*amplitudes.values())), default=0.0)
    for (rest, angle), (cosine, sine) in amplitudes.items():
        if abs(cosine) <= faint:
            others += [_number(sine) * rest * sympy.sin(angle)] if abs(sine) > faint else []
            continue
        size = math.copysign(math.hypot(cosine, sine), cosine)
        phase = _number(math.atan(sine / cosine)) if abs(sine) > faint else 0
        others.append(_number(size) * rest * sympy.cos(angle - phase))
    return sympy.Add(*others)


def _number(value: float) -> Expr:
    """Return a nice number that is near `value`, or else a decimal number."""
    near = nice(value, window_of(value))
    return sympy.Float(value, DIGITS) if near is None else near


def _common_factors(expression: Expr) -> Expr:
    """Factor one coefficient out of each sum if the ratios of the others to it are nice numbers.

    The coefficient with the shortest ratios is chosen. For example, 2.6 x + 2.6 becomes 2.6 (x +
    1), and (2.6 x + 2.6)^2 becomes 6.76 (x + 1)^2.
    """

    def ratios(pairs: Sequence[tuple[Expr, Expr]], factor: Expr) -> list[Expr] | None:
        values = [float(c / factor) for c, _ in pairs]
        numbers = [nice(value, window_of(value)) for value in values]
        exact = [each for each in numbers if each is not None and each.is_Rational]
        return exact if len(exact) == len(pairs) else None

    def shown(numbers: Sequence[Expr]) -> int:
        return len("".join(str(as_written(each)).rstrip("0") for each in numbers))

    def split(base: Expr) -> tuple[Expr, Expr]:
        pairs = [apart(term) for term in sympy.Add.make_args(base)]
        choices = {abs(c): ratios(pairs, abs(c)) for c, _ in pairs} if base.is_Add else {}
        near = {factor: numbers for factor, numbers in choices.items() if numbers is not None}
        if not near:
            return sympy.S.One, base
        factor = min(near, key=lambda each: shown(near[each]))
        rests = (rest for _, rest in pairs)
        return factor, sympy.Add(*(r * rest for r, rest in zip(near[factor], rests, strict=True)))

    def power(base: Expr, exponent: Expr) -> Expr:
        factor, rest = split(base)
        return factor**exponent * rest**exponent if exponent.is_number else base**exponent

    parts = map(split, sympy.Mul.make_args(expression.replace(sympy.Pow, power)))
    return sympy.Mul(*(each for pair in parts for each in pair))


#: A transformation of an expression to an equivalent form.
Writing = Callable[[Expr], Expr]
_expand_functions = partial(sympy.expand, trig=True, power_exp=True, log=True, deep=True)
_factor = partial(sympy.factor, deep=True)
_join_logarithms = partial(sympy.logcombine, force=True)
_split_powers = partial(sympy.powdenest, force=True)
_join_powers = partial(sympy.powsimp, force=True, deep=True)
#: Sequences of transformations. They are tried in this order; each starts from the shortest form so
#: far and from the original expression.
_WAYS: tuple[tuple[Writing, ...], ...] = (
    (_common_factors,),
    (sympy.expand,),
    (_by_functions,),
    (_divided,),
    (_reciprocals,),
    (_roots,),
    (_one_root,),
    (_waves,),
    (half_angles,),
    (_expand_functions, sympy.together, sympy.cancel),
    (_logarithms,),
    (_logarithms, _join_logarithms),
    (_join_powers,),
    (_squares,),
    (_squares, _roots),
    (_squares, _roots, _unsigned),
    (sympy.factor_terms,),
    (_factor,),
    (_factor, _split_powers),
    (sympy.simplify,),
    (_positive,),
)
#: Transformations that take most of the time.
_HEAVY = (_factor, sympy.simplify, _positive)
#: Transformations whose time is proportional to the size of the expression. The others may take
#: minutes for polynomials with long coefficients, or for trigonometric functions of multiples.
_LIGHT = (
    _common_factors,
    _squares,
    _join_powers,
    _split_powers,
    sympy.together,
    sympy.expand,
    sympy.factor_terms,
)


def equivalent_forms(
    expression: Expr, names: Sequence[str], points: Array, budget: float
) -> list[Expr]:
    """Return equivalent forms of an expression, including the expression itself, shortest first.

    Among equally short forms, those with fewer minus signs come first.

    Args:
        expression: The expression.
        names: Names of the variables.
        points: Points (N, variables) at which a form must have the same values to rounding.
        budget: Work that may be used.
    """
    sizes = {expression: size(expression)}
    reference = to_numpy(expression, names)(points)
    allowance = Budget(budget)
    for steps in _WAYS:
        for start in dict.fromkeys([min(sizes, key=sizes.__getitem__), expression]):
            form = start
            try:
                for step in steps:
                    _claim(form, step, allowance.left)
                    form = step(form)
                if form not in sizes and _same(form, names, points, reference):
                    sizes[form] = size(form)
            except (KanrunError, _TooLarge, *_CANNOT):
                # The transformation failed or is too expensive, so it is skipped.
                continue
    return sorted(sizes, key=lambda form: (sizes[form], str(form).count("-")))


class _TooLarge(Exception):
    """Raised if a transformation may take more work than is left, or give too many terms."""


def _claim(form: Expr, step: Writing, left: float) -> None:
    """Count the estimated work of a transformation before it runs.

    Sympy cannot be interrupted. Therefore a transformation is not begun if it might take more than
    the remaining work (`left`), even if it would usually take less.

    Raises:
        _TooLarge: If the transformation must not be begun.
    """
    # A fraction with this many characters takes sympy as long as one decimal number. Longer
    # fractions take proportionally longer, because exact arithmetic keeps all their digits.
    short = 4
    # Fraction of its largest possible work that a transformation in `_HEAVY` takes on average.
    heavy_work = 0.35
    # Fraction of its largest possible work that a transformation takes on average.
    usual_work = 0.05
    terms = expansion_terms(form)
    operations = float(sympy.count_ops(form))
    if terms > _MAX_TERMS or COSTS.operation * operations > left:
        raise _TooLarge
    count_work(COSTS.operation * operations)
    if step in _LIGHT:
        return
    numbers = sum(1 if each.is_Float else len(str(each)) / short for each in decimals(form))
    most = COSTS.transform * operations * terms * (1 + numbers)
    if most > left:
        raise _TooLarge
    count_work((heavy_work if step in _HEAVY else usual_work) * most)


def expansion_terms(expression: Expr) -> int:
    """Return an upper bound on the number of terms of any expanded part of `expression`."""
    return max([_terms(expression), *(expansion_terms(each) for each in expression.args)])


def _terms(expression: Expr) -> int:
    # Largest n for which a hyperbolic function of n x may be expanded. Sympy sums over n terms, so
    # its time grows with the square of n; sinh(64 x) takes a second.
    # Largest number by which a logarithm may be multiplied in a transformation. Sympy raises the
    # numbers in its argument to this power; with 5,000,000 it does not end within minutes.
    largest_exponent = 1000
    largest_multiple = 64
    if expression.is_Add:
        return sum(_terms(each) for each in expression.args)
    if expression.is_Mul:
        exponent = expression.as_coeff_Mul(rational=True)[0]
        if abs(exponent) > largest_exponent and expression.has(sympy.log):
            return _MAX_TERMS + 1
        return math.prod(_terms(each) for each in expression.args)
    if expression.is_Pow and expression.exp.is_Integer:
        terms = _terms(expression.base)
        power = abs(int(expression.exp))
        return math.comb(terms + power - 1, power) if terms > 1 else 1
    if isinstance(expression, TrigonometricFunction):
        # Sympy halves an angle as long as its factor is even; each halving doubles the terms.
        factor = expression.args[0].as_coeff_Mul(rational=True)[0].p
        return doublings if (doublings := abs(factor & -factor)) > _MAX_TERMS else 1
    if isinstance(expression, HyperbolicFunction):
        multiple = expression.args[0].as_coeff_Mul(rational=True)[0]
        too_large = multiple.is_Integer and abs(multiple) > largest_multiple
        return _MAX_TERMS + 1 if too_large else 1
    return 1


def _same(form: Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    """Return whether the form has the values `reference` (N,) wherever these are finite."""
    # Level of a quantile of |values|. Differences of smaller values are measured relative to this
    # quantile.
    usual = 0.9
    value = to_numpy(form, names)(points)
    defined = np.isfinite(reference)
    if not defined.any() or not np.isfinite(value[defined]).all():
        return False
    size = np.abs(reference[defined])
    allowed = _EQUAL * np.maximum(size, np.quantile(size, usual))
    return bool(np.all(np.abs(value[defined] - reference[defined]) <= allowed))
