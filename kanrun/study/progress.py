"""Listeners to a run: its progress on standard error, and trackers.

Standard error gets a bar on a terminal, a few lines elsewhere. A tracker (MLflow, TensorBoard,
trackio; off by default) gets the settings, the rows of `metrics.csv`, and at the end the medians of
`summary.csv`. Its first error is a warning, after which it gets nothing; the run continues.
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
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column
from rich.text import Text

from kanrun.config.registry import Plain
from kanrun.errors import printable, tell
from kanrun.monitoring import ProgressUpdate
from kanrun.runs.files import MARKS, Key
from kanrun.runs.index import flattened
from kanrun.runs.records import Note, Row
from kanrun.study import Failure, Finished, Started, Task, TaskEvent

#: Seconds between lines on the progress of a training without a terminal, and seconds of work
#: from which the time left is estimated.
SECONDS_BETWEEN_LINES = 5.0
#: Errors by which trainings are compared: the first that is there.
_ERRORS = ("validation_rmse", "test_rmse", "train_rmse", "rmse")
#: Notes that are remembered so that they are not shown again for the next seed.
_MOST_NOTES = 1000
#: Smallest and largest width of the bar, and its part of the terminal.
_NARROW, _WIDE, _PART = 6, 24, 5
_WIDTH = 120  # characters of a line on standard error without a terminal
#: Numbers are shown as whole below the first, with few digits below the second or from the third,
#: and with many nearer to 1 than the last (such as r2, where the distance from 1 is what counts).
_WHOLE, _SMALL, _LARGE, _NEAR_ONE = 1e9, 1e-2, 1e5, 1e-3


def error_console() -> Console:
    """Return a console on standard error: as wide as the terminal, or 120 without one."""
    console = Console(stderr=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    return console


def shown(value: Any) -> str:
    """Return a value as people read it: a few digits of a number, "" for a missing one."""
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


class Reporter:
    """Shows events: a bar on a terminal, else a line per stage or task; warnings only if quiet."""

    def __init__(
        self, console: Console, total: int, quiet: bool = False, verbose: bool = False
    ) -> None:
        self._console, self._total, self._quiet, self._verbose = console, total, quiet, verbose
        self._done = self._kept = 0
        self._stage: Any = None
        self._last = ""  # the best step of the stage
        self._notes: set[str] = set()
        self._results: dict[Key, Plain] = {}  # summary of a training, until it ends
        # Lowest error by target, since only errors on one target compare.
        self._best: dict[Any, float] = {}
        self._start = self._clock = self._began = time.monotonic()
        self._part = ProgressUpdate("", 0)
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=max(_NARROW, min(_WIDE, console.width // _PART))),
            *([MofNCompleteColumn()] if total > 1 else []),
            TextColumn(
                "{task.fields[text]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=console,
            expand=True,
            disable=quiet or not console.is_terminal or console.is_dumb_terminal,
        )
        self._bar.add_task("", total=None if total == 1 else total, text="starting")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def skip(self, tasks: int) -> None:
        """Count tasks that an earlier attempt finished."""
        if tasks and not self._quiet:
            self._done = self._kept = tasks
            self._say(f"{tasks} of {self._total} trainings were finished before and are kept")

    def handle(self, event: TaskEvent) -> None:
        """Show `event`."""
        (task, what), several = event, self._total > 1
        match what:
            case Note():
                self._note(what)
            case Row(table="summary"):
                self._results[task.key] = what.values
            case Row(table="metrics") if not several:
                self._step(what.values)
            case ProgressUpdate():
                self.show_progress(what)
            case Started() if several:
                best = f"best {shown(min(self._best.values()))}, " if len(self._best) == 1 else ""
                self._show(f"{best}now {task}{self._left()}")
            case Finished():
                self._done += 1
                text = self._last
                self._end_stage()
                if several:
                    text = f"{self._result(task, what.seconds)}{self._left()}"
                    self._line(text)
                self._show(text)
            case Failure(restarts=True) if not self._quiet:
                self._say(f"{task} failed and restarts: {what.reason}")
            case Failure(restarts=False) if several:
                self._done += 1
                self._say(f"{task} failed: {what.reason}{self._left()}", "red")

    def warn(self, text: str) -> None:
        """Show a warning."""
        self._say(f"warning: {text}", "yellow")

    def show_progress(self, update: ProgressUpdate) -> None:
        """Show progress with the time that the part can still take.

        It is shown on the bar, elsewhere as one line every few seconds.
        """
        now, before, self._part = time.monotonic(), self._part, update
        total, done = update.total, update.done
        if (before.part, before.total) != (update.part, total) or done < before.done:
            self._began = now
        words = [f"{update.part}: {done}" + (f" of {total}" if total else "")]
        if update.error is not None and math.isfinite(update.error):
            words.append(f"best {update.error:.3g}")
        if total and done and (left := (now - self._began) * (total - done) / done) >= 1:
            words.append(f"at most {left:.0f} s left here")
        text = ", ".join(words)
        self._show(text)
        if now - self._clock >= SECONDS_BETWEEN_LINES:
            self._clock = now
            self._line(text)

    def _note(self, note: Note) -> None:
        """Show a note once."""
        hidden = self._quiet or (note.detail and not self._verbose)
        if note.text in self._notes or (hidden and not note.warning):
            return
        if len(self._notes) < _MOST_NOTES:
            self._notes.add(note.text)
        self._end_stage()
        (self.warn if note.warning else self._say)(note.text)

    def _step(self, values: Plain) -> None:
        """Show a step of a run of one training."""
        stage = values.get("stage"), values.get("intervals")
        parts = [] if stage[1] is None else [f"{stage[1]} intervals"]
        parts += [f"step {values['step']}"] if values.get("step") is not None else []
        for name in ("train", "validation"):
            if isinstance(value := values.get(f"{name}_rmse"), (int, float)):
                parts.append(f"{name} {shown(value)}")
        if changed := stage != self._stage:
            self._end_stage()
            self._stage = stage
        text = ", ".join(parts)
        if changed or values.get("best", True):  # later steps may be trials that are not kept
            self._last = text
        self._show(text)

    def _end_stage(self) -> None:
        """Print the best step of the stage, once, before anything that comes after it."""
        self._line(self._last)
        self._last = ""

    def _result(self, task: Task, seconds: float) -> str:
        """Return the result of `task`, and the lowest error on its target so far."""
        values = self._results.pop(task.key, {})
        text = ", ".join(filter(None, (str(task), values.get("shape"))))
        text += f": done in {seconds:.1f} s"
        name = next((one for one in _ERRORS if isinstance(values.get(one), (int, float))), None)
        if name is None or not math.isfinite(values[name]):
            return text
        error, target = float(values[name]), (name, values.get("target"))
        best = self._best[target] = min(error, self._best.get(target, math.inf))
        text += f", {name.replace('_', ' ').replace('rmse', 'RMSE')} {shown(error)}"
        return f"{text}, the best so far" if error == best else f"{text} (best {shown(best)})"

    def _left(self) -> str:
        """Return an estimate of the time that all trainings still take, after the first seconds."""
        done, seconds = self._done - self._kept, time.monotonic() - self._start
        if seconds < SECONDS_BETWEEN_LINES or not done or self._done == self._total:
            return ""
        return f"; about {seconds / done * (self._total - self._done):.0f} s left"

    def _show(self, text: str) -> None:
        """Show a text on the bar, if there is one."""
        total = self._total if self._total > 1 or self._done else None
        self._bar.update(self._bar.task_ids[0], text=text, total=total, completed=self._done)

    def _line(self, text: str) -> None:
        """Print a line if there is no bar to show it."""
        if self._bar.disable and not self._quiet and text:
            self._say(text)

    def _say(self, text: str, style: str = "") -> None:
        # Brackets in paths and formulas are no markup; long lines wrap only on terminals.
        self._console.print(Text(text, style), soft_wrap=not self._console.is_terminal)


Numbers = Mapping[str, float]
#: Characters of a setting that MLflow stores.
MAX_CHARACTERS = 500


class Backend(NamedTuple):
    """Functions that log numbers at a step, if there is one, and that end with a status."""

    log: Callable[[Numbers, int | None], None]
    end: Callable[[str], Any]
    prefix: str = "result/"  # of the names of results


class Tracker:
    """One tracker of one run, if a name is given; its errors are warnings."""

    def __init__(self, name: str | None, command: str, folder: Path, settings: Plain) -> None:
        self._name, self._steps = name, Counter[Any]()
        self._backend: Backend | None = None
        if name is not None:
            flat = {key: value for key, value in flattened(settings).items() if value is not None}
            with self._warning():
                self._backend = BACKENDS[name](command, folder, flat)

    def row(self, values: Plain, key: Sequence[int]) -> None:
        """Log a row of `metrics`, under the name of the training if there are several."""
        if self._backend is None:
            return
        training = tuple((name, at) for name, at in zip(MARKS, key, strict=False) if at)
        prefix = "".join(f"{name} {value}/" for name, value in training)
        with self._warning():
            if numbers := _numbers(values, prefix):
                self._backend.log(numbers, self._steps[training])
        self._steps[training] += 1

    def end(self, results: Plain, status: str) -> None:
        """Log the medians of the run, and its status."""
        if self._backend is not None:
            with self._warning():
                self._backend.log(_numbers(results, self._backend.prefix), None)
                self._backend.end(status)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Turn the first error of the tracker into a warning, and use it no longer."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # where trackers say what they do
                yield
        except Exception as error:  # No error of a tracker ends the run.
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
    """Log to an SQLite file next to the runs, or to MLFLOW_TRACKING_URI."""
    # Without a limit, a training waits minutes for a dead server.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
    from mlflow import MlflowClient

    # It reports every step of its own database.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    place = f"sqlite:///{(folder.parents[1] / 'mlflow.db').absolute()}"
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or place)
    name = f"kanrun-{command}"
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
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
