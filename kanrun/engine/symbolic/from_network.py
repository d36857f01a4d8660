"""A trained KAN as a graph of splines, one for each output.

The degree of the edges is kept, and where a grid is uniform, so is the grid, or parts of its intervals: such a spline
is the same spline. A base function, a grid drawn from data, and steps (degree 0) come near only; `values_of` says what
the graph is to be held against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import Network
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edges import Identity, Spline
from kanrun.engine.symbolic.graph import Edge, Graph, without_edges
from kanrun.engine.symbolic.templates import covering

#: Points at which an edge (its base included) is carried over to a spline, and the intervals that it gets at least.
_POINTS_PER_INTERVAL, _LEAST_INTERVALS = 6, 20


def values_of(network: Network, output: int) -> Callable[[Array], Array]:
    """Output `output` of the network itself as a function of x (N, inputs), in the network's precision."""

    def values(x: Array) -> Array:
        with torch.no_grad():
            out = network(torch.as_tensor(x).to(network.edge_layers[0].knots))[:, output]
        return np.asarray(out.double().cpu().numpy())

    return values


def graph_of(network: Network, x: Array, output: int) -> Graph:
    """Output `output` of `network` as a graph; every edge becomes a spline, base function included, over its own grid
    or else over the range that reaches it from x (N, inputs), by least squares. Pruned edges are left out."""
    with torch.no_grad():
        reaching = network.activations(torch.as_tensor(x).to(network.edge_layers[0].knots))
    edges: list[Edge] = []
    nodes: list[Literal["sum", "product"]] = []
    sources = list(range(network.edge_layers[0].inputs))  # the nodes that the layer's inputs are
    for index, (layer, products) in enumerate(
        zip(network.edge_layers, network.products, strict=True)
    ):
        last, first = (
            index == len(network.edge_layers) - 1,
            network.edge_layers[0].inputs + len(nodes),
        )
        below = reaching[index].double().cpu().numpy()
        sums = [output] if last else list(range(layer.outputs))
        for target, o in enumerate(sums, first):
            for i in range(layer.inputs):
                if bool(layer.mask[o, i]):
                    edges.append(Edge(sources[i], target, _spline(layer, o, i, below[:, i])))
        nodes += ["sum"] * len(sums)
        factors = range(first + len(sums) - 2 * products, first + len(sums), 2)
        for product, factor in enumerate(factors, first + len(sums)):
            edges += [Edge(factor, product, Identity()), Edge(factor + 1, product, Identity())]
        nodes += ["product"] * products
        plain = range(first, first + len(sums) - 2 * products)
        sources = [*plain, *range(first + len(sums), first + len(sums) + products)]
    graph = Graph(
        network.edge_layers[0].inputs,
        tuple(nodes),
        tuple(sorted(edges, key=lambda e: (e.target, e.source))),
    )
    return without_edges(graph, set())


def _spline(layer: SplineLayer, out: int, into: int, reaching: Array) -> Spline:
    degree = max(layer.spec.degree, 1)  # steps have no slope to go by
    ends, intervals = _grid(layer, into, reaching)
    points = np.linspace(*ends, _POINTS_PER_INTERVAL * (intervals + degree))
    at = torch.zeros(points.size, layer.inputs, dtype=torch.float64)
    at[:, into] = torch.as_tensor(points)
    with torch.no_grad():
        values = layer.edge_values(at.to(layer.knots))[:, out, into].double().cpu().numpy()
    return Spline.through(points, values, ends, intervals, degree)


def _grid(layer: SplineLayer, into: int, reaching: Array) -> tuple[tuple[float, float], int]:
    """The ends and intervals for edges out of a node: its own uniform grid, each interval in as many parts as make it
    fine enough; one over what reaches it where that is not uniform or goes beyond."""
    degree, own = layer.spec.degree, layer.grid.intervals
    knots = layer.knots[into].double().cpu().numpy()
    low, high = float(knots[degree]), float(knots[-degree - 1])
    if layer.uniform and low <= float(reaching.min()) and float(reaching.max()) <= high:
        return (low, high), own * -(-_LEAST_INTERVALS // own)
    return covering(reaching, 0.0), max(_LEAST_INTERVALS, own)
