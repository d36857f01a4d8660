"""Local support: a coefficient acts only where its spline is nonzero, through several layers."""

from __future__ import annotations

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


@pytest.mark.parametrize(("intervals", "base", "uniform", "dtype"), CASES)
def test_training_on_one_region_moves_no_coefficient_that_it_does_not_see(
    intervals, base, uniform, dtype
):
    net = network(intervals, base, uniform=uniform, dtype=dtype)
    x = points(200, 2, -1.0, -0.4).to(dtype)
    seen, kept = net.support(x), [layer.coefficients.detach().clone() for layer in net.edge_layers]
    scales = {name: value.clone() for name, value in net.state_dict().items() if "weight" in name}
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    (net(x) - 1).square().mean().backward()
    optimiser.step()
    for layer, before, touched in zip(net.edge_layers, kept, seen, strict=True):
        assert torch.equal(layer.coefficients[:, ~touched], before[:, ~touched])
        assert not torch.equal(layer.coefficients[:, touched], before[:, touched])
    assert all(torch.equal(net.state_dict()[name], value) for name, value in scales.items())
    assert not seen[0].all()
