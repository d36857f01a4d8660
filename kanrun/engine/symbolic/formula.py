"""Turn a graph into a formula.

The constants of the graph are refitted and rounded, and the graph becomes one simplified
expression.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import CARRY, CONSTANT, IDENTITY, Array, input_names
from kanrun.engine.symbolic.conversions import canonicalise, numeric_names, to_expression
from kanrun.engine.symbolic.graph import Graph, Spline, Symbolic, flat
from kanrun.engine.symbolic.problem import SearchData, description_length
from kanrun.engine.symbolic.refit import (
    QUICK,
    RefitSettings,
    refit,
    standard_errors,
)
from kanrun.engine.symbolic.simplification import (
    PRECISION,
    as_written,
    equivalent_forms,
    nice,
    nice_phase,
    round_numbers,
    size,
)
from kanrun.errors import KanrunError
from kanrun.formulas.conversion import to_latex, to_numpy, to_python, to_text
from kanrun.formulas.parsing import variable

#: A proposed rounding: the index of the edge, the letter of the constant, and the nice number.
Proposal = tuple[int, str, sympy.Expr]


def round_constants(graph: Graph, data: SearchData, allowed: float) -> Graph:
    """Replace constants by nice numbers, one at a time, and refit the others each time.

    A nice number, such as a simple fraction, is kept if the relative validation error stays at most
    `allowed` or, with noisy points, if the description length does not increase.
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
    # A constant may be rounded to a nice number within this many standard errors.
    window = 3
    # A shift counts as zero if it is smaller than this fraction of its function's largest value.
    negligible = 1e-9
    outs = graph.edge_outputs(data.x)[1]
    proposals: list[tuple[float, int, Proposal]] = []
    for (index, name), deviation in standard_errors(graph, data).items():
        function = _symbolic(graph, index)
        value = function.constant(name)
        if name == "d" and abs(value) < negligible * np.abs(outs[index]).max():
            proposals.append((-1.0, len(proposals), (index, name, sympy.S.Zero)))
        error = max(deviation, PRECISION * max(abs(value), 1.0))
        is_phase = name == "b" and function.candidate.name in ("sin", "cos")
        number = (nice_phase if is_phase else nice)(value, window * error)
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
    # Largest number of steps of the refit after a term was simplified.
    term_steps = 40
    settings = RefitSettings(term_steps, gain=QUICK)
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
        budget: Work that the steps may use together.
        keep_terms: Whether all terms are kept, because the search has already tested each of them.
    """
    # Units of work (see `budget`) for one simplification of an expression.
    simplified = 2.0
    # Largest relative increase of the validation error that rounding all constants may cause.
    rounding_tolerance = 0.02
    graph, names = canonicalise(graph), tuple(input_names(graph.inputs))
    numeric = numeric_names(graph)

    def allowed() -> float:
        return max((1 + rounding_tolerance) * data.error(graph), data.exact)

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
        # Some forms lose digits: 1 - cos(u) does for small u, and 2 sin(u/2)^2 does not.
        forms = equivalent_forms(tidy, names, points, simplified)
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
