"""Local support: a coefficient acts only where its spline is nonzero, through several layers."""

import pytest
import torch
from made_kan import kan, points

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import find_interval


def network(intervals, base, *, uniform=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    net = kan([2, 3, 2, 1], intervals, base=base, trained_scales="none", dtype=dtype)
    if not uniform:
        layers = []
        for layer in net.edge_layers:
            edges = layer.grid.breakpoints.clone()
            edges[:, 1:-1] += (
                0.3 / intervals * torch.rand(edges[:, 1:-1].shape, generator=generator)
            )
            moved = SplineLayer.on_grid(edges, layer.outputs, layer.spec, uniform=False)
            moved.load_state_dict({**layer.state_dict(), "knots": moved.knots})
            layers.append(moved)
        net = KAN.of_layers(layers)
    return net


CASES = [
    (5, "silu", True, torch.float32),
    (5, "zero", False, torch.float64),
    (90, "silu", False, torch.float32),
    (90, "zero", True, torch.float64),
]


@pytest.mark.parametrize(("intervals", "base", "uniform", "dtype"), CASES)
def test_a_coefficient_of_any_layer_moves_no_bit_outside_its_support(
    intervals, base, uniform, dtype
):
    net = network(intervals, base, uniform=uniform, dtype=dtype)
    x = points(300, 2).to(dtype)
    before, reaching = net(x), net.activations(x)
    for number, layer in enumerate(net.edge_layers):
        function = intervals // 2
        with torch.no_grad():
            kept = layer.coefficients.clone()
            layer.coefficients[0, 1, function] += (
                0.05  # so little that nothing leaves a grid: that takes another kernel
            )
            after = net(x)
            layer.coefficients.copy_(kept)
        interval = find_interval(reaching[number], layer.grid)[:, 1]
        inside = (interval <= function) & (interval >= function - 3)
        assert torch.equal(after[~inside], before[~inside])
        if inside.any():
            assert not torch.equal(after[inside], before[inside])
