"""Requirements on every kind of network: shapes, precisions, derivatives, copies, storing."""

import copy
import json
import math
from functools import partial

import pytest
import torch
from made_kan import kan, mlp, points
from torch.func import functional_call
from torch.testing import assert_close

from kanrun.config.registry import MODELS
from kanrun.engine.networks import Bezier, BSpline, Network, Polynomial, from_description


def curve(kind, dtype=torch.float64, **extra):
    network = kind(7, 2, torch.tensor([[-1.0, 1.0]], dtype=dtype), **extra)
    network.coefficients.data.normal_(generator=torch.Generator().manual_seed(0))
    return network


MAKERS = {
    "kan": partial(kan, [2, 3, 2]),
    "kan wide": partial(kan, [2, 3, 2], 160),
    "kan with products": partial(kan, [2, 3, 2], products=(1,)),
    "kan degree 2": partial(kan, [1, 2], degree=2),
    "broken lines": partial(kan, [2, 2], degree=1, base="zero", extrapolation="constant"),
    "degree 7": partial(kan, [2, 2], 160, degree=7, base="sin", extrapolation="zero"),
    "mlp": partial(mlp, [2, 5, 2], "silu"),
    "polynomial": partial(curve, Polynomial),
    "bezier": partial(curve, Bezier),
    "bspline": partial(curve, BSpline, degree=3),
}


class Sine(Network):
    """A network of another package that defines only the required methods."""

    kind = "sine"

    shape = (1, 1)

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.frequency = torch.nn.Parameter(torch.tensor([1.3], dtype=dtype))

    def describe(self):
        return {"kind": self.kind}

    def forward(self, x):
        return torch.sin(self.frequency * x)


@pytest.fixture(params=[*MAKERS, "of another package"])
def make(request):
    return MAKERS.get(request.param, Sine)


@pytest.fixture
def network(make):
    return make()


def test_weights_of_an_mlp_begin_within_the_root_of_their_inputs():
    """Like torch.nn.Linear: uniform between -1 / sqrt(n) and 1 / sqrt(n) for n inputs."""
    for layer, inputs in zip(mlp([16, 400, 1], "silu").linear, (16, 400), strict=True):
        weight = layer.weight.detach() * inputs**0.5
        assert 0.98 < float(weight.abs().max()) <= 1.0
        assert abs(float(weight.mean())) < 0.1


def dense_rows(network, x):
    y, rows = network.linearise(x)
    return y, rows.times(torch.eye(rows.unknowns, dtype=x.dtype)).view(*y.shape, rows.unknowns)


def data(network, *batch, dtype=torch.float64):
    inputs = network.shape[0]
    return points(math.prod(batch), inputs).view(*batch, inputs).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (0,), (2, 3, 4)])
def test_outputs_have_the_shape_and_precision_of_the_batch(make, batch, dtype):
    network = make(dtype=dtype)
    x = data(network, *batch, dtype=dtype)
    y = network(x)
    assert y.shape == (*batch, network.shape[-1])
    assert y.dtype == dtype
    assert_close(y.view(-1, network.shape[-1]), network(x.view(-1, network.shape[0])))


def test_forward_changes_neither_network_nor_inputs_nor_random_state(network):
    x = data(network, 5)
    before = copy.deepcopy([network.state_dict(), x, torch.get_rng_state()])
    assert torch.equal(network(x), network(x))
    assert_close([network.state_dict(), x, torch.get_rng_state()], before, rtol=0, atol=0)


def test_derivatives_to_second_order(network):
    learned = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}

    def run(at, *values):
        return functional_call(network, dict(zip(learned, values, strict=True)), (at,))

    arguments = [each.requires_grad_() for each in (data(network, 3), *learned.values())]
    assert torch.autograd.gradcheck(run, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


def test_copies_stored_forms_and_vmap_are_the_same_function(network):
    x = data(network, 9)
    y = network(x)
    assert torch.equal(copy.deepcopy(network)(x), y)
    assert_close(torch.vmap(network)(x), y)
    if network.kind not in MODELS:
        return
    assert type(network) is MODELS[network.kind].network()
    rebuilt = from_description(json.loads(json.dumps(network.describe())))
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt(x), y)
    assert rebuilt.describe() == network.describe()


