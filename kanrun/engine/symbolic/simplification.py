"""Numbers and expressions as a person writes them.

Nice numbers are simple fractions and multiples of pi, e and roots. Of several ways of writing an
expression the shortest with the same values is kept.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import Array, apart
from kanrun.engine.symbolic.problem import EXACT
from kanrun.errors import KanrunError
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.parsing import parse_expression

#: Relative accuracy of a constant at best, and the size below which its accuracy is absolute.
PRECISION, _SMALL = 1e-9, 1e-3
#: Largest denominator of a nice fraction, and maximum number of significant digits of a decimal.
_MAX_DENOMINATOR, _MAX_DIGITS = 20, 9
#: Probability that a number as simple lies as near by chance, below which a number is nice.
_CHANCE = 0.05
#: Maximum number of terms of an expanded expression; sympy has no limit of its own.
_MAX_TERMS = 400
#: Units of nice numbers, by the bits that naming them costs.
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


def nice(value: float, window: float) -> sympy.Expr | None:
    """Return the simplest nice number within `window` of `value`, or None if it may be chance.

    Nice numbers are fractions times a unit, and short decimal numbers, which are returned as
    fractions too.
    """
    if abs(value) <= window:
        return sympy.S.Zero
    found: list[tuple[float, int, sympy.Expr, sympy.Expr]] = []
    for unit, size, bits in _SIZED_UNITS:
        for q in range(1, _MAX_DENOMINATOR + 1):
            p = round(value / size * q)
            if p != 0 and math.gcd(p, q) == 1 and abs(p * size / q - value) <= window:
                cost = bits + math.log2(abs(p)) + 2 * math.log2(q)
                found.append((cost, len(found), sympy.Rational(p, q), unit))
    for digits in range(_MAX_DIGITS):
        text = f"{value:.{digits}e}"
        if abs(float(text) - value) <= window:
            mantissa = int(text.partition("e")[0].replace(".", "").replace("-", ""))
            # Two bits more than its digits, so that 1/2, 3/4 and 5/4 stay fractions.
            cost = 2.0 + math.log2(mantissa)
            found.append((cost, len(found), sympy.Rational(text), sympy.S.One))
            break
    cost, _, number, unit = min(found, default=(math.inf, 0, sympy.S.Zero, sympy.S.One))
    is_no_accident = found and 2**cost * window / max(abs(value), 1.0) < _CHANCE
    return number * unit if is_no_accident else None


def window_of(value: float) -> float:
    """Return the distance within which a number may stand for a constant without an error."""
    return PRECISION * max(abs(value), _SMALL)


def nice_phase(value: float, window: float) -> sympy.Expr | None:
    """Return a nice phase of a sine: a nice number plus a multiple of a quarter turn, or None."""
    for turn in (0, sympy.pi / 2, -sympy.pi / 2, sympy.pi, -sympy.pi):
        number = nice(value - float(turn), window)
        if number is not None:
            return number + turn
    return None


def decimals(expression: sympy.Expr) -> list[sympy.Expr]:
    """Return the fractions and decimal numbers in an expression."""
    numbers = expression.atoms(sympy.Rational, sympy.Float)
    return sorted((each for each in numbers if not each.is_Integer), key=str)


#: Digits of a float64, and those that are never its rounding alone.
_DIGITS, _SHOWN = 17, 15
#: Denominator from which on a decimal number that is not longer than the fraction is preferred,
#: whole decimal numbers below which are written as integers, and characters of a decimal number
#: that stands for itself.
_LEAST_DECIMAL, _LARGEST_WHOLE, _SHORT = 5, 1e9, 11
#: Size of a digit, and of a decimal point or a fraction bar, relative to an operation.
_DIGIT, _FRACTION = 0.1, 0.3
#: Size of what textbooks do not write, relative to an operation.
_UNUSUAL = 10.0
#: Size of a coefficient, relative to the largest, that is only rounding.
_ROUNDING = 1e-14
#: Relative difference of equal forms, ten times the rounding of a formula as forms cancel
#: differently. It is relative to this quantile of the values where these are smaller.
_EQUAL, _USUAL = 10 * EXACT, 0.9
#: Digits to which the numbers of two forms agree: those of the constants of physics in files.
_FORM_DIGITS = 4
#: Errors that sympy raises for expressions that a transform cannot take.
CANNOT = (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError)
Rewriting = Callable[[sympy.Expr], sympy.Expr]


def equivalent_forms(
    expression: sympy.Expr, names: Sequence[str], points: Array, budget: float
) -> list[sympy.Expr]:
    """Return equivalent forms within work of `budget`, `expression` too, shortest first.

    A form counts only if it has the values of `expression` at `points` (N, d), to rounding.
    """
    found, reference = [expression], to_numpy(expression, names)(points)
    allowance = Budget(budget)
    for steps in _TRANSFORMS:
        for start in dict.fromkeys([min(found, key=size), expression]):
            form = start
            try:
                for step in steps:
                    _claim(form, step, allowance.left)
                    form = step(form)
                if form not in found and _same(form, names, points, reference):
                    found.append(form)
            except (KanrunError, _TooLarge, *CANNOT):
                # The expression as it is stands.
                continue
    return sorted(found, key=size)


class _TooLarge(Exception):
    """A transform would take more work than is left, or expand too far."""


def _claim(form: sympy.Expr, step: Rewriting, left: float) -> None:
    """Count the work of a transform before it runs, by the size of the expression.

    Sympy has no limit of its own.
    """
    terms = expansion_terms(form)
    factors = float(sympy.count_ops(form)) * terms * (1 + len(decimals(form)))
    work = 0.0 if step in _LIGHT else COSTS.operation * factors
    if terms > _MAX_TERMS or work > left:
        raise _TooLarge
    count_work(work)


def proven_equal(first: sympy.Expr, second: sympy.Expr, budget: float) -> str:
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


def expansion_terms(expression: sympy.Expr) -> int:
    """Return an upper bound of the terms that any part of `expression` has when it is expanded."""
    return max([_terms(expression), *(expansion_terms(each) for each in expression.args)])


def _terms(expression: sympy.Expr) -> int:
    if expression.is_Add:
        return sum(_terms(each) for each in expression.args)
    if expression.is_Mul:
        return math.prod(_terms(each) for each in expression.args)
    if expression.is_Pow and expression.exp.is_Integer:
        terms, power = _terms(expression.base), abs(int(expression.exp))
        return math.comb(terms + power - 1, power) if terms > 1 else 1
    return 1


def _same(form: sympy.Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    """Return whether the form has the values of the reference (N,) wherever that is defined."""
    value, defined = to_numpy(form, names)(points), np.isfinite(reference)
    if not defined.any() or not np.isfinite(value[defined]).all():
        return False
    size = np.abs(reference[defined])
    allowed = _EQUAL * np.maximum(size, np.quantile(size, _USUAL))
    return bool(np.all(np.abs(value[defined] - reference[defined]) <= allowed))


def _as_positive(expression: sympy.Expr) -> dict[sympy.Symbol, sympy.Symbol]:
    return {s: sympy.Symbol(s.name, positive=True) for s in expression.free_symbols}


def _as_real(expression: sympy.Expr) -> sympy.Expr:
    return expression.xreplace({s: variable(s.name) for s in expression.free_symbols})


def _simplify_positive(expression: sympy.Expr) -> sympy.Expr:
    """Simplify as if the variables were positive.

    The values at the points decide whether that was allowed.
    """
    positive = expression.xreplace(_as_positive(expression))
    return _as_real(sympy.simplify(sympy.expand_log(positive, force=True)))


def _logarithms(expression: sympy.Expr) -> sympy.Expr:
    """Write atanh and acoth as logarithms, and logarithms of products as sums."""
    for function in (sympy.atanh, sympy.acoth):
        expression = expression.replace(function, lambda u, f=function: f(u).rewrite(sympy.log))
    expression = expression.replace(sympy.log, lambda u: sympy.log(_quotient(u)))
    expression = sympy.expand_log(expression, force=True)
    if expression.has(sympy.Float):
        # Only decimal numbers cancel these.
        logarithms = [each for each in expression.atoms(sympy.log) if each.is_number]
        expression = expression.xreplace({each: each.evalf(_DIGITS) for each in logarithms})
    return sympy.expand(expression)


def _powers_outside(expression: sympy.Expr) -> sympy.Expr:
    """Write logarithms of powers as multiples of logarithms."""
    powers = [each for each in expression.atoms(sympy.log) if each.args[0].is_Pow]
    swap = {each: each.args[0].exp * sympy.log(each.args[0].base) for each in powers}
    return expression.xreplace(swap)


def _roots(expression: sympy.Expr) -> sympy.Expr:
    """Write roots of quotients as quotients of roots, without minus signs under them."""

    def root(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        if not exponent.is_Rational or exponent.is_Integer:
            return base**exponent
        above, below = map(sympy.expand, sympy.fraction(sympy.together(base)))
        if above.could_extract_minus_sign():
            above, below = -above, -below
        return above**exponent * below ** (-exponent)

    return expression.replace(sympy.Pow, root)


def _quotient(expression: sympy.Expr) -> sympy.Expr:
    """Return one fraction without coefficients that are only rounding."""

    def significant(total: sympy.Expr) -> sympy.Expr:
        terms = sympy.Add.make_args(sympy.expand(total))
        sizes = [abs(float(apart(term)[0])) for term in terms]
        pairs = zip(terms, sizes, strict=True)
        return sympy.Add(*(term for term, size in pairs if size > _ROUNDING * max(sizes)))

    above, below = sympy.fraction(sympy.together(expression))
    return sympy.factor_terms(significant(above)) / sympy.factor_terms(significant(below))


def _common_factors(expression: sympy.Expr) -> sympy.Expr:
    """Factor out the coefficient of a sum to which all others have the shortest nice ratios.

    2.6 x + 2.6 becomes 2.6 (x + 1), its square 6.76 (x + 1)^2.
    """

    def close(value: float) -> sympy.Expr:
        found = nice(value, window_of(value))
        return sympy.nan if found is None else found

    def split(base: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
        pairs = [apart(term) for term in sympy.Add.make_args(base)]
        ranked: list[tuple[int, sympy.Expr, list[sympy.Expr]]] = []
        for factor in dict.fromkeys(abs(c) for c, _ in pairs):
            ratios = [close(float(c / factor)) for c, _ in pairs]
            if all(each.is_Rational for each in ratios):
                shown = "".join(str(as_written(each)).rstrip("0") for each in ratios)
                ranked.append((len(shown), factor, ratios))
        if not base.is_Add or not ranked:
            return sympy.S.One, base
        _, factor, ratios = min(ranked, key=lambda entry: entry[0])
        return factor, sympy.Add(*(r * rest for r, (_, rest) in zip(ratios, pairs, strict=True)))

    def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
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
    (_expand_functions, sympy.together, sympy.cancel),
    (_logarithms,),
    (_powers_outside,),
    (_logarithms, _combine_logarithms),
    (_logarithms, sympy.factor_terms, _combine_logarithms),
    (_roots,),
    (sympy.factor_terms,),
    (_factor,),
    (sympy.simplify,),
    (_simplify_positive,),
)
#: Those that take time in proportion to the size of the expression alone; polynomials with long
#: coefficients, and trigonometric functions of multiples, take the others minutes in one call.
_LIGHT = (_common_factors, sympy.expand, sympy.factor_terms, _powers_outside)


def as_written(expression: sympy.Expr) -> sympy.Expr:
    """Return the expression with its numbers as a person writes them.

    Fractions with large denominators become short decimal numbers. Decimal numbers get no more
    digits than name the float64 that they are, or its neighbour.
    """

    def shown(number: sympy.Expr) -> sympy.Expr:
        if number.is_Float:
            value = float(number)
            short = float(f"{value:.{_SHOWN}g}")
            if math.isclose(short, value, rel_tol=2 * sys.float_info.epsilon):
                value = short
            is_whole = value.is_integer() and abs(value) < _LARGEST_WHOLE
            return sympy.Integer(int(value)) if is_whole else sympy.Float(repr(value), _DIGITS)
        decimal, is_plain = repr(float(number)), number.q < _LEAST_DECIMAL
        if is_plain or len(decimal) > len(str(number)) or sympy.Rational(decimal) != number:
            return number
        return sympy.Float(decimal, _DIGITS)

    def is_half_decimal(product: sympy.Expr) -> bool:
        numbers = [each for each in product.args if product.is_Mul and each.is_number]
        return len(numbers) > 1 and any(each.is_Float for each in numbers)

    def one_number(product: sympy.Expr) -> sympy.Expr:
        numbers, rest = apart(product)
        return numbers.evalf(_DIGITS) * rest

    expression = expression.replace(is_half_decimal, one_number)
    return expression.xreplace({number: shown(number) for number in decimals(expression)})


def exact_decimals(expression: sympy.Expr) -> sympy.Expr:
    """Return the expression with its short decimal numbers as fractions."""
    texts = {number: repr(float(number)) for number in expression.atoms(sympy.Float)}
    short = {number: sympy.Rational(text) for number, text in texts.items() if len(text) <= _SHORT}
    return expression.xreplace(short)


def size(expression: sympy.Expr) -> float:
    """Return the number of operations, functions counting twice, plus the lengths of numbers.

    What textbooks do not write counts more: logarithms of powers, minus signs under roots, and
    exponentials of inverse hyperbolic functions.
    """
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
    lengths = [min(_DIGIT * len(str(number).rstrip("0")), 1.0) for number in numbers]
    fractions = sum(not number.is_Integer for number in numbers)
    operations = sympy.count_ops(shown) + functions + _UNUSUAL * unusual
    return float(operations + sum(lengths) + _FRACTION * fractions)


def has_form_of(expression: sympy.Expr, accepted: Sequence[sympy.Expr]) -> bool:
    """Return whether the expression is one of those accepted, or no longer than the shortest.

    The numbers of a product are one number there, of `_FORM_DIGITS` digits.
    """

    def skeleton(form: sympy.Expr) -> sympy.Expr:
        form = sympy.N(form, _DIGITS)
        texts = {each: f"{float(each):.{_FORM_DIGITS}g}" for each in form.atoms(sympy.Float)}
        return form.xreplace({each: sympy.Float(text) for each, text in texts.items()})

    form, others = skeleton(expression), [skeleton(each) for each in accepted]
    return form in others or size(form) <= min(map(size, others))


def round_numbers(expression: sympy.Expr, allowed: Callable[[sympy.Expr], bool]) -> sympy.Expr:
    """Round decimal numbers to nice numbers or zero, as far as `allowed` accepts."""
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
