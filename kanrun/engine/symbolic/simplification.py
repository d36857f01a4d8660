"""Equivalent forms of an expression, of which the shortest with the same values is kept.

Rewritings are applied within a budget of work; values at the points, or sympy, decide whether two
expressions are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import sympy
from sympy import Expr
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.problem import EXACT
from kanrun.engine.symbolic.rewritings import HEAVY, LIGHT, TRANSFORMS, Rewriting
from kanrun.engine.symbolic.written_numbers import decimals, exact_decimals, size
from kanrun.errors import KanrunError
from kanrun.formulas import to_numpy

#: Maximum number of terms of an expanded expression; sympy has no limit of its own.
_MAX_TERMS = 400
#: Relative difference of equal forms: ten times the rounding, as forms cancel differently.
_EQUAL = 10 * EXACT
#: Quantile of the values to which the difference is relative where they are smaller.
_USUAL = 0.9
#: Operations of a heavy rewriting for each operation of the expression, however small that is.
_STEPS = 4
#: Part of its largest possible work that a heavy rewriting takes on average.
_HEAVY_WORK = 0.35
#: Part of their largest possible work that other rewritings take on average.
_USUAL_WORK = 0.05
#: Digits of a fraction that takes as long as a decimal number: exact arithmetic keeps all digits.
_SHORT = 4
#: Errors that sympy raises for expressions that a transform cannot take.
CANNOT = (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError)


def equivalent_forms(
    expression: Expr, names: Sequence[str], points: Array, budget: float
) -> list[Expr]:
    """Return equivalent forms within work of `budget`, `expression` too, shortest first.

    A form counts only if it has the values of `expression` at `points` (N, d), to rounding. Of
    equally short forms those with fewer minus signs come first.
    """
    found = {expression: size(expression)}
    reference = to_numpy(expression, names)(points)
    allowance = Budget(budget)
    for steps in TRANSFORMS:
        for start in dict.fromkeys([min(found, key=found.__getitem__), expression]):
            form = start
            try:
                for step in steps:
                    _claim(form, step, allowance.left)
                    form = step(form)
                if form not in found and _same(form, names, points, reference):
                    found[form] = size(form)
            except (KanrunError, _TooLarge, *CANNOT):
                # The expression as it is stands.
                continue
    return sorted(found, key=lambda form: (found[form], str(form).count("-")))


class _TooLarge(Exception):
    """A transform would take more work than is left, or expand too far."""


def _claim(form: Expr, step: Rewriting, left: float) -> None:
    """Count the work of a transform before it runs, by the size of the expression.

    Sympy has no limit of its own: transforms that may take more than is left are not begun, though
    most take less.
    """
    terms = expansion_terms(form)
    operations = float(sympy.count_ops(form))
    numbers = sum(1 if each.is_Float else len(str(each)) / _SHORT for each in decimals(form))
    most = COSTS.transform * operations * terms * (1 + numbers)
    if terms > _MAX_TERMS or (step not in LIGHT and most > left):
        raise _TooLarge
    fraction, steps = (_HEAVY_WORK, _STEPS) if step in HEAVY else (_USUAL_WORK, 1)
    count_work(COSTS.operation * steps * operations + (step not in LIGHT) * fraction * most)


def proven_equal(first: Expr, second: Expr, budget: float) -> str:
    """Return `yes` or `no` if sympy shows whether the two are equal, else `unknown`."""
    difference = exact_decimals(first) - exact_decimals(second)
    try:
        _claim(difference, sympy.simplify, budget)
        zero = sympy.simplify(sympy.expand(difference))
    except (_TooLarge, *CANNOT):
        return "unknown"
    if zero == 0:
        return "yes"
    return "no" if not zero.atoms(sympy.Float) else "unknown"


def expansion_terms(expression: Expr) -> int:
    """Return an upper bound of the terms that any part of `expression` has when it is expanded."""
    return max([_terms(expression), *(expansion_terms(each) for each in expression.args)])


def _terms(expression: Expr) -> int:
    if expression.is_Add:
        return sum(_terms(each) for each in expression.args)
    if expression.is_Mul:
        return math.prod(_terms(each) for each in expression.args)
    if expression.is_Pow and expression.exp.is_Integer:
        terms = _terms(expression.base)
        power = abs(int(expression.exp))
        return math.comb(terms + power - 1, power) if terms > 1 else 1
    if isinstance(expression, TrigonometricFunction):
        # Sympy halves angles as long as their factor is even, and has twice the terms each time.
        factor = expression.args[0].as_coeff_Mul(rational=True)[0].p
        return doublings if (doublings := abs(factor & -factor)) > _MAX_TERMS else 1
    return 1


def _same(form: Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    """Return whether the form has the values of the reference (N,) wherever that is defined."""
    value = to_numpy(form, names)(points)
    defined = np.isfinite(reference)
    if not defined.any() or not np.isfinite(value[defined]).all():
        return False
    size = np.abs(reference[defined])
    allowed = _EQUAL * np.maximum(size, np.quantile(size, _USUAL))
    return bool(np.all(np.abs(value[defined] - reference[defined]) <= allowed))
