"""Starts of nonlinear equations on tensor products of splines.

Levenberg-Marquardt ends in a bad minimum where it begins with heavy conditions far from the
solution. Every start is therefore minimised with light conditions first, and the best one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np

from kanrun.engine.equations.collocation import Collocation
from kanrun.engine.equations.space import Array
from kanrun.engine.equations.tensor_splines import (
    CONDITION_WEIGHT,
    Rule,
    TensorProblem,
    TensorSpace,
    patches,
)
from kanrun.engine.least_squares import LMPolicy, StoppingCriteria, minimise
from kanrun.formulas.equations import parse_relation
from kanrun.monitoring import time_limit_reached

#: Damping of the first step of nonlinear equations from a start, and of all others.
NONLINEAR_DAMPING, DAMPING = 1e-6, 1e-18
LM = LMPolicy(min_damping=DAMPING, damping_search=False, max_trials=30)
#: Steps end where the objective falls by less than `rtol`: from a start, and near a solution.
FIRST = StoppingCriteria(max_steps=60, rtol=1e-3, patience=3)
FINER = StoppingCriteria(max_steps=8, rtol=1e-2, patience=1)
#: Weight of conditions at first.
LIGHT = 1.0
#: Mean squared residual below which no further start is tried, in one variable and in two. Blasius'
#: equation from 0 to 10 has 2e-7 at its solution on 8 intervals, and a bad minimum at 2e-3.
SMALL_LOSS = 1e-6, 1e-2
#: Random starts in one variable, and bounds of their size in units of the solution.
RANDOM, SIZES = 8, (0.03, 3.0)


def first_guess(rows: Collocation, space: TensorSpace, rule: Rule) -> Array:
    """Return the coefficients that the first grid starts from: zeros for linear equations."""
    best, least = np.zeros(space.shape), inf
    if rows.system.is_linear:
        return best
    weights = [
        patches(rows, space, rule, condition_weight=weight) for weight in (LIGHT, CONDITION_WEIGHT)
    ]
    for start in _starts(rows, space, rule):
        found, loss = start, inf
        for parts in weights:
            problem = TensorProblem(space, parts, found)
            state, _ = minimise(problem, LM, FIRST, [NONLINEAR_DAMPING], ended=time_limit_reached)
            found, loss = problem.coefficients(state.unknowns), float(state.loss[0])
        if loss < least:
            best, least = found, loss
        if least <= SMALL_LOSS[len(rows.system.box) - 1] or time_limit_reached():
            break
    return best


def _starts(rows: Collocation, space: TensorSpace, rule: Rule) -> Iterator[Array]:
    """Yield the smoothest functions of the conditions, zeros, and random ones in one variable."""
    zeros, vocabulary = np.zeros(space.shape), rows.system.vocabulary
    smooth = zeros
    for order in sorted({1, rows.system.order}, reverse=True):
        names = [f"{u}_{x * order}" for u in vocabulary.unknowns for x in vocabulary.variables]
        bends = [parse_relation(f"{name} = 0", vocabulary) for name in names]
        problem = TensorProblem(space, patches(rows, space, rule, equations=bends), zeros)
        state, _ = minimise(problem, LM, FINER, [DAMPING])
        smooth = problem.coefficients(state.unknowns)
        yield smooth
    yield zeros
    drawn, sizes = np.random.default_rng(rows.inside), rows.sizes.numpy()[:, None, None]
    for _ in range(RANDOM if len(rows.system.box) == 1 else 0):
        size = np.exp(drawn.uniform(*np.log(SIZES)))
        yield smooth + size * sizes * drawn.standard_normal(space.shape)
