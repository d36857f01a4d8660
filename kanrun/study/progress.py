"""Progress of a run on standard error: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from kanrun.monitoring import ProgressUpdate
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

#: Seconds between lines on the progress of a training, without a terminal.
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
        self._done = 0
        self._stage: tuple[Any, ...] = ()
        self._last = ""  # the best step of the stage
        self._notes: set[str] = set()
        self._results: dict[Key, Mapping[str, Any]] = {}  # summary of a training, until it ends
        # Error and training by target, since only errors on one target compare.
        self._best: dict[Any, tuple[float, str]] = {}
        self._target: Any = None  # of the training that finished last
        self._clock = self._began = time.monotonic()
        self._part = ProgressUpdate("", 0)
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal and not quiet:
            self._bar = _make_bar(console, total)

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
            self._done += tasks
            self._say(f"{tasks} of {self._total} trainings were finished before and are kept")
            self._advance("")

    def handle(self, event: TaskEvent) -> None:
        """Show `event`."""
        several = self._total > 1
        if isinstance(event, Progressed):
            self.show_progress(event.update)
        elif isinstance(event, Recorded):
            self._recorded(event.task, event.record)
        elif isinstance(event, Warned):
            self._say(f"warning: {event.text}", "yellow")
        elif isinstance(event, Started) and several:
            best = self._best.get(self._target)
            self._advance(f"best {shown(best[0])}, now {event.task}" if best else str(event.task))
        elif isinstance(event, Finished) and not self._quiet:
            self._done += 1
            text = self._last
            self._end_stage()
            if several:
                self._line(text := self._result(event.task, event.seconds))
            self._advance(text)
        elif isinstance(event, Retried) and not self._quiet:
            self._say(f"{event.task} failed and restarts: {event.failure.reason}")
        elif isinstance(event, Failed) and several:
            self._done += 1
            self._say(f"{event.task} failed: {event.failure.reason}", "red")
            self._advance("")

    def show_progress(self, update: ProgressUpdate) -> None:
        """Show the progress of a training: on the bar, elsewhere as one line every few seconds."""
        if self._quiet:
            return
        now, before = time.monotonic(), self._part
        same = (before.part, before.total) == (update.part, update.total)
        if not same or update.done < before.done:
            self._began = now
        self._part, seconds = update, now - self._began
        words = [f"{update.part}: {update.done}" + (f" of {update.total}" if update.total else "")]
        if update.error is not None and math.isfinite(update.error):
            words.append(f"best {shown(update.error)}")
        if update.total and update.done and seconds > 0:
            left = seconds * (update.total - update.done) / update.done
            words += [f"at most {left:.0f} s left here"] if left >= 1 else []
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], text=", ".join(words))
        elif now - self._clock >= SECONDS_BETWEEN_LINES:
            self._clock = now
            self._say(", ".join(words))

    def _recorded(self, task: Task, record: Record) -> None:
        if isinstance(record, Note) and record.text not in self._notes:
            if not record.warning and (self._quiet or (record.detail and not self._verbose)):
                return
            if len(self._notes) < _MOST_NOTES:
                self._notes.add(record.text)
            self._end_stage()
            prefix, style = ("warning: ", "yellow") if record.warning else ("", "")
            self._say(f"{prefix}{record.text}", style)
        elif isinstance(record, Row) and not self._quiet:
            if record.table == "metrics" and self._total == 1:
                self._step(record.values)
            elif record.table == "summary" and self._total > 1:
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
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, text=text)

    def _end_stage(self) -> None:
        """Print the best step of the stage, once, before anything that comes after it."""
        self._line(self._last)
        self._last = ""

    def _result(self, task: Task, seconds: float) -> str:
        """Return the result of `task`, and the best training on its target so far."""
        values = self._results.pop(task.key, {})
        parts = [str(task), str(values.get("shape") or "")]
        parts.append(f"{values['intervals']} intervals" if values.get("intervals") else "")
        text = f"{', '.join(filter(None, parts))}: done in {seconds:.1f} s"
        for name in _ERRORS:
            value = values.get(name)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            text += f", {name.replace('_', ' ').replace('rmse', 'RMSE')} {shown(value)}"
            self._target = target = values.get("target")
            best, holder = self._best.get(target, (math.inf, ""))
            if value < best:
                self._best[target] = (float(value), str(task))
                return f"{text}, the best so far"
            return f"{text} (best so far {shown(best)}: {holder})"
        return text

    def _advance(self, text: str) -> None:
        if self._bar is not None:
            place = {"completed": self._done} if self._total > 1 else {"total": 1, "completed": 1}
            self._bar.update(self._bar.task_ids[0], text=text, **place)  # type: ignore[arg-type]

    def _line(self, text: str) -> None:
        """Print a line if there is no bar to show it."""
        if self._bar is None and not self._quiet and text:
            self._say(text)

    def _say(self, text: str, style: str = "") -> None:
        # Brackets in paths and formulas are no markup; long lines wrap only on terminals.
        self._console.print(Text(text, style), soft_wrap=not self._console.is_terminal)


def _make_bar(console: Console, total: int) -> Progress:
    column = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    bar = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=max(_NARROW, min(_WIDE, console.width // _PART))),
        *([MofNCompleteColumn()] if total > 1 else []),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False, table_column=column),
        console=console,
        expand=True,
    )
    bar.add_task("", total=None if total == 1 else total, text="starting")
    return bar
