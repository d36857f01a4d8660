"""Execution of a study: run the tasks, record the results, check claims and draw figures.

Every event of an executor is written to the journal and shown; rows of metrics are also sent to the
tracker. The numbers of finished and failed trainings follow from these events. A resumed run reads
from the journal which trainings have finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from inspect import signature
from math import inf
from time import process_time
from typing import Any

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.monitoring import ProgressUpdate, monitored, time_limit_reached
from kanrun.runs.artifacts import checkpoint_path, checksum_of, read_checkpoint, write_figure
from kanrun.runs.files import Key, file_name, to_json
from kanrun.runs.folder import RunFolder
from kanrun.runs.journal import BegunLine, FailedLine, FinishedLine, Journal, ResultLine
from kanrun.runs.reader import Run
from kanrun.runs.records import (
    Checkpoint,
    Manifest,
    Note,
    Point,
    Row,
    RunLabels,
    Status,
    Table,
)
from kanrun.study import (
    Failure,
    Finished,
    Started,
    Tables,
    Task,
    TaskEvent,
    chosen_figures,
    report,
    tasks_of,
)
from kanrun.study.executors import TaskRunner, run_dask, run_local, run_serial
from kanrun.study.progress import Reporter, error_console
from kanrun.study.resources import TimeLimit, cores, threads_of
from kanrun.study.studies import Checked, RunOptions

#: If the CPU time of a stopped run exceeds this multiple of the limit, `reason` states that time.
_OVERRUN = 1.1
#: The name under which an experiment yields the checkpoint that it resumes from. It is stored as
#: `resume-<cell>-<seed>`, and deleted when its task finishes.
_RESUME = "resume"
#: Largest number of failures that `run.json` lists, and of notes if the run has several points.
#: `records.jsonl` has all failures, and `run.log` has both.
MOST_LISTED = 100
#: Number of hexadecimal digits that are kept of the digest of a cell's settings.
DIGEST_LENGTH = 16
_logger = logging.getLogger("kanrun")


def execute(checked: Checked, folder: RunFolder, options: RunOptions) -> Manifest:
    """Run all points, cells and seeds of a study into `folder` and return its record.

    If the folder comes from `RunFolder.reopen`, its finished trainings are kept. If a training
    fails, its cause is recorded, the other trainings continue, and the status becomes FAILED.
    KeyboardInterrupt (including `Terminated`) is recorded as INTERRUPTED and raised again; all rows
    are kept. If `max_cpu_seconds` is used up, running trainings stop with their best result, no
    others begin, and the status is COMPLETED with that reason. Progress and results go to standard
    error. Raises StorageFailed if the folder cannot be written.
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
        with contextlib.suppress(StorageFailed):  # the first error is more informative
            folder.finish(status, failure.reason, failure.trace)
        raise
    if not options.quiet:
        run = Run(folder.path, f"{folder.path.parent.name}/{folder.path.name}")
        report.print_results(error_console(), run)
    return folder.manifest


