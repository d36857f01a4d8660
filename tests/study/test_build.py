"""Plans of trainings and new networks, made from settings; also for models of other packages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import cases
from kanrun.experiments.fit.config import FitConfig
from torch import Generator

from kanrun.config import ExperimentConfig, SamplingConfig
from kanrun.config.registry import MODELS, SOLVERS
from kanrun.engine.training import Clock, Setup, SmoothnessPenalty
from kanrun.model.planning import factory, make_plan
from kanrun.model.settings import KANConfig
from kanrun.study.resources import TimeLimit, estimate_memory, make_problem
from kanrun.targets.settings import NamedTarget, TableTarget
from kanrun.targets.table_targets import array_target

CPU = ExperimentConfig(device="cpu")
PRODUCT = make_problem(CPU, NamedTarget("product"), SamplingConfig(n_train=60, n_test=10), 0)


def of_arrays(outputs, inputs=2, classification=False):
    x = np.random.default_rng(0).normal(size=(60, inputs))
    given = array_target(x, outputs(x), classification=classification)
    return make_problem(CPU, given, SamplingConfig(n_train=None, n_test=None), 0)


def plan_of(model, solver, problem=PRODUCT):
    """Return the plan of a model and a solver, each given as (kind, settings), and its reason."""
    (model, choices), (solver, options) = model, solver
    return make_plan(MODELS[model](**choices), SOLVERS[solver](**options), problem)


def test_plan_has_the_values_of_the_settings():
    options = {"steps": 7, "history_size": 5, "sparsity": 0.1, "patience": 3, "freeze_unseen": True}
    model = "kan", {"intervals": [4, 8], "update_grid": False, "grid_eps": 0.25}
    plan, why = plan_of(model, ("lbfgs", options))
    assert why.startswith("lbfgs: chosen by solver=lbfgs.")
    assert (plan.solver, plan.intervals, plan.steps, plan.patience) == ("lbfgs", (4, 8), 7, 3)
    assert (plan.settings.history_size, plan.settings.sparsity) == (5, 0.1)
    assert (plan.freeze_unseen, plan.update_grid, plan.grid_eps) == (True, False, 0.25)


@pytest.mark.parametrize(
    "solver, frozen, unseen, moves",
    cases("""
        lbfgs | False | True | True
        lbfgs | True | True | False
        lm | False | True | False
        lbfgs | False | False | False
    """),
)
def test_trained_scales_that_move_a_frozen_function_are_named(solver, frozen, unseen, moves):
    model = "kan", {"hidden": [2], "freeze_scales": frozen}
    _, why = plan_of(model, (solver, {"freeze_unseen": unseen}))
    assert ("w_s moves the function" in why) == moves


def test_a_closed_form_has_one_start_and_neither_steps_nor_patience_nor_a_penalty():
    one_input = of_arrays(lambda x: x[:, 0], inputs=1)
    plan, _ = plan_of(("polynomial", {}), ("lm", {"n_starts": 4}), one_input)
    assert (plan.steps, plan.patience, plan.starts, plan.weight) == (0, None, 1, 0)
    assert plan_of(("mlp", {}), ("lm", {}))[0].patience


def test_an_automatic_schedule_is_nested_and_may_end_early():
    plan, _ = plan_of(("kan", {"hidden": [2], "intervals": "auto"}), ("auto", {}))
    coarse = np.array(plan.intervals[:-1])
    assert len(coarse)
    assert plan.intervals[1:] == tuple(2 * coarse)
    assert plan.stop_early


def test_damping_and_tolerances_reach_levenberg_marquardt():
    options = {"damping": 0.5, "tolerance": 0.0, "plateau_tolerance": 0.1}
    plan, _ = plan_of(("kan", {"intervals": [4, 8]}), ("lm", options))
    network = factory(KANConfig(intervals=[4, 8]), PRODUCT)(Generator().manual_seed(0))
    made = Setup(PRODUCT.data, plan, Generator(), Clock()).solver(network, SmoothnessPenalty())
    assert (made.policy.damping, made.tolerance, made.plateau_tolerance) == (0.5, 0.0, 0.1)


PROBLEMS = {
    "product": PRODUCT,
    "outputs": of_arrays(np.square),
    "classes": of_arrays(lambda x: x[:, 0] > 0, classification=True),
    "many inputs": of_arrays(lambda x: x[:, 0] > 0, inputs=40, classification=True),
}


@pytest.mark.parametrize(
    "problem, model, solver, several, growth",
    cases("""
        product | ('kan', {}) | ('lm', {}) | True | (2, 6, 1, 1)
        product | ('kan', {'budget': 'thorough'}) | ('lm', {'n_starts': 1}) | False | (2, 12, 1, 1)
        product | ('kan', {'hidden': [16]}) | ('lm', {}) | True | (2, 16, 1)
        product | ('kan', {'hidden': [1]}) | ('lm', {}) | True | None
        product | ('kan', {'hidden': [2]}) | ('lm', {'n_starts': 1}) | False | None
        product | ('kan', {'hidden': [2]}) | ('lm', {'select_width': False}) | True | None
        product | ('kan', {'hidden': [2], 'multiplication_nodes': [1]}) | ('lm', {}) | True | None
        product | ('kan', {'hidden': [2]}) | ('lbfgs', {}) | False | None
        product | ('mlp', {'hidden': [2]}) | ('lm', {}) | True | None
        outputs | ('kan', {'hidden': [2]}) | ('lm', {}) | True | (2, 2, 2)
        outputs | ('kan', {'hidden': [3, 2]}) | ('lm', {}) | True | (2, 3, 2, 2)
        outputs | ('kan', {'hidden': [3, 1]}) | ('lm', {}) | True | None
        classes | ('kan', {}) | ('auto', {}) | True | (2, 6, 2, 2)
        classes | ('kan', {'hidden': [2]}) | ('auto', {}) | False | None
        classes | ('kan', {}) | ('lbfgs', {}) | False | None
        classes | ('mlp', {}) | ('auto', {}) | False | None
        many inputs | ('kan', {}) | ('auto', {}) | False | None
    """),
)
def test_starts_and_growth_follow_from_the_settings(problem, model, solver, several, growth):
    """One node has no smaller shape, and comparing shapes needs several starts.

    All layers of a shape that grows hold the outputs.
    """
    plan, _ = plan_of(model, solver, PROBLEMS[problem])
    assert (plan.starts > 1, plan.growth and plan.growth.largest) == (several, growth)
    assert not plan.growth or plan.growth.given == ("hidden" in model[1])
    assert problem in ("product", "outputs") or (plan.solver, plan.insert_knots) == ("lbfgs", False)


@pytest.mark.parametrize("seconds", [0.1, 3.0, 100.0])
def test_trainings_end_before_their_limit_and_get_a_third_of_it(seconds):
    assert 5 + seconds / 3 <= TimeLimit(seconds, 5.0).end < 5 + seconds


@pytest.mark.parametrize(
    "model, parameters",
    [
        (MODELS["kan"](hidden=[5], intervals=[4, 8], degree=2), 15 * (8 + 2)),
        (MODELS["mlp"](hidden=[3, 4]), 2 * 3 + 3 * 4 + 4),
        (MODELS["polynomial"](degree=3), 4),
        (MODELS["bspline"](control_points=[7, 9]), 16),
    ],
)
def test_the_memory_of_a_training_is_estimated_from_its_sizes(model, parameters):
    table = TableTarget(path="t.csv", inputs=["x0", "x1"], outputs=["y"])
    cfg = FitConfig(target=table, model=model, sampling=SamplingConfig(n_train=70, n_test=30))
    found = estimate_memory(cfg)
    assert (found.parameters, found.points) == (parameters, 100)
    assert estimate_memory(replace(cfg, precision="float32")).memory == found.memory / 2
