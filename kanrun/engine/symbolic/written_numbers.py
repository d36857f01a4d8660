"""Write the numbers of formulas as a person would, and measure the size of a formula.

Nice numbers are simple fractions, short decimal numbers, and simple multiples of pi, e and roots.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import sympy
from sympy import Expr

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import DIGITS, apart
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
