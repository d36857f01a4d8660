"""The k + 1 non-zero B-splines at a point, and their derivatives.

For x in interval j of a grid (breakpoints b_j <= x < b_{j+1}, the last interval closed) only the
basis functions B_j ... B_{j+k} of degree k are non-zero, so a value costs O(k^2) however fine the
grid is. Outside the grid a policy
extends each function: `linear` continues value and slope, `constant` the value, `zero` is zero.
Values farther out than the square root of the largest number are continued as constants, so that
nothing overflows.

Derivatives come from autograd to any order: the backward of the r-th derivative is the (r + 1)-th.
Forward mode and `torch.compile` go through the arithmetic itself.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-X (recurrence and derivative).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import factorial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from kanrun.engine.splines.knots import Grid, find_interval, interval_at, positions

#: Up to this degree a uniform grid takes its basis from one small matrix; beyond it monomials lose
#: digits.
UNIFORM_MATRIX_DEGREE = 5


def is_forward() -> bool:
    """Return whether torch takes derivatives in forward mode (`torch.func.jvp`, `jacfwd`).

    There all must be torch's own arithmetic: it returns zero for second forward derivatives of a
    `torch.autograd.Function`.
    """
    return forward_ad._current_level >= 0


def local_basis(
    x: Float[Tensor, "*batch inputs"], grid: Grid, derivative: int = 0
) -> tuple[Float[Tensor, "*batch inputs local"], Int[Tensor, "*batch inputs"]]:
    """Return a derivative of the non-zero basis functions at x, and the interval of x.

    The values (..., inputs, k + 1) belong to B_j ... B_{j+k} with j the interval (..., inputs).
    They are differentiable in x to any order (at breakpoints: from the right; under `torch.compile`
    once), not in the knots.
    """
    if torch.compiler.is_compiling() or is_forward():
        return _plain(x, grid, derivative)
    return _local_basis(x, grid, derivative)


class _LocalBasis(torch.autograd.Function):
    """The r-th derivative of the local basis; its own derivative is the (r + 1)-th."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, grid: Grid, derivative: int) -> tuple[Tensor, Tensor]:
        return _plain(x, grid, derivative)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.grid, ctx.derivative = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        slope, _ = _local_basis(x, ctx.grid, ctx.derivative + 1)
        return (gradient * slope).sum(-1), None, None


_local_basis: Callable[[Tensor, Grid, int], tuple[Tensor, Tensor]] = _LocalBasis.apply


def _plain(x: Tensor, grid: Grid, derivative: int) -> tuple[Tensor, Tensor]:
    """Return the local basis by torch's own arithmetic, and the intervals.

    The first dimension runs over functions, so that every operation runs over data of x's own
    shape.
    """
    if grid.uniform and 0 < grid.degree <= UNIFORM_MATRIX_DEGREE and derivative < 2:
        values, interval = _uniform(x, grid, derivative)
    else:
        interval = find_interval(x, grid)
        values = _recurrence(x, grid, interval, derivative)
    if grid.extrapolation == "zero" or (derivative and grid.extrapolation == "constant"):
        values = values * ((x >= grid.low) & (x <= grid.high))
    return values.movedim(0, -1), interval


def _uniform(x: Tensor, grid: Grid, derivative: int) -> tuple[Tensor, Tensor]:
    """Return values or slopes: powers of the position u in the interval times a constant matrix.

    Linear continuation is built into the powers: outside, u^m becomes c^m + m (u - c) c^(m-1) with
    c the nearer end.
    """
    k = grid.degree
    t, scale = positions(x, grid)
    interval = interval_at(t, grid.intervals)
    u = t - interval
    held = u.clamp(0, 1)
    lower = [held]
    for _ in range(k - 2):
        lower.append(lower[-1] * held)
    if derivative:
        return _sums(POWERS[k, 1], lower[: k - 1], x) * scale, interval
    if grid.extrapolation == "linear":
        beyond = u - held
        powers = [u, *(low * (held + (m + 2) * beyond) for m, low in enumerate(lower[: k - 1]))]
    else:
        powers = [*lower, lower[-1] * held] if k > 1 else [held]
    return _sums(POWERS[k, 0], powers, x), interval


