"""Constants rounded to integers, simple fractions and their multiples of pi, e and roots, where the data allow it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import sympy
from scipy import stats

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import EXACT, SearchData, description_length
from kanrun.engine.symbolic.edges import CONSTANTS, Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import RefitSettings, refit_to
from kanrun.engine.symbolic.search_problem import RoundingPolicy
from kanrun.formulas import to_numpy, variable

#: Units of nice numbers with the bits that naming them costs.
_UNITS: tuple[tuple[sympy.Expr, float], ...] = (
    (sympy.Integer(1), 0.0),
    *(
        (sympy.pi**k, cost)
        for k, cost in ((1, 2.0), (-1, 4.0), (2, 4.0), (-2, 6.0), (3, 6.0), (-3, 8.0))
    ),
    *(
        (sympy.sqrt(n), cost)
        for n, cost in ((2, 3.0), (3, 4.0), (5, 5.0), (6, 6.0), (7, 6.0), (10, 6.0))
    ),
    *((sympy.E**k, cost) for k, cost in ((1, 4.0), (-1, 5.0), (2, 6.0), (-2, 7.0))),
    *((sympy.log(n), cost) for n, cost in ((2, 5.0), (10, 6.0), (3, 7.0))),
    (sympy.sqrt(sympy.pi), 5.0),
    (1 / sympy.sqrt(sympy.pi), 5.0),
    (1 / sympy.sqrt(2 * sympy.pi), 5.0),
    (sympy.sqrt(2 * sympy.pi), 6.0),
    (sympy.sqrt(2) * sympy.pi, 6.0),
    (sympy.sqrt(2) / sympy.pi, 7.0),
)
#: Significant digits that a decimal number which somebody wrote has at most.
_MOST_DIGITS = 9


#: A constant of an edge, by the edge's number and the constant's name, and what it may be.
Key = tuple[int, str]
Proposal = tuple[int, str, sympy.Expr]


def nice(
    value: float, window: float, policy: RoundingPolicy = RoundingPolicy()
) -> sympy.Expr | None:
    """The simplest nice number within `window` of `value`, or None where none is simple enough to mean anything: a
    fraction times a unit, or a short decimal number, which comes as a fraction too."""
    if abs(value) <= window:
        return sympy.Integer(0)
    best: tuple[float, sympy.Expr] | None = None

    def offer(cost: float, number: Callable[[], sympy.Expr]) -> None:
        nonlocal best
        if 2**cost * window / max(abs(value), 1.0) < policy.chance and (
            best is None or cost < best[0]
        ):
            best = cost, number()

    for unit, size, bits in _SIZED_UNITS:
        for q in range(1, policy.denominator + 1):
            p = round(value / size * q)
            if p != 0 and math.gcd(p, q) == 1 and abs(p * size / q - value) <= window:
                cost = bits + math.log2(abs(p)) + 2 * math.log2(q)
                offer(cost, partial(sympy.Mul, sympy.Rational(p, q), unit))
    for digits in range(1, _MOST_DIGITS + 1):
        text = f"{value:.{digits - 1}e}"
        if abs(float(text) - value) <= window:
            mantissa = int(text.partition("e")[0].replace(".", "").replace("-", ""))
            offer(1.0 + _DECIMAL_BITS + math.log2(mantissa), partial(sympy.Rational, text))
            break
    return best[1] if best else None


#: Bits that a decimal number costs besides its digits, so that 1/2, 3/4 and 5/4 stay fractions.
_DECIMAL_BITS = 1.0
_SIZED_UNITS = tuple((unit, float(unit), bits) for unit, bits in _UNITS)


def round_constants(
    graph: Graph, data: SearchData, allowed: float, policy: RoundingPolicy = RoundingPolicy()
) -> tuple[Graph, tuple[tuple[int, str, float, str], ...]]:
    """The graph with constants fixed at nice numbers one after another, the others refitted, and what became of each:
    edge, name, before, after. Each stays only if the relative validation error is then at most `allowed`, or, where
    points have noise, the description of all points shorter."""
    changes: list[tuple[int, str, float, str]] = []
    refused: set[Proposal] = set()
    while (proposal := _nearest(graph, data, refused, policy)) is not None:
        index, name, number = proposal
        function = _symbolic(graph, index)
        fixed = function.changed(name, **{name: float(number)})
        fixed = replace(fixed, exact=(*function.exact, (name, number)))
        trial = refit_to(graph.with_function(index, fixed), data, RefitSettings(steps=20))
        noisy = data.overall_error(graph) > EXACT
        if data.error(trial) <= allowed or (
            noisy and description_length(trial, data) <= description_length(graph, data)
        ):
            changes.append((index, name, _constant(graph, index, name), str(number)))
            graph = trial
        else:
            refused.add(proposal)
    return graph, tuple(changes)


def _symbolic(graph: Graph, index: int) -> Symbolic:
    function = graph.edges[index].function
    assert isinstance(function, Symbolic)
    return function


def _constant(graph: Graph, index: int, name: str) -> float:
    return _symbolic(graph, index).constants[CONSTANTS.index(name)]


#: Exponents beyond which exp(d) is no number that one writes.
_FAR = 200.0
#: Share of the largest value of a function beside which a shift is nothing.
_NEGLIGIBLE = 1e-9


def _nearest(
    graph: Graph, data: SearchData, refused: set[Proposal], policy: RoundingPolicy
) -> Proposal | None:
    """A free shift that is nothing beside what it is added to, as zero; else the free constant that is relatively
    nearest to a nice number, simple numbers first: every constant that is fixed lets the others be known better, so
    that a number too uncertain before may be nice now."""
    errors, outs = _standard_errors(graph, data), graph.edge_outputs(data.x)[1]
    best: tuple[float, Proposal] | None = None
    for (index, name), error in errors.items():
        value = _constant(graph, index, name)
        zero = index, name, sympy.S.Zero
        if (
            name == "d"
            and zero not in refused
            and abs(value) < _NEGLIGIBLE * np.abs(outs[index]).max()
        ):
            return zero
        number = _nice_constant(
            graph, index, name, max(3 * error, policy.known * max(abs(value), 1e-3)), policy
        )
        if number is None or (index, name, number) in refused:
            continue
        away = abs(value - float(number)) / max(error, policy.known * max(abs(value), 1.0))
        distance = away + 0.1 * sympy.count_ops(number)
        if best is None or distance < best[0]:
            best = float(distance), (index, name, number)
    return best[1] if best else None


def _nice_constant(
    graph: Graph, index: int, name: str, window: float, policy: RoundingPolicy
) -> sympy.Expr | None:
    """A nice number for a constant; for d in exp(u + d) one whose exponential is nice, as that is what one writes."""
    value, candidate = _constant(graph, index, name), _symbolic(graph, index).candidate.name
    if name == "d" and _is_exponent(graph, index):
        factor = nice(math.exp(value), window * math.exp(value), policy)
        return sympy.log(factor) if factor is not None and factor > 0 else None
    power = name == "c" and candidate == "log" and _is_exponent(graph, index)
    number = nice(value, window, replace(policy, chance=policy.powers) if power else policy)
    wave = number is None and name == "b" and candidate in ("sin", "cos")
    return nice_phase(value, window, policy) if wave else number


def _is_exponent(graph: Graph, index: int) -> bool:
    """Whether the edge's sum goes into exp(u) alone."""
    node = graph.edges[index].target
    after = [
        each for i in graph.out_of(node) if isinstance(each := graph.edges[i].function, Symbolic)
    ]
    exp = len(after) == len(graph.out_of(node)) == 1 and after[0].candidate.name == "exp"
    plain = exp and graph.operation(node) == "sum" and after[0].constants[0] == 1.0
    return plain and abs(_constant(graph, index, "d")) < _FAR


