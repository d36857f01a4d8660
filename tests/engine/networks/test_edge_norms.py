"""Norms of edges against edge values written out."""

import pytest
import torch
from made_layer import data, make
from torch.testing import assert_close

from kanrun.engine import layers
from kanrun.engine.layers import EdgeSpec, edge_norms
from kanrun.errors import UsageError


def made(intervals, spec=None):
    layer = make(intervals, spec, outputs=4)
    layer.mask[1, 1] = False
    return layer, data(50).requires_grad_()


def slow(layer, x, kind):
    values = layer.edge_values(x)
    return (
        values.abs().mean(0)
        if kind == "mean_abs"
        else (values.square().mean(0) + layers.EPSILON).sqrt()
    )


@pytest.mark.parametrize("kind", ["rms", "mean_abs"])
@pytest.mark.parametrize(
    "spec",
    [
        EdgeSpec(base="silu"),
        EdgeSpec(edge_scaling="single", base="silu"),
        EdgeSpec(base="zero", degree=1),
        EdgeSpec(degree=0, base="silu"),
    ],
)
@pytest.mark.parametrize("intervals", [1, 5, 100])
def test_values_and_gradients(intervals, spec, kind, monkeypatch):
    monkeypatch.setattr(layers, "CHUNK", 12 * 7)
    layer, x = made(intervals, spec)
    found, expected = edge_norms(layer, x, kind), slow(layer, x, kind)
    assert_close(found, expected, atol=1e-7, rtol=1e-10)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    weights = torch.arange(12.0, dtype=torch.float64).view(4, 3)
    gradients = torch.autograd.grad((weights * found).sum(), wanted)
    for a, b in zip(
        gradients, torch.autograd.grad((weights * expected).sum(), wanted), strict=True
    ):
        assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_an_edge_that_is_zero_has_a_finite_gradient():
    layer, x = made(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    edge_norms(layer, x).sum().backward()
    assert layer.coefficients.grad.isfinite().all()


def test_refusals():
    layer, x = made(5)
    with pytest.raises(UsageError, match="rms or mean_abs"):
        edge_norms(layer, x, "max")
    with pytest.raises(UsageError, match="at least one sample"):
        edge_norms(layer, x[:0])
