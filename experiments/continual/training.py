"""The training of a learner, with a new solver in each phase, and the measures of its forgetting.

The measures are computed from the matrix R[i, j], the error on phase j's data after phase i. They
were published for accuracies; for errors, their signs are reversed. With T phases, counted from 1:

- average error: mean over j of R[T, j] (average accuracy, Lopez-Paz and Ranzato, arXiv 1706.08840,
  eq. 2);
- forgetting of phase j: R[T, j] minus the smallest R[i, j] over i = 1 .. T, which is never negative
  (Chaudhry et al., arXiv 1801.10112, eq. 3, leave out i = T);
- backward transfer: mean over j < T of R[j, j] - R[T, j] (arXiv 1706.08840, eq. 3); negative values
  mean forgetting.

The lowest error on a phase may have occurred before the phase was learned, if earlier phases left
the network in a bad state. R[T, j] - R[j, j] is what was lost since phase j was learned.
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
from kanrun.model.trained import in_numpy
from kanrun.monitoring import time_limit_reached
from kanrun.points import Array
from kanrun.runs.records import Table
from kanrun.study.recipe import Training
from kanrun.study.resources import generator

from .config import ContinualConfig
from .learners import Learner, Memory, evenly_chosen
from .sequences import TaskSequence

#: Margin by which a grid that follows the data extends beyond them, as a fraction of their range.
MARGIN = 0.02
#: Largest number of points of a phase in the table `data`.
DATA_POINTS = 50
#: Number of points in each interval to which the best spline is fitted.
SPLINE_POINTS = 20


@dataclass(frozen=True)
class LearnerTrial:
    """One pass through all phases.

    Attributes:
        number: Number of the trial.
        networks: Network after each phase.
        matrix: `matrix[i, j]` is the RMSE on phase j's data after phase i, shape (phases, phases).
        rmse: RMSE at the evaluation points after the last phase.
        memory: The memory after the last phase.
        steps: Number of solver steps in all phases.
        seconds: Wall-clock seconds of training.
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
        """RMSE on the data of all phases after the last phase. The best trial has the lowest."""
        return float(np.sqrt(np.mean(self.matrix[-1] ** 2)))

    @property
    def columns(self) -> dict[str, Any]:
        """The measures of the trial, by column name."""
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
    """Train one trial of a learner on all phases, one after the other.

    Raises TrainingFailed if an error becomes NaN or infinite.
    """
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
    """Take up to `most` steps and return their number.

    Stop earlier if the solver has converged, or if the time limit is reached.
    """
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
    """Return all measures of `matrix`, the matrix R; with a single phase, nothing is forgotten.

    `learned` is the mean of R[j, j], the error on each phase just after it was learned.
    `forgetting` is the mean, and `worst_forgetting` the maximum, of the forgetting of all phases
    but the last. `worst_since_learned` is the largest R[T, j] - R[j, j].
    """
    last = matrix[-1]
    learned = matrix.diagonal()
    lost = (last - matrix.min(axis=0))[:-1]
    back = (learned - last)[:-1]
    if not lost.size:
        lost = back = np.zeros(1)
    return {
        "learned": float(learned.mean()),
        "average_error": float(last.mean()),
        "forgetting": float(lost.mean()),
        "worst_forgetting": float(lost.max()),
        "worst_since_learned": float(-back.min()),
        "backward_transfer": float(back.mean()),
    }


def best_spline(network: Network, sequence: TaskSequence) -> float | None:
    """Return the RMSE at the evaluation points of the best spline on the grid of a [1, 1] KAN.

    The spline is a least squares fit to the function, so no training run can be much better,
    whatever the order of the data. Return None if some interval of the grid contains no point of
    any phase, or if the target is a table.
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
    """Return the summary columns of a learner: its network and the measures of its best trial."""
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
    """Return a table of the predictions after each phase and the true values.

    It has one row per phase and evaluation point.
    """
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
    """Return a table of at most DATA_POINTS points of each phase, for figures."""
    parts = [evenly_chosen(phase, DATA_POINTS) for phase in sequence.phases]
    numbers = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
    return Table("data", {"phase": numbers, **_columns(functools.reduce(Samples.join, parts), "y")})


def _columns(samples: Samples, output: str) -> dict[str, NDArray[Any]]:
    x = in_numpy(samples.x)
    y = in_numpy(samples.y[:, 0])
    return {**{f"x{i}": column for i, column in enumerate(x.T)}, output: y}
