"""The controller of a march: sizes each slab, adapts its breakpoints, and accepts or refuses it.

A solution is a row of slabs (`slab.py`): splines of space times polynomials of time, by
collocation. One Newton step in a richer space is the error estimate: started from zero it gives
what a slab adds to the error, which sizes the slab; started from the error of the slab before, it
gives the error that is reported. An audit at places that no fit has used (`audit.py`), close
together in time, in space and in every unknown, accepts a slab only if its residual there is small
or represented on its cells.

`Controller` keeps one invariant: in each slab of a solution without `unresolved` place, the unseen
residual is at most the local tolerance, relative to the unknowns, down to the widths `SEEN_WIDTH`
in one variable and `SEEN_WIDTH_IN_TWO` in two; and the counted work is at most the budget and one
more slab. If the carried error exceeds the tolerance, everything is solved again with a smaller
local tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from time import process_time

import numpy as np
from torch import Tensor

from kanrun.engine.equations.audit import SlabAudit
from kanrun.engine.equations.first_values import HALVED, MAX_INTERVALS, FirstValues, jump_margin
from kanrun.engine.equations.march import SMALLEST_SIZE, TINY, Accepted, March
from kanrun.engine.equations.scan import NARROWEST, narrow_ends
from kanrun.engine.equations.slab import EvolvingState, Slab
from kanrun.engine.equations.slab_problem import SlabProblem
from kanrun.engine.equations.space import DEGREE, Space, with_breakpoints
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.equations.unseen import Unseen
from kanrun.engine.least_squares import gauss_newton
from kanrun.monitoring import report_progress, time_limit_reached

#: Slabs shorter than this fraction of the range follow layers, such as those next to jumps of the
#: initial values, whose breakpoints no later slab needs.
LAYER = 1e-3
#: Times of a slab, from -1 to 1, at which its error is measured.
ERROR_TIMES = np.array([-0.8, -0.4, 0.0, 0.4, 0.8, 1.0])
#: Fraction of its size that an unknown keeps from one slab to the next.
SIZE_MEMORY = 0.1
#: Largest term of the highest degree in time of an accepted slab, in local tolerances.
LAST_COEFFICIENT = 2.0
#: Estimated error of the splines at the end of a slab above which breakpoints are added, in local
#: tolerances.
SPLINE_ERROR = 0.02
#: Fraction of that error below which breakpoints are taken away.
SUPERFLUOUS = 1e-3
#: Number of intervals at first, at the local tolerance 1e-6. It grows by its power
#: -1 / (DEGREE + 1), as the lengths of first slabs shrink.
FIRST_INTERVALS = 20
#: Smallest number of intervals at that tolerance.
MIN_INTERVALS = 14
#: Smallest number of intervals at any tolerance.
FEWEST_INTERVALS = 8
#: Local tolerance at which these numbers are given.
AT_TOLERANCE = 1e-6
#: Bounds of the factor from one number of intervals to the next.
INTERVAL_GROWTH = (0.8, 1.5)
#: The first slab is the range divided by this.
FIRST_SLABS = 64.0
#: The shortest slab is the range divided by this.
MAX_SLABS = 1e20
#: Bounds of the factor from one length to the next.
SLAB_GROWTH = (0.2, 2.0)
#: The next length is this fraction of the predicted one.
SAFETY = 0.9
#: Factor of the length after a slab whose steps do not converge.
SHORTENED = 0.3
#: Time derivatives at the start of a slab, beyond those that it is given, from which its steps
#: start.
FOLLOWED = 2
#: Times that one slab is refused for its share of the error; the carried error counts it anyway.
MAX_RESIZED = 4
#: Fraction of such a share that the next slab may have at once.
ALLOWANCE = 0.7
#: Times that one slab is refused for what it has not seen.
MAX_REFUSALS = 60
#: Part of what a slab has not seen above which breakpoints are added instead of shortening it.
SPATIAL = 0.5
#: Counted work of a step, in approximate CPU seconds.
SECONDS_OF_STEP = 1e-3
#: Counted work of an unknown in a step, in approximate CPU seconds.
SECONDS_OF_UNKNOWN = 2.4e-6
#: Steps that take as long as the correction of a slab.
STEPS_OF_CORRECTION = 3
#: Counted work, in approximate CPU seconds, of the residuals and the network of a slab.
SECONDS_OF_SLAB = 6e-3


class Controller:
    """Solves an evolution system slab by slab for one local tolerance."""

    def __init__(
        self,
        system: EvolutionSystem,
        tolerance: float,
        budget: float = inf,
        before: March | None = None,
    ) -> None:
        self.system = system
        self.tolerance = tolerance
        self.budget = budget
        self.before = before
        self.low, self.high = system.box[-1].tolist()
        # Before formulas jump in time, so that the last point of a slab sees them as before.
        self.early = jump_margin(system)
        jumps = system.jumps(system.variables - 1)
        self.goals = [*(time - self.early for time in jumps), self.high]
        self.refinement: float = (tolerance / AT_TOLERANCE) ** (-1 / (DEGREE + 1))
        self.audit = SlabAudit(system)
        #: Breakpoints that every slab has, since formulas change fast there.
        self.kept = narrow_ends(system.scan.cells[0]) if system.variables > 1 else np.zeros(0)
        self.march = March(tolerance, self.low)
        #: Sizes of the unknowns, (unknowns,).
        self.sizes: Array
        #: Approximate solution at the end of the last slab.
        self.state: EvolvingState
        #: Its error, in the richer space.
        self.error: EvolvingState
        self._begin()
        #: Refusals of the next slab for its share of the error.
        self._resized = 0
        #: Refusals of the next slab for what it has not seen.
        self._refused = 0
        #: That share before breakpoints were added.
        self._share = inf
        #: A share above the local tolerance that had to be accepted: where a kink disperses, the
        #: next slabs have no smaller one.
        self._allowed = 0.0

    def run(self) -> Iterator[March]:
        """Yield the slabs so far after each one."""
        march = self.march
        began = process_time()
        first = (self.high - self.low) / (FIRST_SLABS * self.refinement)
        length = first
        goals = iter(self.goals)
        goal = next(goals)
        shortest = (self.high - self.low) / MAX_SLABS
        while march.end < self.high and length > shortest and not self.is_over():
            remaining = goal - march.end
            if length * (1 + 1e-9) < remaining < 2 * length:  # The last two slabs share it.
                length = remaining / 2
            end = goal if remaining <= length * (1 + 1e-9) else march.end + length
            if end <= march.end:
                break
            accepted, length = self._next_slab(end)
            if not accepted:
                continue
            march.end = end
            march.seconds = process_time() - began
            if end == goal and end < self.high:
                march.end = end + 2 * self.early
                self._begin()
                length = first
                goal = next(goals)
            yield march

    def is_over(self) -> bool:
        """Return whether the budget, or the CPU time of the command, is spent."""
        evaluated = SECONDS_OF_SLAB * len(self.march.accepted)
        return self.march.counted + evaluated > self.budget or time_limit_reached()

    def _next_slab(self, end: float) -> tuple[bool, float]:
        """Solve the slab up to `end`; return whether it is accepted, and the next length."""
        length = end - self.march.end
        problem = SlabProblem(self.system, self.state, (self.march.end, end), self.sizes)
        unknowns, steps = problem.solved(self.tolerance)
        self._count(steps, len(problem.unknowns))
        if unknowns is None:
            return False, length * SHORTENED
        last = problem.last_coefficient(unknowns)
        following = next_length(length, last / self.tolerance)
        if last > LAST_COEFFICIENT * self.tolerance:
            return False, following
        slab = problem.slab(unknowns)
        jumps = slab.jumps(self.state, self.system.orders)
        richer, newton, own = self._correction(slab.with_parts(jumps))
        own = own.with_parts(jumps)
        share = float((own.norms(ERROR_TIMES) / self.sizes[:, None]).max())
        if not share <= max(self.tolerance, self._allowed) and self._resized < MAX_RESIZED:
            return False, self._resize(own, share, length)
        refused = self._refused_length(slab)
        if refused is not None:
            return False, refused
        if any(values.any() for values in self.error.values):
            problem = richer.starting(self.error)
            own = problem.slab(newton(problem.residual(problem.unknowns))).with_parts(jumps)
        self._accept(slab, own)
        self._resized = 0
        self._refused = 0
        self._share = inf
        self._allowed = max(ALLOWANCE * self._allowed, share if share > self.tolerance else 0.0)
        return True, following

    def _refused_length(self, slab: Slab) -> float | None:
        """Audit a slab; return the next length if the audit refuses the slab, None otherwise."""
        march = self.march
        seen = self.audit(slab, self.sizes)
        march.counted += self.audit.counted
        if seen is None:
            return None
        if seen.size > self.tolerance + seen.allowed:
            self._refused += 1
            if self._refused <= MAX_REFUSALS:
                return self._refined(seen, slab.end - slab.start)
            march.unresolved = march.unresolved or seen.place
        march.unseen = max(march.unseen, seen.size)
        return None

    def _count(self, steps: int, unknowns: int) -> None:
        """Count the work of steps."""
        self.march.steps += steps
        self.march.counted += steps * (SECONDS_OF_STEP + SECONDS_OF_UNKNOWN * unknowns)

    def _correction(self, slab: Slab) -> tuple[SlabProblem, Callable[[Tensor], Tensor], Slab]:
        """Return the problem of the error of a slab, its Newton step, and the slab's own share."""
        space = slab.space.halved
        zeros = [np.zeros((space.functions, order)) for order in self.system.orders]
        zero = EvolvingState(space, zeros)
        problem = SlabProblem(self.system, zero, (slab.start, slab.end), self.sizes, slab)
        self._count(STEPS_OF_CORRECTION, len(problem.unknowns))
        newton = gauss_newton(problem.rows(problem.unknowns))
        return problem, newton, problem.slab(newton(problem.residual(problem.unknowns)))

    def _accept(self, slab: Slab, error: Slab) -> None:
        """Add a slab, and make its end the start of the next one, on other breakpoints perhaps."""
        squares = np.square(error.norms(ERROR_TIMES))
        values = self._measure(slab)
        found = Accepted(slab, squares.mean(axis=1), squares[:, -1], values)
        self.march.accepted.append(found)
        orders = self.system.orders
        state = EvolvingState(slab.space, slab.at_end([order + FOLLOWED for order in orders]))
        self.error = EvolvingState(error.space, error.at_end(orders))
        space = self._next_space(slab.space, [each[:, 0] for each in state.values])
        self.state = state
        self._move(space)

    def _move(self, space: Space) -> None:
        """Let the next slab begin in another space."""
        if space is not self.state.space:
            self.state = self.state.moved(space)
            self.error = self.error.moved(space.halved)

    def _resize(self, own: Slab, share: float, length: float) -> float:
        """Halve intervals where a slab adds much of its error `own`, or return a shorter length."""
        self._resized += 1
        space = self.state.space
        excess = share / self.tolerance
        if space.degree and share < self._share / 2 and space.intervals < MAX_INTERVALS:
            self._share = share
            squares = np.zeros(space.intervals)
            fine = own.space.gauss.at
            number = np.searchsorted(space.breakpoints, fine.mean(axis=1), side="right") - 1
            np.add.at(squares, number, own.by_interval(ERROR_TIMES, self.sizes))
            chosen = squares > HALVED * squares.max()
            middle = (space.breakpoints[1:] + space.breakpoints[:-1])[chosen] / 2
            self._move(replace(space, breakpoints=with_breakpoints(space.breakpoints, middle)))
            return length
        return length * float(np.clip(SAFETY * excess ** (-1 / DEGREE), SLAB_GROWTH[0], SAFETY))

    def _refined(self, seen: Unseen, length: float) -> float:
        """Return a length that ends before what a slab has not seen, or add breakpoints."""
        x, y = seen.axes
        by_y = np.sqrt(np.square(seen.left_by_y).mean(axis=0))
        space = self.state.space
        in_time = by_y @ y.weights > (1 - SPATIAL) * seen.size or not space.degree
        limit = self.tolerance + seen.allowed
        if not in_time:
            squares = seen.squares
            chosen = squares > HALVED * squares.max()
            middle = (x.ends[1:] + x.ends[:-1])[chosen] / 2
            low, high = x.ends[[0, -1]]
            wide = np.diff(x.ends)[chosen] > 2 * NARROWEST * (high - low)
            if wide.any():
                self.kept = np.union1d(self.kept, middle[wide])
                self._move(self._kept_in(space))
                return length
        first = int((seen.by_y > limit).argmax())
        share = float(y.places[max(first - 1, 0)] - y.ends[0]) / length
        return length * (share if share > SHORTENED else SHORTENED)

    def _kept_in(self, space: Space) -> Space:
        """Return a space that also has the breakpoints of every slab."""
        return replace(space, breakpoints=with_breakpoints(space.breakpoints, self.kept))

    def _fewest(self, intervals: int) -> int:
        """Return a number of intervals that is given for `AT_TOLERANCE`, or more.

        Early errors grow, so that a grid is not coarser than that of a solution `before` at any
        later time, relative to its tolerance; slabs of layers that vanish do not count.
        """
        found = max(round(intervals * self.refinement), FEWEST_INTERVALS)
        if (before := self.before) is None:
            return found
        finer: float = (self.tolerance / before.tolerance) ** (-1 / (DEGREE + 1))
        shortest = LAYER * (self.high - self.low)
        later = (e for e in before.slabs if e.end > max(self.march.end, e.start + shortest))
        return max(found, round(finer * max((e.space.intervals for e in later), default=0)))

    def _begin(self) -> None:
        """Take state, error and sizes from the initial values, or from those after a jump."""
        accepted = self.march.accepted
        values = FirstValues(self.system, self.march.end, accepted[-1].slab if accepted else None)
        self.sizes = values.sizes
        state = values.state(self._fewest(FIRST_INTERVALS), self.kept, self.tolerance)
        self.error = values.error(state, self.error if accepted else None)
        self.state = state

    def _measure(self, slab: Slab) -> Array:
        """Update the sizes of the unknowns from a slab; return their mean squares, (unknowns,)."""
        times = slab.start + (ERROR_TIMES + 1) / 2 * (slab.end - slab.start)
        places = slab.space.gauss
        t, x = np.meshgrid(times, places.at.ravel(), indexing="ij")
        points = np.stack([x.ravel(), t.ravel()][-self.system.variables :], axis=1)
        values = slab.solution(self.system, points).reshape(len(times), places.at.size, -1)
        squares = np.einsum("x,txu->tu", places.shares.ravel(), np.square(values))
        self.sizes = np.maximum(np.sqrt(squares.max(axis=0)), SIZE_MEMORY * self.sizes)
        self.sizes = np.maximum(self.sizes, SMALLEST_SIZE * self.sizes.max())
        found: Array = squares.mean(axis=0)
        return found

    def _next_space(self, space: Space, values: list[Array]) -> Space:
        """Return the space of the next slab from the values at the end of the last one."""
        if not space.degree:
            return space
        pairs = zip(values, self.sizes, strict=True)
        error = max(space.error(each) / size for each, size in pairs)
        fewest = self._fewest(MIN_INTERVALS)
        intervals = next_intervals(space.intervals, fewest, error / self.tolerance)
        if intervals is None:
            return space
        count = max(intervals - len(self.kept), FEWEST_INTERVALS)
        found = self._kept_in(space.adapted(values, list(self.sizes), count))
        return space if intervals < space.intervals <= found.intervals else found


