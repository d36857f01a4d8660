"""A solver in one file: gradient descent with Polyak's heavy ball (USSR Comp. Math. 4, 1964) on all samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kanrun.config import setting, solver

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from kanrun.engine.networks import Network
    from kanrun.engine.training import Plan, Smoothing, TrainingData


@solver("kanrun_outside.momentum:create", steps=50)
@dataclass
class MomentumSolver:
    """Gradient descent with momentum."""

    steps: int | None = setting(None, "steps on each grid; null is 50", minimum=1)
    starts: int | None = setting(None, "random starts; null is one", minimum=1)
    learning_rate: float = setting(0.05, "length of a step, times the gradient", above=0)
    momentum: float = setting(0.9, "share of the last step in the next", minimum=0, below=1)
    kind: str = "momentum"


def create(
    network: Network, data: TrainingData, plan: Plan, smoothing: Smoothing, generator: Generator, memory: Any
) -> HeavyBall:
    return HeavyBall(network, data, plan.settings)


class HeavyBall:
    """v <- momentum v - rate grad, p <- p + v, on the mean squared error over that of the best constant."""

    name = "momentum"
    stalls = False  # a step that gains little does not mean that the rest will too

    def __init__(self, network: Network, data: TrainingData, settings: MomentumSolver) -> None:
        import torch

        self.network, self.samples, self.settings = network, data.train, settings
        self.unit = float(data.train.y.var(correction=0)) or 1.0
        self.velocity = {name: torch.zeros_like(parameter) for name, parameter in network.trained().items()}
        self.rows, self.converged, self.loss = len(data.train), False, float("nan")

    def step(self) -> float:
        import torch

        named = self.network.trained()
        loss = (self.network(self.samples.x) - self.samples.y).square().mean() / self.unit
        gradients = torch.autograd.grad(loss, list(named.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
                self.velocity[name] = self.settings.momentum * self.velocity[name]
                self.velocity[name] -= self.settings.learning_rate * gradient
                parameter.add_(self.velocity[name])
        self.loss = float(loss.detach())
        return self.loss

    def memory(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {name: velocity.clone() for name, velocity in self.velocity.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.velocity = {name: velocity.clone() for name, velocity in state.items()}
