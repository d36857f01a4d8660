"""Folds of a table, the selection by losses on held-out rows, and baselines by scikit-learn."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from pandas import DataFrame
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, RowOutputs
from kanrun.monitoring import report_progress, time_limit_reached
from kanrun.points import Family, Points, deviation, in_own_units, root_mean_square

OURS = "kanrun"
#: What may be selected; SPARSE is the additive fit with few inputs.
STACK, SPARSE, LINEAR, TRANSFORMED, BLEND = "stack", "sparse", "linear", "transformed", "blend"
MEAN = "mean"
_MIN_PROBABILITY = 1e-12  # keeps the log loss of a class that a model excludes finite
_PURE = 0.1  # weight of a stack in a blend below which the other one stands alone
_SPARSE_CHANCE = 1.0  # standard errors by which the sparse fit must be better than the blend
# Standard errors, and fraction of the loss, of which the lower counts.
_LINEAR_CHANCE, _LINEAR_LOSS = 0.5, 0.003
Predict = Callable[[RowInputs], RowOutputs]
#: Predictions of rows left out one by one, and the function that predicts, of each candidate.
FoldFit = tuple[Mapping[str, ndarray], Mapping[str, Predict]]
#: Number of rows of a table up to which folds select by further folds: ten more fits, after which a
#: fit takes up to three times as long.
_SELECTION_ROWS = 250
#: Smallest fraction of their training rows that models of further folds keep.
_SELECTION_KEPT = 0.5
_STREAM = 20_404  # of the random numbers of folds
# Rows, and rows x classes x inputs^2, from which one fold is left out.
_MAX_FOLD_ROWS, _FOLD_WORK = 10_000, 2e7


@dataclass(frozen=True, eq=False)
class Folds:
    """Predictions of held-out rows by models fitted and selected without them.

    Their errors estimate those of new rows, by models of fewer rows.

    Attributes:
        values: Predictions, shape (rows, outputs); NaN for rows that no fold holds out.
        number: Fold that holds out each row, shape (rows,); -1 for none.
        seconds: CPU time of each fold's fit.
        predict: Function of each fold from inputs to the predictions by its model.
    """

    values: ndarray
    number: ndarray
    seconds: ndarray
    predict: Sequence[Predict]


def assign_folds(
    points: Points, folds: int, seed: int, family: Family | None = None, *, single: bool = False
) -> Int[ndarray, " rows"]:
    """Return the fold that each row is left out of, stratified by class.

    With `single`, or for large tables, only one fold is left out.

    Groups stay together. Rows in time are divided into parts, each predicted by the rows before it;
    the first part is never left out.
    """
    rng, (rows, inputs) = np.random.default_rng([seed, _STREAM]), points.x.shape
    classes = family.classes if family else None
    work = rows * (classes or 1) * inputs**2
    single = single or rows > _MAX_FOLD_ROWS or work > _FOLD_WORK
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
    if classes:
        order = order[np.argsort(points.y[order, 0], kind="stable")]
    number = np.empty(rows, dtype=int)
    number[order] = np.arange(rows) % min(folds, rows)
    return np.where(number > 0, -1, number) if single else number


def training_rows(points: Points, number: ndarray, fold: int) -> Int[ndarray, " training"]:
    """Return the rows that predict a fold: all others, or those before it if rows are in time."""
    if not points.forward or points.groups is None:
        return np.flatnonzero(number != fold)
    return np.flatnonzero(points.groups < points.groups[number == fold].min())


def row_losses(predicted: RowOutputs, y: ndarray, family: Family) -> PerRow:
    """Return each row's log loss, deviance, or mean squared error over the outputs' variances."""
    if family.classes:
        likely = predicted[np.arange(len(y)), y[:, 0].astype(int)]
        return np.asarray(-np.log(np.clip(likely, _MIN_PROBABILITY, 1)))
    if family.has_link:
        return family.deviance(y, predicted)[:, 0]
    std = deviation(y)
    return np.asarray((((predicted - y) / np.where(std > 0, std, 1.0)) ** 2).mean(1))


def loss_of(
    predicted: RowOutputs, y: ndarray, family: Family, weights: ndarray | None = None
) -> float:
    """Return the root mean square error, the mean deviance, or the log loss of probabilities."""
    if family.has_link:
        return float(np.average(row_losses(predicted, y, family), weights=weights))
    return float(root_mean_square(root_mean_square(predicted - y, weights)))


@dataclass(frozen=True)
class Choice:
    """A candidate, or the blend.

    `amount` is the factor of a classifier's logits, or the weight of `transformed`.
    """

    name: str
    amount: float = 1.0

    @property
    def weights(self) -> dict[str, float]:
        """Candidates whose predictions it needs, and their weights."""
        blend = {STACK: 1 - self.amount, TRANSFORMED: self.amount}
        return blend if self.name == BLEND else {self.name: 1.0}

    def of(self, predictions: Mapping[str, ndarray]) -> ndarray:
        """Return its predictions from those of the candidates, in the user's units."""
        found = sum(weight * predictions[name] for name, weight in self.weights.items())
        if self.name == BLEND or self.amount == 1:
            return np.asarray(found)
        return np.asarray(softmax(self.amount * np.log(np.maximum(found, _MIN_PROBABILITY)), 1))

    def predict(self, parts: Mapping[str, Predict], x: RowInputs) -> RowOutputs:
        """Return its predictions by those functions of the candidates."""
        return self.of({name: parts[name](x) for name in self.weights})


