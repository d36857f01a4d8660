"""Products of basis functions with coefficients.

The sums are y[b, o] = sum_{i, p} basis[b, i, p] coefficients[o, i, interval[b, i] + p] for sample
b, output o and input i. `dense_rows` scatters the basis into rows of G + k numbers for one matrix
product, which is best for few intervals. `weighted_rows` at `table_index` gathers only the k + 1
active coefficients. Its cost does not grow with G, and it needs no tensor of the shape (samples,
inputs, out), so it is best for many intervals.

Under `torch.compile`, uniform grids use `fused_sums`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import comb, factorial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from kanrun.engine.splines.basis import (
    UNIFORM_MATRIX_DEGREE,
    Place,
    local_basis,
    locate,
    positions,
)
from kanrun.engine.splines.knots import (
    Coefficients,
    Grid,
    Inputs,
    is_single_threaded,
    is_traced,
    is_transformed,
    kept,
)

#: Largest ratio of the number of all basis functions of an input to the number of nonzero ones at
#: which dense rows are faster than gathering (measured).
SPARSE_ABOVE = 11.0
#: Number of entries (samples x inputs x basis functions) up to which dense rows are faster on any
#: grid, because they need fewer calls (measured).
DENSE_NUMBERS = 1 << 19
#: Number of table rows from which row indices are sorted as 32-bit integers. With fewer rows, they
#: are sorted as 16-bit integers, which is faster.
INT16_GROUPS = 1 << 15
#: Positions of the three factors of a gathered product: weights, table, upstream gradient.
FACTORS = 0, 1, 2


def prefers_sparse(functions: int, degree: int) -> bool:
    """Return whether gathering is faster for `functions` = G + k basis functions per input."""
    return functions > SPARSE_ABOVE * (degree + 1)


def sums_of_splines(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    table: Coefficients,
) -> Float[Tensor, "samples out"]:
    """Return the sums over all inputs of the splines with the coefficients `table`."""
    functions = table.shape[-1]
    local = basis.shape[-1]
    large = is_traced() or interval.numel() * functions > DENSE_NUMBERS
    if large and prefers_sparse(functions, local - 1):
        index = table_index(interval, local, functions)
        return weighted_rows(basis.flatten(1), table.flatten(1).T, index)
    return dense_rows(basis, interval, functions).flatten(1) @ table.flatten(1).T


def splines_of_edges(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    table: Coefficients,
) -> Float[Tensor, "samples out inputs"]:
    """Return the value of each edge's spline, with the coefficients `table`, at each sample."""
    samples, inputs, local = basis.shape
    index = table_index(interval, local, table.shape[-1]).reshape(samples * inputs, local)
    values = weighted_rows(basis.flatten(0, 1), table.flatten(1).T, index)
    return values.view(samples, inputs, table.shape[0]).transpose(1, 2)


def spline_values(
    x: Inputs, coefficients: Coefficients, grid: Grid
) -> Float[Tensor, "samples out inputs"]:
    """Return the value of each edge's spline, with these coefficients, at x."""
    return splines_of_edges(*local_basis(x, grid), coefficients)


def dense_rows(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    functions: int,
) -> Float[Tensor, "samples inputs functions"]:
    """Scatter the local basis into rows of all `functions` basis functions of each input.

    All indices are flattened to one dimension, in which the local functions vary slowest, because
    torch is slow along short dimensions.
    """
    count = interval.numel() * functions
    starts = torch.arange(0, count, functions, device=basis.device) + interval.flatten()
    places = starts + torch.arange(basis.shape[-1], device=basis.device)[:, None]
    rows = basis.new_zeros(count).scatter(0, places.flatten(), basis.movedim(-1, 0).flatten())
    return rows.view(*interval.shape, functions)


def table_index(
    interval: Int[Tensor, "samples inputs"], local: int, functions: int
) -> Int[Tensor, "samples terms"]:
    """Return the row index of each local function in a table of the functions of all inputs.

    The table lists the `functions` functions of the first input, then those of the second, and so
    on.
    """
    first = first_places(interval, functions)
    return (first[..., None] + torch.arange(local, device=interval.device)).flatten(1)


def first_places(interval: Tensor, functions: int) -> Tensor:
    """Return the row of each first local function in the table of `table_index`.

    The shape is (samples, inputs).
    """
    return interval + torch.arange(interval.shape[1], device=interval.device) * functions


