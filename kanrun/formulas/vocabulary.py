"""Names that formulas may contain: functions, constants and variables.

The parser (`parsing.py`) accepts these names and any names that its caller adds, and rejects all
other names. Functions are built as sympy expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr

from kanrun.errors import did_you_mean

#: Functions that are reciprocals of other functions, such as cot = 1/tan. Formulas may contain
#: them, because sympy's simplification produces them.
RECIPROCALS: dict[Any, Any] = {
    sympy.cot: sympy.tan,
    sympy.sec: sympy.cos,
    sympy.csc: sympy.sin,
    sympy.coth: sympy.tanh,
    sympy.sech: sympy.cosh,
    sympy.csch: sympy.sinh,
}


def variable(name: str) -> sympy.Symbol:
    """Return the sympy symbol of a variable. It is real, so that sqrt(x0**2) becomes |x0|.

    Symbols must come from this function if an expression is to be compared with a parsed one.
    """
    return sympy.Symbol(name, real=True)


@dataclass(frozen=True)
class KnownFunction:
    """Function that formulas may call.

    Attributes:
        build: Returns the sympy expression for the arguments.
        arguments: Number of arguments; None for two or more.
    """

    build: Callable[..., Expr]
    arguments: int | None = 1


def step(argument: Expr) -> Expr:
    """Return the step function: 1 where `argument` is positive, 0 where negative, 1/2 at zero."""
    return (1 + sympy.sign(argument)) / 2


def _bessel(order: Expr, argument: Expr) -> Expr:
    """Return the Bessel function J_order(argument), for orders whose values were tested.

    Raises:
        ValueError: If the order is not a whole number from 0 to 8.
    """
    if not order.is_Integer or not 0 <= order <= 8:
        raise ValueError("the order of besselj must be a whole number from 0 to 8")
    return sympy.besselj(order, argument)


def _table() -> dict[str, KnownFunction]:
    circular = ("sin", "cos", "tan")
    hyperbolic = ("sinh", "cosh", "tanh")
    inverses = [f"a{name}" for name in (*circular, *hyperbolic)]
    further = ("exp", "log", "sqrt", "sign", "erf", "floor", "Abs")
    reciprocals = (function.__name__ for function in RECIPROCALS)
    names = (*circular, *hyperbolic, *inverses, *reciprocals, *further)
    unary: dict[str, Callable[..., Any]] = {name: getattr(sympy, name) for name in names}
    unary |= {f"arc{name}": getattr(sympy, f"a{name}") for name in (*circular, "tanh")}
    unary |= {
        "ln": sympy.log,
        "log10": lambda argument: sympy.log(argument, 10),
        "log2": lambda argument: sympy.log(argument, 2),
        "abs": sympy.Abs,
        "sigmoid": lambda argument: 1 / (1 + sympy.exp(-argument)),
        "gaussian": lambda argument: sympy.exp(-(argument**2)),
        "heaviside": step,
        "j0": lambda argument: sympy.besselj(0, argument),
        "j1": lambda argument: sympy.besselj(1, argument),
    }
    table = {name: KnownFunction(build) for name, build in unary.items()}
    table["besselj"] = KnownFunction(_bessel, 2)
    table["where"] = KnownFunction(lambda switch, yes, no: no + (yes - no) * switch, 3)
    for name in ("Min", "Max"):
        table[name] = table[name.lower()] = KnownFunction(getattr(sympy, name), None)
    return table


#: Functions by name, including aliases such as arcsin and ln. sympy's own spellings (Abs, Max) are
#: included as well, so that the text of an expression can be parsed again. sigmoid(x) is
#: 1/(1 + exp(-x)), gaussian(x) is exp(-x^2), and where(x < 0.5, 1, 0) is 1 below 0.5 and 0 above.
FUNCTIONS: dict[str, KnownFunction] = _table()
CONSTANTS: dict[str, Expr] = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E}
#: Pattern of a variable's name that consists of x and a number, such as x0.
INDEXED = re.compile(r"x(0|[1-9]\d*)")


def similar_names(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with names similar to `name`, or "" if there are none.

    There are no suggestions for a single letter, because it resembles every short name.
    """
    return did_you_mean(name, known) if len(name) > 1 else ""
