"""Levenberg-Marquardt for least squares on any network that can be linearised.

Minimises F(u) = mean |f(x; u) - y|^2 / size^2 + weight |D u|^2 over the unknowns u. Each step solves
the linearised problem with damping mu on unit columns; the gain ratio (achieved over promised decrease) moves mu.
Sources: Marquardt (1963); the damping rule follows Nielsen (1999); see `damped` for the linear algebra.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanrun.engine.networks import KAN, get_unknowns, linearise, set_unknowns, support, unknowns
from kanrun.engine.training.damped import DampedSystem, Normal, Piece, Triangle
from kanrun.engine.training.data import Samples
from kanrun.engine.training.penalty import penalty_rows
from kanrun.errors import TrainingFailed

#: Numbers of a Jacobian piece held at once.
PIECE = 1 << 25


@dataclass(frozen=True)
class LMOptions:
    damping: float = 1e-3  # at the start, relative to unit columns
    smallest: float = 1e-16
    largest: float = 1e10
    trials: int = 8  # dampings tried before a step is given up
    precise: bool = True  # QR instead of normal equations
    local: bool = False  # never move coefficients whose basis functions saw no data


class LevenbergMarquardt:
    """One network, one set of samples, one penalty weight; `step` lowers the objective or says that it cannot."""

    name = "lm"
    stalls = True  # a step that gains little announces the end

    def __init__(
        self, network: nn.Module, samples: Samples, size: float, weight: float, options: LMOptions | None = None
    ) -> None:
        self.network, self.samples, self.size = network, samples, size
        self.options = options or LMOptions()
        self.damping = self.options.damping
        self._growth = 2.0
        self.free = free_unknowns(network, samples.x if self.options.local else None)
        self.smoothness = penalty_rows(network)
        self._penalty = self.smoothness * weight**0.5 if self.smoothness is not None and weight > 0 else None
        self.loss = self._objective()
        if not torch.isfinite(torch.tensor(self.loss)):
            raise TrainingFailed("The network's output is not finite before the first step.")
        self.converged = False

    def step(self) -> float:
        """One accepted step (or none, then `converged`); returns the objective."""
        start = get_unknowns(self.network)
        system = self._linearised()
        for _ in range(self.options.trials):
            step = system.solve(self.damping)
            if step is not None and self._try(start, step, system):
                return self.loss
            self.damping = min(self.damping * self._growth, self.options.largest)
            self._growth *= 2
        set_unknowns(self.network, start)
        self.converged = True
        return self.loss

    def _try(self, start: Tensor, step: Tensor, system: DampedSystem) -> bool:
        candidate = start.clone()
        candidate[self.free] += step
        set_unknowns(self.network, candidate)
        loss, promised = self._objective(), system.predicted(step)
        gain = (self.loss - loss) / promised if promised > 0 else -1.0
        if not (loss < self.loss and gain > 0):  # also refuses values that are not finite
            return False
        self.loss = loss
        self.damping = max(self.damping * max(1 / 5, 1 - (2 * gain - 1) ** 3), self.options.smallest)
        self._growth = 2.0
        return True

    def _objective(self) -> float:
        with torch.no_grad():
            total = sum(
                float(((self.network(x) - y) / self.size).square().sum())
                for x, y in zip(self.samples.x.split(16384), self.samples.y.split(16384), strict=True)
            )
            total /= self.samples.y.numel()
            if self._penalty is not None:
                total += float((self._penalty @ get_unknowns(self.network)).square().sum())
        return float(total)

    def _linearised(self) -> DampedSystem:
        return Triangle(self._pieces()) if self.options.precise else Normal(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        yield from self.data_pieces()
        if self._penalty is not None:
            yield self._penalty[:, self.free], self._penalty @ get_unknowns(self.network)

    def data_pieces(self) -> Iterator[Piece]:
        """The linearised residuals without the penalty: rows over the free unknowns, and their values."""
        width = self.free.numel() * self.samples.y.shape[1]
        rows = max(PIECE // max(width, 1), self.free.numel() // self.samples.y.shape[1] + 1)
        scale = 1 / (self.size * self.samples.y.numel() ** 0.5)
        for x, y in zip(self.samples.x.split(rows), self.samples.y.split(rows), strict=True):
            output, jacobian = linearise(self.network, x)
            yield jacobian.flatten(0, 1)[:, self.free] * scale, (output - y).flatten() * scale


def free_unknowns(network: nn.Module, x: Tensor | None) -> Tensor:
    """Indices of the unknowns that may move: no pruned edges; with `x`, no coefficients without data."""
    if not isinstance(network, KAN):
        count = sum(parameter.numel() for _, parameter in unknowns(network))
        return torch.arange(count, device=next(network.parameters()).device)
    seen = support(network, x) if x is not None else None
    flags = []
    for i, layer in enumerate(network):
        for name, parameter in unknowns(layer):
            if name == "coefficients":
                flag = layer.mask[..., None].expand_as(parameter)
                flag = flag if seen is None else flag & seen[i]
            else:
                flag = layer.mask
            flags.append(flag.reshape(-1))
    return torch.cat(flags).nonzero()[:, 0]
