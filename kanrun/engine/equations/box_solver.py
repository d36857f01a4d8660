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
from itertools import pairwise
from math import isfinite

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.enrichment import edges_of, insert, with_terms
from kanrun.engine.equations.equation_policy import Ansatz, EquationPolicy, EquationStage
from kanrun.engine.equations.field import Field
from kanrun.engine.equations.residuals import ResidualProblem, sensitivity, standard_errors
from kanrun.engine.equations.starts import Starts
from kanrun.engine.equations.system import System
from kanrun.engine.equations.system_rows import SystemRows
from kanrun.engine.least_squares import minimise
from kanrun.monitoring import report_progress, time_limit_reached


class ConditionWeights:
    """The weights of conditions and measured values on the next grid, from their parts of the objective on the last.

    Conditions weigh more on each grid, as long as they give way. Those that contradict each other, as where an initial
    slope is not that of a wall, never do: heavier, they would outweigh the equation and measured values. There the
    weight returns to the one before and stays. Measured values have errors, where the equation has none: they weigh
    less on each grid, as long as they have a larger part of the objective than the equation.
    """

    def __init__(self, policy: EquationPolicy, *, linear: bool = False) -> None:
        self.policy, self.data = policy, policy.data_weight
        self.least = policy.condition_weight_of_polynomials if linear else policy.condition_weight
        self.conditions = self.least
        self._part, self._stays = 0.0, False

    def follow(self, problem: ResidualProblem, unknowns: Tensor) -> None:
        """Set the weights of the next grid from the solution of `problem`."""
        policy = self.policy
        equation, data, part = (
            problem.loss(unknowns, kind) for kind in ("equation", "data", "condition")
        )
        if part > policy.outweighed * equation and 0 < self._part < part:
            self.conditions, self._stays = max(self.conditions / policy.growth, self.least), True
        elif not self._stays:
            self.conditions = min(self.conditions * policy.growth, policy.largest_weight)
        self._part = part
        if data > equation:
            self.data = max(self.data / policy.growth, policy.smallest_data_weight)


class SolutionGrowth:
    """What follows a grid: the next one of the schedule, then finer grids and further terms as long as they help.

    `target` is the residual at which a part of the range is good enough, however much the last refinement helped.
    """

    def __init__(
        self,
        ansatz: Ansatz,
        policy: EquationPolicy,
        schedule: list[int | None],
        variables: int,
        *,
        whole: bool,
        target: float,
    ) -> None:
        self.ansatz, self.policy, self.left, self.target = ansatz, policy, schedule[1:], target
        self.one, self.whole = variables == 1, whole
        self.enough = policy.enough if self.one else policy.enough_in_more
        self.actions: list[str] = ["grid"]

    def next(self, found: list[EquationStage]) -> tuple[str, int | None] | None:
        """`grid` with its intervals, `terms`, or None where nothing more is worth it."""
        policy, last = self.policy, found[-1]
        rms, change = last.equation.rms, last.change
        if not isfinite(rms) or (
            self.ansatz.grows and change is not None and change <= self.enough
        ):
            return None
        helped = [
            True,
            *(b.equation.rms <= policy.helpful * a.equation.rms for a, b in pairwise(found)),
        ]
        if change is None or change <= policy.accepted_change:
            small = 0.0 if self.whole else policy.accepted
            if not self.left and rms <= (self.target if helped[-1] else small):
                return None
            if change is not None and rms <= policy.below_noise * last.data:
                return None
        both = len(found) > 2 and self.actions[-1] != self.actions[-2]
        if both and not self.left and not helped[-1] and not helped[-2]:
            return None  # neither grids nor terms
        kinds = (
            ["grid", "terms"] if helped[-1] == (self.actions[-1] == "grid") else ["terms", "grid"]
        )
        self.actions += [
            kind
            for kind in kinds
            if (self._widens(last) if kind == "terms" else self._refines(last))
        ][:1]
        if len(self.actions) == len(found):
            return None
        if self.actions[-1] == "terms":
            return "terms", None
        return "grid", self.left.pop(0) if self.left else 2 * (last.intervals or 0)

    def _widens(self, last: EquationStage) -> bool:
        form, policy = last.solution.form, self.policy
        terms = form.terms + policy.terms_added
        most = policy.most_terms_in_time if form.fixed_last else policy.most_terms
        numbers = policy.most_unknowns_in_window if form.fixed_last else policy.most_unknowns
        small = terms <= most and last.unknowns * terms <= numbers * form.terms
        return self.ansatz.widens and small and form.factors > 1

    def _refines(self, last: EquationStage) -> bool:
        policy = self.policy
        if self.left or not self.ansatz.grows or last.intervals is None:
            return bool(self.left)
        if self.one and self.whole and (last.change or 0.0) > policy.accepted_change:
            return 2 * last.unknowns <= policy.most_if_unsettled
        numbers = (
            policy.most_unknowns_in_window if self.ansatz.form.fixed_last else policy.most_unknowns
        )
        return (
            2 * last.intervals <= policy.finest(one=self.one, whole=self.whole)
            and 2 * last.unknowns <= numbers
        )


