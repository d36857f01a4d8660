"""Direct solutions of equations in at most two variables on tensor products of splines.

Every grid has twice the intervals of the one before, most of them where the residual is large, and
starts from its solution. The singular value decomposition of the coefficients gives the KAN: the
shortest sum of products of one function per variable.
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
#: Smallest relative size below which products are always left out, whatever the estimated error. A
#: larger value limits the accuracy; a smaller one keeps products that are only rounding.
ROUNDING = 1e-15
#: Nodes of [-1, 1] in each interval, away from Gauss points, at which residuals are measured, and
#: their weights. A network has few digits of the highest derivatives in the smallest cells.
UNSEEN = np.array([-0.97, -0.6, 0.05, 0.55, 0.93]), np.full(5, 0.4)
#: Unknowns count as at least this fraction of their estimated sizes in relative changes.
QUIET = 1e-6
#: Largest number of multiplications of one factorisation. A larger number allows finer grids,
#: which take more time and memory.
MAX_WORK = 6e9
#: Number of multiplications of a factorisation up to which a finer grid is solved although the
#: tolerance is met. A larger number spends more time on accuracy that was not asked for.
CHEAP_WORK = 1.5e8
#: Intervals at most, in one variable.
MAX_INTERVALS = 8192
#: A last grid that is less than twice as fine has at least this many times the intervals.
LAST_GROWTH = 1.25
#: Bounds of the assumed ratio of the next change to the last one, which is the larger of the last
#: two ratios. Larger bounds give larger estimates of the error and more grids. The ratio was 0.002
#: to 0.01 in 8 smooth problems, and 0.02 to 0.9 in 6 with corners.
FALL = (0.01, 1.0)
#: The same ratio as long as only one change is known. A larger value gives a larger first estimate
#: of the error.
FIRST_FALL = 0.1
#: Error relative to the largest one that a residual may cause, the sensitivity times the residual.
#: It was at most 0.7 and mostly below 0.1 in 54 problems with narrow features.
RESPONSE = 0.1
#: Residual above which finer grids follow whatever the estimate: layers that no point has seen.
SETTLED = 1e-2
#: Counted work in approximate CPU seconds: of a multiplication, of an interval in a step, and of a
#: grid.
SECONDS_OF_WORK = 4e-10
SECONDS_OF_INTERVAL = 5e-5
SECONDS_OF_GRID = 0.03
#: Estimates are never below this relative error, which rounding leaves.
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
        field: Solution of the last grid, or the initial guess.
        problem: Problem of the last grid; its unknowns are the solution.
        changes: Relative changes of the solution from grid to grid.
        estimate: Estimated relative error.
        sensitivity: See `EquationStage`, on the first grid.
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
        #: Likely change of the solution for a change of the equation by the last residual.
        self.response = 0.0
        self.unseen: Unseen | None = None
        #: Intervals of each variable relative to the first one.
        self.shares = [1.0] * len(self.box)
        #: Counted work, in approximate CPU seconds.
        self.seconds = 0.0

    @property
    def estimate(self) -> float:
        """Estimated relative error; infinite before there are two grids.

        In one variable, where finer grids cost little, it is at least what the residual may change.
        """
        return max(self.remaining, self.response if len(self.box) == 1 else 0.0)

    @property
    def remaining(self) -> float:
        """Change from the next grid if changes fall as before; infinite before there are two."""
        fall = max(self.falls[-2:], default=FIRST_FALL)
        return self.changes[-1] * float(np.clip(fall, *FALL)) if self.changes else inf

    def has_seen(self, tolerance: float) -> bool:
        """Return whether the last grid represents the residual at unseen places."""
        found = self.unseen
        return found is None or found.size <= tolerance + found.allowed

    @property
    def falls(self) -> list[float]:
        """Factors from one change to the next."""
        return [after / max(before, QUIET**2) for before, after in pairwise(self.changes)]

    def work(self, intervals: int) -> float:
        """Return the multiplications of a factorisation on this many intervals."""
        pairs = zip(self.shares, self.periodic, strict=True)
        lengths = [round(share * intervals) + (0 if ring else DEGREE) for share, ring in pairs]
        near = min(lengths) + 1 if len(lengths) > 1 else 1
        width = DEGREE * near * self.count * (1 + any(self.periodic))
        return float(np.prod(lengths)) * self.count * width**2

    def finest(self, intervals: int) -> int | None:
        """Return twice as many intervals, or as many as `MAX_WORK` allows; None for hardly more."""
        finer = min(2 * intervals, MAX_INTERVALS)
        while self.work(finer) > MAX_WORK:
            finer -= 1
        return finer if finer >= LAST_GROWTH * intervals else None

    def solve(self, intervals: int) -> EquationStage:
        """Solve on this many intervals of each variable, or on those of an initial guess.

        Raises:
            TrainingFailed: If the residual of the initial guess is not finite.
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
        """Return breakpoints of all variables, most of them where residuals are large."""
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
        empty = [len(each) - len({*each}) for each in kinks]  # intervals of length 0
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
        """Return `EquationStage.sensitivity` by the power method, in units of the solution."""
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
        """Return the sum of products larger than `least`, by singular value decompositions.

        In one variable it is the spline itself.
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
    """Return the residuals of patches relative to their units; all patches weigh the same."""
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
    """Solve grid by grid from a `first` guess; yield the grids and return the solution.

    After the planned grids, finer ones follow if `grids` grows, until the estimated error is below
    the tolerance and further ones are expensive.
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
