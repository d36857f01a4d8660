"""Edges become symbolic in context: what counts is the network's validation error after a joint refit.

First whole assignments, best matches first: where the network is accurate, its edges show their functions clearly.
Failing that, a beam search that snaps one edge at a time, refits all constants and remaining splines jointly, matches
the other edges again, and keeps the few best partial formulas, so that a bad choice is left behind rather than built
upon.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kanrun.engine.symbolic.budget import Effort, refit_effort
from kanrun.engine.symbolic.candidates import Candidate
from kanrun.engine.symbolic.composites import expanded, match_composites
from kanrun.engine.symbolic.description_length import EXACT, SearchData, description_length
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.edges import EdgeFunction, Spline, Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.invariances import canonical, gauges
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import SelectionSettings


def assignments(matches: dict[int, list[EdgeMatch]], per_edge: int) -> Iterator[dict[int, EdgeFunction]]:
    """One match an edge, in the order of the sum of their scores."""
    edges = list(matches)
    lists = [matches[i][:per_edge] for i in edges]
    first = (0,) * len(edges)
    heap, seen = [(sum(choices[0].score for choices in lists), first)], {first}
    while heap:
        score, chosen = heapq.heappop(heap)
        yield {i: choices[k].function for i, choices, k in zip(edges, lists, chosen, strict=True)}
        for position in range(len(edges)):
            k = chosen[position]
            step = (*chosen[:position], k + 1, *chosen[position + 1 :])
            if k + 1 < len(lists[position]) and step not in seen:
                seen.add(step)
                more = lists[position][k + 1].score - lists[position][k].score
                heapq.heappush(heap, (score + more, step))


def assigned(graph: Graph, functions: dict[int, EdgeFunction]) -> Graph:
    for i, function in functions.items():
        graph = graph.with_function(i, function)
    return graph


#: Above this relative error a network is taken to have met noise, and a formula `AS_GOOD` times as wrong to be enough.
NOISY, AS_GOOD = 5e-3, 1.02
#: A formula this much better than the network shows that the network's error is not noise.
_RESOLVED = 0.7
#: Ratio of c f to c f + d from which on constants count as diverging.
_DIVERGED = 1e7
#: Steps that refits of a formula and of a partly symbolic network take, mostly, and the effort of an edge's composites
#: and of its single candidates.
_REFIT_STEPS, JOINT_STEPS, COMPOSITES_EFFORT, MATCHING_EFFORT = 40, 20, 2.0, 0.15
#: 1 - R^2 below which a single candidate is not doubted.
_CLEAR = 3e-8


@dataclass(frozen=True)
class Selected:
    """The best symbolic graph with its relative validation error and its description length, and the matches of each
    edge of the numeric one.

    `snapped` is the same before its constants were refitted, node for node the numeric one; `refitting` the seconds
    that this took. `effort` is what a longer search has used.
    """

    network: Graph
    graph: Graph | None
    error: float
    length: float
    matches: dict[int, list[EdgeMatch]]
    tried: int
    snapped: Graph | None = None
    refitting: float = 0.0
    effort: float = 0.0


@dataclass(order=True)
class _State:
    """Ordered by its description `length`; `error` is on validation data, both inf where there is no formula."""

    length: float
    error: float = field(compare=False)
    graph: Graph = field(compare=False)
    snapped: Graph | None = field(compare=False, default=None)
    seconds: float = field(compare=False, default=0.0)


def _none(graph: Graph) -> _State:
    return _State(float("inf"), float("inf"), graph)


def _measured(graph: Graph, samples: SearchData, snapped: Graph | None = None, seconds: float = 0.0) -> _State:
    if not defined(graph, samples):
        return _State(float("inf"), float("inf"), graph, snapped, seconds)
    return _State(description_length(graph, samples), samples.error(graph), graph, snapped, seconds)


def edge_matches(graph: Graph, samples: SearchData, candidates: Sequence[Candidate]) -> dict[int, list[EdgeMatch]]:
    """The matches of every numeric edge, by the values that it takes on the data."""
    values, outs = graph.edge_outputs(samples.x)
    return {i: match_edge(values[graph.edges[i].source], outs[i], candidates) for i in graph.numeric_edges()}


def select(
    graph: Graph, samples: SearchData, candidates: Sequence[Candidate], target: float, settings: SelectionSettings
) -> Selected:
    """The first formula of single candidates with a relative validation error of at most `target`, else the best met.

    `Selected.network` is the graph in the gauge of that formula.
    """
    effort = Effort(settings.effort)
    goal = max(target, EXACT)
    best, tried, chosen = _none(graph), 0, None
    for gauge in gauges(graph, samples, candidates):
        matches = edge_matches(gauge, samples, candidates)
        state, more = _try_assignments(gauge, samples, matches, goal, settings, effort)
        tried += more
        if chosen is None or state < best:
            best, chosen = state, (gauge, matches)
        if best.error <= goal:
            break
    assert chosen is not None
    return _selected(*chosen, best, tried)


def select_further(
    first: Selected, samples: SearchData, candidates: Sequence[Candidate], target: float, settings: SelectionSettings
) -> Selected:
    """`first`, or better: composites on the edges that no single candidate fits, then a beam over the edges.

    A formula is exact or not: the search goes on within its limits while the error is above EXACT and `target`, or
    where the network has met noise, above that.
    """
    effort = Effort(settings.effort)
    graph, matches, tried = first.network, first.matches, first.tried
    best = _State(first.length, first.error, first.graph or graph, first.snapped, first.refitting)
    goal, accuracy = max(target, EXACT), samples.error(graph)
    if accuracy > NOISY and best.error > _RESOLVED * accuracy:  # else its grid is what limits the network, not noise
        goal = max(goal, AS_GOOD * accuracy)
    if best.error > goal:
        matches = with_composites(graph, samples, candidates, matches, effort)
        state, more = _try_assignments(graph, samples, matches, goal, settings, effort)
        best, tried = min(best, state), tried + more
    if best.error > goal:
        beam, more = _beam(graph, samples, candidates, matches, settings, effort)
        best, tried = min(best, beam) if beam else best, tried + more
    return replace(_selected(graph, matches, best, tried), effort=settings.effort - effort.left)


def _selected(graph: Graph, matches: dict[int, list[EdgeMatch]], best: _State, tried: int) -> Selected:
    found = best.graph if np.isfinite(best.error) else None
    return Selected(graph, found, best.error, best.length, matches, tried, best.snapped, best.seconds)


def _try_assignments(
    graph: Graph,
    samples: SearchData,
    matches: dict[int, list[EdgeMatch]],
    goal: float,
    settings: SelectionSettings,
    effort: Effort,
) -> tuple[_State, int]:
    best, tried = _none(graph), 0
    if all(matches.values()):
        for assignment in itertools.islice(assignments(matches, settings.per_edge), settings.assignments):
            trial = assigned(graph, assignment)
            best, tried = min(best, _refitted(trial, samples)), tried + 1
            effort.spend(refit_effort(trial, samples.y.size, _REFIT_STEPS))
            if best.error <= goal or effort.over:
                break
    return best, tried


def with_composites(
    graph: Graph,
    samples: SearchData,
    candidates: Sequence[Candidate],
    matches: dict[int, list[EdgeMatch]],
    effort: Effort,
) -> dict[int, list[EdgeMatch]]:
    """The matches with composites added to the edges that no single candidate matches to the network's accuracy."""
    values, outs = graph.edge_outputs(samples.x)
    clear = max(1e-2 * samples.error(graph), 1e-9) ** 2
    wider = {}
    for i, found in matches.items():
        more = []
        if (not found or found[0].loss > max(clear, _CLEAR)) and not effort.over:
            effort.spend(COMPOSITES_EFFORT)
            more = match_composites(values[graph.edges[i].source], outs[i], candidates)
        wider[i] = sorted([*found, *more], key=lambda match: match.score)
    return wider


