"""What an expression shows: its variables, and its LaTeX and Python forms."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sympy
from sympy.printing.numpy import SciPyPrinter

from kanrun.errors import UsageError


def variables_of(expression: sympy.Expr) -> tuple[str, ...]:
    """x0, x1, ... up to the highest index in the expression. Raises UsageError where it has other symbols."""
    names = sorted(str(symbol) for symbol in expression.free_symbols)
    indices = [int(match[1]) for name in names if (match := re.fullmatch(r"x(\d+)", name))]
    if len(indices) < len(names):
        raise UsageError(f"{expression} has variables other than x0, x1, ...: {', '.join(names)}")
    return tuple(f"x{i}" for i in range(max(indices, default=-1) + 1))


def to_latex(expression: sympy.Expr) -> str:
    """The expression in LaTeX, without dollar signs; x0 is x_{0}."""
    return str(sympy.latex(expression))


class _Printer(SciPyPrinter):  # type: ignore[misc]
    """With Max and Min of arrays and numbers together, for which sympy prints numpy.amax of a ragged tuple."""

    def _print_Max(self, expression: sympy.Expr) -> str:
        return self._nested("numpy.maximum", expression.args)

    def _print_Min(self, expression: sympy.Expr) -> str:
        return self._nested("numpy.minimum", expression.args)

    def _nested(self, name: str, arguments: Sequence[sympy.Expr]) -> str:
        first, *rest = arguments
        return f"{name}({self._print(first)}, {self._nested(name, rest)})" if rest else str(self._print(first))


def to_python(expression: sympy.Expr, variables: Sequence[str] | None = None) -> str:
    """Source of a Python module with one function `formula(x0, x1, ...)` of numpy arrays.

    `variables` (default: those of the expression) name its parameters, so they must be Python names.
    """
    names = variables_of(expression) if variables is None else tuple(variables)
    if unfit := [name for name in names if not name.isidentifier()]:
        raise UsageError(f"{unfit[0]!r} is not a Python name; rename it before printing the formula as Python")
    body = _Printer({"fully_qualified_modules": True}).doprint(expression)
    imports = "import numpy\n" + ("import scipy.special\n" if "scipy." in body else "")
    return f"{imports}\n\ndef formula({', '.join(names)}):\n    return {body}\n"
