"""The solver without networks: known minima, a differential equation, and rows of Jacobians."""

import pytest
import torch
from torch.testing import assert_close

from kanrun.engine.least_squares import (
    DenseRows,
    Linearisation,
    LMPolicy,
    LocalRows,
    Problem,
    StoppingCriteria,
    begin,
    levenberg_marquardt,
    minimise,
    step,
)
from kanrun.engine.least_squares import (
    rows as rows_module,
)

POLICIES = {"thorough": LMPolicy(), "quick": LMPolicy(damping_search=False)}


class Rosenbrock(Problem):
    """r = (10 (b - a^2), 1 - a), of minimum 0 at (1, 1)."""

    def __init__(self, start=(-1.2, 1.0)):
        self.unknowns = torch.tensor(start, dtype=torch.float64)

    def residual(self, unknowns):
        a, b = unknowns
        return torch.stack([10 * (b - a**2), 1 - a])

    def linearise(self, unknowns):
        jacobian = torch.tensor(
            [[-20 * float(unknowns[0]), 10.0], [-1.0, 0.0]], dtype=torch.float64
        )
        return Linearisation(DenseRows(jacobian), self.residual(unknowns))


@pytest.mark.parametrize("name", POLICIES)
def test_a_curved_valley_is_followed_to_its_minimum(name):
    state, steps = minimise(
        Rosenbrock(), POLICIES[name], StoppingCriteria(max_steps=60, target_loss=1e-28)
    )
    assert_close(state.unknowns, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert steps < 60


@pytest.mark.parametrize("name", POLICIES)
def test_at_a_minimum_nothing_is_found(name):
    problem = Rosenbrock((1.0, 1.0))
    state = step(problem, begin(problem, POLICIES[name]), POLICIES[name])
    assert not state.improved
    assert torch.equal(state.unknowns, problem.unknowns)


@pytest.mark.parametrize("name", POLICIES)
def test_without_a_matrix_the_minimum_is_the_same(name, monkeypatch):
    monkeypatch.setattr(levenberg_marquardt, "MATRIX_UNKNOWNS", 0)
    state, _ = minimise(Rosenbrock(), POLICIES[name], StoppingCriteria(max_steps=200, rtol=0.0))
    assert state.loss < 1e-20


def test_the_iteration_ends_at_the_floor_and_where_it_gains_little():
    policy = POLICIES["quick"]
    state, steps = minimise(Rosenbrock(), policy, StoppingCriteria(target_loss=1e-3))
    assert 1e-28 < state.loss <= 1e-3
    assert minimise(Rosenbrock(), policy, StoppingCriteria(rtol=1.0, patience=2))[1] == 2
    assert minimise(Rosenbrock(), policy, StoppingCriteria(max_steps=3))[1] == 3 < steps


def test_an_objective_that_is_not_finite_is_left_alone():
    state, steps = minimise(Rosenbrock((float("nan"), 0.0)), LMPolicy(), StoppingCriteria())
    assert (state.loss, steps) == (float("inf"), 0)


def random_rows(rows=40, terms=4, unknowns=25):
    g = torch.Generator().manual_seed(0)
    index = torch.stack([torch.randperm(unknowns, generator=g)[:terms] for _ in range(rows)])
    values = torch.randn(rows, terms, dtype=torch.float64, generator=g)
    dense = values.new_zeros(rows, unknowns).scatter_(1, index, values)
    return LocalRows(index, values, unknowns), dense


@pytest.mark.parametrize("sparse_gain", [0.01, 1e9])
@pytest.mark.parametrize("piece", [1, 60, 1 << 24])
def test_local_rows_are_the_dense_matrix(monkeypatch, sparse_gain, piece):
    monkeypatch.setattr(rows_module, "SPARSE_GAIN", sparse_gain)
    monkeypatch.setattr(rows_module, "PIECE", piece)
    local, dense = random_rows()
    d, r = (
        torch.linspace(-1, 2, 25, dtype=torch.float64),
        torch.linspace(1, 3, 40, dtype=torch.float64),
    )
    assert_close(local.times(d), dense @ d)
    assert_close(local.transposed(r), dense.T @ r)
    assert_close(local.gram(), dense.T @ dense)


def test_blocks_of_a_large_gram(monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK", 3)
    _, dense = random_rows()
    assert_close(DenseRows(dense).gram(), dense.T @ dense)
