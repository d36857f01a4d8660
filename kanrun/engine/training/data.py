"""Samples and how a network's error on them is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Task = Literal["regression", "classification"]


@dataclass(frozen=True)
class Samples:
    """x (samples, inputs) and y (samples, outputs); for classification y (samples, 1) holds class numbers.

    `weights` (samples,) say how many samples each stands for, None: one.
    """

    x: Tensor
    y: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def join(self, other: Samples | None) -> Samples:
        """Both sets, these samples first."""
        if other is None:
            return self
        weights = None
        if self.weights is not None or other.weights is not None:
            parts = (
                each.y.new_ones(len(each)) if each.weights is None else each.weights
                for each in (self, other)
            )
            weights = torch.cat(list(parts))
        return Samples(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]), weights)

    def part(self, index: Tensor | slice) -> Samples:
        """The samples at `index`."""
        return Samples(
            self.x[index], self.y[index], None if self.weights is None else self.weights[index]
        )

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values (samples, ...) over samples and all else."""
        if self.weights is None:
            return values.mean()
        return self.weights @ values.flatten(1).mean(1) / self.weights.sum()

    def centred(self) -> Tensor:
        """y minus its mean over the samples."""
        mean = (
            self.y.mean(0) if self.weights is None else self.weights @ self.y / self.weights.sum()
        )
        return self.y - mean

    @property
    def roots(self) -> Tensor | None:
        """sqrt(w / mean w), (samples, 1): rows times it are weighted rows; None where all weigh the same."""
        return (
            None if self.weights is None else (self.weights / self.weights.mean()).sqrt()[:, None]
        )


@dataclass(frozen=True)
class TrainingData:
    """What training may learn from (`train`), select on (`validation`) and only report on (`test`).

    Outputs of sizes below 1/100 or above 100 are standardised before (`kanrun.targets`): `unit` (outputs,), in float64,
    turns a difference of outputs into the user's units. Errors are reported times it.
    """

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    unit: Tensor | None = None
    task: Task = "regression"

    @property
    def everything(self) -> Samples:
        """All points that a final fit may use: training and validation together."""
        return self.train.join(self.validation)


@dataclass(frozen=True)
class Errors:
    """Root mean square errors in the user's units; for classification of the class probabilities."""

    train: float
    validation: float | None
    test: float | None

    @property
    def reported(self) -> float | None:
        """The error on points that no step saw: on test points, without any on those for validation."""
        return self.validation if self.test is None else self.test

    @property
    def selected(self) -> float:
        """What selections compare: the validation error, or the training error where nothing is held out.

        Infinity in place of what is no number, so that no comparison lets it win.
        """
        error = self.train if self.validation is None else self.validation
        return error if error < float("inf") else float("inf")


def predict(
    network: nn.Module, x: Float[Tensor, "samples inputs"], rows: int = 2048, held: int = 1 << 17
) -> Float[Tensor, "samples out"]:
    """f(x) without gradients, `rows` at a time or as many as give the widest layer `held` numbers: little memory, and
    as few as stay in a processor's cache."""
    widest = max((max(p.shape[:2]) for p in network.parameters() if p.dim() > 1), default=1)
    with torch.no_grad():
        return torch.cat([network(part) for part in x.split(min(rows, max(held // widest, 1)))])


def rmse(network: nn.Module, samples: Samples | None, data: TrainingData) -> float | None:
    """sqrt(mean |f(x) - y|^2) over samples and outputs, in the user's units; None without samples."""
    if samples is None or len(samples) == 0:
        return None
    return _in_units(residual(predict(network, samples.x), samples.y, data.task), samples, data)


def _in_units(difference: Tensor, samples: Samples, data: TrainingData) -> float:
    """The root mean square of differences of outputs (samples, outputs), in the user's units."""
    if data.unit is None or data.task != "regression":
        return float(samples.mean(difference.square()).sqrt())
    largest = float(
        data.unit.max()
    )  # kept apart, so that no square of the user's units over- or underflows
    relative = difference * (data.unit / largest).to(difference)
    return largest * float(samples.mean(relative.square()).sqrt())


def not_finite(network: nn.Module, samples: Samples) -> str:
    """Which quantity behind an error that is not finite is the first that is not, at how many places, and a remedy."""
    numbers = torch.cat([value.detach().flatten() for value in network.parameters()])
    output = predict(network, samples.x)
    for name, values in (
        ("parameters of the network", numbers),
        ("inputs of the training points", samples.x),
        ("outputs of the training points", samples.y),
        ("outputs of the network at the training points", output),
    ):
        bad = int((~values.isfinite()).sum())
        if bad:
            cause = f"{bad} of {values.numel()} {name} are not finite"
            break
    else:
        cause = f"outputs of the network reach {float(output.abs().max()):.1e}, and a step or a square overflows"
    single = numbers.dtype == torch.float32
    remedy = (
        "use precision=float64"
        if single
        else "look for values of the data that are far from all others"
    )
    return f"{cause}; {remedy}, or use solver=adam with a lower solver.learning_rate"


def measure(network: nn.Module, data: TrainingData) -> Errors:
    """Errors of `network` on the three sets."""
    train = rmse(network, data.train, data)
    assert (
        train is not None
    )  # an invariant: data without training samples are refused where they are made
    return Errors(train, rmse(network, data.validation, data), rmse(network, data.test, data))


def residual(output: Tensor, y: Tensor, task: Task) -> Tensor:
    """f(x) - y, or class probabilities - indicator of the class."""
    if task == "regression":
        return output - y
    return functional.softmax(output, dim=-1) - one_hot(y, output)


def one_hot(y: Float[Tensor, "samples 1"], output: Float[Tensor, "samples classes"]) -> Tensor:
    """Indicator of the class numbers `y`, shaped and typed like `output`."""
    return functional.one_hot(y[:, 0].long(), output.shape[1]).to(output)


def mean_loss(output: Tensor, samples: Samples, task: Task, size: float) -> Tensor:
    """What training lowers: mean squared residual relative to `size`^2, or cross-entropy."""
    if task == "classification":
        labels = samples.y[:, 0].long()
        if samples.weights is None:
            return functional.cross_entropy(output, labels)
        return samples.mean(functional.cross_entropy(output, labels, reduction="none")[:, None])
    return samples.mean(((output - samples.y) / size).square())


def output_scale(samples: Samples, task: Task) -> float:
    """The standard deviation of the outputs, which makes losses and penalties free of units (1 where it is 0)."""
    if task == "classification":
        return 1.0
    deviation = float(samples.mean(samples.centred().square()).sqrt())
    return deviation if deviation > 0 else max(1.0, float(samples.y.abs().max()))


def baseline_error(data: TrainingData) -> float:
    """The training error, in the user's units, of predicting the mean: what errors are relative to."""
    if data.task == "classification":
        return 1.0
    deviation = _in_units(data.train.centred(), data.train, data)
    return deviation if deviation > 0 else 1.0
