"""The automatic model of a table: cross-validation, baselines, and what the fitted model says of its inputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kanrun.config import TARGETS, AutoConfig, FitConfig, SamplingConfig, check
from kanrun.engine.networks import KAN
from kanrun.errors import UsageError
from kanrun.runs.records import Note, Record, Row, Table
from kanrun.study.checkpoints import model_checkpoint
from kanrun.study.cross_validation import (
    OURS,
    CrossValidation,
    cross_validate,
    error_quantiles,
    loss_of,
)
from kanrun.study.effects import (
    distribution_table,
    effect_table,
    importance_table,
    member_weights,
    pair_map_table,
    pair_table,
)
from kanrun.study.evaluation import doubts, edge_table, prediction_table, r_squared, relative_error
from kanrun.study.problem import LearningProblem, make_problem, with_scalings
from kanrun.study.resources import threads_of
from kanrun.study.suite import bound_rows, check_bounds, with_cell
from kanrun.study.table_model import TableModel, fit_table
from kanrun.study.table_policy import TablePolicy
from kanrun.suggestions import did_you_mean
from kanrun.targets import ScorePolicy, Target, gaps_of

FEWEST_ROWS = 10  # to train on: variances of several kinds of terms are estimated from them


@dataclass(frozen=True)
class TableFitting:
    """One table and how it is fitted: all rows train, unless sampling.n_test asks for test rows."""

    cfg: FitConfig
    problem: LearningProblem
    policy: TablePolicy


def prepare_table(
    cfg: FitConfig, cell: Mapping[str, Any], seed: int, target: Target | None = None
) -> TableFitting:
    """Read and split the table; `target` is the table where it is there.

    Raises UsageError as `make_problem` does, and for what is no table.
    """
    check_bounds(cell)
    cfg = with_cell(cfg, cell)
    check(cfg.model, "model.")
    model: AutoConfig = cfg.model
    if not TARGETS[cfg.target.kind].table:
        raise UsageError(
            "model=auto is for tables (target=table or bundled); for functions take model=kan."
        )
    if cfg.precision != "float64":
        raise UsageError(
            f"model=auto computes in float64; for precision={cfg.precision} take model=kan."
        )
    problem = make_problem(cfg, target or cfg.target, all_rows(cfg.sampling), seed)
    if target is None and (rows := len(problem.dataset.train)) < FEWEST_ROWS:
        raise UsageError(
            f"model=auto needs at least {FEWEST_ROWS} training rows, and {problem.dataset.target.name} has {rows}; "
            "take model=kan."
        )
    shapes = _shapes(model, problem)
    policy = TablePolicy(
        scores=ScorePolicy(bounds=_bounds(model, problem)),
        pairs=model.pairs,
        shapes=shapes,
        extrapolation=model.extrapolation,
        folds=0 if model.selection == "evidence" else model.folds,
        one_fold=model.selection == "validation",
    )
    return TableFitting(cfg, problem, policy)


def _shapes(model: AutoConfig, problem: LearningProblem) -> tuple[tuple[int, str], ...]:
    """The shapes to keep by the index of the input. Raises UsageError for an input that is not there, and classes."""
    names, classes = list(problem.dataset.target.inputs), problem.dataset.classes
    asked = {**model.monotone, **model.curvature}
    for name in asked:
        if name not in names:
            raise UsageError(
                f"there is no input {name!r} whose shape could be kept{did_you_mean(name, names) or '.'}"
            )
    if asked and classes and len(classes) > 2:
        raise UsageError("model.monotone and model.curvature are for numbers and for two classes.")
    return tuple((names.index(name), shape) for name, shape in asked.items())


def _bounds(model: AutoConfig, problem: LearningProblem) -> tuple[float, float]:
    """Between what outputs lie. Raises UsageError where a training row's does not, and for classes."""
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
            f"model.bounds={model.bounds} is too narrow: the outputs go from {y.min():g} to {y.max():g}."
        )
    return low, high


def all_rows(sampling: SamplingConfig) -> SamplingConfig:
    """No validation rows, and no test rows unless their number or that of the training rows is given."""
    asked = sampling.n_test is not None or sampling.n_train is not None
    return replace(
        sampling, validation_fraction=0.0, n_test=sampling.n_test if asked else 0
    )


