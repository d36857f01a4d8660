"""Grids: the knots of each input, at which the polynomial pieces of a spline meet.

A grid of G intervals has G + 1 *breakpoints*. The *knots* of a spline of degree k extend them by k
on either side, each continuing the spacing of the interval at that end, G + 2k + 1 in all (Liu et
al., arXiv 2404.19756, section 2.2). Every tensor here has one row for each input: breakpoints
(inputs, G + 1), knots (inputs, G + 2k + 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kanrun.engine.splines.compiled import kept
from kanrun.errors import UsageError

#: Samples, inputs of any batch, coefficients of all edges, and breakpoints of a grid.
Inputs = Float[Tensor, "samples inputs"]
Batch = Float[Tensor, "*batch inputs"]
Coefficients = Float[Tensor, "out inputs functions"]
Breakpoints = Float[Tensor, "inputs points"]

Extrapolation = Literal["linear", "constant", "zero", "base"]


#: Smallest interval of a grid drawn from data, as a fraction of the uniform interval, and the same
#: at most where the precision needs more.
MINIMUM_SPACING, MAXIMUM_SHARE = 1e-2, 0.5
#: Half the width of the grid of a constant input, as a fraction of its size.
CONSTANT_REACH = 0.5
#: An outlier lies more than FAR bulk widths outside the bulk, which omits a fraction RARE of the
#: samples at either end; fewer samples than FEW have no outliers.
RARE, FAR, FEW = 0.01, 1.0, 20
#: Roundings of the largest knot by which equally spaced knots may be off, and by which breakpoints
#: must differ.
SPACING_ROUNDINGS = 8


@dataclass(frozen=True)
class Grid:
    """Knots (inputs, G + 2 degree + 1), strictly increasing inside the domain.

    `uniform` says that each input's knots are equally spaced, so that intervals are computed rather
    than searched. `extrapolation` is the continuation of each basis function beyond the domain:
    `linear` continues value and slope, `constant` and `base` the value, `zero` is zero.
    """

    knots: Tensor
    degree: int
    uniform: bool = False
    extrapolation: Extrapolation = "linear"

    def double(self) -> Grid:
        """Return the same grid in float64."""
        return replace(self, knots=self.knots.double())

    def covers(self, values: Inputs, share: float) -> bool:
        """Return whether all values lie inside and fill at least `share` of every input's range."""
        low, high = values.amin(0), values.amax(0)
        inside = (low >= self.low) & (high <= self.high)
        return bool((inside & (high - low >= share * (self.high - self.low))).all())

    @property
    def intervals(self) -> int:
        """G, the paper's number of grid intervals."""
        return int(self.knots.shape[1]) - 2 * self.degree - 1

    @property
    def functions(self) -> int:
        """G + k, the number of basis functions of each input."""
        return self.intervals + self.degree

    @property
    def breakpoints(self) -> Breakpoints:
        """Breakpoints inside the knots: the domain on which the basis sums to one."""
        return self.knots[:, self.degree : self.knots.shape[1] - self.degree]

    @property
    def low(self) -> Tensor:
        return self._column(self.degree)

    @property
    def high(self) -> Tensor:
        return self._column(self.degree + self.intervals)

    @property
    def scale(self) -> Tensor:
        """Intervals per unit of each input of a uniform grid."""
        return self.intervals / (self.high - self.low)

    def _column(self, index: int) -> Tensor:
        knots = self.knots[:, index]
        return knots if len(knots) == 1 else kept(knots)


def largest(dtype: torch.dtype) -> float:
    """Return the square root of the largest number, beyond which inputs count as constant."""
    return float(torch.finfo(dtype).max ** 0.5)


def find_interval(x: Float[Tensor, "*batch inputs"], grid: Grid) -> Int[Tensor, "*batch inputs"]:
    """Return the index j in 0..G-1 of the interval that holds x.

    Outside the grid it is the nearest one; that of NaN is arbitrary.
    """
    inner = grid.knots[:, grid.degree + 1 : grid.degree + grid.intervals].contiguous()
    # Not -1, which is undefined without samples.
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return torch.searchsorted(inner, rows.T.contiguous(), right=True).T.reshape(x.shape)


def extend(breakpoints: Breakpoints, degree: int) -> Float[Tensor, "inputs knots"]:
    """Return the knots of `breakpoints`, continued outwards by the end spacings."""
    steps = torch.arange(1, degree + 1, dtype=breakpoints.dtype, device=breakpoints.device)
    first, last = breakpoints[:, :1], breakpoints[:, -1:]
    left = first - (breakpoints[:, 1:2] - first) * steps.flip(0)
    right = last + (last - breakpoints[:, -2:-1]) * steps
    return torch.cat([left, breakpoints, right], dim=1)


def equally_spaced(knots: Float[Tensor, "inputs knots"]) -> bool:
    """Return whether the knots of each input are equally spaced, to their precision."""
    if knots.is_meta:
        return True
    first, last = knots[:, :1].double(), knots[:, -1:].double()
    steps = torch.linspace(0, 1, knots.shape[1], dtype=torch.float64, device=knots.device)
    apart = (knots - torch.lerp(first, last, steps)).abs()
    tolerance = SPACING_ROUNDINGS * torch.finfo(knots.dtype).eps
    return bool((apart <= tolerance * knots.abs().amax(1, keepdim=True)).all())


