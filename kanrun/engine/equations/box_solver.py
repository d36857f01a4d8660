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

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.enrichment import edges_of, insert, with_fewer_terms, with_terms
from kanrun.engine.equations.equation_policy import Ansatz, EquationPolicy, EquationStage, Residuals
from kanrun.engine.equations.field import Field
from kanrun.engine.equations.growth import ConditionWeights, SolutionGrowth
from kanrun.engine.equations.hard_conditions import HardConditions
from kanrun.engine.equations.residuals import Block, ResidualProblem, sensitivity, standard_errors
from kanrun.engine.equations.starts import Starts
from kanrun.engine.equations.system import System, condition_blocks, with_units
from kanrun.engine.equations.system_rows import SystemRows
from kanrun.engine.least_squares import State, minimise
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
        self.system, self.ansatz, self.policy, self.generator = system, ansatz, policy, generator
        self.before, self.whole = before, whole
        self.first: Field | None = None  # what the first grid begins with
        self._began = time.process_time()
        last = before[-1].solution if before else None
        self.rows = SystemRows(system, policy, generator, last, growing=ansatz.grows or ansatz.widens)
        self.starts = Starts(self.rows, ansatz, generator, hard)
        self.coarse: EquationStage | None = None  # the solution that the last change is from, in windows

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
                self.rows.origin = self.before[-1 if own else len(found)].solution
            coarse, previous = (solution.intervals or 0) < (schedule[-1] or 0), found[-1].solution if found else None
            stage, problem = self._solved(solution, constants, coarse=coarse, previous=previous)
            solution, constants = stage.solution, stage.constants
            if plan.actions[-1] == "terms" and stage.change is not None:
                stage = replace(stage, change=max(stage.change, self.policy.carried * (found[-1].change or 0.0)))
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
                self.rows.add_points(solution, constants)
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
        points, shares = self.rows.collocation(solution)
        blocks = self.rows.blocks(points, shares, weights.conditions, weights.data, edges_of(solution), solution)
        problem = ResidualProblem(solution, blocks, constants)
        stopping = replace(policy.coarse, steps=min(policy.coarse.steps, policy.stage.steps))
        damping = policy.damping_if_linear if previous is not None and solution.form.factors == 1 else policy.lm.damping
        stopping = stopping if coarse else policy.stage
        state, steps = minimise(problem, policy.lm, stopping, [damping], ended=time_is_up)
        found, constants = problem.solution(state.unknowns)
        return self._stage(problem, found, constants, state, steps, previous), problem

    def _with_coarser(self, stage: EquationStage) -> EquationStage:
        """In windows: the stage with its difference from a solution on fewer intervals with one polynomial less.

        That one continues its like of the window before, so that the difference estimates the error of all windows.
        """
        fine, policy = stage.solution, self.policy
        if self.before:
            self.rows.origin = self.before[0].solution
        intervals = max(2, round(policy.coarser * (fine.intervals or 1)))
        fewer = with_fewer_terms(fine, 1)
        start = fewer.with_network(fewer.network.refined(intervals, fewer.inner(self.rows.fresh(fine))).network)
        self.coarse, _ = self._solved(start, stage.constants, coarse=False, previous=fine)
        return replace(stage, change=self.coarse.change)

    def sensitivity(self, stage: EquationStage) -> float:
        """See `EquationStage.sensitivity`."""
        field = stage.solution
        if (
            field.form.separated and not field.form.fixed_last
        ):  # directions that the terms may have lost: a constant, ...
            field = with_terms(field, self.policy.terms_added, 0.0, self.generator, lowest=True)
        blocks = self.rows.blocks(*self.rows.collocation(field), 1.0, 1.0, edges_of(field), stage.solution)
        return sensitivity(ResidualProblem(field, blocks, stage.constants), self.rows.fresh(field))

    def _begun(self) -> tuple[Field, Tensor]:
        """The field that the first grid begins with."""
        if self.before and self.before[0].solution.intervals is not None:
            before = self.before[-1 if self.ansatz.form.fixed_last else 0].solution
            return self.starts.continuing(before), self.system.guesses()
        return self.starts.best() if self.first is None else (self.first, self.system.guesses())

    def _refined(self, solution: Field, constants: Tensor, intervals: int | None) -> Field:
        if intervals is None or solution.intervals is None:
            return solution
        points = self.rows.candidates.first(self.policy.fresh, edges_of(solution), self.policy.following)
        squares = self.rows.squares(solution, constants, points)
        finer = insert(solution, intervals, points, squares, self.policy.halved, self.policy.narrowest)
        return self.starts.fitted_grids(finer, points)

    def _widened(self, solution: Field, constants: Tensor) -> Field:
        """The field with further terms: the best of some random ones after a few steps."""
        policy = self.policy
        if solution.form.fixed_last:
            return with_terms(solution, policy.terms_added, policy.added_size, self.generator)
        points, shares = self.rows.collocation(solution)
        blocks = self.rows.blocks(points, shares, self.weights.conditions, self.weights.data, edges_of(solution))
        tried = [
            self.starts.raced(
                with_terms(solution, policy.terms_added, policy.added_size, self.generator), constants, blocks, 3
            )
            for _ in range(1 if solution.form.separated else policy.rounds[-1][0])
        ]
        return min(tried, key=lambda entry: entry[0])[1]

    def _stage(
        self, problem: ResidualProblem, solution: Field, constants: Tensor, state: State, steps: int,
        previous: Field | None,
    ) -> EquationStage:  # fmt: skip
        fresh = self.rows.fresh(solution)
        blocks = self.rows.blocks(fresh, None, 1.0, solution=solution)
        equation = self._measured(blocks, solution, constants, of_equation=True)
        between = condition_blocks(self.system, 2 * self.policy.face_points + 1, 1.0, edges=edges_of(solution))
        between = self.rows.eased(self.rows.carried(between))
        between = with_units(between, self.system, self.rows.sizes, solution)
        conditions = self._measured(between, solution, constants, of_equation=False)
        change = None
        if previous is not None:
            with torch.no_grad():
                now, then = solution(fresh), previous(fresh)
            size = now.square().mean(0).sqrt().maximum(self.policy.negligible * self.rows.sizes)
            change = float(((now - then).square().mean(0).sqrt() / size).max())
        errors, inflated = standard_errors(problem, state.unknowns)
        return EquationStage(
            0, solution.intervals, solution, constants, len(state.unknowns), steps, state.loss[0], equation,
            conditions, change, errors, time.process_time() - self._began,
            problem.blocks[0].points, data=problem.misfit(state.unknowns), inflated=inflated,
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


def _all(solution: Field, constants: Tensor) -> Tensor:
    return torch.cat([solution.get_unknowns(), constants])
