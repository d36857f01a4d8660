"""Evolution equations slab by slab, with an error estimate that is carried along.

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
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, isfinite
from time import process_time

import numpy as np
import torch
from torch import Tensor

from kanrun.engine.equations.audit import SlabAudit, Unseen
from kanrun.engine.equations.scan import NARROWEST, narrow_ends
from kanrun.engine.equations.slab import EvolvingState, Slab, SlabProblem
from kanrun.engine.equations.space import DEGREE, Space, kinks_of, with_breakpoints, with_kinks
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.least_squares import gauss_newton
from kanrun.monitoring import report_progress, time_limit_reached

#: Units in the last place of the largest time by which slabs end before formulas jump, and begin
#: after it.
ROUNDINGS = 8
#: The shortest slab after a jump in time, in units of that.
RESOLVED = 10
#: Relative error of splines at initial values that rounding leaves.
ROUNDING = 1e-13
#: Gauss points of an interval at which initial values are compared.
ERROR_RULE = np.polynomial.legendre.leggauss(20)
#: Slabs shorter than this fraction of the range follow layers, such as those next to jumps of the
#: initial values, whose breakpoints no later slab needs.
LAYER = 1e-3
#: Times of a slab, from -1 to 1, at which its error is measured, and their weights.
ERROR_TIMES = np.array([-0.8, -0.4, 0.0, 0.4, 0.8, 1.0])
#: Points of space at which the sizes of unknowns are measured.
SIZE_POINTS = 201
#: Fraction of its size that an unknown keeps from one slab to the next.
SIZE_MEMORY = 0.1
#: Relative size below which an unknown counts as zero.
SMALLEST_SIZE = 1e-12
#: Largest term of the highest degree in time of an accepted slab, in local tolerances.
LAST_COEFFICIENT = 2.0
#: Estimated error of the splines at the end of a slab above which breakpoints are added, in local
#: tolerances.
SPLINE_ERROR = 0.02
#: Fraction of that error below which breakpoints are taken away.
SUPERFLUOUS = 1e-3
#: Relative L2 error of the splines at the initial values, in local tolerances.
INITIAL_ERROR = 0.01
#: Number of intervals at first, at the local tolerance 1e-6. It grows by its power
#: -1 / (DEGREE + 1), as the lengths of first slabs shrink.
FIRST_INTERVALS = 20
#: Smallest number of intervals at that tolerance, and at any.
MIN_INTERVALS = 14
FEWEST_INTERVALS = 8
#: Local tolerance at which these numbers are given.
AT_TOLERANCE = 1e-6
#: Intervals at most.
MAX_INTERVALS = 4000
#: Initial values: an interval is halved if its squared error is above this fraction of the
#: largest.
HALVED = 0.02
#: Shortest interval of initial values, relative to the range and the local tolerance.
SHORTEST_INTERVAL = 0.01
#: Bounds of the factor from one number of intervals to the next.
INTERVAL_GROWTH = (0.8, 1.5)
#: The first slab is the range divided by this, the shortest one the range divided by the second.
FIRST_SLABS = 64.0
MAX_SLABS = 1e20
#: Bounds of the factor from one length to the next, and the fraction of the predicted length.
SLAB_GROWTH = (0.2, 2.0)
SAFETY = 0.9
#: Factor of the length after a slab whose steps do not converge.
SHORTENED = 0.3
#: Gauss-Newton steps of a slab at most.
MAX_STEPS = 12
#: A slab is shortened if a step exceeds this many sizes of the unknowns.
DIVERGED = 1e6
#: A step keeps the Jacobian if the last one was smaller than the one before by this factor, the
#: first one than the unknowns.
SAME_JACOBIAN = 0.1
#: Time derivatives at its start, beyond those that it is given, from which steps of a slab start.
FOLLOWED = 2
#: Steps end at a change below this fraction of the local tolerance.
CONVERGED = 1e-3
#: The same for steps that no longer become smaller.
NEARLY_CONVERGED = 1e-2
#: Times that one slab is refused for its share of the error; the carried error counts it anyway.
MAX_RESIZED = 4
#: Fraction of such a share that the next slab may have at once.
ALLOWANCE = 0.7
#: Times that one slab is refused for what it has not seen.
MAX_REFUSALS = 60
#: Part of what a slab has not seen above which breakpoints are added instead of shortening it.
SPATIAL = 0.5
#: Counted work in approximate CPU seconds: of a step, and of an unknown in it.
SECONDS_OF_STEP = 1e-3
SECONDS_OF_UNKNOWN = 2.4e-6
#: Steps that take as long as the correction of a slab.
STEPS_OF_CORRECTION = 3
#: Counted work, in approximate CPU seconds, of the residuals and the network of a slab.
SECONDS_OF_SLAB = 6e-3
#: Smallest divisor.
TINY = 1e-300


@dataclass(frozen=True)
class Accepted:
    """Slab with its mean squares of each unknown, (unknowns,): errors, those at the end, values."""

    slab: Slab
    errors: Array
    last_errors: Array
    values: Array


@dataclass
class March:
    """Slabs of one solution from the start on, and where it ended."""

    tolerance: float
    end: float
    accepted: list[Accepted] = field(default_factory=list)
    steps: int = 0
    #: Largest residual of a slab at unseen places, relative to the sizes and times the slab's
    #: length, and the place of one that no slab represents.
    unseen: float = 0.0
    unresolved: list[float] | None = None
    #: Counted work in approximate CPU seconds, and CPU seconds.
    counted: float = 0.0
    seconds: float = 0.0
    #: Why it ends early.
    stopped: str = ""

    @property
    def slabs(self) -> list[Slab]:
        return [each.slab for each in self.accepted]

    def sizes(self) -> Array:
        """Return the root mean squares of the unknowns over all slabs."""
        lengths = np.array([each.slab.end - each.slab.start for each in self.accepted])
        squares = lengths @ np.stack([each.values for each in self.accepted]) / lengths.sum()
        found: Array = np.sqrt(np.maximum(squares, SMALLEST_SIZE**2 * squares.max()) + TINY)
        return found

    def errors(self) -> Array:
        """Return the estimated relative L2 error of each slab, the largest of an unknown."""
        squares = np.stack([each.errors for each in self.accepted])
        found: Array = (np.sqrt(squares) / self.sizes()).max(axis=1)
        return found

    @property
    def estimate(self) -> float:
        """Estimated relative L2 error, in the whole range or at the end if that is larger."""
        lengths = np.array([each.slab.end - each.slab.start for each in self.accepted])
        squares = lengths @ np.stack([each.errors for each in self.accepted]) / lengths.sum()
        last = self.accepted[-1].last_errors
        return float((np.sqrt(np.maximum(squares, last)) / self.sizes()).max())


class Controller:
    """Solves an evolution system slab by slab for one local tolerance."""

    def __init__(
        self,
        system: EvolutionSystem,
        tolerance: float,
        budget: float = inf,
        before: March | None = None,
    ) -> None:
        self.system, self.tolerance, self.budget = system, tolerance, budget
        self.before = before
        self.low, self.high = system.box[-1].tolist()
        # Before formulas jump in time, so that the last point of a slab sees them as before.
        self.early = ROUNDINGS * float(np.spacing(max(abs(self.low), abs(self.high))))
        jumps = system.jumps(system.variables - 1)
        self.goals = [*(time - self.early for time in jumps), self.high]
        self.refinement: float = (tolerance / AT_TOLERANCE) ** (-1 / (DEGREE + 1))
        self.sizes = np.ones(len(system.orders))
        #: Points of space at which sizes are measured.
        left, right = system.box[0].tolist()
        several = system.variables > 1
        self.places = np.linspace(left, right, SIZE_POINTS) if several else np.zeros(1)
        self.audit = SlabAudit(system)
        #: Breakpoints that every slab has, since formulas change fast there.
        self.kept = narrow_ends(system.scan.cells[0]) if several else np.zeros(0)
        self.march = March(tolerance, self.low)
        #: Approximate solution at the end of the last slab, and its error in the richer space.
        self.state, self.error = self._first_states()
        #: Refusals of the next slab: for its share of the error, and for what it has not seen.
        self._resized, self._refused = 0, 0
        #: That share before breakpoints were added, and a share above the local tolerance that had
        #: to be accepted: where a kink disperses, the next slabs have no smaller one.
        self._share = inf
        self._allowed = 0.0

    def run(self) -> Iterator[March]:
        """Yield the slabs so far after each one."""
        march, began = self.march, process_time()
        first = (self.high - self.low) / (FIRST_SLABS * self.refinement)
        length, goals = first, iter(self.goals)
        goal, shortest = next(goals), (self.high - self.low) / MAX_SLABS
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
            march.end, march.seconds = end, process_time() - began
            if end == goal and end < self.high:
                march.end = end + 2 * self.early
                self.state, self.error = self._first_states()
                length, goal = first, next(goals)
            yield march

    def is_over(self) -> bool:
        """Return whether the budget, or the CPU time of the command, is spent."""
        evaluated = SECONDS_OF_SLAB * len(self.march.accepted)
        return self.march.counted + evaluated > self.budget or time_limit_reached()

    def _next_slab(self, end: float) -> tuple[bool, float]:
        """Solve the slab up to `end`; return whether it is accepted, and the next length."""
        march, system, length = self.march, self.system, end - self.march.end
        problem = SlabProblem(system, self.state, (march.end, end), self.sizes)
        unknowns = self._solved(problem)
        if unknowns is None:
            return False, length * SHORTENED
        last = problem.last_coefficient(unknowns)
        following = next_length(length, last / self.tolerance)
        if last > LAST_COEFFICIENT * self.tolerance:
            return False, following
        slab = problem.slab(unknowns)
        jumps = slab.jumps(self.state, system.orders)
        richer, newton, own = self._correction(slab.with_parts(jumps))
        own = own.with_parts(jumps)
        share = float((own.norms(ERROR_TIMES) / self.sizes[:, None]).max())
        if not share <= max(self.tolerance, self._allowed) and self._resized < MAX_RESIZED:
            return False, self._resize(own, share, length)
        seen = self.audit(slab, self.sizes)
        march.counted += self.audit.counted
        if seen is not None and seen.size > self.tolerance + seen.allowed:
            self._refused += 1
            if self._refused <= MAX_REFUSALS:
                return False, self._refined(seen, length)
            march.unresolved = march.unresolved or seen.place
        march.unseen = max(march.unseen, 0.0 if seen is None else seen.size)
        if any(values.any() for values in self.error.values):
            problem = richer.starting(self.error)
            own = problem.slab(newton(problem.residual(problem.unknowns))).with_parts(jumps)
        self._accept(slab, own)
        self._resized, self._refused, self._share = 0, 0, inf
        self._allowed = max(ALLOWANCE * self._allowed, share if share > self.tolerance else 0.0)
        return True, following

    def _solved(self, problem: SlabProblem) -> Tensor | None:
        """Return the unknowns of a slab, or None if its steps do not converge."""
        unknowns, before = problem.unknowns, inf
        newton, ratio = None, inf
        for taken in range(MAX_STEPS):
            self._count(1, len(unknowns))
            residual = problem.residual(unknowns)
            if not bool(torch.isfinite(residual).all()):
                return None
            if newton is None or ratio > SAME_JACOBIAN:
                newton = gauss_newton(problem.rows(unknowns))
            move = newton(residual)
            change = problem.largest_change(move)
            if not isfinite(change) or change > DIVERGED:
                return None
            unknowns = unknowns + move
            small = change < CONVERGED * self.tolerance
            if small or (change < NEARLY_CONVERGED * self.tolerance and change > before / 2):
                return unknowns
            ratio = change / (before if taken else 1.0)
            before = change
        return None

    def _count(self, steps: int, unknowns: int) -> None:
        """Count the work of steps."""
        self.march.steps += steps
        self.march.counted += steps * (SECONDS_OF_STEP + SECONDS_OF_UNKNOWN * unknowns)

    def _correction(self, slab: Slab) -> tuple[SlabProblem, Callable[[Tensor], Tensor], Slab]:
        """Return the problem of the error of a slab, its Newton step, and the slab's own share."""
        space, orders = slab.space.halved, self.system.orders
        zero = EvolvingState(space, [np.zeros((space.functions, order)) for order in orders])
        problem = SlabProblem(self.system, zero, (slab.start, slab.end), self.sizes, slab)
        self._count(STEPS_OF_CORRECTION, len(problem.unknowns))
        newton = gauss_newton(problem.rows(problem.unknowns))
        return problem, newton, problem.slab(newton(problem.residual(problem.unknowns)))

    def _accept(self, slab: Slab, error: Slab) -> None:
        """Add a slab, and make its end the start of the next one, on other breakpoints perhaps."""
        norms, orders = error.norms(ERROR_TIMES), self.system.orders
        values = self._measure(slab)
        squares = np.square(norms)
        found = Accepted(slab, squares.mean(axis=1), squares[:, -1], values)
        self.march.accepted.append(found)
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
        space, excess = self.state.space, share / self.tolerance
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

    def _first_states(self) -> tuple[EvolvingState, EvolvingState]:
        """Return the initial values, on breakpoints that are halved where their error is large.

        After a jump in time these are the values before it. The second state is their error.
        """
        system, march = self.system, self.march
        every = self._initial(self.places)
        found = np.array([np.sqrt(np.square(each[:, 0]).mean()) for each in every])
        largest = found.max() or 1.0
        self.sizes = np.where(found > SMALLEST_SIZE * largest, found, largest)
        before = self.error if march.accepted else None
        if system.variables == 1:
            zeros = EvolvingState(Space.constant(), [0 * each for each in every])
            return EvolvingState(zeros.space, every), before or zeros
        low, high = float(self.places[0]), float(self.places[-1])
        breakpoints = np.linspace(low, high, self._fewest(FIRST_INTERVALS) + 1)
        breakpoints = with_kinks(breakpoints, kinks_of(system, 0))
        scanned = np.zeros(0) if march.accepted else narrow_ends(system.initial_scan.cells[0])
        breakpoints = with_breakpoints(breakpoints, np.union1d(self.kept, scanned))
        shortest = SHORTEST_INTERVAL * self.tolerance
        if march.accepted:  # Diffusion widens layers of this length in times that float64 resolves.
            shortest = max(shortest, np.sqrt(RESOLVED * self.early / (self.high - self.low)))
        state = self._fitted(breakpoints, shortest * (high - low))
        space = state.space.halved

        def error(x: Array, unknown: int) -> Array:
            left = self._initial(x)[unknown] - state.space.evaluate(state.values[unknown], x)
            return (
                left if before is None else left + before.space.evaluate(before.values[unknown], x)
            )

        numbers = range(len(every))
        errors = [space.project(partial(error, unknown=number), number) for number in numbers]
        return state, EvolvingState(space, errors)

    def _fitted(self, breakpoints: Array, shortest: float) -> EvolvingState:
        """Return initial values on breakpoints that are halved down to the shortest interval."""
        system = self.system
        bound = max(INITIAL_ERROR * self.tolerance, ROUNDING)
        while True:
            space = Space(breakpoints, system.walls, system.periodic)
            values = [
                space.project(lambda x, u=u: self._initial(x)[u], u)  # type: ignore[misc]
                for u in range(len(system.orders))
            ]
            # What each interval adds to the largest squared relative error. A derivative of order r
            # counts by what it changes within the whole range of time.
            places, squares = space.places(ERROR_RULE), np.zeros(space.intervals)
            x = places.at.ravel()
            for one, wanted, size in zip(values, self._initial(x), self.sizes, strict=True):
                scales = size / (self.high - self.low) ** np.arange(wanted.shape[1])
                each = np.square((space.evaluate(one, x) - wanted) / scales)
                sums = (each.reshape(*places.at.shape, -1) * places.shares[..., None]).sum(1)
                squares = max([squares, *sums.T], key=np.sum)
            halved = squares > HALVED * squares.max()
            halved &= np.diff(breakpoints) > shortest
            large = squares.sum() >= bound**2 and space.intervals <= MAX_INTERVALS
            if not (large and halved.any()):
                return EvolvingState(space, values)
            middle = (breakpoints[1:] + breakpoints[:-1]) / 2
            breakpoints = np.sort(np.concatenate([breakpoints, middle[halved]]))

    def _initial(self, x: Array) -> list[Array]:
        """Return values and time derivatives of u - lift at the end of `march`, (points, order).

        After a jump in time, the solution is that before it, given values of walls are those after.
        """
        system, march = self.system, self.march
        slab = march.accepted[-1].slab if march.accepted else None
        times = slab.end if slab else march.end, march.end
        before, after = (np.stack([x, x * 0 + t][-system.variables :], axis=1) for t in times)
        given, found = system.lift if slab else system.initial_value, []
        for unknown, highest in enumerate(system.orders):
            indices = [(*[0] * (system.variables - 1), order) for order in range(highest)]
            columns = [given(unknown, i, before) - system.lift(unknown, i, after) for i in indices]
            values = np.stack(columns, axis=1)
            if slab is not None:
                values += slab.space.evaluate(slab.at_end(system.orders)[unknown], x)
            found.append(values)
        return found

    def _measure(self, slab: Slab) -> Array:
        """Update the sizes of the unknowns from a slab; return their mean squares in it."""
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
        report_progress("slabs", len(march.accepted), None, march.accepted[-1].errors.max() ** 0.5)
    march = controller.march
    if march.end < controller.high:
        march.stopped = "slabs became too short"
        if time_limit_reached():
            march.stopped = "CPU time ran out"
        elif controller.is_over():
            march.stopped = "the budget is spent"
    return march
