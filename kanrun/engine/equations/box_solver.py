"""Solving a system on one box with a network: starts on a coarse grid, then grid after grid.

On every grid Levenberg-Marquardt lowers the residuals of the equation, its conditions and measured values together.
Conditions weigh moderately at first and more on each finer grid: a heavy weight on a coarse grid makes bad minima.
Knots are inserted where the residual is, collocation points follow them, and points where the residual is largest are
added and stay. What is reported of a grid is measured at points that no step has seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from math import exp, inf, log

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.enrichment import edges_of, held, insert, with_fewer_terms, with_polynomials, with_terms
from kanrun.engine.equations.equation_policy import Ansatz, EquationPolicy, EquationStage, Residuals
from kanrun.engine.equations.field import Field, OutputForm
from kanrun.engine.equations.growth import ConditionWeights, SolutionGrowth
from kanrun.engine.equations.hard_conditions import HardConditions
from kanrun.engine.equations.residuals import Block, ResidualProblem, evaluate, sensitivity, standard_errors
from kanrun.engine.equations.system import (
    PointSequence,
    System,
    condition_blocks,
    gauss_points,
    sizes_of,
    with_units,
)
from kanrun.engine.layers import move_layer
from kanrun.engine.least_squares import State, minimise
from kanrun.engine.networks import KAN
from kanrun.engine.splines import uniform_breakpoints
from kanrun.errors import TrainingFailed
from kanrun.formulas.equations import parse_relation
from kanrun.watch import advanced, time_is_up


class BoxSolver:
    """Solves one system on one box; `stages` yields one record per grid.

    `before` are the last two grids of the window before, if there is one: the coarser continues the coarser, so that
    the change between them is an estimate of the error of all windows so far. Where the box is not the `whole` one, and
    could be cut further, one variable has fewer intervals at most.
    """

    def __init__(
        self, system: System, ansatz: Ansatz, policy: EquationPolicy, generator: Generator, *,
        before: tuple[EquationStage, ...] = (), whole: bool = True, hard: HardConditions | None = None,
    ) -> None:  # fmt: skip
        self.system, self.ansatz = system, ansatz
        self.policy, self.generator, self.before = policy, generator, before
        self.whole, self.hard = whole, hard
        self.first: Field | None = None  # what the first grid begins with
        self._began = time.process_time()
        self.inside, self.candidates, self.unseen = (PointSequence(system.box, generator) for _ in range(3))
        self.sizes = self._sizes()
        self.coarse: EquationStage | None = None  # the solution that the last change is from, in windows
        self.origin: Field | None = None  # whose end the initial conditions are, in a later window
        self.added = system.box.new_zeros(0, len(system.box))

    def _sizes(self) -> Tensor:
        """The size of each unknown, by which residuals are measured."""
        drawn = self.unseen.first(self.policy.fresh)
        if not self.before:
            return sizes_of(self.system, drawn)
        field = self.before[-1].solution
        points = drawn.clone()
        points[:, -1] = field.box[-1, 1]
        with torch.no_grad():
            return torch.maximum(field.sizes, field(points).square().mean(0).sqrt())

    def stages(self) -> Iterator[EquationStage]:
        """Solve grid by grid. Raises TrainingFailed where the residual is not finite at every start."""
        policy = self.policy
        solution, constants = self._begun()
        schedule = self._schedule(solution)
        self.weights = ConditionWeights(policy, linear=solution.form.fixed_last)
        found: list[EquationStage] = []
        plan = SolutionGrowth(self.ansatz, policy, schedule, len(self.system.box), self.whole)
        plan.target = 2 * self.before[-1].equation.rms if self.before else 0.0
        while True:
            if self.before:
                own = solution.form.fixed_last or len(found) >= len(self.before)
                self.origin = self.before[-1 if own else len(found)].solution
            coarse, previous = (solution.intervals or 0) < (schedule[-1] or 0), found[-1].solution if found else None
            stage, problem = self._solved(solution, constants, coarse=coarse, previous=previous)
            solution, constants = stage.solution, stage.constants
            found.append(replace(stage, least_data=min([stage.data, *(each.data for each in found)])))
            advanced("grids", len(found), None, stage.objective**0.5)
            action = None if time_is_up() else plan.next(found)
            if action is None and solution.form.fixed_last and not time_is_up():
                found[-1] = self._with_coarser(found[-1])
            yield found[-1]
            if action is None:
                return
            self.weights.follow(problem, torch.cat([solution.get_unknowns(), constants]))
            kind, intervals = action
            if kind == "terms":
                solution = self._widened(solution, constants)
            else:
                self._add_points(solution, constants)
                solution = self._refined(solution, constants, intervals)

    def _schedule(self, solution: Field) -> list[int | None]:
        """The grids to begin with: as coarse ones as the window before had, or that hold initial values."""
        schedule, begun = [*self.ansatz.intervals], solution.intervals
        if begun is None:
            return schedule
        if self.before:
            return [begun] if solution.form.fixed_last else [stage.intervals for stage in self.before]
        if begun == schedule[0]:
            return schedule
        finer = 2 * begun <= (
            self.policy.most_intervals if len(self.system.box) == 1 else self.policy.most_intervals_in_more
        )
        return [begun, *([each for each in schedule if (each or 0) > begun] or [2 * begun] * finer)]

    def _solved(
        self, solution: Field, constants: Tensor, *, coarse: bool, previous: Field | None
    ) -> tuple[EquationStage, ResidualProblem]:
        """One grid, and the problem that was solved on it."""
        policy, weights = self.policy, self.weights
        points, shares = self._collocation(solution)
        blocks = self._blocks(points, shares, weights.conditions, weights.data, edges_of(solution), solution)
        problem = ResidualProblem(solution, blocks, constants)
        stopping = replace(policy.coarse, steps=min(policy.coarse.steps, policy.stage.steps))
        state, steps = minimise(problem, policy.lm, stopping if coarse else policy.stage, ended=time_is_up)
        found, constants = problem.solution(state.unknowns)
        return self._stage(problem, found, constants, state, steps, previous), problem

    def _with_coarser(self, stage: EquationStage) -> EquationStage:
        """In windows: the stage with its difference from a solution on fewer intervals with one polynomial less.

        That one continues its like of the window before, so that the difference estimates the error of all windows.
        """
        fine, policy = stage.solution, self.policy
        if self.before:
            self.origin = self.before[0].solution
        intervals = max(2, round(policy.coarser * (fine.intervals or 1)))
        fewer = with_fewer_terms(fine, 1)
        start = fewer.with_network(fewer.network.refined(intervals, fewer.inner(self._fresh(fine))).network)
        self.coarse, _ = self._solved(start, stage.constants, coarse=False, previous=fine)
        return replace(stage, change=self.coarse.change)

    def sensitivity(self, stage: EquationStage) -> float:
        """See `EquationStage.sensitivity`."""
        field = stage.solution
        if (
            field.form.separated and not field.form.fixed_last
        ):  # directions that the terms may have lost: a constant, ...
            field = with_terms(field, self.policy.terms_added, 0.0, self.generator, lowest=True)
        blocks = self._blocks(*self._collocation(field), 1.0, 1.0, edges_of(field), stage.solution)
        return sensitivity(ResidualProblem(field, blocks, stage.constants), self._fresh(field))

    def _collocation(self, solution: Field) -> tuple[Tensor, Tensor | None]:
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
        if self.ansatz.grows or self.ansatz.widens:
            count = max(count, round(policy.points_per_unknown * len(solution.get_unknowns())))
        return torch.cat([self.inside.first(count, edges, policy.following), self.added]), None

    def _fresh(self, solution: Field) -> Tensor:
        return self.unseen.first(self.policy.fresh, edges_of(solution), self.policy.following)

    def _begun(self) -> tuple[Field, Tensor]:
        """The field that the first grid begins with."""
        if self.before and self.before[0].solution.intervals is not None:
            before = self.before[-1 if self.ansatz.form.fixed_last else 0].solution
            return self._continuing(before), self.system.guesses()
        return self._started() if self.first is None else (self.first, self.system.guesses())

    def _continuing(self, before: Field) -> Field:
        """`before` held in time on this box, with knots where it bends at its end."""
        moved = held(before, self.system.box)
        end = self.inside.first(self.policy.fresh).clone()
        end[:, -1] = before.box[-1, 1]
        drawn = moved.inner(self.inside.first(self.policy.fresh)).clone()
        if len(self.system.box) == 1:
            edges = torch.linspace(-1, 1, (before.intervals or 1) + 1, dtype=end.dtype)[None]
            layers = list(moved.network.edge_layers)
            first, _ = move_layer(layers[0], edges, uniform=True)
            return moved.with_network(KAN.of_layers([first, *layers[1:]]))
        for number in range(len(self.system.box) - 1):
            index = tuple(2 * (number == i) for i in range(len(self.system.box)))
            bend = before.derivative(end, index).abs().sum(1).sqrt()
            chosen = torch.multinomial(bend + 1e-12, len(bend), replacement=True, generator=self.generator)
            drawn[:, number] = drawn[chosen, number]
        network = moved.network.regrid(
            drawn, grid_eps=1 - self.policy.curvature, margin=self.policy.margin, inputs=True
        ).network
        return moved.with_network(network)

    def _started(self) -> tuple[Field, Tensor]:
        """The best of several random networks at few points: all take a few steps, the better ones more."""
        policy = self.policy
        if self.ansatz.form.fixed_last:
            return self._at_beginning(), self.system.guesses()
        blocks = self._blocks(self.inside.first(policy.start_points), None, policy.condition_weight, policy.data_weight)
        racing = [(0.0, self._random(), self.system.guesses()) for _ in range(policy.rounds[0][0])]
        if self.ansatz.form.separated:
            racing = [
                *racing[: policy.random_if_separated],
                (0.0, with_polynomials(racing[0][1]), self.system.guesses()),
            ]
        elif len(self.system.box) == 1 and racing[0][1].intervals is not None:
            racing[-2:] = [(0.0, field, self.system.guesses()) for field in self._smooth(racing[0][1])]
        for kept, steps in policy.rounds:
            racing = [self._raced(each, constants, blocks, steps) for _, each, constants in racing[:kept]]
            racing.sort(key=lambda entry: entry[0])
        loss, best, constants = racing[0]
        if not loss < inf:
            raise TrainingFailed("The equation's residual is not finite at any start; check its formula on the box.")
        return best, constants

    def _raced(
        self, candidate: Field, constants: Tensor, blocks: list[Block], steps: int
    ) -> tuple[float, Field, Tensor]:
        """The objective, field and constants after some steps; infinity where the start is not finite."""
        problem = ResidualProblem(candidate, blocks, constants)
        state, _ = minimise(problem, self.policy.lm, replace(self.policy.start, steps=steps), ended=time_is_up)
        found, constants = problem.solution(state.unknowns)
        return state.loss[0], self._fitted_grids(found, self.inside.first(self.policy.start_points)), constants

    def _random(self, form: OutputForm | None = None) -> Field:
        form = form or self.ansatz.form
        network = self.ansatz.create(form.outputs, self.generator)
        if form.separated:
            network.edge_layers[0].mask.copy_(form.mask(len(self.system.box)))
        low, high = map(log, self.policy.start_sizes)
        size = exp(low + (high - low) * float(torch.rand((), generator=self.generator)))
        with torch.no_grad():
            if network.intervals is not None:
                for _, parameter in network.unknowns():
                    drawn = torch.randn(parameter.shape, generator=self.generator, dtype=parameter.dtype)
                    parameter.copy_(drawn.to(parameter) * size)
        candidate = Field(network, form, self.system.box, self.sizes, self.hard)
        return self._fitted_grids(candidate, self.inside.first(self.policy.start_points))

    def _at_beginning(self) -> Field:
        """The initial values at all times, on a grid that holds them, with further polynomials of time."""
        form, start = self.ansatz.form, float(self.system.box[-1, 0])
        field = with_polynomials(self._random(replace(form, terms=1)))
        last = len(self.system.box) - 1
        begins = [
            each for each in self.system.conditions
            if all((last, start) in face for face in each.faces) and each.faces
            and not any(derivative.index[last] for derivative in each.relation.derivatives)
        ]  # fmt: skip
        known = replace(self.system, conditions=tuple(begins), measured=())
        while begins:
            problem, finer = (
                ResidualProblem(field, with_units(each, self.system, self.sizes), self.system.guesses())
                for each in (
                    condition_blocks(known, count, 1.0, edges=edges_of(field))
                    for count in (self.policy.face_points, self.policy.start_points)
                )
            )
            state, _ = minimise(problem, self.policy.lm, self.policy.coarse)
            field, intervals = problem.solution(state.unknowns)[0], 2 * (field.intervals or 1)
            left = finer.residual(state.unknowns)
            if float(left.square().sum()) <= self.policy.held**2 or 2 * intervals > self.policy.most_intervals_in_more:
                break
            points, squares = torch.cat([each.points for each in finer.blocks]), left.square()
            field = insert(field, intervals, points, squares, self.policy.halved, self.policy.narrowest)
        return with_terms(field, form.terms - 1, 0.0, self.generator)

    def _smooth(self, field: Field) -> list[Field]:
        """In one variable: functions as smooth as conditions and measured values let them be, and constant ones.

        The first have small derivatives of the equations' order, the second small first ones.
        """
        vocabulary, found = self.system.vocabulary, list[Field]()
        points, shares = self._collocation(field)
        held = self._blocks(points, shares, self.policy.condition_weight, self.policy.condition_weight)
        for order in (max(each.order for each in self.system.equations), 1):
            names = [f"{name}_{vocabulary.variables[0] * order}" for name in vocabulary.unknowns]
            bends = [Block(name, parse_relation(f"{name} = 0", vocabulary), points, shares=shares) for name in names]
            blocks = [*with_units(bends, self.system, self.sizes), *held[len(self.system.equations) :]]
            problem = ResidualProblem(field, blocks, self.system.guesses())
            state, _ = minimise(problem, self.policy.lm, self.policy.coarse)
            found.append(problem.solution(state.unknowns)[0])
        return found

    def _refined(self, solution: Field, constants: Tensor, intervals: int | None) -> Field:
        if intervals is None or solution.intervals is None:
            return solution
        points = self.candidates.first(self.policy.fresh, edges_of(solution), self.policy.following)
        squares = self._squares(solution, constants, points)
        finer = insert(solution, intervals, points, squares, self.policy.halved, self.policy.narrowest)
        return self._fitted_grids(finer, points)

    def _widened(self, solution: Field, constants: Tensor) -> Field:
        """The field with further terms: the best of some random ones after a few steps."""
        policy = self.policy
        if solution.form.fixed_last:
            return with_terms(solution, policy.terms_added, policy.added_size, self.generator)
        points, shares = self._collocation(solution)
        blocks = self._blocks(points, shares, self.weights.conditions, self.weights.data, edges_of(solution))
        tried = [
            self._raced(
                with_terms(solution, policy.terms_added, policy.added_size, self.generator), constants, blocks, 3
            )
            for _ in range(1 if solution.form.separated else policy.rounds[-1][0])
        ]
        return min(tried, key=lambda entry: entry[0])[1]

    def _fitted_grids(self, solution: Field, points: Tensor) -> Field:
        """Hidden grids over all that reaches them from the points and the faces, where they do not hold it yet.

        Beyond a grid second derivatives are zero, so no point may lie there; nor may a grid be much too wide.
        """
        if len(solution.network.edge_layers) < 2:
            return solution
        faces = [block.points for block in condition_blocks(self.system, self.policy.face_points, 1.0)]
        inner = solution.inner(torch.cat([points, *faces]))
        if solution.network.covers(inner, self.policy.filled):
            return solution
        layers = list(solution.network.edge_layers)
        with torch.no_grad():
            for number in range(1, len(layers)):
                reaching = solution.network.activations(inner)[number]
                low, high = reaching.amin(0), reaching.amax(0)
                pad = self.policy.margin * (high - low).clamp(min=1e-6)
                grid = uniform_breakpoints(low - pad, high + pad, layers[number].grid.intervals)
                layers[number], _ = move_layer(layers[number], grid, uniform=True)
        return solution.with_network(KAN.of_layers(layers))

    def _blocks(
        self, points: Tensor, shares: Tensor | None, weight: float, data_weight: float = 1.0,
        edges: Tensor | None = None, solution: Field | None = None,
    ) -> list[Block]:  # fmt: skip
        """The rows of all that must hold; equations weigh 1, conditions `weight`, measured values `data_weight`."""
        equations = [
            Block(f"equation {number}", each, points, shares=shares)
            for number, each in enumerate(self.system.equations)
        ]
        each = self.policy.face_points
        conditions = self._carried(condition_blocks(self.system, each, weight, data_weight, edges))
        return with_units([*equations, *conditions], self.system, self.sizes, solution)

    def _carried(self, blocks: list[Block]) -> list[Block]:
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

    def _stage(
        self, problem: ResidualProblem, solution: Field, constants: Tensor, state: State, steps: int,
        previous: Field | None,
    ) -> EquationStage:  # fmt: skip
        fresh = self._fresh(solution)
        blocks = self._blocks(fresh, None, 1.0, solution=solution)
        equation = self._measured(blocks, solution, constants, of_equation=True)
        between = condition_blocks(self.system, 2 * self.policy.face_points + 1, 1.0, edges=edges_of(solution))
        between = self._carried(between)
        between = with_units(between, self.system, self.sizes, solution)
        conditions = self._measured(between, solution, constants, of_equation=False)
        change = None
        if previous is not None:
            with torch.no_grad():
                now, then = solution(fresh), previous(fresh)
            size = now.square().mean(0).sqrt().maximum(1e-300 + 0 * self.sizes)
            change = float(((now - then).square().mean(0).sqrt() / size).max())
        return EquationStage(
            0, solution.intervals, solution, constants, len(state.unknowns), steps, state.loss[0], equation,
            conditions, change, standard_errors(problem, state.unknowns), time.process_time() - self._began,
            problem.blocks[0].points, data=problem.misfit(state.unknowns),
        )  # fmt: skip

    def _measured(self, blocks: list[Block], solution: Field, constants: Tensor, *, of_equation: bool) -> Residuals:
        """The residuals of the equations' blocks or of the others, each relative to its unit."""
        chosen = [
            block for block in blocks if block.name.startswith("equation") == of_equation and block.name != "data"
        ]
        if not chosen:
            return Residuals(0.0, 0.0, ())
        found = [
            rows.detach() * len(block.points) ** 0.5 / block.weight**0.5
            for block in chosen
            for rows in [ResidualProblem(solution, [block], constants).residual(_all(solution, constants))]
        ]
        left, points = torch.cat(found).abs(), torch.cat([block.points for block in chosen])
        at = int(left.argmax())
        return Residuals(float(left.square().mean().sqrt()), float(left[at]), tuple(points[at].tolist()))

    def _squares(self, solution: Field, constants: Tensor, points: Tensor) -> Tensor:
        """The squared residuals of all equations together at points."""
        left = points.new_zeros(len(points))
        for block in self._blocks(points, None, 1.0)[: len(self.system.equations)]:
            left += ResidualProblem(solution, [block], constants).residual(_all(solution, constants)).square()
        return left.nan_to_num(posinf=0.0)

    def _add_points(self, solution: Field, constants: Tensor) -> None:
        """Add fresh random points where the equation's residual is largest."""
        count = round(self.policy.added * self.policy.points)
        if not count or len(self.system.box) == 1:
            return
        share = torch.rand(
            4 * self.policy.points, len(self.system.box), generator=self.generator, dtype=self.system.box.dtype
        )
        box = self.system.box
        candidates = box[:, 0] + share.to(box) * (box[:, 1] - box[:, 0])
        worst = self._squares(solution, constants, candidates).topk(count).indices
        self.added = torch.cat([self.added, candidates[worst]])


def _all(solution: Field, constants: Tensor) -> Tensor:
    return torch.cat([solution.get_unknowns(), constants])