def _sums(weights: tuple[tuple[float, ...], ...], powers: list[Tensor], like: Tensor) -> Tensor:
    """Return weights[0] + sum_p weights[p + 1] powers[p], for each function."""
    if torch.compiler.is_compiling():  # The compiler makes one pass of this.
        first, *others = weights
        sums = [torch.full_like(like, number) for number in first]
        for row, power in zip(others, powers, strict=True):
            sums = [
                total + number * power if number else total
                for total, number in zip(sums, row, strict=True)
            ]
        return torch.stack(sums)
    table = torch.tensor(weights, dtype=like.dtype, device=like.device).T
    if not powers:
        return table.reshape(-1, *[1] * like.ndim).expand(-1, *like.shape)
    stacked = torch.stack(powers).reshape(len(powers), like.numel())
    return torch.addmm(table[:, :1], table[:, 1:], stacked).reshape(len(table), *like.shape)


def _recurrence(x: Tensor, grid: Grid, interval: Tensor, derivative: int) -> Tensor:
    """Apply de Boor's recurrence, all functions of a degree at once.

    Up to degree k - derivative it is the recurrence of values, above it that of derivatives. Second
    and higher derivatives are zero outside the grid under every policy.
    """
    k = grid.degree
    if derivative > k:
        return x.new_zeros(k + 1, *x.shape)
    near = near_knots(interval, grid)
    held = torch.minimum(torch.maximum(x, grid.low), grid.high)
    values = slopes = torch.ones_like(x)[None]
    for d in range(1, k + 1):
        upper, lower = near[k : k + d], near[k - d : k]
        share = values / (upper - lower)
        if d == k and not derivative and grid.extrapolation == "linear":
            slopes = widen(-k * share, k * share)
        steep = d > k - derivative
        values = (
            widen(-d * share, d * share)
            if steep
            else widen((upper - held) * share, (held - lower) * share)
        )
    if derivative > 1:
        return torch.where((x >= grid.low) & (x <= grid.high), values, 0)
    if k and not derivative and grid.extrapolation == "linear":
        limit = torch.finfo(x.dtype).max ** 0.5
        return values + (x - held).clamp(-limit, limit) * slopes
    return values


def near_knots(
    interval: Int[Tensor, "*batch inputs"], grid: Grid
) -> Float[Tensor, "near *batch inputs"]:
    """Return the 2k knots around each interval, t_{j+1} ... t_{j+2k}, first dimension over them."""
    inputs, count = grid.knots.shape
    start = torch.arange(inputs, device=interval.device) * count + interval
    steps = torch.arange(1, 2 * grid.degree + 1, device=interval.device)
    index = start + steps.reshape(-1, *[1] * interval.ndim)
    return grid.knots.flatten().index_select(0, index.flatten()).reshape(index.shape)


def widen(left: Tensor, right: Tensor) -> Tensor:
    """Add `left` to the function of the same index and `right` to the next.

    Functions of one degree more.
    """
    return torch.cat([left[:1], left[1:] + right[:-1], right[-1:]])


def uniform_powers(degree: int, derivative: int) -> tuple[tuple[float, ...], ...]:
    """Return derivatives of the local basis functions of a uniform grid as polynomials.

    Row p, column i is the coefficient of u^p in function i, with u in [0, 1] the position in the
    interval and unit
    spacing. From the recurrence in exact fractions: N_i^d(u) = (u + d - i)/d N_{i-1}^{d-1} + (i + 1
    - u)/d N_i^{d-1}, functions counted from the left of the interval.
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
    return tuple(
        tuple(float(piece[p] * (factorial(p) // factorial(p - derivative))) for piece in pieces)
        for p in range(derivative, degree + 1)
    )


#: `uniform_powers` by degree and derivative, computed at import so that a compiler finds constants.
POWERS = {(k, r): uniform_powers(k, r) for k in range(1, UNIFORM_MATRIX_DEGREE + 1) for r in (0, 1)}
