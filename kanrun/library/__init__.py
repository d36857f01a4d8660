"""The Python library: `kanrun.fit` (here), and estimators for scikit-learn.

`kanrun.fit` does the same as the command `kanrun fit`, but on data in memory and without a run
folder. The same settings and seed therefore give the same numbers.
"""

from __future__ import annotations

import builtins
import contextlib
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from kanrun.config import MODELS, SOLVERS, SamplingConfig
from kanrun.config.registry import Plain, foreign_setting
from kanrun.config.rules import with_differences
from kanrun.errors import UsageError, did_you_mean
from kanrun.experiments.fit import prepare
from kanrun.experiments.fit.config import FitConfig
from kanrun.model.model import Model
from kanrun.model.settings import AutoConfig, KANConfig
from kanrun.model.trained import from_checkpoint
from kanrun.monitoring import monitored, request_stop
from kanrun.runs.files import Checkpoint
from kanrun.runs.records import Note, Row, Table
from kanrun.study.progress import Reporter
from kanrun.study.resources import TimeLimit, threads_of, using_threads
from kanrun.targets.datasets import Target, check_known
from kanrun.targets.encoding import Reading
from kanrun.targets.functions import named_formula
from kanrun.targets.settings import ExpressionTarget, TableTarget
from kanrun.targets.table_targets import Data, array_target, as_array, frame_columns, is_frame

#: Name of the model that is `auto` without interactions between inputs.
ADDITIVE = "additive"
#: Name of the checkpoints from which an interrupted run resumes.
RESUME = "resume"
#: Settings that concern run folders. `fit` rejects them, because it writes no run folder.
RUN_SETTINGS = {
    "n_jobs",
    "scheduler",
    "n_seeds",
    "figures",
    "figure_formats",
    "tags",
    "note",
    "suite",
}
#: Names in configurations that are not settings of `fit`: groups, and the key of the chosen kind.
GROUP_NAMES = {"kind", "target", "sampling"}


def fit(  # noqa: PLR0913 (keywords of a public function)
    x: Data = None,
    y: Data = None,
    model: str | None = None,
    *,
    formula: str | None = None,
    domain: Any = None,
    solver: str | None = None,
    task: str | None = None,
    seed: int = 0,
    sample_weight: Data = None,
    family: str = "gaussian",
    offset: str | None = None,
    categorical_columns: Sequence[str] = (),
    progress: bool | None = None,
    **settings: Any,
) -> Model:
    """Train a model on data in memory or on a formula, as the command `kanrun fit` does.

    The same settings and seed give the same numbers as on the command line. Ctrl-C stops the
    training after the current step, and the best model so far is returned with a warning. A second
    Ctrl-C raises KeyboardInterrupt.

    Args:
        x: Inputs of shape (samples, inputs): an array, a tensor, a mapping of columns or a
            DataFrame. A text column becomes one indicator per level.
        y: Outputs of shape (samples,) or (samples, outputs), or labels of shape (samples,).
        model: `auto` (default for data), `additive` (`auto` without interactions), `kan` (default
            for a formula), `mlp`, `polynomial`, `bezier` or `bspline`.
        formula: Formula from which data are drawn, in place of `x` and `y`, such as
            `exp(-x)*sin(3*y)`.
        domain: Ranges of the variables of the formula, such as `{"x": (-1, 1)}`; default: [-1, 1]
            for every variable.
        solver: `auto`, `lm`, `lbfgs` or `adam`.
        task: `regression` or `classification`; default: classification if `y` is text or bool.
        seed: Seed of the random numbers of sampling, splitting and training.
        sample_weight: Weights of shape (samples,); a row of weight 2 counts as two rows.
        family: Distribution of the outputs: `gaussian`, `poisson` (counts), `gamma` (positive
            numbers) or `binomial` (fractions); only for `auto` and `additive`.
        offset: Name of the input with the exposures (time at risk, area), to which the mean of
            counts or positive numbers is proportional.
        categorical_columns: Names of numeric columns whose values are categories, like those of
            text columns.
        progress: Whether to show a progress line; default: in interactive sessions.
        **settings: Settings of the model, the solver, the sampling and the run, as on the command
            line but without their group: `hidden=[5]`, `steps=50`, `noise=0.1`. By default, all
            rows are used for training.

    Returns:
        The trained model with the tables of its training.

    Raises:
        InvalidData: If the data are invalid; this error is also a ValueError.
        UsageError: If a setting is unknown to the chosen model and solver, or a value is invalid.

    Examples:
        >>> import numpy as np
        >>> from kanrun import fit
        >>> x = np.linspace(-1, 1, 200)
        >>> model = fit(x, np.exp(x))
        >>> model.predict([0.0]).round(2)
        array([1.])
        >>> fit(formula="x*sin(2*y)", domain={"x": (0, 1), "y": (-1, 1)}, hidden=[], steps=3).inputs
        ('x', 'y')
    """
    if (formula is None) == (x is None):
        raise UsageError("fit takes either data (x and y) or a formula.")
    if formula is not None and (family, offset) != ("gaussian", None):
        raise UsageError("family and offset can be used only with data, not with a formula.")
    if formula is not None:
        target = named_formula(formula, domain)
        described = ExpressionTarget(formula, domain)
        cfg = configure(described, SamplingConfig(), model or "kan", solver, seed=seed, **settings)
    else:
        if y is None:
            raise UsageError("fit needs y, the outputs to predict from x.")
        if domain is not None:
            raise UsageError(
                "domain can be used only with formula=; the domain of data is their range."
            )
        target = array_target(
            x,
            y,
            classification=_holds_labels(y, task),
            reading=Reading(categorical_columns),
            weights=sample_weight,
            family=family,
            offset=offset,
        )
        cfg = configure_data(target, model or "auto", solver, seed=seed, **settings)
    if progress is None:  # interactive: Python's own prompt, IPython or a notebook
        progress = hasattr(sys, "ps1") or hasattr(builtins, "get_ipython")
    return fit_target(cfg, target, progress=progress)


