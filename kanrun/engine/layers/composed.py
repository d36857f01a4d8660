"""A spline layer's product and its gradients, composed of differentiable parts: to any order, under any transform.

In forward mode (`torch.func.jvp`, `jacfwd`, `hessian`) a wide grid gathers samples x inputs (k + 1) x outputs numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kanrun.engine.layers.bases import Base
from kanrun.engine.splines import Grid, dense_rows, local_basis, prefers_sparse
from kanrun.engine.splines.contraction import row_products, row_sums, table_index, weighted_rows
from kanrun.engine.splines.planes import local_planes


class Edges(NamedTuple):
    """What a layer's edges are, apart from the numbers that are differentiated.

    mask (outputs, inputs), false where an edge is pruned; None where none is.
    """

    grid: Grid
    base: Base
    mask: Tensor | None


def edge_sums(x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges) -> Tensor:
    """As `layers.edge_sums.edge_sums`."""
    table = coefficients * masked(spline_weight, edges)[..., None]
    y = _product(*_basis(x, edges.grid), table)
    if edges.base.name == "zero":
        return y
    return y + edges.base(x) @ masked(base_weight, edges).T


def gradients(
    g: Tensor, x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of sum(g * y) in x, coefficients, base weight and spline weight."""
    grid = edges.grid
    basis, interval = local_basis(x, grid)
    slopes, _ = local_basis(x, grid, 1)
    scale = masked(spline_weight, edges)[..., None]
    near, by_table = _adjoints(g, basis, interval, coefficients * scale)
    by_x = (near * slopes).sum(-1) + edges.base.slope(x) * (g @ masked(base_weight, edges))
    by_base = masked(g.T @ edges.base(x), edges)
    return by_x, by_table * scale, by_base, masked((by_table * coefficients).sum(-1), edges)


def _basis(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling():
        # Plain arithmetic, which a compiler can follow; its own derivative is the first one only.
        local = local_planes(x, grid, axis=-1, slopes=False)
        return local.values.movedim(0, -1), local.interval
    return local_basis(x, grid)


def masked(weight: Tensor, edges: Edges) -> Tensor:
    """`weight` (outputs, inputs), zero where an edge is pruned."""
    return weight if edges.mask is None else weight * edges.mask


def _product(basis: Tensor, interval: Tensor, table: Tensor) -> Tensor:
    functions = table.shape[-1]
    if prefers_sparse(functions, basis.shape[-1] - 1):
        index = table_index(interval, basis.shape[-1], functions)
        return weighted_rows(basis.flatten(1), table.flatten(1).T, index)
    return dense_rows(basis, interval, functions).flatten(1) @ table.flatten(1).T


def _adjoints(g: Tensor, basis: Tensor, interval: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """(d/dbasis, d/dtable) of sum(g * product)."""
    inputs, functions = table.shape[1:]
    if prefers_sparse(functions, basis.shape[-1] - 1):
        index = table_index(interval, basis.shape[-1], functions)
        near = row_products(table.flatten(1).T, g, index)
        return near.view_as(basis), row_sums(basis.flatten(1), g, index, inputs * functions).T.reshape(table.shape)
    pulled = (g @ table.flatten(1)).unflatten(1, (inputs, functions))
    columns = interval[..., None] + torch.arange(basis.shape[-1], device=basis.device)
    by_table = g.T @ dense_rows(basis, interval, functions).flatten(1)
    return pulled.gather(-1, columns), by_table.view_as(table)
