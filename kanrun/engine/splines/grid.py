"""A grid: the knots of each input and how to read them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from kanrun.engine.splines.tracing import in_memory

Extrapolation = Literal["linear", "constant", "zero"]


@dataclass(frozen=True)
class Grid:
    """Knots (inputs, G + 2 degree + 1), strictly increasing inside the domain, and how to read them.

    `uniform` says that each input's knots are equally spaced, which lets the interval be computed
    rather than searched. `extrapolation` says what each basis function is beyond the domain: `linear` continues value
    and slope, `constant` the value, `zero` is zero.
    """

    knots: Tensor
    degree: int
    uniform: bool = False
    extrapolation: Extrapolation = "linear"
    frame: tuple[Tensor, Tensor] | None = field(default=None, compare=False, repr=False)

    def framed(self) -> Grid:
        """The same grid, with what `positions` needs of the knots worked out once."""
        frame = (in_memory(self.low), in_memory(self.density))
        return Grid(self.knots, self.degree, self.uniform, self.extrapolation, frame)

    def double(self) -> Grid:
        """The same grid in float64."""
        return Grid(self.knots.double(), self.degree, self.uniform, self.extrapolation)

    @property
    def intervals(self) -> int:
        """G, the paper's number of grid intervals."""
        return int(self.knots.shape[1]) - 2 * self.degree - 1

    @property
    def functions(self) -> int:
        """G + k, the number of basis functions of each input."""
        return self.intervals + self.degree

    @property
    def low(self) -> Tensor:
        return self.knots[:, self.degree]

    @property
    def high(self) -> Tensor:
        return self.knots[:, self.degree + self.intervals]

    @property
    def density(self) -> Tensor:
        """Intervals a unit of each input; 1 / the width of an interval where the grid is uniform."""
        return self.intervals / (self.high - self.low)

    def part(self, first: int, last: int) -> Grid:
        """The grid of the inputs `first` to `last` - 1 alone."""
        if first == 0 and last == self.knots.shape[0]:
            return self
        return Grid(self.knots[first:last], self.degree, self.uniform, self.extrapolation)


def along(each: Shaped[Tensor, " inputs"], axis: int) -> Tensor:
    """One number an input, shaped to meet data whose inputs lie along `axis`: 0, the first, or -1, the last."""
    return each[:, None] if axis == 0 else each


def positions(x: Tensor, grid: Grid, axis: int) -> tuple[Tensor, Tensor]:
    """(t, scale) with t = (x - low) scale, the position in a uniform grid: 0 at its low end and G at its high one.

    Held within +- sqrt(largest number), so that no product with it overflows.
    """
    low, density = grid.frame or (grid.low, grid.density)
    scale = along(density, axis)
    limit = torch.finfo(x.dtype).max ** 0.5
    return ((x - along(low, axis)) * scale).clamp(-limit, limit), scale


def interval_at(t: Tensor, intervals: int) -> Tensor:
    """Index of the interval under position `t`; the second clamp is for NaN, whose integer is arbitrary."""
    return t.clamp(0, intervals - 1).long().clamp(0, intervals - 1)


def find_interval(x: Float[Tensor, "*batch inputs"], grid: Grid) -> Int[Tensor, "*batch inputs"]:
    """Index j in 0..G-1 of the interval that holds x (outside the grid: the nearest interval; NaN: any)."""
    if grid.uniform and grid.degree > 0:
        return interval_at(positions(x, grid, -1)[0], grid.intervals)
    # Steps jump at the breakpoints, so degree 0 is not left to the rounding of a division.
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # no -1: nothing says what it stands for without samples
    return _search(rows.T.contiguous(), grid).T.reshape(x.shape)


def search_interval(x: Float[Tensor, "inputs samples"], grid: Grid) -> Int[Tensor, "inputs samples"]:
    """`find_interval` by bisection, for data with the inputs first."""
    return _search(x.contiguous(), grid)


def _search(x: Tensor, grid: Grid) -> Tensor:
    inner = grid.knots[:, grid.degree + 1 : grid.degree + grid.intervals].contiguous()
    return torch.searchsorted(inner, x, right=True)
