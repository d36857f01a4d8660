"""Collocation of a system on one box: points, weights and units of its residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch
from torch import Generator, Tensor

from kanrun.engine.equations.fields import Field, breakpoints_of, edges_of
from kanrun.engine.equations.residuals import (
    ONE,
    Block,
    ResidualProblem,
    Residuals,
    arguments_at,
    arguments_of,
)
from kanrun.engine.equations.space import Space
from kanrun.engine.equations.system import System, low_discrepancy, on_face

#: Intervals of the quadrature rule in one variable for networks without grids.
INTERVALS_WITHOUT_GRID = 20
#: Points of that rule per interval, at most. It is then exact for squares of the residual.
POINTS_PER_INTERVAL = 10
#: Lower bound of the number of points per unknown, in several variables.
POINTS_PER_UNKNOWN = 2.5
#: Number of points per face at which the magnitudes of the unknowns are estimated from the
#: conditions. Fewer points may miss a narrow peak of the given values; more only take time.
SIZE_POINTS = 60
#: Largest number of points at which the sizes of the terms of a relation are measured. More points
#: give steadier units of the residuals and take more time.
UNIT_POINTS = 256
#: Networks have no collocation points within this distance of an incompatible corner, relative to
#: the box: the solution has infinite derivatives there, which would spoil the rest of it.
CORNER_RADIUS = 0.1
#: Given values below this fraction of the sources of the equations count as zero.
VANISHING = 1e-12
#: Changes of an unknown below this fraction of its estimated size do not count.
NEGLIGIBLE = 1e-6
#: Weights of conditions and observations where residuals are compared with those of equations.
EQUAL_WEIGHTS = 1.0, 1.0
#: Weights of conditions and observations on the first grid, relative to the equation.
FIRST_WEIGHTS = 100.0, 100.0
#: Factor by which the weight of conditions rises, and that of observations falls, from one grid to
#: the next. With a larger factor the bounds below are reached on coarser grids.
WEIGHT_GROWTH = 10.0
#: Largest weight of conditions, relative to the equation. A larger weight satisfies conditions
#: more closely, but costs the normal equations digits.
MAX_WEIGHT = 1e6
#: Smallest weight of observations, relative to the equation. With a smaller weight, noise affects
#: the solution less, but unknown parameters are determined less well.
MIN_DATA_WEIGHT = 1e-2
#: Conditions are incompatible if their part of the objective rises and exceeds that of the equation
#: by this factor.
INCOMPATIBLE_FACTOR = 10.0


@dataclass(frozen=True)
class EquationPolicy:
    """Constants of a solution, chosen on 38 ordinary and partial equations with known solutions."""

    #: Collocation points inside the box; at least 1.
    collocation_points: int = 2000
    #: Points of each face; at least 2.
    boundary_points: int = 60
    #: New points at which a grid is evaluated.
    test_points: int = 4000

    #: Races on the first grid: networks in each round, and steps that each of them takes.
    rounds: tuple[tuple[int, int], ...] = ((12, 6), (4, 10), (2, 20))
    #: Rounds for functions of several variables with few unknowns. They have more bad minima, which
    #: two of five seeds of a [2,2,1] reached with the rounds above.
    rounds_if_small: tuple[tuple[int, int], ...] = ((24, 8), (8, 20), (3, 60))
    #: Collocation points of a race.
    start_points: int = 400

    #: Steps of a grid at most.
    steps: int = 30
    #: Counted work at most, in approximate CPU seconds.
    budget: float = 60.0


class Collocation:
    """Blocks of residuals of one system on one box.

    Attributes:
        sizes: Magnitudes of the unknowns.
    """

    def __init__(self, system: System, policy: EquationPolicy, generator: Generator) -> None:
        """Draw the seeds of points, and estimate the magnitude of each unknown; 1 by default."""
        self.system = system
        self.policy = policy
        drawn = torch.randint(2**31, (3,), generator=generator).tolist()
        self.inside, self.candidates, self.unseen = drawn
        self.sizes = system.box.new_ones(len(system.vocabulary.unknowns))
        # Observations and conditions tell the sizes; if those vanish, the sources of equations.
        given = self._largest(self.borders(SIZE_POINTS, EQUAL_WEIGHTS))
        sources = self._largest(self.equations(self.points(self.unseen)))
        sizes = given if float(given.max()) > VANISHING * float(sources.max()) else sources
        self.sizes = torch.where(sizes > 0, sizes, float(sizes.max()) or 1.0)

    def _largest(self, blocks: Sequence[Block]) -> Tensor:
        """Return the sizes of the unknowns from values that blocks give, 0 where none does."""
        sizes = torch.zeros_like(self.sizes)
        for block in (each for each in blocks if each.partner is None):
            derivatives = block.relation.derivatives
            zeros = block.points.new_zeros(len(block.points), len(derivatives))
            arguments = arguments_of(block.points, zeros, self.system.guesses())
            residual = torch.as_tensor(block.relation.residual(arguments)).nan_to_num()
            if (largest := float((residual - block.target).abs().max())) > 0:
                unknowns = [each.unknown for each in derivatives]
                sizes[unknowns] = sizes[unknowns].clamp(min=largest / block.unit)
        return sizes

    def points(self, seed: int, count: int | None = None, solution: Field | None = None) -> Tensor:
        """Return about `count` points (default: `test_points`), half of them following the knots.

        None is next to an incompatible corner.
        """
        box = self.system.box
        count = count or self.policy.test_points
        points = low_discrepancy(box, count, seed, edges_of(solution))
        for corner in self.system.corners:
            fixed, values = map(list, zip(*corner.face, strict=True))
            away = (points[:, fixed] - box.new_tensor(values)) / box.diff()[fixed, 0]
            points = points[away.norm(dim=1) > CORNER_RADIUS]
        return points

    def collocation(self, solution: Field) -> tuple[Tensor, Tensor]:
        """Return the points inside and their quadrature weights.

        A rule over the grid is used in one variable. The rows are then the integral of the squared
        residual, for which splines converge faster than at points anywhere in the intervals.
        Otherwise the points are low-discrepancy points of equal weights.
        """
        policy = self.policy
        ends = breakpoints_of(solution)
        box = self.system.box
        if len(box) == 1:
            if ends is None:
                even = torch.linspace(-1, 1, INTERVALS_WITHOUT_GRID + 1, dtype=box.dtype)
                ends = solution.outer(even[:, None])
            each = max(2, -(-policy.collocation_points // (len(ends) - 1)))
            rule = np.polynomial.legendre.leggauss(min(each, POINTS_PER_INTERVAL))
            places = Space(ends[:, 0].numpy(), ()).places(rule)
            shares = torch.as_tensor(places.shares.ravel())
            return torch.as_tensor(places.at.reshape(-1, 1)), shares * len(shares)
        unknowns = len(solution.get_unknowns())
        count = max(policy.collocation_points, round(POINTS_PER_UNKNOWN * unknowns))
        return self.points(self.inside, count, solution), ONE

    def blocks(
        self, field: Field, weights: tuple[float, float], solution: Field | None = None
    ) -> list[Block]:
        """Return all rows for a field, in units of `solution`; equations have the weight 1."""
        points, shares = self.collocation(field)
        borders = self.borders(self.policy.boundary_points, weights, solution)
        return [*self.equations(points, solution, shares), *borders]

    def equations(
        self, points: Tensor, solution: Field | None = None, shares: Tensor = ONE
    ) -> list[Block]:
        """Return the rows of the equations, in units of `solution`."""
        inside = [Block("equation", each, points, shares=shares) for each in self.system.equations]
        return self.scaled(inside, solution)

    def borders(
        self, count: int, weights: tuple[float, float], solution: Field | None = None
    ) -> list[Block]:
        """Return the rows of conditions and observations, of these weights.

        Conditions have about `count` points per face, which follow the knots of `solution`. The
        rows have its units.
        """
        blocks, (weight, data_weight), system = list[Block](), weights, self.system
        edges = edges_of(solution)
        for condition in system.conditions:
            faces = condition.faces
            ring = condition.periodic
            partner = None
            if ring is not None:
                low, high = system.box[ring].tolist()
                faces = (((ring, low),),)
                partner = on_face(((ring, high),), system.box, count, edges)
            first = torch.cat([on_face(face, system.box, count, edges) for face in faces])
            blocks.append(Block("condition", condition.relation, first, weight, partner=partner))
        blocks += [
            Block("data", each.relation, each.points, data_weight, target=each.values)
            for each in system.observations
        ]
        return self.scaled(blocks, solution)

    def scaled(self, blocks: Sequence[Block], solution: Field | None = None) -> list[Block]:
        """Return blocks with the sizes of their terms as units, in which the user's cancel."""
        return [replace(block, unit=self._unit(block, solution)) for block in blocks]

    def _unit(self, block: Block, solution: Field | None = None) -> float:
        """Return the largest root mean square of a term |dR/du_a| times the size of u_a.

        The size of a derivative is that of the unknown divided by half the extent of the box for
        each differentiation. Slopes dR/du_a are those at random values of these sizes. With
        `solution` they are evaluated there too, and the smaller result counts.
        """
        relation = block.relation
        fixed = self.system.guesses()
        half = self.system.box.diff()[:, 0] / 2
        drawn = np.random.default_rng(0)
        scale = [
            float(self.sizes[each.unknown] / (half ** half.new_tensor(each.index)).prod())
            for each in relation.derivatives
        ]
        count = len(block.points)
        order = np.arange(count) if solution is None else drawn.permutation(count)
        at = block.points[order[:UNIT_POINTS]]
        values = torch.as_tensor(drawn.standard_normal((len(at), len(scale))) * scale)
        rows = [arguments_of(at, values, fixed)]
        if solution is not None:
            rows.append(arguments_at(relation, solution, fixed, at))
        terms = [np.nan_to_num(relation.slopes(each)[:, : len(scale)]) * scale for each in rows]
        return min(float(np.sqrt(np.mean(each**2, axis=0)).max()) for each in terms) or 1.0

    def squares(self, solution: Field, constants: Tensor, points: Tensor) -> Tensor:
        """Return the sum of the squared residuals of all equations at points."""
        problem = ResidualProblem(solution, self.equations(points), constants)
        rows = problem.residual(problem.unknowns).view(-1, len(points))
        return rows.square().sum(0).nan_to_num(posinf=0.0)

    def residuals(self, solution: Field, constants: Tensor) -> tuple[Residuals, Residuals]:
        """Return the residuals of equations and of conditions at new points."""
        # Twice the points of a face and one more lie between those of the rows.
        count = 2 * max(self.policy.boundary_points, 3 * (solution.intervals or 0)) + 1
        borders = self.borders(count, EQUAL_WEIGHTS, solution)
        inside = self.equations(self.points(self.unseen, None, solution), solution)
        problem = ResidualProblem(solution, (), constants)
        found = []
        for blocks in (inside, [block for block in borders if block.kind == "condition"]):
            rows = problem.evaluate(problem.unknowns, blocks, jacobian=False)
            pairs = zip(blocks, rows, strict=True)
            found.append(Residuals.of([(b.points, r * sqrt(len(r))) for b, (r, _) in pairs]))
        return found[0], found[1]

    def narrow_residual(self, solution: Field, constants: Tensor) -> float:
        """Return the largest root mean square residual where formulas change fast in a variable."""
        found = 0.0
        for number in range(len(self.system.box)):
            narrow = torch.as_tensor(self.system.scan.narrow(number))
            if len(narrow):
                points = self.points(self.unseen)
                points[:, number] = narrow.repeat(-(-len(points) // len(narrow)))[: len(points)]
                squares = self.squares(solution, constants, points)
                found = max(found, float(squares.mean().sqrt()))
        return found

    def change(self, solution: Field, previous: Field) -> float:
        """Return the largest relative root mean square change of an unknown."""
        box = self.system.box
        count = self.policy.test_points
        points = low_discrepancy(box, count, self.unseen, edges_of(solution))
        with torch.no_grad():
            now = solution(points)
            then = previous(points)
        size = now.square().mean(0).sqrt().maximum(NEGLIGIBLE * self.sizes)
        return float(((now - then).square().mean(0).sqrt() / size).max())


class ConditionWeights:
    """Weights of conditions and observations on the next grid, from the objective on the last.

    Conditions weigh more on each grid as long as they give way. Incompatible ones, such as an
    initial slope that is not that of a wall, never do: heavier, they would outweigh the equation
    and the observations. Their weight returns to the previous one and stays. Observations have
    errors and the equation has none: they weigh less on each grid as long as their part of the
    objective is larger than that of the equation.
    """

    def __init__(self) -> None:
        self._part = 0.0
        self._stays = False
        #: Of conditions and of observations.
        self.present = FIRST_WEIGHTS

    def follow(self, problem: ResidualProblem, unknowns: Tensor) -> None:
        """Set the weights of the next grid from the solution of `problem`."""
        conditions, data = self.present
        equation, part = (problem.loss(unknowns, kind) for kind in ("equation", "condition"))
        if part > INCOMPATIBLE_FACTOR * equation and 0 < self._part < part:
            conditions = max(conditions / WEIGHT_GROWTH, FIRST_WEIGHTS[0])
            self._stays = True
        elif not self._stays:
            conditions = min(conditions * WEIGHT_GROWTH, MAX_WEIGHT)
        if problem.loss(unknowns, "data") > equation:
            data = max(data / WEIGHT_GROWTH, MIN_DATA_WEIGHT)
        self.present = (conditions, data)
        self._part = part
