"""Estimate of the error of a solution on tensor products of splines.

The error is estimated by one Newton step in a richer space of splines, in which the intervals of
one variable are halved. The residual at the Gauss points of that space, which were not used for
fitting, shows where intervals should be halved.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.fields import Field
from kanrun.engine.equations.solution import Correction
from kanrun.engine.equations.space import GAUSS, RICHER_GAUSS
from kanrun.engine.equations.system import Array
from kanrun.engine.equations.tensor_splines import (
    CONDITION_WEIGHT,
    DAMPING,
    QUIET,
    TensorProblem,
    TensorSpace,
    patches,
    tensor_residuals,
)
from kanrun.engine.least_squares import NormalEquations


def correction(rows: Collocation, solved: TensorProblem, number: int, field: Field) -> Correction:
    """Halve the intervals of one variable, and take one Newton step from a solution.

    Args:
        rows: Collocation of the system.
        solved: Least squares problem, whose `unknowns` are the solution.
        number: Index of the variable whose intervals are halved.
        field: The solution as a network, from which the units of the residuals are computed.
    """
    coarse = solved.space
    x, y = (axis.halved if i == number else axis for i, axis in enumerate(coarse.axes))
    space = TensorSpace((x, y), coarse.unknowns)
    start = coarse.moved(solved.coefficients(solved.unknowns), space.axes)
    rules = [RICHER_GAUSS if i == number else GAUSS for i in range(2)]
    parts = patches(rows, space, rules, field)
    problem = TensorProblem(space, parts, start)
    equations = NormalEquations(problem.linearise(problem.unknowns))
    move = -equations.solver(DAMPING)(equations.gradient)
    inside = parts[: len(rows.system.equations)]
    before = problem.unknowns.numpy()
    residuals = tensor_residuals(inside, before)
    after = tensor_residuals(inside, (problem.unknowns + move).numpy())
    return Correction(
        np.concatenate([part.points[:, number] for part in inside]),
        np.concatenate([part.residual(before) ** 2 for part in inside]),
        relative_size(rows, solved, space, problem.coefficients(move)),
        residuals,
        tensor_residuals(parts[len(inside) :], before, CONDITION_WEIGHT**-0.5),
        after.rms / (residuals.rms or 1.0),
    )


def relative_size(
    rows: Collocation, solved: TensorProblem, space: TensorSpace, change: Array
) -> float:
    """Return the relative size of a change of a solution, for the unknown that changes most.

    Args:
        rows: Collocation of the system, for the estimated sizes of the unknowns.
        solved: Least squares problem, whose `unknowns` are the solution.
        space: Space of the change.
        change: Coefficients of the change in `space`.

    Returns:
        Root mean square of the change, divided by that of the unknown.
    """
    solution = solved.coefficients(solved.unknowns)
    gauss = [axis.gauss for axis in space.axes]
    x_at, y_at = (places.at.ravel() for places in gauss)
    x, y = (places.shares.ravel() for places in gauss)
    largest = 0.0
    for unknown, quiet in enumerate(QUIET * rows.sizes.numpy()):
        values = solved.space.evaluate(solution[unknown], x_at, y_at)
        moved = space.evaluate(change[unknown], x_at, y_at)
        size = max(sqrt(x @ np.square(values) @ y), float(quiet))
        largest = max(largest, sqrt(x @ np.square(moved) @ y) / size)
    return largest
