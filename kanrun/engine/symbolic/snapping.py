"""From a trained network to a formula: pruned, retrained on finer grids, its edges snapped.

The network's validation error after a joint refit decides. Whole assignments of candidates are
tried first; if none is as good as the network, edges are snapped one by one, and some stay numeric.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import EXACT, SearchData, description_length
from kanrun.engine.symbolic.edge_functions import EdgeFunction, Spline, Symbolic
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.graph import Graph, expand_subgraphs
from kanrun.engine.symbolic.graph_pruning import eliminate, merge_splines
from kanrun.engine.symbolic.invariances import canonicalise
from kanrun.engine.symbolic.refit import (
    RefitSettings,
    TrainedGraph,
    extend,
    refit,
    refit_on_grids,
)
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.templates import fitted_grids
from kanrun.engine.symbolic.univariate import match_formulas

Matches = dict[int, list[EdgeMatch]]


@dataclass(frozen=True)
class SearchStage:
    """One stage of one structure; `error` is the relative validation error.

    Stages are `train`, `prune`, `retrain`, `snap` (candidates in place, constants as matched) and
    `refit`. The chosen structure adds `mix` (if edges stay numeric), `round` and `verify`. `values`
    is the stage's model if that is not `graph`.
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


@dataclass(order=True)
class FormulaFit:
    """A formula by its description `length`.

    `error` is on validation data, both inf without a formula.

    `snapped` is the graph before the refit of its constants, which took `seconds`.
    """

    length: float
    error: float = field(compare=False)
    graph: Graph = field(compare=False)
    snapped: Graph | None = field(compare=False, default=None)
    seconds: float = field(compare=False, default=0.0)


