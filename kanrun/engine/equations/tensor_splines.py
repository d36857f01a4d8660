"""Tensor products of splines on a box, and systems of equations as sparse least squares problems.

An unknown is u = offset + sum_ij c_ij X_i(x) Y_j(y), where the offset is a known function. The X_i
are splines; the Y_j are splines as well, or polynomials of time in a slab (`slab_problem.py`), or a
single constant if there is no y. A cell is an interval of x times an interval of y. Residuals are
evaluated at Gauss points of every cell, and conditions at Gauss points of every interval of a face.
Rows of one cell depend only on the few coefficients whose basis functions differ from zero there,
so that the normal equations are banded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.residuals import Block, largest_response
from kanrun.engine.equations.solution import Residuals
from kanrun.engine.equations.space import DEGREE, GAUSS, Index, Places, Rule, Space
from kanrun.engine.equations.system import Array, Face, System
from kanrun.engine.least_squares import (
    ElementRows,
    Linearisation,
    LMPolicy,
    Pattern,
    Problem,
    StackedRows,
    StoppingCriteria,
)
from kanrun.engine.splines import spline_values
from kanrun.formulas.equations import Relation, parse_relation

#: Quadrature rules of both variables for the residuals of equations.
RULES = (GAUSS, GAUSS)
#: Weight of conditions, relative to the equation. With a larger weight, the normal equations lose
#: more digits; with a smaller one, conditions are satisfied less accurately.
CONDITION_WEIGHT = 1e4
#: Damping of the first step from an initial guess of a nonlinear equation, for Jacobian columns of
#: unit norm. With a larger value, steps are shorter; with a smaller one, they may diverge.
NONLINEAR_DAMPING = 1e-6
#: Damping of the first step in all other cases, and the smallest damping. A larger value suppresses
#: smooth changes; with a smaller one the factorisation may fail because of rounding.
DAMPING = 1e-18
#: The relative error of an unknown is its error divided by its size in the solution, or by this
#: fraction of its estimated size if that is larger.
QUIET = 1e-6
#: Settings of Levenberg-Marquardt on all grids.
LM = LMPolicy(min_damping=DAMPING, damping_search=False, max_trials=30)
#: Stopping criteria for steps from an initial guess.
FIRST = StoppingCriteria(max_steps=60, rtol=1e-3, patience=3)
#: Stopping criteria for steps near a solution, such as that of a coarser grid.
FINER = StoppingCriteria(max_steps=8, rtol=1e-2, patience=1)


@dataclass(frozen=True)
class Patch:
    """Relation on a tensor grid of points, as rows of a least squares problem.

    Attributes:
        relation: Relation whose residual (left - right) is to vanish.
        points: Points, shape (points, variables), ordered by the cell of x, the cell of y, the
            point of x and the point of y.
        pattern: For each cell, the positions of its coefficients in the vector of coefficients.
        bases: For each derivative in the relation, by name such as u_xy: the derivatives of the
            basis functions of x and of y, two arrays of shape (cells, points, functions).
        scale: Factors by which residuals are multiplied to become rows, shape (points,).
        offsets: Values of the derivatives of the offset by name, shape (points,). Derivatives that
            are missing are 0.
    """

    relation: Relation
    points: Array
    pattern: Pattern
    bases: Mapping[str, tuple[Array, Array]]
    scale: Array
    offsets: Mapping[str, Array]

    def arguments(self, vector: Array) -> Array:
        """Return the arguments of the relation for a vector of coefficients.

        The result has the shape (points, names), in the order of `Relation.names`.
        """
        columns = [self.points]
        for each in self.relation.derivatives:
            x, y = self.bases[each.name]
            shape = len(x), len(y), x.shape[2], y.shape[2], -1
            local = vector[self.pattern.index.numpy()].reshape(shape)[..., each.unknown]
            found = (x[:, None] @ local @ y.swapaxes(1, 2)).ravel()
            columns.append((found + self.offsets.get(each.name, 0.0))[:, None])
        return np.concatenate(columns, axis=1)

    def residual(self, vector: Array) -> Float[Array, " points"]:
        """Return the scaled residuals for a vector of coefficients."""
        with np.errstate(all="ignore"):
            found: Array = self.relation.residual(self.arguments(vector)) * self.scale
        return found

    def rows(self, vector: Array) -> ElementRows:
        """Return the Jacobian of the scaled residuals with respect to the coefficients."""
        with np.errstate(all="ignore"):
            slopes = self.relation.slopes(self.arguments(vector)) * self.scale[:, None]
        # Terms with the same basis functions of y are added before they are multiplied by these
        # functions, to save multiplications.
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
    """Tensor product of the spaces of x and y, for several unknown functions.

    Coefficients have the shape (unknowns, functions of x, functions of y). In a vector, they are
    ordered so that the normal equations have a small bandwidth: the axis with fewer functions
    varies faster.

    Attributes:
        axes: Spaces of x and y.
        unknowns: Number of unknown functions.
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
        """Position of each coefficient in a vector, in the shape of the coefficients."""
        _, x, y = self.shape
        near, far = (1, y) if y <= x else (x, 1)
        places = self.axes[0].order[:, None] * far + self.axes[1].order * near
        return places * self.unknowns + np.arange(self.unknowns)[:, None, None]

    def pattern(self, places: Sequence[Places]) -> Pattern:
        """Return the positions of each cell's coefficients in a vector of all coefficients.

        `places` are the points of x and of y, with the basis functions that differ from zero there.
        """
        x, y = (each.functions for each in places)
        found = self.index[:, x[:, None, :, None], y[None, :, None, :]]
        index = np.moveaxis(found, 0, -1).reshape(len(x) * len(y), -1)
        return Pattern(torch.as_tensor(index), self.size)

    def project(self, field: Field) -> Array:
        """Project a field in separated form onto this space, by least squares in each variable.

        Return the coefficients, shape (unknowns, functions of x, functions of y).
        """
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

    def places(self, rules: Sequence[Rule] = RULES, face: Face = ()) -> list[Places]:
        """Return the quadrature points of x and of y, with basis functions.

        `rules` has one quadrature rule per variable. If a variable is fixed on `face`, its only
        point is the fixed value.
        """
        fixed = dict(face)
        pairs = zip(self.axes, rules, strict=True)
        return [axis.places(rule, fixed.get(number)) for number, (axis, rule) in enumerate(pairs)]

    @property
    def work(self) -> float:
        """Number of multiplications of one factorisation of the normal equations."""
        _, x, y = self.shape
        is_cyclic = any(axis.periodic for axis in self.axes)
        width = DEGREE * min(x, y) * self.unknowns * (1 + is_cyclic)
        return float(self.size) * width**2

    def evaluate(self, coefficients: Array, x: Array, y: Array, index: Sequence[int] = ()) -> Array:
        """Evaluate a derivative of one unknown on the tensor grid of points `x` and `y`.

        `coefficients` has the shape (functions of x, functions of y); `index` is the order of the
        derivative in each variable. The result has the shape (points of x, points of y).
        """
        first, second = (*index, 0, 0)[:2]
        along = self.axes[0].evaluate(coefficients, x, first)
        return self.axes[1].evaluate(along.T, y, second).T

    def moved(self, coefficients: Array, axes: Sequence[Space]) -> Array:
        """Return the coefficients of the same functions on other axes, by least squares."""
        for number, (old, new) in enumerate(zip(self.axes, axes, strict=True), 1):
            if new is old:
                continue
            along = np.moveaxis(coefficients, number, 0)

            def values(x: Array, old: Space = old, along: Array = along) -> Array:
                return old.evaluate(along, x).reshape(len(x), -1)

            found = new.project(values, 0).reshape(new.functions, *along.shape[1:])
            coefficients = np.moveaxis(found, 0, number)
        return coefficients


