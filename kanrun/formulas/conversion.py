"""Conversion of sympy expressions to functions of NumPy arrays, text, LaTeX and Python modules.

A NumPy function is a short list of operations, one per distinct sub-expression; constants are
evaluated to 20 digits and rounded once. sympy's `lambdify` is not used, because it executes
generated source text and evaluates a sub-expression once for each time that it occurs.
"""

from __future__ import annotations

import keyword
import operator
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from typing import Any

import numpy as np

# Importing scipy is fast, because its subpackages are loaded when they are first used.
import scipy
import sympy
from numpy.typing import ArrayLike, NDArray
from sympy import Expr
from sympy.core.function import AppliedUndef
from sympy.printing.numpy import SciPyPrinter

from kanrun.errors import UsageError
from kanrun.formulas.parsing import CONSTANTS, PRECISION, variable
from kanrun.formulas.syntax import FUNCTIONS, RECIPROCALS

#: Number of significant digits that determine a float64.
DIGITS = 17

#: Operation of a compiled formula, whose result is stored in one register. An int stands for a
#: column of the points, a float for a constant, and a pair for a function of the registers with
#: these indices.
Line = int | float | tuple[Callable[..., Any], tuple[int, ...]]


@dataclass(frozen=True)
class NumpyFunction:
    """Formula compiled to a list of NumPy operations; call it with points.

    It maps points of shape (..., d) to float64 values of shape (...). Values are NaN or infinite
    where the formula is not real or not finite.

    Attributes:
        width: Number of variables d.
        lines: Operations in order. Each stores one register: a column of the points, a constant, or
            a function of earlier registers. The last register is the value of the formula.
    """

    width: int
    lines: tuple[Line, ...]

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        points = np.asarray(x, dtype=np.float64)
        if points.shape[-1:] != (self.width,):
            raise ValueError(
                f"The last axis of the points must be {self.width}; their shape is {points.shape}."
            )
        registers: list[Any] = []
        with np.errstate(all="ignore"):
            for line in self.lines:
                if isinstance(line, tuple):
                    function, arguments = line
                    first, *rest = (registers[i] for i in arguments)
                    registers.append(reduce(function, rest, first) if rest else function(first))
                else:
                    registers.append(points[..., line] if isinstance(line, int) else line)
        value = np.asarray(registers[-1])
        return np.array(np.broadcast_to(value, points.shape[:-1])) if value.ndim == 0 else value


def to_numpy(
    expression: Expr, variables: Sequence[str]
) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """Compile an expression to a function of NumPy arrays in float64.

    Args:
        expression: Expression in symbols from `variable`.
        variables: Names of the variables, in the order of the columns of the points.

    Returns:
        Function that maps points of shape (N, d) to values of shape (N,).

    Raises:
        UsageError: If the expression contains another variable, a constant that is not real, or a
            function without a numeric form.
    """
    names = list(variables)
    if unknown := sorted({str(symbol) for symbol in expression.free_symbols} - set(names)):
        raise UsageError(
            f"{expression} uses {', '.join(unknown)}, which is not among the variables {names}"
        )
    lines: list[Line] = []
    registers: dict[sympy.Basic, int] = {}

    def visit(node: Expr) -> int:
        """Compile `node` and its arguments, without duplicates; return the register of `node`."""
        if node not in registers:
            if node.is_Symbol:
                lines.append(names.index(str(node)))
            elif not node.free_symbols:
                value = node.evalf(PRECISION)
                if not value.is_Number:
                    raise UsageError(f"the constant {node} is not a real number")
                lines.append(float(value))
            else:
                function, arguments = _operation(node)
                lines.append((function, tuple(map(visit, arguments))))
            registers[node] = len(lines) - 1
        return registers[node]

    visit(expression)
    return NumpyFunction(len(names), tuple(lines))


def _operation(node: Expr) -> tuple[Callable[..., Any], Sequence[Expr]]:
    """Return the NumPy function for the outermost operation of `node`, and its arguments."""
    if node.is_Pow and node.exp == sympy.Rational(1, 2):
        return np.sqrt, (node.base,)
    if node.is_Pow and node.exp.is_Integer:
        # The exponent is a Python int, so that powers of negative bases keep their sign.
        return partial(_integer_power, exponent=int(node.exp)), (node.base,)
    if (inverse := RECIPROCALS.get(node.func.__name__)) is not None:
        return np.reciprocal, (getattr(sympy, inverse)(*node.args),)
    if node.func is sympy.besselj and node.args[0].is_Integer:
        special = scipy.special
        order = int(node.args[0])  # scipy has faster functions for the orders 0 and 1.
        faster: dict[int, Callable[..., Any]] = {0: special.j0, 1: special.j1}
        return faster.get(order) or partial(special.jv, order), node.args[1:]
    if node.func not in (functions := _functions()):
        raise UsageError(
            f"{node} has no numeric form here; known functions are {', '.join(FUNCTIONS)}"
        )
    # Delta functions are replaced by 0, their value almost everywhere. The second argument of
    # Heaviside, which is its value at 0, is dropped.
    is_jump = node.func in (sympy.DiracDelta, sympy.Heaviside)
    return functions[node.func], node.args[:1] if is_jump else node.args


