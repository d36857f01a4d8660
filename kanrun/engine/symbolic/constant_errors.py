"""Constants of formulas: what the points determine of them, and their confidence intervals.

Standard errors come from the residuals of a formula.
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
from kanrun.formulas import variable

#: Standard errors within which no factor of a function may be 0.
_DETERMINED = 2.0
#: Size of terms, relative to their sum, from which on they cancel each other. Damped waves have
#: terms of the size of their sum, sums of waves in their place 10 to 1000 times that.
_CANCELS = 10.0
#: A constant of an edge, by the edge's number and the constant's name.
Key = tuple[int, str]


def standard_errors(graph: Graph, data: SearchData) -> dict[Key, float]:
    """Return the standard error of every free constant of a symbolic edge.

    With fewer points than constants there are none.
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
    """Return whether noisy points determine the terms of a formula.

    No factor of a function may be 0 within `_DETERMINED` standard errors, and no term of the output
    may be more than `_CANCELS` times as large as it: such terms cancel each other.
    """
    if data.overall_error(graph) <= EXACT:
        return True
    with np.errstate(all="ignore"):
        values, outs = graph.edge_outputs(data.x)
    if graph.operation(graph.output) == "sum":
        terms = [np.std(outs[i]) for i in graph.into(graph.output)]
        if max(terms) > _CANCELS * np.std(values[graph.output]):
            return False
    errors = standard_errors(graph, data)
    return all(
        abs(function.constants[2]) > _DETERMINED * error
        for (index, name), error in errors.items()
        if name == "c" and isinstance(function := graph.edges[index].function, Symbolic)
    )


def _standard_deviations(jacobian: Array) -> Array:
    """Return the standard deviations of constants (constants,) for noise of size 1."""
    norms = np.linalg.norm(jacobian, axis=0)
    norms[norms == 0] = 1.0
    scaled = jacobian / norms
    covariance = np.linalg.pinv(scaled.T @ scaled, rcond=1e-12, hermitian=True)
    return np.asarray(np.sqrt(np.clip(np.diag(covariance), 0, None)) / norms)


@dataclass(frozen=True)
class ConstantInterval:
    """A number in a formula, as it is written, its confidence interval and standard error."""

    text: str
    value: float
    low: float
    high: float
    standard_error: float

    @property
    def digits(self) -> int:
        """Number of significant digits, the last one being that of the standard error."""
        if not (self.standard_error > 0 and self.value):
            return DIGITS
        size = np.floor(np.log10(abs(self.value))) - np.floor(np.log10(self.standard_error))
        return int(np.clip(size + 1, 1, DIGITS))

    def __str__(self) -> str:
        return f"{self.value:.{self.digits}g} +- {self.standard_error:.1g}"


def open_constants(expression: Expr, units: bool = False) -> tuple[Expr, dict[sympy.Symbol, Expr]]:
    """Return the expression with an unknown for each of its constants, and their numbers.

    Constants are the factors and summands that are numbers, signs aside, and exponents that are not
    whole. Equal numbers are different unknowns, unless they belong to the same part of the formula.
    With `units`, the expression, every argument of a function and every summand but the first have
    a factor, also where that is 1, so that no two constants do the same.
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
    """Return the intervals of a formula's constants, from x (N, inputs) and y (N,).

    They rest on the residuals and the Gauss-Newton matrix, relative to y if the noise is
    `relative`. With fewer points than constants there are none.
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
    """Return a formula with as many digits of its constants as the points determine."""
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
