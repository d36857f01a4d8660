"""Recorder: from the events of an executor to a run folder that can be resumed whenever killed."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kanrun.errors import KanrunError, UsageError
from kanrun.runs.artifacts import checkpoint_path, read_checkpoint
from kanrun.runs.files import file_name, to_json
from kanrun.runs.folder import Filter, RunFolder
from kanrun.runs.journal import Journal
from kanrun.runs.manifest import Point, value_text
from kanrun.runs.reader import Run, point_columns
from kanrun.runs.records import Checkpoint, Note, Row, Table
from kanrun.runs.tables import Key, frame_of, key_reader, plain_value, read_rows
from kanrun.study.executors import Failed, Finished, Recorded, Retried, TaskEvent, Warned
from kanrun.study.experiment import Failure, Task

if TYPE_CHECKING:
    import pandas

#: The name under which an experiment yields the checkpoint that it resumes from.
_RESUME = "resume"
_ROWS = "recorded_rows"
#: Failures and notes that `run.json` lists; `progress.jsonl` and `run.log` have all of them.
MOST_LISTED = 100
_logger = logging.getLogger("kanrun")
Names = dict[str, None]  # an ordered set
RowCounts = dict[Key, Counter[str]]  # by table


@dataclass
class _OpenPoint:
    """Point with trainings that have not ended: by table its columns, and where its rows begin."""

    columns: dict[str, Names] = field(default_factory=dict)
    starts: dict[str, tuple[int, int]] = field(default_factory=dict)  # byte, columns of the header


@dataclass(frozen=True)
class PointTables:
    """Tables of one point of a run that is being written, as `Run` has those of a run."""

    folder: RunFolder
    point: Point
    state: _OpenPoint

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are there."""
        return tuple(self.state.columns)

    def table(self, name: str) -> pandas.DataFrame:
        """Return a table."""
        table, columns = self.folder.table(name), self.state.columns[name]
        start, width = self.state.starts.get(name, (0, 0))
        start = start if width == len(table.header) else 0  # a wider header moves all rows
        return frame_of(point_columns(table.path, self.point.number, list(columns), start))


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

    def __init__(
        self, folder: RunFolder, points: Sequence[Point], cells: Sequence[int], seeds: Sequence[int]
    ) -> None:
        self._folder, self._points, self._cells = folder, points, cells
        self._several = len(points) > 1
        #: Trainings of each point that have not ended.
        self.left = [many * each for many, each in zip(cells, seeds, strict=True)]
        self.trainings = tuple(self.left)
        self.total = sum(self.left)
        self.finished: set[Key] = set()
        #: Tasks that had finished, and whose rows are gone.
        self.lost = 0
        self.failed: Counter[int] = Counter()  # trainings by point
        self.failures: list[tuple[Task, Failure]] = []  # the first of them
        self._rows: RowCounts = {}
        self._columns: dict[Key, dict[str, Names]] = {}
        self._layouts: dict[str, list[str]] = {}
        self._open: dict[int, _OpenPoint] = {}
        self._notes = 0

    def restore(self, tasks: Iterable[Task], continuing: bool) -> dict[Key, Checkpoint]:
        """Restore the folder of an earlier attempt to a state from which the run can resume.

        Returns the resume checkpoints of unfinished tasks (none unless the experiment is
        `continuing` from them), and drops all rows that these tasks will write again. Raises
        UsageError if the cells differ from those of the run that was interrupted.
        """
        journal, there = Journal.read(self._folder.path), self._count_rows()
        self._layouts = journal.layouts
        checkpoints: dict[Key, Checkpoint] = {}
        for task in tasks:
            line, failed = journal.finished.get(task.key), journal.failed.get(task.key, {})
            self._check_cell(task, line.digest if line else failed.get("digest"))
            counts = {name: rows for name, (rows, _) in line.rows.items()} if line else {}
            if line is not None and _has(there, task.key, counts):
                self.finished.add(task.key)
                self.left[task.point] -= 1
                if self._several and task.point not in journal.results:
                    point = self._open.setdefault(task.point, _OpenPoint())
                    for name, (_, mark) in line.rows.items():
                        names = dict.fromkeys(journal.layouts.get(mark, ()))
                        point.columns.setdefault(name, {}).update(names)
                        point.starts[name] = 0, -1
                continue
            self.lost += line is not None
            if continuing and (checkpoint := self._resumable(task, there)):
                checkpoints[task.key] = checkpoint
        self._folder.retain(self._kept)
        self._folder.journal({"resumed": len(self.finished)})
        return checkpoints

    def _check_cell(self, task: Task, recorded: Any) -> None:
        """Raise UsageError if the cell of a task is not the one that was recorded, if any was."""
        if recorded not in (None, _digest(task)):
            raise UsageError(
                f"Cannot resume {self._folder.path}: its recorded cells differ from those of the "
                "current configuration. Start a new run."
            )

    def _kept(self) -> Filter:
        left = {key: Counter(rows) for key, rows in self._rows.items()}

        def stays(table: str, key: Key) -> bool:
            if key in left:
                left[key][table] -= 1
            return key in self.finished or (key in left and left[key][table] >= 0)

        return stays

    def handle(self, event: TaskEvent) -> None:
        """Store what `event` brings. Raises StorageFailed, and KanrunError for invalid rows."""
        if isinstance(event, Recorded):
            self._record(event)
        elif isinstance(event, Finished):
            self._finish(event.task)
            _logger.info("%s finished in %.2f s", event.task, event.seconds)
        elif isinstance(event, Warned):
            self._note(event.text)
            _logger.warning("%s", event.text)
        elif isinstance(event, Retried):
            # All that the task wrote but its notes and named checkpoints, which it writes again.
            self._forget(event.task)
            self._folder.discard(self._checkpoint_name(event.task))
            self._rows.pop(event.task.key, None)
            self._columns.pop(event.task.key, None)
            _logger.info("%s failed and restarts: %s", event.task, event.failure.reason)
        elif isinstance(event, Failed):
            task, failure = event.task, event.failure
            entry = {"digest": _digest(task), **_failure_entry(task, failure, self._several)}
            self._folder.journal({"failed": task.key, **entry})
            if len(self.failures) < MOST_LISTED:
                self.failures.append((task, failure))
            self.failed[task.point] += 1
            self._close(task)
            _logger.info("%s failed: %s\n%s", task, failure.reason, failure.trace or "")

    def failure_entries(self) -> tuple[dict[str, Any], ...]:
        """Return the failures as `run.json` lists them."""
        listed = sorted(self.failures, key=lambda failed: failed[0].key)
        return tuple(_failure_entry(task, failure, self._several) for task, failure in listed)

    def take(self, point: Point) -> PointTables:
        """Return the tables of a point whose trainings have all ended, and forget about it."""
        return PointTables(self._folder, point, self._open.pop(point.number, _OpenPoint()))

    def _finish(self, task: Task) -> None:
        rows = {}
        for table, count in self._rows.get(task.key, Counter[str]()).items():
            columns, mark = list(self._columns[task.key][table]), ""
            if self._several:
                mark = hashlib.sha256("\n".join(columns).encode()).hexdigest()[:8]
                if self._layouts.setdefault(mark, columns) is columns:
                    self._folder.journal({"layout": mark, "columns": columns})
            rows[table] = count, mark
        self._folder.journal({"finished": task.key, "digest": _digest(task), "rows": rows})
        self.finished.add(task.key)
        self._folder.discard(self._checkpoint_name(task))
        self._close(task)

    def _close(self, task: Task) -> None:
        self.left[task.point] -= 1
        self._rows.pop(task.key, None)
        for table, names in self._columns.pop(task.key, {}).items():
            if task.point in self._open:
                self._open[task.point].columns.setdefault(table, {}).update(names)

    def _record(self, event: Recorded) -> None:
        task, record = event.task, event.record
        if isinstance(record, Row):
            self._append(Row(record.table, self._marked(record.table, record.values, task)), task)
        elif isinstance(record, Table):
            self._append(self._table(record, task), task)
        elif isinstance(record, Checkpoint):
            self._checkpoint(record, task)
        elif isinstance(record, Note):
            text = f"{task}: {record.text}" if self.total > 1 else record.text
            self._note(text)
            _logger.info("%s%s", "warning: " if record.warning else "", text)
        else:
            raise KanrunError(
                f"the experiment yielded a {type(record).__name__}, which is not a record."
            )

    def _note(self, text: str) -> None:
        self._notes += 1
        if self._notes <= MOST_LISTED or not self._several:
            self._folder.note(text)

    def _checkpoint(self, record: Checkpoint, task: Task) -> None:
        if record.name == _RESUME:
            self._folder.sync()  # the rows must not be older than the checkpoint that counts them
            rows = dict(self._rows.get(task.key, {}))
            meta = {"meta": record.meta, "digest": _digest(task), _ROWS: rows}
            record = Checkpoint(self._checkpoint_name(task), record.arrays, meta)
        else:
            cell = f"cell{task.index}-" if self._cells[task.point] > 1 else ""
            record = replace(record, name=f"{self._prefix(task)}{cell}{record.name}")
        self._folder.checkpoint(record)

    def _append(self, record: Row | Table, task: Task) -> None:
        """Append marked rows, and count them; those of a Table replace earlier ones."""
        is_row = isinstance(record, Row)
        columns: Mapping[str, Any] = record.values if isinstance(record, Row) else record.columns
        name = file_name(record.table if isinstance(record, Row) else record.name)
        counts = self._rows.setdefault(task.key, Counter())
        names = {plain_value(column): None for column in columns if column != "point"}
        if self._several:
            if counts[name] and not is_row:
                self._forget(task, name)
            table, point = self._folder.table(name), self._open.setdefault(task.point, _OpenPoint())
            if name not in point.starts:
                point.starts[name] = table.size(), len({*table.header, *columns})
            if name == "summary":
                swept = self._points[task.point].values.items()
                texts = {key: value_text(value) for key, value in swept if key not in columns}
                record = Row("summary", {"point": task.point, **texts, **record.values})  # type: ignore[union-attr]
        elif counts[name] and not is_row:
            self._forget(task, name)
        self._folder.append(record)
        counts[name] = counts[name] + 1 if is_row else len(next(iter(columns.values()), ()))
        self._columns.setdefault(task.key, {}).setdefault(name, {}).update(names)

    def _marked(self, table: str, values: Mapping[str, Any], task: Task) -> dict[str, Any]:
        marks = {"point": task.point} if self._several else {}
        marks |= {"cell": task.index} if self._cells[task.point] > 1 else {}
        marks["seed"] = task.seed
        for name, value in marks.items():
            given = values.get(name, value)
            if not np.all(np.asarray(given) == value):
                raise KanrunError(
                    f"table {table!r} has {name}={given} in a row of {task}; `{name}` is the "
                    "recorder's column."
                )
        return {**marks, **values}

    def _table(self, record: Table, task: Task) -> Table:
        rows = len(next(iter(record.columns.values()), ()))
        marked = self._marked(record.name, record.columns, task).items()
        return Table(
            record.name,
            {key: np.full(rows, value) if np.ndim(value) == 0 else value for key, value in marked},
        )

    def _forget(self, task: Task, table: str | None = None) -> None:
        """Drop the rows of one task, in one table or in all."""
        self._folder.retain(lambda: lambda name, key: key != task.key or table not in (None, name))
        for point in self._open.values():
            point.starts = dict.fromkeys(point.starts, (0, -1))

    def _count_rows(self) -> RowCounts:
        """Count the rows of each task in each table; a damaged table is removed."""
        counts = RowCounts()
        for name, path in Run(self._folder.path).table_paths.items():
            try:
                header, rows = read_rows(path)
                found = Counter(map(key_reader(header), rows))
                if "seed" not in header or (-1, -1, -1) in found:
                    raise KanrunError(f"{path} is not a table of kanrun.")
            except KanrunError:
                self._folder.remove(name)
                continue
            for key, number in found.items():
                counts.setdefault(key, Counter())[name] = number
        return counts

    def _resumable(self, task: Task, there: RowCounts) -> Checkpoint | None:
        """Return the resume checkpoint of a task if it is whole, as are the rows that it counts."""
        path = checkpoint_path(self._folder.path / "checkpoints", self._checkpoint_name(task))
        try:
            stored = read_checkpoint(path)
        except KanrunError:
            return None
        self._check_cell(task, stored.meta.get("digest"))
        counts, meta = stored.meta.get(_ROWS), stored.meta.get("meta")
        if not isinstance(counts, dict) or not isinstance(meta, dict):
            return None
        if not _has(there, task.key, counts):
            return None
        self._rows[task.key] = Counter(counts)
        self._columns[task.key] = {name: self._names(name, task) for name in counts}
        return Checkpoint(_RESUME, stored.arrays, meta)

    def _names(self, table: str, task: Task) -> Names:
        """Return the columns of a table in which rows of a resumed task were found."""
        header = read_rows(Run(self._folder.path).table_paths[table])[0]
        swept = {"point", *(self._points[task.point].values if table == "summary" else ())}
        return {name: None for name in header if not self._several or name not in swept}

    def _prefix(self, task: Task) -> str:
        return f"point{task.point}-" if self._several else ""

    def _checkpoint_name(self, task: Task) -> str:
        return f"{self._prefix(task)}{_RESUME}-{task.index}-{task.seed}"


def _failure_entry(task: Task, failure: Failure, several: bool) -> dict[str, Any]:
    return {
        **({"point": task.point} if several else {}),
        "cell": task.index,
        "settings": dict(task.cell),
        "seed": task.seed,
        "reason": failure.reason,
        "trace": failure.trace,
    }


def _digest(task: Task) -> str:
    """Return a digest of the settings of a task's cell."""
    return hashlib.sha256(to_json(task.cell).encode()).hexdigest()[:16]


def _has(there: RowCounts, key: Key, counts: Mapping[str, int]) -> bool:
    """Return whether all rows that a task had recorded are there."""
    return all(there.get(key, Counter())[name] >= rows for name, rows in counts.items())
