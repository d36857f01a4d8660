"""Differential equations as least squares problems on networks, and records of solutions.

Each `Block` is a relation (left - right = 0) at points: the equation inside the box, a condition on
its border, an observation, or the difference between two opposite faces. Its rows are the residuals
times sqrt(weight / points), so that the objective is the sum over blocks of weight * mean
residual^2. Jacobian rows are exact, see `network_jets`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.equations.fields import Field, OutputForm, Windows
from kanrun.engine.equations.system import Array, EvolutionSystem, Face
from kanrun.engine.equations.taylor import Monomials, point_jacobian
from kanrun.engine.least_squares import DenseRows, Linearisation, NormalEquations, Problem, Rows
from kanrun.engine.networks import Network
from kanrun.formulas.equations import Relation

#: Smallest diagonal entries that are taken for zero in scalings.
TINY = 1e-300
#: Damping, relative to columns of unit norm, at which the sensitivity is measured. A larger value
#: hides that other functions fit as well; a smaller one is lost in rounding.
OPEN_DAMPING = 1e-15
#: Number of steps of the power method that measures the sensitivity. With fewer steps the
#: sensitivity is underestimated; each step is one solution of the normal equations.
POWER_STEPS = 20
#: Unknowns count as at least this fraction of their sizes in relative changes.
QUIET = 1e-3
#: Singular values below this fraction of the largest do not determine a parameter.
SINGULAR = 1e-12
#: Values of the unknown parameters of a system without any.
NO_CONSTANTS = torch.zeros(0, dtype=torch.float64)
#: Default target of a block: the residual itself is to vanish at all points.
ZERO = torch.zeros(1, dtype=torch.float64)
#: Default quadrature weight of a block: all points count equally.
ONE = torch.ones(1, dtype=torch.float64)


@dataclass(frozen=True)
class Residuals:
    """Residuals at new points relative to the largest term."""

    rms: float
    largest: float
    place: tuple[float, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[Tensor, Tensor]]) -> Residuals:
        """Return the residuals of parts: points (rows, variables) and residuals (rows,) of each."""
        if not parts:
            return cls(0.0, 0.0, ())
        points, residual = (torch.cat(each) for each in zip(*parts, strict=True))
        at = int(residual.abs().argmax())
        rms = float(residual.square().mean().sqrt())
        return cls(rms, float(residual[at].abs()), tuple(points[at].tolist()))


@dataclass(frozen=True)
class Block:
    """Relation at its points, shape (points, variables).

    Attributes:
        kind: `equation`, `condition` or `data`.
        target: Values (points,) that are subtracted from the residual, such as observations.
        partner: Points at which the relation is subtracted: a periodic condition.
        unit: Divides the residuals, so that blocks in different units can be compared.
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
        """Factor from a residual to a row, without the root of its share."""
        return sqrt(self.weight / len(self.points)) / self.unit

    def residual(
        self, field: Field, constants: Tensor, x: Tensor, *, jacobian: bool = False
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points columns"]]:
        """Return left - right at x and, if asked for, its derivatives.

        Columns are the unknowns of the field, then the unknown parameters.
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
        """Return the rows (points,) and, if asked for, their derivatives (points, unknowns)."""
        residual, slopes = self.residual(field, constants, self.points, jacobian=jacobian)
        if self.partner is not None:
            other = self.residual(field, constants, self.partner, jacobian=jacobian)
            residual = residual - other[0]
            slopes = slopes - other[1]
        scale = self.scale * self.shares.sqrt()
        return (residual - self.target) * scale, slopes * scale[:, None]


class ResidualProblem(Problem):
    """Blocks as one problem in the unknowns of a copy of `field`, then the unknown parameters."""

    def __init__(
        self, field: Field, blocks: Sequence[Block], constants: Float[Tensor, " constants"]
    ) -> None:
        self._field, self.blocks, found = deepcopy(field), tuple(blocks), field.get_unknowns()
        self.unknowns, self._count = torch.cat([found, constants]), len(found)

    def solution(
        self, unknowns: Float[Tensor, " unknowns"]
    ) -> tuple[Field, Float[Tensor, " constants"]]:
        """Return the field and the parameters at `unknowns`."""
        values, constants = unknowns.tensor_split([self._count])
        self._field.set_unknowns(values)
        return deepcopy(self._field), constants.clone()

    def residual(self, unknowns: Tensor) -> Tensor:
        return torch.cat([rows for rows, _ in self.evaluate(unknowns, jacobian=False)])

    def linearise(self, unknowns: Tensor) -> Linearisation:
        rows, slopes = zip(*self.evaluate(unknowns), strict=True)
        return Linearisation(DenseRows(torch.cat(slopes)), torch.cat(rows))

    def loss(self, unknowns: Tensor, kind: str) -> float:
        """Return the part of the objective from blocks of this kind."""
        chosen = [block for block in self.blocks if block.kind == kind]
        found = self.evaluate(unknowns, chosen, jacobian=False)
        return float(sum(rows.square().sum() for rows, _ in found))

    def misfit(self, unknowns: Tensor) -> float:
        """Return the relative root mean square difference from the observations; 0 without any."""
        data = [block.weight for block in self.blocks if block.kind == "data"]
        return sqrt(self.loss(unknowns, "data") / sum(data)) if data else 0.0

    def evaluate(
        self, unknowns: Tensor, blocks: Sequence[Block] | None = None, *, jacobian: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the rows of each block and their derivatives."""
        values, constants = unknowns.tensor_split([self._count])
        self._field.set_unknowns(values)
        chosen = self.blocks if blocks is None else blocks
        return [block.rows(self._field, constants, jacobian=jacobian) for block in chosen]


def arguments_of(points: Tensor, values: Tensor, constants: Tensor) -> Array:
    """Return arguments of a relation, shape (points, names), from values of its derivatives."""
    return torch.cat([points, values, constants.expand(len(points), -1)], dim=1).numpy()


def arguments_at(
    relation: Relation, field: Field | Windows, constants: Tensor, points: Tensor
) -> Array:
    """Return the arguments of a relation at points, shape (points, names)."""
    every = relation.derivatives
    found = field.derivatives(points, [each.index for each in every])
    values = found[:, [each.unknown for each in every], range(len(every))]
    return arguments_of(points, values, constants)


def standard_errors(
    problem: ResidualProblem, unknowns: Tensor
) -> tuple[Float[Tensor, " constants"], float]:
    """Return the standard errors of the unknown parameters, and their largest inflation.

    The errors are roots of the diagonal of s^2 (J^T J)^-1; NaN without observations. The inflation
    is the factor by which an error exceeds its value if the other parameters were known. It is
    large if several parameters change the solution in the same way.

    J has the rows of the observations in their own units, below those of the equation and its
    conditions, which count as exact observations. s^2 is the mean squared residual of the
    observations over their degrees of freedom. The diagonal is read from the last rows of R in J =
    QR, since J^T J is singular to working precision on fine grids.
    """
    constants = problem.solution(unknowns)[1]
    data = [block for block in problem.blocks if block.kind == "data"]
    if not data or not len(constants):
        return torch.full_like(constants, torch.nan), 1.0
    observed = problem.evaluate(unknowns, data, jacobian=False)
    residual = torch.cat([r / block.scale for (r, _), block in zip(observed, data, strict=True)])
    variance = float(residual.square().sum()) / max(len(residual) - len(constants), 1)
    jacobian = torch.cat([slopes for _, slopes in problem.evaluate(unknowns)]) / data[0].scale
    sizes = jacobian.norm(dim=0).clamp(min=TINY)
    corner = torch.linalg.qr(jacobian / sizes, mode="r")[1][-len(constants) :, -len(constants) :]
    left, along, right = torch.linalg.svd(corner)
    inverse = right.T / along.clamp(min=SINGULAR * float(along.max())) @ left.T
    inflation = float((inverse.norm(dim=1) * corner.norm(dim=0)).max())
    return inverse.norm(dim=1) / sizes[-len(constants) :] * sqrt(variance), inflation


def sensitivity(problem: ResidualProblem, points: Float[Tensor, "points variables"]) -> float:
    """Return the largest relative change of an unknown at points for a change of residuals by 1."""
    field = problem.solution(problem.unknowns)[0]
    monomials = Monomials.covering([], points.shape[1])
    parts = list[Tensor]()
    for number, size in enumerate(field.sizes.tolist()):
        with torch.enable_grad():
            jets, parameters = field.jets(points, monomials)
            values = jets[0, :, number]
            rms = float(values.detach().square().mean().sqrt())
            parts.append(point_jacobian(values.sum(), parameters) / max(rms, size * QUIET))
    moved = torch.cat(parts) / sqrt(len(points))
    moved = torch.nn.functional.pad(moved, (0, len(problem.unknowns) - moved.shape[1]))
    return largest_response(problem.linearise(problem.unknowns), DenseRows(moved))


def largest_response(linear: Linearisation, relative: Rows) -> float:
    """Return the largest singular value of U J^+ by the power method.

    U (`relative`) holds the derivatives of the relative unknowns by the parameters, J those of the
    residuals. Values up to 1e7 occur if many functions make the residuals small: underdetermined
    equations. The value is infinite if conjugate gradients did not solve for it.
    """
    equations = NormalEquations(linear)
    solve = equations.solver(OPEN_DAMPING)
    drawn = torch.linspace(1, 2, linear.rows.unknowns, dtype=linear.residual.dtype)
    largest = 0.0
    for _ in range(POWER_STEPS):
        drawn = solve(relative.transposed(relative.times(drawn)))
        largest = float(drawn.norm())
        drawn = drawn / largest
    return inf if equations.truncated else sqrt(largest)


@dataclass(frozen=True)
class EquationStage:
    """Finished grid.

    Attributes:
        change: Relative root mean square change of the solution from the previous grid.
        standard_errors: Standard errors of the unknown parameters; NaN without observations.
        seconds: CPU time of this window.
        points: Collocation points inside, shape (points, variables).
        sensitivity: Largest relative change of the solution for a change of all residuals by 1
            (root mean square).
        data: Root mean square difference from the observations, relative to the sizes of the
            unknowns.
        least_data: Smallest value of `data` on any grid.
        inflation: Factor on a standard error from not knowing the other parameters, see
            `standard_errors`.
    """

    intervals: int | None
    solution: Field
    unknowns: int
    steps: int
    objective: float
    equation: Residuals
    conditions: Residuals
    change: float | None
    seconds: float
    points: Tensor
    window: int = 0
    constants: Tensor = NO_CONSTANTS
    standard_errors: Tensor = NO_CONSTANTS
    sensitivity: float | None = None
    data: float = 0.0
    least_data: float = 0.0
    inflation: float = 1.0


@dataclass(frozen=True)
class Solution:
    """Solved system: its field or windows, their last grids, and the end of the last one.

    Attributes:
        estimate: Estimated relative L2 error over all windows, from a second solution; None without
            one.
        tolerance: What the estimate should be below.
        stopped: Why the solution ends before the range does, or above the tolerance.
        doubt: Why the estimate says little, as for ill-posed equations.
        contradiction: Contradiction between the equation and its conditions, if there is one.
        unseen: Largest residual that no grid represents at places which no fit has used; None if
            the solver did not look for it.
    """

    network: Field | Windows
    last: tuple[EquationStage, ...]
    solved_until: float
    estimate: float | None = None
    tolerance: float | None = None
    stopped: str = ""
    doubt: str | None = None
    contradiction: Contradiction | None = None
    unseen: float | None = None


@dataclass(frozen=True)
class Missed:
    """Condition on a face, and by how much functions that satisfy the equation miss it."""

    text: str
    face: Face
    difference: float


@dataclass(frozen=True)
class Contradiction:
    """Contradiction between an equation and its conditions.

    Attributes:
        residual: Smallest residual of functions that meet the conditions, relative to the terms of
            the equation.
        missed: Conditions that functions miss which satisfy the equation; empty if none does.
    """

    residual: float
    missed: tuple[Missed, ...]


@dataclass(frozen=True)
class Grids:
    """Intervals of grids in turn, and whether finer ones follow as long as they help."""

    intervals: tuple[int, ...]
    grows: bool


@dataclass(frozen=True)
class Ansatz:
    """Form of a solution: networks, how their outputs form the unknowns, and the grids.

    Attributes:
        create: Creates a network with the inputs of the box on [-1, 1], from the keyword
            `generator`.
        intervals: Grids in turn. A network without grids has None for each round of weights.
        grows: Whether finer grids follow as long as they help.
        free_terms: Whether initial values determine the number of terms.
    """

    create: Callable[..., Network]
    form: OutputForm
    intervals: tuple[int | None, ...]
    grows: bool = False
    free_terms: bool = False


#: How a system is solved: by networks on truncated Taylor series, on tensor products of splines, or
#: in windows of splines times polynomials of time.
Method = Ansatz | Grids | EvolutionSystem
