"""Differential equations and conditions as sympy expressions, with their derivatives."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.equation_syntax import Derivative, Vocabulary, read_relation
from kanrun.formulas.parsing import parse_expression, variable
from kanrun.formulas.syntax import KnownFunction

Array = NDArray[np.float64]
#: Function that maps rows of arguments (points, names) to values (points,).
RowFunction = Callable[[Array], Array]


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
        UsageError: If `read_relation` rejects the text, a formula has an invalid value, or the
            unknowns cancel out.
    """
    written = read_relation(text, vocabulary)
    derivatives = written.derivatives
    names = (*vocabulary.variables, *derivatives, *vocabulary.constants)
    functions = {
        f".d_{suffix}": KnownFunction(partial(_differentiate, vocabulary, suffix))
        for suffix in written.suffixes
    }
    left, right = (parse_expression(side, names, functions) for side in written.sides)
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


def _differentiate(vocabulary: Vocabulary, suffix: str, expression: sympy.Expr) -> sympy.Expr:
    """Differentiate a formula with respect to the variables in `suffix`, by the chain rule.

    Raises:
        ValueError: If the formula jumps, as `sign` does.
    """
    for number, times in enumerate(vocabulary.orders(suffix, f"(...)_{suffix}")):
        for _ in range(times):
            derivative = sympy.diff(expression, variable(vocabulary.variables[number]))
            for symbol in expression.free_symbols:
                if (derived := vocabulary.derivative(str(symbol))) is not None:
                    index = [a + (i == number) for i, a in enumerate(derived.index)]
                    below = map(operator.mul, vocabulary.variables, index)
                    name = f"{vocabulary.unknowns[derived.unknown]}_{''.join(below)}"
                    vocabulary.derivative(name)
                    derivative += sympy.diff(expression, symbol) * variable(name)
            expression = derivative
    if expression.has(sympy.DiracDelta, sympy.Derivative):
        raise ValueError("a jump cannot be differentiated")
    return expression
