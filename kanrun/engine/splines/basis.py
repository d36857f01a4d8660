"""The k + 1 non-zero B-splines at a point, their derivatives, and their products with coefficients.

For x in interval j of a grid (breakpoints b_j <= x < b_{j+1}, the last interval closed) only the
basis functions B_j ... B_{j+k} of degree k are non-zero, so a value costs O(k^2) however fine the
grid is. Outside the grid a policy extends each function: `linear` continues value and slope,
`constant` and `base` the value, `zero` is zero. Values farther out than the square root of the
largest number are continued as constants, so that nothing overflows.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-X (recurrence and derivative).

Splines are y[b, o] = sum_{i, p} basis[b, i, p] coefficients[o, i, interval[b, i] + p]. `dense_rows`
scatters the basis into rows of G + k for one matrix product: best for narrow grids. `weighted_rows`
at `table_index` gathers only the k + 1 active coefficients, so its cost does not grow with G and no
tensor of samples x inputs x out is made: best for wide grids. A basis that is dense already has
`interval` None and may have leading dimensions, one for each of several networks side by side.

Everything is differentiable to any order in x and in coefficients (at breakpoints: from the right;
under `torch.compile` once), not in the knots. The backward of the r-th derivative of the basis is
the (r + 1)-th; forward mode and `torch.compile` go through the arithmetic itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import factorial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import embedding, embedding_bag

from kanrun.engine.splines.knots import Grid, find_interval, interval_at, largest, positions

#: Up to this degree a uniform grid takes its basis from one small matrix; beyond it monomials lose
#: digits.
UNIFORM_MATRIX_DEGREE = 5
#: Above this ratio of all to active functions gathering is faster (measured).
SPARSE_ABOVE = 11.0
#: Numbers of groups from which on keys need 32 bits; narrow integers are sorted faster.
INT16_GROUPS = 1 << 15
#: The factors of a gathered product: weights, table, upstream gradients.
FACTORS = 0, 1, 2


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
    """
    plain = torch.compiler.is_compiling() or is_forward()
    return (_plain if plain else _local_basis)(x, grid, derivative)


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
    """Return the local basis by torch's own arithmetic, and the intervals."""
    if grid.uniform and 0 < grid.degree <= UNIFORM_MATRIX_DEGREE and derivative < 2:
        values, interval = _uniform(x, grid, derivative)
    else:
        interval = find_interval(x, grid)
        values = _recurrence(x, grid, interval, derivative)
    keeps = grid.extrapolation in ("constant", "base")
    if grid.extrapolation == "zero" or (derivative and keeps):
        values = values * ((x >= grid.low) & (x <= grid.high))
    return values.movedim(0, -1), interval


def _uniform(x: Tensor, grid: Grid, derivative: int) -> tuple[Tensor, Tensor]:
    """Return values or slopes: powers of the position u in the interval times a constant matrix.

    Linear continuation is built into the powers: outside, u^m becomes c^m + m (u - c) c^(m-1) with
    c the nearer end. The first dimension runs over functions, so that every operation runs over
    data of x's own shape.
    """
    t, scale = positions(x, grid)
    interval = interval_at(t, grid.intervals)
    u = t - interval
    held = u.clamp(0, 1)
    powers = [torch.ones_like(u)]
    for _ in range(grid.degree - 1):
        powers.append(powers[-1] * held)
    if not derivative:
        beyond = u - held if grid.extrapolation == "linear" else torch.zeros_like(u)
        powers[1:] = [low * (held + (m + 1) * beyond) for m, low in enumerate(powers)]
    weights = torch.tensor(POWERS[grid.degree, derivative], dtype=x.dtype, device=x.device).T
    stacked = torch.stack(powers).reshape(len(powers), x.numel())
    values = (weights @ stacked).reshape(len(weights), *x.shape)
    return values * scale if derivative else values, interval


def _recurrence(x: Tensor, grid: Grid, interval: Tensor, derivative: int) -> Tensor:
    """Apply de Boor's recurrence, all functions of a degree at once, in the first dimension.

    Up to degree k - derivative it is the recurrence of values, above it that of derivatives. Second
    and higher derivatives are zero outside the grid under every policy.
    """
    k = grid.degree
    if derivative > k:
        return x.new_zeros(k + 1, *x.shape)
    near = near_knots(interval, grid)
    held = x.clamp(grid.low, grid.high)
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
        limit = largest(x.dtype)
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
    interval and unit spacing. From the recurrence in exact fractions: N_i^d(u) = (u + d - i)/d
    N_{i-1}^{d-1} + (i + 1 - u)/d N_i^{d-1}, functions counted from the left of the interval.
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


# -------------------- products with coefficients


def prefers_sparse(functions: int, degree: int) -> bool:
    """Return whether a grid of `functions` = G + k basis functions is wide enough for gathering."""
    return functions > SPARSE_ABOVE * (degree + 1)


def sums_of_splines(
    basis: Float[Tensor, "... samples inputs terms"],
    interval: Int[Tensor, "samples inputs"] | None,
    table: Float[Tensor, "... out inputs functions"],
) -> Float[Tensor, "... samples out"]:
    """Return the sums over inputs of the splines with the coefficients `table`."""
    functions = table.shape[-1]
    if interval is not None and prefers_sparse(functions, basis.shape[-1] - 1):
        index = table_index(interval, basis.shape[-1], functions)
        return weighted_rows(basis.flatten(1), table.flatten(1).T, index)
    if interval is not None:
        basis = dense_rows(basis, interval, functions)
    return basis.flatten(-2) @ table.flatten(-2).mT


def splines_of_edges(
    basis: Float[Tensor, "... samples inputs terms"],
    interval: Int[Tensor, "samples inputs"] | None,
    table: Float[Tensor, "... out inputs functions"],
) -> Float[Tensor, "... samples out inputs"]:
    """Return the splines with the coefficients `table`, without the sum over inputs."""
    if interval is None:
        return torch.einsum("...nif,...oif->...noi", basis, table)
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
    """Scatter the local basis into rows of all `functions` of each input."""
    columns = interval[..., None] + torch.arange(basis.shape[-1], device=basis.device)
    return basis.new_zeros(*basis.shape[:2], functions).scatter(-1, columns, basis)


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
# cost O(terms) whatever the table's length. Under vmap and in forward mode, where such a function
# has one derivative at most, they are torch's own arithmetic, with a tensor of (b, s, o).


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
    def forward(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
        return _by_kernel(by, first, second, index, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.by, *factors, ctx.rows = inputs
        ctx.save_for_backward(*factors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second, index = ctx.saved_tensors
        factors, needed, found = [first, second], ctx.needs_input_grad[1:3], list[Tensor | None]()
        factors.insert(ctx.by, grad)
        for by in (each for each in FACTORS if each != ctx.by):
            one, other = (factors[i] for i in FACTORS if i != by)
            found.append(slope(by, one, other, index, ctx.rows) if needed[len(found)] else None)
        return None, *found, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        return torch.vmap(_by_arithmetic, tuple(in_dims))(*args), 0


_slope: Callable[[int, Tensor, Tensor, Tensor, int], Tensor] = _Slope.apply


def slope(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return dT by factor `by`, differentiable to any order."""
    return (_by_arithmetic if is_forward() else _slope)(by, first, second, index, rows)


def weighted_rows(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Return sum_s weights[b, s] table[index[b, s]], (b, o), of weights (b, s) and table (r, o)."""
    if torch.compiler.is_compiling():
        # The gradient of an embedding has a kernel; that of indexing is slow there.
        return (embedding(index, table) * weights[..., None]).sum(1)
    return slope(2, weights, table, index, table.shape[0])
