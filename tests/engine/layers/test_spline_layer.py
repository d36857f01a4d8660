"""A spline layer compared with its definition; derivatives, masks and copies."""

import copy
from typing import get_args

import pytest
import torch
from cases import refuses
from made_layer import NARROW, WIDE, data, make
from torch.func import functional_call, jacfwd, jacrev, jvp
from torch.testing import assert_close

from kanrun.engine.layers import BASES, EdgeSpec, SplineLayer
from kanrun.engine.splines import Extrapolation, dense_rows, local_basis

X = data()


def by_edges(layer, x):
    """Return the sum of the edge functions; the base continues as the extrapolation says."""
    grid, spec = layer.grid, layer.spec
    base = BASES[spec.base]
    near = x.clamp(grid.low, grid.high)
    value, slope = base(near)
    bases = {
        "base": base(x)[0],
        "zero": torch.where(near == x, value, 0),
        "constant": value,
        "linear": value + slope * (x - near),
    }
    rows = dense_rows(*local_basis(x, grid), grid.functions)
    splines = torch.einsum("nif,oif->noi", rows, layer.coefficients)
    bases = layer.base_weight * bases[spec.extrapolation][:, None]
    return (layer.mask * (bases + layer.spline_weight * splines)).sum(-1)


SPECS = [
    *(EdgeSpec(extrapolation=outside, base="silu") for outside in get_args(Extrapolation)),
    *(EdgeSpec(degree=degree, base="silu") for degree in (1, 2, 6)),
    *(EdgeSpec(base=base) for base in BASES),
]


@pytest.mark.parametrize("dtype, apart", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("intervals", [NARROW, WIDE])
@pytest.mark.parametrize("uniform", [True, False])
def test_the_layer_is_the_sum_of_its_edges(intervals, uniform, spec, dtype, apart):
    layer = make(intervals, spec, uniform=uniform, dtype=dtype)
    layer.mask[1, 2] = False
    x = X.to(dtype)
    assert_close(layer(x), by_edges(layer, x), atol=apart, rtol=apart)


def test_pruned_edges_do_nothing_and_learn_nothing():
    layer = make(spec=EdgeSpec(base="silu"))
    layer.mask[0, 1] = False
    before = layer(X)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[0, 1] += 7.0
    assert torch.equal(layer(X), before)
    layer(X).square().sum().backward()
    for parameter in layer.parameters():
        assert not parameter.grad[0, 1].any()
        assert parameter.grad[1, 1].any()
    assert not layer.edge_values(X)[:, 0, 1].any()


def test_edge_values_sum_to_the_outputs():
    layer = make(WIDE, uniform=False)
    assert_close(layer.edge_values(X).sum(-1), layer(X), atol=1e-12, rtol=0)
    h = 1e-6
    slope = (layer.edge_values(X + h) - layer.edge_values(X - h)) / (2 * h)
    assert_close(layer.edge_values(X, 1), slope, atol=1e-6, rtol=1e-6)


def test_changes_of_grid_and_mask_in_place_are_seen():
    layer = make()
    whole = layer(X)
    layer.mask[0, 0] = False
    assert not torch.equal(layer(X), whole)
    assert_close(layer(X), by_edges(layer, X), atol=1e-13, rtol=0)
    layer.load_state_dict({**layer.state_dict(), "knots": 2 * layer.knots})
    assert_close(layer(X), by_edges(layer, X), atol=1e-13, rtol=0)
    single = copy.deepcopy(layer).to(torch.float32)
    assert_close(single(X.float()), layer(X).float(), atol=1e-5, rtol=1e-5)


def test_layer_used_in_inference_mode_can_be_trained_afterwards():
    layer = make()
    with torch.inference_mode():
        make()(X)
        layer(X)
    layer(X).sum().backward()
    assert layer.coefficients.grad is not None


@pytest.mark.parametrize("base", BASES)
def test_slopes_of_base_functions_are_their_derivatives(base):
    x = torch.linspace(-4, 4, 40, dtype=torch.float64)
    value, slope = jvp(lambda at: BASES[base](at)[0], (x,), (torch.ones_like(x),))
    assert_close(BASES[base](x), (value, slope))
    assert BASES[base](torch.tensor([-1e30, 1e30]))[1].isfinite().all()


def test_unknown_bases_and_initialisations_are_refused():
    with refuses("base=cosh"):
        SplineLayer(1, 1, edges=EdgeSpec(base="cosh"))
    with refuses("initialisation=zero"):
        SplineLayer(1, 1, initialisation="zero")
    described = make().describe()
    described["edges"]["base"] = "cosh"
    with pytest.raises(ValueError, match="base function cosh"):
        SplineLayer.from_description(described)


@pytest.mark.parametrize(
    "spec",
    [
        EdgeSpec(base="silu"),
        EdgeSpec(degree=1, extrapolation="constant", base="silu"),
        EdgeSpec(degree=6, base="zero", extrapolation="zero"),
    ],
    ids=str,
)
@pytest.mark.parametrize("intervals, uniform", [(NARROW, True), (WIDE, False)])
def test_forward_mode_agrees_with_reverse_mode(intervals, uniform, spec):
    layer = make(intervals, spec, uniform=uniform)
    layer.mask[0, 1] = False

    def one(at):
        return layer(at[None])[0]

    def everywhere(function):
        return torch.vmap(function)(X)

    slopes = everywhere(jacrev(one))
    direction = data(seed=7)
    y, found = jvp(layer, (X,), (direction,))
    assert_close(y, layer(X))
    assert_close(found, torch.einsum("noi,ni->no", slopes, direction))
    assert_close(everywhere(jacfwd(one)), slopes)
    curvatures = everywhere(jacrev(jacrev(one)))
    for outer, inner in ((jacfwd, jacrev), (jacfwd, jacfwd), (jacrev, jacfwd)):
        assert_close(everywhere(outer(inner(one))), curvatures)

    def by(parameters):
        return functional_call(layer, parameters, (X,))

    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    assert_close(jacfwd(by)(parameters), jacrev(by)(parameters))
