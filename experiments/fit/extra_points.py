"""What follows a training on a function: more points where the network errs, and rough places.

A random sample leaves gaps between the hidden activations and few points near their ends. The
network errs there alone, where neither training nor validation points lie, by a factor that depends
on the seed. A function can be evaluated anywhere: new random points show such places, and the worst
of them join the training points. Where the function itself is not smooth, no network does better.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from kanrun.config import FitConfig
from kanrun.engine.training import Plan, Trained, baseline_error, fit, predict
from kanrun.points import Array
from kanrun.runs.records import Note
from kanrun.study.build import LearningProblem, joined
from kanrun.study.resources import generator
from kanrun.targets import Dataset, deviation
from kanrun.targets.datasets import draw, shown
from kanrun.targets.datasets import generator as stream
from kanrun.targets.smoothness import rough_places

#: Largest number of points that join by default.
EXTRA_POINTS = 1000
#: Random points of a check, among which the worst are looked for.
CHECK_POINTS = 4000
#: Largest number of checks; each adds at most this fraction of the maximum number of points.
ROUNDS = 4
#: Error on new points divided by that on the first training points up to which both agree. Another
#: round follows one that lowered the error on new points by this factor.
AGREEING = 2.0
#: Relative error on new points below which more points are not worth their time.
ACCURATE = 1e-12
#: Number of test points with the largest errors, close to which kinks are looked for.
LARGEST_ERRORS = 16
#: What is said of a place at which a function is not smooth.
NOT_SMOOTH = "a kink, a jump or an infinite slope"


def most_extra_points(cfg: FitConfig, grows: bool) -> int:
    """Return the maximum number of further points; a given number of training points stays."""
    if cfg.extra_points is not None:
        return cfg.extra_points
    as_needed = cfg.sampling.n_train is None and not cfg.sampling.noise
    return EXTRA_POINTS if grows and as_needed else 0


def insertion_notes(problem: LearningProblem, trained: Trained) -> Iterator[Note]:
    """Say where knots were inserted: for each input the narrowest interval."""
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
    """Return places close to `points` at which the function is not smooth; none of a table."""
    target = dataset.target
    if target.function is None:
        return points[:0]
    sizes = deviation(dataset.train.y)
    sizes = np.where(sizes > 0, sizes, 1.0)
    places = rough_places(target.function, points, target.domain, sizes)
    return places[~np.isnan(places).any(axis=1)]


def kink_notes(problem: LearningProblem, trained: Trained) -> Iterator[Note]:
    """Say where a function is not smooth, if most of the largest errors on test points are there.

    The function itself is examined there, since errors of any network may be concentrated.
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
    """Add up to `most` points of the problem's function where `trained` errs most.

    Points are added while this halves the error on new points, and until the network is as accurate
    there as it first was on its training points. The error on points that joined says little, since
    they have the largest residuals.

    Returns:
        The problem with the points and the network trained on them that is most accurate on new
        points, and its error there relative to that first training error.
    """
    target = problem.dataset.target
    rng = stream(seed, "extra")
    data = problem.data.train
    first = float((predict(trained.network, data.x) - data.y).square().mean().sqrt())
    accurate = ACCURATE * baseline_error(replace(problem.data, unit=None))
    found: list[tuple[float, LearningProblem, Trained]] = []
    while True:
        points = draw(target, CHECK_POINTS, rng)
        new = joined(problem, points, only=True).data.train
        squares = (predict(trained.network, new.x) - new.y).square()
        found.append((float(squares.mean().sqrt()), problem, trained))
        if not more_points_help([error for error, *_ in found], first, accurate):
            break
        worst = squares.mean(1).argsort(descending=True)[: -(-most // ROUNDS)]
        problem = joined(problem, points.take(np.sort(worst.numpy(force=True))))
        trained = _continued(problem, trained, plan, seed)
    error, problem, trained = min(found, key=lambda one: one[0])
    return problem, trained, error / max(first, torch.finfo().tiny)


def more_points_help(errors: list[float], first: float, accurate: float) -> bool:
    """Return whether another round of points follows, from the errors on new points until now."""
    last = errors[-1]
    helped = len(errors) > 1 and errors[-1] < errors[-2] / AGREEING
    return len(errors) <= ROUNDS and last > accurate and (helped or last > AGREEING * first)


def _continued(problem: LearningProblem, trained: Trained, plan: Plan, seed: int) -> Trained:
    """Return the training of the same network from the grid and the penalty on that it has."""
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
