"""Conversion of a KAN to a graph: exact for splines, approximate for other edges."""

import made_kan
import numpy as np
import pytest
import torch

from kanrun.engine.networks.reshaping import with_masks
from kanrun.engine.symbolic.conversions import graph_of, values_of

X = np.random.default_rng(0).uniform(-1, 1, (300, 2))


def network(intervals, precision=torch.float64, **spec):
    generator = torch.Generator().manual_seed(0)
    kan = made_kan.kan([2, 3, 2], intervals, generator=generator, dtype=precision, **spec)
    with torch.no_grad():
        for layer in kan.edge_layers:
            noise = torch.randn(layer.coefficients.shape, generator=generator, dtype=precision)
            layer.coefficients.copy_(0.2 * noise)  # so that hidden values stay inside [-1, 1]
            layer.base_weight.mul_(0.2)
    return kan


def apart(kan, output=1):
    return float(np.abs(graph_of(kan, X, output)(X) - values_of(kan, output)(X)).max())


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("intervals", [3, 7, 30])
def test_splines_on_uniform_grids_are_converted_to_rounding(degree, intervals):
    assert apart(network(intervals, degree=degree, base="zero")) < 1e-11


def test_smooth_base_is_approximated_closely_and_a_step_is_not():
    assert 1e-12 < apart(network(5, base="silu")) < 1e-5
    assert apart(network(5, degree=0, base="zero")) > 1e-3


def test_network_in_single_precision_is_converted_to_its_own_rounding():
    assert apart(network(5, torch.float32, base="zero")) < 1e-5


def test_graph_covers_hidden_values_beyond_their_grid():
    kan = network(5, base="zero")
    with torch.no_grad():
        kan.edge_layers[0].coefficients.mul_(20)  # hidden values leave [-1, 1]
    graph = graph_of(kan, X, 0)
    assert np.abs(graph(X) - values_of(kan, 0)(X)).max() < 0.1 * np.std(graph(X))


def test_pruned_edges_are_left_out():
    kan = network(5, base="zero")
    masks = [layer.mask.clone() for layer in kan.edge_layers]
    masks[0][0, 1] = False
    smaller = with_masks(kan, masks)
    assert graph_of(smaller, X, 0).active_edges == graph_of(kan, X, 0).active_edges - 1
    assert apart(smaller) < 1e-11
