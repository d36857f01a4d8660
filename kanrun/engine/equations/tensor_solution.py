"""Solver of equations in at most two variables, with tensor products of splines on the whole box.

On each of a sequence of grids, the coefficients of the solution (`tensor_splines.py`) are fitted by
least squares. The error is estimated as in slabs of time (`controller.py`): by one Newton step in a
richer space of splines, in which the intervals of one variable are halved. The next grid halves the
intervals with the largest residuals in this richer space, or those in which an audit (`audit.py`)
finds features that the grid does not resolve. A singular value decomposition of the coefficients
converts the result to a KAN: the shortest sum of products of one function per variable.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from math import inf, isfinite
from time import process_time

import numpy as np
import torch
from torch import Generator

from kanrun.engine.equations.audit import not_seen, tensor_unseen
from kanrun.engine.equations.collocation import Collocation, EquationPolicy
from kanrun.engine.equations.contradiction import find_contradiction
from kanrun.engine.equations.correction import correction, relative_size
from kanrun.engine.equations.fields import Field, breakpoints_of, spline_field
from kanrun.engine.equations.first_guess import first_guess
from kanrun.engine.equations.scan import narrow_ends, narrow_rounding
from kanrun.engine.equations.solution import Correction, EquationStage, Grids, Solution
from kanrun.engine.equations.space import (
    DEGREE,
    Space,
    kinks_of,
    products,
    split_intervals,
    with_breakpoints,
    with_kinks,
)
from kanrun.engine.equations.system import Array, System
from kanrun.engine.equations.tensor_splines import (
    DAMPING,
    FINER,
    FIRST,
    LM,
    NONLINEAR_DAMPING,
    TensorProblem,
    TensorSpace,
    patches,
    tensor_sensitivity,
)
from kanrun.engine.equations.unseen import Unseen
from kanrun.engine.least_squares import minimise
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Products are left out if their size, relative to the largest product, is below this fraction of
#: the estimated error (or of 1, if the error is larger). A larger value gives shorter and less
#: accurate solutions.
NEGLIGIBLE_PRODUCT = 1e-3
#: Products are always left out if their size, relative to the largest product, is below this. A
#: larger value limits the accuracy; a smaller one keeps products that are only rounding.
ROUNDING = 1e-15
#: Smallest divisor; protects against division by zero.
TINY = 1e-300
#: Largest number of multiplications of one factorisation. A larger number allows finer grids,
#: which take more time and memory.
MAX_WORK = 6e9
#: After the tolerance is met, a finer grid is still solved if its factorisation takes at most this
#: many multiplications. A larger number spends more time on accuracy that was not asked for.
CHEAP_WORK = 1.5e8
#: Largest number of intervals of one variable.
MAX_INTERVALS = 8192
#: Factors by which the number of intervals grows, in this order of preference. The smaller one is
#: used if `MAX_WORK` does not allow the larger one.
GROWTHS = (2.0, 1.4)
#: In two variables, the intervals of a variable are kept if halving them changes the solution by
#: less than this fraction of the change when the intervals of the other variable are halved.
NEGLIGIBLE_CORRECTION = 0.05
#: Root mean square residual above which finer grids follow even if the estimated error is small,
#: because narrow layers may lie between the points.
SETTLED = 1e-2
#: The estimated error is trusted only if the Newton step in the richer space leaves at most this
#: fraction of the residual. Otherwise, the richer space does not resolve what causes the error.
LEFT = 0.5
#: Assumed CPU seconds per multiplication of a factorisation.
SECONDS_OF_WORK = 4e-10
#: Assumed CPU seconds per interval and step.
SECONDS_OF_INTERVAL = 5e-5
#: Assumed CPU seconds per grid.
SECONDS_OF_GRID = 0.03
#: Assumed CPU time of the error estimate on a grid, in Levenberg-Marquardt steps.
STEPS_OF_CORRECTION = 4
#: Smallest relative error that is reported, because of rounding.
ROUNDING_ERROR = 1e-12
#: Estimated error below which no finer grid follows once the tolerance is met.
ENOUGH = 1e-11
#: If the estimated error is above this fraction of the estimated error on the previous grid, no
#: finer grid follows once the tolerance is met, because rounding dominates. A larger value solves
#: grids that gain nothing.
STALLED = 0.5


class TensorSolver:
    """Solver of one system, grid by grid.

    Attributes:
        problem: Least squares problem of the last grid; its `unknowns` are the solution.
        corrections: Newton steps from the last solution, one per variable.
        correction: Sum of the sizes of these steps; infinite before the first grid.
        estimate: Estimated relative error of the last solution; infinite before the first grid.
        unseen: Result of the audit of the last solution.
        sensitivity: `EquationStage.sensitivity`, measured on the first grid.
        seconds: Estimated CPU seconds so far, from the number of operations.
    """

    def __init__(
        self, system: System, policy: EquationPolicy, generator: Generator, first: Field | None
    ) -> None:
        self.system, self.first = system, first
        self.rows = Collocation(system, policy, generator)
        self.box, self.count = system.box.tolist(), len(system.vocabulary.unknowns)
        rings = {condition.periodic for condition in system.conditions}
        self.periodic = [number in rings for number in range(len(self.box))]
        self.problem: TensorProblem | None = None
        self.corrections = list[Correction]()
        self.correction = inf
        self.estimate = inf
        self.unseen: Unseen | None = None
        self.sensitivity: float | None = None
        self.seconds = 0.0

    def has_seen(self, tolerance: float) -> bool:
        """Return whether the last grid resolves all features of the equations, see `Unseen`."""
        unseen = self.unseen
        return unseen is None or unseen.size <= tolerance + unseen.allowed

    def is_trusted(self, tolerance: float) -> bool:
        """Return whether the richer space resolves what causes the error.

        In one variable, the Newton step must remove most of the residual, unless the residual is so
        small that it changes the solution by less than `tolerance`. In two variables, the result is
        always true, because each step halves the intervals of one variable only and therefore
        removes only part of the residual.
        """
        (step, *others) = self.corrections
        is_small = step.equation.rms * (self.sensitivity or 1.0) <= tolerance
        return bool(others) or is_small or step.remaining <= LEFT

    def is_settled(self, tolerance: float) -> bool:
        """Return whether the estimated error is below the tolerance and can be trusted."""
        residual = max(step.equation.rms for step in self.corrections)
        is_small = self.estimate <= tolerance and residual <= SETTLED
        return is_small and self.has_seen(tolerance) and self.is_trusted(tolerance)

    def first_space(self, intervals: int) -> TensorSpace:
        """Return the spline space on the first grid.

        If there is an initial guess, its breakpoints are used. Otherwise, breakpoints are equally
        spaced, with `intervals` per variable; further breakpoints are added where explicit terms
        have narrow features.
        """
        if self.first is not None and (ends := breakpoints_of(self.first)) is not None:
            return self._space([*ends.T.numpy()])
        kinks = [kinks_of(self.system, number) for number in range(len(self.box))]
        # Kinks add intervals of length 0. Both variables get the same total number of intervals, so
        # the variable with fewer kinks gets more intervals of positive length.
        empty = [len(places) - len({*places}) for places in kinks]
        even = [
            with_kinks(np.linspace(low, high, intervals + 1 + max(empty) - own), places)
            for (low, high), places, own in zip(self.box, kinks, empty, strict=True)
        ]
        narrow = self._space(
            list(map(with_breakpoints, even, map(narrow_ends, self.system.scan.cells)))
        )
        return narrow if narrow.work <= MAX_WORK else self._space(even)

    def finer_space(self, intervals: int | None, tolerance: float) -> TensorSpace | None:
        """Return the spline space on the next grid; intervals with large residuals are halved.

        Args:
            intervals: Number of intervals per variable. If None, the number grows by the first of
                the factors `GROWTHS` that `MAX_WORK` allows, up to `MAX_INTERVALS`; a variable with
                a small correction keeps its intervals.
            tolerance: Wanted error. If the audit finds unresolved features at this tolerance,
                intervals are halved where the unseen residual is large.

        Returns:
            The space, or None if the limits allow no finer one.
        """
        assert self.problem is not None
        axes = self._axes(self.problem)
        places = [(step.at, step.squares) for step in self.corrections]
        if self.unseen is not None and not self.has_seen(tolerance):
            points, unseen = self.unseen.weighted
            places = [(column, unseen) for column in points.T]
        least = NEGLIGIBLE_CORRECTION * max(each.size for each in self.corrections)
        for growth in GROWTHS if intervals is None else (1.0,):
            breakpoints = []
            for axis, step, place in zip(axes, self.corrections, places, strict=True):
                grown = growth if step.size >= least else 1.0
                number = intervals or min(int(grown * axis.intervals), MAX_INTERVALS)
                ends, at, squares = map(torch.as_tensor, (axis.breakpoints, *place))
                breakpoints.append(split_intervals(ends, at, squares, number).numpy())
            space = self._space(breakpoints)
            if intervals is not None:
                return space
            if space.size > self.problem.space.size and space.work <= MAX_WORK:
                return space
        return None

    def _space(self, breakpoints: Sequence[Array]) -> TensorSpace:
        pairs = zip(breakpoints, self.periodic, strict=True)
        x, y, *_ = *(Space(ends, (), ring) for ends, ring in pairs), Space.constant()
        return TensorSpace((x, y), self.count)

    def solve(self, space: TensorSpace) -> EquationStage:
        """Solve on the next grid and return its record.

        Raises:
            TrainingFailed: If the residual is not finite at any initial guess.
        """
        began = process_time()
        before = self.problem
        started = 0
        solution = None
        if before is not None:
            start = before.space.moved(before.coefficients(before.unknowns), space.axes)
            solution = self._field(before)
        elif self.first is not None:
            start = space.project(self.first)
            solution = self.first
        else:
            start, started = first_guess(self.rows, space)
        problem = TensorProblem(space, patches(self.rows, space, solution=solution), start)
        far = before is None and self.first is not None and not self.system.is_linear
        damping, stopping = (NONLINEAR_DAMPING, FIRST) if far else (DAMPING, FINER)
        state, steps = minimise(problem, LM, stopping, damping, ended=time_limit_reached)
        if not isfinite(state.loss):
            raise TrainingFailed(
                "The residual is not finite at any start. Check the formula of the equation on the "
                "box."
            )
        intervals = space.axes[0].intervals
        work = space.work * SECONDS_OF_WORK + intervals * SECONDS_OF_INTERVAL
        self.seconds += SECONDS_OF_GRID + (started + steps + STEPS_OF_CORRECTION) * work
        move = state.unknowns - problem.unknowns
        problem.unknowns = state.unknowns
        self.problem = problem
        field = self._field(problem)
        self.corrections = [
            correction(self.rows, problem, number, field) for number in range(len(self.box))
        ]
        # If the solution changed by more than its last estimated error, that estimate was too small
        # by the ratio of the two. The new estimate is assumed to be too small by the same factor.
        change = 0.0
        if before is not None:
            change = relative_size(self.rows, problem, space, problem.coefficients(move))
        excess = max(1.0, change / max(self.correction, TINY))
        self.correction = sum(step.size for step in self.corrections)
        self.estimate = excess * self.correction
        if self.sensitivity is None:
            self.sensitivity = tensor_sensitivity(self.rows, problem, field)
        field = self._field(problem)
        self.unseen = tensor_unseen(self.rows, space, problem.coefficients(problem.unknowns), field)
        worst = max(self.corrections, key=lambda step: step.equation.rms)
        ends = [torch.as_tensor(axis.breakpoints) for axis in self._axes(problem)]
        return EquationStage(
            intervals=intervals,
            solution=field,
            unknowns=space.size,
            steps=steps,
            objective=state.loss,
            equation=worst.equation,
            conditions=worst.conditions,
            change=self.estimate,
            seconds=process_time() - began,
            points=torch.cartesian_prod(*ends).view(-1, len(ends)),
            sensitivity=self.sensitivity,
        )

    def _axes(self, problem: TensorProblem) -> tuple[Space, ...]:
        return problem.space.axes[: len(self.box)]

    def _field(self, problem: TensorProblem) -> Field:
        """Convert the solution of `problem` to a sum of products, by singular value decomposition.

        Products far below the estimated error are left out. In one variable, the result is the
        spline itself.
        """
        least = max(ROUNDING, NEGLIGIBLE_PRODUCT * min(self.estimate, 1.0))
        axes = self._axes(problem)
        factors = products(problem.coefficients(problem.unknowns), least)
        if len(axes) == 1:
            factors = [factors[0] * factors[1]]
        functions = [
            lambda t, axis=axis, factor=factor: axis.evaluate(factor.swapaxes(0, 1), axis.outer(t))
            for axis, factor in zip(axes, factors, strict=True)
        ]
        edges = np.stack([_padded(axis.edges, max(a.intervals for a in axes)) for axis in axes])
        return spline_field(self.system.box, edges, DEGREE, functions)


def _padded(edges: Array, intervals: int) -> Array:
    """Halve intervals, from the left, until there are `intervals`; return the new breakpoints."""
    none = torch.zeros(0, dtype=torch.float64)
    return split_intervals(torch.as_tensor(edges), none, none, intervals).numpy()


def solve_directly(
    system: System,
    grids: Grids,
    policy: EquationPolicy,
    generator: Generator,
    tolerance: float,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve a system on tensor products of splines; yield a record of every grid.

    After the planned grids, finer ones follow if `grids.grows` is true, until the estimated error
    is below the tolerance and a further grid is expensive or gains nothing.

    Args:
        system: System for which `is_direct` is true.
        grids: Planned grids.
        policy: Numbers of test points, and the budget in approximate CPU seconds.
        generator: Source of random initial guesses and points.
        tolerance: Estimated relative L2 error to reach.
        first: Initial guess, or None.

    Returns:
        The solution on the last grid, with its estimated error.

    Raises:
        TrainingFailed: If the residual is not finite at any initial guess.
    """
    solver = TensorSolver(system, policy, generator, first)
    planned = [*grids.intervals]
    space: TensorSpace | None = solver.first_space(planned.pop(0))
    stopped = ""
    number = 0
    while space is not None:
        number += 1
        before = solver.estimate
        stage = solver.solve(space)
        report_progress("grids", number, None, solver.estimate)
        yield stage
        if time_limit_reached() or not (planned or grids.grows):
            break
        space = solver.finer_space(planned.pop(0) if planned else None, tolerance)
        if not planned and space is not None and solver.is_settled(tolerance):
            stalled = solver.estimate > min(before, 1.0) * STALLED
            if space.work > CHEAP_WORK or stalled or solver.estimate <= ENOUGH:
                break
        if space is not None and solver.seconds > policy.budget:
            stopped = "the budget is spent"
            break
    unseen = solver.unseen
    doubt = None
    if unseen is not None and not solver.has_seen(tolerance):
        doubt = not_seen(system, unseen.place)
    elif not solver.is_trusted(tolerance):
        doubt = (
            "the residual hardly falls if intervals are halved, so the estimate may be too small"
        )
    return Solution(
        stage.solution,
        (stage,),
        float(system.box[-1, 1]),
        max(solver.estimate, ROUNDING_ERROR, narrow_rounding(system.scan)),
        tolerance,
        stopped,
        doubt,
        contradiction=find_contradiction(solver.rows, stage, solver.corrections),
        unseen=0.0 if unseen is None else unseen.size,
    )
