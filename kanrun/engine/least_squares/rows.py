"""Rows of a linear map on the unknowns: by their non-zeros, dense, or made anew whenever they are needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RowsPolicy:
    """How Gram matrices of rows are worked out."""

    sparse_gain: float = 300.0  #: from non-zeros where that costs so many times fewer multiplications than densely
    piece: int = 1 << 24  #: numbers of a dense piece held at once
    block: int = 192  #: columns of a block of the symmetric product


class LocalRows:
    """Rows of J by columns and values, (rows, terms) each."""

    policy = RowsPolicy()

    def __init__(self, index: Int[Tensor, "rows terms"], values: Float[Tensor, "rows terms"], unknowns: int) -> None:
        self.index, self.values, self.unknowns = index, values, unknowns

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @cached_property
    def _matrix(self) -> Tensor:
        """The rows in torch's compressed form, whose product takes a fifth of the time of gathering."""
        rows, terms = self.index.shape
        ends = torch.arange(rows + 1, device=self.index.device) * terms
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                ends, self.index.reshape(-1), self.values.reshape(-1), (rows, self.unknowns), check_invariants=False
            )

    def times(self, d: Tensor) -> Tensor:
        return self._matrix @ d

    def transposed(self, r: Tensor) -> Tensor:
        return r.new_zeros(self.unknowns).scatter_add_(0, self.index.view(-1), (self.values * r[:, None]).view(-1))

    def squares(self) -> Tensor:
        """Squared norms of the columns."""
        return self.values.new_zeros(self.unknowns).scatter_add_(0, self.index.view(-1), self.values.square().view(-1))

    def scaled(self, scale: float) -> LocalRows:
        """The rows times `scale`, written over these."""
        self.values.mul_(scale)
        return self

    def gram(self) -> Tensor:
        terms = self.index.shape[1]
        total = self.values.new_zeros(self.unknowns, self.unknowns)
        if self.policy.sparse_gain * terms**2 < self.unknowns**2 / 2:
            self.add_gram(total)
            return total
        for index, values in self._pieces(self.unknowns):
            dense = values.new_zeros(len(values), self.unknowns).scatter_add_(1, index, values)
            total += _square(dense, self.policy.block)
        return total

    def add_gram(self, matrix: Float[Tensor, "unknowns unknowns"]) -> None:
        """Add rows^T rows to the contiguous `matrix`, in place, from the non-zeros."""
        for index, values in self._pieces(self.index.shape[1] ** 2):
            pairs = index[:, :, None] * self.unknowns + index[:, None]
            products = values[:, :, None] * values[:, None]
            matrix.view(-1).index_add_(0, pairs.view(-1), products.view(-1))

    def _pieces(self, numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Index and values, as many rows at a time as may be held with `numbers` each."""
        size = max(1, self.policy.piece // max(numbers, 1))
        yield from zip(self.index.split(size), self.values.split(size), strict=True)


class DenseRows:
    """Rows of J as they are, (rows, unknowns)."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.unknowns = rows, rows.shape[1]

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def times(self, d: Tensor) -> Tensor:
        return self.rows @ d

    def transposed(self, r: Tensor) -> Tensor:
        return self.rows.T @ r

    def squares(self) -> Tensor:
        return self.rows.square().sum(0)

    def scaled(self, scale: float) -> DenseRows:
        self.rows.mul_(scale)
        return self

    def gram(self) -> Tensor:
        return _square(self.rows, LocalRows.policy.block)


class StreamedRows:
    """Rows that memory would not hold: `pieces` makes them anew, some at a time, in the same order each time."""

    def __init__(self, pieces: Callable[[], Iterator[LocalRows | DenseRows]], unknowns: int) -> None:
        self._pieces, self.unknowns = pieces, unknowns

    def times(self, d: Tensor) -> Tensor:
        return torch.cat([piece.times(d) for piece in self._pieces()])

    def transposed(self, r: Tensor) -> Tensor:
        total, start = r.new_zeros(self.unknowns), 0
        for piece in self._pieces():
            rows = len(piece)
            total += piece.transposed(r[start : start + rows])
            start += rows
        return total

    def squares(self) -> Tensor:
        return torch.stack([piece.squares() for piece in self._pieces()]).sum(0)

    def gram(self) -> Tensor:
        return reduce(Tensor.add_, (piece.gram() for piece in self._pieces()))


@dataclass(frozen=True)
class StackedRows:
    """`first` above a few `penalty` rows."""

    first: LocalRows | DenseRows | StreamedRows
    penalty: LocalRows

    @property
    def unknowns(self) -> int:
        return self.first.unknowns

    def times(self, d: Tensor) -> Tensor:
        return torch.cat([self.first.times(d), self.penalty.times(d)])

    def transposed(self, r: Tensor) -> Tensor:
        above, below = r.split([len(r) - len(self.penalty), len(self.penalty)])
        return self.first.transposed(above) + self.penalty.transposed(below)

    def squares(self) -> Tensor:
        return self.first.squares() + self.penalty.squares()

    def gram(self) -> Tensor:
        gram = self.first.gram()
        self.penalty.add_gram(gram)
        return gram


Rows = LocalRows | DenseRows | StreamedRows | StackedRows


def _square(rows: Tensor, block: int) -> Tensor:
    """rows^T rows, computing one half of the symmetric product where that is worth the pieces."""
    unknowns = rows.shape[1]
    if unknowns <= 2 * block:
        return rows.T @ rows
    result = rows.new_empty(unknowns, unknowns)
    for start in range(0, unknowns, block):
        part = rows[:, start:].T @ rows[:, start : start + block]
        result[start:, start : start + block] = part
        result[start : start + block, start:] = part.T
    return result
