"""Errors on rows that a model never saw: the automatic model's beside those of what one would use instead.

scikit-learn is imported here alone.
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

from kanrun.study.table_model import Folds, row_losses, training_rows
from kanrun.targets import Points
from kanrun.watch import time_is_up

OURS = "kanrun"


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """`losses` and `seconds` hold, for each model by its name, one number per fold.

    The losses are root mean square errors over the outputs (log loss for classes), the seconds CPU time of a fit.
    """

    losses: Mapping[str, ndarray]
    seconds: Mapping[str, ndarray]

    def mean(self, name: str = OURS) -> float:
        """The mean over folds."""
        return float(np.mean(self.losses[name]))

    def spread(self, name: str = OURS) -> float:
        """The standard deviation over folds."""
        return float(np.std(self.losses[name]))


def cross_validate(points: Points, classes: int | None, folds: Folds, *, baselines: bool) -> CrossValidation:
    """The errors of the automatic model on its folds, and with `baselines` those of others on the same folds."""
    losses: dict[str, list[float]] = {OURS: []}
    seconds: dict[str, list[float]] = {OURS: list(folds.seconds)}
    models = _baselines(classes) if baselines and not time_is_up() else {}
    for k in range(len(folds.seconds)):
        held = np.flatnonzero(folds.number == k)
        train, test = points.take(training_rows(points, folds.number, k)), points.take(held)
        losses[OURS].append(loss_of(folds.values[held], test.y, classes, test.weights))
        for name, fit in models.items():
            started = time.process_time()
            predicted = fit(train)
            seconds.setdefault(name, []).append(time.process_time() - started)
            losses.setdefault(name, []).append(loss_of(predicted(test.x), test.y, classes, test.weights))
    return CrossValidation(
        {name: np.array(found) for name, found in losses.items()},
        {name: np.array(found) for name, found in seconds.items()},
    )


def loss_of(
    predicted: Float[ndarray, "rows outputs"], y: ndarray, classes: int | None, weights: ndarray | None = None
) -> float:
    """Root mean square error, or log loss of probabilities."""
    if classes:
        return float(np.average(row_losses(predicted, y, classes), weights=weights))
    return float(np.sqrt(np.average(((predicted - y) ** 2).mean(1), weights=weights)))


def _baselines(classes: int | None) -> dict[str, Callable[[Points], Callable[[ndarray], ndarray]]]:
    names = ("majority", "logistic regression") if classes else ("mean", "ridge regression")
    fits = (_constant, _linear, _boosted)
    return {
        name: (lambda train, fit=fit: fit(train, classes))  # type: ignore[misc]
        for name, fit in zip((*names, "gradient boosting"), fits, strict=True)
    }


def _constant(train: Points, classes: int | None) -> Callable[[ndarray], ndarray]:
    if classes:
        share = np.bincount(train.y[:, 0].astype(int), train.weights, minlength=classes)
        return lambda x: np.tile(share / share.sum(), (len(x), 1))
    return lambda x: np.tile(np.average(train.y, 0, train.weights), (len(x), 1))


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
        _numbers(HistGradientBoostingRegressor(random_state=0), Points(train.x, train.y[:, o : o + 1], train.weights))
        for o in range(train.y.shape[1])
    ]
    return lambda x: np.concatenate([part(x) for part in parts], 1)


def _fit(estimator: Any, train: Points, y: ndarray) -> None:
    """With the weights of the rows, which a pipeline hands to its last step."""
    if train.weights is None:
        estimator.fit(train.x, y)
        return
    last = f"{estimator.steps[-1][0]}__" if hasattr(estimator, "steps") else ""
    estimator.fit(train.x, y, **{f"{last}sample_weight": train.weights})


def _numbers(estimator: Any, train: Points) -> Callable[[ndarray], ndarray]:
    _fit(estimator, train, train.y if train.y.shape[1] > 1 else train.y[:, 0])
    return lambda x: np.asarray(estimator.predict(x), dtype=np.float64).reshape(len(x), -1)


def _probabilities(estimator: Any, train: Points, classes: int) -> Callable[[ndarray], ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(estimator, train, train.y[:, 0].astype(int))
    known = estimator.classes_

    def predicted(x: ndarray) -> ndarray:
        out = np.zeros((len(x), classes))
        out[:, known] = estimator.predict_proba(x)
        return out

    return predicted
