"""Initial guesses of nonlinear equations on tensor products of splines.

If conditions have a large weight far from the solution, Levenberg-Marquardt tends to end in a bad
minimum. Nonlinear equations are therefore solved from several initial guesses, each with a small
weight of the conditions first, and the best result is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

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

#: Weight of conditions, relative to the equation, for the first steps from an initial guess.
LIGHT = 1.0
#: Objective below which no further initial guess is tried, for one variable and for two. A larger
#: value accepts bad minima; a smaller one tries more guesses than necessary.
SMALL_LOSS = 1e-6, 1e-2
#: Largest number of random initial guesses of nonlinear equations in one variable. With more of
#: them a solution is found more often, in more time.
RANDOM = 8
#: Bounds of the standard deviation of random initial guesses, in units of the solution; drawn on a
#: log scale. Larger bounds reach solutions that are further from the smooth initial guess.
SIZES = (0.03, 3.0)


def first_guess(rows: Collocation, space: TensorSpace) -> tuple[Array, int]:
    """Return initial coefficients for the first grid, and the number of steps taken to find them.

    The coefficients are zero for linear equations.
    """
    best = np.zeros(space.shape)
    least = inf
    taken = 0
    if rows.system.is_linear:
        return best, taken
    weights = [
        patches(rows, space, condition_weight=weight) for weight in (LIGHT, CONDITION_WEIGHT)
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
    """Yield initial coefficients of nonlinear equations.

    First come smooth functions that satisfy the conditions, then zeros, then, in one variable, the
    smooth function plus random coefficients.
    """
    smooth = zeros = np.zeros(space.shape)
    for order in sorted({1, rows.system.order}, reverse=True):
        bends = rows.system.bends(order)
        problem = TensorProblem(space, patches(rows, space, equations=bends))
        state, _ = minimise(problem, LM, FINER, DAMPING)
        smooth = problem.coefficients(state.unknowns)
        yield smooth
    yield zeros
    drawn = np.random.default_rng(rows.inside)
    sizes = rows.sizes.numpy()[:, None, None]
    for _ in range(RANDOM if len(rows.system.box) == 1 else 0):
        size = np.exp(drawn.uniform(*np.log(SIZES)))
        yield smooth + size * sizes * drawn.standard_normal(space.shape)