# Let T = sum w[b, s] t[index[b, s], o] g[b, o] with weights w (b, s), a table t (r, o) and upstream
# gradients g (b, o). The gathered product is the derivative of T with respect to g. Its gradients
# are the derivatives of T with respect to w and t. Each of the three derivatives is bilinear in the
# other two factors, so the gradient of a derivative is again one of the three derivatives. The
# product can therefore be differentiated to any order (torch's embedding_bag cannot). The cost of
# the kernels is proportional to the number of terms, for any length of the table. Under the
# transforms of `torch.func` and in forward mode, ordinary torch operations are used, with a tensor
# of the shape (b, s, o).


def _by_arithmetic(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return the derivative of T (defined above) with respect to factor number `by` of (w, t, g).

    `first` and `second` are the other two factors, in order. `rows` is the length of the table.
    """
    if by == 0:
        return (first[index] * second[:, None]).sum(-1)
    if by == 2:
        return (second[index] * first[..., None]).sum(1)
    terms = (first[..., None] * second[:, None]).flatten(0, 1)
    return second.new_zeros(rows, second.shape[1]).index_add(0, index.flatten(), terms)


def _by_kernel(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return the same as `_by_arithmetic`, without a tensor of the shape (b, s, o)."""
    known = first.device.type in ("cpu", "cuda") and first.dtype in (torch.float32, torch.float64)
    if index.numel() == 0 or not known:
        return _by_arithmetic(by, first, second, index, rows)
    samples, terms = index.shape
    if by == 0:
        ends = torch.arange(0, samples * terms + 1, terms, device=index.device)
        values = first.new_zeros(samples * terms)
        with warnings.catch_warnings():  # Torch warns that sparse CSR tensors are a beta feature.
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
        ctx.by = by
        ctx.rows = rows
        ctx.save_for_backward(first, second, index)
        return _by_kernel(by, first, second, index, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second, index = ctx.saved_tensors
        factors = [first, second]
        needed = ctx.needs_input_grad[1:3]
        gradients = list[Tensor | None]()
        factors.insert(ctx.by, grad)
        for by in (each for each in FACTORS if each != ctx.by):
            one, other = (factors[i] for i in FACTORS if i != by)
            gradients.append(
                slope(by, one, other, index, ctx.rows) if needed[len(gradients)] else None
            )
        return None, *gradients, None, None


def slope(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return the same as `_by_arithmetic`, in a form that can be differentiated to any order."""
    return (_by_arithmetic if is_traced() else _Slope.apply)(by, first, second, index, rows)


def weighted_rows(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Return sum_s weights[b, s] table[index[b, s]], shape (b, o).

    `weights` and `index` have the shape (b, s), `table` has the shape (rows, o).
    """
    return slope(2, weights, table, index, table.shape[0])


# -------------------- uniform grids under torch.compile


def fuses(grid: Grid) -> bool:
    """Return whether torch is compiling and `fused_sums` can be used on the grid.

    The grid must be uniform and of degree 2 to 5. In degree 1, the slopes of the basis functions
    jump at their centres, and `fused_sums` does not represent these jumps.
    """
    fits = grid.uniform and 1 < grid.degree <= UNIFORM_MATRIX_DEGREE
    return fits and torch.compiler.is_compiling() and not is_transformed()


def _centred(distance: Tensor, degree: int, derivative: int) -> Tensor:
    """Return a derivative, of order 0 or 1, of the B-spline of unit spacing, centred at 0.

    N(d) = sum_m (-1)^m binom(k + 1, m) max((k + 1) / 2 - |d| - m, 0)^k / k!, for the distance d
    from the centre. Only the terms of the nearer half are summed, so that large terms do not
    cancel.
    """
    reach = (degree + 1) / 2 - distance.abs()
    power = degree - derivative
    first, *others = (
        (-1) ** m * comb(degree + 1, m) / factorial(power) * (reach - m).clamp(min=0) ** power
        for m in range(degree // 2 + 1)
    )
    total: Tensor = sum(others, first)
    return -distance.sign() * total if derivative else total


def _functions(place: Place, count: int, grid: Grid, derivative: int, dim: int = -1) -> Tensor:
    """Return `count` consecutive basis functions, or their slopes, along a new dimension `dim`.

    `place` and slopes are in units of an interval. Position 0 is the lower end of the last interval
    of the first function's support.
    """
    k = grid.degree
    linear = grid.extrapolation == "linear"
    held = place.held.unsqueeze(dim)
    beyond = place.beyond.unsqueeze(dim)
    centres = torch.arange(count, dtype=held.dtype, device=held.device) - (k - 1) / 2
    centres = centres if dim else centres[:, None, None]
    values = _centred(held - centres, k, derivative)
    if linear and not derivative:
        low, high = (kept(_centred(end - centres, k, 1)) for end in (0, count - k))
        return values + beyond.clamp(max=0) * low + beyond.clamp(min=0) * high
    if grid.extrapolation == "zero" or derivative > linear:
        return torch.where(beyond.abs() > 0, 0, values)  # NaN stays NaN
    return values


class _EveryFunction(torch.autograd.Function):
    """All basis functions and the base function, with a backward pass that uses their slopes.

    Without this backward pass, torch would differentiate every operation. The compiler can fuse the
    loops, because nothing is scattered.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, base: Tensor, steep: Tensor, knots: Tensor, *rest: Any
    ) -> Tensor:
        ctx.save_for_backward(x, steep, knots)
        ctx.rest, grid = rest, Grid(knots, *rest)
        functions = _functions(positions(x, grid), grid.functions, grid, 0)
        return torch.cat([functions, base[..., None]], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, steep, knots = ctx.saved_tensors
        grid = Grid(knots, *ctx.rest)
        place = positions(x, grid)
        slopes = (gradient[..., :-1] * _functions(place, grid.functions, grid, 1)).sum(-1)
        return slopes * grid.scale + gradient[..., -1] * steep, *[None] * (3 + len(ctx.rest))


class _GatheredSums(torch.autograd.Function):
    """Sums over inputs of splines and weighted base functions, gathered from the coefficients.

    Only the k + 1 non-zero basis functions are computed. The backward pass uses their slopes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor,
        steep: Tensor,
        knots: Tensor,
        table: Tensor,
        weight: Tensor,
        *rest: Any,
    ) -> Tensor:
        ctx.save_for_backward(x, base, steep, knots, table, weight)
        ctx.rest, grid = rest, Grid(knots, *rest)
        place = locate(x, grid)
        basis = kept(_functions(place, grid.degree + 1, grid, 0, 0))
        rows = kept(table.flatten(1).T)
        return _combined(
            basis, rows, first_places(kept(place.interval), grid.functions), base, weight
        ).sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, base, steep, knots, table, weight = ctx.saved_tensors
        grid = Grid(knots, *ctx.rest)
        rows = kept(table.flatten(1).T)
        place = locate(x, grid)
        first = first_places(kept(place.interval), grid.functions)
        local = grid.degree + 1
        basis, slopes = (kept(_functions(place, local, grid, order, 0)) for order in (0, 1))
        slopes = slopes * grid.scale
        by_x = (_combined(slopes, rows, first, steep, weight) * gradient[:, None]).sum(-1)
        index = first + torch.arange(local, device=x.device)[:, None, None]
        terms = (basis[..., None] * gradient[:, None]).flatten(0, 2)
        places = index.flatten()[:, None].expand_as(terms)
        by_rows = torch.zeros_like(rows).scatter_add(0, places, terms)
        by_table = by_rows.T.contiguous().view(table.shape)
        return by_x, None, None, None, by_table, gradient.T @ base, *[None] * len(ctx.rest)


def _combined(weights: Tensor, rows: Tensor, index: Tensor, base: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted sum of consecutive `rows` and of the base, shape (samples, inputs, out).

    The sum takes as many rows as there are `weights`, from row `index` (samples, inputs) on. The
    base function is multiplied by `weight` (out, inputs).
    """
    total = kept(base)[..., None] * kept(weight.T)
    for step, local in enumerate(weights):
        total = total + local[..., None] * rows[index + step]
    return total


_every_function: Callable[..., Tensor] = _EveryFunction.apply
_gathered_sums: Callable[..., Tensor] = _GatheredSums.apply


def fused_sums(
    x: Inputs,
    table: Coefficients,
    grid: Grid,
    base: tuple[Inputs, Inputs],
    weight: Float[Tensor, "out inputs"],
) -> Float[Tensor, "samples out"]:
    """Return sums over inputs of splines and weighted base functions, in loops that torch fuses.

    Args:
        x: Inputs.
        table: Coefficients of the splines.
        grid: Uniform grid for which `fuses` is true.
        base: Values and slopes of the base function at x.
        weight: Weights that multiply the base function.
    """
    rest = grid.degree, grid.uniform, grid.extrapolation
    # Number of coefficients up to which compiled layers with few intervals use dense rows on one
    # thread. Dense rows take 0.7 times as long as gathering for 80 coefficients, 1.2 times for 184,
    # and 1.3 times for 2048. On several threads, dense rows are always used, because gathering
    # would need atomic operations.
    dense = 150
    if prefers_sparse(grid.functions, grid.degree) or (
        table.numel() > dense and x.is_cpu and is_single_threaded()
    ):
        y = _gathered_sums(x, *base, grid.knots, table, weight, *rest)
        kind = x.device.type
        return y.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else y
    rows = _every_function(x, *base, grid.knots, *rest)
    return rows.flatten(1) @ torch.cat([table, weight[..., None]], -1).flatten(1).T
