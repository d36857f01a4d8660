"""Grids: the knots of each input, at which the polynomial pieces of a spline meet.

A grid of G intervals has G + 1 *breakpoints*. The *knots* of a spline of degree k are the
breakpoints and k more on either side, which continue the spacing of the first and last interval:
G + 2k + 1 knots (Liu et al., arXiv 2404.19756, section 2.2). Tensors have one row per input:
breakpoints (inputs, G + 1), knots (inputs, G + 2k + 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from kanrun.errors import UsageError

#: Input values of samples.
Inputs = Float[Tensor, "samples inputs"]
#: Input values with any leading dimensions.
Batch = Float[Tensor, "*batch inputs"]
#: Spline coefficients of all edges of a layer.
Coefficients = Float[Tensor, "out inputs functions"]
#: Breakpoints of a grid.
Breakpoints = Float[Tensor, "inputs points"]

#: Continuation of a spline outside its grid; see `Grid`.
Extrapolation = Literal["linear", "constant", "zero", "base"]


#: Smallest number of samples of which some can be outliers.
FEW = 20
#: Largest deviation at which knots count as equally spaced, and smallest spacing of breakpoints, in
#: units of the machine epsilon times the largest knot.
SPACING_ROUNDINGS = 8


@dataclass(frozen=True)
class Grid:
    """The grid of a layer of splines, with the same number of intervals for all inputs.

    Attributes:
        knots: Shape (inputs, G + 2 degree + 1), strictly increasing inside the domain.
        degree: Degree of the splines.
        uniform: Whether the knots of each input are equally spaced. If so, the interval of an input
            value is computed from its position; otherwise it is found by bisection.
        extrapolation: Continuation of each basis function outside the domain: `linear` keeps the
            slope at the end, `constant` and `base` keep the value, `zero` is zero.
    """

    knots: Tensor
    degree: int
    uniform: bool = False
    extrapolation: Extrapolation = "linear"

    def double(self) -> Grid:
        """Return the same grid in float64."""
        return replace(self, knots=self.knots.double())

    def covers(self, values: Inputs, share: float) -> bool:
        """Return whether `values` lie in the grid and span the fraction `share` of each range."""
        low = values.amin(0)
        high = values.amax(0)
        inside = (low >= self.low) & (high <= self.high)
        return bool((inside & (high - low >= share * (self.high - self.low))).all())

    @property
    def intervals(self) -> int:
        """Number of intervals of each input, G."""
        return int(self.knots.shape[1]) - 2 * self.degree - 1

    @property
    def functions(self) -> int:
        """Number of basis functions of each input, G + degree."""
        return self.intervals + self.degree

    @property
    def breakpoints(self) -> Breakpoints:
        """Breakpoints of each input. Between the first and the last, basis functions sum to 1."""
        return self.knots[:, self.degree : self.knots.shape[1] - self.degree]

    @property
    def low(self) -> Tensor:
        return self._column(self.degree)

    @property
    def high(self) -> Tensor:
        return self._column(self.degree + self.intervals)

    @property
    def scale(self) -> Tensor:
        """Number of intervals per unit of each input, shape (inputs,), of a uniform grid."""
        return self.intervals / (self.high - self.low)

    def _column(self, index: int) -> Tensor:
        knots = self.knots[:, index]
        return knots if len(knots) == 1 else kept(knots)


def largest(dtype: torch.dtype) -> float:
    """Return the square root of the largest number of `dtype`.

    Splines are continued as constants at larger distances from the grid.
    """
    return float(torch.finfo(dtype).max ** 0.5)


def find_interval(x: Float[Tensor, "*batch inputs"], grid: Grid) -> Int[Tensor, "*batch inputs"]:
    """Return the index, 0 to G - 1, of the interval that contains x, or of the nearest interval.

    The index of NaN is arbitrary.
    """
    inner = grid.knots[:, grid.degree + 1 : grid.degree + grid.intervals].contiguous()
    # reshape(-1, ...) is undefined if there are no samples.
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return torch.searchsorted(inner, rows.T.contiguous(), right=True).T.reshape(x.shape)


def extend(breakpoints: Breakpoints, degree: int) -> Float[Tensor, "inputs knots"]:
    """Return `breakpoints` and `degree` more points at either end, spaced like the end interval."""
    steps = torch.arange(1, degree + 1, dtype=breakpoints.dtype, device=breakpoints.device)
    first = breakpoints[:, :1]
    last = breakpoints[:, -1:]
    left = first - (breakpoints[:, 1:2] - first) * steps.flip(0)
    right = last + (last - breakpoints[:, -2:-1]) * steps
    return torch.cat([left, breakpoints, right], dim=1)


def equally_spaced(knots: Float[Tensor, "inputs knots"]) -> bool:
    """Return whether the knots of each input are equally spaced up to rounding."""
    if knots.is_meta:
        return True
    first = knots[:, :1].double()
    last = knots[:, -1:].double()
    steps = torch.linspace(0, 1, knots.shape[1], dtype=torch.float64, device=knots.device)
    apart = (knots - torch.lerp(first, last, steps)).abs()
    tolerance = SPACING_ROUNDINGS * torch.finfo(knots.dtype).eps
    return bool((apart <= tolerance * knots.abs().amax(1, keepdim=True)).all())


def uniform_breakpoints(
    low: Float[Tensor, " inputs"], high: Float[Tensor, " inputs"], intervals: int
) -> Breakpoints:
    """Return breakpoints that divide [low, high] into equal intervals, with exact ends.

    Raises:
        UsageError: If low >= high, intervals < 1, or two breakpoints are equal after rounding.
    """
    _check_count(intervals)
    if not low.is_meta and bool((low >= high).any()):
        raise UsageError("A grid needs lower < upper in every input.")
    steps = torch.linspace(0, 1, intervals + 1, dtype=low.dtype, device=low.device)
    return _distinct(torch.lerp(low[:, None], high[:, None], steps))


def redivide(breakpoints: Breakpoints, intervals: int) -> Float[Tensor, "inputs new"]:
    """Return breakpoints of `intervals` intervals with the same ends and the same density.

    The new breakpoints are interpolated linearly between the old ones. If `intervals` is a multiple
    of the old number of intervals, every old breakpoint is exactly a new one.

    Raises:
        UsageError: If intervals < 1, or two breakpoints are equal after rounding.
    """
    _check_count(intervals)
    old = breakpoints.shape[1] - 1
    steps = torch.arange(intervals + 1, device=breakpoints.device) * old
    below = (steps // intervals).clamp(max=old - 1)
    shares = (steps - below * intervals).to(breakpoints) / intervals
    return _distinct(torch.lerp(breakpoints[:, below], breakpoints[:, below + 1], shares))


def _check_count(intervals: int) -> None:
    if intervals < 1:
        raise UsageError(f"A grid needs at least 1 interval, not {intervals}.")


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
    """Return breakpoints over the range of `x`: (1 - adapt) uniform + adapt quantiles.

    The range excludes outliers. The bulk of the samples is all but 1% at either end, and an outlier
    is a sample that is farther from the bulk than the width of the bulk. The range is widened if
    breakpoints would otherwise be equal after rounding. A constant input gets a range as wide as
    its absolute value, at least 1. No interval is narrower than 1% of a uniform interval, so
    repeated values never lead to equal breakpoints.
    Source: arXiv 2404.19756, section 2.2 "grid updates"; pykan uses the range of all samples.

    Args:
        x: Samples.
        intervals: Number of intervals.
        adapt: Weight of the quantiles, in [0, 1].
        margin: Fraction of the range by which the grid is wider on either side.
        ends: Range of each input; None: the range of the samples. If it is given, there is no
            margin, and samples outside the range are moved to its ends.
    """
    if ends is not None:
        low, high = ends.unbind(1)
        inside = torch.cat([x, ends.T]).clamp(low, high)
        return mixed_breakpoints(inside, low, high, intervals, adapt, 0.0)
    order = x.sort(0).values
    rare = rare_samples(x.shape[0])
    low = order[rare]
    high = order[x.shape[0] - 1 - rare]
    width = high - low
    # Distance from the bulk of the samples, in units of the bulk's width, beyond which a sample is
    # an outlier.
    far = 1.0
    # A constant input has a bulk of width zero, so the width of the grid that it will get is used.
    reach = far * torch.where(width <= _grain(low, high), low.abs().clamp(min=1.0), width)
    near = (order >= low - reach) & (order <= high + reach)
    infinite = torch.inf
    low = torch.where(near, order, infinite).amin(0)
    high = torch.where(near, order, -infinite).amax(0)
    return mixed_breakpoints(order.clamp(low, high), low, high, intervals, adapt, margin)


def rare_samples(samples: int) -> int:
    """Return how many of `samples` samples can be outliers at either end."""
    # Fraction of the samples at either end that may be outliers; the others are the bulk.
    rare = 0.01
    return math.ceil(rare * samples) if samples >= FEW else 0


def largest_but_rare(values: Float[Tensor, "samples out"]) -> float:
    """Return the largest absolute output, after the `rare_samples` largest samples are excluded."""
    count = values.shape[0]
    return float(values.abs().amax(1).kthvalue(count - rare_samples(count)).values)


def _grain(low: Tensor, high: Tensor) -> Tensor:
    """Return the smallest spacing that breakpoints near `low` and `high` have in this precision."""
    return SPACING_ROUNDINGS * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())


def mixed_breakpoints(
    order: Tensor, low: Tensor, high: Tensor, intervals: int, adapt: float, margin: float
) -> Tensor:
    """Return breakpoints over [low, high] and a margin: (1 - adapt) uniform + adapt quantiles.

    The quantiles are those of `order` (samples, inputs), whose values lie in [low, high].
    """
    width = high - low
    grain = _grain(low, high)
    least = (intervals * grain - width) / 2
    # Half the width of the grid of a constant input, as a fraction of the absolute value of the
    # input.
    reach = 0.5
    pad = torch.where(
        width <= grain,
        reach * low.abs().clamp(min=1.0),
        torch.maximum(margin * width, least),
    )
    uniform = uniform_breakpoints(low - pad, high + pad, intervals)
    if adapt == 0.0:
        return uniform
    levels = np.linspace(0, 1, intervals + 1)
    quantile = order.new_tensor(np.quantile(order.numpy(force=True), levels, axis=0).T)
    quantile[:, 0], quantile[:, -1] = uniform[:, 0], uniform[:, -1]
    mixed = torch.lerp(uniform, quantile, adapt)
    # Widen narrow intervals to about the fraction `share` of the uniform interval; keep the ends.
    low = uniform[:, :1]
    high = uniform[:, -1:]
    # Smallest width of an interval of a grid fitted to data, as a fraction of that of a uniform
    # grid.
    least_share = 1e-2
    # Upper limit of the smallest width, if the precision requires more.
    most = 0.5
    share = (intervals * grain[:, None] / (high - low)).clamp(least_share, most)
    widths = torch.maximum(mixed.diff(dim=1) / (high - low), share / intervals)
    inner = low + (high - low) * (torch.cumsum(widths, 1)[:, :-1] / widths.sum(1, keepdim=True))
    return torch.cat([low, inner, high], dim=1)


# -------------------- torch's compiler and transforms

# These functions ask whether torch is compiling or transforming, and guide its compiler. No other
# code of splines uses private names of torch. Each docstring says what breaks without the function,
# and `tests/engine/layers/test_compiled.py` fails as soon as torch no longer needs it.


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward mode is active.

    Without this check, `torch.func` raises an error at each `torch.autograd.Function` of splines,
    because these have no rule for transforms. With such a rule, a call would cost four times as
    much, and its second forward derivatives would be zero. Torch has no public name for either
    state.
    """
    transforms: bool = torch._C._are_functorch_transforms_active()
    return transforms or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Return whether torch compiles or transforms, so that no `autograd.Function` can be used."""
    return torch.compiler.is_compiling() or is_transformed()


def kept(x: Tensor) -> Tensor:
    """Return x, and make a compiler store it in contiguous memory instead of recomputing it.

    The strided view forces the compiler to store x. Otherwise, every operation that reads x would
    compute x again, one number at a time, and layers would take up to 40 times as long.
    """
    if not torch.compiler.is_compiling():
        return x
    copy = x.clone(memory_format=torch.contiguous_format)
    return copy.as_strided(copy.shape, copy.stride())


def is_single_threaded() -> bool:
    """Return whether torch computes on one thread."""
    return torch.get_num_threads() == 1


# A compiler cannot trace `torch.get_num_threads`, so without this mark no layer is compiled in one
# piece. `torch.compiler.assume_constant_result` sets the mark too, but loads the compiler. Compiled
# code depends on the number of threads in any case: it is compiled again when the number changes.
is_single_threaded.__dict__["_dynamo_marked_constant"] = True
