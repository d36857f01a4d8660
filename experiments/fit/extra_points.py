"""More points of a function where a trained network errs most.

A random sample leaves gaps between the hidden activations and few points near their ends. The
network errs there alone, where neither training nor validation points lie, by a factor that depends
on the seed. A function can be evaluated anywhere: new random points show such places, and the worst
of them join the training points.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from kanrun.engine.training import Plan, Trained, baseline_error, fit, predict
from kanrun.study.build import LearningProblem, joined
from kanrun.study.resources import generator
from kanrun.targets.datasets import draw
from kanrun.targets.datasets import generator as stream

#: Maximum number of points by default.
EXTRA_POINTS = 1000
#: Points of a check; rounds of checks; each adds at most this part of the maximum number.
CHECK_POINTS, ROUNDS = 4000, 4
#: Error on new points over that on training points, up to which both agree.
AGREEING = 2.0
#: Relative error on new points below which more points are not worth their time.
ACCURATE = 1e-12


def add_points(
    problem: LearningProblem, trained: Trained, plan: Plan, most: int, seed: int
) -> tuple[LearningProblem, Trained, float]:
    """Add up to `most` points of the problem's function where `trained` errs most.

    Returns:
        The problem with the points, the network trained on them, and the error on the new points of
        the last check relative to that on the training points.
    """
    target, rng, ratio = problem.dataset.target, stream(seed, "extra"), 1.0
    scale = baseline_error(replace(problem.data, unit=None))
    for number in range(ROUNDS + 1):
        points = draw(target, CHECK_POINTS, rng)
        new = joined(problem, points, only=True).data.train
        squares = (predict(trained.network, new.x) - new.y).square()
        old = problem.data.train
        before = (predict(trained.network, old.x) - old.y).square().mean().sqrt()
        error = float(squares.mean().sqrt())
        ratio = error / max(float(before), torch.finfo().tiny)
        if ratio <= AGREEING or error <= ACCURATE * scale or number == ROUNDS:
            break
        worst = squares.mean(1).argsort(descending=True)[: -(-most // ROUNDS)]
        problem = joined(problem, points.take(np.sort(worst.numpy(force=True))))
        trained = _continued(problem, trained, plan, seed)
    return problem, trained, ratio


def _continued(problem: LearningProblem, trained: Trained, plan: Plan, seed: int) -> Trained:
    """Return the training of the same network from the grid on and with the penalty it has."""
    network, penalty = trained.network, trained.chosen.penalty
    finer = [grid for grid in plan.intervals if grid > (network.intervals or 0)]
    again = replace(
        plan,
        intervals=(network.intervals, *finer) if network.intervals else (),
        starts=1,
        weight=penalty.weight,
        order=penalty.order,
        growth=None,
        stop_early=True,
    )
    more = fit(lambda _: deepcopy(network), problem.data, again, generator(seed, "extra points"))
    return replace(more, stages=trained.stages, seconds=trained.seconds + more.seconds)
