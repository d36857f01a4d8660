"""From a graph to a formula: constants polished and rounded, then one simplified expression."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy
from sympy.core.function import AppliedUndef

from kanrun.engine.symbolic.budget import WorkSpent
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.constants import round_constants
from kanrun.engine.symbolic.description_length import EXACT, SearchData
from kanrun.engine.symbolic.edges import Spline, Symbolic
from kanrun.engine.symbolic.graph import Graph, expand_subgraphs
from kanrun.engine.symbolic.invariances import canonicalise, free_constants
from kanrun.engine.symbolic.pruning import drop_terms
from kanrun.engine.symbolic.refit import RefitSettings, refit, refit_to
from kanrun.engine.symbolic.search_problem import SearchPolicy, SimplificationPolicy
from kanrun.engine.symbolic.simplification import (
    as_written,
    proven_equal,
    quotients_out_of_powers,
    round_numbers,
    simplify_expression,
    size,
)
from kanrun.errors import KanrunError
from kanrun.formulas import to_latex, to_numpy, to_python, variable


def to_expression(graph: Graph, names: Sequence[str]) -> sympy.Expr:
    """The graph as one expression in the variables `names`; splines are functions by the names of `numeric_names`."""
    values: list[sympy.Expr] = [variable(name) for name in names]
    numeric = numeric_names(graph)
    for node in range(graph.inputs, graph.output + 1):
        terms = []
        for i in graph.into(node):
            argument = values[graph.edges[i].source]
            function = graph.edges[i].function
            if i in numeric:
                argument = sympy.Function(numeric[i])(argument)
            terms.append(
                function.expression(argument) if isinstance(function, Symbolic) else argument
            )
        values.append(sympy.Add(*terms) if graph.operation(node) == "sum" else sympy.Mul(*terms))
    return values[graph.output]


def numeric_names(graph: Graph) -> dict[int, str]:
    """A name for each edge that is a spline: f1, f2, ..."""
    return {index: f"f{number + 1}" for number, index in enumerate(graph.numeric_edges())}


def numeric_value(
    expression: sympy.Expr,
    names: Sequence[str],
    x: Array,
    functions: Mapping[str, Callable[[Array], Array]],
) -> Array:
    """Values (N,) at x (N, inputs) of an expression in which `functions` occur by name, with arguments (N,).

    Calls are evaluated from the inside out, each once, wherever it stands: alone and inside others.
    """
    names, columns = list(names), [x]
    replaced: dict[sympy.Expr, sympy.Symbol] = {}
    for number, call in enumerate(sorted(expression.atoms(AppliedUndef), key=_size)):
        argument = to_numpy(call.args[0].xreplace(replaced), names)(np.concatenate(columns, axis=1))
        columns.append(functions[call.func.__name__](argument)[:, None])
        names.append(f"value_of_call_{number}")
        replaced[call] = variable(names[-1])
    return to_numpy(expression.xreplace(replaced), names)(np.concatenate(columns, axis=1))


def _size(call: sympy.Expr) -> tuple[int, str]:
    """What is inside another one is smaller; the name keeps the order the same in every process."""
    return sum(1 for _ in sympy.preorder_traversal(call)), str(call)


@dataclass(frozen=True)
class Formula:
    """`expression` in the variables `names`, the graph it was read off, and the constants that were rounded.

    Partly numeric formulas have functions f1, f2, ... in them: the `splines` of edges that no candidate took over.
    """

    expression: sympy.Expr
    names: tuple[str, ...]
    graph: Graph
    rounded: tuple[tuple[int, str, float, str], ...] = ()
    splines: tuple[tuple[str, Spline], ...] = ()

    def __repr__(self) -> str:
        return str(self.expression)

    def __call__(self, x: Array) -> Array:
        """Values (N,) at x (N, inputs); nan where the formula is not real."""
        if self.splines:
            functions = {name: spline.value for name, spline in self.splines}
            return numeric_value(self.expression, self.names, x, functions)
        return to_numpy(self.expression, self.names)(x)

    def _repr_html_(self) -> str:
        """For notebooks, which set LaTeX between dollar signs."""
        return f"$${to_latex(self.expression)}$$"

    @property
    def complexity(self) -> float:
        return size(self.expression)

    def forms(self) -> dict[str, str]:
        """The formula as text, LaTeX, sympy's srepr and a Python module (which partly numeric formulas do not have)."""
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
    """The formula of a graph: refitted, without what it does not need, constants rounded where the validation error
    allows, and simplified unless it is partly numeric; each as far as the work that is left allows."""
    changes: tuple[tuple[int, str, float, str], ...] = ()
    graph, names = canonicalise(expand_subgraphs(graph)), tuple(names)
    allowed = math.inf
    with contextlib.suppress(WorkSpent):
        graph = graph if graph.numeric_edges() else drop_terms(graph, data, policy.pruning)
        graph = refit_to(graph, data, RefitSettings(steps=100, gain=1e-6, damping=1e-10))
        allowed = max((1 + policy.rounding.slack) * data.error(graph), 0.1 * EXACT)
        graph, changes = round_constants(graph, data, allowed, policy.rounding)
    expression = to_expression(graph, names)
    if numeric := numeric_names(graph):
        splines = [(name, graph.edges[i].function) for i, name in numeric.items()]
        kept = tuple((name, function) for name, function in splines if isinstance(function, Spline))
        return Formula(expression, names, graph, changes, kept)
    points = _twice_as_wide(np.concatenate([data.validation_x, data.x[:200]]))
    allowed = min(allowed, max((1 + policy.rounding.slack) * data.error(graph), 0.1 * EXACT))

    def passes(expression: sympy.Expr) -> bool:
        try:
            return data.error(to_numpy(expression, names)) <= allowed
        except KanrunError:  # a function without a numeric form: the expression as it is stands
            return False

    with contextlib.suppress(WorkSpent):
        for share in (0.6, 0.4):
            tidy = round_numbers(expression, passes, policy.rounding)
            tidy = quotients_out_of_powers(tidy, names, data.x, policy.simplification)
            budget = share * policy.simplification.budget
            expression = simplify_expression(
                tidy, names, points, replace(policy.simplification, budget=budget)
            )
    expression = round_numbers(expression, passes, policy.rounding)
    return Formula(as_written(expression), names, graph, changes)


