"""Turn a trained network into a formula: prune it, retrain it, and snap its edges.

To snap an edge is to replace its spline with a candidate function. Assignments of candidates to all
edges are tried first. If no assignment is as good as the network, edges are snapped one by one, and
some may stay numeric. A replacement is accepted or rejected by the validation error after all
constants were refitted together.

Match candidates c f(a t + b) + d to an edge by least squares.

Fits start from the best pairs (a, b) of a grid.
"""

from __future__ import annotations

import contextlib
import heapq
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import (
    CONSTANT,
    GRID_STEPS,
    TINY,
    TWINS,
    Array,
    Candidate,
    grid_values,
)
from kanrun.engine.symbolic.columns import covered
from kanrun.engine.symbolic.conversions import canonicalise
from kanrun.engine.symbolic.graph import (
    ROUNDING,
    Edge,
    EdgeMatch,
    Graph,
    Symbolic,
    flat,
    sound,
    standardised,
    without_edges,
)
from kanrun.engine.symbolic.problem import (
    EXACT,
    Event,
    FittedStructure,
    SearchData,
    SearchProblem,
    SearchStage,
)
from kanrun.engine.symbolic.refit import (
    PENALTY,
    QUICK,
    RefitSettings,
    extend,
    refit,
    refit_on_grids,
)

#: Largest number of candidates whose constants are fitted to an edge: those that fit best on the
#: grid of pairs (a, b).
_CANDIDATES = 12
_FIT = RefitSettings(steps=40, gain=3e-4, patience=5, damping=1e-4)


def match_edge(t: Array, values: Array, candidates: Sequence[Candidate]) -> list[EdgeMatch]:
    """Fit candidates to an edge, and return the fitted candidates, best score first.

    Candidates that are not defined on the whole range of t, or that fit badly on the coarse grid,
    are left out. Only one of two candidates that differ by constants is fitted (see `TWINS`).

    Args:
        t: Arguments of the edge, shape (N,).
        values: Values of the edge, shape (N,).
        candidates: The candidates.
    """
    # Largest number of samples of an edge that are used.
    points = 120
    places = np.linspace(0, t.size - 1, min(t.size, points)).astype(int)
    order = np.argsort(t, kind="stable")[places]
    x = t[order, None]
    y = values[order]
    data = SearchData(x, y, x, y)
    mean = float(values.mean())
    varies = float(np.var(data.y)) > 0
    found = [EdgeMatch(flat(mean), float(varies))] if CONSTANT in candidates else []
    if not varies or not np.ptp(data.x):
        return found
    names = {candidate.name for candidate in candidates}
    coarse = [
        (*_coarse(data, candidate), candidate)
        for candidate in candidates
        if candidate is not CONSTANT and TWINS.get(candidate.name) not in names
    ]
    coarse.sort(key=lambda entry: entry[0] * 2 ** entry[-1].complexity)
    for _, starts, candidate in coarse[:_CANDIDATES]:
        matches = [match for start in starts if (match := _match(data, candidate, *start))]
        found += sorted(matches, key=lambda match: match.loss)[:1]
    return sorted(found, key=lambda match: match.score)


def _match(data: SearchData, candidate: Candidate, a: float, b: float) -> EdgeMatch | None:
    """Fit the constants of a candidate to an edge.

    The result is None if the fit is not finite, or if the fitted function is not defined on the
    whole range of the arguments.

    The initial pair (a, b) refers to f(a tau + b), where tau is the argument scaled to [-1, 1].
    """
    t = data.x[:, 0]
    middle = float(t[-1] + t[0]) / 2
    half = float(t[-1] - t[0]) / 2
    begun = Symbolic(candidate, (a / half, b - a * middle / half, 1.0, 0.0), candidate.free)
    with np.errstate(all="ignore"):
        design = np.stack([begun.value(t), np.ones_like(t)], axis=1)
    if not np.isfinite(design).all():
        return None
    c, d = np.linalg.lstsq(design, data.y, rcond=None)[0].tolist()
    graph = Graph(1, ("sum",), (Edge(0, 1, begun.changed(c=c, d=d)),))
    fitted = refit(graph, data, replace(_FIT, floor=ROUNDING**0.5 * data.y_std))
    result = fitted.edges[0].function
    loss = data.error(fitted) ** 2
    assert isinstance(result, Symbolic), "as the edge was begun"
    is_sound = result.allows(t) and np.isfinite(loss)
    return EdgeMatch(standardised(result), loss) if is_sound else None


