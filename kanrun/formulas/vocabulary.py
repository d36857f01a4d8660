"""Names that formulas may contain: functions, constants and variables.

Formulas may contain these names and any names that the caller of the parser adds; all other names
are rejected. This module does not load sympy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kanrun.errors import did_you_mean

if TYPE_CHECKING:
    from sympy import Expr

#: Functions that are reciprocals of other functions, such as cot = 1/tan. Formulas may contain
#: them, because sympy's simplification produces them.
RECIPROCALS = {
    "cot": "tan",
    "sec": "cos",
    "csc": "sin",
    "coth": "tanh",
    "sech": "cosh",
    "csch": "sinh",
}
#: Names of the constants.
CONSTANT_NAMES = ("pi", "e", "E")
#: Pattern of a variable's name that consists of x and a number, such as x0.
INDEXED = re.compile(r"x(0|[1-9]\d*)")


@dataclass(frozen=True)
class KnownFunction:
    """Function that formulas may call.

    Attributes:
        definition: Name of the same function in sympy; a formula in its arguments x0, x1, ...; or a
            Python function that maps the arguments to the sympy expression.
        arguments: Number of arguments; None for two or more.
    """

    definition: str | Callable[..., Expr]
    arguments: int | None = 1


def _logarithm(argument: Expr, base: int) -> Expr:
    import sympy

    return sympy.log(argument, base)


def _bessel(order: Expr, argument: Expr) -> Expr:
    """Return the Bessel function J_order(argument), for orders whose values were tested.

    Raises:
        ValueError: If the order is not a whole number from 0 to 8.
    """
    import sympy

    if not order.is_Integer or not 0 <= order <= 8:
        raise ValueError("the order of besselj must be a whole number from 0 to 8")
    return sympy.besselj(order, argument)


def _table() -> dict[str, KnownFunction]:
    circular = ("sin", "cos", "tan")
    hyperbolic = ("sinh", "cosh", "tanh")
    inverses = [f"a{name}" for name in (*circular, *hyperbolic)]
    further = ("exp", "log", "sqrt", "sign", "erf", "floor", "Abs")
    names = (*circular, *hyperbolic, *inverses, *RECIPROCALS, *further)
    unary: dict[str, str | Callable[..., Expr]] = {name: name for name in names}
    unary |= {f"arc{name}": f"a{name}" for name in (*circular, "tanh")}
    unary |= {
        "ln": "log",
        "log10": partial(_logarithm, base=10),
        "log2": partial(_logarithm, base=2),
        "abs": "Abs",
        "sigmoid": "1/(1 + exp(-x0))",
        "gaussian": "exp(-x0^2)",
        "heaviside": "(1 + sign(x0))/2",
        "j0": "besselj(0, x0)",
        "j1": "besselj(1, x0)",
    }
    table = {name: KnownFunction(definition) for name, definition in unary.items()}
    table["besselj"] = KnownFunction(_bessel, 2)
    table["where"] = KnownFunction("x2 + (x1 - x2)*x0", 3)
    for name in ("Min", "Max"):
        table[name] = table[name.lower()] = KnownFunction(name, None)
    return table


#: Functions by name, including aliases such as arcsin and ln. sympy's own spellings (Abs, Max) are
#: included as well, so that the text of an expression can be parsed again. sigmoid(x) is
#: 1/(1 + exp(-x)), gaussian(x) is exp(-x^2), heaviside(x) is 1/2 at 0, and where(x < 0.5, 1, 0) is
#: 1 below 0.5 and 0 above.
FUNCTIONS: dict[str, KnownFunction] = _table()


def similar_names(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with names similar to `name`, or "" if there are none.

    There are no suggestions for a single letter, because it resembles every short name.
    """
    return did_you_mean(name, known) if len(name) > 1 else ""
