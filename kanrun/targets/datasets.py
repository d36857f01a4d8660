"""Targets, and the training, validation and test points drawn from them for one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kanrun.config import SamplingConfig
from kanrun.config.registry import TARGETS
from kanrun.config.rules import check
from kanrun.errors import UsageError, did_you_mean
from kanrun.points import (
    Array,
    PiecewiseScaling,
    Points,
    Scaling,
    deviation,
    in_own_units,
)

if TYPE_CHECKING:
    import sympy

    from kanrun.targets.encoding import TableCode

#: Named formulas; the domain is [-1, 1] in each variable. Sources: C. Runge, Z. Math. Phys. 46
#: (1901) for the last one; Liu et al., arXiv 2404.19756, section 3.1 for the others.
NAMED: dict[str, str] = {
    "exp_sin_square": "exp(sin(pi*x0) + x1^2)",  # [2,1,1] represents it exactly
    "bessel_j0": "j0(20*x0)",  # a dozen oscillations
    "product": "x0*x1",  # [2,2,1] represents it exactly
    # [100,1,1] represents it exactly
    "mean_sin_square_100d": f"exp(({'+'.join(f'sin(pi*x{i}/2)^2' for i in range(100))})/100)",
    # Three layers, [4,2,1,1], represent it exactly.
    "nested_4d": "exp((sin(pi*(x0^2 + x1^2)) + sin(pi*(x2^2 + x3^2)))/2)",
    "runge": "1/(1 + 25*x0^2)",  # polynomials through evenly spaced points diverge on it
}
#: Numbers of the random streams by purpose; they must not change, so that seeds stay reproducible.
#: Each purpose has its own stream, so that more test points, or noise, do not change the training
#: points.
PURPOSES = {"train": 0, "test": 1, "noise": 2, "validation": 3, "rows": 4, "extra": 5}
# Smallest number of training rows of a table; a single row has no standard deviation.
_MIN_TRAIN = 2
_MAX_NUMBERS = 10**9  # largest number of points times variables in one draw
_ROUNDING = 1e-13  # largest relative range of a column that counts as constant
_REDRAWS = 100  # largest number of redraws of points with non-finite values, as in FastSRB
_SHOWN = 8  # largest number of coordinates of a point in a message


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be learned: a function, or points (such as the rows of a table).

    Attributes:
        name: Name used in messages.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        domain: Lower and upper bound of each input, shape (inputs, 2).
        expression: The formula in x0, x1, ..., which are the inputs in order; None if unknown.
        function: Map from points (points, inputs) to values (points, outputs); None for points.
        points: The points, if there is no function.
        test: Test rows of a table, if they were read from a separate file; otherwise None.
        is_table: Whether `points` are the rows of a table, to be split into training and test rows
            and standardised.
        classes: Labels of a classification; outputs then have one column, the index of the class.
            None for a regression.
        threshold: For two classes, the second is predicted if its probability exceeds this value.
        family: Distribution of the outputs, one of `kanrun.points.FAMILIES`.
        offset: Name of the input to which the mean of the outputs is proportional; None: no input.
        code: Encoding of a table's columns as inputs; None if all columns are numeric without
            missing values.
        notes: Notes for the user about a table that was read.
        accepted: Formulas equivalent to `expression`; a search that finds one has succeeded.
        place: Map from random numbers (points, inputs), uniform on [0, 1), to inputs. If it is
            None, inputs are uniform on the domain.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    expression: sympy.Expr | None = None
    function: Callable[[Array], Array] | None = None
    points: Points | None = None
    test: Points | None = None
    is_table: bool = False
    classes: tuple[str, ...] | None = None
    threshold: float = 0.5
    family: str = "gaussian"
    offset: str | None = None
    code: TableCode | None = None
    notes: tuple[str, ...] = ()
    accepted: tuple[sympy.Expr, ...] = ()
    place: Callable[[Array], Array] | None = None

    def inputs_at(self, uniform: Array) -> Array:
        """Return the inputs for random numbers (points, inputs) that are uniform on [0, 1)."""
        if self.place is not None:
            return self.place(uniform)
        lower, upper = self.domain.T
        return np.asarray(lower + (upper - lower) * uniform)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test points of a target, in the user's units, with scalings.

    `train` and `validation` have no points in common. The scalings depend only on `train` and, for
    a function, on the domain of the function. For a function, the scaling of an input or output
    whose size is between 1/100 and 100 is usually the identity; see `make_dataset`.
    """

    target: Target
    train: Points
    validation: Points | None
    test: Points | None
    input_scaling: Scaling | PiecewiseScaling
    output_scaling: Scaling | PiecewiseScaling
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Labels of a classification; None for a regression."""
        return self.target.classes


def shown(point: Array, names: Sequence[str]) -> str:
    """Return a point (inputs,) as text such as "x0=1, x1=2", with at most 8 coordinates."""
    texts = [f"{name}={value:.6g}" for name, value in zip(names, point, strict=True)]
    return ", ".join(texts if len(texts) <= _SHOWN else [*texts[:_SHOWN], "..."])


def check_known(key: str, name: str, known: Iterable[str], what: str) -> None:
    """Raise UsageError if `name`, the value of the setting `key`, is not in `known`.

    `what` describes the known names in the message, such as "formats of a model".
    """
    names = list(known)
    if name not in names:
        raise UsageError(
            f"{key}={name!r} is not one of the {what}{did_you_mean(name, names)}; "
            f"known are {', '.join(names)}."
        )


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a random generator for a seed and a purpose, one of PURPOSES.

    The streams of different seeds and purposes are independent.
    """
    if seed < 0:
        raise UsageError(f"seed={seed} must not be negative.")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES[purpose],)))


