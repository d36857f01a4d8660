"""Base functions b of an edge phi(x) = w_b b(x) + w_s spline(x), by the names that `model.base` takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kanrun.errors import UsageError

BASES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "identity": lambda x: x,
    "zero": torch.zeros_like,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "gaussian": lambda x: torch.exp(-(x**2)),
}


def base_function(name: str) -> Callable[[Tensor], Tensor]:
    """The base function called `name`; raises UsageError with the known names otherwise."""
    if name not in BASES:
        raise UsageError(f"model.base={name} is not a base function; choose one of {', '.join(BASES)}.")
    return BASES[name]


def base_slope(name: str, x: Tensor) -> Tensor:
    """b'(x), elementwise."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = base_function(name)(at)
        if not value.requires_grad:
            return torch.zeros_like(x)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return slope
