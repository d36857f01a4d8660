"""The rows of a system on one box: the points at which its residuals are asked for, with their weights and units."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.enrichment import edges_of
from kanrun.engine.equations.equation_policy import EquationPolicy
from kanrun.engine.equations.field import Field
from kanrun.engine.equations.residuals import Block, ResidualProblem, evaluate
from kanrun.engine.equations.system import (
    PointSequence,
    System,
    condition_blocks,
    gauss_points,
    sizes_of,
    with_units,
)


class SystemRows:
    """Blocks of residuals of one system on one box.

    `before` is the solution of the window before, if there is one; a `growing` network gets more points as it grows.
    """

    def __init__(
        self, system: System, policy: EquationPolicy, generator: Generator, before: Field | None, *, growing: bool
    ) -> None:
        self.system, self.policy, self.generator, self.growing = system, policy, generator, growing
        self.inside, self.candidates, self.unseen = (PointSequence(system.box, generator) for _ in range(3))
        self.sizes = self._sizes(before)
        self.origin: Field | None = None  # whose end the initial conditions are, in a later window
        self.added = system.box.new_zeros(0, len(system.box))

    def _sizes(self, before: Field | None) -> Tensor:
        """The size of each unknown, by which residuals are measured."""
        drawn = self.unseen.first(self.policy.fresh)
        if before is None:
            return sizes_of(self.system, drawn)
        points = drawn.clone()
        points[:, -1] = before.box[-1, 1]
        with torch.no_grad():
            return torch.maximum(before.sizes, before(points).square().mean(0).sqrt())

    def collocation(self, solution: Field) -> tuple[Tensor, Tensor | None]:
        """The points inside: a quadrature rule over the grid in one variable and where the last variable has
        polynomials, else low-discrepancy and added points.

        A rule makes the rows the integral of the squared residual, for which splines converge faster than at points
        that fall anywhere in the intervals.
        """
        policy, edges = self.policy, edges_of(solution)
        if len(self.system.box) == 1:
            if edges is None:
                edges = torch.linspace(-1, 1, policy.pieces + 1, dtype=self.system.box.dtype)[None]
            each = min(-(-policy.points // (edges.shape[1] - 1)), policy.points_per_interval)
            return gauss_points(self.system.box, [(edges[0], each)])
        if solution.form.fixed_last and edges is not None:
            ends = (edges[0, [0, -2]] + edges[0, [1, -1]]) / 2  # where splines have more functions than inside
            pieces, whole = torch.cat([edges[0], ends]).sort().values, edges[1, [0, -1]]
            return gauss_points(self.system.box, [(pieces, policy.points_in_space), (whole, solution.form.terms + 2)])
        count = policy.points
        if self.growing:
            count = max(count, round(policy.points_per_unknown * len(solution.get_unknowns())))
        return torch.cat([self.inside.first(count, edges, policy.following), self.added]), None

    def fresh(self, solution: Field) -> Tensor:
        return self.unseen.first(self.policy.fresh, edges_of(solution), self.policy.following)

    def blocks(
        self, points: Tensor, shares: Tensor | None, weight: float, data_weight: float = 1.0,
        edges: Tensor | None = None, solution: Field | None = None,
    ) -> list[Block]:  # fmt: skip
        """The rows of all that must hold; equations weigh 1, conditions `weight`, measured values `data_weight`."""
        equations = [
            Block(f"equation {number}", each, points, shares=shares)
            for number, each in enumerate(self.system.equations)
        ]
        each = self.policy.face_points
        conditions = self.carried(condition_blocks(self.system, each, weight, data_weight, edges))
        return with_units(self.eased([*equations, *conditions]), self.system, self.sizes, solution)

    def eased(self, blocks: list[Block]) -> list[Block]:
        """The blocks, measured values apart, with smaller weights around the system's corners."""
        low, high = self.system.box.T
        corners = [each for each in self.system.corners if all(low[i] <= value <= high[i] for i, value in each.face)]
        if not corners:
            return blocks
        eased = []
        for block in blocks:
            shares = torch.ones(len(block.points), dtype=low.dtype) if block.shares is None else block.shares
            for corner in (each for each in corners if each.concerns(block.relation)):
                fixed, values = map(list, zip(*corner.face, strict=True))
                away = (block.points[:, fixed] - low.new_tensor(values)) / (high - low)[fixed]
                near = (away.norm(dim=1) / self.policy.reach(corner.share, corner.relation.order)).clamp(max=1)
                shares = shares * near ** (2 * self.policy.corner_power)
            eased.append(block if block.name == "data" else replace(block, shares=shares))
        return eased

    def carried(self, blocks: list[Block]) -> list[Block]:
        """The blocks, those at the beginning of a window with the values of the solution before it."""
        if self.origin is None:
            return blocks
        start, carried = float(self.system.box[-1, 0]), []
        for block in blocks:
            begins = block.partner is None and bool((block.points[:, -1] == start).all())
            carried.append(self._continued(block) if begins else block)
        return carried

    def _continued(self, block: Block) -> Block:
        """An initial condition as: what it holds of the unknowns is as it was at the end of the window before."""
        assert self.origin is not None  # an invariant: asked of later windows only
        none = block.points.new_zeros(len(self.system.vocabulary.constants))
        with torch.no_grad():
            there = evaluate(block.relation, self.origin, block.points, none, block.monomials, jacobian=False).residual
        return replace(block, target=there)

    def squares(self, solution: Field, constants: Tensor, points: Tensor) -> Tensor:
        """The squared residuals of all equations together at points."""
        left = points.new_zeros(len(points))
        for block in self.blocks(points, None, 1.0)[: len(self.system.equations)]:
            left += (
                ResidualProblem(solution, [block], constants)
                .residual(torch.cat([solution.get_unknowns(), constants]))
                .square()
            )
        return left.nan_to_num(posinf=0.0)

    def add_points(self, solution: Field, constants: Tensor) -> None:
        """Add fresh random points where the equation's residual is largest."""
        count = round(self.policy.added * self.policy.points)
        if not count or len(self.system.box) == 1:
            return
        share = torch.rand(
            4 * self.policy.points, len(self.system.box), generator=self.generator, dtype=self.system.box.dtype
        )
        box = self.system.box
        candidates = box[:, 0] + share.to(box) * (box[:, 1] - box[:, 0])
        worst = self.squares(solution, constants, candidates).topk(count).indices
        self.added = torch.cat([self.added, candidates[worst]])
