"""Time stepping with error control: chooses the length and breakpoints of each slab of time.

A solution consists of consecutive slabs of time (`slab.py`). On each slab, the solution is a sum of
splines in space times polynomials in time, found by collocation. The error on a slab is estimated
by one Newton step in a richer space of functions. If this step starts from zero error, it gives the
error that the slab adds, which controls the length of the slab. If the step starts from the error
at the end of the previous slab, it gives the accumulated error, which is reported. An audit
(`audit.py`) evaluates the residual at points that were not used for fitting and that are dense in
time, space and the values of every unknown. A slab is accepted only if the residual at these points
is small, or a smooth function on every cell.

Unless `March.unresolved` is set, `Controller` guarantees that the unseen residual (`audit.py`) of
each slab is at most the local tolerance plus `Unseen.allowed`. Features are found down to the
relative widths `SEEN_WIDTH` in one variable and `SEEN_WIDTH_IN_TWO` in two. The estimated CPU time
exceeds the budget by at most one slab. If the accumulated error exceeds the wanted one,
`slab_solution.py` solves again with a smaller local tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from time import process_time

import numpy as np
from torch import Tensor

from kanrun.engine.equations.audit import SlabAudit, Unseen
from kanrun.engine.equations.scan import NARROWEST, narrow_ends
from kanrun.engine.equations.slab import (
    MAX_INTERVALS,
    SAFETY,
    SLAB_GROWTH,
    SMALLEST_SIZE,
    Accepted,
    EvolvingState,
    March,
    Slab,
    next_intervals,
    next_length,
)
from kanrun.engine.equations.slab_problem import HALVED, FirstValues, SlabProblem, jump_margin
from kanrun.engine.equations.space import DEGREE, Space, with_breakpoints
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.least_squares import gauss_newton
from kanrun.monitoring import report_progress, time_limit_reached

#: Times at which the error of a slab is measured; -1 is its start and 1 its end.
ERROR_TIMES = np.array([-0.8, -0.4, 0.0, 0.4, 0.8, 1.0])
#: Smallest number of intervals at any local tolerance.
FEWEST_INTERVALS = 8
#: Factor by which a slab is shortened if its Gauss-Newton steps do not converge; after an audit,
#: the smallest such factor.
SHORTENED = 0.3
#: Largest number of times that a slab is refused because of features that it does not resolve.
MAX_REFUSALS = 60


class Controller:
    """Solver of an evolution system, slab by slab, with one local tolerance.

    Args:
        system: The system.
        tolerance: Local tolerance: largest error that a slab may add, relative to the unknowns.
        budget: Largest amount of work, in estimated CPU seconds.
        before: Solution with a larger local tolerance, whose numbers of intervals are lower bounds
            for this one; or None.
    """

    def __init__(
        self,
        system: EvolutionSystem,
        tolerance: float,
        budget: float = inf,
        before: March | None = None,
    ) -> None:
        # Local tolerance to which `first_intervals` and `min_intervals` refer.
        at_tolerance = 1e-6
        self.system = system
        self.tolerance = tolerance
        self.budget = budget
        self.before = before
        self.low, self.high = system.box[-1].tolist()
        # Slabs end slightly before a jump in time, where formulas still have the old values.
        self.early = jump_margin(system)
        jumps = system.jumps(system.variables - 1)
        self.goals = [*(time - self.early for time in jumps), self.high]
        self.refinement: float = (tolerance / at_tolerance) ** (-1 / (DEGREE + 1))
        self.audit = SlabAudit(system)
        #: Breakpoints that every slab must have, because formulas or residuals change fast there.
        self.kept = narrow_ends(system.scan.cells[0]) if system.variables > 1 else np.zeros(0)
        self.march = March(tolerance, self.low)
        #: Magnitudes of the unknowns, to which errors are relative, shape (unknowns,).
        self.sizes: Array
        #: Approximate solution at the end of the last slab.
        self.state: EvolvingState
        #: Estimated error of `state`, in the richer space.
        self.error: EvolvingState
        self._begin()
        #: CPU time at which the current slab began.
        self._began = process_time()
        #: Number of times that the current slab was refused because it adds too much error.
        self._resized = 0
        #: Number of times that the current slab was refused by the audit.
        self._refused = 0
        #: Error that the current slab added in the last attempt before its intervals were halved.
        self._share = inf
        #: Error that the next slab may add if this is more than the local tolerance. It is above 0
        #: after a slab with too large an error had to be accepted, because the next slabs then
        #: rarely do better.
        self._allowed = 0.0

    def run(self) -> Iterator[March]:
        """Solve slab by slab; after each accepted slab, yield the march with all slabs so far."""
        # Length of the shortest allowed slab, in units of the float64 spacing at its start. In a
        # shorter slab, the points of the fit and of the audit would coincide.
        fewest_spacings = 100.0
        # The shortest allowed slab is the range of time divided by this number.
        max_slabs = 1e20
        # The first slab has the length of the range of time divided by this number (at
        # `at_tolerance`).
        first_slabs = 64.0
        march = self.march
        first = (self.high - self.low) / (first_slabs * self.refinement)
        length = first
        goals = iter(self.goals)
        goal = next(goals)
        shortest = (self.high - self.low) / max_slabs
        while march.end < self.high and length > shortest and not self.is_over():
            remaining = goal - march.end
            # Divide the remaining time into two slabs of equal length.
            if length * (1 + 1e-9) < remaining < 2 * length:
                length = remaining / 2
            end = goal if remaining <= length * (1 + 1e-9) else march.end + length
            if end - march.end < fewest_spacings * np.spacing(abs(march.end)):
                break
            accepted, length = self._next_slab(end)
            if not accepted:
                continue
            march.end = end
            if end == goal and end < self.high:
                march.end = end + 2 * self.early
                self._begin()
                length = first
                goal = next(goals)
            yield march

    def is_over(self) -> bool:
        """Return whether the budget or the time limit of the command is used up."""
        # Assumed CPU seconds to evaluate the residuals of a slab and to convert the slab to a
        # network.
        seconds_of_slab = 6e-3
        evaluated = seconds_of_slab * len(self.march.accepted)
        return self.march.counted + evaluated > self.budget or time_limit_reached()

    def _next_slab(self, end: float) -> tuple[bool, float]:
        """Try a slab that ends at `end`.

        Return whether it is accepted, and the length of the next slab or of the next attempt.
        """
        # After a slab with too large an error had to be accepted, the next slab may add the same
        # error. With each further slab, this limit is multiplied by `allowance`.
        allowance = 0.7
        # Largest number of times that a slab is refused because it adds too much error. After that
        # it is accepted, and the accumulated error includes it.
        max_resized = 4
        # Largest size of the term of the highest degree in time in an accepted slab, as a multiple
        # of the local tolerance.
        last_coefficient = 2.0
        length = end - self.march.end
        problem = SlabProblem(self.system, self.state, (self.march.end, end), self.sizes)
        unknowns, steps = problem.solved(self.tolerance)
        self._count(steps, len(problem.unknowns))
        if unknowns is None:
            return False, length * SHORTENED
        last = problem.last_coefficient(unknowns)
        following = next_length(length, last / self.tolerance)
        if last > last_coefficient * self.tolerance:
            return False, following
        slab = problem.slab(unknowns)
        jumps = slab.jumps(self.state, self.system.orders)
        richer, newton, own = self._correction(slab.with_parts(jumps))
        own = own.with_parts(jumps)
        share = float((own.norms(ERROR_TIMES) / self.sizes[:, None]).max())
        if not share <= max(self.tolerance, self._allowed) and self._resized < max_resized:
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
        self._allowed = max(allowance * self._allowed, share if share > self.tolerance else 0.0)
        return True, following

    def _refused_length(self, slab: Slab) -> float | None:
        """Audit a slab; return the length of the next attempt if it is refused, otherwise None."""
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
        """Add a number of Gauss-Newton steps, and their estimated CPU seconds, to the march."""
        # Assumed CPU seconds per unknown and Gauss-Newton step.
        seconds_of_unknown = 2.4e-6
        # Assumed CPU seconds per Gauss-Newton step, to which `seconds_of_unknown` is added per
        # unknown.
        seconds_of_step = 1e-3
        self.march.steps += steps
        self.march.counted += steps * (seconds_of_step + seconds_of_unknown * unknowns)

    def _correction(self, slab: Slab) -> tuple[SlabProblem, Callable[[Tensor], Tensor], Slab]:
        """Estimate the error that a slab adds, by one Newton step in a richer space.

        Returns:
            The least squares problem for the error of the slab; the Newton step, which maps
            residuals to unknowns; and the error of the slab if it starts without an error.
        """
        # Assumed CPU time of the error estimate of a slab, in Gauss-Newton steps.
        steps_of_correction = 3
        space = slab.space.halved
        zeros = [np.zeros((space.functions, order)) for order in self.system.orders]
        zero = EvolvingState(space, zeros)
        problem = SlabProblem(self.system, zero, (slab.start, slab.end), self.sizes, slab)
        self._count(steps_of_correction, len(problem.unknowns))
        newton = gauss_newton(problem.rows(problem.unknowns))
        return problem, newton, problem.slab(newton(problem.residual(problem.unknowns)))

    def _accept(self, slab: Slab, error: Slab) -> None:
        """Append a slab with its accumulated `error` to the march, and prepare the next slab.

        The next slab starts from the end of this one, on adapted breakpoints if necessary.
        """
        # Number of time derivatives, beyond those that the equation determines, from which the
        # initial guess of the next slab is extrapolated.
        followed = 2
        squares = np.square(error.norms(ERROR_TIMES))
        values = self._measure(slab)
        now = process_time()
        seconds = now - self._began
        self._began = now
        found = Accepted(slab, squares.mean(axis=1), squares[:, -1], values, seconds)
        self.march.accepted.append(found)
        orders = self.system.orders
        state = EvolvingState(slab.space, slab.at_end([order + followed for order in orders]))
        self.error = EvolvingState(error.space, error.at_end(orders))
        space = self._next_space(slab.space, [each[:, 0] for each in state.values])
        self.state = state
        self._move(space)

    def _move(self, space: Space) -> None:
        """Transfer the state and its error to another space, in which the next slab begins."""
        if space is not self.state.space:
            self.state = self.state.moved(space)
            self.error = self.error.moved(space.halved)

    def _resize(self, own: Slab, share: float, length: float) -> float:
        """Halve intervals, or shorten the slab, because the slab adds too much error.

        Intervals are halved as long as each halving reduces the error to less than half.

        Args:
            own: Error that the slab adds.
            share: Largest norm of this error, relative to the unknowns.
            length: Length of the refused slab.

        Returns:
            Length of the next attempt.
        """
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
        """Add breakpoints, or shorten the slab, because the audit found unresolved features.

        Args:
            seen: Result of the audit.
            length: Length of the refused slab.

        Returns:
            Length of the next attempt; a shortened slab ends before the first unresolved feature.
        """
        # Breakpoints are added if at least this fraction of the unresolved residual is due to
        # space, that is, not due to time; otherwise the slab is shortened.
        spatial = 0.5
        x, y = seen.axes
        by_y = np.sqrt(np.square(seen.left_by_y).mean(axis=0))
        space = self.state.space
        in_time = by_y @ y.weights > (1 - spatial) * seen.size or not space.degree
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
        """Return the space with the additional breakpoints that every slab must have."""
        return replace(space, breakpoints=with_breakpoints(space.breakpoints, self.kept))

    def _fewest(self, intervals: int) -> int:
        """Return the smallest allowed number of intervals at the current time and tolerance.

        `intervals` is the number at the local tolerance `at_tolerance`; it is scaled to the
        tolerance of this solution. If there is a less accurate solution `before`, the result is
        also at least the largest number of intervals that `before` has from now on, scaled in the
        same way, because early errors may grow. Very short slabs of `before`, which resolve
        transient layers, are ignored.
        """
        # Slabs shorter than this fraction of the range of time are assumed to resolve transient
        # layers, for example after jumps of the initial values. More accurate solutions need not
        # have as many intervals as these slabs.
        layer = 1e-3
        found = max(round(intervals * self.refinement), FEWEST_INTERVALS)
        if (before := self.before) is None:
            return found
        finer: float = (self.tolerance / before.tolerance) ** (-1 / (DEGREE + 1))
        shortest = layer * (self.high - self.low)
        later = (e for e in before.slabs if e.end > max(self.march.end, e.start + shortest))
        return max(found, round(finer * max((e.space.intervals for e in later), default=0)))

    def _begin(self) -> None:
        """Set the state, its error, and the sizes of the unknowns at the start or after a jump."""
        # Number of intervals of the first slab at the local tolerance `at_tolerance`. At other
        # tolerances it is multiplied by (tolerance / AT_TOLERANCE)^(-1 / (DEGREE + 1)).
        first_intervals = 20
        accepted = self.march.accepted
        values = FirstValues(self.system, self.march.end, accepted[-1].slab if accepted else None)
        self.sizes = values.sizes
        state = values.state(self._fewest(first_intervals), self.kept, self.tolerance)
        self.error = values.error(state, self.error if accepted else None)
        self.state = state

    def _measure(self, slab: Slab) -> Array:
        """Update the sizes of the unknowns from a slab.

        Return the mean squares of the unknowns over the slab, shape (unknowns,).
        """
        # Errors are divided by the size of the unknown. From one slab to the next, this size
        # decreases at most to this fraction.
        size_memory = 0.1
        squares = np.square(slab.norms(ERROR_TIMES))
        self.sizes = np.maximum(np.sqrt(squares.max(axis=1)), size_memory * self.sizes)
        self.sizes = np.maximum(self.sizes, SMALLEST_SIZE * self.sizes.max())
        found: Array = squares.mean(axis=1)
        return found

    def _next_space(self, space: Space, values: list[Array]) -> Space:
        """Return the space of the next slab.

        `space` is the space of the last slab, and `values` are the spline coefficients of the
        unknowns at its end. If the error of these splines is suitable, return `space` itself.
        """
        # Smallest number of intervals of all slabs after the first, if the local tolerance is
        # `at_tolerance`.
        min_intervals = 14
        if not space.degree:
            return space
        pairs = zip(values, self.sizes, strict=True)
        error = max(space.error(each) / size for each, size in pairs)
        fewest = self._fewest(min_intervals)
        intervals = next_intervals(space.intervals, fewest, error / self.tolerance)
        if intervals is None:
            return space
        count = max(intervals - len(self.kept), FEWEST_INTERVALS)
        found = self._kept_in(space.adapted(values, list(self.sizes), count))
        return space if intervals < space.intervals <= found.intervals else found


def march_to_end(
    system: EvolutionSystem, tolerance: float, budget: float, before: March | None = None
) -> March:
    """Solve a system with one local tolerance, from the start to the end of the range of time.

    For the arguments, see `Controller`. If the solution ends early, `March.stopped` of the result
    says why.
    """
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