@dataclass(frozen=True, eq=False)
class CandidateSelection:
    """Losses of choices on some rows, for several predictions of held-out rows."""

    points: Points
    family: Family
    predictions: Sequence[Mapping[str, ndarray]]
    rows: ndarray
    robust: float

    def losses(self, choice: Choice) -> PerRow:
        """Return the loss of each row, averaged over the predictions."""
        y, each = self.points.y, [choice.of(one) for one in self.predictions]
        found = np.stack([row_losses(one, y, self.family)[self.rows] for one in each])
        if not self.family.has_link:  # squared errors beyond the limit grow linearly
            limit = self.robust**2
            found = np.where(found <= limit, found, 2 * np.sqrt(limit * found) - limit)
        shares = self.points.shares[self.rows]
        return np.asarray(found.mean(0) * shares / shares.mean())

    def calibrated(self, name: str) -> Choice:
        """Return a classifier with the best factor, whose logarithm has a standard normal prior."""
        if not self.family.classes or LINEAR not in self.predictions[0]:
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
        if found.x >= 1 - _PURE:
            return Choice(TRANSFORMED)
        return Choice(BLEND, float(found.x)) if found.x > _PURE else Choice(STACK)

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


@dataclass(frozen=True, eq=False)
class Folding:
    """Models without the rows of folds.

    A fold repeats with the other rows what is done with all rows: candidates are fitted, each of
    the further folds is predicted by candidates without both, and one candidate is selected. So a
    fold knows nothing of its rows. In larger tables, folds select by rows left out one by one.

    Attributes:
        points: The rows of the table.
        robust: See `CandidateSelection`.
        fit: Function that fits the candidates to rows.
        number: Fold that holds out each row, shape (rows,); -1 for none.
        fitted: Candidates by the folds that they do not know.
    """

    points: Points
    family: Family
    robust: float
    fit: Callable[[Points], FoldFit]
    number: ndarray
    fitted: dict[tuple[int, ...], Mapping[str, Predict]] = field(default_factory=dict)

    def cross_validated(
        self, compared: CandidateSelection
    ) -> tuple[CandidateSelection, Folds | None]:
        """Return the selection on all rows by predictions of folds too, and the folds.

        Folds that would begin after the time limit are omitted.
        """
        x, number, left_out = self.points.x, self.number, compared.predictions[0]
        values, seconds = np.full_like(left_out[STACK], np.nan), list[float]()
        models, count = list[Predict](), int(number.max()) + 1
        for k in range(count):
            report_progress("folds", k, count)
            if time_limit_reached():
                number = np.where(number >= k, -1, number)
                break
            held_out, before = number == k, time.process_time()
            inner, self.fitted[k,] = self.fit(self.points.take(self._rows(k)))
            choice = self._selection(inner, k).select()
            models.append(partial(choice.predict, self.fitted[k,]))
            values[held_out] = models[-1](x[held_out])
            seconds.append(time.process_time() - before)
        if not models:  # the time limit was reached before
            return compared, None
        compared = replace(self, number=number)._selection(left_out)
        return compared, Folds(values, number, np.array(seconds), models)

    def _rows(self, *out: int) -> Int[ndarray, " training"]:
        """Return the rows of models that do not know these folds."""
        known = (training_rows(self.points, self.number, k) for k in out)
        return reduce(np.intersect1d, known, np.arange(len(self.points)))

    def _without(self, *out: int) -> Mapping[str, Predict]:
        """Return the candidates that do not know these folds."""
        folds = (min(out),) if self.points.forward else tuple(sorted(out))
        if folds not in self.fitted:
            self.fitted[folds] = self.fit(self.points.take(self._rows(*folds)))[1]
        return self.fitted[folds]

    def _selection(self, left_out: Mapping[str, ndarray], *out: int) -> CandidateSelection:
        """Return the selection without these folds, of candidates with these `left_out` rows."""
        rows = self._rows(*out)
        points, number = self.points.take(rows), self.number[rows]
        found = {name: np.full_like(one, np.nan) for name, one in left_out.items()}
        for k in np.unique(number[number >= 0]).tolist():
            kept = len(self._rows(*out, k)) / len(rows)
            if out and (len(self.points) > _SELECTION_ROWS or kept < _SELECTION_KEPT):
                number[number == k] = -1
                continue
            parts, mine = self._without(*out, k), number == k
            for name, predictions in found.items():  # without a transform, the stack is both
                predictions[mine] = parts.get(name, parts[STACK])(points.x[mine])
        # Rows left out one by one vary less than folds, which know what lies beyond other rows.
        every, inside = [left_out, found], np.flatnonzero(number >= 0)
        if not len(inside):
            every, inside = [left_out], np.arange(len(points))
        return CandidateSelection(points, self.family, every, inside, self.robust)


