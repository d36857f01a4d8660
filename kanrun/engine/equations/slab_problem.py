"""The equations on one slab of time as a least squares problem.

The unknowns are the splines that multiply the free polynomials of time (`time_polynomials.py`).
Residuals are evaluated at Gauss points in space and at Radau points in time. The same class, in a
richer space, estimates the error of a solved slab: one Newton step gives a correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cache, lru_cache
from math import inf, isfinite

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.legendre import legint, legvander
from torch import Tensor

from kanrun.engine.equations.evolution import EvolutionSystem
from kanrun.engine.equations.slab import EvolvingState, Part, Slab, total
from kanrun.engine.equations.space import DEGREE, Places, Space
from kanrun.engine.equations.system import Array
from kanrun.engine.equations.tensor_splines import (
    Patch,
    TensorProblem,
    TensorSpace,
    block_at,
    patch_at,
)
from kanrun.engine.equations.time_polynomials import (
    free_polynomials,
    held_polynomials,
    legendre_values,
    radau_points,
)
from kanrun.engine.least_squares import ElementRows, Pattern, gauss_newton

#: Number of additional Radau points when errors are estimated. With more points, errors in time are
#: estimated more accurately; each point costs a quarter of the CPU time of a slab.
RICHER_STAGES = 2
#: Largest number of Gauss-Newton steps of a slab.
MAX_STEPS = 12
#: A step that changes an unknown by more than this multiple of its size counts as divergence.
DIVERGED = 1e6
#: A step reuses the previous Jacobian if the last step was at most this fraction of the step before
#: it. (The first step is compared with the size of the unknowns.)
SAME_JACOBIAN = 0.1
#: Steps have converged if the last change is below this fraction of the local tolerance.
CONVERGED = 1e-3
#: Steps have also converged if the last change is below this fraction of the local tolerance, and
#: changes no longer halve from step to step.
NEARLY_CONVERGED = 1e-2


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
        self.system = system
        self.state = state
        self.span = span
        self.sizes = sizes
        self.half = (span[1] - span[0]) / 2
        self.base = base
        self.stages = DEGREE if base is None else DEGREE + RICHER_STAGES
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
        unknowns = self.unknowns
        newton = None
        before = inf
        ratio = inf
        for taken in range(MAX_STEPS):
            residual = self.residual(unknowns)
            if not bool(torch.isfinite(residual).all()):
                return None, taken + 1
            if newton is None or ratio > SAME_JACOBIAN:
                newton = gauss_newton(self.rows(unknowns))
            move = newton(residual)
            change = self.largest_change(move)
            if not isfinite(change) or change > DIVERGED:
                return None, taken + 1
            unknowns = unknowns + move
            small = change < CONVERGED * tolerance
            if small or (change < NEARLY_CONVERGED * tolerance and change > before / 2):
                return unknowns, taken + 1
            ratio = change / (before if taken else 1.0)
            before = change
        return None, MAX_STEPS

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
