"""From the events of an executor to the run folder, in a way that a killed run can go on from."""

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

_RESUME = "resume"
_ROWS = "recorded_rows"
_logger = logging.getLogger("kanrun")
Rows = dict[tuple[int, int], Counter[str]]


class Recorder:
    """Writes what tasks record, and knows which tasks finished.

    - Every row and table gets the columns `cell` (if the study has several) and `seed` in front, so that
      the tables of all tasks lie in one file; a Table replaces the rows of its own task only.
    - A checkpoint's name begins with its cell, if the study has several. One named `resume` is stored as
      `resume-<cell>-<seed>`, with the number of rows that each table had of its task at that time; it is
      deleted when its task finishes.
    - `progress.json` lists the finished tasks, with the number of rows that each table has of them: one whose rows
      are gone is not finished.
    """

    def __init__(self, folder: RunFolder, tasks: Sequence[Task]) -> None:
        self._folder = folder
        self._several = len({task.index for task in tasks}) > 1
        self._cells = json.loads(to_json([task.cell for task in tasks]))
        self._finished: dict[tuple[int, int], dict[str, int]] = {}  # with its rows in each table
        self.lost = 0  # tasks that had finished, and whose rows are gone
        self._rows = {task.pair: Counter[str]() for task in tasks}
        self.failures: list[tuple[Task, Failure]] = []

    @property
    def finished(self) -> frozenset[tuple[int, int]]:
        return frozenset(self._finished)

    def restore(self, tasks: Sequence[Task], continuing: bool) -> dict[tuple[int, int], Checkpoint]:
        """Bring the folder of an earlier attempt to a state to go on from.

        Returns the resume checkpoints of unfinished tasks (none unless the experiment is `continuing` from
        them), and drops all rows that these tasks will write again.
        Raises UsageError if the study has other cells than the one that was interrupted.
        """
        progress = self._folder.read_progress()
        if progress.cells not in (None, self._cells):
            raise UsageError(f"{self._folder.path} was a study of other cells; it cannot be resumed with these.")
        known = {task.pair for task in tasks}
        there = self._count_rows()
        for *of, counts in progress.finished:
            pair = (of[0], of[1])
            if pair in known and _has(there, pair, counts):
                self._finished[pair] = counts
            elif pair in known:
                self.lost += 1
        unfinished = [task for task in tasks if task.pair not in self._finished]
        checkpoints, rows = self._resumable(unfinished if continuing else [], there)
        self._folder.retain(self.finished, rows)
        for pair, counts in rows.items():
            self._rows[pair] = Counter(counts)
        return checkpoints

    def handle(self, event: TaskEvent) -> None:
        """Store what `event` brings. Raises StorageFailed, and KanrunError for rows no table can hold."""
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
            self._forget(event.task)
            _logger.info("%s failed and starts again: %s", event.task, event.failure.reason)
        elif isinstance(event, Failed):
            self.failures.append((event.task, event.failure))
            self._folder.update(failures=self.failure_entries())
            _logger.info("%s failed: %s\n%s", event.task, event.failure.reason, event.failure.trace or "")

    def failure_entries(self) -> tuple[dict[str, Any], ...]:
        """Return the failures as `run.json` lists them."""
        return tuple(
            {"cell": task.index, "settings": self._plain(task), "seed": task.seed, "reason": f.reason, "trace": f.trace}
            for task, f in sorted(self.failures, key=lambda pair: pair[0].pair)
        )

    def _plain(self, task: Task) -> Any:
        return json.loads(to_json(task.cell))

    def _record(self, event: Recorded) -> None:
        task, record = event.task, event.record
        if isinstance(record, Row):
            self._folder.record(Row(record.table, self._marked(record.table, record.values, task)))
            self._rows[task.pair][file_name(record.table)] += 1
        elif isinstance(record, Table):
            self._table(record, task)
        elif isinstance(record, Checkpoint):
            self._checkpoint(record, task)
        elif isinstance(record, Note):
            text = f"{task}: {record.text}" if len(self._rows) > 1 else record.text
            self._folder.record(Note(text, record.warning))
            _logger.info("%s%s", "warning: " if record.warning else "", text)
        else:
            raise KanrunError(f"the experiment yielded a {type(record).__name__}, which is not a record.")

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
        columns = {key: np.full(rows, value) if np.ndim(value) == 0 else value for key, value in columns.items()}
        table = Table(record.name, columns)
        if len(self._rows) == 1:
            self._folder.record(table)
        else:
            if self._rows[task.pair][name]:
                self._folder.forget(task.pair, name)
            self._folder.extend(table)
        self._rows[task.pair][name] = rows

    def _checkpoint(self, record: Checkpoint, task: Task) -> None:
        if record.name != _RESUME:
            name = f"cell{task.index}-{record.name}" if self._several else record.name
            self._folder.record(replace(record, name=name))
            return
        self._folder.sync()  # the rows must not be older than the checkpoint that counts them
        meta = {"meta": record.meta, _ROWS: dict(self._rows[task.pair])}
        self._folder.record(Checkpoint(_checkpoint_name(task), record.arrays, meta))

    def _forget(self, task: Task) -> None:
        """Drop all that `task` has written but for its notes and named checkpoints, which it writes anew."""
        self._folder.forget(task.pair)
        self._folder.discard(_checkpoint_name(task))
        self._rows[task.pair].clear()

    def _count_rows(self) -> Rows:
        """How many rows each table has of each task; one that is damaged has none, and is removed."""
        run, counts = Run(self._folder.path), Rows()
        for name in run.tables:
            try:
                table = run.table(name)
                cells = table["cell"] if "cell" in table else [0] * len(table)
                pairs = [(int(cell), int(seed)) for cell, seed in zip(cells, table["seed"], strict=True)]
            except (KanrunError, KeyError, ValueError):
                self._folder.remove(name)
                continue
            for pair, rows in Counter(pairs).items():
                counts.setdefault(pair, Counter())[name] = rows
        return counts

    def _resumable(
        self, tasks: Sequence[Task], there: Rows
    ) -> tuple[dict[tuple[int, int], Checkpoint], dict[tuple[int, int], dict[str, int]]]:
        """Return resume checkpoints and the rows that go before them, of the tasks that have both whole."""
        run = Run(self._folder.path)
        checkpoints, rows = {}, {}
        for task in tasks:
            try:
                stored = run.checkpoint(_checkpoint_name(task))
            except KanrunError:
                continue  # none, or damaged: the task starts again
            counts, meta = stored.meta.get(_ROWS), stored.meta.get("meta")
            if not isinstance(counts, dict) or not isinstance(meta, dict):
                continue
            if _has(there, task.pair, counts):
                checkpoints[task.pair] = Checkpoint(_RESUME, stored.arrays, meta)
                rows[task.pair] = counts
        return checkpoints, rows


def _checkpoint_name(task: Task) -> str:
    return f"{_RESUME}-{task.index}-{task.seed}"


def _has(there: Rows, pair: tuple[int, int], counts: Mapping[str, int]) -> bool:
    """Whether as many rows of a task are there as it had recorded."""
    return all(there.get(pair, Counter())[name] >= rows for name, rows in counts.items())
