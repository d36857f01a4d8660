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
from math import inf, isfinite, sqrt
from time import process_time

import numpy as np
import torch
from scipy.linalg import lstsq
from torch import Generator

from kanrun.engine.equations.audit import Unseen, not_seen, tensor_unseen
from kanrun.engine.equations.collocation import Collocation, EquationPolicy
from kanrun.engine.equations.fields import Field, breakpoints_of, spline_field
from kanrun.engine.equations.scan import narrow_ends, narrow_rounding
from kanrun.engine.equations.solution import (
    Contradiction,
    Correction,
    EquationStage,
    Grids,
    Missed,
    Solution,
)
from kanrun.engine.equations.space import (
    DEGREE,
    GAUSS,
    RICHER_GAUSS,
    Space,
    kinks_of,
    products,
    split_intervals,
    with_breakpoints,
    with_kinks,
)
from kanrun.engine.equations.system import Array, System
from kanrun.engine.equations.tensor_splines import (
    CONDITION_WEIGHT,
    DAMPING,
    FINER,
    FIRST,
    LM,
    NONLINEAR_DAMPING,
    QUIET,
    TensorProblem,
    TensorSpace,
    patches,
    tensor_residuals,
    tensor_sensitivity,
)
from kanrun.engine.least_squares import NormalEquations, minimise
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Largest number of multiplications of one factorisation. A larger number allows finer grids,
#: which take more time and memory.
MAX_WORK = 6e9
#: Factors by which the number of intervals grows, in this order of preference. The smaller one is
#: used if `MAX_WORK` does not allow the larger one.
GROWTHS = (2.0, 1.4)
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
        # The estimated error is trusted only if the Newton step in the richer space leaves at most
        # this fraction of the residual. Otherwise, the richer space does not resolve what causes
        # the error.
        left = 0.5
        (step, *others) = self.corrections
        is_small = step.equation.rms * (self.sensitivity or 1.0) <= tolerance
        return bool(others) or is_small or step.remaining <= left

    def is_settled(self, tolerance: float) -> bool:
        """Return whether the estimated error is below the tolerance and can be trusted."""
        # Root mean square residual above which finer grids follow even if the estimated error is
        # small, because narrow layers may lie between the points.
        settled = 1e-2
        residual = max(step.equation.rms for step in self.corrections)
        is_small = self.estimate <= tolerance and residual <= settled
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
                the factors `GROWTHS` that `MAX_WORK` allows, up to `max_intervals`; a variable with
                a small correction keeps its intervals.
            tolerance: Wanted error. If the audit finds unresolved features at this tolerance,
                intervals are halved where the unseen residual is large.

        Returns:
            The space, or None if the limits allow no finer one.
        """
        # In two variables, the intervals of a variable are kept if halving them changes the
        # solution by less than this fraction of the change when the intervals of the other variable
        # are halved.
        negligible_correction = 0.05
        # Largest number of intervals of one variable.
        max_intervals = 8192
        assert self.problem is not None
        axes = self._axes(self.problem)
        places = [(step.at, step.squares) for step in self.corrections]
        if self.unseen is not None and not self.has_seen(tolerance):
            points, unseen = self.unseen.weighted
            places = [(column, unseen) for column in points.T]
        least = negligible_correction * max(each.size for each in self.corrections)
        for growth in GROWTHS if intervals is None else (1.0,):
            breakpoints = []
            for axis, step, place in zip(axes, self.corrections, places, strict=True):
                grown = growth if step.size >= least else 1.0
                number = intervals or min(int(grown * axis.intervals), max_intervals)
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
        # Assumed CPU time of the error estimate on a grid, in Levenberg-Marquardt steps.
        steps_of_correction = 4
        # Assumed CPU seconds per grid.
        seconds_of_grid = 0.03
        # Assumed CPU seconds per interval and step.
        seconds_of_interval = 5e-5
        # Assumed CPU seconds per multiplication of a factorisation.
        seconds_of_work = 4e-10
        # Smallest divisor; protects against division by zero.
        tiny = 1e-300
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
        work = space.work * seconds_of_work + intervals * seconds_of_interval
        self.seconds += seconds_of_grid + (started + steps + steps_of_correction) * work
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
        excess = max(1.0, change / max(self.correction, tiny))
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
        # Products are always left out if their size, relative to the largest product, is below
        # this. A larger value limits the accuracy; a smaller one keeps products that are only
        # rounding.
        rounding = 1e-15
        # Products are left out if their size, relative to the largest product, is below this
        # fraction of the estimated error (or of 1, if the error is larger). A larger value gives
        # shorter and less accurate solutions.
        negligible_product = 1e-3
        least = max(rounding, negligible_product * min(self.estimate, 1.0))
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
    # Estimated error below which no finer grid follows once the tolerance is met.
    enough = 1e-11
    # Smallest relative error that is reported, because of rounding.
    rounding_error = 1e-12
    # After the tolerance is met, a finer grid is still solved if its factorisation takes at most
    # this many multiplications. A larger number spends more time on accuracy that was not asked
    # for.
    cheap_work = 1.5e8
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
            if space.work > cheap_work or stalled or solver.estimate <= enough:
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
        max(solver.estimate, rounding_error, narrow_rounding(system.scan)),
        tolerance,
        stopped,
        doubt,
        contradiction=find_contradiction(solver.rows, stage, solver.corrections),
        unseen=0.0 if unseen is None else unseen.size,
    )


#: Weight of conditions, relative to the equation, in the first steps from an initial guess.
LIGHT = 1.0


def first_guess(rows: Collocation, space: TensorSpace) -> tuple[Array, int]:
    """Return initial coefficients for the first grid, and the number of steps taken to find them.

    For linear equations, the coefficients are zero. For nonlinear ones, the steps start from the
    smoothest function that satisfies the conditions, whose highest derivatives have the smallest
    mean square.
    """
    coefficients = np.zeros(space.shape)
    taken = 0
    if rows.system.is_linear:
        return coefficients, taken
    bends = rows.system.bends(rows.system.order)
    smooth = patches(rows, space, equations=bends)
    light, heavy = (
        patches(rows, space, condition_weight=weight) for weight in (LIGHT, CONDITION_WEIGHT)
    )
    for parts, stopping in ((smooth, FINER), (light, FIRST), (heavy, FIRST)):
        problem = TensorProblem(space, parts, coefficients)
        damping = DAMPING if parts is smooth else NONLINEAR_DAMPING
        state, steps = minimise(problem, LM, stopping, damping, ended=time_limit_reached)
        taken += steps
        coefficients = problem.coefficients(state.unknowns)
    return coefficients, taken


def correction(rows: Collocation, solved: TensorProblem, number: int, field: Field) -> Correction:
    """Halve the intervals of one variable, and take one Newton step from a solution.

    Args:
        rows: Collocation of the system.
        solved: Least squares problem, whose `unknowns` are the solution.
        number: Index of the variable whose intervals are halved.
        field: The solution as a network, from which the units of the residuals are computed.
    """
    coarse = solved.space
    x, y = (axis.halved if i == number else axis for i, axis in enumerate(coarse.axes))
    space = TensorSpace((x, y), coarse.unknowns)
    start = coarse.moved(solved.coefficients(solved.unknowns), space.axes)
    rules = [RICHER_GAUSS if i == number else GAUSS for i in range(2)]
    parts = patches(rows, space, rules, field)
    problem = TensorProblem(space, parts, start)
    equations = NormalEquations(problem.linearise(problem.unknowns))
    move = -equations.solver(DAMPING)(equations.gradient)
    inside = parts[: len(rows.system.equations)]
    before = problem.unknowns.numpy()
    residuals = tensor_residuals(inside, before)
    after = tensor_residuals(inside, (problem.unknowns + move).numpy())
    return Correction(
        np.concatenate([part.points[:, number] for part in inside]),
        np.concatenate([part.residual(before) ** 2 for part in inside]),
        relative_size(rows, solved, space, problem.coefficients(move)),
        residuals,
        tensor_residuals(parts[len(inside) :], before, CONDITION_WEIGHT**-0.5),
        after.rms / (residuals.rms or 1.0),
    )


def relative_size(
    rows: Collocation, solved: TensorProblem, space: TensorSpace, change: Array
) -> float:
    """Return the relative size of a change of a solution, for the unknown that changes most.

    Args:
        rows: Collocation of the system, for the estimated sizes of the unknowns.
        solved: Least squares problem, whose `unknowns` are the solution.
        space: Space of the change.
        change: Coefficients of the change in `space`.

    Returns:
        Root mean square of the change, divided by that of the unknown.
    """
    solution = solved.coefficients(solved.unknowns)
    gauss = [axis.gauss for axis in space.axes]
    x_at, y_at = (places.at.ravel() for places in gauss)
    x, y = (places.shares.ravel() for places in gauss)
    largest = 0.0
    for unknown, quiet in enumerate(QUIET * rows.sizes.numpy()):
        values = solved.space.evaluate(solution[unknown], x_at, y_at)
        moved = space.evaluate(change[unknown], x_at, y_at)
        size = max(sqrt(x @ np.square(values) @ y), float(quiet))
        largest = max(largest, sqrt(x @ np.square(moved) @ y) / size)
    return largest


#: Distances of additional breakpoints from both ends of a range, relative to its length. These
#: breakpoints resolve boundary layers.
LAYERS = 0.5 ** np.arange(1.0, 24.0)
#: Number of equal intervals to which the breakpoints of boundary layers are added, for equations in
#: one variable and in two.
INTERVALS = (64, 8)


def find_contradiction(
    rows: Collocation, stage: EquationStage, corrections: Sequence[Correction]
) -> Contradiction | None:
    """Test whether the conditions of a linear system contradict its equations.

    Args:
        rows: Collocation of the system, for the units of the residuals.
        stage: Solution on the last grid.
        corrections: Newton steps from this solution in spaces of halved intervals, one per
            variable.

    Returns:
        The contradiction, or None if none was found.
    """
    # With this small weight, the equation counts as satisfied if its residual is at most this
    # fraction of the residual with the full weight of the conditions.
    satisfied = 0.02
    # Weight of the conditions, relative to the equation, when the solver looks for functions that
    # satisfy the equation alone.
    released = 1e-6
    # Smallest residual, relative to the terms of the equation, that counts as a contradiction.
    smallest_residual = 1e-2
    # Largest relative decrease of the residual, in a richer space, at which it counts as steady.
    steady = 0.01
    least = stage.equation.rms
    is_possible = rows.system.is_linear and not rows.system.corners and least >= smallest_residual
    if not is_possible or min(each.remaining for each in corrections) < 1 - steady:
        return None
    for number in range(len(rows.system.box)):
        space = _with_layers(rows, number)
        if _solved(rows, space, stage.solution, CONDITION_WEIGHT)[1] < (1 - steady) * least:
            return None
    problem, left = _solved(rows, space, stage.solution, released)
    return Contradiction(least, _missed(rows, problem) if left <= satisfied * least else ())


def _with_layers(rows: Collocation, layered: int) -> TensorSpace:
    """Return a space with additional breakpoints near both ends of the variable `layered`.

    The breakpoints resolve boundary layers down to a relative width of about 1e-7. If the residual
    stays the same on finer grids only because a boundary layer is narrower than their intervals,
    the residual in this space is smaller.
    """
    system = rows.system
    axes = list[Space]()
    even = np.linspace(0, 1, INTERVALS[len(system.box) - 1] + 1)
    for number, (low, high) in enumerate(system.box.tolist()):
        shares = np.union1d(even, [*LAYERS, *(1 - LAYERS)]) if number == layered else even
        is_periodic = any(each.periodic == number for each in system.conditions)
        axes.append(Space(low + (high - low) * shares, (), is_periodic))
    x, y, *_ = *axes, Space.constant()
    return TensorSpace((x, y), len(system.vocabulary.unknowns))


def _solved(
    rows: Collocation, space: TensorSpace, solution: Field, condition_weight: float
) -> tuple[TensorProblem, float]:
    """Solve the linear system in `space` with the given weight of the conditions.

    An orthogonal factorisation is used, because normal equations are not accurate enough in narrow
    layers.

    Returns:
        The least squares problem, with the solution as its `unknowns`; and the root mean square
        residual of the equations.
    """
    parts = patches(rows, space, solution=solution, condition_weight=condition_weight)
    problem = TensorProblem(space, parts)
    count = len(rows.system.equations)
    zero = problem.unknowns.numpy()
    matrices = list[Array]()
    for each in (part.rows(zero) for part in parts):
        index = each.pattern.index.numpy()[:, None].repeat(each.values.shape[1], axis=1)
        dense = np.zeros((*index.shape[:2], space.size))
        np.put_along_axis(dense, index, each.values.numpy(), axis=2)
        matrices.append(dense.reshape(-1, space.size))
    matrix = np.concatenate(matrices)
    sizes = np.linalg.norm(matrix, axis=0)
    right = -problem.residual(problem.unknowns).numpy()
    found = lstsq(matrix / sizes, right, lapack_driver="gelsy")[0] / sizes
    problem.unknowns = torch.as_tensor(found)
    squares = sum(float(np.sum(each.residual(found) ** 2)) for each in parts[:count])
    return problem, sqrt(squares / count)


def _missed(rows: Collocation, problem: TensorProblem) -> tuple[Missed, ...]:
    """Return the conditions that the solution of `problem` violates most."""
    # Conditions are reported if they are violated by at least this fraction of the largest
    # violation.
    named = 0.1
    vector = problem.unknowns.numpy()
    parts = problem.patches[len(rows.system.equations) :]
    faces = ((each.relation, face) for each in rows.system.conditions for face in each.faces)
    found = [
        Missed(relation.text, face, float(np.abs(relation.residual(part.arguments(vector))).max()))
        for (relation, face), part in zip(faces, parts, strict=True)
    ]
    largest = max((each.difference for each in found), default=0.0)
    return tuple(each for each in found if each.difference >= named * largest)