@dataclass(frozen=True)
class FittedStructure:
    """A pruned and retrained `network`, the matches of its edges, and its `best` formula.

    `work` is the work of a longer search.
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
        """Return whether the formula reproduces enough points for its constants."""
        size = self.best.graph.parameters.size
        return self.formula_error <= EXACT and problem.data.has_enough_points(size)


def matched(tried: FittedStructure, began: float) -> Iterator[SearchStage | FittedStructure]:
    """Yield a formula that was found without a network, as one stage."""
    error, seconds = tried.formula_error, time.monotonic() - began
    yield SearchStage("match", tried.name, tried.network, error, seconds)
    yield tried


def refine_to_formula(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | FittedStructure]:
    """Prune, retrain and snap a trained network, with formulas on edges where they are needed."""
    for event in snapped(name, trained, problem):
        if isinstance(event, FittedStructure):
            yield from search_longer(event, problem, problem.policy.selection.budget)
        else:
            yield event


def snapped(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | FittedStructure]:
    """Prune a trained network, refine its grids again, and snap its edges to single candidates."""
    began, data, training = time.monotonic(), problem.data, problem.policy.training
    pruned = _pruned_network(trained, problem)
    yield SearchStage("prune", name, pruned, data.error(pruned), time.monotonic() - began)
    began, network = time.monotonic(), trained
    if pruned is not trained.graph:
        network = extend(pruned, data, training.grids[-2:], training)
    yield SearchStage("retrain", name, network.graph, network.error, time.monotonic() - began)
    began = time.monotonic()
    tried = select(name, network, problem)
    yield from _stages(tried, problem, time.monotonic() - began)
    yield tried


def search_longer(
    tried: FittedStructure, problem: SearchProblem, allowance: float
) -> Iterator[SearchStage | FittedStructure]:
    """Search a structure that is not exact once more, within work of `allowance`."""
    if not tried.is_exact(problem):
        began, first = time.monotonic(), tried
        tried = select_with_edge_formulas(first, problem, allowance)
        if tried.formula_error < first.formula_error:
            yield from _stages(tried, problem, time.monotonic() - began)
    yield tried


def _stages(
    tried: FittedStructure, problem: SearchProblem, seconds: float
) -> Iterator[SearchStage]:
    best = tried.best
    if tried.formula is not None and best.snapped is not None:
        error = problem.data.error(best.snapped)
        yield SearchStage("snap", tried.name, best.snapped, error, seconds - best.seconds)
        yield SearchStage("refit", tried.name, best.graph, best.error, best.seconds)


def _pruned_network(trained: TrainedGraph, problem: SearchProblem) -> Graph:
    """Return the network without needless edges, or the trained network itself if it needs all.

    Edges are tried on a coarser, quicker grid, unless the function is too sharp for it.
    """
    data, policy, penalty = problem.data, problem.policy.pruning, problem.policy.training.penalty
    graph = trained.graph
    splines = [edge.function for edge in graph.edges if isinstance(edge.function, Spline)]
    if max((spline.intervals for spline in splines), default=0) > policy.intervals:
        coarse = fitted_grids(graph, data.x, intervals=policy.intervals)
        settings = RefitSettings(steps=policy.edge_steps, penalty=penalty, gain=1e-2)
        coarse = refit(coarse, data.x, data.y, settings).graph
        if data.error(coarse) <= max(problem.policy.snap_threshold, 2 * trained.error):
            graph = coarse
    pruned = merge_splines(eliminate(graph, data, policy, penalty), data, policy, penalty)
    return trained.graph if pruned.active_edges == graph.active_edges else pruned


def select(name: str, network: TrainedGraph, problem: SearchProblem) -> FittedStructure:
    """Return the first exact formula of single candidates, else the best."""
    graph, budget = network.graph, Budget(problem.policy.selection.budget)
    values, outs = graph.edge_outputs(problem.data.x)
    arguments = {i: values[graph.edges[i].source] for i in graph.numeric_edges()}
    found = partial(match_edge, candidates=problem.candidates, policy=problem.policy.matching)
    matches = {i: found(t, outs[i]) for i, t in arguments.items()}
    best = _try_assignments(graph, problem, matches, EXACT, budget)
    return FittedStructure(name, graph, network.error, best, matches)


def select_with_edge_formulas(
    first: FittedStructure, problem: SearchProblem, allowance: float
) -> FittedStructure:
    """Return `first` or a better formula, with formulas on edges that no single candidate fits.

    The search continues until the formula is exact or, if noise limits the network, as good as the
    network.
    """
    policy, budget = problem.policy.selection, Budget(allowance)
    graph, matches, best, goal = first.network, first.matches, first.best, EXACT
    if is_noise_limited(graph, problem):
        goal = max(goal, policy.as_good * problem.data.error(graph))
    if best.error > goal:
        matches = _with_edge_formulas(graph, problem, matches, budget)
        best = min(best, _try_assignments(graph, problem, matches, goal, budget))
    return replace(first, best=best, matches=matches, work=budget.used)


def _try_assignments(
    graph: Graph, problem: SearchProblem, matches: Matches, goal: float, budget: Budget
) -> FormulaFit:
    policy, best = problem.policy.selection, FormulaFit(np.inf, np.inf, graph)
    if all(matches.values()):
        every = assignments(matches, policy.per_edge)
        for assignment in itertools.islice(every, policy.assignments):
            assigned = graph
            for i, function in assignment.items():
                assigned = assigned.with_function(i, function)
            best = min(best, _refitted(assigned, problem))
            if best.error <= goal or budget.over:
                break
    return best


def assignments(matches: Matches, per_edge: int) -> Iterator[dict[int, EdgeFunction]]:
    """Yield one of the first `per_edge` matches for every edge, by their total score."""
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


def _with_edge_formulas(
    graph: Graph, problem: SearchProblem, matches: Matches, budget: Budget
) -> Matches:
    """Add formulas of one variable to the matches of edges that no single candidate fits.

    The values of an edge into the output are the part of y that the other edges leave, more
    accurate than the network's. An edge that is the whole network is known to rounding; with noise,
    its formula would be a regression, which is not part of this function.
    """
    data, policy = problem.data, problem.policy
    values, outs = graph.edge_outputs(data.x)
    noisy, alone = is_noise_limited(graph, problem), graph.active_edges == 1
    wider = dict(matches)
    for i, found in matches.items():
        edge, known = graph.edges[i], outs[i]
        if edge.target == graph.output and graph.operation(edge.target) == "sum" and not noisy:
            known = known + data.y - values[graph.output]
        is_clear = bool(found) and found[0].loss <= policy.selection.doubted and not alone
        if is_clear or (noisy and alone) or budget.over:
            continue
        accuracy = data.error(graph) * data.y_std / max(float(np.std(known)), 1e-300)
        exact = 0.0 if alone else policy.selection.within * accuracy
        allowance = Budget(budget.left if alone else min(budget.left, policy.univariate.budget))
        t = values[edge.source]
        more = match_formulas(t, known, problem.candidates, exact, allowance, policy.univariate)
        wider[i] = sorted([*found, *more], key=lambda match: match.score)
    return wider


def is_noise_limited(graph: Graph, problem: SearchProblem) -> bool:
    """Return whether the residuals of a network or a formula are noise.

    Not small, and independent of the inputs.
    """
    smooth = problem.policy.selection.smooth
    return problem.data.error(graph) > smooth and problem.data.residuals_are_noise(graph)


def _refitted(graph: Graph, problem: SearchProblem) -> FormulaFit:
    """Refit a symbolic graph in canonical form.

    The error is inf if it is not defined on the data.
    """
    began, data = time.monotonic(), problem.data
    quick = RefitSettings(steps=12, gain=1e-2, damping=1e-3)
    fitted = refit(canonicalise(expand_subgraphs(graph)), data.x, data.y, quick)
    for limit, settings in (
        (0.2, RefitSettings(steps=60, damping=1e-6)),
        (problem.policy.selection.polished, RefitSettings(steps=60, gain=1e-6, damping=1e-10)),
    ):
        if fitted.rmse < limit * data.y_std:
            fitted = refit(fitted.graph, data.x, data.y, settings)
    return replace(
        _measured(fitted.graph, problem), snapped=graph, seconds=time.monotonic() - began
    )


def _measured(graph: Graph, problem: SearchProblem) -> FormulaFit:
    data = problem.data
    if not is_defined(graph, data, problem.policy.selection.diverged):
        return FormulaFit(np.inf, np.inf, graph)
    return FormulaFit(description_length(graph, data), data.error(graph), graph)


def is_defined(graph: Graph, data: SearchData, diverged: float) -> bool:
    """Return whether every candidate is defined, without a pole, on the range of its argument.

    Constants must not diverge: if a candidate is used as the limit of another one, c f and d cancel
    each other.
    """
    with np.errstate(all="ignore"):
        values, outs = graph.edge_outputs(data.all_points.x)
        for edge, out in zip(graph.edges, outs, strict=True):
            if isinstance(edge.function, Symbolic):
                size = np.abs(out - edge.function.constants[3]).max()
                is_allowed = edge.function.allows(values[edge.source])
                if not is_allowed or size > diverged * np.abs(out).max():
                    return False
    return True


@dataclass(frozen=True)
class Decision:
    """The fate of edge `index` of the network.

    `symbolic` as `candidate`, or numeric, for a `reason`.
    """

    index: int
    symbolic: bool
    candidate: str
    r2: float
    reason: str


@dataclass(frozen=True)
class PartlySymbolic:
    """A partly symbolic network, its relative validation error, and a decision for each edge."""

    graph: Graph
    error: float
    decisions: tuple[Decision, ...] = ()

    @property
    def symbolic(self) -> int:
        return sum(decision.symbolic for decision in self.decisions)


def partly_symbolic(
    network: Graph, problem: SearchProblem, known: Matches, allowed: float, allowance: float
) -> PartlySymbolic:
    """Snap edges one by one, the clearest first, while the validation error stays `allowed`.

    `known` are earlier matches by edge, formulas among them. No candidate is tried after work of
    `allowance`.
    """
    budget, graph, decisions = Budget(allowance), network, dict[int, Decision]()
    for _ in range(problem.policy.mixing.rounds):
        numeric = graph.numeric_edges()
        scores = {i: min((match.score for match in known.get(i, [])), default=0.0) for i in numeric}
        for i in sorted(scores, key=scores.__getitem__):
            if budget.over:
                late = Decision(i, False, "", np.nan, "not tried: search budget exhausted")
                decisions.setdefault(i, late)
                continue
            graph, decisions[i] = _snap_edge(graph, i, problem, known.get(i, []), allowed)
        if len(graph.numeric_edges()) in (0, len(numeric)):
            break
    in_order = tuple(decisions[index] for index in sorted(decisions))
    return PartlySymbolic(graph, problem.data.error(graph), in_order)


def _snap_edge(
    graph: Graph, index: int, problem: SearchProblem, known: list[EdgeMatch], allowed: float
) -> tuple[Graph, Decision]:
    """Snap an edge to the first of its best candidates that keeps the error allowed."""
    data, penalty = problem.data, problem.policy.training.penalty
    values, outs = graph.edge_outputs(data.x)
    t = values[graph.edges[index].source]
    matches = match_edge(t, outs[index], problem.candidates, problem.policy.matching)
    names = {match.name for match in matches}
    matches += [match for match in known if match.name not in names]
    errors: list[tuple[float, EdgeMatch]] = []
    for match in sorted(matches, key=lambda m: m.score)[: problem.policy.mixing.candidates]:
        trial = graph.with_function(index, match.function)
        settings = RefitSettings(steps=15, penalty=penalty, gain=1e-2)
        fit = _measured(refit_on_grids(trial, data, settings), problem)
        if fit.error <= allowed:
            why = "the network stays as good"
            return fit.graph, Decision(index, True, match.name, match.r2, why)
        errors.append((fit.error, match))
    if not errors:
        why = "no candidate is defined on the range of its argument"
        return graph, Decision(index, False, "", np.nan, why)
    error, best = min(errors, key=lambda entry: entry[0])
    why = f"its best candidate multiplies the network's error by {error / data.error(graph):.3g}"
    if not np.isfinite(error):
        why = "its best candidates leave their domain or their constants diverge"
    return graph, Decision(index, False, best.name, best.r2, why)
