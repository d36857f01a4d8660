"""Parser from text to sympy expressions.

Decimal numbers become exact rationals: 0.5 becomes 1/2. With sympy's Float, constants would have
15 digits only, and 0.5*x0 would not be equal to x0/2. With rationals, both are equal, and x0**0.5
becomes sqrt(x0). The sizes of numbers are limited before anything is computed, so that no text can
keep the program busy.

Physical units, such as `kg*m/s^2` or `N*m`, are parsed in the same way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr

from kanrun.errors import UsageError
from kanrun.formulas.syntax import KnownFunction, Node, Refused, quoted, quoting, read

_DIGITS = 5_000  # largest number of digits of a power that is computed exactly
_EXPONENT = 1_000  # largest exponent of a power whose base contains a variable
_MAGNITUDE = 1e300  # constants lie between 1 / _MAGNITUDE and _MAGNITUDE, well within float64
PRECISION = 20  # number of digits with which constants are evaluated

#: The constants by name.
CONSTANTS: dict[str, Expr] = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E}
_NOT_REAL = (sympy.I, sympy.zoo, sympy.nan, sympy.oo, -sympy.oo)
_ABSURD = "it holds a number of absurd size"


def variable(name: str) -> sympy.Symbol:
    """Return the sympy symbol of a variable. It is real, so that sqrt(x0**2) becomes |x0|.

    Symbols must come from this function if an expression is to be compared with a parsed one.
    """
    return sympy.Symbol(name, real=True)


def parse(
    text: str,
    variables: Sequence[str] | None = None,
    functions: Mapping[str, KnownFunction] | None = None,
) -> Expr:
    """Parse a formula to a sympy expression in real symbols.

    A formula consists of numbers, variables, constants, + - * / ^, parentheses and functions. `^`
    and `**` both mean power. Numbers are exact.

    The arguments are those of `syntax.read`. Raises UsageError if the formula contains anything
    else, has no variable, is too large, or has a constant that is not real and finite.
    """
    expression = parse_expression(text, variables, functions)
    if not expression.free_symbols:
        hint = "x0, x1, ..." if variables is None else ", ".join(variables)
        raise UsageError(f"formula {quoted(text)} does not depend on any variable; use {hint}")
    return expression


def parse_expression(
    text: str,
    names: Sequence[str] | None,
    functions: Mapping[str, KnownFunction] | None = None,
    what: str = "formula",
) -> Expr:
    """Parse a formula as in `parse`, but accept constant formulas as well.

    Error messages call the formula `what`.
    """
    tree = read(text, names, functions, what)
    with quoting(text, what):
        return _Builder().build_all(tree)


def constant(value: object, known: Mapping[str, float] | None = None) -> float:
    """Convert a number, or a constant formula such as `0.4*pi`, to a float.

    Args:
        value: Number or text.
        known: Names that the text may contain, with their values.

    Raises:
        UsageError: If the value is not a finite number.
    """
    if isinstance(value, str):
        known = known or {}
        put = {variable(name): sympy.Rational(repr(number)) for name, number in known.items()}
        value_of = parse_expression(value, tuple(known), what="number")
        return float(value_of.subs(put).evalf(PRECISION))
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{value!r} is not a number; write one such as 2, -0.5 or 0.4*pi")
    if not math.isfinite(value):
        raise UsageError(f"{value} is not a finite number")
    return float(value)


class _Builder:
    """Converts the tree of a formula to an expression, and checks each constant before its use."""

    def __init__(self) -> None:
        self.pairs = 0  # Number of pairs of terms in min and max so far.

    def build_all(self, tree: Node) -> Expr:
        """Convert the whole tree to an expression.

        Exponents and numbers are checked again at the end, because sympy may have combined several
        numbers to a larger number.
        """
        expression = self.build(tree)
        for power in expression.atoms(sympy.Pow):
            _check_exponent(power.exp, power.base)
        if any(abs(number) >= _MAGNITUDE for number in expression.atoms(sympy.Number)):
            raise Refused(_ABSURD)
        return expression

    def build(self, node: Node) -> Expr:
        parts = [self.build(part) for part in node.parts]
        match node.kind:
            case "number":
                return _number(node.value)
            case "variable":
                return variable(node.value)
            case "constant":
                return CONSTANTS[node.value]
            case "negative":
                return -parts[0]
            case "reciprocal":
                return _checked(1 / parts[0])
            case "sum":
                return _checked(sympy.Add(*parts))
            case "product":
                return _checked(sympy.Mul(*parts))
            case "power":
                base, exponent = parts
                _check_exponent(exponent, base)
                return _checked(base**exponent)
        return self._called(node.value, parts)

    def _called(self, function: KnownFunction, arguments: list[Expr]) -> Expr:
        # largest number of pairs of terms in min and max; sympy compares 300 pairs in 3 s
        pairs = 300
        if function.arguments is None:  # sympy compares all terms in min and max, also nested ones
            joined = [
                argument for argument in arguments if isinstance(argument, sympy.Min | sympy.Max)
            ]
            terms = len(arguments) + sum(len(argument.args) - 1 for argument in joined)
            self.pairs += terms * (terms - 1) // 2
            if self.pairs > pairs:
                raise Refused("it has too many terms in min and max")
        definition = function.definition
        if isinstance(definition, str) and not definition.isidentifier():
            values = {variable(f"x{i}"): argument for i, argument in enumerate(arguments)}
            return _checked(_defined(definition).xreplace(values))
        build = getattr(sympy, definition) if isinstance(definition, str) else definition
        try:
            return _checked(build(*arguments))
        except ValueError as error:
            raise Refused(str(error)) from None


@cache
def _defined(formula: str) -> Expr:
    """Return the expression of a function that is defined by a formula in x0, x1, ..."""
    return parse_expression(formula, None)


def _number(value: Any) -> Expr:
    if value and not _is_ordinary(value):
        raise Refused(_ABSURD)
    return sympy.Integer(value) if isinstance(value, int) else sympy.Rational(repr(value))


def _check_exponent(exponent: Expr, base: Expr) -> None:
    """Raise `Refused` if a power is expensive to compute or has a huge value."""
    if not exponent.is_number:
        return
    size = abs(float(exponent.evalf(PRECISION)))
    if base.free_symbols and size > _EXPONENT:
        raise Refused(f"the exponent {size:.3g} is too large; at most {_EXPONENT} is allowed")
    numbers = [integer for atom in base.atoms(sympy.Rational) for integer in (atom.p, atom.q)]
    digits = max((len(str(number)) for number in numbers), default=1)
    if digits > 1 and size * digits > _DIGITS:
        raise Refused(_ABSURD)
    magnitude = abs(float(base.evalf(PRECISION))) if base.is_number else 1.0
    if magnitude > 0 and size * abs(math.log10(magnitude)) > math.log10(_MAGNITUDE):
        raise Refused(_ABSURD)


def _checked(value: Expr) -> Expr:
    """Return `value`; raise `Refused` if it is a constant that is not real, not finite or huge."""
    if value.has(*_NOT_REAL):
        raise Refused(
            "it is not finite and real (a division by zero, or a root or log of a number out of "
            "range)"
        )
    if value.free_symbols or value == 0:
        return value
    number = value.evalf(PRECISION)
    if not number.is_Number:
        raise Refused(f"{value} is not a real number")
    if not _is_ordinary(number):
        raise Refused(_ABSURD)
    return value


def _is_ordinary(number: Any) -> bool:
    return bool(1 / _MAGNITUDE < abs(number) < _MAGNITUDE)


#: Dimensions of the SI base units, in the order of the exponents that `dimensions` returns.
BASE = (
    "length",
    "mass",
    "time",
    "current",
    "temperature",
    "amount_of_substance",
    "luminous_intensity",
)
#: Names in sympy's table of units, by spellings that the table does not contain.
_OTHER_UNITS = {"l": "liter", "L": "liter", "min": "minute", "h": "hour", "degC": "kelvin"}
_PREFIXES = "yzafpnumcdhkMGTPEZY"


def dimensions(units: Mapping[str, str], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the exponents of the seven SI base units for each quantity, shape (names, 7).

    Args:
        units: Unit of each quantity by name, such as `kg*m/s^2`. Quantities without a unit, and
            those with the unit "1", have exponents of zero.
        names: Names of the quantities, in the order of the rows.

    Raises:
        UsageError: If `units` contains a name that is not in `names`, or text that is not a product
            of powers of known units.
    """
    if unknown := [name for name in units if name not in names]:
        raise UsageError(
            f"target.units has {unknown[0]!r}, which is not one of {', '.join(names)}."
        )
    return np.array([_exponents(str(units.get(name, "1"))) for name in names])


