"""Parser of differential equations, conditions and physical units.

An equation is text such as `u_t = D*u_xx + k*u*(1-u)`; a unit is text such as `kg*m/s^2` or `N*m`.

A derivative is written as the name of an unknown, an underscore, and the variables with respect to
which it is differentiated: u_t, u_xx, u_xt. With respect to a variable named time, it is u_time. A
formula in parentheses can be differentiated in the same way, as in (k*u_x)_x; the product and chain
rules are applied.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.errors import UsageError, did_you_mean
from kanrun.formulas import (
    CONSTANTS,
    FUNCTIONS,
    KnownFunction,
    parse_expression,
    to_numpy,
    variable,
)

Array = NDArray[np.float64]
#: Function that maps rows of arguments (points, names) to values (points,).
RowFunction = Callable[[Array], Array]

#: Highest order of a derivative, summed over the variables.
MAX_ORDER = 6

#: Pattern of a name and, if the name is called, the parenthesis after it. The e in a number such as
#: 1e3 is not a name.
_NAMES = re.compile(r"(?<![\w.])([A-Za-z_]\w*)(\s*\()?")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_DIFFERENTIATED = re.compile(r"\)_(\w+)")
_EQUALS = re.compile(r"(?<![<>])=")

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


@dataclass(frozen=True)
class Vocabulary:
    """Names that an equation may use.

    They take precedence over the constants of formulas: a declared e is not Euler's number.

    Attributes:
        variables: Names of the independent variables; time comes last.
        unknowns: Names of the unknown functions.
        constants: Names of the unknown parameters.
    """

    variables: tuple[str, ...]
    unknowns: tuple[str, ...]
    constants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [*self.variables, *self.unknowns, *self.constants]
        for name in names:
            if not _PLAIN.fullmatch(name):
                raise UsageError(
                    f"{name!r} is not a valid name. Use letters and digits, starting with a letter."
                )
            if name in FUNCTIONS:
                raise UsageError(
                    f"{name!r} is the name of a function. Choose another name for the quantity."
                )
            if names.count(name) > 1:
                raise UsageError(
                    f"{name!r} is used twice. Variables, unknowns and constants need different "
                    "names."
                )

    def derivative(self, name: str) -> Derivative | None:
        """Return the derivative called `name` (u, u_xx, u_xt, ...).

        Return None if the part before the underscore is not an unknown.

        Raises:
            UsageError: If anything but variables follows the underscore, or if the order is above
                `MAX_ORDER`.
        """
        unknown, _, suffix = name.partition("_")
        if unknown not in self.unknowns:
            return None
        if "_" in name and not suffix:
            raise UsageError(
                f"{name} ends in an underscore; a derivative is written "
                f"{unknown}_{self.variables[0]}."
            )
        index = self._suffix(suffix, name)
        if sum(index) > MAX_ORDER:
            raise UsageError(
                f"{name} is a derivative of order {sum(index)}; the order can be at most "
                f"{MAX_ORDER}."
            )
        return Derivative(name, self.unknowns.index(unknown), index)

    def _suffix(self, suffix: str, name: str) -> tuple[int, ...]:
        if (index := self.index(suffix)) is None:
            raise UsageError(
                f"{name} is not a derivative: only variables may follow the underscore "
                f"({', '.join(self.variables)})."
            )
        return index

    def index(self, suffix: str) -> tuple[int, ...] | None:
        """Return how often each variable occurs in `suffix`; None if other letters remain."""
        if not suffix:
            return (0,) * len(self.variables)
        for number, name in enumerate(self.variables):
            if suffix.startswith(name) and (rest := self.index(suffix[len(name) :])) is not None:
                return tuple(order + (i == number) for i, order in enumerate(rest))
        return None

    def differentiate(self, expression: sympy.Expr, suffix: str) -> sympy.Expr:
        """Differentiate a formula with respect to the variables in `suffix`, by the chain rule.

        Raises:
            ValueError: If the formula jumps, as `sign` does.
        """
        for number, times in enumerate(self._suffix(suffix, f"(...)_{suffix}")):
            for _ in range(times):
                derivative = sympy.diff(expression, variable(self.variables[number]))
                for symbol in expression.free_symbols:
                    if (derived := self.derivative(str(symbol))) is not None:
                        index = [a + (i == number) for i, a in enumerate(derived.index)]
                        below = map(operator.mul, self.variables, index)
                        name = f"{self.unknowns[derived.unknown]}_{''.join(below)}"
                        self.derivative(name)
                        derivative += sympy.diff(expression, symbol) * variable(name)
                expression = derivative
        if expression.has(sympy.DiracDelta, sympy.Derivative):
            raise ValueError("a jump cannot be differentiated")
        return expression


@dataclass(frozen=True)
class Derivative:
    """Derivative of an unknown, or the unknown itself.

    Attributes:
        name: Name in formulas, such as u_xx.
        unknown: Index of the unknown in `Vocabulary.unknowns`.
        index: Order of differentiation with respect to each variable; zeros for the unknown itself.
    """

    name: str
    unknown: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class Relation:
    """Equation or condition in the form left - right = 0.

    Attributes:
        text: The relation as typed.
        expression: Left minus right side, in symbols for variables, derivatives and constants.
        vocabulary: Names that the relation may use.
        derivatives: Derivatives that the relation contains.
    """

    text: str
    expression: sympy.Expr
    vocabulary: Vocabulary
    derivatives: tuple[Derivative, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arguments in order: variables, derivatives, unknown parameters."""
        derivatives = (derivative.name for derivative in self.derivatives)
        return (*self.vocabulary.variables, *derivatives, *self.vocabulary.constants)

    @cached_property
    def residual(self) -> RowFunction:
        """Function that maps arguments (points, names) to left - right, shape (points,)."""
        return to_numpy(self.expression, self.names)

    @cached_property
    def _slopes(self) -> tuple[RowFunction, ...]:
        varied = self.names[len(self.vocabulary.variables) :]
        return tuple(
            to_numpy(sympy.diff(self.expression, variable(name)), self.names) for name in varied
        )

    def slopes(self, arguments: Array) -> Array:
        """Differentiate left - right with respect to the derivatives, then the unknown parameters.

        The result has the shape (points, derivatives + parameters).
        """
        return np.stack([slope(arguments) for slope in self._slopes], axis=1)

    @cached_property
    def is_linear(self) -> bool:
        """Whether the relation is linear in the unknowns and their derivatives."""
        names = [variable(derivative.name) for derivative in self.derivatives]
        return not any(sympy.diff(self.expression, name).has(*names) for name in names)

    @property
    def order(self) -> int:
        """Highest order of a derivative in the relation, summed over the variables."""
        return max((sum(derivative.index) for derivative in self.derivatives), default=0)


