"""The protocol of an experiment, and the expansion of a point into tasks.

A study has one point per combination of swept values. The experiment divides a point into cells,
such as the networks that it compares. A task trains one cell of one point with one seed.
"""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from kanrun.config import ExperimentConfig
from kanrun.config.registry import Plain
from kanrun.config.rules import with_differences
from kanrun.errors import KanrunError, UsageError
from kanrun.monitoring import ProgressUpdate
from kanrun.runs.files import Key, flattened
from kanrun.runs.records import Claim, Point, Record, Row

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from kanrun.runs.reader import Run


Cell = Mapping[str, Any]
Tables = Mapping[str, "pandas.DataFrame"]  # the tables of a point, by name
Claims = Iterable[Claim]
Figures = Iterable[tuple[str, Callable[[], "Figure"]]]  # name and drawing function of each figure
Cfg = TypeVar("Cfg", bound=ExperimentConfig)
#: The name under which an experiment yields the checkpoint that it resumes from. It is deleted when
#: its task finishes.
RESUME = "resume"
#: Largest number of tasks in one run.
MOST_TASKS = 100_000

#: Columns of the summary for which an entry of a suite may set an upper bound. The values describe
#: the columns in claims.
BOUNDED = {
    "train_rmse": "median training RMSE",
    "validation_rmse": "median validation RMSE",
    "test_rmse": "median test RMSE",
    "seconds": "longest training in seconds",
}
#: Largest number of characters of one setting in the name of a cell; longer settings are cut.
LONGEST_NAME = 60


class Experiment(Protocol):
    """A module (or object) that defines an experiment by these four functions.

    Three further functions are optional:

    - `check(cfg)` raises UsageError if the settings cannot run.
    - `prepare(cfg, cell, seed)` builds everything that `run` needs, or raises UsageError. It is
      called for the first seed of each cell before the study runs. If memory allows, the result is
      kept and passed to `run` as the argument `prepared`; for all other tasks, `prepared` is None.
    - `using_threads(n)` is a context manager that limits the number of threads of one training run.
      By default, the number of torch's threads is limited.

    `run` may take an argument `resume: Checkpoint | None`: the last checkpoint that an earlier
    attempt at the same task yielded under the name `resume`. If a checkpoint is given, `run`
    continues from there and yields only the records after it.
    """

    def cells(self, cfg: Any, /) -> Sequence[Cell]:
        """Return the cells. Each has differences from `cfg` or settings that `run` interprets."""

    def run(self, cfg: Any, cell: Any, seed: int, /) -> Iterable[Record]:
        """Train one cell with one seed and yield its records."""

    def figures(self, tables: Tables, /) -> Figures:
        """Yield the name of each figure and a function that draws it from the recorded tables."""

    def claims(self, tables: Tables, /) -> Claims:
        """Check the claims of the experiment against the recorded tables, and return them."""


@dataclass(frozen=True)
class Task:
    """One training run: a cell of a point of the study, with one seed."""

    cfg: ExperimentConfig  # configuration of the point
    index: int  # number of the cell in the point, from 0
    cell: Cell
    seed: int
    point: int = 0
    label: str = ""  # name of the task in messages
    several_points: bool = False  # whether the study has several points
    several_cells: bool = False  # whether the point has several cells

    @property
    def key(self) -> Key:
        """Key of the task: the numbers of its point and cell, and its seed."""
        return self.point, self.index, self.seed

    @property
    def marks(self) -> dict[str, int]:
        """The numbers that identify the task in tables, by column: point, cell and seed."""
        point = {"point": self.point} if self.several_points else {}
        cell = {"cell": self.index} if self.several_cells else {}
        return {**point, **cell, "seed": self.seed}

    def stored_name(self, checkpoint: str) -> str:
        """Return the name under which a checkpoint of the task is stored."""
        point = f"point{self.point}-" * self.several_points
        if checkpoint == RESUME:
            return f"{point}{RESUME}-{self.index}-{self.seed}"
        cell = f"cell{self.index}-" * self.several_cells
        return f"{point}{cell}{checkpoint}"

    def __str__(self) -> str:
        return self.label or f"cell {self.index}, seed {self.seed}"


@dataclass(frozen=True)
class Started:
    """A task has begun."""


@dataclass(frozen=True)
class Finished:
    """A task has ended without an error.

    `time_was_up` is true if the time limit had been reached, so the training may be incomplete.
    """

    seconds: float
    time_was_up: bool = False


