"""Base functions b of an edge phi(x) = w_b b(x) + w_s spline(x), by the names that `model.base` takes.

Beyond an edge's grid the base follows the policy that its spline follows: `linear` continues value and slope from the
border, `constant` the value, `zero` is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from kanrun.engine.splines import Grid


def _silu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _gelu_slope(x: Tensor) -> Tensor:
    normal = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return normal + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _sigmoid_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 - gate)


#: By name b and b', both elementwise and differentiable to any order in every mode (torch's own silu is not).
BASES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: x * torch.sigmoid(x),
    "identity": lambda x: x,
    "zero": torch.zeros_like,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "gaussian": lambda x: torch.exp(-x.square()),
}
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": _silu_slope,
    "identity": torch.ones_like,
    "zero": torch.zeros_like,
    "tanh": lambda x: 1 - torch.tanh(x).square(),
    "relu": lambda x: (x > 0).to(x.dtype),
    "gelu": _gelu_slope,
    "sigmoid": _sigmoid_slope,
    "sin": torch.cos,
    "gaussian": lambda x: -2 * x * torch.exp(-x.square()),
}


@dataclass(frozen=True)
class Base:
    """The base function `name` on a grid; with `goes_on` it does beyond the grid what it does inside."""

    name: str
    grid: Grid
    goes_on: bool = False

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch inputs"]:
        """b(x), differentiable to any order."""
        b, slope = BASES[self.name], SLOPES[self.name]
        if self.goes_on or self.name == "zero":
            return b(x)
        held = self._held(x)
        if self.grid.extrapolation == "linear":
            return b(held) + (x - held) * slope(held)
        return b(held) * self._inside(x) if self.grid.extrapolation == "zero" else b(held)

    def slope(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch inputs"]:
        """b'(x), differentiable to any order."""
        slope = SLOPES[self.name]
        if self.goes_on or self.name == "zero":
            return slope(x)
        steep = slope(self._held(x))
        return steep if self.grid.extrapolation == "linear" else steep * self._inside(x)

    def _held(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.grid.low), self.grid.high)

    def _inside(self, x: Tensor) -> Tensor:
        return (x >= self.grid.low) & (x <= self.grid.high)
