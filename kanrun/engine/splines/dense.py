"""Sums of splines by one dense matrix product: the local basis scattered into rows of all G + k functions.

Best for narrow grids, where the product is most of the work. Rows are laid out (inputs, functions, samples), so that
everything before the product runs over contiguous samples, and are made for a block of inputs at a time: no more than
about BLOCK numbers of them exist at once. No autograd here: see `kanrun.engine.layers.edge_sums`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kanrun.engine.splines.grid import Grid
from kanrun.engine.splines.planes import local_planes

#: Most numbers in a block's rows: what the cores' caches hold together with what the rows are multiplied by.
BLOCK = 1 << 19


class Rows(NamedTuple):
    """A block's rows (inputs, G + k, samples), where each sample's k + 1 functions start in them, and their slopes."""

    rows: Tensor
    start: Tensor
    slopes: Tensor
    scale: Tensor | None


def spline_sums(x: Tensor, table: Tensor, grid: Grid, keep: bool) -> tuple[Tensor, Rows | None]:
    """y[n, o] = sum_i sum_f B_f(x[n, i]) table[o, i, f], and with `keep` what spares `gradients` making it again."""
    flat, columns = table.reshape(table.shape[0], -1), x.t().contiguous()
    blocks = _blocks(x, grid)
    keep = keep and len(blocks) == 1
    y = x.new_zeros(0)
    for first, last in blocks:
        block = _rows(columns[first:last], grid.part(first, last), slopes=keep)
        rows, part = block.rows.flatten(0, 1).t(), flat[:, first * grid.functions : last * grid.functions].t()
        y = rows @ part if first == 0 else y.addmm_(rows, part)
    return y, block if keep else None


def gradients(
    g: Tensor, x: Tensor, table: Tensor, grid: Grid, kept: Rows | None, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """(d/dx, d/dtable) of sum(g * y), as far as `wanted`; the first is laid out by inputs."""
    outputs, inputs, functions = table.shape
    flat, gt = table.reshape(outputs, -1), g.t()
    by_x, by_table = x.new_empty(inputs if wanted[0] else 0, x.shape[0]), torch.empty_like(flat)
    columns = x.t().contiguous() if kept is None else x
    for first, last in _blocks(x, grid):
        span, part = slice(first * functions, last * functions), grid.part(first, last)
        block = _rows(columns[first:last], part, slopes=wanted[0]) if kept is None else kept
        rows = block.rows.flatten(0, 1)
        if wanted[1]:
            torch.mm(gt, rows.t(), out=by_table[:, span])
        if wanted[0]:
            pulled = torch.mm(flat[:, span].t(), gt, out=rows if kept is None else None).view_as(block.rows)
            _pull(pulled, block, part, by_x[first:last])
    return by_x.t() if wanted[0] else None, by_table.view_as(table) if wanted[1] else None


def _blocks(x: Tensor, grid: Grid) -> list[tuple[int, int]]:
    samples, inputs = x.shape
    most = max(1, BLOCK // max(1, samples * grid.functions))
    size = -(-inputs // -(-inputs // most))
    return [(first, min(first + size, inputs)) for first in range(0, inputs, size)]


def _rows(x: Tensor, grid: Grid, *, slopes: bool) -> Rows:
    local = local_planes(x, grid, axis=0, slopes=slopes)
    inputs, samples = x.shape
    start = torch.arange(samples, device=x.device).add(local.interval, alpha=samples)
    rows = x.new_zeros(inputs, grid.functions, samples)
    _windows(rows, grid).scatter_(2, start.expand(grid.degree + 1, -1, -1), local.values)
    return Rows(rows, start, local.slopes, local.scale)


def _windows(rows: Tensor, grid: Grid) -> Tensor:
    """`rows` as k + 1 overlapping views (k + 1, inputs, G samples), each one function on: `start` serves all."""
    inputs, functions, samples = rows.shape
    return rows.as_strided((grid.degree + 1, inputs, grid.intervals * samples), (samples, functions * samples, 1))


def _pull(pulled: Tensor, block: Rows, grid: Grid, out: Tensor) -> None:
    """out[i, n] = scale[i] sum_p pulled[i, j + p, n] slopes[p, i, n]."""
    near = _windows(pulled, grid).gather(2, block.start.expand(grid.degree + 1, -1, -1))
    torch.sum(near.mul_(block.slopes), 0, out=out)
    if block.scale is not None:
        out.mul_(block.scale)
