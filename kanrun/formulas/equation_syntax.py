"""Syntax of differential equations and conditions, which is checked without sympy.

An equation is text such as `u_t = D*u_xx + k*u*(1-u)`. A derivative is written as the name of an
unknown, an underscore, and the variables with respect to which it is differentiated: u_t, u_xx,
u_xt. With respect to a variable named time, it is u_time. A formula in parentheses can be
differentiated in the same way, as in (k*u_x)_x; the product and chain rules are applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kanrun.errors import UsageError, did_you_mean
from kanrun.formulas.syntax import CONSTANT_NAMES, FUNCTIONS, KnownFunction, read

#: Highest order of a derivative, summed over the variables.
MAX_ORDER = 6

#: Pattern of a name and, if the name is called, the parenthesis after it. The e in a number such as
#: 1e3 is not a name.
_NAMES = re.compile(r"(?<![\w.])([A-Za-z_]\w*)(\s*\()?")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_DIFFERENTIATED = re.compile(r"\)_(\w+)")
_EQUALS = re.compile(r"(?<![<>])=")


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
        index = self.orders(suffix, name)
        if sum(index) > MAX_ORDER:
            raise UsageError(
                f"{name} is a derivative of order {sum(index)}; the order can be at most "
                f"{MAX_ORDER}."
            )
        return Derivative(name, self.unknowns.index(unknown), index)

    def orders(self, suffix: str, name: str) -> tuple[int, ...]:
        """Return the order of differentiation with respect to each variable.

        Args:
            suffix: What follows the underscore, such as xt.
            name: The whole derivative, which the error message quotes.

        Raises:
            UsageError: If the suffix contains anything but variables.
        """
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
class WrittenRelation:
    """An equation or condition as text, whose syntax and names are valid.

    Attributes:
        text: The relation as typed.
        sides: Left and right side. In them, the derivative of a formula in parentheses is written
            as `(...).d_x` instead of `(...)_x`.
        suffixes: The variables with respect to which formulas in parentheses are differentiated,
            such as x or xx.
        derivatives: The unknowns and derivatives in the relation, by name.
    """

    text: str
    sides: tuple[str, str]
    suffixes: tuple[str, ...]
    derivatives: dict[str, Derivative]


def read_relation(text: str, vocabulary: Vocabulary) -> WrittenRelation:
    """Check the syntax and the names of a relation: two formulas with `=` between them.

    Raises:
        UsageError: If `text` does not contain exactly one `=`, contains a name outside the
            vocabulary or a formula that cannot be read, or contains no unknown.
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
    suffixes = tuple(_DIFFERENTIATED.findall(text))
    for suffix in suffixes:
        vocabulary.orders(suffix, f"(...)_{suffix}")
    left, right = (_DIFFERENTIATED.sub(r").d_\1", side).strip() for side in sides)
    names = (*vocabulary.variables, *derivatives, *vocabulary.constants)
    for side in (left, right):
        read(side, names, {f".d_{suffix}": KnownFunction("diff") for suffix in suffixes})
    return WrittenRelation(text, (left, right), suffixes, derivatives)


def _derivatives(text: str, vocabulary: Vocabulary) -> dict[str, Derivative]:
    """Return the derivatives in an equation by name.

    Raises:
        UsageError: If the equation contains an undeclared name, or no unknown.
    """
    derivatives: dict[str, Derivative] = {}
    declared = {*vocabulary.variables, *vocabulary.constants, *CONSTANT_NAMES, *FUNCTIONS}
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
