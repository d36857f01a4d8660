"""Structure first: what the points themselves show before any network is trained.

Symmetries leave fewer variables; in these a dictionary of small expressions, and for one variable the candidates after
a change of the output, are compared with the points. What remains is searched with networks in the fewer variables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.candidates import TABLE
from kanrun.engine.symbolic.description_length import SearchData, description_length
from kanrun.engine.symbolic.edges import Symbolic
from kanrun.engine.symbolic.expression_graphs import composed, graph_of_expression
from kanrun.engine.symbolic.formula import to_expression
from kanrun.engine.symbolic.graph import Edge, Graph, Subgraph
from kanrun.engine.symbolic.multivariate import pair_formulas, ridge_formulas
from kanrun.engine.symbolic.rational_functions import rational_function
from kanrun.engine.symbolic.refit import RefitSettings, refit_to
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.snapping import FittedStructure, FormulaFit, SearchStage, matched
from kanrun.engine.symbolic.symmetries import Reduction, power_law
from kanrun.engine.symbolic.univariate import match_formulas, regression_formulas
from kanrun.errors import KanrunError

Event: TypeAlias = SearchStage | FittedStructure


def simple_laws(problem: SearchProblem) -> Iterator[Event]:
    """A power law of all inputs, and a quotient of polynomials of few terms."""
    policy = problem.policy
    for name in ("power law", "rational function"):
        began = time.monotonic()
        if name == "power law":
            expression = power_law(problem.data, policy.symmetry)
        else:
            expression = rational_function(problem.data, policy.quotients)
        tried = tried_expression(name, expression, problem) if expression is not None else None
        if tried is not None and tried.formula_error < problem.data.no_skill_error:
            yield from matched(tried, began)
            if tried.is_exact(problem):
                return


def regressions(problem: SearchProblem) -> Iterator[Event]:
    """Of points with noise in one variable, the formulas of shortest description."""
    began, data, policy = time.monotonic(), problem.data, problem.policy.univariate
    found = regression_formulas(
        data.x[:, 0], data.y, problem.candidates, Budget(2 * policy.budget), policy
    )
    tried = [_tried_graph("regression", graph, problem) for graph in found]
    for each in sorted(
        (each for each in tried if each is not None), key=lambda each: each.best.length
    )[:2]:
        yield from matched(each, began)


def structured_formulas(problem: SearchProblem, reduction: Reduction) -> Iterator[Event]:
    """What is found without a network, an exact formula or the few nearest; the network of each is its own graph."""
    inner = reduction.data(problem.data)
    began = time.monotonic()
    others: list[FittedStructure] = []
    for expression in _expressions(inner, problem, reduction):
        tried = tried_expression(_name(reduction), reduction.restored(expression), problem)
        if tried is not None and tried.is_exact(problem):
            yield from matched(
                _without_needless_addends(tried, reduction.restored(expression), problem), began
            )
            return
        others += (
            [tried]
            if tried is not None and tried.formula_error < problem.policy.snap_threshold
            else []
        )
    for tried in sorted(others, key=lambda each: each.best.length)[
        : problem.policy.dictionary.refined
    ]:
        yield from matched(tried, began)


def _without_needless_addends(
    exact: FittedStructure, expression: sympy.Expr, problem: SearchProblem
) -> FittedStructure:
    """An exact formula without the addends that it does not need, as where two near sines stand for one."""
    sums = sorted(expression.atoms(sympy.Add), key=lambda total: (total.count_ops(), str(total)))
    for total in sums:
        for addend in total.args:
            if addend.is_number:
                continue
            smaller = expression.xreplace({total: total - addend})
            tried = tried_expression(exact.name, smaller, problem) if smaller.free_symbols else None
            if tried is not None and tried.is_exact(problem):
                return _without_needless_addends(tried, smaller, problem)
    return exact


def _name(reduction: Reduction) -> str:
    groups = ", ".join(str(each) for each in reduction.variables)
    return f"groups {groups}" if reduction.changes else "small expressions"


def _expressions(
    inner: SearchData, problem: SearchProblem, reduction: Reduction
) -> Iterator[sympy.Expr]:
    policy = problem.policy.dictionary
    if not reduction.variables:
        yield sympy.Float(float(np.mean(inner.y)), 17)
        return
    if inner.x.shape[1] == 1:
        yield from _one_variable(inner, problem)
    elif (
        reduction.changes
        and (found := rational_function(inner, problem.policy.quotients)) is not None
    ):
        yield found
    if inner.x.shape[1] <= policy.inputs:
        yield from pair_formulas(inner, problem.candidates, policy)
    if 1 < inner.x.shape[1] <= problem.policy.ridge.inputs:
        yield from ridge_formulas(inner, problem.candidates, problem.policy.ridge)


def _one_variable(inner: SearchData, problem: SearchProblem) -> Iterator[sympy.Expr]:
    """A formula of one variable that gives the points to rounding."""
    policy = problem.policy
    budget = Budget(policy.univariate.budget)
    for match in match_formulas(
        inner.x[:, 0], inner.y, problem.candidates, 0.0, budget, policy.univariate
    )[:1]:
        if match.loss <= policy.structure_loss and isinstance(match.function, Subgraph):
            yield to_expression(match.function.graph, ["x0"])


def tried_expression(
    name: str, expression: sympy.Expr, problem: SearchProblem
) -> FittedStructure | None:
    """The expression as a graph with its constants refitted; None where it is none."""
    try:
        return _tried_graph(name, graph_of_expression(expression, problem.data.x.shape[1]), problem)
    except KanrunError:
        return None


def _tried_graph(name: str, graph: Graph, problem: SearchProblem) -> FittedStructure | None:
    data = problem.data
    fitted = refit_to(graph, data, RefitSettings(steps=30, damping=1e-6))
    kept = min((fitted, graph), key=data.overall_error)
    if not np.isfinite(data.overall_error(kept)):
        return None
    return FittedStructure(
        name,
        kept,
        data.error(kept),
        FormulaFit(description_length(kept, data), data.error(kept), kept),
    )


def in_all_inputs(event: Event, reduction: Reduction, problem: SearchProblem) -> Event:
    """What was found in the fewer variables, as graphs of all inputs."""
    inputs = problem.data.x.shape[1]
    if not reduction.changes:
        return event
    return rebuild(
        event,
        lambda graph: composed(reduction.variables, reduction.factor, graph, inputs),
        problem.data,
    )


def of_logarithm(event: Event, data: SearchData) -> Event:
    """What was found for log |y|, as graphs of y."""
    function = Symbolic(TABLE["exp"], (1.0, 0.0, float(np.sign(data.y[0])), 0.0), "c")

    def whole(graph: Graph) -> Graph:
        marks: list[int] = [graph.mark(node) for node in range(graph.inputs, graph.output + 1)]
        output = Edge(graph.output, graph.output + 1, function)
        marks.append(max([*marks, graph.output]) + 1)
        return Graph(graph.inputs, (*graph.operations, "sum"), (*graph.edges, output), tuple(marks))

    return rebuild(event, whole, data)


def rebuild(event: Event, whole: Callable[[Graph], Graph], data: SearchData) -> Event:
    """What happened, with every graph made a graph of `data` and measured by these."""
    if isinstance(event, SearchStage):
        stage = whole(event.graph)
        return replace(event, graph=stage, error=data.error(stage))
    best, network = event.best, whole(event.network)
    place = {id(edge.function): i for i, edge in enumerate(network.edges)}
    matches = {
        place[id(event.network.edges[i].function)]: found
        for i, found in event.matches.items()
        if id(event.network.edges[i].function) in place
    }
    if event.formula is not None:
        graph, snapped = (
            whole(best.graph),
            whole(best.snapped) if best.snapped is not None else None,
        )
        best = FormulaFit(
            description_length(graph, data), data.error(graph), graph, snapped, best.seconds
        )
    return replace(
        event, network=network, network_error=data.error(network), best=best, matches=matches
    )
