"""Sequence of tasks: phases that show one narrow peak each, or the rows of a table by a column."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.config import ContinualConfig, ExpressionTarget, TableTarget
from kanrun.engine.training import Samples, TrainingData
from kanrun.errors import UsageError
from kanrun.study.build import PRECISIONS, LearningProblem, make_problem
from kanrun.study.resources import device_of, generator
from kanrun.targets import Dataset, Points, Scaling, build_target
from kanrun.targets.functions import peaks_formula

Array = NDArray[np.float64]
#: Maximum number of phases, and of points of all of them.
MAX_PEAKS, MAX_POINTS = 100, 200_000


@dataclass(frozen=True)
class TaskSequence:
    """Phases, and points of the whole domain for evaluation."""

    problem: LearningProblem
    phases: tuple[Samples, ...]
    everything: Samples


def with_inputs(cfg: ContinualConfig) -> ContinualConfig:
    """Return the settings with the number of inputs of a table, whose phases cannot overlap more.

    Raises UsageError for a table without phases, and for targets that are not one column.
    """
    if cfg.target is None and cfg.phase_column is None:
        return cfg
    if not isinstance(cfg.target, TableTarget) or cfg.phase_column is None:
        raise UsageError(
            "the phases of a table need both target.path=FILE and phase_column=COLUMN."
        )
    if len(cfg.target.outputs) != 1 or cfg.target.task != "regression":
        raise UsageError("continual learns one column of numbers; name it, as target.outputs=[y].")
    target = replace(cfg.target, split=f"group:{cfg.phase_column}")
    parts = [part for part in cfg.parts if part != "overlap"]
    inputs = len(build_target(target).inputs)
    return replace(cfg, target=target, dimension=inputs, parts=parts)


def table_sequence(cfg: ContinualConfig, seed: int) -> TaskSequence:
    """Return the groups of rows of a table, each a phase, in the order of their names."""
    sampling = replace(cfg.sampling, n_train=None, n_test=0, validation_fraction=0.0)
    problem = make_problem(cfg, cfg.target, sampling, seed)
    rows, groups = problem.data.train, problem.dataset.train.groups
    assert groups is not None  # `with_inputs` asks for them
    phases = (rows.part(torch.from_numpy(np.flatnonzero(groups == g))) for g in np.unique(groups))
    return TaskSequence(problem, tuple(phases), rows)


def check_sequence(cfg: ContinualConfig) -> None:
    """Raise UsageError for too many phases or points."""
    count = cfg.peaks**cfg.dimension
    if count > MAX_PEAKS or count * cfg.points > MAX_POINTS:
        raise UsageError(
            f"{count} phases of {cfg.points} points are too many: at most {MAX_PEAKS} phases "
            f"and {MAX_POINTS} points in all."
        )


def make_sequence(cfg: ContinualConfig, overlap: float, seed: int) -> TaskSequence:
    """Return the phases in the order given by `seed`; nothing else of a sequence is random."""
    if cfg.target is not None:
        return table_sequence(cfg, seed)
    axis = (np.arange(cfg.peaks) - (cfg.peaks - 1) / 2) * cfg.spacing
    # To 12 digits, so that borders lie on knots.
    centres = np.array(list(itertools.product(axis.round(12), repeat=cfg.dimension)))
    order = np.arange(len(centres))[:: -1 if cfg.order == "descending" else 1]
    if cfg.order == "random":
        draws = generator(seed, "order of the peaks")
        order = torch.randperm(len(centres), generator=draws).numpy()
    low, high = centres.min(0) - cfg.spacing / 2, centres.max(0) + cfg.spacing / 2
    half = cfg.spacing / 2 * (1 + overlap)
    formula, domain = peaks_formula(centres, cfg.sharpness), np.stack([low, high], 1)
    target = build_target(ExpressionTarget(formula, domain.tolist()))
    function, dtype = target.function, PRECISIONS[cfg.precision]
    assert function is not None  # an invariant: formulas are functions

    def tensor(values: Array) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device_of(cfg))

    def samples(x: Array) -> Samples:
        return Samples(tensor(x), tensor(function(x)))

    parts = [
        lattice(np.maximum(centre - half, low), np.minimum(centre + half, high), cfg.points)
        for centre in centres[order]
    ]
    shown, everything = np.concatenate(parts), lattice(low, high, cfg.evaluation_points)
    given, judged = (Points(x, function(x)) for x in (shown, everything))
    scalings = Scaling.identity(cfg.dimension), Scaling.identity(1)
    dataset = Dataset(target, given, None, judged, *scalings)
    problem = LearningProblem(dataset, TrainingData(samples(shown)), tensor(target.domain))
    return TaskSequence(problem, tuple(map(samples, parts)), samples(everything))


def lattice(low: Array, high: Array, points: int, *, border: bool = True) -> Array:
    """Return about `points` evenly spaced points of a box, shape (points, dimension).

    They include its border, or else lie half a step inside.
    """
    each = max(1 + border, round(points ** (1 / len(low))))
    inset = 0.0 if border else (high - low) / (2 * each)
    axes = [np.linspace(a, b, each) for a, b in zip(low + inset, high - inset, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
