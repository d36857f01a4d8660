"""A spline layer for `torch.compile`: forward and first derivatives as plain arithmetic, in the form that fuses best.

Narrow uniform cubic grids put all rows in closed form, and the base beside them, into one matrix product. All others
weigh rows of the table by kernels that the compiler does not look into. Derivatives are written out, because a
compiler that derives them from the forward pass does several times their work. Second derivatives a compiled graph
does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kanrun.engine.layers.composed import Edges, masked
from kanrun.engine.splines import Grid, cubic, opaque, prefers_sparse
from kanrun.engine.splines.grid import positions
from kanrun.engine.splines.planes import Local, local_planes
from kanrun.engine.splines.tracing import in_memory


def edge_sums(x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges) -> Tensor:
    """As `layers.edge_sums.edge_sums`; differentiable once."""
    sums = _rows_sums if _closed(edges.grid, x.dtype, coefficients.shape[0]) else _table_sums
    if base_weight is spline_weight:
        base_weight = spline_weight.clone()  # the compiler wants every argument to be another
    return sums(x, coefficients, base_weight, spline_weight, edges)


def _closed(grid: Grid, dtype: torch.dtype, outputs: int) -> bool:
    cubic_rows = grid.uniform and grid.degree == 3 and grid.extrapolation == "linear"
    return cubic_rows and not prefers_sparse(grid.functions, grid.degree, dtype, outputs)


class _RowsSums(torch.autograd.Function):
    """One matrix product with features (inputs (G + k) + inputs, samples): rows of all functions, then the base."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges
    ) -> Tensor:
        t, _ = _columns(x, edges.grid)
        rows, _ = cubic.continued_rows(t, edges.grid.intervals)
        features = torch.cat([rows.flatten(0, 1), edges.base(x).t()])
        table = coefficients * masked(spline_weight, edges)[..., None]
        weights = torch.cat([table.flatten(1), masked(base_weight, edges)], 1)
        ctx.save_for_backward(x, coefficients, spline_weight, features, weights)
        ctx.edges = edges
        return (weights @ features).t().contiguous()  # this way round for the sake of few outputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, coefficients, spline_weight, features, weights = ctx.saved_tensors
        edges, count = ctx.edges, coefficients[0].numel()
        t, scale = _columns(x, edges.grid)
        _, slopes = cubic.continued_rows(t, edges.grid.intervals)
        pulled, by_weights = weights.t() @ g.t(), g.t() @ features.t()
        by_t = (pulled[:count].view(slopes.shape) * slopes).sum(1)
        by_x = ((by_t * scale).t() + pulled[count:].t() * edges.base.slope(x)).contiguous()
        by_table, by_base = by_weights[:, :count].view(coefficients.shape), masked(by_weights[:, count:], edges)
        by_scale = masked((by_table * coefficients).sum(-1), edges)
        return by_x, by_table * masked(spline_weight, edges)[..., None], by_base, by_scale, None


class _TableSums(torch.autograd.Function):
    """Rows of the table of all functions, weighed by the local basis."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges
    ) -> Tensor:
        local = local_planes(x, edges.grid, axis=-1, slopes=False)
        table, index = _rows(coefficients, spline_weight, edges), _index(local, edges.grid)
        weights = local.values.transpose(0, 1).flatten(1)
        y: Tensor = opaque.weighted_rows(weights, table, index)
        ctx.save_for_backward(x, coefficients, base_weight, spline_weight, table, index, weights)
        ctx.edges = edges
        return y + edges.base(x) @ masked(base_weight, edges).t()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, coefficients, base_weight, spline_weight, table, index, weights = ctx.saved_tensors
        edges: Edges = ctx.edges
        grid, g = edges.grid, g.contiguous()
        local = local_planes(x, grid, axis=-1, slopes=True)
        near = opaque.row_products(table, g, index).view(x.shape[0], grid.degree + 1, x.shape[1])
        by_x = (near * local.slopes.transpose(0, 1)).sum(1)
        by_x = by_x if local.scale is None else by_x * local.scale
        by_x = by_x + (g @ masked(base_weight, edges)) * edges.base.slope(x)
        by_rows = _rows_gradient(g, weights, index, local, grid)
        by_table = in_memory(by_rows.t()).view(coefficients.shape)
        by_base = masked(g.t() @ edges.base(x), edges)
        by_scale = masked((by_table * coefficients).sum(-1), edges)
        return by_x, by_table * masked(spline_weight, edges)[..., None], by_base, by_scale, None


_rows_sums: Callable[[Tensor, Tensor, Tensor, Tensor, Edges], Tensor] = _RowsSums.apply
_table_sums: Callable[[Tensor, Tensor, Tensor, Tensor, Edges], Tensor] = _TableSums.apply


def _columns(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Positions (inputs, samples) in memory of that order, and their scale (inputs, 1)."""
    t, scale = positions(x.t(), grid, 0)
    return in_memory(t), scale


def _rows(coefficients: Tensor, spline_weight: Tensor, edges: Edges) -> Tensor:
    """Spline weight * coefficients by rows, (inputs (G + k), outputs)."""
    table = coefficients * masked(spline_weight, edges)[..., None]
    return table.permute(1, 2, 0).contiguous().flatten(0, 1)


def _index(local: Local, grid: Grid) -> Tensor:
    """The rows that each sample weighs, (samples, (k + 1) inputs), function by function."""
    first = torch.arange(local.interval.shape[1], device=local.interval.device) * grid.functions
    terms = first + torch.arange(grid.degree + 1, device=first.device)[:, None]
    return (local.interval[:, None] + terms).flatten(1)


def _rows_gradient(g: Tensor, weights: Tensor, index: Tensor, local: Local, grid: Grid) -> Tensor:
    """The gradient of the table, (inputs (G + k), outputs)."""
    if g.device.type == "cpu" and _one_thread():
        # One thread adds where it likes; several would have to lock what they add to, so there samples are grouped.
        rows = g.new_zeros(local.interval.shape[1] * grid.functions, g.shape[1])
        return rows.index_put((index,), weights[..., None] * g[:, None], accumulate=True)
    grouped: Tensor = opaque.rows_gradient(g, local.values.contiguous(), local.interval, grid.intervals)
    return grouped.flatten(0, 1)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _one_thread() -> bool:
    return torch.get_num_threads() == 1
