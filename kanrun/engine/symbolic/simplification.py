"""Shorter forms of an expression.

Several ways of writing it, of which the shortest with the same values is kept.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.constants import RoundingPolicy, nice, nice_phase
from kanrun.engine.symbolic.description_length import EXACT
from kanrun.errors import KanrunError
from kanrun.formulas import to_numpy, variable

#: Digits of a float64, and those that are never its rounding alone.
_DIGITS, _SHOWN = 17, 15
#: Size of a coefficient, relative to the largest, that is only rounding.
_ROUNDING = 1e-14
#: Errors that sympy raises for expressions that a transform cannot take.
CANNOT = (
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)

Rewriting = Callable[[sympy.Expr], sympy.Expr]


@dataclass(frozen=True)
class SimplificationPolicy:
    """Bounds of sympy's transforms, by the size of expressions: sympy has no limit of its own.

    Attributes:
        budget: Work for all transforms of an expression, or for a proof that two are equal.
        max_terms: Maximum number of terms of an expanded expression.
    """

    budget: float = 5.0
    max_terms: int = 400


def simplify_expression(
    expression: sympy.Expr,
    names: Sequence[str],
    points: Array,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> sympy.Expr:
    """Return the shortest of several equivalent forms that the policy's budget allows."""
    return equivalent_forms(expression, names, points, policy)[0]


