"""The kernels of the sparse product as operators that `torch.compile` calls and does not look into.

Traced, their sorting and their sparse matrices would break the graph or be copied out at length. They have no
derivatives: who calls them brings his own, see `kanrun.engine.layers.fused`.
"""

from __future__ import annotations

from torch import Tensor
from torch.library import custom_op

from kanrun.engine.splines import gathering, sparse


@custom_op("kanrun::weighted_rows", mutates_args=(), schema="(Tensor weights, Tensor table, Tensor index) -> Tensor")
def weighted_rows(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """sum_s weights[b, s] table[index[b, s]], (b, o)."""
    return gathering.bag(weights, table, index)


@custom_op("kanrun::row_products", mutates_args=(), schema="(Tensor table, Tensor grad, Tensor index) -> Tensor")
def row_products(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    """table[index[b, s]] . grad[b], (b, s)."""
    return gathering.dots(table, grad, index)


@custom_op(
    "kanrun::rows_gradient",
    mutates_args=(),
    schema="(Tensor g, Tensor values, Tensor interval, int intervals) -> Tensor",
)
def rows_gradient(g: Tensor, values: Tensor, interval: Tensor, intervals: int) -> Tensor:
    """As `sparse.rows_gradient`, (inputs, G + k, o)."""
    return sparse.rows_gradient(g, values, interval, intervals)


@weighted_rows.register_fake
def _(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    return table.new_empty(index.shape[0], table.shape[1])


@row_products.register_fake
def _(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    return table.new_empty(index.shape)


@rows_gradient.register_fake
def _(g: Tensor, values: Tensor, interval: Tensor, intervals: int) -> Tensor:
    return g.new_empty(interval.shape[1], intervals + values.shape[0] - 1, g.shape[1])
