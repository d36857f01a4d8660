"""From a graph to a formula: constants polished and rounded, then one simplified expression.

And its certificate.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import WorkSpent
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.constants import Rounded, round_constants
from kanrun.engine.symbolic.description_length import EXACT, SearchData
from kanrun.engine.symbolic.edge_functions import Spline, Symbolic
from kanrun.engine.symbolic.graph import Graph, expand_subgraphs
from kanrun.engine.symbolic.graph_pruning import drop_terms
from kanrun.engine.symbolic.invariances import canonicalise, free_constants
from kanrun.engine.symbolic.refit import RefitSettings, refit, refit_to
from kanrun.engine.symbolic.search_problem import SearchPolicy
from kanrun.engine.symbolic.simplification import (
    SimplificationPolicy,
    as_written,
    divide_after_powers,
    proven_equal,
    round_numbers,
    simplify_expression,
    size,
)
from kanrun.errors import KanrunError
from kanrun.formulas import to_latex, to_numpy, to_python, variable

Function = Callable[[Array], Array]
_POLISHED = RefitSettings(steps=100, gain=1e-6, damping=1e-10)


def to_expression(graph: Graph, names: Sequence[str]) -> sympy.Expr:
    """Return the graph as one expression in the variables `names`.

    Its splines are functions f1, f2, ...
    """
    values: list[sympy.Expr] = [variable(name) for name in names]
    numeric = numeric_names(graph)
    for node in range(graph.inputs, graph.output + 1):
        terms = []
        for i in graph.into(node):
            argument, function = values[graph.edges[i].source], graph.edges[i].function
            if i in numeric:
                argument = sympy.Function(numeric[i])(argument)
            if isinstance(function, Symbolic):
                argument = function.expression(argument)
            terms.append(argument)
        values.append(sympy.Add(*terms) if graph.operation(node) == "sum" else sympy.Mul(*terms))
    return values[graph.output]


def numeric_names(graph: Graph) -> dict[int, str]:
    """Return a name for each edge that is a spline: f1, f2, ..."""
    return {index: f"f{number + 1}" for number, index in enumerate(graph.numeric_edges())}


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
        return str(self.expression)

    def __call__(self, x: Array) -> Array:
        """Return the values (N,) at x (N, inputs); nan where the formula is not real."""
        return (self.values or to_numpy(self.expression, self.names))(x)

    def _repr_html_(self) -> str:
        """Return LaTeX between dollar signs, for notebooks."""
        return f"$${to_latex(self.expression)}$$"

    @property
    def complexity(self) -> float:
        return size(self.expression)

    def forms(self) -> dict[str, str]:
        """Return text, LaTeX, sympy's srepr and a Python module (empty if it is partly numeric)."""
        identifiers = all(name.isidentifier() for name in self.names) and not self.splines
        return {
            "text": str(self.expression),
            "latex": to_latex(self.expression),
            "srepr": str(sympy.srepr(self.expression)),
            "python": to_python(self.expression, self.names) if identifiers else "",
        }


