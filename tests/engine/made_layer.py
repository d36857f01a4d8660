"""Layers and samples for the tests of layers."""

import torch
from made_kan import points
from torch import Generator

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise

#: Numbers of grid intervals for which layers use the dense and the sparse product.
NARROW, WIDE = 4, 160


def make(
    intervals=NARROW, spec=None, *, inputs=3, outputs=2, uniform=True, dtype=torch.float64, seed=0
):
    """Return a layer on [-1, 1] with random coefficients and edge weights from 0.5 to 1.5."""
    drawn = Generator().manual_seed(seed)
    breaks = torch.linspace(-1, 1, intervals + 1, dtype=torch.float64).expand(inputs, -1).clone()
    if not uniform:
        breaks[:, 1:-1] += points(inputs, intervals - 1, 0.0, 0.3 / intervals)
    spec = spec or EdgeSpec(base="silu")
    layer = SplineLayer.on_grid(breaks.to(dtype), outputs, spec, uniform=uniform)
    initialise(layer, "paper", drawn)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name != "coefficients":
                weight.copy_(0.5 + torch.rand(weight.shape, generator=drawn))
    return layer


def data(samples=12, inputs=3, spread=1.3, seed=1):
    return points(samples, inputs, -spread, spread, seed)
