"""The least-squares solver on small problems without networks, and its Jacobian rows."""

import pytest
import torch
from cases import cases
from made_kan import normal
from torch.func import jacrev
from torch.testing import assert_close

from kanrun.engine import least_squares
from kanrun.engine.least_squares import (
    DenseRows,
    Linearisation,
    LMPolicy,
    LocalRows,
    NormalEquations,
    Problem,
    State,
    StoppingCriteria,
    begin,
    minimise,
    step,
)
from kanrun.engine.least_squares import (
    rows as rows_module,
)

QUICK = LMPolicy(damping_search=False)
POLICIES = pytest.mark.parametrize("policy", [LMPolicy(), QUICK], ids=["thorough", "quick"])


class Residuals(Problem):
    """Residuals given by a function of the unknowns."""

    def __init__(self, function, start):
        self.residual = function
        self.unknowns = torch.tensor(start, dtype=torch.float64)

    def linearise(self, unknowns):
        return Linearisation(DenseRows(jacrev(self.residual)(unknowns)), self.residual(unknowns))


def rosenbrock(start=(-1.2, 1.0)):
    """Return residuals r = (10 (b - a^2), 1 - a), whose sum of squares is 0 at (1, 1)."""
    return Residuals(lambda u: torch.stack([10 * (u[1] - u[0] ** 2), 1 - u[0]]), start)


@POLICIES
def test_a_curved_valley_is_followed_to_its_minimum(policy):
    stopping = StoppingCriteria(max_steps=60, target_loss=1e-28)
    state, steps = minimise(rosenbrock(), policy, stopping)
    assert_close(state.unknowns, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert steps < 60


@POLICIES
def test_step_from_a_minimum_changes_nothing(policy):
    problem = rosenbrock((1.0, 1.0))
    state = step(problem, begin(problem, policy), policy)
    assert not state.improved
    assert torch.equal(state.unknowns, problem.unknowns)


def test_the_iteration_ends_at_the_floor_and_where_it_gains_little():
    state, steps = minimise(rosenbrock(), QUICK, StoppingCriteria(target_loss=1e-3))
    assert 1e-28 < state.loss <= 1e-3
    assert minimise(rosenbrock(), QUICK, StoppingCriteria(rtol=1.0, patience=2))[1] == 2
    assert minimise(rosenbrock(), QUICK, StoppingCriteria(max_steps=3))[1] == 3 < steps


def test_objective_that_is_not_finite_ends_the_iteration_at_once():
    state, steps = minimise(rosenbrock((float("nan"), 0.0)), LMPolicy(), StoppingCriteria())
    assert (state.loss, steps) == (float("inf"), 0)


@pytest.mark.parametrize("sparse_gain", [0.01, 1e9])
@pytest.mark.parametrize("piece", [1, 60, 1 << 24])
def test_local_rows_multiply_as_the_dense_matrix_does(monkeypatch, sparse_gain, piece):
    monkeypatch.setattr(rows_module, "SPARSE_GAIN", sparse_gain)
    monkeypatch.setattr(rows_module, "PIECE", piece)
    index = normal(40, 25).argsort(1)[:, :4].contiguous()
    local = LocalRows(index, normal(40, 4), 25)
    dense = torch.zeros(40, 25, dtype=torch.float64).scatter_(1, index, normal(40, 4))
    d = torch.linspace(-1, 2, 25, dtype=torch.float64)
    r = torch.linspace(1, 3, 40, dtype=torch.float64)
    assert_close(local.times(d), dense @ d)
    assert_close(local.transposed(r), dense.T @ r)
    assert_close(local.gram(), dense.T @ dense)


def test_gram_matrix_computed_in_blocks_is_the_same(monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK", 3)
    dense = normal(40, 25)
    assert_close(DenseRows(dense).gram(), dense.T @ dense)


def linear():
    """Return linear residuals r = J u - y with ten random rows and four unknowns."""
    rows = normal(10, 4)
    y = normal(10, seed=1)
    return Residuals(lambda u: rows @ u - y, [0.0] * 4)


@pytest.mark.parametrize("damping", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(
    "matrix, iterations",
    cases("""
        6000 | 60
        0 | 60
        0 | 2
    """),
)
def test_the_gain_ratio_of_a_linear_problem_is_1(damping, matrix, iterations, monkeypatch):
    """By Cholesky, by conjugate gradients, and by only two iterations of them."""
    monkeypatch.setattr(least_squares, "MATRIX_UNKNOWNS", matrix)
    monkeypatch.setattr(least_squares, "CG_MAX_ITERATIONS", iterations)
    divisors = ((1 + 1e-9, 100.0), (1 - 1e-9, 2.0))
    policy = LMPolicy(damping, damping_search=False, damping_decrease=divisors)
    problem = linear()
    state = step(problem, begin(problem, policy), policy)
    assert state.damping == damping / 2
    assert state.truncated == (iterations == 2 and damping < 1e4)


def test_no_step_is_taken_if_the_factorisation_fails(monkeypatch):
    problem = linear()
    equations = NormalEquations(problem.linearise(problem.unknowns))
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrix: (matrix, torch.tensor(1)))
    assert equations.solver(0.0)(equations.gradient).isnan().all()
    state = step(problem, begin(problem, QUICK), QUICK)
    assert not state.improved
    assert torch.equal(state.unknowns, problem.unknowns)


@pytest.mark.parametrize(
    "before, move", [(1.0, 0.75), (62.0, 0.75), (63.0, 1.0), (0.0157, 0.75), (0.0156, 1.0)]
)
def test_step_is_corrected_by_the_second_derivative(before, move):
    """For r = u + u^2 / 4 - 1 at u = 0, the uncorrected step is 1 and overshoots.

    r'' = 1/2 corrects it by -1/4; the residual is then -7/64. No correction is tried if the
    objective after the uncorrected step, relative to that before, is below 1e-3 or above 4.
    """
    problem = Residuals(lambda u: u + u**2 / 4 - 1, [0.0])
    equations = NormalEquations(problem.linearise(problem.unknowns))
    state = State(problem.unknowns, before, 0.0, True)
    _, found = least_squares._damped_step(problem, equations, state, 0.0)
    assert float(found) == pytest.approx(move, rel=1e-6)
