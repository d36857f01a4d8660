"""From a graph to a formula: constants polished and rounded, then one simplified expression.

And its certificate.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import CARRY, CONSTANT, IDENTITY, Array, input_names
from kanrun.engine.symbolic.constant_errors import open_constants, standard_errors
from kanrun.engine.symbolic.conversions import canonicalise, numeric_names, to_expression
from kanrun.engine.symbolic.edge_functions import Spline, Symbolic, flat
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.problem import SearchData, SearchPolicy, description_length
from kanrun.engine.symbolic.refit import (
    QUICK,
    ConstantsFitting,
    RefitSettings,
    fit_constants,
    refit,
)
from kanrun.engine.symbolic.simplification import equivalent_forms, half_angles
from kanrun.engine.symbolic.written_numbers import (
    PRECISION,
    as_written,
    nice,
    nice_phase,
    round_numbers,
    size,
)
from kanrun.errors import KanrunError
from kanrun.formulas import to_latex, to_numpy, to_python, to_text, variable

#: Relative increase of the validation error that rounding may cause.
_ROUNDING_TOLERANCE = 0.02
#: Size of a shift, relative to the largest value of its function, below which it is zero.
_NEGLIGIBLE = 1e-9
#: Steps of the refit without a term.
_TERM_STEPS = 40
#: Operations of a formula in the form of the true one, relative to those of that.
_LONGER = 1.5
#: Operations that it may have in addition.
_MORE_OPERATIONS = 2
#: Relative error of a formula in the true form, when its constants are fitted to exact points.
_SAME_FORM = 1e-6
#: Change of a formula, relative to the deviation of y, that is none.
_NO_EFFECT = 1e-9
#: Standard errors within which a constant may be a nice number.
_WINDOW = 3

#: A constant of an edge, by the edge's number and the constant's name, and the number that it may
#: be.
Proposal = tuple[int, str, sympy.Expr]
#: Edge, name, value before and number after.
Rounded = tuple[int, str, float, str]


def round_constants(
    graph: Graph, data: SearchData, allowed: float
) -> tuple[Graph, tuple[Rounded, ...]]:
    """Fix constants at nice numbers one after another while the others are refitted.

    A number stays if the relative validation error is then at most `allowed` or, if the points have
    noise, if the description of all points becomes shorter.
    """
    changes: list[Rounded] = []
    rejected: set[Proposal] = set()
    while (proposal := _nearest(graph, data, rejected)) is not None:
        index, name, number = proposal
        function = _symbolic(graph, index)
        fixed = function.changed(name, **{name: float(number)})
        fixed = replace(fixed, exact=(*function.exact, (name, number)))
        trial = refit(graph.with_function(index, fixed), data, RefitSettings(steps=20))
        noisy = data.overall_error(graph) > data.exact
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


def _nearest(graph: Graph, data: SearchData, rejected: set[Proposal]) -> Proposal | None:
    """Return the free constant that is nearest to a nice number, relative to its standard error.

    Negligible shifts come first, simple numbers before others. Every constant that is fixed makes
    the others more certain, so that a number that was too uncertain before may be nice now.
    """
    outs = graph.edge_outputs(data.x)[1]
    proposals: list[tuple[float, int, Proposal]] = []
    for (index, name), deviation in standard_errors(graph, data).items():
        function = _symbolic(graph, index)
        value = function.constant(name)
        if name == "d" and abs(value) < _NEGLIGIBLE * np.abs(outs[index]).max():
            proposals.append((-1.0, len(proposals), (index, name, sympy.S.Zero)))
        error = max(deviation, PRECISION * max(abs(value), 1.0))
        is_phase = name == "b" and function.candidate.name in ("sin", "cos")
        number = (nice_phase if is_phase else nice)(value, _WINDOW * error)
        if number is not None:
            away = abs(value - float(number)) / error + 0.1 * sympy.count_ops(number)
            proposals.append((float(away), len(proposals), (index, name, number)))
    left = [entry for entry in proposals if entry[2] not in rejected]
    return min(left, key=lambda entry: entry[:2])[2] if left else None


def drop_terms(graph: Graph, data: SearchData) -> Graph:
    """Replace functions by lines and constants while that shortens the description.

    Two replacements together may shorten it where one does not, as in exp(sqrt(x)) for a line.
    """
    settings = RefitSettings(_TERM_STEPS, gain=QUICK)
    best = (description_length(graph, data), graph)
    missed = 0
    while missed < 2:
        trials = []
        values, outs = graph.edge_outputs(data.x)
        for i, edge in enumerate(graph.edges):
            if not isinstance(edge.function, Symbolic) or edge.function.candidate in (
                CONSTANT,
                CARRY,
            ):
                continue
            t = values[edge.source]
            out = outs[i]
            simpler = [flat(float(out.mean()))]
            if edge.function.candidate is not IDENTITY and np.ptp(t) > 0:
                slope, height = np.polyfit(t, out, 1).tolist()
                simpler.append(Symbolic(IDENTITY, (1.0, 0.0, slope, height), "cd"))
            for other in simpler:
                trial = refit(canonicalise(graph.with_function(i, other)), data, settings)
                trials.append((description_length(trial, data), trial))
        if not trials:
            break
        length, graph = min(trials, key=lambda entry: entry[0])
        missed = 0 if length < best[0] else missed + 1
        best = (length, graph) if missed == 0 else best
    return best[1]


Function = Callable[[Array], Array]
_POLISHED = RefitSettings(steps=100, gain=1e-6, damping=1e-10)


@dataclass(frozen=True)
class Formula:
    """An `expression` in the variables `names`, its graph, and the constants that were rounded.

    Partly numeric formulas contain functions f1, f2, ...: the `splines` of edges that no candidate
    replaced. `values` evaluates them.
    """

    expression: sympy.Expr
    names: tuple[str, ...]
    graph: Graph
    rounded: tuple[Rounded, ...] = ()
    splines: tuple[tuple[str, Spline], ...] = ()
    values: Function | None = None

    def __repr__(self) -> str:
        return to_text(self.expression, self.names)

    def __call__(self, x: Array) -> Array:
        """Return the values (N,) at x (N, inputs); nan where the formula is not real."""
        return (self.values or to_numpy(self.expression, self.names))(x)

    def _repr_html_(self) -> str:
        """Return LaTeX between dollar signs, for notebooks."""
        return f"$${to_latex(self.expression, self.names)}$$"

    @property
    def complexity(self) -> float:
        return size(self.expression)

    def forms(self) -> dict[str, str]:
        """Return text, LaTeX, sympy's srepr and a Python module (empty if it is partly numeric)."""
        return {
            "text": str(self),
            "latex": to_latex(self.expression, self.names),
            "srepr": str(sympy.srepr(self.expression)),
            "python": "" if self.splines else to_python(self.expression, self.names),
        }


