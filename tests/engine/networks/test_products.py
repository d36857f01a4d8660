"""Multiplication nodes: values, derivatives, storing, training and pruning."""

import numpy as np
import torch
from made_kan import kan, points
from torch.testing import assert_close

from kanrun.engine.networks.counting import kan_parameters, size_of
from kanrun.engine.networks.reshaping import prune_edges, scores
from kanrun.engine.symbolic.network_graphs import graph_of


def network(shape=(2, 3, 2, 1), products=(2, 1), **spec):
    made = kan(shape, products=products, **spec)
    with torch.no_grad():
        for layer in made.edge_layers:
            layer.coefficients.mul_(8)
    return made


def test_a_product_node_multiplies_two_sums():
    net = network()
    x = points(40, 2)
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


def test_scores_add_up_and_pruning_keeps_both_factors():
    net = network((2, 2, 1), (1,))
    x = points(40, 2)
    first, last = scores(net, x)
    assert first.shape == (3, 2)
    assert_close(float(last.sum()), 1.0)
    smaller = prune_edges(net, x, 0.3)
    assert smaller.edge_layers[1].mask.any()
    if smaller.edge_layers[1].mask[0, 1]:
        assert smaller.edge_layers[0].mask[1:].any(1).all()


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
