"""Differential equations as least squares problems for networks, and their sensitivity.

A `Block` is a relation (left - right = 0) at many points: an equation inside the box, a condition
on its border, observations, or the difference between two opposite faces. The rows of a block are
the residuals times sqrt(weight / number of points), so that the objective is the sum of
weight * mean squared residual over all blocks. The Jacobian is exact, see `network_jets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.equations.fields import Field, Monomials, Windows, point_jacobian
from kanrun.engine.equations.system import Array
from kanrun.engine.least_squares import DenseRows, Linearisation, NormalEquations, Problem, Rows
from kanrun.formulas.equations import Relation

#: Default target of a block: the residual itself is to vanish at all points.
ZERO = torch.zeros(1, dtype=torch.float64)
#: Default quadrature weight of a block: all points count equally.
ONE = torch.ones(1, dtype=torch.float64)


@dataclass(frozen=True)
class Block:
    """Relation at many points, as rows of a least squares problem.

    Attributes:
        kind: `equation`, `condition` or `data`.
        relation: Relation whose residual (left - right) is to vanish.
        points: Points, shape (points, variables).
        weight: Weight of the mean squared residual in the objective.
        target: Values (points,) that are subtracted from the residual, such as observations.
        partner: Opposite points of a periodic condition, in the shape of `points`: the residual
            there is subtracted. None for other relations.
        unit: Number by which residuals are divided, so that blocks in different units can be
            compared.
        shares: Quadrature weights (points,) with mean 1.
    """

    kind: str
    relation: Relation
    points: Tensor
    weight: float = 1.0
    target: Tensor = ZERO
    partner: Tensor | None = None
    unit: float = 1.0
    shares: Tensor = ONE

    @cached_property
    def monomials(self) -> Monomials:
        indices = (each.index for each in self.relation.derivatives)
        return Monomials.covering(indices, self.points.shape[1])

    @property
    def scale(self) -> float:
        """Factor that converts residuals to rows, apart from the root of the quadrature weights."""
        return sqrt(self.weight / len(self.points)) / self.unit

    def residual(
        self, field: Field, constants: Tensor, x: Tensor, *, jacobian: bool = False
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points columns"]]:
        """Return left - right at the points `x`, and its Jacobian if `jacobian` is true.

        The Jacobian has one column per unknown of the field, then one per unknown parameter. If
        `jacobian` is false, the second result has no columns.
        """
        with torch.enable_grad():
            jets, parameters = field.jets(x, self.monomials)
            parts = [
                self.monomials.derivative(jets, each.index)[:, each.unknown]
                for each in self.relation.derivatives
            ]
            values = torch.stack(parts, dim=1)
            arguments = arguments_of(x, values.detach(), constants)
            residual = torch.as_tensor(self.relation.residual(arguments))
            if not jacobian:
                return residual, x[:, :0]
            slopes = torch.as_tensor(self.relation.slopes(arguments))
            by_network = point_jacobian((values * slopes[:, : len(parts)]).sum(), parameters)
        return residual, torch.cat([by_network, slopes[:, len(parts) :]], dim=1)

    def rows(self, field: Field, constants: Tensor, *, jacobian: bool) -> tuple[Tensor, Tensor]:
        """Compute the rows, shape (points,), and their Jacobian, shape (points, unknowns).

        The Jacobian has no columns if `jacobian` is false.
        """
        residual, slopes = self.residual(field, constants, self.points, jacobian=jacobian)
        if self.partner is not None:
            other = self.residual(field, constants, self.partner, jacobian=jacobian)
            residual = residual - other[0]
            slopes = slopes - other[1]
        scale = self.scale * self.shares.sqrt()
        return (residual - self.target) * scale, slopes * scale[:, None]


class ResidualProblem(Problem):
    """Least squares problem made of blocks, starting from `field` and `constants`.

    The vector of unknowns holds the trained coefficients of the field (which is copied), then the
    unknown parameters.
    """

    def __init__(
        self, field: Field, blocks: Sequence[Block], constants: Float[Tensor, " constants"]
    ) -> None:
        self._field, self.blocks, found = deepcopy(field), tuple(blocks), field.get_unknowns()
        self.unknowns, self._count = torch.cat([found, constants]), len(found)

    def solution(
        self, unknowns: Float[Tensor, " unknowns"]
    ) -> tuple[Field, Float[Tensor, " constants"]]:
        """Convert the vector `unknowns` to a field and the unknown parameters."""
        values, constants = unknowns.tensor_split([self._count])
        self._field.set_unknowns(values)
        return deepcopy(self._field), constants.clone()

    def residual(self, unknowns: Tensor) -> Tensor:
        return torch.cat([rows for rows, _ in self.evaluate(unknowns, jacobian=False)])

    def linearise(self, unknowns: Tensor) -> Linearisation:
        rows, slopes = zip(*self.evaluate(unknowns), strict=True)
        return Linearisation(DenseRows(torch.cat(slopes)), torch.cat(rows))

    def loss(self, unknowns: Tensor, kind: str) -> float:
        """Return the sum of squared rows over all blocks of one `kind`."""
        chosen = [block for block in self.blocks if block.kind == kind]
        found = self.evaluate(unknowns, chosen, jacobian=False)
        return float(sum(rows.square().sum() for rows, _ in found))

    def misfit(self, unknowns: Tensor) -> float:
        """Return the root mean square difference of the solution from the observations.

        Differences are divided by the units of their blocks. Return 0 if there are no observations.
        """
        data = [block.weight for block in self.blocks if block.kind == "data"]
        return sqrt(self.loss(unknowns, "data") / sum(data)) if data else 0.0

    def evaluate(
        self, unknowns: Tensor, blocks: Sequence[Block] | None = None, *, jacobian: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the rows and their Jacobian for each of `blocks`, by default for all blocks."""
        values, constants = unknowns.tensor_split([self._count])
        self._field.set_unknowns(values)
        chosen = self.blocks if blocks is None else blocks
        return [block.rows(self._field, constants, jacobian=jacobian) for block in chosen]


