"""What each rule of training is worth: one training with the rule switched off, to compare with `full`.

    from kanrun.experiments.bench.ablation import RULES, ablate
    rows = [ablate(rule, SpecialTarget(name="airy_ai"), seed) for rule in RULES for seed in range(5)]

It is no part of `kanrun bench`: it measures accuracy on targets that the caller names, for decisions about the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from kanrun.config import AutoSolver, ExperimentConfig, KANConfig, SamplingConfig
from kanrun.engine.training import Plan, baseline_error, fit
from kanrun.study.build import factory, make_plan
from kanrun.study.problem import make_problem
from kanrun.study.resources import generator


def _policy(part: str, **changes: Any) -> Callable[[Plan], Plan]:
    """The plan with these fields of a part of its policy changed; `lm` is both of its solvers."""

    def changed(plan: Plan) -> Plan:
        names = ("lm", "lm_without_grid") if part == "lm" else (part,)
        new = {name: replace(getattr(plan.policy, name), **changes) for name in names}
        return replace(plan, policy=replace(plan.policy, **new))

    return changed


def _final_fit(plan: Plan) -> Plan:
    return replace(plan, policy=replace(plan.policy, final_steps=0))


#: Name of a rule to the plan without it.
RULES: dict[str, Callable[[Plan], Plan]] = {
    "full": lambda plan: plan,
    "geodesic acceleration": _policy("lm", geodesic=False),
    "conjugate-gradient refinement": _policy("lm", refine_marks=()),
    "search of the damping": _policy("lm", thorough=False),
    "largest column norms": _policy("lm", largest_columns=False),
    "null space": _policy("fitting", fixes_nullspace=False),
    "faint coefficients held": _policy("fitting", farthest=0.0),
    "several starts": lambda plan: replace(plan, starts=1),
    "further batches of starts": _policy("multistart", batches=1),
    "rounds after thinning": _policy("multistart", rounds_after=0),
    "settling of one start": _policy("multistart", settles=False),
    "selection of a width": lambda plan: replace(plan, select_width=False),
    "hopeless widths left": _policy("widths", hopeless=inf),
    "near widths kept": _policy("widths", near=0.0),
    "weight search": _policy("penalty", searches=False),
    "weights upwards": _policy("penalty", upwards=False),
    "second differences": _policy("penalty", noisy=inf),
    "negligible penalties": _policy("penalty", negligible=0.0),
    "stalled grids left": _policy("grids", stalled=0.0, hardly=0.0),
    "filled hidden grids kept": _policy("grids", filled=1.0),
    "settling of LBFGS": _policy("grids", settling=0),
    "final fit": _final_fit,
}


def ablate(
    rule: str, target: Any, seed: int, model: Any = None, solver: Any = None, sampling: SamplingConfig | None = None
) -> dict[str, Any]:
    """Errors and seconds of one training on `target` (a configuration such as `SpecialTarget`) without `rule`.

    `error` is the test error relative to the spread of the outputs. By default a KAN with 5 hidden nodes and
    `solver=auto`, as `kanrun fit` has them.
    """
    cfg, model = ExperimentConfig(seed=seed), model or KANConfig(hidden=[5])
    problem = make_problem(cfg, target, sampling or SamplingConfig(), seed)
    plan, _ = make_plan(model, solver or AutoSolver(), problem)
    plan = RULES[rule](plan)
    trained = fit(factory(model, problem, plan.solver), problem.data, plan, generator(seed, "training"))
    test = trained.errors.test
    return {
        "rule": rule,
        "target": problem.dataset.target.name,
        "seed": seed,
        "solver": plan.solver,
        "test_rmse": test,
        "error": None if test is None else test / baseline_error(problem.data),
        "validation_rmse": trained.errors.validation,
        "intervals": trained.chosen.intervals,
        "seconds": trained.seconds,
    }