def _coarse(data: SearchData, candidate: Candidate) -> tuple[float, list[tuple[float, float]]]:
    """Compare a candidate with an edge for all pairs (a, b) of the grid.

    Returns:
        The smallest 1 - R^2, and up to two starts (a, b) for a fit: the best pair, and the best
        pair at some distance from it. If no pair explains anything, inf and no start.
    """
    # Smallest distance between the two starts of a fit, as a fraction of |a|.
    apart = 0.3
    # Number of the best pairs (a, b) of a candidate from which the two starts of its fit are
    # chosen.
    ranked = 40
    grid, f = grid_values(candidate)
    t = data.x[:, 0]
    target = np.interp(np.linspace(t[0], t[-1], GRID_STEPS), t, data.y)
    target = target - target.mean()
    constant = np.full((GRID_STEPS, 1), GRID_STEPS**-0.5)
    explained = covered(target, f, constant)[0]
    order = np.argsort(-explained)[:ranked]
    order = order[explained[order] > 0]
    if not order.size:
        return np.inf, []
    best = grid[order]
    others = best[np.abs(best - best[0]).max(axis=1) > apart * abs(best[0, 0])]
    loss = 1 - float(explained[order[0]]) / max(float(target @ target), TINY)
    return loss, [tuple(each) for each in (best[0], *others[:1])]


#: Small expressions with at least this relative error are dropped by the search.
SNAP_THRESHOLD = 0.05
#: Largest number of assignments of candidates to all edges that are tried.
_ASSIGNMENTS = 24
#: Successive numbers of intervals on which a pruned network is retrained.
_GRIDS = (10, 20)
_ELIMINATION = RefitSettings(steps=12, penalty=PENALTY, gain=QUICK)
_QUICK = RefitSettings(steps=12, gain=QUICK, damping=1e-3)
_THOROUGH = RefitSettings(steps=60, damping=1e-6)
_POLISH = RefitSettings(steps=60, gain=1e-6, damping=1e-10)
_MIXED = RefitSettings(steps=15, penalty=PENALTY, gain=QUICK)


def refine_to_formula(name: str, trained: Graph, problem: SearchProblem) -> Iterator[Event]:
    """Prune a trained network, retrain it on finer grids, and snap its edges to candidates."""
    data = problem.data
    pruned = network = eliminate(trained, data)
    yield SearchStage("prune", name, pruned, data)
    if pruned is not trained:
        network = extend(pruned, data, _GRIDS)
    yield SearchStage("retrain", name, network, data)
    tried = select(name, network, problem)
    yield from _stages(tried)
    yield tried


def _stages(tried: FittedStructure) -> Iterator[SearchStage]:
    if tried.formula is not None and tried.snapped is not None:
        yield SearchStage("snap", tried.name, tried.snapped, tried.data)
        yield SearchStage("refit", tried.name, tried.formula, tried.data)


def edge_scores(graph: Graph, data: SearchData) -> list[float]:
    """Return the importance of each edge: how much the output changes if the edge is constant.

    It is the RMS change of the output when the values of the edge are replaced by their mean,
    divided by the standard deviation of y; inf for edges that are the identity.
    """
    values, outs = graph.edge_outputs(data.x)
    scores = []
    for i, edge in enumerate(graph.edges):
        if edge.carries:
            scores.append(np.inf)
            continue
        change = (
            graph.with_function(i, flat(float(np.mean(outs[i]))))(data.x) - values[graph.output]
        )
        scores.append(float(np.sqrt(np.mean(change**2))) / data.y_std)
    return scores


def eliminate(graph: Graph, data: SearchData) -> Graph:
    """Remove edges, the least important first, as long as the validation error allows it.

    An edge is removed if the error after a refit is at most `growth` times the smallest error so
    far, or at most `negligible_error`.
    """
    # An edge may also be removed if the relative validation error is then at most this.
    negligible_error = 1e-7
    # An edge may be removed if the validation error is then at most this multiple of the smallest
    # validation error so far.
    growth = 1.3
    best = data.error(graph)
    kept: set[tuple[int, int, int]] = set()
    while True:
        scores = edge_scores(graph, data)
        for i in [i for i in np.argsort(scores).tolist() if np.isfinite(scores[i])]:
            # An edge that could not be removed is tried again only after the number of nodes has
            # changed.
            key = graph.edges[i].source, graph.edges[i].target, len(graph.operations)
            if key in kept:
                continue
            kept.add(key)
            trial = without_edges(graph, {i})
            if trial.edges and len(trial.edges) < len(graph.edges):
                trial = refit_on_grids(trial, data, _ELIMINATION)
                error = data.error(trial)
                if error <= max(growth * best, negligible_error):
                    graph = trial
                    best = min(best, error)
                    break
        else:
            return graph


