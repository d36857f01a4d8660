"""The objective of solvers that need gradients only, and Adam with mini-batches.

These solvers (LBFGS is in `lbfgs`) lower mean loss + weight * penalty, never regrid inside a step,
and can be limited to coefficients whose basis functions saw data (`freeze_unseen`): effects of
momentum, weight decay and penalty on the other coefficients are undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Generator, Tensor, nn

from kanrun.config.registry import SOLVERS
from kanrun.config.solvers import AdamSolver
from kanrun.engine.networks import Network
from kanrun.engine.training.data import Samples, Task, explain_non_finite, mean_loss
from kanrun.engine.training.data_fitting import SmoothnessLoss, SmoothnessPenalty
from kanrun.errors import TrainingFailed


@dataclass(frozen=True)
class Objective:
    """Mean loss on `samples`, smoothness penalty, and the paper's penalty of large edges."""

    samples: Samples
    size: float
    task: Task = "regression"
    penalty: SmoothnessPenalty = SmoothnessPenalty()
    freeze_unseen: bool = False
    sparsity: float = 0.0
    #: Norm of an edge's function, see `edge_magnitudes`.
    sparsity_norm: str = "rms"
    #: For each layer (inputs, functions): coefficients that must not move.
    held: tuple[Tensor, ...] = ()

    def value(self, network: Network, samples: Samples, smoothness_loss: SmoothnessLoss) -> Tensor:
        """Return the objective on some of the samples, differentiable."""
        loss = mean_loss(network(samples.x), samples, self.task, self.size)
        if self.sparsity:
            loss = loss + self.sparsity * network.regularisation(samples.x, kind=self.sparsity_norm)
        return loss + smoothness_loss(network) if self.penalty.weight else loss

    def movable(self, network: Network) -> dict[nn.Parameter, Tensor]:
        """Return the numbers that may move, for each parameter that has others.

        Fixed are held coefficients and, with `freeze_unseen`, those of basis functions that no
        sample touches, decided at the start of a stage for the layers' inputs as they are then;
        with any coefficient of an edge its w_b. What scales a whole spline still moves.
        """
        masks = [[~held for held in self.held]] if self.held else []
        if self.freeze_unseen:
            masks.append(network.support(self.samples.x))
        free: dict[nn.Parameter, Tensor] = {}
        for layer, *parts in zip(network.edge_layers, *masks, strict=True) if masks else ():
            here = torch.stack(parts).all(0)
            # The base acts everywhere.
            frees = {"coefficients": here, "base_weight": here.all(1)}
            for name, parameter in layer.named_parameters():
                if name in frees:
                    free[parameter] = frees[name].expand_as(parameter)
        return free


#: State of the optimiser for each parameter, and torch's name of it.
KEPT = {"steps": "step", "first": "exp_avg", "second": "exp_avg_sq"}


class Adam:
    """torch's AdamW with a learning rate schedule.

    One (mini-)batch a step, drawn from `generator`.
    """

    name = "adam"
    tolerance = plateau_tolerance = 0.0

    def __init__(
        self,
        network: Network,
        objective: Objective,
        options: AdamSolver,
        generator: Generator,
        steps: int | None = None,
    ) -> None:
        self.network, self.objective, self.options = network, objective, options
        self.generator, self._steps = generator, steps or options.steps or SOLVERS["adam"].steps
        self.rows = min(options.batch_size or len(objective.samples), len(objective.samples))
        self._named = network.trained()
        self._optimiser = torch.optim.AdamW(
            self._named.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._smoothness_loss = SmoothnessLoss(network, objective.penalty)
        self._free = objective.movable(network)
        self._taken = 0
        self.converged = False
        self.loss = float("nan")

    def step(self) -> float:
        """Take one update; return the objective on its batch.

        Raise TrainingFailed at a loss that is not finite.
        """
        samples, options = self._batch(), self.options
        decay = 0.5 * (1 + cos(pi * min(self._taken / self._steps, 1.0)))
        for group in self._optimiser.param_groups:
            group["lr"] = options.learning_rate * (
                decay if options.lr_schedule == "cosine" else 1.0
            )
        self._optimiser.zero_grad()
        value = self.objective.value(self.network, samples, self._smoothness_loss)
        if not bool(torch.isfinite(value)):
            cause = explain_non_finite(self.network, samples)
            raise TrainingFailed(
                f"The loss is not finite at step {self._taken + 1} of Adam: {cause}."
            )
        torch.autograd.backward(value)
        before = [parameter.detach().clone() for parameter in self._free]
        self._optimiser.step()
        with torch.no_grad():
            for (parameter, free), held in zip(self._free.items(), before, strict=True):
                parameter.copy_(torch.where(free, parameter, held))
        self._taken += 1
        self.loss = float(value.detach())
        return self.loss

    def state(self) -> dict[str, Tensor]:
        """Return the moments, the number of steps, and the frozen numbers.

        Moments are `first/`, `second/` and `steps/` with a parameter's name.
        """
        kept = {"taken": torch.tensor(self._taken)}
        kept |= {f"free/{number}": free for number, free in enumerate(self._free.values())}
        for name, parameter in self._named.items():
            if state := self._optimiser.state.get(parameter):
                kept |= {f"{kind}/{name}": state[key].clone() for kind, key in KEPT.items()}
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""
        for name, parameter in self._named.items():
            if f"steps/{name}" in state:
                self._optimiser.state[parameter] = {
                    key: state[f"{kind}/{name}"].clone() for kind, key in KEPT.items()
                }
        self._taken = int(state["taken"])
        self._free = {p: state[f"free/{number}"] for number, p in enumerate(self._free)}

    def _batch(self) -> Samples:
        samples = self.objective.samples
        if self.rows == len(samples):
            return samples
        index = torch.randint(len(samples), (self.rows,), generator=self.generator)
        return samples.part(index.to(samples.x.device))
