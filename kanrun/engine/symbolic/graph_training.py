"""How structures are trained, and which of a list are worth it: ranked by coarse fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph, depths
from kanrun.engine.symbolic.refit import RefitSettings, Rows, refit
from kanrun.engine.symbolic.search_problem import NumericSettings
from kanrun.engine.symbolic.templates import fitted_grids

Start = Callable[[np.random.Generator], Graph]

_COARSE_ROUNDS = 3
#: Of the penalty, on grids for sharp functions.
_SHARP = 1e-6


@dataclass(frozen=True)
class TrainedGraph:
    """A numeric graph and its relative validation error."""

    graph: Graph
    error: float


def train_graph(
    start: Start, samples: SearchData, settings: NumericSettings, generator: np.random.Generator
) -> TrainedGraph:
    """The best graph over the starts and grids, by validation error; `start` draws a fresh coarse graph."""
    best: tuple[float, Graph] | None = None
    for attempt in range(settings.starts):
        graph = coarse_fit(start(generator), samples, settings.coarse_penalty)
        error = samples.error(graph)
        if best is None or error < best[0]:
            best = error, graph
        if best[0] < settings.good and attempt >= 1:
            break
    assert best is not None
    if not best[0] < settings.hopeless and len(best[1].operations) > 1:
        return TrainedGraph(best[1], best[0])
    return extend(best[1], samples, settings.grids, settings)


def coarse_fit(graph: Graph, samples: SearchData, penalty: float) -> Graph:
    """A few steps, hidden grids drawn over what reaches them, and again."""
    for _ in range(_COARSE_ROUNDS):
        graph = refit(graph, samples.x, samples.y, RefitSettings(steps=12, penalty=penalty, gain=1e-2)).graph
        graph = fitted_grids(graph, samples.x, margin=0.05)
    return refit(graph, samples.x, samples.y, RefitSettings(steps=15, penalty=penalty, gain=1e-2)).graph


def extend(graph: Graph, samples: SearchData, grids: tuple[int, ...], settings: NumericSettings) -> TrainedGraph:
    """Finer and finer grids while the validation error falls; beyond the last of `grids` for what is too sharp for it,
    with hardly any penalty, as a sharp function is large in the derivatives that it weighs."""
    best, last = TrainedGraph(graph, samples.error(graph)), max(grids, default=0)
    for intervals in grids:
        graph, best, going = _finer(graph, best, samples, intervals, settings.penalty, settings.steps)
        if not going:
            break
    for intervals in _further(last, best, samples, settings):
        before = best.error
        _, best, _ = _finer(best.graph, best, samples, intervals, _SHARP * settings.penalty, settings.steps)
        if best.error < settings.unresolved or best.error > 0.5 * before:
            break
    return best


def _finer(
    graph: Graph, best: TrainedGraph, samples: SearchData, intervals: int, penalty: float, steps: int
) -> tuple[Graph, TrainedGraph, bool]:
    """`graph` on another grid, the best so far, and whether finer grids are worth it."""
    graph = fitted_grids(graph, samples.x, intervals=intervals)
    graph = refit(graph, samples.x, samples.y, RefitSettings(steps=steps, penalty=penalty, gain=1e-2)).graph
    error = samples.error(graph)
    return graph, TrainedGraph(graph, error) if error < best.error else best, error <= 1.5 * best.error


def _further(last: int, best: TrainedGraph, samples: SearchData, settings: NumericSettings) -> list[int]:
    """The last grid's doubles, as long as there are four points a coefficient, of a network that is not accurate."""
    if best.error < settings.unresolved or last == 0:
        return []
    most = min(settings.finest, samples.y.size / (4 * max(len(best.graph.numeric_edges()), 1)))
    return [last * 2**k for k in range(1, 8) if last * 2**k <= most]


def magnitudes(graph: Graph, x: Array) -> Array:
    """m_e of every edge at x (N, inputs)."""
    _, outs = graph.edge_outputs(x)
    return np.array([float(np.std(out)) for out in outs])


def penalty_rows(graph: Graph, x: Array, weight: float) -> Rows:
    """The penalty around `graph` as rows (residual, Jacobian) in the parameters of graphs with the same edges."""
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
    rows = np.concatenate(blocks) if blocks else np.zeros((0, int(starts[-1])))
    return lambda other: (rows @ other.parameters, rows)


def _entropy_pull(size: Array, layer: list[int]) -> Array:
    """dS/dm_e times the layer's total, so that it is comparable to the 1 of the L1 term."""
    pull = np.zeros_like(size)
    for number in set(layer):
        inside = np.array([each == number for each in layer])
        shares = np.maximum(size[inside], 1e-300) / max(float(size[inside].sum()), 1e-300)
        pull[inside] = -(np.log(shares) + float(-(shares * np.log(shares)).sum()))
    return np.clip(pull, -0.9, 10.0)