def equivalent_forms(
    expression: sympy.Expr,
    names: Sequence[str],
    points: Array,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> list[sympy.Expr]:
    """Return equivalent forms that the policy's budget allows, `expression` too, shortest first.

    A form counts only if it has the values of `expression` at `points` (N, d), to rounding.
    """
    found, reference = [expression], to_numpy(expression, names)(points)
    budget = Budget(policy.budget)
    for steps in _TRANSFORMS:
        for start in dict.fromkeys([min(found, key=size), expression]):
            form = start
            try:
                for step in steps:
                    _claim(form, step, policy.max_terms, budget.left)
                    form = step(form)
                if form not in found and _same(form, names, points, reference):
                    found.append(form)
            except (KanrunError, _TooLarge, *CANNOT):
                # The expression as it is stands.
                continue
    return sorted(found, key=size)


class _TooLarge(Exception):
    """A transform would take more work than is left, or expand too far."""


def _claim(form: sympy.Expr, step: Rewriting, max_terms: int, left: float) -> None:
    """Count the work of a transform before it runs, by the size of the expression.

    Sympy has no limit of its own.
    """
    terms = expansion_terms(form)
    numbers = sum(1 for each in form.atoms(sympy.Float, sympy.Rational) if not each.is_Integer)
    work = COSTS.operation * float(sympy.count_ops(form)) * terms * (1 + numbers)
    work = 0.0 if step in _LIGHT else work
    if terms > max_terms or work > left:
        raise _TooLarge
    count_work(work)


def proven_equal(first: sympy.Expr, second: sympy.Expr, policy: SimplificationPolicy) -> str:
    """Return `yes` or `no` if sympy shows whether the two are equal, else `unknown`."""
    difference = exact_decimals(first) - exact_decimals(second)
    try:
        _claim(difference, sympy.simplify, policy.max_terms, policy.budget)
        zero = sympy.simplify(sympy.expand(difference))
    except (_TooLarge, *CANNOT):
        return "unknown"
    if zero == 0:
        return "yes"
    return "no" if not zero.atoms(sympy.Float) else "unknown"


def expansion_terms(expression: sympy.Expr) -> int:
    """Return an upper bound of the terms that any part of `expression` has when it is expanded."""
    return max([_terms(expression), *(expansion_terms(each) for each in expression.args)])


def _terms(expression: sympy.Expr) -> int:
    if expression.is_Add:
        return sum(_terms(each) for each in expression.args)
    if expression.is_Mul:
        return math.prod(_terms(each) for each in expression.args)
    if expression.is_Pow and expression.exp.is_Integer:
        terms, power = _terms(expression.base), abs(int(expression.exp))
        return math.comb(terms + power - 1, power) if terms > 1 else 1
    return 1


def _same(form: sympy.Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    """Return whether the form has the values of the reference (N,) wherever that is defined."""
    value, defined = to_numpy(form, names)(points), np.isfinite(reference)
    if not defined.any() or not np.isfinite(value[defined]).all():
        return False
    size = np.abs(reference[defined])
    # Ten times the rounding of a formula, as forms cancel differently.
    allowed = 10 * EXACT * np.maximum(size, np.quantile(size, 0.9))
    return bool(np.all(np.abs(value[defined] - reference[defined]) <= allowed))


def divide_after_powers(
    expression: sympy.Expr,
    names: Sequence[str],
    points: Array,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> sympy.Expr:
    """Write powers of quotients as quotients of powers if that divides by fewer variables.

    x sqrt(1 + y^2/x^2) is sqrt(x^2 + y^2) for positive x. Positive `points` (N, d) do not
    distinguish the two; the one that is smooth at x = 0 is meant. A form counts only if it has the
    values of `expression` at all points.
    """
    roots = [each for each in expression.atoms(sympy.Pow) if each.exp.is_Rational]
    roots = [each for each in roots if not each.exp.is_Integer]
    for root in sorted(roots, key=lambda each: (-sympy.count_ops(each), str(each))):
        positive = _as_positive(expression)
        base, exponent = root.xreplace(positive).as_base_exp()
        try:
            _claim(base, sympy.together, policy.max_terms, policy.budget)
            taken_out = sympy.expand_power_base(sympy.together(base) ** exponent)
            whole = expression.xreplace(positive)
            form = _as_real(whole.xreplace({root.xreplace(positive): taken_out}))
            fewer = [a - b for a, b in zip(_divisions(expression), _divisions(form), strict=True)]
            if fewer[0] > 0 <= fewer[1]:
                reference = to_numpy(expression, names)(points)
                expression = form if _same(form, names, points, reference) else expression
        except (KanrunError, _TooLarge, *CANNOT):
            continue
    return expression


def _divisions(expression: sympy.Expr) -> tuple[int, int]:
    """Count the negative powers of single variables, and the places where variables are written."""
    powers = [each for each in expression.atoms(sympy.Pow) if each.base.is_Symbol]
    symbols = [each for each in sympy.preorder_traversal(expression) if each.is_Symbol]
    return sum(bool(each.exp.is_negative) for each in powers), len(symbols)


def _as_positive(expression: sympy.Expr) -> dict[sympy.Symbol, sympy.Symbol]:
    return {s: sympy.Symbol(s.name, positive=True) for s in expression.free_symbols}


def _as_real(expression: sympy.Expr) -> sympy.Expr:
    return expression.xreplace({s: variable(s.name) for s in expression.free_symbols})


def _simplify_positive(expression: sympy.Expr) -> sympy.Expr:
    """Simplify as if the variables were positive.

    The values at the points decide whether that was allowed.
    """
    positive = expression.xreplace(_as_positive(expression))
    return _as_real(sympy.simplify(sympy.expand_log(positive, force=True)))


def _logarithms(expression: sympy.Expr) -> sympy.Expr:
    """Write atanh and acoth as logarithms, and logarithms of products as sums."""
    for function, power in ((sympy.atanh, 1), (sympy.acoth, -1)):
        expression = expression.replace(
            function, lambda u, power=power: sympy.log(_sum_over_difference(u**power)) / 2
        )
    expression = expression.replace(sympy.log, lambda u: sympy.log(sympy.factor_terms(u)))
    expression = sympy.expand_log(expression, force=True)
    if expression.has(sympy.Float):
        # Only decimal numbers cancel these.
        logarithms = [each for each in expression.atoms(sympy.log) if each.is_number]
        expression = expression.xreplace({each: each.evalf(_DIGITS) for each in logarithms})
    return sympy.expand(expression)


def _sum_over_difference(u: sympy.Expr) -> sympy.Expr:
    """Return (1 + u) / (1 - u), for u = p / q as (q + p) / (q - p), without rounding errors."""
    p, q = sympy.fraction(sympy.together(u))

    def significant(total: sympy.Expr) -> sympy.Expr:
        terms = sympy.Add.make_args(sympy.expand(total))
        sizes = [abs(float(term.as_coeff_Mul()[0])) for term in terms]
        kept = [
            term for term, size in zip(terms, sizes, strict=True) if size > _ROUNDING * max(sizes)
        ]
        return sympy.Add(*kept)

    return significant(q + p) / significant(q - p)


def _common_factors(expression: sympy.Expr) -> sympy.Expr:
    """Factor out decimal factors that all terms of a sum share.

    2.6 x + 2.6 becomes 2.6 (x + 1), its square 6.76 (x + 1)^2. The factor is the coefficient that
    gives most of the others a nice ratio.
    """

    def close(value: float) -> sympy.Expr | None:
        return nice(value, RoundingPolicy().precision * max(abs(value), 1e-3))

    def split(base: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
        if not base.is_Add:
            return sympy.S.One, base
        pairs = [term.as_independent(*base.free_symbols, as_Add=False) for term in base.args]
        ranked: list[tuple[int, int, int, sympy.Expr, list[sympy.Expr | None]]] = []
        for factor in dict.fromkeys(abs(c) for c, _ in pairs):
            ratios = [close(float(c / factor)) for c, _ in pairs]
            ratios = [each if each is not None and each.is_Rational else None for each in ratios]
            shown = [str(as_written(each)).rstrip("0") for each in ratios if each is not None]
            ranked.append((len(shown), -len("".join(shown)), -len(ranked), factor, ratios))
        named, _, _, factor, ratios = max(ranked, key=lambda entry: entry[:3])
        already = sum(bool(c.is_Rational) for c, _ in pairs)
        if named < len(pairs) and named <= max(already, 1):
            return sympy.S.One, base
        terms = [
            (c / factor if ratio is None else ratio) * rest
            for (c, rest), ratio in zip(pairs, ratios, strict=True)
        ]
        return factor, sympy.Add(*terms)

    def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        factor, rest = split(base)
        if factor == 1 or not exponent.is_number:
            return base**exponent
        return (close(float(factor**exponent)) or factor**exponent) * rest**exponent

    expression = expression.replace(sympy.Pow, power)
    parts = [split(part) for part in sympy.Mul.make_args(expression)]
    return sympy.Mul(*(each for pair in parts for each in pair))


_expand_functions = partial(sympy.expand, trig=True, power_exp=True, log=True, deep=True)
_combine_logarithms = partial(sympy.logcombine, force=True)
_factor = partial(sympy.factor, deep=True)
_TRANSFORMS: tuple[tuple[Rewriting, ...], ...] = (
    (_common_factors,),
    (sympy.expand,),
    (_expand_functions, sympy.together, sympy.cancel),
    (_logarithms,),
    (_logarithms, _combine_logarithms),
    (sympy.factor_terms,),
    (_factor,),
    (sympy.simplify,),
    (_simplify_positive,),
)
#: Those that take time in proportion to the size of the expression alone; polynomials with long
#: coefficients, and trigonometric functions of multiples, take the others minutes in one call.
_LIGHT = (_common_factors, sympy.expand, sympy.factor_terms)


def as_written(expression: sympy.Expr) -> sympy.Expr:
    """Return the expression with its numbers as a person writes them.

    Fractions with large denominators become short decimal numbers. Decimal numbers get no more
    digits than name the float64 that they are, or its neighbour.
    """

    def shown(number: sympy.Expr) -> sympy.Expr:
        if number.is_Float:
            value = float(number)
            short = float(f"{value:.{_SHOWN}g}")
            if math.isclose(short, value, rel_tol=2 * sys.float_info.epsilon):
                value = short
            is_whole = value.is_integer() and abs(value) < _LARGEST_WHOLE
            return sympy.Integer(int(value)) if is_whole else sympy.Float(repr(value), _DIGITS)
        decimal, is_plain = repr(float(number)), number.q < _LEAST_DECIMAL
        if is_plain or len(decimal) > len(str(number)) or sympy.Rational(decimal) != number:
            return number
        return sympy.Float(decimal, _DIGITS)

    def is_half_decimal(product: sympy.Expr) -> bool:
        numbers = [each for each in product.args if product.is_Mul and each.is_number]
        return len(numbers) > 1 and any(each.is_Float for each in numbers)

    def one_number(product: sympy.Expr) -> sympy.Expr:
        numbers, rest = product.as_independent(*product.free_symbols, as_Add=False)
        return numbers.evalf(_DIGITS) * rest

    expression = expression.replace(is_half_decimal, one_number)
    numbers = [
        each for each in expression.atoms(sympy.Rational, sympy.Float) if not each.is_Integer
    ]
    return expression.xreplace({number: shown(number) for number in numbers})


#: Denominator from which on a decimal number that is not longer than the fraction is preferred.
_LEAST_DECIMAL = 5
#: Characters of a decimal number that stands for itself.
_SHORT = 11
#: Whole decimal numbers below this are written as integers.
_LARGEST_WHOLE = 1e9
#: Size of a digit, relative to an operation.
_DIGIT = 0.1


def exact_decimals(expression: sympy.Expr) -> sympy.Expr:
    """Return the expression with its short decimal numbers as fractions."""
    texts = {number: repr(float(number)) for number in expression.atoms(sympy.Float)}
    short = {number: sympy.Rational(text) for number, text in texts.items() if len(text) <= _SHORT}
    return expression.xreplace(short)


def size(expression: sympy.Expr) -> float:
    """Return the number of operations, functions counting twice, plus the lengths of numbers."""
    shown = as_written(expression)
    lengths = [len(str(number).rstrip("0")) for number in shown.atoms(sympy.Number)]
    functions = sum(isinstance(each, sympy.Function) for each in sympy.preorder_traversal(shown))
    return float(sympy.count_ops(shown)) + functions + sum(min(_DIGIT * n, 1.0) for n in lengths)


def round_numbers(
    expression: sympy.Expr,
    allowed: Callable[[sympy.Expr], bool],
    policy: RoundingPolicy = RoundingPolicy(),
) -> sympy.Expr:
    """Round decimal numbers to nice numbers or zero, as far as `allowed` accepts."""
    waves = expression.atoms(sympy.sin, sympy.cos)
    phases = {part for wave in waves for part in sympy.Add.make_args(wave.args[0])}
    floats = expression.atoms(sympy.Float)
    for number in sorted(floats, key=lambda each: (abs(float(each)), str(each))):
        value, window = float(number), policy.precision * max(abs(float(number)), 1e-3)
        rounded = (nice_phase if number in phases else nice)(value, window, policy)
        if rounded is not None:
            trial = expression.xreplace({number: rounded})
            if not trial.has(sympy.zoo, sympy.nan, sympy.oo) and allowed(trial):
                expression = trial
    return expression
