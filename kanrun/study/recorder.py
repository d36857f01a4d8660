"""Recorder: from the events of an executor to a run folder that can be resumed whenever killed."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from kanrun.errors import KanrunError, UsageError
from kanrun.monitoring import ProgressUpdate
from kanrun.runs.artifacts import checkpoint_path, read_checkpoint
from kanrun.runs.files import Key, file_name, frame_of, key_reader, plain_value, read_rows, to_json
from kanrun.runs.folder import Filter, RunFolder
from kanrun.runs.reader import Run, RunTables, point_columns
from kanrun.runs.records import Checkpoint, Journal, Note, Point, Row, Table, value_text
from kanrun.study import Failure, Finished, Started, Task, TaskEvent
from kanrun.study.studies import Checked

if TYPE_CHECKING:
    import pandas

#: The name under which an experiment yields the checkpoint that it resumes from.
_RESUME = "resume"
#: Failures and notes that `run.json` lists; `progress.jsonl` and `run.log` have all of them.
MOST_LISTED = 100
DIGEST_LENGTH = 16  # of a cell
_logger = logging.getLogger("kanrun")
Names = dict[str, None]  # an ordered set
RowCounts = Counter[tuple[Key, str]]  # by training and table
Rows = dict[str, tuple[int, tuple[str, ...]]]  # number and columns of the rows of each table


@dataclass(frozen=True)
class _Resumable:
    """Description of a checkpoint to resume from: the experiment's, the cell, rows by table."""

    meta: dict[str, Any]
    digest: str
    rows: Rows


