"""Samples, and measures of a network's error on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Task = Literal["regression", "classification"]

#: Rows of a piece of `predict`, and numbers of the widest layer there: little memory, and what
#: stays in a cache.
PREDICT_ROWS, PREDICT_NUMBERS = 2048, 1 << 17


@dataclass(frozen=True)
class Samples:
    """x (samples, inputs) and y (samples, outputs).

    For classification y (samples, 1) holds class numbers.

    `weights` (samples,) are the numbers of samples that each stands for; None: one.
    """

    x: Tensor
    y: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def join(self, other: Samples | None) -> Samples:
        """Return both sets, these samples first."""
        if other is None:
            return self
        weights = None
        if self.weights is not None or other.weights is not None:
            both = (self, other)
            weights = torch.cat(
                [s.y.new_ones(len(s)) if s.weights is None else s.weights for s in both]
            )
        return Samples(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]), weights)

    def part(self, index: Tensor | slice) -> Samples:
        """Return the samples at `index`."""
        weights = None if self.weights is None else self.weights[index]
        return Samples(self.x[index], self.y[index], weights)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values (samples, ...) over samples and all other dimensions."""
        if self.weights is None:
            return values.mean()
        return self.weights @ values.flatten(1).mean(1) / self.weights.sum()

    def centred(self) -> Tensor:
        """Return y minus its mean over the samples."""
        if self.weights is None:
            return self.y - self.y.mean(0)
        return self.y - self.weights @ self.y / self.weights.sum()

    @property
    def roots(self) -> Tensor | None:
        """sqrt(w / mean w), (samples, 1), which turns rows into weighted rows.

        None for equal weights.
        """
        if self.weights is None:
            return None
        return (self.weights / self.weights.mean()).sqrt()[:, None]


@dataclass(frozen=True)
class TrainingData:
    """Samples to learn from (`train`), to select on (`validation`) and to report on (`test`).

    Outputs smaller than 1/100 or larger than 100 are standardised before (`kanrun.targets`): `unit`
    (outputs,), in float64, turns a difference of outputs into the user's units, in which errors are
    reported.
    """

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    unit: Tensor | None = None
    task: Task = "regression"

    @property
    def everything(self) -> Samples:
        """Training and validation points together, for a final fit."""
        return self.train.join(self.validation)


@dataclass(frozen=True)
class Errors:
    """Root mean square errors in the user's units.

    For classification of the class probabilities.
    """

    train: float
    validation: float | None
    test: float | None

    @property
    def reported(self) -> float | None:
        """The error on points that no step saw: the test points, else the validation points."""
        return self.validation if self.test is None else self.test

    @property
    def selected(self) -> float:
        """The error that selections compare, on validation or else on training points.

        Infinity for NaN.
        """
        error = self.train if self.validation is None else self.validation
        return error if error < float("inf") else float("inf")


def predict(network: nn.Module, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples out"]:
    """Return f(x) without gradients, computed piece by piece."""
    widest = max((max(p.shape[:2]) for p in network.parameters() if p.dim() > 1), default=1)
    with torch.no_grad():
        parts = x.split(min(PREDICT_ROWS, max(PREDICT_NUMBERS // widest, 1)))
        return torch.cat([network(part) for part in parts])


def rmse(network: nn.Module, samples: Samples | None, data: TrainingData) -> float | None:
    """Return sqrt(mean |f(x) - y|^2) in the user's units (for classes, of probabilities).

    None without samples.
    """
    if samples is None or len(samples) == 0:
        return None
    output = predict(network, samples.x)
    if data.task == "regression":
        return _in_units(output - samples.y, samples, data)
    indicator = functional.one_hot(samples.y[:, 0].long(), output.shape[1]).to(output)
    return float(samples.mean((functional.softmax(output, dim=-1) - indicator).square()).sqrt())


def _in_units(difference: Tensor, samples: Samples, data: TrainingData) -> float:
    """Return the root mean square of differences of outputs, in the user's units."""
    if data.unit is None:
        return float(samples.mean(difference.square()).sqrt())
    # The largest unit is kept apart, so that no square of the user's units over- or underflows.
    largest = float(data.unit.max())
    relative = difference * (data.unit / largest).to(difference)
    return largest * float(samples.mean(relative.square()).sqrt())


def explain_non_finite(network: nn.Module, samples: Samples) -> str:
    """Explain a non-finite error.

    Name the first non-finite quantity, count its entries, and suggest a remedy.
    """
    numbers = torch.cat([value.detach().flatten() for value in network.parameters()])
    output = predict(network, samples.x)
    largest = float(output.abs().max())
    cause = f"outputs of the network reach {largest:.1e}, and a step or a square overflows"
    for name, values in (
        ("outputs of the network at the training points", output),
        ("outputs of the training points", samples.y),
        ("inputs of the training points", samples.x),
        ("parameters of the network", numbers),
    ):
        if bad := int((~values.isfinite()).sum()):
            cause = f"{bad} of {values.numel()} {name} are not finite"
    remedy = "look for values of the data that are far from all others"
    if numbers.dtype == torch.float32:
        remedy = "use precision=float64"
    return f"{cause}; {remedy}, or use solver=adam with a lower solver.learning_rate"


def measure(network: nn.Module, data: TrainingData) -> Errors:
    """Return the errors of `network` on the three sets."""
    train, *others = (
        rmse(network, samples, data) for samples in (data.train, data.validation, data.test)
    )
    assert train is not None  # Data without training samples are rejected where they are made.
    return Errors(train, *others)


def mean_loss(output: Tensor, samples: Samples, task: Task, size: float) -> Tensor:
    """Return the mean squared residual relative to `size`^2, or the mean cross-entropy."""
    if task == "regression":
        return samples.mean(((output - samples.y) / size).square())
    labels = samples.y[:, 0].long()
    return samples.mean(functional.cross_entropy(output, labels, reduction="none")[:, None])


def output_scale(samples: Samples, task: Task) -> float:
    """Return the standard deviation of the outputs, or the size of constant outputs."""
    if task == "classification":
        return 1.0
    deviation = float(samples.mean(samples.centred().square()).sqrt())
    return deviation if deviation > 0 else max(1.0, float(samples.y.abs().max()))


def baseline_error(data: TrainingData) -> float:
    """Return the training error of predicting the mean, in the user's units.

    The unit of relative errors.
    """
    if data.task == "classification":
        return 1.0
    deviation = _in_units(data.train.centred(), data.train, data)
    return deviation if deviation > 0 else 1.0
