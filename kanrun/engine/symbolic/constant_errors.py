"""Standard errors and confidence intervals of the constants of a formula.

They are estimated from the residuals of the formula at the points to which it was fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sympy
from scipy import special
from sympy import Expr

from kanrun.engine.symbolic.candidates import DIGITS, Array, apart
from kanrun.engine.symbolic.edge_functions import Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.problem import EXACT, SearchData
from kanrun.engine.symbolic.refit import ConstantsFitting
from kanrun.formulas.parsing import variable

#: A constant of an edge: the index of the edge and the letter (a, b, c or d) of the constant.
Key = tuple[int, str]


def standard_errors(graph: Graph, data: SearchData) -> dict[Key, float]:
    """Return the standard errors of the free constants of all symbolic edges, by edge and letter.

    The result is empty if there are no more points than constants, or the Jacobian is not finite.
    """
    with np.errstate(all="ignore"):
        value, _, jacobian = graph.linearise(data.x)
        residual = value - data.y
        if data.relative:
            residual = residual / value
            jacobian = jacobian / value[:, None]
    freedom = residual.size - jacobian.shape[1]
    if freedom < 1 or not jacobian.size or not np.isfinite(jacobian).all():
        return {}
    errors = np.sqrt(residual @ residual / freedom) * _standard_deviations(jacobian)
    return {
        (index, name): float(error)
        for index, columns in enumerate(graph.parameter_slices())
        if isinstance(function := graph.edges[index].function, Symbolic)
        for name, error in zip(function.free, errors[columns], strict=True)
    }


def is_determined(graph: Graph, data: SearchData) -> bool:
    """Return whether the points determine all terms of a formula.

    This holds if the formula is exact. Otherwise the factor c of every edge function c f(a x + b) +
    d, if it is free, must be more than `determined` standard errors away from 0, and the terms of
    the output must not cancel (`cancels`).
    """
    # Terms of a sum count as cancelling if the standard deviation of one term is more than this
    # many times that of the sum. In a formula for a damped wave, the terms are as large as their
    # sum; in sums of waves that only approximate it, they are 10 to 1000 times as large.
    cancels = 10.0
    # The factor c of an edge function c f(a x + b) + d counts as determined if |c| is more than
    # this many standard errors.
    determined = 2.0
    if data.overall_error(graph) <= EXACT:
        return True
    with np.errstate(all="ignore"):
        values, outs = graph.edge_outputs(data.x)
    if graph.operation(graph.output) == "sum":
        terms = [np.std(outs[i]) for i in graph.into(graph.output)]
        if max(terms) > cancels * np.std(values[graph.output]):
            return False
    errors = standard_errors(graph, data)
    return all(
        abs(function.constants[2]) > determined * error
        for (index, name), error in errors.items()
        if name == "c" and isinstance(function := graph.edges[index].function, Symbolic)
    )


def _standard_deviations(jacobian: Array) -> Array:
    """Return the standard deviations (constants,) of fitted constants for noise of variance 1.

    `jacobian` (N, constants) contains the derivatives of the values with respect to the constants.
    """
    norms = np.linalg.norm(jacobian, axis=0)
    norms[norms == 0] = 1.0
    scaled = jacobian / norms
    covariance = np.linalg.pinv(scaled.T @ scaled, rcond=1e-12, hermitian=True)
    return np.asarray(np.sqrt(np.clip(np.diag(covariance), 0, None)) / norms)


@dataclass(frozen=True)
class ConstantInterval:
    """A number of a formula with its confidence interval and standard error.

    Attributes:
        text: The number as the formula writes it.
        value: The number.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        standard_error: Standard error of the number.
    """

    text: str
    value: float
    low: float
    high: float
    standard_error: float

    @property
    def digits(self) -> int:
        """Number of significant digits up to the first decimal place of the standard error."""
        if not (self.standard_error > 0 and self.value):
            return DIGITS
        size = np.floor(np.log10(abs(self.value))) - np.floor(np.log10(self.standard_error))
        return int(np.clip(size + 1, 1, DIGITS))

    def __str__(self) -> str:
        return f"{self.value:.{self.digits}g} +- {self.standard_error:.1g}"


def open_constants(expression: Expr, units: bool = False) -> tuple[Expr, dict[sympy.Symbol, Expr]]:
    """Replace the constants of an expression with symbols.

    Constants are numeric factors and summands other than -1, 0 and 1, and numeric exponents that
    are not integers. Equal numbers get different symbols, unless they belong to two occurrences of
    the same subexpression.

    Args:
        expression: The expression.
        units: Whether factors of 1 also get a symbol: one factor for the whole expression, one for
            every argument of a function, and one for every summand but the first, whose factor
            would be redundant.

    Returns:
        The expression with symbols, and the number that each symbol replaces.
    """
    constants: dict[sympy.Symbol, Expr] = {}
    known: dict[Expr, Expr] = {}

    def symbol_for(number: Expr) -> Expr:
        symbol = variable(f"constant{len(constants)}")
        constants[symbol] = number
        return symbol

    def unknown(number: Expr) -> Expr:
        return number if number in (-1, 0, 1) else symbol_for(number)

    def with_factor(part: Expr) -> Expr:
        is_unit = units and (part.is_Add or apart(part)[0] in (-1, 1))
        return opened(part) * (symbol_for(sympy.S.One) if is_unit else 1)

    def opened(part: Expr) -> Expr:
        if part.is_number:
            return unknown(part)
        if part.is_Symbol:
            return part
        if part not in known:
            if part.is_Mul:
                factor, rest = apart(part)
                parts = [opened(each) for each in sympy.Mul.make_args(rest)]
                known[part] = sympy.Mul(unknown(factor), *parts)
            elif part.is_Pow and part.exp.is_Integer:
                known[part] = opened(part.base) ** part.exp
            elif part.is_Add and units:
                factor, rest = apart(part.args[0])
                known[part] = sympy.Add(factor * opened(rest), *map(with_factor, part.args[1:]))
            elif part.is_Add or part.is_Pow:
                known[part] = part.func(*map(opened, part.args))
            else:
                arguments = (each if each.is_number else with_factor(each) for each in part.args)
                known[part] = part.func(*arguments)
        return known[part]

    return with_factor(expression), constants


def confidence_intervals(
    expression: Expr,
    names: Sequence[str],
    x: Array,
    y: Array,
    confidence: float = 0.95,
    *,
    relative: bool = False,
) -> list[ConstantInterval]:
    """Return confidence intervals of the constants of a formula.

    The intervals follow from the residuals and the Gauss-Newton matrix, with Student's t
    distribution.

    Args:
        expression: The formula.
        names: Names of the inputs.
        x: Inputs, shape (N, inputs).
        y: Outputs, shape (N,).
        confidence: Probability that an interval contains the constant.
        relative: Whether the noise is proportional to y.

    Returns:
        One interval per constant; none if there are no more points than constants, or a residual
        or a derivative is not finite.
    """
    open_form, constants = open_constants(expression)
    numbers = list(constants.values())
    freedom = y.size - len(numbers)
    values = np.array([float(each) for each in numbers])
    if not numbers or freedom < 1:
        return []
    unknowns = [each.name for each in constants]
    with np.errstate(all="ignore"):
        fitting = ConstantsFitting(open_form, names, unknowns, (x, y), values)
        residual, jacobian = fitting.linearised(values)
        scale = y if relative else np.ones_like(y)
        residual = residual / scale
        jacobian = jacobian / scale[:, None]
    if not (np.isfinite(jacobian).all() and np.isfinite(residual).all()):
        return []
    deviation = np.sqrt(residual @ residual / freedom) * _standard_deviations(jacobian)
    half = special.stdtrit(freedom, 0.5 + confidence / 2) * deviation
    texts = [repr(float(each)) if each.is_Float else str(each) for each in numbers]
    return [
        ConstantInterval(text, value, value - h, value + h, error)
        for text, value, h, error in zip(
            texts, values.tolist(), half.tolist(), deviation.tolist(), strict=True
        )
    ]


def significant(expression: Expr, intervals: Sequence[ConstantInterval]) -> Expr:
    """Return the formula with its decimal constants rounded to the digits that the data determine.

    If there are fewer `intervals` than constants, the formula is returned unchanged.
    """
    open_form, constants = open_constants(expression)
    if len(intervals) < len(constants):
        return expression
    pairs = zip(constants.items(), intervals, strict=True)
    return open_form.xreplace(
        {
            symbol: sympy.Float(each.value, each.digits) if number.has(sympy.Float) else number
            for (symbol, number), each in pairs
        }
    )
