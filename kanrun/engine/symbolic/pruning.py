"""Simpler graphs: edges and nodes left out, two splines in a row merged, functions replaced by lines and constants.

Each simplification is refitted and kept if the validation error or the description length allows it.
"""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY
from kanrun.engine.symbolic.description_length import SearchData, description_length
from kanrun.engine.symbolic.edges import Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph, renumbered, without_edges
from kanrun.engine.symbolic.invariances import canonicalise, scale_edge, shift_edge
from kanrun.engine.symbolic.refit import RefitSettings, refit, refit_to
from kanrun.engine.symbolic.search_problem import PruningPolicy
from kanrun.engine.symbolic.templates import fitted_grids


def edge_scores(graph: Graph, data: SearchData) -> list[float]:
    """How much the output changes (root mean square, relative to the spread of y) when an edge gives its mean
    instead."""
    values, outs = graph.edge_outputs(data.x)
    scores = []
    for i, edge in enumerate(graph.edges):
        if isinstance(edge.function, Identity):
            scores.append(np.inf)
            continue
        flat = graph.with_function(
            i, Symbolic(CONSTANT, (1.0, 0.0, 0.0, float(np.mean(outs[i]))), "")
        )
        change = flat(data.x) - values[graph.output]
        scores.append(float(np.sqrt(np.mean(change**2))) / data.y_std)
    return scores


def eliminate(graph: Graph, data: SearchData, policy: PruningPolicy, penalty: float) -> Graph:
    """The graph after as many edges as possible were taken out, the least important first; `penalty` is the refits'.

    An edge may go if the relative validation error after a refit is at most (1 + slack) times the smallest one met so
    far, or at most `floor`.
    """
    graph, best = _without_nodes(graph, data, policy, penalty)
    kept: set[tuple[int, int, int]] = set()
    while True:
        scores = edge_scores(graph, data)
        order = [
            i
            for i in np.argsort(scores).tolist()
            if np.isfinite(scores[i]) and _key(graph, i) not in kept
        ]
        for i in order:
            trial = without(graph, i, data)
            if trial.edges and len(trial.edges) < len(graph.edges):
                trial = _settled(trial, data, penalty, policy.edge_steps)
                error = data.error(trial)
                if error <= max((1 + policy.slack) * best, policy.floor):
                    graph, best = trial, min(best, error)
                    break
            kept.add(_key(graph, i))
        else:
            return graph


def _without_nodes(
    graph: Graph, data: SearchData, policy: PruningPolicy, penalty: float
) -> tuple[Graph, float]:
    """The graph without the hidden sums that are not needed, the least important first, and its error.

    Parallel nodes share a function that one alone would have; what is left has far to go, so it is given more steps,
    and while a network is accurate its error may grow several times: grids and steps win that back.
    """
    best = data.error(graph)
    while True:
        scores = edge_scores(graph, data)
        nodes = [node for node in range(graph.inputs, graph.output) if _has_sibling(graph, node)]
        for node in sorted(nodes, key=lambda node: scores[graph.out_of(node)[0]])[: policy.nodes]:
            trial = _settled(
                without(graph, graph.out_of(node)[0], data), data, penalty, policy.node_steps
            )
            error = data.error(trial)
            growth = 1 + policy.slack if best > policy.accurate else policy.regained
            if error <= growth * max(best, policy.accurate / policy.regained):
                graph, best = trial, min(best, error)
                break
        else:
            return graph, best


def _has_sibling(graph: Graph, node: int) -> bool:
    """Whether another sum goes to where `node` goes."""
    if graph.operation(node) != "sum" or len(graph.out_of(node)) != 1:
        return False
    (out,) = graph.out_of(node)
    beside = [graph.edges[i].source for i in graph.into(graph.edges[out].target)]
    return any(
        other != node and other >= graph.inputs and graph.operation(other) == "sum"
        for other in beside
    )


def _key(graph: Graph, index: int) -> tuple[int, int, int]:
    """An edge's name while its graph keeps its nodes; after a removal all are tried again only if they moved."""
    edge = graph.edges[index]
    return edge.source, edge.target, len(graph.operations)


