"""The residual of a solution at places that its fit has not used.

A grid has seen the formulas if the residual on each of its cells is a polynomial: the interpolant
of the residual at Gauss points predicts it at jittered places. What it does not predict is narrower
than the grid. The raw residual is no measure, because in equations of order 3 and 4 it is large
where errors are small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.scan import (
    PLACES,
    PLACES_OF_TWO,
    Scan,
    interpolation_rows,
    strata,
)
from kanrun.engine.equations.slab import Slab, legendre_values, total
from kanrun.engine.equations.space import Index, Space
from kanrun.engine.equations.system import Array, EvolutionSystem, System
from kanrun.formulas.equations import Derivative, Relation

#: Jittered places of a cell at least, of one among many and of a slab.
PLACES_OF_CELL = 3
PLACES_OF_WINDOW = 12
#: Places near each end of a slab, as fractions of its length. A slab that is shortened towards a
#: jump ends just beyond it, where evenly spaced places do not look.
PLACES_OF_ENDS = 10.0 ** np.array([-8, -6, -4, -2])
#: Gauss points of a cell of space, and of a slab.
NODES_OF_CELL = 8
NODES_OF_WINDOW = 16
#: Largest part of the residual that its interpolant may leave, in a norm.
UNPREDICTED = 0.3
#: Growth of rounding by one differentiation of polynomials of degree 7, on a cell of width 1
#: (Markov's inequality).
MARKOV = 49.0
#: Times of a window and points of space at which unknowns are traced.
TRACED = 65
TRACED_IN_SPACE = 201
#: Counted work in approximate CPU seconds: of an audit, and of a point in it.
SECONDS_OF_AUDIT = 1.5e-3
SECONDS_OF_POINT = 1.4e-7
#: Unknowns count as at least this fraction of their estimated sizes.
QUIET = 1e-6
#: Ends of cells that differ by less than this fraction of the range are one.
SAME = 1e-13


@dataclass(frozen=True)
class Axis:
    """Cells of one variable between `ends`, and jittered places (places,) that test them.

    A variable that does not exist has one cell of one place.
    """

    ends: Array
    places: Array
    nodes_of_cell: int = NODES_OF_CELL

    @classmethod
    def of(
        cls, ends: Array, count: int, more: Sequence[Array] = (), nodes: int = NODES_OF_CELL
    ) -> Axis:
        """Return an axis with `count` places in each cell, and `more` places inside the range."""
        drawn, width = np.random.default_rng(len(ends)), np.diff(ends)
        shares = (np.arange(count) + drawn.random((len(width), count))) / count
        every = np.concatenate([(ends[:-1, None] + width[:, None] * shares).ravel(), *more])
        return cls(ends, np.unique(every[(every > ends[0]) & (every < ends[-1])]), nodes)

    @classmethod
    def point(cls) -> Axis:
        """Return the axis of a variable that does not exist."""
        return cls(np.array([0.0, 1.0]), np.zeros(1), 1)

    @cached_property
    def nodes(self) -> Array:
        """Gauss points of all cells."""
        shares = (leggauss(self.nodes_of_cell)[0] + 1) / 2
        found: Array = (self.ends[:-1, None] + np.diff(self.ends)[:, None] * shares).ravel()
        return found

    @cached_property
    def cell(self) -> Index:
        """Number of the cell of each place."""
        return (np.searchsorted(self.ends, self.places, "right") - 1).clip(0, len(self.ends) - 2)

    @cached_property
    def weights(self) -> Array:
        """Shares of the range that belong to the places; their sum is 1."""
        middle = (self.places[1:] + self.places[:-1]) / 2
        edges = np.concatenate([self.ends[:1], middle, self.ends[-1:]])
        found: Array = np.diff(edges) / (edges[-1] - edges[0])
        return found

    def predicted(self, values: Array) -> Array:
        """Return the interpolant of values (nodes, ...) at the places."""
        width, left = np.diff(self.ends)[self.cell], self.ends[self.cell]
        rows = interpolation_rows(2 * (self.places - left) / width - 1, self.nodes_of_cell)
        of_cells = values.reshape(len(self.ends) - 1, self.nodes_of_cell, -1)
        found: Array = np.empty((len(rows), of_cells.shape[2]))
        for number in np.unique(self.cell):
            at = self.cell == number
            found[at] = rows[at] @ of_cells[number]
        return found


#: Returns a derivative at all products of points of x and of y.
Values = Callable[[Derivative, Array, Array], Array]


@dataclass(frozen=True)
class Unseen:
    """Residual that interpolants leave at the places of two axes, relative to the sizes.

    Attributes:
        left: Root of the summed squares over equations, (places of x, places of y).
        left_by_y: The same of the interpolant in y alone, (nodes of x, places of y).
        allowed: Norm that the predicted residual and rounding allow.
    """

    axes: tuple[Axis, Axis]
    left: Array
    left_by_y: Array
    allowed: float

    @cached_property
    def by_y(self) -> Array:
        """Norm over x at each place of y."""
        found: Array = np.sqrt(self.axes[0].weights @ np.square(self.left))
        return found

    @property
    def size(self) -> float:
        """Norm: the mean over y of the root mean square over x."""
        return float(self.by_y @ self.axes[1].weights)

    @property
    def place(self) -> list[float]:
        """The place where most is left."""
        numbers = np.unravel_index(self.left.argmax(), self.left.shape)
        pairs = zip(self.axes, numbers, strict=True)
        return [float(axis.places[number]) for axis, number in pairs if axis.nodes_of_cell > 1]

    @property
    def weighted(self) -> tuple[Array, Array]:
        """The places (points, variables) and the weighted squares there."""
        exist = [axis.nodes_of_cell > 1 for axis in self.axes]
        grid = np.meshgrid(*(axis.places for axis in self.axes), indexing="ij")
        points = np.stack([each.ravel() for each in grid], axis=1)[:, exist]
        weights = np.outer(*(axis.weights for axis in self.axes))
        return points, (np.square(self.left) * weights).ravel()

    @property
    def squares(self) -> Array:
        """Squares by the cells of x."""
        x, y = self.axes
        found = np.zeros(len(x.ends) - 1)
        np.add.at(found, x.cell, np.square(self.left) @ y.weights * x.weights)
        return found


def unseen(
    relations: Sequence[Relation],
    values: Values,
    axes: tuple[Axis, Axis],
    unit: Callable[[Relation, Array], float],
    sizes: Array,
) -> Unseen:
    """Compare the residuals at the places with their interpolants.

    Args:
        relations: Equations.
        values: Derivatives of the solution.
        axes: Cells of x and y.
        unit: Returns the unit of an equation's residual, from its slopes (points, derivatives).
        sizes: Sizes of the unknowns.
    """
    (x, y), count = axes, [len(each.nodes) for each in axes]
    at = [np.concatenate([each.nodes, each.places]) for each in axes]
    columns = np.stack(np.meshgrid(*at, indexing="ij"), axis=-1).reshape(-1, 2)
    columns = columns[:, [each.nodes_of_cell > 1 for each in axes]]
    squares = np.zeros((3, len(x.places), len(y.places)))
    by_y = np.zeros((count[0], len(y.places)))
    for relation in relations:
        found = [values(each, *at).reshape(-1, 1) for each in relation.derivatives]
        arguments = np.concatenate([columns, *found], axis=1)
        with np.errstate(all="ignore"):
            residual = np.nan_to_num(relation.residual(arguments), nan=np.inf)
            slopes = np.nan_to_num(relation.slopes(arguments))
        scale = unit(relation, slopes)
        at_nodes, at_places = np.split(residual.reshape(len(at[0]), -1) / scale, count[:1])
        along = y.predicted(at_nodes[:, : count[1]].T).T
        predicted = x.predicted(along)
        by_y += np.square(at_nodes[:, count[1] :] - along)
        noise = _rounding(relation, slopes, axes, sizes) / scale
        squares += np.square([at_places[:, count[1] :] - predicted, predicted, noise])
    norms = [float(np.sqrt(x.weights @ each) @ y.weights) for each in squares]
    allowed = UNPREDICTED * norms[1] + norms[2]
    return Unseen(axes, np.sqrt(squares[0]), np.sqrt(by_y), allowed)


def _rounding(relation: Relation, slopes: Array, axes: tuple[Axis, Axis], sizes: Array) -> Array:
    """Return what rounding leaves of a residual at the places, (places of x, places of y)."""
    (x, y), found = axes, np.zeros((len(axes[0].places), len(axes[1].places)))
    shape = len(x.nodes) + len(x.places), len(y.nodes) + len(y.places)
    for number, each in enumerate(relation.derivatives):
        slope = slopes[:, number].reshape(shape)[len(x.nodes) :, len(y.nodes) :]
        exist = [axis.nodes_of_cell > 1 for axis in axes]
        orders = iter(each.index)
        growth = [
            (MARKOV / np.diff(axis.ends)[axis.cell]) ** (next(orders) if is_there else 0)
            for axis, is_there in zip(axes, exist, strict=True)
        ]
        found += np.abs(slope) * sizes[each.unknown] * np.outer(*growth)
    return np.finfo(float).eps * found


class ValueScan:
    """Values of the unknowns near which terms of them change fast, scanned as far as they went."""

    def __init__(self, system: System) -> None:
        self.scan, self.names = system.scan, system.vocabulary.unknowns
        self._known: dict[int, tuple[float, float, Array]] = {}

    def __call__(self, unknown: int, values: Array) -> Array:
        """Return such values (sorted) in the range of the `values` of an unknown."""
        crossed = any(len(n) > 1 and self.names[unknown] in n for n in self.scan.terms)
        if not crossed and (self.names[unknown],) not in self.scan.terms:
            return np.zeros(0)
        low, high = float(values.min()), float(values.max())
        before, after, found = self._known.get(unknown, (low, low, np.zeros(0)))
        if unknown not in self._known or low < before or high > after:
            low, high = min(low, before), max(high, after)
            room = (high - low) or abs(high) or 1.0
            low, high = low - room, high + room
            found = np.sort(self.scan.narrow_values(unknown, low, high))
            found = strata(low, high, PLACES) if crossed else found
            self._known[unknown] = low, high, found
        return found


def crossings(at: Array, values: Array, targets: Array) -> Array:
    """Return where a function with `values` at the points `at` has one of the sorted `targets`."""
    low, high = np.minimum(values[1:], values[:-1]), np.maximum(values[1:], values[:-1])
    first, last = np.searchsorted(targets, low), np.searchsorted(targets, high)
    part = np.repeat(np.arange(len(low)), last - first)
    number = np.arange(len(part)) + np.repeat(last - np.cumsum(last - first), last - first)
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
    found, several = [scan.narrow(number)], len(scan.box) > 1
    if scan.is_crossed or (several and any(map(len, passed))):
        share = (high - low) / float(np.diff(scan.box[number])[0])
        count = PLACES_OF_TWO if several else PLACES
        found.append(strata(low, high, int(np.ceil(count * share))))
    return found if several else [*found, *passed]


class SlabAudit:
    """Audit of the windows of one system."""

    def __init__(self, system: EvolutionSystem) -> None:
        self.system, self.values = system, ValueScan(system)
        self.length = float(system.box[-1].diff())
        #: Counted work of the last audit, in approximate CPU seconds.
        self.counted = 0.0

    def __call__(self, slab: Slab, sizes: Array) -> Unseen | None:
        """Return what a window has not seen; None if the formulas are polynomials."""
        system, half = self.system, (slab.end - slab.start) / 2
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
        system, span = self.system, np.array([slab.start, slab.end])
        low, high = system.box[0].tolist()
        several = system.variables > 1
        times = np.linspace(slab.start, slab.end, TRACED)
        x = np.linspace(low, high, TRACED_IN_SPACE) if several else np.zeros(1)
        points = np.stack([each.ravel() for each in np.meshgrid(x, times)], axis=1)
        traced = slab.solution(system, points[:, -system.variables :]).T
        passed = [self.values(unknown, each) for unknown, each in enumerate(traced)]
        if not several:
            passed = [crossings(times, *pair) for pair in zip(traced, passed, strict=True)]
        more = places_in(system.scan, system.variables - 1, span, passed)
        inwards = np.multiply.outer([1, -1], PLACES_OF_ENDS * (slab.end - slab.start))
        more.append((span[:, None] + inwards).ravel())
        y = Axis.of(span, PLACES_OF_WINDOW, more, NODES_OF_WINDOW)
        if not several:
            return Axis.point(), y
        ends = np.unique(np.concatenate([each.space.breakpoints for each in slab.parts[0]]))
        ends = ends[np.diff(ends, prepend=-np.inf) > SAME * (high - low)]
        return Axis.of(ends, PLACES_OF_CELL, places_in(system.scan, 0, ends, passed)), y

    def _values(self, slab: Slab, each: Derivative, x: Array, y: Array) -> Array:
        """Return a derivative of the solution at all products of x and times y."""
        (order, time), half = self.system.split(each), (slab.end - slab.start) / 2
        s = np.clip((y - slab.start) / half - 1, -1, 1)
        times = legendre_values(s, half, [time])[0]
        found = total(slab.parts[each.unknown], x, times, order)
        if self.system.lifts[each.unknown] != 0:
            # A polynomial of space, whose values at Gauss points determine it.
            low, high = self.system.box[0].tolist()
            count = 1 + sum(
                len(rows) for rows in self.system.walls[each.unknown] if rows is not None
            )
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
    traced = torch.cat([points, torch.as_tensor(ends[0])[:, None]]) if len(ends) == 1 else points
    traced = traced[traced[:, 0].argsort()]
    with torch.no_grad():
        found = field(traced).numpy()
    sizes = np.sqrt(np.square(found).mean(axis=0)).clip(min=QUIET * rows.sizes.numpy())
    values, at = ValueScan(system), traced[:, 0].numpy()
    passed = [values(unknown, each) for unknown, each in enumerate(found.T)]
    if len(ends) == 1:
        passed = [crossings(at, *pair) for pair in zip(found.T, passed, strict=True)]
    x, y = (
        *(
            Axis.of(each, PLACES_OF_CELL, places_in(scan, number, each, passed))
            for number, each in enumerate(ends)
        ),
        *([Axis.point()] if len(ends) == 1 else []),
    )

    def derivative(each: Derivative, x_at: Array, y_at: Array) -> Array:
        first, *others = each.index
        along = axes[0].evaluate(coefficients[each.unknown], x_at, first)
        if len(ends) == 1:
            return np.repeat(along[:, None], len(y_at), axis=1)
        return axes[1].evaluate(along.T, y_at, sum(others)).T

    def unit(relation: Relation, _: Array) -> float:
        return units[id(relation)]

    return unseen(system.equations, derivative, (x, y), unit, sizes)


def not_seen(system: System, place: Sequence[float]) -> str:
    """Return the doubt about a solution that does not represent its residual at a place."""
    pairs = zip(system.vocabulary.variables, place, strict=True)
    where = ", ".join(f"{name}={value:.6g}" for name, value in pairs)
    return f"the formulas change within a width that no grid here resolves, as at {where}"
