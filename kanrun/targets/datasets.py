"""From a target and how it is sampled to the points of one seed: one generator for each seed and purpose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.config import TARGETS, SamplingConfig, check
from kanrun.errors import UsageError
from kanrun.points import Array, Points, Scaling, deviation
from kanrun.targets.data import Dataset, Target
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
    return replace(
        points, y=points.y + noise * deviation(points.y) * rng.standard_normal(points.y.shape)
    )


def split_order(
    count: int, rng: np.random.Generator, labels: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
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
    position = np.where(
        rank == 0, -1.0, (rank + rng.random(len(sizes))[shuffled]) / sizes[shuffled]
    )
    return order[np.argsort(position, kind="stable")]


def build_target(config: Any) -> Target:
    """The target of one of kanrun.config's targets. Raises UsageError for settings or data that break a rule."""
    kind = TARGETS.find(getattr(config, "kind", None), "target.kind")
    check(config, "target.")
    target: Target = kind.build()(config)
    return target


@dataclass(frozen=True)
class SplitPolicy:
    """How points are divided and standardised where the settings do not say."""

    test_share: float = 0.2  # of a table's rows
    fewest_train: int = 2  # rows of a table: one has no deviation to standardise by
    fewest_for_validation: int = 20  # training points: of fewer, none are set aside
    ordinary: float = (
        100.0  # sizes of 1/this to this, and means up to this many sizes: not standardised
    )
    numbers: int = 10**9  # most of one draw, points times variables
    constant: float = (
        1e-13  # a column whose range is within this share of its values only differs by rounding
    )


def make_dataset(
    target: Target, sampling: SamplingConfig, seed: int, policy: SplitPolicy = SplitPolicy()
) -> Dataset:
    """The points of one seed.

    Functions: uniform random training and test points, each from its own stream; noise (relative to the
    standard deviation of each output over the training points) on training and validation points, never on
    the test's. Tables: a seeded split of the rows, stratified by class. Points known by name: all of them, and no
    test. A share of the training points becomes the validation points. Raises UsageError.
    """
    check(sampling, "sampling.")
    drawn, test = _drawn(target, sampling, seed, policy)
    noisy = with_noise(drawn, sampling.noise, generator(seed, "noise"))
    order = split_order(len(noisy), generator(seed, "validation"), _labels(target, drawn))
    few = len(noisy) < policy.fewest_for_validation
    kept = len(noisy) - (0 if few else round(sampling.validation_fraction * len(noisy)))
    train = noisy.take(np.sort(order[:kept]))
    seen = replace(target, domain=train.box if target.is_table else target.domain, points=None)
    inputs, outputs = _scalings(seen, train, policy)
    return Dataset(
        target=seen,
        train=train,
        validation=noisy.take(np.sort(order[kept:])) if kept < len(noisy) else None,
        test=test,
        input_scaling=inputs,
        output_scaling=outputs,
        notes=(*target.notes, *_notes(target, train, policy)),
    )


def _drawn(
    target: Target, sampling: SamplingConfig, seed: int, policy: SplitPolicy
) -> tuple[Points, Points | None]:
    """Training points (those for validation included) without noise, and test points."""
    if target.points is None:
        counts = {"train": sampling.n_train, "test": sampling.n_test}
        for part, count in counts.items():
            if count is None:
                raise UsageError(
                    "sampling.n_train and sampling.n_test must be numbers; null is for tables."
                )
            if count * len(target.domain) > policy.numbers:
                variables = f"{len(target.domain)} variables"
                raise UsageError(
                    f"sampling.n_{part}={count} points of {variables} are more than memory is planned for."
                )
        drawn, test = (
            draw(target, count or 0, generator(seed, part)) for part, count in counts.items()
        )
        return drawn, test if len(test) else None
    if not target.is_table:
        return target.points, None
    if target.classes is not None and sampling.noise:
        raise UsageError(
            f"sampling.noise={sampling.noise} does not apply to class labels; set it to 0."
        )
    if target.test is not None:
        if sampling.n_test or sampling.n_train is not None:
            raise UsageError(
                "the test rows come from target.test_path; leave sampling.n_train and sampling.n_test out."
            )
        return target.points, target.test
    train_count, test_count = _counts(len(target.points), sampling, target.name, policy)
    order = _row_order(target, generator(seed, "rows"))
    groups = target.points.groups
    if (
        groups is not None and not target.points.forward and train_count < len(order)
    ):  # no group is torn
        torn = int((groups[order[:train_count]] == groups[order[train_count]]).sum())
        train_count, test_count = train_count - torn, test_count + torn
        if train_count < policy.fewest_train:
            raise UsageError(
                f"{target.name} has too few groups for test rows; ask for less with sampling.n_test."
            )
    chosen, others = (
        np.sort(order[:train_count]),
        np.sort(order[train_count : train_count + test_count]),
    )
    return target.points.take(chosen), target.points.take(others) if test_count else None


