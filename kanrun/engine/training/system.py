"""The linearised least squares problem of a Levenberg-Marquardt step, and its solutions for any damping.

    min over d of  |J d + r|^2 + weight |D (u + d)|^2 + mu |S d|^2

J is kept by its non-zeros (k + 1 of each edge) for KANs, dense for other networks; S scales columns to unit norm, which
makes the damping free of units. `direct` solves the normal equations by Cholesky. They lose half the digits (their
condition number is the square), so `refined` goes on from the same factor with conjugate gradients on the UNDAMPED
problem itself (CGLS; Bjorck, Numerical Methods for Least Squares Problems, ch. 7), which wins the digits back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanrun.engine.networks import KAN, linearise, linearise_locally
from kanrun.engine.training.rows import DenseRows, LocalRows

#: Conjugate gradients stop when the gradient has fallen by this factor, squared.
CONVERGED = 1e-24


@dataclass(frozen=True)
class Factor:
    """A Cholesky factor of the scaled and damped normal equations."""

    lower: Tensor
    scale: Tensor

    def solve(self, g: Tensor) -> Tensor:
        return self.scale * torch.cholesky_solve((self.scale * g)[:, None], self.lower)[:, 0]

    def half(self, g: Tensor) -> Tensor:
        """L^-1 (scale g)."""
        solved: Tensor = torch.linalg.solve_triangular(self.lower, (self.scale * g)[:, None], upper=False)
        return solved[:, 0]

    def half_transposed(self, p: Tensor) -> Tensor:
        """scale L^-T p."""
        solved: Tensor = torch.linalg.solve_triangular(self.lower.mT, p[:, None], upper=True)
        return self.scale * solved[:, 0]


class LinearSystem:
    """r and J at the network's present unknowns, scaled so that |r|^2 is the loss."""

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor, size: float, unknowns: Tensor) -> None:
        self.unknowns = unknowns
        output, self.rows = linear_rows(network, x, unknowns.numel())
        scale = 1 / (size * y.numel() ** 0.5)
        self.residual = (output - y).reshape(-1) * scale
        if isinstance(self.rows, LocalRows):
            self.rows.values.mul_(scale)
        else:
            self.rows.rows.mul_(scale)
        self.gradient = self.rows.transposed(self.residual)
        self.gram = self.rows.gram()

    @property
    def norms(self) -> Tensor:
        """The norms of J's columns."""
        return self.gram.diagonal().clamp(min=0).sqrt()


class PenalisedSystem:
    """A linear system with its penalty, to be solved for several dampings; `slope` is half the objective's gradient.

    `held` (unknowns,) marks unknowns that get no step. `sizes` (unknowns,) are squared column norms that count where
    they are larger than the present ones; the attribute has those that were used.
    """

    def __init__(
        self, system: LinearSystem, smoothness: LocalRows, weight: float, held: Tensor | None,
        sizes: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.residual = system.rows, system.residual
        self._smoothness, self._root, self._held = smoothness, weight**0.5, held
        self._rough = self._root * smoothness.times(system.unknowns)
        self.slope = self.free(system.gradient + self._root * smoothness.transposed(self._rough))
        matrix = system.gram.clone()
        if weight > 0:
            smoothness.add_gram(matrix, weight)
        if held is not None:
            matrix[held, :] = 0
            matrix[:, held] = 0
        diagonal = matrix.diagonal().clone()
        self.sizes = diagonal if sizes is None else torch.maximum(diagonal, sizes)
        least = max(1e-30 * float(self.sizes.amax()), 1e-300)
        self._scale = self.sizes.clamp(min=least).rsqrt()
        self._diagonal = torch.where(self.sizes > least, diagonal / self.sizes, 1.0)
        self._matrix = matrix.mul_(self._scale).mul_(self._scale[:, None])

    def free(self, g: Tensor) -> Tensor:
        """`g` with zeros where the unknowns are held."""
        return g if self._held is None else g.masked_fill(self._held, 0)

    def factor(self, mu: float) -> Factor | None:
        """The factor for this damping; None where even a thousandfold damping does not make one."""
        for damping in (mu, 30 * mu + 1e-13, 1000 * mu + 1e-12):
            self._matrix.diagonal().copy_(self._diagonal + damping)
            lower, failed = torch.linalg.cholesky_ex(self._matrix.mT)  # in LAPACK's order of memory
            if not bool(failed):
                return Factor(lower, self._scale)
        return None

    def direct(self, factor: Factor) -> Tensor:
        """The step of the normal equations."""
        return -factor.solve(self.slope)

    def refined(self, factor: Factor, marks: tuple[int, ...]) -> list[Tensor]:
        """Iterates of CGLS on the undamped problem, preconditioned by `factor`, at the iterations in `marks`."""
        data, rough = -self.residual, -self._rough
        step, found = torch.zeros_like(self.slope), []
        z = factor.half(-self.slope)
        direction, size = z.clone(), float(z @ z)
        first = size
        for iteration in range(1, marks[-1] + 1):
            along = factor.half_transposed(direction)
            moved, bent = self.rows.times(along), self._root * self._smoothness.times(along)
            curvature = float(moved @ moved + bent @ bent)
            if not curvature > 0:
                break
            length = size / curvature
            step = step + length * along
            data, rough = data - length * moved, rough - length * bent
            z = factor.half(self.free(self.rows.transposed(data) + self._root * self._smoothness.transposed(rough)))
            before, size = size, float(z @ z)
            if iteration in marks:
                found.append(step)
            if size < CONVERGED * first:
                break
            direction = z + size / before * direction
        if not found or found[-1] is not step:
            found.append(step)
        return found


def linear_rows(network: nn.Module, x: Tensor, unknowns: int) -> tuple[Tensor, LocalRows | DenseRows]:
    """(f(x), J): a row for every sample and output."""
    if not isinstance(network, KAN):
        output, jacobian = linearise(network, x)
        return output, DenseRows(jacobian.flatten(0, 1))
    output, index, values = linearise_locally(network, x)
    flat = values.flatten(0, 1)
    return output, LocalRows(index.expand_as(values).reshape(flat.shape).contiguous(), flat.contiguous(), unknowns)
