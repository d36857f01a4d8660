"""Checks of what callers give to layers and networks: shapes, domains, edges, samples."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.config import KANConfig, check
from kanrun.engine.layers.edges import EdgeSpec
from kanrun.errors import UsageError

Domain = Sequence[float] | Sequence[Sequence[float]] | Tensor


def checked_edges(intervals: int, initialisation: str, **spec: Any) -> EdgeSpec:
    """Return the edges of a fresh layer.

    Raise UsageError for a setting that breaks the rule of `KANConfig`.
    """
    if not isinstance(intervals, int):
        raise UsageError(
            f"intervals={intervals!r} must be a whole number. Use refine() for finer grids of a "
            "network."
        )
    check(KANConfig([], [], intervals, initialisation=initialisation, **spec))
    return EdgeSpec(**spec)


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the widths; raise UsageError unless they are at least two positive whole numbers."""
    try:
        widths = () if isinstance(shape, str) else tuple(map(index, shape))
    except TypeError:
        widths = ()
    if len(widths) < 2 or min(widths) < 1:
        raise UsageError(
            f"shape={shape!r} must be widths, inputs first and outputs last, such as [2, 5, 1]."
        )
    return widths


def check_place(dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """Raise UsageError for an unsupported precision and for a missing device."""
    if dtype not in (None, torch.float32, torch.float64):
        raise UsageError(
            f"dtype={dtype} must be torch.float32 or torch.float64. Use torch.autocast for lower "
            "precision."
        )
    try:
        torch.empty(0, dtype=dtype, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either for missing devices.
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"device={device} cannot be used: {reason}.") from None


def domain_of(
    domain: Domain, inputs: int, dtype: torch.dtype | None, device: torch.device | str | None
) -> Float[Tensor, "inputs 2"]:
    """Return (low, high) of each input, from one pair for all or one for each.

    Raise UsageError for another shape.
    """
    check_place(dtype, device)
    try:
        ends = torch.as_tensor(domain, dtype=dtype or torch.get_default_dtype(), device=device)
    except (TypeError, ValueError):
        ends = torch.empty(0)
    if ends.shape not in ((2,), (inputs, 2)):
        raise UsageError(
            f"domain={domain!r} must be (low, high), or one pair for each of {inputs} inputs."
        )
    if not (ends.is_meta or bool(ends.isfinite().all())):
        raise UsageError(f"domain={domain!r} must be finite.")
    return ends.expand(inputs, 2)


def check_samples(x: Tensor, inputs: int, like: Tensor) -> None:
    """Raise UsageError unless x (..., inputs) has the precision of `like`, or autocast is on."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(f"x must be a tensor of {like.dtype}, not {kind}.")
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise UsageError(
            f"x has {x.shape[-1] if x.ndim else 'no'} columns, and the layer has {inputs} inputs."
        )
    if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
        raise UsageError(
            f"x holds {x.dtype} and the layer {like.dtype}. Convert one of them with .to()."
        )
