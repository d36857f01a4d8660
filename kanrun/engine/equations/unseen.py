"""The part of a residual that interpolation does not predict.

A grid has seen the formulas if the residual on each of its cells is a polynomial: the interpolant
of the residual at Gauss points predicts it at jittered places. What it does not predict is narrower
than the grid. The raw residual is no measure, because in equations of order 3 and 4 it is large
where errors are small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial.legendre import leggauss

from kanrun.engine.equations.scan import interpolation_rows
from kanrun.engine.equations.space import Index
from kanrun.engine.equations.system import Array
from kanrun.formulas.equations import Derivative, Relation

#: Gauss points of a cell, at which the residual is interpolated.
NODES_OF_CELL = 8
#: Largest part of the residual that its interpolant may leave, in a norm.
UNPREDICTED = 0.3
#: Growth of rounding by one differentiation of polynomials of degree 7, on a cell of width 1
#: (Markov's inequality).
MARKOV = 49.0


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
        drawn = np.random.default_rng(len(ends))
        width = np.diff(ends)
        shares = (np.arange(count) + drawn.random((len(width), count))) / count
        every = np.concatenate([(ends[:-1, None] + width[:, None] * shares).ravel(), *more])
        return cls(ends, np.unique(every[(every > ends[0]) & (every < ends[-1])]), nodes)

    @classmethod
    def point(cls) -> Axis:
        """Return the axis of a variable that does not exist."""
        return cls(np.array([0.0, 1.0]), np.zeros(1), 1)

    @property
    def exists(self) -> bool:
        """Whether the equations have this variable."""
        return self.nodes_of_cell > 1

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
        """Return the interpolant of values (nodes, columns) at the places, (places, columns)."""
        width = np.diff(self.ends)[self.cell]
        left = self.ends[self.cell]
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
        return [float(axis.places[number]) for axis, number in pairs if axis.exists]

    @property
    def weighted(self) -> tuple[Array, Array]:
        """The places (points, variables) and the weighted squares there."""
        exist = [axis.exists for axis in self.axes]
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
        values: Returns a derivative of the solution, (points of x, points of y).
        axes: Cells of x and y.
        unit: Returns the unit of an equation's residual, from its slopes (points, derivatives).
        sizes: Sizes of the unknowns, (unknowns,).
    """
    x, y = axes
    count = [len(each.nodes) for each in axes]
    at = [np.concatenate([each.nodes, each.places]) for each in axes]
    columns = np.stack(np.meshgrid(*at, indexing="ij"), axis=-1).reshape(-1, 2)
    columns = columns[:, [each.exists for each in axes]]
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
    x, y = axes
    found = np.zeros((len(x.places), len(y.places)))
    shape = len(x.nodes) + len(x.places), len(y.nodes) + len(y.places)
    for number, each in enumerate(relation.derivatives):
        slope = slopes[:, number].reshape(shape)[len(x.nodes) :, len(y.nodes) :]
        orders = iter(each.index)
        growth = [
            (MARKOV / np.diff(axis.ends)[axis.cell]) ** (next(orders) if axis.exists else 0)
            for axis in axes
        ]
        found += np.abs(slope) * sizes[each.unknown] * np.outer(*growth)
    return np.finfo(float).eps * found
