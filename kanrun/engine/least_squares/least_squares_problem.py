"""Nonlinear least squares problems: sums of squares, their linearisations, and rows of Jacobians.

Rows of a linear map on the unknowns are kept by their non-zeros, dense, or made piece by piece
whenever needed.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Ratio of multiplications, dense to sparse, above which a Gram matrix is summed from non-zeros.
SPARSE_GAIN = 300.0
#: Numbers of a dense piece that are held at once.
PIECE = 1 << 24
#: Columns of a block of the symmetric product.
BLOCK = 192


class LocalRows:
    """Rows of J by columns and values, (rows, terms) each.

    `squares` are squared norms of columns, `gram` is J^T J.
    """

    def __init__(
        self, index: Int[Tensor, "rows terms"], values: Float[Tensor, "rows terms"], unknowns: int
    ) -> None:
        self.index, self.values, self.unknowns = index, values, unknowns

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _matrix(self) -> Tensor:
        """The rows in torch's compressed form, five times as fast as gathering."""
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


class StackedRows:
    """Blocks of rows below one another.

    `blocks` may create them again at each call, in the same order. The Gram matrix of `banded`
    ones, which are `ElementRows` of one width, is in bands.
    """

    def __init__(
        self, blocks: Callable[[], Iterable[Any]], unknowns: int, *, banded: bool = False
    ) -> None:
        self.blocks, self.unknowns, self.banded = blocks, unknowns, banded

    def times(self, d: Tensor) -> Tensor:
        return torch.cat([block.times(d) for block in self.blocks()])

    def transposed(self, r: Tensor) -> Tensor:
        total, start = r.new_zeros(self.unknowns), 0
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


@dataclass(frozen=True)
class Linearisation:
    """|r + J d|^2 as a function of the step d from one point.

    Attributes:
        rows: J.
        residual: r.
        frozen: Unknowns that must not move.
    """

    rows: Rows
    residual: Float[Tensor, " rows"]
    frozen: Bool[Tensor, " unknowns"] | None = None


class Problem(ABC):
    """A nonlinear least squares problem F(u) = |r(u)|^2.

    Everything that is to be made small is a residual: data, a penalty D u (rows of a constant
    matrix), a differential equation at collocation points. For the equation u'' = f on a spline
    u(x) = sum_j c_j B_j(x), for instance, the unknowns are c, the residuals B''(x_n) c - f(x_n) and
    the boundary values, and the rows B''(x_n). For an equation N(u, u', u'') that is not linear in
    u, the rows are the partial derivatives of N times B, B', B''. Nothing in the solver changes:

        class Equation(Problem):
            def residual(self, u): ...                                # (rows,)
            def linearise(self, u): return Linearisation(DenseRows(self.jacobian(u)),
            self.residual(u))
    """

    #: Initial unknowns.
    unknowns: Float[Tensor, " unknowns"]
    #: Whether Jacobian columns can vanish (saturated units); scaling by their current norms would
    #: then allow huge steps, so their largest norms so far are used (More 1978, section 6).
    columns_can_vanish: bool = False

    @abstractmethod
    def linearise(self, unknowns: Float[Tensor, " unknowns"]) -> Linearisation:
        """Return the linearisation at `unknowns`."""

    def residual(self, unknowns: Float[Tensor, " unknowns"]) -> Float[Tensor, " rows"]:
        """Return r(u), in the order of the rows."""
        raise NotImplementedError(f"{type(self).__name__} has no residuals of its own.")

    def objective(self, unknowns: Float[Tensor, " unknowns"]) -> float:
        """Return F(u); values that are not finite count as infinite."""
        return float(self.residual(unknowns).square().sum())
