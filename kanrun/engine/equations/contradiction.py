"""Test for linear equations that have no solution, because the conditions contradict them.

If a solution exists, the residual falls from grid to grid. If the residual stays the same, no
function that satisfies the conditions has a smaller one, because least squares problems of linear
equations have no local minima. The equation is then solved again with a tiny weight of the
conditions; the conditions that this solution violates contradict the equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch
from scipy.linalg import lstsq

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.solution import Contradiction, Correction, EquationStage, Missed
from kanrun.engine.equations.space import Space
from kanrun.engine.equations.system import Array
from kanrun.engine.equations.tensor_splines import (
    CONDITION_WEIGHT,
    TensorProblem,
    TensorSpace,
    patches,
)

#: Largest relative decrease of the residual, in a richer space, at which it counts as steady.
STEADY = 0.01
#: Smallest residual, relative to the terms of the equation, that counts as a contradiction.
SMALLEST_RESIDUAL = 1e-2
#: Distances of additional breakpoints from both ends of a range, relative to its length. These
#: breakpoints resolve boundary layers.
LAYERS = 0.5 ** np.arange(1.0, 24.0)
#: Number of equal intervals to which the breakpoints of boundary layers are added, for equations in
#: one variable and in two.
INTERVALS = (64, 8)
#: Weight of the conditions, relative to the equation, when the solver looks for functions that
#: satisfy the equation alone.
RELEASED = 1e-6
#: With this small weight, the equation counts as satisfied if its residual is at most this fraction
#: of the residual with the full weight of the conditions.
SATISFIED = 0.02
#: Conditions are reported if they are violated by at least this fraction of the largest violation.
NAMED = 0.1


def find_contradiction(
    rows: Collocation, stage: EquationStage, corrections: Sequence[Correction]
) -> Contradiction | None:
    """Test whether the conditions of a linear system contradict its equations.

    Args:
        rows: Collocation of the system, for the units of the residuals.
        stage: Solution on the last grid.
        corrections: Newton steps from this solution in spaces of halved intervals, one per
            variable.

    Returns:
        The contradiction, or None if none was found.
    """
    least = stage.equation.rms
    is_possible = rows.system.is_linear and not rows.system.corners and least >= SMALLEST_RESIDUAL
    if not is_possible or min(each.remaining for each in corrections) < 1 - STEADY:
        return None
    for number in range(len(rows.system.box)):
        space = _with_layers(rows, number)
        if _solved(rows, space, stage.solution, CONDITION_WEIGHT)[1] < (1 - STEADY) * least:
            return None
    problem, left = _solved(rows, space, stage.solution, RELEASED)
    return Contradiction(least, _missed(rows, problem) if left <= SATISFIED * least else ())


def _with_layers(rows: Collocation, layered: int) -> TensorSpace:
    """Return a space with additional breakpoints near both ends of the variable `layered`.

    The breakpoints resolve boundary layers down to a relative width of about 1e-7. If the residual
    stays the same on finer grids only because a boundary layer is narrower than their intervals,
    the residual in this space is smaller.
    """
    system = rows.system
    axes = list[Space]()
    even = np.linspace(0, 1, INTERVALS[len(system.box) - 1] + 1)
    for number, (low, high) in enumerate(system.box.tolist()):
        shares = np.union1d(even, [*LAYERS, *(1 - LAYERS)]) if number == layered else even
        is_periodic = any(each.periodic == number for each in system.conditions)
        axes.append(Space(low + (high - low) * shares, (), is_periodic))
    x, y, *_ = *axes, Space.constant()
    return TensorSpace((x, y), len(system.vocabulary.unknowns))


def _solved(
    rows: Collocation, space: TensorSpace, solution: Field, condition_weight: float
) -> tuple[TensorProblem, float]:
    """Solve the linear system in `space` with the given weight of the conditions.

    An orthogonal factorisation is used, because normal equations are not accurate enough in narrow
    layers.

    Returns:
        The least squares problem, with the solution as its `unknowns`; and the root mean square
        residual of the equations.
    """
    parts = patches(rows, space, solution=solution, condition_weight=condition_weight)
    problem = TensorProblem(space, parts)
    count = len(rows.system.equations)
    zero = problem.unknowns.numpy()
    matrices = list[Array]()
    for each in (part.rows(zero) for part in parts):
        index = each.pattern.index.numpy()[:, None].repeat(each.values.shape[1], axis=1)
        dense = np.zeros((*index.shape[:2], space.size))
        np.put_along_axis(dense, index, each.values.numpy(), axis=2)
        matrices.append(dense.reshape(-1, space.size))
    matrix = np.concatenate(matrices)
    sizes = np.linalg.norm(matrix, axis=0)
    right = -problem.residual(problem.unknowns).numpy()
    found = lstsq(matrix / sizes, right, lapack_driver="gelsy")[0] / sizes
    problem.unknowns = torch.as_tensor(found)
    squares = sum(float(np.sum(each.residual(found) ** 2)) for each in parts[:count])
    return problem, sqrt(squares / count)


def _missed(rows: Collocation, problem: TensorProblem) -> tuple[Missed, ...]:
    """Return the conditions that the solution of `problem` violates most."""
    vector = problem.unknowns.numpy()
    parts = problem.patches[len(rows.system.equations) :]
    faces = ((each.relation, face) for each in rows.system.conditions for face in each.faces)
    found = [
        Missed(relation.text, face, float(np.abs(relation.residual(part.arguments(vector))).max()))
        for (relation, face), part in zip(faces, parts, strict=True)
    ]
    largest = max((each.difference for each in found), default=0.0)
    return tuple(each for each in found if each.difference >= NAMED * largest)
