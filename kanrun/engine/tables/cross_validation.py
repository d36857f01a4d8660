"""Folds of a table, losses on held-out rows, and baselines by scikit-learn."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kanrun.engine.tables.scores import ordinary_units
from kanrun.monitoring import time_limit_reached
from kanrun.points import Points, deviation, root_mean_square

OURS = "kanrun"
MIN_PROBABILITY = 1e-12  # keeps the log loss of a class that a model excludes finite
_STREAM = 20_404  # of the random numbers of folds


@dataclass(frozen=True, eq=False)
class Folds:
    """Predictions of held-out rows by models fitted without them.

    The candidate that predicts the rows of one fold is selected on the other folds, so the errors
    estimate those of new rows.

    Attributes:
        values: Predictions, shape (rows, outputs); NaN for rows that no fold holds out.
        number: Fold that holds out each row, shape (rows,); -1 for none.
        seconds: CPU time of each fold's fit.
    """

    values: ndarray
    number: ndarray
    seconds: ndarray


def assign_folds(
    points: Points, folds: int, seed: int, labels: ndarray | None = None, *, single: bool = False
) -> Int[ndarray, " rows"]:
    """Return the fold that each row is left out of, stratified by label.

    With `single` only one fold is left out.

    Groups stay together. Rows in time are divided into parts, each predicted by the rows before it;
    the first part is never left out.
    """
    rng, rows = np.random.default_rng([seed, _STREAM]), len(points)
    if points.groups is not None:
        place = np.unique(points.groups, return_inverse=True)[1]
        groups = int(place.max()) + 1
        parts = min(folds, groups - points.forward)
        if points.forward:
            fraction = np.searchsorted(np.sort(place), place) / rows
        else:
            fraction = rng.permutation(groups)[place] / groups
        number = np.floor(fraction * (parts + points.forward)).astype(int) - points.forward
        return np.where(number < parts - 1, -1, 0) if points.forward and single else number
    order = rng.permutation(rows)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    number = np.empty(rows, dtype=int)
    number[order] = np.arange(rows) % min(folds, rows)
    return np.where(number > 0, -1, number) if single else number


def training_rows(points: Points, number: ndarray, fold: int) -> Int[ndarray, " training"]:
    """Return the rows that predict a fold: all others, or those before it if rows are in time."""
    if not points.forward or points.groups is None:
        return np.flatnonzero(number != fold)
    return np.flatnonzero(points.groups < points.groups[number == fold].min())


def row_losses(
    predicted: Float[ndarray, "rows outputs"], y: ndarray, classes: int | None
) -> Float[ndarray, " rows"]:
    """Return each row's log loss, or its mean squared error in units of the outputs' variances."""
    if classes:
        likely = predicted[np.arange(len(y)), y[:, 0].astype(int)]
        return np.asarray(-np.log(np.clip(likely, MIN_PROBABILITY, 1)))
    variance = y.var(0)
    return np.asarray(((predicted - y) ** 2 / np.where(variance > 0, variance, 1.0)).mean(1))


def loss_of(
    predicted: Float[ndarray, "rows outputs"],
    y: ndarray,
    classes: int | None,
    weights: ndarray | None = None,
) -> float:
    """Return the root mean square error, or the log loss of probabilities."""
    if classes:
        return float(np.average(row_losses(predicted, y, classes), weights=weights))
    return float(root_mean_square(root_mean_square(predicted - y, weights)))


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """RMSE (log loss for classes) and CPU seconds of a fit, for each model and fold."""

    losses: Mapping[str, ndarray]
    seconds: Mapping[str, ndarray]

    def mean(self, name: str = OURS) -> float:
        """Return the mean loss over folds."""
        return float(np.mean(self.losses[name]))

    def std(self, name: str = OURS) -> float:
        """Return the standard deviation of the loss over folds."""
        return float(deviation(self.losses[name]))


def cross_validate(
    points: Points, classes: int | None, folds: Folds, *, baselines: bool
) -> CrossValidation:
    """Return the losses of the automatic model and of the `baselines` on the same folds."""
    losses: dict[str, list[float]] = {OURS: []}
    seconds: dict[str, list[float]] = {OURS: list(folds.seconds)}
    models = _baselines(classes) if baselines and not time_limit_reached() else {}
    ordinary, _, unit = ordinary_units(points, classes)
    for k in range(len(folds.seconds)):
        held_out = np.flatnonzero(folds.number == k)
        train = ordinary.take(training_rows(points, folds.number, k))
        test = points.take(held_out)
        losses[OURS].append(loss_of(folds.values[held_out], test.y, classes, test.weights))
        for name, fit in models.items():
            started = time.process_time()
            predict = fit(train)
            seconds.setdefault(name, []).append(time.process_time() - started)
            found = np.ldexp(predict(ordinary.x[held_out]), unit)
            losses.setdefault(name, []).append(loss_of(found, test.y, classes, test.weights))
    return CrossValidation(
        {name: np.array(found) for name, found in losses.items()},
        {name: np.array(found) for name, found in seconds.items()},
    )


def _baselines(classes: int | None) -> dict[str, Callable[[Points], Callable[[ndarray], ndarray]]]:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if classes:
        logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        estimators = {
            "majority": DummyClassifier(strategy="prior"),
            "logistic regression": logistic,
            "gradient boosting": HistGradientBoostingClassifier(random_state=0),
        }
    else:
        estimators = {
            "mean": DummyRegressor(),
            "ridge regression": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15))),
            "gradient boosting": HistGradientBoostingRegressor(random_state=0),
        }
    return {name: partial(_fit, estimator, classes) for name, estimator in estimators.items()}


def _fit(estimator: Any, classes: int | None, train: Points) -> Callable[[ndarray], ndarray]:
    """Return a function that predicts the outputs, or the probabilities of all classes."""
    from sklearn.base import clone
    from sklearn.multioutput import MultiOutputRegressor

    estimator, y = clone(estimator), train.y[:, 0] if train.y.shape[1] == 1 else train.y
    if y.ndim > 1 and type(estimator).__name__ == "HistGradientBoostingRegressor":
        estimator = MultiOutputRegressor(estimator)
    # A pipeline hands weights to its last step.
    last = f"{estimator.steps[-1][0]}__" if hasattr(estimator, "steps") else ""
    weights = {} if train.weights is None else {f"{last}sample_weight": train.weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(train.x, y.astype(int) if classes else y, **weights)
    if not classes:
        return lambda x: np.asarray(estimator.predict(x), dtype=np.float64).reshape(len(x), -1)

    def predict(x: ndarray) -> ndarray:
        out = np.zeros((len(x), classes))
        out[:, estimator.classes_] = estimator.predict_proba(x)
        return out

    return predict
