"""Task sequences: phases that show parts of a function one after the other.

Phases show one narrow peak each, or the rows of a target with one value, or range, of a column.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kanrun.config import TARGETS
from kanrun.engine.training import Samples
from kanrun.errors import UsageError
from kanrun.model.planning import PRECISIONS, LearningProblem, problem_on
from kanrun.study.resources import device_of, generator, make_problem
from kanrun.targets import Dataset, Points, Scaling, Target, build_target
from kanrun.targets.datasets import check_known
from kanrun.targets.functions import peaks_formula
from kanrun.targets.settings import ExpressionTarget, TableTarget

from .config import ContinualConfig
from .learners import lattice

#: Largest number of phases.
MAX_PHASES = 100


@dataclass(frozen=True)
class TaskSequence:
    """Phases, and points of the whole domain for evaluation."""

    problem: LearningProblem
    phases: tuple[Samples, ...]
    everything: Samples
    of_peaks: bool


def with_target(cfg: ContinualConfig) -> ContinualConfig:
    """Return the settings with the number of inputs of the target, and the way it is split.

    The phases of a target cannot overlap more. Raises UsageError for a target without phases, and
    for one that is not one column of numbers.
    """
    if cfg.target is None and cfg.phase_column is None:
        return cfg
    if cfg.target is None or cfg.phase_column is None:
        raise UsageError(
            "the phases of a table need both target.path=FILE and phase_column=COLUMN."
        )
    target = cfg.target
    if isinstance(target, TableTarget):
        split = "time" if cfg.phases else "group"
        target = replace(target, split=f"{split}:{cfg.phase_column}")
    built = build_target(target)
    if len(built.outputs) != 1 or built.classes:
        raise UsageError("continual learns one column of numbers; name it, as target.outputs=[y].")
    if not isinstance(target, TableTarget):
        check_known("phase_column", cfg.phase_column, built.inputs, f"inputs of {built.name}")
    parts: list[Any] = [part for part in cfg.parts if part != "overlap"]
    return replace(cfg, target=target, dimension=len(built.inputs), parts=parts)


def make_sequence(cfg: ContinualConfig, overlap: float, seed: int) -> TaskSequence:
    """Return the phases: peaks in the order given by `seed`, or rows of a target by its column.

    Nothing else of the peaks is random. Raises UsageError for too many phases.
    """
    if cfg.target is None:
        target, points, judged = peaks(cfg, overlap, seed)
        scalings = Scaling.identity(cfg.dimension), Scaling.identity(1)
        dataset = Dataset(target, points, None, judged, *scalings)
        problem = problem_on(dataset, PRECISIONS[cfg.precision], torch.device(device_of(cfg)))
    else:
        sampling = replace(cfg.sampling, validation_fraction=0.0)
        if TARGETS[cfg.target.kind].table:
            sampling = replace(sampling, n_train=None, n_test=0)
        problem = make_problem(cfg, cfg.target, sampling, seed)
    shown = problem.data.train
    points = problem.dataset.train
    groups: Any = points.groups
    if groups is None:
        groups = points.x[:, problem.dataset.target.inputs.index(str(cfg.phase_column))]
    if cfg.target is not None and cfg.phases:
        ends = np.quantile(groups, np.linspace(0, 1, cfg.phases + 1)[1:-1])
        groups = np.searchsorted(ends, groups, side="right")
    numbers = np.unique(groups)
    if len(numbers) > MAX_PHASES:
        raise UsageError(
            f"{len(numbers)} phases are too many: at most {MAX_PHASES} are possible. Set fewer "
            "peaks, or phases=5 for ranges of phase_column."
        )
    phases = (shown.part(torch.from_numpy(np.flatnonzero(groups == n))) for n in numbers)
    everything = problem.data.test or shown
    of_peaks = cfg.target is None and cfg.form == "smooth"
    return TaskSequence(problem, tuple(phases), everything, of_peaks)


def peaks(cfg: ContinualConfig, overlap: float, seed: int) -> tuple[Target, Points, Points]:
    """Return the sum of the peaks, the points of all phases with their numbers, and all points."""
    axis = (np.arange(cfg.peaks) - (cfg.peaks - 1) / 2) * cfg.spacing
    # Rounded to 12 digits, so that borders of phases coincide with knots.
    centres = np.array(list(itertools.product(axis.round(12), repeat=cfg.dimension)))
    order = np.arange(len(centres))[:: -1 if cfg.order == "descending" else 1]
    if cfg.order == "random":
        draws = generator(seed, "order of the peaks")
        order = torch.randperm(len(centres), generator=draws).numpy()
    low = centres.min(0) - cfg.spacing / 2
    high = centres.max(0) + cfg.spacing / 2
    half = cfg.spacing / 2 * (1 + overlap)
    formula = peaks_formula(centres, cfg.sharpness)
    domain = np.stack([low, high], 1)
    if cfg.form == "step":
        formula = f"heaviside({formula}-1/2)"
    target = build_target(ExpressionTarget(formula, domain.tolist()))
    assert target.function is not None  # an invariant: formulas are functions
    boxes = ((np.maximum(at - half, low), np.minimum(at + half, high)) for at in centres[order])
    parts = [lattice(*box, cfg.points) for box in boxes]
    numbers = np.repeat(np.arange(float(len(parts))), [len(part) for part in parts])
    shown = np.concatenate(parts)
    everything = lattice(low, high, cfg.evaluation_points)
    points = Points(shown, target.function(shown), groups=numbers)
    return target, points, Points(everything, target.function(everything))
