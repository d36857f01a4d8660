"""Turn a graph into a formula and verify it.

The constants of the graph are refitted and rounded, and the graph becomes one simplified
expression. The certificate compares the formula with the network and with the true function, if
that is known, on new points.
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
from kanrun.engine.symbolic.problem import SearchData, description_length
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

#: Largest relative increase of the validation error that rounding a constant may cause.
_ROUNDING_TOLERANCE = 0.02
#: A shift counts as zero if it is smaller than this fraction of its function's largest value.
_NEGLIGIBLE = 1e-9
#: Largest number of steps of the refit after a term was simplified.
_TERM_STEPS = 40
#: A formula counts as having the form of the true one only if it has at most this many times as
#: many operations, plus `_MORE_OPERATIONS`.
_LONGER = 1.5
#: Number of operations that a formula in the true form may have in addition (see `_LONGER`).
_MORE_OPERATIONS = 2
#: Largest error, relative to the standard deviation of y, of a formula in the true form after its
#: constants are fitted to exact points.
_SAME_FORM = 1e-6
#: Setting a constant to 0 has no effect if the RMS change of the formula, relative to the standard
#: deviation of y, is smaller than this.
_NO_EFFECT = 1e-9
#: A constant may be rounded to a nice number within this many standard errors.
_WINDOW = 3

#: Work for one simplification of an expression.
_SIMPLIFIED = 2.0

#: A proposed rounding: the index of the edge, the letter of the constant, and the nice number.
Proposal = tuple[int, str, sympy.Expr]


def round_constants(graph: Graph, data: SearchData, allowed: float) -> Graph:
    """Replace constants by nice numbers, one at a time, and refit the others each time.

    A nice number is kept if the relative validation error stays at most `allowed` or, with noisy
    points, if the description length does not increase.
    """
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
            graph = trial
        else:
            rejected.add(proposal)
    return graph


def _symbolic(graph: Graph, index: int) -> Symbolic:
    function = graph.edges[index].function
    assert isinstance(function, Symbolic)
    return function


def _nearest(graph: Graph, data: SearchData, rejected: set[Proposal]) -> Proposal | None:
    """Return the rounding of a constant to try next, or None.

    The constant is chosen whose distance from a nice number is smallest, in standard errors plus a
    penalty for complicated numbers; negligible shifts come first. Fixing a constant reduces the
    standard errors of the others, so a constant that was too uncertain to be rounded may be rounded
    later.
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
    """Replace functions with lines or constants as long as that shortens the description.

    Pairs of replacements are tried too, because two of them together may shorten the description
    even if neither does alone, for example when exp(sqrt(x)) imitates a line.
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
    """A formula, which can be called like a function.

    Attributes:
        expression: The formula as a sympy expression.
        names: Names of the input variables.
        graph: The graph from which the expression was made.
        splines: Names f1, f2, ... and splines of the edges that stayed numeric; the expression
            contains these functions.
        values: Function that evaluates the formula if it has splines; otherwise None.
    """

    expression: sympy.Expr
    names: tuple[str, ...]
    graph: Graph
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
        """Return the formula as text, LaTeX, sympy's srepr and the source of a Python module.

        The Python module is empty if the formula contains splines.
        """
        return {
            "text": str(self),
            "latex": to_latex(self.expression, self.names),
            "srepr": str(sympy.srepr(self.expression)),
            "python": "" if self.splines else to_python(self.expression, self.names),
        }


def finish_formula(
    graph: Graph,
    data: SearchData,
    budget: Budget,
    *,
    keep_terms: bool = False,
) -> Formula:
    """Simplify a graph and return it as a formula.

    Functions are replaced with lines or constants where that shortens the description. Then
    constants are refitted, and rounded as far as the validation error allows. Finally, the
    expression is simplified. For a graph with splines, the first and the last step are skipped.
    When the budget is used up, all remaining steps are skipped.

    Args:
        graph: The graph.
        data: Points of the search.
        budget: Work that may be used.
        keep_terms: Whether all terms are kept, because the search has already tested each of them.
    """
    graph, names = canonicalise(graph), tuple(input_names(graph.inputs))
    numeric = numeric_names(graph)

    def allowed() -> float:
        return max((1 + _ROUNDING_TOLERANCE) * data.error(graph), data.exact)

    with contextlib.suppress(WorkSpent), budget.enforced():
        graph = graph if numeric or keep_terms else drop_terms(graph, data)
        graph = refit(graph, data, _POLISHED)
        graph = round_constants(graph, data, allowed())
    expression = to_expression(graph, names)
    limit = allowed()
    if numeric:
        splines = tuple((name, graph.edges[i].function) for i, name in numeric.items())
        return Formula(expression, names, graph, splines, graph)  # type: ignore[arg-type]

    def is_exact(expression: sympy.Expr) -> bool:
        return data.overall_error(to_numpy(expression, names)) <= data.exact

    def passes(expression: sympy.Expr) -> bool:
        try:
            return data.error(to_numpy(expression, names)) <= limit
        except KanrunError:
            # The form has a function that cannot be evaluated, so the old expression is kept.
            return False

    # Forms are compared on a domain twice as wide, because they must agree outside the data too.
    points = np.concatenate([data.validation_x, data.x[:200]])
    points = np.concatenate([points, widened(points)])
    with contextlib.suppress(WorkSpent), budget.enforced():
        tidy = round_numbers(expression, passes)
        # 1 - cos(u) loses digits for small u; 2 sin(u/2)^2 does not.
        tidy = max((tidy, half_angles(tidy)), key=is_exact)
        forms = equivalent_forms(tidy, names, points, _SIMPLIFIED)
        expression = round_numbers(max(forms, key=is_exact), passes)
    return Formula(as_written(expression), names, graph)


def widened(points: Array, factor: float | Array = 2.0) -> Array:
    """Multiply the distance of points from the centre of their domain by `factor`.

    If an input has the same sign at all points, values that would change their sign stay as they
    are, because forms such as x and sqrt(x^2) agree only for positive x.

    Args:
        points: Points, shape (N, inputs).
        factor: A number, or one factor per point, shape (N, 1).

    Returns:
        Points of shape (N, inputs).
    """
    middle = (points.min(0) + points.max(0)) / 2
    wide = middle + factor * (points - middle)
    one_sign = (points > 0).all(0) | (points < 0).all(0)
    return np.where(one_sign & (wide * points <= 0), points, wide)


def rename_variables(formula: Formula, names: Sequence[str]) -> Formula:
    """Rename the variables of a formula, and its splines where their names would clash."""
    swap = {variable(old): variable(new) for old, new in zip(formula.names, names, strict=True)}
    expression = formula.expression.xreplace(swap)
    prefix = "f"
    while any(re.fullmatch(rf"{prefix}_*\d+", name) for name in names):
        prefix += "f"
    splines = [(name.replace("f", prefix), spline) for name, spline in formula.splines]
    for (old, _), (new, _) in zip(formula.splines, splines, strict=True):
        expression = expression.replace(sympy.Function(old), sympy.Function(new))
    return replace(formula, expression=expression, names=tuple(names), splines=tuple(splines))


#: Words for true, false and unknown in tables.
YES_NO = {True: "yes", False: "no", None: "unknown"}


@dataclass(frozen=True)
class Certificate:
    """Verification of a formula on points that were used neither for fitting nor for selection.

    Attributes:
        difference: Largest absolute difference between formula and network on new points of the
            domain.
        formula_rmse: RMSE of the formula on the held-out points, whose outputs are those of the
            true function if it is known.
        network_rmse: RMSE of the network on the held-out points.
        r2: R^2 of the formula on the held-out points.
        points: Number of new points on which `difference` was measured.
        recovered: `yes` if the formula equals the true function to rounding, otherwise `no`;
            `unknown` if the true function is not known.
        same_form: `yes` if the formula equals the true function once its constants are fitted to
            exact points, none of these constants could be 0, and the formula is not much longer
            than the true one; otherwise `no` or `unknown`.
        accepted_form: `yes` if the formula is written in an accepted form of the true function or
            is at most as long as the shortest one; otherwise `no` or `unknown`.
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
    """Points for the verification of a formula that were not used by the search.

    Attributes:
        x: Inputs of the held-out points, shape (N, inputs).
        y: Outputs of the held-out points, shape (N,).
        domain: Lower and upper bound of each input, shape (inputs, 2).
        fresh: New points in the domain, whose outputs are not known, shape (points, inputs).
        truth: The true function, if it is known.
        operations: Number of operations of the true formula, if it is known.
    """

    x: Array
    y: Array
    domain: Array
    fresh: Array
    truth: Function | None = None
    operations: int | None = None


def has_true_form(formula: Formula, data: SearchData, operations: int | None) -> bool:
    """Return whether a formula equals the true function once its constants are fitted.

    The constants are fitted to points without noise. The formula may have only a few operations
    more than the true one (`_LONGER`, `_MORE_OPERATIONS`), and setting any of its constants to 0
    must change it.

    Args:
        formula: The formula.
        data: Points of the true function, without noise.
        operations: Number of operations of the true formula; None means no limit.
    """
    expression = formula.expression
    most = np.inf if operations is None else _LONGER * operations + _MORE_OPERATIONS
    if sympy.count_ops(expression) > most:
        return False
    form, numbers = open_constants(expression)
    if not numbers:
        return False
    # Without scaling, the fit would stop early if constants differ much in size. Therefore
    # constants are divided by their initial values and y by its size.
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

    A formula with splines never counts as the true function, however small its error is. If
    `formula` is None, only the error of the network is measured.
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
