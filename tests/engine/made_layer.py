"""Layers and samples for the tests of layers."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise

#: Intervals for the dense and, for any data and precision, the sparse product.
NARROW, WIDE = 4, 160


def make(
    intervals: int = NARROW,
    spec: EdgeSpec | None = None,
    *,
    inputs: int = 3,
    outputs: int = 2,
    uniform: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> SplineLayer:
    """A layer on [-1, 1] with random numbers; weights of edges lie between 0.5 and 1.5."""
    drawn = Generator().manual_seed(seed)
    points = torch.linspace(-1, 1, intervals + 1, dtype=torch.float64).expand(inputs, -1).clone()
    if not uniform:
        away = torch.rand(inputs, intervals - 1, generator=drawn, dtype=torch.float64)
        points[:, 1:-1] += 0.3 / intervals * away
    spec = spec or EdgeSpec(base="silu")
    layer = SplineLayer.on_grid(points.to(dtype), outputs, spec, uniform=uniform)
    initialise(layer, "paper", drawn)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name != "coefficients":
                weight.copy_(0.5 + torch.rand(weight.shape, generator=drawn))
    return layer


def data(samples: int = 12, inputs: int = 3, spread: float = 1.3, seed: int = 1) -> Tensor:
    share = torch.rand(
        samples, inputs, generator=Generator().manual_seed(seed), dtype=torch.float64
    )
    return (2 * share - 1) * spread
