"""Task sequences: phases that show different data of a function one after the other.

Each phase shows one narrow peak, or those rows of a target that have the same value in one column,
or whose values in that column lie in one range.
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
from kanrun.points import Points, Scaling
from kanrun.study.resources import device_of, generator, make_problem
from kanrun.targets.datasets import Dataset, Target, build_target, check_known
from kanrun.targets.functions import peaks_formula
from kanrun.targets.settings import ExpressionTarget, TableTarget

from .config import ContinualConfig
from .learners import lattice

#: Largest number of phases.
MAX_PHASES = 100


@dataclass(frozen=True)
class TaskSequence:
    """The phases of a sequence, and points of the whole domain for evaluation.

    Attributes:
        problem: Learning problem of all phases together.
        phases: Samples of each phase, in the order of training.
        everything: Evaluation points.
        of_peaks: Whether the function is the sum of smooth peaks, about which claims are made.
    """

    problem: LearningProblem
    phases: tuple[Samples, ...]
    everything: Samples
    of_peaks: bool


def with_target(cfg: ContinualConfig) -> ContinualConfig:
    """Adapt the settings to `cfg.target`, if it is set: number of inputs, and split into phases.

    The part `overlap` is removed, because only the phases of peaks can overlap. Raises UsageError
    if only one of `target` and `phase_column` is set, or if the output is not one column of
    numbers.
    """
    if cfg.target is None and cfg.phase_column is None:
        return cfg
    if cfg.target is None:
        raise UsageError(
            f"phase_column={cfg.phase_column} is a column or input of a target; add "
            "target.path=FILE or target.formula=FORMULA."
        )
    if cfg.phase_column is None:
        raise UsageError(
            "phase_column must be given: the column or input of the target whose values divide it "
            "into phases."
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
    """Return the phases: the peaks, or the rows of the target, grouped by `phase_column`.

    `overlap` widens the phases of peaks. If `cfg.order` is random, `seed` determines the order of
    the peaks. Raises UsageError if there are more than MAX_PHASES phases.
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
        remedy = "fewer peaks"
        if cfg.target is not None:
            remedy = f"phases=5 for five ranges of phase_column={cfg.phase_column}"
        raise UsageError(
            f"{len(numbers)} phases are too many: at most {MAX_PHASES} are possible. Set {remedy}."
        )
    phases = (shown.part(torch.from_numpy(np.flatnonzero(groups == n))) for n in numbers)
    everything = problem.data.test or shown
    of_peaks = cfg.target is None and cfg.form == "smooth"
    return TaskSequence(problem, tuple(phases), everything, of_peaks)


def peaks(cfg: ContinualConfig, overlap: float, seed: int) -> tuple[Target, Points, Points]:
    """Return the sum of the peaks as a target, the points of all phases, and evaluation points.

    The `groups` of the phases' points are the numbers of the phases, from 0, in training order.
    """
    axis = (np.arange(cfg.peaks) - (cfg.peaks - 1) / 2) * cfg.spacing
    # Rounding to 12 digits makes the borders of phases coincide with knots.
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
