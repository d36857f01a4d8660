"""The sequence of tasks: narrow peaks, phases that show one peak each, and evaluation points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.config import ContinualConfig, ExpressionTarget
from kanrun.engine.training import Samples, TrainingData
from kanrun.errors import UsageError
from kanrun.study.build import PRECISIONS, LearningProblem
from kanrun.study.resources import device_of, generator
from kanrun.targets import Dataset, Points, Scaling, build_target
from kanrun.targets.functions import peaks_formula

Array = NDArray[np.float64]
ORDERS = ("ascending", "descending", "random")
#: Maximum number of phases, and of points of all of them.
MAX_PEAKS, MAX_POINTS = 100, 200_000


@dataclass(frozen=True)
class TaskSequence:
    """Phases, the box of each one (inputs, 2), and points of the whole domain for evaluation.

    `between` marks the points of `everything` that are farther than a quarter of the spacing from
    every centre.
    """

    problem: LearningProblem
    phases: tuple[Samples, ...]
    boxes: tuple[Tensor, ...]
    everything: Samples
    between: Tensor


def make_sequence(cfg: ContinualConfig, overlap: float, seed: int) -> TaskSequence:
    """Return the phases in the order given by `seed`; nothing else of a sequence is random."""
    centres = centres_of(cfg)
    low, high = centres.min(0) - cfg.spacing / 2, centres.max(0) + cfg.spacing / 2
    half = cfg.spacing / 2 * (1 + overlap)
    target = build_target(
        ExpressionTarget(peaks_formula(centres, cfg.sharpness), np.stack([low, high], 1).tolist())
    )
    assert target.function is not None  # an invariant: formulas are functions
    points = [
        _lattice(np.maximum(centre - half, low), np.minimum(centre + half, high), cfg.points)
        for centre in centres[_order(cfg.order, len(centres), seed)]
    ]
    judged = _lattice(low, high, cfg.evaluation_points)
    nearest = np.linalg.norm(judged[:, None] - centres[None], axis=-1).min(1)
    everything = Points(judged, target.function(judged))
    shown = Points(np.concatenate(points), target.function(np.concatenate(points)))
    identity = Scaling.identity
    dataset = Dataset(target, shown, None, everything, identity(cfg.dimension), identity(1))
    dtype, device = PRECISIONS[cfg.precision], torch.device(device_of(cfg))

    def samples(at: Points) -> Samples:
        return Samples(*(torch.tensor(part, dtype=dtype, device=device) for part in (at.x, at.y)))

    domain = torch.tensor(target.domain, dtype=dtype, device=device)
    phases = tuple(samples(Points(x, target.function(x))) for x in points)
    return TaskSequence(
        LearningProblem(dataset, TrainingData(samples(shown)), domain),
        phases,
        tuple(torch.stack([phase.x.amin(0), phase.x.amax(0)], 1) for phase in phases),
        samples(everything),
        torch.tensor(nearest > cfg.spacing / 4, device=device),
    )


def centres_of(cfg: ContinualConfig) -> Array:
    """Return the given centres, or `peaks` along every axis around 0: (peaks, dimension)."""
    if cfg.centres is not None:
        try:
            centres = np.array(cfg.centres, dtype=np.float64).reshape(len(cfg.centres), -1)
        except (TypeError, ValueError):  # rows of different lengths, or of words
            centres = np.empty((0, 0))
        if not centres.size or centres.shape[1] != cfg.dimension or not np.isfinite(centres).all():
            raise UsageError(
                f"centres={cfg.centres} must list at least one place in "
                f"{cfg.dimension} dimension(s): {cfg.dimension} finite number(s) each; "
                "or centres=null."
            )
        if len(np.unique(centres, axis=0)) < len(centres):
            raise UsageError(
                f"centres={cfg.centres} has a place twice; each phase needs a place of its own."
            )
        return centres
    axis = (np.arange(cfg.peaks) - (cfg.peaks - 1) / 2) * cfg.spacing
    axis = np.array([round(float(c), 12) for c in axis])
    return np.array(list(itertools.product(axis, repeat=cfg.dimension)), dtype=np.float64)


def check_sequence(cfg: ContinualConfig) -> None:
    """Raise UsageError for too many phases or points, and for an invalid order or centres."""
    count = len(cfg.centres) if cfg.centres is not None else cfg.peaks**cfg.dimension
    if count > MAX_PEAKS or count * cfg.points > MAX_POINTS:
        raise UsageError(
            f"{count} phases of {cfg.points} points are too many: at most {MAX_PEAKS} phases "
            f"and {MAX_POINTS} points in all."
        )
    _order(cfg.order, len(centres_of(cfg)), cfg.seed)


def _order(order: Any, count: int, seed: int) -> Sequence[int]:
    """Return the positions of the peaks in the order of their phases, counted from 0."""
    if order == "random":
        drawn: list[int] = torch.randperm(
            count, generator=generator(seed, "order of the peaks")
        ).tolist()
        return drawn
    if order in ORDERS:
        return list(range(count))[:: 1 if order == "ascending" else -1]
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(count))):
        raise UsageError(
            f"order={order} must be one of {', '.join(ORDERS)}, or all of 0 .. {count - 1} "
            "in some order."
        )
    return [int(position) for position in order]


def _lattice(low: Array, high: Array, points: int) -> Array:
    """Return about `points` evenly spaced points of a box with its border: (points, dimension)."""
    each = max(2, round(points ** (1 / len(low))))
    axes = [np.linspace(a, b, each) for a, b in zip(low, high, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
