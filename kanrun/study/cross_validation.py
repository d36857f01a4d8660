"""Errors on rows that a model never saw, for the automatic model and for what one would use instead.

Every fold fits the whole procedure anew: scores, evidence, stacking, and the choice between candidates. scikit-learn is
imported here alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kanrun.study.table_model import TablePolicy, fit_table
from kanrun.targets import Points

OURS = "kanrun"
MOST_ROWS = 10_000  # of more rows, one fold of a fifth is left out instead of each once
_LEAST = 1e-12  # probability, so that the logarithm of a class that a model excludes stays finite


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Predictions of left-out rows: `values` (rows, outputs) in the user's units or probabilities, NaN where none.

    `losses` and `seconds` hold, for each model by its name, one number per fold: root mean square error over the
    outputs (log loss for classes), and the CPU seconds of its fit.
    """

    values: ndarray
    losses: Mapping[str, ndarray]
    seconds: Mapping[str, ndarray]

    def mean(self, name: str = OURS) -> float:
        """The pooled error of a model: root of the mean square over folds (their mean for classes)."""
        return float(np.mean(self.losses[name]))

    def spread(self, name: str = OURS) -> float:
        """The standard deviation over folds."""
        return float(np.std(self.losses[name]))


def folds_of(rows: int, folds: int, seed: int, labels: ndarray | None = None) -> list[ndarray]:
    """The left-out rows of each fold, stratified by label; one fold of a fifth for a long table."""
    rng = np.random.default_rng([seed, 20_404])
    order = rng.permutation(rows)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    number = np.empty(rows, dtype=int)
    number[order] = np.arange(rows) % min(folds, rows)
    held = [np.flatnonzero(number == k) for k in range(min(folds, rows))]
    return held[:1] if rows > MOST_ROWS else held


def cross_validate(
    points: Points, classes: int | None, policy: TablePolicy, folds: int, seed: int, *, baselines: bool
) -> CrossValidation:
    """Fit without each fold in turn, and predict it."""
    labels = points.y[:, 0].astype(int) if classes else None
    values = np.full((len(points), classes or points.y.shape[1]), np.nan)
    models: dict[str, Callable[[Points], Callable[[ndarray], ndarray]]] = {
        OURS: lambda train: fit_table(train, classes, policy).values
    }
    if baselines:
        models |= _baselines(classes)
    losses: dict[str, list[float]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for held in folds_of(len(points), folds, seed, labels):
        kept = np.setdiff1d(np.arange(len(points)), held)
        train, test = points.take(kept), points.take(held)
        for name, fit in models.items():
            started = time.process_time()
            predicted = fit(train)
            seconds[name].append(time.process_time() - started)
            there = predicted(test.x)
            losses[name].append(loss_of(there, test.y, classes))
            if name == OURS:
                values[held] = there
    return CrossValidation(
        values,
        {name: np.array(found) for name, found in losses.items()},
        {name: np.array(found) for name, found in seconds.items()},
    )


def loss_of(predicted: Float[ndarray, "rows outputs"], y: ndarray, classes: int | None) -> float:
    """Root mean square error, or log loss of probabilities."""
    if not classes:
        return float(np.sqrt(np.mean((predicted - y) ** 2)))
    likely = np.clip(predicted[np.arange(len(y)), y[:, 0].astype(int)], _LEAST, 1)
    return float(-np.log(likely).mean())


def _baselines(classes: int | None) -> dict[str, Callable[[Points], Callable[[ndarray], ndarray]]]:
    names = ("majority", "logistic regression") if classes else ("mean", "ridge regression")
    fits = (_constant, _linear, _boosted)
    return {
        name: (lambda train, fit=fit: fit(train, classes))  # type: ignore[misc]
        for name, fit in zip((*names, "gradient boosting"), fits, strict=True)
    }


def _constant(train: Points, classes: int | None) -> Callable[[ndarray], ndarray]:
    if classes:
        share = np.bincount(train.y[:, 0].astype(int), minlength=classes) / len(train)
        return lambda x: np.tile(share, (len(x), 1))
    return lambda x: np.tile(train.y.mean(0), (len(x), 1))


def _linear(train: Points, classes: int | None) -> Callable[[ndarray], ndarray]:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if classes:
        return _probabilities(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), train, classes)
    return _numbers(make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15))), train)


def _boosted(train: Points, classes: int | None) -> Callable[[ndarray], ndarray]:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if classes:
        return _probabilities(HistGradientBoostingClassifier(random_state=0), train, classes)
    parts = [
        _numbers(HistGradientBoostingRegressor(random_state=0), Points(train.x, train.y[:, o : o + 1]))
        for o in range(train.y.shape[1])
    ]
    return lambda x: np.concatenate([part(x) for part in parts], 1)


def _numbers(estimator: Any, train: Points) -> Callable[[ndarray], ndarray]:
    estimator.fit(train.x, train.y if train.y.shape[1] > 1 else train.y[:, 0])
    return lambda x: np.asarray(estimator.predict(x), dtype=np.float64).reshape(len(x), -1)


def _probabilities(estimator: Any, train: Points, classes: int) -> Callable[[ndarray], ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(train.x, train.y[:, 0].astype(int))
    known = estimator.classes_

    def predicted(x: ndarray) -> ndarray:
        out = np.zeros((len(x), classes))
        out[:, known] = estimator.predict_proba(x)
        return out

    return predicted
