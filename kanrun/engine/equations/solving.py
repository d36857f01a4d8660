"""Solution of a differential equation on the whole box, by the method that a system asks for.

Networks on truncated Taylor series solve grid by grid: initial guesses on a coarse grid come first.
On every grid Levenberg-Marquardt minimises the residuals of the equation, its conditions and
observations together. The conditions have a moderate weight at first and a larger one on each finer
grid: a large weight on a coarse grid makes bad minima. Knots are inserted where the residual is
large, half of the collocation points follow them, and points of large residual are added. Each grid
is evaluated at points that no step has used.
"""

from __future__ import annotations

import time
from collections.abc import Generator as Events
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite, sqrt

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.collocation import EQUAL_WEIGHTS, Collocation, ConditionWeights
from kanrun.engine.equations.evolution_solution import solve_evolution
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.policy import (
    Ansatz,
    EquationPolicy,
    EquationStage,
    Grids,
    Method,
    Solution,
)
from kanrun.engine.equations.residuals import ResidualProblem, sensitivity, standard_errors
from kanrun.engine.equations.starting_fields import (
    COARSE,
    LM,
    MAX_UNKNOWNS,
    InitialGuesses,
    insert_knots,
    with_polynomials,
)
from kanrun.engine.equations.system import EvolutionSystem, System
from kanrun.engine.equations.tensor_solution import solve_directly
from kanrun.engine.least_squares import StoppingCriteria, minimise
from kanrun.monitoring import report_progress, time_limit_reached

#: A relative decrease at which steps end on the last planned grid and on finer ones.
STAGE_RTOL = 1e-3
#: First damping on a refined grid if unknowns are linear in the coefficients. A larger one holds
#: back smooth changes, which the equation of a beam hardly sees next to those of single splines.
DAMPING_IF_LINEAR = 1e-12
#: No grid follows once the residual is below this fraction of the difference from the observations,
#: and the last one changed the solution by no more than `SETTLED_CHANGE`.
NOISE_FRACTION, SETTLED_CHANGE = 0.25, 1e-3
#: Change between grids at which refinement stops, in one variable and in several.
ENOUGH_CHANGE = 1e-9, 1e-6
#: Terms that are added where the sensitivity is measured.
TERMS_ADDED = 2
#: Points at which the sensitivity is measured.
SENSITIVITY_POINTS = 1000


