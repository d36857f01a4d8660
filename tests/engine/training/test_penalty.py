"""The smoothness penalty compared with its definition, and the choice of its weight."""

from math import factorial

import made_kan
import numpy as np
import pytest
from scipy.interpolate import KroghInterpolator

from kanrun.engine.splines import difference_bands
from kanrun.engine.training.objective import (
    SmoothnessLoss,
    SmoothnessPenalty,
)


def network(degree, intervals):
    """Return a KAN with a pruned edge, whose inputs have different domains."""
    kan = made_kan.kan([2, 3, 1], intervals, degree=degree, high=2.0)
    for layer in kan.edge_layers:
        layer.spline_weight.data.mul_(1.7)
    kan.edge_layers[0].mask[1, 0] = False
    kan.edge_layers[0].knots[1] *= 0.4
    return kan


def by_loops(kan):
    """Return the penalty by loops: divided differences per edge at Greville points."""
    total = 0.0
    for layer in kan.edge_layers:
        k = layer.spec.degree
        m = k + 2
        base, scales = layer.scales()
        total += float(base.detach().square().sum())
        edges = (scales[..., None] * layer.coefficients).detach().numpy()
        for out, into in np.ndindex(layer.outputs, layer.inputs):
            c = edges[out, into]
            knots = layer.knots[into].numpy()
            xi = np.array([knots[n + 1 : n + k + 1].mean() for n in range(len(c))])
            xi = (xi - knots[k]) / (knots[-k - 1] - knots[k])
            for i in range(len(c) - m):
                near = slice(i, i + m + 1)
                h = (xi[i + m] - xi[i]) / m
                divided = KroghInterpolator(xi[near], c[near]).c[m]
                total += h * (factorial(m) * divided) ** 2
    return total


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_smoothness_penalty_equals_its_definition_in_loops(degree):
    kan = network(degree, 7)
    expected = pytest.approx(by_loops(kan), rel=1e-9)
    assert float(SmoothnessLoss(kan, SmoothnessPenalty(1.0))(kan).detach()) == expected
    assert float(kan.penalty_rows().times(kan.get_unknowns()).square().sum()) == expected


def test_too_few_coefficients_have_no_differences():
    for intervals, rows in ((2, 0), (3, 1)):
        grid = made_kan.kan([1, 1], intervals).edge_layers[0].grid
        assert difference_bands(grid, 5).shape == (1, rows, 6)
