"""The rows of a system on one box: the points at which its residuals are asked for, with their weights and units."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.enrichment import edges_of
from kanrun.engine.equations.equation_policy import EquationPolicy, Residuals
from kanrun.engine.equations.field import Field
from kanrun.engine.equations.residuals import (
    Block,
    ResidualProblem,
    condition_blocks,
    evaluate,
    sizes_of,
    with_units,
)
from kanrun.engine.equations.system import System, gauss_points, low_discrepancy


class SystemRows:
    """Blocks of residuals of one system on one box.

    `before` is the solution of the window before, if there is one; a `growing` network gets more points as it grows.
    """

    def __init__(
        self,
        system: System,
        policy: EquationPolicy,
        generator: Generator,
        before: Field | None,
        *,
        growing: bool,
    ) -> None:
        self.system, self.policy, self.growing = system, policy, growing
        #: Seeds of the points: those of training, those by which knots are inserted, and those of measurements.
        self.inside, self.candidates, self.unseen = torch.randint(
            2**31, (3,), generator=generator
        ).tolist()
        self.origin: Field | None = None  # whose end the initial conditions are, in a later window
        self.added = system.box.new_zeros(0, len(system.box))
        drawn = self.points(self.unseen)
        if before is None:
            self.sizes = sizes_of(system, drawn)
        else:
            drawn[:, -1] = before.box[-1, 1]
            with torch.no_grad():
                self.sizes = torch.maximum(before.sizes, before(drawn).square().mean(0).sqrt())

    def points(self, seed: int, count: int | None = None, solution: Field | None = None) -> Tensor:
        """`count` points (else as many as grids are measured at) of the sequence; with a share that follow knots."""
        edges, policy = None if solution is None else edges_of(solution), self.policy
        return low_discrepancy(
            self.system.box, count or policy.fresh, seed, edges, policy.following
        )

    def collocation(self, solution: Field) -> tuple[Tensor, Tensor | None]:
        """The points inside: a quadrature rule over the grid in one variable and where the last variable has
        polynomials, else low-discrepancy and added points.

        A rule makes the rows the integral of the squared residual, for which splines converge faster than at points
        that fall anywhere in the intervals.
        """
        policy, edges, box = self.policy, edges_of(solution), self.system.box
        if len(box) == 1:
            if edges is None:
                edges = torch.linspace(-1, 1, policy.pieces + 1, dtype=box.dtype)[None]
            each = min(-(-policy.points // (edges.shape[1] - 1)), policy.points_per_interval)
            return gauss_points(box, [(edges[0], each)])
        if solution.form.fixed_last and edges is not None:
            ends = (
                edges[0, [0, -2]] + edges[0, [1, -1]]
            ) / 2  # where splines have more functions than inside
            pieces, whole = torch.cat([edges[0], ends]).sort().values, edges[1, [0, -1]]
            return gauss_points(
                box, [(pieces, policy.points_in_space), (whole, solution.form.terms + 2)]
            )
        count = policy.points
        if self.growing:
            count = max(count, round(policy.points_per_unknown * len(solution.get_unknowns())))
        return torch.cat([self.points(self.inside, count, solution), self.added]), None

    def blocks(
        self,
        points: Tensor,
        shares: Tensor | None,
        weight: float,
        data_weight: float = 1.0,
        edges: Tensor | None = None,
        solution: Field | None = None,
    ) -> list[Block]:
        """The rows of all that must hold; equations weigh 1, conditions `weight`, measured values `data_weight`."""
        borders = self.borders(self.policy.face_points, weight, data_weight, edges, solution)
        return [*self.equations(points, shares, solution), *borders]

    def equations(
        self, points: Tensor, shares: Tensor | None, solution: Field | None
    ) -> list[Block]:
        """The rows of the equations."""
        inside = [Block("equation", each, points, shares=shares) for each in self.system.equations]
        return with_units(self._eased(inside), self.system, self.sizes, solution)

    def borders(
        self,
        count: int,
        weight: float,
        data_weight: float,
        edges: Tensor | None,
        solution: Field | None,
    ) -> list[Block]:
        """The rows of conditions and measured values; conditions at the beginning of a later window are that what they
        hold of the unknowns is as it was at the end of the window before."""
        blocks, start = (
            condition_blocks(self.system, count, weight, data_weight, edges),
            float(self.system.box[-1, 0]),
        )
        for number, each in enumerate(blocks if self.origin is not None else ()):
            if each.partner is None and bool((each.points[:, -1] == start).all()):
                assert self.origin is not None  # an invariant: nothing is gone through without
                none = each.points.new_zeros(len(self.system.vocabulary.constants))
                there = evaluate(
                    each.relation, self.origin, each.points, none, each.monomials, jacobian=False
                )[0]
                blocks[number] = replace(each, target=there.detach())
        return with_units(self._eased(blocks), self.system, self.sizes, solution)

    def _eased(self, blocks: list[Block]) -> list[Block]:
        """The blocks, measured values apart, with smaller weights around the system's corners."""
        low, high = self.system.box.T
        for corner in self.system.corners:
            if not all(low[i] <= value <= high[i] for i, value in corner.face):
                continue
            fixed, values = map(list, zip(*corner.face, strict=True))
            reach = self.policy.reach(corner.share, corner.relation.order)
            unknowns = {each.unknown for each in corner.relation.derivatives}
            for number, block in enumerate(blocks):
                if block.kind != "data" and any(
                    each.unknown in unknowns for each in block.relation.derivatives
                ):
                    away = (block.points[:, fixed] - low.new_tensor(values)) / (high - low)[fixed]
                    near = (away.norm(dim=1) / reach).clamp(max=1) ** (2 * self.policy.corner_power)
                    blocks[number] = replace(
                        block, shares=near if block.shares is None else block.shares * near
                    )
        return blocks

    def squares(self, solution: Field, constants: Tensor, points: Tensor) -> Tensor:
        """The squared residuals of all equations together at points."""
        problem = ResidualProblem(solution, self.equations(points, None, None), constants)
        rows = problem.residual(problem.unknowns).view(-1, len(points))
        return rows.square().sum(0).nan_to_num(posinf=0.0)

    def measured(self, blocks: list[Block], solution: Field, constants: Tensor) -> Residuals:
        """The residuals of blocks, each relative to its unit."""
        if not blocks:
            return Residuals(0.0, 0.0, ())
        problem = ResidualProblem(
            solution, [replace(each, weight=float(len(each.points))) for each in blocks], constants
        )
        left, points = (
            problem.residual(problem.unknowns).detach().abs(),
            torch.cat([each.points for each in blocks]),
        )
        at = int(left.argmax())
        return Residuals(
            float(left.square().mean().sqrt()), float(left[at]), tuple(points[at].tolist())
        )

    def add_points(self, solution: Field, constants: Tensor) -> None:
        """Add fresh points where the equation's residual is largest."""
        box, count = self.system.box, round(self.policy.added * self.policy.points)
        if not count or len(box) == 1:
            return
        candidates = self.points(self.candidates + len(self.added) + 1, 4 * self.policy.points)
        worst = self.squares(solution, constants, candidates).topk(count).indices
        self.added = torch.cat([self.added, candidates[worst]])