def next_length(length: float, last: float) -> float:
    """Return the length of the next slab after a `last` coefficient, in local tolerances."""
    return length * float(np.clip(SAFETY * max(last, TINY) ** (-1 / DEGREE), *SLAB_GROWTH))


def next_intervals(intervals: int, fewest: int, error: float) -> int | None:
    """Return the number of intervals for an error in local tolerances, or None if it stays."""
    relative = error / SPLINE_ERROR
    if relative <= 1 and not (relative < SUPERFLUOUS and intervals > fewest):
        return None
    factor = float(np.clip((4 * relative) ** (1 / (DEGREE + 1)), *INTERVAL_GROWTH))
    return int(np.clip(int(factor * intervals) + 1, fewest, MAX_INTERVALS))


def march_to_end(
    system: EvolutionSystem, tolerance: float, budget: float, before: March | None = None
) -> March:
    """Return the slabs of one local tolerance, and why they end early."""
    controller = Controller(system, tolerance, budget, before)
    for march in controller.run():
        error = float(march.accepted[-1].errors.max() ** 0.5)
        low = controller.low
        high = controller.high
        report_progress("time", march.end - low, high - low, error)
    march = controller.march
    if march.end < controller.high:
        march.stopped = "slabs became too short"
        if time_limit_reached():
            march.stopped = "CPU time ran out"
        elif controller.is_over():
            march.stopped = "the budget is spent"
    return march
