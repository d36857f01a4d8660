"""Damped least squares: both factorisations against the dense pseudo-solution, and their precision apart."""

from __future__ import annotations

import pytest
import torch

from kanrun.engine.training.damped import Normal, Triangle


def system(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, columns, dtype=torch.float64, generator=g),
        torch.randn(rows, dtype=torch.float64, generator=g),
    )


@pytest.mark.parametrize("method", [Triangle, Normal])
@pytest.mark.parametrize("pieces", [1, 3, 7])
@pytest.mark.parametrize("mu", [1e-12, 1e-3, 10.0])
def test_step_solves_the_damped_problem(method: type, pieces: int, mu: float) -> None:
    a, b = system(60, 12)
    solver = method(zip(a.chunk(pieces), b.chunk(pieces), strict=True))
    scale = a.norm(dim=0)
    stacked = torch.cat([a, torch.diag(scale * mu**0.5)])
    expected = torch.linalg.lstsq(stacked, -torch.cat([b, b.new_zeros(12)])[:, None]).solution[:, 0]
    step = solver.solve(mu)
    torch.testing.assert_close(step, expected, rtol=1e-9, atol=1e-12)
    decrease = b.square().sum() - (a @ step + b).square().sum()
    assert solver.predicted(step) == pytest.approx(float(decrease), rel=1e-10)


@pytest.mark.parametrize("method", [Triangle, Normal])
def test_columns_without_data_get_no_step(method: type) -> None:
    a, b = system(30, 6)
    a[:, 2] = 0
    step = method([(a, b)]).solve(1e-10)
    assert step[2] == 0
    assert torch.isfinite(step).all()


@pytest.mark.parametrize("method", [Triangle, Normal])
def test_rank_deficient_system_is_solved_with_a_small_residual(method: type) -> None:
    a, b = system(40, 5)
    a = torch.cat([a, a[:, :2] + a[:, 2:4]], dim=1)
    step = method([(a, b)]).solve(1e-10)
    best = torch.linalg.lstsq(a, -b[:, None], driver="gelsd").solution[:, 0]
    assert (a @ step + b).norm() == pytest.approx(float((a @ best + b).norm()), rel=1e-8)


def test_fewer_rows_than_unknowns() -> None:
    a, b = system(4, 9)
    step = Triangle([(a, b)]).solve(1e-12)
    assert (a @ step + b).norm() < 1e-4 * b.norm()


def test_triangle_keeps_digits_that_normal_equations_lose() -> None:
    a, _ = system(50, 8)
    a = a @ torch.diag(torch.ones(8, dtype=torch.float64))
    a[:, 7] = a[:, 6] + 1e-9 * a[:, 7]  # condition 1e9: its square is beyond double precision
    truth = torch.linspace(1, 2, 8, dtype=torch.float64)
    b = -(a @ truth)
    precise = Triangle([(a, b)]).solve(1e-30)
    assert (precise - truth).abs().max() < 1e-5
    loose = Normal([(a, b)]).solve(1e-30)
    assert loose is None or (loose - truth).abs().max() > 1e-3


def test_further_rows_equal_a_fresh_factorisation() -> None:
    a, b = system(40, 6)
    more = Triangle([(a[:25], b[:25])]).with_rows(a[25:], b[25:])
    torch.testing.assert_close(more.solve(1e-6), Triangle([(a, b)]).solve(1e-6), rtol=1e-10, atol=1e-13)