def _exponents(text: str) -> NDArray[np.float64]:
    from sympy.physics.units.systems.si import SI, dimsys_SI

    words = sorted(set(re.findall(r"(?<!\w)[^\W\d]\w*", text)))
    quantities = {variable(word): _quantity(word, text) for word in words}
    expression = parse_expression(text, words)
    for base, power in expression.as_powers_dict().items():
        if not base.is_number and not (base.is_Symbol and power.is_Rational):
            raise UsageError(f"The unit {text!r} is not a product of powers of units.")
    dimension = SI.get_dimensional_expr(expression.xreplace(quantities))
    powers = dimsys_SI.get_dimensional_dependencies(dimension)
    by_name = {str(getattr(base, "name", base)): float(power) for base, power in powers.items()}
    return np.array([by_name.get(name, 0.0) for name in BASE])


def _quantity(word: str, text: str) -> Any:
    """Return sympy's unit for `word`; a prefix such as k or m is removed, and its factor ignored.

    `text` is the whole unit, which the error message quotes.
    """
    from sympy.physics import units

    for name in (word, word[1:] if word[0] in _PREFIXES else ""):
        quantity = getattr(units, _OTHER_UNITS.get(name, name), None)
        if isinstance(quantity, units.Quantity):
            return quantity
    raise UsageError(
        f"The unit {text!r} has {word!r}, which is not known; write it in base units such as "
        "kg*m/s^2."
    )
