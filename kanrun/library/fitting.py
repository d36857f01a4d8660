"""`kanrun.fit`: the experiment `fit` on data in memory, without a run folder.

It runs the recipe of `kanrun fit` itself, so that the same settings and seed give the same numbers.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd

from kanrun.config import (
    MODELS,
    SOLVERS,
    AutoConfig,
    ExperimentConfig,
    ExpressionTarget,
    FitConfig,
    SamplingConfig,
    TableTarget,
)
from kanrun.engine.tables import TablePolicy
from kanrun.errors import UsageError
from kanrun.experiments.fit import run
from kanrun.experiments.fit.tables import TableFitting, prepare_table
from kanrun.experiments.fit.training import make_fit
from kanrun.monitoring import ProgressUpdate, monitored, request_stop
from kanrun.runs.records import Checkpoint, Note, Record, Row, Table
from kanrun.study.checkpoints import model_from_checkpoint
from kanrun.study.model import Model
from kanrun.study.resources import TimeLimit, threads_of, using_threads
from kanrun.study.suite import with_cell
from kanrun.suggestions import did_you_mean
from kanrun.targets import (
    Data,
    Target,
    array_target,
    as_array,
    frame_columns,
    frame_names,
    is_frame,
    named_formula,
)

ADDITIVE = "additive"  # the model of tables with one effect per input alone
RESUME = "resume"  # the name of the checkpoints from which a training resumes
NOT_HERE = {
    "kind",
    "executor",
    "n_seeds",
    "figure_formats",
    "tags",
    "note",
}  # settings of runs, or given in other ways
SHOWN_EVERY = 0.2  # seconds between two states of the progress line


def fit(  # noqa: PLR0913 (keywords of a public function)
    x: Data = None,
    y: Data = None,
    *,
    formula: str | None = None,
    domain: Any = None,
    model: str | None = None,
    solver: str | None = None,
    task: str | None = None,
    seed: int = 0,
    sample_weight: Data = None,
    categorical_columns: Sequence[str] = (),
    progress: bool | None = None,
    **settings: Any,
) -> Model:
    """The model that `kanrun fit` trains, on x (rows, inputs) and y (rows,) or (rows, outputs), or on a formula.

    x is an array, a tensor or a DataFrame, whose text columns and those of `categorical_columns` become indicators of their
    levels; y holds numbers, or labels with `task="classification"` (the default where y is text or bool). A formula,
    such as `fit(formula="exp(-x)*sin(3*y)", domain={"x": (-1, 1), "y": (0, 2)})`, is sampled on its domain, by default
    [-1, 1] for every variable. A row of `sample_weight` 2 counts as two rows, and fractions as such.

    `model` is `auto` (the default for data: effects, pairs and neighbourhoods by evidence), `additive` (effects alone),
    `kan` (the default for formulas, and with any of its settings), `mlp`, `polynomial`, `bezier` or `bspline`. Further
    settings are those of the command line without their group: `hidden=[5]`, `intervals=[5, 10]`, `steps=50`,
    `validation_fraction=0.2`, `n_train=1000`, `noise=0.1`, `precision="float32"`, `device="cpu"`, ... All rows are used, unless
    `n_test` says how many are kept to test on. The same settings and seed give the same numbers as the command line.

    Examples:
        >>> import numpy as np
        >>> from kanrun import fit
        >>> x = np.linspace(-1, 1, 200)
        >>> model = fit(x, np.exp(x))
        >>> model.predict([0.0]).round(2)
        array([1.])
        >>> fit(formula="x*sin(2*y)", domain={"x": (0, 1), "y": (-1, 1)}, hidden=[], steps=3).inputs
        ('x', 'y')

    Ctrl-C ends a training in order with the best so far, and a warning; a second one interrupts it. `progress` shows a
    line while it trains, by default in interactive sessions.

    Raises InvalidData, a ValueError, for data that do not fit, and UsageError for settings that break a rule.
    """
    if (formula is None) == (x is None):
        raise UsageError("fit takes data (x and y), or a formula.")
    if formula is not None:
        target = named_formula(formula, domain)
        described: Any = ExpressionTarget(formula, domain)
        sampling = SamplingConfig()
    else:
        if y is None:
            raise UsageError("fit needs y, what is to be predicted from x.")
        if domain is not None:
            raise UsageError("domain is for formulas; the domain of data is their range.")
        classification = _is_classification(y, task)
        target = array_target(
            x, y, classification=classification, categorical_columns=categorical_columns, weights=sample_weight
        )
        task = "classification" if classification else "regression"
        described = TableTarget("x", list(target.inputs), list(target.outputs), task)
        sampling = SamplingConfig(n_train=None, n_test=0, validation_fraction=0.2)
    cfg = configuration(described, sampling, model, solver, {"seed": seed, **settings})
    shown = interactive() if progress is None else progress
    return fit_target(cfg, target, additive=model == ADDITIVE, progress=shown)


def _is_classification(y: Data, task: str | None) -> bool:
    """As `task` says, else whether y is text or bool."""
    tasks = ("regression", "classification")
    if task is not None and task not in tasks:
        raise UsageError(
            f"task={task!r} is not one of {', '.join(tasks)}{did_you_mean(task, tasks) or '.'}"
        )
    if task is not None or hasattr(y, "detach"):
        return task == "classification"
    columns = frame_columns(y, frame_names(y, "y"), "y") if is_frame(y) else {"y": as_array(y, "y")}
    return next(iter(columns.values())).dtype.kind in "OUSTb"


def configuration(
    target: Any,
    sampling: SamplingConfig,
    model: str | None,
    solver: str | None,
    settings: Mapping[str, Any],
) -> FitConfig:
    """The configuration of the command line with these settings, each found in the group that has it.

    As there, a table is learned by `auto` unless a setting is one of another model or of a solver. Raises UsageError
    for a setting that no group has, and for values that break their rule.
    """
    whole, table = {one.name for one in fields(ExperimentConfig)}, isinstance(target, TableTarget)
    points = {one.name for one in fields(SamplingConfig)}
    if model is None:
        automatic = {one.name for one in fields(AutoConfig)} | points | whole - {"precision"}
        model = "auto" if table and solver is None and settings.keys() <= automatic else "kan"
    if model == ADDITIVE:
        model, settings = "auto", {"pairs": False, "selection": "evidence", **settings}
    chosen, trained = (
        MODELS.find(model, "model").settings(),
        SOLVERS.find(solver or "auto", "solver").settings(),
    )
    if isinstance(chosen, AutoConfig):
        chosen.baselines = False
    groups = {
        "": whole,
        "sampling": points,
        "model": set(vars(chosen)),
        "solver": set(vars(trained)),
    }
    differences: dict[str, Any] = {}
    for key, value in settings.items():
        group = next((name for name, names in groups.items() if key in names - NOT_HERE), None)
        if group is None:
            known = sorted(set().union(*groups.values()))
            raise UsageError(
                f"{key} is not a setting of model={model} or solver={trained.kind}{did_you_mean(key, known) or '.'}"
            )
        (differences.setdefault(group, {}) if group else differences)[key] = _plain(value)
    cfg = FitConfig(target=target, model=chosen, solver=trained, sampling=sampling)
    return with_cell(cfg, differences)


def _plain(value: Any) -> Any:
    """Lists and Python's numbers instead of tuples, arrays and numpy's numbers."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def fit_target(
    cfg: FitConfig, target: Target, *, additive: bool = False, progress: bool = False
) -> Model:
    """The model that the recipe of `kanrun fit` trains on `target`, with the tables that a run would record.

    `additive` leaves the automatic model its effects of single inputs, see `TablePolicy.additive`.
    """
    automatic = MODELS[cfg.model.kind].tables_only
    prepared = (
        prepare_table(cfg, {}, cfg.seed, target)
        if automatic
        else make_fit(cfg, {}, cfg.seed, target)
    )
    if additive and isinstance(prepared, TableFitting):
        plain = TablePolicy.additive()
        policy = replace(
            prepared.policy, evidence=plain.evidence, alternatives=False, folds=plain.folds
        )
        prepared = replace(prepared, policy=policy)
    recorded, line = _Recorded(cfg.seed), _ProgressLine()
    seconds = cfg.max_cpu_seconds
    limit = (
        None
        if seconds is None
        else TimeLimit(seconds, time.process_time(), results=0.0, program=0.0).end
    )
    watched = monitored(line.show if progress else None, limit)
    with using_threads(threads_of(cfg)), watched, _ctrl_c(not automatic) as stop:
        for record in run(cfg, {}, cfg.seed, prepared=prepared):
            recorded.add(record)
    line.end()
    if stop.is_set():
        warnings.warn("interrupted: the model is the best of the training so far", stacklevel=3)
    return recorded.model()


