"""The product of local basis values with coefficients, summed over inputs and functions.

Both ways give y[b, o] = sum_{i, p} basis[b, i, p] coefficients[o, i, interval[b, i] + p] and are differentiable to
any order. `dense` scatters the basis into rows of G + k and takes one matrix product: best for narrow grids.
`sparse` gathers only the k + 1 coefficients that count, so its cost does not grow with G: best for wide ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

#: Measured with `kanrun bench`: above this many functions for each one that counts, gathering wins.
SPARSE_ABOVE = 12


def prefers_sparse(functions: int, degree: int) -> bool:
    """Whether a grid with `functions` = G + k basis functions an input is wide enough for the sparse way."""
    return functions > SPARSE_ABOVE * (degree + 1)


def dense_rows(
    basis: Float[Tensor, "samples inputs local"], interval: Int[Tensor, "samples inputs"], functions: int
) -> Float[Tensor, "samples inputs functions"]:
    """The local basis scattered into rows of all `functions` of each input."""
    columns = interval[..., None] + torch.arange(basis.shape[-1], device=basis.device)
    return basis.new_zeros(*basis.shape[:2], functions).scatter(-1, columns, basis)


def sparse_product(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    coefficients: Float[Tensor, "out inputs functions"],
) -> Float[Tensor, "samples out"]:
    """The contraction by gathering; no tensor of size samples x inputs x out is made."""
    samples, inputs, local = basis.shape
    functions = coefficients.shape[-1]
    offsets = torch.arange(inputs, device=basis.device)[:, None] * functions
    index = (interval[..., None] + torch.arange(local, device=basis.device) + offsets).reshape(samples, -1)
    table = coefficients.permute(1, 2, 0).reshape(inputs * functions, -1)
    return _bag(basis.reshape(samples, -1), table, index)


# y = W C with W the sparse matrix of `weights` at `index`. The three bilinear maps below are each other's
# derivatives, which makes the product differentiable to any order (torch's own embedding_bag is not).


class _Bag(torch.autograd.Function):
    """(weights (b, s), table (r, o)) -> sum_s weights[b, s] table[index[b, s]], (b, o)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
        return embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, table, index = ctx.saved_tensors
        by_weights = _dot(table, grad, index) if ctx.needs_input_grad[0] else None
        by_table = _scatter(weights, grad, index, table.shape[0]) if ctx.needs_input_grad[1] else None
        return by_weights, by_table, None


class _Dots(torch.autograd.Function):
    """(table (r, o), grad (b, o)) -> table[index[b, s]] . grad[b], (b, s)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
        return _dots(table, grad, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        table, rows, index = ctx.saved_tensors
        by_table = _scatter(grad, rows, index, table.shape[0]) if ctx.needs_input_grad[0] else None
        by_rows = _bag(grad, table, index) if ctx.needs_input_grad[1] else None
        return by_table, by_rows, None


class _Spread(torch.autograd.Function):
    """(weights (b, s), grad (b, o)) -> sum over (b, s) of weights[b, s] grad[b] into row index[b, s], (r, o)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, grad: Tensor, index: Tensor, rows: int) -> Tensor:
        return _spread(weights, grad, index, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weights, grad, index, _ = inputs
        ctx.save_for_backward(weights, grad, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, rows, index = ctx.saved_tensors
        by_weights = _dot(grad, rows, index) if ctx.needs_input_grad[0] else None
        by_rows = _bag(weights, grad, index) if ctx.needs_input_grad[1] else None
        return by_weights, by_rows, None, None


_bag: Callable[[Tensor, Tensor, Tensor], Tensor] = _Bag.apply
_dot: Callable[[Tensor, Tensor, Tensor], Tensor] = _Dots.apply
_scatter: Callable[[Tensor, Tensor, Tensor, int], Tensor] = _Spread.apply

#: Most numbers that one gathered block may hold.
CHUNK = 1 << 20


def _dots(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    size = max(1, CHUNK // (index.shape[1] * table.shape[1]))
    parts = [
        torch.bmm(table[rows], part[:, :, None])[..., 0]
        for rows, part in zip(index.split(size), grad.split(size), strict=True)
    ]
    return torch.cat(parts)


def _spread(weights: Tensor, grad: Tensor, index: Tensor, rows: int) -> Tensor:
    size = max(1, CHUNK // (index.shape[1] * grad.shape[1]))
    total = grad.new_zeros(rows, grad.shape[1])
    for w, g, at in zip(weights.split(size), grad.split(size), index.split(size), strict=True):
        total.index_add_(0, at.reshape(-1), (w[:, :, None] * g[:, None, :]).reshape(-1, g.shape[1]))
    return total
