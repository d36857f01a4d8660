"""Values from which the solver in slabs of time starts, or restarts after a jump in time.

Initial values are approximated by splines whose intervals are halved where the error is large. The
remaining error is the first contribution to the accumulated error of the slabs.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from kanrun.engine.equations.evolution import EvolutionSystem
from kanrun.engine.equations.march import MAX_INTERVALS, SMALLEST_SIZE
from kanrun.engine.equations.scan import narrow_ends
from kanrun.engine.equations.slab import EvolvingState, Slab
from kanrun.engine.equations.space import Space, kinks_of, with_breakpoints, with_kinks
from kanrun.engine.equations.system import Array

#: Time between a jump in time and the end of the slab before it, and between the jump and the start
#: of the slab after it, in units in the last place of the largest time.
ROUNDINGS = 8
#: Length of the shortest slab after a jump in time, as a multiple of `jump_margin`.
RESOLVED = 10
#: Smallest relative error with which splines approximate initial values; smaller errors are below
#: rounding.
ROUNDING = 1e-13
#: Gauss rule in each interval with which the error of the splines is measured.
ERROR_RULE = np.polynomial.legendre.leggauss(20)
#: Number of points in space at which the sizes of the unknowns are measured.
SIZE_POINTS = 201
#: Largest relative L2 error of the splines that approximate the initial values, as a fraction of
#: the local tolerance.
INITIAL_ERROR = 0.01
#: An interval is halved if its squared error is above this fraction of the largest one.
HALVED = 0.02
#: Length below which intervals are not halved, as a fraction of the range, divided by the local
#: tolerance.
SHORTEST_INTERVAL = 0.01


def jump_margin(system: EvolutionSystem) -> float:
    """Return the time between a jump and the end of the slab before it, see `ROUNDINGS`."""
    return ROUNDINGS * float(np.spacing(float(system.box[-1].abs().max())))


class FirstValues:
    """Values of the unknowns from which the next slab starts.

    At the start of the range, these are the initial values. After a jump in time, they are the
    values at the end of the previous slab. At the walls, they are the values that the conditions
    prescribe at the start of the next slab.

    Args:
        system: The equations and their initial values.
        time: Start of the next slab.
        slab: Previous slab, which ends at the jump; None at the start of the range.
    """

    def __init__(self, system: EvolutionSystem, time: float, slab: Slab | None) -> None:
        self.system = system
        self.time = time
        self.slab = slab
        self.unknowns = range(len(system.orders))
        self.low, self.high = system.box[0].tolist()
        #: Length of the range of time.
        self.duration = float(system.box[-1, 1]) - float(system.box[-1, 0])

    @cached_property
    def _ended(self) -> list[Array]:
        """Values at the end of the previous slab (`Slab.at_end`); empty if there is none."""
        return self.slab.at_end(self.system.orders) if self.slab else []

    def value(self, x: Array, unknown: int) -> Array:
        """Return an unknown and its time derivatives below the order of the equation in time.

        Args:
            x: Points in space, shape (points,).
            unknown: Index of the unknown.

        Returns:
            Values, shape (points, order).
        """
        system = self.system
        if self.slab is not None:
            return self.slab.space.evaluate(self._ended[unknown], x)
        points = np.stack([x, x * 0 + self.time][-system.variables :], axis=1)
        none = (0,) * (system.variables - 1)
        indices = ((*none, order) for order in range(system.orders[unknown]))
        return np.stack([system.initial_value(unknown, i, points) for i in indices], axis=1)

    def _projected(self, space: Space, unknown: int) -> Array:
        """Approximate the initial values of an unknown and its time derivatives by splines.

        The splines satisfy the boundary conditions. Their coefficients have the shape (basis
        functions, order in time).
        """
        time = np.array([self.time])
        orders = range(self.system.orders[unknown])
        prescribed = [self.system.wall_values(unknown, order, time) for order in orders]
        value = partial(self.value, unknown=unknown)
        return space.project(value, unknown, np.concatenate(prescribed, axis=1))

    @cached_property
    def sizes(self) -> Array:
        """Root mean square of each unknown, shape (unknowns,).

        Unknowns that are zero get the value of the largest one, or 1 if all are zero.
        """
        several = self.system.variables > 1
        x = np.linspace(self.low, self.high, SIZE_POINTS) if several else np.zeros(1)
        values = (self.value(x, unknown)[:, 0] for unknown in self.unknowns)
        found = np.array([np.sqrt(np.square(each).mean()) for each in values])
        largest = found.max() or 1.0
        return np.where(found > SMALLEST_SIZE * largest, found, largest)

    def state(self, intervals: int, kept: Array, tolerance: float) -> EvolvingState:
        """Approximate the values by splines; the error is a small fraction of the local tolerance.

        Args:
            intervals: Number of equal intervals to start with.
            kept: Breakpoints that every slab must have, shape (breakpoints,).
            tolerance: Local tolerance.

        Returns:
            The splines. If intervals would become too short or too many, halving ends early and
            the error is larger.
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
        # Layers thinner than this would spread by diffusion faster than slabs can resolve.
        if self.slab:
            shortest = max(shortest, np.sqrt(RESOLVED * jump_margin(system) / self.duration))
        shortest *= self.high - self.low
        bound = max(INITIAL_ERROR * tolerance, ROUNDING)
        while True:
            space = Space(breakpoints, system.walls, system.periodic)
            values = [self._projected(space, each) for each in self.unknowns]
            squares = self._squares(space, values)
            halved = squares > HALVED * squares.max()
            halved &= np.diff(breakpoints) > shortest
            large = squares.sum() >= bound**2 and space.intervals <= MAX_INTERVALS
            if not (large and halved.any()):
                return EvolvingState(space, values)
            middle = (breakpoints[1:] + breakpoints[:-1]) / 2
            breakpoints = np.sort(np.concatenate([breakpoints, middle[halved]]))

    def _squares(self, space: Space, values: list[Array]) -> Array:
        """Return the squared relative error of the splines `values` in each interval, (intervals,).

        Of all unknowns and time derivatives, the one with the largest total error is used. The
        error of a derivative of order r is multiplied by the r-th power of the range of time, so
        that all errors have the unit of the unknown.
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
        """Return the error with which the next slab starts, in the space of halved intervals.

        Args:
            state: Splines that approximate the values, computed by the method `state`.
            before: Error at the end of the previous slab, which is added; None at the start.
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
