"""Quadratic memory of earlier fits, without their samples: online Laplace in square-root form.

What a phase s has learned is a function f(x; u_s) on its samples. To second order, moving the
unknowns u costs its mean squared change

    Q_s(u) = mean |A J_s (u - u_s)|^2 / scale^2,

with J_s the Jacobian at u_s and A the identity, or for classes the root of the curvature of the
cross-entropy, A = diag(p)^(1/2) (I - 1 p'). The sum over all phases is kept as |R u - z|^2, where
R is triangular: each phase appends the rows (J_s, J_s u_s) and QR reduces them, so that the sum is
exact, stays positive, and needs n^2 numbers however many phases there were. `information_block`
keeps one such triangle for each edge of a KAN or each neuron of an MLP, `information_diagonal` one
number for each unknown.
Sources: G. Bierman, Factorization Methods for Discrete Sequential Estimation (1977), ch. V (the
square-root information filter); Ritter et al., Online structured Laplace approximations,
arXiv 1805.07810; Kao et al., Natural continual learning, arXiv 2106.08085.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kanrun.engine.least_squares import DenseRows, LocalRows
from kanrun.engine.networks import Network
from kanrun.engine.training.data import Samples, Task, output_scale
from kanrun.errors import UsageError

#: Kinds of quadratic memory, from all pairs of unknowns to none.
INFORMATION = ("information", "information_block", "information_diagonal")
#: Maximum number of unknowns of which all pairs are kept: a factor of 128 MB.
MAX_UNKNOWNS = 4000
#: Weight of the memory relative to the mean squared error of a new phase: an error that is
#: remembered costs 10 times the same error on new data. Chosen on five peaks and a [1, 5, 1] KAN
#: with 40 intervals: 1 forgets ten times as much, 1000 keeps later phases from being learned.
WEIGHT = 100.0
#: Weight of the initial numbers of the unknowns. Without this prior, directions that no phase
#: determines drift until activations leave their grids (errors of 1e4 on the same peaks); 1e-4
#: leaves errors of 0.05.
PRIOR = 1e-8
#: Samples whose rows are reduced at once.
PIECE = 1024


@dataclass
class QuadraticMemory:
    """The sum of |R u - z|^2 over blocks of unknowns, times a weight.

    Attributes:
        kind: One of INFORMATION.
        factors: R of each group of equal blocks, shape (blocks, size, size).
        targets: z of each group, shape (blocks, size).
    """

    kind: str
    factors: list[Float[Tensor, "_ _ _"]]
    targets: list[Float[Tensor, "_ _"]]

    @classmethod
    def of_prior(cls, network: Network, kind: str, prior: float = PRIOR) -> QuadraticMemory:
        """Return the memory before the first phase: every unknown is near its present number.

        Raises:
            UsageError: If all pairs of the unknowns are too many to keep.
        """
        memory, start = cls(kind, [], []), 0
        unknowns = network.get_unknowns()
        root = (prior / WEIGHT) ** 0.5
        for blocks, size in memory._blocks(network):
            unit = root * torch.eye(size, dtype=unknowns.dtype, device=unknowns.device)
            memory.factors.append(unit.expand(blocks, -1, -1))
            here = unknowns[start : start + blocks * size]
            memory.targets.append(root * here.view(blocks, size))
            start += blocks * size
        return memory

    def learn(self, network: Network, samples: Samples, task: Task) -> None:
        """Add what the network computes on the samples."""
        unknowns = network.get_unknowns()
        scale = output_scale(samples, task) * len(samples) ** 0.5
        for part in samples.x.split(PIECE):
            output, rows = network.linearise(part)
            values = _curvature_root(output, rows.dense(), task) / scale
            start = 0
            for number, (factor, target) in enumerate(zip(self.factors, self.targets, strict=True)):
                blocks, size = target.shape
                here = slice(start, start + target.numel())
                own = values[:, here].unflatten(1, (blocks, size)).transpose(0, 1)
                fixed = own @ unknowns[here].view(blocks, size, 1)
                above, below = torch.cat([factor, target[..., None]], 2), torch.cat([own, fixed], 2)
                found = torch.linalg.qr(torch.cat([above, below], 1), mode="r").R
                self.factors[number], self.targets[number] = (
                    found[:, :size, :-1],
                    found[:, :size, -1],
                )
                start += target.numel()

    def _blocks(self, network: Network) -> list[tuple[int, int]]:
        """Return the number of blocks and the unknowns of each, group by group."""
        shapes = [tuple(parameter.shape) for _, parameter in network.unknowns()]
        total = sum(map(prod, shapes))
        if self.kind == "information_diagonal":
            return [(total, 1)]
        if self.kind == "information_block":
            return [(prod(shape[:-1]), shape[-1]) for shape in shapes]
        if total > MAX_UNKNOWNS:
            raise UsageError(
                f"memory=information keeps all pairs of {total} unknowns; at most {MAX_UNKNOWNS}. "
                "Use memory=information_block, or a smaller network."
            )
        return [(1, total)]

    def determined(self) -> float:
        """Return how many directions of the unknowns are remembered rather than free.

        That is the sum of 1 - a / s^2 over the curvatures s^2, of which a is the prior's (MacKay,
        Neural Computation 4 (1992) 415-447, eq. 4.9): the capacity that earlier phases use up.
        """
        values = torch.cat([torch.linalg.svdvals(factor).flatten() for factor in self.factors])
        return float((1 - PRIOR / WEIGHT / values.square()).clamp(min=0).sum())

    def rows(self) -> DenseRows | LocalRows:
        """Return R times the root of the weight as rows of a Jacobian."""
        root = WEIGHT**0.5
        if self.kind == "information":
            return DenseRows(root * self.factors[0][0])
        widest, start = max(factor.shape[2] for factor in self.factors), 0
        indices, values = list[Tensor](), list[Tensor]()
        for factor in self.factors:
            blocks, size, _ = factor.shape
            columns = torch.arange(start, start + blocks * size, device=factor.device)
            columns = columns.view(blocks, 1, size).expand(factor.shape)
            for found, each in ((indices, columns), (values, root * factor)):
                found.append(pad(each.flatten(0, 1), (0, widest - size)))
            start += blocks * size
        return LocalRows(torch.cat(indices), torch.cat(values), start)

    def target(self) -> Tensor:
        """Return z times the root of the weight."""
        targets = torch.cat([target.flatten() for target in self.targets])
        weighted: Tensor = targets * WEIGHT**0.5
        return weighted

    def value(self, unknowns: Tensor) -> Tensor:
        """Return the weighted sum of squares at the unknowns, differentiable."""
        total: Tensor = (self.rows().times(unknowns) - self.target()).square().sum()
        return total


def _curvature_root(output: Tensor, jacobian: Tensor, task: Task) -> Tensor:
    """Return A J, whose squares are the curvature of the loss."""
    if task == "regression":
        return jacobian
    shares = output.softmax(1)
    rows = jacobian.unflatten(0, output.shape)
    centred = rows - (shares[:, None] @ rows)
    root: Tensor = (shares.sqrt()[..., None] * centred).flatten(0, 1)
    return root
