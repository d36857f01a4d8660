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
from functools import cached_property, partial

import numpy as np
import torch

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.scan import (
    NODES_OF_CELL,
    PLACES,
    PLACES_OF_TWO,
    Axis,
    Scan,
    strata,
)
from kanrun.engine.equations.slab import Slab, legendre_values, total
from kanrun.engine.equations.system import Array, EvolutionSystem, System
from kanrun.engine.equations.tensor_splines import TensorSpace
from kanrun.formulas.equation_syntax import Derivative
from kanrun.formulas.equations import Relation

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
    # A residual counts as resolved if the norm of the unseen residual is at most this fraction of
    # the norm of the interpolant.
    unpredicted = 0.3
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
    allowed = unpredicted * norms[1] + norms[2]
    return Unseen(axes, np.sqrt(squares[0]), np.sqrt(by_y), allowed)


def _rounding(relation: Relation, slopes: Array, axes: tuple[Axis, Axis], sizes: Array) -> Array:
    """Estimate the rounding error of a residual at the test points.

    For the arguments, see `unseen`. The result has the shape (places of x, places of y).
    """
    # Factor by which each differentiation of a polynomial of degree 7 amplifies rounding errors on
    # a cell of width 1 (Markov's inequality: the squared degree).
    markov = 49.0
    x, y = axes
    found = np.zeros((len(x.places), len(y.places)))
    shape = len(x.nodes) + len(x.places), len(y.nodes) + len(y.places)
    for number, each in enumerate(relation.derivatives):
        slope = slopes[:, number].reshape(shape)[len(x.nodes) :, len(y.nodes) :]
        orders = iter(each.index)
        growth = [
            (markov / np.diff(axis.ends)[axis.cell]) ** (next(orders) if axis.exists else 0)
            for axis in axes
        ]
        found += np.abs(slope) * sizes[each.unknown] * np.outer(*growth)
    return np.finfo(float).eps * found


#: Smallest number of test points per cell and variable.
PLACES_OF_CELL = 3
#: Distances of additional test points from each end of a part of a range, as fractions of its
#: length. A slab that is shortened towards a jump ends just beyond it, where other test points miss
#: the jump.
PLACES_OF_ENDS = 10.0 ** np.array([-8, -6, -4, -2])
#: Number of times in a slab at which the values of the unknowns are evaluated.
TRACED = 65


class ValueScan:
    """Finds values of the unknowns near which terms of the equations change fast.

    Each range of values is scanned only once.
    """

    def __init__(self, system: System) -> None:
        self.scan = system.scan
        names = system.vocabulary.unknowns
        terms = self.scan.terms
        #: For each unknown, whether a term contains it together with other names.
        self._crossed = [any(len(term) > 1 and name in term for term in terms) for name in names]
        #: For each unknown, whether a term contains it and no other name.
        self._alone = [(name,) in terms for name in names]
        #: Whether any explicit term contains an unknown.
        self.is_needed = any(self._crossed + self._alone)
        self._known: dict[int, tuple[float, float, Array]] = {}

    def __call__(self, unknown: int, values: Array) -> Array:
        """Return the values of an unknown near which terms may change fast, sorted.

        The search covers at least the range of `values`, which are values that the unknown takes in
        the solution. If a term contains the unknown together with other unknowns or variables, any
        value may matter; the result is then a dense sample of the whole range.
        """
        # Length of the scanned range of an unknown's values, relative to the range of values that
        # occurred. The margin on either side makes a new scan unnecessary in most of the next
        # slabs.
        room_and_values = 3
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
            # The scanned range includes a margin, so more points are needed for a density of
            # `places` points in the range without it.
            places = PLACES * room_and_values
            found = np.sort(self.scan.narrow_values(unknown, low, high, places))
            found = strata(low, high, places) if crossed else found
            self._known[unknown] = low, high, found
        return found

    def axes(
        self,
        cells: Sequence[tuple[Array, int, int]],
        trace: Callable[[], tuple[Array, Array]],
    ) -> list[Axis]:
        """Return the cells and test points of each variable of a part of the box.

        Args:
            cells: For each variable, the ends of the cells, the number of test points per cell, and
                the number of Gauss points per cell.
            trace: Function that evaluates the unknowns at many points of the part. It returns the
                last variable at these points, sorted if there is one variable, shape (points,), and
                the values, shape (unknowns, points). It is called only if the test points depend on
                the values.
        """
        passed = [np.zeros(0)] * len(self._alone)
        if self.is_needed:
            at, traced = trace()
            passed = [self(unknown, values) for unknown, values in enumerate(traced)]
            if len(cells) == 1:
                passed = [crossings(at, *pair) for pair in zip(traced, passed, strict=True)]
        found = []
        for number, (ends, count, nodes) in enumerate(cells):
            inwards = np.multiply.outer([1, -1], PLACES_OF_ENDS * (ends[-1] - ends[0]))
            near = (ends[[0, -1], None] + inwards).ravel()
            more = [*places_in(self.scan, number, ends, passed), near]
            found.append(Axis.of(ends, count, more, nodes))
        return found


