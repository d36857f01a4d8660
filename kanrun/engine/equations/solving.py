"""Solution of a differential equation on the whole box or in windows of the last variable.

On one box, initial guesses on a coarse grid are followed by grid after grid. On every grid
Levenberg-Marquardt minimises the residuals of the equation, its conditions and observations
together. The conditions have a moderate weight at first and a larger one on each finer grid: a
large weight on a coarse grid makes bad minima. Knots are inserted where the residual is large, half
of the collocation points follow them, and points of large residual are added. Each grid is
evaluated at points that no step has used.
"""

from __future__ import annotations

import time
from collections.abc import Generator as Events
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import isfinite, sqrt

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.collocation import Collocation, ConditionWeights
from kanrun.engine.equations.evolution_solution import solve_evolution
from kanrun.engine.equations.fields import Field, Windows, edges_of, hard_conditions
from kanrun.engine.equations.policy import Ansatz, EquationPolicy, EquationStage, Solution
from kanrun.engine.equations.residuals import ResidualProblem, sensitivity, standard_errors
from kanrun.engine.equations.starting_fields import InitialGuesses, insert_knots, with_terms
from kanrun.engine.equations.system import System
from kanrun.engine.equations.tensor_solution import solve_directly
from kanrun.engine.least_squares import minimise
from kanrun.monitoring import report_progress, time_limit_reached

#: Terms that are added at once, their size in units of the solution, and the steps of a race among
#: them.
TERMS_ADDED, ADDED_SIZE, ADDED_STEPS = 2, 0.1, 3
#: Fraction of the previous change that added terms leave at least. Where a grid changed the
#: solution by 7% and terms by 0.03%, it was wrong by 1.4%.
CARRIED_CHANGE = 0.1
#: Changes of an unknown below this fraction of its estimated size do not count.
NEGLIGIBLE = 1e-6
#: Weights of conditions and observations where residuals are compared with those of equations.
EQUAL_WEIGHTS = 1.0, 1.0
#: Points at which the sensitivity is measured.
SENSITIVITY_POINTS = 1000
#: A window that ends this fraction of its length before the range takes the rest as well.
REMAINDER = 0.1
#: Windows longer than the shortest by more than this fraction can be halved.
ROUNDING = 0.01
#: Grids after which a change that large means that a shorter window is needed.
SETTLING_GRIDS = 4


