"""Seconds until a test error is reached: exp(sin(pi x0) + x1^2) by a [2, 5, 1] network, on the same points for all.

Each stops once it has reached the smallest error. Ours train by `kanrun fit`'s own loop along the schedule of grids,
Levenberg-Marquardt and LBFGS, with the settings that a user gets who names no others; Levenberg-Marquardt, which then
starts several times and chooses among widths, also from one start and the whole width, as other libraries do. These
train in processes of their own (`bench_peers`). Time counts all that training does, but not the measuring of test
errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from kanrun.experiments.bench.peers import JAX_ADAM, JAX_LBFGS, PYKAN, Curve, Race, curve

from kanrun.config import BenchConfig, ExperimentConfig, KANConfig, LBFGSSolver, LMSolver, NamedTarget, SamplingConfig
from kanrun.engine.training import Step, train
from kanrun.study.build import factory, make_plan
from kanrun.study.problem import make_problem
from kanrun.study.resources import generator, threads_of

LM, LM_ONCE, LBFGS = "kanrun LM", "kanrun LM, one start", "kanrun LBFGS"
#: What is imported by each of the others.
PACKAGE = {PYKAN: "pykan", JAX_ADAM: "jaxkan", JAX_LBFGS: "jaxkan"}


def race(cfg: BenchConfig, seed: int) -> dict[str, Callable[[], Curve]]:
    """The runners of the race, by name."""
    shared = ExperimentConfig(seed=seed, precision="float64", device="cpu", threads=cfg.threads)
    problem = make_problem(shared, NamedTarget("exp_sin_square"), SamplingConfig(), seed)
    dataset = problem.dataset
    parts = [part for part in (dataset.train, dataset.validation) if part is not None]
    assert dataset.test is not None
    track = Race(
        np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]),
        dataset.test.x, dataset.test.y, tuple(cfg.intervals), min(cfg.errors), cfg.limit, seed, threads_of(cfg),
    )  # fmt: skip
    return {
        LM: lambda: _ours(LMSolver(), problem, track),
        LM_ONCE: lambda: _ours(LMSolver(starts=1, select_width=False), problem, track),
        LBFGS: lambda: _ours(LBFGSSolver(), problem, track),
        PYKAN: lambda: curve(PYKAN, replace(track, limit=cfg.pykan_limit)),
        JAX_ADAM: lambda: curve(JAX_ADAM, track),
        JAX_LBFGS: lambda: curve(JAX_LBFGS, track),
    }


def _ours(solver: Any, problem: Any, track: Race) -> Curve:
    model = KANConfig(hidden=[5], intervals=list(track.intervals))
    plan, _ = make_plan(model, solver, problem)
    for event in train(factory(model, problem, plan.solver), problem.data, plan, generator(track.seed, "training")):
        error = event.errors.test if isinstance(event, Step) else None
        if error is not None:
            yield event.seconds, error
        if event.seconds > track.limit or (error is not None and error <= track.goal):
            return
