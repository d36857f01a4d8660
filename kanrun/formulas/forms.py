"""The forms of one sympy expression: a function of NumPy arrays, LaTeX, and a Python module.

For NumPy the expression becomes a short program: one step per distinct sub-expression, constants evaluated to 20 digits
and rounded once. (sympy's `lambdify` would generate and execute source text, and compute repeated sub-expressions
again.)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from sympy.printing.numpy import SciPyPrinter

from kanrun.errors import UsageError
from kanrun.formulas.parsing import FUNCTIONS, RECIPROCALS


@dataclass(frozen=True)
class _Operation:
    """One operation on earlier registers."""

    function: Callable[..., Any]
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class NumpyFunction:
    """Points (..., d) to values (...) in float64; NaN or infinity where the formula is not real or not finite.

    `lines` fill one register each: a column of the points (int), a constant (float) or an operation on earlier
    registers; the last register is the value. `width` is d.
    """

    width: int
    lines: tuple[int | float | _Operation, ...]

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        points = np.asarray(x, dtype=np.float64)
        if points.shape[-1:] != (self.width,):
            raise ValueError(
                f"the last axis of the points must be {self.width}, their shape is {points.shape}"
            )
        registers: list[Any] = []
        with np.errstate(all="ignore"):
            for line in self.lines:
                if isinstance(line, _Operation):
                    registers.append(line.function(*(registers[i] for i in line.arguments)))
                else:
                    registers.append(points[..., line] if isinstance(line, int) else line)
        value = registers[-1]
        return (
            np.array(np.broadcast_to(value, points.shape[:-1]))
            if np.ndim(value) == 0
            else np.asarray(value)
        )


def to_numpy(
    expression: sympy.Expr, variables: Sequence[str]
) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """The expression as a function of points (N, d), d = len(variables), to values (N,) in float64.

    Column i is the variable named variables[i]; a constant expression is broadcast. Raises UsageError where
    the expression has another variable or a function without a numeric form.
    """
    names = list(variables)
    if unknown := sorted({str(symbol) for symbol in expression.free_symbols} - set(names)):
        raise UsageError(
            f"{expression} uses {', '.join(unknown)}, which is not among the variables {names}"
        )
    compiler = _Compiler(names)
    compiler.visit(expression)
    return NumpyFunction(len(names), tuple(compiler.lines))


@cache
def _elementwise() -> Mapping[Any, Callable[[Any], Any]]:
    """sympy's functions of one argument to NumPy's."""
    names = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
    table: dict[Any, Callable[[Any], Any]]
    table = {
        getattr(sympy, name): getattr(np, name) for name in (*names, "exp", "log", "sign", "floor")
    }
    table |= {getattr(sympy, f"a{name}"): getattr(np, f"arc{name}") for name in names}
    table |= {sympy.Abs: np.abs, sympy.erf: _erf}
    return table | {
        function: partial(_reciprocal, table[other]) for function, other in RECIPROCALS.items()
    }


def _erf(argument: Any) -> Any:
    from scipy import special

    return special.erf(argument)


def _reciprocal(function: Callable[[Any], Any], argument: Any) -> Any:
    return 1 / function(argument)


@cache
def _bessel(order: int) -> Callable[[Any], Any]:
    """J_order; scipy has faster routines for the first two orders."""
    from scipy import special

    functions: dict[int, Callable[[Any], Any]] = {0: special.j0, 1: special.j1}
    return functions.get(order) or partial(special.jv, order)


class _Compiler:
    """Visits sub-expressions from the leaves up and gives each distinct one a register."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.lines: list[int | float | _Operation] = []
        self.registers: dict[sympy.Basic, int] = {}

    def visit(self, node: sympy.Expr) -> int:
        """The register that holds the value of `node`."""
        if node not in self.registers:
            self.lines.append(self._line(node))
            self.registers[node] = len(self.lines) - 1
        return self.registers[node]

    def _line(self, node: sympy.Expr) -> int | float | _Operation:
        if node.is_Symbol:
            return self.names.index(str(node))
        if not node.free_symbols:
            return _constant(node)
        if node.is_Pow:
            return self._power(node.base, node.exp)
        if (fold := _FOLDS.get(node.func)) is not None:
            return _Operation(
                partial(_folded, fold), tuple(self.visit(argument) for argument in node.args)
            )
        if node.func is sympy.besselj and node.args[0].is_Integer:
            return _Operation(_bessel(int(node.args[0])), (self.visit(node.args[1]),))
        if (function := _elementwise().get(node.func)) is not None:
            return _Operation(function, (self.visit(node.args[0]),))
        raise UsageError(
            f"{node} has no numeric form here; known functions are {', '.join(FUNCTIONS)}"
        )

    def _power(self, base: sympy.Expr, exponent: sympy.Expr) -> _Operation:
        if exponent == sympy.Rational(1, 2):
            return _Operation(np.sqrt, (self.visit(base),))
        if exponent.is_Integer:  # a Python int, for which NumPy keeps the sign of a negative base
            return _Operation(partial(_integer_power, exponent=int(exponent)), (self.visit(base),))
        return _Operation(operator.pow, (self.visit(base), self.visit(exponent)))


_FOLDS: dict[Any, Callable[..., Any]] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    sympy.Min: np.minimum,
    sympy.Max: np.maximum,
}


def _folded(function: Callable[[Any, Any], Any], *values: Any) -> Any:
    """An operation of two arguments over several; constants come first in sympy's order."""
    return reduce(function, values)


def _integer_power(base: Any, exponent: int) -> Any:
    return 1 / base if exponent == -1 else base**exponent


def _constant(node: sympy.Expr) -> float:
    value = node.evalf(20)
    if not value.is_Number:
        raise UsageError(f"the constant {node} is not a real number")
    return float(value)


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
        return (
            f"{name}({self._print(first)}, {self._nested(name, rest)})"
            if rest
            else str(self._print(first))
        )


def to_python(expression: sympy.Expr, variables: Sequence[str] | None = None) -> str:
    """Source of a Python module with one function `formula(x0, x1, ...)` of NumPy arrays.

    `variables` (default: those of the expression) name its parameters, so they must be Python names.
    """
    names = variables_of(expression) if variables is None else tuple(variables)
    if unfit := [name for name in names if not name.isidentifier()]:
        raise UsageError(
            f"{unfit[0]!r} is not a Python name; rename it before printing the formula as Python"
        )
    written = expression.replace(
        lambda node: node.func in RECIPROCALS, lambda node: 1 / RECIPROCALS[node.func](*node.args)
    )
    body = _Printer({"fully_qualified_modules": True}).doprint(written)
    imports = "import numpy\n" + ("import scipy.special\n" if "scipy." in body else "")
    return f"{imports}\n\ndef formula({', '.join(names)}):\n    return {body}\n"
