"""The weight of the smoothness penalty, chosen on validation data.

Around a trained network the model is nearly linear, so one Gauss-Newton step from there shows what another weight
would lead to: the data's triangle is factorised once, every weight costs one small factorisation more.
"""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor

from kanrun.engine.networks import Network, get_unknowns, set_unknowns
from kanrun.engine.training.damped import Triangle
from kanrun.engine.training.data import TrainingData, measure
from kanrun.engine.training.lm import LevenbergMarquardt

#: Weights are tried in steps of this factor.
FACTOR = 100.0
#: A weight must lower the validation error by this share to be taken.
WORTH = 0.02
#: Tries without improvement after which a direction is given up.
MISSES = 2
SMALLEST, LARGEST = 1e-34, 1e-2
#: Damping of the scan's steps: only what rounding needs.
DAMPING = 1e-13


def choose_weight(
    network: Network, solver: LevenbergMarquardt, data: TrainingData, weight: float
) -> tuple[Network, float]:
    """The network one step towards the best weight found around `weight`, and that weight; `network` stays as it is.

    Lower weights are tried first, higher ones only where no lower one helped.
    """
    if solver.smoothness is None or solver.smoothness.shape[0] == 0:
        return network, weight
    triangle, start, trial = Triangle(solver.data_pieces()), get_unknowns(network), deepcopy(network)
    best, chosen, error = deepcopy(network), weight, measure(network, data).selected
    for factor in (1 / FACTOR, FACTOR):
        missed, tried = 0, weight * factor
        while missed < MISSES and SMALLEST <= tried <= LARGEST:
            moved = _stepped(triangle, solver, tried, start)
            missed += 1
            if moved is not None:
                set_unknowns(trial, moved)
                reached = measure(trial, data).selected
                if reached < (1 - WORTH) * error:
                    best, chosen, error, missed = deepcopy(trial), tried, reached, 0
            tried *= factor
        if chosen < weight:
            break
    return best, chosen


def _stepped(triangle: Triangle, solver: LevenbergMarquardt, weight: float, start: Tensor) -> Tensor | None:
    assert solver.smoothness is not None
    rows = solver.smoothness * weight**0.5
    step = triangle.with_rows(rows[:, solver.free], rows @ start).solve(DAMPING)
    if step is None:
        return None
    moved = start.clone()
    moved[solver.free] += step
    return moved