def _twice_as_wide(x: Array) -> Array:
    """The points and as many of a domain twice as wide: a shorter form must not differ beyond the data either."""
    middle = (x.min(0) + x.max(0)) / 2
    return np.concatenate([x, middle + 2 * (x - middle)])


def rename_variables(formula: Formula, names: Sequence[str]) -> Formula:
    """The same formula in other variable names."""
    swap = {variable(old): variable(new) for old, new in zip(formula.names, names, strict=True)}
    return replace(formula, expression=formula.expression.xreplace(swap), names=tuple(names))


#: Root mean square error, relative to the standard deviation of the truth, at which a formula is the truth.
RECOVERED = 1e-8

Truth = Callable[[Array], Array]


@dataclass(frozen=True)
class Certificate:
    """What was checked on `points` fresh points of the domain: the largest difference of formula and network, errors
    against the truth (or held-out data), and whether the formula is the truth."""

    difference: float
    formula_rmse: float
    network_rmse: float
    r2: float
    points: int
    recovered: str
    same_form: str
    proven_equal: str


def certify(
    formula: Formula | None,
    network: Truth,
    check: tuple[Array, Array],
    fresh: Array,
    truth: Truth | None,
    expression: sympy.Expr | None,
    policy: SimplificationPolicy = SimplificationPolicy(),
) -> Certificate:
    """The certificate on check points (x, y) of the truth or held-out data, and on `fresh` points of the domain.

    `recovered` says whether the formula is the truth, to RECOVERED of its standard deviation; `same_form` whether it becomes
    the truth when its constants are fitted to it; `proven_equal` whether sympy shows the difference to be zero. They
    are unknown without a truth, and "no" for a formula with a numeric edge, which is an approximation however good.
    """
    x, y = check
    scale = float(np.std(y)) or float(np.max(np.abs(y), initial=0.0)) or 1.0
    with np.errstate(all="ignore"):
        network_rmse = _rmse(network(x), y)
        if formula is None:
            unknown = "unknown" if truth is None else "no"
            return Certificate(
                np.nan, np.nan, network_rmse, np.nan, len(fresh), unknown, unknown, unknown
            )
        rmse = _rmse(formula(x), y)
        difference = float(np.max(np.abs(formula(fresh) - network(fresh)), initial=0.0))
    variance = float(np.var(y))
    r2 = 1 - rmse**2 / variance if variance > 0 else np.nan

    def certificate(recovered: str, form: str, symbolically: str) -> Certificate:
        return Certificate(
            difference, rmse, network_rmse, r2, len(fresh), recovered, form, symbolically
        )

    if truth is None:
        return certificate("unknown", "unknown", "unknown")
    if formula.splines:
        return certificate("no", "no", "no")
    recovered = "yes" if rmse <= RECOVERED * scale else "no"
    form = "yes" if recovered == "yes" or _same_form(formula, fresh, truth) else "no"
    shown = (
        proven_equal(formula.expression, expression, policy)
        if expression is not None
        else "unknown"
    )
    return certificate(recovered, form, shown)


def _rmse(values: Array, y: Array) -> float:
    return float(np.sqrt(np.mean((values - y) ** 2)))


def _same_form(formula: Formula, x: Array, truth: Truth) -> bool:
    """Whether the graph with all constants fitted to the truth is the truth."""
    y = truth(x)
    fitted = refit(
        canonicalise(free_constants(formula.graph)), x, y, RefitSettings(steps=60, damping=1e-6)
    )
    return fitted.rmse <= RECOVERED * float(np.std(y))
