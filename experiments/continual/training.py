"""Training of one learner on all phases, with a new solver in each."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from kanrun.experiments.continual.learners import (
    MEMORIES,
    Learner,
    Memory,
    make_network,
)
from kanrun.experiments.continual.task_sequence import TaskSequence
from numpy.typing import NDArray
from torch import Generator

from kanrun.config import SOLVERS, ContinualConfig, KANConfig
from kanrun.engine.networks import Network
from kanrun.engine.training import (
    Objective,
    Plan,
    Samples,
    SmoothnessPenalty,
    Solver,
    TrainingData,
)
from kanrun.engine.training import predict as outputs
from kanrun.errors import TrainingFailed
from kanrun.monitoring import time_limit_reached
from kanrun.study.build import make_plan
from kanrun.study.resources import generator

#: A grid that follows the data extends beyond them by this fraction of their range.
MARGIN = 0.02


@dataclass(frozen=True)
class LearnerTrial:
    """One pass through all phases.

    `matrix[i, j]` is the RMSE on phase j's data after phase i, `functions[i]` the outputs of
    `networks[i]` at the evaluation points then.
    """

    number: int
    matrix: NDArray[np.float64]
    functions: NDArray[np.float64]  # (phases, evaluation points)
    #: RMSE on everything, and on points far from every centre (NaN if there are none).
    rmse: float
    between: float
    #: Numbers that the memory keeps.
    stored: int
    steps: int
    seconds: float
    networks: tuple[Network, ...]

    @property
    def selected(self) -> float:
        """Error on all phases' data after the last one, by which the best trial is chosen."""
        return float(np.sqrt(np.mean(self.matrix[-1] ** 2)))


def train_sequence(
    learner: Learner, cfg: ContinualConfig, sequence: TaskSequence, trial: int, seed: int
) -> LearnerTrial:
    """Train on one phase after the other. Raises TrainingFailed if a value is not finite."""
    start = perf_counter()
    draws = generator(seed, f"{learner.name}, trial {trial}")
    network = make_network(learner, cfg, sequence, trial, draws)
    plan, _ = make_plan(
        replace(learner.model, hidden=network.shape[1:-1]), cfg.solver, sequence.problem
    )
    budget = plan.steps or SOLVERS[plan.solver].steps
    plan = replace(plan, steps=budget)
    memory = MEMORIES[learner.memory](learner.replay_points, learner.strength(trial))
    matrix, functions, networks, steps = [], [], [], 0
    for number, (phase, box) in enumerate(zip(sequence.phases, sequence.boxes, strict=True), 1):
        if isinstance(learner.model, KANConfig) and learner.model.update_grid:
            grid_eps = learner.model.grid_eps
            network = network.regrid(
                phase.x, grid_eps=grid_eps, margin=MARGIN, inputs="follow"
            ).network
        solver = _solver(network, memory.samples(network, phase, box), plan, memory, draws)
        steps += _learn(solver, budget, f"{learner.name}, trial {trial}, phase {number}")
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


def _learn(solver: Solver, budget: int, where: str) -> int:
    """Train until the solver converges, or steps or time are spent; return the steps taken."""
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
    """Return the plan's solver, on the objective of the memory."""
    penalty = SmoothnessPenalty(plan.weight or 0.0)
    plain = replace(Objective.of(TrainingData(samples), plan, penalty), held=memory.held())
    solver: Solver = SOLVERS[plan.solver].build()(network, memory.anchored(plain), plan, draws)
    return solver


def _rmse(network: Network, samples: Samples) -> float:
    return float((outputs(network, samples.x) - samples.y).square().mean().sqrt())
