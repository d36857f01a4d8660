"""A differential equation with its conditions as a least squares problem: residuals at collocation points.

Each `Block` is a relation (left - right = 0) at points: the equation inside the box, a condition on its border,
measured values, or the difference between two opposite faces. Its rows are the residuals times sqrt(weight / points),
so that the objective is sum over blocks of weight * mean residual^2. Jacobian rows are exact (see `network_jets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.equations.field import Field
from kanrun.engine.equations.jets import Monomials
from kanrun.engine.equations.system import System, on_face
from kanrun.engine.least_squares import DenseRows, Linearisation, Problem
from kanrun.formulas.equations import Relation


@dataclass(frozen=True)
class Block:
    """One relation at its points (points, variables); `kind` is equation, condition or data.

    `target` (points,) is subtracted from the residual: measured values of a relation such as u = 0. With `partner`
    the residual is the relation's value at the points less that at the partners: a periodic condition. `unit` divides
    residuals, so that blocks in different units can be weighed against each other; `shares` (points,) with mean 1 are
    the weights of a quadrature rule, where the points are those of one.
    """

    kind: str
    relation: Relation
    points: Tensor
    weight: float = 1.0
    target: Tensor | None = None
    partner: Tensor | None = None
    unit: float = 1.0
    shares: Tensor | None = None

    @cached_property
    def monomials(self) -> Monomials:
        return Monomials.covering(
            (each.index for each in self.relation.derivatives), self.points.shape[1]
        )

    @property
    def scale(self) -> float:
        """What a residual is multiplied by to become a row, the root of its share apart."""
        root: float = (self.weight / len(self.points)) ** 0.5
        return root / self.unit

    def rows(self, field: Field, constants: Tensor, *, jacobian: bool) -> tuple[Tensor, Tensor]:
        """The rows (points,), and their derivatives (points, unknowns), which are left out unless asked for."""
        residual, slopes = evaluate(
            self.relation, field, self.points, constants, self.monomials, jacobian=jacobian
        )
        if self.partner is not None:
            there = evaluate(
                self.relation, field, self.partner, constants, self.monomials, jacobian=jacobian
            )
            residual, slopes = residual - there[0], slopes - there[1]
        if self.target is not None:
            residual = residual - self.target
        scale = self.scale if self.shares is None else self.scale * self.shares.sqrt()
        return residual * scale, slopes * (scale[:, None] if isinstance(scale, Tensor) else scale)


def evaluate(
    relation: Relation,
    field: Field,
    x: Tensor,
    constants: Tensor,
    monomials: Monomials,
    *,
    jacobian: bool,
) -> tuple[Float[Tensor, " points"], Float[Tensor, "points columns"]]:
    """left - right of `relation` at x; where asked for its derivatives by the field's unknowns and the constants."""
    with torch.enable_grad():
        jets, traced = field.jets(x, monomials)
        parts = [
            jets[monomials.position(each.index), :, each.unknown] * monomials.factorial(each.index)
            for each in relation.derivatives
        ]
        held = torch.stack(parts, dim=1)
        arguments = torch.cat([x, held.detach(), constants.expand(len(x), -1)], dim=1).cpu().numpy()
        residual = torch.as_tensor(relation.residual(arguments)).to(x)
        if not jacobian:
            return residual, x[:, :0]
        slopes = torch.as_tensor(relation.slopes(arguments)).to(x)
        by_network = traced.jacobian((held * slopes[:, : held.shape[1]]).sum())
    return residual, torch.cat([by_network, slopes[:, held.shape[1] :]], dim=1)