def finish_formula(
    graph: Graph, data: SearchData, names: Sequence[str], policy: SearchPolicy = SearchPolicy()
) -> Formula:
    """Return the formula of a graph, as far as the remaining work allows.

    It is refitted, freed of needless terms, its constants are rounded where the validation error
    allows it, and it is simplified unless it is partly numeric.
    """
    changes: tuple[Rounded, ...] = ()
    graph, names = canonicalise(expand_subgraphs(graph)), tuple(names)
    numeric = bool(graph.numeric_edges())

    def allowed() -> float:
        return max((1 + policy.rounding.tolerance) * data.error(graph), EXACT)

    with contextlib.suppress(WorkSpent):
        graph = graph if numeric else drop_terms(graph, data, policy.pruning)
        graph = refit_to(graph, data, _POLISHED)
        graph, changes = round_constants(graph, data, allowed(), policy.rounding)
    expression, limit = to_expression(graph, names), allowed()
    if numeric:
        edges = numeric_names(graph).items()
        splines = tuple((name, graph.edges[i].function) for i, name in edges)
        return Formula(expression, names, graph, changes, splines, graph)  # type: ignore[arg-type]

    def passes(expression: sympy.Expr) -> bool:
        try:
            return data.error(to_numpy(expression, names)) <= limit
        except KanrunError:
            # A function without a numeric form: the expression as it is stands.
            return False

    # A shorter form must agree beyond the data too: on a domain twice as wide.
    points = np.concatenate([data.validation_x, data.x[:200]])
    middle = (points.min(0) + points.max(0)) / 2
    points = np.concatenate([points, middle + 2 * (points - middle)])
    with contextlib.suppress(WorkSpent):
        for _ in range(2):
            tidy = round_numbers(expression, passes, policy.rounding)
            tidy = divide_after_powers(tidy, names, data.x, policy.simplification)
            short = simplify_expression(tidy, names, points, policy.simplification)
            # Only numbers that a shorter form brings out are rounded and simplified again.
            if (expression := round_numbers(short, passes, policy.rounding)) == short:
                break
    return Formula(as_written(expression), names, graph, changes)


def rename_variables(formula: Formula, names: Sequence[str]) -> Formula:
    """Return the same formula in other variable names."""
    swap = {variable(old): variable(new) for old, new in zip(formula.names, names, strict=True)}
    return replace(formula, expression=formula.expression.xreplace(swap), names=tuple(names))


@dataclass(frozen=True)
class Certificate:
    """The verification of a formula on points that nothing was chosen on.

    Attributes:
        difference: Largest difference between formula and network on `points` points of the domain.
        formula_rmse: Root mean square error of the formula on the true function, or on held-out
            data.
        network_rmse: The same of the network.
        r2: R^2 of the formula on these points.
        points: Number of points for `difference`.
        recovered: `yes` if the formula is exact on the true function, else `no`; `unknown` without
            one.
        same_form: `yes` if it is after its constants are fitted to the true function.
        proven_equal: `yes` or `no` if sympy shows whether it is the true function, else `unknown`.
    """

    difference: float = np.nan
    formula_rmse: float = np.nan
    network_rmse: float = np.nan
    r2: float = np.nan
    points: int = 0
    recovered: str = "unknown"
    same_form: str = "unknown"
    proven_equal: str = "unknown"


def certify(
    formula: Formula | None,
    network: Function,
    held_out: tuple[Array, Array],
    fresh: Array,
    truth: Function | None,
    expression: sympy.Expr | None,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> Certificate:
    """Verify a formula on held-out points (x, y) and on `fresh` points of the domain.

    A formula with a numeric edge is an approximation, however good: it is never the true function.
    """
    x, y = held_out
    no = "no" if truth else "unknown"
    with np.errstate(all="ignore"):
        error, points = _rmse(network(x), y), len(fresh)
        found = Certificate(np.nan, np.nan, error, np.nan, points, no, no, no)
        if formula is None:
            return found
        rmse, variance = _rmse(formula(x), y), float(np.var(y))
        difference = float(np.max(np.abs(formula(fresh) - network(fresh)), initial=0.0))
    r2 = 1 - rmse**2 / variance if variance > 0 else np.nan
    found = replace(found, difference=difference, formula_rmse=rmse, r2=r2)
    if truth is None or formula.splines:
        return found
    scale = math.sqrt(variance) or float(np.max(np.abs(y), initial=0.0)) or 1.0
    target, recovered = truth(fresh), rmse <= EXACT * scale
    refitted = canonicalise(free_constants(formula.graph))
    same = recovered or refit(refitted, fresh, target, _POLISHED).rmse <= EXACT * np.std(target)
    proven = "unknown"
    if expression is not None:
        proven = proven_equal(formula.expression, expression, policy)
    return replace(
        found,
        recovered="yes" if recovered else "no",
        same_form="yes" if same else "no",
        proven_equal=proven,
    )


def _rmse(values: Array, y: Array) -> float:
    return float(np.sqrt(np.mean((values - y) ** 2)))