def uniform_breakpoints(
    low: Float[Tensor, " inputs"], high: Float[Tensor, " inputs"], intervals: int
) -> Breakpoints:
    """Return `intervals` equal intervals of [low, high], both ends exact.

    Raises UsageError if low >= high, intervals < 1, or the precision cannot distinguish the
    breakpoints.
    """
    if intervals < 1:
        raise UsageError(f"A grid needs at least 1 interval, not {intervals}.")
    if not low.is_meta and bool((low >= high).any()):
        raise UsageError("A grid needs lower < upper in every input.")
    steps = torch.linspace(0, 1, intervals + 1, dtype=low.dtype, device=low.device)
    return _distinct(torch.lerp(low[:, None], high[:, None], steps))


def subdivide(breakpoints: Breakpoints, factor: int) -> Float[Tensor, "inputs finer"]:
    """Cut each interval into `factor` equal ones; the old breakpoints stay to the last bit.

    Raises UsageError if the precision cannot distinguish the new ones.
    """
    steps = torch.arange(factor, dtype=breakpoints.dtype, device=breakpoints.device) / factor
    cut = torch.lerp(breakpoints[:, :-1, None], breakpoints[:, 1:, None], steps)
    return _distinct(torch.cat([cut.flatten(1), breakpoints[:, -1:]], dim=1))


def _distinct(breakpoints: Tensor) -> Tensor:
    if not breakpoints.is_meta and not bool((breakpoints.diff(dim=1) > 0).all()):
        raise UsageError(
            f"{breakpoints.shape[1] - 1} intervals are too many for a range this narrow in this "
            f"precision ({breakpoints.dtype}). Use fewer, or precision=float64."
        )
    return breakpoints


def breakpoints_from_data(
    x: Inputs,
    intervals: int,
    adapt: float,
    margin: float,
    ends: Float[Tensor, "inputs 2"] | None = None,
) -> Breakpoints:
    """Return a grid over the range of `x`: (1 - adapt) uniform + adapt quantile breakpoints.

    A range that is given by `ends` has no margin, and samples outside count as its ends.

    Exclude outliers from the range. The bulk omits a fraction RARE of the samples at either end; a
    sample is an outlier if it lies more than FAR bulk widths outside the bulk. The range is widened
    by the fraction `margin` on either side, and as far as this precision needs to distinguish the
    breakpoints. A constant input gets a width of its own size, at least 1. No interval is narrower
    than MINIMUM_SPACING of the uniform one, so that repeated values never make two
    breakpoints equal. Source: pykan's mix (arXiv 2404.19756, section 2.2 "grid updates"); its range
    is that of all.
    """
    if ends is not None:
        low, high = ends.unbind(1)
        inside = torch.cat([x, ends.T]).clamp(low, high)
        return mixed_breakpoints(inside, low, high, intervals, adapt, 0.0)
    order, rare = x.sort(0).values, rare_samples(x.shape[0])
    low, high = order[rare], order[x.shape[0] - 1 - rare]
    width = high - low
    # Distances from a constant are measured by the width of its own grid.
    reach = FAR * torch.where(width <= _grain(low, high), low.abs().clamp(min=1.0), width)
    near, infinite = (order >= low - reach) & (order <= high + reach), torch.inf
    low = torch.where(near, order, infinite).amin(0)
    high = torch.where(near, order, -infinite).amax(0)
    return mixed_breakpoints(order.clamp(low, high), low, high, intervals, adapt, margin)


def rare_samples(samples: int) -> int:
    """Return the maximum number of outliers at either end: the fraction RARE, rounded up.

    None among a FEW.
    """
    return math.ceil(RARE * samples) if samples >= FEW else 0


def largest_but_rare(values: Float[Tensor, "samples out"]) -> float:
    """Return the largest absolute output, without the rare samples where it is largest."""
    count = values.shape[0]
    return float(values.abs().amax(1).kthvalue(count - rare_samples(count)).values)


def _grain(low: Tensor, high: Tensor) -> Tensor:
    """Return the smallest width that this precision can divide there."""
    return SPACING_ROUNDINGS * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())


def mixed_breakpoints(
    order: Tensor, low: Tensor, high: Tensor, intervals: int, adapt: float, margin: float
) -> Tensor:
    """Return the grid over [low, high] and a margin, drawn towards the quantiles of samples."""
    width, grain = high - low, _grain(low, high)
    least = (intervals * grain - width) / 2
    pad = torch.where(
        width <= grain,
        CONSTANT_REACH * low.abs().clamp(min=1.0),
        torch.maximum(margin * width, least),
    )
    uniform = uniform_breakpoints(low - pad, high + pad, intervals)
    if adapt == 0.0:
        return uniform
    levels = np.linspace(0, 1, intervals + 1)
    quantile = order.new_tensor(np.quantile(order.numpy(force=True), levels, axis=0).T)
    quantile[:, 0], quantile[:, -1] = uniform[:, 0], uniform[:, -1]
    mixed = torch.lerp(uniform, quantile, adapt)
    # Intervals are widened to about the fraction `share` of the uniform one; the ends stay.
    low, high = uniform[:, :1], uniform[:, -1:]
    share = (intervals * grain[:, None] / (high - low)).clamp(MINIMUM_SPACING, MAXIMUM_SHARE)
    widths = torch.maximum(mixed.diff(dim=1) / (high - low), share / intervals)
    inner = low + (high - low) * (torch.cumsum(widths, 1)[:, :-1] / widths.sum(1, keepdim=True))
    return torch.cat([low, inner, high], dim=1)