def draw(target: Target, count: int, rng: np.random.Generator) -> Points:
    """Draw `count` random points from the domain of a function.

    If the target has a `place` (the distributions of a formula file), points at which the function
    is not finite are drawn again. Except for such points, a larger `count` with the same state of
    `rng` begins with the same points. Raises UsageError if the function is still not finite at a
    point.
    """
    assert target.function is not None
    x = target.inputs_at(rng.random((count, len(target.domain))))
    y = target.function(x)
    bad = ~np.isfinite(y).all(axis=1)
    redraws = 0 if target.place is None else _REDRAWS
    while bad.any() and redraws:
        x[bad] = target.inputs_at(rng.random((int(bad.sum()), len(target.domain))))
        y[bad] = target.function(x[bad])
        redraws = redraws - 1
        bad = ~np.isfinite(y).all(axis=1)
    if bad.any():
        point = shown(x[bad.argmax()], target.inputs)
        raise UsageError(f"{target.name} is not finite at {point}; change target.domain.")
    return Points(x, y)


def split_order(
    count: int, rng: np.random.Generator, labels: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Return the indices of `count` rows in a random order, to be split at any position.

    If class `labels` (count,) are given, the order is stratified: first one row of every class,
    then the remaining rows, with each class spread evenly.
    """
    order = rng.permutation(count)
    if labels is None or count == 0:
        return order
    from pandas import Series  # imported late, because it loads slowly

    shuffled = labels[order]
    sizes = np.bincount(shuffled)
    # Number of each row within its class.
    rank = Series(shuffled).groupby(shuffled).cumcount().to_numpy()
    place = (rank + rng.random(len(sizes))[shuffled]) / sizes[shuffled]
    return order[np.argsort(np.where(rank == 0, -1.0, place), kind="stable")]


def build_target(config: Any) -> Target:
    """Return the target that the settings `config` describe.

    Raises UsageError if the settings or the data are invalid.
    """
    TARGETS.find(getattr(config, "kind", None), "target.kind")
    check(config, "target.")
    target: Target = config.build()
    return target


def check_gaussian(target: Target) -> None:
    """Raise UsageError if the target has a family other than gaussian, such as poisson."""
    if target.family != "gaussian":
        raise UsageError(
            f"target.family={target.family} is for kanrun fit with model=auto alone, and its runs "
            "have no formula. Remove the setting, or use that command."
        )


def make_dataset(target: Target, sampling: SamplingConfig, seed: int) -> Dataset:
    """Return the training, validation and test points of a target for one seed.

    Points of a function are drawn at random from its domain. Rows of a table are split into
    training and test rows at random, stratified by class, or by groups or time if the table's
    settings say so. Named points are all used for training and validation. A fraction of the
    training points becomes the validation points. Noise, relative to the standard deviation of each
    output, is added to training and validation points only.

    Inputs and outputs of tables are standardised, but class indices are not. Inputs and outputs of
    functions are scaled only if their sizes lie outside 1/100 to 100, or if their means exceed 100
    times their sizes.

    Raises UsageError if the sampling settings do not fit the target.
    """
    # smallest number of training points of which some are used for validation
    min_for_validation = 20
    check(sampling, "sampling.")
    drawn, test = _points_of(target, sampling, seed)
    if sampling.noise:
        normal = generator(seed, "noise").standard_normal(drawn.y.shape)
        drawn = replace(drawn, y=drawn.y + sampling.noise * deviation(drawn.y) * normal)
    order = split_order(len(drawn), generator(seed, "validation"), _labels(target, drawn))
    few = len(drawn) < min_for_validation
    kept = len(drawn) - (0 if few else round(sampling.validation_fraction * len(drawn)))
    train = drawn.take(np.sort(order[:kept]))
    if target.is_table:
        box = train.box
        inputs = _standardise(train.x, train.weights)
        outputs = Scaling.identity(1)
        if target.classes is None:
            outputs = _standardise(train.y, train.weights)
    else:
        box = target.domain
        inputs = _scale_if_needed(box.mean(1), np.diff(box)[:, 0] / 2)
        outputs = _scale_if_needed(train.y.mean(0), deviation(train.y))
    return Dataset(
        replace(target, domain=box, points=None),
        train,
        drawn.take(np.sort(order[kept:])) if kept < len(drawn) else None,
        test,
        inputs,
        outputs,
        (*target.notes, *_notes(target, train)),
    )


def _points_of(target: Target, sampling: SamplingConfig, seed: int) -> tuple[Points, Points | None]:
    """Return the training points, without noise, and the test points, or None without test points.

    The training points include those that will become validation points.
    """
    # default number of training points of a function
    function_points = 1000
    if target.points is None:
        if sampling.n_test is None:
            raise UsageError("sampling.n_test must be a number; null is for tables.")
        drawn = []
        n_train = function_points if sampling.n_train is None else sampling.n_train
        for purpose, count in (("train", n_train), ("test", sampling.n_test)):
            if count * len(target.domain) > _MAX_NUMBERS:
                raise UsageError(
                    f"sampling.n_{purpose}={count} points of {len(target.domain)} variables are "
                    "more than memory is planned for."
                )
            drawn.append(draw(target, count, generator(seed, purpose)))
        train, test = drawn
        return train, test if len(test) else None
    if not target.is_table:
        return target.points, None
    if target.classes is not None and sampling.noise:
        raise UsageError(
            f"sampling.noise={sampling.noise} does not apply to class labels; set it to 0."
        )
    if target.test is not None:
        if sampling.n_test or sampling.n_train is not None:
            raise UsageError(
                "the test rows come from target.test_path; remove sampling.n_train and "
                "sampling.n_test."
            )
        return target.points, target.test
    return _split_rows(target, target.points, sampling, generator(seed, "rows"))


def _row_counts(name: str, rows: int, sampling: SamplingConfig) -> tuple[int, int]:
    """Return the numbers of training and test rows of the table `name`, which has `rows` rows.

    Raises UsageError if the table has too few rows for the settings.
    """
    # default fraction of the rows of a table that are test rows
    test_fraction = 0.2
    train = sampling.n_train
    test = sampling.n_test
    if train is not None and train < _MIN_TRAIN:
        raise UsageError(f"sampling.n_train={train} must be at least {_MIN_TRAIN} for a table.")
    if test is None:
        test = max(round(test_fraction * rows), 1) if train is None else max(rows - train, 0)
    if train is None:
        train = rows - test
    if train < _MIN_TRAIN:
        raise UsageError(
            f"{test} test rows leave {max(train, 0)} of the {rows} rows of {name} for "
            f"training, where at least {_MIN_TRAIN} are needed; set sampling.n_test lower."
        )
    if train + test > rows:
        raise UsageError(
            f"{train} training and {test} test rows are {train + test}, but {name} has "
            f"{rows} row{'s' * (rows != 1)}."
        )
    return train, test


def _split_rows(
    target: Target, points: Points, sampling: SamplingConfig, rng: np.random.Generator
) -> tuple[Points, Points | None]:
    """Split the rows of a table into training and test rows.

    The test rows are the latest rows, whole groups, or a random sample (stratified by class).
    """
    train, test = _row_counts(target.name, len(points), sampling)
    groups = points.groups
    if groups is None:
        order = split_order(len(points), rng, _labels(target, points))
    elif points.forward:
        order = np.argsort(groups, kind="stable")
    else:
        place = rng.permutation(int(groups.max()) + 1)[groups.astype(np.intp)]
        order = np.argsort(place, kind="stable")
        if train < len(order):  # if a group would be split, move all of it to the test rows
            torn = int((groups[order[:train]] == groups[order[train]]).sum())
            train = train - torn
            test = test + torn
        if train < _MIN_TRAIN:
            raise UsageError(
                f"{target.name} has too few groups for test rows; reduce sampling.n_test."
            )
    train_rows = np.sort(order[:train])
    test_rows = np.sort(order[train : train + test])
    return points.take(train_rows), points.take(test_rows) if test else None


def _labels(target: Target, points: Points) -> NDArray[np.intp] | None:
    return None if target.classes is None else points.y[:, 0].astype(np.intp)


def _scale_if_needed(middle: Array, size: Array) -> Scaling:
    """Return the scaling (x - `middle`) / `size`, or the identity for columns of ordinary size."""
    # A column of a function is not standardised if its size (half range or standard deviation) is
    # from 1/100 to 100 and its mean is at most 100 sizes.
    ordinary = 100.0
    size = np.where(size > 0, size, np.maximum(1.0, np.abs(middle)))
    near = np.abs(middle) <= ordinary * size
    plain = (size >= 1 / ordinary) & (size <= ordinary) & near
    return Scaling(np.where(plain, 0.0, middle), np.where(plain, 1.0, size))


def _standardise(values: Array, weights: Array | None) -> Scaling:
    """Return a scaling by weighted mean and standard deviation; only shift constant columns."""
    relative, exponent = in_own_units(values)
    mean = np.ldexp(np.average(relative, 0, weights), exponent)
    return Scaling(mean, np.where(constant(values), 1.0, deviation(values, weights)))


def constant(values: Array) -> NDArray[np.bool_]:
    """Return which columns of `values` are constant up to rounding, shape (columns,)."""
    # A range that exceeds float64 becomes infinite, so the column is not constant.
    with np.errstate(over="ignore"):
        return np.asarray(np.ptp(values, axis=0) <= _ROUNDING * np.abs(values).max(axis=0))


def _notes(target: Target, train: Points) -> list[str]:
    """Return notes for the user: no test points, constant columns, or classes without rows."""
    if target.points is None:
        return []
    if not target.is_table:
        return [
            f"{target.name} is {len(target.points)} given points without a known function, so "
            "nothing is tested"
        ]
    names = list(target.inputs)
    values = train.x
    if target.classes is None:
        names = [*names, *target.outputs]
        values = np.concatenate([train.x, train.y], axis=1)
    columns = zip(names, constant(values), values[0], strict=True)
    return [
        *(
            f"column {name!r} of {target.name} is constant ({value:g}) in the training rows"
            for name, same, value in columns
            if same
        ),
        *(
            f"class {name!r} of {target.name} is in no training row, so it cannot be learned"
            for i, name in enumerate(target.classes or ())
            if i not in train.y[:, 0]
        ),
    ]
