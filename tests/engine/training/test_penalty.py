"""The smoothness penalty compared with its definition, and the choice of its weight."""

from math import factorial

import made_kan
import numpy as np
import pytest
import torch
from scipy.interpolate import KroghInterpolator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.splines import difference_bands
from kanrun.engine.training.objective import (
    SmoothnessLoss,
    SmoothnessPenalty,
)


def network(degree, intervals, scale):
    """Return a KAN with a pruned edge."""
    g = torch.Generator().manual_seed(3)
    domain = torch.tensor([[-1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    kan = KAN.create(
        [2, 3, 1],
        intervals,
        EdgeSpec(degree=degree, edge_scaling=scale, base="silu"),
        domain=domain,
        generator=g,
    )
    for layer in kan.edge_layers:
        (layer.weight if scale == "single" else layer.spline_weight).data.mul_(1.7)
    kan.edge_layers[0].mask[1, 0] = False
    return kan


def by_loops(kan):
    """Return the penalty by loops: divided differences per edge at Greville points."""
    total = 0.0
    for layer in kan.edge_layers:
        m = layer.spec.degree + 2
        k = layer.spec.degree
        knots, (base, scales) = layer.knots.tolist(), layer.scales()
        total += float(base.square().sum())
        for out in range(layer.outputs):
            for into in range(layer.inputs):
                low = knots[into][k]
                high = knots[into][-k - 1]
                c = (scales[out, into] * layer.coefficients[out, into]).detach().numpy()
                xi = np.array([sum(knots[into][n + 1 : n + k + 1]) / k for n in range(len(c))])
                xi = (xi - low) / (high - low)
                for i in range(len(c) - m):
                    near = slice(i, i + m + 1)
                    h = (xi[i + m] - xi[i]) / m
                    divided = KroghInterpolator(xi[near], c[near]).c[m]
                    total += h * (factorial(m) * divided) ** 2
    return total


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("scale", ["separate", "single"])
def test_smoothness_penalty_equals_its_definition_in_loops(degree, scale):
    kan = network(degree, 7, scale)
    expected = by_loops(kan)
    assert float(SmoothnessLoss(kan, SmoothnessPenalty(1.0))(kan).detach()) == pytest.approx(
        expected, rel=1e-9
    )
    rows = kan.penalty_rows()
    assert float(rows.times(kan.get_unknowns()).square().sum()) == pytest.approx(expected, rel=1e-9)


def test_too_few_coefficients_have_no_differences():
    for intervals, rows in ((2, 0), (3, 1)):
        grid = made_kan.kan([1, 1], intervals).edge_layers[0].grid
        assert difference_bands(grid, 5).shape == (1, rows, 6)