class _Execution:
    """Runs a checked study once, and records, shows and tracks its events."""

    def __init__(self, checked: Checked, folder: RunFolder, options: RunOptions) -> None:
        self._study = checked.study
        self._folder = folder
        self._checked = checked
        self._several = len(checked.trainings) > 1
        self._total = sum(checked.trainings)
        self._runner = TaskRunner(checked.study.experiment, dict(checked.prepared))
        self._cfg = cfg = checked.study.config(0)
        if folder.manifest.resumed:
            folder.manifest = replace(folder.manifest, executor=asdict(cfg.executor))
        elif cfg.tags or cfg.note:
            RunLabels(tuple(cfg.tags), cfg.note or "").store(folder.path)
        began = process_time() if options.began is None else options.began
        self._limit = TimeLimit(cfg.max_cpu_seconds or inf, began)
        self._tracker = None
        if cfg.tracker is not None:
            from kanrun.study.trackers import Tracker

            self._tracker = Tracker(cfg.tracker, checked.study.command, folder.path, asdict(cfg))
        self._reporter = Reporter(error_console(), self._total, options.quiet, options.verbose)
        self._ended_early = False
        #: Keys of the trainings that have finished, in this attempt or an earlier one.
        self._finished: set[Key] = set()
        #: By point, the number of trainings that have not ended, and of those that have failed.
        self._left, self._failed = list(checked.trainings), Counter[int]()
        #: Failed trainings that `run.json` lists, at most MOST_LISTED.
        self._listed: list[FailedLine] = []
        #: By point, its first failed training; if no training failed, the failed check of claims.
        self._failures: dict[int, tuple[Task | Point, Failure]] = {}
        #: Checksums of the checkpoints from which trainings of a resumed run continue.
        self._continued: dict[Key, str] = {}
        #: Byte position in the journal of the first record of each point that is not complete.
        self._begins: dict[int, int] = {}

    def run(self) -> dict[str, Any]:
        """Train, draw figures and check claims; return the fields of `run.json` to update."""
        result = ResultLine(0)
        with self._reporter:
            self._train()
            tables = Run(self._folder.path).frames
            if self._finished and self._cfg.figures != "none":
                with self._optional("the figures could not be drawn"):
                    self._draw(tables)
            if self._finished and not self._several:
                result = self._result(tables, self._study.points[0])
        failed = self._failure()
        limit = self._limit
        reason = failed and failed.reason
        status = Status.FAILED if failed else Status.COMPLETED
        if not failed and self._ended_early:
            missing = sum(self._left)
            used = process_time() - limit.began
            reason = f"stopped after max_cpu_seconds={limit.seconds:g} (CPU time); "
            reason += "kept the best result so far"
            if missing:
                reason += f"; {missing} of {self._total} trainings did not begin"
            if used > _OVERRUN * limit.seconds:
                reason += f"; it took {used:.3g} s, as a step that has begun is not cut short"
        if self._tracker:
            self._tracker.end(result.metrics, status)
        return {
            "status": status,
            "reason": reason,
            "trace": failed and failed.trace,
            "metrics": result.metrics,
            "claims": result.claims,
            "failures": tuple(one.entry for one in sorted(self._listed, key=lambda one: one.key)),
        }

    def _draw(self, tables: Tables) -> None:
        given = self._cfg.figures
        formats = self._cfg.figure_formats
        if self._several:
            report.draw_points(Run(self._folder.path), formats)
            return
        names = () if isinstance(given, str) else given
        for name, draw in chosen_figures(self._study.experiment, tables, names):
            with self._optional(f"the figure {name} could not be drawn"):
                write_figure(self._folder.path / "figures" / file_name(name), draw(), formats)

    def _tasks(self, restoring: bool = False) -> Iterator[Task]:
        """Yield the tasks of all points in order, omitting finished ones unless `restoring`."""
        kept = set() if restoring else set(self._finished)
        for point in self._study.points:
            if restoring or self._left[point.number]:
                cfg = self._study.config(point.number)
                tasks = tasks_of(self._study.experiment, cfg, point)
                yield from (task for task in tasks if task.key not in kept)

    def _train(self) -> None:
        resumed = self._folder.manifest.resumed
        checkpoints = self._restore() if resumed else dict[Key, Checkpoint]()
        executor = self._cfg.executor
        left = sum(self._left)
        tasks = self._tasks()
        if executor.kind == "local" and left:
            workers = executor.workers or max(1, cores() // threads_of(self._cfg))
            seconds = max(0.0, self._limit.end - process_time())
            events = run_local(self._runner, tasks, checkpoints, min(workers, left), seconds)
        elif executor.kind == "dask" and left:
            events = run_dask(self._runner, tasks, checkpoints, str(executor.address))
        else:
            events = run_serial(self._runner, tasks, checkpoints)
        limited = monitored(self._reporter.show_progress, self._limit.end)
        with limited, contextlib.closing(events):
            for event in events:
                self._take(event)
            # Trainings are left only if the time limit was reached.
            self._ended_early = time_limit_reached() or any(self._left)

    def _restore(self) -> dict[Key, Checkpoint]:
        """Read which trainings have finished; return the checkpoints of those that can continue.

        Raises UsageError if the cells differ from those of the interrupted run.
        """
        journal = Journal(self._folder.path)
        checkpoints = dict[Key, Checkpoint]()
        continues = "resume" in signature(self._study.experiment.run).parameters
        for task in self._tasks(restoring=True):
            if journal.digests.get(task.key, digest := _digest(task)) != digest:
                raise UsageError(
                    f"Cannot resume {self._folder.path}: its recorded cells differ from those of "
                    "the current configuration. Start a new run."
                )
            if task.key in journal.finished:
                self._finished.add(task.key)
                self._left[task.point] -= 1
            elif continues and (checkpoint := self._checkpoint(task, journal)):
                checkpoints[task.key] = checkpoint
        self._begins = journal.begins
        self._folder.write_tables()
        self._reporter.skip(len(self._finished))
        for point in self._study.points if self._several else ():
            ended = journal.results.get(point.number)
            if not self._left[point.number] and (ended is None or ended.reason):
                self._end_point(point)
        return checkpoints

    def _take(self, event: TaskEvent) -> None:
        """Record, show and track an event; after the last training of a point, check its claims.

        Raises StorageFailed if the folder cannot be written, and KanrunError if the experiment
        yielded an object that is not a record.
        """
        task, what = event
        self._record(task, what)
        self._reporter.handle(event)
        if self._tracker and isinstance(what, Row) and what.table == "metrics":
            self._tracker.row(what.values, task.key if self._total > 1 else ())
        ended = isinstance(what, Finished) or (isinstance(what, Failure) and not what.restarts)
        if ended and self._several and not self._left[task.point]:
            self._end_point(self._study.points[task.point])

    def _record(self, task: Task, what: Any) -> None:
        """Write the content of an event to the run folder, and count trainings that have ended."""
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
                self._note(f"{task}: {what.text}" if self._total > 1 else what.text, what.warning)
            case Finished():
                self._folder.record(FinishedLine(**self._marks(task)))
                self._folder.sync()
                self._finished.add(task.key)
                self._left[task.point] -= 1
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

    def _note(self, text: str, warning: bool = False) -> None:
        """Write a note to the log and to `run.json`.

        In a run of several points, `run.json` gets only the first MOST_LISTED notes.
        """
        if len(self._folder.manifest.notes) < MOST_LISTED or not self._several:
            self._folder.note(text)
        _logger.info("%s%s", "warning: " if warning else "", text)

    def _marks(self, task: Task) -> dict[str, int]:
        """Return the columns that say which training a row belongs to."""
        point = {"point": task.point} if self._several else {}
        cell = {"cell": task.index} if self._checked.cells[task.point] > 1 else {}
        return {**point, **cell, "seed": task.seed}

    def _rows(self, task: Task, record: Row | Table) -> None:
        """Record rows of a training. Columns such as `seed` are added by the recorder.

        Raises KanrunError if the experiment sets such a column to another value.
        """
        marks = self._marks(task)
        columns = dict[str, Any](record.columns)
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
        line = FailedLine(
            **self._marks(task),
            settings=dict(task.cell),
            reason=failure.reason,
            trace=failure.trace,
        )
        self._folder.record(line)
        if len(self._listed) < MOST_LISTED:
            self._listed.append(line)
        self._failures.setdefault(task.point, (task, failure))
        self._failed[task.point] += 1
        self._left[task.point] -= 1
        _logger.info("%s failed: %s\n%s", task, failure.reason, failure.trace or "")

    def _checkpoint(self, task: Task, journal: Journal) -> Checkpoint | None:
        """Return the checkpoint from which an unfinished task can continue, or None.

        It is None if the file is missing or damaged, or if the journal does not list its checksum.
        """
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
        cell = f"cell{task.index}-" if self._checked.cells[task.point] > 1 else ""
        return f"{point}{cell}{checkpoint}"

    def _end_point(self, point: Point) -> None:
        """Write the result of a point to the journal, after all its trainings have ended."""
        start = self._begins.pop(point.number, 0)
        tables = Journal(self._folder.path, point.number, start).frames
        self._folder.record(self._result(tables, point))

    @contextlib.contextmanager
    def _optional(self, what: str) -> Iterator[None]:
        """Turn an error in the body into a warning, since results are complete without the body.

        StorageFailed is still raised. `what` begins the warning.
        """
        try:
            yield
        except StorageFailed:
            raise
        except Exception as error:
            warning = f"{what}: {Failure.of(error).reason}"
            self._note(warning, warning=True)
            self._reporter.warn(warning)

    def _result(self, tables: Tables, point: Point) -> ResultLine:
        """Return the result of a point: medians of its summary over seeds, and its claims.

        If the point has several cells, medians are omitted, because cells measure different things.
        If trainings failed or were cut short, all claims are marked as not holding.
        """
        result = ResultLine(point.number)
        number = point.number
        failed = self._failed[number]
        total = self._checked.trainings[number]
        if failed:
            result.reason = f"{failed} of its trainings failed"
        summary = tables.get("summary")
        if summary is None and self._several:
            return result
        if summary is not None and not summary.empty and "cell" not in summary:
            numbers = summary.select_dtypes("number").drop(columns="seed", errors="ignore")
            result.metrics = {str(name): float(one) for name, one in numbers.median().items()}
        try:
            result.claims = tuple(self._study.experiment.claims(tables))
        except Exception as error:
            reason = f"checking the claims failed: {Failure.of(error).reason}"
            if failed and not self._several:  # perhaps because the tables are incomplete
                self._folder.note(reason)
            self._failures.setdefault(number, (point, Failure(reason, traceback.format_exc())))
            result.reason = result.reason or reason
        if failed or self._ended_early or time_limit_reached():
            ended = total - failed - self._left[number]
            why = "the others failed" if failed else "stopped by max_cpu_seconds"
            came = f"from {ended} of {total} trainings, {why}"
            result.claims = tuple(
                replace(claim, holds=False, spread="; ".join(filter(None, (claim.spread, came))))
                for claim in result.claims
            )
        return result

    def _failure(self) -> Failure | None:
        """Return why the run failed, or None if it did not.

        If there is only one training, or only one point and its trainings succeeded, the failure is
        returned as it is. Otherwise the reason gives the number of failed trainings (of failed
        points, if there are several) and quotes the first failure.
        """
        if not self._failures:
            return None
        named, first = next(iter(self._failures.values()))
        if self._total == 1 or not (self._listed or self._several):
            return first
        what = f"{self._failed[0]} of {self._total} trainings"
        if self._several:
            what = f"{len(self._failures)} of {len(self._study.points)} points"
        return Failure(f"{what} failed; the first, {named}: {first.reason}", first.trace)


def _digest(task: Task) -> str:
    """Return a digest of the settings of a task's cell."""
    return hashlib.sha256(to_json(task.cell)).hexdigest()[:DIGEST_LENGTH]
