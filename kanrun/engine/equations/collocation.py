"""Collocation of a system on one box: points, weights and units of its residuals."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.fields import Field, edges_of
from kanrun.engine.equations.policy import EquationPolicy
from kanrun.engine.equations.residuals import (
    Block,
    ResidualProblem,
    Residuals,
    condition_blocks,
    estimate_sizes,
    measure,
    with_units,
)
from kanrun.engine.equations.system import System, gauss_points, low_discrepancy

#: Intervals of the quadrature rule in one variable for networks without grids.
INTERVALS_WITHOUT_GRID = 20
#: Points of that rule per interval, at most. It is then exact for squares of the residual.
POINTS_PER_INTERVAL = 10
#: Fraction of the points that are added after each grid where the residual is largest. Points are
#: never exchanged: the error of a travelling front then swings between 0.018 and 0.105.
ADDED_POINTS = 0.2
#: Exponent of the weight by the distance from an incompatible corner, of squared residuals.
CORNER_POWER = 4
#: Changes of an unknown below this fraction of its estimated size do not count.
NEGLIGIBLE = 1e-6
#: Weights of conditions and observations where residuals are compared with those of equations.
EQUAL_WEIGHTS = 1.0, 1.0


class Collocation:
    """Blocks of residuals of one system on one box.

    Attributes:
        sizes: Magnitudes of the unknowns.
    """

    def __init__(self, system: System, policy: EquationPolicy, generator: Generator) -> None:
        """Draw the seeds of points."""
        self.system, self.policy = system, policy
        drawn = torch.randint(2**31, (3,), generator=generator).tolist()
        self.inside, self.candidates, self.unseen = drawn
        self.added = system.box.new_zeros(0, len(system.box))
        self.sizes = estimate_sizes(system, self.points(self.unseen))

    def points(self, seed: int, count: int | None = None, solution: Field | None = None) -> Tensor:
        """Return `count` points (default: `test_points`), half of them following the knots."""
        edges = None if solution is None else edges_of(solution)
        return low_discrepancy(self.system.box, count or self.policy.test_points, seed, edges)

    def collocation(self, solution: Field) -> tuple[Tensor, Tensor | None]:
        """Return the points inside and their quadrature weights, if they belong to a rule.

        A rule over the grid is used in one variable. The rows are then the integral of the squared
        residual, for which splines converge faster than at points anywhere in the intervals.
        Otherwise the points are low-discrepancy and added points.
        """
        policy, edges, box = self.policy, edges_of(solution), self.system.box
        if len(box) == 1:
            if edges is None:
                edges = torch.linspace(-1, 1, INTERVALS_WITHOUT_GRID + 1, dtype=box.dtype)[None]
            each = -(-policy.collocation_points // (edges.shape[1] - 1))
            return gauss_points(box, edges[0], min(each, POINTS_PER_INTERVAL))
        unknowns = len(solution.get_unknowns())
        count = max(policy.collocation_points, round(policy.points_per_unknown * unknowns))
        return torch.cat([self.points(self.inside, count, solution), self.added]), None

    def blocks(
        self, field: Field, weights: tuple[float, float], solution: Field | None = None
    ) -> list[Block]:
        """Return all rows for a field, in units of `solution`; equations have the weight 1."""
        points, shares = self.collocation(field)
        borders = self.borders(self.policy.boundary_points, weights, solution)
        return [*self.equations(points, solution, shares), *borders]

    def equations(
        self, points: Tensor, solution: Field | None = None, shares: Tensor | None = None
    ) -> list[Block]:
        """Return the rows of the equations; units are those of `solution`, see `with_units`."""
        inside = [Block("equation", each, points, shares=shares) for each in self.system.equations]
        return with_units(self.weigh_corners(inside), self.system, self.sizes, solution)

    def borders(
        self, count: int, weights: tuple[float, float], solution: Field | None = None
    ) -> list[Block]:
        """Return the rows of conditions and observations, of these weights.

        Points follow the knots of `solution`.
        """
        edges = None if solution is None else edges_of(solution)
        blocks = condition_blocks(self.system, count, *weights, edges)
        return with_units(self.weigh_corners(blocks), self.system, self.sizes, solution)

    def weigh_corners(self, blocks: list[Block]) -> list[Block]:
        """Return the blocks, except observations, with smaller weights around corners."""
        low, high = self.system.box.T
        for corner in self.system.corners:
            fixed, values = map(list, zip(*corner.face, strict=True))
            reach = self.policy.corner_reach(corner.gap, corner.relation.order)
            unknowns = {each.unknown for each in corner.relation.derivatives}
            for number, block in enumerate(blocks):
                contained = {each.unknown for each in block.relation.derivatives}
                if block.kind != "data" and contained & unknowns:
                    away = (block.points[:, fixed] - low.new_tensor(values)) / (high - low)[fixed]
                    shares = (away.norm(dim=1) / reach).clamp(max=1) ** CORNER_POWER
                    shares = shares if block.shares is None else block.shares * shares
                    blocks[number] = replace(block, shares=shares)
        return blocks

    def squares(self, solution: Field, constants: Tensor, points: Tensor) -> Tensor:
        """Return the sum of the squared residuals of all equations at points."""
        problem = ResidualProblem(solution, self.equations(points), constants)
        rows = problem.residual(problem.unknowns).view(-1, len(points))
        return rows.square().sum(0).nan_to_num(posinf=0.0)

    def residuals(self, solution: Field, constants: Tensor) -> tuple[Residuals, Residuals]:
        """Return the residuals of equations and of conditions at new points."""
        unseen = self.points(self.unseen, None, solution)
        # Twice the points of a face and one more lie between those of the rows.
        count = 2 * max(self.policy.boundary_points, 3 * (solution.intervals or 0)) + 1
        borders = self.borders(count, EQUAL_WEIGHTS, solution)
        conditions = [block for block in borders if block.kind == "condition"]
        inside = self.equations(unseen, solution)
        return measure(inside, solution, constants), measure(conditions, solution, constants)

    def change(self, solution: Field, previous: Field) -> float:
        """Return the largest relative root mean square change of an unknown."""
        points = self.points(self.unseen, None, solution)
        with torch.no_grad():
            now, then = solution(points), previous(points)
        size = now.square().mean(0).sqrt().maximum(NEGLIGIBLE * self.sizes)
        return float(((now - then).square().mean(0).sqrt() / size).max())

    def add_points(self, solution: Field, constants: Tensor) -> None:
        """Add new points where the residual of the equations is largest."""
        count, points = len(self.system.box), self.policy.collocation_points
        if count > 1:
            candidates = self.points(self.candidates + len(self.added) + 1, 4 * points)
            squares = self.squares(solution, constants, candidates)
            worst = squares.topk(round(ADDED_POINTS * points)).indices
            self.added = torch.cat([self.added, candidates[worst]])


class ConditionWeights:
    """Weights of conditions and observations on the next grid, from the objective on the last.

    Conditions weigh more on each grid as long as they give way. Incompatible ones, such as an
    initial slope that is not that of a wall, never do: heavier, they would outweigh the equation
    and the observations. Their weight returns to the previous one and stays. Observations have
    errors and the equation has none: they weigh less on each grid as long as their part of the
    objective is larger than that of the equation.
    """

    def __init__(self, policy: EquationPolicy) -> None:
        self.policy, self._part, self._stays = policy, 0.0, False
        #: Of conditions and of observations.
        self.present = policy.condition_weight, policy.data_weight

    def follow(self, problem: ResidualProblem, unknowns: Tensor) -> None:
        """Set the weights of the next grid from the solution of `problem`."""
        policy, kinds, (conditions, data) = self.policy, ("equation", "condition"), self.present
        equation, part = (problem.loss(unknowns, kind) for kind in kinds)
        if part > policy.incompatible_factor * equation and 0 < self._part < part:
            conditions = max(conditions / policy.weight_growth, policy.condition_weight)
            self._stays = True
        elif not self._stays:
            conditions = min(conditions * policy.weight_growth, policy.max_weight)
        if problem.loss(unknowns, "data") > equation:
            data = max(data / policy.weight_growth, policy.min_data_weight)
        self.present, self._part = (conditions, data), part