def _holds_labels(y: Data, task: str | None) -> bool:
    """Return whether `task` is classification; if `task` is None, whether `y` is text or bool."""
    if task is not None:
        check_known("task", task, ("regression", "classification"), "tasks")
        return task == "classification"
    if hasattr(y, "detach"):
        return False
    columns = frame_columns(y, what="y") if is_frame(y) else {"y": as_array(y, "y")}
    return next(iter(columns.values())).dtype.kind in "OUSTb"


def configure_data(
    target: Target,
    model: str,
    solver: str | None,
    *,
    validation_fraction: float = 0.2,
    **settings: Any,
) -> FitConfig:
    """Return the configuration for data in memory. By default, all rows are training rows."""
    described = TableTarget(
        "x",
        list(target.inputs),
        list(target.outputs),
        "classification" if target.classes else "regression",
        family=target.family,  # type: ignore[arg-type]  # checked where the target was made
        offset=target.offset,
    )
    sampling = SamplingConfig(n_train=None, n_test=0, validation_fraction=validation_fraction)
    return configure(described, sampling, model, solver, **settings)


def configure(
    target: Any, sampling: SamplingConfig, model: str, solver: str | None, **settings: Any
) -> FitConfig:
    """Return the configuration of `kanrun fit`, with each of `settings` assigned to its group.

    Raises:
        UsageError: If neither the model nor its solver has a setting, or a value is invalid.
    """
    if model == ADDITIVE:
        model = "auto"
        settings = {"pairs": False, "selection": "evidence", **settings}
    kind = MODELS.find(model, "model")
    solver_settings = SOLVERS.find(solver or "auto", "solver")()
    if kind.tables_only and solver is not None:
        raise UsageError(
            f"model={model} uses no solver. Write model=kan to train with solver={solver}."
        )
    model_settings = kind()
    if isinstance(model_settings, AutoConfig):
        model_settings.baselines = False
    cfg = FitConfig(target=target, model=model_settings, solver=solver_settings, sampling=sampling)
    groups: dict[str, Any] = {"": cfg, "sampling": sampling, "model": model_settings}
    if not kind.tables_only:
        groups["solver"] = solver_settings
    differences: dict[str, Any] = {}
    for key, value in settings.items():
        owners = [name for name, group in groups.items() if key in vars(group)]
        if not owners or key in RUN_SETTINGS | GROUP_NAMES:
            if kind.tables_only and key in vars(solver_settings):
                raise UsageError(
                    f"{key} is a setting of solvers, but model={model} has no solver. "
                    "Write model=kan."
                )
            keys = {name for group in (*groups.values(), KANConfig()) for name in vars(group)}
            raise UsageError(
                foreign_setting(key, {"model": model, "solver": solver_settings.kind})
                or f"{key} is not a setting of model={model}{did_you_mean(key, keys) or '.'}"
            )
        owner = owners[0]
        (differences.setdefault(owner, {}) if owner else differences)[key] = _plain(value)
    return with_differences(cfg, differences)


def _plain(value: Any) -> Any:
    """Convert tuples and arrays to lists, and numpy's numbers to Python's."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def fit_target(cfg: FitConfig, target: Target, *, progress: bool = False) -> Model:
    """Train a model as `kanrun fit` does, and return it with the recorded tables.

    Args:
        cfg: The configuration.
        target: The data.
        progress: Whether to show a progress line on standard error.
    """
    for note in target.notes:
        warnings.warn(note, stacklevel=3)
    automatic = MODELS[cfg.model.kind].tables_only
    prepared: Any = prepare(cfg, {}, cfg.seed, target)
    limit = TimeLimit(cfg.max_cpu_seconds or inf, time.process_time(), reserved=0.0)
    rows: dict[str, list[Plain]] = {}
    tables: dict[str, pd.DataFrame] = {}
    notes = list[str]()
    checkpoints = list[Checkpoint]()
    with (
        Reporter(Console(stderr=True), total=1, quiet=not progress) as reporter,
        using_threads(threads_of(cfg)),
        monitored(reporter.show_progress, limit.end),
        _ctrl_c(stops_cleanly=not automatic) as stop,
    ):
        for record in prepared.run({}, cfg.seed, None):
            if isinstance(record, Row):
                rows.setdefault(record.table, []).append(record.values)
            elif isinstance(record, Table):
                tables[record.name] = pd.DataFrame(dict(record.columns))
            elif isinstance(record, Note):
                notes.append(record.text)
            elif record.name != RESUME:
                checkpoints.append(record)
    if stop.is_set():
        warnings.warn("interrupted: the model is the best of the training so far", stacklevel=3)
    tables = {name: pd.DataFrame(values) for name, values in rows.items()} | tables
    for table in tables.values():
        table.insert(0, "seed", cfg.seed)
    # The model is the first checkpoint, because checkpoints for resuming were left out above.
    model = from_checkpoint(checkpoints[0], Model)
    return replace(model, tables=tables, notes=tuple(notes))


@contextlib.contextmanager
def _ctrl_c(*, stops_cleanly: bool) -> Iterator[threading.Event]:
    """Make the first Ctrl-C request a stop, and the second Ctrl-C raise KeyboardInterrupt.

    Yield an event that is set once a stop was requested. Nothing changes if `stops_cleanly` is
    false, or outside the main thread, because Python delivers signals only to the main thread.
    """
    stop = threading.Event()
    if not stops_cleanly or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        request_stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
