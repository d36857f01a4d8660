"""Products of local basis values with coefficients: splines and their sums over inputs.

Splines are y[b, o] = sum_{i, p} basis[b, i, p] coefficients[o, i, interval[b, i] + p],
differentiable to any order. `dense_rows` scatters the basis into rows of G + k for one matrix
product: best for narrow grids. `weighted_rows` at `table_index` gathers only the k + 1 active
coefficients, so its cost does not grow with G and no tensor of samples x inputs x out is made:
best for wide grids. A basis
that is dense already has `interval` None and may have leading dimensions, one for each of several
networks side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from kanrun.engine.splines.basis import is_forward, local_basis
from kanrun.engine.splines.knots import Grid

#: Above this ratio of all to active functions gathering is faster (measured).
SPARSE_ABOVE = 11.0


def prefers_sparse(functions: int, degree: int) -> bool:
    """Return whether a grid of `functions` = G + k basis functions is wide enough for gathering."""
    return functions > SPARSE_ABOVE * (degree + 1)


def sums_of_splines(
    basis: Float[Tensor, "... samples inputs terms"],
    interval: Int[Tensor, "samples inputs"] | None,
    table: Float[Tensor, "... out inputs functions"],
) -> Float[Tensor, "... samples out"]:
    """Return the sums over inputs of the splines with the coefficients `table`."""
    functions = table.shape[-1]
    if interval is not None and prefers_sparse(functions, basis.shape[-1] - 1):
        index = table_index(interval, basis.shape[-1], functions)
        return weighted_rows(basis.flatten(1), table.flatten(1).T, index)
    if interval is not None:
        basis = dense_rows(basis, interval, functions)
    return basis.flatten(-2) @ table.flatten(-2).mT


def splines_of_edges(
    basis: Float[Tensor, "... samples inputs terms"],
    interval: Int[Tensor, "samples inputs"] | None,
    table: Float[Tensor, "... out inputs functions"],
) -> Float[Tensor, "... samples out inputs"]:
    """Return the splines with the coefficients `table`, without the sum over inputs."""
    if interval is None:
        return torch.einsum("...nif,...oif->...noi", basis, table)
    samples, inputs, local = basis.shape
    index = table_index(interval, local, table.shape[-1]).reshape(samples * inputs, local)
    values = weighted_rows(basis.flatten(0, 1), table.flatten(1).T, index)
    return values.view(samples, inputs, table.shape[0]).transpose(1, 2)


def spline_values(
    x: Float[Tensor, "samples inputs"],
    coefficients: Float[Tensor, "out inputs functions"],
    grid: Grid,
) -> Float[Tensor, "samples out inputs"]:
    """Return the splines with these coefficients at x."""
    return splines_of_edges(*local_basis(x, grid), coefficients)


def dense_rows(
    basis: Float[Tensor, "samples inputs local"],
    interval: Int[Tensor, "samples inputs"],
    functions: int,
) -> Float[Tensor, "samples inputs functions"]:
    """Scatter the local basis into rows of all `functions` of each input."""
    columns = interval[..., None] + torch.arange(basis.shape[-1], device=basis.device)
    plain = is_forward() or torch.compiler.is_compiling()
    return (_scattered if plain else _dense_rows)(basis, columns, functions)


def _scattered(basis: Tensor, columns: Tensor, functions: int) -> Tensor:
    return basis.new_zeros(*basis.shape[:2], functions).scatter(-1, columns, basis)


class _DenseRows(torch.autograd.Function):
    """In-place `dense_rows`, 8 times faster than torch's differentiable scatter."""

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
        return torch.vmap(partial(_scattered, functions=args[2]), in_dims[:2])(*args[:2]), 0


_dense_rows: Callable[[Tensor, Tensor, int], Tensor] = _DenseRows.apply


def table_index(
    interval: Int[Tensor, "samples inputs"], local: int, functions: int
) -> Int[Tensor, "samples terms"]:
    """Return the places of the local functions in a table of all inputs' functions, by input."""
    samples, inputs = interval.shape
    first = interval + torch.arange(inputs, device=interval.device) * functions
    return (first[..., None] + torch.arange(local, device=interval.device)).reshape(
        samples, inputs * local
    )


