"""Rows of a Jacobian in elements, whose normal equations are banded.

The rows of one element (an interval of a grid) depend on the unknowns near it alone. Their Gram
matrix is summed from one small product per element and factorised by LAPACK's banded Cholesky, so
that the cost of a step is linear in the number of elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded
from torch import Tensor

from kanrun.engine.least_squares.least_squares_problem import StackedRows

#: What is added to the unit diagonal in turn where rounding leaves no Cholesky factor.
RIDGES = (0.0, 1e-14, 1e-12, 1e-10)

#: Numbers of element products that are held at once.
PIECE = 1 << 24


@dataclass(frozen=True)
class Pattern:
    """The unknowns of each element, shape (elements, terms), of `unknowns` in all."""

    index: Int[Tensor, "elements terms"]
    unknowns: int

    @cached_property
    def width(self) -> int:
        """Number of subdiagonals of the Gram matrix."""
        return int((self.index.amax(1) - self.index.amin(1)).max())

    @cached_property
    def _below(self) -> tuple[Tensor, Tensor]:
        """The entries of products on and below the diagonal, and their places in the bands."""
        row, column = self.index[:, :, None], self.index[:, None, :]
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
    """Rows of J as one matrix per element, shape (elements, rows, terms)."""

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
        index, unknowns = self.pattern.index, self.unknowns
        each = max(1, PIECE // index.shape[1] ** 2)
        if len(index) <= each:
            return self.pattern.bands(self.values.mT @ self.values)
        total = self.values.new_zeros(self.pattern.width + 1, unknowns)
        for part, values in zip(index.split(each), self.values.split(each), strict=True):
            bands = Pattern(part, unknowns).bands(values.mT @ values)
            total[: len(bands)] += bands
        return total


@dataclass(frozen=True)
class GaussNewton:
    """Gauss-Newton steps with the Jacobian of one linearisation, by normal equations."""

    rows: ElementRows | StackedRows
    factor: BandedFactor

    @classmethod
    def of(cls, rows: ElementRows | StackedRows) -> GaussNewton:
        """Factorise the normal equations of unit columns."""
        bands = rows.gram()
        diagonal = torch.where(bands[0] > 0, bands[0], 1.0)
        return cls(rows, BandedFactor.of(bands, torch.ones_like(diagonal), diagonal.rsqrt(), 0.0))

    def step(self, residual: Float[Tensor, " rows"]) -> Tensor:
        """Return the step d that minimises |r + J d|^2."""
        return -self.factor.solve(self.rows.transposed(residual))


@dataclass(frozen=True)
class BandedFactor:
    """A Cholesky factor of scaled and damped normal equations in bands."""

    lower: Tensor
    scale: Tensor

    @classmethod
    def of(cls, bands: Tensor, diagonal: Tensor, scale: Tensor, damping: float) -> BandedFactor:
        """Factorise the bands of J^T J between `scale`, with `diagonal` + `damping` as diagonal."""
        following = torch.nn.functional.pad(scale, (0, len(bands) - 1))
        scaled = bands * scale * following.unfold(0, len(scale), 1)
        for ridge in RIDGES:
            scaled[0] = diagonal + (damping + ridge)
            try:
                found = cholesky_banded(scaled.numpy(), lower=True, check_finite=False)
            except LinAlgError:
                continue
            return cls(torch.as_tensor(found), scale)
        return cls(torch.full_like(scaled, torch.nan), scale)

    def solve(self, g: Tensor) -> Tensor:
        if self.lower[0].isnan().any():
            return torch.full_like(g, torch.nan)
        right = (self.scale * g).numpy()
        found = cho_solve_banded((self.lower.numpy(), True), right, check_finite=False)
        return self.scale * torch.as_tensor(found)
