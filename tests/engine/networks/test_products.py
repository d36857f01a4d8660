"""Multiplication nodes: values, scores, pruning and graphs."""

import numpy as np
import torch
from made_kan import kan, points
from torch.testing import assert_close

from kanrun.engine.networks.reshaping import scores, with_masks
from kanrun.engine.symbolic.conversions import graph_of

X = points(200, 2)


def network(shape=(2, 3, 2, 1), products=(2, 1), **spec):
    made = kan(shape, products=products, **spec)
    with torch.no_grad():
        for layer in made.edge_layers:
            layer.coefficients.mul_(8)
    return made


def test_a_product_node_multiplies_two_sums():
    net = network()
    first, second, third = (
        layer(at) for layer, at in zip(net.edge_layers, net.activations(X), strict=False)
    )
    hidden = torch.stack([first[:, 0], first[:, 1] * first[:, 2], first[:, 3] * first[:, 4]], 1)
    assert_close(net.edge_layers[1](hidden), second)
    above = torch.stack([second[:, 0], second[:, 1] * second[:, 2]], 1)
    assert_close(net.edge_layers[2](above), third)
    assert_close(net(X), third)


def test_both_factors_have_the_score_of_their_node_and_are_pruned_with_it():
    net = network((2, 2, 1), (1,))
    first, last = scores(net, X)
    assert_close(first.sum(1), last[0, [0, 1, 1]])
    masks = [layer.mask.clone() for layer in net.edge_layers]
    masks[1][0, 1] = False
    smaller = with_masks(net, masks)
    assert smaller.edge_layers[0].mask.all(1).tolist() == [True, False, False]


def test_the_graph_of_a_network_is_its_function():
    net = network(base="zero")
    for _ in range(2):
        net = net.regrid(X, grid_eps=1.0, margin=0.05).network
    graph = graph_of(net, X.numpy(), 0)
    assert "product" in graph.operations
    np.testing.assert_allclose(graph(X.numpy()), net(X)[:, 0].detach().numpy(), atol=1e-9)