class ResidualProblem(Problem):
    """The blocks as one problem in the field's unknowns, then the constants that are sought.

    `field` is copied; `solution` reads the result back.
    """

    def __init__(
        self, field: Field, blocks: Sequence[Block], constants: Float[Tensor, " constants"]
    ) -> None:
        self._field, self.blocks, self._count = deepcopy(field), tuple(blocks), len(constants)
        self.unknowns = torch.cat([field.get_unknowns(), constants])

    def solution(
        self, unknowns: Float[Tensor, " unknowns"]
    ) -> tuple[Field, Float[Tensor, " constants"]]:
        """The field and the constants at `unknowns`."""
        field = deepcopy(self._field)
        field.set_unknowns(unknowns[: len(unknowns) - self._count])
        return field, unknowns[len(unknowns) - self._count :].clone()

    def residual(self, unknowns: Tensor) -> Tensor:
        return torch.cat([rows for rows, _ in self.evaluated(unknowns, jacobian=False)])

    def linearise(self, unknowns: Tensor) -> Linearisation:
        rows, slopes = zip(*self.evaluated(unknowns), strict=True)
        return Linearisation.of(DenseRows(torch.cat(slopes)), torch.cat(rows))

    def loss(self, unknowns: Tensor, kind: str) -> float:
        """The part of the blocks of one kind of the objective: weights times mean squared residuals."""
        chosen = [block for block in self.blocks if block.kind == kind]
        found = self.evaluated(unknowns, chosen, jacobian=False)
        return float(sum(rows.square().sum() for rows, _ in found))

    def misfit(self, unknowns: Tensor) -> float:
        """Root mean square difference from the measured values, relative to the unknowns' sizes; 0 without these."""
        data = [block.weight for block in self.blocks if block.kind == "data"]
        return (self.loss(unknowns, "data") / sum(data)) ** 0.5 if data else 0.0

    def evaluated(
        self, unknowns: Tensor, blocks: Sequence[Block] | None = None, *, jacobian: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """The rows of each block, and their derivatives."""
        constants = unknowns[len(unknowns) - self._count :]
        self._field.set_unknowns(unknowns[: len(unknowns) - self._count])
        chosen = self.blocks if blocks is None else blocks
        return [block.rows(self._field, constants, jacobian=jacobian) for block in chosen]


def condition_blocks(
    system: System, count: int, weight: float, data_weight: float = 1.0, edges: Tensor | None = None
) -> list[Block]:
    """The conditions at about `count` points a face (see `on_face`), and the measured values."""
    blocks = []
    for condition in system.conditions:
        faces = [on_face(face, system.box, count, edges) for face in condition.places(system.box)]
        if condition.periodic is None:
            blocks.append(Block("condition", condition.relation, torch.cat(faces), weight))
        else:
            blocks.append(
                Block("condition", condition.relation, faces[0], weight, partner=faces[1])
            )
    for measured in system.measured:
        blocks.append(
            Block("data", measured.relation, measured.points, data_weight, target=measured.values)
        )
    return blocks


def with_units(
    blocks: Sequence[Block], system: System, sizes: Tensor, solution: Field | None = None
) -> list[Block]:
    """The blocks with the size of their terms as the unit of their residuals, so that units of the user cancel.

    Terms are measured at values of the given sizes, or at those of `solution` where they are smaller there.
    """
    return [
        replace(block, unit=unit_of(block.relation, system, sizes, block.points, solution))
        for block in blocks
    ]


def unit_of(
    relation: Relation,
    system: System,
    sizes: Tensor,
    points: Tensor,
    solution: Field | None = None,
    samples: int = 256,
) -> float:
    """The largest root mean square of a term |dR/du_a| times the size of u_a, at points with values of that size.

    The size of a derivative is the unknown's divided by half the box's extent for each differentiation. With `solution`
    the slope dR/du_a is taken there too, and the smaller of the two counts.
    """
    half, drawn = system.box.diff()[:, 0] / 2, np.random.default_rng(0)
    scale = [
        float(sizes[each.unknown] / (half ** half.new_tensor(each.index)).prod())
        for each in relation.derivatives
    ]
    at = (
        points[: min(samples, len(points))]
        if solution is None
        else points[drawn.permutation(len(points))[:samples]]
    )
    values = [drawn.standard_normal((len(at), len(scale))) * scale]
    if solution is not None:
        found = [
            solution.derivative(at, each.index)[:, each.unknown].cpu()
            for each in relation.derivatives
        ]
        values.append(np.stack(found, axis=1))
    fixed = system.guesses().expand(len(at), -1).cpu().numpy()
    rows = [np.concatenate([at.cpu().numpy(), each, fixed], axis=1) for each in values]
    terms = [np.nan_to_num(relation.slopes(each)[:, : len(scale)]) * scale for each in rows]
    return min(float(np.sqrt(np.mean(each**2, axis=0)).max()) for each in terms) or 1.0


def sizes_of(
    system: System, points: Float[Tensor, "points variables"], count: int = 60
) -> Float[Tensor, " unknowns"]:
    """How large each unknown is: from data and conditions; where those are zero, from the equations' sources.

    1 where nothing says so.
    """
    sizes = torch.zeros(len(system.vocabulary.unknowns), dtype=points.dtype)
    known = [block for block in condition_blocks(system, count, 1.0) if block.partner is None]
    for blocks in (known, [Block("equation", each, points) for each in system.equations]):
        if bool((sizes > 0).any()):
            break
        for block in blocks:
            left, relation = block.target, block.relation
            if left is None:  # what is left where all unknowns are zero
                fixed = system.guesses().expand(len(block.points), -1)
                zeros = block.points.new_zeros(len(block.points), len(relation.derivatives))
                arguments = torch.cat([block.points, zeros, fixed], dim=1).cpu().numpy()
                left = torch.as_tensor(np.nan_to_num(relation.residual(arguments)))
            if (largest := float(left.abs().max())) > 0:
                size = largest / unit_of(relation, system, torch.ones_like(sizes), block.points)
                for each in relation.derivatives:
                    sizes[each.unknown] = max(float(sizes[each.unknown]), size)
    largest = float(sizes.max()) or 1.0
    return torch.where(sizes > 0, sizes, largest).to(system.box)


def standard_errors(
    problem: ResidualProblem, unknowns: Tensor
) -> tuple[Float[Tensor, " constants"], float]:
    """Standard errors of the sought constants, roots of the diagonal of s^2 (J^T J)^-1; NaN without measured values.

    With them the largest factor by which an error exceeds what it were if the other constants were known: where it is
    large, several constants change the solution alike.

    J has the rows of measured values in their own units, below those of the equation and its conditions, which count as
    exact observations; s^2 is the mean squared residual of the measured values over their degrees of freedom. The
    diagonal is read from the last rows of R in J = QR, since J^T J is singular to working precision on fine grids.
    """
    constants = problem.solution(unknowns)[1]
    data = [block for block in problem.blocks if block.kind == "data"]
    if not data or not len(constants):
        return torch.full_like(constants, torch.nan), 1.0
    observed = problem.evaluated(unknowns, data, jacobian=False)
    left = torch.cat([rows / block.scale for (rows, _), block in zip(observed, data, strict=True)])
    variance = float(left.square().sum()) / max(len(left) - len(constants), 1)
    jacobian = torch.cat([slopes for _, slopes in problem.evaluated(unknowns)]) / data[0].scale
    sizes = jacobian.norm(dim=0).clamp(min=1e-300)
    corner = torch.linalg.qr(jacobian / sizes, mode="r")[1][-len(constants) :, -len(constants) :]
    left, along, right = torch.linalg.svd(corner)
    inverse = right.T / along.clamp(min=1e-12 * float(along.max())) @ left.T
    inflated = float((inverse.norm(dim=1) * corner.norm(dim=0)).max())
    return inverse.norm(dim=1) / sizes[-len(constants) :] * variance**0.5, inflated


def sensitivity(
    problem: ResidualProblem, points: Float[Tensor, "points variables"], iterations: int = 20
) -> float:
    """The largest change of an unknown, relative to its size, for a change of all residuals by 1 (root mean square).

    That is the largest singular value of U J^+, U the derivatives of the unknowns at `points` by the network's numbers
    and J those of the residuals, found by the power method. It is large, up to 1e7, where many functions make the
    residuals small: equations whose conditions leave the solution open.
    """
    field = problem.solution(problem.unknowns)[0]
    monomials, parts = Monomials.covering([], points.shape[1]), list[Tensor]()
    for number in range(field.form.unknowns):
        with torch.enable_grad():
            jets, traced = field.jets(points, monomials)
            values = jets[0, :, number]
            size = float(
                values.detach().square().mean().sqrt().clamp(min=float(field.sizes[number]) * 1e-3)
            )
            parts.append(traced.jacobian(values.sum()) / (size * len(points) ** 0.5))
    moved = torch.cat(parts)
    jacobian = torch.cat([slopes for _, slopes in problem.evaluated(problem.unknowns)])
    scale = jacobian.norm(dim=0).clamp(min=1e-300)
    unit = jacobian / scale
    gram, identity = unit.T @ unit, torch.eye(len(scale), dtype=scale.dtype)
    lower, failed = torch.linalg.cholesky_ex(gram + 1e-14 * identity)
    if int(failed):
        lower = torch.linalg.cholesky_ex(gram + 1e-12 * identity)[0]
    columns = torch.zeros(len(scale), len(moved), dtype=scale.dtype)
    columns[: moved.shape[1]] = (moved / scale[: moved.shape[1]]).T
    along = torch.linalg.solve_triangular(lower, columns, upper=False)
    drawn = along @ torch.linspace(1, 2, len(moved), dtype=scale.dtype)
    for _ in range(iterations):
        drawn = along @ (along.T @ (drawn / drawn.norm()))
    return float(drawn.norm().sqrt())
