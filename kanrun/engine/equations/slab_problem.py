"""The equations on one slab of time as a least squares problem.

The unknowns are the splines that multiply the free polynomials of time (see `legendre_values`).
Residuals are evaluated at Gauss points in space and at Radau points in time. The same class, in a
richer space, estimates the error of a solved slab: one Newton step gives a correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from math import inf, isfinite

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.legendre import legint, legvander
from torch import Tensor

from kanrun.engine.equations.scan import narrow_ends
from kanrun.engine.equations.slab import (
    MAX_INTERVALS,
    SMALLEST_SIZE,
    EvolvingState,
    Part,
    Slab,
    free_polynomials,
    held_polynomials,
    legendre_values,
    radau_points,
    total,
)
from kanrun.engine.equations.space import (
    DEGREE,
    Places,
    Space,
    kinks_of,
    with_breakpoints,
    with_kinks,
)
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.equations.tensor_splines import (
    Patch,
    TensorProblem,
    TensorSpace,
    block_at,
    patch_at,
)
from kanrun.engine.least_squares import ElementRows, Pattern, gauss_newton


@lru_cache(maxsize=2)
def _layout(
    space: Space, unknowns: int, variables: int, stages: int
) -> tuple[TensorSpace, Pattern]:
    """Return the space of splines times free polynomials, and the positions of its coefficients.

    The second result lists the positions in the vector of unknowns that each interval depends on.
    """
    # `degree` only serves to count the free polynomials, of which there are `stages`.
    times = Space(np.array([0.0, 1.0]), (), degree=stages - 1)
    axes = (space, times) if variables > 1 else (times, space)
    product = TensorSpace(axes, unknowns)
    return product, product.pattern([axis.gauss for axis in axes])


class SlabProblem(TensorProblem):
    """Equations on one slab of time as a least squares problem.

    The initial guess continues the state at the start by its Taylor polynomial.

    Args:
        system: The system.
        state: Solution at the start of the slab; if there is a `base`, the error of the solution
            there.
        span: Start and end of the slab.
        sizes: Magnitudes of the unknown functions, shape (unknowns,).
        base: Solved slab whose correction is to be found: the problem is then solved for the
            correction. None to solve for the solution itself.
    """

    def __init__(
        self,
        system: EvolutionSystem,
        state: EvolvingState,
        span: tuple[float, float],
        sizes: Array,
        base: Slab | None = None,
    ) -> None:
        # Number of additional Radau points when errors are estimated. With more points, errors in
        # time are estimated more accurately; each point costs a quarter of the CPU time of a slab.
        richer_stages = 2
        self.system = system
        self.state = state
        self.span = span
        self.sizes = sizes
        self.half = (span[1] - span[0]) / 2
        self.base = base
        self.stages = DEGREE if base is None else DEGREE + richer_stages
        self.gauss = state.space.gauss if base is None else state.space.fewer_gauss
        count = len(system.orders)
        self._fixed = [self._given(unknown) for unknown in range(count)]
        self._walls = [self._wall_splines(unknown) for unknown in range(count)]
        space, pattern = _layout(state.space, count, system.variables, self.stages)
        super().__init__(space, self._unit_patches(pattern))
        zeros = self.unknowns.numpy()
        self.patches = [replace(e, scale=e.scale / self._unit(e, zeros)) for e in self.patches]
        start = np.stack([self._continued(unknown) for unknown in range(count)])
        start = start if system.variables > 1 else start.swapaxes(1, 2)
        self.unknowns[torch.as_tensor(space.index)] = torch.as_tensor(start)

    def _given(self, unknown: int) -> list[Part]:
        """Return the terms of an unknown that follow from the state at the start of the slab."""
        state = self.state
        order = self.system.orders[unknown]
        values = state.values[unknown][:, :order]
        held = values @ held_polynomials(order, self.half, self.stages)
        if (old := state.exact) is None:
            return [Part(state.space, held)]
        fading = held_polynomials(order, self.half, self.stages, (-1.0, 1.0))
        held = held - values @ fading
        return [Part(old.space, old.values[unknown][:, :order] @ fading), Part(state.space, held)]

    def _wall_splines(self, unknown: int) -> Array:
        """Return splines with which an unknown follows the values that conditions prescribe.

        They multiply the free polynomials, shape (functions, polynomials). Their highest time
        derivatives at the walls are the prescribed ones at the Radau points.
        """
        space = self.state.space
        order = self.system.orders[unknown]
        s, _ = radau_points(self.stages)
        wanted = self.system.wall_values(unknown, order, self.span[0] + self.half * (s + 1))
        for part in self.base.parts[unknown] if self.base else ():
            times = legendre_values(s, self.half, [order], part.coefficients.shape[1])[0]
            wanted = wanted - part.space.wall_values(part.coefficients, unknown) @ times
        highest = self._polynomials(order, unknown)
        zeros = np.zeros((space.functions, self.stages))
        return space.complete(zeros, unknown, wanted @ np.linalg.inv(highest))

    def _polynomials(self, order: int, unknown: int) -> Array:
        """Return time derivatives of the free polynomials of an unknown at the Radau points.

        The result has the shape (polynomials, points).
        """
        s, _ = radau_points(self.stages)
        free = free_polynomials(self.system.orders[unknown], self.stages)[order] / self.half**order
        found: Array = free @ legvander(s, self.stages).T
        return found

    def _continued(self, unknown: int) -> Array:
        """Return the initial guess for an unknown: its Taylor polynomial at the start.

        It is given by spline coefficients for the free polynomials, shape (functions,
        polynomials).
        """
        values = self.state.values[unknown]
        order = self.system.orders[unknown]
        width = self.stages + 1
        powers = [
            legint(np.ones(1), each, lbnd=-1) * self.half**each
            for each in range(order, values.shape[1])
        ]
        terms = np.array([np.pad(each, (0, width - len(each))) for each in powers])
        free = free_polynomials(order, self.stages)[0]
        found: Array = values[:, order:] @ terms.reshape(-1, width) @ np.linalg.pinv(free)
        return found

    def _unit_patches(self, pattern: Pattern) -> list[Patch]:
        """Return the unscaled equations at the Gauss points in space and Radau points in time."""
        system = self.system
        stages = self.stages
        s, weights = radau_points(stages)
        at = self.span[0] + self.half * (s[None] + 1)
        numbers = np.arange(stages)[None]

        @cache
        def polynomials(order: int, unknown: int) -> Array:
            return self._polynomials(order, unknown).T[None]

        time = Places(at, numbers, weights[None] / 2, polynomials)
        places = (self.gauss, time) if system.variables > 1 else (time, self.gauss)
        blocks = [block_at("equation", each, places) for each in system.equations]
        offsets = self._offsets(self._fixed)
        if self.base is not None:
            base = self._offsets(self.base.parts)
            offsets = {name: values + base[name] for name, values in offsets.items()}
        x = self.gauss.at.ravel()
        for each in system.derivatives:
            order, time_order = system.split(each)
            splines = self.state.space.evaluate(self._walls[each.unknown], x, order)
            times = self._polynomials(time_order, each.unknown)
            offsets[each.name] += (splines @ times).ravel()
        return [patch_at(block, places, pattern, offsets) for block in blocks]

    def _offsets(self, parts: Sequence[Sequence[Part]]) -> dict[str, Array]:
        """Evaluate all derivatives in the equations for known terms (`parts`) of the unknowns.

        Return a dictionary from the names of the derivatives, such as u_xx, to their values at the
        collocation points, shape (points,).
        """
        s, _ = radau_points(self.stages)
        orders = range(max(self.system.orders) + 1)
        times = legendre_values(s, self.half, orders, self.stages + 1)
        x = self.gauss.at.ravel()
        found = dict[str, Array]()
        for each in self.system.derivatives:
            order, time_order = self.system.split(each)
            found[each.name] = total(parts[each.unknown], x, times[time_order], order).ravel()
        return found

    def starting(self, state: EvolvingState) -> SlabProblem:
        """Return the same problem with another state at the start.

        This problem must have a state of zeros at its start.
        """
        found = copy(self)
        found.state = state
        found._fixed = [found._given(unknown) for unknown in range(len(self.sizes))]
        more = found._offsets(found._fixed)
        found.patches = [
            replace(each, offsets={name: v + more[name] for name, v in each.offsets.items()})
            for each in self.patches
        ]
        return found

    def _unit(self, patch: Patch, zeros: Array) -> float:
        """Return the number by which an equation's residual is divided.

        It is the largest coefficient of a time derivative, times the size of its unknown.
        Coefficients are evaluated for the vector of unknowns `zeros`. Return 1 if the number is
        zero or not finite.
        """
        with np.errstate(all="ignore"):
            slopes = patch.relation.slopes(patch.arguments(zeros))
        terms = [
            np.abs(slopes[:, i]).max() * self.sizes[each.unknown]
            for i, each in enumerate(patch.relation.derivatives)
            if each.index[-1] > 0
        ]
        largest = float(max(terms, default=1.0))
        return largest if np.isfinite(largest) and largest > 0 else 1.0

    def residual(self, unknowns: Tensor) -> Float[Tensor, " rows"]:
        """Return the residuals of all equations, ordered by the intervals of space."""
        vector = unknowns.numpy()
        cells = self.state.space.intervals
        found = [each.residual(vector).reshape(cells, -1) for each in self.patches]
        return torch.as_tensor(np.concatenate(found, axis=1).ravel())

    def rows(self, unknowns: Tensor) -> ElementRows:
        """Return the Jacobian of the residuals, one dense block per interval of space."""
        blocks = [each.rows(unknowns.numpy()) for each in self.patches]
        return ElementRows(blocks[0].pattern, torch.cat([each.values for each in blocks], dim=1))

    def solved(self, tolerance: float) -> tuple[Tensor | None, int]:
        """Solve by Gauss-Newton steps, until a step changes little relative to `tolerance`.

        Args:
            tolerance: Local tolerance, relative to the sizes of the unknown functions.

        Returns:
            The vector of unknowns (None if the steps do not converge), and the number of steps.
        """
        # Steps have also converged if the last change is below this fraction of the local
        # tolerance, and changes no longer halve from step to step.
        nearly_converged = 1e-2
        # Steps have converged if the last change is below this fraction of the local tolerance.
        converged = 1e-3
        # A step reuses the previous Jacobian if the last step was at most this fraction of the step
        # before it. (The first step is compared with the size of the unknowns.)
        same_jacobian = 0.1
        # A step that changes an unknown by more than this multiple of its size counts as
        # divergence.
        diverged = 1e6
        # Largest number of Gauss-Newton steps of a slab.
        max_steps = 12
        unknowns = self.unknowns
        newton = None
        before = inf
        ratio = inf
        for taken in range(max_steps):
            residual = self.residual(unknowns)
            if not bool(torch.isfinite(residual).all()):
                return None, taken + 1
            if newton is None or ratio > same_jacobian:
                newton = gauss_newton(self.rows(unknowns))
            move = newton(residual)
            change = self.largest_change(move)
            if not isfinite(change) or change > diverged:
                return None, taken + 1
            unknowns = unknowns + move
            small = change < converged * tolerance
            if small or (change < nearly_converged * tolerance and change > before / 2):
                return unknowns, taken + 1
            ratio = change / (before if taken else 1.0)
            before = change
        return None, max_steps

    def splines(self, unknowns: Tensor) -> list[Array]:
        """Return spline coefficients, shape (functions, polynomials), for each unknown function."""
        found = self.coefficients(unknowns).reshape(len(self.sizes), -1, self.stages)
        return [self.state.space.complete(each, number) for number, each in enumerate(found)]

    def slab(self, unknowns: Tensor) -> Slab:
        """Convert a vector of unknowns to a slab: the solution, or the correction of `base`."""
        free = (free_polynomials(order, self.stages)[0] for order in self.system.orders)
        splines = (a + b for a, b in zip(self.splines(unknowns), self._walls, strict=True))
        triples = zip(self._fixed, splines, free, strict=True)
        parts = (
            (*fading, replace(held, coefficients=held.coefficients + found @ polynomials))
            for (*fading, held), found, polynomials in triples
        )
        return Slab(*self.span, tuple(parts))

    def last_coefficient(self, unknowns: Tensor) -> float:
        """Return the size of the term of the highest degree in time.

        The size is the root mean square over space, relative to the size of the unknown. If there
        are several unknowns, return the largest size.
        """
        gauss = self.state.space.gauss
        norms = []
        for unknown, found in enumerate(self.splines(unknowns)):
            values = gauss.values(0, unknown) @ found[:, -1][gauss.functions][..., None]
            norms.append(np.sqrt((np.square(values[..., 0]) * gauss.shares).sum()))
        return float((norms / self.sizes).max())

    def largest_change(self, move: Tensor) -> float:
        """Return the largest change of a spline coefficient in the step `move`.

        Changes are divided by the size of the unknown function.
        """
        return float((np.abs(self.splines(move)).max(axis=(1, 2)) / self.sizes).max())


#: Gauss rule in each interval with which the error of the splines is measured.
ERROR_RULE = np.polynomial.legendre.leggauss(20)
#: An interval is halved if its squared error is above this fraction of the largest one.
HALVED = 0.02


def jump_margin(system: EvolutionSystem) -> float:
    """Return the time between a jump and the end of the slab before it, see `roundings`."""
    # Time between a jump in time and the end of the slab before it, and between the jump and the
    # start of the slab after it, in units in the last place of the largest time.
    roundings = 8
    return roundings * float(np.spacing(float(system.box[-1].abs().max())))


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
        # Number of points in space at which the sizes of the unknowns are measured.
        size_points = 201
        several = self.system.variables > 1
        x = np.linspace(self.low, self.high, size_points) if several else np.zeros(1)
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
        # Length below which intervals are not halved, as a fraction of the range, divided by the
        # local tolerance.
        shortest_interval = 0.01
        # Largest relative L2 error of the splines that approximate the initial values, as a
        # fraction of the local tolerance.
        initial_error = 0.01
        # Smallest relative error with which splines approximate initial values; smaller errors are
        # below rounding.
        rounding = 1e-13
        # Length of the shortest slab after a jump in time, as a multiple of `jump_margin`.
        resolved = 10
        system = self.system
        if system.variables == 1:
            values = [self.value(np.zeros(1), unknown) for unknown in self.unknowns]
            return EvolvingState(Space.constant(), values)
        breakpoints = np.linspace(self.low, self.high, intervals + 1)
        breakpoints = with_kinks(breakpoints, kinks_of(system, 0))
        scanned = np.zeros(0) if self.slab else narrow_ends(system.initial_scan.cells[0])
        breakpoints = with_breakpoints(breakpoints, np.union1d(kept, scanned))
        shortest = shortest_interval * tolerance
        # Layers thinner than this would spread by diffusion faster than slabs can resolve.
        if self.slab:
            shortest = max(shortest, np.sqrt(resolved * jump_margin(system) / self.duration))
        shortest *= self.high - self.low
        bound = max(initial_error * tolerance, rounding)
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
