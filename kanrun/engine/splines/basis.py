"""The k + 1 non-zero B-splines at a point, their derivatives, and products with coefficients.

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

Splines are y[b, o] = sum_{i, p} basis[b, i, p] coefficients[o, i, interval[b, i] + p]. `dense_rows`
scatters the basis into rows of G + k for one matrix product: best for narrow grids. `weighted_rows`
at `table_index` gathers only the k + 1 active coefficients, so its cost does not grow with G and no
tensor of samples x inputs x out is made: best for wide grids.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import comb, factorial, perm
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import embedding, embedding_bag

from kanrun.engine.splines.knots import Grid, find_interval, largest

#: Up to this degree a uniform grid takes its basis from one small matrix; beyond it monomials lose
#: digits.
UNIFORM_MATRIX_DEGREE = 5

#: Above this ratio of all to active functions gathering is faster (measured).
SPARSE_ABOVE = 11.0
#: Up to this many numbers dense rows are faster on any grid: they take fewer calls (measured).
DENSE_NUMBERS = 1 << 19
#: Numbers of groups from which on keys need 32 bits; narrow integers are sorted faster.
INT16_GROUPS = 1 << 15
#: The factors of a gathered product: weights, table, upstream gradients.
FACTORS = 0, 1, 2


def is_traced() -> bool:
    """Return whether torch traces arithmetic: it compiles, or transforms, or goes forward.

    There all must be torch's own arithmetic: a `torch.autograd.Function` with a rule for
    `torch.func` costs four times as much to call, and its second forward derivatives are zero.
    """
    # Both are what torch.autograd.Function itself asks for; neither has a public name.
    transforms = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() or transforms or forward_ad._current_level >= 0


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


def locate(x: Float[Tensor, "*batch inputs"], grid: Grid) -> Place:
    """Return where x lies in the grid."""
    low, high, limit, last = grid.low, grid.high, largest(x.dtype), grid.intervals
    if not (grid.uniform and 0 < grid.degree <= UNIFORM_MATRIX_DEGREE):
        held = x.clamp(low, high)
        return Place(held, (x - held).clamp(-limit, limit), find_interval(held, grid), None)
    scale = last / (high - low)
    t = (x - low) * scale
    held = t.clamp(0, last)
    interval = held.long().clamp(0, last - 1)
    return Place(held - interval, (t - held).clamp(-limit, limit), interval, scale)


def local_basis(
    x: Float[Tensor, "*batch inputs"], grid: Grid, derivative: int = 0
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
        return _plain(locate(x, grid), grid, derivative)
    return _local_basis(x, place, grid, derivative)


class _LocalBasis(torch.autograd.Function):
    """Derivative of order r of the local basis; its own derivative has order r + 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Place, grid: Grid, derivative: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rest = place, grid, derivative + 1
        return _plain(place, grid, derivative)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        place, *_ = ctx.rest
        slopes = (gradient * _derivative(*ctx.saved_tensors, *ctx.rest)).sum(-1)
        return slopes if place.scale is None else slopes * place.scale, None, None, None


_local_basis: Callable[[Tensor, Place, Grid, int], Tensor] = _LocalBasis.apply


def _plain(place: Place, grid: Grid, derivative: int) -> Tensor:
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


# -------------------- products with coefficients


def prefers_sparse(functions: int, degree: int) -> bool:
    """Return whether a grid of `functions` = G + k basis functions is wide enough for gathering."""
    return functions > SPARSE_ABOVE * (degree + 1)


def sums_of_splines(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    table: Float[Tensor, "out inputs functions"],
) -> Float[Tensor, "samples out"]:
    """Return the sums over inputs of the splines with the coefficients `table`."""
    functions, local = table.shape[-1], basis.shape[-1]
    large = is_traced() or interval.numel() * functions > DENSE_NUMBERS
    if large and prefers_sparse(functions, local - 1):
        index = table_index(interval, local, functions)
        return weighted_rows(basis.flatten(1), table.flatten(1).T, index)
    return dense_rows(basis, interval, functions).flatten(1) @ table.flatten(1).T


def splines_of_edges(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    table: Float[Tensor, "out inputs functions"],
) -> Float[Tensor, "samples out inputs"]:
    """Return the splines with the coefficients `table`, without the sum over inputs."""
    samples, inputs, local = basis.shape
    index = table_index(interval, local, table.shape[-1]).reshape(samples * inputs, local)
    values = weighted_rows(basis.flatten(0, 1), table.flatten(1).T, index)
    return values.view(samples, inputs, table.shape[0]).transpose(1, 2)


def spline_values(
    x: Float[Tensor, "samples inputs"],
    coefficients: Float[Tensor, "out inputs functions"],
    grid: Grid,
) -> Float[Tensor, "samples out inputs"]:
    """Return the splines with these coefficients at x."""
    return splines_of_edges(*local_basis(x, grid), coefficients)