def crossings(at: Array, values: Array, targets: Array) -> Array:
    """Return the points at which a piecewise linear function takes one of several values.

    Args:
        at: Points, increasing, shape (points,).
        values: Values of the function at these points, shape (points,).
        targets: The values to be found, sorted.
    """
    first = np.searchsorted(targets, np.minimum(values[1:], values[:-1]))
    last = np.searchsorted(targets, np.maximum(values[1:], values[:-1]))
    counts = last - first
    part = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(part)) + np.repeat(last - np.cumsum(counts), counts)
    share = (targets[number] - values[part]) / (values[part + 1] - values[part])
    found: Array = at[part] + share * (at[part + 1] - at[part])
    return found


def places_in(scan: Scan, number: int, span: Array, passed: Sequence[Array]) -> list[Array]:
    """Return test points where formulas may change fast in a part of a variable's range.

    The points come in several arrays. Some of them may lie outside the part.

    Args:
        scan: Scan of the formulas.
        number: Index of the variable.
        span: Sorted array whose first and last entries are the ends of the part.
        passed: One array per unknown. In one variable, it holds the points at which the unknown
            takes a value near which terms change fast; these become test points. In several
            variables, it holds the values themselves; unless all arrays are empty, the whole part
            of the range is sampled densely.
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
    """Audit of the slabs of one system. Calling it with a slab audits the slab.

    Attributes:
        counted: Estimated CPU seconds of the last audit.
    """

    def __init__(self, system: EvolutionSystem) -> None:
        self.system = system
        self.values = ValueScan(system)
        self.length = float(system.box[-1].diff())
        self.counted = 0.0

    def __call__(self, slab: Slab, sizes: Array) -> Unseen | None:
        """Audit a slab and return its unseen residual, or None if all formulas are polynomials.

        `sizes` are the magnitudes of the unknowns, shape (unknowns,).
        """
        # Assumed CPU seconds per point of an audit.
        seconds_of_point = 1.4e-7
        # Assumed CPU seconds per audit, to which `seconds_of_point` is added for each point.
        seconds_of_audit = 1.5e-3
        system = self.system
        half = (slab.end - slab.start) / 2
        if not system.scan.terms:
            return None

        def unit(relation: Relation, slopes: Array) -> float:
            """Return the unit of a residual: the estimated size of its largest time derivative.

            A derivative of order r has the size of its unknown, divided by (range of time)^(r - 1)
            and by the length of the slab, and is multiplied by its coefficient.
            """
            terms = [
                np.abs(slopes[:, i]).max() * sizes[e.unknown] / self.length ** (e.index[-1] - 1)
                for i, e in enumerate(relation.derivatives)
                if e.index[-1]
            ]
            return float(max(terms, default=0.0) or 1.0) / (2 * half)

        axes = self._axes(slab)
        points = np.prod([len(each.nodes) + len(each.places) for each in axes])
        self.counted = seconds_of_audit + seconds_of_point * float(points)
        times = np.concatenate([axes[1].nodes, axes[1].places])
        walls = self._wall_rates(times, sizes) * 2 * half
        return unseen(system.equations, partial(self._values, slab), axes, unit, sizes, walls)

    def _wall_rates(self, times: Array, sizes: Array) -> Array:
        """Return the highest-order time derivative of each prescribed boundary value, scaled.

        Each is divided by the magnitude of its unknown (`sizes`). For a condition on a space
        derivative of order r, it is multiplied by (half the length of the domain)^r. The shape is
        (conditions, times).
        """
        system = self.system
        half = float(system.box[0].diff()) / 2
        found = [np.zeros((0, len(times)))]
        for unknown, (order, size) in enumerate(zip(system.orders, sizes, strict=True)):
            rows = [each for each in system.walls[unknown] if each is not None]
            if any(each != 0 for each in system.prescribed[unknown]):
                factors = np.abs(np.concatenate(rows))
                scale = size * (factors @ half ** -np.arange(factors.shape[1], dtype=float))
                rates = system.wall_values(unknown, order, times) * self.length ** (order - 1)
                found.append(rates / scale[:, None])
        return np.concatenate(found)

    def _axes(self, slab: Slab) -> tuple[Axis, Axis]:
        """Return the cells and test points in space and in time."""
        # Ends of cells that differ by less than this fraction of the range count as equal.
        same = 1e-13
        # Number of points in space at which the values of the unknowns are evaluated.
        traced_in_space = 201
        # Number of Gauss points in time at which the residual of a slab is interpolated.
        nodes_of_slab = 16
        # Smallest number of test points in time of a slab. (In time, a slab is a single cell.)
        places_of_slab = 12
        low, high = self.system.box[0].tolist()
        cells = [(np.array([slab.start, slab.end]), places_of_slab, nodes_of_slab)]
        several = self.system.variables > 1
        if several:
            ends = np.unique(np.concatenate([each.space.breakpoints for each in slab.parts[0]]))
            ends = ends[np.diff(ends, prepend=-np.inf) > same * (high - low)]
            cells.insert(0, (ends, PLACES_OF_CELL, NODES_OF_CELL))

        def trace() -> tuple[Array, Array]:
            x = np.linspace(low, high, traced_in_space) if several else np.zeros(1)
            traced = slab.values(x, np.linspace(-1, 1, TRACED)).reshape(len(slab.parts), -1)
            return np.linspace(slab.start, slab.end, TRACED), traced

        *space, time = self.values.axes(cells, trace)
        return space[0] if space else Axis.point(), time

    def _values(self, slab: Slab, each: Derivative, x: Array, y: Array) -> Array:
        """Evaluate a derivative of the solution on the tensor grid of points `x` and times `y`."""
        order, time = self.system.split(each)
        half = (slab.end - slab.start) / 2
        s = np.clip((y - slab.start) / half - 1, -1, 1)
        return total(slab.parts[each.unknown], x, legendre_values(s, half, [time])[0], order)


def tensor_unseen(
    rows: Collocation, space: TensorSpace, coefficients: Array, field: Field
) -> Unseen | None:
    """Audit a solution on tensor products of splines.

    Args:
        rows: Collocation of the system, for the units of its residuals.
        space: Space of the solution.
        coefficients: Coefficients of the solution, shape (unknowns, functions, functions).
        field: The same solution as a network.

    Returns:
        The unseen residual, or None if all formulas are polynomials.
    """
    # Smallest size of an unknown in an audit, as a fraction of its estimated size (`Collocation`).
    quiet = 1e-6
    system = rows.system
    if not system.scan.terms:
        return None
    points = rows.points(rows.unseen)
    blocks = rows.equations(points, field)
    units = {id(block.relation): block.unit for block in blocks}
    ends = [np.unique(axis.breakpoints) for axis in space.axes[: len(system.box)]]
    if len(ends) == 1:
        points = torch.cat([points, torch.as_tensor(ends[0])[:, None]]).sort(dim=0)[0]
    with torch.no_grad():
        found = field(points).numpy()
    sizes = np.sqrt(np.square(found).mean(axis=0)).clip(min=quiet * rows.sizes.numpy())
    cells = [(each, PLACES_OF_CELL, NODES_OF_CELL) for each in ends]
    values = ValueScan(system)
    x, y, *_ = *values.axes(cells, lambda: (points[:, -1].numpy(), found.T)), Axis.point()

    def derivative(each: Derivative, x_at: Array, y_at: Array) -> Array:
        return space.evaluate(coefficients[each.unknown], x_at, y_at, each.index)

    def unit(relation: Relation, _: Array) -> float:
        return units[id(relation)]

    return unseen(system.equations, derivative, (x, y), unit, sizes)


def not_seen(system: System, place: Sequence[float]) -> str:
    """Return the warning that the grid does not resolve the formulas near the point `place`."""
    pairs = zip(system.vocabulary.variables, place, strict=True)
    where = ", ".join(f"{name}={value:.6g}" for name, value in pairs)
    return f"the formulas change within a width that no grid here resolves, as at {where}"