class TensorProblem(Problem):
    """Least squares problem of a system on tensor products of splines.

    Args:
        space: Space of the unknown functions.
        patches: Equations and conditions on tensor grids.
        start: Initial coefficients in the shape of `TensorSpace.index`; None for zeros.
    """

    def __init__(
        self, space: TensorSpace, patches: Sequence[Patch], start: Array | None = None
    ) -> None:
        self.space, self.patches = space, list(patches)
        self.unknowns = torch.zeros(space.size, dtype=torch.float64)
        if start is not None:
            self.unknowns[torch.as_tensor(space.index)] = torch.as_tensor(start)

    def coefficients(self, unknowns: Tensor) -> Array:
        """Return the coefficients in a vector, shape (unknowns, functions of x, functions of y)."""
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
    rules: Sequence[Rule] = RULES,
    solution: Field | None = None,
    equations: Sequence[Relation] | None = None,
    condition_weight: float = CONDITION_WEIGHT,
) -> list[Patch]:
    """Return the equations and conditions of a system as patches, on tensor grids of points.

    Periodic conditions are left out, because the splines in `space` satisfy them.

    Args:
        rows: Collocation of the system.
        space: Space of the unknown functions.
        rules: Quadrature rules of both variables, in each interval.
        solution: Approximate solution from which the units of the residuals are computed, or None.
        equations: Equations to use instead of those of the system.
        condition_weight: Weight of the conditions, relative to the equations.
    """
    system = rows.system
    found = list[tuple[Block, list[Places]]]()
    inside = space.places(rules)
    for relation in system.equations if equations is None else equations:
        found.append((block_at("equation", relation, inside), inside))
    for condition in system.conditions:
        for face in condition.faces:
            places = space.places(rules, face)
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
    """Convert a block on the tensor grid of `places` to a patch.

    Args:
        block: Block from `block_at`.
        places: Points of x and of y, with their basis functions.
        pattern: For each cell, the positions of its coefficients in the vector of coefficients.
        offsets: Values of the derivatives of the offset by name, shape (points,).
    """
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
    """Return a relation on the tensor grid of `places`, the points of x and of y, as a block."""
    x, y = places
    at = np.broadcast_arrays(x.at[:, None, :, None], y.at[None, :, None, :])
    shares = (x.shares[:, None, :, None] * y.shares[None, :, None, :]).ravel()
    columns = [each.ravel() for each in at][: len(relation.vocabulary.variables)]
    points = torch.as_tensor(np.stack(columns, axis=1))
    return Block(kind, relation, points, shares=torch.as_tensor(shares * len(shares)))