def _refitted(graph: Graph, samples: SearchData) -> _State:
    """The symbolic graph, canonical and refitted; infinite error where it is not defined on the data."""
    began = time.monotonic()
    simple = canonical(expanded(graph))
    fitted = refit(simple, samples.x, samples.y, RefitSettings(steps=12, gain=1e-2, damping=1e-3))
    if fitted.rmse < 0.2 * samples.spread:
        fitted = refit(fitted.graph, samples.x, samples.y, RefitSettings(steps=60, damping=1e-6))
    return _measured(fitted.graph, samples, graph, time.monotonic() - began)


def defined(graph: Graph, samples: SearchData) -> bool:
    """Whether every candidate is defined, without a pole inside, on the range of what reaches it from all data, and its
    constants do not diverge: c f and d cancel each other where a candidate is used as the limit of another one."""
    with np.errstate(all="ignore"):
        for x in (samples.x, samples.validation_x):
            values, outs = graph.edge_outputs(x)
            for edge, out in zip(graph.edges, outs, strict=True):
                if not isinstance(edge.function, Symbolic):
                    continue
                size = np.abs(out - edge.function.constants[3]).max()
                if not edge.function.allows(values[edge.source]) or size > _DIVERGED * np.abs(out).max():
                    return False
    return True


def _beam(
    graph: Graph,
    samples: SearchData,
    candidates: Sequence[Candidate],
    matches: dict[int, list[EdgeMatch]],
    settings: SelectionSettings,
    effort: Effort,
) -> tuple[_State | None, int]:
    beam, known = [_measured(graph, samples)], {id(graph): matches}
    tried, finished = 0, None
    for _ in range(len(graph.numeric_edges())):
        grown: list[_State] = []
        for state in beam:
            here = known.get(id(state.graph)) or edge_matches(state.graph, samples, candidates)
            effort.spend(MATCHING_EFFORT * (len(here) if id(state.graph) not in known else 0))
            index = _surest(here)
            if index is None:
                continue
            for match in here[index][: settings.branches]:
                if effort.over:
                    return finished, tried
                trial = state.graph.with_function(index, match.function)
                effort.spend(refit_effort(trial, samples.y.size, JOINT_STEPS))
                grown.append(joint(trial, samples, settings.penalty))
                tried += 1
        beam = sorted(state for state in grown if np.isfinite(state.error))[: settings.width]
        if not beam:
            return None, tried
        complete = [state for state in beam if not state.graph.numeric_edges()]
        if complete:
            finished = min(_refitted(state.graph, samples) for state in complete)
            break
    return finished, tried


