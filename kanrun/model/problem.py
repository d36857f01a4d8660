"""Learning problems: a dataset in the user's units, and the tensors that the engine trains on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kanrun.engine.training import Samples, Task, TrainingData
from kanrun.points import Array
from kanrun.targets import Dataset, PiecewiseScaling, Points, Scaling

PRECISIONS: dict[str, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}


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

    def shape_of(self, model: Any) -> tuple[int, ...]:
        """Return the widths of the network that a model has here, inputs first."""
        return (self.inputs, *model.plan().hidden, self.outputs)


def with_scalings(
    problem: LearningProblem,
    inputs: Scaling | PiecewiseScaling,
    outputs: Scaling | PiecewiseScaling | None,
) -> LearningProblem:
    """Return the same points in other units; `outputs` None keeps those of the output."""
    outputs = outputs or problem.dataset.output_scaling
    return _changed(problem, input_scaling=inputs, output_scaling=outputs)


def joined(problem: LearningProblem, points: Points, *, only: bool = False) -> LearningProblem:
    """Return the problem with `points` among its training points, or with them `only`."""
    return _changed(problem, train=points if only else problem.dataset.train.join(points))


def _changed(problem: LearningProblem, **changes: Any) -> LearningProblem:
    dataset = replace(problem.dataset, **changes)
    return problem_on(dataset, problem.domain.dtype, problem.domain.device)


def problem_on(dataset: Dataset, dtype: torch.dtype, device: torch.device) -> LearningProblem:
    """Return the problem of learning a dataset."""

    def tensor(array: Array) -> Tensor:
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
    # A constant input gets a range, so that its grid has a positive length.
    flat = (domain[:, 1] <= domain[:, 0])[:, None]
    domain = torch.where(flat, domain + domain.new_tensor([-0.5, 0.5]), domain)
    return LearningProblem(dataset, data, domain)
