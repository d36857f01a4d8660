"""The paper's sparsity penalty for a second-order solver: L1 and entropy of edge magnitudes as weighted squares.

lambda (sum_e m_e + sum_layers S), m_e the root mean square deviation of an edge's output, S = -sum p log p of its
layer's shares p = m / sum m (arXiv 2404.19756, eqs. 2.17 to 2.20, with squares for absolute values). Near the current
graph the penalty is sum_e w_e m_e^2 with w_e = lambda (1 + dS/dm_e) / (2 m_e): iteratively reweighted least squares.
"""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import Rows


def depths(graph: Graph) -> list[int]:
    """The layer of every node, inputs 0."""
    depth = [0] * (graph.output + 1)
    for edge in graph.edges:
        depth[edge.target] = max(depth[edge.target], depth[edge.source] + 1)
    return depth


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