class BoxSolver:
    """Solver of one system by networks; `stages` yields a record of each grid."""

    def __init__(
        self, system: System, ansatz: Ansatz, policy: EquationPolicy, generator: Generator
    ) -> None:
        self.system, self.ansatz, self.policy, self.generator = system, ansatz, policy, generator
        self._began = time.process_time()
        self.rows = Collocation(system, policy, generator)
        self.guesses = InitialGuesses(self.rows, ansatz, generator)
        self.weights = ConditionWeights()

    def stages(self, first: Field | None) -> Iterator[EquationStage]:
        """Solve grid by grid from a `first` guess.

        Raises:
            TrainingFailed: If the residual is not finite at any start.
        """
        constants = self.system.guesses()
        solution, constants = self.guesses.best() if first is None else (first, constants)
        found = list[EquationStage]()
        coarsest, planned = solution.intervals or 0, [*self.ansatz.intervals]
        finer = [each for each in planned if (each or 0) > coarsest] if coarsest else planned[1:]
        if not finer and coarsest not in planned and self._may_double(solution):
            finer = [2 * coarsest]
        finest = (finer[-1] if finer else coarsest) or 0
        while True:
            coarse = (solution.intervals or 0) < finest
            previous = found[-1].solution if found else None
            stage, problem = self._solve(solution, constants, coarse=coarse, previous=previous)
            solution, constants = stage.solution, stage.constants
            least_data = min([stage.data, *(each.data for each in found)])
            found.append(replace(stage, least_data=least_data))
            report_progress("grids", len(found), None, sqrt(stage.objective))
            yield found[-1]
            grows = bool(finer) or (self.ansatz.grows and self._may_double(solution))
            if time_limit_reached() or not grows or self._is_enough(stage):
                return
            self.weights.follow(problem, torch.cat([solution.get_unknowns(), constants]))
            self.rows.add_points(solution, constants)
            following = finer.pop(0) if finer else None
            if solution.intervals is not None:
                points = self.rows.points(self.rows.candidates, None, solution)
                squares = self.rows.squares(solution, constants, points)
                solution = insert_knots(
                    solution, following or 2 * solution.intervals, points, squares
                )
                solution = self.guesses.with_fitted_grids(solution, points)

    def _may_double(self, solution: Field) -> bool:
        count = 2 * len(solution.get_unknowns())
        return solution.intervals is not None and count <= MAX_UNKNOWNS

    def _is_enough(self, stage: EquationStage) -> bool:
        """Return whether no finer grid is worth it."""
        rms, change = stage.equation.rms, stage.change
        if not isfinite(rms):
            return True
        if change is None:
            return False
        enough = ENOUGH_CHANGE[len(self.system.box) > 1]
        noise = rms <= NOISE_FRACTION * stage.data and change <= SETTLED_CHANGE
        return noise or (self.ansatz.grows and change <= enough)

    def _solve(
        self, solution: Field, constants: Tensor, *, coarse: bool, previous: Field | None
    ) -> tuple[EquationStage, ResidualProblem]:
        """Solve on one grid; return its record and the problem."""
        rows, steps = self.rows, self.policy.steps
        blocks = rows.blocks(solution, self.weights.present, solution)
        problem = ResidualProblem(solution, blocks, constants)
        stopping = replace(COARSE, max_steps=min(COARSE.max_steps, steps))
        if not coarse:
            stopping = StoppingCriteria(max_steps=steps, rtol=STAGE_RTOL)
        linear = previous is not None and solution.form.factors == 1
        damping = DAMPING_IF_LINEAR if linear else LM.damping
        state, steps = minimise(problem, LM, stopping, damping, ended=time_limit_reached)
        found, constants = problem.solution(state.unknowns)
        equation, conditions = rows.residuals(found, constants)
        errors, inflation = standard_errors(problem, state.unknowns)
        stage = EquationStage(
            intervals=found.intervals,
            solution=found,
            constants=constants,
            unknowns=len(state.unknowns),
            steps=steps,
            objective=state.loss,
            equation=equation,
            conditions=conditions,
            change=None if previous is None else rows.change(found, previous),
            standard_errors=errors,
            seconds=time.process_time() - self._began,
            points=blocks[0].points,
            data=problem.misfit(state.unknowns),
            inflation=inflation,
        )
        return stage, problem

    def sensitivity(self, stage: EquationStage) -> float:
        """Return `EquationStage.sensitivity` of a stage."""
        field, rows = stage.solution, self.rows
        if field.form.separated:
            # Directions that the terms may have lost, such as a constant.
            field = with_polynomials(field, TERMS_ADDED)
        blocks = rows.blocks(field, EQUAL_WEIGHTS, stage.solution)
        problem = ResidualProblem(field, blocks, stage.constants)
        return sensitivity(problem, rows.points(rows.unseen, SENSITIVITY_POINTS, field))


def solve(
    system: System,
    method: Method,
    policy: EquationPolicy,
    generator: Generator,
    *,
    tolerance: float = 1e-6,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve the system; yield every grid and return the solution.

    Args:
        system: Equations with their conditions.
        method: How they are solved.
        policy: Constants of the general solver.
        generator: Source of random starts and points.
        tolerance: Estimated relative L2 error at which a solution with an estimate ends.
        first: Initial guess.
    """
    if isinstance(method, EvolutionSystem):
        return (yield from solve_evolution(method, tolerance))
    if isinstance(method, Grids):
        return (yield from solve_directly(system, method, policy, generator, tolerance, first))
    solver, stage = BoxSolver(system, method, policy, generator), None
    for stage in solver.stages(first):
        yield stage
    assert stage is not None  # An invariant: there is a first grid.
    last = (replace(stage, sensitivity=solver.sensitivity(stage)),)
    return Solution(stage.solution, last, float(system.box[-1, 1]))