def run_table(fitting: TableFitting, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Cross-validate, fit all rows, and report."""
    problem, started = fitting.problem, time.perf_counter()
    dataset, model_cfg = problem.dataset, fitting.cfg.model
    classes = len(dataset.classes) if dataset.classes else None
    yield from (Note(text, warning=True) for text in dataset.notes)
    with threadpool_limits(limits=threads_of(fitting.cfg)):  # the matrices are too small for more
        before = time.process_time()
        fitted = fit_table(dataset.train, classes, fitting.policy, seed)
        fit_seconds, checked = time.process_time() - before, None
        if fitted.folds is not None:
            checked = cross_validate(
                dataset.train, classes, fitted.folds, baselines=model_cfg.baselines
            )
    yield from _said(fitted, checked, classes)
    if checked is not None:
        yield from _fold_rows(checked, classes)
    known = with_scalings(problem, fitted.inputs, fitted.outputs)
    summary = _summary(fitting, fitted, checked, known)
    for name, rows in (("cv_r2", "left-out rows"), ("r2", "test rows")):
        if name in summary:
            yield from doubts(summary[name], rows)
    yield Row(
        "summary", {**summary, "fit_seconds": fit_seconds, "seconds": time.perf_counter() - started}
    )
    yield from bound_rows(cell, summary)
    names = dataset.classes or dataset.target.outputs
    yield effect_table(fitted, dataset.train, dataset.target.inputs, names)
    yield importance_table(fitted, dataset.train, dataset.target.inputs, classes, seed)
    yield distribution_table(dataset.train, dataset.target.inputs)
    if (pairs := pair_table(fitted, dataset.train, dataset.target.inputs)) is not None:
        yield pairs
    if (maps := pair_map_table(fitted, dataset.train, dataset.target.inputs, names)) is not None:
        yield maps
    members, weights = zip(*member_weights(fitted), strict=True)
    yield Table("stack_weights", {"member": np.array(members), "weight": np.array(weights)})
    yield prediction_table(fitted.network, known)
    if (edges := edge_table(fitted.network, known)) is not None:
        yield edges
    errors = error_quantiles(fitted, dataset.train.y)
    yield model_checkpoint(fitted.network, known, summary, seed, errors, gaps_of(dataset.train.x))


def _said(
    fitted: TableModel, checked: CrossValidation | None, classes: int | None
) -> Iterator[Note]:
    """Which candidate was taken, who wins the comparison, and how many predictions were held."""
    stack = ", ".join(
        f"{name} {weight:.0%}" for name, weight in member_weights(fitted) if weight > 0.005
    )
    yield Note(
        {
            "linear": "the model is linear in its inputs: nothing else predicts left-out rows better",
            "sparse": "the model is additive, with effects of few inputs: nothing else predicts left-out rows better",
        }.get(fitted.chosen, f"the model is a weighted sum of {stack}")
    )
    if checked is None:
        return
    what = "log loss" if classes else "RMSE"
    means = {name: checked.mean(name) for name in checked.losses}
    for name, mean in means.items():
        spread = f" +- {checked.spread(name):.2g}" if len(checked.losses[name]) > 1 else ""
        yield Note(
            f"cross-validated {what} of {name}: {mean:.4g}{spread} ({np.mean(checked.seconds[name]):.2g} s per fit)"
        )
    others = min((mean for name, mean in means.items() if name != OURS), default=0.0)
    if others > 0:  # 0 where the outputs are constant
        best = min(means, key=lambda name: means[name])
        if best == OURS:
            yield Note(
                f"kanrun predicts left-out rows best, {1 - means[OURS] / others:.1%} below the next"
            )
        else:
            yield Note(
                f"{best} predicts left-out rows best; kanrun is {means[OURS] / others - 1:.1%} above it",
                warning=True,
            )


def _fold_rows(checked: CrossValidation, classes: int | None) -> Iterator[Row]:
    loss = "log_loss" if classes else "rmse"
    for name, losses in checked.losses.items():
        for fold, (error, seconds) in enumerate(zip(losses, checked.seconds[name], strict=True)):
            yield Row(
                "baselines",
                {"model": name, "fold": fold, loss: float(error), "cpu_seconds": float(seconds)},
            )


def _summary(
    fitting: TableFitting,
    fitted: TableModel,
    checked: CrossValidation | None,
    known: LearningProblem,
) -> dict[str, Any]:
    dataset, train = known.dataset, known.dataset.train
    classes = len(dataset.classes) if dataset.classes else None
    values = fitted.values(train.x)
    summary: dict[str, Any] = {
        "target": dataset.target.name,
        "model": fitting.cfg.model.kind,
        "selected_model": fitted.chosen,
        "shape": "-".join(map(str, fitted.network.shape)),
        "train_points": len(train),
        "intervals": fitted.network.layer(0).grid.intervals,
        "parameters": _numbers(fitted.network),
        "effective_parameters": fitted.fit.effective,
    }
    loss = "cross_entropy" if classes else "rmse"
    summary[f"train_{loss}"] = loss_of(values, train.y, classes)
    if checked is not None and fitted.folds is not None:
        held = fitted.folds.values
        inside = ~np.isnan(held[:, 0])
        summary[f"cv_{loss}"] = checked.mean()
        if len(checked.losses[OURS]) > 1:
            summary[f"cv_{loss}_spread"] = checked.spread()
        name, quality = _quality(held[inside], train.y[inside], classes)
        summary[f"cv_{name}"] = quality
    if dataset.test is not None and len(dataset.test):
        there = fitted.values(dataset.test.x)
        summary[f"test_{loss}"] = loss_of(there, dataset.test.y, classes)
        summary["clipped_fraction"] = fitted.clipped(dataset.test.x)
        name, quality = _quality(there, dataset.test.y, classes)
        summary["test_accuracy" if classes else name] = quality
    else:
        summary["clipped_fraction"] = fitted.clipped(train.x)
    if not classes:
        summary["relative_error"] = relative_error(
            summary.get("test_rmse", summary.get("cv_rmse")), dataset
        )
    summary["solver"] = "evidence"
    return summary


def _quality(predicted: np.ndarray, y: np.ndarray, classes: int | None) -> tuple[str, float | None]:
    """The accuracy of class probabilities, or R^2."""
    if classes:
        return "accuracy", float((predicted.argmax(1) == y[:, 0]).mean())
    return "r2", r_squared(predicted - y, y)


def _numbers(network: KAN) -> int:
    """Coefficients of the edges that are alive."""
    return sum(int(layer.mask.sum()) * layer.grid.functions for layer in network)
