"""A grid: the knots of each input and how to read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
        return Grid(self.knots[first:last], self.degree, self.uniform, self.extrapolation)


def positions(
    x: Float[Tensor, "*batch inputs"], grid: Grid
) -> tuple[Float[Tensor, "*batch inputs"], Float[Tensor, " inputs"]]:
    """(t, scale) with t = (x - low) scale, the position in a uniform grid: 0 at its low end and G at its high one.

    Held within +- sqrt(largest number), so that no product with it overflows.
    """
    scale, limit = grid.density, torch.finfo(x.dtype).max ** 0.5
    return ((x - grid.low) * scale).clamp(-limit, limit), scale


def interval_at(t: Tensor, intervals: int) -> Tensor:
    """Index of the interval under position `t`; the second clamp is for NaN, whose integer is arbitrary."""
    return t.clamp(0, intervals - 1).long().clamp(0, intervals - 1)


def find_interval(x: Float[Tensor, "*batch inputs"], grid: Grid) -> Int[Tensor, "*batch inputs"]:
    """Index j in 0..G-1 of the interval that holds x (outside the grid: the nearest interval; NaN: any)."""
    if grid.uniform and grid.degree > 0:
        return interval_at(positions(x, grid)[0], grid.intervals)
    # Steps jump at the breakpoints, so degree 0 is not left to the rounding of a division.
    inner = grid.knots[:, grid.degree + 1 : grid.degree + grid.intervals].contiguous()
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # no -1: nothing says what it stands for without samples
    return torch.searchsorted(inner, rows.T.contiguous(), right=True).T.reshape(x.shape)