def cross_validate(points: Points, family: Family, folds: Folds, *, baselines: bool) -> DataFrame:
    """Compare the automatic model with the `baselines` on the same folds.

    Returns:
        A row per fold and model: `model`, `fold`, `loss` (see `loss_of`) and `cpu_seconds`.
    """
    models = _baselines(family) if baselines and not time_limit_reached() else {}
    rows = []
    for k, seconds in enumerate(folds.seconds):
        held_out = np.flatnonzero(folds.number == k)
        train = points.take(training_rows(points, folds.number, k))
        test, found = points.take(held_out), {OURS: (folds.values[held_out], seconds)}
        for name, estimator in models.items():
            started = time.process_time()
            predicted = _predicted(estimator, train, test.x, family)
            found[name] = predicted, time.process_time() - started
        for name, (predicted, spent) in found.items():
            rows.append((name, k, loss_of(predicted, test.y, family, test.weights), spent))
    return DataFrame(rows, columns=["model", "fold", "loss", "cpu_seconds"])


def _baselines(family: Family) -> dict[str, Any]:
    """Return estimators of scikit-learn by name."""
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
    """Fit `estimator` to standardised inputs, and predict outputs or probabilities of classes.

    Fractions become rows of both classes, with the fractions as weights.
    """
    mean, std = train.x.mean(0), deviation(train.x)
    std = np.where(std > 0, std, 1.0)
    inside, scaled, weights = (train.x - mean) / std, (x - mean) / std, train.weights
    unit = 0 if family.has_link else in_own_units(train.y.ravel())[1]
    y = np.ldexp(train.y, -unit)
    if fractions := family.name == "binomial":
        inside, y = np.tile(inside, (2, 1)), np.repeat([1, 0], len(train))
        weights = np.concatenate([train.y, 1 - train.y])[:, 0] * np.tile(train.shares, 2)
        kept = weights > 0
        inside, y, weights = inside[kept], y[kept], weights[kept]
    elif family.has_link:
        y = y[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(inside, y, sample_weight=weights)
    if fractions:
        return np.asarray(estimator.predict_proba(scaled)[:, 1:])
    if not family.classes:
        found = np.asarray(estimator.predict(scaled), dtype=np.float64)
        return np.ldexp(found.reshape(len(x), -1), unit)
    out = np.zeros((len(x), family.classes))
    out[:, estimator.classes_.astype(int)] = estimator.predict_proba(scaled)
    return out
