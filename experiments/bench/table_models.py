"""Models that part `tables` compares: kanrun's table model and models of other packages.

Every model is fitted by a function of the training rows. Models of numbers are also judged as
densities: by the negative logarithm of the predictive density (NLPD), by the continuous ranked
probability score (CRPS; Gneiting and Raftery, JASA 102, 2007, 359), and by the coverage of 90%
intervals. A model without predictive densities gets normal densities, with the RMSE of
cross-validation as their standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy import ndarray
from scipy import stats

from kanrun.engine.tables import TableModel, fit_table
from kanrun.engine.tables.folds import OURS
from kanrun.engine.tables.reports import proper_scores
from kanrun.points import Points

XGBOOST = "xgboost, rounds chosen"
CATBOOST = "CatBoost, rounds chosen"
CATBOOST_NORMAL = "CatBoost, normal densities"
CATBOOST_QUANTILES = "CatBoost, quantiles"
FOREST = "random forest"
PROCESS = "Gaussian process"
LINEAR = "ridge or logistic regression"
#: Models that are too slow for the tables of the set `large`.
SLOW = (FOREST, CATBOOST, CATBOOST_NORMAL, CATBOOST_QUANTILES, PROCESS, "EBM", "ngboost")
#: Lower and upper quantile levels of the prediction intervals whose coverage is measured.
INTERVAL = (0.05, 0.95)
#: Levels of the quantiles that CatBoost predicts.
LEVELS = np.linspace(*INTERVAL, 19)
#: Number of folds of the cross-validation that estimates the standard deviation of models without
#: predictive densities.
FOLDS = 5
#: Number of trees of the random forest.
TREES = 300
LOGISTIC = {"Cs": np.logspace(-3, 2, 6), "cv": 5, "max_iter": 500, "scoring": "neg_log_loss"}
RIDGE = np.logspace(-3, 4, 15)
XGBOOST_SETTINGS = {"learning_rate": 0.05, "max_depth": 4, "nthread": 1}
CATBOOST_SETTINGS = {
    "learning_rate": 0.05,
    "thread_count": 1,
    "random_seed": 0,
    "verbose": False,
    "allow_writing_files": False,
}
NGBOOST_SETTINGS = {"learning_rate": 0.05, "random_state": 0, "verbose": False}
#: Settings of the explainable boosting machine. Its default of 14 outer bags takes three times as
#: long.
EBM = {"random_state": 0, "n_jobs": 1, "outer_bags": 4}
#: Largest number of boosting rounds.
MAX_ROUNDS = 1000
#: Rounds without a lower error after which boosting stops.
PATIENCE = 30
#: Fraction of the training rows on which the number of rounds is chosen.
VALIDATION = 0.2

Scores = dict[str, float]


@dataclass(frozen=True)
class FittedModel:
    """A fitted model.

    Attributes:
        predict: Returns the mean outputs, or the probabilities of the classes, of inputs x, shape
            (rows, outputs or classes).
        scores: Returns the NLPD, the CRPS and the coverage on held-out rows; None if the model has
            no predictive densities.
    """

    predict: Callable[[ndarray], ndarray]
    scores: Callable[[Points], Scores] | None = None


#: Function that fits a model to training rows.
Fit = Callable[[Points], FittedModel]


def models(classes: int | None) -> dict[str, Fit]:
    """Return the functions that fit the installed models of numbers or of classes, by name."""
    fits: dict[str, Fit] = {OURS: partial(_kanrun, classes)}
    if classes:
        return fits | {name: partial(_classifier, fit) for name, fit in _estimators(True).items()}
    fits |= {name: partial(_regressor, fit) for name, fit in _estimators(False).items()}
    fits[PROCESS] = _process
    if find_spec("catboost") is not None:
        fits[CATBOOST_NORMAL] = _catboost_normal
        fits[CATBOOST_QUANTILES] = _catboost_quantiles
    if find_spec("ngboost") is not None:
        fits["ngboost"] = _ngboost
    return fits


def cross_validated_scores(fit: Fit, train: Points, held: Points, mean: ndarray) -> Scores:
    """Return the mean scores of normal densities whose standard deviation is cross-validated.

    Args:
        fit: Function that fits the model.
        train: Training rows; the standard deviation is the RMSE of a cross-validation on them.
        held: Held-out rows.
        mean: Predictions of the held-out rows, shape (rows, 1).
    """
    number = np.arange(len(train)) % FOLDS
    residuals = train.y.copy()
    for fold in range(FOLDS):
        rows = np.flatnonzero(number == fold)
        fitted = fit(train.take(np.flatnonzero(number != fold)))
        residuals[rows] -= fitted.predict(train.x[rows])
    return normal_scores(held.y[:, 0], mean[:, 0], np.sqrt(np.mean(residuals**2)))


def normal_scores(y: ndarray, mean: ndarray, std: ndarray) -> Scores:
    """Return the mean scores of outputs y (rows,) for normal densities."""
    error = (y - mean) / std
    nlpd = np.log(std) - stats.norm.logpdf(error)
    crps = error * (2 * stats.norm.cdf(error) - 1) + 2 * stats.norm.pdf(error) - np.pi**-0.5
    coverage = np.abs(error) <= stats.norm.ppf(INTERVAL[1])
    return {
        "nlpd": float(nlpd.mean()),
        "crps": float((std * crps).mean()),
        "coverage": float(coverage.mean()),
    }


def quantile_scores(y: ndarray, quantiles: ndarray) -> Scores:
    """Return the mean scores of outputs y (rows,) for quantiles (rows, levels) at LEVELS.

    The CRPS is twice the mean pinball loss over the levels. Quantiles do not determine a density,
    so the NLPD is nan.
    """
    error = y[:, None] - quantiles
    pinball = np.maximum(LEVELS * error, (LEVELS - 1) * error)
    covered = (quantiles[:, 0] <= y) & (y <= quantiles[:, -1])
    return {"nlpd": np.nan, "crps": 2 * float(pinball.mean()), "coverage": float(covered.mean())}


def _kanrun(classes: int | None, train: Points) -> FittedModel:
    model = fit_table(train, classes)
    return FittedModel(model.predict, None if classes else partial(_own_scores, model, train))


def _own_scores(model: TableModel, train: Points, held: Points) -> Scores:
    assert model.outputs is not None  # An invariant: only models of numbers are scored.
    errors: Any = model.error_quantiles(train.y, np.array(INTERVAL))
    latent = model.outputs.apply(model.predict(held.x))[:, 0]
    low, high = (np.interp(latent, errors[0, :, 0], end) for end in errors[0, :, 1:].T)
    error = model.outputs.apply(held.y)[:, 0] - latent
    coverage = float(((low <= error) & (error <= high)).mean())
    return proper_scores(model, train.y, held)._asdict() | {"coverage": coverage}


def _classifier(fit: Callable[[ndarray, ndarray], Any], train: Points) -> FittedModel:
    estimator = fit(train.x, train.y[:, 0].astype(int))
    return FittedModel(lambda x: np.asarray(estimator.predict_proba(x)))


def _regressor(fit: Callable[[ndarray, ndarray], Any], train: Points) -> FittedModel:
    estimator = fit(train.x, train.y[:, 0])
    return FittedModel(lambda x: np.asarray(estimator.predict(x), dtype=float)[:, None])


def _normal(density: Callable[[ndarray], tuple[ndarray, ndarray]]) -> FittedModel:
    """Return a model whose `density` returns means and standard deviations, each (rows,)."""
    return FittedModel(
        lambda x: density(x)[0][:, None],
        lambda held: normal_scores(held.y[:, 0], *density(held.x)),
    )


def _process(train: Points) -> FittedModel:
    """Fit a Gaussian process with one squared exponential kernel and one length scale per input."""
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    lengths = np.full(train.x.shape[1], train.x.shape[1] ** 0.5)
    kernel = 1.0 * kernels.RBF(lengths, (1e-2, 1e4)) + kernels.WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, normalize_y=True)
    estimator = make_pipeline(StandardScaler(), process).fit(train.x, train.y[:, 0])
    return _normal(partial(estimator.predict, return_std=True))


def _catboost_normal(train: Points) -> FittedModel:
    estimator = _catboost_with("RMSEWithUncertainty", train)

    def density(x: ndarray) -> tuple[ndarray, ndarray]:
        mean, variance = estimator.predict(x).T
        return mean, np.sqrt(variance)

    return _normal(density)


def _catboost_quantiles(train: Points) -> FittedModel:
    levels = ",".join(f"{level:g}" for level in LEVELS)
    estimator = _catboost_with(f"MultiQuantile:alpha={levels}", train)

    def quantiles(x: ndarray) -> ndarray:
        return np.sort(estimator.predict(x), axis=1)

    return FittedModel(
        lambda x: quantiles(x).mean(1, keepdims=True),
        lambda held: quantile_scores(held.y[:, 0], quantiles(held.x)),
    )


def _catboost_with(loss: str, train: Points) -> Any:
    regressor = import_module("catboost").CatBoostRegressor
    make = partial(regressor, loss_function=loss, **CATBOOST_SETTINGS)
    return _rounds_chosen(make, False, train.x, train.y[:, 0])


def _ngboost(train: Points) -> FittedModel:
    regressor = import_module("ngboost").NGBRegressor
    x, held_x, y, held_y = _held_out(train.x, train.y[:, 0], False)
    search = regressor(n_estimators=MAX_ROUNDS, **NGBOOST_SETTINGS)
    search.fit(x, y, X_val=held_x, Y_val=held_y, early_stopping_rounds=PATIENCE)
    rounds = max(search.best_val_loss_itr + 1, 1)
    estimator = regressor(n_estimators=rounds, **NGBOOST_SETTINGS).fit(train.x, train.y[:, 0])

    def density(x: ndarray) -> tuple[ndarray, ndarray]:
        found = estimator.pred_dist(x).params
        return found["loc"], found["scale"]

    return _normal(density)


def _estimators(classes: bool) -> dict[str, Callable[[ndarray, ndarray], Any]]:
    """Return the functions that fit the estimators of numbers or of classes without densities."""
    from sklearn import ensemble, linear_model
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind = "Classifier" if classes else "Regressor"
    logistic = linear_model.LogisticRegressionCV(**LOGISTIC)
    linear = logistic if classes else linear_model.RidgeCV(RIDGE)
    fits: dict[str, Callable[[ndarray, ndarray], Any]] = {
        LINEAR: make_pipeline(StandardScaler(), linear).fit,
        "gradient boosting": getattr(ensemble, f"HistGradientBoosting{kind}")(random_state=0).fit,
        FOREST: getattr(ensemble, f"RandomForest{kind}")(TREES, random_state=0).fit,
    }
    if find_spec("xgboost") is not None:
        xgboost = partial(getattr(import_module("xgboost"), f"XGB{kind}"), **XGBOOST_SETTINGS)
        fits[XGBOOST] = partial(_rounds_chosen, xgboost, classes)
    if find_spec("catboost") is not None:
        catboost = getattr(import_module("catboost"), f"CatBoost{kind}")
        fits[CATBOOST] = partial(_rounds_chosen, partial(catboost, **CATBOOST_SETTINGS), classes)
    if find_spec("interpret") is not None:
        boosting = getattr(import_module("interpret.glassbox"), f"ExplainableBoosting{kind}")
        fits["EBM"] = boosting(**EBM).fit
    return fits


def _held_out(x: ndarray, y: ndarray, stratified: bool) -> Any:
    from sklearn.model_selection import train_test_split

    classes = y if stratified else None
    return train_test_split(x, y, test_size=VALIDATION, random_state=0, stratify=classes)


def _rounds_chosen(make: Callable[..., Any], stratified: bool, x: ndarray, y: ndarray) -> Any:
    """Choose the number of boosting rounds on a held-out fifth of the rows; refit on all rows."""
    x_fit, x_held, y_fit, y_held = _held_out(x, y, stratified)
    search = make(n_estimators=MAX_ROUNDS, early_stopping_rounds=PATIENCE)
    search.fit(x_fit, y_fit, eval_set=[(x_held, y_held)], verbose=False)
    name = "best_iteration_" if hasattr(search, "best_iteration_") else "best_iteration"
    return make(n_estimators=max(getattr(search, name) + 1, 1)).fit(x, y)