@dataclass(frozen=True)
class Failure:
    """Why a task failed: one sentence, and the traceback if there is one.

    If `restarts`, the task runs again and its records so far are void. Otherwise its records are
    kept.
    """

    reason: str
    trace: str | None = None
    restarts: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Convert the exception `error`. Unless it is a KanrunError, the reason names its type."""
        text = " ".join(str(error).split())
        name = type(error).__name__
        named = f"{name}: {text}" if text else name
        reason = text if text and isinstance(error, KanrunError) else named
        return cls(reason, "".join(traceback.format_exception(error)))


class TaskEvent(NamedTuple):
    """An event of a task. All events except progress updates are recorded."""

    task: Task
    what: Started | Record | ProgressUpdate | Finished | Failure


def drawings(run: Run, experiment: Any, names: Sequence[str]) -> Figures:
    """Yield the name of each figure of a run and a function that draws it.

    `names` lists figures of the experiment, including figures that are drawn only on request. If
    `names` is empty, the default figures are drawn. A run of several points has only the figure
    `points`, which shows the result over the swept settings. That figure is omitted if no setting
    differs between points, or if fewer than two rows have a result. Raises UsageError if a name is
    unknown.
    """
    tables = run.frames
    if run.has_points:
        yield from _points_figure(run, tables)
    elif not names:
        yield from experiment.figures(tables)
    else:
        figures = dict(getattr(experiment, "more_figures", experiment.figures)(tables))
        for name in names:
            if name not in figures:
                raise UsageError(
                    f"there is no figure {name}; the figures are {', '.join(figures)}."
                )
            yield name, figures[name]


def _points_figure(run: Run, tables: Tables) -> Figures:
    from kanrun.runs.finding import RESULTS
    from kanrun.runs.reader import ERRORS

    table = tables.get("summary")
    if table is None:
        return
    results = [name for name in (*RESULTS, *ERRORS) if name in table and table[name].count() > 1]
    if not results:
        return
    from kanrun.figures import over_settings

    values = [point.values for point in run.manifest.points]
    swept = {name: [str(values[int(n)][name]) for n in table["point"]] for name in values[0]}
    table = table.assign(**swept).dropna(subset=results[:1])
    keys = [key for key in swept if key not in ("seed", "n_seeds") and table[key].nunique() > 1]
    if keys:
        yield "points", partial(over_settings, table, keys, results[0])


def tasks_of(experiment: Experiment, cfg: ExperimentConfig, point: Point) -> list[Task]:
    """Return the tasks of a point: all seeds of the first cell, then all seeds of the next cell.

    Raises UsageError if the experiment has no cells, or if there are more than MOST_TASKS tasks.
    """
    cells = list(experiment.cells(cfg))
    if not cells:
        raise UsageError("the study has no cells: give it at least one setting to run.")
    check_size(len(cells) * cfg.n_seeds)
    names = names_of(cells) if len(cells) > 1 else [""]
    first = str(point) if point.values else ""
    several = bool(point.values)
    tasks = []
    for index, cell in enumerate(cells):
        for seed in range(cfg.seed, cfg.seed + cfg.n_seeds):
            last = f"seed {seed}" if cfg.n_seeds > 1 or not (first or names[index]) else ""
            label = ", ".join(filter(None, (first, names[index], last)))
            task = Task(cfg, index, cell, seed, point.number, label, several, len(cells) > 1)
            tasks.append(task)
    return tasks


def check_size(trainings: int) -> None:
    """Raise UsageError if `trainings` is larger than MOST_TASKS."""
    if trainings > MOST_TASKS:
        raise UsageError(
            f"{trainings} trainings are more than {MOST_TASKS} in one run. Take fewer points, "
            "cells or seeds."
        )


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Return a distinct name for each cell, made of the settings in which the cells differ.

    If these settings do not distinguish a cell from all others, its name ends with `cell N`.
    """
    settings = [flattened(cell) for cell in cells]
    telling = [
        key
        for key in dict.fromkeys(chain.from_iterable(settings))
        # Bounds of claims are no settings of the network, so they are not part of the name.
        if key.partition(".")[0] not in ("bound", "bounds")
        and len({str(cell.get(key)) for cell in settings}) > 1
    ]
    names = []
    for cell in settings:
        texts = (f"{key}={cell[key]}" for key in telling if key in cell)
        names.append(", ".join(shorten(text) for text in texts))
    count = Counter(names)
    return [
        name if name and count[name] == 1 else ", ".join(filter(None, (name, f"cell {index}")))
        for index, name in enumerate(names)
    ]


def shorten(text: str) -> str:
    """Cut a text to LONGEST_NAME characters."""
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def suite_cells(suite: Sequence[Plain]) -> list[Plain]:
    """Return the entries of `suite` as cells; if it is empty, return one cell without changes."""
    return list(suite) or [{}]


def with_cell(cfg: Cfg, cell: Plain) -> Cfg:
    """Return `cfg` with the settings of `cell` applied, typed and checked.

    If the cell sets the `kind` of a group, it replaces the whole group. Raises UsageError if the
    cell does not fit the configuration.
    """
    differences = {key: value for key, value in cell.items() if key != "bounds"}
    if not differences:
        return cfg
    try:
        return with_differences(cfg, differences)
    except UsageError as error:
        raise UsageError(f"{dict(cell)} does not fit the configuration: {error}") from error


def check_bounds(cell: Plain) -> None:
    """Raise UsageError unless the cell's `bounds` map columns of BOUNDED to positive numbers."""
    bounds = cell.get("bounds", {})
    if not isinstance(bounds, Mapping):
        raise UsageError(
            f"bounds={bounds} of a suite's entry must be pairs, such as {{test_rmse: 1e-6}}."
        )
    for column, bound in bounds.items():
        if column not in BOUNDED:
            raise UsageError(
                f"bounds of a suite's entry has {column}; choose from {', '.join(BOUNDED)}."
            )
        is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not is_number or not 0 < bound < math.inf:
            raise UsageError(
                f"bounds of a suite's entry has {column}: {bound}, which must be a positive number."
            )


def bound_rows(cell: Plain, summary: Plain) -> Iterator[Row]:
    """Yield one row of the table `bounds` per bound of `cell`, with the value from `summary`."""
    for column, bound in cell.get("bounds", {}).items():
        shape = summary["shape"].replace("-", ",")
        label = f"{summary['target']} [{shape}], N = {summary['train_points']}"
        values = {"label": label, "column": column, "bound": float(bound)}
        yield Row("bounds", {**values, "value": summary[column]})
