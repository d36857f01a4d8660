"""Shorter forms of an expression: many ways of writing it, of which the shortest that has its values is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import sympy

from kanrun.engine.symbolic.bounded import CANNOT, OverLimit, within
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.constants import nice
from kanrun.errors import KanrunError
from kanrun.formulas import to_numpy

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


#: Digits of a number that comes out of a logarithm.
_DIGITS = 17
#: A coefficient this small beside another one is what rounding has left.
_ROUNDING = 1e-14


def simplified(expression: sympy.Expr, names: Sequence[str], points: Array, effort: float) -> sympy.Expr:
    """The shortest of several equivalent forms that could be found within `effort`, about seconds of one core.

    A form counts only if it gives the values of `expression` at `points` (N, d), to rounding.
    """
    best, reference = expression, to_numpy(expression, names)(points)
    best_size = size(expression)
    bounded = within(effort)
    for transform in _TRANSFORMS:
        for start in dict.fromkeys([best, expression]):
            try:
                form = bounded(transform, start)
                if size(form) < best_size and _same(form, names, points, reference):
                    best, best_size = form, size(form)
            except OverLimit:
                return best
            except (KanrunError, *CANNOT):
                continue  # the expression as it is stands
    return best


def _expanded_functions(expression: sympy.Expr) -> sympy.Expr:
    return sympy.expand(expression, trig=True, power_exp=True, log=True, deep=True)


def _powers(expression: sympy.Expr) -> sympy.Expr:
    return sympy.powsimp(sympy.expand_power_exp(expression), deep=True)


def _positive(expression: sympy.Expr) -> sympy.Expr:
    """Simplified as if the variables were positive; the values at the points decide whether that was allowed."""
    positive = {s: sympy.Symbol(s.name, positive=True) for s in expression.free_symbols}
    back = {new: old for old, new in positive.items()}
    return sympy.simplify(sympy.expand_log(expression.xreplace(positive), force=True)).xreplace(back)


def _logarithms(expression: sympy.Expr) -> sympy.Expr:
    """atanh and acoth as logarithms, and of all logarithms the numeric factors taken out and gathered."""
    half = sympy.Rational(1, 2)
    expression = expression.replace(sympy.atanh, lambda u: half * sympy.log(_sum_over_difference(u)))
    expression = expression.replace(sympy.acoth, lambda u: half * sympy.log(_sum_over_difference(1 / u)))
    expression = expression.replace(sympy.log, _log_without_factor)
    if expression.has(sympy.Float):  # which only decimal numbers cancel
        expression = expression.replace(
            sympy.log, lambda u: sympy.log(u).evalf(_DIGITS) if u.is_Number else sympy.log(u)
        )
    return sympy.expand(expression)


def _log_without_factor(argument: sympy.Expr) -> sympy.Expr:
    factor, rest = sympy.factor_terms(argument).as_coeff_Mul()
    if not factor.is_positive or factor == 1:
        return sympy.log(factor * rest)
    return sympy.log(rest) + sympy.log(factor)


def _sum_over_difference(u: sympy.Expr) -> sympy.Expr:
    """(1 + u) / (1 - u); of a quotient u = p / q as (q + p) / (q - p), in which decimal numbers cancel."""
    p, q = sympy.fraction(sympy.together(u))
    above, below = (_without_rounding(sympy.expand(part)) for part in (q + p, q - p))
    return above / below


def _without_rounding(polynomial: sympy.Expr) -> sympy.Expr:
    """A sum without the terms whose coefficients are rounding errors of the others'."""
    terms = sympy.Add.make_args(polynomial)
    sizes = [abs(float(term.as_coeff_Mul()[0])) for term in terms]
    return sympy.Add(*(term for term, size in zip(terms, sizes, strict=True) if size > _ROUNDING * max(sizes)))


def _combined_logarithms(expression: sympy.Expr) -> sympy.Expr:
    """Sums of logarithms as one; the values at the points decide whether that was allowed."""
    return sympy.logcombine(_logarithms(expression), force=True)


def _exponentials(expression: sympy.Expr) -> sympy.Expr:
    """tanh and atanh written with exp and log, which products inside them may undo."""
    written = expression.replace(sympy.tanh, lambda u: 1 - 2 / (sympy.exp(2 * u) + 1))
    written = written.replace(sympy.atanh, lambda u: sympy.log(sympy.together((1 + u) / (1 - u))) / 2)
    return sympy.simplify(sympy.expand(written, power_exp=True))


_TRANSFORMS: tuple[Callable[[sympy.Expr], sympy.Expr], ...] = (
    sympy.expand,
    _powers,
    _expanded_functions,
    lambda e: sympy.together(_expanded_functions(e)),
    lambda e: sympy.cancel(sympy.together(_expanded_functions(e))),
    _exponentials,
    _logarithms,
    lambda e: sympy.factor_terms(_logarithms(e)),
    _combined_logarithms,
    sympy.factor_terms,
    sympy.factor,
    sympy.simplify,
    _positive,
)


def size(expression: sympy.Expr) -> float:
    """Operations, functions counting twice and numbers by whether they are short."""
    numbers = sum(1.0 if isinstance(a, sympy.Float) else 0.2 for a in expression.atoms(sympy.Number))
    functions = sum(1 for a in sympy.preorder_traversal(expression) if isinstance(a, sympy.Function))
    return float(sympy.count_ops(expression)) + functions + numbers


def _same(form: sympy.Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    value = to_numpy(form, names)(points)
    scale = float(np.max(np.abs(reference), initial=1e-300))
    return bool(np.all(np.abs(value - reference) <= 1e-11 * scale))
