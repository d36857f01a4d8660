"""After training on a function, add points where the error is large, and report kinks and jumps.

A random sample leaves gaps between the values of the hidden activations, and few values near the
ends of their ranges. In these gaps, where neither training nor validation points lie, the error can
be large, by an amount that depends on the seed. Because a function can be evaluated anywhere, new
random points reveal the gaps, and the points with the largest errors are added to the training
points. More points do not help where the function itself is not smooth.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from kanrun.engine.training import Plan, Trained, baseline_error, fit, predict
from kanrun.model.planning import LearningProblem, joined
from kanrun.points import Array, deviation
from kanrun.runs.records import Note
from kanrun.study.resources import generator
from kanrun.targets.datasets import Dataset, draw, shown
from kanrun.targets.datasets import generator as stream
from kanrun.targets.smoothness import rough_places

from .config import FitConfig

#: Default maximum number of added points.
EXTRA_POINTS = 1000
#: Number of new random points on which each check measures the error.
CHECK_POINTS = 4000
#: Largest number of rounds. Each round adds at most 1 / ROUNDS of the maximum number of points.
ROUNDS = 4
#: A further round follows if the error on new points is more than this multiple of the first
#: training error, or if the last round reduced the error on new points by more than this factor.
AGREEING = 2.0
#: Relative error on new points below which no more points are added.
ACCURATE = 1e-12
#: Kinks are searched for near this many test points, those with the largest errors.
LARGEST_ERRORS = 16
#: Words in notes for a place at which a function is not smooth.
NOT_SMOOTH = "a kink, a jump or an infinite slope"


def most_extra_points(cfg: FitConfig, grows: bool) -> int:
    """Return the largest number of points that may be added to the training points.

    The default is 0 if the number of training points was set, if there is noise, or if the network
    does not grow.
    """
    if cfg.extra_points is not None:
        return cfg.extra_points
    as_needed = cfg.sampling.n_train is None and not cfg.sampling.noise
    return EXTRA_POINTS if grows and as_needed else 0


def insertion_notes(problem: LearningProblem, trained: Trained) -> Iterator[Note]:
    """Yield a note for each input whose grid received additional knots.

    The note names the narrowest interval with such knots, and says whether the function has a kink
    or a jump there.
    """
    kinks = [stage.transfer.kink for stage in trained.stages if stage.transfer.kink]
    for i in dict.fromkeys(kink[0] for kink in kinks):
        ends = min((kink[1:] for kink in kinks if kink[0] == i), key=lambda one: one[1] - one[0])
        x = np.zeros((2, problem.inputs))
        x[:, i] = ends
        low, high = problem.dataset.input_scaling.invert(x)[:, i]
        points = problem.dataset.train.x[:LARGEST_ERRORS].copy()
        points[:, i] = (low + high) / 2
        rough = 2 * len(_rough_places(problem.dataset, points)) > len(points)
        yield Note(
            f"knots were inserted at {problem.dataset.target.inputs[i]} = {low:.4g} to {high:.4g}, "
            f"where {f'the function has {NOT_SMOOTH}' if rough else 'most of the error was'}"
        )


def _rough_places(dataset: Dataset, points: Array) -> Array:
    """Return the locations near `points` at which the function is not smooth, (count, inputs).

    The result is empty if the target is a table, which has no function to examine.
    """
    target = dataset.target
    if target.function is None:
        return points[:0]
    sizes = deviation(dataset.train.y)
    sizes = np.where(sizes > 0, sizes, 1.0)
    places = rough_places(target.function, points, target.domain, sizes)
    return places[~np.isnan(places).any(axis=1)]


def kink_notes(problem: LearningProblem, trained: Trained) -> Iterator[Note]:
    """Yield a note if most of the largest test errors are where the function is not smooth.

    This is checked on the function itself, because the errors of a network may be concentrated for
    other reasons.
    """
    dataset = problem.dataset
    test = problem.data.test
    if test is None or dataset.test is None:
        return
    squares = (predict(trained.network, test.x) - test.y).square().sum(1)
    accurate = ACCURATE * baseline_error(replace(problem.data, unit=None))
    if float(squares.mean().sqrt()) <= accurate:
        return
    worst = dataset.test.x[squares.argsort(descending=True)[:LARGEST_ERRORS].numpy(force=True)]
    rough = _rough_places(dataset, worst)
    if 2 * len(rough) > len(worst):
        yield Note(
            f"the largest errors are close to {NOT_SMOOTH} of the function, which limits the "
            f"accuracy: {shown(rough[0], dataset.target.inputs)}"
        )


def add_points(
    problem: LearningProblem, trained: Trained, plan: Plan, most: int, seed: int
) -> tuple[LearningProblem, Trained, float]:
    """Add up to `most` samples of the problem's function where the errors of `trained` are largest.

    Points are added in at most ROUNDS rounds, and the network is trained again in each. A round
    follows if the error on new points is more than twice the first training error, or if the last
    round more than halved the error on new points. Later training errors are not used, because the
    added points are those with the largest residuals.

    Returns:
        The problem and the trained network of the round with the lowest error on new points, and
        that error divided by the first training error.
    """
    target = problem.dataset.target
    rng = stream(seed, "extra")
    data = problem.data.train
    first = float((predict(trained.network, data.x) - data.y).square().mean().sqrt())
    accurate = ACCURATE * baseline_error(replace(problem.data, unit=None))
    rounds: list[tuple[float, LearningProblem, Trained]] = []
    while True:
        points = draw(target, CHECK_POINTS, rng)
        new = joined(problem, points, only=True).data.train
        squares = (predict(trained.network, new.x) - new.y).square()
        rounds.append((float(squares.mean().sqrt()), problem, trained))
        if not more_points_help([error for error, *_ in rounds], first, accurate):
            break
        worst = squares.mean(1).argsort(descending=True)[: -(-most // ROUNDS)]
        problem = joined(problem, points.take(np.sort(worst.numpy(force=True))))
        trained = _continued(problem, trained, plan, seed)
    error, problem, trained = min(rounds, key=lambda entry: entry[0])
    return problem, trained, error / max(first, torch.finfo().tiny)


def more_points_help(errors: list[float], first: float, accurate: float) -> bool:
    """Return whether to add another round of points.

    Args:
        errors: RMSE on new points before each round so far.
        first: Training RMSE before points were added.
        accurate: RMSE at which the network is accurate enough.
    """
    last = errors[-1]
    helped = len(errors) > 1 and errors[-1] < errors[-2] / AGREEING
    return len(errors) <= ROUNDS and last > accurate and (helped or last > AGREEING * first)


def _continued(problem: LearningProblem, trained: Trained, plan: Plan, seed: int) -> Trained:
    """Continue training the network on the points of `problem`.

    Training starts with the network's current grid and penalty, and then continues on the finer
    grids of `plan`.
    """
    network = trained.network
    penalty = trained.chosen.penalty
    finer = [grid for grid in plan.intervals if grid > (network.intervals or 0)]
    again = replace(
        plan,
        intervals=(network.intervals, *finer) if network.intervals else (),
        starts=1,
        first_weight=penalty.weight,
        order=penalty.order,
        growth=None,
        stop_early=True,
    )
    more = fit(lambda _: deepcopy(network), problem.data, again, generator(seed, "extra points"))
    inserted = [stage for stage in more.stages if stage.transfer.kink]
    stages = [*trained.stages, *inserted]
    seconds = trained.seconds + more.seconds
    return replace(more, stages=stages, seconds=seconds)
