"""Pruning by scores, norms of edges, and adding a node or a layer."""

import itertools

import pytest
import torch
from cases import cases, refuses
from made_kan import kan, normal, points
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

X = points(200, 3)


def network(shape=(3, 4, 2), **spec):
    return kan(shape, 5, **spec)


def edges(network, layer=0):
    return int(network.edge_layers[layer].mask.sum())


def test_scores_are_shares_of_the_outputs():
    result = scores(network(), X)
    for below, above in itertools.pairwise(result):
        assert_close(below.sum(1), above.sum(0))
    assert_close(result[-1].sum(1), torch.ones(2, dtype=torch.float64))


def test_a_dead_edge_is_pruned_without_any_change():
    net = network()
    for parameter in net.edge_layers[0].coefficients, net.edge_layers[0].base_weight:
        parameter.data[1, 2] = 0.0
    smaller = prune_edges(net, X, 1e-12)
    assert not smaller.edge_layers[0].mask[1, 2]
    assert edges(smaller) == 11
    assert torch.equal(smaller(X), net(X))


def test_edges_into_a_node_without_outgoing_edges_are_pruned_too():
    net = network()
    masks = [layer.mask.clone() for layer in net.edge_layers]
    masks[1][:, 2] = False
    assert with_masks(net, masks).edge_layers[0].mask.all(1).tolist() == [True, True, False, True]


def test_the_threshold_chosen_on_validation_points_keeps_the_error():
    net = network((3, 4, 1))
    with torch.no_grad():
        for layer in net.edge_layers:
            layer.base_weight[:] *= 1e-9
        net.edge_layers[0].coefficients[2:] *= 1e-9
        y = net(X)[:, 0]
    assert edges(prune_on_validation(net, X, X, y + 1e-3 * normal(200), 0)) == 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_edges_but_the_best_go_where_validation_allows(dtype):
    """In single precision, where adding a small number to the threshold may not change it."""
    net = network((3, 1), dtype=dtype)
    x = X.to(dtype)
    assert edges(prune_on_validation(net, x, x, torch.zeros(200, dtype=dtype), 0, slack=1e6)) == 1


def test_no_edge_goes_where_the_error_is_not_a_number():
    broken = network()
    with torch.no_grad():
        broken.edge_layers[1].coefficients[0, 0, 0] = torch.nan
    assert prune_on_validation(broken, X, X, X[:, 0], 0) is broken


def test_an_edge_that_is_zero_has_a_finite_gradient():
    layer = make(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    edge_norms(layer, data()).sum().backward()
    assert layer.coefficients.grad.isfinite().all()


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: network().prune(X[:0]), "at least one sample, and finite x"),
        (lambda: network().prune(X / 0), "at least one sample, and finite x"),
        (lambda: edge_norms(make(5), data(), "max"), "rms or mean_abs"),
        (lambda: edge_norms(make(5), data(0)), "at least one sample"),
    ],
)
def test_unknown_norms_and_samples_without_scores_are_refused(call, said):
    with refuses(said):
        call()


@pytest.mark.parametrize("shape", [(3, 3, 1), (3, 2, 2, 3)])
def test_a_node_adds_its_outer_function_of_its_inner_sum(shape):
    net = network(shape)
    first, second, *_ = net.edge_layers
    inner = torch.linspace(0, 1, first.grid.functions, dtype=torch.float64).expand(3, -1)
    same = add_node(net, inner, lambda t: t.new_zeros(len(t), second.outputs), X)
    assert same.shape == (3, shape[1] + 1, *shape[2:])
    assert_close(same(X), net(X), rtol=0, atol=1e-13)
    wider = add_node(net, inner, lambda t: t.square().expand(-1, second.outputs), X)
    _, node, after = wider.activations(X)[:3]
    change = node[:, -1:].square().expand(-1, second.outputs)
    assert_close(after - net.activations(X)[2], change, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "degree, base",
    cases("""
        3 | zero
        1 | silu
    """),
)
def test_an_identity_layer_keeps_the_function(degree, base):
    net = network(degree=degree, base=base)
    deeper = add_identity_layer(net, X)
    assert deeper.shape == (3, 4, 2, 2)
    assert_close(deeper(X), net(X), rtol=0, atol=1e-12)
