"""Rows of a linear map on the unknowns, such as a Jacobian.

They are kept by their non-zeros, dense, or made piece by piece whenever needed. The rows of one
element (an interval of a grid) depend on the unknowns near it alone: their Gram matrix is summed
from one small product per element and factorised by LAPACK's banded Cholesky, so that the cost of a
step is linear in the number of elements.
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

#: Ratio of multiplications, dense to sparse, above which a Gram matrix is summed from non-zeros.
SPARSE_GAIN = 300.0
#: Numbers of a dense piece, or of element products, that are held at once.
PIECE = 1 << 24
#: Columns of a block of the symmetric product.
BLOCK = 192
#: What is added to the unit diagonal in turn where rounding leaves no Cholesky factor.
RIDGES = (0.0, 1e-14, 1e-12, 1e-10)
#: The solutions of least squares problems or normal equations for right-hand sides.
Solve = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class LocalRows:
    """Jacobian rows with few non-zeros: their columns and values, each of shape (rows, terms).

    `squares` are the squared norms of the columns, and `gram` is J^T J.
    """

    index: Int[Tensor, "rows terms"]
    values: Float[Tensor, "rows terms"]
    unknowns: int

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _matrix(self) -> Tensor:
        """Rows in torch's compressed form, five times as fast as gathering."""
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
    """Rows of J as a matrix (rows, unknowns)."""

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
    """Blocks of rows below one another.

    `blocks` may create them again at each call, in the same order. The Gram matrix of `banded`
    ones, which are `ElementRows` of one width, is in bands.
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
    """Return rows^T rows; large products compute only one half of the symmetric result."""
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
    """Unknowns of each element, shape (elements, terms), of `unknowns` in all."""

    index: Int[Tensor, "elements terms"]
    unknowns: int

    @cached_property
    def width(self) -> int:
        """Number of subdiagonals of the Gram matrix."""
        return int((self.index.amax(1) - self.index.amin(1)).max())

    @cached_property
    def _below(self) -> tuple[Tensor, Tensor]:
        """Entries of products on and below the diagonal, and their places in the bands."""
        row = self.index[:, :, None]
        column = self.index[:, None, :]
        entries = (row >= column).flatten().nonzero()[:, 0]
        return entries, (column * (self.width + 1) + row - column).flatten()[entries]

    def bands(self, products: Float[Tensor, "elements terms terms"]) -> Tensor:
        """Return the sum of element products as LAPACK's lower bands (width + 1, unknowns)."""
        entries, places = self._below
        total = products.new_zeros((self.width + 1) * self.unknowns)
        total.index_add_(0, places, products.flatten().index_select(0, entries))
        return total.view(self.unknowns, self.width + 1).T

    def collect(self, values: Float[Tensor, "elements terms"]) -> Float[Tensor, " unknowns"]:
        """Return the sum of the elements' values at each unknown."""
        total = values.new_zeros(self.unknowns)
        return total.index_add_(0, self.index.flatten(), values.flatten())


class ElementRows:
    """Jacobian rows as one dense block per element, of shape (elements, rows, terms)."""

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
        """Return J^T J as bands (width + 1, unknowns)."""
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
    """Return the map from residuals r to the steps d that minimise |r + J d|^2."""
    bands = rows.gram()
    diagonal = torch.where(bands[0] > 0, bands[0], 1.0)
    solve = banded_solver(bands, torch.ones_like(diagonal), diagonal.rsqrt(), 0.0)
    return lambda residual: -solve(rows.transposed(residual))


def banded_solver(bands: Tensor, diagonal: Tensor, scale: Tensor, damping: float) -> Solve:
    """Factorise the banded matrix J^T J, scaled by `scale`, with `damping` added to its diagonal.

    If it cannot be factorised, solutions are NaN.
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
