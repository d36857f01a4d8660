"""Edges that a numeric graph does not need, found by leaving them out and refitting the rest."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.canonical import scale_node
from kanrun.engine.symbolic.edges import Identity
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
        flat = graph.with_function(i, _Flat(float(np.mean(outs[i]))))
        change = flat(samples.x) - values[graph.output]
        scores.append(float(np.sqrt(np.mean(change**2))) / samples.spread)
    return scores


class _Flat(Identity):
    """Constant in place of a function with as many parameters."""

    def __init__(self, value: float) -> None:
        object.__setattr__(self, "value", value)

    def evaluate(self, t: np.ndarray, *, columns: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        value: float = self.value  # type: ignore[attr-defined]
        return np.full_like(t, value), np.zeros_like(t), np.zeros((t.size, 0)) if columns else None


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
            trial = _without(graph, i, samples)
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
            trial = _without(graph, graph.out_of(node)[0], samples)
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


def _without(graph: Graph, index: int, samples: Samples) -> Graph:
    """The graph without an edge, whose mean goes to the rest of its node."""
    graph = removing(graph, index, samples)
    edge = graph.edges[index]
    _, outs = graph.edge_outputs(samples.x)
    mean, others = float(np.mean(outs[index])), [i for i in graph.into(edge.target) if i != index]
    if others:
        if graph.operation(edge.target) == "sum":
            graph = scale_node(graph, edge.target, 1.0, mean)
        elif mean != 0.0:
            graph = scale_node(graph, edge.target, mean) if others[0] < index else graph
    return without_edges(graph, {index})


def _settled(graph: Graph, samples: Samples, penalty: float, steps: int = 12) -> Graph:
    fit = Settings(steps=steps, penalty=penalty, gain=1e-2)
    first = refit(graph, samples.x, samples.y, fit).graph
    return refit(fitted_grids(first, samples.x), samples.x, samples.y, fit).graph
