"""The k + 1 non-zero B-splines at a point, and their derivatives.

For x in interval j of a grid (breakpoints b_j <= x < b_{j+1}, the last interval closed), only the
basis functions B_j ... B_{j+k} of degree k are non-zero. A value therefore costs O(k^2) for any
grid. `Grid.extrapolation` defines how each function continues outside the grid. At distances above
the square root of the largest floating-point number, the function is constant, so that nothing
overflows.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-X (recurrence and derivative).

The values can be differentiated with respect to x to any order (under `torch.compile` only once),
but not with respect to the knots. At breakpoints, derivatives are those from the right. The
backward pass of the r-th derivative of the basis computes the (r + 1)-th. In forward mode, under
the transforms of `torch.func` and under `torch.compile`, torch differentiates the arithmetic
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb, factorial, perm
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kanrun.engine.splines.knots import Batch, Grid, find_interval, is_traced, largest

#: Largest degree at which the basis on a uniform grid is computed as a constant matrix times powers
#: of the position. At higher degrees, this product loses digits.
UNIFORM_MATRIX_DEGREE = 5


class Place(NamedTuple):
    """Position of inputs in a grid.

    Attributes:
        held: Nearest point of the domain, shape (..., inputs). If `scale` is not None, this is the
            position of that point within its interval, from 0 to 1.
        beyond: Signed distance from that point, shape (..., inputs), clipped to +- `largest`. If
            `scale` is not None, the distance is in units of an interval.
        interval: Index of the interval of that point, shape (..., inputs).
        scale: Number of intervals per unit, shape (inputs,). None unless the grid is uniform and
            its degree is 1 to `UNIFORM_MATRIX_DEGREE`.
    """

    held: Tensor
    beyond: Tensor
    interval: Tensor
    scale: Tensor | None


def locate(x: Batch, grid: Grid) -> Place:
    """Return the position of x in the grid: the interval, and the position within the interval."""
    if not (grid.uniform and 0 < grid.degree <= UNIFORM_MATRIX_DEGREE):
        held = x.clamp(grid.low, grid.high)
        limit = largest(x.dtype)
        return Place(held, (x - held).clamp(-limit, limit), find_interval(held, grid), None)
    place = positions(x, grid)
    interval = place.held.long().clamp(0, grid.intervals - 1)
    return Place(place.held - interval, place.beyond, interval, place.scale)


def positions(x: Batch, grid: Grid) -> Place:
    """Return the position of x in a uniform grid, counted in intervals from the grid's lower end.

    In contrast to `locate`, both `held` and `interval` are this position, clamped to [0, G].
    """
    limit = largest(x.dtype)
    scale = grid.scale
    t = (x - grid.low) * scale
    held = t.clamp(0, grid.intervals)
    return Place(held, (t - held).clamp(-limit, limit), held, scale)


def local_basis(
    x: Batch, grid: Grid, derivative: int = 0
) -> tuple[Float[Tensor, "*batch inputs local"], Int[Tensor, "*batch inputs"]]:
    """Compute a derivative of the non-zero basis functions at x.

    Args:
        x: Inputs, shape (..., inputs).
        grid: Grid of degree k.
        derivative: Order of the derivative; 0 for values.

    Returns:
        Derivatives of B_j ... B_{j+k}, shape (..., inputs, k + 1), and the interval j of each
        input, shape (..., inputs).
    """
    place = locate(x if is_traced() else x.detach(), grid)
    values = _derivative(x, place, grid, derivative)
    if derivative and place.scale is not None:
        values = values * place.scale[:, None] ** derivative
    return values, place.interval


def _derivative(x: Tensor, place: Place, grid: Grid, derivative: int) -> Tensor:
    """Return a derivative of the local basis that can be differentiated with respect to x.

    The derivative is taken with respect to x * `place.scale`, or x if the scale is None.
    """
    if is_traced():
        return local_basis_at(locate(x, grid), grid, derivative)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return local_basis_at(place, grid, derivative)  # cheaper than an autograd.Function
    return _local_basis(x, place, grid, derivative)


def pull_back(
    gradient: Float[Tensor, "*batch inputs local"],
    x: Batch,
    place: Place,
    grid: Grid,
    derivative: int,
) -> Batch:
    """Return the gradient of a loss with respect to x.

    `gradient` is the gradient of the loss with respect to the values of the local basis. If
    `derivative` exceeds 1, it refers to the derivative of the basis of order `derivative` - 1.
    """
    slopes = (gradient * _derivative(x, place, grid, derivative)).sum(-1)
    return slopes if place.scale is None else slopes * place.scale


class _LocalBasis(torch.autograd.Function):
    """Derivative of order r of the local basis; the backward pass uses that of order r + 1."""

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
    """Compute a derivative of the local basis, shape (..., inputs, k + 1), without autograd rules.

    In memory, the dimension of the k + 1 functions comes first, so that each operation runs over
    long rows.
    """
    if derivative > grid.degree:
        return place.held.new_zeros(*place.held.shape, grid.degree + 1)
    values = (_recurrence if place.scale is None else _uniform)(place, grid, derivative)
    if grid.extrapolation == "zero" or derivative > (grid.extrapolation == "linear"):
        values = torch.where(place.beyond.abs() > 0, 0, values)  # NaN stays NaN
    return values.movedim(0, -1)


def _uniform(place: Place, grid: Grid, derivative: int) -> Tensor:
    """Compute a derivative of the local basis on a uniform grid.

    It is a constant matrix times powers of the position h within the interval. For values that are
    extrapolated linearly, h^m is replaced outside the grid by h^(m-1) (h + m b), with b the
    distance from the grid in intervals.
    """
    h = place.held
    continued = not derivative and grid.extrapolation == "linear"
    powers = [torch.ones_like(h), h][: grid.degree - derivative + 1]
    while len(powers) <= grid.degree - derivative - continued:
        powers.append(powers[-1] * h)
    if continued:
        first, *others = (torch.add(h, place.beyond, alpha=m) for m in range(1, grid.degree + 1))
        powers[1:] = [first, *(other * low for other, low in zip(others, powers[1:], strict=False))]
    weights = POWERS[grid.degree, derivative, h.dtype == torch.float64].to(h)
    return (weights @ torch.stack(powers).flatten(1)).view(len(weights), *h.shape)


def _recurrence(place: Place, grid: Grid, derivative: int) -> Tensor:
    """Compute a derivative by de Boor's recurrence, all functions of a degree at once.

    Up to degree k - `derivative`, each step computes the values of the next degree. Each of the
    remaining steps differentiates once.
    """
    k = grid.degree
    held = place.held
    near = near_knots(place.interval, grid)
    values = slopes = torch.ones_like(held)[None]
    for d in range(1, k + 1):
        upper = near[k : k + d]
        lower = near[k - d : k]
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
    """Return the 2k knots around each interval j, t_{j+1} ... t_{j+2k}, in the first dimension."""
    inputs, count = grid.knots.shape
    start = torch.arange(inputs, device=interval.device) * count + interval
    steps = torch.arange(1, 2 * grid.degree + 1, device=interval.device)
    index = start + steps.reshape(-1, *[1] * interval.ndim)
    return grid.knots.flatten().index_select(0, index.flatten()).reshape(index.shape)


def widen(left: Tensor, right: Tensor) -> Tensor:
    """Return functions of the next degree: function i is left[i] + right[i - 1].

    The first dimension of `left`, `right` and the result is the function. The result has one
    function more, and missing terms count as zero.
    """
    return torch.cat([left[:1], left[1:] + right[:-1], right[-1:]])


def uniform_powers(degree: int, derivative: int) -> tuple[tuple[float, ...], ...]:
    """Return the polynomial coefficients of a derivative of the local basis for unit spacing.

    Row p has the coefficients of u^p, where u in [0, 1] is the position within the interval. Column
    i belongs to function i of the k + 1 non-zero ones, counted from the left. For values
    (`derivative` 0) and degree k, the coefficient of u^p is
    binom(k, p) / k! sum_{s >= i} (-1)^(s - i) binom(k + 1, s - i) (k - s)^(k - p).
    Source: K. Qin, General matrix representations for B-splines, The Visual Computer 16 (2000).
    """
    k = degree

    def coefficient(p: int, i: int) -> float:
        terms = ((-1) ** m * comb(k + 1, m) * (k - i - m) ** (k - p) for m in range(k + 1 - i))
        return comb(k, p) * perm(p, derivative) * float(sum(terms)) / factorial(k)

    powers = range(derivative, k + 1)
    return tuple(tuple(coefficient(p, i) for i in range(k + 1)) for p in powers)


#: Results of `uniform_powers`, transposed to the shape (functions, powers). The keys are the
#: degree, the order of the derivative, and whether the precision is double.
POWERS = {
    (k, r, double): torch.tensor(uniform_powers(k, r), dtype=dtype).T.contiguous()
    for k in range(1, UNIFORM_MATRIX_DEGREE + 1)
    for r in range(k + 1)
    for double, dtype in ((False, torch.float32), (True, torch.float64))
}