def without(graph: Graph, index: int, data: SearchData) -> Graph:
    """The graph without edge `index`, whose mean another edge into its node takes over: as a term in a sum, as a factor
    in a product. Edges that carry a value on as it is have no room for it."""
    node = graph.edges[index].target
    _, outs = graph.edge_outputs(data.x)
    mean = float(np.mean(outs[index]))
    heir = next(
        (
            i
            for i in graph.into(node)
            if i != index and not isinstance(graph.edges[i].function, Identity)
        ),
        None,
    )
    if heir is not None and graph.operation(node) == "sum":
        graph = shift_edge(graph, heir, mean)
    elif heir is not None and mean != 0.0:
        graph = scale_edge(graph, heir, mean)
    return without_edges(graph, {index})


def _settled(graph: Graph, data: SearchData, penalty: float, steps: int) -> Graph:
    settings = RefitSettings(steps=steps, penalty=penalty, gain=1e-2)
    first = refit(graph, data.x, data.y, settings).graph
    return refit(fitted_grids(first, data.x), data.x, data.y, settings).graph


def merge_splines(graph: Graph, data: SearchData, policy: PruningPolicy, penalty: float) -> Graph:
    """The graph with one spline for two in a row, g(f(t)), wherever the relative validation error after a refit is at
    most (1 + slack) times what it was, or at most `floor`.

    How a function is shared out between two edges is arbitrary: neither need be a candidate where their composition is.
    """
    kept: set[int] = set()
    while True:
        node = next(
            (node for node in range(graph.inputs, graph.output) if _passes(graph, node, kept)), None
        )
        if node is None:
            return graph
        settings = RefitSettings(steps=15, penalty=penalty, gain=1e-2)
        trial = refit(_merged(graph, node), data.x, data.y, settings).graph
        if data.error(trial) <= max((1 + policy.slack) * data.error(graph), policy.floor):
            graph = trial
        else:
            kept.add(graph.mark(node))


def _passes(graph: Graph, node: int, kept: set[int]) -> bool:
    both = [*graph.into(node), *graph.out_of(node)]
    single = len(graph.into(node)) == len(graph.out_of(node)) == 1
    return (
        single
        and graph.mark(node) not in kept
        and all(isinstance(graph.edges[i].function, Spline) for i in both)
    )


def _merged(graph: Graph, node: int) -> Graph:
    (before,), (after,) = graph.into(node), graph.out_of(node)
    first, second = graph.edges[before].function, graph.edges[after].function
    assert isinstance(first, Spline)
    assert isinstance(second, Spline)
    intervals = (
        first.intervals + second.intervals + first.degree
    )  # as many coefficients as the two had
    points = np.linspace(first.low, first.high, 6 * (intervals + first.degree))
    values = second.value(first.value(points))
    one = Spline.through(points, values, (first.low, first.high), intervals, first.degree)
    rest = [edge for i, edge in enumerate(graph.edges) if i not in (before, after)]
    return renumbered(
        graph, [*rest, Edge(graph.edges[before].source, graph.edges[after].target, one)]
    )


def drop_terms(graph: Graph, data: SearchData, policy: PruningPolicy = PruningPolicy()) -> Graph:
    """`graph`, all of whose edges are symbolic, without the functions that lengthen its description, alone or where
    another one goes too, as of exp(sqrt(x)) for a line."""
    best, missed = (description_length(graph, data), graph), 0
    while missed < policy.missed:
        trials = [
            (description_length(trial, data), trial)
            for trial in _simpler(graph, data, policy.term_steps)
        ]
        if not trials:
            break
        trial = min(trials, key=lambda entry: entry[0])
        graph, missed = trial[1], 0 if trial[0] < best[0] else missed + 1
        best = trial if missed == 0 else best
    return best[1]


def _simpler(graph: Graph, data: SearchData, steps: int) -> list[Graph]:
    """The graph with one edge a constant or a line, for every edge, refitted."""
    values, outs = graph.edge_outputs(data.x)
    trials = []
    for i, edge in enumerate(graph.edges):
        function = edge.function
        if not isinstance(function, Symbolic) or function.candidate is CONSTANT:
            continue
        t, out = values[edge.source], outs[i]
        simpler = [Symbolic(CONSTANT, (1.0, 0.0, 0.0, float(out.mean())), "d")]
        if function.candidate is not IDENTITY and np.ptp(t) > 0:
            slope, height = np.polyfit(t, out, 1).tolist()
            simpler.append(Symbolic(IDENTITY, (1.0, 0.0, slope, height), "cd"))
        for other in simpler:
            trial = canonicalise(graph.with_function(i, other))
            trials.append(refit_to(trial, data, RefitSettings(steps=steps, gain=1e-2)))
    return trials
