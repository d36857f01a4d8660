"""The product of local basis values with coefficients, summed over inputs and functions.

Both ways give y[b, o] = sum_{i, p} basis[b, i, p] coefficients[o, i, interval[b, i] + p] and are differentiable to
any order. `dense_rows` scatters the basis into rows of G + k for one matrix product: best for narrow grids.
`weighted_rows` at `table_index` gathers only the k + 1 coefficients that count, so its cost does not grow with G and no
tensor of samples x inputs x out is made: best for wide ones. The kernels beneath, `bag`, `dots` and `spread`, take rows
of a table (r, o) chosen by `index` (b, s); they cost O(terms) whatever the table's length, without autograd.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from kanrun.engine.splines.local_basis import is_forward

#: Most numbers that one gathered block may hold, where rows have to be gathered.
CHUNK = 1 << 18
#: From so many keys on torch sorts small integers by radix, several times faster than by comparison.
RADIX = 1 << 15


def bag(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """sum_s weights[b, s] table[index[b, s]], (b, o)."""
    if index.numel() == 0:
        return table.new_zeros(index.shape[0], table.shape[1])
    return embedding_bag(index, table.contiguous(), per_sample_weights=weights.contiguous(), mode="sum")


def dots(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    """table[index[b, s]] . grad[b], (b, s)."""
    if index.numel() == 0:
        return table.new_zeros(index.shape)
    if table.device.type not in ("cpu", "cuda") or table.dtype not in (torch.float32, torch.float64):
        return _dots_by_blocks(table, grad, index)
    _quiet_sparse_tensors()
    samples, terms = index.shape
    ends = torch.arange(0, samples * terms + 1, terms, device=index.device, dtype=index.dtype)
    values = table.new_zeros(samples * terms)
    pattern = torch.sparse_csr_tensor(
        ends, index.reshape(-1), values, (samples, table.shape[0]), check_invariants=False
    )
    # In place, or torch would copy the pattern first.
    torch.sparse.sampled_addmm(pattern, grad.contiguous(), table.mT, beta=0.0, out=pattern)
    return pattern.values().view(samples, terms)


def spread(weights: Tensor, grad: Tensor, index: Tensor, rows: int) -> Tensor:
    """Sum over (b, s) of weights[b, s] grad[b] into row index[b, s], (rows, o)."""
    if index.numel() == 0:
        return grad.new_zeros(rows, grad.shape[1])
    order, starts = grouped(index.reshape(-1), rows)
    return embedding_bag(
        order.div(index.shape[1], rounding_mode="floor"),
        grad.contiguous(),
        starts,
        per_sample_weights=weights.reshape(-1).index_select(0, order),
        mode="sum",
    )


def grouped(keys: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(order, starts): positions of `keys` (n,), equal keys together, and where each of `groups` starts among them."""
    counts = torch.bincount(keys, minlength=groups)
    starts = counts.cumsum(0) - counts
    small = keys.to(torch.int16 if groups < 1 << 15 else torch.int32 if groups < 1 << 31 else torch.int64)
    if RADIX // 4 < keys.shape[0] < RADIX and small.device.type == "cpu":
        padded = small.new_full((RADIX,), torch.iinfo(small.dtype).max)
        padded[: keys.shape[0]] = small
        return padded.sort(stable=True).indices[: keys.shape[0]], starts
    return small.sort(stable=True).indices, starts