def nice_phase(value: float, window: float, policy: RoundingPolicy) -> sympy.Expr | None:
    """A nice number and quarters of a turn: the sine is then a sine or a cosine with a nice shift."""
    for turn in (sympy.pi / 2, -sympy.pi / 2, sympy.pi, -sympy.pi):
        rest = nice(value - float(turn), window, policy)
        if rest is not None:
            return rest + turn
    return None


def _standard_errors(graph: Graph, data: SearchData) -> dict[Key, float]:
    """Standard error of every free constant of a symbolic edge, from the residuals and the Jacobian."""
    with np.errstate(all="ignore"):
        value, jacobian = graph.linearise(data.x)
        rest = value - data.y
        if data.relative:
            rest, jacobian = rest / value, jacobian / value[:, None]
    scale = np.sqrt(np.mean(rest**2))
    names = [
        (i, name)
        for i, edge in enumerate(graph.edges)
        for name in (
            edge.function.free
            if isinstance(edge.function, Symbolic)
            else "?" * edge.function.parameters.size
        )
    ]
    if not names or not np.isfinite(jacobian).all():
        return {}
    errors = scale * _deviations(jacobian)
    return {key: float(error) for key, error in zip(names, errors, strict=True) if key[1] != "?"}


def _deviations(jacobian: Array) -> Array:
    """Standard deviations of least squares' constants (constants,) where y has noise of size 1."""
    norms = np.linalg.norm(jacobian, axis=0)
    norms[norms == 0] = 1.0
    covariance = np.linalg.pinv(
        (jacobian / norms).T @ (jacobian / norms), rcond=1e-12, hermitian=True
    )
    return np.asarray(np.sqrt(np.clip(np.diag(covariance), 0, None)) / norms)


@dataclass(frozen=True)
class ConstantInterval:
    """A number in a formula, as it is written, and the interval that it lies in with the confidence asked for."""

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
    """Intervals of all fractions and decimal numbers of a formula at once, from the residuals at x (N, inputs), y (N,)
    and the Gauss-Newton matrix, both in proportion to y where noise is `relative`; no interval where there are fewer
    points than numbers."""
    numbers = sorted(
        (each for each in expression.atoms(sympy.Rational, sympy.Float) if not each.is_Integer),
        key=str,
    )
    unknowns = [variable(f"constant{i}") for i in range(len(numbers))]
    if not numbers or y.size <= len(numbers):
        return []
    open_form = expression.xreplace(dict(zip(numbers, unknowns, strict=True)))
    rows = np.concatenate([x, np.tile([float(each) for each in numbers], (y.size, 1))], axis=1)
    arguments = [*names, *(each.name for each in unknowns)]
    with np.errstate(all="ignore"):
        rest = to_numpy(open_form, arguments)(rows) - y
        columns = [to_numpy(sympy.diff(open_form, each), arguments)(rows) for each in unknowns]
    jacobian = np.stack(columns, axis=1)
    if relative:
        rest, jacobian = rest / y, jacobian / y[:, None]
    if not (np.isfinite(jacobian).all() and np.isfinite(rest).all()):
        return []
    freedom = y.size - len(numbers)
    half = (
        stats.t.ppf(0.5 + confidence / 2, freedom)
        * np.sqrt(rest @ rest / freedom)
        * _deviations(jacobian)
    )
    values = [float(each) for each in numbers]
    return [
        ConstantInterval(
            repr(value) if number.is_Float else str(number), value, value - h, value + h
        )
        for number, value, h in zip(numbers, values, half.tolist(), strict=True)
    ]