@pytest.mark.parametrize("adapt", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_drawn_from_data_goes_into_any_network_of_its_shape(adapt, dtype):
    network = kan([2, 3, 2], 6, dtype=dtype)
    x = data(network, 200, dtype=dtype)
    moved = network.regrid(x, grid_eps=1 - adapt, margin=0.05, inputs="within").network
    other = kan([2, 3, 2], 6, dtype=dtype)
    other(x)  # cached values of the old grids must be discarded
    other.load_state_dict(moved.state_dict())
    assert torch.equal(other(x), moved(x))
    assert other.describe() == moved.describe()
    assert [layer.uniform for layer in other.edge_layers] == [adapt == 0.0] * 2
    other.load_state_dict(network.state_dict())
    assert_close(other(x), network(x))


def test_networks_and_their_derivatives_accept_zero_samples(network):
    x = data(network, 0).requires_grad_()
    torch.vmap(torch.func.jacrev(network))(x.detach())
    y, jacobian = dense_rows(network, x.detach())
    assert y.shape == (0, network.shape[-1])
    assert jacobian.shape == (0, network.shape[-1], network.get_unknowns().numel())
    (slope,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    leaves = [x, *network.trained().values()]
    again = torch.autograd.grad(slope.sum(), leaves, allow_unused=True)
    assert all(part is None or not part.any() for part in again)


def test_linearise_is_the_jacobian_in_the_unknowns(network):
    x = data(network, 12)
    names, old = zip(*network.unknowns(), strict=True)

    def run(unknowns):
        parts = unknowns.split([value.numel() for value in old])
        shaped = [part.view_as(value) for part, value in zip(parts, old, strict=True)]
        return functional_call(network, dict(zip(names, shaped, strict=True)), (x,))

    unknowns = network.get_unknowns() * 0.9
    network.set_unknowns(unknowns)
    y, found = dense_rows(network, x)
    assert_close(y, run(unknowns))
    assert_close(found, torch.func.jacrev(run)(unknowns), atol=1e-12, rtol=1e-10)


def test_unknowns_are_counted_and_those_without_data_do_not_matter(network):
    x = data(network, 12)
    y, rows = network.linearise(x)
    unknowns = network.get_unknowns()
    count = len(unknowns)
    sizes = network.unknowns_at(network.intervals), network.unknowns_at(None)
    assert (*sizes, network.penalty_rows().unknowns) == (count,) * 3
    assert network.unknowns_at(1) <= count <= network.count()
    if masks := network.determined(x).values():
        quiet = rows.squares() == 0
        assert not torch.cat([mask.reshape(-1) for mask in masks])[quiet].any()
        network.set_unknowns(unknowns + quiet)
        assert_close(network(x), y)


def test_networks_on_new_grids_keep_the_function(network):
    x = data(network, 40)
    y = network(x)
    intervals = None if network.intervals is None else 2 * network.intervals
    refined = network.refined(intervals or 4, x)
    assert refined.network.intervals == intervals
    for moved in (
        refined,
        network.regrid(x, intervals=intervals, grid_eps=1.0, margin=0.05),
        network.regrid(x, grid_eps=0.5, margin=0.05, inputs="within"),
        network.regrid(x, grid_eps=0.5, margin=0.05, inputs="follow"),
    ):
        assert moved.network.shape == network.shape
        assert moved.change < (1e-11 if moved.how == "insertion" else 1)
        assert moved.how in ("unchanged", "insertion", "least squares", "both")
    assert_close(network(x), y)


def test_a_closed_form_is_the_least_squares_solution_or_is_refused(network):
    x = data(network, 40)
    y = torch.sin(3 * x[:, :1]).expand(-1, network.shape[-1])
    before = network.get_unknowns()
    if not network.fit_linear(x, y):
        assert torch.equal(network.get_unknowns(), before)
        return
    output, rows = network.linearise(x)
    assert float(rows.transposed((output - y).flatten()).abs().max()) < 1e-10


def test_network_class_without_a_description_says_so():
    with pytest.raises(NotImplementedError, match="Network does not describe itself"):
        Network().describe()
