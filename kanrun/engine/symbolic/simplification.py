"""Shorter forms of an expression: many ways of writing it, of which the shortest that has its values is kept."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget, WorkSpent, at_most, counted_calls
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.constants import nice, nice_phase
from kanrun.engine.symbolic.search_problem import RoundingPolicy, SimplificationPolicy
from kanrun.errors import KanrunError
from kanrun.formulas import to_numpy, variable

#: Digits of a float64, those that are never its rounding alone, and the size of a coefficient, beside another one, that
#: its rounding leaves.
_DIGITS, _SHOWN, _ROUNDING = 17, 15, 1e-14
#: What sympy raises at expressions that one of its transforms cannot take.
CANNOT = (
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)

Rewriting = Callable[[sympy.Expr], sympy.Expr]


def simplify_expression(
    expression: sympy.Expr,
    names: Sequence[str],
    points: Array,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> sympy.Expr:
    """The shortest of several equivalent forms that the policy's budget allows."""
    return equivalent_forms(expression, names, points, policy)[0]


def equivalent_forms(
    expression: sympy.Expr,
    names: Sequence[str],
    points: Array,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> list[sympy.Expr]:
    """Equivalent forms, shortest first, `expression` among them, as many as the policy's budget allows.

    A form counts only if it gives the values of `expression` at `points` (N, d), to rounding.
    """
    found, reference = [expression], to_numpy(expression, names)(points)
    budget = Budget(policy.budget)
    for steps in _TRANSFORMS if _unnamed(expression) <= policy.decimals else _PLAIN:
        for start in dict.fromkeys([min(found, key=size), expression]):
            try:
                form = _transformed(start, steps, policy.one * budget.left, policy)
                if form is not None and form not in found and _same(form, names, points, reference):
                    found.append(form)
            except (KanrunError, *CANNOT):
                continue  # the expression as it is stands
    return sorted(found, key=size)


def quotients_out_of_powers(
    expression: sympy.Expr,
    names: Sequence[str],
    points: Array,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> sympy.Expr:
    """Powers of quotients as quotients of powers where that divides by fewer variables and names none more often:
    x sqrt(1 + y^2/x^2) is sqrt(x^2 + y^2) where x is positive, and of the two, which positive `points` (N, d) cannot
    tell apart, the one that is smooth at x = 0 is meant; 1/sqrt(1 - y^2/x^2) stays. A form counts only if it gives the
    values of `expression` at all points."""
    roots = [
        each
        for each in expression.atoms(sympy.Pow)
        if each.exp.is_number and not each.exp.is_Integer
    ]
    for root in sorted(roots, key=lambda each: (-sympy.count_ops(each), str(each))):
        if expansion_terms(expression) > policy.terms:
            break
        positive = _as_positive(expression)
        base, exponent = root.xreplace(positive).as_base_exp()
        try:
            with counted_calls():
                taken_out = sympy.expand_power_base(sympy.together(base) ** exponent)
            form = _real(
                expression.xreplace(positive).xreplace({root.xreplace(positive): taken_out})
            )
            plainer = _divisions(form) < _divisions(expression) and _mentions(form) <= _mentions(
                expression
            )
            if plainer and _same(form, names, points, to_numpy(expression, names)(points)):
                expression = form
        except (KanrunError, *CANNOT):
            continue
    return expression


def _divisions(expression: sympy.Expr) -> int:
    """How many different negative powers of single variables are in it."""
    return sum(
        1 for each in expression.atoms(sympy.Pow) if each.base.is_Symbol and each.exp.is_negative
    )


def _mentions(expression: sympy.Expr) -> int:
    """How often variables are written in it."""
    return sum(1 for each in sympy.preorder_traversal(expression) if each.is_Symbol)


def _transformed(
    form: sympy.Expr, steps: Sequence[Rewriting], most: float, policy: SimplificationPolicy
) -> sympy.Expr | None:
    """`form` after all steps, None where they would take more work than `most`, or expand too far."""
    with contextlib.suppress(WorkSpent), at_most(most), counted_calls():
        for step in steps:
            if expansion_terms(form) > policy.terms:
                return None
            form = step(form)
        return form
    return None


def proven_equal(first: sympy.Expr, second: sympy.Expr, policy: SimplificationPolicy) -> str:
    """`yes`, `no` or `unknown`: whether sympy shows that the two are equal, if their difference is small enough."""
    difference = exact_decimals(first) - exact_decimals(second)
    if expansion_terms(difference) > policy.terms:
        return "unknown"
    try:
        with at_most(policy.proof), counted_calls():
            zero = sympy.simplify(sympy.expand(difference))
    except (WorkSpent, *CANNOT):
        return "unknown"
    if zero == 0:
        return "yes"
    return "no" if not zero.atoms(sympy.Float) else "unknown"


def expansion_terms(expression: sympy.Expr) -> int:
    """An upper bound of the terms that any part of `expression` has when it is expanded."""
    most = max((expansion_terms(each) for each in expression.args), default=1)
    return max(most, _terms(expression))


def _terms(expression: sympy.Expr) -> int:
    if expression.is_Add:
        return sum(_terms(each) for each in expression.args)
    if expression.is_Mul:
        return math.prod(_terms(each) for each in expression.args)
    if expression.is_Pow and expression.exp.is_Integer:
        terms, power = _terms(expression.base), abs(int(expression.exp))
        return math.comb(terms + power - 1, power) if terms > 1 else 1
    return 1


def _positive(expression: sympy.Expr) -> sympy.Expr:
    """Logarithms expanded as if the variables were positive; the values at the points decide whether that was
    allowed."""
    return sympy.expand_log(expression.xreplace(_as_positive(expression)), force=True)


def _as_positive(expression: sympy.Expr) -> dict[sympy.Symbol, sympy.Symbol]:
    return {s: sympy.Symbol(s.name, positive=True) for s in expression.free_symbols}


def _real(expression: sympy.Expr) -> sympy.Expr:
    """The variables are real again."""
    return expression.xreplace({s: variable(s.name) for s in expression.free_symbols})


def _logarithms(expression: sympy.Expr) -> sympy.Expr:
    """atanh and acoth as logarithms, and of all logarithms the numeric factors taken out and gathered."""
    half = sympy.Rational(1, 2)
    expression = expression.replace(
        sympy.atanh, lambda u: half * sympy.log(_sum_over_difference(u))
    )
    expression = expression.replace(
        sympy.acoth, lambda u: half * sympy.log(_sum_over_difference(1 / u))
    )
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
    return sympy.Add(
        *(term for term, size in zip(terms, sizes, strict=True) if size > _ROUNDING * max(sizes))
    )


def _completed_squares(expression: sympy.Expr) -> sympy.Expr:
    """exp(a x^2 + b x + c) as exp(a (x + b / 2a)^2) times a number."""

    def square(argument: sympy.Expr) -> sympy.Expr:
        symbols = sorted(argument.free_symbols, key=str)
        form = sympy.expand(argument)
        if (
            len(symbols) != 1
            or not form.is_polynomial(*symbols)
            or sympy.degree(form, symbols[0]) != _SQUARE
        ):
            return sympy.exp(argument)
        a, b, c = (form.coeff(symbols[0], k) for k in (2, 1, 0))
        return sympy.exp(c - b**2 / (4 * a)) * sympy.exp(a * (symbols[0] + b / (2 * a)) ** 2)

    return sympy.powsimp(expression).replace(sympy.exp, square)


#: The degree of a square.
_SQUARE = 2


def _common_factors(expression: sympy.Expr) -> sympy.Expr:
    """Decimal factors that all terms of a sum share put before it: 2.6 x + 2.6 is 2.6 (x + 1), and its square 6.76
    (x + 1)^2. The factor is the coefficient beside which most of the others are nice numbers."""

    def without(base: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
        if not base.is_Add:
            return sympy.Integer(1), base
        pairs = [term.as_independent(*base.free_symbols, as_Add=False) for term in base.args]
        best: tuple[tuple[int, int], sympy.Expr, list[sympy.Expr | None]] | None = None
        for factor in dict.fromkeys(abs(c) for c, _ in pairs):
            ratios = [
                nice(float(c / factor), _RATIO * max(abs(float(c / factor)), 1e-3))
                for c, _ in pairs
            ]
            ratios = [
                ratio if ratio is not None and ratio.is_Rational else None for ratio in ratios
            ]
            shown = [str(as_written(ratio)).rstrip("0") for ratio in ratios if ratio is not None]
            rank = len(shown), -len("".join(shown))
            if best is None or rank > best[0]:
                best = rank, factor, ratios
        already = sum(bool(c.is_Rational) for c, _ in pairs)
        complete = best is not None and best[0][0] == len(pairs)
        if best is None or (best[0][0] <= max(already, 1) and not complete):
            return sympy.Integer(1), base
        _, factor, ratios = best
        terms = [
            (c / factor if r is None else r) * rest
            for (c, rest), r in zip(pairs, ratios, strict=True)
        ]
        return factor, sympy.Add(*terms)

    def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        factor, rest = without(base)
        if factor == 1 or not exponent.is_number:
            return base**exponent
        value = float(factor**exponent)
        known = nice(value, _RATIO * max(abs(value), 1e-3))
        return (known if known is not None else factor**exponent) * rest**exponent

    expression = expression.replace(sympy.Pow, power)
    parts = [without(part) for part in sympy.Mul.make_args(expression)]
    return sympy.Mul(*(each for pair in parts for each in pair))


def as_written(expression: sympy.Expr) -> sympy.Expr:
    """The expression as a person writes its numbers: fractions with large denominators as short decimal numbers, and
    decimal numbers with no more digits than name the float64 that they are, or its neighbour."""

    def shown(number: sympy.Expr) -> sympy.Expr:
        if number.is_Float:
            value = float(number)
            short = float(f"{value:.{_SHOWN}g}")
            value = (
                short if math.isclose(short, value, rel_tol=2 * sys.float_info.epsilon) else value
            )
            is_whole = value.is_integer() and abs(value) < _LARGEST_WHOLE
            return sympy.Integer(int(value)) if is_whole else sympy.Float(repr(value), _DIGITS)
        p, q = int(number.p), int(number.q)
        decimal = repr(p / q)
        longer = len(decimal) - (q == _FIFTH or q >= _LEAST_DECIMAL) >= len(f"{p}/{q}")
        if longer or sympy.Rational(decimal) != number:
            return number
        return sympy.Float(decimal, _DIGITS)

    expression = expression.replace(_is_half_decimal, _one_number)
    numbers = [
        each for each in expression.atoms(sympy.Rational, sympy.Float) if not each.is_Integer
    ]
    return expression.xreplace({number: shown(number) for number in numbers})


def _is_half_decimal(expression: sympy.Expr) -> bool:
    """A product of a decimal number and another irrational one."""
    factors = expression.args if expression.is_Mul else ()
    return any(each.is_Float for each in factors) and any(
        each.is_number and not each.is_Float for each in factors
    )


def _one_number(product: sympy.Expr) -> sympy.Expr:
    numbers, rest = product.as_independent(*product.free_symbols, as_Add=False)
    return numbers.evalf(_DIGITS) * rest


def exact_decimals(expression: sympy.Expr) -> sympy.Expr:
    """The expression with its short decimal numbers as fractions."""
    texts = {number: repr(float(number)) for number in expression.atoms(sympy.Float)}
    short = {number: sympy.Rational(text) for number, text in texts.items() if len(text) <= _SHORT}
    return expression.xreplace(short)


#: Relative difference at which two coefficients have a nice ratio; denominators at which decimal numbers as long as the
#: fraction are preferred; characters of a decimal number that stands for itself.
_RATIO, _FIFTH, _LEAST_DECIMAL, _SHORT = 1e-9, 5, 10, 11
#: Decimal numbers below this that are whole are written so.
_LARGEST_WHOLE = 1e9
#: Size of a digit beside an operation's 1, and the largest of a number.
_DIGIT = 0.1

_expanded_functions = partial(sympy.expand, trig=True, power_exp=True, log=True, deep=True)

_TRANSFORMS: tuple[tuple[Rewriting, ...], ...] = (
    (_common_factors,),
    (_completed_squares,),
    (sympy.expand,),
    (_expanded_functions,),
    (_expanded_functions, sympy.together, sympy.cancel),
    (_logarithms,),
    (_logarithms, partial(sympy.logcombine, force=True)),
    (sympy.factor_terms,),
    (partial(sympy.factor, deep=True),),
    (sympy.simplify,),
    (_positive, sympy.simplify, _real),
)


#: Those that factor no polynomials, which takes sympy minutes in one call where the coefficients are long.
_PLAIN: tuple[tuple[Rewriting, ...], ...] = ((_common_factors,), (sympy.factor_terms,))
#: Digits beyond which a number is none that one writes.
_WRITTEN = 12


def _unnamed(expression: sympy.Expr) -> int:
    """How many numbers of many digits are in it."""
    numbers = expression.atoms(sympy.Float, sympy.Rational)
    return sum(
        1
        for each in numbers
        if len(repr(float(each)).strip("-")) > _WRITTEN and not each.is_Integer
    )


def size(expression: sympy.Expr) -> float:
    """Operations, functions counting twice, and numbers by their length, all as they are written."""
    shown = as_written(expression)
    numbers = sum(
        min(_DIGIT * len(str(number).rstrip("0")), 1.0) for number in shown.atoms(sympy.Number)
    )
    functions = sum(1 for a in sympy.preorder_traversal(shown) if isinstance(a, sympy.Function))
    return float(sympy.count_ops(shown)) + functions + numbers


def _same(form: sympy.Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    """Whether the form has the values of the reference (N,) wherever that is defined."""
    value, defined = to_numpy(form, names)(points), np.isfinite(reference)
    if not defined.any() or not np.isfinite(value[defined]).all():
        return False
    size = np.abs(reference[defined])
    return bool(
        np.all(
            np.abs(value[defined] - reference[defined])
            <= 1e-11 * np.maximum(size, np.quantile(size, 0.9))
        )
    )


def round_numbers(
    expression: sympy.Expr,
    allowed: Callable[[sympy.Expr], bool],
    policy: RoundingPolicy = RoundingPolicy(),
) -> sympy.Expr:
    """`expression` with as many decimal numbers as `allowed` lets pass made nice or left out."""
    floats = sorted(expression.atoms(sympy.Float), key=lambda each: (abs(float(each)), str(each)))
    phases = {
        part
        for wave in expression.atoms(sympy.sin, sympy.cos)
        for part in sympy.Add.make_args(wave.args[0])
    }
    for number in floats[: policy.numbers]:
        window = policy.window * max(abs(float(number)), 1e-3)
        rounded = nice(float(number), window, policy)
        if rounded is None and number in phases:
            rounded = nice_phase(float(number), window, policy)
        if rounded is None:
            continue
        trial = expression.xreplace({number: rounded})
        if not trial.has(sympy.zoo, sympy.nan, sympy.oo) and allowed(trial):
            expression = trial
    return expression
