"""Audits of solutions at places that no fit has used, close together where formulas may change.

Formulas may change fast in time, in space, and near certain values of every unknown. An audit puts
places there, and asks whether the residual at these places is predicted by interpolation
(`unseen.py`). Slabs and solutions on tensor products of splines differ in how their derivatives
are evaluated, and in the units of their residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.scan import (
    PLACES,
    PLACES_OF_TWO,
    Scan,
    interpolation_rows,
    strata,
)
from kanrun.engine.equations.slab import Slab, total
from kanrun.engine.equations.space import Space
from kanrun.engine.equations.system import Array, EvolutionSystem, System
from kanrun.engine.equations.time_polynomials import legendre_values
from kanrun.engine.equations.unseen import Axis, Unseen, unseen
from kanrun.formulas.equations import Derivative, Relation

#: Least number of jittered places in one of many cells.
PLACES_OF_CELL = 3
#: The same in a slab, which is one cell of time.
PLACES_OF_SLAB = 12
#: Places near each end of a slab, as fractions of its length. A slab that is shortened towards a
#: jump ends just beyond it, where evenly spaced places do not look.
PLACES_OF_ENDS = 10.0 ** np.array([-8, -6, -4, -2])
#: Gauss points of a slab in time, at which the residual is interpolated.
NODES_OF_SLAB = 16
#: Times of a slab at which unknowns are traced.
TRACED = 65
#: Points of space at which unknowns are traced.
TRACED_IN_SPACE = 201
#: Counted work of an audit, in approximate CPU seconds.
SECONDS_OF_AUDIT = 1.5e-3
#: Counted work of a point in an audit, in approximate CPU seconds.
SECONDS_OF_POINT = 1.4e-7
#: Unknowns count as at least this fraction of their estimated sizes.
QUIET = 1e-6
#: Length of the range in which values of an unknown are examined, in ranges that it has had: as
#: much room on either side means that the next slabs rarely need another scan.
ROOM_AND_VALUES = 3
#: Ends of cells that differ by less than this fraction of the range are one.
SAME = 1e-13


class ValueScan:
    """Values of the unknowns near which terms of them change fast, scanned as far as they went."""

    def __init__(self, system: System) -> None:
        self.scan = system.scan
        names = system.vocabulary.unknowns
        terms = self.scan.terms
        #: Whether each unknown is in a term with other names.
        self._crossed = [any(len(term) > 1 and name in term for term in terms) for name in names]
        #: Whether each unknown is in a term alone.
        self._alone = [(name,) in terms for name in names]
        #: Whether there may be such values at all.
        self.is_needed = any(self._crossed + self._alone)
        self._known: dict[int, tuple[float, float, Array]] = {}

    def __call__(self, unknown: int, values: Array) -> Array:
        """Return such values (sorted) in the range of the `values` of an unknown."""
        crossed = self._crossed[unknown]
        if not (crossed or self._alone[unknown]):
            return np.zeros(0)
        low = float(values.min())
        high = float(values.max())
        before, after, found = self._known.get(unknown, (low, low, np.zeros(0)))
        if unknown not in self._known or low < before or high > after:
            low = min(low, before)
            high = max(high, after)
            room = (high - low) or abs(high) or 1.0
            low -= room
            high += room
            # The places of a variable are as many over the values alone, without the room.
            places = PLACES * ROOM_AND_VALUES
            found = np.sort(self.scan.narrow_values(unknown, low, high, places))
            found = strata(low, high, places) if crossed else found
            self._known[unknown] = low, high, found
        return found


def crossings(at: Array, values: Array, targets: Array) -> Array:
    """Return where a function with `values` at the points `at` has one of the sorted `targets`."""
    first = np.searchsorted(targets, np.minimum(values[1:], values[:-1]))
    last = np.searchsorted(targets, np.maximum(values[1:], values[:-1]))
    counts = last - first
    part = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(part)) + np.repeat(last - np.cumsum(counts), counts)
    share = (targets[number] - values[part]) / (values[part + 1] - values[part])
    found: Array = at[part] + share * (at[part + 1] - at[part])
    return found


def places_in(scan: Scan, number: int, span: Array, passed: Sequence[Array]) -> list[Array]:
    """Return the places of a variable between the ends of `span` where formulas may change fast.

    Args:
        scan: Scan of the formulas.
        number: Number of the variable.
        span: Ends of the part of its range.
        passed: Places at which each unknown has narrow values; if there are several variables, the
            narrow values.
    """
    low, high = span[[0, -1]]
    found = [scan.narrow(number)]
    several = len(scan.box) > 1
    if scan.is_crossed or (several and any(map(len, passed))):
        share = (high - low) / float(np.diff(scan.box[number])[0])
        count = PLACES_OF_TWO if several else PLACES
        found.append(strata(low, high, int(np.ceil(count * share))))
    return found if several else [*found, *passed]


class SlabAudit:
    """Audit of the slabs of one system."""

    def __init__(self, system: EvolutionSystem) -> None:
        self.system = system
        self.values = ValueScan(system)
        self.length = float(system.box[-1].diff())
        #: Counted work of the last audit, in approximate CPU seconds.
        self.counted = 0.0

    def __call__(self, slab: Slab, sizes: Array) -> Unseen | None:
        """Return what a slab has not seen; None if the formulas are polynomials.

        `sizes` are those of the unknowns, (unknowns,).
        """
        system = self.system
        half = (slab.end - slab.start) / 2
        if not system.scan.terms:
            return None

        def unit(relation: Relation, slopes: Array) -> float:
            """Return the size of the time derivatives, integrated over the slab."""
            terms = [
                np.abs(slopes[:, i]).max() * sizes[e.unknown] / self.length ** (e.index[-1] - 1)
                for i, e in enumerate(relation.derivatives)
                if e.index[-1]
            ]
            return float(max(terms, default=0.0) or 1.0) / (2 * half)

        axes = self._axes(slab)
        points = np.prod([len(each.nodes) + len(each.places) for each in axes])
        self.counted = SECONDS_OF_AUDIT + SECONDS_OF_POINT * float(points)
        return unseen(system.equations, partial(self._values, slab), axes, unit, sizes)

    def _axes(self, slab: Slab) -> tuple[Axis, Axis]:
        """Return the cells and places of space and of time."""
        system = self.system
        span = np.array([slab.start, slab.end])
        low, high = system.box[0].tolist()
        several = system.variables > 1
        passed = self._passed(slab)
        more = places_in(system.scan, system.variables - 1, span, passed)
        inwards = np.multiply.outer([1, -1], PLACES_OF_ENDS * (slab.end - slab.start))
        more.append((span[:, None] + inwards).ravel())
        y = Axis.of(span, PLACES_OF_SLAB, more, NODES_OF_SLAB)
        if not several:
            return Axis.point(), y
        ends = np.unique(np.concatenate([each.space.breakpoints for each in slab.parts[0]]))
        ends = ends[np.diff(ends, prepend=-np.inf) > SAME * (high - low)]
        return Axis.of(ends, PLACES_OF_CELL, places_in(system.scan, 0, ends, passed)), y

    def _passed(self, slab: Slab) -> list[Array]:
        """Return what `places_in` needs of each unknown, from its values in the slab."""
        system = self.system
        if not self.values.is_needed:  # A trace takes longer than the rest of the audit.
            return [np.zeros(0)] * len(system.orders)
        low, high = system.box[0].tolist()
        several = system.variables > 1
        times = np.linspace(slab.start, slab.end, TRACED)
        x = np.linspace(low, high, TRACED_IN_SPACE) if several else np.zeros(1)
        points = np.stack([each.ravel() for each in np.meshgrid(x, times)], axis=1)
        traced = slab.solution(system, points[:, -system.variables :]).T
        passed = [self.values(unknown, each) for unknown, each in enumerate(traced)]
        if not several:
            passed = [crossings(times, *pair) for pair in zip(traced, passed, strict=True)]
        return passed

    def _values(self, slab: Slab, each: Derivative, x: Array, y: Array) -> Array:
        """Return a derivative of the solution at x and times y, (points of x, times)."""
        order, time = self.system.split(each)
        half = (slab.end - slab.start) / 2
        s = np.clip((y - slab.start) / half - 1, -1, 1)
        times = legendre_values(s, half, [time])[0]
        found = total(slab.parts[each.unknown], x, times, order)
        if self.system.lifts[each.unknown] != 0:
            # A polynomial of space, whose values at Gauss points determine it.
            low, high = self.system.box[0].tolist()
            count = self.system.lift_degree(each.unknown) + 1
            nodes = low + (leggauss(count)[0] + 1) / 2 * (high - low)
            points = np.stack(np.meshgrid(nodes, y, indexing="ij"), axis=-1).reshape(-1, 2)
            at_nodes = self.system.lift(each.unknown, each.index, points).reshape(count, -1)
            found += interpolation_rows(2 * (x - low) / (high - low) - 1, count) @ at_nodes
        return found


def tensor_unseen(
    rows: Collocation, axes: Sequence[Space], coefficients: Array, field: Field
) -> Unseen | None:
    """Return what a solution on tensor products of splines has not seen; None for polynomials.

    Args:
        rows: Units of the equations.
        axes: Splines of each variable.
        coefficients: Coefficients of the unknowns, (unknowns, functions, functions).
        field: The same solution.
    """
    system = rows.system
    if not (scan := system.scan).terms:
        return None
    points = rows.points(rows.unseen)
    blocks = rows.equations(points, field)
    units = {id(block.relation): block.unit for block in blocks}
    ends = [np.unique(axis.breakpoints) for axis in axes]
    passed, sizes = _traced(rows, field, points, ends)
    cells = [
        Axis.of(each, PLACES_OF_CELL, places_in(scan, number, each, passed))
        for number, each in enumerate(ends)
    ]
    x, y = cells if len(cells) > 1 else (*cells, Axis.point())

    def derivative(each: Derivative, x_at: Array, y_at: Array) -> Array:
        first, *others = each.index
        along = axes[0].evaluate(coefficients[each.unknown], x_at, first)
        if len(ends) == 1:
            return np.repeat(along[:, None], len(y_at), axis=1)
        return axes[1].evaluate(along.T, y_at, sum(others)).T

    def unit(relation: Relation, _: Array) -> float:
        return units[id(relation)]

    return unseen(system.equations, derivative, (x, y), unit, sizes)


def _traced(
    rows: Collocation, field: Field, points: Tensor, ends: Sequence[Array]
) -> tuple[list[Array], Array]:
    """Trace a solution at points (points, variables) and, of one variable, at the ends of cells.

    Return what `places_in` needs of each unknown, and the sizes of the unknowns, (unknowns,).
    """
    single = len(ends) == 1
    traced = torch.cat([points, torch.as_tensor(ends[0])[:, None]]) if single else points
    traced = traced[traced[:, 0].argsort()]
    with torch.no_grad():
        found = field(traced).numpy()
    sizes = np.sqrt(np.square(found).mean(axis=0)).clip(min=QUIET * rows.sizes.numpy())
    values = ValueScan(rows.system)
    passed = [values(unknown, each) for unknown, each in enumerate(found.T)]
    if single:
        at = traced[:, 0].numpy()
        passed = [crossings(at, *pair) for pair in zip(found.T, passed, strict=True)]
    return passed, sizes


def not_seen(system: System, place: Sequence[float]) -> str:
    """Return the doubt about a solution that does not represent its residual at a place."""
    pairs = zip(system.vocabulary.variables, place, strict=True)
    where = ", ".join(f"{name}={value:.6g}" for name, value in pairs)
    return f"the formulas change within a width that no grid here resolves, as at {where}"
