"""Differential equations and conditions as text: `u_t = D*u_xx + k*u*(1-u)`, read by the formulas' whitelist.

An unknown is a name, its derivatives are that name, an underscore and the variables in which it is differentiated, one
after the other: u_t, u_xx, u_xt. Variables are written as they are declared; where one has several letters, such as
time, its derivative is u_time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.formulas.forms import to_numpy
from kanrun.formulas.parsing import FUNCTIONS, parse_expression, variable

Array = NDArray[np.float64]
#: Rows of arguments (points, names) to values (points,).
RowFunction = Callable[[Array], Array]

#: The highest total order of a derivative.
MAX_ORDER = 4

_NAME = re.compile(r"[A-Za-z_]\w*")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Vocabulary:
    """The names that an equation may use: variables, unknown functions, and constants that are sought.

    They win over the formulas' own constants: where e is declared, it is not Euler's number.
    """

    variables: tuple[str, ...]
    unknowns: tuple[str, ...]
    constants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [*self.variables, *self.unknowns, *self.constants]
        for name in names:
            if not _PLAIN.fullmatch(name):
                raise UsageError(
                    f"{name!r} is no name for an equation; take letters and digits, a letter first."
                )
            if name in FUNCTIONS:
                raise UsageError(
                    f"{name!r} is a function of formulas; call the quantity something else."
                )
            if names.count(name) > 1:
                raise UsageError(
                    f"{name!r} names two things: variables, unknowns and constants need different names."
                )

    def derivative(self, name: str) -> Derivative | None:
        """What `name` (u, u_xx, u_xt, ...) stands for; None where it is no derivative of an unknown.

        Raises UsageError where the part after the underscore is not made of variables, or for an order above 4.
        """
        unknown, _, suffix = name.partition("_")
        if unknown not in self.unknowns:
            return None
        if "_" in name and not suffix:
            raise UsageError(
                f"{name} ends in an underscore; a derivative is written {unknown}_{self.variables[0]}."
            )
        index = self.index(suffix)
        if index is None:
            raise UsageError(
                f"{name} is no derivative of {unknown}: after the underscore come variables, which are "
                f"{', '.join(self.variables)}."
            )
        if sum(index) > MAX_ORDER:
            raise UsageError(
                f"{name} is a derivative of order {sum(index)}; at most {MAX_ORDER} is possible."
            )
        return Derivative(name, self.unknowns.index(unknown), index)

    def index(self, suffix: str) -> tuple[int, ...] | None:
        """How often each variable stands in `suffix`; None where other letters do."""
        if not suffix:
            return (0,) * len(self.variables)
        for number, name in enumerate(self.variables):
            if suffix.startswith(name) and (rest := self.index(suffix[len(name) :])) is not None:
                return tuple(each + (i == number) for i, each in enumerate(rest))
        return None


@dataclass(frozen=True)
class Derivative:
    """The derivative of unknown number `unknown` by the multi-index `index`; the unknown itself for zeros."""

    name: str
    unknown: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class Relation:
    """left - right of an equation, a function of the variables, the derivatives it holds, and the sought constants."""

    text: str
    expression: sympy.Expr
    vocabulary: Vocabulary
    derivatives: tuple[Derivative, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments in their order: variables, derivatives, constants."""
        derivatives = (derivative.name for derivative in self.derivatives)
        return (*self.vocabulary.variables, *derivatives, *self.vocabulary.constants)

    @cached_property
    def residual(self) -> RowFunction:
        """left - right at rows of the arguments (points, names)."""
        return to_numpy(self.expression, self.names)

    @cached_property
    def _slopes(self) -> tuple[RowFunction, ...]:
        varied = self.names[len(self.vocabulary.variables) :]
        return tuple(
            to_numpy(sympy.diff(self.expression, variable(name)), self.names) for name in varied
        )

    def slopes(self, arguments: Array) -> Array:
        """The derivatives of the residual by each derivative and each constant, (points, derivatives + constants)."""
        return np.stack([slope(arguments) for slope in self._slopes], axis=1)

    @property
    def order(self) -> int:
        """The highest total order of a derivative in it."""
        return max((sum(derivative.index) for derivative in self.derivatives), default=0)


def parse_relation(text: str, vocabulary: Vocabulary) -> Relation:
    """The relation that `text`, two formulas with `=` between them, writes.

    Raises UsageError where there is not one `=`, for a name that is none of the vocabulary's, for a formula that the
    whitelist refuses, and for a relation that holds no unknown.
    """
    if not isinstance(text, str) or text.count("=") != 1:
        raise UsageError(
            f"equation {text!r}: write two formulas with one = between them, such as u_xx = -sin(x)."
        )
    found: dict[str, Derivative] = {}
    primes = rf"\b({'|'.join(vocabulary.unknowns)})'"
    below = "|".join(
        name for name in vocabulary.variables if f"d{name}" not in vocabulary.constants
    )
    if re.search(rf"{primes}|\bd\w+/d({below})\b", text):
        raise UsageError(
            f"equation {text!r}: derivatives are written {vocabulary.unknowns[0]}_{vocabulary.variables[0]}, not with "
            "primes or as quotients."
        )
    for name in _NAME.findall(text):
        unknown, _, suffix = name.partition("_")
        if (
            suffix
            and unknown not in vocabulary.unknowns + vocabulary.constants
            and vocabulary.index(suffix)
        ):
            raise UsageError(
                f"equation {text!r} has {name}, but {unknown} is none of the unknowns {', '.join(vocabulary.unknowns)}."
            )
        if (derivative := vocabulary.derivative(name)) is not None:
            found[name] = derivative
    if not found:
        raise UsageError(
            f"equation {text!r} does not hold the unknown {' or '.join(vocabulary.unknowns)}; write, for example, "
            f"{vocabulary.unknowns[0]}_{vocabulary.variables[0]} = -{vocabulary.unknowns[0]}."
        )
    names = (*vocabulary.variables, *found, *vocabulary.constants)
    left, right = (parse_expression(side.strip(), names) for side in text.split("="))
    expression = left - right
    present = tuple(
        derivative for name, derivative in found.items() if expression.has(variable(name))
    )
    if not present:
        raise UsageError(
            f"equation {text!r}: the unknown cancels out; both sides are the same in it."
        )
    return Relation(text, expression, vocabulary, present)
