"""Numbers in formulas as a person writes them, and the size of a formula with them.

Nice numbers are simple fractions and multiples of pi, e and roots.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import sympy
from sympy import Expr

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import DIGITS, apart
from kanrun.formulas.parsing import parse_expression

#: Relative accuracy of a constant at best.
PRECISION = 1e-9
#: Size of a constant below which its accuracy is absolute.
_SMALL = 1e-3
#: Largest denominator of a nice fraction.
_MAX_DENOMINATOR = 20
#: Maximum number of significant digits of a nice decimal number.
_MAX_DIGITS = 9
#: Probability that a number as simple lies as near by chance, below which a number is nice.
_CHANCE = 0.05
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


def nice(value: float, window: float) -> Expr | None:
    """Return the simplest nice number within `window` of `value`, or None if it may be chance.

    Nice numbers are fractions times a unit, and short decimal numbers, which are returned as
    fractions too.
    """
    if abs(value) <= window:
        return sympy.S.Zero
    count_work(COSTS.operation)
    found: list[tuple[float, int, Expr, Expr]] = []
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


def nice_phase(value: float, window: float) -> Expr | None:
    """Return a nice phase of a sine: a nice number plus a multiple of a quarter turn, or None."""
    for turn in (0, sympy.pi / 2, -sympy.pi / 2, sympy.pi, -sympy.pi):
        number = nice(value - float(turn), window)
        if number is not None:
            return number + turn
    return None


def decimals(expression: Expr) -> list[Expr]:
    """Return the fractions and decimal numbers in an expression."""
    numbers = expression.atoms(sympy.Rational, sympy.Float)
    return sorted((each for each in numbers if not each.is_Integer), key=str)


#: Digits of a float64 that are never its rounding alone.
_SHOWN = 15
#: Denominator from which on a decimal number that is not longer than the fraction is preferred.
_LEAST_DECIMAL = 5
#: Size below which whole decimal numbers are written as integers.
_LARGEST_WHOLE = 1e9
#: Characters of a decimal number that stands for itself.
_SHORT = 11
#: Size of a digit, relative to an operation.
_DIGIT = 0.1
#: Size of a decimal point or a fraction bar, relative to an operation.
_FRACTION = 0.3
#: Size of what textbooks do not write, relative to an operation.
_UNUSUAL = 10.0
#: Digits to which the numbers of two forms agree: those of the constants of physics in files.
_FORM_DIGITS = 4


def as_written(expression: Expr) -> Expr:
    """Return the expression with its numbers as a person writes them.

    Fractions with large denominators become short decimal numbers. Decimal numbers get no more
    digits than name the float64 that they are, or its neighbour.
    """

    def shown(number: Expr) -> Expr:
        if number.is_Float:
            value = float(number)
            short = float(f"{value:.{_SHOWN}g}")
            if math.isclose(short, value, rel_tol=2 * sys.float_info.epsilon):
                value = short
            is_whole = value.is_integer() and abs(value) < _LARGEST_WHOLE
            return sympy.Integer(int(value)) if is_whole else sympy.Float(repr(value), DIGITS)
        decimal = repr(float(number))
        is_plain = number.q < _LEAST_DECIMAL
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
    """Return the expression with its short decimal numbers as fractions."""
    texts = {number: repr(float(number)) for number in expression.atoms(sympy.Float)}
    short = {number: sympy.Rational(text) for number, text in texts.items() if len(text) <= _SHORT}
    return expression.xreplace(short)


def size(expression: Expr) -> float:
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


def has_form_of(expression: Expr, accepted: Sequence[Expr]) -> bool:
    """Return whether the expression is one of those accepted, or no longer than the shortest.

    The numbers of a product are one number there, of `_FORM_DIGITS` digits.
    """

    def skeleton(form: Expr) -> Expr:
        form = sympy.N(form, DIGITS)
        numbers = form.atoms(sympy.Float, sympy.Integer)
        long = [each for each in numbers if each.is_Float or abs(each) >= 10**_FORM_DIGITS]
        texts = {each: f"{float(each):.{_FORM_DIGITS}g}" for each in long}
        return form.xreplace({each: sympy.Float(text) for each, text in texts.items()})

    form = skeleton(expression)
    others = [skeleton(each) for each in accepted]
    return form in others or size(form) <= min(map(size, others))


def round_numbers(expression: Expr, allowed: Callable[[Expr], bool]) -> Expr:
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
