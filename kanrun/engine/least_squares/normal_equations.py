"""The damped linear least squares problem of a Levenberg-Marquardt step, solved for any damping.

    min over d of  |J d + r|^2 + mu |S d|^2

S scales columns to unit norm, which makes the damping free of units. The normal equations are solved by Cholesky, or,
where their matrix would be too large, by conjugate gradients without a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

from kanrun.engine.least_squares.problem import Linearisation, LMPolicy


@dataclass(frozen=True)
class Factor:
    """A Cholesky factor of the scaled and damped normal equations."""

    lower: Tensor
    scale: Tensor

    def solve(self, g: Tensor) -> Tensor:
        return self.scale * torch.cholesky_solve((self.scale * g)[..., None], self.lower)[..., 0]


class NormalEquations:
    """J^T J d = -J^T r with unit columns, for one problem or a batch (`...` problems).

    `sizes` (..., unknowns) are squared column norms that count where they are larger than the present ones; the
    attribute has those that were used. `gradient` is J^T r, zero for held unknowns.
    """

    def __init__(
        self, linear: Linearisation, policy: LMPolicy, sizes: Tensor | None = None
    ) -> None:
        self.linear, self.policy = linear, policy
        self.gradient = self.free(linear.gradient)
        matrix = self._gram()
        diagonal = self.free(
            linear.squares() if matrix is None else matrix.diagonal(dim1=-2, dim2=-1)
        )
        self.sizes = diagonal.clone() if sizes is None else torch.maximum(diagonal, sizes)
        least = (1e-30 * self.sizes.amax(-1, keepdim=True)).clamp(min=1e-300)
        self.scale = torch.maximum(self.sizes, least).rsqrt()
        self._diagonal = torch.where(self.sizes > least, diagonal / self.sizes, 1.0)
        self._matrix = (
            None
            if matrix is None
            else (matrix * self.scale[..., None]).mul_(self.scale[..., None, :])
        )

    def _gram(self) -> Tensor | None:
        """J^T J with zeros for held unknowns, where there are few enough unknowns for a matrix."""
        linear = self.linear
        if linear.gram is not None:
            return linear.gram
        assert (
            linear.rows is not None
        )  # an invariant: a linearisation has rows or their Gram matrix
        if linear.rows.unknowns > self.policy.matrix_unknowns:
            return None
        gram = linear.rows.gram()
        if linear.held is not None:
            gram[linear.held, :] = 0
            gram[:, linear.held] = 0
        return gram

    def free(self, g: Tensor) -> Tensor:
        """`g` with zeros where the unknowns are held."""
        return g if self.linear.held is None else g.masked_fill(self.linear.held, 0)

    def factor(self, damping: list[float]) -> Factor | Iteration:
        """What solves for the damping of each problem.

        Where rounding leaves no Cholesky factor, up to a thousandfold damping is tried; solutions are NaN in the end.
        """
        if self._matrix is None:
            return Iteration(self, damping[0])
        tried, entries = damping, self._matrix.diagonal(dim1=-2, dim2=-1)
        for factor, added in ((30.0, 1e-13), (1000.0, 1e-12), (0.0, nan)):
            mu = tried[0] if len(tried) == 1 else entries.new_tensor(tried)[:, None]
            torch.add(self._diagonal, mu, out=entries)
            lower, failed = torch.linalg.cholesky_ex(self._matrix.mT)  # in LAPACK's order of memory
            if not failed.any():
                break
            signs = failed.reshape(-1).tolist()
            tried = [
                factor * d + added if bad else t
                for d, t, bad in zip(damping, tried, signs, strict=True)
            ]
        return Factor(lower, self.scale)

    def times(self, d: Tensor) -> Tensor:
        """The scaled matrix, undamped, times d: without the matrix."""
        assert (
            self.linear.rows is not None
        )  # an invariant: a linearisation without rows has its Gram matrix
        rows, d = self.linear.rows, self.free(self.scale * d)
        return self.scale * self.free(rows.transposed(rows.times(d)))


@dataclass(frozen=True)
class Iteration:
    """The same without a matrix: conjugate gradients in the scaled unknowns, as far as `iterations` lead."""

    equations: NormalEquations
    damping: float

    def solve(self, g: Tensor) -> Tensor:
        policy = self.equations.policy
        residual = self.equations.scale * g
        step, direction, size = (
            torch.zeros_like(residual),
            residual.clone(),
            float(residual @ residual),
        )
        first = size
        for _ in range(policy.iterations):
            if not size > policy.close**2 * first:
                break
            image = self.equations.times(direction) + self.damping * direction
            length = size / float(direction @ image)
            step += length * direction
            residual = residual - length * image
            before, size = size, float(residual @ residual)
            direction = residual + size / before * direction
        return self.equations.scale * step