def dense_rows(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    functions: int,
) -> Float[Tensor, "samples inputs functions"]:
    """Scatter the local basis into rows of all `functions` of each input.

    Functions run first and the rest is one dimension: what is added along short dimensions is slow.
    """
    count = interval.numel() * functions
    starts = torch.arange(0, count, functions, device=basis.device) + interval.flatten()
    places = starts + torch.arange(basis.shape[-1], device=basis.device)[:, None]
    rows = basis.new_zeros(count).scatter(0, places.flatten(), basis.movedim(-1, 0).flatten())
    return rows.view(*interval.shape, functions)


def table_index(
    interval: Int[Tensor, "samples inputs"], local: int, functions: int
) -> Int[Tensor, "samples terms"]:
    """Return the places of the local functions in a table of all inputs' functions, by input."""
    first = interval + torch.arange(interval.shape[1], device=interval.device) * functions
    return (first[..., None] + torch.arange(local, device=interval.device)).flatten(1)


# The gathered product is a derivative of T = sum w[b, s] t[index[b, s], o] g[b, o], with weights w
# (b, s), a table t (r, o) and upstream gradients g (b, o): the one by g. Its own derivatives are
# those of T by w and by t, and so on: each of the three is bilinear in the other two factors, which
# makes the product differentiable to any order (torch's own embedding_bag is not). By kernels they
# cost O(terms) whatever the table's length. Under the transforms of `torch.func` and in forward
# mode they are torch's own arithmetic, with a tensor of (b, s, o).


def _by_arithmetic(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return dT by factor `by` of (w, t, g), from the other two in order.

    `rows` is the length of the table.
    """
    if by == 0:
        return (first[index] * second[:, None]).sum(-1)
    if by == 2:
        return (second[index] * first[..., None]).sum(1)
    terms = (first[..., None] * second[:, None]).flatten(0, 1)
    return second.new_zeros(rows, second.shape[1]).index_add(0, index.flatten(), terms)


def _by_kernel(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return the same without a tensor of (b, s, o)."""
    known = first.device.type in ("cpu", "cuda") and first.dtype in (torch.float32, torch.float64)
    if index.numel() == 0 or not known:
        return _by_arithmetic(by, first, second, index, rows)
    samples, terms = index.shape
    if by == 0:
        ends = torch.arange(0, samples * terms + 1, terms, device=index.device)
        values = first.new_zeros(samples * terms)
        with warnings.catch_warnings():  # Torch calls sparse CSR tensors unfinished.
            warnings.simplefilter("ignore")
            pattern = torch.sparse_csr_tensor(
                ends, index.flatten(), values, (samples, len(first)), check_invariants=False
            )
        # In place, since torch would copy the pattern otherwise.
        torch.sparse.sampled_addmm(pattern, second.contiguous(), first.mT, beta=0.0, out=pattern)
        return pattern.values().view(samples, terms)
    if by == 2:
        return embedding_bag(
            index, second.contiguous(), per_sample_weights=first.contiguous(), mode="sum"
        )
    keys = index.flatten()
    order = keys.to(torch.int16 if rows < INT16_GROUPS else torch.int32).sort(stable=True).indices
    counts = torch.bincount(keys, minlength=rows)
    return embedding_bag(
        order.div(terms, rounding_mode="floor"),
        second.contiguous(),
        counts.cumsum(0) - counts,
        per_sample_weights=first.flatten()[order],
        mode="sum",
    )


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, by: int, first: Tensor, second: Tensor, index: Tensor, rows: int
    ) -> Tensor:
        ctx.by, ctx.rows = by, rows
        ctx.save_for_backward(first, second, index)
        return _by_kernel(by, first, second, index, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second, index = ctx.saved_tensors
        factors, needed, found = [first, second], ctx.needs_input_grad[1:3], list[Tensor | None]()
        factors.insert(ctx.by, grad)
        for by in (each for each in FACTORS if each != ctx.by):
            one, other = (factors[i] for i in FACTORS if i != by)
            found.append(slope(by, one, other, index, ctx.rows) if needed[len(found)] else None)
        return None, *found, None, None


def slope(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return dT by factor `by`, differentiable to any order."""
    found: Tensor = (_by_arithmetic if is_traced() else _Slope.apply)(
        by, first, second, index, rows
    )
    return found


def weighted_rows(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Return sum_s weights[b, s] table[index[b, s]], (b, o), of weights (b, s) and table (r, o)."""
    if torch.compiler.is_compiling():
        # The gradient of an embedding has a kernel; that of indexing is slow there.
        return (embedding(index, table) * weights[..., None]).sum(1)
    return slope(2, weights, table, index, table.shape[0])
