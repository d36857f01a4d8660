"""Recorder: from the events of an executor to the journal of a run, and back when it is resumed."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.monitoring import ProgressUpdate
from kanrun.runs.artifacts import checkpoint_path, checksum_of, read_checkpoint
from kanrun.runs.files import Key, to_json
from kanrun.runs.folder import RunFolder
from kanrun.runs.journal import Journal, RunTables
from kanrun.runs.lines import BegunLine, FailedLine, FinishedLine
from kanrun.runs.records import Checkpoint, Note, Point, Row, Table
from kanrun.study import Failure, Finished, Started, Task, TaskEvent
from kanrun.study.studies import Checked

#: The name under which an experiment yields the checkpoint that it resumes from.
_RESUME = "resume"
#: Failures and notes that `run.json` lists; `records.jsonl` and `run.log` have all of them.
MOST_LISTED = 100
DIGEST_LENGTH = 16  # of a cell
_logger = logging.getLogger("kanrun")


class Recorder:
    """Writes what tasks record, and knows which tasks finished.

    - The name of a checkpoint begins with its point and cell, if there are several.
    - One named `resume` is stored as `resume-<cell>-<seed>`, and deleted when its task finishes.
    """

    def __init__(self, folder: RunFolder, checked: Checked) -> None:
        self._folder, self._cells = folder, checked.cells
        self._several = len(checked.study.points) > 1
        self.trainings = checked.trainings
        #: Trainings of each point that have not ended.
        self.left = list(self.trainings)
        self.total = sum(self.left)
        self.finished: set[Key] = set()
        self.failed: Counter[int] = Counter()  # trainings by point
        self.failures: dict[Key, dict[str, Any]] = {}  # the first of them, as `run.json` lists them
        #: Checksums of the checkpoints that tasks continue from.
        self._continued: dict[Key, str] = {}
        #: Byte at which the records of each point begin that has trainings left.
        self._begins: dict[int, int] = {}

    def restore(self, tasks: Iterable[Task], continuing: bool) -> dict[Key, Checkpoint]:
        """Note which tasks an earlier attempt finished; return the checkpoints of the others.

        There are none unless the experiment is `continuing` from them. Raises UsageError if the
        cells differ from those of the run that was interrupted.
        """
        journal = Journal(self._folder.path)
        checkpoints: dict[Key, Checkpoint] = {}
        for task in tasks:
            if journal.digests.get(task.key, digest := _digest(task)) != digest:
                raise UsageError(
                    f"Cannot resume {self._folder.path}: its recorded cells differ from those of "
                    "the current configuration. Start a new run."
                )
            if task.key in journal.finished:
                self.finished.add(task.key)
                self.left[task.point] -= 1
            elif continuing and (checkpoint := self._checkpoint(task, journal)):
                checkpoints[task.key] = checkpoint
        self._begins = journal.begins
        self._folder.write_tables()
        return checkpoints

    def handle(self, event: TaskEvent) -> None:
        """Record what `event` brings. Raises StorageFailed, and KanrunError for invalid rows."""
        task, what = event
        match what:
            case Started():
                checkpoint = self._continued.pop(task.key, None)
                line = BegunLine(**self._marks(task), digest=_digest(task), checkpoint=checkpoint)
                self._folder.record(line)
            case Row() | Table():
                self._rows(task, what)
            case Checkpoint(name=name):
                marks = self._marks(task) if name == _RESUME else None
                self._folder.checkpoint(replace(what, name=self._name(task, name)), marks)
            case Note():
                self.note(f"{task}: {what.text}" if self.total > 1 else what.text, what.warning)
            case Finished():
                self._folder.record(FinishedLine(**self._marks(task)))
                self._folder.sync()
                self.finished.add(task.key)
                self.left[task.point] -= 1
                self._folder.discard(self._name(task, _RESUME))
                _logger.info("%s finished in %.2f s", task, what.seconds)
            case Failure(restarts=True):
                self._folder.discard(self._name(task, _RESUME))
                _logger.info("%s failed and restarts: %s", task, what.reason)
            case Failure():
                self._fail(task, what)
            case ProgressUpdate():
                pass
            case _:
                raise KanrunError(
                    f"the experiment yielded a {type(what).__name__}, which is not a record."
                )

    def note(self, text: str, warning: bool = False) -> None:
        """Add a sentence to the log, and to the notes of the run up to a number."""
        if len(self._folder.manifest.notes) < MOST_LISTED or not self._several:
            self._folder.note(text)
        _logger.info("%s%s", "warning: " if warning else "", text)

    def tables_of(self, point: Point) -> RunTables:
        """Return the tables of a point whose trainings have all ended."""
        start = self._begins.pop(point.number, 0)
        return Journal(self._folder.path, point.number, start).frames

    def _marks(self, task: Task) -> dict[str, int]:
        """Return the columns that say which training a row belongs to."""
        point = {"point": task.point} if self._several else {}
        cell = {"cell": task.index} if self._cells[task.point] > 1 else {}
        return {**point, **cell, "seed": task.seed}

    def _rows(self, task: Task, record: Row | Table) -> None:
        """Record rows without the columns that say which training they belong to."""
        marks, columns = self._marks(task), dict[str, Any](record.columns)
        for mark, value in marks.items():
            own = columns.pop(mark, ())
            if any(each != value for each in own):
                raise KanrunError(
                    f"table {record.name!r} has {mark}={own} in a row of {task}; `{mark}` is "
                    "the recorder's column."
                )
        if self._several:
            self._begins.setdefault(task.point, self._folder.size())
        self._folder.rows(Table(record.name, columns), marks)

    def _fail(self, task: Task, failure: Failure) -> None:
        settings = dict(task.cell)
        line = FailedLine(
            **self._marks(task), settings=settings, reason=failure.reason, trace=failure.trace
        )
        self._folder.record(line)
        if len(self.failures) < MOST_LISTED:
            self.failures[task.key] = line.entry
        self.failed[task.point] += 1
        self.left[task.point] -= 1
        _logger.info("%s failed: %s\n%s", task, failure.reason, failure.trace or "")

    def _checkpoint(self, task: Task, journal: Journal) -> Checkpoint | None:
        """Return the checkpoint of an unfinished task, if it is whole and the journal knows it."""
        path = checkpoint_path(self._folder.path / "checkpoints", self._name(task, _RESUME))
        checksum = checksum_of(path)
        if checksum is None or checksum not in journal.checkpoints.get(task.key, {}):
            return None
        try:
            stored = read_checkpoint(path, checksum)
        except StorageFailed:
            return None
        self._continued[task.key] = checksum
        return replace(stored, name=_RESUME)

    def _name(self, task: Task, checkpoint: str) -> str:
        """Return the name under which a checkpoint of a task is stored."""
        point = f"point{task.point}-" if self._several else ""
        if checkpoint == _RESUME:
            return f"{point}{_RESUME}-{task.index}-{task.seed}"
        cell = f"cell{task.index}-" if self._cells[task.point] > 1 else ""
        return f"{point}{cell}{checkpoint}"


def _digest(task: Task) -> str:
    """Return a digest of the settings of a task's cell."""
    return hashlib.sha256(to_json(task.cell)).hexdigest()[:DIGEST_LENGTH]
