"""Sums of splines by gathering the k + 1 coefficients that count: neither cost nor memory grows with the grid.

The table of all functions is read by rows, one a function, and each sample's rows are summed with the local basis as
weights. Its gradient is the same kind of sum with samples and intervals changing places, over samples grouped by
interval. No autograd here: see `kanrun.engine.layers.edge_sums`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from kanrun.engine.splines.gathering import bag, dots, grouped
from kanrun.engine.splines.grid import Grid
from kanrun.engine.splines.planes import Local, local_planes


class Gathered(NamedTuple):
    """Local basis of x (samples, inputs), the rows it weighs (samples, (k + 1) inputs), and the table by rows."""

    local: Local
    chosen: Tensor
    rows: Tensor


def spline_sums(x: Tensor, table: Tensor, grid: Grid, keep: bool) -> tuple[Tensor, Gathered | None]:
    """y[n, o] = sum_i sum_f B_f(x[n, i]) table[o, i, f], and with `keep` what `gradients` needs."""
    local = local_planes(x, grid, axis=-1, slopes=keep)
    samples, inputs = x.shape
    terms = (grid.degree + 1) * inputs
    steps = torch.arange(inputs, device=x.device) * grid.functions
    shifts = torch.arange(grid.degree + 1, device=x.device)[:, None]
    # Each sample's terms run function by function, input by input within: the order that copies fastest.
    index = (local.interval + steps)[:, None].add(shifts).reshape(samples, terms)
    weights = torch.stack(local.values.unbind(0), 1).reshape(samples, terms)
    rows = table.reshape(table.shape[0], -1).t().contiguous()
    return bag(weights, rows, index), Gathered(local, index, rows) if keep else None


def gradients(
    g: Tensor, x: Tensor, table: Tensor, grid: Grid, kept: Gathered, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """(d/dx, d/dtable) of sum(g * y), as far as `wanted`."""
    by_x, by_table = None, None
    if wanted[0]:
        near = dots(kept.rows, g, kept.chosen).view(x.shape[0], grid.degree + 1, x.shape[1])
        by_x = near.mul_(kept.local.slopes.transpose(0, 1)).sum(1)
        if kept.local.scale is not None:
            by_x.mul_(kept.local.scale)
    if wanted[1]:
        by_table = _table_gradient(g, kept.local, grid).view(-1, g.shape[1]).t().reshape(table.shape)
    return by_x, by_table


def _table_gradient(g: Tensor, local: Local, grid: Grid) -> Tensor:
    """sum_n B_f(x[n, i]) g[n, o] as (inputs, G + k, outputs): over each interval's samples, function by function."""
    inputs = local.interval.shape[1]
    intervals, count = grid.intervals, grid.degree + 1
    if g.shape[0] == 0:
        return g.new_zeros(inputs, grid.functions, g.shape[1])
    keys = local.interval + torch.arange(inputs, device=g.device) * intervals
    order, starts = grouped(keys.reshape(-1), inputs * intervals)
    weights = local.values.reshape(count, -1).index_select(1, order)
    begins = starts + torch.arange(count, device=g.device)[:, None] * order.shape[0]
    of = order.div_(inputs, rounding_mode="floor").repeat(count)
    sums = embedding_bag(of, g, begins.view(-1), per_sample_weights=weights.view(-1), mode="sum")
    parts = sums.view(count, inputs, intervals, -1)
    total = g.new_zeros(inputs, grid.functions, g.shape[1])
    for shift, part in enumerate(parts):
        total[:, shift : shift + intervals] += part
    return total