def _surest(matches: dict[int, list[EdgeMatch]]) -> int | None:
    """The edge whose best match is most clearly the best: lowest score, then widest lead over the second."""
    usable = {i: found for i, found in matches.items() if found}
    if len(usable) < len(matches):
        return None
    leads = {i: found[0].score + 0.5 * (found[0].score - found[-1].score) for i, found in usable.items()}
    return min(leads, key=lambda i: leads[i], default=None)


def joint(graph: Graph, samples: SearchData, penalty: float) -> _State:
    """Constants and remaining splines refitted together; the splines' grids follow what reaches them."""
    fitted = refit(graph, samples.x, samples.y, RefitSettings(steps=15, penalty=penalty, gain=1e-2))
    settled = _followed(fitted.graph, samples)
    fitted = refit(settled, samples.x, samples.y, RefitSettings(steps=10, penalty=penalty, gain=1e-2))
    return _measured(fitted.graph, samples)


def _followed(graph: Graph, samples: SearchData) -> Graph:
    for i in graph.numeric_edges():
        function = graph.edges[i].function
        assert isinstance(function, Spline)
        t = graph.node_values(samples.x)[graph.edges[i].source]
        low, high = float(t.min()), float(t.max())
        wide = high - low
        if wide > 0 and (low < function.low or high > function.high or wide < 0.8 * (function.high - function.low)):
            margin = 0.02 * wide
            graph = graph.with_function(i, function.refined(function.intervals, low - margin, high + margin))
    return graph


def polish(graph: Graph, samples: SearchData) -> Graph:
    """All free constants of a symbolic graph to the last digits that the data determine."""
    fitted = refit(graph, samples.x, samples.y, RefitSettings(steps=100, gain=1e-6, damping=1e-10))
    return fitted.graph
