"""Solver for equations in at most two variables on tensor products of splines.

Every grid has twice as many intervals as the previous one, most of them where the residual is
large, and starts from the previous solution. A singular value decomposition of the coefficients
turns the result into a KAN: the shortest sum of products of one function per variable.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf, isfinite, sqrt
from time import process_time

import numpy as np
import torch
from torch import Generator

from kanrun.engine.equations.audit import not_seen, tensor_unseen
from kanrun.engine.equations.collocation import Collocation, EquationPolicy
from kanrun.engine.equations.contradiction import find_contradiction
from kanrun.engine.equations.fields import Field, breakpoints_of, spline_field
from kanrun.engine.equations.residuals import (
    EquationStage,
    Grids,
    Residuals,
    Solution,
    largest_response,
)
from kanrun.engine.equations.scan import narrow_ends, narrow_rounding
from kanrun.engine.equations.space import (
    DEGREE,
    GAUSS,
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
    Patch,
    TensorProblem,
    TensorSpace,
    block_at,
    first_guess,
    patch_at,
    patches,
)
from kanrun.engine.equations.unseen import Unseen
from kanrun.engine.least_squares import ElementRows, StackedRows, minimise
from kanrun.errors import TrainingFailed
from kanrun.formulas.equations import parse_relation
from kanrun.monitoring import report_progress, time_limit_reached

#: Products smaller than this fraction of the estimated error (at most 1), relative to the largest
#: product, are left out. A larger value gives shorter and less accurate solutions.
NEGLIGIBLE_PRODUCT = 1e-3
#: Size, relative to the largest product, below which products are left out whatever the estimated
#: error. A larger value limits the accuracy; a smaller one keeps products that are only rounding.
ROUNDING = 1e-15
#: Nodes on [-1, 1], away from the Gauss points, at which the residuals in each interval are
#: measured after the fit, and their weights.
UNSEEN = np.array([-0.97, -0.6, 0.05, 0.55, 0.93]), np.full(5, 0.4)
#: Relative changes of an unknown are relative to at least this fraction of its estimated size.
QUIET = 1e-6
#: Largest number of multiplications of one factorisation. A larger number allows finer grids,
#: which take more time and memory.
MAX_WORK = 6e9
#: Number of multiplications of a factorisation up to which a finer grid is solved although the
#: tolerance is met. A larger number spends more time on accuracy that was not asked for.
CHEAP_WORK = 1.5e8
#: Largest number of intervals of the first variable.
MAX_INTERVALS = 8192
#: Smallest ratio of the numbers of intervals of successive grids. If `MAX_WORK` allows less, no
#: finer grid follows.
LAST_GROWTH = 1.25
#: Bounds of the ratio by which the change of the solution is assumed to fall on the next grid.
#: Within these bounds, the larger of the last two observed ratios is used. Larger bounds give
#: larger estimates of the error and more grids.
FALL = (0.01, 1.0)
#: The assumed ratio as long as only one change is known. A larger value gives a larger first
#: estimate of the error.
FIRST_FALL = 0.1
#: Assumed ratio of the error to its upper bound, which is the sensitivity times the residual. A
#: larger value gives larger estimates of the error in one variable.
RESPONSE = 0.1
#: Residual above which finer grids follow whatever the estimated error, because narrow layers may
#: lie between the points.
SETTLED = 1e-2
#: Assumed CPU seconds per multiplication of a factorisation.
SECONDS_OF_WORK = 4e-10
#: Assumed CPU seconds per interval and step.
SECONDS_OF_INTERVAL = 5e-5
#: Assumed CPU seconds per grid.
SECONDS_OF_GRID = 0.03
#: Smallest relative error that is reported, because of rounding.
ROUNDING_ERROR = 1e-11
#: Relative change expected from the next grid below which no finer grid follows once the tolerance
#: is met. A smaller value refines down to rounding.
ENOUGH = 1e-11
#: Ratio of the last change to the one before above which no finer grid follows once the tolerance
#: is met, since rounding dominates. A larger value solves more grids that gain nothing.
STALLED = 0.5


class TensorSolver:
    """Solver of one system, grid by grid.

    Attributes:
        field: Solution on the last grid; before the first grid, the initial guess or None.
        problem: Least squares problem of the last grid; its `unknowns` are the solution.
        changes: Relative root mean square changes of the solution from grid to grid.
        sensitivity: `EquationStage.sensitivity`, measured on the first grid.
        seconds: Estimated CPU seconds so far, from the number of operations.
    """

    def __init__(
        self, system: System, policy: EquationPolicy, generator: Generator, first: Field | None
    ) -> None:
        self.system, self.steps, self.field = system, policy.steps, first
        self.rows = Collocation(system, policy, generator)
        self.box, self.count = system.box.tolist(), len(system.vocabulary.unknowns)
        rings = {each.periodic for each in system.conditions}
        self.periodic = [number in rings for number in range(len(self.box))]
        self.problem: TensorProblem | None = None
        self.changes = list[float]()
        self.sensitivity: float | None = None
        #: Relative error of the solution that the last residual probably causes.
        self.response = 0.0
        self.unseen: Unseen | None = None
        #: Number of intervals of each variable, divided by that of the first variable.
        self.shares = [1.0] * len(self.box)
        self.seconds = 0.0

    @property
    def estimate(self) -> float:
        """Estimated relative error; infinite before the second grid.

        It is the expected change from the next grid. In one variable, it is at least the error that
        the residual probably causes.
        """
        return max(self.remaining, self.response if len(self.box) == 1 else 0.0)

    @property
    def remaining(self) -> float:
        """Expected relative change of the solution on the next grid.

        Changes are assumed to fall as before. The value is infinite before the second grid.
        """
        fall = max(self.falls[-2:], default=FIRST_FALL)
        return self.changes[-1] * float(np.clip(fall, *FALL)) if self.changes else inf

    def has_seen(self, tolerance: float) -> bool:
        """Return whether the last grid resolves all features of the equations (see `Unseen`)."""
        found = self.unseen
        return found is None or found.size <= tolerance + found.allowed

    @property
    def falls(self) -> list[float]:
        """Ratio of each change of the solution (`changes`) to the one before."""
        return [after / max(before, QUIET**2) for before, after in pairwise(self.changes)]

    def work(self, intervals: int) -> float:
        """Estimate the number of multiplications of a factorisation on `intervals` intervals."""
        pairs = zip(self.shares, self.periodic, strict=True)
        lengths = [round(share * intervals) + (0 if ring else DEGREE) for share, ring in pairs]
        near = min(lengths) + 1 if len(lengths) > 1 else 1
        width = DEGREE * near * self.count * (1 + any(self.periodic))
        return float(np.prod(lengths)) * self.count * width**2

    def finest(self, intervals: int) -> int | None:
        """Return the number of intervals of the next grid.

        It is twice the present number, or as large as `MAX_WORK` and `MAX_INTERVALS` allow; None if
        that is hardly larger than the present number.
        """
        finer = min(2 * intervals, MAX_INTERVALS)
        while self.work(finer) > MAX_WORK:
            finer -= 1
        return finer if finer >= LAST_GROWTH * intervals else None

    def solve(self, intervals: int) -> EquationStage:
        """Solve on the next grid and return its record.

        Args:
            intervals: Number of intervals of the first variable. The first grid has those of the
                initial guess instead if there is one.

        Raises:
            TrainingFailed: If the residual is not finite at any initial guess.
        """
        began = process_time()
        before = self.field
        is_first = self.problem is None
        pairs = zip(self._breakpoints(intervals), self.periodic, strict=True)
        x, y, *_ = *(Space(each, (), ring) for each, ring in pairs), Space.constant()
        space = TensorSpace((x, y), self.count)
        self.shares = [axis.intervals / x.intervals for axis in (x, y)[: len(self.box)]]
        start, started = (space.project(before), 0) if before else first_guess(self.rows, space)
        problem = TensorProblem(space, patches(self.rows, space, GAUSS, before), start)
        far = is_first and before is not None and not self.system.is_linear
        damping, stopping = (NONLINEAR_DAMPING, FIRST) if far else (DAMPING, FINER)
        stopping = replace(stopping, max_steps=min(stopping.max_steps, self.steps))
        state, steps = minimise(problem, LM, stopping, damping, ended=time_limit_reached)
        if not isfinite(state.loss):
            raise TrainingFailed(
                "The residual is not finite at any start. Check the formula of the equation on the "
                "box."
            )
        work = self.work(x.intervals) * SECONDS_OF_WORK + x.intervals * SECONDS_OF_INTERVAL
        self.seconds += SECONDS_OF_GRID + (started + steps) * work
        problem.unknowns, vector = state.unknowns, state.unknowns.numpy()
        least = max(ROUNDING, NEGLIGIBLE_PRODUCT * min(self.estimate, 1.0))
        self.problem, field = problem, self._field(problem, least)
        if before is not None and not is_first:
            self.changes.append(self.rows.change(field, before))
        self.field = field
        if self.sensitivity is None:
            self.sensitivity = self._sensitivity(problem)
        coefficients = problem.coefficients(problem.unknowns)
        if len(self.box) == 1:
            coefficients = coefficients[..., 0]
        axes = self._axes(problem)
        self.unseen = tensor_unseen(self.rows, axes, coefficients, field)
        unseen = patches(self.rows, space, UNSEEN, field, condition_weight=1.0)
        count = len(self.system.equations)
        equation = _residuals(unseen[:count], vector)
        self.response = RESPONSE * self.sensitivity * equation.rms if equation.rms else 0.0
        ends = [torch.as_tensor(axis.breakpoints) for axis in axes]
        return EquationStage(
            intervals=space.axes[0].intervals,
            solution=field,
            unknowns=space.size,
            steps=steps,
            objective=state.loss,
            equation=equation,
            conditions=_residuals(unseen[count:], vector),
            change=self.changes[-1] if self.changes else None,
            seconds=process_time() - began,
            points=torch.cartesian_prod(*ends).view(-1, len(ends)),
            sensitivity=self.sensitivity,
        )

    def _breakpoints(self, intervals: int) -> list[Array]:
        """Return the breakpoints of the next grid, one array per variable.

        After the first grid, most of them lie where residuals are large. On the first grid they are
        those of the initial guess, or equally spaced and finer where explicit terms are narrow.
        """
        if (problem := self.problem) is not None:
            squares = problem.residual(problem.unknowns).square().nan_to_num()
            points = torch.as_tensor(np.concatenate([each.points for each in problem.patches]))
            if self.unseen is not None:
                more, left = self.unseen.weighted
                points = torch.cat([points, torch.as_tensor(more)])
                squares = torch.cat([squares, torch.as_tensor(left)])
            pairs = zip(self._axes(problem), points.T, self.shares, strict=True)
            return [
                split_intervals(
                    torch.as_tensor(axis.breakpoints), at, squares, round(share * intervals)
                ).numpy()
                for axis, at, share in pairs
            ]
        if self.field is not None and (ends := breakpoints_of(self.field)) is not None:
            return [*ends.T.numpy()]
        kinks = [kinks_of(self.system, number) for number in range(len(self.box))]
        empty = [len(each) - len({*each}) for each in kinks]  # Intervals of length 0 at kinks.
        found = [
            with_kinks(np.linspace(low, high, intervals + 1 + max(empty) - own), places)
            for (low, high), places, own in zip(self.box, kinks, empty, strict=True)
        ]
        narrow = map(narrow_ends, self.system.scan.cells)
        finer = list(map(with_breakpoints, found, narrow))
        self.shares = [len(each) / len(finer[0]) for each in finer]
        return finer if self.work(len(finer[0])) <= MAX_WORK else found

    def _axes(self, problem: TensorProblem) -> tuple[Space, ...]:
        return problem.space.axes[: len(self.box)]

    def _sensitivity(self, solved: TensorProblem) -> float:
        """Compute `EquationStage.sensitivity` by the power method, relative to the solution."""
        space = solved.space
        names = self.system.vocabulary
        values = [parse_relation(f"{name} = 0", names) for name in names.unknowns]
        problem = TensorProblem(space, patches(self.rows, space, GAUSS, self.field))
        blocks = list[ElementRows]()
        inside = space.places(GAUSS)
        vector = solved.unknowns.numpy()
        for relation, quiet in zip(values, QUIET * self.rows.sizes, strict=True):
            patch = patch_at(block_at("equation", relation, inside), inside, space.pattern(inside))
            size = max(float(np.linalg.norm(patch.residual(vector))), float(quiet))
            blocks.append(replace(patch, scale=patch.scale / size).rows(vector))
        relative = StackedRows(lambda: blocks, space.size)
        return largest_response(problem.linearise(solved.unknowns), relative)

    def _field(self, problem: TensorProblem, least: float) -> Field:
        """Return the solution as a sum of products, by singular value decomposition.

        Products below `least`, relative to the largest, are left out. In one variable, the result
        is the spline itself.
        """
        axes = self._axes(problem)
        factors = products(problem.coefficients(problem.unknowns), least)
        if len(axes) == 1:
            factors = [factors[0] * factors[1]]
        pairs = zip(axes, factors, strict=True)
        functions = [
            lambda t, axis=axis, each=each: axis.evaluate(each.swapaxes(0, 1), axis.outer(t))
            for axis, each in pairs
        ]
        edges = np.stack([axis.edges for axis in axes])
        return spline_field(self.system.box, edges, DEGREE, functions)


def _residuals(parts: Sequence[Patch], vector: Array) -> Residuals:
    """Summarise the residuals of patches in their units, with the same weight for each patch."""
    scale = sqrt(sum(len(each.points) for each in parts) / max(len(parts), 1))
    every = [(each.points, each.residual(vector) * scale) for each in parts]
    return Residuals.of([(torch.as_tensor(at), torch.as_tensor(found)) for at, found in every])


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
        policy: Step limit per grid, and budget in approximate CPU seconds.
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
    residuals = list[float]()
    stopped = ""
    while planned:
        stage = solver.solve(planned.pop(0))
        report_progress("grids", len(solver.changes) + 1, None, sqrt(stage.objective))
        residuals.append(stage.equation.rms)
        yield stage
        if time_limit_reached():
            break
        finer = solver.finest(stage.intervals or 0)
        if not planned and grids.grows and finer is not None:
            expensive = solver.work(finer) > CHEAP_WORK or solver.falls[-1:] > [STALLED]
            settled = solver.estimate <= tolerance and stage.equation.rms <= SETTLED
            settled = settled and solver.has_seen(tolerance)
            if not (settled and (expensive or solver.remaining < ENOUGH)):
                planned = [finer]
        if planned and solver.seconds > policy.budget:
            stopped = "the budget is spent"
            break
    found = solver.unseen
    doubt = None
    if found is not None and not solver.has_seen(tolerance):
        doubt = not_seen(system, found.place)
    return Solution(
        stage.solution,
        (stage,),
        float(system.box[-1, 1]),
        max(solver.estimate, ROUNDING_ERROR, narrow_rounding(system.scan))
        if solver.changes
        else None,
        tolerance,
        stopped,
        doubt,
        contradiction=find_contradiction(solver.rows, stage.solution, residuals),
        unseen=0.0 if found is None else found.size,
    )