def parse_relation(text: str, vocabulary: Vocabulary) -> Relation:
    """Parse a relation, which consists of two formulas with `=` between them.

    Raises:
        UsageError: If `text` does not contain exactly one `=`, contains a name outside the
            vocabulary or a formula that cannot be parsed, or contains no unknown.
    """
    sides = _EQUALS.split(text) if isinstance(text, str) else []
    if len(sides) != 2:
        raise UsageError(
            f"equation {text!r}: write two formulas with one = between them, such as u_xx = "
            "-sin(x)."
        )
    primes = rf"\b({'|'.join(vocabulary.unknowns)})'"
    below = "|".join(
        name for name in vocabulary.variables if f"d{name}" not in vocabulary.constants
    )
    if re.search(rf"{primes}|\bd\w+/d({below})\b", text):
        raise UsageError(
            f"equation {text!r}: derivatives are written "
            f"{vocabulary.unknowns[0]}_{vocabulary.variables[0]}, not with "
            "primes or as quotients."
        )
    derivatives = _derivatives(text, vocabulary)
    names = (*vocabulary.variables, *derivatives, *vocabulary.constants)
    functions = {
        f".d_{suffix}": KnownFunction(partial(vocabulary.differentiate, suffix=suffix))
        for suffix in _DIFFERENTIATED.findall(text)
    }
    left, right = (
        parse_expression(_DIFFERENTIATED.sub(r").d_\1", side).strip(), names, functions)
        for side in sides
    )
    expression = left - right
    for name in sorted(map(str, expression.free_symbols)):
        if (derivative := vocabulary.derivative(name)) is not None:
            derivatives.setdefault(name, derivative)
    present = tuple(
        derivative for name, derivative in derivatives.items() if expression.has(variable(name))
    )
    if not present:
        raise UsageError(
            f"equation {text!r}: the unknown cancels out; both sides are the same in it."
        )
    return Relation(text, expression, vocabulary, present)


def _derivatives(text: str, vocabulary: Vocabulary) -> dict[str, Derivative]:
    """Return the derivatives in an equation by name.

    Raises:
        UsageError: If the equation contains an undeclared name, or no unknown.
    """
    derivatives: dict[str, Derivative] = {}
    declared = {*vocabulary.variables, *vocabulary.constants, *CONSTANTS, *FUNCTIONS}
    for name, call in _NAMES.findall(_DIFFERENTIATED.sub(")", text)):
        unknown, _, suffix = name.partition("_")
        if (derivative := vocabulary.derivative(name)) is not None:
            derivatives[name] = derivative
        elif name in declared or call:  # The parser reports functions that do not exist.
            continue
        elif suffix and vocabulary.index(suffix):
            raise UsageError(
                f"equation {text!r} has {name}, but {unknown} is not one of the unknowns "
                f"{', '.join(vocabulary.unknowns)}."
            )
        else:
            near = did_you_mean(name, {*declared, *derivatives}) or "."
            raise UsageError(
                f"equation {text!r}: unknown name {name!r}{near} Declare a number with "
                f"equation.constants={{{name}: 1}}, a number to be found with "
                f"equation.unknown_parameters={{{name}: 1}}, and a function with "
                f"equation.unknowns=[{','.join((*vocabulary.unknowns, name))}]."
            )
    if not derivatives:
        raise UsageError(
            f"equation {text!r} does not contain the unknown {' or '.join(vocabulary.unknowns)}; "
            "write, for example, "
            f"{vocabulary.unknowns[0]}_{vocabulary.variables[0]} = -{vocabulary.unknowns[0]}."
        )
    return derivatives


def dimensions(units: Mapping[str, str], names: Sequence[str]) -> Array:
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


def _exponents(text: str) -> Array:
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
