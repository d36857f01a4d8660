"""Settings become a plan and fresh networks, for models of other packages as for kanrun's own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from kanrun.config import (
    MODELS,
    AdamSolver,
    AutoSolver,
    ExperimentConfig,
    KANConfig,
    LBFGSSolver,
    LMSolver,
    MLPConfig,
    NamedTarget,
    PolynomialConfig,
    SamplingConfig,
)
from kanrun.config.registry import ModelKind
from kanrun.engine.networks import Network
from kanrun.engine.training import Plan
from kanrun.errors import UsageError
from kanrun.study.build import PlanningPolicy, factory, make_plan
from kanrun.study.problem import LearningProblem, make_problem


class Waves(Network):
    """A sum of sines, as another package might declare it."""

    kind = "waves"

    def __init__(self, terms: int, inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(terms, inputs, dtype=torch.float64))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weights.shape[1], 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x @ self.weights.T).sum(-1, keepdim=True)


@dataclass
class WavesConfig:
    """Sines."""

    terms: int = 7
    kind: str = "waves"


def make_waves(model: WavesConfig, problem: LearningProblem, _: Generator) -> Network:
    return Waves(model.terms, problem.inputs)


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> WavesConfig:
    kind = ModelKind("waves", "Sines.", WavesConfig, f"{__name__}:make_waves", label="sines")
    monkeypatch.setitem(MODELS._kinds, "waves", kind)
    monkeypatch.setattr(
        ModelKind, "build", lambda self: make_waves if self.name == "waves" else None
    )
    return WavesConfig()


def problem(name: str = "product") -> LearningProblem:
    return make_problem(
        ExperimentConfig(device="cpu"), NamedTarget(name), SamplingConfig(n_train=60, n_test=10), 0
    )


def test_settings_that_a_plan_knows_are_carried_over() -> None:
    solver = LBFGSSolver(
        steps=7,
        history_size=5,
        sparsity=0.1,
        sparsity_norm="mean_abs",
        patience=3,
        freeze_unseen=True,
    )
    model = KANConfig(intervals=[4, 8], update_grid=False, grid_eps=0.25)
    plan, why = make_plan(model, solver, problem())
    assert why.startswith(
        "lbfgs: asked for. solver.freeze_unseen holds coefficients and w_b; w_s moves"
    )
    assert (plan.solver, plan.intervals, plan.steps, plan.history_size) == ("lbfgs", (4, 8), 7, 5)
    assert (plan.sparsity, plan.sparsity_norm, plan.patience) == (0.1, "mean_abs", 3)
    assert (plan.freeze_unseen, plan.update_grid, plan.grid_eps) == (True, False, 0.25)


@pytest.mark.parametrize("solver", [AutoSolver, LMSolver, LBFGSSolver, AdamSolver])
def test_every_setting_of_a_solver_has_a_place_in_the_plan(solver: type[Any]) -> None:
    """One that is added to a solver and forgotten here would be shown, and not used."""
    planned = {field.name for field in fields(Plan)} | {"kind", "smoothness_weight", "n_starts"}
    of_adam = {"learning_rate", "lr_schedule", "batch_size", "weight_decay"}  # in `adam`
    of_lm = {"damping", "tolerance", "plateau_tolerance"}  # in `policy`
    assert {field.name for field in fields(solver)} <= planned | of_adam | of_lm


def test_a_model_of_another_package_is_planned_by_what_it_trains(waves: WavesConfig) -> None:
    plan, why = make_plan(waves, AutoSolver(), problem())
    assert plan.solver == "lm"
    assert why.startswith("lm: 14 parameters on ")
    assert plan.intervals == ()
    assert plan.patience == PlanningPolicy().patience  # nothing else keeps it from overfitting
    assert factory(waves, problem(), "lm")(Generator()).count() == 14
    with pytest.raises(UsageError, match="weighs edges of a KAN, which model=waves has none of"):
        make_plan(waves, LBFGSSolver(sparsity=0.1), problem())


def test_a_model_with_a_closed_form_has_no_patience() -> None:
    plan, _ = make_plan(PolynomialConfig(), LMSolver(), problem("runge"))
    assert plan.patience is None
    assert make_plan(MLPConfig(), LMSolver(), problem())[0].patience == PlanningPolicy().patience


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 5])
def test_the_weight_of_lbfgs_is_that_of_one_grid_for_all_degrees(degree: int) -> None:
    policy = PlanningPolicy()
    intervals = policy.lbfgs_weight(3) ** (-1 / 9)
    assert policy.lbfgs_weight(degree) == pytest.approx(intervals ** (1 - 2 * (degree + 2)))


def test_another_policy_is_followed() -> None:
    policy = PlanningPolicy(intervals=(3, 6), coefficients=50)
    plan, _ = make_plan(KANConfig(hidden=[2], intervals="auto"), AutoSolver(), problem(), policy)
    assert (plan.intervals, plan.most_unknowns, plan.stop_early) == ((3, 6), 56, True)


def test_damping_and_tolerances_of_levenberg_marquardt_reach_its_policy() -> None:
    solver = LMSolver(damping=0.5, tolerance=0.0, plateau_tolerance=0.1)
    policy = make_plan(KANConfig(intervals=[4, 8]), solver, problem())[0].policy
    assert (policy.grids.hardly, policy.grids.stalled) == (0.0, 0.1)
    assert {policy.lm.damping, policy.large_damping, policy.lm_without_grid.damping} == {0.5}