def select(name: str, network: Graph, problem: SearchProblem) -> FittedStructure:
    """Assign a candidate to every edge, and return the structure with the best formula.

    The assignments with the lowest total scores are refitted in turn, until a formula is exact or
    the work is used up. The formula with the shortest description is best. The structure has no
    formula if every refitted assignment is undefined on the data or has diverged constants.
    """
    # Number of the best matches of each edge that are used in assignments.
    per_edge = 5
    # Work that may be spent on the assignments of one graph (approximate CPU seconds).
    work = 10.0
    values, outs = network.edge_outputs(problem.data.x)
    matches = {
        i: match_edge(values[network.edges[i].source], outs[i], problem.candidates)
        for i in network.numeric_edges()
    }
    tried = FittedStructure(name, network, problem.data, matches=matches)
    budget = Budget(work)
    assignments: list[tuple[float, Graph]] = [(0.0, tried.network)]
    for i, choices in tried.matches.items():
        longer = (
            (score + match.score, assigned.with_function(i, match.function))
            for score, assigned in assignments
            for match in choices[:per_edge]
        )
        assignments = heapq.nsmallest(_ASSIGNMENTS, longer, key=operator.itemgetter(0))
    best = tried
    error = np.inf
    for _, assigned in assignments:
        refitted = replace(tried, formula=_refitted(assigned, tried.data), snapped=assigned)
        best = min(best, refitted, key=lambda each: each.length)
        error = min(error, refitted.error)
        if error <= EXACT or budget.over:
            break
    return best


def _refitted(graph: Graph, data: SearchData) -> Graph | None:
    """Refit a symbolic graph in canonical form; return None if the result is not `sound`."""
    # Relative error below which the constants of an assignment are fitted to the last digit before
    # formulas are compared.
    polished = 1e-7
    # Relative error below which the constants of an assignment are fitted with more steps.
    promising = 0.2
    fitted = refit(canonicalise(graph), data, _QUICK)
    for limit, settings in ((promising, _THOROUGH), (polished, _POLISH)):
        if data.error(fitted) < limit:
            fitted = refit(fitted, data, settings)
    return fitted if sound(fitted, data.all_points.x) else None


@dataclass(frozen=True)
class Decision:
    """Whether an edge of the network was replaced with a candidate.

    Attributes:
        index: Index of the edge.
        symbolic: Whether the edge was replaced; otherwise it stays numeric.
        candidate: Name of the candidate that replaced the edge or, if none did, of the best match;
            empty if there is no match.
        r2: R^2 of the match of this candidate.
        reason: Why the edge was replaced or not.
    """

    index: int
    symbolic: bool
    candidate: str
    r2: float
    reason: str


def partly_symbolic(
    structure: FittedStructure, problem: SearchProblem, allowed: float, allowance: float
) -> tuple[Graph, tuple[Decision, ...]]:
    """Snap the edges of a network one by one, in the order of the scores of their best matches.

    Args:
        structure: The network, and the candidates that were fitted to its edges before; these are
            tried together with new matches.
        problem: The search problem.
        allowed: Largest relative validation error after an edge is snapped.
        allowance: Work that may be used; edges whose turn comes later stay numeric.

    Returns:
        The partly symbolic network, and a decision for each edge, sorted by the index of the edge.
    """
    budget = Budget(allowance)
    graph = structure.network
    decisions = list[Decision]()
    known = {i: structure.matches.get(i, []) for i in graph.numeric_edges()}
    for i in sorted(known, key=lambda i: min((each.score for each in known[i]), default=0.0)):
        decision = Decision(i, False, "", np.nan, "not tried: search budget exhausted")
        if not budget.over:
            with contextlib.suppress(WorkSpent):
                graph, decision = _snap_edge(graph, i, problem, known[i], allowed)
        decisions.append(decision)
    return graph, tuple(sorted(decisions, key=lambda decision: decision.index))


def _snap_edge(
    graph: Graph, index: int, problem: SearchProblem, known: list[EdgeMatch], allowed: float
) -> tuple[Graph, Decision]:
    """Snap an edge to the best candidate with which the error stays at most `allowed`, if any."""
    # Number of candidates that are tried on each edge if edges are snapped one by one.
    mixed_candidates = 3
    data = problem.data
    values, outs = graph.edge_outputs(data.x)
    matches = match_edge(values[graph.edges[index].source], outs[index], problem.candidates)
    names = {match.name for match in matches}
    matches += [match for match in known if match.name not in names]
    why = "no candidate is defined on the range of its argument"
    best = None
    for match in sorted(matches, key=lambda m: m.score)[:mixed_candidates]:
        trial = graph.with_function(index, match.function)
        trial = refit_on_grids(trial, data, _MIXED)
        error = data.error(trial) if sound(trial, data.all_points.x) else np.inf
        if error <= allowed:
            why = "the network stays as good"
            return trial, Decision(index, True, match.name, match.r2, why)
        if best is None:
            # The error of the network may be 0.
            ratio = error / (data.error(graph) or np.finfo(float).tiny)
            best = match
            why = f"its best candidate multiplies the network's error by {ratio:.3g}"
            if not np.isfinite(ratio):
                why = "its best candidates leave their domain or their constants diverge"
    name, r2 = (best.name, best.r2) if best else ("", np.nan)
    return graph, Decision(index, False, name, r2, why)