@contextlib.contextmanager
def _ctrl_c(ends_in_order: bool) -> Iterator[threading.Event]:
    """Let the first Ctrl-C end a training in order, as `max_cpu_seconds` does; the second one interrupts it.

    Python tells the main thread alone of it.
    """
    stop = threading.Event()
    if not ends_in_order or threading.current_thread() is not threading.main_thread():
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


@dataclass
class _Recorded:
    """What a recipe yields, as the recorder of a run folder would keep it."""

    seed: int
    rows: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    checkpoint: Checkpoint | None = None

    def add(self, record: Record) -> None:
        if isinstance(record, Row):
            self.rows.setdefault(record.table, []).append(record.values)
        elif isinstance(record, Table):
            self.tables[record.name] = pd.DataFrame(dict(record.columns))
        elif isinstance(record, Note):
            self.notes.append(record)
        elif (
            record.name != RESUME and self.checkpoint is None
        ):  # the model comes before other checkpoints
            self.checkpoint = record

    def model(self) -> Model:
        assert self.checkpoint is not None  # an invariant: a recipe that ends has yielded its model
        tables = {name: pd.DataFrame(rows) for name, rows in self.rows.items()} | self.tables
        for table in tables.values():
            table.insert(0, "seed", self.seed)
        model = model_from_checkpoint(self.checkpoint)
        return replace(model, tables=tables, notes=tuple(note.text for note in self.notes))


class _ProgressLine:
    """One line on standard error, written over itself: so it works in terminals and notebooks."""

    def __init__(self) -> None:
        self._shown, self._width = 0.0, 0

    def show(self, advance: ProgressUpdate) -> None:
        now = time.monotonic()
        if now - self._shown < SHOWN_EVERY:
            return
        self._shown = now
        error = "" if advance.error is None else f", best {advance.error:.3g}"
        text = f"kanrun: {advance.part}: {advance.done}{f' of {advance.total}' if advance.total else ''}{error}"
        print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = len(text)

    def end(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)


def interactive() -> bool:
    """Whether someone sits in front of this process: a notebook, IPython or Python's own prompt."""
    return hasattr(sys, "ps1") or "get_ipython" in vars(sys.modules.get("builtins", sys))
