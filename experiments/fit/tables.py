"""Fit the automatic model (`model=auto`) to a table: settings, cross-validation and records."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pandas import DataFrame
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kanrun.config import TARGETS, check
from kanrun.engine.tables import TableModel, TablePolicy, fit_table
from kanrun.engine.tables.encoder import gaps_of, per_exposure
from kanrun.engine.tables.folds import OURS, cross_validate, loss_of, merge_copies
from kanrun.engine.tables.reports import proper_scores, report_tables
from kanrun.errors import UsageError, did_you_mean
from kanrun.model.planning import LearningProblem, with_scalings
from kanrun.model.settings import AutoConfig
from kanrun.model.trained import error_levels
from kanrun.monitoring import time_limit_reached
from kanrun.points import Family, Points, deviation, predicted_classes
from kanrun.runs.files import Checkpoint
from kanrun.runs.records import Note, Records, Row, Table
from kanrun.study import Cell, bound_rows
from kanrun.study.evaluation import (
    class_scores,
    doubts,
    judged_columns,
    model_records,
    r_squared,
    relative_error,
    unpredicted_classes,
)
from kanrun.study.resources import make_problem, threads_of
from kanrun.targets.datasets import Dataset, Target, build_target
from kanrun.targets.encoding import EMPTY

from .config import FitConfig

#: Smallest number of training rows; fewer rows do not determine the variances of the model.
MIN_ROWS = 10

#: Notes about the simpler kinds of models, by kind.
_REASONS = {
    "mean": "selected the mean of the outputs (the frequencies of classes): the evidence for an "
    "effect of any input is too small",
    "linear": "selected the linear model: the evidence for curves and interactions is too small",
}
#: Notes about the dispersion of fractions, by whether each row is a single trial.
_TRIALS = {
    True: "all outputs are 0 or 1: each row is a single trial, so the dispersion is 1",
    False: "some outputs lie between 0 and 1: the dispersion of these fractions is estimated "
    "(quasi-binomial), because several trials of a row may depend on each other",
}


@dataclass(frozen=True)
class TableFitting:
    """One table and the settings of its fit.

    All rows are training rows, unless `sampling` asks for test rows.
    """

    cfg: FitConfig
    problem: LearningProblem
    policy: TablePolicy

    @property
    def family(self) -> Family:
        """Distribution of the outputs."""
        dataset = self.problem.dataset
        classes = len(dataset.classes or ()) or None
        return Family(self.policy.family, classes).of_outputs(dataset.train.y)

    def rates(self, points: Points) -> Points:
        """Return the points to fit, with outputs per unit of exposure if there is an exposure."""
        exposure = self.policy.exposure
        return points if exposure is None else per_exposure(points, exposure, self.policy.family)

    def run(self, cell: Cell, seed: int, _: Checkpoint | None) -> Records:
        """Fit all training rows, cross-validate, and yield all records.

        A resumed run starts from the beginning.
        """
        # More threads would not help, because the matrices are small.
        with threadpool_limits(limits=threads_of(self.cfg)):
            yield from self._records(cell, seed)

    def _records(self, cell: Cell, seed: int) -> Records:
        problem = self.problem
        started = time.perf_counter()
        dataset = problem.dataset
        family = self.family
        checked = DataFrame()
        train = self.rates(dataset.train)
        yield from (Note(text, warning=True) for text in dataset.notes)
        if family.name == "binomial":
            yield Note(_TRIALS[family.single_trials])
        before = time.process_time()
        fitted = fit_table(train, family.classes, self.policy, seed)
        fit_seconds = time.process_time() - before
        if fitted.folds.predict:
            exposure = self.policy.exposure
            inputs = train.x if exposure is None else np.delete(train.x, exposure, 1)
            baselines = self.cfg.model.baselines
            others = replace(train, x=inputs)
            checked = cross_validate(others, family, fitted.folds, baselines=baselines)
        if reason := _REASONS.get(fitted.fit.kind):
            yield Note(reason, warning=fitted.fit.kind == "mean")
        yield from _compared(checked, family)
        yield from self._warnings(fitted, checked)
        whole = fitted
        if self.policy.exposure is not None:
            whole = fitted.with_exposures(dataset.train.x[:, self.policy.exposure])
        known = with_scalings(problem, whole.inputs, whole.outputs)
        summary = _summary(self, fitted, whole, checked)
        for name, rows in (("cv_r2", "held-out rows"), ("r2", "test rows")):
            if name in summary and fitted.fit.kind != "mean":
                yield from doubts(summary[name], rows)
        seconds = {"fit_seconds": fit_seconds, "seconds": time.perf_counter() - started}
        yield Row("summary", {**summary, **seconds})
        yield from bound_rows(cell, summary)
        if classes := dataset.classes:
            held = np.flatnonzero(~np.isnan(fitted.held_out[:, 0]))
            y = train.y[held, 0]
            guesses = predicted_classes(fitted.held_out[held], dataset.target.threshold)
            yield from unpredicted_classes(y, guesses, classes, "held-out rows")
        yield from self._reports(fitted, train, seed)
        yield _held_out(whole, dataset)
        yield from model_records(
            whole.network,
            known,
            summary,
            seed,
            errors=whole.error_quantiles(dataset.train.y, error_levels()),
            widening=fitted.widening(),
            gaps=gaps_of(dataset.train.x),
            family=whole.family if family.has_link and not family.classes else None,
        )

    def _reports(self, fitted: TableModel, train: Points, seed: int) -> Records:
        """Yield the tables of effects, importance and others that describe the fitted model."""
        dataset = self.problem.dataset
        target = self.problem.dataset.target
        columns = target.code.columns if target.code else ()
        levels = {column.name: column.level_names for column in columns if column.levels}
        names = target.inputs, dataset.classes or target.outputs
        dates = [column.name for column in columns if column.parts is not None]
        for name, table in report_tables(fitted, train, *names, levels, seed):
            of_dates = {"is_date": table["input"].isin(dates)} if name == "effects" else {}
            yield _table(name, table.assign(**of_dates))

    def _warnings(self, fitted: TableModel, checked: DataFrame) -> Records:
        """Yield notes on missing values and copies, omitted steps, and unreliable predictions."""
        yield from _missing(self.problem.dataset)
        yield from _copies(fitted, self.problem.dataset)
        if not all(output.has_converged for output in fitted.fit.outputs):
            yield Note(
                "Newton's method for the most probable effects ended before it converged, so the "
                "predictions may be poor; look for inputs that separate the outputs completely",
                warning=True,
            )
        model = self.cfg.model
        done = len(fitted.folds.seconds)
        asked = {"cv": model.folds, "validation": 1}.get(model.selection, 0)
        why = "the time limit" if time_limit_reached() else "the size of the table"
        if done < asked:
            left = f"{asked - done} of {asked} folds of the cross-validation"
            yield Note(f"{left} were left out because of {why}", warning=True)
        if asked and model.baselines and len(checked) == done:
            yield Note(f"the baselines were left out because of {why}", warning=True)
        train = self.problem.dataset.train
        if self.family.has_link or train.y.min() < 0:
            return
        if count := int((fitted.predict(train.x) < 0).any(1).sum()):
            yield Note(
                f"the predictions of {count} of {len(train)} training rows are negative, which no "
                f"output is; set target.family=poisson for counts, gamma for sizes above 0, or "
                f"model.bounds=[0,{2 * train.y.max():.2g}]",
                warning=True,
            )


def _missing(dataset: Dataset) -> Records:
    """Yield a note with the number of missing values in each column of the training rows."""
    columns = dataset.target.code.columns if dataset.target.code else ()
    names = {f"{each.name} is missing": each.name for each in columns}
    names |= {f"{each.name}={EMPTY}": each.name for each in columns}
    totals = zip(dataset.target.inputs, dataset.train.x.sum(0), strict=True)
    counts = {names[name]: int(total) for name, total in totals if name in names}
    if counts:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield Note(f"missing values, whose effect is that of an input of their own: {listed}")


def _copies(fitted: TableModel, dataset: Dataset) -> Records:
    """Yield warnings that say how many training rows, and how many test rows, are duplicates.

    A test row is a duplicate if it equals a training row.
    """
    train = dataset.train
    test = dataset.test
    if copies := len(train) - len(fitted.different):
        yield Note(
            f"{copies} of {len(train)} training rows are copies of others: they are equal in all "
            "inputs and outputs, which chance does not explain; equal rows count as one "
            "measurement with their number as its weight, and are held out together",
            warning=True,
        )
    if test is None:
        return
    trained, tested = np.split(merge_copies(train.join(test))[1], [len(train)])
    if seen := int(np.isin(tested, trained).sum()):
        yield Note(
            f"{seen} of {len(test)} test rows are copies of training rows, so test errors are "
            "smaller than those of new rows; remove the copies from the table",
            warning=True,
        )


def _table(name: str, table: DataFrame) -> Table:
    return Table(name, {str(column): table[column].to_numpy() for column in table})


def prepare_table(cfg: FitConfig, seed: int, target: Target | None) -> TableFitting:
    """Read and split the table; if given, `target` replaces the table of the settings.

    Raises UsageError if the target is not a table, has too few rows, or does not suit the settings.
    """
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
    known = target or build_target(cfg.target)
    plain = replace(known, family="gaussian")  # only this model supports other families
    asked = cfg.sampling.n_test is not None or cfg.sampling.n_train is not None
    sampling = replace(cfg.sampling, validation_fraction=0.0)
    sampling = sampling if asked else replace(sampling, n_test=0)
    problem = make_problem(cfg, plain, sampling, seed)
    if target is None and (rows := len(problem.dataset.train)) < MIN_ROWS:
        raise UsageError(
            f"model=auto needs at least {MIN_ROWS} training rows, and {problem.dataset.target.name}"
            f" has {rows}. Set model=kan."
        )
    policy = TablePolicy(
        family=known.family,
        pairs=model.pairs,
        shapes=_shapes(model, problem),
        extrapolation=model.extrapolation,
        bounds=_bounds(model, problem, known.family),
        exposure=known.inputs.index(known.offset) if known.offset else None,
        folds=0 if model.selection == "evidence" else model.folds,
        single_fold=model.selection == "validation",
    )
    return TableFitting(cfg, problem, policy)


def _shapes(model: AutoConfig, problem: LearningProblem) -> tuple[tuple[int, str], ...]:
    """Return the required shapes (monotone, convex or concave) as pairs (input index, shape).

    Raises UsageError for unknown inputs, or if there are more than two classes.
    """
    target = problem.dataset.target
    classes = problem.dataset.classes
    names = [name for name in target.inputs if name != target.offset]
    asked = {**model.monotone, **model.curvature}
    if unknown := [name for name in asked if name not in names]:
        raise UsageError(
            f"there is no input {unknown[0]!r} whose shape could be kept"
            f"{did_you_mean(unknown[0], names) or '.'}"
        )
    if asked and classes and len(classes) > 2:
        raise UsageError("model.monotone and model.curvature are for numbers and for two classes.")
    return tuple((target.inputs.index(name), shape) for name, shape in asked.items())


def _bounds(model: AutoConfig, problem: LearningProblem, family: str) -> tuple[float, float]:
    """Return the lower and the upper bound of the outputs; both are infinite by default.

    Raises UsageError if training outputs lie outside, or if the outputs are classes or belong to
    another family than the Gaussian.
    """
    if model.bounds is None:
        return -np.inf, np.inf
    low, high = model.bounds
    y = problem.dataset.train.y
    if problem.dataset.classes:
        raise UsageError(
            "model.bounds is for numbers; probabilities of classes lie between 0 and 1."
        )
    if family != "gaussian":
        raise UsageError(f"model.bounds is for target.family=gaussian; remove it for {family}.")
    if y.min() < low or y.max() > high:
        raise UsageError(
            f"model.bounds={model.bounds} is too narrow: the outputs range from {y.min():g} to "
            f"{y.max():g}."
        )
    return low, high


def _compared(checked: DataFrame, family: Family) -> Records:
    """Yield the cross-validated losses of the model and the baselines, and how they compare."""
    if not len(checked):
        return
    loss = "log loss" if family.classes else "deviance" if family.has_link else "RMSE"
    yield _table("baselines", checked.rename(columns={"loss": loss.lower().replace(" ", "_")}))
    for name, rows in checked.groupby("model", sort=False):
        std = f" +- {deviation(rows['loss'].to_numpy()):.2g}" if len(rows) > 1 else ""
        each = f"{rows['cpu_seconds'].mean():.2g} s per fit"
        yield Note(f"cross-validated {loss} of {name}: {rows['loss'].mean():.4g}{std} ({each})")
    yield from rank_note(checked.pivot(index="fold", columns="model", values="loss"), loss)


def rank_note(losses: DataFrame, loss: str) -> Records:
    """Yield a note that compares the automatic model with the best baseline.

    Args:
        losses: Cross-validated losses, shape (folds, models), with the models as columns.
        loss: Name of the loss.

    Two mean losses count as equal if their difference is at most its standard error over the folds,
    or at most the fraction `same_loss` of the baseline's loss. The fraction matters because the
    standard error is 0 for a single fold, and tiny if all folds agree.
    """
    # Largest relative difference at which two cross-validated losses count as equal. Smaller
    # differences are displayed as 0.0%.
    same_loss = 5e-4
    means = losses.mean().drop(OURS)
    if not len(means) or means.min() <= 0:  # the loss is 0 for constant outputs
        return
    other = str(means.idxmin())
    ours = losses[OURS]
    higher = ours.mean() / means[other] - 1
    difference = (ours - losses[other]).to_numpy()
    noise = deviation(difference) / len(difference) ** 0.5
    is_equal = bool(abs(difference.mean()) <= max(noise, same_loss * means[other]))
    if is_equal:
        text = f"the cross-validated {loss} of {OURS} and {other} differ by no more than chance"
    elif higher > 0:
        text = (
            f"{other} has the lowest cross-validated {loss}; that of {OURS} is {higher:.1%} higher"
        )
    else:
        text = (
            f"{OURS} has the lowest cross-validated {loss}, {-higher:.1%} below the next ({other})"
        )
    yield Note(text, warning=higher > 0 and not is_equal)


def _held_out(fitted: TableModel, dataset: Dataset) -> Table:
    """Return the table `held_out`: predictions of held-out training rows and of test rows.

    A held-out row is predicted by a model that was fitted without this row. The column `row` is the
    number of the row in its split, from 0. `fold` is the number of the held-out fold; it is -1 for
    test rows, and if training rows were left out one at a time. For classes, the table also has
    their probabilities.
    """
    train = dataset.train
    classes = dataset.classes
    rows = np.flatnonzero(~np.isnan(fitted.held_out[:, 0]))
    number = fitted.folds.number
    test = dataset.test or train.take(rows[:0])
    values = np.concatenate([fitted.held_out[rows], fitted.predict(test.x)])
    y = np.concatenate([train.y[rows], test.y])
    columns = {
        "split": np.repeat(["held out", "test"], [len(rows), len(test)]),
        "row": np.append(rows, np.arange(len(test))),
        "fold": np.append(number[rows], np.full(len(test), -1)),
        **judged_columns(dataset.target.outputs, classes, y, values, dataset.target.threshold),
        **{f"probability:{c}": values[:, i] for i, c in enumerate(classes or ())},
    }
    return Table("held_out", columns)


def _summary(
    fitting: TableFitting, fitted: TableModel, whole: TableModel, checked: DataFrame
) -> dict[str, Any]:
    """Return the row of the table `summary`: sizes of the network, errors and scores.

    If there is an exposure, the errors are those of outputs per unit of exposure. `fitted` is then
    the model of outputs per unit of exposure, and `whole` the model of the outputs.
    """
    dataset = fitting.problem.dataset
    family = fitting.family
    network = whole.network
    train = fitting.rates(dataset.train)
    test = dataset.test and fitting.rates(dataset.test)
    loss = "cross_entropy" if family.classes else "deviance" if family.has_link else "rmse"
    summary: dict[str, Any] = {
        "target": dataset.target.name,
        "model": fitting.cfg.model.kind,
        "selected_model": fitted.fit.kind,
        "shape": network.shape_text,
        "train_points": len(train),
        "intervals": network.intervals,
        "parameters": network.count(),
        "effective_parameters": fitted.fit.freedom,
        f"train_{loss}": loss_of(fitted.predict(train.x), train.y, family, train.weights),
    }
    if len(checked):
        ours = checked["loss"][checked["model"] == OURS].to_numpy()
        summary[f"cv_{loss}"] = ours.mean()
        if len(ours) > 1:
            summary[f"cv_{loss}_std"] = deviation(ours)
        inside = np.flatnonzero(~np.isnan(fitted.held_out[:, 0]))
        held = train.take(inside)
        summary |= _quality(fitted.held_out[inside], held, family, dataset.target, "cv")
        if not family.has_link:
            scores = proper_scores(fitted, train.y)._asdict()
            summary |= {f"cv_{name}": value for name, value in scores.items()}
    if test:
        predicted = fitted.predict(test.x)
        summary[f"test_{loss}"] = loss_of(predicted, test.y, family, test.weights)
        summary |= _quality(predicted, test, family, dataset.target, "test")
        if not family.has_link:
            scores = proper_scores(fitted, train.y, test)._asdict()
            summary |= {f"test_{name}": value for name, value in scores.items()}
    summary["clipped_fraction"] = fitted.clipped_fraction((test or train).x)
    if not family.has_link:
        error = summary.get("test_rmse", summary.get("cv_rmse"))
        summary["relative_error"] = relative_error(error, dataset)
    summary["solver"] = "evidence"
    return summary


def _quality(
    predicted: np.ndarray,
    points: Points,
    family: Family,
    target: Target,
    prefix: str,
) -> dict[str, Any]:
    """Return the scores of predictions by column name.

    For classes these are the accuracy and `class_scores`; for families with a link, D^2 (see
    `Family`); otherwise R^2.
    """
    y = points.y
    start = "cv_" * (prefix == "cv")
    if target.classes:
        guess = predicted_classes(predicted, target.threshold)
        right = {f"{prefix}_accuracy": float((guess == y[:, 0]).mean())}
        return right | class_scores(y[:, 0], predicted, guess, target.classes, prefix)
    if family.has_link:
        return {f"{start}d2": family.explained(y, predicted, points.weights)}
    return {f"{start}r2": r_squared(predicted - y, y)}