class BoxSolver:
    """Solver of one system on one box; `stages` yields a record of each grid.

    `first` is an initial guess. `before` holds the last two grids of the previous window: the
    coarser continues the coarser, so that the change between them estimates the error of all
    windows so far. A box that is not the `whole` one, and could be cut further, has fewer intervals
    at most.
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
        last, growing = before[-1].solution if before else None, ansatz.grows or ansatz.widens
        self.rows = Collocation(system, policy, generator, last, growing=growing)
        self.guesses = InitialGuesses(self.rows, ansatz, generator)
        self.weights = ConditionWeights(policy)
        self._schedule: list[int | None] = []
        self._actions = ["grid"]

    def stages(self) -> Iterator[EquationStage]:
        """Solve grid by grid. Raises TrainingFailed if the residual is not finite at any start."""
        solution, constants = self._initial_guess()
        found = list[EquationStage]()
        *_, finest = self._schedule = self._planned_grids(solution)
        self._schedule.pop(0)
        while True:
            if self.before:
                last = len(found) >= len(self.before)
                self.rows.initial = self.before[-1 if last else len(found)].solution
            coarse = (solution.intervals or 0) < (finest or 0)
            previous = found[-1].solution if found else None
            stage, problem = self._solve(solution, constants, coarse=coarse, previous=previous)
            solution, constants = stage.solution, stage.constants
            if self._actions[-1] == "terms" and stage.change is not None:
                carried = CARRIED_CHANGE * (found[-1].change or 0.0)
                stage = replace(stage, change=max(stage.change, carried))
            least_data = min([stage.data, *(each.data for each in found)])
            found.append(replace(stage, least_data=least_data))
            report_progress("grids", len(found), None, sqrt(stage.objective))
            goes_on = not time_limit_reached() and self._choose_action(found)
            yield found[-1]
            if not goes_on:
                return
            self.weights.follow(problem, torch.cat([solution.get_unknowns(), constants]))
            if self._actions[-1] == "terms":
                solution = self._widen(solution, constants)
            else:
                self.rows.add_points(solution, constants)
                planned = self._schedule.pop(0) if self._schedule else None
                if solution.intervals is not None:
                    points = self.rows.points(self.rows.candidates, None, solution)
                    squares = self.rows.squares(solution, constants, points)
                    intervals = planned or 2 * solution.intervals
                    finer = insert_knots(solution, intervals, points, squares)
                    solution = self.guesses.with_fitted_grids(finer, points)

    def _initial_guess(self) -> tuple[Field, Tensor]:
        if self.before and self.before[0].solution.intervals is not None:
            return self.guesses.continuing(self.before[0].solution), self.system.guesses()
        return self.guesses.best() if self.first is None else (self.first, self.system.guesses())

    def _planned_grids(self, solution: Field) -> list[int | None]:
        """Return the planned grids: those of the previous window, or of the settings.

        They begin with the grid that resolves the initial values.
        """
        planned, first = [*self.ansatz.intervals], solution.intervals
        if first is None or (first == planned[0] and not self.before):
            return planned
        if self.before:
            return [stage.intervals for stage in self.before]
        finer = [each for each in planned if (each or 0) > first]
        if not finer and 2 * first <= self.policy.finest(len(self.system.box)):
            finer = [2 * first]
        return [first, *finer]

    def _choose_action(self, found: list[EquationStage]) -> bool:
        """Append `grid` or `terms` to the actions, or return False if nothing more is worth it.

        The schedule comes first, then finer grids and further terms as long as they help.
        """
        policy, last, actions = self.policy, found[-1], self._actions
        rms, change = last.equation.rms, last.change
        enough = policy.enough_change[len(self.system.box) > 1]
        if not isfinite(rms) or (self.ansatz.grows and change is not None and change <= enough):
            return False
        ratio = policy.helpful_residual_ratio
        helped = [True, *(b.equation.rms <= ratio * a.equation.rms for a, b in pairwise(found))]
        if change is None or change <= policy.accepted_change:
            # If the last refinement did not help, an acceptable residual is enough for a part of
            # the range.
            target = 2 * self.before[-1].equation.rms if self.before else 0.0
            small = target if helped[-1] else 0.0 if self.whole else policy.accepted_residual
            if not self._schedule and rms <= small:
                return False
            if change is not None and rms <= policy.noise_fraction * last.data:
                return False
        both = len(found) > 2 and actions[-1] != actions[-2]
        if both and not self._schedule and not helped[-1] and not helped[-2]:
            return False  # Neither grids nor terms help.
        order = ["grid", "terms"] if helped[-1] == (actions[-1] == "grid") else ["terms", "grid"]
        chosen = [kind for kind in order if kind in self._possible_actions(last)][:1]
        actions.extend(chosen)
        return bool(chosen)

    def _possible_actions(self, last: EquationStage) -> list[str]:
        """Return `grid` and `terms` as far as the schedule and the bounds of numbers allow them."""
        policy, variables, form = self.policy, len(self.system.box), last.solution.form
        terms = form.terms + TERMS_ADDED
        widens = self.ansatz.widens and form.factors > 1 and terms <= policy.max_terms
        found = ["terms"] * (widens and last.unknowns * terms <= policy.max_unknowns * form.terms)
        if self._schedule or not self.ansatz.grows or last.intervals is None:
            refines = bool(self._schedule)
        elif variables == 1 and self.whole and (last.change or 0.0) > policy.accepted_change:
            refines = 2 * last.unknowns <= policy.max_unsettled_intervals
        else:
            fine = 2 * last.intervals <= policy.finest(variables, whole=self.whole)
            refines = fine and 2 * last.unknowns <= policy.max_unknowns
        return [*found, *["grid"] * refines]

    def _solve(
        self, solution: Field, constants: Tensor, *, coarse: bool, previous: Field | None
    ) -> tuple[EquationStage, ResidualProblem]:
        """Solve on one grid; return its record and the problem."""
        policy, rows = self.policy, self.rows
        points, shares = rows.collocation(solution)
        blocks = rows.blocks(points, shares, self.weights.present, solution)
        problem = ResidualProblem(solution, blocks, constants)
        stopping = policy.stage
        if coarse:
            steps = min(policy.coarse.max_steps, policy.stage.max_steps)
            stopping = replace(policy.coarse, max_steps=steps)
        linear = previous is not None and solution.form.factors == 1
        damping = policy.damping_if_linear if linear else policy.lm.damping
        state, steps = minimise(problem, policy.lm, stopping, [damping], ended=time_limit_reached)
        found, constants = problem.solution(state.unknowns)
        unseen = rows.points(rows.unseen, None, found)
        between = rows.borders(2 * policy.boundary_points + 1, EQUAL_WEIGHTS, found)
        between = [block for block in between if block.kind == "condition"]
        errors, inflation = standard_errors(problem, state.unknowns)
        stage = EquationStage(
            window=0,
            intervals=found.intervals,
            solution=found,
            constants=constants,
            unknowns=len(state.unknowns),
            steps=steps,
            objective=state.loss[0],
            equation=rows.evaluate(rows.equations(unseen, found), found, constants),
            conditions=rows.evaluate(between, found, constants),
            change=None if previous is None else self._change(found, previous, unseen),
            standard_errors=errors,
            seconds=time.process_time() - self._began,
            points=points,
            data=problem.misfit(state.unknowns),
            inflation=inflation,
        )
        return stage, problem

    def _change(self, solution: Field, previous: Field, points: Tensor) -> float:
        """Return the largest relative root mean square change of an unknown at points."""
        with torch.no_grad():
            now, then = solution(points), previous(points)
        size = now.square().mean(0).sqrt().maximum(NEGLIGIBLE * self.rows.sizes)
        return float(((now - then).square().mean(0).sqrt() / size).max())

    def sensitivity(self, stage: EquationStage) -> float:
        """Return `EquationStage.sensitivity` of a stage."""
        field, rows = stage.solution, self.rows
        if field.form.separated:
            # Directions that the terms may have lost, such as a constant.
            field = with_terms(field, TERMS_ADDED, 0.0, self.generator, lowest=True)
        points, shares = rows.collocation(field)
        blocks = rows.blocks(points, shares, EQUAL_WEIGHTS, stage.solution)
        problem = ResidualProblem(field, blocks, stage.constants)
        return sensitivity(problem, rows.points(rows.unseen, SENSITIVITY_POINTS, field))

    def _widen(self, solution: Field, constants: Tensor) -> Field:
        """Return the field with further terms: the best of some random ones after a few steps."""
        count = 1 if solution.form.separated else self.policy.rounds[-1][0]
        wider = [
            with_terms(solution, TERMS_ADDED, ADDED_SIZE, self.generator) for _ in range(count)
        ]
        points, shares = self.rows.collocation(solution)
        edges = edges_of(solution)
        blocks = self.rows.blocks(points, shares, self.weights.present, edges=edges)
        raced = [self.guesses.race(each, constants, blocks, ADDED_STEPS) for each in wider]
        return min(raced, key=lambda entry: entry[0])[1]


def solve(
    system: System,
    ansatz: Ansatz,
    policy: EquationPolicy,
    generator: Generator,
    windows: int | str | None = None,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve the system; yield every grid and return the solution.

    `first` is an initial guess.

    `windows` cuts the last variable into this many equal parts. With `auto` a part that is not
    accepted is halved and tried again. The solution ends where the shortest one is not accepted, or
    the error has grown to `EquationPolicy.failed_change`. With conditions that are incompatible at
    its beginning it is that of the whole range. Without `windows` the whole box is solved at once.
    """
    if ansatz.evolution is not None:
        return (yield from solve_evolution(ansatz.evolution, ansatz.tolerance))
    if ansatz.direct:
        return (yield from solve_directly(system, ansatz, policy, generator, first))
    low, high = map(float, system.box[-1])
    corners = [each for each in system.corners if each.face[-1] == (len(system.box) - 1, low)]
    jumps = (each.relation.order == 0 and each.gap > policy.corner_full_gap for each in corners)
    if windows == "auto" and any(jumps):
        windows = None
    auto = windows == "auto"
    length = (high - low) / windows if isinstance(windows, int) else high - low
    shortest = (high - low) / policy.max_windows if auto else length
    if ansatz.hard:
        ansatz = replace(ansatz, built_in=hard_conditions(system, last=windows is None))
    start, last, before = low, list[EquationStage](), tuple[EquationStage, ...]()
    while not last or start < high:
        end = high if start + (1 + REMAINDER) * length >= high else start + length
        whole = (start, end) == (low, high)
        divisible = auto and end - start > (1 + ROUNDING) * shortest
        part = system if whole else system.between(start, end)
        solver = BoxSolver(
            part, ansatz, policy, generator, first=first, before=before, whole=not divisible
        )
        stages: list[EquationStage] = []
        for stage in solver.stages():
            stages.append(stage)
            yield replace(stage, window=len(last))
            if divisible and _is_stalled(stages, policy):
                break
        accepted = _accepts(stages[-1], system, policy, before, whole=whole)
        if divisible and not accepted and not time_limit_reached():
            length = max((end - start) / 2, shortest)
            continue
        before = tuple(stages[-2:])
        last.append(replace(stages[-1], sensitivity=solver.sensitivity(stages[-1])))
        lost = not accepted or (last[-1].change or 0.0) > policy.failed_change
        if time_limit_reached() or (auto and len(last) > 1 and lost):
            break
        start, length = end, length * (policy.window_growth if auto else 1.0)
    if end < high and corners:
        return (yield from solve(system, ansatz, policy, generator, None, first))
    fields = [stage.solution for stage in last]
    network = fields[0] if len(fields) == 1 else Windows(fields)
    return Solution(network, tuple(last), solved_until=end)