# The gathered product is a derivative of T = sum w[b, s] t[index[b, s], o] g[b, o], with weights w
# (b, s), a table t (r, o) and upstream gradients g (b, o): the one by g. Its own derivatives are
# those of T by w and by t, and so on: each of the three is bilinear in the other two factors, which
# makes the product differentiable to any order (torch's own embedding_bag is not). By kernels they
# cost O(terms) whatever the table's length. Under vmap and in forward mode, where such a function
# has one derivative at most, they are torch's own arithmetic, with a tensor of (b, s, o).


def _by_arithmetic(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return dT by factor `by` of (w, t, g), from the other two in order.

    `rows` is the length of the table.
    """
    if by == 0:
        return (first[index] * second[:, None]).sum(-1)
    if by == 2:
        return (second[index] * first[..., None]).sum(1)
    terms = (first[..., None] * second[:, None]).flatten(0, 1)
    return second.new_zeros(rows, second.shape[1]).index_add(0, index.flatten(), terms)


def _by_kernel(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return the same without a tensor of (b, s, o)."""
    known = first.device.type in ("cpu", "cuda") and first.dtype in (torch.float32, torch.float64)
    if index.numel() == 0 or not known:
        return _by_arithmetic(by, first, second, index, rows)
    if by == 0:
        return _dots(first, second, index)
    if by == 2:
        return embedding_bag(
            index, second.contiguous(), per_sample_weights=first.contiguous(), mode="sum"
        )
    order, starts = grouped(index.reshape(-1), rows)
    bags = order.div(index.shape[1], rounding_mode="floor")
    weights = first.reshape(-1).index_select(0, order)
    return embedding_bag(bags, second.contiguous(), starts, per_sample_weights=weights, mode="sum")


def _dots(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    _quiet_sparse_tensors()
    samples, terms = index.shape
    ends = torch.arange(0, samples * terms + 1, terms, device=index.device, dtype=index.dtype)
    values = table.new_zeros(samples * terms)
    pattern = torch.sparse_csr_tensor(
        ends, index.reshape(-1), values, (samples, table.shape[0]), check_invariants=False
    )
    # In place, since torch would copy the pattern otherwise.
    torch.sparse.sampled_addmm(pattern, grad.contiguous(), table.mT, beta=0.0, out=pattern)
    return pattern.values().view(samples, terms)


@lru_cache(maxsize=1)
def _quiet_sparse_tensors() -> None:
    """Suppress the warning about sparse CSR tensors that torch gives once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))


def grouped(keys: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return positions of `keys` (n,) with equal keys together, and the start of each group."""
    counts = torch.bincount(keys, minlength=groups)
    small = keys.to(
        torch.int16 if groups < 1 << 15 else torch.int32 if groups < 1 << 31 else torch.int64
    )
    return small.sort(stable=True).indices, counts.cumsum(0) - counts


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
        return _by_kernel(by, first, second, index, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.by, *factors, ctx.rows = inputs
        ctx.save_for_backward(*factors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second, index = ctx.saved_tensors
        factors, needed, found = [first, second], ctx.needs_input_grad[1:3], list[Tensor | None]()
        factors.insert(ctx.by, grad)
        for by in (each for each in range(3) if each != ctx.by):
            one, other = (factors[i] for i in range(3) if i != by)
            found.append(slope(by, one, other, index, ctx.rows) if needed[len(found)] else None)
        return None, *found, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        return torch.vmap(_by_arithmetic, tuple(in_dims))(*args), 0


_slope: Callable[[int, Tensor, Tensor, Tensor, int], Tensor] = _Slope.apply


def slope(by: int, first: Tensor, second: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return dT by factor `by`, differentiable to any order."""
    return (_by_arithmetic if is_forward() else _slope)(by, first, second, index, rows)


def weighted_rows(weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Return sum_s weights[b, s] table[index[b, s]], (b, o), of weights (b, s) and table (r, o)."""
    if torch.compiler.is_compiling():
        # The gradient of an embedding has a kernel; that of indexing is slow there.
        return (embedding(index, table) * weights[..., None]).sum(1)
    return slope(2, weights, table, index, table.shape[0])
