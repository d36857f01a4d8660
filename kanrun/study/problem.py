"""Problems of learning: the points of a target, in the user's units and as the engine trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.config import (
    ExperimentConfig,
    SamplingConfig,
)
from kanrun.config.experiments import PRECISIONS as PRECISION_NAMES
from kanrun.engine.training import (
    Samples,
    Task,
    TrainingData,
)
from kanrun.study.resources import device_of
from kanrun.targets import Dataset, PiecewiseScaling, Points, Scaling, Target

PRECISIONS: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISION_NAMES}


@dataclass(frozen=True)
class LearningProblem:
    """`dataset` in the user's units and `data` as the engine trains on them.

    `domain` (inputs, 2) bounds the grid.
    """

    dataset: Dataset
    data: TrainingData
    domain: Tensor

    @property
    def inputs(self) -> int:
        return len(self.dataset.target.inputs)

    @property
    def outputs(self) -> int:
        """Outputs of a network: the target's, or one for each class."""
        return len(self.dataset.classes or self.dataset.target.outputs)


def make_problem(
    cfg: ExperimentConfig, target: Any, sampling: SamplingConfig, seed: int
) -> LearningProblem:
    """Sample `target`, settings or a target as it is, for `seed`.

    Raises UsageError for what breaks a rule.
    """
    # They load sympy, which a stored model does not need.
    from kanrun.targets import build_target, check_gaussian, make_dataset

    known = target if isinstance(target, Target) else build_target(target)
    check_gaussian(known)
    dataset = make_dataset(known, sampling, seed)
    return _problem(dataset, PRECISIONS[cfg.precision], torch.device(device_of(cfg)))


def with_scalings(
    problem: LearningProblem,
    inputs: Scaling | PiecewiseScaling,
    outputs: Scaling | PiecewiseScaling | None,
) -> LearningProblem:
    """Return the same points in other units; `outputs` None keeps those of the output."""
    dataset = replace(
        problem.dataset,
        input_scaling=inputs,
        output_scaling=outputs or problem.dataset.output_scaling,
    )
    return _problem(dataset, problem.domain.dtype, problem.domain.device)


def joined(problem: LearningProblem, points: Points, *, only: bool = False) -> LearningProblem:
    """Return the problem with `points` among its training points, or with them `only`."""
    train = points if only else problem.dataset.train.join(points)
    dataset = replace(problem.dataset, train=train)
    return _problem(dataset, problem.domain.dtype, problem.domain.device)


def _problem(dataset: Dataset, dtype: torch.dtype, device: torch.device) -> LearningProblem:
    def tensor(array: NDArray[np.float64]) -> Tensor:
        return torch.tensor(array, dtype=dtype, device=device)

    def samples(points: Points | None) -> Samples | None:
        if points is None:
            return None
        y = points.y if dataset.classes else dataset.output_scaling.apply(points.y)
        weights = None if points.weights is None else tensor(points.weights)
        return Samples(tensor(dataset.input_scaling.apply(points.x)), tensor(y), weights)

    train = samples(dataset.train)
    assert train is not None
    # Float32 would not hold every unit.
    units = torch.tensor(dataset.output_scaling.scale, dtype=torch.float64)
    task: Task = "classification" if dataset.classes else "regression"
    data = TrainingData(train, samples(dataset.validation), samples(dataset.test), units, task)
    domain = tensor(dataset.input_scaling.apply(dataset.target.domain.T).T)
    return LearningProblem(dataset, data, widened(domain))


def widened(domain: Tensor) -> Tensor:
    """Widen `domain` around constant inputs, so that a grid has a positive length."""
    flat = (domain[:, 1] <= domain[:, 0])[:, None]
    return torch.where(flat, domain + domain.new_tensor([-0.5, 0.5]), domain)
