"""Folds of a table, losses on held-out rows, and baseline models of scikit-learn.

Repeated rows, which are copies of one measurement and add no information, are merged.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from pandas import DataFrame

from kanrun.engine.tables.reduced_basis import RowInputs, RowOutputs
from kanrun.monitoring import time_limit_reached
from kanrun.points import Family, Points, deviation, in_own_units, root_mean_square

OURS = "kanrun"
Predict = Callable[[RowInputs], RowOutputs]
#: Combined with the seed, so that folds do not share the random numbers of other purposes.
_STREAM = 20_404


@dataclass(frozen=True, eq=False)
class Folds:
    """Predictions of held-out rows by models that were fitted without these rows.

    Without folds, rows are left out one at a time: there are predictions of all rows, and the lists
    are empty.

    Attributes:
        values: Predictions, shape (rows, outputs); NaN for rows that are never held out.
        number: Number of the fold that holds out each row, shape (rows,); -1 for rows that no fold
            holds out.
        seconds: CPU time of each fold's fit.
        predict: One function per fold. It maps inputs (rows, inputs) to the predictions of the
            model that was fitted without the fold's rows.
    """

    values: ndarray
    number: ndarray
    seconds: Sequence[float]
    predict: Sequence[Predict]


def assign_folds(
    points: Points, folds: int, seed: int, family: Family | None = None, *, single: bool = False
) -> Int[ndarray, " rows"]:
    """Assign each row to the fold that holds it out.

    If the rows have no groups, the folds of classes are stratified. Otherwise, all rows of a group
    (`points.groups`) are in the same fold. If rows are ordered in time
    (`points.forward`), they are divided into successive parts, and each part is predicted from the
    rows before it; the first part is in no fold. With `single`, or for large tables, only one fold
    is held out: the last one if rows are ordered in time.

    Returns:
        The number of the fold of each row, shape (rows,); -1 for rows in no fold.
    """
    # Largest value of rows x classes x inputs^2 for which more than one fold is held out.
    fold_work = 2e7
    # Largest number of rows for which more than one fold is held out.
    max_fold_rows = 10_000
    rng = np.random.default_rng([seed, _STREAM])
    rows, inputs = points.x.shape
    classes = family.classes if family else None
    work = rows * (classes or 1) * inputs**2
    single = single or rows > max_fold_rows or work > fold_work
    if points.groups is not None:
        place = np.unique(points.groups, return_inverse=True)[1]
        groups = int(place.max()) + 1
        parts = min(folds, groups - points.forward)
        if points.forward:
            fraction = np.searchsorted(np.sort(place), place) / rows
        else:
            fraction = rng.permutation(groups)[place] / groups
        number = np.floor(fraction * (parts + points.forward)).astype(int)
        # A part has no rows if more rows than it should have are of the same time.
        number = np.unique(number, return_inverse=True)[1] - points.forward
    else:
        order = rng.permutation(rows)
        if classes:
            order = order[np.argsort(points.y[order, 0], kind="stable")]
        number = np.empty(rows, dtype=int)
        number[order] = np.arange(rows) % min(folds, rows)
    last = number.max() if points.forward else 0
    return np.where(number == last, 0, -1) if single else number


def training_rows(points: Points, number: ndarray, fold: int) -> Int[ndarray, " training"]:
    """Return the indices of the training rows of fold number `fold`.

    These are all rows outside the fold or, if rows are ordered in time, the rows before the fold.
    """
    if not points.forward or points.groups is None:
        return np.flatnonzero(number != fold)
    return np.flatnonzero(points.groups < points.groups[number == fold].min())


def loss_of(
    predicted: RowOutputs, y: ndarray, family: Family, weights: ndarray | None = None
) -> float:
    """Return the loss of predictions, averaged over rows.

    It is the log loss for classes, the mean deviance for outputs with a link function, and the root
    mean square error over rows and outputs otherwise.
    """
    # Smallest probability, which keeps the log loss of a class that a model excludes finite.
    min_probability = 1e-12
    if family.classes:
        likely = predicted[np.arange(len(y)), y[:, 0].astype(int)]
        return float(np.average(-np.log(np.clip(likely, min_probability, 1)), weights=weights))
    if family.has_link:
        return float(np.average(family.deviance(y, predicted)[:, 0], weights=weights))
    return float(root_mean_square(root_mean_square(predicted - y, weights)))


def cross_validate(points: Points, family: Family, folds: Folds, *, baselines: bool) -> DataFrame:
    """Compare the automatic model with baselines of scikit-learn on the same folds.

    Without `baselines`, the table contains only the automatic model.

    Returns:
        A row per fold and model: `model`, `fold`, `loss` (see `loss_of`) and `cpu_seconds`.
    """
    models = _baselines(family) if baselines and not time_limit_reached() else {}
    rows = []
    for k, seconds in enumerate(folds.seconds):
        held_out = np.flatnonzero(folds.number == k)
        train = points.take(training_rows(points, folds.number, k))
        test = points.take(held_out)
        found = {OURS: (folds.values[held_out], seconds)}
        for name, estimator in models.items():
            started = time.process_time()
            predicted = _predicted(estimator, train, test.x, family)
            found[name] = predicted, time.process_time() - started
        for name, (predicted, spent) in found.items():
            rows.append((name, k, loss_of(predicted, test.y, family, test.weights), spent))
    return DataFrame(rows, columns=["model", "fold", "loss", "cpu_seconds"])


def _baselines(family: Family) -> dict[str, Any]:
    """Return the baseline estimators of scikit-learn by name."""
    from sklearn import ensemble, linear_model
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.multioutput import MultiOutputRegressor

    if family.classes or family.name == "binomial":
        return {
            "majority" if family.classes else "mean": DummyClassifier(strategy="prior"),
            "logistic regression": linear_model.LogisticRegression(max_iter=2000),
            "gradient boosting": ensemble.HistGradientBoostingClassifier(random_state=0),
        }
    if family.has_link:
        power = {"poisson": 1, "gamma": 2}[family.name]
        return {
            "mean": DummyRegressor(),
            "log-linear regression": linear_model.TweedieRegressor(
                power=power, alpha=1e-3, link="log", max_iter=2000
            ),
            "gradient boosting": ensemble.HistGradientBoostingRegressor(
                loss=family.name, random_state=0
            ),
        }
    boosting = ensemble.HistGradientBoostingRegressor(random_state=0)
    return {
        "mean": DummyRegressor(),
        "ridge regression": linear_model.RidgeCV(np.logspace(-3, 4, 15)),
        "gradient boosting": MultiOutputRegressor(boosting),
    }


def _predicted(estimator: Any, train: Points, x: ndarray, family: Family) -> ndarray:
    """Fit `estimator` to standardised inputs, and predict outputs or class probabilities at `x`.

    Fractions (`binomial`) are fitted by a classifier: a row with the fraction y becomes one row of
    class 0 with the weight 1 - y and one row of class 1 with the weight y.
    """
    if family.name == "binomial":
        weights = np.concatenate([1 - train.y, train.y])[:, 0] * np.tile(train.shares, 2)
        labels = np.repeat([0.0, 1.0], len(train))[:, None]
        both = Points(np.tile(train.x, (2, 1)), labels, weights).take(np.flatnonzero(weights))
        return _predicted(estimator, both, x, Family(classes=2))[:, 1:]
    mean = train.x.mean(0)
    std = deviation(train.x)
    std = np.where(std > 0, std, 1.0)
    unit = 0 if family.has_link else in_own_units(train.y.ravel())[1]
    y = np.ldexp(train.y[:, 0] if family.has_link else train.y, -unit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit((train.x - mean) / std, y, sample_weight=train.weights)
    scaled = (x - mean) / std
    if not family.classes:
        predicted = np.asarray(estimator.predict(scaled), dtype=np.float64)
        return np.ldexp(predicted.reshape(len(x), -1), unit)
    probabilities = np.zeros((len(x), family.classes))
    probabilities[:, estimator.classes_.astype(int)] = estimator.predict_proba(scaled)
    return probabilities


def merge_copies(points: Points) -> tuple[Points, Int[ndarray, " rows"]]:
    """Merge rows that are copies of each other.

    Rows are copies if they are equal in all inputs and outputs, unless that may be chance (see
    `_is_unexplained`). The merged row has the sum of the weights of its copies; weights are then
    scaled to the mean 1. If the copies have different times, the earliest one is kept.

    Returns:
        The points without copies and, for each original row, the index of the merged row that
        represents it, shape (rows,).
    """
    rows, inputs = points.x.shape
    table = DataFrame(np.concatenate([points.x, points.y], 1))
    if not table.duplicated().any():
        return points, np.arange(rows)
    group = table.groupby([*table], sort=False).ngroup().to_numpy()
    repeats = _is_unexplained(table.drop_duplicates(), inputs, rows)[group]
    group = np.where(repeats, group, rows + np.arange(rows))
    order = np.arange(rows) if points.groups is None else np.argsort(points.groups, kind="stable")
    _, first, place = np.unique(group[order], return_index=True, return_inverse=True)
    if len(first) == rows:
        return points, np.arange(rows)
    place[order] = place.copy()
    weights = np.bincount(place, points.shares)
    return replace(points.take(order[first]), weights=weights / weights.mean()), place


def _is_unexplained(different: DataFrame, inputs: int, rows: int) -> Bool[ndarray, " different"]:
    """Return, for each row of `different`, whether chance cannot explain that the row is repeated.

    A column has many values if the square of their number exceeds `rows`, the number of rows of the
    table. Chance cannot explain the repetition of a row if no other distinct row has the same
    values in all columns with many values. There are two exceptions, in which chance may explain
    every repetition: if no column with many values has mostly unique values (values that occur in
    one distinct row each, and in more than half of these rows), or if only outputs have many values
    and no two distinct rows have the same inputs.

    Args:
        different: The distinct rows of the table. Its first `inputs` columns are the inputs.
        inputs: Number of inputs.
        rows: Number of rows of the table, including repeated ones.
    """
    counts = {int(j): different[j].value_counts() for j in different.columns}
    many = [j for j, count in counts.items() if len(count) ** 2 > rows]
    if many and min(many) >= inputs and not different.duplicated(subset=range(inputs)).any():
        many = []
    if not any((counts[j] == 1).sum() > len(different) / 2 for j in many):
        return np.zeros(len(different), bool)
    return np.asarray(~different.duplicated(subset=many, keep=False))
