"""Matrices with one column per unknown, such as Jacobians.

They are stored by their nonzeros or densely, or are computed block by block whenever they are
needed. Rows that belong to an element (an interval of a grid) depend only on the unknowns near it.
The Gram matrix is then banded and is factorised by LAPACK's banded Cholesky, so the cost of a step
is linear in the number of elements.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

#: Ratio of dense to sparse multiplications above which a Gram matrix is computed from nonzeros.
SPARSE_GAIN = 300.0
#: Largest number of entries of a dense block, or of element products, in memory at once.
PIECE = 1 << 24
#: Number of columns of a block when a symmetric product is computed.
BLOCK = 192
#: Numbers that are added in turn to the unit diagonal until the Cholesky factorisation succeeds.
RIDGES = (0.0, 1e-14, 1e-12, 1e-10)
#: Function that returns the solution of a least-squares problem, or of its normal equations, for a
#: right-hand side.
Solve = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class LocalRows:
    """Matrix J with the same small number of stored entries ("terms") in each row.

    Every kind of rows has these methods: `times(d)` returns J d, `transposed(r)` returns J^T r,
    `squares()` the squared norms of the columns, and `gram()` J^T J.

    Attributes:
        index: Columns of the stored entries, shape (rows, terms).
        values: The stored entries, shape (rows, terms).
        unknowns: Number of columns.
    """

    index: Int[Tensor, "rows terms"]
    values: Float[Tensor, "rows terms"]
    unknowns: int

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _matrix(self) -> Tensor:
        """The matrix in torch's CSR format, in which products are five times as fast."""
        rows, terms = self.index.shape
        ends = torch.arange(rows + 1, device=self.index.device) * terms
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                ends,
                self.index.reshape(-1),
                self.values.reshape(-1),
                (rows, self.unknowns),
                check_invariants=False,
            )

    def times(self, d: Tensor) -> Tensor:
        return self._matrix @ d

    def transposed(self, r: Tensor) -> Tensor:
        return self._by_column(self.values * r[:, None])

    def squares(self) -> Tensor:
        return self._by_column(self.values.square())

    def _by_column(self, terms: Tensor) -> Tensor:
        return terms.new_zeros(self.unknowns).scatter_add_(0, self.index.view(-1), terms.view(-1))

    def scaled(self, scale: float | Tensor) -> LocalRows:
        """Multiply the rows in place by `scale`, a number or a column (rows, 1)."""
        self.values.mul_(scale)
        return self

    def gram(self) -> Tensor:
        terms = self.index.shape[1]
        total = self.values.new_zeros(self.unknowns, self.unknowns)
        sparse = SPARSE_GAIN * terms**2 < self.unknowns**2 / 2
        size = max(1, PIECE // max(terms**2 if sparse else self.unknowns, 1))
        for index, values in zip(self.index.split(size), self.values.split(size), strict=True):
            if sparse:
                pairs = index[:, :, None] * self.unknowns + index[:, None]
                products = values[:, :, None] * values[:, None]
                total.view(-1).index_add_(0, pairs.view(-1), products.view(-1))
            else:
                total += _square(LocalRows(index, values, self.unknowns).dense())
        return total

    def dense(self) -> Tensor:
        """Return the rows as a matrix (rows, unknowns)."""
        zeros = self.values.new_zeros(len(self.values), self.unknowns)
        return zeros.scatter_add_(1, self.index, self.values)


class DenseRows:
    """Dense matrix J of shape (rows, unknowns), with the methods of `LocalRows`."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.unknowns = rows, rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def times(self, d: Tensor) -> Tensor:
        return self.rows @ d

    def transposed(self, r: Tensor) -> Tensor:
        return self.rows.T @ r

    def squares(self) -> Tensor:
        return self.rows.square().sum(0)

    def scaled(self, scale: float | Tensor) -> DenseRows:
        self.rows.mul_(scale)
        return self

    def gram(self) -> Tensor:
        return _square(self.rows)

    def dense(self) -> Tensor:
        return self.rows


@dataclass(eq=False)
class StackedRows:
    """Matrix of blocks stacked on top of each other, with the methods of `LocalRows`.

    Attributes:
        blocks: Function that returns the blocks. It may compute them anew at each call, in the same
            order.
        unknowns: Number of columns.
        banded: Whether all blocks are `ElementRows` with the same bandwidth; `gram` then returns
            bands.
    """

    blocks: Callable[[], Iterable[Any]]
    unknowns: int
    banded: bool = False

    def times(self, d: Tensor) -> Tensor:
        return torch.cat([block.times(d) for block in self.blocks()])

    def transposed(self, r: Tensor) -> Tensor:
        total = r.new_zeros(self.unknowns)
        start = 0
        for block in self.blocks():
            total += block.transposed(r[start : start + len(block)])
            start += len(block)
        return total

    def squares(self) -> Tensor:
        return self._sum(block.squares() for block in self.blocks())

    def gram(self) -> Tensor:
        return self._sum(block.gram() for block in self.blocks())

    def _sum(self, parts: Iterator[Tensor]) -> Tensor:
        return reduce(Tensor.add_, parts)


Rows = LocalRows | DenseRows | StackedRows


def _square(rows: Tensor) -> Tensor:
    """Return rows^T rows; for large products, only half of the symmetric result is computed."""
    unknowns = rows.shape[1]
    if unknowns <= 2 * BLOCK:
        return rows.T @ rows
    result = rows.new_empty(unknowns, unknowns)
    for start in range(0, unknowns, BLOCK):
        part = rows[:, start:].T @ rows[:, start : start + BLOCK]
        result[start:, start : start + BLOCK] = part
        result[start : start + BLOCK, start:] = part.T
    return result


# -------------------- rows in elements


@dataclass(frozen=True)
class Pattern:
    """Which unknowns each element depends on.

    Attributes:
        index: Indices of the unknowns of each element, shape (elements, terms).
        unknowns: Number of all unknowns.
    """

    index: Int[Tensor, "elements terms"]
    unknowns: int

    @cached_property
    def width(self) -> int:
        """Number of subdiagonals of the Gram matrix."""
        return int((self.index.amax(1) - self.index.amin(1)).max())

    @cached_property
    def _below(self) -> tuple[Tensor, Tensor]:
        """Indices that `bands` uses to add up the lower triangles of element products.

        The first tensor contains the flat indices of their entries in all products, the second one
        the flat indices to which these entries belong in the bands, column by column.
        """
        row = self.index[:, :, None]
        column = self.index[:, None, :]
        entries = (row >= column).flatten().nonzero()[:, 0]
        return entries, (column * (self.width + 1) + row - column).flatten()[entries]

    def bands(self, products: Float[Tensor, "elements terms terms"]) -> Tensor:
        """Add up the element products in one matrix in LAPACK's lower banded storage.

        Row and column i of the product of an element belong to the unknown `index[element, i]`. The
        result has the shape (width + 1, unknowns).
        """
        entries, places = self._below
        total = products.new_zeros((self.width + 1) * self.unknowns)
        total.index_add_(0, places, products.flatten().index_select(0, entries))
        return total.view(self.unknowns, self.width + 1).T

    def collect(self, values: Float[Tensor, "elements terms"]) -> Float[Tensor, " unknowns"]:
        """Return for each unknown the sum of `values` over all elements that depend on it."""
        total = values.new_zeros(self.unknowns)
        return total.index_add_(0, self.index.flatten(), values.flatten())


class ElementRows:
    """Matrix with one dense block of rows per element, and the methods of `LocalRows`.

    Attributes:
        pattern: Unknowns on which each element depends, which are the columns of its block.
        values: Dense blocks, shape (elements, rows, terms).
        unknowns: Number of columns.
    """

    def __init__(self, pattern: Pattern, values: Float[Tensor, "elements rows terms"]) -> None:
        self.pattern, self.values, self.unknowns = pattern, values, pattern.unknowns

    def __len__(self) -> int:
        return self.values.shape[0] * self.values.shape[1]

    def times(self, d: Tensor) -> Tensor:
        return (self.values @ d[self.pattern.index][..., None]).flatten()

    def transposed(self, r: Tensor) -> Tensor:
        each = r.view(self.values.shape[0], 1, -1) @ self.values
        return self.pattern.collect(each[:, 0])

    def squares(self) -> Tensor:
        return self.pattern.collect(self.values.square().sum(1))

    def gram(self) -> Tensor:
        """Return J^T J in LAPACK's lower banded storage, shape (width + 1, unknowns)."""
        index = self.pattern.index
        unknowns = self.unknowns
        each = max(1, PIECE // index.shape[1] ** 2)
        if len(index) <= each:
            return self.pattern.bands(self.values.mT @ self.values)
        total = self.values.new_zeros(self.pattern.width + 1, unknowns)
        for part, values in zip(index.split(each), self.values.split(each), strict=True):
            bands = Pattern(part, unknowns).bands(values.mT @ values)
            total[: len(bands)] += bands
        return total


def gauss_newton(rows: ElementRows) -> Solve:
    """Return the map from a residual r to the step d that minimises |r + J d|^2."""
    bands = rows.gram()
    diagonal = torch.where(bands[0] > 0, bands[0], 1.0)
    solve = banded_solver(bands, torch.ones_like(diagonal), diagonal.rsqrt(), 0.0)
    return lambda residual: -solve(rows.transposed(residual))


def banded_solver(bands: Tensor, diagonal: Tensor, scale: Tensor, damping: float) -> Solve:
    """Factorise a damped banded matrix J^T J and return the map from right-hand sides to solutions.

    Rows and columns of `bands` are multiplied by `scale`, and the diagonal is replaced by
    `diagonal` + `damping`. If the matrix cannot be factorised, solutions are NaN.
    """
    from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded

    scaled = bands * scale * pad(scale, (0, len(bands) - 1)).unfold(0, len(scale), 1)
    for ridge in RIDGES:
        scaled[0] = diagonal + (damping + ridge)
        try:
            lower = cholesky_banded(scaled.numpy(), lower=True, check_finite=False)
        except LinAlgError:
            continue

        def solve(g: Tensor, factor: Any = (lower, True)) -> Tensor:
            found = cho_solve_banded(factor, (scale * g).numpy(), check_finite=False)
            return scale * torch.as_tensor(found)

        return solve
    return partial(torch.full_like, fill_value=torch.nan)
