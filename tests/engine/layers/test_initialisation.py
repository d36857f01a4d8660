"""Standard deviations of the initial weights in every initialisation scheme."""

from typing import get_args

import pytest
import torch
from made_kan import points

from kanrun.engine.layers import EdgeSpec, SplineLayer, initialise
from kanrun.model.settings import Initialisation


def make(scheme, inputs=40, outputs=60, intervals=5, *, seed=0, dtype=torch.float64):
    points = torch.linspace(-1, 1, intervals + 1, dtype=dtype).expand(inputs, -1)
    layer = SplineLayer.on_grid(points, outputs, EdgeSpec(base="silu"), uniform=True)
    initialise(layer, scheme, torch.Generator().manual_seed(seed))
    return layer.requires_grad_(False)


@pytest.mark.parametrize(
    "scheme, base, splines",
    [
        ("paper", (2 / 100) ** 0.5, 0.1),
        ("power_law", (40 * 9) ** -0.25, (40 * 9) ** -1.75),
        ("spline", 0.0, 0.3 / 40**0.5),
    ],
)
def test_initial_weights_have_the_spreads_of_their_scheme(scheme, base, splines):
    layer = make(scheme)
    assert layer.base_weight.std() == pytest.approx(base, rel=0.05)
    assert layer.coefficients.std() == pytest.approx(splines, rel=0.05)
    assert torch.equal(layer.spline_weight, torch.ones_like(layer.spline_weight))


@pytest.mark.parametrize("intervals", [5, 20])
def test_lecun_keeps_the_variance(intervals):
    layer = make("lecun", inputs=100, outputs=200, intervals=intervals)
    x = points(4000, 100)
    assert layer(x).var(0).mean() == pytest.approx(float(x.var()), rel=0.5)


def test_glorot_spread_falls_with_the_number_of_outputs():
    square, wide = (make("glorot", 50, outputs) for outputs in (50, 400))
    assert wide.base_weight.std() < square.base_weight.std()
    assert wide.coefficients.std() < square.coefficients.std()


@pytest.mark.parametrize("scheme", get_args(Initialisation)[1:])
def test_seed_gives_the_same_start_in_either_precision(scheme):
    def start(**more):
        return make(scheme, 4, 3, **more).coefficients

    assert torch.equal(start(), start())
    assert not torch.equal(start(), start(seed=1))
    torch.testing.assert_close(start().float(), start(dtype=torch.float32), rtol=1e-4, atol=1e-6)
