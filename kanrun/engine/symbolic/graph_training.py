"""Splines trained on a structure: several coarse starts, the best of them on finer and finer grids; sparsity.

What is trained here are graphs: with nodes that multiply, edges that skip layers, and edges that are symbolic already
while others are splines. A network of `kanrun fit` comes in through `from_network`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph, depths
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import GraphTrainingPolicy
from kanrun.engine.symbolic.templates import fitted_grids


@dataclass(frozen=True)
class TrainedGraph:
    """A numeric graph and its relative validation error."""

    graph: Graph
    error: float


def train_graph(
    starts: Iterable[Graph], data: SearchData, policy: GraphTrainingPolicy
) -> TrainedGraph:
    """The best graph over the coarse `starts`, which are drawn while they are needed, and finer grids."""
    best: TrainedGraph | None = None
    for attempt, graph in enumerate(starts):
        fitted = coarse_fit(graph, data, policy)
        best = fitted if best is None or fitted.error < best.error else best
        if attempt + 1 >= policy.starts or (best.error < policy.good and attempt >= 1):
            break
    assert best is not None
    hopeless = not best.error < policy.hopeless and len(best.graph.operations) > 1
    return best if hopeless else extend(best.graph, data, policy.grids, policy)


def coarse_fit(graph: Graph, data: SearchData, policy: GraphTrainingPolicy) -> TrainedGraph:
    """A few steps, hidden grids drawn over what reaches them, and again."""
    for _ in range(policy.rounds):
        graph = refit(
            graph, data.x, data.y, RefitSettings(12, penalty=policy.coarse_penalty, gain=1e-2)
        ).graph
        graph = fitted_grids(graph, data.x, margin=0.05)
    graph = refit(
        graph, data.x, data.y, RefitSettings(15, penalty=policy.coarse_penalty, gain=1e-2)
    ).graph
    return TrainedGraph(graph, data.error(graph))


def extend(
    graph: Graph, data: SearchData, grids: Sequence[int], policy: GraphTrainingPolicy
) -> TrainedGraph:
    """Finer and finer grids while the validation error falls, then doubled ones for what is too sharp for the last."""
    best, last = TrainedGraph(graph, data.error(graph)), max(grids, default=0)
    for intervals in grids:
        finer = _on_grid(graph, data, intervals, policy.penalty, policy.steps)
        graph = finer.graph
        if finer.error > 1.5 * best.error:
            break
        best = min(best, finer, key=lambda each: each.error)
    most = min(
        policy.finest, data.y.size / (4 * max(len(best.graph.numeric_edges()), 1))
    )  # four points a coefficient
    while 0 < 2 * last <= most and best.error >= policy.unresolved:
        last, before = 2 * last, best.error
        finer = _on_grid(best.graph, data, last, policy.sharp * policy.penalty, policy.steps)
        best = min(best, finer, key=lambda each: each.error)
        if best.error > 0.5 * before:
            break
    return best


def _on_grid(
    graph: Graph, data: SearchData, intervals: int, penalty: float, steps: int
) -> TrainedGraph:
    graph = fitted_grids(graph, data.x, intervals=intervals)
    graph = refit(graph, data.x, data.y, RefitSettings(steps, penalty=penalty, gain=1e-2)).graph
    return TrainedGraph(graph, data.error(graph))


def sparsified(graph: Graph, data: SearchData, weight: float, policy: GraphTrainingPolicy) -> Graph:
    """The graph after a few reweighted fits with the sparsity penalty, `weight` relative to the variance of y."""
    for _ in range(policy.sparse_rounds):
        rows = sparsity_rows(graph, data.x, weight * data.spread**2)
        settings = RefitSettings(steps=8, penalty=1e-9, rows=rows, gain=1e-2)
        graph = fitted_grids(refit(graph, data.x, data.y, settings).graph, data.x, margin=0.05)
    return graph


def magnitudes(graph: Graph, x: Array) -> Array:
    """m_e of every edge at x (N, inputs)."""
    _, outs = graph.edge_outputs(x)
    return np.array([float(np.std(out)) for out in outs])


def sparsity_rows(graph: Graph, x: Array, weight: float) -> Array:
    """The paper's sparsity penalty near `graph` as rows over the parameters of the same edges.

    lambda (sum_e m_e + sum_layers S), m_e the root mean square deviation of an edge's output, S = -sum p log p of its
    layer's shares p = m / sum m (arXiv 2404.19756, eqs. 2.17 to 2.20, with squares for absolute values). Near the
    current graph it is sum_e w_e m_e^2 with w_e = lambda (1 + dS/dm_e) / (2 m_e): iteratively reweighted least squares.
    """
    sizes = [edge.function.parameters.size for edge in graph.edges]
    starts = np.cumsum([0, *sizes])
    layer = depths(graph)
    size = magnitudes(graph, x)
    values = graph.node_values(x)
    pull = _entropy_pull(size, [layer[edge.target] for edge in graph.edges])
    floor = 1e-3 * max(float(size.max(initial=0.0)), 1e-300)
    blocks = []
    for i, edge in enumerate(graph.edges):
        if not isinstance(edge.function, Spline):
            continue
        _, _, design = edge.function.evaluate(values[edge.source])
        assert design is not None
        triangle = np.linalg.qr((design - design.mean(0)) / np.sqrt(x.shape[0]))[1]
        block = np.zeros((triangle.shape[0], int(starts[-1])))
        pulled = weight * max(1 + float(pull[i]), 0.0) / (2 * max(float(size[i]), floor))
        block[:, starts[i] : starts[i + 1]] = np.sqrt(pulled) * triangle
        blocks.append(block)
    return np.concatenate(blocks) if blocks else np.zeros((0, int(starts[-1])))


def _entropy_pull(size: Array, layer: list[int]) -> Array:
    """dS/dm_e times the layer's total, so that it is comparable to the 1 of the L1 term."""
    pull = np.zeros_like(size)
    for number in set(layer):
        inside = np.array([each == number for each in layer])
        shares = np.maximum(size[inside], 1e-300) / max(float(size[inside].sum()), 1e-300)
        pull[inside] = -(np.log(shares) + float(-(shares * np.log(shares)).sum()))
    return np.clip(pull, -0.9, 10.0)