def finish_formula(
    graph: Graph,
    data: SearchData,
    policy: SearchPolicy,
    budget: Budget | None = None,
    *,
    keep_terms: bool = False,
) -> Formula:
    """Return the formula of a graph, as far as the budget allows, by default that of the policy.

    It is refitted, freed of needless terms, its constants are rounded where the validation error
    allows it, and it is simplified unless it is partly numeric. With `keep_terms` all its terms are
    needed: the search weighed each of them.
    """
    changes: tuple[Rounded, ...] = ()
    budget = budget or Budget(policy.budget)
    graph, names = canonicalise(graph), tuple(input_names(graph.inputs))
    numeric = numeric_names(graph)

    def allowed() -> float:
        return max((1 + _ROUNDING_TOLERANCE) * data.error(graph), data.exact)

    with contextlib.suppress(WorkSpent), budget.enforced():
        graph = graph if numeric or keep_terms else drop_terms(graph, data)
        graph = refit(graph, data, _POLISHED)
        graph, changes = round_constants(graph, data, allowed())
    expression = to_expression(graph, names)
    limit = allowed()
    if numeric:
        splines = tuple((name, graph.edges[i].function) for i, name in numeric.items())
        return Formula(expression, names, graph, changes, splines, graph)  # type: ignore[arg-type]

    def is_exact(expression: sympy.Expr) -> bool:
        return data.overall_error(to_numpy(expression, names)) <= data.exact

    def passes(expression: sympy.Expr) -> bool:
        try:
            return data.error(to_numpy(expression, names)) <= limit
        except KanrunError:
            # A function without a numeric form: the expression as it is stands.
            return False

    # A shorter form must agree beyond the data too: on a domain twice as wide.
    points = np.concatenate([data.validation_x, data.x[:200]])
    points = np.concatenate([points, widened(points)])
    with contextlib.suppress(WorkSpent), budget.enforced():
        tidy = round_numbers(expression, passes)
        # Differences from a cosine near 1 lose digits that squares of sines have.
        tidy = max((tidy, half_angles(tidy)), key=is_exact)
        forms = equivalent_forms(tidy, names, points, policy.simplify_budget)
        expression = round_numbers(max(forms, key=is_exact), passes)
    return Formula(as_written(expression), names, graph, changes)


def widened(points: Array, factor: float | Array = 2.0) -> Array:
    """Return points (N, inputs) spread over a domain wider by `factor`, for each point if (N, 1).

    Inputs of one sign keep it: x is sqrt(x^2) for positive x.
    """
    middle = (points.min(0) + points.max(0)) / 2
    wide = middle + factor * (points - middle)
    one_sign = (points > 0).all(0) | (points < 0).all(0)
    return np.where(one_sign & (wide * points <= 0), points, wide)


