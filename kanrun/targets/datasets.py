"""From a config's target and sampling to the points of one seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanrun.config import BundledTarget, NamedTarget, SamplingConfig, TableTarget
from kanrun.errors import UsageError
from kanrun.targets.bundled import read_bundled
from kanrun.targets.data import Array, Dataset, Points, Scaling, Target
from kanrun.targets.named import GIVEN_POINTS
from kanrun.targets.registry import build_target
from kanrun.targets.sampling import check_sampling, draw, generator, split_order, validation_count, with_noise
from kanrun.targets.table_dataset import read_rows, table_dataset

#: Sizes of inputs and outputs from one part in so many to so many, and means up to so many sizes, are ordinary.
ORDINARY = 100.0


def make_dataset(target: Any, sampling: SamplingConfig, seed: int) -> Dataset:
    """The points of one seed for one of kanrun.config's targets.

    Functions: uniform random training and test points, each from its own stream; noise (relative to the
    standard deviation of each output over the training points) on training and validation points, never on
    the test's. Tables: a seeded split of the rows. Points known by name: all of them, and no test. A share of
    the training points becomes the validation points, none of fewer than 20. Raises UsageError.
    """
    check_sampling(sampling)
    if isinstance(target, TableTarget):
        return table_dataset(read_rows(target), sampling, seed)
    if isinstance(target, BundledTarget):
        return table_dataset(read_bundled(target), sampling, seed)
    built = build_target(target)
    if isinstance(target, NamedTarget) and target.name in GIVEN_POINTS:
        points = GIVEN_POINTS[target.name]
        note = f"{target.name} is {len(points)} given points without a truth between them, so nothing is tested"
        return _dataset(built, points, None, sampling, seed, (note,))
    if sampling.train is None or sampling.test is None:
        raise UsageError("sampling.train and sampling.test must be numbers; null is for tables.")
    drawn = draw(built, sampling.train, generator(seed, "train"), "sampling.train")
    test = draw(built, sampling.test, generator(seed, "test"), "sampling.test") if sampling.test else None
    return _dataset(built, drawn, test, sampling, seed)


def _dataset(
    target: Target,
    drawn: Points,
    test: Points | None,
    sampling: SamplingConfig,
    seed: int,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Noise and the validation split, which functions and given points share."""
    noisy = with_noise(drawn, sampling.noise, generator(seed, "noise"))
    order = split_order(len(noisy), generator(seed, "validation"))
    kept = len(noisy) - validation_count(len(noisy), sampling.validation)
    train = noisy.take(np.sort(order[:kept]))
    middle, half = target.domain.mean(1), np.diff(target.domain)[:, 0] / 2
    return Dataset(
        target=target,
        train=train,
        validation=noisy.take(np.sort(order[kept:])) if kept < len(noisy) else None,
        test=test,
        input_scaling=_where_needed(middle, half),
        output_scaling=_where_needed(train.y.mean(0), train.y.std(0)),
        notes=notes,
    )


def _where_needed(middle: Array, size: Array) -> Scaling:
    """Standardising of what first-order solvers could not learn as it is; other functions keep their units."""
    size = np.where(size > 0, size, np.maximum(1.0, np.abs(middle)))
    plain = (size >= 1 / ORDINARY) & (size <= ORDINARY) & (np.abs(middle) <= ORDINARY * size)
    return Scaling(np.where(plain, 0.0, middle), np.where(plain, 1.0, size))
