"""Execution of a study: run the tasks, record the results, check claims and draw figures.

Every event of an executor is written to the journal and shown; rows of metrics are also sent to the
tracker. The numbers of finished and failed training runs follow from these events. A resumed run
reads from the journal which training runs have finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import traceback
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, replace
from inspect import signature
from math import inf
from operator import attrgetter
from time import process_time
from typing import Any

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.monitoring import ProgressUpdate, monitored, time_limit_reached
from kanrun.runs import Checkpoint, Manifest, Note, Point, Row, Status, Table
from kanrun.runs.files import (
    Key,
    checkpoint_path,
    checksum_of,
    file_name,
    read_checkpoint,
    to_json,
    write_figure,
)
from kanrun.runs.folder import RunFolder, write_tables
from kanrun.runs.reader import Run, RunTables
from kanrun.runs.records import BegunLine, FailedLine, FinishedLine, Journal, ResultLine
from kanrun.study import (
    RESUME,
    Failure,
    Finished,
    Started,
    Task,
    drawings,
    report,
    tasks_of,
)
from kanrun.study.executors import TaskRunner, run_local, run_remote, run_serial
from kanrun.study.progress import Reporter, Tracker, error_console
from kanrun.study.resources import TimeLimit, workers_of
from kanrun.study.studies import Checked, RunOptions

#: Largest number of failures, and of notes, that `run.json` lists. `records.jsonl` has all
#: failures, and `run.log` has all failures and notes.
MOST_LISTED = 100
#: Number of hexadecimal digits that are kept of the digest of a cell's settings.
DIGEST_LENGTH = 16
_logger = logging.getLogger("kanrun")


def execute(checked: Checked, folder: RunFolder, options: RunOptions) -> Manifest:
    """Run all points, cells and seeds of a study into `folder` and return its record.

    If the folder comes from `RunFolder.reopen`, its finished training runs are kept. If a training
    run fails, its cause is recorded, the other training runs continue, and the status becomes
    FAILED. KeyboardInterrupt (including `Terminated`) is recorded as INTERRUPTED and raised again;
    all rows are kept. If `max_cpu_seconds` is used up, the current training runs stop with their
    best results, no others begin, and the status is COMPLETED with that reason. Progress and
    results go to standard error. Raises StorageFailed if the folder cannot be written.
    """
    try:
        folder.finish(**_Execution(checked, folder, options).run())
    except BaseException as error:
        status = Status.FAILED
        failure = Failure.of(error)
        if isinstance(error, KeyboardInterrupt):
            sender = "Ctrl-C" if type(error) is KeyboardInterrupt else str(error)
            status = Status.INTERRUPTED
            failure = Failure(f"stopped by {sender}")
        with contextlib.suppress(StorageFailed):  # the first error tells more than a second one
            folder.finish(status, failure.reason, failure.trace)
        raise
    if not options.quiet:
        run = Run(folder.path, f"{folder.path.parent.name}/{folder.path.name}")
        report.print_results(error_console(), run)
    return folder.manifest


@dataclass(slots=True)
class _Progress:
    """Numbers of a point's training runs, and the position of its records."""

    left: int  # number of trainings that have not ended
    failed: int = 0  # number of trainings that have failed
    begins: int | None = None  # byte position of its first record in the journal