def _integer_power(base: Any, exponent: int) -> Any:
    return 1 / base if exponent == -1 else base**exponent


def _error_function(x: Any) -> Any:
    return scipy.special.erf(x)


@cache
def _functions() -> Mapping[Any, Callable[..., Any]]:
    """Return a table from sympy functions to NumPy functions of one or two arguments."""
    names = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
    same = (*names, "exp", "log", "sign", "floor")
    table: dict[Any, Callable[..., Any]] = {getattr(sympy, f): getattr(np, f) for f in same}
    table |= {getattr(sympy, f"a{name}"): getattr(np, f"arc{name}") for name in names}
    table |= {sympy.Add: operator.add, sympy.Mul: operator.mul, sympy.Pow: operator.pow}
    table |= {sympy.Min: np.minimum, sympy.Max: np.maximum, sympy.DiracDelta: np.zeros_like}
    table[sympy.Heaviside] = lambda x: np.heaviside(x, 0.5)
    return table | {sympy.Abs: np.abs, sympy.erf: _error_function}


def to_text(expression: Expr, names: Sequence[str]) -> str:
    """Convert an expression to text that `parse` reads, given the variables `names`.

    If a variable has the name of a constant, such as e, the constant is written as a number.
    """
    shared = {CONSTANTS[name] for name in names if name in CONSTANTS}
    numbers = {number: number.evalf(DIGITS) for number in shared}
    return str(sympy.sstr(expression.xreplace(numbers), full_prec=False))


def to_latex(expression: Expr, names: Sequence[str] = ()) -> str:
    """Convert an expression to LaTeX, without dollar signs; x0 becomes x_{0}.

    Variables in `names` are set upright and unchanged if they would otherwise look like another
    variable or a constant, or if sympy would change their letters (rebar would become re with a
    bar).
    """
    symbols = {name: str(sympy.latex(variable(name))) for name in names}
    looks = [*symbols.values(), "e", r"\pi"]
    upright = {
        variable(name): rf"\mathrm{{{name}}}".replace("_", r"\_")
        for name, look in symbols.items()
        if looks.count(look) > 1 or re.sub(r"[\\{}_ ]", "", look) != name.replace("_", "")
    }
    return str(sympy.latex(expression, symbol_names=upright))


class _Printer(SciPyPrinter):  # type: ignore[misc]
    """Printer whose Max and Min accept arrays and numbers together, which fails in sympy 1.13."""

    def _print_Max(self, expression: Expr) -> str:
        return str(reduce("numpy.maximum({}, {})".format, map(self._print, expression.args)))

    def _print_Min(self, expression: Expr) -> str:
        return str(reduce("numpy.minimum({}, {})".format, map(self._print, expression.args)))


def to_python(expression: Expr, variables: Sequence[str], name: str = "formula") -> str:
    """Convert an expression to the source of a Python module with one function of NumPy arrays.

    Args:
        expression: Expression to convert.
        variables: Names of the function's parameters, in order.
        name: Name of the function.

    Raises:
        UsageError: If a variable is not a valid Python name.
    """
    if unfit := [
        name_of_variable for name_of_variable in variables if not name_of_variable.isidentifier()
    ]:
        raise UsageError(
            f"{unfit[0]!r} is not a Python name; rename it before printing the formula as Python"
        )
    user_functions = {
        call.func.__name__: call.func.__name__ for call in expression.atoms(AppliedUndef)
    }
    settings = {"fully_qualified_modules": True, "user_functions": user_functions}
    body = _Printer(settings).doprint(expression)
    imports = "import numpy\n" + "import scipy.special\n" * ("scipy." in body)
    return f"{imports}\n\ndef {name}({', '.join(variables)}):\n    return {body}\n"


def as_variables(
    names: Sequence[str], reserved: Collection[str] = (), *, ascii_only: bool = False
) -> tuple[str, ...]:
    """Convert names, such as those of columns, to distinct variables of formulas.

    For example, `size m2` becomes size_m2: each run of characters that identifiers cannot have
    becomes one underscore. If a name is already taken, underscores are appended. Names that need no
    change are assigned first, so that they stay unchanged.

    Args:
        names: Names to convert.
        reserved: Names that are taken, in addition to functions of formulas and Python keywords.
        ascii_only: Whether to remove accents and other characters outside ASCII.

    Returns:
        One variable per name, in order.
    """
    taken = {*FUNCTIONS, *keyword.kwlist, "numpy", "scipy", *reserved}
    assigned: dict[int, str] = {}

    def written(name: str) -> str:
        letters = unicodedata.normalize("NFKD" if ascii_only else "NFKC", name)
        letters = letters.encode("ascii", "ignore").decode() if ascii_only else letters
        kept = "".join(letter if f"x{letter}".isidentifier() else " " for letter in letters)
        joined = "_".join(kept.split()) or "x"
        return joined if joined.isidentifier() else f"x_{joined}"

    for index in sorted(range(len(names)), key=lambda i: names[i] != written(names[i])):
        variable_name = written(names[index])
        while variable_name in taken:
            variable_name += "_"
        assigned[index] = variable_name
        taken.add(variable_name)
    return tuple(assigned[index] for index in range(len(names)))
