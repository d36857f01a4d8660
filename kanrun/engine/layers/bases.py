"""Base functions b of an edge phi(x) = w_b b(x) + w_s spline(x), by the names that `model.base` takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kanrun.errors import UsageError


def _silu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _gelu_slope(x: Tensor) -> Tensor:
    normal = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return normal + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _sigmoid_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 - gate)


#: name -> (b, b'), both elementwise and differentiable to any order.
_PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "silu": (functional.silu, _silu_slope),
    "identity": (lambda x: x, torch.ones_like),
    "zero": (torch.zeros_like, torch.zeros_like),
    "tanh": (torch.tanh, lambda x: 1 - torch.tanh(x).square()),
    "relu": (functional.relu, lambda x: (x > 0).to(x.dtype)),
    "gelu": (functional.gelu, _gelu_slope),
    "sigmoid": (torch.sigmoid, _sigmoid_slope),
    "sin": (torch.sin, torch.cos),
    "gaussian": (lambda x: torch.exp(-x.square()), lambda x: -2 * x * torch.exp(-x.square())),
}

BASES: dict[str, Callable[[Tensor], Tensor]] = {name: pair[0] for name, pair in _PAIRS.items()}


def base_function(name: str) -> Callable[[Tensor], Tensor]:
    """The base function called `name`; raises UsageError with the known names otherwise."""
    if name not in BASES:
        raise UsageError(f"model.base={name} is not a base function; choose one of {', '.join(BASES)}.")
    return BASES[name]


def base_slope(name: str, x: Tensor) -> Tensor:
    """b'(x), elementwise; differentiable."""
    return _PAIRS[name][1](x)


def base_pullback(name: str, gradient: Tensor, x: Tensor) -> Tensor:
    """gradient * b'(x), elementwise; not differentiable."""
    if name == "silu":
        fused: Tensor = torch.ops.aten.silu_backward(gradient, x)  # one pass over the data
        return fused
    return gradient * base_slope(name, x)
