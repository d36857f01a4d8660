"""A trained KAN as a graph: one for each output, its live edges as splines."""

from __future__ import annotations

import numpy as np
import torch

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import KAN, activations
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Edge, Graph, without_edges
from kanrun.engine.symbolic.skeletons import covering

#: Points at which an edge (its base included) is carried over to a spline.
_POINTS_PER_INTERVAL = 6


def graph_of(network: KAN, x: Array, output: int, intervals: int) -> Graph:
    """Output `output` of `network` as a graph; every edge becomes a spline of `intervals` intervals over the range that
    reaches it from x (N, inputs), by least squares, base function included. Pruned edges are left out."""
    with torch.no_grad():
        reaching = activations(network, torch.as_tensor(x).to(network.layer(0).knots))
    edges, first = [], 0
    for index, layer in enumerate(network):
        last = index == len(network.layers) - 1
        below = reaching[index].double().cpu().numpy()
        for o in range(layer.outputs):
            if last and o != output:
                continue
            target = first + layer.inputs + (0 if last else o)
            for i in range(layer.inputs):
                if bool(layer.mask[o, i]):
                    low, high = covering(below[:, i], 0.0)
                    function = _spline(layer, o, i, (low, high), intervals)
                    edges.append(Edge(first + i, target, function))
        first += layer.inputs
    nodes = sum(layer.outputs for layer in list(network)[:-1]) + 1
    graph = Graph(network.layer(0).inputs, ("sum",) * nodes, tuple(sorted(edges, key=lambda e: (e.target, e.source))))
    return without_edges(graph, set())


def _spline(layer: SplineLayer, out: int, into: int, ends: tuple[float, float], intervals: int) -> Spline:
    empty = Spline(*ends, np.zeros(intervals + 3), 3)
    points = np.linspace(*ends, _POINTS_PER_INTERVAL * (intervals + 3))
    at = torch.zeros(points.size, layer.inputs, dtype=torch.float64)
    at[:, into] = torch.as_tensor(points)
    with torch.no_grad():
        values = layer.edge_values(at.to(layer.knots))[:, out, into].double().cpu().numpy()
    design = empty.evaluate(points)[2]
    assert design is not None
    return empty.with_parameters(np.asarray(np.linalg.lstsq(design, values, rcond=1e-13)[0], dtype=np.float64))
