"""Targets, and the points of one seed: one generator for each seed and purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kanrun.config.conversion import check
from kanrun.config.experiments import SamplingConfig
from kanrun.config.registry import TARGETS
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

#: Formulas on [-1, 1] in each variable. Sources: C. Runge, Z. Math. Phys. 46 (1901) for the last;
#: Liu et al., arXiv 2404.19756, section 3.1 for the others.
NAMED: dict[str, str] = {
    "exp_sin_square": "exp(sin(pi*x0) + x1^2)",  # [2,1,1] represents it exactly
    "bessel_j0": "j0(20*x0)",  # a dozen oscillations
    "product": "x0*x1",  # [2,2,1] represents it exactly
    # [100,1,1]
    "mean_sin_square_100d": f"exp(({'+'.join(f'sin(pi*x{i}/2)^2' for i in range(100))})/100)",
    # This formula has depth three, [4,2,1,1].
    "nested_4d": "exp((sin(pi*(x0^2 + x1^2)) + sin(pi*(x2^2 + x3^2)))/2)",
    "runge": "1/(1 + 25*x0^2)",  # polynomials through evenly spaced points diverge on it
}
#: Numbers that must stay: each purpose draws from its own stream, so that more test points, or
#: noise, change no training point.
PURPOSES = {"train": 0, "test": 1, "noise": 2, "validation": 3, "rows": 4, "extra": 5}
_FUNCTION_POINTS = 1000  # training points of a function, by default
_TEST_FRACTION = 0.2  # of the rows of a table, by default
_MIN_TRAIN = 2  # rows of a table: one has no standard deviation
_MIN_FOR_VALIDATION = 20  # training points: of fewer, none are set aside
_ORDINARY = 100.0  # sizes from 1/100 to 100, and means up to 100 sizes, are not standardised
_MAX_NUMBERS = 10**9  # of one draw: points times variables
_ROUNDING = 1e-13  # relative range of a column that is constant up to rounding
_REDRAWS = 100  # of points outside a formula's own domain, as FastSRB draws them
_SHOWN = 8  # coordinates of a point in a message


@dataclass(frozen=True, eq=False)
class Target:
    """A function, or points without a known function between them.

    Attributes:
        domain: Lower and upper end of each input, shape (inputs, 2).
        expression: The formula in x0, x1, ... (the inputs in their order), if it is known.
        function: Map from (points, inputs) to (points, outputs).
        points: All that is known without a function.
        test: Test rows of a table that have a file of their own.
        is_table: Whether points are split into training and test rows, and standardised.
        classes: Labels of a classification, whose y is one column with the index of the class.
        family: Distribution of the outputs, one of `kanrun.points.FAMILIES`.
        offset: Input to which the mean of the outputs is proportional.
        code: How the inputs follow from a table's columns, unless these are plain numbers.
        notes: Sentences on a table that was read.
        accepted: Other forms of the formula that are accepted as answers.
        place: Map from random numbers (points, inputs), uniform on [0, 1), to inputs; None: uniform
            ones.
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
    """Points to train on, to select on and to test on, in the user's units.

    `train` excludes `validation`. Scalings depend on `train` and a function's domain alone; they
    are the identity for functions of ordinary size.
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
        """Labels of a classification."""
        return self.target.classes


def shown(point: Array, names: Sequence[str]) -> str:
    """Return the first coordinates of a point (inputs,) as text, such as x0=1, x1=2."""
    texts = [f"{name}={value:.6g}" for name, value in zip(names, point, strict=True)]
    return ", ".join(texts if len(texts) <= _SHOWN else [*texts[:_SHOWN], "..."])


def check_known(key: str, name: str, known: Iterable[str], what: str) -> None:
    """Raise UsageError for a name that is not known."""
    names = list(known)
    if name not in names:
        raise UsageError(
            f"{key}={name!r} is not one of the {what}{did_you_mean(name, names)}; "
            f"known are {', '.join(names)}."
        )


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the stream of draws for a purpose, independent of other purposes and seeds."""
    if seed < 0:
        raise UsageError(f"seed={seed} must not be negative.")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES[purpose],)))


