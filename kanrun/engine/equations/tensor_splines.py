"""Tensor products of splines on a box, and systems of equations as sparse least squares problems.

An unknown is u = offset + sum_ij c_ij X_i(x) Y_j(y); without y, the second axis has one constant
function. Residuals are taken at Gauss points of every cell and of every interval of a face. Rows of
one cell depend on the functions of that cell alone, so that the normal equations are banded.
With splines of both variables these are tensor products; with polynomials of time as Y, windows of
an evolution equation.

Levenberg-Marquardt ends in a bad minimum where it begins with heavy conditions far from the
solution. Every start of a nonlinear equation is therefore minimised with light conditions first,
and the best one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.residuals import Block
from kanrun.engine.equations.space import GAUSS, Index, Places, Rule, Space
from kanrun.engine.equations.system import Array, Face, System
from kanrun.engine.least_squares import (
    ElementRows,
    Linearisation,
    LMPolicy,
    Pattern,
    Problem,
    StackedRows,
    StoppingCriteria,
    minimise,
)
from kanrun.engine.splines import spline_values
from kanrun.formulas.equations import Relation
from kanrun.monitoring import time_limit_reached

#: Weight of conditions relative to the equation. Residuals of conditions were 1e-4 to 1e-2 of those
#: of the equation in 14 problems; a larger weight costs normal equations their digits.
CONDITION_WEIGHT = 1e4
#: Damping of the first step of nonlinear equations from a start, relative to columns of unit norm.
#: A larger value takes shorter steps; with a smaller one they may diverge.
NONLINEAR_DAMPING = 1e-6
#: Damping of all other first steps, and the smallest damping. A larger value holds back smooth
#: changes; with a smaller one the factorisation may fail in rounding.
DAMPING = 1e-18
LM = LMPolicy(min_damping=DAMPING, damping_search=False, max_trials=30)
#: Steps end where the objective falls by less than `rtol`: from a start, and near a solution.
FIRST = StoppingCriteria(max_steps=60, rtol=1e-3, patience=3)
FINER = StoppingCriteria(max_steps=8, rtol=1e-2, patience=1)
#: Weight of conditions at first.
LIGHT = 1.0
#: Mean squared residual below which no further start is tried, in one variable and in two. Blasius'
#: equation from 0 to 10 has 2e-7 at its solution on 8 intervals, and a bad minimum at 2e-3.
SMALL_LOSS = 1e-6, 1e-2
#: Largest number of random starts of nonlinear equations in one variable. More starts find a
#: solution more often and take more time.
RANDOM = 8
#: Bounds of the standard deviation of random starts, in units of the solution; drawn on a log
#: scale. Larger bounds reach solutions that are further from the smooth start.
SIZES = (0.03, 3.0)


@dataclass(frozen=True)
class Patch:
    """Relation at all products of points of x and y.

    Attributes:
        points: Points in the order of cells of x, cells of y, points of x, points of y.
        pattern: Unknowns of each cell.
        bases: Values of the functions of x and of y for each derivative by its name, shape (cells,
            points, functions).
        scale: Factors from residuals to rows, shape (points,).
        offsets: Derivatives of the offset by their names, shape (points,); 0 where missing.
    """

    relation: Relation
    points: Array
    pattern: Pattern
    bases: Mapping[str, tuple[Array, Array]]
    scale: Array
    offsets: Mapping[str, Array]

    def arguments(self, vector: Array) -> Array:
        """Return the arguments of the relation at a vector of coefficients, (points, names)."""
        columns = [self.points]
        for each in self.relation.derivatives:
            x, y = self.bases[each.name]
            shape = len(x), len(y), x.shape[2], y.shape[2], -1
            local = vector[self.pattern.index.numpy()].reshape(shape)[..., each.unknown]
            found = (x[:, None] @ local @ y.swapaxes(1, 2)).ravel()
            columns.append((found + self.offsets.get(each.name, 0.0))[:, None])
        return np.concatenate(columns, axis=1)

    def residual(self, vector: Array) -> Float[Array, " points"]:
        """Return the rows at a vector of coefficients."""
        with np.errstate(all="ignore"):
            found: Array = self.relation.residual(self.arguments(vector)) * self.scale
        return found

    def rows(self, vector: Array) -> ElementRows:
        """Return the derivatives of the rows by the coefficients."""
        with np.errstate(all="ignore"):
            slopes = self.relation.slopes(self.arguments(vector)) * self.scale[:, None]
        # Derivatives that share their functions of y are summed before these multiply them.
        sums = dict[int, dict[int, tuple[Array, Array]]]()
        for number, each in enumerate(self.relation.derivatives):
            x, y = self.bases[each.name]
            shape = len(x), len(y), x.shape[1], y.shape[1], x.shape[2]
            factor = slopes[:, number].reshape(*shape[:4], 1)
            of_unknown = sums.setdefault(each.unknown, {})
            total, _ = of_unknown.get(id(y), (0.0, y))
            of_unknown[id(y)] = total + factor * x[:, None, :, None], y
        cells, terms = self.pattern.index.shape
        unknowns = terms // (shape[4] * y.shape[2])
        found = np.zeros((*shape, y.shape[2], unknowns))
        for unknown, pairs in sums.items():
            totals = np.stack([total for total, _ in pairs.values()], axis=-1)
            along = np.stack([y for _, y in pairs.values()], axis=-2)
            found[..., unknown] = totals @ along[:, None]
        return ElementRows(self.pattern, torch.as_tensor(found.reshape(cells, -1, terms)))


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

    def pattern(self, places: Sequence[Places]) -> Pattern:
        """Return the unknowns of each cell as places in a vector."""
        x, y = (each.functions for each in places)
        found = self.index[:, x[:, None, :, None], y[None, :, None, :]]
        index = np.moveaxis(found, 0, -1).reshape(len(x) * len(y), -1)
        return Pattern(torch.as_tensor(index), self.size)

    def project(self, field: Field) -> Array:
        """Return the coefficients here that are nearest to a sum of products of splines."""
        (layer,), factors = field.network.edge_layers, list[Array]()
        for number, axis in enumerate(self.axes[: len(field.box)]):

            def products(x: Array, number: int = number) -> Array:
                points = field.box.mean(1).repeat(len(x), 1)
                points[:, number] = torch.as_tensor(x)
                values = spline_values(field.inner(points), layer.coefficients, layer.grid)
                every = values[:, :, number].detach().numpy()
                return every.reshape(len(x), -1, field.form.factors)[..., number]

            factors.append(axis.project(products, 0))
        x, *more = (each.reshape(-1, self.unknowns, field.form.terms) for each in factors)
        y = more[0] if more else np.ones((1, *x.shape[1:]))
        found: Array = np.einsum("xut,yut->uxy", x, y)
        return found

    def places(self, rule: Rule, face: Face = ()) -> list[Places]:
        """Return nodes of both variables, or the given places of variables."""
        fixed = dict(face)
        return [axis.places(rule, fixed.get(number)) for number, axis in enumerate(self.axes)]


class TensorProblem(Problem):
    """System on tensor-product splines; the unknowns are the coefficients as a vector."""

    def __init__(
        self, space: TensorSpace, patches: Sequence[Patch], start: Array | None = None
    ) -> None:
        self.space, self.patches = space, list(patches)
        self.unknowns = torch.zeros(space.size, dtype=torch.float64)
        if start is not None:
            self.unknowns[torch.as_tensor(space.index)] = torch.as_tensor(start)

    def coefficients(self, unknowns: Tensor) -> Array:
        """Return the coefficients (unknowns, functions, functions)."""
        return unknowns.numpy()[self.space.index]

    def residual(self, unknowns: Tensor) -> Float[Tensor, " rows"]:
        vector = unknowns.numpy()
        return torch.as_tensor(np.concatenate([each.residual(vector) for each in self.patches]))

    def linearise(self, unknowns: Tensor) -> Linearisation:
        vector = unknowns.numpy()
        blocks = [each.rows(vector) for each in self.patches]
        rows = StackedRows(lambda: blocks, self.space.size, banded=True)
        return Linearisation(rows, self.residual(unknowns))


def patches(
    rows: Collocation,
    space: TensorSpace,
    rule: Rule,
    solution: Field | None = None,
    equations: Sequence[Relation] | None = None,
    condition_weight: float = CONDITION_WEIGHT,
) -> list[Patch]:
    """Return the equations and the conditions of `rows` at the nodes of all cells and faces.

    Periodic conditions are those of the space. Units are those of `solution`.
    Other `equations` take the place of those of the system.
    """
    system = rows.system
    found = list[tuple[Block, list[Places]]]()
    inside = space.places(rule)
    for relation in system.equations if equations is None else equations:
        found.append((block_at("equation", relation, inside), inside))
    for condition in system.conditions:
        for face in condition.faces:
            places = space.places(rule, face)
            block = block_at("condition", condition.relation, places)
            found.append((replace(block, weight=condition_weight), places))
    blocks = rows.scaled([block for block, _ in found], solution)
    return [
        patch_at(block, places, space.pattern(places))
        for block, (_, places) in zip(blocks, found, strict=True)
    ]


def patch_at(
    block: Block,
    places: Sequence[Places],
    pattern: Pattern,
    offsets: Mapping[str, Array] | None = None,
) -> Patch:
    """Return a block at places of both variables, with the unknowns of each cell, as a patch."""
    bases = dict[str, tuple[Array, Array]]()
    for each in block.relation.derivatives:
        first, *others = each.index
        x, y = (
            p.values(r, each.unknown) for p, r in zip(places, (first, sum(others)), strict=True)
        )
        bases[each.name] = x, y
    scale = block.scale * block.shares.sqrt().numpy()
    return Patch(block.relation, block.points.numpy(), pattern, bases, scale, offsets or {})


def block_at(kind: str, relation: Relation, places: Sequence[Places]) -> Block:
    """Return a relation at all products of places of both variables."""
    x, y = places
    at = np.broadcast_arrays(x.at[:, None, :, None], y.at[None, :, None, :])
    shares = (x.shares[:, None, :, None] * y.shares[None, :, None, :]).ravel()
    columns = [each.ravel() for each in at][: len(relation.vocabulary.variables)]
    points = torch.as_tensor(np.stack(columns, axis=1))
    return Block(kind, relation, points, shares=torch.as_tensor(shares * len(shares)))


def first_guess(rows: Collocation, space: TensorSpace) -> tuple[Array, int]:
    """Return the coefficients that the first grid starts from, and the number of steps to them.

    These are zeros for linear equations.
    """
    best = np.zeros(space.shape)
    least = inf
    taken = 0
    if rows.system.is_linear:
        return best, taken
    weights = [
        patches(rows, space, GAUSS, condition_weight=weight) for weight in (LIGHT, CONDITION_WEIGHT)
    ]
    for start in _starts(rows, space):
        found = start
        loss = inf
        for parts in weights:
            problem = TensorProblem(space, parts, found)
            state, steps = minimise(problem, LM, FIRST, NONLINEAR_DAMPING, ended=time_limit_reached)
            taken += steps
            found = problem.coefficients(state.unknowns)
            loss = state.loss
        if loss < least:
            best = found
            least = loss
        if least <= SMALL_LOSS[len(rows.system.box) - 1] or time_limit_reached():
            break
    return best, taken


def _starts(rows: Collocation, space: TensorSpace) -> Iterator[Array]:
    """Yield the smoothest functions of the conditions, zeros, and random ones in one variable."""
    smooth = zeros = np.zeros(space.shape)
    for order in sorted({1, rows.system.order}, reverse=True):
        bends = rows.system.bends(order)
        problem = TensorProblem(space, patches(rows, space, GAUSS, equations=bends))
        state, _ = minimise(problem, LM, FINER, DAMPING)
        smooth = problem.coefficients(state.unknowns)
        yield smooth
    yield zeros
    drawn = np.random.default_rng(rows.inside)
    sizes = rows.sizes.numpy()[:, None, None]
    for _ in range(RANDOM if len(rows.system.box) == 1 else 0):
        size = np.exp(drawn.uniform(*np.log(SIZES)))
        yield smooth + size * sizes * drawn.standard_normal(space.shape)


def is_direct(system: System) -> bool:
    """Return whether a system is solved on tensor products.

    It has at most two variables, and neither unknown parameters nor observations; periodic
    conditions contain all derivatives below the order of the equations.
    """
    if len(system.box) > 2 or system.constants or system.observations:
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
