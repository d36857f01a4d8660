"""Tensor products of splines on a box, and systems of equations as sparse least squares problems.

An unknown is u = sum_ij c_ij B_i(x) B_j(y); without y, the second axis has one constant function.
Residuals are taken at Gauss points of every cell and of every interval of a face. Rows of one cell
depend on the functions of that cell alone, so that the normal equations are banded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.residuals import Block, with_units
from kanrun.engine.equations.space import Array, Space
from kanrun.engine.equations.system import Face, System
from kanrun.engine.least_squares import Linearisation, Problem, StackedRows
from kanrun.engine.least_squares.banded import ElementRows, Pattern
from kanrun.formulas.equations import Derivative, Relation

Index = NDArray[np.int64]
#: Nodes of [-1, 1] in each interval, and their weights, whose sum is 2.
Rule = tuple[Array, Array]

#: Gauss points per interval and variable.
GAUSS_POINTS = 4
#: Weight of conditions relative to the equation. Residuals of conditions were 1e-4 to 1e-2 of those
#: of the equation in 14 problems; a larger weight costs normal equations their digits.
CONDITION_WEIGHT = 1e4


@dataclass(frozen=True)
class Places:
    """Points of one variable, shape (intervals, nodes), and the functions of their intervals.

    `shares` are quadrature weights whose sum is 1.
    """

    at: Array
    functions: Index
    shares: Array


@dataclass(frozen=True)
class TensorSpace:
    """Products of the splines of each variable for a number of unknown functions.

    Coefficients have the shape (unknowns, functions of x, functions of y). In vectors, functions
    of the longer variable are far apart.
    """

    axes: tuple[Space, Space]
    unknowns: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.unknowns, *(axis.functions for axis in self.axes))

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return int(np.prod(self.shape))

    @cached_property
    def index(self) -> Index:
        """Place of each coefficient in a vector, in the shape of the coefficients."""
        _, x, y = self.shape
        near, far = (1, y) if y <= x else (x, 1)
        places = self.axes[0].order[:, None] * far + self.axes[1].order * near
        return places * self.unknowns + np.arange(self.unknowns)[:, None, None]

    def local(self, places: Sequence[Places]) -> Index:
        """Return the places of the coefficients of cells in a vector, shape (cells, terms)."""
        x, y = (each.functions for each in places)
        found = self.index[:, x[:, None, :, None], y[None, :, None, :]]
        return np.moveaxis(found, 0, -1).reshape(len(x) * len(y), -1)

    def evaluate(self, c: Array, x: Sequence[Array], orders: Sequence[int] = (0, 0)) -> Array:
        """Return a derivative at all products of points, shape (unknowns, points, points)."""
        for axis, (space, at, order) in enumerate(zip(self.axes, x, orders, strict=True), start=1):
            c = np.moveaxis(space.evaluate(np.moveaxis(c, axis, 0), at, order), 0, axis)
        return c

    def continued(self, coefficients: Array, coarser: TensorSpace) -> Array:
        """Return the coefficients here of a function of a space with fewer breakpoints."""
        for axis, (fine, old) in enumerate(zip(self.axes, coarser.axes, strict=True), start=1):
            finer = fine.project(partial(old.evaluate, np.eye(old.functions)), 0)
            moved = np.tensordot(finer, np.moveaxis(coefficients, axis, 0), 1)
            coefficients = np.moveaxis(moved, 0, axis)
        return coefficients

    def project(self, field: Field) -> Array:
        """Return the coefficients of the function here that is nearest to a field."""
        x, y = self.axes

        def values(a: Array, b: Array) -> Array:
            at = np.stack([e.ravel() for e in np.meshgrid(a, b, indexing="ij")], axis=1)
            with torch.no_grad():
                found = field(torch.as_tensor(at[:, : len(field.box)])).numpy()
            shaped: Array = found.reshape(len(a), len(b), -1)
            return shaped

        def along_y(b: Array) -> Array:
            return np.swapaxes(x.project(lambda a: values(a, b), 0).reshape(-1, len(b), n), 0, 1)

        n = self.unknowns
        return y.project(along_y, 0).reshape(*self.shape[:0:-1], n).T

    def places(self, nodes: Array, weights: Array, face: Face = ()) -> list[Places]:
        """Return nodes of [-1, 1] in each interval, or the given places of variables."""
        fixed, found = dict(face), []
        for number, axis in enumerate(self.axes):
            ends = axis.breakpoints
            at, shares = np.array([[fixed.get(number, 0.0)]]), np.ones((1, 1))
            if number not in fixed and ends is not None:
                at = axis.points(nodes)
                shares = np.diff(ends)[:, None] / (ends[-1] - ends[0]) * weights / 2
            found.append(Places(at, axis.basis(at[:, 0], 0)[1], shares))
        return found


class Patch:
    """A relation at all products of places: its basis functions and rows."""

    def __init__(self, space: TensorSpace, places: Sequence[Places], block: Block) -> None:
        self.space, self.block = space, block
        x, y = places
        self.shape = len(x.at), len(y.at), x.at.shape[1], y.at.shape[1]
        index = space.local(places)
        self.pattern = Pattern(torch.as_tensor(index), space.size)
        self._local = index.reshape(*self.shape[:2], *self._terms)
        self._basis = {
            (axis, order): space.axes[axis].elements(each.at, order, 0)
            for axis, each in enumerate(places)
            for order in {_orders(each)[axis] for each in block.relation.derivatives}
        }
        assert block.shares is not None  # An invariant: blocks have quadrature weights.
        self._scale = block.scale * block.shares.sqrt().numpy()
        #: Factor from a residual in its unit, with the weight of corners, to a row.
        self.roots = _shares(places) ** 0.5 * np.sqrt(block.weight)

    @property
    def _terms(self) -> tuple[int, ...]:
        return (*(axis.degree + 1 for axis in self.space.axes), self.space.unknowns)

    def _bases(self, derivative: Derivative) -> tuple[Array, Array]:
        x, y = enumerate(_orders(derivative))
        return self._basis[x], self._basis[y]

    def _arguments(self, vector: Array) -> Array:
        columns = [self.block.points.numpy()]
        for each in self.block.relation.derivatives:
            x, y = self._bases(each)
            local = vector[self._local[..., each.unknown]]
            found = np.einsum("xgi,xyij,yhj->xygh", x, local, y, optimize=True)
            columns.append(found.reshape(-1, 1))
        return np.concatenate(columns, axis=1)

    def residual(self, vector: Array) -> Array:
        """Return the rows (points,) at a vector of coefficients."""
        with np.errstate(all="ignore"):
            found: Array = self.block.relation.residual(self._arguments(vector)) * self._scale
        return found

    def rows(self, vector: Array) -> ElementRows:
        """Return the derivatives of the rows by the coefficients."""
        relation = self.block.relation
        slopes = relation.slopes(self._arguments(vector)) * self._scale[:, None]
        found = np.zeros((*self.shape, *self._terms))
        for number, each in enumerate(relation.derivatives):
            factor = slopes[:, number].reshape(self.shape)
            x, y = self._bases(each)
            found[..., each.unknown] += np.einsum(
                "xygh,xgi,yhj->xyghij", factor, x, y, optimize=True
            )
        cells, points = self.shape[0] * self.shape[1], self.shape[2] * self.shape[3]
        return ElementRows(self.pattern, torch.as_tensor(found.reshape(cells, points, -1)))


class TensorProblem(Problem):
    """A system on tensor-product splines; the unknowns are the coefficients as a vector."""

    def __init__(self, space: TensorSpace, patches: Sequence[Patch], start: Array) -> None:
        self.space, self.patches = space, list(patches)
        self.unknowns = torch.zeros(space.size, dtype=torch.float64)
        self.unknowns[torch.as_tensor(space.index)] = torch.as_tensor(start)

    def coefficients(self, unknowns: Tensor) -> Array:
        """Return the coefficients (unknowns, functions, functions)."""
        found: Array = unknowns.numpy()[self.space.index]
        return found

    def residual(self, unknowns: Tensor) -> Float[Tensor, " rows"]:
        vector = unknowns.numpy()
        return torch.as_tensor(np.concatenate([each.residual(vector) for each in self.patches]))

    def linearise(self, unknowns: Tensor) -> Linearisation:
        vector = unknowns.numpy()
        blocks = [each.rows(vector) for each in self.patches]
        rows = StackedRows(lambda: blocks, self.space.size, banded=True)
        return Linearisation.of(rows, self.residual(unknowns))


def patches(
    rows: Collocation,
    space: TensorSpace,
    rule: Rule,
    solution: Field | None = None,
    equations: Sequence[Relation] | None = None,
    condition_weight: float = CONDITION_WEIGHT,
) -> list[Patch]:
    """Return the equations and the conditions of `rows` at the nodes of all cells and faces.

    Periodic conditions are those of the space. Units are those of `solution`, see `with_units`.
    Other `equations` take the place of those of the system.
    """
    system, found = rows.system, list[tuple[Block, list[Places]]]()
    inside = space.places(*rule)
    for relation in system.equations if equations is None else equations:
        found.append((_block("equation", relation, inside), inside))
    for condition in system.conditions:
        for face in condition.faces:
            places = space.places(*rule, face)
            block = _block("condition", condition.relation, places)
            found.append((replace(block, weight=condition_weight), places))
    blocks = with_units(
        rows.weigh_corners([block for block, _ in found]), system, rows.sizes, solution
    )
    pairs = zip(blocks, found, strict=True)
    return [Patch(space, places, block) for block, (_, places) in pairs]


def _orders(derivative: Derivative) -> tuple[int, int]:
    """Return the orders of a derivative along both axes."""
    first, *others = derivative.index
    return first, sum(others)


def _block(kind: str, relation: Relation, places: Sequence[Places]) -> Block:
    x, y = places
    at = np.broadcast_arrays(x.at[:, None, :, None], y.at[None, :, None, :])
    shares = _shares(places)
    columns = [each.ravel() for each in at][: len(relation.vocabulary.variables)]
    points = torch.as_tensor(np.stack(columns, axis=1))
    return Block(kind, relation, points, shares=torch.as_tensor(shares * len(shares)))


def _shares(places: Sequence[Places]) -> Array:
    """Return quadrature weights of all products of places, whose sum is 1."""
    x, y = (each.shares for each in places)
    return (x[:, None, :, None] * y[None, :, None, :]).ravel()


def is_direct(system: System) -> bool:
    """Return whether a system is solved on tensor products.

    It has at most two variables and is no ordinary initial value problem; it has neither unknown
    parameters nor observations; periodic conditions contain all derivatives below the order of the
    equations.
    """
    variables, ordinary = len(system.box), len(system.box) == 1 and system.is_evolution
    if variables > 2 or ordinary or system.constants or system.observations:
        return False
    for variable in {each.periodic for each in system.conditions if each.periodic is not None}:
        given = {
            (derivative.unknown, derivative.index[variable])
            for each in system.conditions
            if each.periodic == variable
            for derivative in each.relation.derivatives
        }
        needed = {(d.unknown, k) for d in system.derivatives for k in range(d.index[variable])}
        if not needed <= given:
            return False
    return True
