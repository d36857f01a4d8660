"""One learner goes through all phases: what it trains on, the solver afresh in each, and what it knows after each."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from kanrun.experiments.continual.learners import (
    MEMORIES,
    Elastic,
    Hold,
    Learner,
    Memory,
    make_network,
)
from kanrun.experiments.continual.task_sequence import TaskSequence
from numpy.typing import NDArray
from scipy.interpolate import make_lsq_spline
from torch import Generator

from kanrun.config import SOLVERS, ContinualConfig, KANConfig
from kanrun.engine.networks import Network
from kanrun.engine.splines import find_interval, sample_points
from kanrun.engine.training import (
    LBFGS,
    Adam,
    Objective,
    Plan,
    Samples,
    SmoothnessPenalty,
    Solver,
    TrainingData,
    make_solver,
    output_scale,
)
from kanrun.engine.training import predict as outputs
from kanrun.errors import TrainingFailed
from kanrun.monitoring import time_limit_reached
from kanrun.study.build import make_plan
from kanrun.study.resources import generator

#: A grid that follows the data reaches this share of their range beyond it.
MARGIN = 0.02


@dataclass(frozen=True)
class LearnerTrial:
    """One pass through all phases.

    `matrix[i, j]` is the RMSE on phase j's data after phase i, `functions[i]` what was known then, by `networks[i]`.
    """

    number: int
    matrix: NDArray[np.float64]
    functions: NDArray[np.float64]  # (phases, evaluation points)
    rmse: float  # on everything
    between: float  # on what is far from every centre; NaN where nothing is
    stored: int
    steps: int
    seconds: float
    networks: tuple[Network, ...]

    @property
    def network(self) -> Network:
        """As the last phase left it."""
        return self.networks[-1]

    @property
    def selected(self) -> float:
        """What chooses among trials: the error on all phases' data after the last one. Hindsight, alike for all."""
        return float(np.sqrt(np.mean(self.matrix[-1] ** 2)))


def go_through(
    learner: Learner, cfg: ContinualConfig, sequence: TaskSequence, trial: int, seed: int
) -> LearnerTrial:
    """Train `learner` on one phase after the other. Raises TrainingFailed where a value is not finite."""
    start = perf_counter()
    draws = generator(seed, f"{learner.name}, trial {trial}")
    network = make_network(learner, cfg, sequence, trial, draws)
    plan, _ = make_plan(
        replace(learner.model, hidden=network.shape[1:-1]), cfg.solver, sequence.problem
    )
    memory = MEMORIES[learner.memory](learner.replay_points, learner.strength(trial))
    matrix, functions, networks, steps = [], [], [], 0
    for number, (phase, box) in enumerate(zip(sequence.phases, sequence.boxes, strict=True), 1):
        if isinstance(learner.model, KANConfig) and learner.model.update_grid:
            grid_eps = learner.model.grid_eps
            network = network.regrid(
                phase.x, grid_eps=grid_eps, margin=MARGIN, inputs="follow"
            ).network
        solver = _solver(network, memory.samples(network, phase, box), plan, memory, draws)
        steps += _learn(solver, _budget(plan), f"{learner.name}, trial {trial}, phase {number}")
        memory.learned(network, phase, box)
        matrix.append([_rmse(network, seen) for seen in sequence.phases])
        if not np.isfinite(matrix[-1]).all():
            raise TrainingFailed(
                f"{learner.name}, trial {trial}: an error after phase {number} is not finite."
            )
        networks.append(deepcopy(network))
        functions.append(outputs(network, sequence.everything.x)[:, 0])
    seconds = perf_counter() - start
    known = torch.stack(functions)
    errors = (known[-1] - sequence.everything.y[:, 0])[sequence.between]
    stored = sum(tensor.numel() for tensor in memory.kept)
    return LearnerTrial(
        trial,
        np.array(matrix),
        known.double().cpu().numpy(),
        _rmse(network, sequence.everything),
        float(errors.square().mean().sqrt()),
        stored,
        steps,
        seconds,
        tuple(networks),
    )


def _budget(plan: Plan) -> int:
    """Most steps of a phase."""
    return plan.steps or SOLVERS[plan.solver].steps


def _learn(solver: Solver, budget: int, where: str) -> int:
    """Train on one phase until the solver converges, or steps or time are spent; returns how many it took."""
    for step in range(1, budget + 1):
        try:
            loss = solver.step()
        except TrainingFailed as error:
            raise TrainingFailed(f"{where}, step {step}: {error}") from error
        if not np.isfinite(loss):
            raise TrainingFailed(f"{where}, step {step}: the loss is not finite.")
        if solver.converged or time_limit_reached():
            return step
    return budget


def _solver(
    network: Network, samples: Samples, plan: Plan, memory: Memory, draws: Generator
) -> Solver:
    """The plan's, on an objective of their own for memories that have one; these take gradients alone."""
    penalty, plan = SmoothnessPenalty(plan.weight or 0.0), replace(plan, steps=_budget(plan))
    if not isinstance(memory, Hold | Elastic):
        return make_solver(network, TrainingData(samples), plan, penalty, draws)
    size = output_scale(samples, "regression")
    objective = memory.anchored(
        Objective(
            samples, size, penalty=penalty, freeze_unseen=plan.freeze_unseen, held=memory.held()
        )
    )
    if plan.solver == "adam":
        return Adam(network, objective, plan.settings, draws, plan.steps)
    return LBFGS(network, objective, plan.settings.history_size)


def best_spline(network: Network, sequence: TaskSequence) -> float | None:
    """RMSE on everything of the spline nearest to the truth on the grid of a KAN with one edge; None for others.

    Least squares at 20 points of each interval: no training, on any order of the data, can do much better. None also
    where an interval of the grid holds no point of any phase: what a spline is there, no phase says.
    """
    if network.shape != (1, 1) or not network.edge_layers:
        return None
    grid, function = network.edge_layers[0].grid, sequence.problem.dataset.target.function
    seen = find_interval(torch.cat([phase.x for phase in sequence.phases]), grid)
    if len(seen.unique()) < grid.intervals:
        return None
    assert function is not None  # an invariant: a sequence's target is a formula
    knots, x = grid.knots[0].double().cpu().numpy(), sample_points(grid, 20).double().cpu().numpy()
    best = make_lsq_spline(x[:, 0], function(x), knots, grid.degree)
    judged = sequence.everything.x[:, 0].double().cpu().numpy()
    return float(
        np.sqrt(np.mean((best(judged) - sequence.everything.y.double().cpu().numpy()) ** 2))
    )


def _rmse(network: Network, samples: Samples) -> float:
    return float((outputs(network, samples.x) - samples.y).square().mean().sqrt())
