"""Evolution equations window by window, with an error estimate from a second solution.

Each window is a block-banded least squares problem (`window.py`) that starts exactly where the last
one ended. Its length follows the term of the highest degree in time, its number of breakpoints the
estimated error of the splines; breakpoints move between windows. The whole range is solved with
smaller and smaller tolerances until two solutions agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from time import process_time

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from kanrun.engine.equations.evolution_system import EvolutionSystem
from kanrun.engine.equations.fields import Field, HardConditions, OutputForm, Windows
from kanrun.engine.equations.space import DEGREE, Array, Space
from kanrun.engine.equations.system import low_discrepancy
from kanrun.engine.equations.window import State, Window, WindowProblem, legendre_values, total
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import fit_coefficients, sample_points
from kanrun.monitoring import report_progress, time_limit_reached

#: Relative error that rounding leaves, and rounds in which breakpoints follow initial values.
ROUNDING, ADAPTATIONS = 1e-13, 4
#: Smallest divisor.
TINY = 1e-300
#: Points of space at which the sizes of unknowns are measured, and the fraction of its size that
#: an unknown keeps from one window to the next.
SIZE_POINTS, SIZE_MEMORY = 501, 0.1
#: Breakpoints of two spaces that differ by less than this fraction of the range are one.
SAME_BREAKPOINT = 1e-10


@dataclass(frozen=True)
class EvolutionPolicy:
    """Constants of a solution in windows, chosen on 12 equations with known solutions."""

    #: Largest term of the highest degree in time of an accepted window, in tolerances.
    last_coefficient: float = 10.0
    #: Estimated error of the splines at the end of a window above which breakpoints are added, in
    #: tolerances, and the fraction of it below which they are taken away.
    spline_error: float = 0.1
    superfluous: float = 0.01
    #: Error of the splines at the initial values, in tolerances: equations may amplify it.
    initial_error: float = 1e-3
    #: First and smallest number of intervals, and largest.
    first_intervals: int = 20
    min_intervals: int = 14
    max_intervals: int = 4000
    max_first_intervals: int = 1000
    #: Initial values have a kink if a third more intervals leave more than this of the error.
    smooth_gain: float = 0.5
    #: Bounds of the factor from one number of intervals to the next.
    interval_growth: tuple[float, float] = (0.8, 1.5)
    #: The first window is the range divided by this; the shortest one by the second.
    first_windows: float = 64.0
    max_windows: float = 1e9
    #: Bounds of the factor from one length to the next, and the fraction of the predicted length.
    window_growth: tuple[float, float] = (0.2, 2.0)
    safety: float = 0.9
    #: Factor of the length after a window whose steps do not converge.
    shortened: float = 0.3
    #: Gauss-Newton steps of a window; it is shortened if a step is larger than the one before after
    #: `slow_steps`, or exceeds `diverged` sizes of the unknowns.
    max_steps: int = 12
    slow_steps: int = 5
    diverged: float = 1e6
    #: Steps end at a change, in tolerances, below the first; below the second if it stays as large.
    converged: float = 1e-3
    nearly_converged: float = 1e-2
    #: Points at which two solutions are compared, the factor from one tolerance to the next, and
    #: the largest number of tolerances.
    test_points: int = 4000
    tolerance_factor: float = 0.1
    max_tolerances: int = 6
    #: Bounds of the ratio of successive changes that the estimate assumes to go on.
    error_ratio: tuple[float, float] = (0.03, 1.0)
    #: Relative size below which an unknown counts as zero.
    smallest_size: float = 1e-12


@dataclass
class March:
    """The windows of one solution from the start on, and where it ended."""

    windows: list[Window]
    end: float
    steps: int = 0
    rejected: int = 0


class Marcher:
    """Solves an evolution system window by window for one tolerance."""

    def __init__(
        self, system: EvolutionSystem, tolerance: float, policy: EvolutionPolicy | None = None
    ) -> None:
        self.system, self.tolerance = system, tolerance
        self.policy = policy or EvolutionPolicy()
        self.low, self.high = map(float, system.system.box[-1])
        self.sizes = np.ones(len(system.orders))

    def run(self) -> Iterator[March]:
        """Yield the windows so far after each one."""
        system, policy, march = self.system, self.policy, March([], self.low)
        state, old = self._first_state(), None
        length = (self.high - self.low) / policy.first_windows
        shortest = (self.high - self.low) / policy.max_windows
        while march.end < self.high and length > shortest and not time_limit_reached():
            span = self._span(march.end, length)
            problem, length = WindowProblem(system, state, old, span, self.sizes), span[1] - span[0]
            unknowns, steps = self._solved(problem)
            march.steps += steps
            if unknowns is None:
                march.rejected, length = march.rejected + 1, length * policy.shortened
                continue
            bound, last = (
                policy.last_coefficient * self.tolerance,
                problem.last_coefficient(unknowns),
            )
            predicted = policy.safety * (bound / max(last, TINY)) ** (1 / DEGREE)
            length *= float(np.clip(predicted, *policy.window_growth))
            if last > 2 * bound:
                march.rejected += 1
                continue
            window = problem.window(unknowns)
            march.windows.append(window)
            march.end = window.end
            self._measure(window)
            after = State(window.space, window.at_end(system.orders))
            state, old = self._next_state(after)
            yield march

    def _span(self, start: float, length: float) -> tuple[float, float]:
        """Return the next window; the last two share what remains."""
        remaining = self.high - start
        if remaining <= length * (1 + 1e-9):
            return start, self.high
        return start, start + (remaining / 2 if remaining < 2 * length else length)

    def _solved(self, problem: WindowProblem) -> tuple[Tensor | None, int]:
        """Return the unknowns of a window, or None if its steps do not converge."""
        if not problem.is_finite:
            return None, 0
        policy, unknowns, before = self.policy, problem.unknowns, inf
        for taken in range(1, policy.max_steps + 1):
            move = problem.step(unknowns)
            change = problem.largest_change(move)
            if not isfinite(change) or change > policy.diverged:
                return None, taken
            unknowns = unknowns + move
            small = change < policy.converged * self.tolerance
            if small or (change < policy.nearly_converged * self.tolerance and change > before / 2):
                return unknowns, taken
            if taken > policy.slow_steps and change > before:
                return None, taken
            before = change
        return None, policy.max_steps

    def _first_state(self) -> State:
        system, policy = self.system, self.policy
        count, breakpoints = len(system.orders), None
        if system.variables == 1:
            space = Space(None, system.walls)
            values = [system.initial_values(u, np.array([[self.low]])) for u in range(count)]
            self._set_sizes(np.array([np.abs(each[:, 0]).max() for each in values]))
            return State(space, values)
        low, high = system.system.box[0].tolist()
        every = self._initial(np.linspace(low, high, 2001))
        self._set_sizes(np.array([np.abs(each[:, 0]).max() for each in every]))
        intervals = policy.first_intervals
        breakpoints, before = np.linspace(low, high, intervals + 1), inf
        while True:
            space = Space(breakpoints, system.walls, system.periodic)
            for _ in range(ADAPTATIONS):
                columns, scales = self._columns(self._projected(space))
                space = space.adapted(columns, scales, intervals)
            state = self._projected(space)
            x = np.random.default_rng(0).uniform(low, high, 6 * intervals)
            wanted = np.concatenate(self._initial(x), axis=1).T
            pairs = zip(*self._columns(state), wanted, strict=True)
            error = max(np.abs(space.evaluate(c, x) - y).max() / scale for c, scale, y in pairs)
            bound = max(policy.initial_error * self.tolerance, ROUNDING)
            kink = error < self.tolerance and error > policy.smooth_gain * before
            if error < bound or kink or intervals > policy.max_first_intervals:
                return state
            before = error
            intervals = int(1.3 * intervals)
            breakpoints = np.linspace(low, high, intervals + 1)

    def _columns(self, state: State) -> tuple[list[Array], list[float]]:
        """Return the splines (functions,) of all unknowns and time derivatives, and their sizes.

        A derivative of order r counts by what it changes within the whole range of time.
        """
        length = self.high - self.low
        columns, scales = list[Array](), list[float]()
        for values, size in zip(state.values, self.sizes, strict=True):
            columns.extend(values.T)
            scales.extend(size / length**order for order in range(values.shape[1]))
        return columns, scales

    def _initial(self, x: Array) -> list[Array]:
        points = np.stack([x, np.full_like(x, self.low)], axis=1)
        return [self.system.initial_values(u, points) for u in range(len(self.system.orders))]

    def _initial_of(self, unknown: int, x: Array) -> Array:
        return self._initial(x)[unknown]

    def _projected(self, space: Space) -> State:
        count = range(len(self.system.orders))
        return State(space, [space.project(partial(self._initial_of, u), u) for u in count])

    def _set_sizes(self, found: Array) -> None:
        largest = found.max() or 1.0
        self.sizes = np.where(found > self.policy.smallest_size * largest, found, largest)

    def _measure(self, window: Window) -> None:
        """Update the sizes of the unknowns from a window."""
        ends = self.system.system.box[0].tolist()
        x = (
            np.linspace(ends[0], ends[1], SIZE_POINTS)
            if self.system.variables == 2
            else np.zeros(1)
        )
        half, s = (window.end - window.start) / 2, np.linspace(-1, 1, DEGREE + 1)
        times = legendre_values(s, half, [0])[0]
        grid = np.meshgrid(x, window.start + half * (s + 1), indexing="ij")
        points = np.stack([each.ravel() for each in grid[-self.system.variables :]], axis=1)
        found = np.empty(len(window.parts))
        for unknown, parts in enumerate(window.parts):
            lift = self.system.lift(unknown, (0,) * self.system.variables, points)
            found[unknown] = np.abs(lift.reshape(grid[0].shape) + total(parts, x, times)).max()
        self.sizes = np.maximum(found, SIZE_MEMORY * self.sizes)
        self.sizes = np.maximum(self.sizes, self.policy.smallest_size * self.sizes.max())

    def _next_state(self, state: State) -> tuple[State, State | None]:
        """Return the state of the next window, and the exact one if breakpoints have moved."""
        policy, space = self.policy, state.space
        if space.breakpoints is None:
            return state, None
        # Only the unknowns count: time derivatives carry rounding that finer grids amplify.
        values = [each[:, 0] for each in state.values]
        error = max(space.error(c) / size for c, size in zip(values, self.sizes, strict=True))
        bound = policy.spline_error * self.tolerance
        few = error < policy.superfluous * bound and space.intervals > policy.min_intervals
        if not (error > bound or few):
            return state, None
        factor = float(np.clip((4 * error / bound) ** (1 / (DEGREE + 1)), *policy.interval_growth))
        bounds = policy.min_intervals, policy.max_intervals
        intervals = int(np.clip(int(factor * space.intervals) + 1, *bounds))
        return state.moved(space.adapted(values, list(self.sizes), intervals)), state


def as_network(windows: Sequence[Window], system: EvolutionSystem) -> Field | Windows:
    """Return the windows as networks: one layer of splines whose products are summed."""
    fields = [_field(window, system) for window in windows]
    return fields[0] if len(fields) == 1 else Windows(fields)


def _field(window: Window, system: EvolutionSystem) -> Field:
    box = system.system.box.clone()
    box[-1] = box.new_tensor([window.start, window.end])
    count, terms = len(system.orders), DEGREE + 1
    spatial = system.variables == 2
    form = OutputForm(count, terms, 2, separated=True) if spatial else OutputForm(count)
    edges = _common_breakpoints(window) if spatial else np.array([[-1.0, 1.0]])
    spec = EdgeSpec(degree=DEGREE, base="zero")
    layer = SplineLayer.on_grid(torch.as_tensor(edges), form.outputs, spec, uniform=False)
    x = sample_points(layer.grid, terms)
    times = legendre.legvander(x[:, -1].numpy(), DEGREE)
    with torch.no_grad():
        if not spatial:
            values = np.stack([times @ parts[-1].coefficients[0] for parts in window.parts], axis=1)
            layer.coefficients.copy_(_fitted(x, values[:, :, None], layer))
        else:
            layer.mask.copy_(form.mask(2))
            low, high = system.system.box[0].tolist()
            places = low + (x[:, 0].numpy() + 1) / 2 * (high - low)
            along = [total(parts, places, np.eye(terms)) for parts in window.parts]
            values = np.zeros((len(x), count, terms, 2, 2))
            values[..., 0, 0] = np.stack(along, axis=1)
            values[..., 1, 1] = times[:, None]
            layer.coefficients.copy_(_fitted(x, values.reshape(len(x), -1, 2), layer))
    lifts = tuple(map(str, system.lifts))
    names = system.system.vocabulary.variables
    hard = HardConditions(names, lifts, ("1",) * count) if any(system.lifts) else None
    return Field(KAN.of_layers([layer]), form, box, torch.ones(count, dtype=box.dtype), hard)


def _fitted(x: Tensor, values: Array, layer: SplineLayer) -> Tensor:
    return fit_coefficients(x, torch.as_tensor(values), layer.grid)


def _common_breakpoints(window: Window) -> Array:
    """Return the breakpoints of all parts on [-1, 1], and as many equal ones of time."""
    every = [part.space.breakpoints for part in window.parts[0]]
    points = np.unique(np.concatenate([each for each in every if each is not None]))
    points = 2 * (points - points[0]) / (points[-1] - points[0]) - 1
    apart = np.diff(points, prepend=-np.inf) > SAME_BREAKPOINT
    apart[-1] = True
    points = points[apart]
    return np.stack([points, np.linspace(-1, 1, len(points))])


@dataclass(frozen=True)
class EvolutionStage:
    """The solution of one tolerance.

    Attributes:
        estimate: Estimated relative L2 error, the largest of all unknowns; None for the first
            tolerance, which has nothing to compare with.
    """

    tolerance: float
    network: Field | Windows
    windows: tuple[Window, ...]
    end: float
    steps: int
    rejected: int
    seconds: float
    estimate: float | None


def solve_evolution(
    system: EvolutionSystem, tolerance: float, policy: EvolutionPolicy | None = None
) -> Iterator[EvolutionStage]:
    """Yield solutions of smaller and smaller tolerances until the estimated error is small enough.

    The estimate is the difference from the solution before, times the root of the factor between
    the tolerances: its true value lies between the factor and 1.
    """
    policy, before, local = policy or EvolutionPolicy(), None, tolerance
    last_change: float | None = None
    points = low_discrepancy(system.system.box, policy.test_points, seed=1)
    for _ in range(policy.max_tolerances):
        begun, march = process_time(), March([], float(system.system.box[-1, 0]))
        for march in Marcher(system, local, policy).run():
            report_progress("windows", len(march.windows))
        if not march.windows:
            return
        network, estimate = as_network(march.windows, system), None
        with torch.no_grad():
            values = network(points)
        if before is not None:
            inside = points[:, -1] <= march.end
            difference = (values - before)[inside].norm(dim=0) / values[inside].norm(dim=0)
            change = float(difference.max())
            falls = policy.tolerance_factor if last_change is None else change / last_change
            estimate = change * float(np.clip(falls, *policy.error_ratio))
            last_change = change
        yield EvolutionStage(
            local,
            network,
            tuple(march.windows),
            march.end,
            march.steps,
            march.rejected,
            process_time() - begun,
            estimate,
        )
        whole = march.end == float(system.system.box[-1, 1])
        if not whole or time_limit_reached() or (estimate is not None and estimate <= tolerance):
            return
        before, local = values, local * policy.tolerance_factor
