"""Solving a differential equation with a network: starts on a coarse grid, then grid after grid, perhaps in windows.

On every grid Levenberg-Marquardt lowers the residuals of the equation, its conditions and measured values together.
Conditions weigh moderately at first and more on each finer grid: a heavy weight on a coarse grid makes bad minima.
Points where the fresh residual is largest are added to the collocation points and stay there. What is reported of a
grid is measured at points that no step has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Generator as Events
from dataclasses import dataclass, replace
from math import exp, inf, log

import torch
from torch import Generator, Tensor

from kanrun.engine.equations.field import Field, OutputForm, Windows
from kanrun.engine.equations.residuals import Block, ResidualProblem, evaluate, standard_errors
from kanrun.engine.equations.system import PointSequence, System, condition_blocks, gauss_points, sizes_of, with_units
from kanrun.engine.layers import move_layer
from kanrun.engine.least_squares import LMPolicy, State, Stopping, minimise
from kanrun.engine.networks import KAN, Network
from kanrun.engine.splines import uniform_breakpoints
from kanrun.errors import TrainingFailed
from kanrun.watch import advanced, time_is_up

#: Makes a fresh network with the inputs of the box on [-1, 1] and as many outputs as asked for.
Create = Callable[[int, Generator], Network]


@dataclass(frozen=True)
class EquationPolicy:
    """The constants of a solution, chosen on manufactured solutions of elliptic and parabolic problems."""

    points: int = 2000  #: collocation points inside the box; from 1 on
    face_points: int = 60  #: points of each face; from 2 on
    pieces: int = 20  #: of the quadrature rule in one variable for networks without grids
    #: Starts on the first grid: how many random networks take part in each round, and the steps that each then takes.
    rounds: tuple[tuple[int, int], ...] = ((12, 6), (4, 10), (2, 20))
    start_points: int = 400  #: collocation points of a start
    #: Bounds of the standard deviation of a start's coefficients, in units of the solution; drawn on a log scale.
    start_sizes: tuple[float, float] = (0.02, 0.5)
    start: Stopping = Stopping(gain=1e-2)
    stage: Stopping = Stopping(steps=30, gain=1e-3)  #: of one grid
    lm: LMPolicy = LMPolicy(damping=1e-4, smallest=1e-15, thorough=False, tries=12)
    condition_weight: float = 100.0  #: of the conditions on the first grid, relative to the equation's
    growth: float = 10.0  #: factor of that weight from grid to grid; at least 1
    largest_weight: float = 1e6
    added: float = 0.2  #: share of the points that is added after each grid where the residual is largest; from 0 on
    margin: float = 0.1  #: of a hidden grid beyond the range of what reaches it, when it is drawn anew
    filled: float = 0.5  #: share of a hidden grid below which it is drawn anew; in [0, 1]
    fresh: int = 4000  #: points at which a grid is measured

    # Windows in time.
    accepted: float = 1e-2  #: relative residual on fresh points, and change from the last grid, of a window that holds
    most_windows: int = 64  #: a window is not made shorter than this part of the whole range
    longer: float = 1.5  #: factor from a window that held to the next
    repeats: int = 2  #: times that the last grid is trained in a window after the first; from 2 on a change is known
    #: Share of the knots that follow the root of the curvature at the end of the window before, the rest is uniform.
    curvature: float = 0.5


@dataclass(frozen=True)
class Residuals:
    """Residuals at fresh points, relative to the size of the largest term: root mean square, maximum and its place."""

    rms: float
    largest: float
    place: tuple[float, ...]


@dataclass(frozen=True)
class EquationStage:
    """A finished grid. `change` is the root mean square change of the solution from the grid before, relative."""

    window: int
    intervals: int | None
    solution: Field
    constants: Tensor
    unknowns: int
    steps: int
    objective: float
    equation: Residuals
    conditions: Residuals
    change: float | None
    standard_errors: Tensor  # of the sought constants; NaN without measured values
    seconds: float  # of CPU time, of this window
    total_seconds: float = 0.0  # of all windows, tried ones too


@dataclass(frozen=True)
class Solution:
    """What solves the system: one field, or several in windows; the sought constants with their standard errors (NaN
    without measured values); the last grid of each window.
    """

    network: Field | Windows
    constants: Tensor
    standard_errors: Tensor
    last: tuple[EquationStage, ...]


@dataclass(frozen=True)
class Ansatz:
    """What the solution is sought as: fresh networks, how their outputs form the unknowns, and the grids.

    Networks without grids have None for each time that they are trained with a larger weight of the conditions.
    """

    create: Create
    form: OutputForm
    intervals: tuple[int | None, ...]


class BoxSolver:
    """Solves one system on one box; `stages` yields one record per grid."""

    def __init__(
        self, system: System, ansatz: Ansatz, policy: EquationPolicy, generator: Generator, *, window: int = 0,
        before: Field | None = None,
    ) -> None:  # fmt: skip
        self.system, self.ansatz = system, ansatz
        self.policy, self.generator, self.window, self.before = policy, generator, window, before
        self._began = time.process_time()
        self.inside = PointSequence(system.box, generator)
        self.fresh = PointSequence(system.box, generator).first(policy.fresh)
        self.sizes = sizes_of(system, self.fresh) if before is None else before.sizes
        self.added = system.box.new_zeros(0, len(system.box))

    def stages(self) -> Iterator[EquationStage]:
        """Solve grid by grid. Raises TrainingFailed where the residual is not finite at every start."""
        schedule, weight = self.ansatz.intervals, self.policy.condition_weight
        if self.before is not None and self.before.intervals is not None:
            solution, constants = self._continuing(self.before), self.system.guesses()
            schedule = schedule[-1:] * self.policy.repeats
        else:
            solution, constants = self._started()
        previous: Field | None = None
        for number, intervals in enumerate(schedule):
            if number and time_is_up():
                return
            if number:
                solution = self._refined(solution, intervals)
            blocks = self._blocks(*self._collocation(intervals), weight)
            problem = ResidualProblem(solution, blocks, constants)
            state, steps = minimise(problem, self.policy.lm, self.policy.stage)
            solution, constants = problem.solution(state.unknowns)
            advanced(f"grids of window {self.window + 1}", number + 1, len(schedule), state.loss[0] ** 0.5)
            yield self._stage(problem, solution, constants, state, steps, previous)
            self._add_points(solution, constants)
            previous, weight = solution, min(weight * self.policy.growth, self.policy.largest_weight)

    def _collocation(self, intervals: int | None) -> tuple[Tensor, Tensor | None]:
        """The points inside: in one variable a quadrature rule over the grid, else low-discrepancy and added ones.

        A rule makes the rows the integral of the squared residual, for which splines converge faster than at points
        that fall anywhere in the intervals.
        """
        policy = self.policy
        if len(self.system.box) == 1:
            return gauss_points(self.system.box, intervals or policy.pieces, policy.points)
        return torch.cat([self.inside.first(policy.points), self.added]), None

    def _continuing(self, before: Field) -> Field:
        """The network of the window before, moved to this one, with knots where its solution bends at its end."""
        moved = Field(before.network, before.form, self.system.box, before.sizes)
        end = self.inside.first(self.policy.fresh).clone()
        end[:, -1] = before.box[-1, 1]
        inner = self.inside.first(self.policy.fresh)
        drawn = moved.inner(inner).clone()
        for number in range(len(self.system.box) - 1):
            index = tuple(2 * (number == i) for i in range(len(self.system.box)))
            bend = before.derivative(end, index).abs().sum(1).sqrt()
            chosen = torch.multinomial(bend + 1e-12, len(bend), replacement=True, generator=self.generator)
            drawn[:, number] = drawn[chosen, number]
        network = moved.network.regrid(
            drawn, grid_eps=1 - self.policy.curvature, margin=self.policy.margin, inputs=True
        ).network
        return moved.with_network(network)

    def _started(self) -> tuple[Field, Tensor]:
        """The best of several random networks at few points: all take a few steps, the better ones more."""
        blocks = self._blocks(self.inside.first(self.policy.start_points), None, self.policy.condition_weight)
        racing = [(0.0, self._random(), self.system.guesses()) for _ in range(self.policy.rounds[0][0])]
        for kept, steps in self.policy.rounds:
            racing = [self._raced(each, constants, blocks, steps) for _, each, constants in racing[:kept]]
            racing.sort(key=lambda entry: entry[0])
        loss, best, constants = racing[0]
        if not loss < inf:
            raise TrainingFailed("The equation's residual is not finite at any start; check its formula on the box.")
        return best, constants

    def _raced(
        self, candidate: Field, constants: Tensor, blocks: list[Block], steps: int
    ) -> tuple[float, Field, Tensor]:
        """The objective, field and constants after some steps; infinity where the start is not finite."""
        problem = ResidualProblem(candidate, blocks, constants)
        state, _ = minimise(problem, self.policy.lm, replace(self.policy.start, steps=steps))
        found, constants = problem.solution(state.unknowns)
        return state.loss[0], self._fitted_grids(found, self.inside.first(self.policy.start_points)), constants

    def _random(self) -> Field:
        network = self.ansatz.create(self.ansatz.form.outputs, self.generator)
        low, high = map(log, self.policy.start_sizes)
        size = exp(low + (high - low) * float(torch.rand((), generator=self.generator)))
        with torch.no_grad():
            if network.intervals is not None:
                for _, parameter in network.unknowns():
                    drawn = torch.randn(parameter.shape, generator=self.generator, dtype=parameter.dtype)
                    parameter.copy_(drawn.to(parameter) * size)
        candidate = Field(network, self.ansatz.form, self.system.box, self.sizes)
        return self._fitted_grids(candidate, self.inside.first(self.policy.start_points))

    def _refined(self, solution: Field, intervals: int | None) -> Field:
        if intervals is None or solution.intervals is None:
            return solution
        points, _ = self._collocation(intervals)
        inner = solution.inner(points)
        return self._fitted_grids(solution.with_network(solution.network.refined(intervals, inner).network), points)

    def _fitted_grids(self, solution: Field, points: Tensor) -> Field:
        """Hidden grids over all that reaches them from the points and the faces, where they do not hold it yet.

        Beyond a grid second derivatives are zero, so no point may lie there; nor may a grid be much too wide.
        """
        faces = [block.points for block in condition_blocks(self.system, self.policy.face_points, 1.0)]
        inner = solution.inner(torch.cat([points, *faces]))
        if solution.network.covers(inner, self.policy.filled):
            return solution
        layers = list(solution.network.edge_layers)
        with torch.no_grad():
            for number in range(1, len(layers)):
                reaching = solution.network.activations(inner)[number]
                low, high = reaching.amin(0), reaching.amax(0)
                pad = self.policy.margin * (high - low).clamp(min=1e-6)
                grid = uniform_breakpoints(low - pad, high + pad, layers[number].grid.intervals)
                layers[number], _ = move_layer(layers[number], grid, uniform=True)
        return solution.with_network(KAN.of_layers(layers))

    def _blocks(self, points: Tensor, shares: Tensor | None, weight: float) -> list[Block]:
        """The rows of all that must hold; equations weigh 1, conditions and measured values `weight`."""
        equations = [
            Block(f"equation {number}", each, points, shares=shares)
            for number, each in enumerate(self.system.equations)
        ]
        conditions = self._carried(condition_blocks(self.system, self.policy.face_points, weight))
        return with_units([*equations, *conditions], self.system, self.sizes)

    def _carried(self, blocks: list[Block]) -> list[Block]:
        """The blocks, those at the beginning of a window with the values of the solution before it."""
        if self.before is None:
            return blocks
        start, carried = float(self.system.box[-1, 0]), []
        for block in blocks:
            begins = block.partner is None and bool((block.points[:, -1] == start).all())
            carried.append(self._continued(block) if begins else block)
        return carried

    def _continued(self, block: Block) -> Block:
        """An initial condition as: what it holds of the unknowns is as it was at the end of the window before."""
        assert self.before is not None  # an invariant: asked of later windows only
        none = block.points.new_zeros(len(self.system.vocabulary.constants))
        with torch.no_grad():
            there = evaluate(block.relation, self.before, block.points, none, block.monomials, jacobian=False).residual
        return replace(block, target=there)

    def _stage(
        self, problem: ResidualProblem, solution: Field, constants: Tensor, state: State, steps: int,
        previous: Field | None,
    ) -> EquationStage:  # fmt: skip
        equation = self._measured(self._blocks(self.fresh, None, 1.0), solution, constants, of_equation=True)
        between = self._carried(condition_blocks(self.system, 2 * self.policy.face_points + 1, 1.0))
        conditions = self._measured(
            with_units(between, self.system, self.sizes), solution, constants, of_equation=False
        )
        change = None
        if previous is not None:
            with torch.no_grad():
                now, then = solution(self.fresh), previous(self.fresh)
            change = float((now - then).square().mean().sqrt() / now.square().mean().sqrt().clamp(min=1e-300))
        return EquationStage(
            self.window, solution.intervals, solution, constants, len(state.unknowns), steps, state.loss[0], equation,
            conditions, change, standard_errors(problem, state.unknowns), time.process_time() - self._began,
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

    def _add_points(self, solution: Field, constants: Tensor) -> None:
        """Add fresh random points where the equation's residual is largest."""
        count = round(self.policy.added * self.policy.points)
        if not count or len(self.system.box) == 1:
            return
        share = torch.rand(
            4 * self.policy.points, len(self.system.box), generator=self.generator, dtype=self.system.box.dtype
        )
        box = self.system.box
        candidates = box[:, 0] + share.to(box) * (box[:, 1] - box[:, 0])
        left = box.new_zeros(len(candidates))
        for block in self._blocks(candidates, None, 1.0)[: len(self.system.equations)]:
            left += ResidualProblem(solution, [block], constants).residual(_all(solution, constants)).square()
        worst = left.topk(count).indices
        self.added = torch.cat([self.added, candidates[worst]])


