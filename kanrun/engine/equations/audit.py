"""The residual of a solution at places that its fit has not used.

A grid has seen the formula if the residual on each of its cells is a polynomial: the interpolant of
the residual at Gauss points predicts it at jittered places. What it does not predict is narrower
than the grid. The raw residual is no measure: in equations of order 3 and 4 it is large where errors
are small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial.legendre import leggauss

from kanrun.engine.equations.scan import (
    NODES,
    PLACES,
    PLACES_OF_TWO,
    Scan,
    interpolation_rows,
)
from kanrun.engine.equations.system import Array, EvolutionSystem
from kanrun.engine.equations.window import Window, legendre_values, total
from kanrun.formulas.equations import Derivative, Relation

#: Jittered places of a cell at least, of one among many and of a window.
PLACES_OF_CELL = 4
PLACES_OF_WINDOW = 24
#: Gauss points of a window.
NODES_OF_WINDOW = 16
#: Largest part of the residual that its interpolant may leave, in a norm.
UNPREDICTED = 0.3
#: Growth of rounding by one differentiation of polynomials of degree 7, on a cell of width 1
#: (Markov's inequality).
MARKOV = 49.0
#: Points of a window between which unknowns are traced.
TRACED = 65
#: Ends of cells that differ by less than this fraction of the range are one.
SAME = 1e-13


@dataclass(frozen=True)
class Axis:
    """Cells of one variable between `ends`, and the jittered places (places,) where they are tested.

    A variable that does not exist has one cell of one place.
    """

    ends: Array
    places: Array
    nodes_of_cell: int = NODES

    @classmethod
    def of(cls, ends: Array, count: int, more: Sequence[Array] = (), nodes: int = NODES) -> Axis:
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
    def cell(self) -> Array:
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
    """What the interpolants of residuals leave at the places of two axes, relative to the sizes.

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
    squares = [np.zeros((len(x.places), len(y.places))) for _ in range(3)]
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
        for square, each in zip(
            squares, (at_places[:, count[1] :] - predicted, predicted, noise), strict=True
        ):
            square += np.square(each)
    norms = [float(np.sqrt(x.weights @ each) @ y.weights) for each in squares]
    allowed = UNPREDICTED * norms[1] + norms[2]
    return Unseen(axes, np.sqrt(squares[0]), np.sqrt(by_y), allowed)


def _rounding(
    relation: Relation, slopes: Array, axes: tuple[Axis, Axis], sizes: Array
) -> Array:
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