class Recorder:
    """Writes what tasks record, and knows which tasks finished.

    - Rows begin with the columns `point` and `cell` (if there are several) and `seed`, so that the
      tables of all tasks are one file; a row of `summary` of several points has the swept values.
    - A Table replaces the rows of its own task only.
    - The name of a checkpoint begins with its point and cell, if there are several. One named
      `resume` is stored as `resume-<cell>-<seed>`, with the number of rows that each table had of
      its task at that time; it is deleted when its task finishes.
    - `progress.jsonl` lists the finished tasks with their number of rows in each table: a task
      whose rows are gone is not finished.
    """

    def __init__(self, folder: RunFolder, checked: Checked) -> None:
        self._folder, self._points, self._cells = folder, checked.study.points, checked.cells
        self._several = len(self._points) > 1
        self.trainings = checked.trainings
        #: Trainings of each point that have not ended.
        self.left = list(self.trainings)
        self.total = sum(self.left)
        self.finished: set[Key] = set()
        #: Tasks that had finished, and whose rows are gone.
        self.lost = 0
        self.failed: Counter[int] = Counter()  # trainings by point
        self.failures: dict[Key, dict[str, Any]] = {}  # the first of them, as `run.json` lists them
        #: By unfinished task.
        self._written: dict[Key, Rows] = defaultdict(dict)
        # Of points with trainings that have not ended, by table: its columns; the byte at which
        # the first row begins, and the header that the table had then.
        self._columns: dict[int, dict[str, Names]] = defaultdict(dict)
        self._starts: dict[int, dict[str, tuple[int, list[str]]]] = defaultdict(dict)

    def restore(self, tasks: Iterable[Task], continuing: bool) -> dict[Key, Checkpoint]:
        """Restore the folder of an earlier attempt to a state from which the run can resume.

        Returns the resume checkpoints of unfinished tasks (none unless the experiment is
        `continuing` from them), and drops all rows that these tasks will write again, and damaged
        tables. Raises UsageError if the cells differ from those of the run that was interrupted.
        """
        journal, there = Journal.read(self._folder.path), RowCounts()
        for name, path in Run(self._folder.path).tables.items():
            try:
                header, rows = read_rows(path)
                found = Counter(map(key_reader(header), rows))
                if "seed" not in header or (-1, -1, -1) in found:
                    raise KanrunError(f"{path} is not a table of kanrun.")
                there.update({(key, name): number for key, number in found.items()})
            except KanrunError:
                self._folder.remove(name)
        checkpoints: dict[Key, Checkpoint] = {}
        for task in tasks:
            line, failed = journal.finished.get(task.key), journal.failed.get(task.key, {})
            self._check_cell(task, line.digest if line else failed.get("digest"))
            if line and _has(there, task.key, line.rows):
                self.finished.add(task.key)
                if task.point not in journal.results:
                    self._written[task.key] = line.rows
                self._close(task)
                continue
            self.lost += line is not None
            if continuing and (checkpoint := self._resumable(task, there)):
                checkpoints[task.key] = checkpoint
        self._folder.retain(self._kept)
        self._folder.journal({"resumed": len(self.finished)})
        return checkpoints

    def handle(self, event: TaskEvent) -> None:
        """Store what `event` brings. Raises StorageFailed, and KanrunError for invalid rows."""
        task, what = event
        match what:
            case Row():
                self._append(what.table, {name: [one] for name, one in what.values.items()}, task)
            case Table():
                if self._written[task.key].pop(file_name(what.name), None):
                    self._forget(task, file_name(what.name))
                self._append(what.name, what.columns, task)
            case Checkpoint():
                self._store(task, what)
            case Note():
                self.note(f"{task}: {what.text}" if self.total > 1 else what.text, what.warning)
            case Finished():
                rows = self._written[task.key]
                self._folder.journal({"finished": task.key, "digest": _digest(task), "rows": rows})
                self.finished.add(task.key)
                self._folder.discard(self._checkpoint_name(task))
                self._close(task)
                _logger.info("%s finished in %.2f s", task, what.seconds)
            case Failure(restarts=True):
                # Not its notes and named checkpoints, which it writes again.
                self._forget(task)
                self._folder.discard(self._checkpoint_name(task))
                self._written.pop(task.key, None)
                _logger.info("%s failed and restarts: %s", task, what.reason)
            case Failure():
                self._fail(task, what)
            case Started() | ProgressUpdate():
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

    def take(self, point: Point) -> RunTables:
        """Return the tables of a point whose trainings have all ended, and forget about it."""
        tables = self._columns.pop(point.number, {})
        starts = self._starts.pop(point.number, {})

        def read(name: str) -> pandas.DataFrame:
            table, columns = self._folder.table(name), list(tables[name])
            start, header = starts.get(name, (0, None))
            start = start if header is table.header else 0  # a wider header moves all rows
            return frame_of(point_columns(table.path, point.number, columns, start))

        return RunTables(tuple(tables), read)

    def _store(self, task: Task, checkpoint: Checkpoint) -> None:
        cell = f"cell{task.index}-" if self._cells[task.point] > 1 else ""
        name = f"{self._prefix(task)}{cell}{checkpoint.name}"
        if checkpoint.name == _RESUME:
            self._folder.sync()  # rows must not be older than the checkpoint that counts them
            described = _Resumable(checkpoint.meta, _digest(task), self._written[task.key])
            checkpoint = replace(checkpoint, meta=vars(described))
            name = self._checkpoint_name(task)
        self._folder.checkpoint(replace(checkpoint, name=name))

    def _append(self, table: str, values: Mapping[str, Any], task: Task) -> None:
        """Append rows to a table behind the marks of their training, and count them."""
        name, rows = file_name(table), len(next(iter(values.values()), ()))
        marks = {"point": task.point} if self._several else {}
        marks |= {"cell": task.index} if self._cells[task.point] > 1 else {}
        marks["seed"] = task.seed
        for mark, value in marks.items():
            if any(each != value for each in values.get(mark, ())):
                raise KanrunError(
                    f"table {table!r} has {mark}={values[mark]} in a row of {task}; `{mark}` is "
                    "the recorder's column."
                )
        first: dict[str, Any] = dict(marks)
        if self._several and name == "summary":
            swept = self._points[task.point].values.items()
            settings = {key: value_text(value) for key, value in swept if key not in values}
            first = {"point": task.point, **settings, **marks}
        before, columns = self._written[task.key].get(name, (0, ()))
        more = (plain_value(one) for one in (*marks, *values) if one != "point")
        self._written[task.key][name] = before + rows, tuple(dict.fromkeys((*columns, *more)))
        file, starts = self._folder.table(name), self._starts[task.point]
        begin = file.size() if name not in starts else 0
        # Numbers in an array are written without a look at each of them.
        file.extend({**{one: np.full(rows, value) for one, value in first.items()}, **values})
        starts.setdefault(name, (begin, file.header))

    def _fail(self, task: Task, failure: Failure) -> None:
        entry = {
            **({"point": task.point} if self._several else {}),
            "cell": task.index,
            "settings": dict(task.cell),
            "seed": task.seed,
            "reason": failure.reason,
            "trace": failure.trace,
        }
        self._folder.journal({"failed": task.key, "digest": _digest(task), **entry})
        if len(self.failures) < MOST_LISTED:
            self.failures[task.key] = entry
        self.failed[task.point] += 1
        self._close(task)
        _logger.info("%s failed: %s\n%s", task, failure.reason, failure.trace or "")

    def _close(self, task: Task) -> None:
        self.left[task.point] -= 1
        for table, (_, columns) in self._written.pop(task.key, {}).items():
            self._columns[task.point].setdefault(table, {}).update(dict.fromkeys(columns))

    def _forget(self, task: Task, table: str | None = None) -> None:
        """Drop the rows of one task, in one table or in all."""
        self._folder.retain(lambda: lambda _, key: key != task.key, table)

    def _kept(self) -> Filter:
        """Return the filter that keeps the rows of finished tasks and of resume checkpoints."""
        seen = Counter[tuple[str, Key]]()

        def stays(table: str, key: Key) -> bool:
            seen[table, key] += 1
            rows, _ = self._written.get(key, {}).get(table, (0, ()))
            return key in self.finished or seen[table, key] <= rows

        return stays

    def _resumable(self, task: Task, there: RowCounts) -> Checkpoint | None:
        """Return the resume checkpoint of a task if it is whole, as are the rows that it counts."""
        path = checkpoint_path(self._folder.path / "checkpoints", self._checkpoint_name(task))
        try:
            stored = read_checkpoint(path)
            known = msgspec.convert(stored.meta, _Resumable)
        except (KanrunError, msgspec.ValidationError):
            return None
        self._check_cell(task, known.digest)
        if not _has(there, task.key, known.rows):
            return None
        self._written[task.key] = known.rows
        return Checkpoint(_RESUME, stored.arrays, known.meta)

    def _check_cell(self, task: Task, recorded: Any) -> None:
        """Raise UsageError if the cell of a task is not the one that was recorded, if any was."""
        if recorded not in (None, _digest(task)):
            raise UsageError(
                f"Cannot resume {self._folder.path}: its recorded cells differ from those of the "
                "current configuration. Start a new run."
            )

    def _prefix(self, task: Task) -> str:
        return f"point{task.point}-" if self._several else ""

    def _checkpoint_name(self, task: Task) -> str:
        return f"{self._prefix(task)}{_RESUME}-{task.index}-{task.seed}"


def _digest(task: Task) -> str:
    """Return a digest of the settings of a task's cell."""
    return hashlib.sha256(to_json(task.cell)).hexdigest()[:DIGEST_LENGTH]


def _has(there: RowCounts, key: Key, rows: Rows) -> bool:
    """Return whether all rows that a task had recorded are there."""
    return all(there[key, table] >= number for table, (number, _) in rows.items())
