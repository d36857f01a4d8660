"""Multiplication nodes: values against loops, Jacobian, forms, training and pruning."""

import json

import numpy as np
import pytest
import torch
from made_kan import kan, points
from torch.testing import assert_close

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, from_description
from kanrun.engine.networks.counting import kan_parameters, size_of
from kanrun.engine.networks.pruning import prune_edges, scores
from kanrun.engine.symbolic.conversions import graph_of
from kanrun.engine.training import Plan, Samples, TrainingData, fit

DOMAIN = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)


def network(shape=(2, 3, 2, 1), products=(2, 1), **spec):
    made = kan(shape, products=products, **spec)
    with torch.no_grad():
        for layer in made.edge_layers:
            layer.coefficients.mul_(8)
    return made


def test_a_product_node_multiplies_two_sums():
    net, x = network(), points(40, 2)
    first, second, third = (
        layer(at) for layer, at in zip(net.edge_layers, net.activations(x), strict=False)
    )
    hidden = torch.stack([first[:, 0], first[:, 1] * first[:, 2], first[:, 3] * first[:, 4]], 1)
    assert_close(net.edge_layers[1](hidden), second)
    above = torch.stack([second[:, 0], second[:, 1] * second[:, 2]], 1)
    assert_close(net.edge_layers[2](above), third)
    assert_close(net(x), third)
    assert net.shape == (2, 3, 2, 1)
    assert net.count() == kan_parameters(size_of(net), net.edge_layers[0].spec)


@pytest.mark.parametrize("base", ["zero", "silu"])
def test_rows_are_the_jacobian(base):
    net, x = network(base=base), points(6, 2)
    y, rows = net.linearise(x)
    assert_close(y, net(x))
    names = [name for name, _ in net.unknowns()]
    free = {name: net.get_parameter(name).detach() for name in names}
    parts = torch.func.jacrev(lambda values: torch.func.functional_call(net, values, (x,)))(free)
    expected = torch.cat([parts[name].flatten(2) for name in names], -1).flatten(0, 1)
    found = torch.zeros_like(expected).scatter_add_(1, rows.index, rows.values)
    assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_stored_refined_and_regridded_forms_are_the_same_function():
    net, x = network(), points(40, 2)
    rebuilt = from_description(json.loads(json.dumps(net.describe())))
    rebuilt.load_state_dict(net.state_dict())
    assert torch.equal(rebuilt(x), net(x))
    fine = net.refined(8, x)
    assert fine.change < 1e-12
    assert fine.network.products == net.products
    assert net.regrid(x, grid_eps=1.0, margin=0.05).network.shape == net.shape
    assert net.subnetworks() == [net.shape]


def test_scores_add_up_and_pruning_keeps_both_factors():
    net, x = network((2, 2, 1), (1,)), points(40, 2)
    first, last = scores(net, x)
    assert first.shape == (3, 2)
    assert_close(float(last.sum()), 1.0)
    smaller = prune_edges(net, x, 0.3)
    assert smaller.edge_layers[1].mask.any()
    if smaller.edge_layers[1].mask[0, 1]:
        assert smaller.edge_layers[0].mask[1:].any(1).all()


@pytest.mark.parametrize(
    ("solver", "steps", "error"),
    [
        ("lm", None, 1e-4),
        pytest.param("lbfgs", 150, 1e-2, marks=pytest.mark.slow),
        pytest.param("adam", 200, 0.2, marks=pytest.mark.slow),
    ],
)
def test_every_solver_trains_them(solver, steps, error):
    x, second = points(300, 2), solver == "lm"
    data = TrainingData(Samples(x, torch.sin(2 * x[:, :1]) * x[:, 1:] ** 3))
    spec = {"base": "zero", "trained_scales": "base" if second else "all"}
    start = {"domain": torch.tensor([[-1.0, 1.0]] * 2).double(), "products": (1,)}

    def create(generator):
        start["initialisation"] = "spline" if second else "paper"
        return KAN.create((2, 1, 1), 6, EdgeSpec(**spec), generator=generator, **start)

    plan = Plan(solver, (6, 24) if second else (6,), starts=4 if second else 1, steps=steps)
    trained = fit(create, data, plan, torch.Generator().manual_seed(0))
    assert trained.network.shape == (2, 1, 1)
    assert trained.errors.train < error


def test_the_graph_of_a_network_is_its_function():
    x = points(200, 2)
    net = (
        network(base="zero")
        .regrid(x, grid_eps=1.0, margin=0.05)
        .network.regrid(x, grid_eps=1.0, margin=0.05)
        .network
    )
    graph = graph_of(net, x.numpy(), 0)
    assert "product" in graph.operations
    np.testing.assert_allclose(graph(x.numpy()), net(x)[:, 0].detach().numpy(), atol=1e-9)
