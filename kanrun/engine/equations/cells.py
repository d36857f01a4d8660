"""Interpolation on the cells of one variable, and test points between the nodes.

A function is resolved on a cell if its interpolant at Gauss points predicts the function at other,
randomly shifted points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Number of Gauss points per cell and variable at which the residual is interpolated.
NODES_OF_CELL = 8


def interpolation_rows(s: Array, nodes: int) -> Array:
    """Return the matrix that maps values at Gauss points to the interpolant's values at `s`.

    `s` are points on [-1, 1], shape (points,). The matrix has the shape (points, nodes).
    """
    at, weights = leggauss(nodes)
    norms = weights[:, None] * (np.arange(nodes) + 0.5)
    found: Array = legvander(s, nodes - 1) @ (legvander(at, nodes - 1) * norms).T
    return found


@dataclass(frozen=True)
class Axis:
    """Cells of one variable, and the points at which interpolants are tested.

    For equations in one variable, there is a second axis, which consists of one cell with one
    point.

    Attributes:
        ends: Ends of the cells, shape (cells + 1,).
        places: Test points, sorted, shape (places,).
        nodes_of_cell: Number of Gauss points per cell.
    """

    ends: Array
    places: Array
    nodes_of_cell: int = NODES_OF_CELL

    @classmethod
    def of(
        cls, ends: Array, count: int, more: Sequence[Array] = (), nodes: int = NODES_OF_CELL
    ) -> Axis:
        """Return an axis with random test points.

        Args:
            ends: Ends of the cells, shape (cells + 1,).
            count: Number of test points per cell, one in each of equal parts of the cell.
            more: Arrays of additional test points; those outside the range are ignored.
            nodes: Number of Gauss points per cell.
        """
        drawn = np.random.default_rng(len(ends))
        width = np.diff(ends)
        shares = (np.arange(count) + drawn.random((len(width), count))) / count
        every = np.concatenate([(ends[:-1, None] + width[:, None] * shares).ravel(), *more])
        return cls(ends, np.unique(every[(every > ends[0]) & (every < ends[-1])]), nodes)

    @classmethod
    def point(cls) -> Axis:
        """Return the second axis of equations in one variable: one cell with one point."""
        return cls(np.array([0.0, 1.0]), np.zeros(1), 1)

    @property
    def exists(self) -> bool:
        """Whether the axis belongs to a variable of the equations."""
        return self.nodes_of_cell > 1

    @cached_property
    def nodes(self) -> Array:
        """Gauss points of all cells, shape (nodes,)."""
        shares = (leggauss(self.nodes_of_cell)[0] + 1) / 2
        found: Array = (self.ends[:-1, None] + np.diff(self.ends)[:, None] * shares).ravel()
        return found

    @cached_property
    def cell(self) -> NDArray[np.int64]:
        """Index of the cell that contains each test point, shape (places,)."""
        return (np.searchsorted(self.ends, self.places, "right") - 1).clip(0, len(self.ends) - 2)

    @cached_property
    def weights(self) -> Array:
        """Quadrature weights of the test points: fractions of the range whose sum is 1."""
        middle = (self.places[1:] + self.places[:-1]) / 2
        edges = np.concatenate([self.ends[:1], middle, self.ends[-1:]])
        found: Array = np.diff(edges) / (edges[-1] - edges[0])
        return found

    def predicted(self, values: Array) -> Array:
        """Interpolate values at the Gauss points cell by cell, and evaluate at the test points.

        `values` has the shape (nodes, columns), and the result has the shape (places, columns).
        """
        width = np.diff(self.ends)[self.cell]
        left = self.ends[self.cell]
        rows = interpolation_rows(2 * (self.places - left) / width - 1, self.nodes_of_cell)
        of_cells = values.reshape(len(self.ends) - 1, self.nodes_of_cell, -1)
        found: Array = np.empty((len(rows), of_cells.shape[2]))
        for number in np.unique(self.cell):
            at = self.cell == number
            found[at] = rows[at] @ of_cells[number]
        return found
