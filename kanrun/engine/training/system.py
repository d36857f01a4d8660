"""The linearised least squares problem of a Levenberg-Marquardt step, and its solutions for any damping.

    min over d of  |J d + r|^2 + weight |D (u + d)|^2 + mu |S d|^2

J is kept by its non-zeros (k + 1 of each edge) for KANs, dense for other networks, and made anew piece by piece where
memory would not hold it; S scales columns to unit norm, which makes the damping free of units. `direct` solves the
normal equations by Cholesky, or, where their matrix would be too large, by conjugate gradients without a matrix. The
normal equations lose half the digits (their condition number is the square), so `refined` goes on from the same factor
with conjugate gradients on the UNDAMPED problem itself (CGLS; Bjorck, Numerical Methods for Least Squares Problems,
ch. 7), which wins the digits back.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kanrun.engine.least_squares import DenseRows, LocalRows, Rows, StreamedRows
from kanrun.engine.networks import Network

#: Conjugate gradients stop when the gradient has fallen by this factor, squared.
CONVERGED = 1e-24
#: Unknowns beyond which no matrix of the normal equations is made.
MATRIX_UNKNOWNS = 6000
#: Iterations of the solution without a matrix, and the residual at which it stops.
ITERATIONS, CLOSE = 60, 1e-8
#: Numbers of J that are held at once.
HELD_NUMBERS = 1 << 25


@runtime_checkable
class Solved(Protocol):
    """The damped normal equations, ready to be solved for any right-hand side."""

    def solve(self, g: Tensor) -> Tensor: ...


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
    """r and J at the network's present unknowns, scaled so that |r|^2 is the loss; no Gram matrix of too many unknowns.

    `squares` are the squared norms of J's columns.
    """

    def __init__(self, network: Network, x: Tensor, y: Tensor, size: float, unknowns: Tensor) -> None:
        self.unknowns = unknowns
        scale = 1 / (size * y.numel() ** 0.5)
        pieces = max(1, x.shape[0] // max(1, HELD_NUMBERS // (network.row_terms * y.shape[1])))
        if pieces == 1:
            output, rows = network.linearise(x)
            self.rows: Rows = rows.scaled(scale)
        else:
            there, parts = deepcopy(network), x.tensor_split(pieces)
            with torch.no_grad():
                output = torch.cat([network(part) for part in parts])
            self.rows = StreamedRows(partial(_made, there, parts, scale), unknowns.numel())
        self.residual = (output - y).reshape(-1) * scale
        self.gradient = self.rows.transposed(self.residual)
        self.gram = self.rows.gram() if unknowns.numel() <= MATRIX_UNKNOWNS else None
        self.squares = self.rows.squares() if self.gram is None else self.gram.diagonal()

    @property
    def norms(self) -> Tensor:
        """The norms of J's columns."""
        return self.squares.clamp(min=0).sqrt()


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
        matrix = self._summed(system, weight)
        diagonal = self.free(system.squares + weight * smoothness.squares() if matrix is None else matrix.diagonal())
        self.sizes = diagonal.clone() if sizes is None else torch.maximum(diagonal, sizes)
        least = max(1e-30 * float(self.sizes.amax()), 1e-300)
        self.scale = self.sizes.clamp(min=least).rsqrt()
        self._diagonal = torch.where(self.sizes > least, diagonal / self.sizes, 1.0)
        self._matrix = None if matrix is None else matrix.mul_(self.scale).mul_(self.scale[:, None])

    def _summed(self, system: LinearSystem, weight: float) -> Tensor | None:
        """J^T J + weight D^T D, where there are few enough unknowns for a matrix."""
        if system.gram is None:
            return None
        matrix = system.gram.clone()
        if weight > 0:
            self._smoothness.add_gram(matrix, weight)
        if self._held is not None:
            matrix[self._held, :] = 0
            matrix[:, self._held] = 0
        return matrix

    def free(self, g: Tensor) -> Tensor:
        """`g` with zeros where the unknowns are held."""
        return g if self._held is None else g.masked_fill(self._held, 0)

    def times(self, d: Tensor) -> Tensor:
        """The scaled matrix of the normal equations, undamped, times d."""
        d = self.free(self.scale * d)
        moved = self.rows.transposed(self.rows.times(d))
        bent = self._root**2 * self._smoothness.transposed(self._smoothness.times(d))
        return self.scale * self.free(moved + bent)

    def factor(self, mu: float) -> Solved | None:
        """What solves for this damping; None where even a thousandfold damping does not make a Cholesky factor."""
        if self._matrix is None:
            return Iteration(self, mu)
        for damping in (mu, 30 * mu + 1e-13, 1000 * mu + 1e-12):
            self._matrix.diagonal().copy_(self._diagonal + damping)
            lower, failed = torch.linalg.cholesky_ex(self._matrix.mT)  # in LAPACK's order of memory
            if not bool(failed):
                return Factor(lower, self.scale)
        return None

    def direct(self, factor: Solved) -> Tensor:
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


@dataclass(frozen=True)
class Iteration:
    """The same without a matrix: conjugate gradients in the scaled unknowns, as far as `ITERATIONS` lead."""

    system: PenalisedSystem
    damping: float

    def solve(self, g: Tensor) -> Tensor:
        residual = self.system.scale * g
        step, direction, size = torch.zeros_like(residual), residual.clone(), float(residual @ residual)
        first = size
        for _ in range(ITERATIONS):
            if not size > CLOSE**2 * first:
                break
            image = self.system.times(direction) + self.damping * direction
            length = size / float(direction @ image)
            step += length * direction
            residual = residual - length * image
            before, size = size, float(residual @ residual)
            direction = residual + size / before * direction
        return self.system.scale * step


def _made(network: Network, parts: tuple[Tensor, ...], scale: float) -> Iterator[LocalRows | DenseRows]:
    for part in parts:
        yield network.linearise(part)[1].scaled(scale)
