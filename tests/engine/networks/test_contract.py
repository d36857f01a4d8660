"""What every network promises: shapes, precisions, derivatives, copies and stored forms."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import (
    KAN,
    KINDS,
    MLP,
    Bezier,
    BSpline,
    Polynomial,
    adapt_inputs,
    count_parameters,
    from_description,
    get_unknowns,
    linearise,
    regrid_hidden,
    set_unknowns,
    unknowns,
)
from kanrun.errors import KanrunError


def kan(shape, intervals=4, spec=None, dtype=torch.float64):
    domain = torch.tensor([[-1.0, 1.0]], dtype=dtype).expand(shape[0], 2)
    return KAN.create(shape, intervals, spec or EdgeSpec(), domain=domain, generator=torch.Generator().manual_seed(0))


def curve(kind, dtype=torch.float64, **extra):
    network = kind(7, 2, torch.tensor([[-1.0, 1.0]], dtype=dtype), **extra)
    with torch.no_grad():
        network.coefficients.normal_(generator=torch.Generator().manual_seed(0))
    return network


MAKERS = {
    "kan": lambda dtype: kan([2, 3, 2], dtype=dtype),
    "kan wide": lambda dtype: kan([2, 3, 2], 160, dtype=dtype),
    "kan single": lambda dtype: kan([1, 2], spec=EdgeSpec(scale="single", degree=2), dtype=dtype),
    "mlp": lambda dtype: MLP.create([2, 5, 2], "silu", dtype=dtype, generator=torch.Generator().manual_seed(0)),
    "polynomial": lambda dtype: curve(Polynomial, dtype),
    "bezier": lambda dtype: curve(Bezier, dtype),
    "bspline": lambda dtype: curve(BSpline, dtype, degree=3),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def data(network, *batch, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (2 * torch.rand(*batch, network.shape[0], generator=generator, dtype=torch.float64) - 1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 3, 4)])
def test_any_batch_in_any_precision(make, batch, dtype):
    network = make(dtype)
    x = data(network, *batch, dtype=dtype)
    y = network(x)
    assert y.shape == (*batch, network.shape[-1])
    assert y.dtype == dtype
    flat = network(x.reshape(-1, network.shape[0]))
    torch.testing.assert_close(y.reshape(flat.shape), flat)


def test_precisions_agree(make):
    wide, narrow = make(torch.float64), make(torch.float32)
    narrow.load_state_dict(wide.state_dict())
    x = data(wide, 20)
    torch.testing.assert_close(narrow(x.float()).double(), wide(x), atol=1e-4, rtol=1e-4)


def test_forward_leaves_no_trace(make):
    network = make(torch.float64)
    before = copy.deepcopy(network.state_dict())
    x = data(network, 5)
    given = x.clone()
    state = torch.get_rng_state()
    first, again = network(x), network(x)
    assert torch.equal(first, again)
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_derivatives_to_second_order(make):
    network = make(torch.float64)
    x = data(network, 3).requires_grad_()
    assert torch.autograd.gradcheck(network, (x,))
    assert torch.autograd.gradgradcheck(network, (x,))


def test_copies_and_stored_forms_are_the_same_function(make):
    network = make(torch.float64)
    x = data(network, 9)
    y = network(x)
    description = json.loads(json.dumps(network.describe()))
    rebuilt = from_description(description)
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt(x), y)
    assert torch.equal(copy.deepcopy(network)(x), y)
    assert rebuilt.shape == network.shape
    assert rebuilt.describe() == network.describe()
    assert network.kind in KINDS


@pytest.mark.parametrize("adapt", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_drawn_from_data_goes_into_any_network_of_its_shape(adapt, dtype):
    network = kan([2, 3, 2], 6, dtype=dtype)
    x = data(network, 200, dtype=dtype)
    moved = adapt_inputs(regrid_hidden(network, x, adapt=adapt, margin=0.05).network, x, adapt=adapt).network
    fresh = kan([2, 3, 2], 6, dtype=dtype)
    fresh(x)  # what it knows of its grids by now must go
    fresh.load_state_dict(moved.state_dict())
    assert torch.equal(fresh(x), moved(x))
    assert [layer.uniform for layer in fresh] == [layer.uniform for layer in moved] == [adapt == 0.0] * 2
    rebuilt = from_description(json.loads(json.dumps(moved.describe()))).to(dtype)
    rebuilt.load_state_dict(moved.state_dict())
    assert torch.equal(rebuilt(x), moved(x))
    assert rebuilt.describe() == fresh.describe() == moved.describe()
    back = copy.deepcopy(fresh)
    back.load_state_dict(network.state_dict())
    torch.testing.assert_close(back(x), network(x))


def test_transforms(make):
    network = make(torch.float64)
    x = data(network, 6)
    torch.testing.assert_close(torch.vmap(network)(x), network(x))
    jacobian = torch.vmap(torch.func.jacrev(network))(x)
    inputs = x.clone().requires_grad_()
    for o in range(network.shape[-1]):
        (expected,) = torch.autograd.grad(network(inputs)[:, o].sum(), inputs)
        torch.testing.assert_close(jacobian[:, o], expected)


def test_no_samples(make):
    network = make(torch.float64)
    x = data(network, 0).requires_grad_()
    torch.vmap(network)(x.detach())
    torch.vmap(torch.func.jacrev(network))(x.detach())
    y, jacobian = linearise(network, x.detach())
    assert y.shape == (0, network.shape[-1])
    assert jacobian.shape == (0, network.shape[-1], get_unknowns(network).numel())
    (slope,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    again = torch.autograd.grad(slope.sum(), [x, *network.parameters()], allow_unused=True)
    assert all(part is None or not part.any() for part in again)


def test_linearise_is_the_jacobian_in_the_unknowns(make):
    network = make(torch.float64)
    x = data(network, 5)
    y, found = linearise(network, x)
    torch.testing.assert_close(y, network(x))
    names = [name for name, _ in unknowns(network)]
    fixed = {name: value.detach() for name, value in network.state_dict().items()}
    free = {name: fixed.pop(name) for name in names}

    def run(parameters):
        return torch.func.functional_call(network, {**fixed, **parameters}, (x,))

    expected = torch.func.jacrev(run)(free)
    together = torch.cat([expected[name].flatten(2) for name in names], -1)
    torch.testing.assert_close(found, together, atol=1e-12, rtol=1e-10)


def test_unknowns_go_out_and_in(make):
    network = make(torch.float64)
    values = get_unknowns(network)
    assert values.numel() <= count_parameters(network)
    x = data(network, 4)
    y = network(x)
    set_unknowns(network, 0 * values)
    assert not torch.equal(network(x), y)
    set_unknowns(network, values)
    assert torch.equal(network(x), y)


def test_an_unknown_kind_is_refused():
    with pytest.raises(KanrunError, match="'fourier'"):
        from_description({"kind": "fourier"})
