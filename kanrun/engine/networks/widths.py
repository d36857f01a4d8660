"""Narrower networks inside a shape, and back to the shape with the nodes that are not needed pruned."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks.kan import KAN
from kanrun.engine.splines import breakpoints_of


def halved(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """`shape`, then its hidden widths halved (rounded up) until all are 1."""
    shapes = [tuple(shape)]
    while max(shapes[-1][1:-1], default=1) > 1:
        last = shapes[-1]
        shapes.append((last[0], *((width + 1) // 2 for width in last[1:-1]), last[-1]))
    return shapes


def narrowed(kan: KAN, shape: Sequence[int]) -> KAN:
    """The sub-network of the first nodes of each hidden layer.

    Coefficients grow by the square root of the fan-in lost, so that a fresh network stays one of the same scale.
    """
    layers = []
    for layer, inputs, outputs in zip(kan, shape[:-1], shape[1:], strict=True):
        grid = breakpoints_of(layer.knots, layer.spec.degree)[:inputs]
        new = SplineLayer(grid, outputs, layer.spec, uniform=layer.uniform)
        with torch.no_grad():
            for name, parameter in new.named_parameters():
                parameter.copy_(dict(layer.named_parameters())[name][:outputs, :inputs])
            new.coefficients.mul_((layer.inputs / inputs) ** 0.5)
        layers.append(new)
    return KAN(layers)


def padded(kan: KAN, shape: Sequence[int]) -> KAN:
    """The same function in a network of widths `shape`: the further nodes are there, and all their edges pruned."""
    layers = []
    for layer, inputs, outputs in zip(kan, shape[:-1], shape[1:], strict=True):
        grid = breakpoints_of(layer.knots, layer.spec.degree)
        extra = grid[:1].expand(inputs - layer.inputs, -1)
        new = SplineLayer(torch.cat([grid, extra]), outputs, layer.spec, uniform=layer.uniform)
        with torch.no_grad():
            for name, parameter in new.named_parameters():
                parameter[: layer.outputs, : layer.inputs].copy_(dict(layer.named_parameters())[name])
            new.mask.fill_(False)
            new.mask[: layer.outputs, : layer.inputs] = layer.mask
        layers.append(new)
    return KAN(layers)


def active_shape(kan: KAN) -> tuple[int, ...]:
    """Widths counting only nodes that an edge leads out of; inputs and outputs count all."""
    hidden = (int(layer.mask.any(0).sum()) for layer in list(kan)[1:])
    return (kan.shape[0], *hidden, kan.shape[-1])
