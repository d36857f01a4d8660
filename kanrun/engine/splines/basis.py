"""The k + 1 B-splines that do not vanish at a point, and their derivatives.

For x in interval j of a grid (breakpoints b_j <= x < b_{j+1}, the last interval closed) only the basis functions
B_j ... B_{j+k} of degree k are non-zero, so a value costs O(k^2) however fine the grid is. Outside the grid a policy
extends each function: `linear` continues value and slope, `constant` the value, `zero` is zero. Values farther out than
the square root of the largest number are continued as constants, so that nothing overflows.

Derivatives come from autograd to any order: the backward of the r-th derivative is the (r + 1)-th. Forward mode goes
through the arithmetic itself.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-X (recurrence and derivative).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kanrun.engine.splines.grid import Grid, find_interval
from kanrun.engine.splines.planes import Local, local_planes, near_knots, widen
from kanrun.engine.splines.tracing import is_forward, is_traced


def local_basis(
    x: Float[Tensor, "*batch inputs"], grid: Grid, derivative: int = 0
) -> tuple[Float[Tensor, "*batch inputs local"], Int[Tensor, "*batch inputs"]]:
    """Values (..., inputs, k + 1) of the `derivative`-th derivative of B_j ... B_{j+k} at x, and j.

    Differentiable in x to any order (at breakpoints: from the right), not in the knots.
    """
    if derivative < 2 and not is_traced() and not (x.requires_grad and torch.is_grad_enabled()):
        local = local_planes(x, grid, axis=-1, slopes=derivative == 1)
        return _chosen(local, derivative).movedim(0, -1), local.interval
    evaluate = _plain if is_forward() else _local_basis
    return evaluate(x, grid, derivative), find_interval(x.detach(), grid)


class _LocalBasis(torch.autograd.Function):
    """The r-th derivative of the local basis; its own derivative is the (r + 1)-th."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, grid: Grid, derivative: int) -> Tensor:
        return _plain(x, grid, derivative)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.grid, ctx.derivative = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        slope = _local_basis(x, ctx.grid, ctx.derivative + 1)
        return (gradient * slope).sum(-1), None, None


_local_basis: Callable[[Tensor, Grid, int], Tensor] = _LocalBasis.apply


def _plain(x: Tensor, grid: Grid, derivative: int) -> Tensor:
    """The local basis as torch's own arithmetic."""
    if derivative > 1:
        return _higher(x, grid, derivative).movedim(0, -1)
    return _chosen(local_planes(x, grid, axis=-1, slopes=derivative == 1), derivative).movedim(0, -1)


def _chosen(local: Local, derivative: int) -> Tensor:
    """The values, or with `derivative` 1 the slopes in x."""
    if derivative == 0:
        return local.values
    return local.slopes if local.scale is None else local.slopes * local.scale


def _higher(x: Tensor, grid: Grid, derivative: int) -> Tensor:
    """A second or higher derivative: zero outside the grid under every policy.

    The recurrence runs for the values up to degree k - derivative, from there on as the derivative's.
    """
    k = grid.degree
    if derivative > k:
        return x.new_zeros(k + 1, *x.shape)
    near = near_knots(find_interval(x, grid), grid, -1)
    values = torch.ones_like(x)[None]
    for d in range(1, k + 1):
        upper, lower = near[k : k + d], near[k - d : k]
        share = values / (upper - lower)
        values = widen(-d * share, d * share) if d > k - derivative else widen((upper - x) * share, (x - lower) * share)
    inside = (x >= grid.low) & (x <= grid.high)
    return torch.where(inside, values, 0)
