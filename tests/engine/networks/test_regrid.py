"""Transfer of a KAN to other grids: exact if they contain the old ones, otherwise close."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_kan import kan, normal, points
from torch.testing import assert_close


def rough(shape, intervals, seed=0, **spec):
    """Return a KAN with random weights of any size; edge (0, 1) of each layer is pruned."""
    network = kan(shape, intervals, seed=seed, high=1.5, **spec)
    with torch.no_grad():
        for layer in network.edge_layers:
            seed += 1
            layer.coefficients += normal(*layer.coefficients.shape, seed=seed)
            layer.spline_weight.mul_(1.7)
            layer.mask[0, 1:2] = False
    return network


def data(network, samples=200, spread=1.0, seed=1):
    return 0.25 + 1.25 * spread * points(samples, network.shape[0], seed=seed)


@settings(max_examples=15)
@given(
    widths=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    degree=st.integers(1, 5),
    intervals=st.integers(1, 6),
    factor=st.integers(1, 5),
    outside=st.sampled_from(["linear", "constant", "base"]),
    seed=st.integers(0, 1000),
)
def test_refining_to_a_multiple_is_exact_through_all_layers(
    widths, degree, intervals, factor, outside, seed
):
    # Hidden values leave their grids, so the extrapolation is tested too.
    network = rough(widths, intervals, seed, degree=degree, extrapolation=outside)
    x = data(network, 100, 1.6, seed)
    new = network.refined(intervals * factor, x)
    assert new.how == "insertion"
    assert new.network.intervals == intervals * factor
    slope = 1.0  # of the edges, by which rounding in the layers below is multiplied
    for layer, t in zip(network.edge_layers, network.activations(x), strict=False):
        slope = max(slope, float(layer.edge_values(t, 1).detach().abs().max()))
    size = max(1.0, float(network(data(network)).detach().abs().max()))
    rounding = 1e-12 * slope ** (len(widths) - 2) * size
    assert_close(new.network(x), network(x), atol=rounding, rtol=1e-12)


def test_transfer_to_other_grids_reports_the_change():
    network = rough([2, 3, 1], 4)
    x = data(network, 300)
    new = network.refined(30, x)
    assert new.how == "least squares"
    differences = (new.network(x) - network(x)).abs(), network(x).abs()
    moved, size = (float(y.flatten().sort().values[296]) for y in differences)
    assert new.change == pytest.approx(moved / size)  # without the 3 largest of 300
    assert 0 < new.change < 0.05
    assert network.refined(300, x).how == "insertion"


def test_hidden_grids_follow_what_reaches_them():
    network = rough([2, 3, 1], 20)
    x = data(network, 300)
    new = network.regrid(x, grid_eps=1.0, margin=0.05).network
    reaching = network.activations(x)[1]
    points = new.edge_layers[1].grid.breakpoints
    width = reaching.amax(0) - reaching.amin(0)
    assert_close(points[:, 0], reaching.amin(0) - 0.05 * width)
    assert_close(points[:, -1], reaching.amax(0) + 0.05 * width)
    assert torch.equal(new.edge_layers[0].knots, network.edge_layers[0].knots)


@pytest.mark.parametrize("adapt", [0.0, 0.3])
@pytest.mark.parametrize("far", [50.0, 1000.0])
def test_an_outlier_leaves_the_function_where_the_data_lie(far, adapt):
    network = rough([2, 3, 1], 8)
    x = data(network, 500, 0.8)
    network = network.regrid(x, grid_eps=1.0, margin=0.05).network
    with_outlier = x.clone()
    with_outlier[0, 0] = far

    def change(new):
        return float((new(x[1:]) - network(x[1:])).abs().max() / network(x[1:]).abs().max())

    for more in ({}, {"intervals": 16}, {"inputs": "within"}):
        without, found = (
            network.regrid(at, grid_eps=1 - adapt, margin=0.05, **more) for at in (x, with_outlier)
        )
        moved = change(found.network)
        assert moved <= 1.2 * change(without.network) + 0.02
        assert 0.5 * moved - 1e-3 <= found.change <= 1.1 * moved + 1e-12
        assert torch.equal(*(net.edge_layers[0].grid.low for net in (found.network, network)))
        assert torch.equal(*(net.edge_layers[0].grid.high for net in (found.network, network)))
