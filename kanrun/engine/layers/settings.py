"""What layers and networks are made of, checked where callers give it: shapes, domains, edges, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.config import KANConfig, check
from kanrun.engine.splines import Extrapolation
from kanrun.errors import UsageError

EdgeScaling = Literal["separate", "single"]
TrainedScales = Literal["all", "base", "none"]
Domain = Sequence[float] | Sequence[Sequence[float]] | Tensor


@dataclass(frozen=True)
class EdgeSpec:
    """What the edges of a layer are, apart from their numbers.

    `edge_scaling`: `separate` is phi = w_b b + w_s spline (arXiv 2404.19756, eq. 2.10); `single` is phi = w (b + spline).
    `trained_scales` says which w training moves beside the coefficients: `all`; `base`, all but those that only scale
    the coefficients (w_s, and w without a base); or `none`. `extrapolation` is of the whole edge; with `base_goes_on`
    the base alone does beyond the grid what it does inside, as in networks of version 0.1.0.
    """

    degree: int = 3
    base: str = "silu"
    edge_scaling: EdgeScaling = "separate"
    extrapolation: Extrapolation = "linear"
    trained_scales: TrainedScales = "all"
    base_goes_on: bool = False

    @property
    def beyond(self) -> str:
        """What edges do outside their grids."""
        said = {
            "linear": "the splines continue linearly",
            "constant": "the splines keep their values at the ends",
            "zero": "the splines are zero",
        }[self.extrapolation]
        return f"{said} and the base {self.base} continues" if self.base_goes_on else said


def edge_spec(
    intervals: int,
    degree: int,
    base: str,
    edge_scaling: EdgeScaling,
    extrapolation: Extrapolation,
    initialisation: str,
) -> EdgeSpec:
    """The edges of a fresh layer. Raises UsageError for a setting that breaks the rule of `KANConfig`."""
    if not isinstance(intervals, int):
        raise UsageError(
            f"intervals={intervals!r} must be a whole number; refine() makes finer grids of a network."
        )
    check(KANConfig([], [], intervals, degree, base, edge_scaling, extrapolation, initialisation))
    return EdgeSpec(degree, base, edge_scaling, extrapolation)


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The widths. Raises UsageError unless they are at least two positive whole numbers."""
    try:
        widths = () if isinstance(shape, str) else tuple(map(index, shape))
    except TypeError:
        widths = ()
    if len(widths) < 2 or min(widths) < 1:
        raise UsageError(
            f"shape={shape!r} must be widths, inputs first and outputs last, such as [2, 5, 1]."
        )
    return widths


def checked_products(products: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """How many nodes of each hidden layer multiply. Raises UsageError unless there are so many."""
    counts, hidden = tuple(products) or (0,) * (len(shape) - 2), shape[1:-1]
    if len(counts) != len(hidden) or not all(
        0 <= count <= width for count, width in zip(counts, hidden, strict=True)
    ):
        raise UsageError(
            f"multiplication_nodes={list(products)} must say for each of the hidden widths {list(hidden)} how many nodes multiply."
        )
    return counts


def check_place(dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """Raises UsageError for a precision that splines are not computed in, and a device that is not there."""
    if dtype not in (None, torch.float32, torch.float64):
        raise UsageError(
            f"dtype={dtype} must be torch.float32 or torch.float64; torch.autocast computes in less."
        )
    try:
        torch.empty(0, dtype=dtype, device=device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # what torch raises for devices that are not there
        raise UsageError(
            f"device={device} cannot be used: {str(error).splitlines()[0].rstrip('.')}."
        ) from None


def domain_of(
    domain: Domain, inputs: int, dtype: torch.dtype | None, device: torch.device | str | None
) -> Float[Tensor, "inputs 2"]:
    """(low, high) of each input, from one pair for all or one for each. Raises UsageError for another shape."""
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
    """Raises UsageError unless x (..., inputs) holds floats as `like` does, or lower ones under autocast."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(f"x must be a tensor of {like.dtype}, not {kind}.")
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise UsageError(
            f"x has {x.shape[-1] if x.ndim else 'no'} columns, and the layer has {inputs} inputs."
        )
    if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
        raise UsageError(
            f"x holds {x.dtype} and the layer {like.dtype}; convert one of them with .to()."
        )
