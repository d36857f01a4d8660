"""Random draws: one generator for each seed and purpose, points of a function, noise, and orders of rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.targets.data import Points, Target
from kanrun.targets.domains import shown

PURPOSES = {"train": 0, "test": 1, "noise": 2, "validation": 3, "rows": 4}
"""Numbers that must stay: each purpose draws from its own stream, so that asking for more test points, or
for noise, changes no training point."""


def generator(seed: int, purpose: str) -> np.random.Generator:
    """The stream of draws of `purpose` under `seed`, independent of those of other purposes and seeds."""
    if seed < 0:
        raise UsageError(f"seed={seed} must not be negative.")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES[purpose],)))


def draw(target: Target, count: int, rng: np.random.Generator) -> Points:
    """`count` points, uniform random in the domain, with the function's values; a longer draw starts with
    the same points. Raises UsageError where the function is not finite at one of them."""
    if target.function is None:
        raise ValueError(f"{target.name} has no function to draw from")
    lower, upper = target.domain.T
    x = lower + (upper - lower) * rng.random((count, len(target.domain)))
    y = target.function(x)
    finite = np.isfinite(y).all(axis=1)
    if not finite.all():
        raise UsageError(
            f"{target.name} is not finite at {shown(x[finite.argmin()], target.inputs)}; change target.domain."
        )
    return Points(x, y)


def with_noise(points: Points, noise: float, rng: np.random.Generator) -> Points:
    """Normal noise on y; its standard deviation is `noise` times that of each output over these points."""
    if not noise:
        return points
    return replace(points, y=points.y + noise * points.y.std(axis=0) * rng.standard_normal(points.y.shape))


def split_order(count: int, rng: np.random.Generator, labels: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
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
