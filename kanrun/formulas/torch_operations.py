"""The torch form of every function that a formula may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kanrun.formulas.torch_bessel import bessel_j


def _extreme(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Of two arguments, of which one may be a Python float."""

    def value(a: torch.Tensor | float, b: torch.Tensor | float) -> torch.Tensor:
        like = a if isinstance(a, torch.Tensor) else b
        assert isinstance(like, torch.Tensor)  # constants are folded, so one of the two depends on the input
        first, second = (v if isinstance(v, torch.Tensor) else torch.full_like(like, v) for v in (a, b))
        return function(first, second)

    return value


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh")},
    **{name: getattr(torch, name) for name in ("tanh", "asinh", "acosh", "atanh", "exp", "log", "sign", "floor")},
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "erf": torch.special.erf,
    "minimum": _extreme(torch.minimum),
    "maximum": _extreme(torch.maximum),
    "besselj": bessel_j,
}
