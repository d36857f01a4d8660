"""From one sympy expression to a function of numpy arrays.

The expression becomes a short program: one step a distinct sub-expression, constants folded to 20 digits and rounded
once. (sympy's `lambdify` would generate and execute source text, and compute repeated sub-expressions again.)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray

from kanrun.errors import UsageError
from kanrun.formulas.functions import FUNCTIONS

_NAMES: dict[Any, str] = {
    **{getattr(sympy, name): name for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh")},
    **{getattr(sympy, name): name for name in ("tanh", "asinh", "acosh", "atanh", "exp", "log", "sign")},
    **{getattr(sympy, name): name for name in ("erf", "floor", "besselj")},
    sympy.Abs: "abs",
    sympy.Min: "minimum",
    sympy.Max: "maximum",
}


@dataclass(frozen=True)
class _Step:
    """One operation on earlier registers."""

    operation: Callable[..., Any]
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class _Program:
    """Fills one register after another: a column of the points (int), a constant (float) or a step on earlier
    registers. The last one is the value."""

    width: int
    lines: tuple[int | float | _Step, ...]

    def run(self, x: Any) -> Any:
        """The value at x (..., width): an array (...), or a float where no column is used."""
        if x.shape[-1:] != (self.width,):
            raise ValueError(f"the last axis of the points must be {self.width}, their shape is {tuple(x.shape)}")
        registers: list[Any] = []
        for line in self.lines:
            if isinstance(line, _Step):
                registers.append(line.operation(*(registers[i] for i in line.arguments)))
            else:
                registers.append(x[..., line] if isinstance(line, int) else line)
        return registers[-1]


@dataclass(frozen=True)
class NumpyFunction:
    """Points (N, d) to values (N,), in float64; nan or inf where the formula is not real or not finite."""

    program: _Program

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        points = np.asarray(x, dtype=np.float64)
        with np.errstate(all="ignore"):
            value = self.program.run(points)
        return np.array(np.broadcast_to(value, points.shape[:-1])) if np.ndim(value) == 0 else np.asarray(value)


def to_numpy(expression: sympy.Expr, variables: Sequence[str]) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """The expression as a function of points (N, d), d = len(variables), to values (N,) in float64.

    Column i is the variable named variables[i]; a constant expression is broadcast. Raises UsageError where
    the expression has another variable or a function without a numeric form.
    """
    names = list(variables)
    if unknown := sorted({str(symbol) for symbol in expression.free_symbols} - set(names)):
        raise UsageError(f"{expression} uses {', '.join(unknown)}, which is not among the variables {names}")
    compiler = _Compiler(names)
    last = compiler.visit(expression)
    return NumpyFunction(_Program(len(names), tuple(compiler.lines[: last + 1])))


@cache
def _operations() -> Mapping[str, Callable[..., Any]]:
    """The numpy form of every function that a formula may use."""
    from scipy import special

    plain = ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "sign", "floor", "abs", "sqrt")
    operations: dict[str, Callable[..., Any]] = {name: getattr(np, name) for name in plain}
    operations |= {f"a{name}": getattr(np, f"arc{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
    operations |= {"erf": special.erf, "minimum": np.minimum, "maximum": np.maximum}
    operations["besselj"] = lambda order: {0: special.j0, 1: special.j1}.get(order, partial(special.jv, order))
    return operations


class _Compiler:
    """Visits sub-expressions from the leaves up and gives each distinct one a register."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.operations = _operations()
        self.lines: list[int | float | _Step] = []
        self.registers: dict[sympy.Basic, int] = {}

    def visit(self, node: sympy.Expr) -> int:
        """The register that holds the value of `node`."""
        if node not in self.registers:
            self.registers[node] = self._add(self._line(node))
        return self.registers[node]

    def _add(self, line: int | float | _Step) -> int:
        self.lines.append(line)
        return len(self.lines) - 1

    def _line(self, node: sympy.Expr) -> int | float | _Step:
        if node.is_Symbol:
            return self.names.index(str(node))
        if not node.free_symbols:
            return _constant(node)
        if node.is_Pow:
            return self._power(node.base, node.exp)
        if node.is_Add or node.is_Mul:
            return self._fold(operator.add if node.is_Add else operator.mul, node.args)
        name = _NAMES.get(node.func)
        if name in ("minimum", "maximum"):
            return self._fold(self.operations[name], node.args)
        if name == "besselj" and node.args[0].is_Integer:
            return _Step(self.operations[name](int(node.args[0])), (self.visit(node.args[1]),))
        if name is None or name == "besselj":
            raise UsageError(f"{node} has no numeric form here; known functions are {', '.join(FUNCTIONS)}")
        return _Step(self.operations[name], (self.visit(node.args[0]),))

    def _fold(self, operation: Callable[..., Any], arguments: Sequence[sympy.Expr]) -> _Step:
        """An operation of two arguments over several; constants come first in sympy's order."""
        registers = [self.visit(argument) for argument in arguments]
        while len(registers) > 2:
            registers[:2] = [self._add(_Step(operation, (registers[0], registers[1])))]
        return _Step(operation, (registers[0], registers[1]))

    def _power(self, base: sympy.Expr, exponent: sympy.Expr) -> _Step:
        if exponent == sympy.Rational(1, 2):
            return _Step(self.operations["sqrt"], (self.visit(base),))
        if exponent.is_Integer:  # a Python int, for which numpy keeps the sign of a negative base
            return _Step(partial(_integer_power, exponent=int(exponent)), (self.visit(base),))
        return _Step(operator.pow, (self.visit(base), self.visit(exponent)))


def _integer_power(base: Any, exponent: int) -> Any:
    return 1 / base if exponent == -1 else base**exponent


def _constant(node: sympy.Expr) -> float:
    value = node.evalf(20)
    if not value.is_Number:
        raise UsageError(f"the constant {node} is not a real number")
    return float(value)