class WindowAudit:
    """Audit of the windows of one system.

    It has seen nothing that is narrower than 1.6e-5 of the range in one variable, or 1e-3 in two.
    """

    def __init__(self, system: EvolutionSystem) -> None:
        self.system, self.scan = system, system.scan
        self.length = float(system.box[-1].diff())
        #: By unknown: the values between which its terms were scanned, and the narrow ones.
        self._values: dict[int, tuple[float, float, Array]] = {}

    def __call__(self, window: Window, sizes: Array) -> Unseen | None:
        """Return what a window has not seen; None if the formulas are polynomials."""
        if not self.scan.terms:
            return None
        system, half = self.system, (window.end - window.start) / 2
        targets = [self._narrow(window, unknown) for unknown in range(len(system.orders))]
        last = system.variables - 1
        more, share = [self.scan.narrow(last)], 2 * half / self.length
        crossed = self.scan.is_crossed or any(map(len, targets))
        strata = int(np.ceil((PLACES_OF_TWO if last else PLACES) * share))
        if last and crossed:
            more.append(_strata(window.start, window.end, strata))
        if not last:
            more += [self._crossings(window, u, e) for u, e in enumerate(targets) if len(e)]
            if self.scan.is_crossed:
                more.append(_strata(window.start, window.end, strata))
        ends = np.array([window.start, window.end])
        y = Axis.of(ends, PLACES_OF_WINDOW, more, NODES_OF_WINDOW)
        x = Axis.point()
        if last:
            low, high = system.box[0].tolist()
            edges = np.unique(np.concatenate([p.space.breakpoints for p in window.parts[0]]))
            edges = edges[np.diff(edges, prepend=-np.inf) > SAME * (high - low)]
            edges[-1] = high
            more = [self.scan.narrow(0)]
            more += [_strata(low, high, PLACES_OF_TWO)] if crossed else []
            x = Axis.of(edges, PLACES_OF_CELL, more)

        def values(each: Derivative, x_at: Array, y_at: Array) -> Array:
            order, time = system.split(each)
            s = np.clip((y_at - window.start) / half - 1, -1, 1)
            times = legendre_values(s, half, [time])[0]
            found = total(window.parts[each.unknown], x_at, times, order)
            if any(system.lifts):
                points = np.stack(np.meshgrid(x_at, y_at, indexing="ij"), axis=-1).reshape(-1, 2)
                found = found + system.lift(each.unknown, each.index, points).reshape(found.shape)
            return found

        def unit(relation: Relation, slopes: Array) -> float:
            """Return the size of the time derivatives, integrated over the window."""
            terms = [
                np.abs(slopes[:, i]).max() * sizes[e.unknown] / self.length ** (e.index[-1] - 1)
                for i, e in enumerate(relation.derivatives)
                if e.index[-1]
            ]
            return float(max(terms, default=0.0) or 1.0) / (2 * half)

        return unseen(system.equations, values, (x, y), unit, sizes)

    def _narrow(self, window: Window, unknown: int) -> Array:
        """Return the narrow values of an unknown that a window may pass."""
        alone = self.scan.terms.get((self.system.vocabulary.unknowns[unknown],), [])
        if not alone and not (self.scan.is_crossed and self.system.variables == 1):
            return np.zeros(0)
        values = self._traced(window)[..., unknown]
        low, high = float(values.min()), float(values.max())
        known = self._values.get(unknown)
        if known is None or low < known[0] or high > known[1]:
            low, high = (low, high) if known is None else (min(low, known[0]), max(high, known[1]))
            room = (high - low) or abs(high) or 1.0
            low, high = low - room, high + room
            narrow = self.scan.narrow_values(unknown, low, high)
            if self.scan.is_crossed:
                narrow = np.union1d(narrow, _strata(low, high, PLACES))
            known = self._values[unknown] = low, high, np.sort(narrow)
        return known[2]

    def _traced(self, window: Window) -> Array:
        """Return the unknowns at equal times, (times, points of space, unknowns)."""
        times = np.linspace(window.start, window.end, TRACED)
        space = self.system.box[0].numpy() if self.system.variables > 1 else np.zeros(2)
        x = np.linspace(*space, 201) if self.system.variables > 1 else np.zeros(1)
        points = np.stack([e.ravel() for e in np.meshgrid(x, times)], axis=1)
        found = window.solution(self.system, points[:, -self.system.variables :])
        return found.reshape(len(times), len(x), -1)

    def _crossings(self, window: Window, unknown: int, targets: Array) -> Array:
        """Return the times at which an unknown of time alone has the `targets` (sorted)."""
        times = np.linspace(window.start, window.end, TRACED)
        values = self._traced(window)[:, 0, unknown]
        low, high = np.minimum(values[1:], values[:-1]), np.maximum(values[1:], values[:-1])
        first, last = np.searchsorted(targets, low), np.searchsorted(targets, high)
        counts = last - first
        part = np.repeat(np.arange(len(low)), counts)
        number = np.arange(len(part)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        share = (targets[number] - values[part]) / (values[part + 1] - values[part])
        found: Array = times[part] + share * (times[part + 1] - times[part])
        return found


def _strata(low: float, high: float, count: int) -> Array:
    """Return jittered places in equal strata of a range."""
    drawn = np.random.default_rng(count)
    found: Array = low + (high - low) * (np.arange(count) + drawn.random(count)) / count
    return found
