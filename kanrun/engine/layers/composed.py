"""A spline layer's product and its gradients, composed of differentiable parts: to any order, under any transform."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kanrun.engine.layers.bases import base_function, base_slope
from kanrun.engine.splines import Grid, dense_rows, local_basis, prefers_sparse
from kanrun.engine.splines.contraction import row_products, row_sums, table_index, weighted_rows


class Edges(NamedTuple):
    """What a layer's edges are, apart from the numbers that are differentiated; mask (outputs, inputs)."""

    grid: Grid
    base: str
    mask: Tensor


def edge_sums(x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges) -> Tensor:
    """As `layers.edge_sums.edge_sums`."""
    basis, interval = local_basis(x, edges.grid)
    table = coefficients * (spline_weight * edges.mask)[..., None]
    y = _product(basis, interval, table)
    if edges.base == "zero":
        return y
    return y + base_function(edges.base)(x) @ (base_weight * edges.mask).T


def gradients(
    g: Tensor, x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of sum(g * y) in x, coefficients, base weight and spline weight."""
    grid = edges.grid
    basis, interval = local_basis(x, grid)
    slopes, _ = local_basis(x, grid, 1)
    scale = (spline_weight * edges.mask)[..., None]
    near, by_table = _adjoints(g, basis, interval, coefficients * scale)
    by_x = (near * slopes).sum(-1) + base_slope(edges.base, x) * (g @ (base_weight * edges.mask))
    by_base = g.T @ base_function(edges.base)(x) * edges.mask
    return by_x, by_table * scale, by_base, (by_table * coefficients).sum(-1) * edges.mask


def _product(basis: Tensor, interval: Tensor, table: Tensor) -> Tensor:
    outputs, functions = table.shape[0], table.shape[-1]
    if prefers_sparse(functions, basis.shape[-1] - 1, basis.dtype):
        index = table_index(interval, basis.shape[-1], functions)
        return weighted_rows(basis.flatten(1), table.reshape(outputs, -1).T, index)
    return dense_rows(basis, interval, functions).flatten(1) @ table.flatten(1).T


def _adjoints(g: Tensor, basis: Tensor, interval: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """(d/dbasis, d/dtable) of sum(g * product)."""
    outputs, inputs, functions = table.shape
    if prefers_sparse(functions, basis.shape[-1] - 1, basis.dtype):
        index = table_index(interval, basis.shape[-1], functions)
        near = row_products(table.reshape(outputs, -1).T, g, index)
        return near.view_as(basis), row_sums(basis.flatten(1), g, index, inputs * functions).T.reshape(table.shape)
    pulled = (g @ table.flatten(1)).unflatten(1, (inputs, functions))
    columns = interval[..., None] + torch.arange(basis.shape[-1], device=basis.device)
    by_table = g.T @ dense_rows(basis, interval, functions).flatten(1)
    return pulled.gather(-1, columns), by_table.view_as(table)
