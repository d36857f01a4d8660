"""Edges become symbolic in context: what counts is the network's validation error after a joint refit.

Whole assignments, best matches first: where the network is accurate, its edges show their functions clearly. Edges that
no single candidate fits get formulas of one variable.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.description_length import EXACT, SearchData, description_length
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.edges import EdgeFunction, Spline, Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.graph_training import TrainedGraph
from kanrun.engine.symbolic.invariances import canonical
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.subgraph import expanded
from kanrun.engine.symbolic.univariate import match_formulas
from kanrun.engine.symbolic.variants import variants

Matches = dict[int, list[EdgeMatch]]


@dataclass(order=True)
class Trial:
    """Ordered by its description `length`; `error` is on validation data, both inf where there is no formula.

    `snapped` is the graph before its constants were refitted, node for node the numeric one; `seconds` that this took.
    """

    length: float
    error: float = field(compare=False)
    graph: Graph = field(compare=False)
    snapped: Graph | None = field(compare=False, default=None)
    seconds: float = field(compare=False, default=0.0)


@dataclass(frozen=True)
class Tried:
    """A structure's pruned and retrained `network`, the matches of each of its edges, and the `best` formula of it.

    `work` is what a longer search has used.
    """

    name: str
    network: Graph
    network_error: float
    best: Trial
    matches: Matches = field(default_factory=dict)
    work: float = 0.0

    @property
    def formula(self) -> Graph | None:
        return self.best.graph if np.isfinite(self.best.error) else None

    @property
    def formula_error(self) -> float:
        return self.best.error

    def is_exact(self, problem: SearchProblem) -> bool:
        """Whether the formula gives the points to rounding, and there are enough of them for its constants."""
        goal = max(problem.policy.exact, EXACT)
        enough = self.formula is not None and problem.data.supports(self.formula.parameters.size)
        return enough and self.formula_error <= goal


def _measured(
    graph: Graph, problem: SearchProblem, snapped: Graph | None = None, seconds: float = 0.0
) -> Trial:
    if not defined(graph, problem.data, problem.policy.selection.diverged):
        return Trial(np.inf, np.inf, graph, snapped, seconds)
    return Trial(
        description_length(graph, problem.data), problem.data.error(graph), graph, snapped, seconds
    )


def edge_matches(graph: Graph, problem: SearchProblem) -> Matches:
    """The matches of every numeric edge, by the values that it takes on the data."""
    values, outs = graph.edge_outputs(problem.data.x)
    return {
        i: match_edge(
            values[graph.edges[i].source], outs[i], problem.candidates, problem.policy.matching
        )
        for i in graph.numeric_edges()
    }


def select(name: str, network: TrainedGraph, problem: SearchProblem) -> Tried:
    """The first exact formula of single candidates, else the best met, and the variant of the network that it is of."""
    goal, budget = max(problem.policy.exact, EXACT), Budget(problem.policy.selection.budget)
    chosen: Tried | None = None
    for graph in variants(network.graph, problem):
        matches = edge_matches(graph, problem)
        best = _try_assignments(graph, problem, matches, goal, budget)
        if chosen is None or best < chosen.best:
            chosen = Tried(name, graph, network.error, best, matches)
        if best.error <= goal:
            break
    assert chosen is not None
    return chosen


def select_further(first: Tried, problem: SearchProblem, allowance: float) -> Tried:
    """`first`, or better, with formulas on the edges that no single candidate fits, within work of `allowance`.

    A formula is exact or not: the search goes on while the error is above EXACT and the policy's `exact`, or where the
    network has met noise, above that.
    """
    policy, budget = problem.policy.selection, Budget(allowance)
    graph, matches, best = first.network, first.matches, first.best
    goal, accuracy = max(problem.policy.exact, EXACT), problem.data.error(graph)
    if met_noise(graph, problem) and best.error > policy.resolved * accuracy:
        goal = max(goal, policy.as_good * accuracy)
    if best.error > goal:
        matches = with_formulas(graph, problem, matches, budget)
        best = min(best, _try_assignments(graph, problem, matches, goal, budget))
    return replace(first, best=best, matches=matches, work=budget.used)


def _try_assignments(
    graph: Graph, problem: SearchProblem, matches: Matches, goal: float, budget: Budget
) -> Trial:
    policy, best = problem.policy.selection, Trial(np.inf, np.inf, graph)
    if all(matches.values()):
        for assignment in itertools.islice(
            assignments(matches, policy.per_edge), policy.assignments
        ):
            assigned = graph
            for i, function in assignment.items():
                assigned = assigned.with_function(i, function)
            best = min(best, _refitted(assigned, problem))
            if best.error <= goal or budget.over:
                break
    return best


def assignments(matches: Matches, per_edge: int) -> Iterator[dict[int, EdgeFunction]]:
    """One of the first `per_edge` matches for every edge, in the order of the sum of their scores."""
    edges = list(matches)
    lists = [matches[i][:per_edge] for i in edges]
    first = (0,) * len(edges)
    heap, seen = [(sum(choices[0].score for choices in lists), first)], {first}
    while heap:
        score, chosen = heapq.heappop(heap)
        yield {i: choices[k].function for i, choices, k in zip(edges, lists, chosen, strict=True)}
        for position, k in enumerate(chosen):
            step = (*chosen[:position], k + 1, *chosen[position + 1 :])
            if k + 1 < len(lists[position]) and step not in seen:
                seen.add(step)
                more = lists[position][k + 1].score - lists[position][k].score
                heapq.heappush(heap, (score + more, step))


def with_formulas(
    graph: Graph, problem: SearchProblem, matches: Matches, budget: Budget
) -> Matches:
    """The matches with formulas of one variable added to the edges that no single candidate matches to the network's
    accuracy.

    An edge into the output is known better than the network's own: it is what the other edges leave of y. One that is
    the whole network is known to rounding, unless the network has met noise.
    """
    data, policy = problem.data, problem.policy
    values, outs = graph.edge_outputs(data.x)
    error, rest = data.error(graph), data.y - values[graph.output]
    noisy, alone = met_noise(graph, problem), graph.active_edges == 1
    wider = dict(matches)
    for i, found in matches.items():
        known, t = outs[i], values[graph.edges[i].source]
        if (
            graph.edges[i].target == graph.output
            and graph.operation(graph.output) == "sum"
            and not noisy
        ):
            known = known + rest
        accuracy = error * data.spread / max(float(np.std(known)), 1e-300)
        doubted = max(policy.selection.doubted, max(1e-2 * accuracy, 1e-9) ** 2)
        if (found and found[0].loss <= doubted and not alone) or (noisy and alone) or budget.over:
            continue  # one noisy function of one variable is sought as a regression
        exact = (
            0.0
            if alone
            else (policy.selection.within_noise if noisy else policy.selection.within) * accuracy
        )
        allowance = Budget(budget.left if alone else min(budget.left, policy.univariate.budget))
        more = match_formulas(t, known, problem.candidates, exact, allowance, policy.univariate)
        wider[i] = sorted([*found, *more], key=lambda match: match.score)
    return wider


def met_noise(graph: Graph, problem: SearchProblem) -> bool:
    """Whether what a network or a formula leaves is noise: it is large, or it has nothing of the inputs in it."""
    error, policy = problem.data.error(graph), problem.policy.selection
    return error > policy.noisy or (error > policy.smooth and problem.data.only_noise(graph))


def _refitted(graph: Graph, problem: SearchProblem) -> Trial:
    """The symbolic graph, canonical and refitted; infinite error where it is not defined on the data."""
    began, data = time.monotonic(), problem.data
    fitted = refit(
        canonical(expanded(graph)), data.x, data.y, RefitSettings(steps=12, gain=1e-2, damping=1e-3)
    )
    if fitted.rmse < 0.2 * data.spread:
        fitted = refit(fitted.graph, data.x, data.y, RefitSettings(steps=60, damping=1e-6))
    if fitted.rmse < problem.policy.selection.near * data.spread:
        fitted = refit(
            fitted.graph, data.x, data.y, RefitSettings(steps=60, gain=1e-6, damping=1e-10)
        )
    return _measured(fitted.graph, problem, graph, time.monotonic() - began)


def defined(graph: Graph, data: SearchData, diverged: float) -> bool:
    """Whether every candidate is defined, without a pole inside, on the range of what reaches it from all data, and its
    constants do not diverge: c f and d cancel each other where a candidate is used as the limit of another one."""
    with np.errstate(all="ignore"):
        for x in (data.x, data.validation_x):
            values, outs = graph.edge_outputs(x)
            for edge, out in zip(graph.edges, outs, strict=True):
                if not isinstance(edge.function, Symbolic):
                    continue
                size = np.abs(out - edge.function.constants[3]).max()
                if (
                    not edge.function.allows(values[edge.source])
                    or size > diverged * np.abs(out).max()
                ):
                    return False
    return True


def joint(graph: Graph, problem: SearchProblem) -> Trial:
    """Constants and remaining splines refitted together; the splines' grids follow what reaches them."""
    data, penalty = problem.data, problem.policy.training.penalty
    fitted = refit(graph, data.x, data.y, RefitSettings(steps=15, penalty=penalty, gain=1e-2)).graph
    settled = _followed(fitted, data)
    fitted = refit(
        settled, data.x, data.y, RefitSettings(steps=10, penalty=penalty, gain=1e-2)
    ).graph
    return _measured(fitted, problem)


def _followed(graph: Graph, data: SearchData) -> Graph:
    for i in graph.numeric_edges():
        function = graph.edges[i].function
        assert isinstance(function, Spline)
        t = graph.node_values(data.x)[graph.edges[i].source]
        low, high = float(t.min()), float(t.max())
        wide = high - low
        if wide > 0 and (
            low < function.low
            or high > function.high
            or wide < 0.8 * (function.high - function.low)
        ):
            margin = 0.02 * wide
            graph = graph.with_function(
                i, function.refined(function.intervals, low - margin, high + margin)
            )
    return graph
