"""Collocation of a system on a box: points, weights and units of the residuals."""

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
    arguments_at,
    arguments_of,
)
from kanrun.engine.equations.solution import Residuals
from kanrun.engine.equations.space import Space
from kanrun.engine.equations.system import System, low_discrepancy, on_face

#: Weights of conditions and of observations when residuals are measured rather than minimised.
EQUAL_WEIGHTS = 1.0, 1.0
#: Weights of conditions and of observations on the first grid, relative to the equation.
FIRST_WEIGHTS = 100.0, 100.0


@dataclass(frozen=True)
class EquationPolicy:
    """Numbers of points and steps, and the budget of a solver.

    The defaults were chosen on 38 ordinary and partial equations with known solutions.
    """

    #: Number of collocation points inside the box; at least 1.
    collocation_points: int = 2000
    #: Number of points on each face; at least 2.
    boundary_points: int = 60
    #: Number of points at which residuals are measured after the fit.
    test_points: int = 4000

    #: Search for an initial guess in rounds: (number of networks, number of steps of each network)
    #: per round. The best networks of a round enter the next one.
    rounds: tuple[tuple[int, int], ...] = ((12, 6), (4, 10), (2, 20))
    #: The same rounds for small networks in several variables, which have more bad minima and
    #: therefore need more initial guesses.
    rounds_if_small: tuple[tuple[int, int], ...] = ((24, 8), (8, 20), (3, 60))
    #: Number of collocation points during the search for an initial guess.
    start_points: int = 400

    #: Largest number of steps on each grid.
    steps: int = 30
    #: Largest amount of work, in estimated CPU seconds.
    budget: float = 60.0


