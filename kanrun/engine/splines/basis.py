"""The k + 1 non-zero B-splines at a point, and their derivatives.

For x in interval j of a grid (breakpoints b_j <= x < b_{j+1}, the last interval closed) only the
basis functions B_j ... B_{j+k} of degree k are non-zero, so a value costs O(k^2) however fine the
grid is. Outside the grid a policy extends each function: `linear` continues value and slope,
`constant` and `base` the value, `zero` is zero. Values farther out than the square root of the
largest number are continued as constants, so that nothing overflows.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-X (recurrence and derivative).

Everything is differentiable to any order in x (at breakpoints: from the right; under
`torch.compile` once), not in the knots. The backward of the r-th derivative of the basis is
the (r + 1)-th; forward mode, the transforms of `torch.func` and `torch.compile` go through the
arithmetic itself.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb, factorial, perm
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kanrun.engine.splines.compiled import is_traced
from kanrun.engine.splines.knots import Batch, Grid, find_interval, largest

#: Up to this degree a uniform grid takes its basis from one small matrix; beyond it monomials lose
#: digits.
UNIFORM_MATRIX_DEGREE = 5


class Place(NamedTuple):
    """Places of inputs in a grid; every tensor has the shape of the inputs.

    Attributes:
        held: The nearest points of the domain; on a uniform grid their positions in the interval,
            in [0, 1].
        beyond: The signed distances from them, clipped to +- `largest`; in intervals if uniform.
        interval: The intervals of the nearest points.
        scale: Intervals per unit of each input; None unless the grid is uniform.
    """

    held: Tensor
    beyond: Tensor
    interval: Tensor
    scale: Tensor | None


def locate(x: Batch, grid: Grid) -> Place:
    """Return where x lies in the grid."""
    if not (grid.uniform and 0 < grid.degree <= UNIFORM_MATRIX_DEGREE):
        held, limit = x.clamp(grid.low, grid.high), largest(x.dtype)
        return Place(held, (x - held).clamp(-limit, limit), find_interval(held, grid), None)
    place = positions(x, grid)
    interval = place.held.long().clamp(0, grid.intervals - 1)
    return Place(place.held - interval, place.beyond, interval, place.scale)


def positions(x: Batch, grid: Grid) -> Place:
    """Return where x lies in a uniform grid, as if it had a single interval."""
    limit, scale = largest(x.dtype), grid.scale
    t = (x - grid.low) * scale
    held = t.clamp(0, grid.intervals)
    return Place(held, (t - held).clamp(-limit, limit), held, scale)


def local_basis(
    x: Batch, grid: Grid, derivative: int = 0
) -> tuple[Float[Tensor, "*batch inputs local"], Int[Tensor, "*batch inputs"]]:
    """Return a derivative of the non-zero basis functions at x, and the interval of x.

    The values (..., inputs, k + 1) belong to B_j ... B_{j+k} with j the interval (..., inputs).
    """
    place = locate(x if is_traced() else x.detach(), grid)
    values = _derivative(x, place, grid, derivative)
    if derivative and place.scale is not None:
        values = values * place.scale[:, None] ** derivative
    return values, place.interval


def _derivative(x: Tensor, place: Place, grid: Grid, derivative: int) -> Tensor:
    """Return a derivative by x, in units of the place's scale, differentiable in x."""
    if is_traced():
        return local_basis_at(locate(x, grid), grid, derivative)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return local_basis_at(place, grid, derivative)  # without the cost of a node of autograd
    return _local_basis(x, place, grid, derivative)


def pull_back(
    gradient: Float[Tensor, "*batch inputs local"],
    x: Batch,
    place: Place,
    grid: Grid,
    derivative: int,
) -> Batch:
    """Return the gradient by x, of that by the derivative of one order less."""
    slopes = (gradient * _derivative(x, place, grid, derivative)).sum(-1)
    return slopes if place.scale is None else slopes * place.scale


class _LocalBasis(torch.autograd.Function):
    """Derivative of order r of the local basis; its own derivative has order r + 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Place, grid: Grid, derivative: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rest = place, grid, derivative + 1
        return local_basis_at(place, grid, derivative)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return pull_back(gradient, *ctx.saved_tensors, *ctx.rest), None, None, None


_local_basis: Callable[[Tensor, Place, Grid, int], Tensor] = _LocalBasis.apply


def local_basis_at(place: Place, grid: Grid, derivative: int) -> Tensor:
    """Return the local basis by torch's own arithmetic.

    Functions run first in memory, so that every operation runs over data of the shape of x.
    """
    if derivative > grid.degree:
        return place.held.new_zeros(*place.held.shape, grid.degree + 1)
    values = (_recurrence if place.scale is None else _uniform)(place, grid, derivative)
    if grid.extrapolation == "zero" or derivative > (grid.extrapolation == "linear"):
        values = torch.where(place.beyond == 0, values, 0)
    return values.movedim(0, -1)


def _uniform(place: Place, grid: Grid, derivative: int) -> Tensor:
    """Return a derivative by the position h: powers of h times a constant matrix.

    Linear continuation is built into the powers of the value: outside, h^m becomes
    h^(m-1) (h + m b) with b the distance in intervals.
    """
    h, continued = place.held, not derivative and grid.extrapolation == "linear"
    powers = [torch.ones_like(h), h][: grid.degree - derivative + 1]
    while len(powers) <= grid.degree - derivative - continued:
        powers.append(powers[-1] * h)
    if continued:
        first, *others = (torch.add(h, place.beyond, alpha=m) for m in range(1, grid.degree + 1))
        powers[1:] = [first, *(other * low for other, low in zip(others, powers[1:], strict=False))]
    weights = POWERS[grid.degree, derivative, h.dtype == torch.float64].to(h)
    return (weights @ torch.stack(powers).flatten(1)).view(len(weights), *h.shape)


def _recurrence(place: Place, grid: Grid, derivative: int) -> Tensor:
    """Apply de Boor's recurrence, all functions of a degree at once, in the first dimension.

    Up to degree k - derivative it is the recurrence of values, above it that of derivatives.
    """
    k, held = grid.degree, place.held
    near = near_knots(place.interval, grid)
    values = slopes = torch.ones_like(held)[None]
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
    if k and not derivative and grid.extrapolation == "linear":
        return values + place.beyond * slopes
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

    Row p, column i is the coefficient of u^p in function i, counted from the left of the interval,
    with u in [0, 1] the position in the interval and unit spacing. A value has the coefficients
    binom(k, p) / k! sum_{s >= i} (-1)^(s - i) binom(k + 1, s - i) (k - s)^(k - p), k the degree.
    Source: K. Qin, General matrix representations for B-splines, The Visual Computer 16 (2000).
    """
    k = degree

    def coefficient(p: int, i: int) -> float:
        terms = ((-1) ** m * comb(k + 1, m) * (k - i - m) ** (k - p) for m in range(k + 1 - i))
        return comb(k, p) * perm(p, derivative) * float(sum(terms)) / factorial(k)

    powers = range(derivative, k + 1)
    return tuple(tuple(coefficient(p, i) for i in range(k + 1)) for p in powers)


#: Transposed `uniform_powers` by degree, derivative and double precision, (functions, powers).
POWERS = {
    (k, r, double): torch.tensor(uniform_powers(k, r), dtype=dtype).T.contiguous()
    for k in range(1, UNIFORM_MATRIX_DEGREE + 1)
    for r in range(k + 1)
    for double, dtype in ((False, torch.float32), (True, torch.float64))
}
