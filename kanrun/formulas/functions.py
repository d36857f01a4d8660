"""The whitelist: every function and constant that a formula may name, as sympy objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy

MAX_BESSEL_ORDER = 8  # as far as values were compared with 30 digits


def variable(name: str) -> sympy.Symbol:
    """The symbol of an input. It is real, so that sqrt(x0**2) is |x0| and symbolic comparison knows it;
    expressions that are to be compared with parsed ones must be built from this."""
    return sympy.Symbol(name, real=True)


@dataclass(frozen=True)
class Function:
    """How a call becomes an expression: `build(*arguments)`, with `arguments` of them (None: two or more)."""

    build: Callable[..., sympy.Expr]
    arguments: int | None = 1


def _bessel(order: sympy.Expr, argument: sympy.Expr) -> sympy.Expr:
    if not order.is_Integer or not 0 <= order <= MAX_BESSEL_ORDER:
        raise ValueError(f"the order of besselj must be a whole number from 0 to {MAX_BESSEL_ORDER}")
    return sympy.besselj(order, argument)


def _sigmoid(argument: sympy.Expr) -> sympy.Expr:
    return 1 / (1 + sympy.exp(-argument))


def _gaussian(argument: sympy.Expr) -> sympy.Expr:
    return sympy.exp(-(argument**2))


_SAME_NAME = (  # as in sympy
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *("exp", "log", "sqrt", "sign", "erf", "floor"),
)


def _table() -> dict[str, Function]:
    unary: dict[str, Callable[..., Any]] = {name: getattr(sympy, name) for name in _SAME_NAME}
    unary |= {f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan", "tanh")}
    unary |= {
        "ln": sympy.log,
        "log10": lambda argument: sympy.log(argument, 10),
        "log2": lambda argument: sympy.log(argument, 2),
        "abs": sympy.Abs,
        "Abs": sympy.Abs,
        "sigmoid": _sigmoid,
        "gaussian": _gaussian,
        "j0": lambda argument: sympy.besselj(0, argument),
        "j1": lambda argument: sympy.besselj(1, argument),
    }
    table = {name: Function(build) for name, build in unary.items()}
    table["besselj"] = Function(_bessel, 2)
    for name, build in {"min": sympy.Min, "max": sympy.Max}.items():
        table[name] = table[name.capitalize()] = Function(build, None)
    return table


FUNCTIONS: dict[str, Function] = _table()
"""Name to function. Aliases (arcsin, ln, ...) and sympy's own spellings (Abs, Max) are both here, so that the
text of an expression reads back as that expression. sigmoid(x) is 1/(1 + exp(-x)), gaussian(x) exp(-x^2)."""

CONSTANTS: dict[str, sympy.Expr] = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E}
