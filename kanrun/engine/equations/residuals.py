"""A differential equation with its conditions as a least squares problem: residuals at collocation points.

Each `Block` is a relation (left - right = 0) at points: the equation inside the box, a condition on its border,
measured values, or the difference between two opposite faces. Its rows are the residuals times sqrt(weight / points),
so that the objective is sum over blocks of weight * mean residual^2. Jacobian rows are exact (see `network_jets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.equations.field import Field
from kanrun.engine.equations.jets import Monomials
from kanrun.engine.least_squares import DenseRows, Linearisation, Problem
from kanrun.formulas.equations import Relation


@dataclass(frozen=True)
class Block:
    """One relation at its points (points, variables).

    `target` (points,) is subtracted from the residual: measured values of a relation such as u = 0. With `partner`
    the residual is the relation's value at the points less that at the partners: a periodic condition. `unit` divides
    residuals, so that blocks in different units can be weighed against each other; `shares` (points,) with mean 1 are
    the weights of a quadrature rule, where the points are those of one.
    """

    name: str
    relation: Relation
    points: Tensor
    weight: float = 1.0
    target: Tensor | None = None
    partner: Tensor | None = None
    unit: float = 1.0
    shares: Tensor | None = None

    @cached_property
    def monomials(self) -> Monomials:
        indices = (derivative.index for derivative in self.relation.derivatives)
        return Monomials.covering(indices, self.points.shape[1])

    @property
    def scale(self) -> float:
        """What a residual is multiplied by to become a row, the root of its share apart."""
        root: float = (self.weight / len(self.points)) ** 0.5
        return root / self.unit

    def scaled(self, rows: Tensor) -> Tensor:
        """Residuals (points,) or their derivatives (points, unknowns) as rows."""
        roots = self.scale if self.shares is None else self.scale * self.shares.sqrt()
        return rows * (roots if rows.ndim == 1 or isinstance(roots, float) else roots[:, None])


@dataclass(frozen=True)
class Evaluated:
    """Residuals of a relation at points, (points,), and where asked for their derivatives by all unknowns."""

    residual: Tensor
    jacobian: Tensor | None = None


def evaluate(
    relation: Relation, field: Field, x: Tensor, constants: Tensor, monomials: Monomials, *, jacobian: bool
) -> Evaluated:
    """left - right of `relation` at x, and the derivatives by the field's unknowns, then by the constants."""
    with torch.enable_grad():
        jets = field.jets(x, monomials)
        parts = [
            jets.unknowns[monomials.position(each.index), :, each.unknown] * monomials.factorial(each.index)
            for each in relation.derivatives
        ]
        held = torch.stack(parts, dim=1)
        fixed = constants.expand(len(x), -1)
        arguments = torch.cat([x, held.detach(), fixed], dim=1).cpu().numpy()
        residual = torch.as_tensor(relation.residual(arguments)).to(x)
        if not jacobian:
            return Evaluated(residual)
        slopes = torch.as_tensor(relation.slopes(arguments)).to(x)
        by_network = field.jacobian(jets, (held * slopes[:, : held.shape[1]]).sum())
    return Evaluated(residual, torch.cat([by_network, slopes[:, held.shape[1] :]], dim=1))


class ResidualProblem(Problem):
    """The blocks as one problem in the field's unknowns, then the constants that are sought.

    `field` is copied; `solution` reads the result back.
    """

    def __init__(self, field: Field, blocks: Sequence[Block], constants: Float[Tensor, " constants"]) -> None:
        self._field, self.blocks = deepcopy(field), tuple(blocks)
        self._count = len(constants)
        self.unknowns = torch.cat([field.get_unknowns(), constants])

    def solution(self, unknowns: Float[Tensor, " unknowns"]) -> tuple[Field, Float[Tensor, " constants"]]:
        """The field and the constants at `unknowns`."""
        field = deepcopy(self._field)
        field.set_unknowns(unknowns[: len(unknowns) - self._count])
        return field, unknowns[len(unknowns) - self._count :].clone()

    def residual(self, unknowns: Tensor) -> Tensor:
        return torch.cat([part.residual for part in self.evaluated(unknowns, jacobian=False)])

    def linearise(self, unknowns: Tensor) -> Linearisation:
        parts = self.evaluated(unknowns, jacobian=True)
        rows = torch.cat([part.jacobian for part in parts if part.jacobian is not None])
        return Linearisation.of(DenseRows(rows), torch.cat([part.residual for part in parts]))

    def losses(self, unknowns: Tensor) -> list[float]:
        """The part of each block of the objective: its weight times its mean squared residual."""
        return [float(part.residual.square().sum()) for part in self.evaluated(unknowns, jacobian=False)]

    def misfit(self, unknowns: Tensor) -> float:
        """Root mean square difference from the measured values, relative to the unknowns' sizes; 0 without these."""
        losses = zip(self.blocks, self.losses(unknowns), strict=True)
        squares = [loss / block.weight for block, loss in losses if block.name == "data"]
        return float((sum(squares) / max(len(squares), 1)) ** 0.5)

    def evaluated(self, unknowns: Tensor, *, jacobian: bool = True) -> list[Evaluated]:
        """The rows of each block, and their derivatives."""
        constants = unknowns[len(unknowns) - self._count :]
        self._field.set_unknowns(unknowns[: len(unknowns) - self._count])
        return [self._rows(block, constants, jacobian=jacobian) for block in self.blocks]

    def _rows(self, block: Block, constants: Tensor, *, jacobian: bool) -> Evaluated:
        found = evaluate(block.relation, self._field, block.points, constants, block.monomials, jacobian=jacobian)
        residual, rows = found.residual, found.jacobian
        if block.partner is not None:
            other = evaluate(block.relation, self._field, block.partner, constants, block.monomials, jacobian=jacobian)
            residual = residual - other.residual
            rows = None if rows is None or other.jacobian is None else rows - other.jacobian
        if block.target is not None:
            residual = residual - block.target
        return Evaluated(block.scaled(residual), None if rows is None else block.scaled(rows))


