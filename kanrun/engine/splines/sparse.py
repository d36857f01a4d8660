"""Sums of splines by gathering the k + 1 coefficients that count: neither cost nor memory grows with the grid.

The table of all functions is read by rows, one a function, and each sample's rows are summed with the local basis as
weights. Its gradient is the same kind of sum with samples and intervals changing places, over samples grouped by
interval, one of the k + 1 functions after the other. Of the data only x outlives the forward pass: what is made of it
lies in scratch memory, and making it again costs less than fresh memory does. No autograd here: see
`kanrun.engine.layers.edge_sums`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from kanrun.engine.splines.gathering import bag, dots, grouped
from kanrun.engine.splines.grid import Grid
from kanrun.engine.splines.planes import local_planes
from kanrun.engine.splines.scratch import scratch


def spline_sums(x: Tensor, coefficients: Tensor, scale: Tensor, grid: Grid, keep: bool) -> tuple[Tensor, None]:
    """y[n, o] = sum_i scale[o, i] sum_f B_f(x[n, i]) coefficients[o, i, f]; nothing is kept for `gradients`."""
    local = local_planes(x, grid, axis=-1, slopes=False, reuse=True)
    # Each sample's terms run function by function, input by input within: the order that copies fastest.
    index = _index(local.interval, grid)
    weights = scratch("weights", (x.shape[0], grid.degree + 1, x.shape[1]), x)
    torch.stack(local.values.unbind(0), 1, out=weights)
    return bag(weights.view(index.shape), _rows(coefficients, scale), index), None


def gradients(
    g: Tensor, x: Tensor, coefficients: Tensor, scale: Tensor, grid: Grid, kept: None, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """(d/dx, d/d(scale coefficients)) of sum(g * y), as far as `wanted`."""
    by_x, by_table = None, None
    local = local_planes(x, grid, axis=-1, slopes=wanted[0], reuse=True)
    if wanted[0]:
        near = dots(_rows(coefficients, scale), g, _index(local.interval, grid), reuse=True)
        near = near.view(x.shape[0], grid.degree + 1, x.shape[1])
        # Function by function, as the slopes lie: copied once, all that follows runs over contiguous numbers.
        planes = scratch("near", tuple(local.slopes.shape), x).copy_(near.transpose(0, 1))
        by_x = planes.mul_(local.slopes).sum(0)
        if local.scale is not None:
            by_x.mul_(local.scale)
    if wanted[1]:
        by_rows = rows_gradient(g, local.values, local.interval, grid.intervals).view(-1, g.shape[1])
        by_table = by_rows.t().contiguous().view(g.shape[1], x.shape[1], grid.functions)
    return by_x, by_table


def _rows(coefficients: Tensor, scale: Tensor) -> Tensor:
    """scale * coefficients by rows, (inputs (G + k), outputs)."""
    return (coefficients * scale[..., None]).view(scale.shape[0], -1).t().contiguous()


def _index(interval: Tensor, grid: Grid) -> Tensor:
    """The rows that each sample weighs, (samples, (k + 1) inputs), in scratch memory."""
    samples, inputs = interval.shape
    small = inputs * grid.functions < 1 << 31 and samples * inputs * (grid.degree + 1) < 1 << 31
    kind = torch.int32 if small else torch.int64
    first = torch.arange(inputs, device=interval.device) * grid.functions
    terms = first + torch.arange(grid.degree + 1, device=interval.device)[:, None]
    index = scratch("index", (samples, inputs * (grid.degree + 1)), interval, kind)
    # Copying and adding over whole rows takes half the time of adding with the interval spread out.
    torch.cat([interval.to(kind)] * (grid.degree + 1), 1, out=index)
    return index.add_(terms.to(kind).view(-1))


def rows_gradient(g: Tensor, values: Tensor, interval: Tensor, intervals: int) -> Tensor:
    """sum_n B_f(x[n, i]) g[n, o] as (inputs, G + k, outputs): over each interval's samples, function by function.

    `values` (k + 1, samples, inputs) of the functions that start at `interval` (samples, inputs).
    """
    inputs, functions = interval.shape[1], intervals + values.shape[0] - 1
    total = g.new_zeros(inputs, functions, g.shape[1])
    if g.shape[0] == 0:
        return total
    keys = interval + torch.arange(inputs, device=g.device) * intervals
    order, starts = grouped(keys.reshape(-1), inputs * intervals)
    kind = torch.int32 if order.shape[0] < 1 << 31 else torch.int64
    samples, starts = order.div(inputs, rounding_mode="floor").to(kind), starts.to(kind)
    for shift, plane in enumerate(values):
        weights = torch.index_select(plane.reshape(-1), 0, order, out=scratch("sorted", tuple(order.shape), g))
        part = embedding_bag(samples, g, starts, per_sample_weights=weights, mode="sum")
        total[:, shift : shift + intervals] += part.view(inputs, intervals, -1)
        del part
    return total
