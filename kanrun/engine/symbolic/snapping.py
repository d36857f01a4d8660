"""From a trained network to a formula: pruned, retrained on finer grids, its edges snapped, wholly or in part."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import EXACT, SearchData, description_length
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.edges import EdgeFunction, Spline, Symbolic
from kanrun.engine.symbolic.graph import Graph, expand_subgraphs
from kanrun.engine.symbolic.invariances import canonicalise
from kanrun.engine.symbolic.pruning import eliminate, merge_splines
from kanrun.engine.symbolic.refit import RefitSettings, TrainedGraph, extend, refit
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.templates import fitted_grids
from kanrun.engine.symbolic.univariate import match_formulas


@dataclass(frozen=True)
class SearchStage:
    """One stage of one structure; `error` is relative to the spread, on validation data.

    Stages are `train`, `prune`, `retrain`, `snap` (candidates in place, constants as matched), `refit`, then of the
    structure that was chosen `mix` (where edges stay numeric), `round` and `verify`. `values` is the stage's model
    where that is not `graph`.
    """

    stage: str
    name: str
    graph: Graph
    error: float
    seconds: float
    values: Callable[[Array], Array] | None = None

    @property
    def model(self) -> Callable[[Array], Array]:
        return self.values or self.graph


def matched(tried: FittedStructure, began: float) -> Iterator[SearchStage | FittedStructure]:
    """What was found without a network, as one stage."""
    yield SearchStage(
        "match", tried.name, tried.network, tried.formula_error, time.monotonic() - began
    )
    yield tried


def refine_to_formula(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | FittedStructure]:
    """Prunes a trained network, extends its grids again, and snaps its edges, to formulas where they must be."""
    for event in snapped(name, trained, problem):
        if isinstance(event, FittedStructure):
            yield from search_longer(event, problem, problem.policy.selection.budget)
        else:
            yield event


def snapped(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | FittedStructure]:
    """Prunes a trained network, extends its grids again, and snaps its edges to single candidates."""
    began, data = time.monotonic(), problem.data
    pruned = pruned_network(trained, problem)
    yield SearchStage("prune", name, pruned, data.error(pruned), time.monotonic() - began)
    began, training = time.monotonic(), problem.policy.training
    network = (
        trained if pruned is trained.graph else extend(pruned, data, training.grids[-2:], training)
    )
    yield SearchStage("retrain", name, network.graph, network.error, time.monotonic() - began)
    began = time.monotonic()
    tried = select(name, network, problem)
    yield from _stages(tried, problem, time.monotonic() - began)
    yield tried


def search_longer(
    tried: FittedStructure, problem: SearchProblem, allowance: float
) -> Iterator[SearchStage | FittedStructure]:
    """What was tried, after a longer search within work of `allowance` where it is not exact yet."""
    if tried.is_exact(problem):
        yield tried
        return
    began = time.monotonic()
    further = select_with_edge_formulas(tried, problem, allowance)
    if further.formula_error < tried.formula_error:
        yield from _stages(further, problem, time.monotonic() - began)
    yield further


def _stages(
    tried: FittedStructure, problem: SearchProblem, seconds: float
) -> Iterator[SearchStage]:
    best = tried.best
    if tried.formula is not None and best.snapped is not None:
        error = problem.data.error(best.snapped)
        yield SearchStage("snap", tried.name, best.snapped, error, seconds - best.seconds)
        yield SearchStage("refit", tried.name, best.graph, best.error, best.seconds)


def pruned_network(trained: TrainedGraph, problem: SearchProblem) -> Graph:
    """The network without the edges and nodes it does not need, which are tried out on a coarser grid that is quick,
    finer where the function turns too often for that; the trained network itself where nothing could go."""
    data, policy, penalty = problem.data, problem.policy.pruning, problem.policy.training.penalty
    coarse = trained.graph
    splines = (edge.function for edge in coarse.edges if isinstance(edge.function, Spline))
    finest, intervals = max((spline.intervals for spline in splines), default=0), policy.intervals
    while intervals < finest:
        coarse = fitted_grids(trained.graph, data.x, intervals=intervals)
        coarse = refit(
            coarse, data.x, data.y, RefitSettings(steps=15, penalty=penalty, gain=1e-2)
        ).graph
        if data.error(coarse) <= max(problem.policy.snap_threshold, 2 * trained.error):
            break
        coarse, intervals = trained.graph, 2 * intervals
    pruned = eliminate(coarse, data, policy, penalty)
    pruned = merge_splines(pruned, data, policy, penalty)
    return trained.graph if pruned.active_edges == coarse.active_edges else pruned


@dataclass(frozen=True)
class Decision:
    """What became of edge `index` of the network: `symbolic` as `candidate`, or numeric, for a `reason`."""

    index: int
    symbolic: bool
    candidate: str
    r2: float
    reason: str


@dataclass(frozen=True)
class PartlySymbolic:
    """The network with what candidates could take over, its relative validation error, and a decision an edge."""

    graph: Graph
    error: float
    decisions: tuple[Decision, ...]

    @property
    def symbolic(self) -> int:
        return sum(decision.symbolic for decision in self.decisions)


def partly_symbolic(
    network: Graph, problem: SearchProblem, known: Matches, allowed: float, allowance: float
) -> PartlySymbolic:
    """`network` with edges snapped one by one, the clearest first, as long as its relative validation error after a
    joint refit stays at most `allowed`.

    `known` are matches found before (formulas among them) by edge; no candidate is tried after work of `allowance`.
    """
    reference, budget = max(problem.data.error(network), 1e-300), Budget(allowance)
    graph, decisions = network, dict[int, Decision]()
    for _ in range(problem.policy.mixing.rounds):
        before = len(graph.numeric_edges())
        for index in _by_clarity(graph, known):
            if budget.over:
                decisions.setdefault(
                    index, Decision(index, False, "", np.nan, "the search was long enough")
                )
                continue
            graph, decisions[index] = _decided(
                graph, index, problem, known.get(index, []), (allowed, reference)
            )
        if len(graph.numeric_edges()) in (0, before):
            break
    return PartlySymbolic(
        graph, problem.data.error(graph), tuple(decisions[index] for index in sorted(decisions))
    )


def _by_clarity(graph: Graph, known: Matches) -> list[int]:
    best = {
        i: min((match.score for match in known.get(i, [])), default=0.0)
        for i in graph.numeric_edges()
    }
    return sorted(best, key=lambda i: best[i])


def _decided(
    graph: Graph,
    index: int,
    problem: SearchProblem,
    known: list[EdgeMatch],
    errors: tuple[float, float],
) -> tuple[Graph, Decision]:
    """The graph with the first of the edge's best candidates, matched to the graph as it is by now, that keeps the
    error allowed, or as it is; `errors` are the one allowed and the network's own."""
    allowed, reference = errors
    values, outs = graph.edge_outputs(problem.data.x)
    t = values[graph.edges[index].source]
    fresh = match_edge(t, outs[index], problem.candidates, problem.policy.matching)
    names = {match.name for match in fresh}
    matches = sorted(
        [*fresh, *(match for match in known if match.name not in names)],
        key=lambda match: match.score,
    )
    tried: list[tuple[float, EdgeMatch]] = []
    for match in matches[: problem.policy.mixing.candidates]:
        trial = joint(graph.with_function(index, match.function), problem)
        if trial.error <= allowed:
            return trial.graph, Decision(
                index, True, match.name, match.r2, "the network stays as good"
            )
        tried.append((trial.error, match))
    if not tried:
        return graph, Decision(
            index, False, "", np.nan, "no candidate is defined where its argument lies"
        )
    error, best = min(tried, key=lambda entry: entry[0])
    why = f"its best candidate would make the network {error / reference:.3g} times as wrong"
    if not np.isfinite(error):
        why = "its best candidates leave their domain or their constants diverge"
    return graph, Decision(index, False, best.name, best.r2, why)


