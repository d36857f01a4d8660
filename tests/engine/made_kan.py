"""KANs and points for the tests of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN


def kan(
    shape: Sequence[int],
    intervals: int = 4,
    *,
    products: Sequence[int] = (),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    high: float = 1.0,
    **spec: Any,
) -> KAN:
    """A fresh KAN on [-1, `high`] with silu as its base, where `spec` does not say otherwise."""
    return KAN.create(
        shape,
        intervals,
        EdgeSpec(**{"base": "silu", **spec}),
        domain=torch.tensor([[-1.0, high]], dtype=dtype).expand(shape[0], 2),
        generator=Generator().manual_seed(seed),
        products=products,
    )


def points(count: int, inputs: int, low: float = -1.0, high: float = 1.0, seed: int = 1) -> Tensor:
    share = torch.rand(count, inputs, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * share
