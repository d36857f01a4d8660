"""Quadratic memory of earlier fits, without their samples: online Laplace in square-root form.

Fit number s ends with the unknowns u_s and the function f(x; u_s) on its samples. Moving to other
unknowns u changes this function. To second order, the memory penalises the change by

    Q_s(u) = weight mean |A J_s (u - u_s)|^2,

with J_s the Jacobian at u_s. A is the identity for regression; for classes, A =
diag(p)^(1/2) (I - 1 p') is a square root of the curvature of the cross-entropy. On request, the
outputs of hidden layers are kept in the same way: while they do not change, f is linear in the
unknowns that may still move, so the quadratic model remains accurate for large steps. The sum over
all fits is stored as |R u - z|^2 with triangular R: each fit appends the rows (A J_s, A J_s u_s),
and a QR decomposition reduces them. The stored sum of the Q_s is therefore exact and positive
semidefinite, and for n unknowns it needs n^2 numbers, whatever the number of fits.
`information_block` keeps one triangle per edge of a KAN or per neuron of an MLP instead, and
`information_diagonal` one number per unknown.
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
from kanrun.engine.training.data import Task
from kanrun.errors import UsageError

#: Kinds of quadratic memory: of all pairs of unknowns, of pairs within a block, of single unknowns.
INFORMATION = ("information", "information_block", "information_diagonal")
#: Largest number of unknowns for `information`; the triangular factor then takes 128 MB.
MAX_UNKNOWNS = 4000
#: Weight of a quadratic penalty that holds the unknowns near their values at the start of a fit
#: with rehearsal. Without it, unknowns that no sample determines drift. Chosen on five peaks and a
#: [1, 5, 1] KAN with 40 intervals: rehearsal by Levenberg-Marquardt ends with an RMSE of 2e-4; with
#: a weight of 1e-8 it is 0.02 to 0.08, and without this penalty above 1.
ANCHOR = 1e-6
#: Number of samples whose Jacobian rows are computed and reduced at once.
PIECE = 1024


@dataclass
class QuadraticMemory:
    """Sum of |R u - z|^2 over blocks of unknowns u.

    Blocks of the same size form a group.

    Attributes:
        kind: One of INFORMATION.
        factors: Triangular factors R, one array per group, shape (blocks, size, size).
        targets: Right-hand sides z, one array per group, shape (blocks, size).
    """

    kind: str
    factors: list[Float[Tensor, "_ _ _"]]
    targets: list[Float[Tensor, "_ _"]]

    @classmethod
    def anchor(cls, network: Network, kind: str, weight: float) -> QuadraticMemory:
        """Return the memory weight * |u - u_0|^2, with u_0 the network's present unknowns.

        With a weight of 0 the memory is empty.

        Raises:
            UsageError: If `kind` is `information` and there are more than MAX_UNKNOWNS unknowns.
        """
        memory = cls(kind, [], [])
        unknowns = network.get_unknowns()
        root = weight**0.5
        # Per group: the number of blocks, and the number of unknowns in each block.
        groups = {
            "information": [(1, len(unknowns))],
            "information_block": [(p[..., 0].numel(), p.shape[-1]) for _, p in network.unknowns()],
            "information_diagonal": [(len(unknowns), 1)],
        }[kind]
        if kind == "information" and len(unknowns) > MAX_UNKNOWNS:
            raise UsageError(
                f"memory=information keeps all pairs of {len(unknowns)} unknowns; at most "
                f"{MAX_UNKNOWNS}. Use memory=information_block, or a smaller network."
            )
        parts = unknowns.split([blocks * size for blocks, size in groups])
        for shape, here in zip(groups, parts, strict=True):
            unit = torch.eye(shape[1], dtype=unknowns.dtype, device=unknowns.device)
            memory.factors.append((root * unit).expand(shape[0], -1, -1))
            memory.targets.append(root * here.view(shape))
        return memory

    def learn(
        self, network: Network, x: Tensor, task: Task, weight: float, hidden: float = 0.0
    ) -> None:
        """Add the network's present outputs at x (samples, inputs) to the memory.

        `weight` is the total weight of the samples. Changes of hidden nodes count `hidden` times as
        much as changes of outputs; with 0, only outputs are remembered.
        """
        shapes = [target.shape for target in self.targets]
        root = (weight / len(x)) ** 0.5
        sizes = [shape.numel() for shape in shapes]
        centres = network.get_unknowns().split(sizes)
        below = network.lower() if hidden else ()
        for part in x.split(PIECE):
            output, jacobian = network.linearise(part)
            rows = jacobian.dense()
            if task == "classification":  # A J, since (A J)' (A J) is the curvature of the loss
                shares = output.softmax(1)
                rows = rows.unflatten(0, output.shape)
                rows = rows - (shares[:, None] @ rows)
                rows = (shares.sqrt()[..., None] * rows).flatten(0, 1)
            inner = (hidden * lower.linearise(part)[1].dense() for lower in below)
            rows = torch.cat([rows, *(pad(j, (0, sum(sizes) - j.shape[1])) for j in inner)])
            for number, each in enumerate((root * rows).split(sizes, 1)):
                own = each.unflatten(1, shapes[number]).transpose(0, 1)
                fixed = own @ centres[number].view(*shapes[number], 1)
                self._append(number, own, fixed[..., 0])

    def joined(self, other: QuadraticMemory) -> QuadraticMemory:
        """Return the sum of this memory and `other`, which has the same unknowns and kind."""
        both = QuadraticMemory(self.kind, [*self.factors], [*self.targets])
        for number, rows in enumerate(zip(other.factors, other.targets, strict=True)):
            both._append(number, *rows)
        return both

    def _append(self, number: int, rows: Tensor, values: Tensor) -> None:
        """Add |rows u - values|^2 to group `number` of the blocks."""
        size = rows.shape[2]
        stacked = torch.cat([self.factors[number], rows], 1)
        right = torch.cat([self.targets[number], values], 1)[..., None]
        found = torch.linalg.qr(torch.cat([stacked, right], 2), mode="r").R[:, :size]
        self.factors[number], self.targets[number] = found[..., :-1], found[..., -1]

    def rows(self) -> DenseRows | LocalRows:
        """Return the triangular factors R as rows of a Jacobian over all unknowns."""
        if self.kind == "information":
            return DenseRows(self.factors[0][0])
        widest = max(factor.shape[2] for factor in self.factors)
        start = 0
        indices = list[Tensor]()
        values = list[Tensor]()
        for factor in self.factors:
            blocks, size, _ = factor.shape
            columns = torch.arange(start, start + blocks * size, device=factor.device)
            columns = columns.view(blocks, 1, size).expand(factor.shape)
            for found, each in ((indices, columns), (values, factor)):
                found.append(pad(each.flatten(0, 1), (0, widest - size)))
            start += blocks * size
        return LocalRows(torch.cat(indices), torch.cat(values), start)

    def target(self) -> Tensor:
        """Return the right-hand sides z of all groups in one vector."""
        return torch.cat([target.flatten() for target in self.targets])

    def value(self, unknowns: Tensor) -> Tensor:
        """Return |R u - z|^2 at u = `unknowns`, as a differentiable scalar."""
        return (self.rows().times(unknowns) - self.target()).square().sum()
