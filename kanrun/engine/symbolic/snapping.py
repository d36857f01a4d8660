"""From a trained network to a formula: pruned, retrained on finer grids, its edges snapped.

The network's validation error after a joint refit decides. Whole assignments of candidates are
tried first; if none is as good as the network, edges are snapped one by one, and some stay numeric.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import TINY
from kanrun.engine.symbolic.conversions import canonicalise
from kanrun.engine.symbolic.edge_functions import Spline, Symbolic
from kanrun.engine.symbolic.graph import EdgeMatch, Graph, fitted_grids
from kanrun.engine.symbolic.graph_changes import EDGE_STEPS, eliminate
from kanrun.engine.symbolic.matching import match_edge
from kanrun.engine.symbolic.problem import (
    EXACT,
    FittedStructure,
    FormulaFit,
    Matches,
    SearchProblem,
    SearchStage,
    description_length,
)
from kanrun.engine.symbolic.refit import (
    PENALTY,
    QUICK,
    RefitSettings,
    TrainedGraph,
    extend,
    refit,
    refit_on_grids,
)
from kanrun.engine.symbolic.univariate import UNIVARIATE_BUDGET, match_formulas

#: Relative error up to which a network is snapped.
SNAP_THRESHOLD = 0.05
#: Work for a longer search in a structure.
LONGER_SEARCH = 30.0
#: Error below which splines of exact data can stay, so that it is no noise.
SMOOTH = 2e-5
#: Maximum number of intervals of the grids on which removals are tried.
_PRUNED_INTERVALS = 8
#: Maximum number of assignments of a whole graph, and matches of an edge that are used.
_ASSIGNMENTS, _PER_EDGE = 24, 5
#: 1 - R^2 of the best match above which an edge gets formulas, and the fraction of the network's
#: error that a formula of one edge may leave.
_DOUBTED, _WITHIN = 3e-8, 0.1
#: Multiple of the network's error at which a formula is good enough if noise limits the network.
_AS_GOOD = 1.02
#: Errors below which constants are fitted for longer, and polished, before formulas are compared.
_PROMISING, _POLISHED = 0.2, 1e-7
_QUICK = RefitSettings(steps=12, gain=QUICK, damping=1e-3)
_THOROUGH = RefitSettings(steps=60, damping=1e-6)
_POLISH = RefitSettings(steps=60, gain=1e-6, damping=1e-10)
#: Ratio of c f to c f + d at which constants diverge.
_DIVERGED = 1e7
#: Candidates that are tried on each edge if edges are snapped one by one.
_MIXED_CANDIDATES = 3
_MIXED = RefitSettings(steps=15, penalty=PENALTY, gain=QUICK)


def matched(tried: FittedStructure) -> Iterator[SearchStage | FittedStructure]:
    """Yield a formula that was found without a network, as one stage."""
    yield SearchStage("match", tried.name, tried.network, tried.best.error)
    yield tried


def refine_to_formula(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | FittedStructure]:
    """Prune, retrain and snap a trained network, with formulas on edges where they are needed."""
    for event in snapped(name, trained, problem):
        if isinstance(event, FittedStructure):
            yield from search_longer(event, problem, Budget(LONGER_SEARCH))
        else:
            yield event


def snapped(
    name: str, trained: TrainedGraph, problem: SearchProblem
) -> Iterator[SearchStage | FittedStructure]:
    """Prune a trained network, refine its grids again, and snap its edges to single candidates."""
    data, network = problem.data, trained
    pruned = _pruned_network(trained, problem)
    yield SearchStage("prune", name, pruned, data.error(pruned))
    if pruned is not trained.graph:
        network = extend(pruned, data, problem.policy.grids[-2:])
    yield SearchStage("retrain", name, network.graph, network.error)
    tried = select(name, network, problem)
    yield from _stages(tried, problem)
    yield tried


def search_longer(
    tried: FittedStructure, problem: SearchProblem, budget: Budget
) -> Iterator[SearchStage | FittedStructure]:
    """Search a structure that is not exact once more, with formulas on edges that need them.

    The search continues until the formula is exact or, if noise limits the network, as good as the
    network.
    """
    graph, best, goal = tried.network, tried.best, EXACT
    if is_noise_limited(graph, problem):
        goal = max(goal, _AS_GOOD * problem.data.error(graph))
    if not tried.is_exact(problem) and best.error > goal:
        matches = _with_edge_formulas(graph, problem, tried.matches, budget)
        longer = _try_assignments(graph, problem, matches, goal, budget)
        tried = replace(tried, best=min(best, longer), matches=matches)
        if tried.best.error < best.error:
            yield from _stages(tried, problem)
    yield tried


def _stages(tried: FittedStructure, problem: SearchProblem) -> Iterator[SearchStage]:
    best = tried.best
    if tried.formula is not None and best.snapped is not None:
        yield SearchStage("snap", tried.name, best.snapped, problem.data.error(best.snapped))
        yield SearchStage("refit", tried.name, best.graph, best.error)


def _pruned_network(trained: TrainedGraph, problem: SearchProblem) -> Graph:
    """Return the network without needless edges, or the trained network itself if it needs all.

    Edges are tried on a coarser, quicker grid, unless the function is too sharp for it.
    """
    data, graph = problem.data, trained.graph
    splines = [edge.function for edge in graph.edges if isinstance(edge.function, Spline)]
    if max((spline.intervals for spline in splines), default=0) > _PRUNED_INTERVALS:
        coarse = fitted_grids(graph, data.x, intervals=_PRUNED_INTERVALS)
        settings = RefitSettings(EDGE_STEPS, penalty=PENALTY, gain=QUICK)
        coarse = refit(coarse, data.x, data.y, settings).graph
        if data.error(coarse) <= max(SNAP_THRESHOLD, 2 * trained.error):
            graph = coarse
    pruned = eliminate(graph, data)
    return trained.graph if pruned.active_edges == graph.active_edges else pruned


def select(name: str, network: TrainedGraph, problem: SearchProblem) -> FittedStructure:
    """Return the first exact formula of single candidates, else the best."""
    graph, budget = network.graph, Budget(LONGER_SEARCH)
    values, outs = graph.edge_outputs(problem.data.x)
    matches = {
        i: match_edge(values[graph.edges[i].source], outs[i], problem.candidates)
        for i in graph.numeric_edges()
    }
    best = _try_assignments(graph, problem, matches, EXACT, budget)
    return FittedStructure(name, graph, network.error, best, matches)


def _try_assignments(
    graph: Graph, problem: SearchProblem, matches: Matches, goal: float, budget: Budget
) -> FormulaFit:
    """Return the best graph with a match on every edge, of those with the lowest total scores."""
    assignments: list[tuple[float, Graph]] = [(0.0, graph)]
    for i, choices in matches.items():
        longer = (
            (score + match.score, assigned.with_function(i, match.function))
            for score, assigned in assignments
            for match in choices[:_PER_EDGE]
        )
        assignments = heapq.nsmallest(_ASSIGNMENTS, longer, key=operator.itemgetter(0))
    best = FormulaFit(np.inf, np.inf, graph)
    for _, assigned in assignments:
        best = min(best, _refitted(assigned, problem))
        if best.error <= goal or budget.over:
            break
    return best


def _with_edge_formulas(
    graph: Graph, problem: SearchProblem, matches: Matches, budget: Budget
) -> Matches:
    """Add formulas of one variable to the matches of edges that no single candidate fits.

    The values of an edge into the output are the part of y that the other edges leave, more
    accurate than the network's. An edge that is the whole network is known to rounding; with noise,
    its formula would be a regression, which is not part of this function.
    """
    data = problem.data
    values, outs = graph.edge_outputs(data.x)
    noisy, alone = is_noise_limited(graph, problem), graph.active_edges == 1
    wider = dict(matches)
    for i, found in matches.items():
        edge, known = graph.edges[i], outs[i]
        if edge.target == graph.output and graph.operation(edge.target) == "sum" and not noisy:
            known = known + data.y - values[graph.output]
        is_clear = bool(found) and found[0].loss <= _DOUBTED and not alone
        if is_clear or (noisy and alone) or budget.over:
            continue
        accuracy = data.error(graph) * data.y_std / max(float(np.std(known)), TINY)
        exact = 0.0 if alone else _WITHIN * accuracy
        allowance = Budget(budget.left if alone else min(budget.left, UNIVARIATE_BUDGET))
        more = match_formulas(values[edge.source], known, problem.candidates, exact, allowance)
        wider[i] = sorted([*found, *more], key=lambda match: match.score)
    return wider


def is_noise_limited(graph: Graph, problem: SearchProblem) -> bool:
    """Return whether the residuals of a network or a formula are noise.

    Not small, and independent of the inputs.
    """
    return problem.data.error(graph) > SMOOTH and problem.data.residuals_are_noise(graph)


def _refitted(graph: Graph, problem: SearchProblem) -> FormulaFit:
    """Refit a symbolic graph in canonical form.

    The error is inf if it is not defined on the data.
    """
    data = problem.data
    count_work(COSTS.conversion)
    fitted = refit(canonicalise(graph), data.x, data.y, _QUICK)
    for limit, settings in ((_PROMISING, _THOROUGH), (_POLISHED, _POLISH)):
        if fitted.rmse < limit * data.y_std:
            fitted = refit(fitted.graph, data.x, data.y, settings)
    return replace(_measured(fitted.graph, problem), snapped=graph)


def _measured(graph: Graph, problem: SearchProblem) -> FormulaFit:
    """Return the description length and the error of a formula, inf if it is not defined.

    Every candidate must be defined, without a pole, on the range of its argument. Constants must
    not diverge: if a candidate is used as the limit of another one, c f and d cancel each other.
    """
    data = problem.data
    with np.errstate(all="ignore"):
        values, outs = graph.edge_outputs(data.all_points.x)
        for edge, out in zip(graph.edges, outs, strict=True):
            if isinstance(edge.function, Symbolic):
                size = np.abs(out - edge.function.constants[3]).max()
                is_allowed = edge.function.allows(values[edge.source])
                if not is_allowed or size > _DIVERGED * np.abs(out).max():
                    return FormulaFit(np.inf, np.inf, graph)
    return FormulaFit(description_length(graph, data), data.error(graph), graph)


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


def partly_symbolic(
    structure: FittedStructure, problem: SearchProblem, allowed: float, allowance: float
) -> tuple[Graph, tuple[Decision, ...]]:
    """Snap edges one by one, the clearest first, while the validation error stays `allowed`.

    Earlier matches of an edge, formulas among them, are tried too. Returns the partly symbolic
    network and a decision for each edge. No candidate is tried after work of `allowance`.
    """
    budget, graph, decisions = Budget(allowance), structure.network, list[Decision]()
    known = {i: structure.matches.get(i, []) for i in graph.numeric_edges()}
    for i in sorted(known, key=lambda i: min((each.score for each in known[i]), default=0.0)):
        if budget.over:
            decision = Decision(i, False, "", np.nan, "not tried: search budget exhausted")
        else:
            graph, decision = _snap_edge(graph, i, problem, known[i], allowed)
        decisions.append(decision)
    return graph, tuple(sorted(decisions, key=lambda decision: decision.index))


def _snap_edge(
    graph: Graph, index: int, problem: SearchProblem, known: list[EdgeMatch], allowed: float
) -> tuple[Graph, Decision]:
    """Snap an edge to the first of its best candidates that keeps the error allowed."""
    data = problem.data
    values, outs = graph.edge_outputs(data.x)
    matches = match_edge(values[graph.edges[index].source], outs[index], problem.candidates)
    names = {match.name for match in matches}
    matches += [match for match in known if match.name not in names]
    why, best = "no candidate is defined on the range of its argument", None
    for match in sorted(matches, key=lambda m: m.score)[:_MIXED_CANDIDATES]:
        trial = graph.with_function(index, match.function)
        fit = _measured(refit_on_grids(trial, data, _MIXED), problem)
        if fit.error <= allowed:
            why = "the network stays as good"
            return fit.graph, Decision(index, True, match.name, match.r2, why)
        if best is None:
            ratio, best = fit.error / data.error(graph), match
            why = f"its best candidate multiplies the network's error by {ratio:.3g}"
            if not np.isfinite(ratio):
                why = "its best candidates leave their domain or their constants diverge"
    name, r2 = (best.name, best.r2) if best else ("", np.nan)
    return graph, Decision(index, False, name, r2, why)
