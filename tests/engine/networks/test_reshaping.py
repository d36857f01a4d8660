"""Pruning by scores, norms of edges, and adding a node or a layer."""

import itertools
from copy import deepcopy

import pytest
import torch
from cases import cases, refuses
from made_kan import kan, points
from made_layer import data, make
from torch.testing import assert_close

from kanrun.engine.layers import edge_norms
from kanrun.engine.networks.reshaping import (
    add_identity_layer,
    add_node,
    prune_edges,
    prune_on_validation,
    scores,
    with_masks,
)


def network(shape=(3, 4, 2)):
    return kan(shape, 5)


def test_scores_are_shares_of_the_outputs():
    net = network()
    x = points(200, 3)
    result = scores(net, x)
    for edges, above in itertools.pairwise(result):
        assert_close(edges.sum(1), above.sum(0))
    assert_close(result[-1].sum(1), torch.ones(2, dtype=torch.float64))


def test_a_dead_edge_is_pruned_without_any_change():
    net = network()
    x = points(200, 3)
    for parameter in net.edge_layers[0].coefficients, net.edge_layers[0].base_weight:
        parameter.data[1, 2] = 0.0
    smaller = prune_edges(net, x, 1e-12)
    assert not smaller.edge_layers[0].mask[1, 2]
    assert int(smaller.edge_layers[0].mask.sum()) == 11
    assert_close(smaller(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("x", [points(200, 3)[:0], points(200, 3).fill_(torch.nan)])
def test_scores_need_finite_samples(x):
    with refuses("at least one sample, and finite x"):
        network().prune(x)


def test_edges_into_a_node_without_outgoing_edges_are_pruned_too():
    net = network()
    masks = [layer.mask.clone() for layer in net.edge_layers]
    masks[1][:, 2] = False
    smaller = with_masks(net, masks)
    assert not smaller.edge_layers[0].mask[2].any()
    assert smaller.edge_layers[0].mask[0].all()


def test_the_threshold_chosen_on_validation_points_keeps_the_error():
    net = network((3, 4, 1))
    x = points(200, 3)
    with torch.no_grad():
        for layer in net.edge_layers:
            layer.base_weight[:] *= 1e-9
        net.edge_layers[0].coefficients[2:] *= 1e-9
        y = net(x)[:, 0]
    smaller = prune_on_validation(
        net, x, x, y + 1e-3 * torch.randn(200, generator=torch.Generator().manual_seed(2)), 0
    )
    assert int(smaller.edge_layers[0].mask.sum()) <= 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_edges_but_the_best_go_where_validation_allows(dtype):
    """In single precision, where adding a small number to the threshold may not change it."""
    net = network((3, 1))
    x = points(200, 3).to(dtype)
    net.to(dtype)
    smaller = prune_on_validation(net, x, x, torch.zeros(200, dtype=dtype), 0, slack=1e6)
    assert int(smaller.edge_layers[0].mask.sum()) == 1


def test_no_edge_goes_where_the_error_is_not_a_number():
    net = network()
    x = points(200, 3)
    broken = deepcopy(net)
    with torch.no_grad():
        broken.edge_layers[1].coefficients[0, 0, 0] = torch.nan
    assert prune_on_validation(broken, x, x, torch.zeros(200, dtype=torch.float64), 0) is broken


def made(intervals, spec=None):
    layer = make(intervals, spec, outputs=4)
    layer.mask[1, 1] = False
    return layer, data(50).requires_grad_()


def test_an_edge_that_is_zero_has_a_finite_gradient():
    layer, x = made(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    edge_norms(layer, x).sum().backward()
    assert layer.coefficients.grad.isfinite().all()


def test_edge_norms_refuse_unknown_kinds_and_no_samples():
    layer, x = made(5)
    with refuses("rms or mean_abs"):
        edge_norms(layer, x, "max")
    with refuses("at least one sample"):
        edge_norms(layer, x[:0])


X = points(50, 2, seed=0)


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 2, 2, 3)])
def test_a_node_adds_its_outer_function_of_its_inner_sum(shape):
    network = kan(shape)
    first = network.edge_layers[0]
    outputs = network.edge_layers[1].outputs
    inner = torch.linspace(0, 1, first.grid.functions, dtype=torch.float64).expand(2, -1)
    same = add_node(network, inner, lambda t: t.new_zeros(len(t), outputs), X)
    assert same.shape == (2, shape[1] + 1, *shape[2:])
    assert_close(same(X), network(X), rtol=0, atol=1e-13)
    wider = add_node(network, inner, lambda t: t.square().expand(-1, outputs), X)
    node = wider.activations(X)[1][:, -1:]
    change = wider.activations(X)[2] - network.activations(X)[2]
    assert_close(change, node.square().expand(-1, outputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "degree, base",
    cases("""
3 | zero
1 | silu
"""),
)
def test_an_identity_layer_keeps_the_function(degree, base):
    network = kan((2, 3, 2), degree=degree, base=base)
    deeper = add_identity_layer(network, X)
    assert deeper.shape == (2, 3, 2, 2)
    assert_close(deeper(X), network(X), rtol=0, atol=1e-12)
