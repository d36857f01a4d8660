"""Local support: a coefficient acts only where its spline is nonzero, through several layers."""

from __future__ import annotations

import itertools

import pytest
import torch

from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import breakpoints_of, find_interval


def network(intervals, base, *, uniform=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    spec = EdgeSpec(base=base, trained_scales="none")
    domain = torch.tensor([[-1.0, 1.0]] * 2, dtype=dtype)
    kan = KAN.create([2, 3, 2, 1], intervals, spec, domain=domain, generator=generator)
    if not uniform:
        layers = []
        for layer in kan.edge_layers:
            points = breakpoints_of(layer.knots, 3).clone()
            points[:, 1:-1] += (
                0.3 / intervals * torch.rand(points[:, 1:-1].shape, generator=generator)
            )
            moved = SplineLayer.on_grid(points, layer.outputs, spec, uniform=False)
            moved.load_state_dict({**layer.state_dict(), "knots": moved.knots})
            layers.append(moved)
        kan = KAN.of_layers(layers)
    return kan


def samples(count, low=-1.0, high=1.0, dtype=torch.float64):
    share = torch.rand(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (low + (high - low) * share).to(dtype)


CASES = list(
    itertools.product([5, 90], ["silu", "zero"], [True, False], [torch.float32, torch.float64])
)


@pytest.mark.parametrize(("intervals", "base", "uniform", "dtype"), CASES)
def test_a_coefficient_of_any_layer_moves_no_bit_outside_its_support(
    intervals, base, uniform, dtype
):
    kan = network(intervals, base, uniform=uniform, dtype=dtype)
    x = samples(300, dtype=dtype)
    before, reaching = kan(x), kan.activations(x)
    for number, layer in enumerate(kan.edge_layers):
        function = intervals // 2
        with torch.no_grad():
            kept = layer.coefficients.clone()
            layer.coefficients[0, 1, function] += (
                0.05  # so little that nothing leaves a grid: that takes another kernel
            )
            after = kan(x)
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
    kan = network(intervals, base, uniform=uniform, dtype=dtype)
    x = samples(200, -1.0, -0.4, dtype)
    seen, kept = kan.support(x), [layer.coefficients.detach().clone() for layer in kan.edge_layers]
    scales = {name: value.clone() for name, value in kan.state_dict().items() if "weight" in name}
    optimiser = torch.optim.Adam([p for p in kan.parameters() if p.requires_grad], lr=0.01)
    (kan(x) - 1).square().mean().backward()
    optimiser.step()
    for layer, before, touched in zip(kan.edge_layers, kept, seen, strict=True):
        assert torch.equal(layer.coefficients[:, ~touched], before[:, ~touched])
        assert not torch.equal(layer.coefficients[:, touched], before[:, touched])
    assert all(torch.equal(kan.state_dict()[name], value) for name, value in scales.items())
    assert not seen[0].all()
