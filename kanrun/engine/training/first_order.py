"""Solvers that need gradients only: LBFGS with a strong Wolfe line search, and Adam with mini-batches.

Both lower mean loss + weight * penalty, never regrid inside a step, and can be limited to coefficients whose basis
functions saw data (`local`): whatever momentum, weight decay or the penalty would do to the others is undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Generator, Tensor, nn

from kanrun.engine.networks import KAN, support
from kanrun.engine.training.data import Samples, Task, mean_loss
from kanrun.engine.training.penalty import penalty
from kanrun.errors import TrainingFailed


@dataclass(frozen=True)
class Objective:
    """mean_loss on `samples` + `weight` * smoothness penalty."""

    samples: Samples
    size: float
    task: Task = "regression"
    weight: float = 0.0
    local: bool = False
    order: int | None = None  # of the smoothness penalty, by default degree + 2

    def value(self, network: nn.Module, samples: Samples) -> Tensor:
        """The objective on some of the samples, differentiable."""
        loss = mean_loss(network(samples.x), samples.y, self.task, self.size)
        return loss + self.weight * penalty(network, self.order) if self.weight else loss


class LBFGS:
    """torch's LBFGS, one outer iteration a step; its history lasts as long as the network's parameters do."""

    name = "lbfgs"
    stalls = False

    def __init__(self, network: nn.Module, objective: Objective, *, history: int = 30) -> None:
        self.network, self.objective = network, objective
        self.rows = len(objective.samples)
        self.parameters = trainable(network)
        self._optimiser = torch.optim.LBFGS(
            self.parameters, lr=1.0, max_iter=1, max_eval=25, history_size=history, line_search_fn="strong_wolfe",
            tolerance_grad=0.0, tolerance_change=0.0,
        )  # fmt: skip
        self._locks = Locks(network, objective)
        self.converged = False
        self.loss = float(objective.value(network, objective.samples).detach())

    def step(self) -> float:
        """One line search; `converged` when it finds no lower point."""
        before, old = self.loss, [p.detach().clone() for p in self.parameters]
        self._optimiser.step(self._closure)
        self._locks.restore()
        with torch.no_grad():
            self.loss = float(self.objective.value(self.network, self.objective.samples))
        if not self.loss <= before:
            _write(self.parameters, old)
            self.loss, self.converged = before, True
        elif self.loss == before:
            self.converged = True
        return self.loss

    def _closure(self) -> float:
        self._optimiser.zero_grad()
        value = self.objective.value(self.network, self.objective.samples)
        torch.autograd.backward(value)
        self._locks.mute()
        return float(value.detach())


@dataclass(frozen=True)
class AdamOptions:
    learning_rate: float = 1e-2
    schedule: str = "cosine"
    steps: int = 1000  # of the schedule
    batch: int | None = None
    weight_decay: float = 0.0


class Adam:
    """torch's AdamW with a learning rate schedule; one (mini-)batch a step, drawn from `generator`."""

    name = "adam"
    stalls = False

    def __init__(self, network: nn.Module, objective: Objective, options: AdamOptions, generator: Generator) -> None:
        self.network, self.objective, self.options, self.generator = network, objective, options, generator
        self.rows = min(options.batch or len(objective.samples), len(objective.samples))
        self.parameters = trainable(network)
        self._optimiser = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._locks = Locks(network, objective)
        self._taken = 0
        self.converged = False
        self.loss = float("nan")

    def step(self) -> float:
        """One update; returns the objective on its batch. Raises TrainingFailed at a loss that is not finite."""
        samples = self._batch()
        for group in self._optimiser.param_groups:
            group["lr"] = self.options.learning_rate * self._share()
        self._optimiser.zero_grad()
        value = self.objective.value(self.network, samples)
        if not bool(torch.isfinite(value)):
            raise TrainingFailed(
                f"The loss is not finite at step {self._taken + 1} of Adam; lower solver.learning_rate."
            )
        torch.autograd.backward(value)
        self._optimiser.step()
        self._locks.restore()
        self._taken += 1
        self.loss = float(value.detach())
        return self.loss

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """First and second moments of each parameter, to be carried across a refinement."""
        states = [self._optimiser.state.get(p, {}) for p in self.parameters]
        return [(s["exp_avg"], s["exp_avg_sq"]) for s in states if s]

    def _share(self) -> float:
        if self.options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + cos(pi * min(self._taken / max(self.options.steps, 1), 1.0)))

    def _batch(self) -> Samples:
        samples = self.objective.samples
        size = self.options.batch
        if size is None or size >= len(samples):
            return samples
        index = torch.randint(len(samples), (size,), generator=self.generator).to(samples.x.device)
        return samples.part(index)


class Locks:
    """Coefficients that must not move because no sample touches their basis functions.

    Decided at the start of a stage for the layers' inputs as they are then; off unless the objective is `local`.
    """

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        if objective.local and isinstance(network, KAN):
            for layer, seen in zip(network, support(network, objective.samples.x), strict=True):
                free = seen.expand_as(layer.coefficients)
                self._held.append((layer.coefficients, free, layer.coefficients.detach().clone()))

    def mute(self) -> None:
        """Zero the gradients of what is held."""
        for parameter, free, _ in self._held:
            if parameter.grad is not None:
                parameter.grad.mul_(free)

    def restore(self) -> None:
        """Put what is held back to the last bit."""
        with torch.no_grad():
            for parameter, free, held in self._held:
                parameter.copy_(torch.where(free, parameter, held))


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that a first-order solver moves."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _write(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
