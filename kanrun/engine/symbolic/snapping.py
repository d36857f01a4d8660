"""From a trained network to a formula: pruned, retrained on finer grids, its edges snapped, wholly or in part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.graph_training import TrainedGraph, extend
from kanrun.engine.symbolic.pruning import eliminate, merge_splines
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.selection import Matches, Tried, joint, select, select_further
from kanrun.engine.symbolic.templates import fitted_grids


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


def matched(tried: Tried, began: float) -> Iterator[SearchStage | Tried]:
    """What was found without a network, as one stage."""
    yield SearchStage(
        "match", tried.name, tried.network, tried.formula_error, time.monotonic() - began
    )
    yield tried


def refine_to_formula(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | Tried]:
    """Prunes a trained network, extends its grids again, and snaps its edges, to formulas where they must be."""
    for event in snapped(name, trained, problem):
        if isinstance(event, Tried):
            yield from deepened(event, problem, problem.policy.selection.budget)
        else:
            yield event


def snapped(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | Tried]:
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


def deepened(
    tried: Tried, problem: SearchProblem, allowance: float
) -> Iterator[SearchStage | Tried]:
    """What was tried, after a longer search within work of `allowance` where it is not exact yet."""
    if tried.is_exact(problem):
        yield tried
        return
    began = time.monotonic()
    further = select_further(tried, problem, allowance)
    if further.formula_error < tried.formula_error:
        yield from _stages(further, problem, time.monotonic() - began)
    yield further


def _stages(tried: Tried, problem: SearchProblem, seconds: float) -> Iterator[SearchStage]:
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
        if data.error(coarse) <= max(problem.policy.worth, 2 * trained.error):
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
