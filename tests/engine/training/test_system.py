"""The linear problem of a step: both solutions meet dense least squares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.least_squares import DenseRows, LocalRows, StreamedRows
from kanrun.engine.networks import KAN, MLP, get_unknowns
from kanrun.engine.training.penalty import smoothness_rows
from kanrun.engine.training.system import LinearSystem, PenalisedSystem


def system(weight: float, seed: int = 0) -> tuple[LinearSystem, LocalRows, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    domain = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    kan = KAN.create([2, 2, 1], 8, EdgeSpec(), domain=domain, initialisation="spline", generator=g)
    x = torch.rand(300, 2, dtype=torch.float64, generator=g) * 2 - 1
    y = torch.sin(3 * x[:, :1]) + x[:, 1:]
    u = get_unknowns(kan)
    problem, rows = LinearSystem(kan, x, y, 0.7, u), smoothness_rows(kan)
    _, jacobian = kan.linearise(x)
    scale = 1 / (0.7 * 300**0.5)
    dense = torch.zeros(300, u.numel(), dtype=torch.float64).scatter_add_(1, jacobian.index, jacobian.values) * scale
    penalty = torch.zeros(len(rows.values), u.numel(), dtype=torch.float64)
    penalty.scatter_add_(1, rows.index, rows.values)
    stacked = torch.cat([dense, weight**0.5 * penalty])
    values = torch.cat([problem.residual, weight**0.5 * penalty @ u])
    return problem, rows, stacked, values


@pytest.mark.parametrize("mu", [1e-8, 1e-2, 10.0])
def test_direct_step_is_the_damped_solution(mu: float) -> None:
    linear, rows, stacked, values = system(1e-8)
    problem = PenalisedSystem(linear, rows, 1e-8, None)
    torch.testing.assert_close(problem.slope, stacked.T @ values)
    step = problem.direct(problem.factor(mu))
    damped = torch.cat([stacked, torch.diag(stacked.norm(dim=0) * mu**0.5)])
    right = torch.cat([values, values.new_zeros(len(step))])
    expected = torch.linalg.lstsq(damped, -right[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-6)


def test_refinement_reaches_the_undamped_minimum_that_normal_equations_miss() -> None:
    """The smallest |A d + b| that dense least squares finds, to the last digits; the direct step stays above it."""
    linear, rows, stacked, _ = system(1e-20)
    linear.residual = stacked[:300] @ torch.linspace(-1, 1, stacked.shape[1], dtype=torch.float64)  # minimum 0
    linear.gradient = stacked[:300].T @ linear.residual
    problem = PenalisedSystem(linear, rows, 0.0, None)
    factor = problem.factor(1e-8)
    direct = problem.direct(factor)
    refined = problem.refined(factor, (30,))[-1]
    size = problem.residual.norm()
    assert (stacked[:300] @ refined + problem.residual).norm() < 1e-11 * size
    assert (stacked[:300] @ direct + problem.residual).norm() > 1e-9 * size


def test_held_unknowns_get_no_step() -> None:
    linear, rows, stacked, _ = system(1e-10)
    held = torch.zeros(stacked.shape[1], dtype=torch.bool)
    held[3:9] = True
    problem = PenalisedSystem(linear, rows, 1e-10, held)
    factor = problem.factor(1e-8)
    direct = problem.direct(factor)
    refined = problem.refined(factor, (5,))[-1]
    assert (direct[held] == 0).all()
    assert (refined[held] == 0).all()
    assert (direct[~held] != 0).any()


def test_other_networks_have_dense_rows() -> None:
    mlp = MLP.create([2, 4, 1], "tanh", generator=torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(10, 2)
    _, rows = mlp.linearise(x)
    assert isinstance(rows, DenseRows)
    assert smoothness_rows(mlp).values.shape[0] == 0


@pytest.mark.parametrize("kind", ["kan", "mlp"])
@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_without_a_matrix_and_piece_by_piece_the_steps_are_the_same(
    kind: str, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What memory cannot hold is made again and again, or never; the problem is the same."""
    g = torch.Generator().manual_seed(0)
    domain = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    x = torch.rand(301, 2, dtype=torch.float64, generator=g) * 2 - 1
    y = torch.stack([torch.sin(3 * x[:, 0]), x[:, 1] ** 2], 1)
    shape = (2, 3, 2)
    network = (
        KAN.create(shape, 6, EdgeSpec(), domain=domain, generator=g)
        if kind == "kan"
        else MLP.create(shape, "tanh", generator=g)
    )
    u, rows = get_unknowns(network), smoothness_rows(network)
    held = torch.zeros_like(u, dtype=torch.bool)
    held[3] = True
    found = []
    for matrix, numbers in ((6000, 1 << 25), (6000, 900), (0, 1 << 25), (0, 900)):
        monkeypatch.setattr("kanrun.engine.training.system.MATRIX_UNKNOWNS", matrix)
        monkeypatch.setattr("kanrun.engine.training.system.HELD_NUMBERS", numbers)
        problem = PenalisedSystem(LinearSystem(network, x, y, 0.7, u), rows, weight, held)
        factor = problem.factor(3.0)
        assert factor is not None
        found.append((problem.direct(factor), problem.sizes, problem.slope, isinstance(problem.rows, StreamedRows)))
    assert [streamed for *_, streamed in found] == [False, True, False, True]
    for step, sizes, slope, _ in found[1:]:
        torch.testing.assert_close(step, found[0][0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(sizes, found[0][1])
        torch.testing.assert_close(slope, found[0][2])
    assert found[0][0][3] == 0
