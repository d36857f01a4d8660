"""A spectral solution to compare with: Chebyshev polynomials on the box, fitted to a linear system by least squares.

Where equations and conditions are linear in the unknowns and the fit has full rank, what two resolutions agree on is
the solution. Corners, layers or kinks that polynomials of these degrees do not hold have no such reference.
Source: rectangular collocation (Driscoll and Hale 2016), here with more points than unknowns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import sympy
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import linalg

from kanrun.engine.equations import System
from kanrun.engine.equations.system import on_face, unit_of
from kanrun.formulas.equations import Relation
from kanrun.formulas.parsing import variable

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CollocationPolicy:
    """Resolutions by the number of variables, and what counts as one solution."""

    sizes: tuple[tuple[int, ...], ...] = ((24, 48, 96), (16, 24, 32), (7, 9, 11))  #: functions of each variable
    oversampling: float = 1.4  #: points of each variable, of its functions
    weight: float = 100.0  #: of a condition's residual
    agreement: float = 3e-5  #: relative difference of two resolutions at most, at `points` random points
    points: int = 2000
    largest: int = 1400  #: coefficients in all


def collocated(system: System, policy: CollocationPolicy = CollocationPolicy()) -> Callable[[Array], Array] | None:
    """The solution at points (points, variables) as values (points, unknowns); None where this method has none."""
    relations = [*system.equations, *(each.relation for each in system.conditions)]
    if system.vocabulary.constants or system.measured or not all(map(_linear, relations)):
        return None
    box = system.box.numpy()
    drawn = np.random.default_rng(0).random((policy.points, len(box)))
    points, before = box[:, 0] + drawn * (box[:, 1] - box[:, 0]), None
    for size in policy.sizes[len(box) - 1]:
        if size ** len(box) * len(system.vocabulary.unknowns) > policy.largest:
            return None
        solution = _Collocation(system, size, policy).solved()
        if solution is None:
            return None
        values = solution(points)
        if not np.isfinite(values).all():
            return None
        if before is not None and np.abs(values - before).max() <= policy.agreement * np.abs(values).max():
            return solution
        before = values
    return None


def _linear(relation: Relation) -> bool:
    names = [variable(each.name) for each in relation.derivatives]
    return not any(sympy.diff(relation.expression, name).has(*names) for name in names)


class _Collocation:
    """The system in the coefficients (unknowns, size, ..., size)."""

    def __init__(self, system: System, size: int, policy: CollocationPolicy) -> None:
        self.system, self.size, self.policy = system, size, policy
        self.box = system.box.numpy()
        self.unknowns = len(system.vocabulary.unknowns)

    def solved(self) -> Callable[[Array], Array] | None:
        """The fit; None where other functions fit as well."""
        each = int(self.policy.oversampling * self.size) + 2
        nodes = -np.cos(np.pi * (np.arange(each) + 0.5) / each)
        places = [low + (nodes + 1) / 2 * (high - low) for low, high in self.box]
        inside = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, len(self.box))
        rows, right = list[Array](), list[Array]()
        for relation in self.system.equations:
            self._add(rows, right, relation, inside, None, 1.0)
        count = max(each, 2) ** (len(self.box) - 1)
        for condition in self.system.conditions:
            if condition.periodic is None:
                for face in condition.faces:
                    points = on_face(face, self.system.box, count).numpy()
                    self._add(rows, right, condition.relation, points, None, self.policy.weight)
            else:
                low, high = (
                    on_face(((condition.periodic, float(end)),), self.system.box, count).numpy()
                    for end in self.box[condition.periodic]
                )
                self._add(rows, right, condition.relation, low, high, self.policy.weight)
        matrix = np.concatenate(rows)
        found, _, rank, _ = linalg.lstsq(matrix, np.concatenate(right), lapack_driver="gelsy", cond=1e-13)
        if rank < matrix.shape[1]:
            return None
        coefficients = found.reshape(self.unknowns, -1)
        zero = (0,) * len(self.box)
        return lambda points: np.asarray(self._functions(points, zero) @ coefficients.T)

    def _add(
        self, rows: list[Array], right: list[Array], relation: Relation, points: Array, partner: Array | None,
        weight: float,
    ) -> None:  # fmt: skip
        unit = unit_of(relation, self.system, torch.ones(self.unknowns, dtype=torch.float64), torch.as_tensor(points))
        matrix, left = self._linear_rows(relation, points)
        if partner is not None:
            other, there = self._linear_rows(relation, partner)
            matrix, left = matrix - other, left - there
        scale = weight / unit / len(points) ** 0.5
        rows.append(matrix * scale)
        right.append(-left * scale)

    def _linear_rows(self, relation: Relation, points: Array) -> tuple[Array, Array]:
        """The derivatives of left - right by the coefficients, and its value for zero unknowns."""
        zeros = np.concatenate([points, np.zeros((len(points), len(relation.derivatives)))], axis=1)
        slopes, size = relation.slopes(zeros), self.size ** len(self.box)
        matrix = np.zeros((len(points), self.unknowns * size))
        for column, each in enumerate(relation.derivatives):
            part = slopes[:, column, None] * self._functions(points, each.index)
            matrix[:, each.unknown * size : (each.unknown + 1) * size] += part
        return matrix, relation.residual(zeros)

    def _functions(self, points: Array, index: Sequence[int]) -> Array:
        """The derivatives of all products of polynomials at points, (points, size ** variables)."""
        product = np.ones((len(points), 1))
        for column, (low, high), order in zip(points.T, self.box, index, strict=True):
            t = (2 * column - low - high) / (high - low)
            each = chebyshev.chebder(np.eye(self.size), order) if order else np.eye(self.size)
            values = chebyshev.chebval(t, each).T * (2 / (high - low)) ** order
            product = np.einsum("pa,pb->pab", product, values).reshape(len(points), -1)
        return product
