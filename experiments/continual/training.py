"""The training of a learner with a new solver in each phase, and the measures of its forgetting.

The measures are of the matrix R[i, j], the error on phase j's data after phase i. They are
published for accuracies; for errors their signs turn. With T phases, counted from 1:

- average error: mean over j of R[T, j] (average accuracy, Lopez-Paz and Ranzato, arXiv 1706.08840,
  eq. 2);
- forgetting of phase j: R[T, j] - min of R[i, j] over i = 1 .. T, so never negative (Chaudhry et
  al., arXiv 1801.10112, eq. 3, leaves out i = T);
- backward transfer: mean over j < T of R[j, j] - R[T, j] (arXiv 1706.08840, eq. 3): negative is
  forgetting.

The lowest error of a phase may be one from before it was learned, if earlier phases spoiled what it
started from; R[T, j] - R[j, j] is what was lost since.
"""

from __future__ import annotations

import functools
from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import make_lsq_spline

from kanrun.config import SOLVERS
from kanrun.engine.networks import Network
from kanrun.engine.splines import find_interval, sample_points
from kanrun.engine.training import (
    Objective,
    Samples,
    SmoothnessPenalty,
    Solver,
    TrainingData,
)
from kanrun.engine.training import predict as outputs
from kanrun.errors import TrainingFailed
from kanrun.model.prediction import in_numpy
from kanrun.monitoring import time_limit_reached
from kanrun.points import Array
from kanrun.runs.records import Table
from kanrun.study.recipe import Training
from kanrun.study.resources import generator

from .config import ContinualConfig
from .learners import Learner, Memory, evenly_chosen
from .sequences import TaskSequence

#: A grid that follows the data extends beyond them by this fraction of their range.
MARGIN = 0.02
#: Largest number of points of a phase in the table `data`.
DATA_POINTS = 50
#: Points of each interval to which the best spline is fitted.
SPLINE_POINTS = 20


@dataclass(frozen=True)
class LearnerTrial:
    """One pass through all phases.

    Attributes:
        number: Number of the trial.
        networks: Networks after each phase.
        matrix: `matrix[i, j]` is the RMSE on phase j's data after phase i.
        rmse: RMSE at the evaluation points after the last phase.
        memory: What was kept.
        steps: Solver steps of all phases.
        seconds: Seconds of training.
    """

    number: int
    networks: tuple[Network, ...]
    matrix: Array
    rmse: float
    memory: Memory
    steps: int
    seconds: float

    @property
    def selected(self) -> float:
        """Error on all phases' data after the last one, by which the best trial is chosen."""
        return float(np.sqrt(np.mean(self.matrix[-1] ** 2)))

    @property
    def columns(self) -> dict[str, Any]:
        """Measures as columns of a row."""
        return {
            "trial": self.number,
            "shape": self.networks[-1].shape_text,
            "rmse": self.rmse,
            **measure_forgetting(self.matrix),
            "steps": self.steps,
            "seconds": self.seconds,
        }


def train_sequence(
    learner: Learner, cfg: ContinualConfig, sequence: TaskSequence, trial: int, seed: int
) -> LearnerTrial:
    """Train on one phase after the other. Raises TrainingFailed if a value is not finite."""
    start = perf_counter()
    named = f"{learner.name}, trial {trial}"
    everything = sequence.everything
    draws = generator(seed, named)
    training = Training.of(learner.settings(cfg, trial), cfg.solver, sequence.problem)
    network = training.create(draws)
    most = training.plan.steps or SOLVERS[training.plan.solver].steps
    plan = replace(training.plan, steps=most)
    penalty = SmoothnessPenalty(plan.weight or 0.0)
    memory = learner.memory_of(trial)
    matrix = []
    networks = []
    steps = 0
    for number, phase in enumerate(sequence.phases, 1):
        if plan.update_grid:
            moved = network.regrid(phase.x, grid_eps=plan.grid_eps, margin=MARGIN, inputs="follow")
            network = moved.network
        plain = Objective.of(TrainingData(phase), plan, penalty)
        objective = memory.objective(network, plain)
        solver: Solver = plan.settings.create(network, objective, plan, draws)
        steps += _solved(solver, most, f"{named}, phase {number}")
        memory.learned(network, phase)
        matrix.append([_rmse(outputs(network, seen.x) - seen.y) for seen in sequence.phases])
        if not np.isfinite(matrix[-1]).all():
            raise TrainingFailed(f"{named}: an error after phase {number} is not finite.")
        networks.append(deepcopy(network))
    rmse = _rmse(outputs(network, everything.x) - everything.y)
    seconds = perf_counter() - start
    errors = np.array(matrix)
    return LearnerTrial(trial, tuple(networks), errors, rmse, memory, steps, seconds)


