"""Exact change of knots: the same function on a grid that contains the old breakpoints.

The coefficient of B_i is the blossom (polar form) of the spline's polynomial pieces at the k knots inside the
support of B_i: c_i = F_J(t_{i+1}, ..., t_{i+k}) for any piece J under that support. Evaluating the old pieces'
blossoms at the new knots is knot insertion of all new knots at once, and moves the outer knots too.
Sources: L. Ramshaw, Blossoms are polar forms (1989); W. Boehm, Inserting new knots into B-spline curves (1980).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.splines.grid import Grid, find_interval
from kanrun.engine.splines.knots import breakpoints_of


def contains(fine: Grid, coarse: Grid) -> bool:
    """True where every breakpoint of `coarse` is one of `fine`, over the same domain (to 8 roundings)."""
    old = breakpoints_of(coarse.knots, coarse.degree)
    new = breakpoints_of(fine.knots, fine.degree)
    if fine.degree != coarse.degree or new.shape[1] < old.shape[1]:
        return False
    position = torch.searchsorted(new.contiguous(), old.contiguous()).clamp(max=new.shape[1] - 1)
    below = (position - 1).clamp(min=0)
    miss = torch.minimum((new.gather(1, position) - old).abs(), (new.gather(1, below) - old).abs())
    size = torch.maximum(old.abs().amax(1), old[:, -1] - old[:, 0])
    tolerance = 8 * torch.finfo(old.dtype).eps * size[:, None]
    ends = torch.stack([new[:, 0] - old[:, 0], new[:, -1] - old[:, -1]], dim=1).abs()
    return bool((miss <= tolerance).all() and (ends <= tolerance).all())


def insert_knots(
    coefficients: Float[Tensor, "out inputs functions"], coarse: Grid, fine: Grid
) -> Float[Tensor, "out inputs finer"]:
    """Coefficients on `fine` of the same splines on the domain; `fine` must contain `coarse`.

    Exact but for rounding (about 1e-15 of the coefficients' size a halving).
    """
    k = coarse.degree
    if k == 0:
        return _carry_steps(coefficients, coarse, fine)
    arguments = fine.knots.unfold(1, k, 1)[:, 1 : 1 + fine.functions]  # (inputs, finer, k)
    piece = _piece_under(coarse, fine)  # (inputs, finer)
    inputs = torch.arange(piece.shape[0], device=piece.device)[:, None]
    windows = coarse.knots.unfold(1, 2 * k, 1)[:, 1:]
    near = windows[inputs, piece]  # knots j + 1 ... j + 2k of the piece j
    local = coefficients.unfold(2, k + 1, 1)[:, inputs, piece]  # (out, inputs, finer, k + 1)
    for d in range(1, k + 1):
        lower, upper = near[..., d - 1 : k], near[..., k : 2 * k - d + 1]
        share = (arguments[..., d - 1 : d] - lower) / (upper - lower)
        local = local[..., :-1] * (1 - share) + local[..., 1:] * share
    return local[..., 0]


def _piece_under(coarse: Grid, fine: Grid) -> Tensor:
    """For each function of `fine` the old interval under the middle of its support in the domain."""
    k = fine.degree
    points = breakpoints_of(fine.knots, k)
    middle = torch.arange(fine.functions, device=points.device) - (k + 1) // 2
    middle = middle.clamp(0, fine.intervals - 1)
    centre = (points[:, middle] + points[:, middle + 1]) / 2
    return find_interval(centre.T, coarse).T


def _carry_steps(coefficients: Tensor, coarse: Grid, fine: Grid) -> Tensor:
    points = breakpoints_of(fine.knots, 0)
    piece = find_interval(((points[:, :-1] + points[:, 1:]) / 2).T, coarse).T
    return coefficients.gather(2, piece.expand(coefficients.shape[0], -1, -1))