def standard_errors(problem: ResidualProblem, unknowns: Tensor) -> tuple[Float[Tensor, " constants"], float]:
    """Standard errors of the sought constants, roots of the diagonal of s^2 (J^T J)^-1; NaN without measured values.

    With them the largest factor by which an error exceeds what it were if the other constants were known: where it is
    large, several constants change the solution alike.

    J has the rows of measured values in their own units, below those of the equation and its conditions, which count as
    exact observations; s^2 is the mean squared residual of the measured values over their degrees of freedom. The
    diagonal is read from the last rows of R in J = QR, since J^T J is singular to working precision on fine grids.
    """
    field, constants = problem.solution(unknowns)
    data = [block for block in problem.blocks if block.name == "data"]
    if not data or not len(constants):
        return torch.full_like(constants, torch.nan), 1.0
    observed = [evaluate(each.relation, field, each.points, constants, each.monomials, jacobian=False) for each in data]
    left = [found.residual - each.target for found, each in zip(observed, data, strict=True) if each.target is not None]
    count = sum(len(each) for each in left)
    variance = float(sum(each.square().sum() for each in left)) / max(count - len(constants), 1)
    jacobian = torch.cat([part.jacobian for part in problem.evaluated(unknowns) if part.jacobian is not None])
    jacobian = jacobian / data[0].scale
    sizes = jacobian.norm(dim=0).clamp(min=1e-300)
    corner = torch.linalg.qr(jacobian / sizes, mode="r")[1][-len(constants) :, -len(constants) :]
    left, along, right = torch.linalg.svd(corner)
    inverse = right.T / along.clamp(min=1e-12 * float(along.max())) @ left.T
    inflated = float((inverse.norm(dim=1) * corner.norm(dim=0)).max())
    return inverse.norm(dim=1) / sizes[-len(constants) :] * variance**0.5, inflated


def sensitivity(problem: ResidualProblem, points: Float[Tensor, "points variables"], iterations: int = 20) -> float:
    """The largest change of an unknown, relative to its size, for a change of all residuals by 1 (root mean square).

    That is the largest singular value of U J^+, U the derivatives of the unknowns at `points` by the network's numbers
    and J those of the residuals, found by the power method. It is large, up to 1e7, where many functions make the
    residuals small: equations whose conditions leave the solution open.
    """
    field = problem.solution(problem.unknowns)[0]
    rows = problem.linearise(problem.unknowns).rows
    assert rows is not None  # an invariant: single problems have rows
    monomials = Monomials.covering([(0,) * points.shape[1]], points.shape[1])
    parts = []
    for number in range(field.form.unknowns):
        with torch.enable_grad():
            jets = field.jets(points, monomials)
            values = jets.unknowns[0, :, number]
            size = float(values.detach().square().mean().sqrt().clamp(min=float(field.sizes[number]) * 1e-3))
            parts.append(field.jacobian(jets, values.sum()) / (size * len(points) ** 0.5))
    moved = torch.cat(parts)
    gram = rows.gram()
    scale = gram.diagonal().sqrt().clamp(min=1e-300)
    unit = gram / scale / scale[:, None]
    unit.diagonal().add_(1e-14)
    lower, failed = torch.linalg.cholesky_ex(unit)
    if int(failed):
        unit.diagonal().add_(1e-12)
        lower = torch.linalg.cholesky_ex(unit)[0]
    columns = moved / scale[: moved.shape[1]]
    drawn = torch.ones(len(gram), 1, dtype=gram.dtype) + torch.linspace(0, 1, len(gram), dtype=gram.dtype)[:, None]
    size = 0.0
    for _ in range(iterations):
        drawn = drawn / drawn.norm()
        along = torch.linalg.solve_triangular(lower.T, drawn, upper=True)
        image = columns @ along[: columns.shape[1]]
        size = float(image.norm())
        back = torch.zeros_like(along)
        back[: columns.shape[1]] = columns.T @ image
        drawn = torch.linalg.solve_triangular(lower, back, upper=False)
    return size
