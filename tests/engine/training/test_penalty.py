"""The smoothness penalty against its definition, its weight by evidence and by validation."""

from math import factorial

import made_kan
import numpy as np
import pytest
import torch
from scipy.interpolate import KroghInterpolator
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.splines import difference_bands
from kanrun.engine.training import Plan, Samples, TrainingData, fit
from kanrun.engine.training.data import output_scale
from kanrun.engine.training.objective import (
    SmoothnessLoss,
    SmoothnessPenalty,
    update_penalty_weight,
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
    with torch.no_grad():
        for layer in kan.edge_layers:
            (layer.weight if scale == "single" else layer.spline_weight).mul_(1.7)
        kan.edge_layers[0].mask[1, 0] = False
    return kan


def by_loops(kan):
    """Divided differences, per edge, on Greville points of the unit domain."""
    total = 0.0
    for layer in kan.edge_layers:
        m, k = layer.spec.degree + 2, layer.spec.degree
        knots, (base, scales) = layer.knots.tolist(), layer.scales()
        total += float(base.square().sum())
        for out in range(layer.outputs):
            for into in range(layer.inputs):
                low, high = knots[into][k], knots[into][-k - 1]
                c = (scales[out, into] * layer.coefficients[out, into]).detach().numpy()
                xi = np.array([sum(knots[into][n + 1 : n + k + 1]) / k for n in range(len(c))])
                xi = (xi - low) / (high - low)
                for i in range(len(c) - m):
                    near, h = slice(i, i + m + 1), (xi[i + m] - xi[i]) / m
                    divided = KroghInterpolator(xi[near], c[near]).c[m]
                    total += h * (factorial(m) * divided) ** 2
    return total


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("scale", ["separate", "single"])
def test_penalty_is_its_definition(degree, scale):
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


def noisy(points):
    x = made_kan.points(points, 1, seed=3)
    return Samples(x, torch.sin(4 * x) + 0.3 * made_kan.normal(points, 1, seed=4))


def line_kan(generator):
    return made_kan.kan([1, 1], 16, trained_scales="none", generator=generator)


def test_the_iteration_ends_where_the_evidence_is_largest():
    samples, smoothing, plan = noisy(80), SmoothnessPenalty(1e-6, 2), Plan("lm", (16,))
    network = line_kan(Generator().manual_seed(0))
    for _ in range(12):
        solver = made_kan.made_solver(network, TrainingData(samples), plan, smoothing)
        for _ in range(3):
            solver.step()
        smoothing = SmoothnessPenalty(update_penalty_weight(network, samples, smoothing)[0], 2)
    rows = network.linearise(samples.x)[1].gram() / (80 * output_scale(samples, "regression") ** 2)
    rough = SmoothnessPenalty(1.0, 2).rows(network).gram()

    def minus_twice_the_evidence(weight):
        """Up to a constant, without the noise; the penalty leaves 2 of 19 coefficients free."""
        solver = made_kan.made_solver(
            network, TrainingData(samples), plan, SmoothnessPenalty(weight, 2)
        )
        for _ in range(4):
            solver.step()
        objective = torch.tensor(solver.loss, dtype=torch.float64).log()
        return float(
            78 * objective
            + torch.logdet(rows + weight * rough)
            - 17 * torch.tensor(weight).double().log()
        )

    best = minus_twice_the_evidence(smoothing.weight)
    assert best < min(minus_twice_the_evidence(smoothing.weight * factor) for factor in (0.8, 1.25))


def test_all_noisy_points_train_and_the_result_is_nearer_to_the_truth():
    plan = Plan("lm", (5, 20), selection="evidence")
    trained = fit(line_kan, TrainingData(noisy(100)), plan, Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    with torch.no_grad():
        assert float((trained.network(x) - torch.sin(4 * x)).square().mean().sqrt()) < 0.1
    assert trained.errors.validation is None
    assert 0.2 < trained.errors.train < 0.35