def arguments_of(points: Tensor, values: Tensor, constants: Tensor) -> Array:
    """Join points, values of derivatives and parameters to the arguments of a relation.

    Args:
        points: Shape (points, variables).
        values: Values of the derivatives in the relation, shape (points, derivatives).
        constants: Unknown parameters, shape (constants,).

    Returns:
        Arguments in the order of `Relation.names`, shape (points, names).
    """
    return torch.cat([points, values, constants.expand(len(points), -1)], dim=1).numpy()


def arguments_at(
    relation: Relation, field: Field | Windows, constants: Tensor, points: Tensor
) -> Array:
    """Evaluate the arguments of a relation (see `arguments_of`) for a solution at `points`.

    The result has the shape (points, names).
    """
    every = relation.derivatives
    found = field.derivatives(points, [each.index for each in every])
    values = found[:, [each.unknown for each in every], range(len(every))]
    return arguments_of(points, values, constants)


def standard_errors(
    problem: ResidualProblem, unknowns: Tensor
) -> tuple[Float[Tensor, " constants"], float]:
    """Return the standard errors of the unknown parameters, and the largest inflation of one.

    The errors are the square roots of the diagonal of s^2 (J^T J)^-1, or NaN if there are no
    observations. The inflation is the factor by which a standard error exceeds the error that the
    parameter would have if all other parameters were known. It is large if several parameters
    change the solution in the same way.

    J is the Jacobian of all rows, scaled so that those of the observations are in the units of the
    data; equations and conditions count as exact observations. s^2 is the sum of squared residuals
    of the observations, divided by their degrees of freedom. The diagonal is computed from the last
    rows of R in J = QR, because J^T J is numerically singular on fine grids.
    """
    # Smallest singular value that is used for standard errors, relative to the largest. Smaller
    # singular values are replaced by it.
    singular = 1e-12
    # Smallest divisor in scalings; protects against division by zero.
    tiny = 1e-300
    constants = problem.solution(unknowns)[1]
    data = [block for block in problem.blocks if block.kind == "data"]
    if not data or not len(constants):
        return torch.full_like(constants, torch.nan), 1.0
    observed = problem.evaluate(unknowns, data, jacobian=False)
    residual = torch.cat([r / block.scale for (r, _), block in zip(observed, data, strict=True)])
    variance = float(residual.square().sum()) / max(len(residual) - len(constants), 1)
    jacobian = torch.cat([slopes for _, slopes in problem.evaluate(unknowns)]) / data[0].scale
    sizes = jacobian.norm(dim=0).clamp(min=tiny)
    corner = torch.linalg.qr(jacobian / sizes, mode="r")[1][-len(constants) :, -len(constants) :]
    left, along, right = torch.linalg.svd(corner)
    inverse = right.T / along.clamp(min=singular * float(along.max())) @ left.T
    inflation = float((inverse.norm(dim=1) * corner.norm(dim=0)).max())
    return inverse.norm(dim=1) / sizes[-len(constants) :] * sqrt(variance), inflation


def sensitivity(problem: ResidualProblem, points: Float[Tensor, "points variables"]) -> float:
    """Measure how strongly the solution reacts to changes of the residuals.

    Return the largest ratio of the relative change of the solution to the change of the residuals.
    Both changes are root mean squares; the solution is evaluated at `points`. A large value means
    that other functions satisfy the equations and conditions almost as well.
    """
    # A relative change of an unknown is its change divided by its size in the solution, or by this
    # fraction of its estimated size if that is larger.
    quiet = 1e-3
    field = problem.solution(problem.unknowns)[0]
    monomials = Monomials.covering([], points.shape[1])
    parts = list[Tensor]()
    for number, size in enumerate(field.sizes.tolist()):
        with torch.enable_grad():
            jets, parameters = field.jets(points, monomials)
            values = jets[0, :, number]
            rms = float(values.detach().square().mean().sqrt())
            parts.append(point_jacobian(values.sum(), parameters) / max(rms, size * quiet))
    moved = torch.cat(parts) / sqrt(len(points))
    moved = torch.nn.functional.pad(moved, (0, len(problem.unknowns) - moved.shape[1]))
    return largest_response(problem.linearise(problem.unknowns), DenseRows(moved))


def largest_response(linear: Linearisation, relative: Rows) -> float:
    """Return the largest singular value of U J^+ (J^+ is the pseudo-inverse), by the power method.

    U (`relative`) is the Jacobian of the solution, divided by its size, with respect to the
    coefficients. J (`linear`) is the Jacobian of the residuals. For underdetermined equations,
    values up to 1e7 occur. Return infinity if conjugate gradients did not converge.
    """
    # Number of steps of the power method that measures the sensitivity. With fewer steps the
    # sensitivity is underestimated; each step is one solution of the normal equations.
    power_steps = 20
    # Damping of the normal equations when the sensitivity is measured, for Jacobian columns of unit
    # norm. With a larger value, the sensitivity of underdetermined equations is underestimated; a
    # smaller one is below rounding.
    open_damping = 1e-15
    equations = NormalEquations(linear)
    solve = equations.solver(open_damping)
    drawn = torch.linspace(1, 2, linear.rows.unknowns, dtype=linear.residual.dtype)
    largest = 0.0
    for _ in range(power_steps):
        drawn = solve(relative.transposed(relative.times(drawn)))
        largest = float(drawn.norm())
        drawn = drawn / largest
    return inf if equations.truncated else sqrt(largest)
