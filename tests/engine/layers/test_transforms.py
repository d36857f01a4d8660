"""A spline layer under vmap, reverse mode and forward mode, up to second derivatives."""

import pytest
import torch
from made_layer import NARROW, WIDE, data, make
from torch.func import functional_call, jacfwd, jacrev, jvp
from torch.testing import assert_close

from kanrun.engine.layers import EdgeSpec


@pytest.mark.parametrize(
    "spec",
    [
        EdgeSpec(base="silu"),
        EdgeSpec(degree=1, edge_scaling="single", extrapolation="constant", base="silu"),
        EdgeSpec(degree=6, base="zero", extrapolation="zero"),
    ],
    ids=str,
)
@pytest.mark.parametrize("intervals, uniform", [(NARROW, True), (WIDE, False)])
def test_forward_mode_agrees_with_reverse_mode(intervals, uniform, spec):
    layer = make(intervals, uniform=uniform, spec=spec)
    layer.mask[0, 1] = False
    x = data(4)
    direction = data(4, seed=7)

    def one(at):
        return layer(at[None])[0]

    slopes = torch.vmap(jacrev(one))(x)
    y, found = jvp(layer, (x,), (direction,))
    assert_close(y, layer(x))
    assert_close(found, torch.einsum("noi,ni->no", slopes, direction))
    assert_close(torch.vmap(jacfwd(one))(x), slopes)
    curvatures = torch.vmap(jacrev(jacrev(one)))(x)
    for outer, inner in ((jacfwd, jacrev), (jacfwd, jacfwd), (jacrev, jacfwd)):
        assert_close(torch.vmap(outer(inner(one)))(x), curvatures)

    def by(parameters):
        return functional_call(layer, parameters, (x,))

    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    expected = jacrev(by)(parameters)
    for name, jacobian in jacfwd(by)(parameters).items():
        assert_close(jacobian, expected[name])
