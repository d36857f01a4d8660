"""Experiment protocol, and the expansion of a point into tasks (cells x seeds)."""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from kanrun.config import ExperimentConfig
from kanrun.config.conversion import with_differences
from kanrun.config.registry import Plain
from kanrun.errors import KanrunError, UsageError
from kanrun.monitoring import ProgressUpdate
from kanrun.runs.files import Key, flattened
from kanrun.runs.records import Claim, Point, Record, Row

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


Cell = Mapping[str, Any]
Tables = Mapping[str, "pandas.DataFrame"]  # the tables of a point, by name
Claims = Iterable[Claim]
Figures = Iterable[tuple[str, Callable[[], "Figure"]]]  # names, and functions that draw
Cfg = TypeVar("Cfg", bound=ExperimentConfig)
MOST_TASKS = 100_000

#: Columns that a suite's entry may bound.
BOUNDED = {
    "train_rmse": "median training RMSE",
    "validation_rmse": "median validation RMSE",
    "test_rmse": "median test RMSE",
    "seconds": "longest training in seconds",
}
#: Characters of a setting in the name of a cell; longer ones are cut.
LONGEST_NAME = 60


class Experiment(Protocol):
    """A module (or object) with these four functions.

    It may have further ones:

    - `check(cfg)` raises UsageError for settings that cannot run;
    - `prepare(cfg, cell, seed)` builds all that `run` needs, or raises UsageError. Before a study
      runs, the first seed of each cell is prepared; as far as memory goes, the result is kept, and
      `run` takes it as its argument `prepared`, which is None for other tasks;
    - `using_threads(n)` is a context manager that limits the threads of one training; without it,
      torch's threads are limited.

    `run` may take an argument `resume: Checkpoint | None`: the checkpoint that an earlier attempt
    yielded last under the name `resume`. It must then yield the records after that checkpoint only.
    """

    def cells(self, cfg: Any, /) -> Sequence[Cell]:
        """Return the cells: differences from `cfg`, or any settings that `run` understands."""

    def run(self, cfg: Any, cell: Any, seed: int, /) -> Iterable[Record]:
        """Train one cell with one seed and yield its records."""

    def figures(self, tables: Tables, /) -> Figures:
        """Yield the name of each figure, and a function that draws it from recorded tables."""

    def claims(self, tables: Tables, /) -> Claims:
        """Check claims on recorded tables."""


@dataclass(frozen=True)
class Task:
    """One training: a cell of a point of the study, with one seed."""

    cfg: ExperimentConfig  # of its point
    index: int  # of the cell
    cell: Cell
    seed: int
    point: int = 0
    label: str = ""  # for people

    @property
    def key(self) -> Key:
        """Numbers of the point and the cell, and the seed."""
        return self.point, self.index, self.seed

    def __str__(self) -> str:
        return self.label or f"cell {self.index}, seed {self.seed}"


@dataclass(frozen=True)
class Started:
    """Begin of a task."""


@dataclass(frozen=True)
class Finished:
    """End of a task; `time_was_up` if the time limit of its worker was reached."""

    seconds: float
    time_was_up: bool = False


@dataclass(frozen=True)
class Failure:
    """Why a task failed: one sentence, and the traceback if there is one.

    The records of a task that `restarts` do not count; those of one that failed for good stay.
    """

    reason: str
    trace: str | None = None
    restarts: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return `error` as a failure; errors that are not kanrun's are named by their type."""
        text = " ".join(str(error).split())
        name = type(error).__name__
        named = f"{name}: {text}" if text else name
        reason = text if text and isinstance(error, KanrunError) else named
        return cls(reason, "".join(traceback.format_exception(error)))


class TaskEvent(NamedTuple):
    """An event of a task; progress is not recorded."""

    task: Task
    what: Started | Record | ProgressUpdate | Finished | Failure


def chosen_figures(experiment: Any, tables: Tables, names: Sequence[str]) -> Figures:
    """Yield the figures with these names, also those drawn on request only, or the usual ones.

    Raises UsageError for a name that the tables have no figure of.
    """
    if not names:
        yield from experiment.figures(tables)
        return
    found = dict(getattr(experiment, "more_figures", experiment.figures)(tables))
    for name in names:
        if name not in found:
            raise UsageError(f"there is no figure {name}; the figures are {', '.join(found)}.")
        yield name, found[name]


def tasks_of(experiment: Experiment, cfg: ExperimentConfig, point: Point) -> list[Task]:
    """Return cells x seeds of a point in their order: all seeds of a cell, then the next cell.

    Raises UsageError if the experiment has no cells, or more than a run folder is made for.
    """
    cells = list(experiment.cells(cfg))
    if not cells:
        raise UsageError("the study has no cells: give it at least one setting to run.")
    check_size(len(cells) * cfg.n_seeds)
    names = names_of(cells) if len(cells) > 1 else [""]
    first = str(point) if point.values else ""
    tasks = []
    for index, cell in enumerate(cells):
        for seed in range(cfg.seed, cfg.seed + cfg.n_seeds):
            last = f"seed {seed}" if cfg.n_seeds > 1 or not (first or names[index]) else ""
            label = ", ".join(part for part in (first, names[index], last) if part)
            tasks.append(Task(cfg, index, cell, seed, point.number, label))
    return tasks


def check_size(trainings: int) -> None:
    """Raise UsageError for more trainings than a run folder is made for."""
    if trainings > MOST_TASKS:
        raise UsageError(
            f"{trainings} trainings are more than {MOST_TASKS} in one run. Take fewer points, "
            "cells or seeds."
        )


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Return a name for each cell: the settings in which cells differ, or else `cell N`."""
    flat = [flattened(cell) for cell in cells]
    keys = dict.fromkeys(chain.from_iterable(flat))
    # Claims on a cell do not name it.
    known = [key for key in keys if key.partition(".")[0] not in ("bound", "bounds")]
    telling = [key for key in known if len({str(one.get(key)) for one in flat}) > 1]
    names = [", ".join(_named(key, one[key]) for key in telling if key in one) for one in flat]
    often = Counter(names)
    return [
        name if name and often[name] == 1 else f"{name}{', ' if name else ''}cell {index}"
        for index, name in enumerate(names)
    ]


def _named(key: str, value: Any) -> str:
    text = f"{key}={value}"
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def suite_cells(suite: Sequence[Plain]) -> list[Plain]:
    """Return the entries of a suite as cells; without a suite, one cell without differences."""
    return list(suite) or [{}]


def with_cell(cfg: Cfg, cell: Plain) -> Cfg:
    """Return `cfg` with the differences of a cell, typed and checked. Raises UsageError.

    A group entry that names a `kind` replaces the group.
    """
    differences = {key: value for key, value in cell.items() if key != "bounds"}
    if not differences:
        return cfg
    try:
        return with_differences(cfg, differences)
    except UsageError as error:
        raise UsageError(f"{dict(cell)} does not fit the configuration: {error}") from error


def check_bounds(cell: Plain) -> None:
    """Raise UsageError for bounds on other columns, and bounds that are not positive numbers."""
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
    """Yield one row per bound of `cell`, with the value that it bounds."""
    for column, bound in cell.get("bounds", {}).items():
        shape = summary["shape"].replace("-", ",")
        label = f"{summary['target']} [{shape}], N = {summary['train_points']}"
        values = {"label": label, "column": column, "bound": float(bound)}
        yield Row("bounds", {**values, "value": summary[column]})