class BoxSolver:
    """Solves one system on one box; `stages` yields one record per grid.

    It begins with the field `first`, if there is one. `before` are the last two grids of the window before, if there is
    one: the coarser continues the coarser, so that the change between them is an estimate of the error of all windows
    so far. Where the box is not the `whole` one, and could be cut further, one variable has fewer intervals at most.
    """

    def __init__(
        self,
        system: System,
        ansatz: Ansatz,
        policy: EquationPolicy,
        generator: Generator,
        *,
        first: Field | None,
        before: tuple[EquationStage, ...] = (),
        whole: bool = True,
    ) -> None:
        self.system, self.ansatz, self.policy, self.generator = system, ansatz, policy, generator
        self.first, self.before, self.whole = first, before, whole
        self._began = time.process_time()
        last = before[-1].solution if before else None
        self.rows = SystemRows(
            system, policy, generator, last, growing=ansatz.grows or ansatz.widens
        )
        self.starts = Starts(self.rows, ansatz, generator)
        self.weights = ConditionWeights(policy, linear=ansatz.form.fixed_last)
        self.coarse: EquationStage | None = (
            None  # the solution that the last change is from, in windows
        )

    def stages(self) -> Iterator[EquationStage]:
        """Solve grid by grid. Raises TrainingFailed where the residual is not finite at every start."""
        solution, constants = self._begun()
        fixed, schedule = solution.form.fixed_last, self._schedule(solution)
        target = 2 * self.before[-1].equation.rms if self.before else 0.0
        variables = len(self.system.box)
        plan = SolutionGrowth(
            self.ansatz, self.policy, schedule, variables, whole=self.whole, target=target
        )
        found: list[EquationStage] = []
        while True:
            if self.before:
                own = fixed or len(found) >= len(self.before)
                self.rows.origin = self.before[-1 if own else len(found)].solution
            coarse, previous = (
                (solution.intervals or 0) < (schedule[-1] or 0),
                found[-1].solution if found else None,
            )
            stage, problem = self._solved(solution, constants, coarse=coarse, previous=previous)
            solution, constants = stage.solution, stage.constants
            if plan.actions[-1] == "terms" and stage.change is not None:
                stage = replace(
                    stage, change=max(stage.change, self.policy.carried * (found[-1].change or 0.0))
                )
            found.append(
                replace(stage, least_data=min([stage.data, *(each.data for each in found)]))
            )
            report_progress("grids", len(found), None, stage.objective**0.5)
            action = None if time_limit_reached() else plan.next(found)
            if action is None and fixed and not time_limit_reached():
                found[-1] = self._with_coarser(found[-1])
            yield found[-1]
            if action is None:
                return
            self.weights.follow(problem, torch.cat([solution.get_unknowns(), constants]))
            if action[0] == "terms":
                solution = self._widened(solution, constants)
            else:
                self.rows.add_points(solution, constants)
                solution = self._refined(solution, constants, action[1])

    def _begun(self) -> tuple[Field, Tensor]:
        """The field that the first grid begins with."""
        if self.before and self.before[0].solution.intervals is not None:
            before = self.before[-1 if self.ansatz.form.fixed_last else 0].solution
            return self.starts.continuing(before), self.system.guesses()
        return self.starts.best() if self.first is None else (self.first, self.system.guesses())

    def _schedule(self, solution: Field) -> list[int | None]:
        """The grids to begin with: as coarse ones as the window before had, or that hold initial values."""
        schedule, begun = [*self.ansatz.intervals], solution.intervals
        if begun is not None and self.before:
            return (
                [begun] if solution.form.fixed_last else [stage.intervals for stage in self.before]
            )
        if begun is None or begun == schedule[0]:
            return schedule
        finer = (
            [2 * begun]
            if 2 * begun <= self.policy.finest(one=len(self.system.box) == 1, whole=True)
            else []
        )
        return [begun, *([each for each in schedule if (each or 0) > begun] or finer)]

    def _solved(
        self, solution: Field, constants: Tensor, *, coarse: bool, previous: Field | None
    ) -> tuple[EquationStage, ResidualProblem]:
        """One grid, and the problem that was solved on it."""
        policy, weights, edges = self.policy, self.weights, edges_of(solution)
        blocks = self.rows.blocks(
            *self.rows.collocation(solution), weights.conditions, weights.data, edges, solution
        )
        problem = ResidualProblem(solution, blocks, constants)
        stopping = policy.stage
        if coarse:
            stopping = replace(policy.coarse, steps=min(policy.coarse.steps, policy.stage.steps))
        damping = (
            policy.damping_if_linear
            if previous is not None and solution.form.factors == 1
            else policy.lm.damping
        )
        state, steps = minimise(problem, policy.lm, stopping, [damping], ended=time_limit_reached)
        found, constants = problem.solution(state.unknowns)
        fresh = self.rows.points(self.rows.unseen, None, found)
        between = self.rows.borders(2 * policy.face_points + 1, 1.0, 1.0, edges, found)
        between = [block for block in between if block.kind == "condition"]
        errors, inflated = standard_errors(problem, state.unknowns)
        stage = EquationStage(
            0,
            found.intervals,
            found,
            constants,
            len(state.unknowns),
            steps,
            state.loss[0],
            self.rows.measured(self.rows.equations(fresh, None, found), found, constants),
            self.rows.measured(between, found, constants),
            None if previous is None else self._change(found, previous, fresh),
            errors,
            time.process_time() - self._began,
            blocks[0].points,
            data=problem.misfit(state.unknowns),
            inflated=inflated,
        )
        return stage, problem

    def _change(self, solution: Field, previous: Field, points: Tensor) -> float:
        """The largest relative root mean square change of an unknown at points."""
        with torch.no_grad():
            now, then = solution(points), previous(points)
        size = now.square().mean(0).sqrt().maximum(self.policy.negligible * self.rows.sizes)
        return float(((now - then).square().mean(0).sqrt() / size).max())

    def _with_coarser(self, stage: EquationStage) -> EquationStage:
        """In windows: the stage with its difference from a solution on fewer intervals with one polynomial less.

        That one continues its like of the window before, so that the difference estimates the error of all windows.
        """
        fine, policy = stage.solution, self.policy
        if self.before:
            self.rows.origin = self.before[0].solution
        intervals = max(2, round(policy.coarser * (fine.intervals or 1)))
        fewer, fresh = (
            with_terms(fine, -1, 0.0, self.generator),
            self.rows.points(self.rows.unseen, None, fine),
        )
        start = fewer.with_network(fewer.network.refined(intervals, fewer.inner(fresh)).network)
        self.coarse, _ = self._solved(start, stage.constants, coarse=False, previous=fine)
        return replace(stage, change=self.coarse.change)

    def sensitivity(self, stage: EquationStage, points: int = 1000) -> float:
        """See `EquationStage.sensitivity`."""
        field = stage.solution
        if (
            field.form.separated and not field.form.fixed_last
        ):  # directions that terms may have lost: a constant, ...
            field = with_terms(field, self.policy.terms_added, 0.0, self.generator, lowest=True)
        blocks = self.rows.blocks(
            *self.rows.collocation(field), 1.0, 1.0, edges_of(field), stage.solution
        )
        problem = ResidualProblem(field, blocks, stage.constants)
        return sensitivity(problem, self.rows.points(self.rows.unseen, points, field))

    def _refined(self, solution: Field, constants: Tensor, intervals: int | None) -> Field:
        if intervals is None or solution.intervals is None:
            return solution
        points = self.rows.points(self.rows.candidates, None, solution)
        squares = self.rows.squares(solution, constants, points)
        finer = insert(
            solution, intervals, points, squares, self.policy.halved, self.policy.narrowest
        )
        return self.starts.fitted_grids(finer, points)

    def _widened(self, solution: Field, constants: Tensor) -> Field:
        """The field with further terms: the best of some random ones after a few steps."""
        policy = self.policy
        wider = [
            with_terms(solution, policy.terms_added, policy.added_size, self.generator)
            for _ in range(1 if solution.form.separated else policy.rounds[-1][0])
        ]
        if solution.form.fixed_last:
            return wider[0]
        points, shares = self.rows.collocation(solution)
        blocks = self.rows.blocks(
            points, shares, self.weights.conditions, self.weights.data, edges_of(solution)
        )
        tried = [self.starts.raced(each, constants, blocks, 3) for each in wider]
        return min(tried, key=lambda entry: entry[0])[1]
