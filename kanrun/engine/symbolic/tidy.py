"""Numbers left in an expression after simplification: rounding where they are nice, dropped where they are nothing."""

from __future__ import annotations

from collections.abc import Callable

import sympy

from kanrun.engine.symbolic.constants import nice

#: A number within this of a nice one, relative to it, is taken for it if the data agree.
_WINDOW = 1e-9
_MOST = 40

Allowed = Callable[[sympy.Expr], bool]


def tidied(expression: sympy.Expr, allowed: Allowed) -> sympy.Expr:
    """`expression` with as many decimal numbers as `allowed` lets pass made nice or left out; sines with a shift of
    about pi/2 become cosines."""
    for number in sorted(expression.atoms(sympy.Float), key=lambda each: (abs(float(each)), str(each)))[:_MOST]:
        rounded = nice(float(number), _WINDOW * max(abs(float(number)), 1e-3))
        if rounded is None:
            continue
        trial = expression.xreplace({number: rounded})
        if not trial.has(sympy.zoo, sympy.nan, sympy.oo) and allowed(trial):
            expression = trial
    return _cosines(expression, allowed)


def _cosines(expression: sympy.Expr, allowed: Allowed) -> sympy.Expr:
    for sine in sorted(expression.atoms(sympy.sin), key=str):
        shift, rest = sine.args[0].as_coeff_Add()
        if not shift.is_Float:
            continue
        for sign in (1, -1):
            rounded = nice(float(shift) - sign * float(sympy.pi / 2), _WINDOW)
            if rounded is not None and allowed(trial := expression.xreplace({sine: sign * sympy.cos(rest + rounded)})):
                expression = trial
                break
    return expression
