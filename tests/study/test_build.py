"""Plans of trainings and new networks, made from settings; also for models of other packages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kanrun.experiments.fit.config import FitConfig
from torch import Generator

from kanrun.config import ExperimentConfig, SamplingConfig
from kanrun.engine.training import Clock, LevenbergMarquardt, Setup, SmoothnessPenalty
from kanrun.errors import UsageError
from kanrun.model.planning import factory, make_plan
from kanrun.model.settings import (
    AutoSolver,
    BSplineConfig,
    KANConfig,
    LBFGSSolver,
    LMSolver,
    MLPConfig,
    PolynomialConfig,
)
from kanrun.study.resources import TimeLimit, estimate_memory, make_problem
from kanrun.targets.arrays import array_target
from kanrun.targets.settings import NamedTarget, TableTarget


def problem(name="product"):
    return make_problem(
        ExperimentConfig(device="cpu"), NamedTarget(name), SamplingConfig(n_train=60, n_test=10), 0
    )


def of_arrays(outputs, inputs=2, classification=False):
    x = np.random.default_rng(0).normal(size=(60, inputs))
    given = array_target(x, outputs(x), classification=classification)
    sampling = SamplingConfig(n_train=None, n_test=None)
    return make_problem(ExperimentConfig(device="cpu"), given, sampling, 0)


def classes(inputs=2):
    return of_arrays(lambda x: x[:, 0] > 0, inputs, classification=True)


def test_plan_has_the_values_of_the_settings():
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
    assert why.startswith("lbfgs: chosen by solver=lbfgs.")
    assert (plan.solver, plan.intervals, plan.steps, plan.patience) == ("lbfgs", (4, 8), 7, 3)
    # history_size, sparsity and sparsity_norm reach the solver through the settings.
    assert plan.settings is solver
    assert (plan.freeze_unseen, plan.update_grid, plan.grid_eps) == (True, False, 0.25)


@pytest.mark.parametrize(
    "solver, frozen, moves",
    [
        (LBFGSSolver(freeze_unseen=True), False, True),
        (LBFGSSolver(freeze_unseen=True), True, False),
        (LMSolver(freeze_unseen=True), False, False),
        (LBFGSSolver(), False, False),
    ],
)
def test_trained_scales_that_move_a_frozen_function_are_named(solver, frozen, moves):
    _, why = make_plan(KANConfig(hidden=[2], freeze_scales=frozen), solver, problem())
    assert ("w_s moves the function" in why) == moves


def test_a_closed_form_has_one_start_and_neither_patience_nor_a_penalty():
    plan, _ = make_plan(PolynomialConfig(), LMSolver(n_starts=4), problem("runge"))
    assert (plan.patience, plan.starts, plan.weight) == (None, 1, 0)
    assert make_plan(MLPConfig(), LMSolver(), problem())[0].patience == 20


def test_the_shape_of_a_classifier_grows_unless_it_or_its_solver_is_given():
    for model, solver, grows in (
        (KANConfig(), AutoSolver(), True),
        (KANConfig(hidden=[2]), AutoSolver(), False),
        (KANConfig(), LBFGSSolver(), False),
        (MLPConfig(), AutoSolver(), False),
    ):
        plan, _ = make_plan(model, solver, classes())
        assert plan.solver == "lbfgs"
        assert bool(plan.growth) == grows
        assert not plan.insert_knots
    assert make_plan(KANConfig(), AutoSolver(), classes())[0].starts == 8
    assert not make_plan(KANConfig(), AutoSolver(), classes(40))[0].growth  # too many edges


def test_an_automatic_schedule_is_nested():
    plan, _ = make_plan(KANConfig(hidden=[2], intervals="auto"), AutoSolver(), problem())
    assert plan.intervals == tuple(4 * 2**i for i in range(9))
    assert plan.stop_early


def test_damping_and_tolerances_reach_levenberg_marquardt():
    solver = LMSolver(damping=0.5, tolerance=0.0, plateau_tolerance=0.1)
    data = problem()
    model = KANConfig(intervals=[4, 8])
    plan, _ = make_plan(model, solver, data)
    network = factory(model, data)(Generator().manual_seed(0))
    made = Setup(data.data, plan, Generator(), Clock()).solver(network, SmoothnessPenalty())
    assert (made.tolerance, made.plateau_tolerance) == (0.0, 0.1)
    assert isinstance(made, LevenbergMarquardt)
    assert made.policy.damping == 0.5


@pytest.mark.parametrize(
    "model, solver, starts, growth",
    [
        (KANConfig(), LMSolver(), 8, ((2, 6, 1, 1), False)),
        (KANConfig(budget="thorough"), LMSolver(n_starts=5), 5, ((2, 12, 1, 1), False)),
        (KANConfig(hidden=[2]), LMSolver(), 8, ((2, 2, 1), True)),
        # 48 and 51 edges.
        (KANConfig(hidden=[16]), LMSolver(), 8, ((2, 16, 1), True)),
        (KANConfig(hidden=[17]), LMSolver(), 3, ((2, 17, 1), True)),
        # One node has no smaller shape, and comparing shapes needs several starts.
        (KANConfig(hidden=[1]), LMSolver(), 8, None),
        (KANConfig(hidden=[2]), LMSolver(n_starts=1), 1, None),
        (KANConfig(hidden=[2]), LMSolver(select_width=False), 8, None),
        (KANConfig(hidden=[2], multiplication_nodes=[1]), LMSolver(), 8, None),
        (KANConfig(hidden=[2]), LBFGSSolver(), 1, None),
        (MLPConfig(hidden=[2]), LMSolver(), 8, None),
    ],
)
def test_starts_and_growth_follow_from_the_size_and_the_settings(model, solver, starts, growth):
    plan, _ = make_plan(model, solver, problem())
    found = plan.growth and (plan.growth.largest, plan.growth.given)
    assert (plan.starts, found) == (starts, growth)


def test_shape_narrower_than_the_outputs_does_not_grow():
    for hidden, grows in (([2], True), ([3, 2], True), ([3, 1], False)):
        plan, _ = make_plan(KANConfig(hidden=hidden), LMSolver(), of_arrays(np.square))
        assert bool(plan.growth) == grows


@pytest.mark.parametrize("changed", [{"edge_scaling": "single"}, {"multiplication_nodes": [1]}])
def test_settings_that_growth_cannot_use_need_a_given_shape(changed):
    (name,) = changed
    with pytest.raises(UsageError, match=rf"model\.{name}=.* needs a given shape"):
        make_plan(KANConfig(**changed), LMSolver(), problem())


@pytest.mark.parametrize("seconds, end", [(100.0, 5 + 98 - 3.3), (3.0, 5 + 1.0)])
def test_trainings_end_before_their_limit_and_get_a_third_of_it(seconds, end):
    assert TimeLimit(seconds, 5.0).end == pytest.approx(end)


def test_the_memory_of_a_training_is_estimated_from_its_sizes():
    cfg = FitConfig(
        target=TableTarget(path="t.csv", inputs=["x0", "x1"], outputs=["y"]),
        model=KANConfig(hidden=[5], intervals=[4, 8], degree=2),
        sampling=SamplingConfig(n_train=70, n_test=30),
    )
    # 15 edges of 8 + 2 numbers, and 100 points of 2 inputs, 1 output and 5 nodes; four copies.
    assert estimate_memory(cfg) == (150, 100, 4 * 8 * (150 + 100 * 8))
    assert estimate_memory(replace(cfg, precision="float32")).memory == 4 * 4 * 950
    for model, parameters in (
        (MLPConfig(hidden=[3, 4]), 2 * 3 + 3 * 4 + 4),
        (PolynomialConfig(degree=3), 4),
        (BSplineConfig(control_points=[7, 9]), 16),
    ):
        assert estimate_memory(replace(cfg, model=model)).parameters == parameters