def draw(target: Target, count: int, rng: np.random.Generator) -> Points:
    """Draw points from the domain; a longer draw starts with the same points.

    With ranges of its own, the points at which the function is not finite are drawn again. Raises
    UsageError if it is not finite at one of them.
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
    """Return all rows in a random order whose beginnings are fair samples.

    With class `labels` (count,) it is stratified: one row of every class comes first, then each
    class is spread evenly.
    """
    order = rng.permutation(count)
    if labels is None or count == 0:
        return order
    from pandas import Series  # late, as it loads slowly

    shuffled = labels[order]
    sizes = np.bincount(shuffled)
    rank = Series(shuffled).groupby(shuffled).cumcount().to_numpy()  # of each row within its class
    place = (rank + rng.random(len(sizes))[shuffled]) / sizes[shuffled]
    return order[np.argsort(np.where(rank == 0, -1.0, place), kind="stable")]


def build_target(config: Any) -> Target:
    """Build the target of its settings. Raises UsageError for settings or data against a rule."""
    TARGETS.find(getattr(config, "kind", None), "target.kind")
    check(config, "target.")
    target: Target = config.build()
    return target


def check_gaussian(target: Target) -> None:
    """Raise UsageError for a target whose outputs are not plain numbers or labels."""
    if target.family != "gaussian":
        raise UsageError(
            f"target.family={target.family} is for kanrun fit with model=auto alone, and its runs "
            "have no formula. Remove the setting, or use that command."
        )


def make_dataset(target: Target, sampling: SamplingConfig, seed: int) -> Dataset:
    """Return the points of one seed.

    A function has uniform random training and test points, and noise on training and validation
    points alone, relative to the standard deviation of each output. A table has a seeded split of
    its rows, stratified by class. Named points are all used, without a test. A fraction of the
    training points becomes the validation points. Tables are standardised, functions only if
    first-order solvers could not learn them as they are, and class indices never. Raises
    UsageError.
    """
    check(sampling, "sampling.")
    drawn, test = _points_of(target, sampling, seed)
    if sampling.noise:
        normal = generator(seed, "noise").standard_normal(drawn.y.shape)
        drawn = replace(drawn, y=drawn.y + sampling.noise * deviation(drawn.y) * normal)
    order = split_order(len(drawn), generator(seed, "validation"), _labels(target, drawn))
    few = len(drawn) < _MIN_FOR_VALIDATION
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
    """Return training points, those for validation included, without noise, and test points."""
    if target.points is None:
        if sampling.n_test is None:
            raise UsageError("sampling.n_test must be a number; null is for tables.")
        drawn = []
        n_train = _FUNCTION_POINTS if sampling.n_train is None else sampling.n_train
        for part, count in (("train", n_train), ("test", sampling.n_test)):
            if count * len(target.domain) > _MAX_NUMBERS:
                raise UsageError(
                    f"sampling.n_{part}={count} points of {len(target.domain)} variables are more "
                    "than memory is planned for."
                )
            drawn.append(draw(target, count, generator(seed, part)))
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


def _split_rows(
    target: Target, points: Points, sampling: SamplingConfig, rng: np.random.Generator
) -> tuple[Points, Points | None]:
    """Split the rows of a table: the latest test, or whole groups, or a fair sample."""
    rows = len(points)
    train = sampling.n_train
    test = sampling.n_test
    if train is not None and train < _MIN_TRAIN:
        raise UsageError(f"sampling.n_train={train} must be at least {_MIN_TRAIN} for a table.")
    if test is None:
        test = max(round(_TEST_FRACTION * rows), 1) if train is None else max(rows - train, 0)
    if train is None:
        train = max(rows - test, _MIN_TRAIN)
    if train + test > rows:
        raise UsageError(
            f"{train} training and {test} test rows are {train + test}, but {target.name} has "
            f"{rows} row{'s' * (rows != 1)}."
        )
    groups = points.groups
    if groups is None:
        order = split_order(len(points), rng, _labels(target, points))
    elif points.forward:
        order = np.argsort(groups, kind="stable")
    else:
        place = rng.permutation(int(groups.max()) + 1)[groups.astype(np.intp)]
        order = np.argsort(place, kind="stable")
        if train < len(order):  # no group is torn
            torn = int((groups[order[:train]] == groups[order[train]]).sum())
            train = train - torn
            test = test + torn
        if train < _MIN_TRAIN:
            raise UsageError(
                f"{target.name} has too few groups for test rows; reduce sampling.n_test."
            )
    chosen = np.sort(order[:train])
    others = np.sort(order[train : train + test])
    return points.take(chosen), points.take(others) if test else None


def _labels(target: Target, points: Points) -> NDArray[np.intp] | None:
    return None if target.classes is None else points.y[:, 0].astype(np.intp)


def _scale_if_needed(middle: Array, size: Array) -> Scaling:
    """Scale by middle and size, except features of ordinary size."""
    size = np.where(size > 0, size, np.maximum(1.0, np.abs(middle)))
    near = np.abs(middle) <= _ORDINARY * size
    plain = (size >= 1 / _ORDINARY) & (size <= _ORDINARY) & near
    return Scaling(np.where(plain, 0.0, middle), np.where(plain, 1.0, size))


def _standardise(values: Array, weights: Array | None) -> Scaling:
    """Scale by weighted mean and standard deviation; a constant column is only shifted."""
    relative, exponent = in_own_units(values)
    mean = np.ldexp(np.average(relative, 0, weights), exponent)
    return Scaling(mean, np.where(constant(values), 1.0, deviation(values, weights)))


def constant(values: Array) -> NDArray[np.bool_]:
    """Return which columns are constant up to rounding."""
    with np.errstate(over="ignore"):  # a range beyond float64 is infinite, and so not constant
        return np.asarray(np.ptp(values, axis=0) <= _ROUNDING * np.abs(values).max(axis=0))


def _notes(target: Target, train: Points) -> list[str]:
    """Return what the user should know about the points."""
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