def _dots_by_blocks(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    size = max(1, CHUNK // (index.shape[1] * table.shape[1]))
    parts = [
        (table[rows] * part[:, None]).sum(-1) for rows, part in zip(index.split(size), grad.split(size), strict=True)
    ]
    return torch.cat(parts)


@lru_cache(maxsize=1)
def _quiet_sparse_tensors() -> None:
    """Have torch say now, unheard, what it says once a process: that sparse CSR tensors are young."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))


#: Measured: above this many functions for each one that counts, gathering wins.
SPARSE_ABOVE = 11.0


def prefers_sparse(functions: int, degree: int) -> bool:
    """Whether a grid with `functions` = G + k basis functions an input is wide enough for the sparse way."""
    return functions > SPARSE_ABOVE * (degree + 1)


def sums_of_splines(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    table: Float[Tensor, "out inputs functions"],
) -> Float[Tensor, "samples out"]:
    """The product with the coefficients `table`, the way that suits the width of the grid."""
    functions, columns = table.shape[-1], table.flatten(1).T
    if prefers_sparse(functions, basis.shape[-1] - 1):
        return weighted_rows(basis.flatten(1), columns, table_index(interval, basis.shape[-1], functions))
    return dense_rows(basis, interval, functions).flatten(1) @ columns


def dense_rows(
    basis: Float[Tensor, "samples inputs local"], interval: Int[Tensor, "samples inputs"], functions: int
) -> Float[Tensor, "samples inputs functions"]:
    """The local basis scattered into rows of all `functions` of each input."""
    columns = interval[..., None] + torch.arange(basis.shape[-1], device=basis.device)
    if is_forward() or torch.compiler.is_compiling():
        return basis.new_zeros(*basis.shape[:2], functions).scatter(-1, columns, basis)
    return _dense_rows(basis, columns, functions)


class _DenseRows(torch.autograd.Function):
    """As `dense_rows`; written in place, which takes an eighth of the time of torch's differentiable scatter."""

    @staticmethod
    def forward(basis: Tensor, columns: Tensor, functions: int) -> Tensor:
        return basis.new_zeros(*basis.shape[:2], functions).scatter_(-1, columns, basis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.gather(-1, ctx.saved_tensors[0]), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        basis, columns = _stacked(info.batch_size, in_dims[:2], args[:2])
        flat = _dense_rows(basis.flatten(0, 1), columns.flatten(0, 1), args[2])
        return flat.unflatten(0, basis.shape[:2]), 0


_dense_rows: Callable[[Tensor, Tensor, int], Tensor] = _DenseRows.apply


def table_index(interval: Int[Tensor, "samples inputs"], local: int, functions: int) -> Int[Tensor, "samples terms"]:
    """Where the local functions of each sample lie in a table of all inputs' functions, (input, function) in order."""
    samples, inputs = interval.shape
    first = interval + torch.arange(inputs, device=interval.device) * functions
    return (first[..., None] + torch.arange(local, device=interval.device)).reshape(samples, inputs * local)


# y = W T with W the sparse matrix of `weights` at `index`. The three bilinear maps below are each other's
# derivatives, which makes the product differentiable to any order (torch's own embedding_bag is not). Under vmap
# each is one larger product of its own kind, with the tables stacked. In forward mode, which knows one derivative of
# such a function at most, they are torch's own arithmetic, with a tensor of (b, s, o).


class _Bilinear(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])


class _WeightedRows(_Bilinear):
    """As `weighted_rows`."""

    @staticmethod
    def forward(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
        return bag(weights, table, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, table, index = ctx.saved_tensors
        by_weights = row_products(table, grad, index) if ctx.needs_input_grad[0] else None
        by_table = row_sums(weights, grad, index, table.shape[0]) if ctx.needs_input_grad[1] else None
        return by_weights, by_table, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        weights, table, index = _stacked(info.batch_size, in_dims, args)
        flat = weighted_rows(weights.flatten(0, 1), table.flatten(0, 1), _shifted(index, table.shape[1]))
        return flat.unflatten(0, weights.shape[:2]), 0


class _RowProducts(_Bilinear):
    """As `row_products`."""

    @staticmethod
    def forward(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
        return dots(table, grad, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        table, rows, index = ctx.saved_tensors
        by_table = row_sums(grad, rows, index, table.shape[0]) if ctx.needs_input_grad[0] else None
        by_rows = weighted_rows(grad, table, index) if ctx.needs_input_grad[1] else None
        return by_table, by_rows, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        table, grad, index = _stacked(info.batch_size, in_dims, args)
        flat = row_products(table.flatten(0, 1), grad.flatten(0, 1), _shifted(index, table.shape[1]))
        return flat.unflatten(0, grad.shape[:2]), 0


class _RowSums(_Bilinear):
    """As `row_sums`."""

    @staticmethod
    def forward(weights: Tensor, grad: Tensor, index: Tensor, rows: int) -> Tensor:
        return spread(weights, grad, index, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, rows, index = ctx.saved_tensors
        by_weights = row_products(grad, rows, index) if ctx.needs_input_grad[0] else None
        by_rows = weighted_rows(weights, grad, index) if ctx.needs_input_grad[1] else None
        return by_weights, by_rows, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        rows = args[3]
        weights, grad, index = _stacked(info.batch_size, in_dims[:3], args[:3])
        count = info.batch_size * rows
        flat = row_sums(weights.flatten(0, 1), grad.flatten(0, 1), _shifted(index, rows), count)
        return flat.unflatten(0, (info.batch_size, rows)), 0


_weighted_rows: Callable[[Tensor, Tensor, Tensor], Tensor] = _WeightedRows.apply
_row_products: Callable[[Tensor, Tensor, Tensor], Tensor] = _RowProducts.apply
_row_sums: Callable[[Tensor, Tensor, Tensor, int], Tensor] = _RowSums.apply


def weighted_rows(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """(weights (b, s), table (r, o)) -> sum_s weights[b, s] table[index[b, s]], (b, o)."""
    if torch.compiler.is_compiling():  # the gradient of an embedding has a kernel, that of indexing is slow there
        return (embedding(index, table) * weights[..., None]).sum(1)
    if is_forward():
        return (table[index] * weights[..., None]).sum(1)
    return _weighted_rows(weights, table, index)


def row_products(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    """(table (r, o), grad (b, o)) -> table[index[b, s]] . grad[b], (b, s)."""
    if is_forward():
        return (table[index] * grad[:, None]).sum(-1)
    return _row_products(table, grad, index)


def row_sums(weights: Tensor, grad: Tensor, index: Tensor, rows: int) -> Tensor:
    """(weights (b, s), grad (b, o)) -> sum over (b, s) of weights[b, s] grad[b] into row index[b, s], (rows, o)."""
    if is_forward():
        terms = (weights[..., None] * grad[:, None]).flatten(0, 1)
        return grad.new_zeros(rows, grad.shape[1]).index_add(0, index.flatten(), terms)
    return _row_sums(weights, grad, index, rows)


def by_edges(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    coefficients: Float[Tensor, "out inputs functions"],
) -> Float[Tensor, "samples out inputs"]:
    """The products without the sum over inputs, the k + 1 coefficients that count gathered."""
    samples, inputs, local = basis.shape
    index = table_index(interval, local, coefficients.shape[-1]).reshape(samples * inputs, local)
    values = weighted_rows(basis.flatten(0, 1), coefficients.flatten(1).T, index)
    return values.view(samples, inputs, coefficients.shape[0]).transpose(1, 2)


def _stacked(size: int, in_dims: tuple[int | None, ...], args: tuple[Tensor, ...]) -> list[Tensor]:
    """Every argument with the mapped dimension first."""
    return [
        arg.expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)
        for arg, dim in zip(args, in_dims, strict=True)
    ]


def _shifted(index: Tensor, rows: int) -> Tensor:
    """(v, b, s) indices into v tables of `rows` rows each, as (v b, s) indices into the tables stacked."""
    steps = torch.arange(index.shape[0], device=index.device) * rows
    return (index + steps[:, None, None]).flatten(0, 1)
