"""Kernels of the sparse product: sums, dot products and scatters of table rows chosen by an index.

All three cost O(terms) whatever the table's length, and hold no tensor of (terms, width) but where said. `index`
(b, s) chooses rows of a table (r, o). No autograd here: see `basis_products`.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

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
