"""The whitelist: every function and constant that a formula may name, as sympy objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy

#: Reciprocal to the function it is the reciprocal of. sympy's simplification writes these, and so may a formula.
RECIPROCALS: dict[Any, Any] = {
    sympy.cot: sympy.tan,
    sympy.sec: sympy.cos,
    sympy.csc: sympy.sin,
    sympy.coth: sympy.tanh,
    sympy.sech: sympy.cosh,
    sympy.csch: sympy.sinh,
}


def variable(name: str) -> sympy.Symbol:
    """The symbol of an input. It is real, so that sqrt(x0**2) is |x0| and symbolic comparison knows it;
    expressions that are to be compared with parsed ones must be built from this."""
    return sympy.Symbol(name, real=True)


@dataclass(frozen=True)
class KnownFunction:
    """How a call becomes an expression: `build(*arguments)`, with `arguments` of them (None: two or more)."""

    build: Callable[..., sympy.Expr]
    arguments: int | None = 1


def _bessel(order: sympy.Expr, argument: sympy.Expr) -> sympy.Expr:
    """J_order(argument); orders above 8 are refused, since their values were not compared with 30 digits."""
    if not order.is_Integer or not 0 <= order <= 8:
        raise ValueError("the order of besselj must be a whole number from 0 to 8")
    return sympy.besselj(order, argument)


def _table() -> dict[str, KnownFunction]:
    circular, hyperbolic = ("sin", "cos", "tan"), ("sinh", "cosh", "tanh")
    inverses = [f"a{name}" for name in (*circular, *hyperbolic)]
    others = ("exp", "log", "sqrt", "sign", "erf", "floor")
    names = (*circular, *hyperbolic, *inverses, *(function.__name__ for function in RECIPROCALS), *others)
    unary: dict[str, Callable[..., Any]] = {name: getattr(sympy, name) for name in names}
    unary |= {f"arc{name}": getattr(sympy, f"a{name}") for name in (*circular, "tanh")}
    unary |= {
        "ln": sympy.log,
        "log10": lambda argument: sympy.log(argument, 10),
        "log2": lambda argument: sympy.log(argument, 2),
        "abs": sympy.Abs,
        "Abs": sympy.Abs,
        "sigmoid": lambda argument: 1 / (1 + sympy.exp(-argument)),
        "gaussian": lambda argument: sympy.exp(-(argument**2)),
        "j0": lambda argument: sympy.besselj(0, argument),
        "j1": lambda argument: sympy.besselj(1, argument),
    }
    table = {name: KnownFunction(build) for name, build in unary.items()}
    table["besselj"] = KnownFunction(_bessel, 2)
    for name, build in {"min": sympy.Min, "max": sympy.Max}.items():
        table[name] = table[name.capitalize()] = KnownFunction(build, None)
    return table


FUNCTIONS: dict[str, KnownFunction] = _table()
"""Name to function. Aliases (arcsin, ln, ...) and sympy's own spellings (Abs, Max) are both here, so that the
text of an expression reads back as that expression. sigmoid(x) is 1/(1 + exp(-x)), gaussian(x) exp(-x^2)."""

CONSTANTS: dict[str, sympy.Expr] = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E}