def solve(
    system: System, ansatz: Ansatz, policy: EquationPolicy, generator: Generator, windows: int | str | None = None
) -> Events[EquationStage, None, Solution]:  # fmt: skip
    """Solve the system; yields every grid, returns the solution.

    `windows` cuts the last variable into so many parts of one length; with `auto` a part that does not hold (see
    `EquationPolicy.accepted`) is halved and tried again. Without, the whole box is solved at once.
    """
    low, high = map(float, system.box[-1])
    length = (high - low) / windows if isinstance(windows, int) else high - low
    shortest = (high - low) / policy.most_windows if windows == "auto" else length
    start, last, began = low, list[EquationStage](), time.process_time()
    while not last or start < high - 1e-9 * (high - low):
        end = high if start + 1.1 * length >= high else start + length
        before = last[-1].solution if last else None
        part = system if (start, end) == (low, high) else system.until(start, end)
        solver = BoxSolver(part, ansatz, policy, generator, window=len(last), before=before)
        stages: list[EquationStage] = []
        for stage in solver.stages():
            stages.append(stage)
            yield replace(stage, total_seconds=time.process_time() - began)
        if windows == "auto" and not _holds(stages[-1], policy) and length > 1.01 * shortest:
            length = max((end - start) / 2, shortest)
            continue
        last.append(stages[-1])
        start, length = end, length * (policy.longer if windows == "auto" else 1.0)
    fields = [stage.solution for stage in last]
    network = fields[0] if len(fields) == 1 else Windows(fields)
    return Solution(network, last[-1].constants, last[-1].standard_errors, tuple(last))


def _holds(stage: EquationStage, policy: EquationPolicy) -> bool:
    small = stage.equation.rms <= policy.accepted and stage.conditions.rms <= policy.accepted
    return small and (stage.change is None or stage.change <= policy.accepted)


def _all(solution: Field, constants: Tensor) -> Tensor:
    return torch.cat([solution.get_unknowns(), constants])
