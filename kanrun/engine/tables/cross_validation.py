"""Folds of a table, the selection by losses on held-out rows, and baselines by scikit-learn."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from pandas import DataFrame
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from kanrun.engine.tables.reduced_basis import PerRow, RowOutputs
from kanrun.engine.tables.scores import ordinary_units
from kanrun.monitoring import time_limit_reached
from kanrun.points import Points, root_mean_square

OURS = "kanrun"
#: What may be selected; SPARSE is the additive fit with few inputs.
STACK, SPARSE, LINEAR, TRANSFORMED, BLEND = "stack", "sparse", "linear", "transformed", "blend"
MEAN = "mean"
_MIN_PROBABILITY = 1e-12  # keeps the log loss of a class that a model excludes finite
_PURE = 0.1  # weight of a stack in a blend below which the other one stands alone
_SPARSE_CHANCE = 1.0  # standard errors by which the sparse fit must be better than the blend
# Standard errors, and fraction of the loss, of which the lower counts.
_LINEAR_CHANCE, _LINEAR_LOSS = 0.5, 0.003
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
        predict: Function of each fold from inputs to predictions by the selected candidate, as
            fitted without its rows.
    """

    values: ndarray
    number: ndarray
    seconds: ndarray
    predict: Sequence[Callable[[ndarray], ndarray]]


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


def row_losses(predicted: RowOutputs, y: ndarray, classes: int | None) -> PerRow:
    """Return each row's log loss, or its mean squared error in units of the outputs' variances."""
    if classes:
        likely = predicted[np.arange(len(y)), y[:, 0].astype(int)]
        return np.asarray(-np.log(np.clip(likely, _MIN_PROBABILITY, 1)))
    variance = y.var(0)
    return np.asarray(((predicted - y) ** 2 / np.where(variance > 0, variance, 1.0)).mean(1))


def loss_of(
    predicted: RowOutputs,
    y: ndarray,
    classes: int | None,
    weights: ndarray | None = None,
) -> float:
    """Return the root mean square error, or the log loss of probabilities."""
    if classes:
        return float(np.average(row_losses(predicted, y, classes), weights=weights))
    return float(root_mean_square(root_mean_square(predicted - y, weights)))


@dataclass(frozen=True)
class Choice:
    """A candidate, or the blend.

    `amount` is the factor of a classifier's logits, or the weight of `transformed`.
    """

    name: str
    amount: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        """Candidates whose predictions it needs."""
        return (STACK, TRANSFORMED) if self.name == BLEND else (self.name,)

    def of(self, predictions: Mapping[str, ndarray]) -> ndarray:
        """Return its predictions from those of the candidates, in the user's units."""
        if self.name == BLEND:
            first, second = (predictions[name] for name in self.parts)
            return np.asarray((1 - self.amount) * first + self.amount * second)
        one = predictions[self.name]
        if self.amount == 1:
            return one
        return np.asarray(softmax(self.amount * np.log(np.maximum(one, _MIN_PROBABILITY)), 1))


