"""Rows of all cubic B-splines of a uniform grid in closed form, and their slopes: no index, no scatter.

With s the distance from a function's middle in intervals, a = |s| and (v)- = min(v, 0):

    B = -((a - 2)-^3 - 4 (a - 1)-^3) / 6        dB/ds = -sign(s) ((a - 2)-^2 - 4 (a - 1)-^2) / 2

For points inside the grid only. Both are left without their constant factors, which the caller puts where there are
fewer numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kanrun.engine.splines.grid import Grid, positions
from kanrun.engine.splines.scratch import scratch

#: The constant factors left out of rows and slopes.
ROW_FACTOR, SLOPE_FACTOR = -1 / 6, -1 / 2


class Positions(NamedTuple):
    """Points inside a uniform grid: t (inputs, samples), in intervals from the low end; `scale` of them a unit of x."""

    t: Tensor
    scale: Tensor


def positions_inside(x: Tensor, grid: Grid) -> Positions | None:
    """The positions of x (inputs, samples).

    None where this form does not serve: another degree, a grid that is not uniform, or points outside (or NaN).
    """
    if grid.degree != 3 or not grid.uniform or x.numel() == 0:
        return None
    t, scale = positions(x, grid, 0)
    least, most = torch.aminmax(t)
    return Positions(t, scale) if float(least) >= 0 and float(most) <= grid.intervals else None


def rows_of(t: Tensor, functions: int, *, reuse: bool) -> Tensor:
    """B of every function at t (inputs, samples), (inputs, functions, samples), but for ROW_FACTOR.

    With `reuse` in scratch memory, good until the next such call.
    """
    far, near = (_memory(role, t, functions, reuse) for role in ("far", "near"))
    _parts(torch.sub(t[:, None], _middles(functions, t), out=far).abs_(), near)
    return far.pow_(3).sub_(near.pow_(3), alpha=4)


def rows_and_slopes(t: Tensor, functions: int, *, reuse: bool) -> tuple[Tensor, Tensor]:
    """`rows_of` and dB/dt, the latter but for SLOPE_FACTOR."""
    far, near, distance, square = (_memory(role, t, functions, reuse) for role in ("far", "near", "from", "square"))
    torch.sub(t[:, None], _middles(functions, t), out=distance)
    _parts(torch.abs(distance, out=far), near)
    torch.mul(far, far, out=square)
    far.mul_(square)
    slopes = square.addcmul_(near, near, value=-4).copysign_(distance)
    return far.sub_(near.pow_(3), alpha=4), slopes


def continued_rows(t: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
    """B of every function at t (inputs, samples), continued linearly outside the grid, and dB/dt.

    Both (inputs, functions, samples), constant factors included. Plain arithmetic that a compiler makes one pass of.
    """
    held = t.clamp(0, intervals)
    distance = held[:, None] - torch.arange(-1, intervals + 2, dtype=t.dtype, device=t.device)[:, None]
    far, near = ((distance.abs() - end).clamp(max=0) for end in (2, 1))
    slopes = SLOPE_FACTOR * (far * far - 4 * near * near) * torch.sign(distance)
    rows = ROW_FACTOR * (far * far * far - 4 * near * near * near)
    return rows + (t - held)[:, None] * slopes, slopes


def _parts(far: Tensor, near: Tensor) -> None:
    """From a in `far`: (a - 2)- in `far`, (a - 1)- in `near`."""
    far.sub_(2).clamp_(max=0)
    torch.add(far, 1, out=near).clamp_(max=0)


def _middles(functions: int, t: Tensor) -> Tensor:
    return _kept_middles(functions, t.dtype, t.device)


@lru_cache(maxsize=64)
def _kept_middles(functions: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(-1, functions - 1, dtype=dtype, device=device)[:, None]


def _memory(role: str, t: Tensor, functions: int, reuse: bool) -> Tensor:
    shape = (t.shape[0], functions, t.shape[1])
    return scratch(f"cubic {role}", shape, t) if reuse else t.new_empty(shape)
