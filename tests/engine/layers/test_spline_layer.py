"""A spline layer compared with loops over its edges; derivatives, masks and copies."""

import copy
from typing import get_args

import pytest
import torch
from cases import refuses
from made_layer import NARROW, WIDE, data, make
from torch.testing import assert_close

from kanrun.engine.layers import BASES, EdgeSpec, SplineLayer
from kanrun.engine.splines import Extrapolation, local_basis


def scales_of(layer):
    return [parameter for name, parameter in layer.named_parameters() if name != "coefficients"]


def samples(layer):
    return data(inputs=layer.inputs).to(layer.knots)


def base_by_pieces(layer, x):
    """Return the base function; beyond the grid, continued as the extrapolation says."""
    base = BASES[layer.spec.base]
    near = x.clamp(layer.grid.low, layer.grid.high)
    beyond = {
        "base": base(x)[0],
        "zero": torch.zeros_like(x),
        "constant": base(near)[0],
        "linear": base(near)[0] + base(near)[1] * (x - near),
    }
    return torch.where(near == x, base(x)[0], beyond[layer.spec.extrapolation])


def by_edges(layer, x):
    basis, interval = local_basis(x, layer.grid)
    base = base_by_pieces(layer, x)
    w_b, w_s = (
        (layer.weight,) * 2
        if layer.spec.edge_scaling == "single"
        else (layer.base_weight, layer.spline_weight)
    )
    columns = []
    for o in range(layer.outputs):
        total = torch.zeros(x.shape[0], dtype=x.dtype)
        for i in range(layer.inputs):
            if layer.mask[o, i]:
                at = interval[:, i, None] + torch.arange(layer.spec.degree + 1)
                spline = (basis[:, i] * layer.coefficients[o, i][at]).sum(1)
                total = total + w_b[o, i] * base[:, i] + w_s[o, i] * spline
        columns.append(total)
    return torch.stack(columns, 1)


SPECS = [
    *(EdgeSpec(extrapolation=outside, base="silu") for outside in get_args(Extrapolation)),
    *(EdgeSpec(degree=degree, base="silu") for degree in (1, 2, 6)),
    *(EdgeSpec(base=base) for base in BASES),
    EdgeSpec(edge_scaling="single", base="silu"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("intervals", [NARROW, WIDE])
@pytest.mark.parametrize("uniform", [True, False])
def test_the_layer_is_the_sum_of_its_edges(intervals, uniform, spec, dtype):
    layer = make(intervals=intervals, uniform=uniform, spec=spec, dtype=dtype)
    layer.mask[1, 2] = False
    x = samples(layer)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert_close(layer(x), by_edges(layer, x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("scale", ["separate", "single"])
def test_pruned_edges_do_nothing_and_learn_nothing(scale):
    layer = make(spec=EdgeSpec(edge_scaling=scale, base="silu"))
    layer.mask[0, 1] = False
    x = samples(layer)
    before = layer(x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[0, 1] += 7.0
    assert torch.equal(layer(x), before)
    layer(x).square().sum().backward()
    for parameter in layer.parameters():
        assert not parameter.grad[0, 1].any()
        assert parameter.grad[1, 1].any()
    assert not layer.edge_values(x)[:, 0, 1].any()


def test_edge_values_sum_to_the_outputs():
    layer = make(WIDE, uniform=False)
    x = samples(layer)
    assert_close(layer.edge_values(x).sum(-1), layer(x), atol=1e-12, rtol=0)
    h = 1e-6
    slope = (layer.edge_values(x + h) - layer.edge_values(x - h)) / (2 * h)
    assert_close(layer.edge_values(x, 1), slope, atol=1e-6, rtol=1e-6)


def test_fixed_scales_do_not_learn():
    layer = make(spec=EdgeSpec(trained_scales="none", base="silu"))
    layer(samples(layer)).sum().backward()
    assert layer.coefficients.grad.any()
    assert all(parameter.grad is None for parameter in scales_of(layer))


def test_changes_of_grid_and_mask_in_place_are_seen():
    layer = make()
    x = samples(layer)
    whole = layer(x)
    layer.mask[0, 0] = False
    assert not torch.equal(layer(x), whole)
    assert_close(layer(x), by_edges(layer, x), atol=1e-13, rtol=0)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    state["knots"] = 2 * state["knots"]
    layer.load_state_dict(state)
    assert_close(layer(x), by_edges(layer, x), atol=1e-13, rtol=0)
    single = copy.deepcopy(layer).to(torch.float32)
    assert_close(single(x.float()), layer(x).float(), atol=1e-5, rtol=1e-5)


def test_layer_used_in_inference_mode_can_be_trained_afterwards():
    layer = make()
    with torch.inference_mode():
        make()(samples(layer))
        layer(samples(layer))
    layer(samples(layer)).sum().backward()
    assert layer.coefficients.grad is not None


@pytest.mark.parametrize("base", BASES)
def test_slopes_of_base_functions_are_their_derivatives(base):
    x = torch.linspace(-4, 4, 40, dtype=torch.float64, requires_grad=True)
    if base == "zero":
        assert not BASES[base](x)[1].any()
        return
    (expected,) = torch.autograd.grad(BASES[base](x)[0].sum(), x)
    assert_close(BASES[base](x)[1], expected)
    assert BASES[base](torch.tensor([-1e30, 1e30]))[1].isfinite().all()


def test_unknown_bases_and_initialisations_are_refused():
    with refuses("base=cosh"):
        SplineLayer(1, 1, edges=EdgeSpec(base="cosh"))
    with refuses("initialisation=zero"):
        SplineLayer(1, 1, initialisation="zero")
    described = make().describe()
    with pytest.raises(ValueError, match="base function cosh"):
        SplineLayer.from_description({**described, "edges": {**described["edges"], "base": "cosh"}})
