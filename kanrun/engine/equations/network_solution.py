"""Solver that fits networks to differential equations, on finer and finer grids.

The initial guess on the coarsest grid is the best of several random networks, or is computed from
the initial values. On every grid, Levenberg-Marquardt minimises the residuals of the equations,
conditions and observations together. The weight of the conditions is moderate at first and grows
with each grid, because a large weight on a coarse grid leads to bad minima. Knots are inserted
where residuals are large, and collocation points are denser where knots are. Residuals are reported
at points that were not used for fitting.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from dataclasses import replace
from math import exp, inf, isfinite, log, sqrt
from operator import itemgetter
from time import process_time

import numpy as np
import sympy
import torch
from torch import Generator, Tensor

from kanrun.engine.equations.collocation import (
    EQUAL_WEIGHTS,
    FIRST_WEIGHTS,
    Collocation,
    ConditionWeights,
    EquationPolicy,
)
from kanrun.engine.equations.fields import (
    Factor,
    Field,
    insert_knots,
    interpolation_points,
    spline_field,
    with_free_term,
)
from kanrun.engine.equations.residuals import ResidualProblem, sensitivity, standard_errors
from kanrun.engine.equations.solution import Ansatz, EquationStage
from kanrun.engine.equations.space import products
from kanrun.engine.equations.system import Array, System
from kanrun.engine.least_squares import LMPolicy, StoppingCriteria, minimise
from kanrun.errors import TrainingFailed
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.equations import RowFunction
from kanrun.monitoring import report_progress, time_limit_reached

#: Bounds of the standard deviation of random initial coefficients, in units of the solution. For
#: each network, the standard deviation is drawn log-uniformly between them.
START_SIZES = (0.02, 0.5)
#: Largest relative error with which products of splines on the first grid approximate the initial
#: values.
INITIAL_VALUE_TOLERANCE = 1e-3
#: Largest number of unknowns on a grid that is added automatically. A larger number allows finer
#: grids, whose steps take much longer.
MAX_UNKNOWNS = 1000
#: Settings of Levenberg-Marquardt on all grids.
LM = LMPolicy(damping=1e-4, min_damping=1e-15, damping_search=False, max_trials=12)
#: Stopping criteria on grids coarser than the finest planned one. Stricter criteria spend steps
#: on a solution that the next grid improves anyway.
COARSE = StoppingCriteria(max_steps=15, rtol=1e-2)


#: Relative change of the solution between two grids below which automatic refinement stops, for one
#: variable and for several.
ENOUGH_CHANGE = 1e-9, 1e-6


class NetworkSolver:
    """Solver that fits networks to one system; `stages` yields a record of each grid.

    Attributes:
        seconds: Estimated CPU seconds so far, from the number of operations.
        stopped: Why refinement ended early; empty if it did not.
    """

    def __init__(
        self, system: System, ansatz: Ansatz, policy: EquationPolicy, generator: Generator
    ) -> None:
        self.system = system
        self.ansatz = ansatz
        self.policy = policy
        self.generator = generator
        self._began = process_time()
        # CPU time is estimated from the number of operations, so that the same run always stops at
        # the same grid.
        self.seconds = 0.0
        self.stopped = ""
        self.rows, self.weights = Collocation(system, policy, generator), ConditionWeights()
        self.inside = self.rows.points(self.rows.inside, policy.start_points)

    def stages(self, first: Field | None) -> Events[EquationStage, None, EquationStage]:
        """Solve grid by grid; yield the record of every grid and return the last.

        Args:
            first: Initial guess; None to compute one.

        Raises:
            TrainingFailed: If the residual is not finite at any initial guess.
        """
        constants = self.system.guesses()
        solution, constants = self.first_guess() if first is None else (first, constants)
        stage: EquationStage | None = None
        coarsest = solution.intervals or 0
        planned = [*self.ansatz.intervals]
        finer = [each for each in planned if (each or 0) > coarsest] if coarsest else planned[1:]
        if not finer and coarsest not in planned and self._may_double(solution):
            finer = [2 * coarsest]
        finest = (finer[-1] if finer else coarsest) or 0
        number = 0
        while True:
            number += 1
            coarse = (solution.intervals or 0) < finest
            stage, problem = self._solve(solution, constants, stage, coarse=coarse)
            solution = stage.solution
            constants = stage.constants
            report_progress("grids", number, None, sqrt(stage.objective))
            yield stage
            grows = bool(finer) or (self.ansatz.grows and self._may_double(solution))
            if grows and self.seconds > self.policy.budget:
                self.stopped = "the budget is spent"
                return stage
            if time_limit_reached() or not grows or self._is_enough(stage):
                return stage
            self.weights.follow(problem, torch.cat([solution.get_unknowns(), constants]))
            following = finer.pop(0) if finer else None
            if (intervals := solution.intervals) is not None:
                points = self.rows.points(self.rows.candidates, None, solution)
                squares = self.rows.squares(solution, constants, points)
                solution = insert_knots(solution, following or 2 * intervals, points, squares)
                solution = self.with_fitted_grids(solution, points)

    def _may_double(self, solution: Field) -> bool:
        count = 2 * len(solution.get_unknowns())
        return solution.intervals is not None and count <= MAX_UNKNOWNS

    def _is_enough(self, stage: EquationStage) -> bool:
        """Return whether refinement should stop after a grid.

        It should stop if the residual is not finite, if noise of the observations dominates, or if
        the solution hardly changed from the previous grid.
        """
        # Largest relative change of the solution between two grids at which refinement may stop
        # because noise dominates. A larger value stops on coarser grids.
        settled_change = 1e-3
        # Largest residual of the equation, as a fraction of the difference from the observations,
        # at which refinement may stop because noise dominates. A larger value stops on coarser
        # grids.
        noise_fraction = 0.25
        rms = stage.equation.rms
        change = stage.change
        if not isfinite(rms):
            return True
        if change is None:
            return False
        enough = ENOUGH_CHANGE[len(self.system.box) > 1]
        noise = rms <= noise_fraction * stage.data and change <= settled_change
        return noise or (self.ansatz.grows and change <= enough)

    def _solve(
        self, solution: Field, constants: Tensor, before: EquationStage | None, *, coarse: bool
    ) -> tuple[EquationStage, ResidualProblem]:
        """Solve on the grid of `solution`; return the record of the grid and the solved problem.

        `before` is the record of the previous grid, or None. If `coarse` is true, the stopping
        criteria are looser.
        """
        # Initial damping on a refined grid if the solution is linear in the coefficients. A larger
        # value suppresses smooth changes, which change the residual of a fourth-order equation very
        # little.
        damping_if_linear = 1e-12
        # On the last planned grid and on finer ones, steps end after three in a row that decrease
        # the objective by less than this fraction.
        stage_rtol = 1e-3
        rows = self.rows
        steps = self.policy.steps
        blocks = rows.blocks(solution, self.weights.present, solution)
        problem = ResidualProblem(solution, blocks, constants)
        stopping = replace(COARSE, max_steps=min(COARSE.max_steps, steps))
        if not coarse:
            stopping = StoppingCriteria(max_steps=steps, rtol=stage_rtol)
        linear = before is not None and solution.form.factors == 1
        damping = damping_if_linear if linear else LM.damping
        state, steps = minimise(problem, LM, stopping, damping, ended=time_limit_reached)
        self._count(problem, steps)
        found, constants = problem.solution(state.unknowns)
        equation, conditions = rows.residuals(found, constants)
        errors, inflation = standard_errors(problem, state.unknowns)
        data = problem.misfit(state.unknowns)
        now = process_time()
        seconds = now - self._began
        self._began = now
        stage = EquationStage(
            intervals=found.intervals,
            solution=found,
            constants=constants,
            unknowns=len(state.unknowns),
            steps=steps,
            objective=state.loss,
            equation=equation,
            conditions=conditions,
            change=None if before is None else rows.change(found, before.solution),
            standard_errors=errors,
            seconds=seconds,
            points=blocks[0].points,
            data=data,
            least_data=data if before is None else min(data, before.least_data),
            inflation=inflation,
        )
        return stage, problem

    def _count(self, problem: ResidualProblem, steps: int) -> None:
        """Add the estimated CPU seconds of `steps` steps to `seconds`."""
        # Assumed CPU seconds per multiplication in the normal equations.
        seconds_of_product = 5e-11
        # Assumed CPU seconds per entry of the Jacobian.
        seconds_of_entry = 1e-8
        # Assumed CPU seconds per step, to which `seconds_of_entry` and `seconds_of_product` are
        # added.
        seconds_of_step = 5e-3
        points = sum(len(b.points) for b in problem.blocks)
        unknowns = len(problem.unknowns)
        of_entry = seconds_of_entry + seconds_of_product * unknowns
        self.seconds += steps * (seconds_of_step + points * unknowns * of_entry)

    def sensitivity(self, stage: EquationStage) -> float:
        """Compute `EquationStage.sensitivity` for the solution in a record."""
        # Number of points at which the sensitivity is measured.
        sensitivity_points = 1000
        field = stage.solution
        rows = self.rows
        if field.form.separated:
            field = with_free_term(field)
        blocks = rows.blocks(field, EQUAL_WEIGHTS, stage.solution)
        problem = ResidualProblem(field, blocks, stage.constants)
        return sensitivity(problem, rows.points(rows.unseen, sensitivity_points, field))

    def first_guess(self) -> tuple[Field, Tensor]:
        """Return initial guesses of the solution and of the unknown parameters.

        In a separated form, the guess is computed from the initial values if possible. Otherwise,
        random networks take a few steps each; in further rounds, only the best networks take more
        steps, and the best one of the last round is returned.
        """
        # A step from a random initial guess counts as slow if it decreases the objective by less
        # than this fraction. After three slow steps in a row, the guess takes no more steps in this
        # round. A smaller value gives poor guesses more steps.
        start_rtol = 1e-2
        # Largest number of unknowns of a network that counts as small.
        small_network = 100
        # Number of random networks that are tried for a separated form (see `OutputForm`).
        random_if_separated = 5
        policy = self.policy
        form = self.ansatz.form
        one = len(self.system.box) == 1
        if form.separated and (started := self._decomposed_values()) is not None:
            return started, self.system.guesses()
        borders = self.rows.borders(policy.boundary_points, FIRST_WEIGHTS)
        blocks = [*self.rows.equations(self.inside), *borders]
        first = self._random()
        is_small = len(first.get_unknowns()) <= small_network
        small = not one and not form.separated and is_small
        rounds = policy.rounds_if_small if small else policy.rounds
        count = random_if_separated if form.separated else rounds[0][0]
        fields = [first, *(self._random() for _ in range(count - 1))]
        racing = [(0.0, each, self.system.guesses()) for each in fields]
        for kept, steps in rounds:
            stopping = StoppingCriteria(max_steps=steps, rtol=start_rtol)
            for number, (_, field, given) in enumerate(racing[:kept]):
                problem = ResidualProblem(field, blocks, given)
                state, taken = minimise(problem, LM, stopping, ended=time_limit_reached)
                self._count(problem, taken)
                found, constants = problem.solution(state.unknowns)
                racing[number] = state.loss, self.with_fitted_grids(found, self.inside), constants
            racing = sorted(racing[:kept], key=itemgetter(0))
        loss, best, constants = racing[0]
        if not loss < inf:
            raise TrainingFailed(
                "The residual is not finite at any start. Check the formula of the equation on the "
                "box."
            )
        return best, constants

    def _random(self) -> Field:
        form = self.ansatz.form
        network = self.ansatz.create(generator=self.generator)
        if form.separated:
            network.edge_layers[0].mask.copy_(form.mask(len(self.system.box)))
        low, high = map(log, START_SIZES)
        size = exp(low + (high - low) * float(torch.rand((), generator=self.generator)))
        with torch.no_grad():
            for layer in network.edge_layers:
                shape = layer.coefficients.shape
                kind = layer.coefficients.dtype
                drawn = torch.randn(shape, generator=self.generator, dtype=kind)
                layer.coefficients.copy_(drawn * size)
        candidate = Field(network, form, self.system.box, self.rows.sizes)
        return self.with_fitted_grids(candidate, self.inside)

    def _decomposed_values(self) -> Field | None:
        """Return a field that is constant in time and equal to the initial values.

        The field is a sum of products, from the singular value decomposition of the initial values
        on a grid. Return None unless there are two variables besides time and nonzero initial
        values.
        """
        system = self.system
        low = float(self.system.box[-1, 0])
        known = {
            derivative.unknown: value
            for condition, derivative, value in system.given
            if condition.faces == (((2, low),),) and not any(derivative.index)
        }
        possible = len(system.box) == 3 and system.is_evolution
        if not possible or not any(known.values()):
            return None
        (layer,) = self._random().network.edge_layers
        intervals = layer.grid.breakpoints.shape[1] - 1
        names = system.vocabulary.variables
        given = [to_numpy(known.get(u, sympy.S.Zero), names) for u in range(len(self.rows.sizes))]
        at = self.rows.points(self.rows.unseen)
        at[:, 2] = low
        wanted = torch.as_tensor(np.stack([each(at.numpy()) for each in given], axis=1))
        while True:
            edges = np.linspace(-np.ones(3), np.ones(3), intervals + 1, axis=1)
            field = self._products(given, edges, layer.spec.degree)
            with torch.no_grad():
                error = float((field(at) - wanted).norm() / wanted.norm())
            finer = 2 * len(field.get_unknowns())
            if error <= INITIAL_VALUE_TOLERANCE or finer > MAX_UNKNOWNS:
                return field
            intervals *= 2

    def _products(self, given: Sequence[RowFunction], edges: Array, degree: int) -> Field:
        """Return the field of `_decomposed_values` on one grid.

        `given` are the initial values as functions, one per unknown. `edges` are the breakpoints of
        each variable, scaled to [-1, 1], and `degree` is the degree of the splines.
        """
        # Largest number of products that approximate the initial values if the setting does not fix
        # the number of terms. More products represent more complicated initial values and add
        # unknowns.
        max_terms = 16
        box = self.system.box
        form = self.ansatz.form
        sizes = self.rows.sizes
        inner = torch.as_tensor(interpolation_points(edges, degree)).T
        x, y = (box.mean(1) + inner * box.diff()[:, 0] / 2).T[:2]
        points = torch.cartesian_prod(x, y, box[2, :1]).numpy()
        every = [value(points).reshape(len(x), -1) for value in given]
        matrices = np.stack(every) / sizes[:, None, None].numpy()
        most = max_terms if self.ansatz.free_terms else form.terms
        each, other = (
            each.swapaxes(0, 1) for each in products(matrices, INITIAL_VALUE_TOLERANCE, most)
        )
        factors: list[Factor] = [lambda _: each, lambda _: other, lambda _: np.ones_like(each)]
        return spline_field(box, edges, degree, factors, sizes)

    def with_fitted_grids(self, solution: Field, points: Tensor) -> Field:
        """Return the field with grids of hidden layers that fit the activations at `points`.

        Second derivatives are zero outside a grid, so all activations must lie inside. Grids are
        also redrawn if activations fill less than the fraction `filled` of a grid.
        """
        # Smallest fraction of a hidden grid that the activations must fill; otherwise the grid is
        # redrawn. A larger value redraws grids more often.
        filled = 0.5
        # Margin of a new hidden grid beyond the activations, as a fraction of their range. A larger
        # margin leaves activations more room to grow but makes the grid coarser.
        margin = 0.1
        blocks = self.rows.borders(self.policy.boundary_points, EQUAL_WEIGHTS)
        inner = solution.inner(torch.cat([points, *(block.points for block in blocks)]))
        if solution.network.covers(inner, filled):
            return solution
        return solution.with_network(solution.network.regrid(inner, margin=margin).network)
