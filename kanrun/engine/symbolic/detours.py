"""Two splines in a row as one: what pruning leaves of a hidden node with one edge into it and one out of it."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Edge, Graph, renumbered
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples

#: Points an interval at which the one spline is drawn through the two.
_POINTS = 6


def without_detours(graph: Graph, samples: Samples, *, slack: float, floor: float, penalty: float) -> Graph:
    """The graph with one spline for two in a row, g(f(t)), wherever the relative validation error after a refit is at
    most (1 + slack) times what it was, or at most `floor`.

    How a function is shared out between two edges is arbitrary: neither need be a candidate where their composition is.
    """
    kept: set[int] = set()
    while True:
        node = next((node for node in range(graph.inputs, graph.output) if _passes(graph, node, kept)), None)
        if node is None:
            return graph
        fit = Settings(steps=15, penalty=penalty, gain=1e-2)
        trial = refit(_joined(graph, node), samples.x, samples.y, fit).graph
        if samples.error(trial) <= max((1 + slack) * samples.error(graph), floor):
            graph = trial
        else:
            kept.add(graph.mark(node))


def _passes(graph: Graph, node: int, kept: set[int]) -> bool:
    both = [*graph.into(node), *graph.out_of(node)]
    single = len(graph.into(node)) == len(graph.out_of(node)) == 1
    return single and graph.mark(node) not in kept and all(isinstance(graph.edges[i].function, Spline) for i in both)


def _joined(graph: Graph, node: int) -> Graph:
    (before,), (after,) = graph.into(node), graph.out_of(node)
    first, second = graph.edges[before].function, graph.edges[after].function
    assert isinstance(first, Spline)
    assert isinstance(second, Spline)
    intervals = first.intervals + second.intervals + first.degree  # as many coefficients as the two had
    points = np.linspace(first.low, first.high, _POINTS * (intervals + first.degree))
    values = second.evaluate(first.evaluate(points, columns=False)[0], columns=False)[0]
    one = Spline.through(points, values, (first.low, first.high), intervals, first.degree)
    rest = [edge for i, edge in enumerate(graph.edges) if i not in (before, after)]
    return renumbered(graph, [*rest, Edge(graph.edges[before].source, graph.edges[after].target, one)])
