"""The k + 1 B-splines that do not vanish at a point, and their derivatives.

For x in interval j of a grid (breakpoints b_j <= x < b_{j+1}, the last interval closed) only the basis functions
B_j ... B_{j+k} of degree k are non-zero, so a value costs O(k^2) however fine the grid is. Outside the grid a policy
extends each function: `linear` continues value and slope, `constant` the value, `zero` is zero.

Derivatives come from autograd to any order: the backward of the r-th derivative is the (r + 1)-th.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-X (recurrence and derivative).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import factorial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Outside = Literal["linear", "constant", "zero"]

#: Up to this degree a uniform grid takes its basis from one small matrix; beyond it monomials lose digits.
UNIFORM_MATRIX_DEGREE = 5


@dataclass(frozen=True)
class Grid:
    """Knots (inputs, G + 2 degree + 1), strictly increasing inside the domain, and how to read them.

    `uniform` says that each input's knots are equally spaced, which lets the interval be computed
    rather than searched.
    """

    knots: Tensor
    degree: int
    uniform: bool = False
    outside: Outside = "linear"

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


def find_interval(x: Float[Tensor, "*batch inputs"], grid: Grid) -> Int[Tensor, "*batch inputs"]:
    """Index j in 0..G-1 of the interval that holds x (outside the grid: the nearest interval)."""
    if grid.uniform:
        width = (grid.high - grid.low) / grid.intervals
        return ((x - grid.low) / width).long().clamp(0, grid.intervals - 1)
    inner = grid.knots[:, grid.degree + 1 : grid.degree + grid.intervals].contiguous()
    flat = x.reshape(-1, x.shape[-1]).T.contiguous()
    return torch.searchsorted(inner, flat, right=True).T.reshape(x.shape)


def local_basis(
    x: Float[Tensor, "*batch inputs"], grid: Grid, derivative: int = 0
) -> tuple[Float[Tensor, "*batch inputs functions"], Int[Tensor, "*batch inputs"]]:
    """Values (..., inputs, k + 1) of the `derivative`-th derivative of B_j ... B_{j+k} at x, and j.

    Differentiable in x to any order (at breakpoints: from the right), not in the knots.
    """
    interval = find_interval(x.detach(), grid)
    return _local_basis(x, interval, grid, derivative), interval


class _LocalBasis(torch.autograd.Function):
    """The r-th derivative of the local basis; its own derivative is the (r + 1)-th."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, interval: Tensor, grid: Grid, derivative: int) -> Tensor:
        return _with_outside(x, interval, grid, derivative)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, interval, ctx.grid, ctx.derivative = inputs
        ctx.save_for_backward(x, interval)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, interval = ctx.saved_tensors
        slope = _local_basis(x, interval, ctx.grid, ctx.derivative + 1)
        return (gradient * slope).sum(-1), None, None, None


_local_basis: Callable[[Tensor, Tensor, Grid, int], Tensor] = _LocalBasis.apply


def _with_outside(x: Tensor, interval: Tensor, grid: Grid, derivative: int) -> Tensor:
    clamped = torch.minimum(torch.maximum(x, grid.low), grid.high)
    values = _inside(clamped, interval, grid, derivative)
    if grid.outside == "linear" and derivative == 0:
        # Most batches lie inside altogether; the slope is then not worth its cost, but a data-dependent
        # branch would break vmap, so it is a product with a distance that is zero inside.
        beyond = x - clamped
        return torch.addcmul(values, beyond[..., None], _inside(clamped, interval, grid, 1))
    if grid.outside == "linear" and derivative == 1:
        return values
    if grid.outside == "constant" and derivative == 0:
        return values
    return values * (x == clamped)[..., None]


def _inside(x: Tensor, interval: Tensor, grid: Grid, derivative: int) -> Tensor:
    if derivative > grid.degree:
        return x.new_zeros(*x.shape, grid.degree + 1)
    if grid.uniform and grid.degree <= UNIFORM_MATRIX_DEGREE:
        return _inside_uniform(x, interval, grid, derivative)
    return _inside_general(x, interval, grid, derivative)


def _inside_uniform(x: Tensor, interval: Tensor, grid: Grid, derivative: int) -> Tensor:
    """Powers of the position u in [0, 1] in the interval, times a constant matrix."""
    per_width = grid.intervals / (grid.high - grid.low)
    u = (x - grid.low) * per_width - interval
    matrix = _uniform_matrix(grid.degree, derivative).to(dtype=x.dtype, device=x.device)
    powers = [torch.ones_like(u)]
    for _ in range(grid.degree - derivative):
        powers.append(powers[-1] * u)
    values = torch.stack(powers, dim=-1) @ matrix
    return values * (per_width**derivative)[:, None] if derivative else values


@lru_cache(maxsize=64)
def _uniform_matrix(degree: int, derivative: int) -> Tensor:
    """Row p, column i: coefficient of u^p in the `derivative`-th derivative of the i-th local basis function.

    From the recurrence in exact fractions: N_i^d(u) = (u + d - i)/d N_{i-1}^{d-1} + (i + 1 - u)/d N_i^{d-1},
    functions counted from the left of the interval.
    """
    pieces: list[list[Fraction]] = [[Fraction(1)]]
    for d in range(1, degree + 1):
        zero = [Fraction(0)] * d
        padded = [zero, *pieces, zero]
        pieces = []
        for i in range(d + 1):
            left, right = padded[i], padded[i + 1]
            new = [Fraction(0)] * (d + 1)
            for p in range(d):
                new[p] += (left[p] * (d - i) + right[p] * (i + 1)) / d
                new[p + 1] += (left[p] - right[p]) / d
            pieces.append(new)
    rows = [
        [float(piece[p] * (factorial(p) // factorial(p - derivative))) for piece in pieces]
        for p in range(derivative, degree + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _inside_general(x: Tensor, interval: Tensor, grid: Grid, derivative: int) -> Tensor:
    """De Boor's recurrence on the 2k knots around the interval."""
    k = grid.degree
    if k == 0:
        return torch.ones_like(x)[..., None]
    windows = grid.knots.unfold(1, 2 * k, 1)[:, 1:]
    near = windows[torch.arange(x.shape[-1], device=x.device), interval]  # knots j + 1 ... j + 2k
    values = torch.ones_like(x)[..., None]
    for d in range(1, k + 1):
        upper, lower = near[..., k : k + d], near[..., k - d : k]
        share = values / (upper - lower)
        if d > k - derivative:
            left = right = share * d
            values = torch.cat([-left[..., :1], left[..., :-1] - right[..., 1:], right[..., -1:]], dim=-1)
        else:
            right, left = (upper - x[..., None]) * share, (x[..., None] - lower) * share
            values = torch.cat([right[..., :1], left[..., :-1] + right[..., 1:], left[..., -1:]], dim=-1)
    return values
