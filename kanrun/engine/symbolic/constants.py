"""Constants rounded to simple fractions and multiples of pi, e and roots, if the data allow it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy
from scipy import stats

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import EXACT, SearchData, description_length
from kanrun.engine.symbolic.edge_functions import Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import RefitSettings, refit_to
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.parsing import parse_expression

#: Units of nice numbers, by the bits that naming them costs.
_UNITS = {
    0: "1",
    2: "pi",
    3: "sqrt(2)",
    4: "1/pi pi^2 sqrt(3) e",
    5: "sqrt(5) 1/e log(2) sqrt(pi) 1/sqrt(pi) 1/sqrt(2*pi)",
    6: "1/pi^2 pi^3 sqrt(6) sqrt(7) sqrt(10) e^2 log(10) sqrt(2*pi) sqrt(2)*pi",
    7: "1/e^2 log(3) sqrt(2)/pi",
    8: "1/pi^3",
}
_SIZED_UNITS = [
    (unit, float(unit), bits)
    for bits, texts in _UNITS.items()
    for unit in (parse_expression(text, ()) for text in texts.split())
]
#: Maximum number of significant digits of a decimal number that somebody wrote.
_MAX_DIGITS = 9
#: Size of a shift, relative to the largest value of its function, below which it is zero.
_NEGLIGIBLE = 1e-9

#: A constant of an edge, by the edge's number and the constant's name, and the number that it may
#: be.
Key = tuple[int, str]
Proposal = tuple[int, str, sympy.Expr]
#: Edge, name, value before and number after.
Rounded = tuple[int, str, float, str]


@dataclass(frozen=True)
class RoundingPolicy:
    """Rounding constants to nice numbers.

    Attributes:
        max_denominator: Largest denominator of a fraction.
        precision: Relative accuracy of a constant, whatever its standard error is.
        chance: Probability that a number as simple lies as near by chance, below which a number is
            nice.
        tolerance: Relative increase of the validation error that rounding may cause.
    """

    max_denominator: int = 20
    precision: float = 1e-9
    chance: float = 0.05
    tolerance: float = 0.02


def nice(
    value: float, window: float, policy: RoundingPolicy = RoundingPolicy()
) -> sympy.Expr | None:
    """Return the simplest nice number within `window` of `value`, or None if it may be chance.

    Nice numbers are fractions times a unit, and short decimal numbers, which are returned as
    fractions too.
    """
    if abs(value) <= window:
        return sympy.S.Zero
    found: list[tuple[float, int, sympy.Expr, sympy.Expr]] = []
    for unit, size, bits in _SIZED_UNITS:
        for q in range(1, policy.max_denominator + 1):
            p = round(value / size * q)
            if p != 0 and math.gcd(p, q) == 1 and abs(p * size / q - value) <= window:
                cost = bits + math.log2(abs(p)) + 2 * math.log2(q)
                found.append((cost, len(found), sympy.Rational(p, q), unit))
    for digits in range(_MAX_DIGITS):
        text = f"{value:.{digits}e}"
        if abs(float(text) - value) <= window:
            mantissa = int(text.partition("e")[0].replace(".", "").replace("-", ""))
            # Two bits more than its digits, so that 1/2, 3/4 and 5/4 stay fractions.
            cost = 2.0 + math.log2(mantissa)
            found.append((cost, len(found), sympy.Rational(text), sympy.S.One))
            break
    cost, _, number, unit = min(found, default=(math.inf, 0, sympy.S.Zero, sympy.S.One))
    is_no_accident = found and 2**cost * window / max(abs(value), 1.0) < policy.chance
    return number * unit if is_no_accident else None


def nice_phase(value: float, window: float, policy: RoundingPolicy) -> sympy.Expr | None:
    """Return a nice phase of a sine: a nice number plus a multiple of a quarter turn, or None."""
    for turn in (0, sympy.pi / 2, -sympy.pi / 2, sympy.pi, -sympy.pi):
        number = nice(value - float(turn), window, policy)
        if number is not None:
            return number + turn
    return None


def round_constants(
    graph: Graph, data: SearchData, allowed: float, policy: RoundingPolicy = RoundingPolicy()
) -> tuple[Graph, tuple[Rounded, ...]]:
    """Fix constants at nice numbers one after another while the others are refitted.

    A number stays if the relative validation error is then at most `allowed` or, if the points have
    noise, if the description of all points becomes shorter.
    """
    changes: list[Rounded] = []
    rejected: set[Proposal] = set()
    while (proposal := _nearest(graph, data, rejected, policy)) is not None:
        index, name, number = proposal
        function = _symbolic(graph, index)
        fixed = function.changed(name, **{name: float(number)})
        fixed = replace(fixed, exact=(*function.exact, (name, number)))
        trial = refit_to(graph.with_function(index, fixed), data, RefitSettings(steps=20))
        noisy = data.overall_error(graph) > EXACT
        if data.error(trial) <= allowed or (
            noisy and description_length(trial, data) <= description_length(graph, data)
        ):
            changes.append((index, name, function.constant(name), str(number)))
            graph = trial
        else:
            rejected.add(proposal)
    return graph, tuple(changes)


def _symbolic(graph: Graph, index: int) -> Symbolic:
    function = graph.edges[index].function
    assert isinstance(function, Symbolic)
    return function


def _nearest(
    graph: Graph, data: SearchData, rejected: set[Proposal], policy: RoundingPolicy
) -> Proposal | None:
    """Return the free constant that is nearest to a nice number, relative to its standard error.

    Negligible shifts come first, simple numbers before others. Every constant that is fixed makes
    the others more certain, so that a number that was too uncertain before may be nice now.
    """
    outs = graph.edge_outputs(data.x)[1]
    proposals: list[tuple[float, int, Proposal]] = []
    for (index, name), deviation in _standard_errors(graph, data).items():
        function = _symbolic(graph, index)
        value = function.constant(name)
        if name == "d" and abs(value) < _NEGLIGIBLE * np.abs(outs[index]).max():
            proposals.append((-1.0, len(proposals), (index, name, sympy.S.Zero)))
        error = max(deviation, policy.precision * max(abs(value), 1.0))
        is_phase = name == "b" and function.candidate.name in ("sin", "cos")
        number = (nice_phase if is_phase else nice)(value, 3 * error, policy)
        if number is not None:
            away = abs(value - float(number)) / error + 0.1 * sympy.count_ops(number)
            proposals.append((float(away), len(proposals), (index, name, number)))
    left = [entry for entry in proposals if entry[2] not in rejected]
    return min(left, key=lambda entry: entry[:2])[2] if left else None


def _standard_errors(graph: Graph, data: SearchData) -> dict[Key, float]:
    """Return the standard error of every free constant of a symbolic edge."""
    with np.errstate(all="ignore"):
        value, jacobian = graph.linearise(data.x)
        residual = value - data.y
        if data.relative:
            residual, jacobian = residual / value, jacobian / value[:, None]
    if not jacobian.size or not np.isfinite(jacobian).all():
        return {}
    errors = np.sqrt(np.mean(residual**2)) * _standard_deviations(jacobian)
    return {
        (index, name): float(error)
        for index, columns in enumerate(graph.parameter_slices())
        if isinstance(function := graph.edges[index].function, Symbolic)
        for name, error in zip(function.free, errors[columns], strict=True)
    }


def _standard_deviations(jacobian: Array) -> Array:
    """Return the standard deviations of constants (constants,) for noise of size 1."""
    norms = np.linalg.norm(jacobian, axis=0)
    norms[norms == 0] = 1.0
    scaled = jacobian / norms
    covariance = np.linalg.pinv(scaled.T @ scaled, rcond=1e-12, hermitian=True)
    return np.asarray(np.sqrt(np.clip(np.diag(covariance), 0, None)) / norms)


@dataclass(frozen=True)
class ConstantInterval:
    """A number in a formula, as it is written, and its confidence interval."""

    text: str
    value: float
    low: float
    high: float


def confidence_intervals(
    expression: sympy.Expr,
    names: Sequence[str],
    x: Array,
    y: Array,
    confidence: float = 0.95,
    *,
    relative: bool = False,
) -> list[ConstantInterval]:
    """Return the intervals of a formula's numbers, from x (N, inputs) and y (N,).

    They rest on the residuals and the Gauss-Newton matrix, relative to y if the noise is
    `relative`. With fewer points than numbers there are none.
    """
    numbers = [
        each for each in expression.atoms(sympy.Rational, sympy.Float) if not each.is_Integer
    ]
    numbers.sort(key=str)
    unknowns = [variable(f"constant{i}") for i in range(len(numbers))]
    freedom = y.size - len(numbers)
    if not numbers or freedom < 1:
        return []
    open_form = expression.xreplace(dict(zip(numbers, unknowns, strict=True)))
    values = [float(each) for each in numbers]
    rows = np.concatenate([x, np.tile(values, (y.size, 1))], axis=1)
    arguments = [*names, *(each.name for each in unknowns)]
    with np.errstate(all="ignore"):
        residual = to_numpy(open_form, arguments)(rows) - y
        columns = [to_numpy(sympy.diff(open_form, each), arguments)(rows) for each in unknowns]
        jacobian, scale = np.stack(columns, axis=1), y if relative else np.ones_like(y)
        residual, jacobian = residual / scale, jacobian / scale[:, None]
    if not (np.isfinite(jacobian).all() and np.isfinite(residual).all()):
        return []
    deviation = np.sqrt(residual @ residual / freedom) * _standard_deviations(jacobian)
    half = stats.t.ppf(0.5 + confidence / 2, freedom) * deviation
    texts = [repr(float(each)) if each.is_Float else str(each) for each in numbers]
    return [
        ConstantInterval(text, value, value - h, value + h)
        for text, value, h in zip(texts, values, half.tolist(), strict=True)
    ]
