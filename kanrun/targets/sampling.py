"""Random draws: one generator for each seed and purpose, points of a function, noise, and the splits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kanrun.config import SamplingConfig
from kanrun.errors import UsageError
from kanrun.targets.data import Points, Target

PURPOSES = {"train": 0, "test": 1, "noise": 2, "validation": 3, "rows": 4}
"""Numbers that must stay: each purpose draws from its own stream, so that asking for more test points, or
for noise, changes no training point."""

FEWEST_FOR_VALIDATION = 20
MOST_NUMBERS = 10**9  # of one draw

Rows = NDArray[np.intp]


def generator(seed: int, purpose: str) -> np.random.Generator:
    """The stream of draws of `purpose` under `seed`, independent of those of other purposes and seeds."""
    if seed < 0:
        raise UsageError(f"seed={seed} must not be negative.")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES[purpose],)))


def check_sampling(config: SamplingConfig) -> None:
    """Raises UsageError for numbers of points, noise or a validation share out of range."""
    if config.train is not None and config.train < 1:
        raise UsageError(f"sampling.train={config.train} must be at least 1.")
    if config.test is not None and config.test < 0:
        raise UsageError(f"sampling.test={config.test} must not be negative.")
    if not (math.isfinite(config.noise) and config.noise >= 0):
        raise UsageError(f"sampling.noise={config.noise} must be a finite number of at least 0.")
    if not 0 <= config.validation <= 0.5:
        raise UsageError(f"sampling.validation={config.validation} must be a share from 0 to 0.5.")


def draw(target: Target, count: int, rng: np.random.Generator, key: str) -> Points:
    """`count` points, uniform random in the domain, with the function's values; a longer draw starts with
    the same points. `key` is the config's name of the count, for the refusal."""
    if target.function is None:
        raise ValueError(f"{target.name} has no function to draw from")
    dimension = len(target.domain)
    if count * dimension > MOST_NUMBERS:
        raise UsageError(f"{key}={count} points of {dimension} variables are more than memory is planned for.")
    lower, upper = target.domain.T
    x = lower + (upper - lower) * rng.random((count, dimension))
    y = target.function(x)
    if not np.isfinite(y).all():
        where = x[~np.isfinite(y).all(axis=1)][0]
        shown = ", ".join(f"{name}={value:.6g}" for name, value in zip(target.inputs, where, strict=True))
        raise UsageError(f"{target.name} is not finite at {shown}; change target.domain.")
    return Points(x, y)


def with_noise(points: Points, noise: float, rng: np.random.Generator) -> Points:
    """Normal noise on y; its standard deviation is `noise` times that of each output over these points."""
    if not noise:
        return points
    return Points(points.x, points.y + noise * points.y.std(axis=0) * rng.standard_normal(points.y.shape))


def validation_count(train: int, share: float) -> int:
    """How many of `train` points selections may look at: the share, rounded; none of fewer than 20."""
    return 0 if train < FEWEST_FOR_VALIDATION else round(share * train)


def split_order(count: int, rng: np.random.Generator, labels: NDArray[np.intp] | None = None) -> Rows:
    """All rows in a random order of which any first part is a fair sample.

    With class `labels` (count,) it is stratified: one row of every class comes first, then each class is
    spread evenly, so that a first part has each class in its share and at least once, if it is long enough.
    """
    order = rng.permutation(count)
    if labels is None or count == 0:
        return order
    shuffled = labels[order]
    by_class = np.argsort(shuffled, kind="stable")
    sizes = np.bincount(shuffled)
    rank = np.empty(count, dtype=np.intp)  # of each row within its class
    rank[by_class] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.where(rank == 0, -1.0, (rank + rng.random(len(sizes))[shuffled]) / sizes[shuffled])
    return order[np.argsort(position, kind="stable")]