def is_direct(system: System) -> bool:
    """Return whether a system can be solved on tensor products of splines.

    The system must have at most two variables, no unknown parameters and no observations. If there
    are conditions that are periodic in a variable, they must contain each unknown and all its
    derivatives with respect to this variable below the highest order in the equations.
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


def tensor_residuals(parts: Sequence[Patch], vector: Array, factor: float = 1.0) -> Residuals:
    """Summarise the residuals of patches for the coefficients `vector`.

    All residuals are multiplied by `factor`. Each patch has the same weight, whatever its number of
    points.
    """
    scale = factor * sqrt(sum(len(part.points) for part in parts) / max(len(parts), 1))
    every = [(part.points, part.residual(vector) * scale) for part in parts]
    return Residuals.of([(torch.as_tensor(at), torch.as_tensor(left)) for at, left in every])


def tensor_sensitivity(rows: Collocation, solved: TensorProblem, field: Field) -> float:
    """Compute `EquationStage.sensitivity` of a solution by the power method.

    Args:
        rows: Collocation of the system.
        solved: Least squares problem, whose `unknowns` are the solution.
        field: The same solution as a network, from which units are computed.
    """
    space = solved.space
    names = rows.system.vocabulary
    values = [parse_relation(f"{name} = 0", names) for name in names.unknowns]
    problem = TensorProblem(space, patches(rows, space, solution=field))
    blocks = list[ElementRows]()
    inside = space.places()
    vector = solved.unknowns.numpy()
    for relation, quiet in zip(values, QUIET * rows.sizes, strict=True):
        patch = patch_at(block_at("equation", relation, inside), inside, space.pattern(inside))
        size = max(float(np.linalg.norm(patch.residual(vector))), float(quiet))
        blocks.append(replace(patch, scale=patch.scale / size).rows(vector))
    relative = StackedRows(lambda: blocks, space.size)
    return largest_response(problem.linearise(solved.unknowns), relative)