def rename_variables(formula: Formula, names: Sequence[str]) -> Formula:
    """Return the same formula in other variable names, its splines called otherwise than these."""
    swap = {variable(old): variable(new) for old, new in zip(formula.names, names, strict=True)}
    expression = formula.expression.xreplace(swap)
    prefix = "f"
    while any(re.fullmatch(rf"{prefix}_*\d+", name) for name in names):
        prefix += "f"
    splines = [(name.replace("f", prefix), spline) for name, spline in formula.splines]
    for (old, _), (new, _) in zip(formula.splines, splines, strict=True):
        expression = expression.replace(sympy.Function(old), sympy.Function(new))
    return replace(formula, expression=expression, names=tuple(names), splines=tuple(splines))


#: What tables say of facts that may be unknown.
YES_NO = {True: "yes", False: "no", None: "unknown"}


@dataclass(frozen=True)
class Certificate:
    """Verification of a formula on points that nothing was chosen on.

    Attributes:
        difference: Largest difference between formula and network on `points` points of the domain.
        formula_rmse: Root mean square error of the formula on the true function, or on held-out
            data.
        network_rmse: The same of the network.
        r2: R^2 of the formula on these points.
        points: Number of points for `difference`.
        recovered: `yes` if the formula is exact on the true function, else `no`; `unknown` without
            one.
        same_form: `yes` if it is after its constants are fitted to the true function, without a
            part that has no effect then, and not much longer.
        accepted_form: `yes` or `no`, whether it is written as the true function, or as short.
    """

    difference: float = np.nan
    formula_rmse: float = np.nan
    network_rmse: float = np.nan
    r2: float = np.nan
    points: int = 0
    recovered: str = "unknown"
    same_form: str = "unknown"
    accepted_form: str = "unknown"


@dataclass(frozen=True)
class VerificationData:
    """Points (x, y) that nothing was chosen on, their domain, and the true function if known.

    Of the `fresh` points, drawn as those, nothing is known but the function. `operations` counts
    those of the true formula.
    """

    x: Array
    y: Array
    domain: Array
    fresh: Array
    truth: Function | None = None
    operations: int | None = None


def has_true_form(formula: Formula, data: SearchData, operations: int | None) -> bool:
    """Return whether a formula, its constants fitted to points without noise, is their function.

    It may have `_LONGER` times the operations of the true one and `_MORE_OPERATIONS`, and no
    constant that could as well be 0.
    """
    expression = formula.expression
    most = np.inf if operations is None else _LONGER * operations + _MORE_OPERATIONS
    if sympy.count_ops(expression) > most:
        return False
    form, numbers = open_constants(expression)
    if not numbers:
        return False
    # Constants in units of what was found, and y in units of its size: a fit stops early else.
    start = np.array([float(each) for each in numbers.values()])
    units = {symbol: sympy.Float(c, 17) * symbol for symbol, c in zip(numbers, start, strict=True)}
    names = [each.name for each in numbers]
    points = data.x, data.y / data.y_std
    with np.errstate(all="ignore"):
        fitting = ConstantsFitting(
            form.xreplace(units) / data.y_std, formula.names, names, points, np.ones(len(names))
        )
        constants = fit_constants(fitting)
        residual = fitting.linearised(constants)[0]
        if not float(np.sqrt(np.mean(residual**2))) < _SAME_FORM:
            return False
        for k in range(len(constants)):
            without = np.where(np.arange(len(constants)) == k, 0.0, constants)
            change = fitting.linearised(without)[0] - residual
            if float(np.sqrt(np.mean(change**2))) < _NO_EFFECT:
                return False
    return True


def certify(formula: Formula | None, network: Function, held_out: VerificationData) -> Certificate:
    """Verify a formula on held-out points and on new points of the domain.

    A formula with a numeric edge is an approximation, however good: it is never the true function.
    """
    x = held_out.x
    y = held_out.y
    fresh = held_out.fresh
    truth = held_out.truth

    def rmse(function: Function) -> float:
        return float(np.sqrt(np.mean((function(x) - y) ** 2)))

    is_known = is_form = None if truth is None else False
    difference = error = r2 = np.nan
    with np.errstate(all="ignore"):
        network_error = rmse(network)
        variance = float(np.var(y))
        if formula is not None:
            error = rmse(formula)
            difference = float(np.max(np.abs(formula(fresh) - network(fresh)), initial=0.0))
            r2 = 1 - error**2 / variance if variance > 0 else np.nan
    if truth is not None and formula is not None and not formula.splines:
        scale = math.sqrt(variance) or float(np.max(np.abs(y), initial=0.0)) or 1.0
        data = SearchData(fresh, truth(fresh), fresh, truth(fresh))
        is_known = error <= data.exact * scale
        is_form = is_known or has_true_form(formula, data, held_out.operations)
    return Certificate(
        difference, error, network_error, r2, len(fresh), YES_NO[is_known], YES_NO[is_form]
    )
