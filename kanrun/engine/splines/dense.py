"""Sums of splines by one dense matrix product: the local basis scattered into rows of all G + k functions.

Best for narrow grids, where the product is most of the work. Rows are laid out (inputs, functions, samples), so that
everything before the product runs over contiguous samples, and are made for a block of inputs at a time: no more than
about BLOCK numbers of them exist at once. No autograd here: see `kanrun.engine.layers.edge_sums`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kanrun.engine.splines import cubic
from kanrun.engine.splines.grid import Grid
from kanrun.engine.splines.planes import local_planes
from kanrun.engine.splines.scratch import scratch

#: Most numbers in a block's rows: what the cores' caches hold together with what the rows are multiplied by.
BLOCK = 1 << 18
#: Up to so many samples x inputs the rows are kept for the gradients; beyond, making them again costs less.
KEPT = 1 << 13


class Block(NamedTuple):
    """Rows (inputs, G + k, samples) of some inputs, and what their slopes are: dB/dx = slopes * scale.

    `slopes` are of all functions, or where `start` is not None of the k + 1 (first dimension) that start there.
    """

    rows: Tensor
    slopes: Tensor
    start: Tensor | None
    scale: Tensor | None


class Kept(NamedTuple):
    """What a sum leaves for its gradients.

    `table`, scale * coefficients; `inside`, positions where the closed form serves; `block`, the one of a small sum.
    """

    table: Tensor
    inside: cubic.Positions | None
    block: Block | None


def spline_sums(x: Tensor, coefficients: Tensor, scale: Tensor, grid: Grid, keep: bool) -> tuple[Tensor, Kept]:
    """y[n, o] = sum_i scale[o, i] sum_f B_f(x[n, i]) coefficients[o, i, f], and with `keep` more for `gradients`."""
    table = coefficients * scale[..., None]
    flat, columns = table.reshape(table.shape[0], -1), x.t().contiguous()
    keep, inside = keep and x.numel() <= KEPT, cubic.positions_inside(columns, grid)
    sums, kept = x, Kept(table, inside, None)
    for first, last in _blocks(x, grid, keep):
        block = _block(columns, grid, inside, (first, last), slopes=keep, reuse=not keep)
        rows, part = block.rows.flatten(0, 1), flat[:, first * grid.functions : last * grid.functions]
        sums = part @ rows if first == 0 else sums.addmm_(part, rows)
        kept = Kept(table, inside, block if keep else None)
    return (sums if inside is None else sums.mul_(cubic.ROW_FACTOR)).t(), kept


def gradients(
    g: Tensor, x: Tensor, coefficients: Tensor, scale: Tensor, grid: Grid, kept: Kept, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """(d/dx, d/d(scale coefficients)) of sum(g * y), as far as `wanted`; `kept` from `spline_sums`."""
    table = kept.table
    flat, gt = table.reshape(table.shape[0], -1), g.t()
    by_x = x.new_empty(x.shape[1], x.shape[0]) if wanted[0] else x
    by_table = torch.empty_like(flat) if wanted[1] else flat
    block, whole = kept.block, kept.block is not None
    columns = x if whole or kept.inside is not None else x.t().contiguous()
    for first, last in _blocks(x, grid, whole):
        span = slice(first * grid.functions, last * grid.functions)
        block = kept.block or _block(columns, grid, kept.inside, (first, last), slopes=wanted[0], reuse=True)
        rows = block.rows.flatten(0, 1)
        if wanted[1]:
            torch.mm(gt, rows.t(), out=by_table[:, span])
        if wanted[0]:
            pulled = torch.mm(flat[:, span].t(), gt, out=None if whole else rows).view_as(block.rows)
            _pull(pulled, block, grid, by_x[first:last])
    if wanted[1] and kept.inside is not None:
        by_table.mul_(cubic.ROW_FACTOR)
    return by_x.t().contiguous() if wanted[0] else None, by_table.view_as(table) if wanted[1] else None


def _blocks(x: Tensor, grid: Grid, whole: bool) -> list[tuple[int, int]]:
    """Ranges of inputs: all at once, or so many that their rows stay within BLOCK."""
    samples, inputs = x.shape
    most = inputs if whole else max(1, BLOCK // max(1, samples * grid.functions))
    size = -(-inputs // -(-inputs // most))
    return [(first, min(first + size, inputs)) for first in range(0, inputs, size)]


def _block(
    columns: Tensor,
    grid: Grid,
    inside: cubic.Positions | None,
    span: tuple[int, int],
    *,
    slopes: bool,
    reuse: bool,
) -> Block:
    first, last = span
    if inside is None:
        return _scattered(columns[first:last], grid.part(first, last), slopes=slopes, reuse=reuse)
    t, scale = inside.t[first:last], inside.scale[first:last]
    if slopes:
        return Block(*cubic.rows_and_slopes(t, grid.functions, reuse=reuse), None, scale)
    return Block(cubic.rows_of(t, grid.functions, reuse=reuse), t, None, scale)


def _scattered(x: Tensor, grid: Grid, *, slopes: bool, reuse: bool) -> Block:
    local = local_planes(x, grid, axis=0, slopes=slopes, reuse=reuse)
    inputs, samples = x.shape
    start = torch.arange(samples, device=x.device).add(local.interval, alpha=samples)
    shape = (inputs, grid.functions, samples)
    rows = scratch("rows", shape, x).zero_() if reuse else x.new_zeros(shape)
    _windows(rows, grid).scatter_(2, start.expand(grid.degree + 1, -1, -1), local.values)
    return Block(rows, local.slopes, start, local.scale)


def _windows(rows: Tensor, grid: Grid) -> Tensor:
    """`rows` as k + 1 overlapping views (k + 1, inputs, G samples), each one function on: `start` serves all."""
    inputs, functions, samples = rows.shape
    return rows.as_strided((grid.degree + 1, inputs, grid.intervals * samples), (samples, functions * samples, 1))


def _pull(pulled: Tensor, block: Block, grid: Grid, out: Tensor) -> None:
    """out[i, n] = scale[i] sum_f pulled[i, f, n] slopes[f, i, n]."""
    if block.start is None:
        torch.sum(pulled.mul_(block.slopes), 1, out=out)
        out.mul_(cubic.SLOPE_FACTOR)
    else:
        near = scratch("near", tuple(block.slopes.shape), out)
        torch.gather(_windows(pulled, grid), 2, block.start.expand(grid.degree + 1, -1, -1), out=near)
        torch.sum(near.mul_(block.slopes), 0, out=out)
    if block.scale is not None:
        out.mul_(block.scale)
