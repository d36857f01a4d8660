"""What solvers that need gradients only share, and Adam with mini-batches.

Solvers (LBFGS is in `lbfgs`) lower mean loss + weight * penalty, never regrid inside a step, and can be limited to
coefficients whose basis functions saw data (`freeze_unseen`): what momentum, weight decay or the penalty would do to
the others is undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Generator, Tensor, nn

from kanrun.config.registry import SOLVERS
from kanrun.config.solvers import AdamSolver
from kanrun.engine.networks import Network
from kanrun.engine.training.data import Samples, Task, mean_loss, not_finite
from kanrun.engine.training.data_fitting import Roughness
from kanrun.errors import TrainingFailed


@dataclass(frozen=True)
class Objective:
    """mean_loss on `samples` + `weight` * smoothness penalty + `sparsity` * the paper's penalty of large edges."""

    samples: Samples
    size: float
    task: Task = "regression"
    weight: float = 0.0
    freeze_unseen: bool = False
    order: int | None = None  # of the smoothness penalty, by default degree + 2
    sparsity: float = 0.0
    magnitude: str = "rms"  # of an edge, see `edge_magnitudes`
    held: tuple[
        Tensor, ...
    ] = ()  # of each layer (inputs, functions): coefficients that must not move

    def value(self, network: Network, samples: Samples, rough: Roughness) -> Tensor:
        """The objective on some of the samples, differentiable; `rough` is from `roughness`."""
        loss = mean_loss(network(samples.x), samples, self.task, self.size)
        if self.sparsity:
            loss = loss + self.sparsity * network.regularisation(samples.x, kind=self.magnitude)
        return loss + rough(network) if self.weight else loss

    def roughness(self, network: Network) -> Roughness:
        """The penalty on the grids that `network` has, times its weight."""
        return Roughness(network, self.weight, self.order)


#: What is kept of a parameter's past, and torch's name for it.
KEPT = {"steps": "step", "first": "exp_avg", "second": "exp_avg_sq"}


class Adam:
    """torch's AdamW with a learning rate schedule; one (mini-)batch a step, drawn from `generator`."""

    name = "adam"
    stalls = False

    def __init__(
        self, network: Network, objective: Objective, options: AdamSolver, generator: Generator
    ) -> None:
        self.network, self.objective, self.options, self.generator = (
            network,
            objective,
            options,
            generator,
        )
        self.rows = min(options.batch_size or len(objective.samples), len(objective.samples))
        self._named = trainable(network)
        self._optimiser = torch.optim.AdamW(
            self._named.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._rough = objective.roughness(network)
        self._free = movable(network, objective)
        self._taken = 0
        self.converged = False
        self.loss = float("nan")

    def step(self) -> float:
        """One update; returns the objective on its batch. Raises TrainingFailed at a loss that is not finite."""
        samples = self._batch()
        for group in self._optimiser.param_groups:
            group["lr"] = self.options.learning_rate * self._share()
        self._optimiser.zero_grad()
        value = self.objective.value(self.network, samples, self._rough)
        if not bool(torch.isfinite(value)):
            cause = not_finite(self.network, samples)
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
        """The moments, `first/` and `second/` and a parameter's name, and how many `steps/` they are the mean of; the
        steps taken, and what must not move.
        """
        kept = {"taken": torch.tensor(self._taken)}
        kept |= {f"free/{number}": free for number, free in enumerate(self._free.values())}
        for name, parameter in self._named.items():
            if state := self._optimiser.state.get(parameter):
                kept |= {f"{kind}/{name}": state[key].clone() for kind, key in KEPT.items()}
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from another solver's `state()`."""
        for name, parameter in self._named.items():
            if f"steps/{name}" in state:
                self._optimiser.state[parameter] = {
                    key: state[f"{kind}/{name}"].clone() for kind, key in KEPT.items()
                }
        self._taken = int(state["taken"])
        self._free = {
            parameter: state[f"free/{number}"] for number, parameter in enumerate(self._free)
        }

    def _share(self) -> float:
        if self.options.lr_schedule == "constant":
            return 1.0
        steps = self.options.steps or SOLVERS["adam"].steps
        return 0.5 * (1 + cos(pi * min(self._taken / steps, 1.0)))

    def _batch(self) -> Samples:
        samples = self.objective.samples
        size = self.options.batch_size
        if size is None or size >= len(samples):
            return samples
        index = torch.randint(len(samples), (size,), generator=self.generator).to(samples.x.device)
        return samples.part(index)


def movable(network: Network, objective: Objective) -> dict[nn.Parameter, Tensor]:
    """Which numbers may move, of each parameter some of whose must not.

    Fixed are coefficients that the objective holds and, with `freeze_unseen`, those of basis functions that no sample
    touches, decided at the start of a stage for the layers' inputs as they are then; with any coefficient of an edge
    its w_b. What scales a whole spline still moves.
    """
    if not (objective.freeze_unseen or objective.held):
        return {}
    moving = [~held for held in objective.held] or network.support(objective.samples.x)
    if objective.freeze_unseen and objective.held:
        moving = [a & b for a, b in zip(moving, network.support(objective.samples.x), strict=True)]
    free: dict[nn.Parameter, Tensor] = {}
    for layer, here in zip(network.edge_layers, moving, strict=True):
        frees = {"coefficients": here, "base_weight": here.all(1)}  # the base acts everywhere
        free |= {
            p: frees[name].expand_as(p) for name, p in layer.named_parameters() if name in frees
        }
    return free


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a first-order solver moves, by name."""
    return {
        name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad
    }