def _accepts(
    last: EquationStage,
    system: System,
    policy: EquationPolicy,
    before: tuple[EquationStage, ...],
    *,
    whole: bool,
) -> bool:
    """Return whether to accept a window: small residuals and a small change on its last grid.

    Changes accumulate over windows and may grow by a factor from one to the next.
    """
    residual = policy.accepted_residual
    if float(last.solution.box[-1, 0]) == float(system.box[-1, 0]) and system.corners:
        gap = max(each.gap for each in system.corners) if whole else 1.0
        residual = max(residual, gap * policy.accepted_residual_at_corners)
    earlier = (before[-1].change or 0.0) if before else 0.0
    change = max(policy.accepted_change, policy.max_change_growth * earlier)
    largest = max(last.equation.rms, last.conditions.rms)
    return largest <= residual and (last.change or 0.0) <= change


def _is_stalled(stages: list[EquationStage], policy: EquationPolicy) -> bool:
    """Return whether large residuals do not fall, or finer grids still change much."""
    if len(stages) >= SETTLING_GRIDS and (stages[-1].change or 0.0) > policy.failed_change:
        return True
    if len(stages) < 3:
        return False
    bound = policy.helpful_residual_ratio * stages[-3].equation.rms
    return not stages[-1].equation.rms <= max(policy.give_up_residual, bound)
