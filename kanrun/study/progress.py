"""Progress of a run on standard error: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column
from rich.text import Text

from kanrun.monitoring import PartClock, ProgressUpdate
from kanrun.runs.records import Note, Record, Row
from kanrun.runs.tables import Key
from kanrun.study.executors import (
    Failed,
    Finished,
    Progressed,
    Recorded,
    Retried,
    Started,
    TaskEvent,
    Warned,
)
from kanrun.study.experiment import Task
from kanrun.study.report import shown

#: Seconds between lines on the progress of a training without a terminal, and seconds of work
#: from which the time left is estimated.
SECONDS_BETWEEN_LINES = 5.0
#: Errors by which trainings are compared: the first that is there.
_ERRORS = ("validation_rmse", "test_rmse", "train_rmse", "rmse")
#: Notes that are remembered so that they are not shown again for the next seed.
_MOST_NOTES = 1000
#: Smallest and largest width of the bar, and its part of the terminal.
_NARROW, _WIDE, _PART = 6, 24, 5


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
        self._results: dict[Key, Mapping[str, Any]] = {}  # summary of a training, until it ends
        # Lowest error by target, since only errors on one target compare.
        self._best: dict[Any, float] = {}
        self._start = self._clock = time.monotonic()
        self._part = PartClock()
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal and not quiet:
            column = Column(no_wrap=True, overflow="ellipsis", ratio=1)
            self._bar = Progress(
                SpinnerColumn(),
                BarColumn(bar_width=max(_NARROW, min(_WIDE, console.width // _PART))),
                *([MofNCompleteColumn()] if total > 1 else []),
                TextColumn("{task.fields[text]}", markup=False, table_column=column),
                console=console,
                expand=True,
            )
            self._bar.add_task("", total=None if total == 1 else total, text="starting")

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def skip(self, tasks: int) -> None:
        """Count tasks that an earlier attempt finished."""
        if tasks and not self._quiet:
            self._done = self._kept = tasks
            self._say(f"{tasks} of {self._total} trainings were finished before and are kept")

    def handle(self, event: TaskEvent) -> None:
        """Show `event`."""
        several = self._total > 1
        if isinstance(event, Recorded):
            self._recorded(event.task, event.record)
        elif isinstance(event, Warned):
            self._say(f"warning: {event.text}", "yellow")
        elif isinstance(event, Failed) and several:
            self._done += 1
            self._say(f"{event.task} failed: {event.failure.reason}{self._left()}", "red")
        elif self._quiet:
            return
        elif isinstance(event, Progressed):
            self.show_progress(event.update)
        elif isinstance(event, Started) and several:
            best = f"best {shown(min(self._best.values()))}, " if len(self._best) == 1 else ""
            self._show(f"{best}now {event.task}{self._left()}")
        elif isinstance(event, Finished):
            self._done += 1
            text = self._last
            self._end_stage()
            if several:
                text = f"{self._result(event.task, event.seconds)}{self._left()}"
                self._line(text)
            self._show(text)
        elif isinstance(event, Retried):
            self._say(f"{event.task} failed and restarts: {event.failure.reason}")

    def show_progress(self, update: ProgressUpdate) -> None:
        """Show the progress of a training: on the bar, elsewhere as one line every few seconds."""
        if self._quiet:
            return
        now = time.monotonic()
        text = self._part.describe(update, now)
        self._show(text)
        if self._bar is None and now - self._clock >= SECONDS_BETWEEN_LINES:
            self._clock = now
            self._line(text)

    def _recorded(self, task: Task, record: Record) -> None:
        if isinstance(record, Note) and record.text not in self._notes:
            if not record.warning and (self._quiet or (record.detail and not self._verbose)):
                return
            if len(self._notes) < _MOST_NOTES:
                self._notes.add(record.text)
            self._end_stage()
            prefix, style = ("warning: ", "yellow") if record.warning else ("", "")
            self._say(f"{prefix}{record.text}", style)
        elif isinstance(record, Row) and record.table == "metrics" and self._total == 1:
            self._step(record.values)
        elif isinstance(record, Row) and record.table == "summary":
            self._results[task.key] = record.values

    def _step(self, values: Mapping[str, Any]) -> None:
        stage = values.get("stage"), values.get("intervals")
        parts = [f"{values['intervals']} intervals"] if values.get("intervals") is not None else []
        parts += [f"step {values['step']}"] if values.get("step") is not None else []
        for name in ("train", "validation"):
            if isinstance(value := values.get(f"{name}_rmse"), (int, float)):
                parts.append(f"{name} {shown(value)}")
        text = ", ".join(parts)
        if changed := stage != self._stage:
            self._end_stage()
            self._stage = stage
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
        text = (
            f"{', '.join(filter(None, (str(task), values.get('shape'))))}: done in {seconds:.1f} s"
        )
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
        if self._bar is not None:
            total = self._total if self._total > 1 or self._done else None
            self._bar.update(self._bar.task_ids[0], text=text, total=total, completed=self._done)

    def _line(self, text: str) -> None:
        """Print a line if there is no bar to show it."""
        if self._bar is None and not self._quiet and text:
            self._say(text)

    def _say(self, text: str, style: str = "") -> None:
        # Brackets in paths and formulas are no markup; long lines wrap only on terminals.
        self._console.print(Text(text, style), soft_wrap=not self._console.is_terminal)
