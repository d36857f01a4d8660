"""Spectral reference solutions: Chebyshev polynomials fitted to a linear system.

Where equations and conditions are linear in the unknowns and the fit has full rank, what two
resolutions agree on is the solution. Corners, layers or kinks that polynomials of these degrees do
not hold have no such reference. Source: rectangular collocation (Driscoll and Hale 2016), here with
more points than unknowns.
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

from kanrun.engine.equations import Block, System
from kanrun.engine.equations.residuals import condition_blocks, with_units
from kanrun.engine.equations.system import low_discrepancy
from kanrun.formulas import variable
from kanrun.formulas.equations import Relation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CollocationPolicy:
    """Resolutions by the number of variables, and tolerances."""

    sizes: tuple[tuple[int, ...], ...] = (
        (24, 48, 96),
        (16, 24, 32),
        (7, 9, 11),
    )  #: functions of each variable
    oversampling: float = 1.4  #: points of each variable, of its functions
    weight: float = 1e4  #: of a condition's mean squared residual
    agreement: float = (
        3e-5  #: relative difference of two resolutions at most, at `points` random points
    )
    points: int = 2000
    largest: int = 1400  #: coefficients in all


def collocated(
    system: System, policy: CollocationPolicy = CollocationPolicy()
) -> Callable[[Array], Array] | None:
    """Return a function from points (points, variables) to (points, unknowns), or None."""
    relations = [*system.equations, *(each.relation for each in system.conditions)]
    if system.vocabulary.constants or system.observations or not all(map(_linear, relations)):
        return None
    points, variables, before = (
        low_discrepancy(system.box, policy.points, 0).numpy(),
        len(system.box),
        None,
    )
    for size in policy.sizes[variables - 1]:
        if size**variables * len(system.vocabulary.unknowns) > policy.largest:
            return None
        solution = _fitted(system, size, policy)
        values = None if solution is None else solution(points)
        if solution is None or values is None or not np.isfinite(values).all():
            return None
        if (
            before is not None
            and np.abs(values - before).max() <= policy.agreement * np.abs(values).max()
        ):
            return solution
        before = values
    return None


def _linear(relation: Relation) -> bool:
    names = [variable(each.name) for each in relation.derivatives]
    return not any(sympy.diff(relation.expression, name).has(*names) for name in names)


def _fitted(
    system: System, size: int, policy: CollocationPolicy
) -> Callable[[Array], Array] | None:
    """Fit `size` polynomials per variable; return None if other functions fit as well."""
    box, unknowns, each = (
        system.box.numpy(),
        len(system.vocabulary.unknowns),
        int(policy.oversampling * size) + 2,
    )
    nodes = -np.cos(np.pi * (np.arange(each) + 0.5) / each)
    places = [low + (nodes + 1) / 2 * (high - low) for low, high in box]
    inside = torch.as_tensor(
        np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, len(box))
    )
    blocks = [Block("equation", relation, inside) for relation in system.equations]
    blocks += condition_blocks(system, each ** (len(box) - 1), policy.weight)
    rows, right = list[Array](), list[Array]()
    for block in with_units(blocks, system, torch.ones(unknowns, dtype=torch.float64)):
        matrix, left = _rows(block.relation, block.points.numpy(), box, size, unknowns)
        if block.partner is not None:
            other, there = _rows(block.relation, block.partner.numpy(), box, size, unknowns)
            matrix, left = matrix - other, left - there
        rows.append(matrix * block.scale)
        right.append(-left * block.scale)
    matrix = np.concatenate(rows)
    found, _, rank, _ = linalg.lstsq(
        matrix, np.concatenate(right), lapack_driver="gelsy", cond=1e-13
    )
    if rank < matrix.shape[1]:
        return None
    coefficients = found.reshape(unknowns, -1)
    return lambda points: np.asarray(
        _functions(points, box, size, (0,) * len(box)) @ coefficients.T
    )


def _rows(
    relation: Relation, points: Array, box: Array, size: int, unknowns: int
) -> tuple[Array, Array]:
    """Return the derivatives of left - right by the coefficients, and its value at zero."""
    zeros = np.concatenate([points, np.zeros((len(points), len(relation.derivatives)))], axis=1)
    slopes, matrix = relation.slopes(zeros), np.zeros((len(points), unknowns, size ** len(box)))
    for column, each in enumerate(relation.derivatives):
        matrix[:, each.unknown] += slopes[:, column, None] * _functions(
            points, box, size, each.index
        )
    return matrix.reshape(len(points), -1), relation.residual(zeros)


def _functions(points: Array, box: Array, size: int, index: Sequence[int]) -> Array:
    """Return derivatives of all products of polynomials, shape (points, size ** variables)."""
    product = np.ones((len(points), 1))
    for column, (low, high), order in zip(points.T, box, index, strict=True):
        t = (2 * column - low - high) / (high - low)
        each = chebyshev.chebder(np.eye(size), order) if order else np.eye(size)
        values = chebyshev.chebval(t, each).T * (2 / (high - low)) ** order
        product = np.einsum("pa,pb->pab", product, values).reshape(len(points), -1)
    return product