@dataclass(frozen=True, eq=False)
class CandidateSelection:
    """Losses of choices on some rows, for several predictions of held-out rows."""

    points: Points
    classes: int | None
    predictions: Sequence[Mapping[str, ndarray]]
    rows: ndarray
    robust: float

    def losses(self, choice: Choice) -> PerRow:
        """Return the loss of each row, averaged over the predictions."""
        y, each = self.points.y, [choice.of(one) for one in self.predictions]
        found = np.stack([row_losses(one, y, self.classes)[self.rows] for one in each])
        if not self.classes:  # squared errors beyond the limit grow linearly
            limit = self.robust**2
            found = np.where(found <= limit, found, 2 * np.sqrt(limit * found) - limit)
        return np.asarray(found.mean(0))

    def calibrated(self, name: str) -> Choice:
        """Return a classifier with the best factor, whose logarithm has a standard normal prior."""
        if not self.classes or LINEAR not in self.predictions[0]:
            return Choice(name)
        found = minimize_scalar(
            lambda a: self.losses(Choice(name, float(np.exp(a)))).sum() + a * a / 2,
            bounds=(-2, 2),
            method="bounded",
        )
        return Choice(name, float(np.exp(found.x)))

    def blended(self) -> Choice:
        """Return the best blend of both stacks, or one of them if the other has little weight."""
        found = minimize_scalar(
            lambda a: self.losses(Choice(BLEND, a)).sum(), bounds=(0, 1), method="bounded"
        )
        weight = float(found.x)
        if weight >= 1 - _PURE:
            return Choice(TRANSFORMED)
        return Choice(BLEND, weight) if weight > _PURE else Choice(STACK)

    def select(self) -> Choice:
        """Return the best blend, or another candidate.

        That is the sparse fit if it is significantly better on the last predictions, and the linear
        model if the best blend is not significantly better than it. Neither is, if it is not
        better than the mean of the outputs on the last predictions by its standard error.
        """
        names, last = self.predictions[0], replace(self, predictions=self.predictions[-1:])
        best = self.blended() if TRANSFORMED in names else self.calibrated(STACK)
        if SPARSE in names:
            sparse = self.calibrated(SPARSE)
            gain = last.losses(best) - last.losses(sparse)
            if gain.mean() > _SPARSE_CHANCE * gain.std() / np.sqrt(len(gain)):
                best = sparse
        if LINEAR not in names:
            return best
        linear, mine = self.calibrated(LINEAR), self.losses(best)
        cost = self.losses(linear) - mine
        chance = _LINEAR_CHANCE * cost.std() / np.sqrt(len(cost))
        allowed = min(chance, _LINEAR_LOSS * mine.mean())
        chosen, constant = linear if cost.mean() <= allowed else best, Choice(MEAN)
        for one in (chosen, linear):
            gain = last.losses(constant) - last.losses(one)
            if gain.mean() > gain.std() / np.sqrt(len(gain)):
                return one
        return constant


def cross_validate(
    points: Points, classes: int | None, folds: Folds, *, baselines: bool
) -> DataFrame:
    """Compare the automatic model with the `baselines` on the same folds.

    Returns:
        A row per fold and model: `model`, `fold`, `loss` (RMSE, or log loss for classes) and
        `cpu_seconds`.
    """
    models = _baselines(classes) if baselines and not time_limit_reached() else {}
    ordinary, _, unit = ordinary_units(points, classes)
    rows = []
    for k, seconds in enumerate(folds.seconds):
        held_out = np.flatnonzero(folds.number == k)
        train = ordinary.take(training_rows(points, folds.number, k))
        test, found = points.take(held_out), {OURS: (folds.values[held_out], seconds)}
        for name, estimator in models.items():
            started = time.process_time()
            predicted = np.ldexp(_predicted(estimator, train, ordinary.x[held_out], classes), unit)
            found[name] = predicted, time.process_time() - started
        for name, (predicted, spent) in found.items():
            rows.append((name, k, loss_of(predicted, test.y, classes, test.weights), spent))
    return DataFrame(rows, columns=["model", "fold", "loss", "cpu_seconds"])


def _baselines(classes: int | None) -> dict[str, Any]:
    """Return estimators of scikit-learn by name."""
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.multioutput import MultiOutputRegressor

    if classes:
        return {
            "majority": DummyClassifier(strategy="prior"),
            "logistic regression": LogisticRegression(max_iter=2000),
            "gradient boosting": HistGradientBoostingClassifier(random_state=0),
        }
    return {
        "mean": DummyRegressor(),
        "ridge regression": RidgeCV(np.logspace(-3, 4, 15)),
        "gradient boosting": MultiOutputRegressor(HistGradientBoostingRegressor(random_state=0)),
    }


def _predicted(estimator: Any, train: Points, x: ndarray, classes: int | None) -> ndarray:
    """Fit `estimator` to standardised inputs, and predict outputs or probabilities of classes."""
    mean, std = train.x.mean(0), train.x.std(0)
    std = np.where(std > 0, std, 1.0)
    y = train.y[:, 0].astype(int) if classes else train.y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit((train.x - mean) / std, y, sample_weight=train.weights)
    scaled = (x - mean) / std
    if not classes:
        return np.asarray(estimator.predict(scaled), dtype=np.float64).reshape(len(x), -1)
    out = np.zeros((len(x), classes))
    out[:, estimator.classes_] = estimator.predict_proba(scaled)
    return out
