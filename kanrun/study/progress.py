"""Reports of a running study: to people, on standard error, and to trackers.

People see a bar on a terminal, and elsewhere a line every few seconds. The bar counts training
runs; a training run in progress counts as a fraction. The number of parts of a training run, such
as grids, is not known in advance. Therefore each part fills half of the fraction that was left, and
the end of the training run fills the rest. So the bar never goes back, and it ends at 100%. The
time left assumes a constant pace.

MLflow, TensorBoard and trackio, all off by default, receive the settings, the rows of
`metrics.csv`, and at the end the medians of `summary.csv`. If a tracker raises an error, a warning
is printed, the tracker is not used any more, and the run continues.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from kanrun.config.registry import Plain
from kanrun.errors import printable, tell
from kanrun.monitoring import ProgressUpdate
from kanrun.runs.files import MARKS, Key, flattened
from kanrun.runs.records import Note, Row
from kanrun.study import Failure, Finished, Started, Task, TaskEvent

#: Smallest number of seconds between two lines of progress if there is no terminal.
SECONDS_BETWEEN_LINES = 5.0
#: Number of seconds over which the pace is averaged: longer than any run, so that the whole run
#: counts.
_WHOLE_RUN = 1e9
#: Columns of errors in the summary of a training run. When a training run ends, the first of these
#: columns that was recorded is shown.
_ERRORS = ("validation_rmse", "test_rmse", "train_rmse", "rmse")
#: Largest number of notes that are remembered, so that they are not shown again for other seeds.
_MOST_NOTES = 1000
#: Smallest width of the bar, in characters. The bar takes a fifth of the terminal, within the
#: limits _NARROW and _WIDE.
_NARROW = 6
#: Largest width of the bar, in characters.
_WIDE = 24
#: Smallest width of a terminal, in characters, on which the time left is shown.
_ROOM_FOR_TIME = 60
#: Width of standard error, in characters, if it is not a terminal.
_WIDTH = 120
#: Whole numbers below this are shown without an exponent.
_WHOLE = 1e9
#: Numbers below this are shown with an exponent.
_SMALL = 1e-2
#: Numbers from here on are shown with an exponent.
_LARGE = 1e5
#: Numbers whose difference from 1 is smaller than this, such as an R^2, are shown with ten digits,
#: because this difference matters.
_NEAR_ONE = 1e-3


def error_console() -> Console:
    """Return a console on standard error: as wide as the terminal, or 120 without one."""
    console = Console(stderr=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    return console


def shown(value: Any) -> str:
    """Return a value as text for people: numbers with a few digits, "" for None and NaN."""
    if value is None or value != value:  # noqa: PLR0124  (missing values differ from themselves)
        return ""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return printable(value)
    number = float(value)
    if number.is_integer() and abs(number) < _WHOLE:
        return str(int(number))
    if abs(number - 1) < _NEAR_ONE:
        return f"{number:.10g}"
    return f"{number:.4g}" if _SMALL <= abs(number) < _LARGE else f"{number:.2e}"


@dataclass
class _Running:
    """Progress of one training run.

    Attributes:
        part: Name of the part that it last reported.
        done: Progress within that part, in the part's units.
        share: Fraction of the training that counts as done, from 0 to 1.
        before: `share` when the part began.
    """

    part: str = ""
    done: float = 0.0
    share: float = 0.0
    before: float = 0.0

    def advance(self, update: ProgressUpdate) -> None:
        """Update the progress. A part whose total is unknown does not move the bar."""
        # If the progress decreases, the part has started again.
        if update.part != self.part or update.done < self.done:
            self.part = update.part
            self.before = self.share
        self.done = update.done
        if update.total:
            done = min(1.0, update.done / update.total)
            self.share = max(self.share, self.before + (1 - self.before) / 2 * done)


class Reporter:
    """Shows the events of `total` training runs; if `quiet`, only warnings and failures."""

    def __init__(
        self,
        console: Console,
        total: int,
        quiet: bool = False,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._verbose = verbose
        self._total = total
        self._done = 0
        self._running: dict[Key | None, _Running] = {}
        self._notes: set[str] = set()
        self._errors: dict[Key, str] = {}  # error of each training that has not ended, in words
        self._clock = clock
        self._told = clock()
        width = max(_NARROW, min(_WIDE, console.width // 5))
        text = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=width),
            TaskProgressColumn(),
            *([TimeRemainingColumn(compact=True)] if console.width >= _ROOM_FOR_TIME else []),
            TextColumn("{task.description}", markup=False, table_column=text),
            console=console,
            expand=True,
            get_time=clock,
            speed_estimate_period=_WHOLE_RUN,
            disable=quiet or not console.is_terminal or console.is_dumb_terminal,
        )
        self._bar.add_task("starting", total=total)

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def skip(self, tasks: int) -> None:
        """Count `tasks` as done, because an earlier attempt finished them."""
        if tasks and not self._quiet:
            self._say(f"{tasks} of {self._total} trainings were finished before and are kept")
        self._done = tasks
        self._bar.reset(self._bar.task_ids[0], completed=tasks)

    def handle(self, event: TaskEvent) -> None:
        """Show `event`."""
        task, what = event
        match what:
            case Note():
                self._note(what)
            case Row(table="summary"):
                self._errors[task.key] = _error_text(what.values)
            case ProgressUpdate():
                self.show_progress(what, task.key)
            case Started() if self._total > 1:
                self._show(str(task))
            case Failure(restarts=True) if not self._quiet:
                self._say(f"{task} failed and restarts: {what.reason}")
            case Finished() | Failure(restarts=False):
                self._end(task, what)

    def warn(self, text: str) -> None:
        """Show a warning."""
        self._say(f"warning: {text}", "yellow")

    def show_progress(self, update: ProgressUpdate, key: Key | None = None) -> None:
        """Show the progress of a training on the bar; without a bar, as a line every few seconds.

        `key` identifies the training run; it is None if the training runs follow one another in
        this process.
        """
        self._running.setdefault(key, _Running()).advance(update)
        text = f"{update.part}: {update.done:.4g}"
        text += f" of {update.total:.4g}" if update.total else ""
        if update.error is not None and math.isfinite(update.error):
            text += f", best {update.error:.3g}"
        self._show(text)
        if (now := self._clock()) - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            self._line(text)

    def _note(self, note: Note) -> None:
        """Show a note, unless the same text has been shown before."""
        hidden = self._quiet or (note.detail and not self._verbose)
        if note.text in self._notes or (hidden and not note.warning):
            return
        if len(self._notes) < _MOST_NOTES:
            self._notes.add(note.text)
        (self.warn if note.warning else self._say)(note.text)

    def _end(self, task: Task, end: Finished | Failure) -> None:
        """Count a training run that has ended, and print its result unless it is the only one."""
        self._done += 1
        for key in (task.key, None):  # serial trainings report without a key
            self._running.pop(key, None)
        error = self._errors.pop(task.key, "")
        if isinstance(end, Failure):
            text = f"{task} failed: {end.reason}"
        else:
            text = f"{task}: done in {end.seconds:.1f} s{error}"
        self._show(text)
        if self._total > 1 and isinstance(end, Failure):
            self._say(text, "red")
        elif self._total > 1:
            self._line(text)

    def _show(self, text: str) -> None:
        """Show `text` and the overall progress on the bar."""
        done = self._done + sum(running.share for running in self._running.values())
        self._bar.update(self._bar.task_ids[0], description=text, completed=done)

    def _line(self, text: str) -> None:
        """If there is no bar, print `text` with the percentage done and the time left."""
        if self._bar.disable and not self._quiet:
            bar = self._bar.tasks[0]
            pace = ""
            if (bar.elapsed or 0) >= SECONDS_BETWEEN_LINES and (left := bar.time_remaining):
                pace = f", about {left:.0f} s left"
            self._say(f"{text} ({bar.percentage:.0f}%{pace})")

    def _say(self, text: str, style: str = "") -> None:
        # `Text` keeps rich from reading brackets in paths and formulas as markup. Long lines wrap
        # only on terminals.
        self._console.print(Text(text, style), soft_wrap=not self._console.is_terminal)


def _error_text(summary: Plain) -> str:
    """Return the first error that a summary has, as ", validation RMSE 0.1"; "" if it has none."""
    for name in _ERRORS:
        if isinstance(value := summary.get(name), int | float):
            return f", {name.replace('_', ' ').replace('rmse', 'RMSE')} {shown(value)}"
    return ""


Numbers = Mapping[str, float]
#: Largest number of characters of a setting that are sent to MLflow; the rest is cut.
MAX_CHARACTERS = 500


class Backend(NamedTuple):
    """Functions of one tracker.

    `log(numbers, step)` logs numbers at a step, which is None for results. `end(status)` ends the
    tracked run.
    """

    log: Callable[[Numbers, int | None], None]
    end: Callable[[str], Any]
    prefix: str = "result/"  # prefix of the names of results


class Tracker:
    """One tracker of one run. Errors of the tracker become warnings."""

    def __init__(self, name: str, command: str, folder: Path, settings: Plain) -> None:
        self._name = name
        self._steps = Counter[str]()
        self._backend: Backend | None = None
        flat = {key: value for key, value in flattened(settings).items() if value is not None}
        with self._warning():
            self._backend = BACKENDS[name](command, folder, flat)

    def row(self, values: Plain, key: Sequence[int]) -> None:
        """Log a row of `metrics`.

        If there are several training runs, `key` identifies the training (point, cell and seed),
        and the names of the numbers start with it; otherwise `key` is empty.
        """
        if self._backend is None:
            return
        prefix = "".join(
            f"{name} {number}/" for name, number in zip(MARKS, key, strict=False) if number
        )
        with self._warning():
            if numbers := _numbers(values, prefix):
                self._backend.log(numbers, self._steps[prefix])
        self._steps[prefix] += 1

    def end(self, results: Plain, status: str) -> None:
        """Log the results (medians over seeds), and end the tracked run with `status`."""
        if self._backend is not None:
            with self._warning():
                self._backend.log(_numbers(results, self._backend.prefix), None)
                self._backend.end(status)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Turn an error of the tracker into a warning, and stop using the tracker."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # trackers print messages
                yield
        except Exception as error:  # whatever a tracker raises, the run continues
            self._backend = None
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            hint = f" (pip install {self._name})" if isinstance(error, ImportError) else ""
            tell(f"tracker={self._name} does not work and is left out: {cause}{hint}")


def _numbers(values: Plain, prefix: str = "") -> Numbers:
    return {
        f"{prefix}{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and name not in MARKS
    }


def _mlflow(command: str, folder: Path, settings: Plain) -> Backend:
    """Log to the MLflow server MLFLOW_TRACKING_URI, or to an SQLite file in the outputs folder."""
    # Without these limits, a training run would wait minutes for a server that does not answer.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
    from mlflow import MlflowClient

    # MLflow logs every step of setting up its database at level INFO.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    place = f"sqlite:///{(folder.parents[1] / 'mlflow.db').absolute()}"
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or place)
    name = f"kanrun-{command}"
    stored = client.get_experiment_by_name(name)
    experiment = stored.experiment_id if stored else client.create_experiment(name)
    run = client.create_run(experiment, run_name=folder.name).info.run_id
    for key, value in settings.items():
        client.log_param(run, key, str(value)[:MAX_CHARACTERS])

    def log(numbers: Numbers, step: int | None) -> None:
        for key, value in numbers.items():
            client.log_metric(run, key.replace(" ", "_"), value, step=step)

    def end(status: str) -> None:
        client.set_terminated(run, "FINISHED" if status == "COMPLETED" else "FAILED")

    return Backend(log, end, prefix="")


def _tensorboard(_: str, folder: Path, settings: Plain) -> Backend:
    """Log into the folder `tensorboard` of the run."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder / "tensorboard"))
    lines = (f"    {key}: {value}" for key, value in settings.items())
    writer.add_text("settings", "\n".join(lines))

    def log(numbers: Numbers, step: int | None) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)

    return Backend(log, lambda _: writer.close())


def _trackio(command: str, folder: Path, settings: Plain) -> Backend:
    """Log into trackio's own database on this machine."""
    import trackio

    trackio.init(project=f"kanrun-{command}", name=folder.name, config=dict(settings))

    def log(numbers: Numbers, step: int | None) -> None:
        trackio.log({key: value for key, value in numbers.items() if key != "step"}, step=step)

    return Backend(log, lambda _: trackio.finish())


BACKENDS: dict[str, Callable[[str, Path, Plain], Backend]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
