"""Detection of features that a grid does not resolve, from the residual of a solution.

On each cell of the grid, the residual is interpolated at Gauss points. If the interpolant agrees
with the residual at other, randomly shifted points, the cell resolves all features of the
equations. Otherwise, the difference comes from features narrower than the cell; this difference is
called the unseen residual. The size of the residual itself would be misleading, because in
equations of order 3 and 4 the residual can be large although the error is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kanrun.engine.equations.cells import Axis
from kanrun.engine.equations.system import Array
from kanrun.formulas.equation_syntax import Derivative
from kanrun.formulas.equations import Relation

#: A residual counts as resolved if the norm of the unseen residual is at most this fraction of the
#: norm of the interpolant.
UNPREDICTED = 0.3
#: Factor by which each differentiation of a polynomial of degree 7 amplifies rounding errors on a
#: cell of width 1 (Markov's inequality: the squared degree).
MARKOV = 49.0


#: Function that evaluates a derivative of the solution on a tensor grid. Its arguments are the
#: derivative, the values of x and the values of y; the result has the shape (x, y).
Values = Callable[[Derivative, Array, Array], Array]


@dataclass(frozen=True)
class Unseen:
    """Unseen residual: residual minus interpolant, on the tensor grid of test points.

    Attributes:
        axes: Cells and test points of x and y.
        left: Unseen residual at the test points, shape (places of x, places of y). With several
            equations, the root of the sum of their squares, each in units of its equation.
        left_by_y: Unseen residual if only y is interpolated, at the Gauss points of x and the test
            points of y, shape (nodes of x, places of y).
        allowed: Largest `size` that counts as resolved: a fraction of the norm of the interpolant,
            plus rounding. Callers add their tolerance.
    """

    axes: tuple[Axis, Axis]
    left: Array
    left_by_y: Array
    allowed: float

    @cached_property
    def by_y(self) -> Array:
        """Root mean square over x of `left` at each test point of y, shape (places of y,)."""
        found: Array = np.sqrt(self.axes[0].weights @ np.square(self.left))
        return found

    @property
    def size(self) -> float:
        """Norm of `left`: its root mean square over x, averaged over y."""
        return float(self.by_y @ self.axes[1].weights)

    @property
    def place(self) -> list[float]:
        """Point at which `left` is largest, one value per variable."""
        numbers = np.unravel_index(self.left.argmax(), self.left.shape)
        pairs = zip(self.axes, numbers, strict=True)
        return [float(axis.places[number]) for axis, number in pairs if axis.exists]

    @property
    def weighted(self) -> tuple[Array, Array]:
        """Test points, shape (points, variables), and `left`^2 times their quadrature weights."""
        exist = [axis.exists for axis in self.axes]
        grid = np.meshgrid(*(axis.places for axis in self.axes), indexing="ij")
        points = np.stack([each.ravel() for each in grid], axis=1)[:, exist]
        weights = np.outer(*(axis.weights for axis in self.axes))
        return points, (np.square(self.left) * weights).ravel()

    @property
    def squares(self) -> Array:
        """Integral of `left`^2 over each cell of x, shape (cells of x,)."""
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
    walls: Array | None = None,
) -> Unseen:
    """Return the part of the residuals that the Gauss points miss.

    At the test points, each residual is compared with its interpolant through the Gauss points.

    Args:
        relations: Equations.
        values: Function that evaluates a derivative of the solution on a tensor grid.
        axes: Cells and test points of x and y.
        unit: Function that returns the number by which an equation's residual is divided. Its
            arguments are the equation, and the derivatives of the residual with respect to the
            derivatives in it, shape (points, derivatives).
        sizes: Magnitudes of the unknowns, shape (unknowns,).
        walls: Residuals of conditions that depend on y alone, in their units, at the Gauss points
            of y and then at the test points of y, shape (conditions, Gauss points + test points).
            What their interpolants miss is added to the squares at every x. None if there are none.
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
    for each in () if walls is None else walls:
        predicted = y.predicted(each[: count[1], None])[:, 0]
        missed = np.square(each[count[1] :] - predicted)
        by_y += missed
        squares[:2] += np.array([missed, np.square(predicted)])[:, None]
    norms = [float(np.sqrt(x.weights @ each) @ y.weights) for each in squares]
    allowed = UNPREDICTED * norms[1] + norms[2]
    return Unseen(axes, np.sqrt(squares[0]), np.sqrt(by_y), allowed)


def _rounding(relation: Relation, slopes: Array, axes: tuple[Axis, Axis], sizes: Array) -> Array:
    """Estimate the rounding error of a residual at the test points.

    For the arguments, see `unseen`. The result has the shape (places of x, places of y).
    """
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