Matches = dict[int, list[EdgeMatch]]


@dataclass(order=True)
class FormulaFit:
    """Ordered by its description `length`; `error` is on validation data, both inf where there is no formula.

    `snapped` is the graph before its constants were refitted, node for node the numeric one; `seconds` that this took.
    """

    length: float
    error: float = field(compare=False)
    graph: Graph = field(compare=False)
    snapped: Graph | None = field(compare=False, default=None)
    seconds: float = field(compare=False, default=0.0)


@dataclass(frozen=True)
class FittedStructure:
    """A structure's pruned and retrained `network`, the matches of each of its edges, and the `best` formula of it.

    `work` is what a longer search has used.
    """

    name: str
    network: Graph
    network_error: float
    best: FormulaFit
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
        enough = self.formula is not None and problem.data.has_enough_points(
            self.formula.parameters.size
        )
        return enough and self.formula_error <= goal


def _measured(
    graph: Graph, problem: SearchProblem, snapped: Graph | None = None, seconds: float = 0.0
) -> FormulaFit:
    if not defined(graph, problem.data, problem.policy.selection.diverged):
        return FormulaFit(np.inf, np.inf, graph, snapped, seconds)
    return FormulaFit(
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


def select(name: str, network: TrainedGraph, problem: SearchProblem) -> FittedStructure:
    """Return the first exact formula of single candidates for the network's edges, else the best one met."""
    goal, budget = max(problem.policy.exact, EXACT), Budget(problem.policy.selection.budget)
    matches = edge_matches(network.graph, problem)
    best = _try_assignments(network.graph, problem, matches, goal, budget)
    return FittedStructure(name, network.graph, network.error, best, matches)


def select_with_edge_formulas(
    first: FittedStructure, problem: SearchProblem, allowance: float
) -> FittedStructure:
    """`first`, or better, with formulas on the edges that no single candidate fits, within work of `allowance`.

    A formula is exact or not: the search goes on while the error is above EXACT and the policy's `exact`, or where the
    network has met noise, above that.
    """
    policy, budget = problem.policy.selection, Budget(allowance)
    graph, matches, best = first.network, first.matches, first.best
    goal, accuracy = max(problem.policy.exact, EXACT), problem.data.error(graph)
    if is_noise_limited(graph, problem) and best.error > policy.resolved * accuracy:
        goal = max(goal, policy.as_good * accuracy)
    if best.error > goal:
        matches = with_formulas(graph, problem, matches, budget)
        best = min(best, _try_assignments(graph, problem, matches, goal, budget))
    return replace(first, best=best, matches=matches, work=budget.used)


def _try_assignments(
    graph: Graph, problem: SearchProblem, matches: Matches, goal: float, budget: Budget
) -> FormulaFit:
    policy, best = problem.policy.selection, FormulaFit(np.inf, np.inf, graph)
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
    noisy, alone = is_noise_limited(graph, problem), graph.active_edges == 1
    wider = dict(matches)
    for i, found in matches.items():
        known, t = outs[i], values[graph.edges[i].source]
        if (
            graph.edges[i].target == graph.output
            and graph.operation(graph.output) == "sum"
            and not noisy
        ):
            known = known + rest
        accuracy = error * data.y_std / max(float(np.std(known)), 1e-300)
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


def is_noise_limited(graph: Graph, problem: SearchProblem) -> bool:
    """Whether what a network or a formula leaves is noise: it is large, or it has nothing of the inputs in it."""
    error, policy = problem.data.error(graph), problem.policy.selection
    return error > policy.noisy or (
        error > policy.smooth and problem.data.residuals_are_noise(graph)
    )


def _refitted(graph: Graph, problem: SearchProblem) -> FormulaFit:
    """The symbolic graph, canonical and refitted; infinite error where it is not defined on the data."""
    began, data = time.monotonic(), problem.data
    fitted = refit(
        canonicalise(expand_subgraphs(graph)),
        data.x,
        data.y,
        RefitSettings(steps=12, gain=1e-2, damping=1e-3),
    )
    if fitted.rmse < 0.2 * data.y_std:
        fitted = refit(fitted.graph, data.x, data.y, RefitSettings(steps=60, damping=1e-6))
    if fitted.rmse < problem.policy.selection.near * data.y_std:
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


def joint(graph: Graph, problem: SearchProblem) -> FormulaFit:
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
