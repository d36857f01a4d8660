"""LBFGS: its metric compared with the Hessian, and its line search."""

from math import inf, log

import pytest
import torch
from cases import cases
from made_kan import kan, made_solver, points

from kanrun.engine.splines import difference_operator
from kanrun.engine.training import (
    Objective,
    Plan,
    Samples,
    SmoothnessPenalty,
    TrainingData,
    solvers,
)
from kanrun.engine.training.solvers import ENOUGH, REMAINING, Curvature, LinePoint, search


@pytest.mark.parametrize(
    "scale, size, weight",
    cases("""
        1.0 | 1.0 | 0.0
        3.0 | 0.5 | 0.0
        2.0 | 1.0 | 1e-09
    """),
)
def test_one_edge_has_the_inverse_of_its_hessian(scale, size, weight):
    network = kan((1, 1), 6, base="zero")
    x = points(1000, 1)
    (layer,) = network.edge_layers
    layer.spline_weight.data.fill_(scale)
    coefficients = layer.coefficients

    def objective(c):
        y = torch.func.functional_call(network, {"layers.0.coefficients": c}, (x,))
        return (y / size).square().mean()

    hessian = torch.autograd.functional.hessian(objective, coefficients.detach()).view(9, 9)
    differences = difference_operator(layer.grid, 5)[0] * scale
    hessian = hessian + 2 * weight * differences.T @ differences
    smooth = Objective(Samples(x, x), size, penalty=SmoothnessPenalty(weight))
    metric = Curvature(network, smooth, 0.0)
    # The two smallest eigenvalues depend on the damping.
    for direction in torch.linalg.eigh(hessian).eigenvectors.T[2:]:
        solved = metric.solve(coefficients, (hessian @ direction).view(1, 1, 9)).view(9)
        torch.testing.assert_close(solved, direction, rtol=0, atol=0.02)


def _at(line):
    def look(t):
        value, slope = line(t)
        return LinePoint(t, value, torch.tensor([slope]), slope)

    return look


def _quadratic(t):
    return (t - 3) ** 2, 2 * (t - 3)


def _barrier(t):
    """Return value and slope of a function that falls up to t = 1, where it becomes infinite."""
    return (-t - 0.01 * log(1 - t), -1 + 0.01 / (1 - t)) if t < 1 else (inf, inf)


@pytest.mark.parametrize("line", [_quadratic, _barrier])
@pytest.mark.parametrize("first", [1e-4, 1.0, 50.0])
def test_line_search_meets_the_strong_wolfe_conditions(line, first):
    look = _at(line)
    start = look(0.0)
    found = search(look, start, first)
    assert found.value <= start.value + ENOUGH * found.t * start.slope
    assert abs(found.slope) <= REMAINING * abs(start.slope)


def test_line_search_returns_the_start_if_values_only_rise():
    look = _at(lambda t: (1 + t, 1.0))
    start = LinePoint(0.0, 1.0, torch.tensor([-1.0]), -1.0)  # rounding can make a slope wrong
    assert search(look, start, 1.0) is start


def test_a_search_that_finds_nothing_ends_the_steps(monkeypatch):
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    solver = made_solver(kan([1, 1]), TrainingData(Samples(x, x.sin())), Plan("lbfgs", (4,)))
    monkeypatch.setattr(solvers, "search", lambda line, start, first: start)
    solver.step()
    assert solver.converged
