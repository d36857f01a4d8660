"""Samples and plan of a training run, and measures of a network's error on samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from kanrun.config.registry import SOLVERS
from kanrun.errors import UsageError

Task = Literal["regression", "classification"]

#: Largest number of values in the widest layer that `predict` evaluates at once. A larger number
#: no longer fits the processor's cache; a smaller one makes more calls.
PREDICT_NUMBERS = 1 << 17
#: Largest number of multiplications per step at which Levenberg-Marquardt is chosen; about one
#: second on two cores.
LM_WORK = 1e11
#: Work of a random start, in multiplications divided by the cube of its number of unknowns on the
#: first grid. A start takes many steps, on a few samples per unknown.
START_WORK = 40
#: Pairs of a largest number of unknowns and the number of Levenberg-Marquardt steps on a grid for
#: networks up to this size.
LM_STEPS = ((300.0, 20), (1000.0, 10), (inf, 6))


@dataclass(frozen=True)
class Samples:
    """Samples with optional weights.

    Attributes:
        x: Inputs, shape (samples, inputs).
        y: Outputs, shape (samples, outputs); for classification the class numbers, (samples, 1).
        weights: Number of samples that each row stands for, shape (samples,); None means 1 each.
    """

    x: Tensor
    y: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def join(self, other: Samples | None) -> Samples:
        """Return these samples followed by those of `other`."""
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
        """Return the mean of values (samples, ...) over all dimensions, as a scalar.

        The mean over the samples uses their weights.
        """
        if self.weights is None:
            return values.mean()
        return self.weights @ values.flatten(1).mean(1) / self.weights.sum()

    def centred(self) -> Tensor:
        """Return y minus its weighted mean over the samples, shape (samples, outputs)."""
        if self.weights is None:
            return self.y - self.y.mean(0)
        return self.y - self.weights @ self.y / self.weights.sum()

    @property
    def roots(self) -> Tensor | None:
        """Square roots of the weights relative to the mean weight, shape (samples, 1).

        The rows of least-squares problems are multiplied by these roots. None without weights.
        """
        if self.weights is None:
            return None
        return (self.weights / self.weights.mean()).sqrt()[:, None]


@dataclass(frozen=True)
class TrainingData:
    """Samples of a training run.

    Attributes:
        train: Samples to fit.
        validation: Samples with which grids, weights and shapes are selected.
        test: Samples on which errors are only reported.
        unit: Factors (outputs,), in float64, that convert differences of outputs to the user's
            units, in which errors are reported. They differ from 1 for outputs smaller than 1/100
            or larger than 100, which `kanrun.targets` standardises. None means 1.
        task: Whether numbers (`regression`) or classes (`classification`) are learned.
    """

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    unit: Tensor | None = None
    task: Task = "regression"

    @property
    def everything(self) -> Samples:
        """Training and validation points together, for the final fit."""
        return self.train.join(self.validation)

    @property
    def untested(self) -> TrainingData:
        """The same data without the test points."""
        return replace(self, test=None)


@dataclass(frozen=True)
class Errors:
    """Root mean square errors in the user's units; for classification, of class probabilities."""

    train: float
    validation: float | None
    test: float | None

    @property
    def reported(self) -> float | None:
        """Test error; without test points, the validation error."""
        return self.validation if self.test is None else self.test

    @property
    def selected(self) -> float:
        """Error by which grids, weights and shapes are selected; infinity if it is NaN.

        It is the validation error or, if there are no validation points, the training error.
        """
        error = self.train if self.validation is None else self.validation
        return error if error < inf else inf