class _Execution:
    """Runs a checked study once, and records, shows and tracks its events."""

    def __init__(self, checked: Checked, folder: RunFolder, options: RunOptions) -> None:
        self._study = checked.study
        self._folder = folder
        self._trainings = checked.trainings
        self._total = sum(checked.trainings)
        self._runner = TaskRunner(checked.study.experiment, dict(checked.prepared))
        self._cfg = cfg = checked.study.config(0)
        began = process_time() if options.began is None else options.began
        self._limit = TimeLimit(cfg.max_cpu_seconds or inf, began)
        self._tracker = None
        if cfg.tracker is not None:
            self._tracker = Tracker(cfg.tracker, checked.study.command, folder.path, asdict(cfg))
        self._reporter = Reporter(error_console(), self._total, options.quiet, options.verbose)
        self._points = [_Progress(number) for number in checked.trainings]
        self._time_was_up = False
        #: Numbers of the points of which a training run or the check of the claims has failed.
        self._broken = set[int]()
        #: Result of the point that ended last.
        self._result = ResultLine()
        #: Failed training runs that `run.json` lists, at most MOST_LISTED.
        self._listed: list[FailedLine] = []
        #: The first failure: what failed (a training run, or the check of a point's claims), and
        #: why.
        self._first: tuple[Task | Point, Failure] | None = None
        #: Checksums of the checkpoints from which training runs of a resumed run continue.
        self._continued: dict[Key, str] = {}

    def run(self) -> dict[str, Any]:
        """Train, draw figures and check claims; return the fields of `run.json` to update."""
        with self._reporter:
            self._train()
            point = self._study.points[0]
            if len(self._points) == 1 and self._points[0].left:
                self._end_point(point)
            if self._cfg.figures != "none" and any(map(self._finished, self._study.points)):
                with self._optional("the figures could not be drawn"):
                    self._draw()
        failed = self._failure()
        reason = failed and failed.reason
        if not failed and (self._time_was_up or any(point.left for point in self._points)):
            reason = f"stopped after max_cpu_seconds={self._limit.seconds:g} (CPU time); "
            reason += "kept the best result so far"
            if missing := sum(point.left for point in self._points):
                reason += f"; {missing} of {self._total} trainings did not begin"
        result = self._result if len(self._points) == 1 else ResultLine()
        status = Status.FAILED if failed else Status.COMPLETED
        if self._tracker:
            self._tracker.end(result.metrics, status)
        return {
            "status": status,
            "reason": reason,
            "trace": failed and failed.trace,
            "metrics": result.metrics,
            "claims": result.claims,
            "failures": tuple(line.entry for line in sorted(self._listed, key=attrgetter("key"))),
        }

    def _finished(self, point: Point) -> int:
        """Return how many of a point's training runs have finished."""
        state = self._points[point.number]
        return self._trainings[point.number] - state.left - state.failed

    def _draw(self) -> None:
        figures = self._cfg.figures
        run = Run(self._folder.path)
        names = () if isinstance(figures, str) else figures
        for name, draw in drawings(run, self._study.experiment, names):
            with self._optional(f"the figure {name} could not be drawn"):
                stem = run.figures_folder / file_name(name)
                write_figure(stem, draw(), self._cfg.figure_formats)

    def _tasks(self, kept: Container[Key], restoring: bool = False) -> Iterator[Task]:
        """Yield the tasks of all points in order, omitting finished ones unless `restoring`."""
        for point in self._study.points:
            if restoring or self._points[point.number].left:
                cfg = self._study.config(point.number)
                tasks = tasks_of(self._study.experiment, cfg, point)
                yield from (task for task in tasks if task.key not in kept)

    def _train(self) -> None:
        kept = set[Key]()
        checkpoints = dict[Key, Checkpoint]()
        if self._folder.manifest.resumed:
            kept, checkpoints = self._restore()
        left = sum(point.left for point in self._points)
        tasks = self._tasks(kept)
        workers = min(left, workers_of(self._cfg))
        if self._cfg.scheduler is not None and left:
            events = run_remote(self._runner, tasks, checkpoints, self._cfg.scheduler)
        elif workers > 1:
            events = run_local(self._runner, tasks, checkpoints, workers, self._limit.end)
        else:
            events = run_serial(self._runner, tasks, checkpoints)
        limited = monitored(self._reporter.show_progress, self._limit.end)
        with limited, contextlib.closing(events):
            for event in events:
                self._record(event.task, event.what)
                self._reporter.handle(event)

    def _restore(self) -> tuple[set[Key], dict[Key, Checkpoint]]:
        """Read which training runs have finished, and the checkpoints of those that can continue.

        Raises UsageError if the cells differ from those of the interrupted run.
        """
        journal = Journal(self._folder.path)
        kept = journal.finished
        checkpoints = dict[Key, Checkpoint]()
        continues = "resume" in signature(self._study.experiment.run).parameters
        for task in self._tasks((), restoring=True):
            attempts = journal.trainings[task.key]
            if attempts.digest not in ("", _digest(task)):
                raise UsageError(
                    f"Cannot resume {self._folder.path}: its recorded cells differ from those of "
                    "the current configuration. Start a new run."
                )
            if task.key in kept:
                self._points[task.point].left -= 1
            elif continues and (checkpoint := self._checkpoint(task, attempts.checkpoints)):
                checkpoints[task.key] = checkpoint
        write_tables(self._folder.path)
        self._reporter.skip(len(kept))
        for point in self._study.points:
            state = self._points[point.number]
            state.begins = journal.begins.get(point.number)
            ended = journal.results.get(point.number)
            if not state.left and (ended is None or ended.reason):
                self._end_point(point)
        return kept, checkpoints

    def _record(self, task: Task, what: Any) -> None:
        """Record an event; after the last training of a point, check its claims.

        Raises StorageFailed if the folder cannot be written, and KanrunError if the experiment
        yielded an object that is not a record.
        """
        match what:
            case Started():
                checkpoint = self._continued.pop(task.key, None)
                line = BegunLine(**task.marks, digest=_digest(task), checkpoint=checkpoint)
                self._folder.record(line)
            case Row() | Table():
                self._rows(task, what)
            case Checkpoint(name=name):
                marks = task.marks if name == RESUME else None
                self._folder.checkpoint(replace(what, name=task.stored_name(name)), marks)
            case Note():
                self._note(f"{task}: {what.text}" if self._total > 1 else what.text, what.warning)
            case Finished() | Failure():
                self._end(task, what)
            case ProgressUpdate():
                pass
            case _:
                raise KanrunError(
                    f"the experiment yielded a {type(what).__name__}, which is not a record."
                )

    def _rows(self, task: Task, record: Row | Table) -> None:
        """Record and track rows of a training run. Columns such as `seed` are added here.

        Raises KanrunError if the experiment sets such a column to another value.
        """
        columns = dict[str, Any](record.columns)
        for mark, value in task.marks.items():
            recorded = columns.pop(mark, ())
            if any(entry != value for entry in recorded):
                raise KanrunError(
                    f"table {record.name!r} has {mark}={recorded} in a row of {task}; `{mark}` is "
                    "the recorder's column."
                )
        state = self._points[task.point]
        state.begins = self._folder.size() if state.begins is None else state.begins
        self._folder.rows(Table(record.name, columns), task.marks)
        if self._tracker and isinstance(record, Row) and record.table == "metrics":
            self._tracker.row(record.values, task.key if self._total > 1 else ())

    def _end(self, task: Task, end: Finished | Failure) -> None:
        """Record the end of a training run, or of an attempt that restarts."""
        state = self._points[task.point]
        if isinstance(end, Finished):
            self._folder.record(FinishedLine(**task.marks))
            self._folder.sync()
            self._time_was_up |= end.time_was_up
            _logger.info("%s finished in %.2f s", task, end.seconds)
        else:
            _logger.info("%s failed: %s\n%s", task, end.reason, end.trace or "")
        if isinstance(end, Finished) or end.restarts:
            self._folder.discard(task.stored_name(RESUME))
        else:
            line = FailedLine(
                **task.marks, settings=dict(task.cell), reason=end.reason, trace=end.trace
            )
            self._folder.record(line)
            self._listed += [line] * (len(self._listed) < MOST_LISTED)
            self._broken.add(task.point)
            self._first = self._first or (task, end)
            state.failed += 1
        if isinstance(end, Finished) or not end.restarts:
            state.left -= 1
            if not state.left:
                self._end_point(self._study.points[task.point])

    def _note(self, text: str, warning: bool = False) -> None:
        """Write a note to the log and, if it is among the first MOST_LISTED, to `run.json`."""
        if len(self._folder.manifest.notes) < MOST_LISTED:
            self._folder.note(text)
        _logger.info("%s%s", "warning: " if warning else "", text)

    def _checkpoint(self, task: Task, known: Container[str]) -> Checkpoint | None:
        """Return the checkpoint from which an unfinished task can continue, or None.

        It is None if the file is missing or damaged, or if its checksum is not `known`.
        """
        name = task.stored_name(RESUME)
        path = checkpoint_path(self._folder.path / "checkpoints", name)
        checksum = checksum_of(path)
        if checksum is None or checksum not in known:
            return None
        try:
            stored = read_checkpoint(path, checksum)
        except StorageFailed:
            return None
        self._continued[task.key] = checksum
        return replace(stored, name=RESUME)

    def _end_point(self, point: Point) -> None:
        """Write the result of a point to the journal: its claims, and medians over seeds.

        Medians are taken of the summary's columns. They are omitted if the point has several cells,
        because cells measure different things. If training runs failed or were cut short, all
        claims are marked as not holding.
        """
        state = self._points[point.number]
        result = ResultLine(point.number if len(self._points) > 1 else None)
        if state.failed:
            result.reason = f"{state.failed} of its trainings failed"
        if finished := self._finished(point):
            journal = Journal(self._folder.path, result.point, state.begins or 0)
            self._judge(point, journal, result)
        if state.failed or state.left or self._time_was_up or time_limit_reached():
            why = "the others failed" if state.failed else "stopped by max_cpu_seconds"
            came = f"from {finished} of {self._trainings[point.number]} trainings, {why}"
            result.claims = tuple(
                replace(claim, holds=False, spread="; ".join(filter(None, (claim.spread, came))))
                for claim in result.claims
            )
        self._folder.record(result)
        self._result = result

    def _judge(self, point: Point, journal: Journal, result: ResultLine) -> None:
        """Compute the medians and check the claims of a point, and store both in `result`."""
        summary = journal.columns("summary") if "summary" in journal.tables else {}
        if "cell" not in summary:
            result.metrics = report.medians(summary)
        try:
            result.claims = tuple(self._study.experiment.claims(RunTables(journal)))
        except Exception as error:
            reason = f"checking the claims failed: {Failure.of(error).reason}"
            self._note(reason)
            result.reason = result.reason or reason
            self._broken.add(point.number)
            self._first = self._first or (point, Failure(reason, traceback.format_exc()))

    @contextlib.contextmanager
    def _optional(self, what: str) -> Iterator[None]:
        """Convert an error in the body to a warning, as results are complete without the body.

        The warning begins with `what`. StorageFailed is still raised.
        """
        try:
            yield
        except StorageFailed:
            raise
        except Exception as error:
            warning = f"{what}: {Failure.of(error).reason}"
            self._note(warning, warning=True)
            self._reporter.warn(warning)

    def _failure(self) -> Failure | None:
        """Return why the run failed, or None if it did not.

        If there was only one training run, the reason is its failure. Otherwise the reason is the
        number of failed training runs (or points, if there are several), with the first failure.
        """
        if self._first is None or self._total == 1:
            return self._first and self._first[1]
        named, first = self._first
        count = f"{self._points[0].failed} of {self._total} trainings"
        if len(self._points) > 1:
            count = f"{len(self._broken)} of {len(self._points)} points"
        elif not self._points[0].failed:
            return first
        return Failure(f"{count} failed; the first, {named}: {first.reason}", first.trace)


def _digest(task: Task) -> str:
    """Return a digest of the settings of a task's cell."""
    return hashlib.sha256(to_json(task.cell)).hexdigest()[:DIGEST_LENGTH]
