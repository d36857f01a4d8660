"""The automatic model of a table: its settings, its cross-validation and its records."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kanrun.config import TARGETS, AutoConfig, FitConfig, SamplingConfig, check
from kanrun.engine.tables import TableModel, TablePolicy, fit_table
from kanrun.engine.tables.cross_validation import (
    LINEAR,
    MEAN,
    OURS,
    SPARSE,
    CrossValidation,
    cross_validate,
    loss_of,
)
from kanrun.engine.tables.effects import report_tables, stack_weights
from kanrun.engine.tables.scores import gaps_of
from kanrun.errors import UsageError, did_you_mean
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Checkpoint, Note, Record, Row, Table
from kanrun.study.build import LearningProblem, make_problem, with_scalings
from kanrun.study.checkpoints import model_checkpoint
from kanrun.study.evaluation import (
    doubts,
    edge_table,
    labelled,
    prediction_table,
    r_squared,
    relative_error,
)
from kanrun.study.prediction import error_levels
from kanrun.study.resources import threads_of
from kanrun.study.suite import bound_rows, check_bounds, with_cell
from kanrun.targets import Dataset, Target

MIN_ROWS = 10  # to train on: the variances of several kinds of terms are estimated from them
_SHOWN_WEIGHT = 0.005  # of a candidate that notes name


@dataclass(frozen=True)
class TableFitting:
    """One table and how it is fitted: all rows train, unless sampling.n_test asks for test rows."""

    cfg: FitConfig
    problem: LearningProblem
    policy: TablePolicy

    @property
    def classes(self) -> int | None:
        """Number of classes; None for numbers."""
        return len(self.problem.dataset.classes or ()) or None

    def run(self, cell: Mapping[str, Any], seed: int, _: Checkpoint | None) -> Iterator[Record]:
        """Cross-validate, fit all rows, and report; a resumed run starts again."""
        problem, started = self.problem, time.perf_counter()
        dataset, classes = problem.dataset, self.classes
        yield from (Note(text, warning=True) for text in dataset.notes)
        with threadpool_limits(limits=threads_of(self.cfg)):  # the matrices are too small for more
            before = time.process_time()
            fitted = fit_table(dataset.train, classes, self.policy, seed)
            fit_seconds, checked = time.process_time() - before, None
            if fitted.folds is not None:
                baselines = self.cfg.model.baselines
                checked = cross_validate(dataset.train, classes, fitted.folds, baselines=baselines)
        yield from _selection_notes(fitted, checked, classes)
        yield from self._omissions(fitted, checked)
        yield from self._negatives(fitted)
        known = with_scalings(problem, fitted.inputs, fitted.outputs)
        summary = _summary(self, fitted, checked, known)
        for name, rows in (("cv_r2", "held-out rows"), ("r2", "test rows")):
            if name in summary and fitted.selected != MEAN:
                yield from doubts(summary[name], rows)
        seconds = {"fit_seconds": fit_seconds, "seconds": time.perf_counter() - started}
        yield Row("summary", {**summary, **seconds})
        yield from bound_rows(cell, summary)
        inputs, outputs = dataset.target.inputs, dataset.classes or dataset.target.outputs
        columns = dataset.target.code.columns if dataset.target.code else ()
        categories = {
            column.name: {level: inputs.index(f"{column.name}={level}") for level in column.levels}
            for column in columns
            if column.levels
        }
        reports = report_tables(fitted, dataset.train, inputs, outputs, categories, seed)
        yield from (Table(name, columns) for name, columns in reports)
        yield prediction_table(fitted.network, known)
        yield Table("held_out", _held_out(fitted, dataset))
        if (edges := edge_table(fitted.network, known)) is not None:
            yield edges
        errors = fitted.error_quantiles(dataset.train.y, error_levels())
        yield model_checkpoint(
            fitted.network, known, summary, seed, errors, gaps_of(dataset.train.x)
        )

    def _omissions(self, fitted: TableModel, checked: CrossValidation | None) -> Iterator[Record]:
        """Yield warnings on folds and baselines that were asked for and left out."""
        model, done = self.cfg.model, 0 if fitted.folds is None else len(fitted.folds.seconds)
        asked = {"cv": model.folds, "validation": 1}.get(model.selection, 0)
        why = "the time limit" if time_limit_reached() else "the size of the table"
        if done < asked:
            left = f"{asked - done} of {asked} folds of the cross-validation"
            yield Note(f"{left} were left out because of {why}", warning=True)
        if asked and model.baselines and (checked is None or len(checked.losses) == 1):
            yield Note(f"the baselines were left out because of {why}", warning=True)

    def _negatives(self, fitted: TableModel) -> Iterator[Record]:
        """Yield a warning on negative predictions of outputs that are not negative."""
        train = self.problem.dataset.train
        if self.classes or train.y.min() < 0:
            return
        if count := int((fitted.predict(train.x) < 0).any(1).sum()):
            yield Note(
                f"the predictions of {count} of {len(train)} training rows are negative, which no "
                f"output is; set model.bounds=[0,{2 * train.y.max():.2g}]",
                warning=True,
            )


def prepare_table(
    cfg: FitConfig, cell: Mapping[str, Any], seed: int, target: Target | None = None
) -> TableFitting:
    """Read and split the table, unless `target` is the table.

    Raises UsageError as `make_problem` does, and for a target that is not a table.
    """
    check_bounds(cell)
    cfg = with_cell(cfg, cell)
    check(cfg.model, "model.")
    model: AutoConfig = cfg.model
    if not TARGETS[cfg.target.kind].table:
        raise UsageError(
            "model=auto is for tables (target=table or bundled). For functions, set model=kan."
        )
    if cfg.precision != "float64":
        raise UsageError(
            f"model=auto computes in float64. For precision={cfg.precision}, set model=kan."
        )
    problem = make_problem(cfg, target or cfg.target, all_rows(cfg.sampling), seed)
    if target is None and (rows := len(problem.dataset.train)) < MIN_ROWS:
        raise UsageError(
            f"model=auto needs at least {MIN_ROWS} training rows, and {problem.dataset.target.name}"
            f" has {rows}. Set model=kan."
        )
    policy = TablePolicy(
        pairs=model.pairs,
        shapes=_shapes(model, problem),
        extrapolation=model.extrapolation,
        bounds=_bounds(model, problem),
        folds=0 if model.selection == "evidence" else model.folds,
        single_fold=model.selection == "validation",
    )
    return TableFitting(cfg, problem, policy)


def _shapes(model: AutoConfig, problem: LearningProblem) -> tuple[tuple[int, str], ...]:
    """Return the shapes to keep by the index of the input.

    Raises UsageError for unknown inputs, and for classes.
    """
    names, classes = list(problem.dataset.target.inputs), problem.dataset.classes
    asked = {**model.monotone, **model.curvature}
    for name in asked:
        if name not in names:
            raise UsageError(
                f"there is no input {name!r} whose shape could be kept"
                f"{did_you_mean(name, names) or '.'}"
            )
    if asked and classes and len(classes) > 2:
        raise UsageError("model.monotone and model.curvature are for numbers and for two classes.")
    return tuple((names.index(name), shape) for name, shape in asked.items())


def _bounds(model: AutoConfig, problem: LearningProblem) -> tuple[float, float]:
    """Return the limits of the outputs.

    Raises UsageError for training rows beyond them, and for classes.
    """
    if model.bounds is None:
        return -np.inf, np.inf
    low, high = model.bounds
    y = problem.dataset.train.y
    if problem.dataset.classes:
        raise UsageError(
            "model.bounds is for numbers; probabilities of classes lie between 0 and 1."
        )
    if y.min() < low or y.max() > high:
        raise UsageError(
            f"model.bounds={model.bounds} is too narrow: the outputs range from {y.min():g} to "
            f"{y.max():g}."
        )
    return low, high


def all_rows(sampling: SamplingConfig) -> SamplingConfig:
    """Return a sampling without validation rows, and without test rows unless asked for."""
    asked = sampling.n_test is not None or sampling.n_train is not None
    return replace(sampling, validation_fraction=0.0, n_test=sampling.n_test if asked else 0)


def _selection_notes(
    fitted: TableModel, checked: CrossValidation | None, classes: int | None
) -> Iterator[Record]:
    """Yield notes on the selected candidate and its rank among the baselines, and rows."""
    stack = ", ".join(
        f"{name} {weight:.0%}" for name, weight in stack_weights(fitted) if weight > _SHOWN_WEIGHT
    )
    reasons = {
        LINEAR: "selected the linear model: no other candidate has a significantly lower "
        "cross-validation error",
        MEAN: "selected the mean of the outputs (the frequencies of classes): no candidate has a "
        "lower cross-validation error by its standard error",
        SPARSE: "selected the additive model with effects of few inputs: its cross-validation "
        "error is significantly lower than that of the others",
    }
    combined = f"a weighted sum of {stack}" if "," in stack else stack.replace(" 100%", " alone")
    said = reasons.get(fitted.selected, f"selected {combined}")
    yield Note(said, warning=fitted.selected == MEAN)
    if checked is None:
        return
    what, column = ("log loss", "log_loss") if classes else ("RMSE", "rmse")
    means = {name: checked.mean(name) for name in checked.losses}
    for name, losses in checked.losses.items():
        std = f" +- {checked.std(name):.2g}" if len(losses) > 1 else ""
        each = f"{checked.seconds[name].mean():.2g} s per fit"
        yield Note(f"cross-validated {what} of {name}: {means[name]:.4g}{std} ({each})")
        for fold, pair in enumerate(np.transpose([losses, checked.seconds[name]]).tolist()):
            values = dict(zip((column, "cpu_seconds"), pair, strict=True))
            yield Row("baselines", {"model": name, "fold": fold, **values})
    best = min(means, key=lambda name: means[name])
    next_best = min((mean for name, mean in means.items() if name != OURS), default=0.0)
    if next_best > 0:  # 0 for constant outputs
        higher = means[OURS] / next_best - 1
        compared = (
            f", {-higher:.1%} below the next"
            if best == OURS
            else f"; that of kanrun is {higher:.1%} higher"
        )
        said = f"{best} has the lowest cross-validated {what}{compared}"
        yield Note(said, warning=best != OURS)


def _held_out(fitted: TableModel, dataset: Dataset) -> dict[str, Any]:
    """Return predictions of training rows by models without them, and of the test rows.

    `row` counts the rows of their split from 0; `fold` is -1 for rows left out one by one and for
    test rows. Classes have their probabilities.
    """
    values = fitted.left_out if fitted.folds is None else fitted.folds.values
    rows, classes = np.flatnonzero(~np.isnan(values[:, 0])), dataset.classes
    number = np.full(len(values), -1) if fitted.folds is None else fitted.folds.number
    parts = [("held out", rows, number[rows], values[rows], dataset.train.y[rows])]
    if dataset.test is not None and len(dataset.test):
        at, x = np.arange(len(dataset.test)), dataset.test.x
        parts.append(("test", at, np.full(len(at), -1), fitted.predict(x), dataset.test.y))
    split = np.repeat([part[0] for part in parts], [len(part[1]) for part in parts])
    row, fold, values, y = (np.concatenate(each) for each in list(zip(*parts, strict=True))[1:])
    guess = values.argmax(1)[:, None].astype(np.float64) if classes else values
    columns: dict[str, Any] = {"split": split, "row": row, "fold": fold}
    for o, name in enumerate(dataset.target.outputs):
        columns[f"truth:{name}"] = labelled(y[:, o], classes)
        columns[f"prediction:{name}"] = labelled(guess[:, o], classes)
    return columns | {f"probability:{c}": values[:, i] for i, c in enumerate(classes or ())}


def _summary(
    fitting: TableFitting,
    fitted: TableModel,
    checked: CrossValidation | None,
    known: LearningProblem,
) -> dict[str, Any]:
    dataset, train, classes = known.dataset, known.dataset.train, fitting.classes
    network, loss = fitted.network, "cross_entropy" if classes else "rmse"
    summary: dict[str, Any] = {
        "target": dataset.target.name,
        "model": fitting.cfg.model.kind,
        "selected_model": fitted.selected,
        "shape": "-".join(map(str, network.shape)),
        "train_points": len(train),
        "intervals": network.edge_layers[0].grid.intervals,
        "parameters": sum(
            int(layer.mask.sum()) * layer.grid.functions for layer in network.edge_layers
        ),
        "effective_parameters": fitted.fit.effective,
        f"train_{loss}": loss_of(fitted.predict(train.x), train.y, classes),
    }
    if checked is not None and fitted.folds is not None:
        inside = ~np.isnan(fitted.folds.values[:, 0])
        summary[f"cv_{loss}"] = checked.mean()
        if len(checked.losses[OURS]) > 1:
            summary[f"cv_{loss}_std"] = checked.std()
        name, quality = _quality(fitted.folds.values[inside], train.y[inside], classes)
        summary[f"cv_{name}"] = quality
    test = dataset.test if dataset.test is not None and len(dataset.test) else None
    if test is not None:
        predicted = fitted.predict(test.x)
        summary[f"test_{loss}"] = loss_of(predicted, test.y, classes)
        name, quality = _quality(predicted, test.y, classes)
        summary["test_accuracy" if classes else name] = quality
    summary["clipped_fraction"] = fitted.clipped_fraction((test or train).x)
    if not classes:
        error = summary.get("test_rmse", summary.get("cv_rmse"))
        summary["relative_error"] = relative_error(error, dataset)
    summary["solver"] = "evidence"
    return summary


def _quality(predicted: np.ndarray, y: np.ndarray, classes: int | None) -> tuple[str, float | None]:
    """Return the accuracy of class probabilities, or R^2, with its name."""
    if classes:
        return "accuracy", float((predicted.argmax(1) == y[:, 0]).mean())
    return "r2", r_squared(predicted - y, y)