def predict(network: nn.Module, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples out"]:
    """Return the network's outputs at `x` without gradients, computed in blocks of rows."""
    widest = max((max(p.shape[:2]) for p in network.parameters() if p.dim() > 1), default=1)
    # Largest number of rows that `predict` evaluates at once. More rows need more memory.
    rows = 2048
    with torch.no_grad():
        parts = x.split(min(rows, max(PREDICT_NUMBERS // widest, 1)))
        return torch.cat([network(part) for part in parts])


def rmse(network: nn.Module, samples: Samples | None, data: TrainingData) -> float | None:
    """Return the root mean square error over samples and outputs, or None without samples.

    The error of numbers is in the user's units. For classification, it is the error of the class
    probabilities.
    """
    if samples is None or len(samples) == 0:
        return None
    output = predict(network, samples.x)
    if data.task == "regression":
        return _in_units(output - samples.y, samples, data)
    indicator = functional.one_hot(samples.y[:, 0].long(), output.shape[1]).to(output)
    return float(samples.mean((functional.softmax(output, dim=-1) - indicator).square()).sqrt())


def _in_units(difference: Tensor, samples: Samples, data: TrainingData) -> float:
    """Return the root mean square of `difference` (samples, outputs), in the user's units."""
    if data.unit is None:
        return float(samples.mean(difference.square()).sqrt())
    # The units are divided by the largest one, so that squares in the user's units cannot overflow
    # or underflow.
    largest = float(data.unit.max())
    relative = difference * (data.unit / largest).to(difference)
    return largest * float(samples.mean(relative.square()).sqrt())


def explain_non_finite(network: nn.Module, samples: Samples) -> str:
    """Explain why the error on `samples` is not finite.

    The explanation names the first quantity with NaN or infinite values, in the order parameters,
    inputs, training outputs and network outputs. It says how many values are affected, and suggests
    a remedy.
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
    """Return the errors of `network` on the training, validation and test samples."""
    train, *others = (
        rmse(network, samples, data) for samples in (data.train, data.validation, data.test)
    )
    assert train is not None  # Data without training samples are rejected where they are made.
    return Errors(train, *others)


def mean_loss(output: Tensor, samples: Samples, task: Task, size: float) -> Tensor:
    """Return the mean squared residual divided by `size`^2, or for classes the cross-entropy.

    `size` is the standard deviation of the outputs; see `output_scale`. Classes may be given by
    their probabilities, shape (samples, classes), instead of their numbers.
    """
    if task == "regression":
        return samples.mean(((output - samples.y) / size).square())
    labels = samples.y if samples.y.shape[1] > 1 else samples.y[:, 0].long()
    return samples.mean(functional.cross_entropy(output, labels, reduction="none")[:, None])


def output_scale(samples: Samples, task: Task) -> float:
    """Return the number by which residuals are divided.

    It is the standard deviation of the outputs; for constant outputs, their largest magnitude or 1,
    whichever is larger; for classification, 1.
    """
    if task == "classification":
        return 1.0
    deviation = float(samples.mean(samples.centred().square()).sqrt())
    return deviation if deviation > 0 else max(1.0, float(samples.y.abs().max()))


def baseline_error(data: TrainingData) -> float:
    """Return the RMSE of predicting the mean of the training outputs, in the user's units.

    A relative error is an error divided by this number, which is 1 for constant outputs and for
    classification.
    """
    if data.task == "classification":
        return 1.0
    deviation = _in_units(data.train.centred(), data.train, data)
    return deviation if deviation > 0 else 1.0


# -------------------- the plan


@dataclass(frozen=True)
class GrowthPolicy:
    """Limits of the growth of a network from the additive model.

    Attributes:
        largest: Largest shape that is tried.
        given: Whether the user asked for the shape `largest`. If so, random networks of this shape
            compete with the grown ones.
    """

    largest: tuple[int, ...]
    given: bool = False


@dataclass(frozen=True)
class Plan:
    """Plan of the training of one network.

    Attributes:
        solver: Name of the solver.
        intervals: Numbers of grid intervals to train on in turn; empty for networks without grids.
        steps: Maximum number of steps on each grid; None: see `steps_for`.
        starts: Number of random starts, of which the best is trained further. Starts are compared
            by short training runs on a coarse grid if the solver is of second order, otherwise by
            training on the first grid. If the shape grows, this is the number of candidates at each
            width.
        weight: Weight of the smoothness penalty; None: chosen by validation (second-order solvers).
        first_weight: First weight that validation tries, relative to outputs of unit standard
            deviation and a domain of unit width.
        order: Order of the penalised differences; None: degree + 2.
        growth: Limits within which the shape grows from the additive model; None: no growth.
        update_grid: Whether the grids of hidden layers are adapted to the range of the activations.
        grid_eps: Weight of equal spacing in adapted grids, 0 to 1. The remaining weight is that of
            quantiles of the activations.
        freeze_unseen: Whether coefficients stay fixed if no sample lies in the support of their
            basis functions.
        stop_early: Whether the schedule ends after two grids in a row without improvement.
        max_unknowns: The schedule ends before a grid with more unknowns; None: no limit.
        patience: Number of measurements (usually one per step) without a lower validation error
            after which training on a grid ends; None: no limit.
        insert_knots: Whether knots are inserted where the residual is concentrated in a short range
            of one input.
        settings: Settings of the solver; None: its defaults.
    """

    solver: str
    intervals: tuple[int, ...] = ()
    steps: int | None = None
    starts: int = 1
    weight: float | None = None
    first_weight: float = 1e-18
    order: int | None = None
    growth: GrowthPolicy | None = None
    update_grid: bool = True
    grid_eps: float = 1.0
    freeze_unseen: bool = False
    stop_early: bool = False
    max_unknowns: int | None = None
    patience: int | None = None
    insert_knots: bool = False
    settings: Any = None

    def __post_init__(self) -> None:
        if self.settings is None:
            object.__setattr__(self, "settings", SOLVERS[self.solver]())

    @property
    def schedule(self) -> tuple[int | None, ...]:
        """Numbers of grid intervals to train on in turn; (None,) for a network without grids."""
        return self.intervals or (None,)

    @property
    def second_order(self) -> bool:
        """Whether the solver minimises a sum of squares by second-order steps."""
        return bool(self.settings.second_order)

    def steps_for(self, unknowns: int) -> int:
        """Return the maximum number of solver steps on a grid with this number of unknowns.

        It is `steps`, unless that is None. By default, networks with more unknowns get fewer
        Levenberg-Marquardt steps, because each step costs more.
        """
        if self.steps is not None:
            return self.steps
        if not (self.second_order and self.intervals):
            return int(self.settings.default_steps)
        return next(steps for most, steps in LM_STEPS if unknowns <= most)


def second_order_work(rows: int, parameters: int) -> int:
    """Return the number of multiplications of one Levenberg-Marquardt step.

    `rows` is the number of samples times outputs.
    """
    return 2 * rows * parameters**2 + parameters**3


def affords_starts(first: int) -> bool:
    """Return whether second-order random starts are affordable.

    `first` is the number of unknowns on the first grid.
    """
    return START_WORK * first**3 <= LM_WORK


def check_solver(name: str, task: Task, dtype: torch.dtype) -> None:
    """Raise UsageError if the solver does not support the task or the precision."""
    if not SOLVERS[name].second_order:
        return
    if task == "classification":
        raise UsageError(
            f"solver={name} minimises squares, not cross-entropy. Use solver=auto, lbfgs or adam "
            "for classes."
        )
    if dtype != torch.float64:
        raise UsageError(
            f"solver={name} works in float64. Use precision=float64, or solver=lbfgs or adam for "
            "float32."
        )


def choose_solver(
    rows: int, parameters: int, first: int, active: int, task: Task, *, double: bool
) -> tuple[str, str]:
    """Return the name of the solver for a problem of this size, and a sentence with the reason.

    Args:
        rows: Number of samples times number of outputs.
        parameters: Number of parameters on the last grid.
        first: Number of parameters on the first grid.
        active: Number of parameters that affect the outputs at one sample.
        task: Whether numbers (`regression`) or classes (`classification`) are learned.
        double: Whether the precision is float64.
    """
    lm = max(second_order_work(rows, parameters), START_WORK * first**3)
    # If the values that enter a gradient (samples x active terms) are at most this many, the whole
    # batch is used (LBFGS), otherwise mini-batches (Adam).
    most = 1e7
    affordable = rows * active <= most
    first_order = "lbfgs" if affordable else "adam"
    step = (
        f"{parameters} parameters on {rows} values cost {lm:.1e} multiplications a second-order "
        "step, starts considered"
    )
    if task == "classification":
        return first_order, f"{first_order}: classification minimises cross-entropy, not squares."
    if lm <= LM_WORK and double:
        return "lm", f"lm: {step}, within {LM_WORK:.0e}."
    if lm <= LM_WORK:
        return "lbfgs", "lbfgs: second-order steps need float64."
    if affordable:
        return "lbfgs", (
            f"lbfgs: {step}, over {LM_WORK:.0e}; whole-batch gradients are affordable."
        )
    return "adam", (
        f"adam: {rows} values with {active} active terms each; mini-batches are the cheaper way."
    )
