"""Samples and plan of a training, and measures of a network's error on samples."""

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

#: Largest number of rows that `predict` evaluates at once. More rows need more memory.
PREDICT_ROWS = 2048
#: Largest number of values in the widest layer that `predict` evaluates at once. A larger number
#: no longer fits the processor's cache; a smaller one makes more calls.
PREDICT_NUMBERS = 1 << 17
#: Multiplications of a Levenberg-Marquardt step up to which it is chosen: about a second on two
#: cores.
LM_WORK = 1e11
#: Numbers that a gradient touches (samples x active terms) up to which whole batches are chosen.
LBFGS_WORK = 1e7
#: A start uses a few samples for each unknown of the first grid and takes many steps: it counts as
#: this many times the cube of its unknowns.
START_WORK = 40
#: Steps of Levenberg-Marquardt on a grid, by the maximum number of unknowns that take this many.
LM_STEPS = ((300.0, 20), (1000.0, 10), (inf, 6))


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

    @property
    def untested(self) -> TrainingData:
        """Data without test points."""
        return replace(self, test=None)


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
        """Error on points that no step saw: the test points, else the validation points."""
        return self.validation if self.test is None else self.test

    @property
    def selected(self) -> float:
        """Error that selections compare, on validation or else on training points.

        Infinity for NaN.
        """
        error = self.train if self.validation is None else self.validation
        return error if error < inf else inf


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


# -------------------- the plan


@dataclass(frozen=True)
class GrowthPolicy:
    """Limits of the growth of a network from the additive model.

    Attributes:
        largest: Largest shape that is tried.
        given: Whether this is the shape that was asked for. Random networks of it compete with the
            grown ones then.
    """

    largest: tuple[int, ...]
    given: bool = False


@dataclass(frozen=True)
class Plan:
    """Plan of the training of one network.

    Attributes:
        solver: Name of the solver.
        intervals: The grid schedule; empty for networks without grids.
        steps: Maximum number of steps on each grid; None: the solver's own rule.
        starts: Number of random starts on the first grid (by Levenberg-Marquardt: quickly, on a
            coarse one), of which the best continues; of a growth: of candidates for each width.
        weight: Weight of the smoothness penalty; None: chosen by validation (second-order solvers).
        first_weight: Weight with which the choice begins, relative to outputs of unit standard
            deviation and a domain of unit width.
        order: Order of the penalised differences; None: degree + 2.
        growth: Limits within which the shape grows from the additive model; None: a given shape.
        update_grid: Whether hidden grids follow the activations.
        grid_eps: Fraction of uniform spacing in redrawn grids; the rest follows quantiles.
        freeze_unseen: Whether coefficients of basis functions without samples stay as they are.
        stop_early: Whether the schedule ends after two grids in a row that did not help.
        max_unknowns: The schedule ends before a grid with more unknowns; None: no limit.
        patience: Steps without a lower validation error until a grid is left; None: no limit.
        insert_knots: Whether knots are inserted where residuals are concentrated in an input.
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
        """Grids in turn; None for a network without grids."""
        return self.intervals or (None,)

    @property
    def second_order(self) -> bool:
        """True if the solver minimises squares by second-order steps."""
        return bool(self.settings.second_order)

    def steps_for(self, unknowns: int) -> int:
        """Return the maximum number of steps on a grid with `unknowns`.

        Fewer the more a step costs.
        """
        if self.steps is not None:
            return self.steps
        if not (self.second_order and self.intervals):
            return int(self.settings.default_steps)
        return next(steps for most, steps in LM_STEPS if unknowns <= most)


def second_order_work(rows: int, parameters: int) -> int:
    """Return the number of multiplications of one Levenberg-Marquardt step."""
    return 2 * rows * parameters**2 + parameters**3


def affords_starts(first: int) -> bool:
    """Return whether second-order starts with this many unknowns on the first grid are cheap."""
    return START_WORK * first**3 <= LM_WORK


def check_solver(name: str, task: Task, dtype: torch.dtype) -> None:
    """Raise UsageError for a solver that fits neither the task nor the precision."""
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
    """Return the solver for a training of this size, and a sentence with the reason.

    Args:
        rows: Samples times outputs.
        parameters: Number of parameters on the last grid.
        first: Number of parameters on the first grid.
        active: Number of active terms of one sample.
        task: What is learned.
        double: Whether numbers are float64.
    """
    lm = max(second_order_work(rows, parameters), START_WORK * first**3)
    affordable = rows * active <= LBFGS_WORK
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
