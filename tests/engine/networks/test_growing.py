"""A node or a layer more: the function is kept, and the node is the one that was asked for."""

import pytest
import torch
from made_kan import kan, points
from torch.testing import assert_close

from kanrun.engine.networks.reshaping import add_identity_layer, add_node

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


@pytest.mark.parametrize("degree, base", [(3, "zero"), (1, "silu")])
def test_an_identity_layer_keeps_the_function(degree, base):
    network = kan((2, 3, 2), degree=degree, base=base)
    deeper = add_identity_layer(network, X)
    assert deeper.shape == (2, 3, 2, 2)
    assert_close(deeper(X), network(X), rtol=0, atol=1e-12)