def _row_order(target: Target, rng: np.random.Generator) -> NDArray[np.intp]:
    """The rows of a table, of which the first train: in time, or whole groups after each other, or a fair sample."""
    assert target.points is not None
    points = target.points
    if points.groups is None:
        return split_order(len(points), rng, _labels(target, points))
    if points.forward:
        return np.argsort(points.groups, kind="stable")
    place = rng.permutation(int(points.groups.max()) + 1)[points.groups.astype(np.intp)]
    return np.argsort(place, kind="stable")


def _labels(target: Target, points: Points) -> NDArray[np.intp] | None:
    return None if target.classes is None else points.y[:, 0].astype(np.intp)


def _counts(rows: int, sampling: SamplingConfig, name: str, policy: SplitPolicy) -> tuple[int, int]:
    """How many rows to train on (validation included) and to test on."""
    train, test, least = sampling.n_train, sampling.n_test, policy.fewest_train
    if train is not None and train < least:
        raise UsageError(f"sampling.n_train={train} must be at least {least} for a table.")
    if test is None:
        test = max(round(policy.test_share * rows), 1) if train is None else max(rows - train, 0)
    if train is None:
        train = max(rows - test, least)
    if train + test > rows:
        has = f"has {rows} row{'' if rows == 1 else 's'}"
        raise UsageError(
            f"{train} training and {test} test rows are {train + test}, but {name} {has}."
        )
    return train, test


def _scalings(target: Target, train: Points, policy: SplitPolicy) -> tuple[Scaling, Scaling]:
    """Of inputs and outputs: tables are standardised, functions only where first-order solvers could not learn them
    as they are; class indices never."""
    if not target.is_table:
        middle, half = target.domain.mean(1), np.diff(target.domain)[:, 0] / 2
        return _where_needed(middle, half, policy), _where_needed(
            train.y.mean(0), deviation(train.y), policy
        )
    inputs = _standardised(train.x, train.weights, policy)
    if target.classes is not None:
        return inputs, Scaling.identity(1)
    return inputs, _standardised(train.y, train.weights, policy)


def _where_needed(middle: Array, size: Array, policy: SplitPolicy) -> Scaling:
    """By middle and size, the identity for features of ordinary size."""
    size = np.where(size > 0, size, np.maximum(1.0, np.abs(middle)))
    plain = (
        (size >= 1 / policy.ordinary)
        & (size <= policy.ordinary)
        & (np.abs(middle) <= policy.ordinary * size)
    )
    return Scaling(np.where(plain, 0.0, middle), np.where(plain, 1.0, size))


def _standardised(values: Array, weights: Array | None, policy: SplitPolicy) -> Scaling:
    """By weighted mean and standard deviation; a column that is constant (to rounding) is only shifted."""
    largest = np.abs(values).max(axis=0)
    relative = values / np.where(
        largest > 0, largest, 1.0
    )  # whose sums and squares neither over- nor underflow
    mean = np.average(relative, 0, weights)
    mean, size = mean * largest, np.sqrt(np.average((relative - mean) ** 2, 0, weights)) * largest
    return Scaling(mean, np.where(constant(values, policy), 1.0, size))


def constant(values: Array, policy: SplitPolicy = SplitPolicy()) -> NDArray[np.bool_]:
    """Which columns are constant, to rounding."""
    with np.errstate(over="ignore"):  # a range beyond float64 is infinite, and so not constant
        return np.asarray(np.ptp(values, axis=0) <= policy.constant * np.abs(values).max(axis=0))


def _notes(target: Target, train: Points, policy: SplitPolicy) -> list[str]:
    """What the user should know of the points."""
    if target.points is None:
        return []
    if not target.is_table:
        return [
            f"{target.name} is {len(target.points)} given points without a truth between them, so nothing is tested"
        ]
    names, values = list(target.inputs), train.x
    if target.classes is None:
        names, values = [*names, *target.outputs], np.concatenate([train.x, train.y], axis=1)
    notes = [
        f"column {name!r} of {target.name} is constant ({value:g}) in the training rows"
        for name, same, value in zip(names, constant(values, policy), values[0], strict=True)
        if same
    ]
    for i, name in enumerate(target.classes or ()):
        if not (train.y[:, 0] == i).any():
            notes.append(
                f"class {name!r} of {target.name} is in no training row, so it cannot be learned"
            )
    return notes
