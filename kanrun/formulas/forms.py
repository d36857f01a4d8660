"""Forms of a sympy expression: a function of NumPy arrays, LaTeX, and a Python module.

For NumPy the expression becomes a short program: one step per distinct sub-expression, constants
evaluated to 20 digits and rounded once. sympy's `lambdify` would generate and execute source text,
and compute repeated sub-expressions again.
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
    """A function of points (..., d) to values (...) in float64.

    NaN or infinity where it is not real or not finite.

    Each of the `lines` fills one register: a column of the points (int), a constant (float) or an
    operation on earlier registers. The last register is the value. `width` is d.
    """

    width: int
    lines: tuple[int | float | _Operation, ...]

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        points = np.asarray(x, dtype=np.float64)
        if points.shape[-1:] != (self.width,):
            raise ValueError(
                f"The last axis of the points must be {self.width}; their shape is {points.shape}."
            )
        registers: list[Any] = []
        with np.errstate(all="ignore"):
            for line in self.lines:
                if isinstance(line, _Operation):
                    registers.append(line.function(*(registers[i] for i in line.arguments)))
                else:
                    registers.append(points[..., line] if isinstance(line, int) else line)
        value = np.asarray(registers[-1])
        return np.array(np.broadcast_to(value, points.shape[:-1])) if value.ndim == 0 else value


def to_numpy(
    expression: sympy.Expr, variables: Sequence[str]
) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """Return the expression as a function of points (N, d) to values (N,) in float64.

    Column i is the variable named variables[i]; a constant expression is broadcast.

    Raises:
        UsageError: If the expression has another variable or a function without a numeric form.
    """
    names = list(variables)
    if unknown := sorted({str(symbol) for symbol in expression.free_symbols} - set(names)):
        raise UsageError(
            f"{expression} uses {', '.join(unknown)}, which is not among the variables {names}"
        )
    compiler = _Compiler(names)
    compiler.visit(_without_reciprocals(expression))
    return NumpyFunction(len(names), tuple(compiler.lines))


def _without_reciprocals(expression: sympy.Expr) -> sympy.Expr:
    """Replace cot, sec, csc, ... by one over tan, cos, sin, ..."""
    if not expression.has(*RECIPROCALS):
        return expression
    return expression.replace(
        lambda node: node.func in RECIPROCALS, lambda node: 1 / RECIPROCALS[node.func](*node.args)
    )


@cache
def _elementwise() -> Mapping[Any, Callable[[Any], Any]]:
    """Return sympy's functions of one argument with NumPy's."""
    from scipy import special

    names = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
    same = (*names, "exp", "log", "sign", "floor")
    table: dict[Any, Callable[[Any], Any]] = {getattr(sympy, f): getattr(np, f) for f in same}
    table |= {getattr(sympy, f"a{name}"): getattr(np, f"arc{name}") for name in names}
    return table | {sympy.Abs: np.abs, sympy.erf: special.erf}


@cache
def _bessel(order: int) -> Callable[[Any], Any]:
    """Return J_order; scipy has faster routines for the first two orders."""
    from scipy import special

    functions: dict[int, Callable[[Any], Any]] = {0: special.j0, 1: special.j1}
    return functions.get(order) or partial(special.jv, order)


class _Compiler:
    """A visitor of sub-expressions from the leaves up, which gives each distinct one a register."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.lines: list[int | float | _Operation] = []
        self.registers: dict[sympy.Basic, int] = {}

    def visit(self, node: sympy.Expr) -> int:
        """Return the register that contains the value of `node`."""
        if node not in self.registers:
            self.lines.append(self._line(node))
            self.registers[node] = len(self.lines) - 1
        return self.registers[node]

    def _line(self, node: sympy.Expr) -> int | float | _Operation:
        if node.is_Symbol:
            return self.names.index(str(node))
        if not node.free_symbols:
            value = node.evalf(20)
            if not value.is_Number:
                raise UsageError(f"the constant {node} is not a real number")
            return float(value)
        arguments = node.args
        function: Callable[..., Any]
        if node.is_Pow and node.exp == sympy.Rational(1, 2):
            function, arguments = np.sqrt, (node.base,)
        elif node.is_Pow and node.exp.is_Integer:
            # A Python int, for which NumPy keeps the sign of a negative base.
            function, arguments = partial(_integer_power, exponent=int(node.exp)), (node.base,)
        elif node.is_Pow:
            function = operator.pow
        elif node.func in _FOLDS:
            function = partial(_folded, _FOLDS[node.func])
        elif node.func is sympy.besselj and arguments[0].is_Integer:
            function, arguments = _bessel(int(arguments[0])), arguments[1:]
        elif node.func in _elementwise():
            function = _elementwise()[node.func]
        else:
            raise UsageError(
                f"{node} has no numeric form here; known functions are {', '.join(FUNCTIONS)}"
            )
        return _Operation(function, tuple(self.visit(argument) for argument in arguments))


_FOLDS: dict[Any, Callable[..., Any]] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    sympy.Min: np.minimum,
    sympy.Max: np.maximum,
}


def _folded(function: Callable[[Any, Any], Any], *values: Any) -> Any:
    """Apply an operation of two arguments to several; constants come first in sympy's order."""
    return reduce(function, values)


def _integer_power(base: Any, exponent: int) -> Any:
    return 1 / base if exponent == -1 else base**exponent


def variables_of(expression: sympy.Expr) -> tuple[str, ...]:
    """Return x0, x1, ... up to the highest index in the expression.

    Raise UsageError for other symbols.
    """
    names = sorted(str(symbol) for symbol in expression.free_symbols)
    indices = [int(match[1]) for name in names if (match := re.fullmatch(r"x(\d+)", name))]
    if len(indices) < len(names):
        raise UsageError(f"{expression} has variables other than x0, x1, ...: {', '.join(names)}")
    return tuple(f"x{i}" for i in range(max(indices, default=-1) + 1))


def to_latex(expression: sympy.Expr) -> str:
    """Return the expression in LaTeX, without dollar signs; x0 is x_{0}."""
    return str(sympy.latex(expression))


class _Printer(SciPyPrinter):  # type: ignore[misc]
    """A printer of Max and Min of arrays and numbers; sympy prints numpy.amax of a ragged tuple."""

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
    """Return the source of a Python module with a function `formula(x0, x1, ...)` of arrays.

    `variables` (default: those of the expression) name its parameters, so they must be Python
    names.
    """
    names = variables_of(expression) if variables is None else tuple(variables)
    if unfit := [name for name in names if not name.isidentifier()]:
        raise UsageError(
            f"{unfit[0]!r} is not a Python name; rename it before printing the formula as Python"
        )
    written = _without_reciprocals(expression)
    body = _Printer({"fully_qualified_modules": True}).doprint(written)
    imports = "import numpy\n" + ("import scipy.special\n" if "scipy." in body else "")
    return f"{imports}\n\ndef formula({', '.join(names)}):\n    return {body}\n"
