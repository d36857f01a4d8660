"""Network fits as least-squares problems, compared with dense linear algebra."""

import pytest
import torch
from made_kan import kan, mlp, points
from torch.testing import assert_close

from kanrun.engine import least_squares
from kanrun.engine.least_squares import NormalEquations, StackedRows
from kanrun.engine.training import (
    DataFitting,
    LevenbergMarquardt,
    Objective,
    Samples,
    SmoothnessPenalty,
    objective,
)


def problem(weight):
    """Return a fit, and its Jacobian rows and residuals as dense arrays."""
    network = kan([2, 2, 1], 8, initialisation="spline")
    x = points(300, 2)
    y = torch.sin(3 * x[:, :1]) + x[:, 1:]
    objective = Objective(Samples(x, y), 0.7, penalty=SmoothnessPenalty(weight))
    fitting = DataFitting(network, objective)
    output, jacobian = network.linearise(x)
    factor = 1 / (0.7 * 300**0.5)
    rough = weight**0.5 * network.penalty_rows().dense()
    stacked = torch.cat([jacobian.dense() * factor, rough])
    values = torch.cat([(output - y).flatten() * factor, rough @ fitting.unknowns])
    return fitting, stacked, values


def test_residuals_rows_and_objective_belong_together():
    fitting, stacked, values = problem(1e-8)
    linear = fitting.linearise(fitting.unknowns)
    assert isinstance(linear.rows, StackedRows)
    assert_close(linear.residual, values)
    assert_close(fitting.residual(fitting.unknowns), values)
    assert_close(linear.rows.gram(), stacked.T @ stacked)
    assert_close(linear.rows.squares(), stacked.square().sum(0))
    found = fitting.objective(fitting.unknowns)
    assert found == pytest.approx(float(values.square().sum()), rel=1e-12)


@pytest.mark.parametrize("mu", [1e-8, 1e-2, 10.0])
def test_direct_step_is_the_damped_solution(mu):
    fitting, stacked, values = problem(1e-8)
    equations = NormalEquations(fitting.linearise(fitting.unknowns))
    assert_close(equations.gradient, stacked.T @ values)
    step = -equations.solver(mu)(equations.gradient)
    damped = torch.cat([stacked, torch.diag(stacked.norm(dim=0) * mu**0.5)])
    right = torch.cat([values, values.new_zeros(len(step))])
    expected = torch.linalg.lstsq(damped, -right[:, None], driver="gelsd").solution[:, 0]
    assert_close(step, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "network, weight",
    [(kan((2, 3, 2), 6), 1e-12), (mlp((2, 3, 2)), 0.0)],
)
def test_steps_are_the_same_with_and_without_a_stored_matrix(monkeypatch, network, weight):
    """Jacobian rows that do not fit into memory are recomputed; the steps must be the same."""
    x = points(61, 2)
    samples = Samples(x, torch.stack([torch.sin(3 * x[:, 0]), x[:, 1] ** 2], 1))
    monkeypatch.setattr(least_squares, "CG_TOLERANCE", 1e-12)
    found = []
    for matrix, numbers, streams in (
        (6000, 1 << 25, False),
        (6000, 900, True),
        (0, 1 << 25, False),
        (0, 900, True),
    ):
        monkeypatch.setattr(objective, "JACOBIAN_NUMBERS", numbers)
        monkeypatch.setattr(least_squares, "MATRIX_UNKNOWNS", matrix)
        given = Objective(samples, 0.7, penalty=SmoothnessPenalty(weight))
        fitting = DataFitting(network, given)
        linear = fitting.linearise(fitting.unknowns)
        blocks = len(list(linear.rows.blocks())) if isinstance(linear.rows, StackedRows) else 1
        assert (blocks - bool(len(fitting.penalty_rows)) > 1) == streams
        equations = NormalEquations(linear)
        step = equations.solver(3.0)(equations.gradient)
        found.append((step, equations.squared_norms, equations.gradient))
    for step, *others in found[1:]:
        assert_close(step, found[0][0], rtol=1e-6, atol=1e-7)
        assert_close(others, list(found[0][1:]))


def test_coefficients_do_not_drift_without_penalty():
    """Constants can be moved between edges into the same node; steps must not let them drift."""
    x = points(300, 2, seed=2)
    data = Samples(x, torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)
    network = kan((2, 2, 1), initialisation="spline")
    solver = LevenbergMarquardt(DataFitting(network, Objective(data, 1.0)))
    for _ in range(30):
        solver.step()
    finer = network.refined(8, x)
    assert float(network.get_unknowns().abs().max()) < 1e5
    assert finer.how == "insertion"
    assert finer.change < 1e-12
