"""Larger networks that contain a given one: a node more, or a layer more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks.edge_network import EdgeNetwork
from kanrun.engine.networks.kan import KAN
from kanrun.engine.splines import breakpoints_from_data, fit_coefficients, sample_points

#: Points of an interval at which a function is carried to a spline.
POINTS = 5

#: A function of the values of a node (points, 1) with values (points, outputs).
Outer = Callable[[Tensor], Tensor]


def drawn(network: EdgeNetwork, shape: Sequence[int], generator: Generator) -> KAN:
    """Return a random network of another shape with the edges and the domain of `network`."""
    first = network.edge_layers[0]
    return KAN.create(
        shape,
        first.grid.intervals,
        first.spec,
        domain=torch.stack([first.grid.low, first.grid.high], 1),
        initialisation="spline",
        generator=generator,
    )


def add_node(
    network: EdgeNetwork,
    inner: Float[Tensor, "inputs functions"],
    outer: Outer,
    x: Float[Tensor, "samples inputs"],
    margin: float,
) -> EdgeNetwork:
    """Return the network with another node in its first hidden layer.

    Args:
        network: A network with a hidden layer.
        inner: Coefficients of the splines from the inputs to the node, on the first grid.
        outer: Functions from the node to the next layer; zero keeps the function.
        x: Samples; the node's grid covers its values there.
        margin: Fraction of the range by which the grid reaches beyond it.
    """
    first, second, *others = network.edge_layers
    wider = _enlarged(first, first.grid.breakpoints, first.outputs + 1)
    with torch.no_grad():
        wider.coefficients[-1] = inner
        values = wider(x)[:, -1:]
    points = breakpoints_from_data(values, second.grid.intervals, 0.0, margin)
    after = _enlarged(second, torch.cat([second.grid.breakpoints, points]), second.outputs)
    with torch.no_grad():
        after.coefficients[:, -1:] = _spline(points, outer, second)
    return network.of_layers([wider, after, *others])


def add_identity_layer(
    network: EdgeNetwork, x: Float[Tensor, "samples inputs"], margin: float
) -> EdgeNetwork:
    """Return the network with the identity of each output as its last layer."""
    last = network.edge_layers[-1]
    with torch.no_grad():
        values = network(x)
    points = breakpoints_from_data(values, last.grid.intervals, 0.0, margin)
    identity = SplineLayer.on_grid(points, last.outputs, last.spec, uniform=True)
    with torch.no_grad():
        for output, ends in enumerate(points):
            identity.coefficients[output, output] = _spline(ends[None], lambda t: t, last)[0, 0]
    return network.of_layers([*network.edge_layers, identity])


def _spline(points: Tensor, function: Outer, like: SplineLayer) -> Tensor:
    """Return the coefficients (outputs, 1, functions) of a function on the grid of `points`."""
    grid = SplineLayer.on_grid(points, 1, like.spec, uniform=True).grid
    at = sample_points(grid, POINTS)
    return fit_coefficients(at, function(at)[..., None], grid)


def _enlarged(layer: SplineLayer, breakpoints: Tensor, outputs: int) -> SplineLayer:
    """Return the layer with zero edges from further inputs and to further outputs."""
    new = SplineLayer.on_grid(breakpoints, outputs, layer.spec, uniform=layer.uniform)
    with torch.no_grad():
        for name, value in new.state_dict(keep_vars=True).items():
            if name != "knots":
                value[: layer.outputs, : layer.inputs] = getattr(layer, name)
    return new