def _solved(solver: Solver, most: int, where: str) -> int:
    """Take steps until the solver has converged or the time is up; return their number."""
    step = 0
    while step < most and not solver.converged and not (step and time_limit_reached()):
        step += 1
        try:
            solver.step()
        except TrainingFailed as error:
            raise TrainingFailed(f"{where}, step {step}: {error}") from error
    return step


def _rmse(errors: torch.Tensor) -> float:
    return float(errors.square().mean().sqrt())


def measure_forgetting(matrix: Float[Array, "phases phases"]) -> dict[str, float]:
    """Return all measures of one matrix; a single phase has nothing to forget.

    `learned` is the mean of R[j, j]: how well each phase was learned when it was there.
    `forgetting` is the mean over the phases before the last, `worst_forgetting` the largest of
    them, `worst_since_learned` the largest R[T, j] - R[j, j].
    """
    last = matrix[-1]
    own = matrix.diagonal()
    lost = (last - matrix.min(axis=0))[:-1]
    back = (own - last)[:-1]
    if not lost.size:
        lost = back = np.zeros(1)
    return {
        "learned": float(own.mean()),
        "average_error": float(last.mean()),
        "forgetting": float(lost.mean()),
        "worst_forgetting": float(lost.max()),
        "worst_since_learned": float(-back.min()),
        "backward_transfer": float(back.mean()),
    }


def best_spline(network: Network, sequence: TaskSequence) -> float | None:
    """Return the RMSE on everything of the best spline fit on the grid of a [1, 1] KAN.

    No training, on any order of the data, can do much better than this least squares fit. None if
    an interval of the grid holds no point of any phase.
    """
    function = sequence.problem.dataset.target.function
    if function is None:
        return None
    grid = network.edge_layers[0].grid
    seen = find_interval(torch.cat([phase.x for phase in sequence.phases]), grid)
    if len(seen.unique()) < grid.intervals:
        return None
    knots = in_numpy(grid.knots[0])
    x = in_numpy(sample_points(grid, SPLINE_POINTS))
    best = make_lsq_spline(x[:, 0], function(x), knots, grid.degree)
    everything = sequence.everything
    errors = best(in_numpy(everything.x)[:, 0]) - in_numpy(everything.y)
    return float(np.sqrt(np.mean(errors**2)))


def summary(learner: Learner, sequence: TaskSequence, best: LearnerTrial) -> dict[str, Any]:
    """Return the columns of a learner: its network, and the measures of its best trial."""
    network = best.networks[-1]
    is_local = network.shape == (1, 1) and learner.is_local
    known = learner.memory == "none" and is_local
    target = sequence.problem.dataset.target
    return {
        **best.columns,
        "file": None if sequence.of_peaks else target.name,
        "role": "local kan" if is_local else learner.model.kind,
        "intervals": network.intervals,
        "degree": network.edge_layers[0].spec.degree if network.edge_layers else None,
        "parameters": network.count(),
        "phases": len(sequence.phases),
        "stored": sum(tensor.numel() for tensor in best.memory.kept),
        "relative_error": best.rmse / float(sequence.everything.y.std()),
        "best_spline_rmse": best_spline(network, sequence) if known else None,
    }


def functions(learner: Learner, sequence: TaskSequence, best: LearnerTrial) -> Table:
    """Return predictions after each phase, and the true values, on all evaluation points."""
    everything = sequence.everything
    phases = len(best.networks)
    known = torch.cat([outputs(network, everything.x) for network in best.networks])
    every = Samples(*(part.repeat(phases, 1) for part in (everything.x, everything.y)))
    columns = {
        "learner": np.full(len(known), learner.name),
        "kind": np.full(len(known), learner.model.kind),
        "after": np.repeat(np.arange(1, phases + 1), len(everything)),
        **_columns(every, "truth"),
        "output": in_numpy(known[:, 0]),
    }
    return Table("functions", columns)


def data(sequence: TaskSequence) -> Table:
    """Return some points of each phase for figures, including its first and its last corner."""
    parts = [evenly_chosen(phase, DATA_POINTS) for phase in sequence.phases]
    numbers = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
    return Table("data", {"phase": numbers, **_columns(functools.reduce(Samples.join, parts), "y")})


def _columns(samples: Samples, output: str) -> dict[str, NDArray[Any]]:
    x = in_numpy(samples.x)
    y = in_numpy(samples.y[:, 0])
    return {**{f"x{i}": column for i, column in enumerate(x.T)}, output: y}
