"""Quadratic memory of earlier fits, without their samples: online Laplace in square-root form.

Fit number s ends with the unknowns u_s and the function f(x; u_s) on its samples. Later fits with
other unknowns u change this function. To second order, the memory penalises the change by

    Q_s(u) = weight mean |J_s (u - u_s)|^2,

with the Jacobian J_s of f at u_s. On request, the outputs of hidden layers are penalised in the
same way. While these outputs do not change, f is linear in the remaining unknowns, so the quadratic
model remains accurate for large steps. The sum over all fits is stored as |R u - z|^2 with a
triangular matrix R: each fit appends the rows (J_s, J_s u_s) to (R, z), and a QR decomposition
reduces them to n rows, where n is the number of unknowns. The stored sum of the Q_s is therefore
exact up to a constant and positive semidefinite, and needs about n^2 numbers, whatever the number
of fits. With `diagonal`, R is diagonal, and products of different unknowns are not remembered.
Sources: G. Bierman, Factorization Methods for Discrete Sequential Estimation (1977), ch. V (the
square-root information filter); Ritter et al., Online structured Laplace approximations,
arXiv 1805.07810; Kao et al., Natural continual learning, arXiv 2106.08085.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kanrun.engine.least_squares import DenseRows, LocalRows
from kanrun.engine.networks import Network
from kanrun.errors import UsageError

#: Largest number of unknowns if R is a full triangular matrix, which then takes 128 MB.
MAX_UNKNOWNS = 4000
#: Weight of a quadratic penalty that holds the unknowns near their values at the start of a fit
#: with rehearsal. Without it, unknowns that no sample determines drift. Chosen on five peaks and a
#: [1, 5, 1] KAN with 40 intervals: rehearsal by Levenberg-Marquardt ends with an RMSE of 2e-4; with
#: a weight of 1e-8 it is 0.02 to 0.08, and without this penalty above 1.
ANCHOR = 1e-6
#: Number of samples whose Jacobian rows are computed and reduced at once.
PIECE = 1024


@dataclass(frozen=True)
class QuadraticMemory:
    """The sum of |R u - z|^2 over blocks, where u are the unknowns of a block.

    Either one block holds all unknowns, or each unknown has its own block (`diagonal`).

    Attributes:
        factors: Triangular factors R, shape (blocks, size, size).
        targets: Right-hand sides z, shape (blocks, size).
    """

    factors: Float[Tensor, "blocks size size"]
    targets: Float[Tensor, "blocks size"]

    @classmethod
    def anchor(cls, network: Network, weight: float, *, diagonal: bool) -> QuadraticMemory:
        """Return the memory weight * |u - u_0|^2, with u_0 the network's present unknowns.

        With a weight of 0, the memory is empty. With `diagonal`, each unknown has its own block.

        Raises:
            UsageError: If one block would have to hold more than MAX_UNKNOWNS unknowns.
        """
        unknowns = network.get_unknowns()
        size = 1 if diagonal else len(unknowns)
        if size > MAX_UNKNOWNS:
            raise UsageError(
                f"memory=information keeps all pairs of {size} unknowns; at most {MAX_UNKNOWNS}. "
                "Use a smaller network."
            )
        centres = weight**0.5 * unknowns.view(-1, size)
        unit = torch.eye(size, dtype=unknowns.dtype, device=unknowns.device)
        return cls((weight**0.5 * unit).expand(len(centres), -1, -1), centres)

    def learned(
        self, network: Network, x: Tensor, weight: float, hidden: float = 0.0
    ) -> QuadraticMemory:
        """Return this memory, extended by a penalty on changes of the network's outputs at `x`.

        `x` has the shape (samples, inputs).

        `weight` is the total weight of the samples. Changes of the nodes of hidden layers are
        multiplied by `hidden` before they are squared; with 0, only outputs are remembered.
        """
        memory = self
        centres = network.get_unknowns()
        root = (weight / len(x)) ** 0.5
        below = network.lower() if hidden else ()
        for samples in x.split(PIECE):
            inner = (hidden * lower.linearise(samples)[1].dense() for lower in below)
            parts = (network.linearise(samples)[1].dense(), *inner)
            rows = root * torch.cat([pad(j, (0, len(centres) - j.shape[1])) for j in parts])
            blocks = rows.unflatten(1, self.targets.shape).transpose(0, 1)
            memory = memory._with(blocks, (blocks @ centres.view(*self.targets.shape, 1))[..., 0])
        return memory

    def joined(self, other: QuadraticMemory) -> QuadraticMemory:
        """Return the sum of this memory and `other`, which has the same blocks."""
        return self._with(other.factors, other.targets)

    def _with(self, rows: Tensor, values: Tensor) -> QuadraticMemory:
        """Return this memory with |rows u - values|^2 added to each block."""
        size = rows.shape[2]
        stacked = torch.cat([self.factors, rows], 1)
        right = torch.cat([self.targets, values], 1)[..., None]
        reduced = torch.linalg.qr(torch.cat([stacked, right], 2), mode="r").R[:, :size]
        return QuadraticMemory(reduced[..., :-1], reduced[..., -1])

    def rows(self) -> DenseRows | LocalRows:
        """Return the triangular factors R as rows of a Jacobian with one column per unknown."""
        blocks = len(self.factors)
        if blocks == 1:
            return DenseRows(self.factors[0])
        columns = torch.arange(blocks, device=self.factors.device)[:, None]
        return LocalRows(columns, self.factors[:, 0], blocks)

    def target(self) -> Tensor:
        """Return the right-hand sides z of all blocks in one vector."""
        return self.targets.flatten()

    def value(self, unknowns: Tensor) -> Tensor:
        """Return |R u - z|^2 at u = `unknowns`, as a differentiable scalar."""
        return (self.rows().times(unknowns) - self.target()).square().sum()
