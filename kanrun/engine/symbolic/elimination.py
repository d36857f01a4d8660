"""Edges that a numeric graph does not need, found by leaving them out and refitting the rest."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT
from kanrun.engine.symbolic.canonical import scale_edge, shift_edge
from kanrun.engine.symbolic.edges import Identity, Symbolic
from kanrun.engine.symbolic.gauge import removing
from kanrun.engine.symbolic.graph import Graph, without_edges
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.skeletons import fitted_grids

#: Nodes tried in a round, steps of each trial, and the relative error below which a network counts as accurate; it may
#: then become this many times as large.
_MOST_NODES, _NODE_STEPS, _ACCURATE, _REGAINED = 4, 40, 3e-3, 6.0


def edge_scores(graph: Graph, samples: Samples) -> list[float]:
    """How much the output changes (root mean square, relative to the spread of y) when an edge gives its mean
    instead."""
    values, outs = graph.edge_outputs(samples.x)
    scores = []
    for i, edge in enumerate(graph.edges):
        if isinstance(edge.function, Identity):
            scores.append(np.inf)
            continue
        flat = graph.with_function(i, Symbolic(CONSTANT, (1.0, 0.0, 0.0, float(np.mean(outs[i]))), ""))
        change = flat(samples.x) - values[graph.output]
        scores.append(float(np.sqrt(np.mean(change**2))) / samples.spread)
    return scores


def eliminate(graph: Graph, samples: Samples, *, slack: float, floor: float, penalty: float) -> Graph:
    """The graph after as many edges as possible were taken out, the least important first.

    An edge may go if the relative validation error after a refit is at most (1 + slack) times the smallest one met so
    far, or at most `floor`.
    """
    graph, best = _without_nodes(graph, samples, slack, penalty)
    kept: set[tuple[int, int, int]] = set()
    while True:
        scores = edge_scores(graph, samples)
        order = [i for i in np.argsort(scores).tolist() if np.isfinite(scores[i]) and _key(graph, i) not in kept]
        for i in order:
            trial = without(graph, i, samples)
            if not trial.edges or len(trial.edges) == len(graph.edges):
                kept.add(_key(graph, i))
                continue
            trial = _settled(trial, samples, penalty)
            error = samples.error(trial)
            if error <= max((1 + slack) * best, floor):
                graph, best = trial, min(best, error)
                break
            kept.add(_key(graph, i))
        else:
            return graph


def _without_nodes(graph: Graph, samples: Samples, slack: float, penalty: float) -> tuple[Graph, float]:
    """The graph without the hidden sums that are not needed, the least important first, and its error.

    Parallel nodes share a function that one alone would have; what is left has far to go, so it is given more steps,
    and while a network is accurate its error may grow several times: grids and steps win that back.
    """
    best = samples.error(graph)
    while True:
        scores = edge_scores(graph, samples)
        nodes = [node for node in range(graph.inputs, graph.output) if _has_sibling(graph, node)]
        order = sorted(nodes, key=lambda node: scores[graph.out_of(node)[0]])[:_MOST_NODES]
        for node in order:
            trial = without(graph, graph.out_of(node)[0], samples)
            trial = _settled(trial, samples, penalty, _NODE_STEPS)
            error = samples.error(trial)
            if error <= (1 + slack if best > _ACCURATE else _REGAINED) * max(best, _ACCURATE / _REGAINED):
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
    return any(other != node and other >= graph.inputs and graph.operation(other) == "sum" for other in beside)


def _key(graph: Graph, index: int) -> tuple[int, int, int]:
    """An edge's name while its graph keeps its nodes; after a removal all are tried again only if they moved."""
    edge = graph.edges[index]
    return edge.source, edge.target, len(graph.operations)


def without(graph: Graph, index: int, samples: Samples) -> Graph:
    """The graph without edge `index`, whose mean another edge into its node takes over: as a term in a sum, as a factor
    in a product. Edges that carry a value on as it is have no room for it."""
    graph = removing(graph, index, samples)
    node = graph.edges[index].target
    _, outs = graph.edge_outputs(samples.x)
    mean = float(np.mean(outs[index]))
    heir = next((i for i in graph.into(node) if i != index and not isinstance(graph.edges[i].function, Identity)), None)
    if heir is not None and graph.operation(node) == "sum":
        graph = shift_edge(graph, heir, mean)
    elif heir is not None and mean != 0.0:
        graph = scale_edge(graph, heir, mean)
    return without_edges(graph, {index})


def _settled(graph: Graph, samples: Samples, penalty: float, steps: int = 12) -> Graph:
    fit = Settings(steps=steps, penalty=penalty, gain=1e-2)
    first = refit(graph, samples.x, samples.y, fit).graph
    return refit(fitted_grids(first, samples.x), samples.x, samples.y, fit).graph
