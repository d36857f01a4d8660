"""Initial guesses of nonlinear equations on tensor products of splines.

If the conditions have a large weight while the coefficients are far from the solution,
Levenberg-Marquardt tends to end in a bad minimum. In the first steps, their weight is therefore
small.
"""

from __future__ import annotations

import numpy as np

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.system import Array
from kanrun.engine.equations.tensor_splines import (
    CONDITION_WEIGHT,
    DAMPING,
    FINER,
    FIRST,
    LM,
    NONLINEAR_DAMPING,
    TensorProblem,
    TensorSpace,
    patches,
)
from kanrun.engine.least_squares import minimise
from kanrun.monitoring import time_limit_reached

#: Weight of conditions, relative to the equation, in the first steps from an initial guess.
LIGHT = 1.0


def first_guess(rows: Collocation, space: TensorSpace) -> tuple[Array, int]:
    """Return initial coefficients for the first grid, and the number of steps taken to find them.

    For linear equations, the coefficients are zero. For nonlinear ones, the steps start from the
    smoothest function that satisfies the conditions, whose highest derivatives have the smallest
    mean square.
    """
    coefficients = np.zeros(space.shape)
    taken = 0
    if rows.system.is_linear:
        return coefficients, taken
    bends = rows.system.bends(rows.system.order)
    smooth = patches(rows, space, equations=bends)
    light, heavy = (
        patches(rows, space, condition_weight=weight) for weight in (LIGHT, CONDITION_WEIGHT)
    )
    for parts, stopping in ((smooth, FINER), (light, FIRST), (heavy, FIRST)):
        problem = TensorProblem(space, parts, coefficients)
        damping = DAMPING if parts is smooth else NONLINEAR_DAMPING
        state, steps = minimise(problem, LM, stopping, damping, ended=time_limit_reached)
        taken += steps
        coefficients = problem.coefficients(state.unknowns)
    return coefficients, taken