class Collocation:
    """Residuals of one system on a box, as blocks of a least squares problem.

    Attributes:
        system: The system.
        policy: Numbers of collocation and test points.
        inside: Seed of the points at which equations are fitted.
        candidates: Seed of the points that show where to refine.
        unseen: Seed of the points at which residuals are measured after the fit.
        sizes: Estimated magnitudes of the unknowns, shape (unknowns,).
    """

    def __init__(self, system: System, policy: EquationPolicy, generator: Generator) -> None:
        """Draw the seeds of the points, and estimate the sizes of the unknowns.

        The size of an unknown is estimated from its conditions and observations or, if these are
        zero, from the source terms of the equations that contain it. An unknown without an estimate
        gets the largest size of the other unknowns, or 1 if there is none.
        """
        # If the prescribed values of an unknown are below this fraction of the largest prescribed
        # value or source term, they count as zero, and its size is estimated from the source terms.
        vanishing = 1e-12
        # Number of points per face at which the magnitudes of the unknowns are estimated from the
        # conditions. Fewer points may miss a narrow peak of the prescribed values; more only take
        # time.
        size_points = 60
        self.system = system
        self.policy = policy
        drawn = torch.randint(2**31, (3,), generator=generator).tolist()
        self.inside, self.candidates, self.unseen = drawn
        self.sizes = system.box.new_ones(len(system.vocabulary.unknowns))
        given = self._largest(self.borders(size_points, EQUAL_WEIGHTS))
        sources = self._largest(self.equations(self.points(self.unseen)))
        largest = float(torch.maximum(given, sources).max())
        sizes = torch.where(given > vanishing * largest, given, sources)
        self.sizes = torch.where(sizes > 0, sizes, float(sizes.max()) or 1.0)

    def _largest(self, blocks: Sequence[Block]) -> Tensor:
        """Estimate the size of each unknown from the terms of `blocks` that contain no unknown.

        The residual of a block with all unknowns set to zero, divided by the unit of the block, is
        the value that the block prescribes: 5 for the condition u = 5. Return the largest
        prescribed value for each unknown, shape (unknowns,), or 0 if no block prescribes one.
        """
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
        """Return about `count` points in the box, but none near an incompatible corner.

        Args:
            seed: Seed of the low-discrepancy sequence.
            count: Number of points; None for `policy.test_points`.
            solution: Solution whose knots the points follow (see `low_discrepancy`), or None.
        """
        # Radius around an incompatible corner without collocation points, relative to the box.
        # Derivatives are infinite there; points closer to the corner would spoil the solution
        # everywhere.
        corner_radius = 0.1
        box = self.system.box
        count = count or self.policy.test_points
        points = low_discrepancy(box, count, seed, edges_of(solution))
        for corner in self.system.corners:
            fixed, values = map(list, zip(*corner.face, strict=True))
            away = (points[:, fixed] - box.new_tensor(values)) / box.diff()[fixed, 0]
            points = points[away.norm(dim=1) > corner_radius]
        return points

    def collocation(self, solution: Field) -> tuple[Tensor, Tensor]:
        """Return the collocation points inside the box, and their quadrature weights with mean 1.

        In one variable, the points are Gauss points of each interval. The objective is then the
        integral of the squared residual, and splines converge faster than with other points. In
        several variables, low-discrepancy points with equal weights are used.
        """
        # Smallest number of collocation points per unknown of the network, in several variables.
        points_per_unknown = 2.5
        # Largest number of Gauss points per interval in one variable. More points add nothing,
        # because 10 integrate the squared residual of splines accurately.
        points_per_interval = 10
        # Number of intervals of the quadrature rule for networks without grids in one variable.
        intervals_without_grid = 20
        policy = self.policy
        ends = breakpoints_of(solution)
        box = self.system.box
        if len(box) == 1:
            if ends is None:
                even = torch.linspace(-1, 1, intervals_without_grid + 1, dtype=box.dtype)
                ends = solution.outer(even[:, None])
            each = max(2, -(-policy.collocation_points // (len(ends) - 1)))
            rule = np.polynomial.legendre.leggauss(min(each, points_per_interval))
            places = Space(ends[:, 0].numpy(), ()).places(rule)
            shares = torch.as_tensor(places.shares.ravel())
            return torch.as_tensor(places.at.reshape(-1, 1)), shares * len(shares)
        unknowns = len(solution.get_unknowns())
        count = max(policy.collocation_points, round(points_per_unknown * unknowns))
        return self.points(self.inside, count, solution), ONE

    def blocks(
        self, field: Field, weights: tuple[float, float], solution: Field | None = None
    ) -> list[Block]:
        """Return the blocks of equations, conditions and observations.

        Args:
            field: Field to be fitted; the collocation points follow its knots.
            weights: Weights of conditions and of observations; equations have the weight 1.
            solution: Approximate solution from which the units are computed, or None.
        """
        points, shares = self.collocation(field)
        borders = self.borders(self.policy.boundary_points, weights, solution)
        return [*self.equations(points, solution, shares), *borders]

    def equations(
        self, points: Tensor, solution: Field | None = None, shares: Tensor = ONE
    ) -> list[Block]:
        """Return one block per equation at `points` with quadrature weights `shares`.

        The units are computed from the approximate `solution`, if given.
        """
        inside = [Block("equation", each, points, shares=shares) for each in self.system.equations]
        return self.scaled(inside, solution)

    def borders(
        self, count: int, weights: tuple[float, float], solution: Field | None = None
    ) -> list[Block]:
        """Return one block per condition and observed unknown.

        Args:
            count: Approximate number of points per face.
            weights: Weights of conditions and of observations.
            solution: Approximate solution, or None. If given, the units of residuals depend on it
                too, and points are denser where its knots are.
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
        """Return the blocks with the size of their largest term as unit.

        The residuals of these blocks are dimensionless. For `solution`, see `_unit`.
        """
        return [replace(block, unit=self._unit(block, solution)) for block in blocks]

    def _unit(self, block: Block, solution: Field | None = None) -> float:
        """Return the size of the largest term of a relation R, as the unit of its residuals.

        The size of a term is the root mean square of dR/du_a times the size of u_a, where u_a is a
        derivative in R. The size of a derivative is the size of its unknown, divided by half the
        extent of the box for each differentiation. dR/du_a is evaluated at random values of these
        sizes and, if `solution` is given, also at the solution; the smaller result is used.
        """
        # Largest number of points at which the sizes of the terms of a relation are measured. More
        # points give steadier units of the residuals and take more time.
        unit_points = 256
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
        at = block.points[order[:unit_points]]
        values = torch.as_tensor(drawn.standard_normal((len(at), len(scale))) * scale)
        rows = [arguments_of(at, values, fixed)]
        if solution is not None:
            rows.append(arguments_at(relation, solution, fixed, at))
        terms = [np.nan_to_num(relation.slopes(each)[:, : len(scale)]) * scale for each in rows]
        return min(float(np.sqrt(np.mean(each**2, axis=0)).max()) for each in terms) or 1.0

    def squares(self, solution: Field, constants: Tensor, points: Tensor) -> Tensor:
        """Return the squared residual at each point, summed over the equations, (points,)."""
        problem = ResidualProblem(solution, self.equations(points), constants)
        rows = problem.residual(problem.unknowns).view(-1, len(points))
        return rows.square().sum(0).nan_to_num(posinf=0.0)

    def residuals(self, solution: Field, constants: Tensor) -> tuple[Residuals, Residuals]:
        """Measure the residuals of equations and of conditions at points not used for fitting."""
        # With at least 2 n + 1 points on a face, most of them lie between the n points that were
        # fitted.
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
        """Return the root mean square residual near narrow features of the formulas.

        The residual is measured separately for each variable in which formulas have narrow
        features. Return the largest value, or 0 if there are no narrow features.
        """
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
        """Return the relative change from `previous` to `solution`, as a root mean square.

        If there are several unknowns, return the change of the one that changes most.
        """
        # A relative change of an unknown is its change divided by its size in the solution, or by
        # this fraction of its estimated size if that is larger.
        negligible = 1e-6
        box = self.system.box
        count = self.policy.test_points
        points = low_discrepancy(box, count, self.unseen, edges_of(solution))
        with torch.no_grad():
            now = solution(points)
            then = previous(points)
        size = now.square().mean(0).sqrt().maximum(negligible * self.sizes)
        return float(((now - then).square().mean(0).sqrt() / size).max())


class ConditionWeights:
    """Weights of conditions and observations, adapted from grid to grid.

    The weight of the conditions grows from grid to grid as long as their contribution to the
    objective falls. If conditions contradict each other, their contribution rises instead, and with
    a larger weight they would outweigh the equation and the observations. In this case, the weight
    returns to its previous value and stays there. The weight of the observations falls from grid to
    grid as long as their contribution to the objective exceeds that of the equation, because
    observations have errors and the equation has none.

    Attributes:
        present: Current weights of conditions and of observations, relative to the equation.
    """

    def __init__(self) -> None:
        self._part = 0.0
        self._stays = False
        self.present = FIRST_WEIGHTS

    def follow(self, problem: ResidualProblem, unknowns: Tensor) -> None:
        """Set the weights of the next grid from the solution `unknowns` of the last `problem`."""
        # Conditions count as incompatible if their contribution to the objective rises from one
        # grid to the next, and is more than this many times the contribution of the equation.
        incompatible_factor = 10.0
        # Smallest weight of observations, relative to the equation. With a smaller weight, noise
        # affects the solution less, but unknown parameters are determined less well.
        min_data_weight = 1e-2
        # Largest weight of conditions, relative to the equation. A larger weight satisfies
        # conditions more closely, but costs the normal equations digits.
        max_weight = 1e6
        # Factor by which the weight of conditions rises, and the weight of observations falls, from
        # one grid to the next. With a larger factor, `max_weight` and `min_data_weight` are reached
        # on coarser grids.
        weight_growth = 10.0
        conditions, data = self.present
        equation, part = (problem.loss(unknowns, kind) for kind in ("equation", "condition"))
        if part > incompatible_factor * equation and 0 < self._part < part:
            conditions = max(conditions / weight_growth, FIRST_WEIGHTS[0])
            self._stays = True
        elif not self._stays:
            conditions = min(conditions * weight_growth, max_weight)
        if problem.loss(unknowns, "data") > equation:
            data = max(data / weight_growth, min_data_weight)
        self.present = (conditions, data)
        self._part = part
