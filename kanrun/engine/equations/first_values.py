"""The values from which a march starts, or from which it goes on after formulas jump in time.

Initial values become splines on breakpoints that are halved where the error of the splines is
large. What the splines miss is the first error that the slabs carry along.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from kanrun.engine.equations.march import SMALLEST_SIZE
from kanrun.engine.equations.scan import narrow_ends
from kanrun.engine.equations.slab import EvolvingState, Slab
from kanrun.engine.equations.space import Space, kinks_of, with_breakpoints, with_kinks
from kanrun.engine.equations.system import Array, EvolutionSystem

#: Units in the last place of the largest time by which slabs end before formulas jump, and begin
#: after it.
ROUNDINGS = 8
#: The shortest slab after a jump in time, in units of that.
RESOLVED = 10
#: Relative error of splines at initial values that rounding leaves.
ROUNDING = 1e-13
#: Gauss points of an interval at which initial values are compared.
ERROR_RULE = np.polynomial.legendre.leggauss(20)
#: Points of space at which the sizes of unknowns are measured.
SIZE_POINTS = 201
#: Relative L2 error of the splines at the initial values, in local tolerances.
INITIAL_ERROR = 0.01
#: Intervals at most.
MAX_INTERVALS = 4000
#: An interval is halved if its squared error is above this fraction of the largest.
HALVED = 0.02
#: Shortest interval of initial values, relative to the range and the local tolerance.
SHORTEST_INTERVAL = 0.01


def jump_margin(system: EvolutionSystem) -> float:
    """Return the time by which slabs end before formulas jump, and begin after it."""
    return ROUNDINGS * float(np.spacing(float(system.box[-1].abs().max())))


class FirstValues:
    """Initial values of u - lift, or those after a jump in time, which are those before it.

    Args:
        system: The equations and their initial values.
        time: Start of the next slab.
        slab: Slab that ends at the jump; None at the start of the range.
    """

    def __init__(self, system: EvolutionSystem, time: float, slab: Slab | None) -> None:
        self.system = system
        self.time = time
        self.slab = slab
        self.unknowns = range(len(system.orders))
        self.low, self.high = system.box[0].tolist()
        #: Range of time.
        self.duration = float(system.box[-1, 1]) - float(system.box[-1, 0])

    @cached_property
    def _ended(self) -> list[Array]:
        """Splines of the unknowns and their time derivatives at the end of the slab."""
        return self.slab.at_end(self.system.orders) if self.slab else []

    def value(self, x: Array, unknown: int) -> Array:
        """Return an unknown and its time derivatives at x (points,), (points, order).

        Given values of walls are those after the jump.
        """
        system = self.system
        slab = self.slab
        times = (slab.end if slab else self.time, self.time)
        before, after = (np.stack([x, x * 0 + t][-system.variables :], axis=1) for t in times)
        given = system.lift if slab else system.initial_value
        none = (0,) * (system.variables - 1)
        indices = [(*none, order) for order in range(system.orders[unknown])]
        columns = [given(unknown, i, before) - system.lift(unknown, i, after) for i in indices]
        values = np.stack(columns, axis=1)
        if slab is not None:
            values += slab.space.evaluate(self._ended[unknown], x)
        return values

    @cached_property
    def sizes(self) -> Array:
        """Root mean squares of the unknowns, (unknowns,); the largest one for those of zero."""
        several = self.system.variables > 1
        x = np.linspace(self.low, self.high, SIZE_POINTS) if several else np.zeros(1)
        values = (self.value(x, unknown)[:, 0] for unknown in self.unknowns)
        found = np.array([np.sqrt(np.square(each).mean()) for each in values])
        largest = found.max() or 1.0
        return np.where(found > SMALLEST_SIZE * largest, found, largest)

    def state(self, intervals: int, kept: Array, tolerance: float) -> EvolvingState:
        """Return the values as splines, within a fraction of the local tolerance.

        Args:
            intervals: Number of equal intervals to begin with.
            kept: Breakpoints that every slab has, (breakpoints,).
            tolerance: Local tolerance.
        """
        system = self.system
        if system.variables == 1:
            values = [self.value(np.zeros(1), unknown) for unknown in self.unknowns]
            return EvolvingState(Space.constant(), values)
        breakpoints = np.linspace(self.low, self.high, intervals + 1)
        breakpoints = with_kinks(breakpoints, kinks_of(system, 0))
        scanned = np.zeros(0) if self.slab else narrow_ends(system.initial_scan.cells[0])
        breakpoints = with_breakpoints(breakpoints, np.union1d(kept, scanned))
        shortest = SHORTEST_INTERVAL * tolerance
        if self.slab:  # Diffusion widens layers of this length in times that float64 resolves.
            shortest = max(shortest, np.sqrt(RESOLVED * jump_margin(system) / self.duration))
        shortest *= self.high - self.low
        bound = max(INITIAL_ERROR * tolerance, ROUNDING)
        while True:
            space = Space(breakpoints, system.walls, system.periodic)
            values = [
                space.project(partial(self.value, unknown=each), each) for each in self.unknowns
            ]
            squares = self._squares(space, values)
            halved = squares > HALVED * squares.max()
            halved &= np.diff(breakpoints) > shortest
            large = squares.sum() >= bound**2 and space.intervals <= MAX_INTERVALS
            if not (large and halved.any()):
                return EvolvingState(space, values)
            middle = (breakpoints[1:] + breakpoints[:-1]) / 2
            breakpoints = np.sort(np.concatenate([breakpoints, middle[halved]]))

    def _squares(self, space: Space, values: list[Array]) -> Array:
        """Return what each interval adds to the largest squared relative error, (intervals,).

        A derivative of order r counts by what it changes within the whole range of time.
        """
        places = space.places(ERROR_RULE)
        squares = np.zeros(space.intervals)
        x = places.at.ravel()
        for unknown, size in enumerate(self.sizes):
            wanted = self.value(x, unknown)
            scales = size / self.duration ** np.arange(wanted.shape[1])
            each = np.square((space.evaluate(values[unknown], x) - wanted) / scales)
            sums = (each.reshape(*places.at.shape, -1) * places.shares[..., None]).sum(1)
            squares = max([squares, *sums.T], key=np.sum)
        return squares

    def error(self, state: EvolvingState, before: EvolvingState | None) -> EvolvingState:
        """Return the error of a `state` of these values, and of that `before` a jump, in its space.

        The space is the richer one, of half the intervals.
        """
        if self.system.variables == 1:
            return before or EvolvingState(state.space, [0 * each for each in state.values])
        space = state.space.halved

        def missed(x: Array, unknown: int) -> Array:
            left = self.value(x, unknown) - state.space.evaluate(state.values[unknown], x)
            if before is None:
                return left
            carried: Array = left + before.space.evaluate(before.values[unknown], x)
            return carried

        errors = [space.project(partial(missed, unknown=each), each) for each in self.unknowns]
        return EvolvingState(space, errors)
