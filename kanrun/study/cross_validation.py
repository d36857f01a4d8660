"""Errors on rows that a model never saw: the automatic model's beside those of what one would use instead.

scikit-learn is imported here alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kanrun.monitoring import time_limit_reached
from kanrun.study.prediction import error_levels
from kanrun.study.table_model import Folds, TableModel, row_losses, training_rows
from kanrun.targets import Points, deviation, ordinary_units, root_mean_square

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
        return float(deviation(self.losses[name]))


def cross_validate(
    points: Points, classes: int | None, folds: Folds, *, baselines: bool
) -> CrossValidation:
    """The errors of the automatic model on its folds, and with `baselines` those of others on the same folds."""
    losses: dict[str, list[float]] = {OURS: []}
    seconds: dict[str, list[float]] = {OURS: list(folds.seconds)}
    models = _baselines(classes) if baselines and not time_limit_reached() else {}
    ordinary, _, unit = ordinary_units(points, classes)
    for k in range(len(folds.seconds)):
        held = np.flatnonzero(folds.number == k)
        train, test = ordinary.take(training_rows(points, folds.number, k)), points.take(held)
        losses[OURS].append(loss_of(folds.values[held], test.y, classes, test.weights))
        for name, fit in models.items():
            started = time.process_time()
            predicted = fit(train)
            seconds.setdefault(name, []).append(time.process_time() - started)
            found = np.ldexp(predicted(ordinary.x[held]), unit)
            losses.setdefault(name, []).append(loss_of(found, test.y, classes, test.weights))
    return CrossValidation(
        {name: np.array(found) for name, found in losses.items()},
        {name: np.array(found) for name, found in seconds.items()},
    )


def loss_of(
    predicted: Float[ndarray, "rows outputs"],
    y: ndarray,
    classes: int | None,
    weights: ndarray | None = None,
) -> float:
    """Root mean square error, or log loss of probabilities."""
    if classes:
        return float(np.average(row_losses(predicted, y, classes), weights=weights))
    return float(root_mean_square(root_mean_square(predicted - y, weights)))


def error_quantiles(model: TableModel, y: ndarray) -> Float[ndarray, "outputs levels"] | None:
    """Quantiles of truth - prediction over rows that were left out, in the network's units; None for classes.

    The levels are stretched for as many rows as there are, and one more.
    """
    if model.outputs is None:
        return None
    left_out = model.left_out if model.folds is None else model.folds.values
    inside = ~np.isnan(left_out[:, 0])
    error = model.outputs.apply(y[inside]) - model.outputs.apply(left_out[inside])
    count = max(int(inside.sum()), 1)
    levels = np.clip(0.5 + (error_levels() - 0.5) * (count + 1) / count, 0, 1)
    return np.quantile(error, levels, axis=0).T


def _baselines(classes: int | None) -> dict[str, Callable[[Points], Callable[[ndarray], ndarray]]]:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimators = (
        {
            "majority": DummyClassifier(strategy="prior"),
            "logistic regression": make_pipeline(
                StandardScaler(), LogisticRegression(max_iter=2000)
            ),
            "gradient boosting": HistGradientBoostingClassifier(random_state=0),
        }
        if classes
        else {
            "mean": DummyRegressor(),
            "ridge regression": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15))),
            "gradient boosting": HistGradientBoostingRegressor(random_state=0),
        }
    )
    return {name: partial(_fitted, estimator, classes) for name, estimator in estimators.items()}


def _fitted(estimator: Any, classes: int | None, train: Points) -> Callable[[ndarray], ndarray]:
    """What predicts the outputs, or the probabilities of all classes; a pipeline hands weights to its last step."""
    from sklearn.base import clone
    from sklearn.multioutput import MultiOutputRegressor

    estimator, y = clone(estimator), train.y[:, 0] if train.y.shape[1] == 1 else train.y
    if (
        y.ndim > 1 and type(estimator).__name__ == "HistGradientBoostingRegressor"
    ):  # which takes one output
        estimator = MultiOutputRegressor(estimator)
    last = f"{estimator.steps[-1][0]}__" if hasattr(estimator, "steps") else ""
    weights = {} if train.weights is None else {f"{last}sample_weight": train.weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(train.x, y.astype(int) if classes else y, **weights)
    if not classes:
        return lambda x: np.asarray(estimator.predict(x), dtype=np.float64).reshape(len(x), -1)

    def predicted(x: ndarray) -> ndarray:
        out = np.zeros((len(x), classes))
        out[:, estimator.classes_] = estimator.predict_proba(x)
        return out

    return predicted
