"""From the events of an executor to the run folder, in a way that a killed run can be resumed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kanrun.errors import KanrunError, UsageError
from kanrun.runs.files import file_name, to_json
from kanrun.runs.folder import RunFolder
from kanrun.runs.manifest import StudyProgress
from kanrun.runs.reader import Run
from kanrun.runs.records import Checkpoint, Note, Row, Table
from kanrun.study.executors import Failed, Finished, Recorded, Retried, TaskEvent, Warned
from kanrun.study.experiment import Failure, Task

_RESUME = "resume"  # the name under which an experiment yields the checkpoint that it resumes from
_ROWS = "recorded_rows"
_logger = logging.getLogger("kanrun")
Pair = tuple[int, int]  # number of the cell, and seed
RowCounts = dict[Pair, Counter[str]]  # by table


class Recorder:
    """Writes what tasks record, and knows which tasks finished.

    - Every row and table gets the columns `cell` (if the study has several) and `seed` in front, so that
      the tables of all tasks lie in one file; a Table replaces the rows of its own task only.
    - A checkpoint's name begins with its cell, if the study has several. One named `resume` is stored as
      `resume-<cell>-<seed>`, with the number of rows that each table had of its task at that time; it is
      deleted when its task finishes.
    - `progress.json` lists the finished tasks, with the number of rows that each table has of them: a task whose rows
      are gone is not finished.
    """

    def __init__(self, folder: RunFolder, tasks: Sequence[Task]) -> None:
        self._folder, self._tasks = folder, tasks
        self._several = len({task.index for task in tasks}) > 1
        self._cells = json.loads(to_json([task.cell for task in tasks]))
        self._finished: dict[Pair, dict[str, int]] = {}  # with its rows in each table
        self.lost = 0  # tasks that had finished, and whose rows are gone
        self._rows: RowCounts = {task.pair: Counter() for task in tasks}
        self.failures: list[tuple[Task, Failure]] = []

    @property
    def finished(self) -> frozenset[Pair]:
        return frozenset(self._finished)

    def restore(self, continuing: bool) -> dict[Pair, Checkpoint]:
        """Bring the folder of an earlier attempt to a state from which the rest can run.

        Returns the resume checkpoints of unfinished tasks (none unless the experiment is `continuing` from
        them), and drops all rows that these tasks will write again.
        Raises UsageError if the study has other cells than the one that was interrupted.
        """
        progress = StudyProgress.read(self._folder.path)
        if progress.cells not in (None, self._cells):
            raise UsageError(
                f"{self._folder.path} was a study of other cells; it cannot be resumed with these."
            )
        there = self._count_rows()
        had_finished = {
            (cell, seed): counts
            for cell, seed, counts in progress.finished
            if (cell, seed) in self._rows
        }
        self._finished = {
            pair: counts for pair, counts in had_finished.items() if _has(there, pair, counts)
        }
        self.lost = len(had_finished) - len(self._finished)
        checkpoints = self._resumable(there) if continuing else {}
        self._folder.retain(self.finished, {pair: self._rows[pair] for pair in checkpoints})
        return checkpoints

    def handle(self, event: TaskEvent) -> None:
        """Store what `event` brings. Raises StorageFailed, and KanrunError for rows that no table can hold."""
        if isinstance(event, Recorded):
            self._record(event)
        elif isinstance(event, Finished):
            self._finished[event.task.pair] = dict(self._rows[event.task.pair])
            finished = [(*pair, counts) for pair, counts in self._finished.items()]
            self._folder.progress(StudyProgress(self._cells, finished))
            self._folder.discard(_checkpoint_name(event.task))
            _logger.info("%s finished in %.2f s", event.task, event.seconds)
        elif isinstance(event, Warned):
            self._folder.record(Note(event.text, warning=True))
            _logger.warning("%s", event.text)
        elif isinstance(event, Retried):
            # all that the task wrote but its notes and named checkpoints, which it writes again
            self._folder.forget(event.task.pair)
            self._folder.discard(_checkpoint_name(event.task))
            self._rows[event.task.pair].clear()
            _logger.info("%s failed and starts again: %s", event.task, event.failure.reason)
        elif isinstance(event, Failed):
            self.failures.append((event.task, event.failure))
            self._folder.update(failures=self.failure_entries())
            _logger.info(
                "%s failed: %s\n%s", event.task, event.failure.reason, event.failure.trace or ""
            )

    def failure_entries(self) -> tuple[dict[str, Any], ...]:
        """Return the failures as `run.json` lists them."""
        return tuple(
            {
                "cell": task.index,
                "settings": dict(task.cell),
                "seed": task.seed,
                "reason": f.reason,
                "trace": f.trace,
            }
            for task, f in sorted(self.failures, key=lambda failed: failed[0].pair)
        )

    def _record(self, event: Recorded) -> None:
        task, record = event.task, event.record
        if isinstance(record, Row):
            self._folder.record(Row(record.table, self._marked(record.table, record.values, task)))
            self._rows[task.pair][file_name(record.table)] += 1
        elif isinstance(record, Table):
            self._table(record, task)
        elif isinstance(record, Checkpoint) and record.name == _RESUME:
            self._folder.sync()  # the rows must not be older than the checkpoint that counts them
            meta = {"meta": record.meta, _ROWS: dict(self._rows[task.pair])}
            self._folder.record(Checkpoint(_checkpoint_name(task), record.arrays, meta))
        elif isinstance(record, Checkpoint):
            name = f"cell{task.index}-{record.name}" if self._several else record.name
            self._folder.record(replace(record, name=name))
        elif isinstance(record, Note):
            text = f"{task}: {record.text}" if len(self._rows) > 1 else record.text
            self._folder.record(Note(text, record.warning))
            _logger.info("%s%s", "warning: " if record.warning else "", text)
        else:
            raise KanrunError(
                f"the experiment yielded a {type(record).__name__}, which is not a record."
            )

    def _marked(self, table: str, values: Mapping[str, Any], task: Task) -> dict[str, Any]:
        marks = {"cell": task.index, "seed": task.seed} if self._several else {"seed": task.seed}
        for name, value in marks.items():
            given = values.get(name, value)
            if not np.all(np.asarray(given) == value):
                raise KanrunError(
                    f"table {table!r} has {name}={given} in a row of {task}; `{name}` is the recorder's column."
                )
        return {**marks, **values}

    def _table(self, record: Table, task: Task) -> None:
        name = file_name(record.name)
        rows = len(next(iter(record.columns.values()), ()))
        columns: dict[str, Any] = self._marked(record.name, record.columns, task)
        columns = {
            key: np.full(rows, value) if np.ndim(value) == 0 else value
            for key, value in columns.items()
        }
        table = Table(record.name, columns)
        if len(self._rows) == 1:
            self._folder.record(table)
        else:
            if self._rows[task.pair][name]:
                self._folder.forget(task.pair, name)
            self._folder.extend(table)
        self._rows[task.pair][name] = rows

    def _count_rows(self) -> RowCounts:
        """How many rows each table has of each task; a damaged table has none, and is removed."""
        run, counts = Run(self._folder.path), RowCounts()
        for name in run.tables:
            try:
                table = run.table(name)
                cells = table["cell"] if "cell" in table else [0] * len(table)
                pairs = [
                    (int(cell), int(seed)) for cell, seed in zip(cells, table["seed"], strict=True)
                ]
            except (KanrunError, KeyError, ValueError):
                self._folder.remove(name)
                continue
            for pair, rows in Counter(pairs).items():
                counts.setdefault(pair, Counter())[name] = rows
        return counts

    def _resumable(self, there: RowCounts) -> dict[Pair, Checkpoint]:
        """The resume checkpoints of unfinished tasks that are whole, as are the rows that they count, noted here."""
        run, checkpoints = Run(self._folder.path), {}
        for task in self._tasks:
            if task.pair in self._finished:
                continue
            try:
                stored = run.checkpoint(_checkpoint_name(task))
            except KanrunError:
                continue  # none, or damaged: the task starts again
            counts, meta = stored.meta.get(_ROWS), stored.meta.get("meta")
            if (
                isinstance(counts, dict)
                and isinstance(meta, dict)
                and _has(there, task.pair, counts)
            ):
                checkpoints[task.pair] = Checkpoint(_RESUME, stored.arrays, meta)
                self._rows[task.pair] = Counter(counts)
        return checkpoints


def _checkpoint_name(task: Task) -> str:
    return f"{_RESUME}-{task.index}-{task.seed}"


def _has(there: RowCounts, pair: Pair, counts: Mapping[str, int]) -> bool:
    """Whether as many rows of a task are there as it had recorded."""
    return all(there.get(pair, Counter())[name] >= rows for name, rows in counts.items())
