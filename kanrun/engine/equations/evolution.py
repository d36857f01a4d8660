"""Evolution equations window by window, for one tolerance.

Each window is a block-banded least squares problem (`window.py`) that starts exactly where the last
one ended. Its length follows the term of the highest degree in time, its number of breakpoints the
estimated error of the splines; breakpoints move between windows. The whole range is solved with
smaller and smaller tolerances until two solutions agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor

from kanrun.engine.equations.audit import Unseen, WindowAudit
from kanrun.engine.equations.scan import NARROWEST, narrow_ends
from kanrun.engine.equations.space import DEGREE, Space, kinks_of, with_breakpoints, with_kinks
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.equations.window import EvolvingState, Window, WindowProblem
from kanrun.engine.least_squares import gauss_newton
from kanrun.monitoring import time_limit_reached

#: Units in the last place of the largest time by which windows end before formulas jump, and begin
#: after it.
ROUNDINGS = 8
#: The shortest window after a jump in time, in units of that.
RESOLVED = 10
#: Relative error that rounding leaves, and Gauss points of an interval at which initial values are
#: compared.
ROUNDING, ERROR_RULE = 1e-13, np.polynomial.legendre.leggauss(20)
#: Windows shorter than this fraction of the range follow layers, such as those next to jumps of the
#: initial values, whose breakpoints no later window needs.
LAYER = 1e-3
#: Smallest divisor.
TINY = 1e-300
#: Points of space at which the sizes of unknowns are measured, and the fraction of its size that
#: an unknown keeps from one window to the next.
SIZE_POINTS, SIZE_MEMORY = 201, 0.1

# Constants of a solution in windows, chosen on 12 equations with known solutions.

#: Largest term of the highest degree in time of an accepted window, in tolerances.
LAST_COEFFICIENT = 2.0
#: Estimated error of the splines at the end of a window above which breakpoints are added, in
#: tolerances, and the fraction of it below which they are taken away.
SPLINE_ERROR = 0.02
SUPERFLUOUS = 0.01
#: Largest growth of that error within the next window that is expected from the last one. Where
#: fronts of Allen and Cahn's equation form, it grows by 100, which made errors ten times larger.
FORESEEN = 30.0
#: Relative L2 error of the splines at the initial values, in tolerances.
INITIAL_ERROR = 0.01
#: Number of intervals at first and at least, at this tolerance. They grow by its power
#: -1 / (DEGREE + 1), and first windows shrink alike, so that two tolerances never have one
#: solution.
FIRST_INTERVALS = 20
MIN_INTERVALS = 14
AT_TOLERANCE = 1e-6
FEWEST_INTERVALS = 8
MAX_INTERVALS = 4000
#: Initial values: an interval is halved if its squared error is above this fraction of the
#: largest, and it is longer than this fraction of the range and the tolerance.
HALVED = 0.02
SHORTEST_INTERVAL = 0.01
#: Bounds of the factor from one number of intervals to the next.
INTERVAL_GROWTH = (0.8, 1.5)
#: The first window is the range divided by this; the shortest one by the second.
FIRST_WINDOWS = 64.0
MAX_WINDOWS = 1e20
#: Bounds of the factor from one length to the next, and the fraction of the predicted length.
WINDOW_GROWTH = (0.2, 2.0)
SAFETY = 0.9
#: Factor of the length after a window whose steps do not converge.
SHORTENED = 0.3
#: Gauss-Newton steps of a window; it is shortened if they do not converge, or a step exceeds
#: `DIVERGED` sizes of the unknowns.
MAX_STEPS = 12
DIVERGED = 1e6
#: A step keeps the Jacobian if the last one was smaller than the one before by this factor, the
#: first one than the unknowns.
SAME_JACOBIAN = 0.1
#: Time derivatives at its start, beyond those that it is given, from which steps of a window start.
FOLLOWED = 2
#: Steps end at a change, in tolerances, below the first; below the second if it stays as large.
CONVERGED = 1e-3
NEARLY_CONVERGED = 1e-2
#: Counted work in approximate CPU seconds: of a step, and of an unknown in it.
SECONDS_OF_STEP = 1.5e-3
SECONDS_OF_UNKNOWN = 2.1e-6
#: The same of a window once all are solved: its residuals and its network.
SECONDS_OF_WINDOW = 6e-3
#: Times that one window is refused for what it has not seen.
MAX_REFUSALS = 60
#: Part of what a window has not seen above which breakpoints are added instead of shortening it.
SPATIAL = 0.5
#: Relative size below which an unknown counts as zero.
SMALLEST_SIZE = 1e-12


@dataclass
class March:
    """Windows of one solution from the start on, and where it ended."""

    windows: list[Window]
    end: float
    tolerance: float
    steps: int = 0
    #: Largest residual of a window at unseen places, relative to the sizes and times the window's
    #: length, and the place of one that no window represents.
    unseen: float = 0.0
    unresolved: list[float] | None = None
    #: Largest relative error of the splines that stand for values at the start and after jumps.
    initial_error: float = 0.0
    #: Steps times unknowns so far, and what the rest is expected to take.
    work: float = 0.0
    remaining: float = inf
    #: Why it ends early, whether for its work, and CPU seconds.
    stopped: str = ""
    is_long: bool = False
    seconds: float = 0.0
    #: Counted work in approximate CPU seconds.
    counted: float = 0.0


class Marcher:
    """Solves an evolution system window by window for one tolerance."""

    def __init__(
        self,
        system: EvolutionSystem,
        tolerance: float,
        before: March | None = None,
        budget: float = inf,
    ) -> None:
        self.system, self.tolerance, self.budget = system, tolerance, budget
        self.low, self.high = system.box[-1].tolist()
        # Before formulas jump in time, so that the last point of a window sees them as before.
        self.early = ROUNDINGS * float(np.spacing(max(abs(self.low), abs(self.high))))
        jumps = system.jumps(system.variables - 1)
        self.goals = [*(time - self.early for time in jumps), self.high]
        self.refinement: float = (tolerance / AT_TOLERANCE) ** (-1 / (DEGREE + 1))
        self.before = before
        self.sizes = np.ones(len(system.orders))
        #: Points of space at which sizes are measured.
        left, right = system.box[0].tolist()
        several = system.variables > 1
        self.places = np.linspace(left, right, SIZE_POINTS) if several else np.zeros(1)
        self.audit = WindowAudit(system)
        #: Breakpoints that every window has, since formulas change fast there.
        self.kept = narrow_ends(system.scan.cells[0]) if several else np.zeros(0)

    def _fewest(self, intervals: int, time: float) -> int:
        """Return a number of intervals that is given for `AT_TOLERANCE`, or more.

        Early errors grow, so that a grid is not coarser than that of a solution `before` at any
        later time, relative to its tolerance; windows of layers that vanish do not count.
        """
        found = max(round(intervals * self.refinement), FEWEST_INTERVALS)
        if (before := self.before) is None:
            return found
        finer: float = (self.tolerance / before.tolerance) ** (-1 / (DEGREE + 1))
        shortest = LAYER * (self.high - self.low)
        later = (e for e in before.windows if e.end > max(time, e.start + shortest))
        return max(found, round(finer * max((e.space.intervals for e in later), default=0)))

    def run(self) -> Iterator[March]:
        """Yield the windows so far after each one."""
        system, march = self.system, March([], self.low, self.tolerance)
        state = self._first_state(march)
        first = (self.high - self.low) / (FIRST_WINDOWS * self.refinement)
        length, goals = first, iter(self.goals)
        goal = next(goals)
        shortest = (self.high - self.low) / MAX_WINDOWS
        refusals = 0
        while march.end < self.high and length > shortest and not self.is_over(march):
            remaining = goal - march.end
            if length * (1 + 1e-9) < remaining < 2 * length:  # The last two windows share it.
                length = remaining / 2
            end = goal if remaining <= length * (1 + 1e-9) else march.end + length
            if (length := end - march.end) <= 0:
                break
            problem = WindowProblem(system, state, (march.end, end), self.sizes)
            unknowns, steps = self._solved(problem)
            march.steps += steps
            march.work += steps * len(problem.unknowns)
            march.counted += steps * (SECONDS_OF_STEP + SECONDS_OF_UNKNOWN * len(problem.unknowns))
            if unknowns is None:
                length *= SHORTENED
                continue
            last = problem.last_coefficient(unknowns)
            length = next_length(length, last / self.tolerance)
            if last > LAST_COEFFICIENT * self.tolerance:
                continue
            window = problem.window(unknowns)
            seen = self.audit(window, self.sizes)
            march.counted += self.audit.counted
            if seen is not None and seen.size > self.tolerance + seen.allowed:
                refusals += 1
                if refusals <= MAX_REFUSALS:
                    length, state = self._refined(seen, length, state)
                    continue
                march.unresolved = march.unresolved or seen.place
            refusals = 0
            march.unseen = max(march.unseen, 0.0 if seen is None else seen.size)
            march.windows.append(window)
            march.end = end
            march.remaining = (self.high - end) / length * steps * len(problem.unknowns)
            if end == goal and end < self.high:
                march.end = end + 2 * self.early
                state, length, goal = self._first_state(march), first, next(goals)
            elif end < self.high:
                self._measure(window)
                ended = EvolvingState(
                    window.space, window.at_end([o + FOLLOWED for o in system.orders])
                )
                state = self._next_state(state, ended, end)
            yield march

    def _solved(self, problem: WindowProblem) -> tuple[Tensor | None, int]:
        """Return the unknowns of a window, or None if its steps do not converge."""
        unknowns, before = problem.unknowns, inf
        newton, ratio = None, inf
        for taken in range(1, MAX_STEPS + 1):
            residual = problem.residual(unknowns)
            if not bool(torch.isfinite(residual).all()):
                return None, taken - 1
            if newton is None or ratio > SAME_JACOBIAN:
                newton = gauss_newton(problem.rows(unknowns))
            move = newton(residual)
            change = problem.largest_change(move)
            if not isfinite(change) or change > DIVERGED:
                return None, taken
            unknowns = unknowns + move
            small = change < CONVERGED * self.tolerance
            if small or (change < NEARLY_CONVERGED * self.tolerance and change > before / 2):
                return unknowns, taken
            ratio = change / (before if taken > 1 else 1.0)
            before = change
        return None, MAX_STEPS

    def is_over(self, march: March) -> bool:
        """Return whether the budget, or the CPU time of the command, is spent."""
        evaluated = SECONDS_OF_WINDOW * len(march.windows)
        return march.counted + evaluated > self.budget or time_limit_reached()

    def _refined(
        self, seen: Unseen, length: float, state: EvolvingState
    ) -> tuple[float, EvolvingState]:
        """Return a length that ends before what a window has not seen, or finer breakpoints."""
        x, y = seen.axes
        by_y = np.sqrt(np.square(seen.left_by_y).mean(axis=0))
        in_time = by_y @ y.weights > (1 - SPATIAL) * seen.size or not state.space.degree
        limit = self.tolerance + seen.allowed
        if not in_time:
            squares = seen.squares
            chosen = squares > HALVED * squares.max()
            middle = (x.ends[1:] + x.ends[:-1])[chosen] / 2
            low, high = x.ends[[0, -1]]
            wide = np.diff(x.ends)[chosen] > 2 * NARROWEST * (high - low)
            if wide.any():
                self.kept = np.union1d(self.kept, middle[wide])
                return length, state.moved(self._kept_in(state.space))
        first = int((seen.by_y > limit).argmax())
        share = float(y.places[max(first - 1, 0)] - y.ends[0]) / length
        return length * (share if share > SHORTENED else SHORTENED), state

    def _kept_in(self, space: Space) -> Space:
        return replace(space, breakpoints=with_breakpoints(space.breakpoints, self.kept))

    def _first_state(self, march: March) -> EvolvingState:
        """Return the initial values, on breakpoints that are halved where their error is large.

        After a jump in time these are the values before it.
        """
        system, initial = self.system, partial(self._initial, march)
        every = initial(self.places)
        found = np.array([np.sqrt(np.square(each[:, 0]).mean()) for each in every])
        largest = found.max() or 1.0
        self.sizes = np.where(found > SMALLEST_SIZE * largest, found, largest)
        if system.variables == 1:
            return EvolvingState(Space.constant(), every)
        low, high = float(self.places[0]), float(self.places[-1])
        breakpoints = np.linspace(low, high, self._fewest(FIRST_INTERVALS, march.end) + 1)
        breakpoints = with_kinks(breakpoints, kinks_of(system, 0))
        scanned = np.zeros(0) if march.windows else narrow_ends(system.initial_scan.cells[0])
        breakpoints = with_breakpoints(breakpoints, np.union1d(self.kept, scanned))
        shortest = SHORTEST_INTERVAL * self.tolerance
        if march.windows:  # Diffusion widens layers of this length in times that float64 resolves.
            shortest = max(shortest, np.sqrt(RESOLVED * self.early / (self.high - self.low)))
        shortest *= high - low
        bound = max(INITIAL_ERROR * self.tolerance, ROUNDING)
        while True:
            space = Space(breakpoints, system.walls, system.periodic)
            values = [
                space.project(lambda x, u=u: initial(x)[u], u)  # type: ignore[misc]
                for u in range(len(every))
            ]
            # What each interval adds to the largest squared relative error. A derivative of order r
            # counts by what it changes within the whole range of time.
            places, squares = space.places(ERROR_RULE), np.zeros(space.intervals)
            x = places.at.ravel()
            for one, wanted, size in zip(values, initial(x), self.sizes, strict=True):
                scales = size / (self.high - self.low) ** np.arange(wanted.shape[1])
                each = np.square((space.evaluate(one, x) - wanted) / scales)
                sums = (each.reshape(*places.at.shape, -1) * places.shares[..., None]).sum(1)
                squares = max([squares, *sums.T], key=np.sum)
            halved = squares > HALVED * squares.max()
            halved &= np.diff(breakpoints) > shortest
            large = squares.sum() >= bound**2 and space.intervals <= MAX_INTERVALS
            if not (large and halved.any()):
                march.initial_error = max(march.initial_error, float(np.sqrt(squares.sum())))
                return EvolvingState(space, values)
            middle = (breakpoints[1:] + breakpoints[:-1]) / 2
            breakpoints = np.sort(np.concatenate([breakpoints, middle[halved]]))

    def _initial(self, march: March, x: Array) -> list[Array]:
        """Return values and time derivatives of u - lift at the end of `march`, (points, order).

        After a jump in time, the solution is that before it, given values of walls are those after.
        """
        system, window = self.system, march.windows[-1] if march.windows else None
        times = window.end if window else march.end, march.end
        before, after = (np.stack([x, x * 0 + t][-system.variables :], axis=1) for t in times)
        given, found = system.lift if window else system.initial_value, []
        for unknown, highest in enumerate(system.orders):
            indices = [(*[0] * (system.variables - 1), order) for order in range(highest)]
            columns = [given(unknown, i, before) - system.lift(unknown, i, after) for i in indices]
            values = np.stack(columns, axis=1)
            if window is not None:
                values += window.space.evaluate(window.at_end(system.orders)[unknown], x)
            found.append(values)
        return found

    def _measure(self, window: Window) -> None:
        """Update the sizes of the unknowns from a window."""
        times = np.linspace(window.start, window.end, DEGREE + 1)
        t, x = np.meshgrid(times, self.places, indexing="ij")
        points = np.stack([x.ravel(), t.ravel()][-self.system.variables :], axis=1)
        values = window.solution(self.system, points).reshape(len(times), len(self.places), -1)
        found = np.sqrt(np.square(values).mean(1).max(0))
        self.sizes = np.maximum(found, SIZE_MEMORY * self.sizes)
        self.sizes = np.maximum(self.sizes, SMALLEST_SIZE * self.sizes.max())

    def _next_state(
        self, started: EvolvingState, state: EvolvingState, time: float
    ) -> EvolvingState:
        """Return the state of the next window, on other breakpoints if errors ask for it.

        Args:
            started: State at the start of the last window, in the same space.
            state: State at its end.
            time: That end.
        """
        space = state.space
        if not space.degree:
            return state
        # Only the unknowns count: time derivatives carry rounding that finer grids amplify.
        first, error = (
            max(space.error(c[:, 0]) / size for c, size in zip(each, self.sizes, strict=True))
            for each in (started.values, state.values)
        )
        # Where fronts steepen, the error grows within the next window by as much as in this one.
        error *= max(1.0, min(error / max(first, ROUNDING), FORESEEN))
        fewest = self._fewest(MIN_INTERVALS, time)
        intervals = next_intervals(space.intervals, fewest, error / self.tolerance)
        if intervals is None:
            return state
        values = [each[:, 0] for each in state.values]
        count = max(intervals - len(self.kept), FEWEST_INTERVALS)
        found = self._kept_in(space.adapted(values, list(self.sizes), count))
        same = intervals < space.intervals <= found.intervals
        return state if same else state.moved(found)


def next_length(length: float, last: float) -> float:
    """Return the length of the next window after a `last` coefficient, in tolerances."""
    return length * float(np.clip(SAFETY * max(last, TINY) ** (-1 / DEGREE), *WINDOW_GROWTH))


def next_intervals(intervals: int, fewest: int, error: float) -> int | None:
    """Return the number of intervals for an expected error in tolerances, or None if it stays."""
    relative = error / SPLINE_ERROR
    if relative <= 1 and not (relative < SUPERFLUOUS and intervals > fewest):
        return None
    factor = float(np.clip((4 * relative) ** (1 / (DEGREE + 1)), *INTERVAL_GROWTH))
    return int(np.clip(int(factor * intervals) + 1, fewest, MAX_INTERVALS))
