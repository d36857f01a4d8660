"""Convert trained networks to graphs, in which every edge that is not pruned becomes a spline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import Network
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edge_functions import IDENTITY_EDGE, Spline
from kanrun.engine.symbolic.graph import Edge, Graph, Operation, covering, without_edges


def values_of(network: Network, output: int) -> Callable[[Array], Array]:
    """Return output number `output` of the network as a function from (N, inputs) to (N,)."""

    def values(x: Array) -> Array:
        with torch.no_grad():
            out = network(torch.as_tensor(x).to(network.edge_layers[0].knots))[:, output]
        return np.asarray(out.double().cpu().numpy())

    return values


def graph_of(network: Network, x: Array, output: int) -> Graph:
    """Return output number `output` of `network` as a graph, without its pruned edges.

    Every edge, including its base function, is approximated by a spline by least squares. The
    spline covers the grid of the edge if the grid is uniform and contains the arguments of the edge
    at all points x (N, inputs). Otherwise the spline covers the range of these arguments.
    """
    layers = network.edge_layers
    with torch.no_grad():
        activations = network.activations(torch.as_tensor(x).to(layers[0].knots))
    edges: list[Edge] = []
    nodes: list[Operation] = []
    sources = list(range(layers[0].inputs))  # nodes that are the inputs of the layer
    for layer, products, values in zip(layers, network.products, activations, strict=False):
        first = layers[0].inputs + len(nodes)
        arguments = values.double().cpu().numpy()
        sums = [output] if layer is layers[-1] else list(range(layer.outputs))
        for target, o in enumerate(sums, first):
            for i in range(layer.inputs):
                if bool(layer.mask[o, i]):
                    spline = _spline(layer, o, i, arguments[:, i])
                    edges.append(Edge(sources[i], target, spline))
        nodes += ["sum"] * len(sums)
        nodes += ["product"] * products
        after = first + len(sums)
        for product in range(products):
            factor = after - 2 * (products - product)
            edges += [Edge(factor + k, after + product, IDENTITY_EDGE) for k in (0, 1)]
        sources = [*range(first, after - 2 * products), *range(after, after + products)]
    edges.sort(key=lambda edge: (edge.target, edge.source))
    return without_edges(Graph(layers[0].inputs, tuple(nodes), tuple(edges)), set())


def _spline(layer: SplineLayer, out: int, into: int, arguments: Array) -> Spline:
    """Return the spline that approximates the edge from input `into` to output `out` of a layer."""
    # Smallest number of intervals of a spline that is fitted to an edge.
    min_intervals = 20
    # Number of points per interval at which a spline is fitted to an edge and its base function.
    points_per_interval = 6
    degree = max(layer.spec.degree, 1)
    own = layer.grid.intervals
    knots = layer.knots[into].double().cpu().numpy()
    ends = float(knots[layer.spec.degree]), float(knots[-layer.spec.degree - 1])
    if layer.uniform and ends[0] <= float(arguments.min()) and float(arguments.max()) <= ends[1]:
        intervals = own * -(-min_intervals // own)
    else:
        ends = covering(arguments, 0.0)
        intervals = max(min_intervals, own)
    points = np.linspace(*ends, points_per_interval * (intervals + degree))
    at = torch.zeros(points.size, layer.inputs, dtype=torch.float64)
    at[:, into] = torch.as_tensor(points)
    with torch.no_grad():
        values = layer.edge_values(at.to(layer.knots))[:, out, into].double().cpu().numpy()
    return Spline.through(points, values, ends, intervals, degree)
