"""What Levenberg-Marquardt asks of a problem: a sum of squares as objective, and its linearisation; its constants.

Rows of a linear map on the unknowns are kept by their non-zeros, dense, or made anew whenever they are needed.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class LMPolicy:
    """How steps of Levenberg-Marquardt are damped and accepted.

    Dampings are relative to columns of unit norm, so they have no units; objectives are sums of squares that the
    problem has scaled to about 1 at a fit that explains nothing. `geodesic=False` switches the acceleration off,
    `thorough=False` all of the thorough step.
    """

    damping: float = 1e-3  #: of the first step; positive
    smallest: float = 1e-13  #: bounds of the damping, from 0 on
    largest: float = 1e6

    # Quick steps: one damping after the other, each solved once.
    thorough: bool = (
        True  #: whether steps are thorough: the damping is searched on one linearisation
    )
    tries: int = 40  #: dampings tried by a quick step; at least 1
    raised: float = 8.0  #: factor after a rejected step; above 1
    #: Gain ratio (decrease / decrease of the linear model) from which on the damping is divided, and by how much; the
    #: first that applies (Marquardt 1963; Nielsen 1999).
    lowered: tuple[tuple[float, float], ...] = ((0.75, 10.0), (0.25, 4.0))
    #: Where a problem's columns can fade, scale by their largest norms so far (More 1978, section 6), not the present.
    largest_columns: bool = True

    # Thorough steps.
    down: int = 3  #: smaller dampings tried while they help, each a tenth; at least 1
    up: int = 6  #: larger dampings tried until one helps, three times tenfold, then hundredfold
    worth: float = (
        0.1  #: share of what is left, or of what the step gains, that a smaller damping must gain
    )
    geodesic: bool = (
        True  #: bend steps by geodesic acceleration (Transtrum and Sethna, arXiv 1201.5885)
    )
    probe: float = (
        0.1  #: share of the step at which its second directional derivative is measured; in (0, 1]
    )
    #: Objectives after the straight step, relative to those before it, between which bending is tried.
    bend_between: tuple[float, float] = (1e-3, 4.0)

    # Problems too large for a matrix of the normal equations.
    matrix_unknowns: int = 6000  #: most unknowns with a matrix
    iterations: int = 60  #: of conjugate gradients without one
    close: float = 1e-8  #: relative residual at which they end


@dataclass(frozen=True)
class Stopping:
    """When `minimise` ends: after `steps`; at an objective of at most `floor`; or after `patience` steps in a row that
    each lower the objective by less than the share `gain`."""

    steps: int = 100
    floor: float = 0.0
    gain: float = 1e-4
    patience: int = 3


@dataclass(frozen=True)
class RowsPolicy:
    """How Gram matrices of rows are worked out."""

    sparse_gain: float = (
        300.0  #: from non-zeros where that costs so many times fewer multiplications than densely
    )
    piece: int = 1 << 24  #: numbers of a dense piece held at once
    block: int = 192  #: columns of a block of the symmetric product


class LocalRows:
    """Rows of J by columns and values, (rows, terms) each."""

    policy = RowsPolicy()

    def __init__(
        self, index: Int[Tensor, "rows terms"], values: Float[Tensor, "rows terms"], unknowns: int
    ) -> None:
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
                ends,
                self.index.reshape(-1),
                self.values.reshape(-1),
                (rows, self.unknowns),
                check_invariants=False,
            )

    def times(self, d: Tensor) -> Tensor:
        return self._matrix @ d

    def transposed(self, r: Tensor) -> Tensor:
        return r.new_zeros(self.unknowns).scatter_add_(
            0, self.index.view(-1), (self.values * r[:, None]).view(-1)
        )

    def squares(self) -> Tensor:
        """Squared norms of the columns."""
        return self.values.new_zeros(self.unknowns).scatter_add_(
            0, self.index.view(-1), self.values.square().view(-1)
        )

    def scaled(self, scale: float | Tensor) -> LocalRows:
        """The rows times `scale`, a number or a column (rows, 1), written over these."""
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

    def scaled(self, scale: float | Tensor) -> DenseRows:
        self.rows.mul_(scale)
        return self

    def gram(self) -> Tensor:
        return _square(self.rows, LocalRows.policy.block)


class StreamedRows:
    """Rows that memory would not hold: `pieces` makes them anew, some at a time, in the same order each time."""

    def __init__(
        self, pieces: Callable[[], Iterator[LocalRows | DenseRows]], unknowns: int
    ) -> None:
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


@dataclass(frozen=True)
class Linearisation:
    """|r + J d|^2 as a function of the step d from one point.

    A single problem has `rows` (J) and `residual` (r); a batch has `gram` = J^T J and `gradient` = J^T r instead, which
    are otherwise derived from the rows. `held` marks unknowns that must not move.
    """

    gradient: Float[Tensor, "... unknowns"]
    gram: Float[Tensor, "... unknowns unknowns"] | None = None
    rows: Rows | None = None
    residual: Float[Tensor, " rows"] | None = None
    held: Bool[Tensor, " unknowns"] | None = None

    @classmethod
    def of(cls, rows: Rows, residual: Tensor, held: Tensor | None = None) -> Linearisation:
        """The linearisation with these rows."""
        return cls(rows.transposed(residual), None, rows, residual, held)

    def squares(self) -> Tensor:
        """Squared norms of J's columns (..., unknowns)."""
        if self.gram is not None:
            return self.gram.diagonal(dim1=-2, dim2=-1)
        assert self.rows is not None  # an invariant: a linearisation has rows or their Gram matrix
        return self.rows.squares()


class Problem(ABC):
    """A nonlinear least squares problem, or a batch of independent ones with equally many unknowns.

    F(u) = |r(u)|^2, where `...` is () for one problem and (problems,) for a batch. Everything that is to be made small
    is a residual: data, a penalty D u (rows of a constant matrix), a differential equation at collocation points. For
    the equation u'' = f on a spline u(x) = sum_j c_j B_j(x), for instance, the unknowns are c, the residuals
    B''(x_n) c - f(x_n) and the boundary values, and the rows B''(x_n); for one that is not linear in u, N(u, u', u''),
    the rows are the partial derivatives of N times B, B', B''. Nothing in the solver changes:

        class Equation(Problem):
            def residual(self, u): ...                                # (rows,)
            def linearise(self, u): return Linearisation.of(DenseRows(self.jacobian(u)), self.residual(u))
    """

    #: Where the iteration starts.
    unknowns: Float[Tensor, "... unknowns"]
    #: Whether columns of J can fade, as those of a unit that saturates: it must not get huge steps for that.
    fading: bool = False

    @abstractmethod
    def linearise(self, unknowns: Float[Tensor, "... unknowns"]) -> Linearisation:
        """The linearisation at `unknowns`."""

    def residual(self, unknowns: Float[Tensor, " unknowns"]) -> Float[Tensor, " rows"]:
        """r(u), in the order of the rows; asked of single problems by thorough steps and by `objective`."""
        raise NotImplementedError(f"{type(self).__name__} has no residuals of its own.")

    def objective(self, unknowns: Float[Tensor, "... unknowns"]) -> list[float]:
        """F(u) of each problem; values that are not finite count as infinite."""
        return [float(self.residual(unknowns).square().sum())]

    def part(self, at: list[int]) -> Problem:
        """The problems of a batch at the indices `at`."""
        raise NotImplementedError(f"{type(self).__name__} is a single problem.")
