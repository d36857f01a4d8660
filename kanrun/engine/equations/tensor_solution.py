"""Direct solutions of equations in at most two variables on tensor products of splines.

Every grid has twice the intervals of the one before, most of them where the residual is large, and
starts from its solution. The singular value decomposition of the coefficients gives the KAN: the
shortest sum of products of one function per variable.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite, sqrt
from time import process_time

import numpy as np
import torch
from torch import Generator, Tensor

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field, OutputForm, edges_of
from kanrun.engine.equations.policy import (
    Ansatz,
    EquationPolicy,
    EquationStage,
    Residuals,
    Solution,
)
from kanrun.engine.equations.space import DEGREE, Array, Space
from kanrun.engine.equations.starting_fields import split_intervals
from kanrun.engine.equations.system import System
from kanrun.engine.equations.tensor_splines import (
    GAUSS_POINTS,
    Patch,
    TensorProblem,
    TensorSpace,
    patches,
)
from kanrun.engine.equations.tensor_starts import (
    DAMPING,
    FINER,
    FIRST,
    LM,
    NONLINEAR_DAMPING,
    first_guess,
)
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.least_squares import NormalEquations, minimise
from kanrun.engine.networks import KAN
from kanrun.engine.splines import fit_coefficients, sample_points
from kanrun.errors import TrainingFailed
from kanrun.monitoring import report_progress, time_limit_reached

#: Products below this fraction of the estimated error do not count; without an estimate, products
#: that are rounding relative to the largest.
NEGLIGIBLE_PRODUCT, ROUNDING = 1e-3, 1e-15
#: Nodes of [-1, 1] in each interval, away from Gauss points, at which residuals are measured, and
#: their weights.
UNSEEN = np.array([-0.97, -0.6, 0.05, 0.55, 0.93]), np.full(5, 0.4)
#: Inner points of each variable at which two grids are compared, in one variable and in two; and
#: steps of the power method.
COMPARED_POINTS, POWER_STEPS = (2001, 101), 20
#: Unknowns count as at least this fraction of their estimated sizes in relative changes.
QUIET = 1e-6
#: Damping at which the sensitivity is measured, where other functions fit as well.
OPEN_DAMPING = 1e-15
#: Multiplications of one factorisation at most, and those below which a finer grid follows although
#: the error is small enough.
MAX_WORK, CHEAP_WORK = 6e9, 1.5e8
#: Intervals at most, in one variable.
MAX_INTERVALS = 2048
#: A last grid that is less than twice as fine has at least this many times the intervals.
LAST_GROWTH = 1.25
#: Bounds of the factor by which the error of the next grid is assumed to fall: the larger one of
#: the last two. In 8 smooth problems it fell by 0.002 to 0.01, in 6 with corners by 0.02 to 0.9.
FALL = 0.01, 1.0
#: Residual above which finer grids follow whatever the estimate: layers that no point has seen.
SETTLED = 1e-2
#: An estimated error below which no finer grid follows; nor does one after a small error if the
#: last change is more than this fraction of the one before: rounding.
ENOUGH, STALLED = 1e-11, 0.5


@dataclass(frozen=True)
class _Grid:
    """A solved grid; `values` are those of the unknowns at points of comparison."""

    space: TensorSpace
    problem: TensorProblem
    vector: Tensor
    steps: int
    objective: float
    values: Array

    @property
    def coefficients(self) -> Array:
        return self.problem.coefficients(self.vector)

    @property
    def size(self) -> Array:
        """Root mean square of each unknown."""
        found: Array = np.sqrt(np.square(self.values).mean((1, 2)))
        return found


class TensorSolver:
    """Solver of one system."""

    def __init__(self, system: System, policy: EquationPolicy, generator: Generator) -> None:
        self.system, self.steps = system, policy.stage.max_steps
        self.rows = Collocation(system, policy, generator, None, growing=False)
        self.box, self.count = system.box.tolist(), len(system.vocabulary.unknowns)
        rings = {each.periodic for each in system.conditions}
        self.periodic = [number in rings for number in range(len(self.box))]
        self.rule = np.polynomial.legendre.leggauss(GAUSS_POINTS)
        #: The solution of the last grid.
        self.field: Field | None = None

    def work(self, intervals: int) -> float:
        """Return the multiplications of a factorisation on this many intervals."""
        lengths = [intervals + (0 if ring else DEGREE) for ring in self.periodic]
        near = min(lengths) + 1 if len(lengths) > 1 else 1
        width = DEGREE * near * self.count * (1 + any(self.periodic))
        return float(np.prod(lengths)) * self.count * width**2

    def finest(self, intervals: int) -> int | None:
        """Return twice as many intervals, or as many as `MAX_WORK` allows; None for hardly more."""
        finer = min(2 * intervals, MAX_INTERVALS)
        while self.work(finer) > MAX_WORK:
            finer -= 1
        return finer if finer >= LAST_GROWTH * intervals else None

    def solve(self, intervals: int, before: _Grid | None, first: Field | None = None) -> _Grid:
        """Solve on this many intervals of each variable, or on those of a `first` guess.

        Raises:
            TrainingFailed: If the residual of the initial guess is not finite.
        """
        if before is not None:
            space = self._space(_finer(before, intervals))
            start = space.continued(before.coefficients, before.space)
        elif first is not None and (edges := edges_of(first)) is not None:
            breakpoints = first.outer(edges.T).T.numpy()
            breakpoints[:, [0, -1]] = self.system.box.numpy()
            space = self._space([*breakpoints])
            start = space.project(first)
        else:
            space = self._space([np.linspace(a, b, intervals + 1) for a, b in self.box])
            start = first_guess(self.rows, space, self.rule)
        problem = TensorProblem(space, patches(self.rows, space, self.rule, self.field), start)
        far = first is not None and before is None and not self.system.is_linear
        damping, stopping = (NONLINEAR_DAMPING, FIRST) if far else (DAMPING, FINER)
        stopping = replace(stopping, max_steps=min(stopping.max_steps, self.steps))
        state, steps = minimise(problem, LM, stopping, [damping], ended=time_limit_reached)
        if not isfinite(state.loss[0]):
            raise TrainingFailed(
                "The residual is not finite at any start. Check the formula of the equation on the "
                "box."
            )
        count = COMPARED_POINTS[len(self.box) - 1]
        shares = (np.arange(count) + 0.5) / count
        grid = [*(low + shares * (high - low) for low, high in self.box), np.zeros(1)]
        values = space.evaluate(problem.coefficients(state.unknowns), grid[:2])
        return _Grid(space, problem, state.unknowns, steps, float(state.loss[0]), values)

    def _space(self, breakpoints: Sequence[Array]) -> TensorSpace:
        pairs, walls = zip(breakpoints, self.periodic, strict=True), ((None, None),)
        x, y, *_ = *(Space(each, walls, ring) for each, ring in pairs), Space(None, walls)
        return TensorSpace((x, y), self.count)

    def change(self, grid: _Grid, before: _Grid) -> float:
        """Return the largest relative root mean square change of an unknown."""
        difference = np.sqrt(np.square(grid.values - before.values).mean((1, 2)))
        return float((difference / np.maximum(grid.size, QUIET * self.rows.sizes.numpy())).max())

    def stage(
        self, grid: _Grid, change: float | None, estimate: float | None, began: float
    ) -> EquationStage:
        """Return the record of a grid."""
        least = max(ROUNDING, NEGLIGIBLE_PRODUCT * (estimate or 0.0))
        self.field = field = self._field(grid, least)
        none = torch.zeros(0, dtype=torch.float64)
        unseen = patches(self.rows, grid.space, UNSEEN, field)
        inside, border = (
            [each for each in unseen if (each.block.kind == "equation") == wanted]
            for wanted in (True, False)
        )
        ends = [torch.as_tensor(axis.breakpoints) for axis in self._axes(grid)]
        return EquationStage(
            window=0,
            intervals=grid.space.axes[0].intervals,
            solution=field,
            constants=none,
            unknowns=grid.space.size,
            steps=grid.steps,
            objective=grid.objective,
            equation=_residuals(inside, grid.vector.numpy()),
            conditions=_residuals(border, grid.vector.numpy()),
            change=change,
            standard_errors=none,
            seconds=process_time() - began,
            points=torch.cartesian_prod(*ends).view(-1, len(ends)),
        )

    def _axes(self, grid: _Grid) -> tuple[Space, ...]:
        return grid.space.axes[: len(self.box)]

    def sensitivity(self, grid: _Grid) -> float:
        """Return `EquationStage.sensitivity` by the power method, in units of the solution."""
        space, index = grid.space, torch.as_tensor(grid.space.index)
        products = [_mean_products(axis) for axis in space.axes]
        parts = patches(self.rows, space, self.rule, self.field)
        linear = TensorProblem(space, parts, grid.coefficients).linearise(grid.vector)
        solve = NormalEquations(linear).solver(np.array([OPEN_DAMPING]))
        size = np.maximum(grid.size, QUIET * self.rows.sizes.numpy())[:, None, None]
        drawn, largest = torch.linspace(1, 2, space.size, dtype=torch.float64), 0.0
        for _ in range(POWER_STEPS):
            image = np.tensordot(drawn.numpy()[space.index] / size**2, products[1], 1)
            image = np.einsum("xa,uay->uxy", products[0], image)
            drawn = drawn.index_put((index,), torch.as_tensor(image))
            drawn = solve(drawn)
            largest = float(drawn.norm())
            drawn = drawn / largest
        return sqrt(largest)

    def _field(self, grid: _Grid, least: float) -> Field:
        """Return the sum of products larger than `least`, by singular value decompositions.

        In one variable it is the spline itself.
        """
        parts = [np.linalg.svd(each, full_matrices=False) for each in grid.coefficients]
        terms = max(1, *(int((s > least * s[0]).sum()) for _, s, _ in parts))
        several, axes = len(self.box) > 1, self._axes(grid)
        form = OutputForm(self.count, terms, len(axes), separated=several)
        low, half = self.system.box[:, 0], self.system.box.diff()[:, 0] / 2
        ends = [torch.as_tensor(axis.breakpoints) for axis in axes]
        inner = torch.stack([(e - a) / h - 1 for e, a, h in zip(ends, low, half, strict=True)])
        spec = EdgeSpec(degree=DEGREE, base="zero")
        layer = SplineLayer.on_grid(inner, form.outputs, spec, uniform=False)
        at = sample_points(layer.grid, DEGREE + 1)
        places = (low + (at + 1) * half).clamp(low, low + 2 * half).numpy()
        values = np.zeros((len(at), self.count, terms, len(axes), len(axes)))
        for u, (left, s, right) in enumerate(parts):
            roots = np.sqrt(s[:terms])
            factors = [left[:, :terms] * roots, right[:terms].T * roots]
            if not several:
                factors = [factors[0] * factors[1]]
            for n, (axis, factor) in enumerate(zip(axes, factors, strict=True)):
                values[:, u, :, n, n] = axis.evaluate(factor, places[:, n])
        columns = torch.as_tensor(values.reshape(len(at), form.outputs, -1))
        with torch.no_grad():
            layer.mask.copy_(form.mask(len(axes)))
            layer.coefficients.copy_(fit_coefficients(at, columns, layer.grid))
        sizes = torch.ones(self.count, dtype=torch.float64)
        return Field(KAN.of_layers([layer]), form, self.system.box, sizes)


def _finer(grid: _Grid, intervals: int) -> list[Array]:
    """Return breakpoints of both variables, most of them where residuals are large."""
    squares = grid.problem.residual(grid.vector).square().nan_to_num()
    points = torch.cat([each.block.points for each in grid.problem.patches])
    return [
        split_intervals(torch.as_tensor(axis.breakpoints), at, squares, intervals).numpy()
        for axis, at in zip(grid.space.axes, points.T, strict=False)
    ]


def _residuals(parts: Sequence[Patch], vector: Array) -> Residuals:
    """Return the residuals of patches relative to their units."""
    if not parts:
        return Residuals(0.0, 0.0, ())
    rows = [np.abs(each.residual(vector)) / sqrt(each.block.weight) for each in parts]
    found = np.concatenate([r / each.roots for r, each in zip(rows, parts, strict=True)])
    points, at = torch.cat([each.block.points for each in parts]), int(found.argmax())
    rms = sqrt(sum(float(r @ r) for r in rows) / len(rows))
    return Residuals(rms, float(found[at]), tuple(points[at].tolist()))


def _mean_products(axis: Space) -> Array:
    """Return the means of all products of two functions of an axis."""
    values, numbers = axis.basis(axis.gauss_points.ravel(), 0)
    dense = np.zeros((len(values), axis.functions))
    np.put_along_axis(dense, numbers, values, axis=1)
    found: Array = dense.T @ (dense * axis.gauss_weights.reshape(-1, 1))
    return found


def solve_directly(
    system: System,
    ansatz: Ansatz,
    policy: EquationPolicy,
    generator: Generator,
    first: Field | None = None,
) -> Events[EquationStage, None, Solution]:
    """Solve grid by grid from a `first` guess; yield the grids and return the solution.

    After the grids of `ansatz`, finer ones follow if it grows, until the estimated error is below
    its tolerance and further ones are expensive.
    """
    solver, began = TensorSolver(system, policy, generator), process_time()
    changes, falls, found = list[float](), list[float](), list[EquationStage]()
    planned: list[int | None] = [*ansatz.intervals]
    grid: _Grid | None = None
    estimate: float | None = None
    sensitivity: float | None = None
    while planned and (intervals := planned.pop(0)):
        before, grid = grid, solver.solve(intervals, grid, first)
        if before is not None:
            changes.append(solver.change(grid, before))
            falls = [b / max(a, QUIET**2) for a, b in pairwise(changes)]
            estimate = changes[-1] * float(np.clip(max(falls[-2:], default=0.1), *FALL))
        found.append(solver.stage(grid, changes[-1] if changes else None, estimate, began))
        sensitivity = solver.sensitivity(grid) if sensitivity is None else sensitivity
        report_progress("grids", len(found), None, sqrt(grid.objective))
        yield found[-1]
        if time_limit_reached():
            break
        finer = solver.finest(grid.space.axes[0].intervals)
        if not planned and ansatz.grows and finer is not None:
            expensive = solver.work(finer) > CHEAP_WORK or falls[-1:] > [STALLED]
            settled = estimate is not None and estimate <= ansatz.tolerance
            enough = settled and (expensive or (estimate or 0.0) < ENOUGH)
            planned = [] if enough and found[-1].equation.rms <= SETTLED else [finer]
    last = (replace(found[-1], sensitivity=sensitivity),)
    end = float(system.box[-1, 1])
    return Solution(last[0].solution, last, end, estimate, ansatz.tolerance)
