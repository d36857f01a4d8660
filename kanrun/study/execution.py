"""Execution of a study: run the tasks, record the results, check claims and draw figures."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from inspect import signature
from math import inf
from time import process_time
from typing import Any

from kanrun.errors import StorageFailed
from kanrun.monitoring import monitored, time_limit_reached
from kanrun.runs.artifacts import write_figure
from kanrun.runs.files import Key, file_name
from kanrun.runs.folder import RunFolder
from kanrun.runs.lines import ResultLine
from kanrun.runs.reader import Run
from kanrun.runs.records import (
    Checkpoint,
    Manifest,
    Point,
    Row,
    RunLabels,
    Status,
)
from kanrun.study import (
    Failure,
    Finished,
    Tables,
    Task,
    TaskEvent,
    chosen_figures,
    report,
    tasks_of,
)
from kanrun.study.progress import Reporter, error_console
from kanrun.study.recorder import Recorder
from kanrun.study.resources import TaskRunner, TimeLimit, cores, run_serial, threads_of
from kanrun.study.studies import Checked, RunOptions
from kanrun.study.trackers import Tracker

#: The status names the CPU time that was used if it is above this multiple of the time limit.
_OVERRUN = 1.1


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
        status, failure = Status.FAILED, Failure.of(error)
        if isinstance(error, KeyboardInterrupt):
            sender = "Ctrl-C" if type(error) is KeyboardInterrupt else str(error)
            status, failure = Status.INTERRUPTED, Failure(f"stopped by {sender}")
        with contextlib.suppress(StorageFailed):  # the error that ends the run says more
            folder.finish(status, failure.reason, failure.trace)
        raise
    if not options.quiet:
        run = Run(folder.path, f"{folder.path.parent.name}/{folder.path.name}")
        report.print_results(error_console(), run)
    return folder.manifest


class _Execution:
    """One execution of a study."""

    def __init__(self, checked: Checked, folder: RunFolder, options: RunOptions) -> None:
        self._study, self._folder = checked.study, folder
        self._several = len(checked.trainings) > 1
        self._runner = TaskRunner(checked.study.experiment, dict(checked.prepared))
        self._cfg = cfg = checked.study.config(0)
        if folder.manifest.resumed:
            folder.manifest = replace(folder.manifest, executor=asdict(cfg.executor))
        elif cfg.tags or cfg.note:
            RunLabels(tuple(cfg.tags), cfg.note or "").store(folder.path)
        began = process_time() if options.began is None else options.began
        self._limit = TimeLimit(cfg.max_cpu_seconds or inf, began)
        self._tracker = Tracker(cfg.tracker, checked.study.command, folder.path, asdict(cfg))
        self._recorder = Recorder(folder, checked)
        self._reporter = Reporter(
            error_console(), self._recorder.total, options.quiet, options.verbose
        )
        self._ended_early = False
        # For each point, its first failed training or, without one, the failed check of its claims.
        self._failures: dict[int, tuple[Task | Point, Failure]] = {}

    def run(self) -> dict[str, Any]:
        """Train, draw figures and check claims; return the fields of `run.json` to update."""
        result = ResultLine(0)
        with self._reporter:
            self._train()
            tables = Run(self._folder.path).frames
            if self._recorder.finished and self._cfg.figures != "none":
                with self._optional("the figures could not be drawn"):
                    self._draw(tables)
            if self._recorder.finished and not self._several:
                result = self._result(tables, self._study.points[0])
        failed, limit = self._failure(), self._limit
        reason, status = failed and failed.reason, Status.FAILED if failed else Status.COMPLETED
        if not failed and self._ended_early:
            missing, used = sum(self._recorder.left), process_time() - limit.began
            reason = f"stopped after max_cpu_seconds={limit.seconds:g} (CPU time); "
            reason += "kept the best result so far"
            if missing:
                reason += f"; {missing} of {self._recorder.total} trainings did not begin"
            if used > _OVERRUN * limit.seconds:
                reason += f"; it took {used:.3g} s, as a step that has begun is not cut short"
        self._tracker.end(result.metrics, status)
        return {
            "status": status,
            "reason": reason,
            "trace": failed and failed.trace,
            "metrics": result.metrics,
            "claims": result.claims,
            "failures": tuple(entry for _, entry in sorted(self._recorder.failures.items())),
        }

    def _draw(self, tables: Tables) -> None:
        given, formats = self._cfg.figures, self._cfg.figure_formats
        if self._several:
            report.draw_points(Run(self._folder.path), formats)
            return
        names = () if isinstance(given, str) else given
        for name, draw in chosen_figures(self._study.experiment, tables, names):
            with self._optional(f"the figure {name} could not be drawn"):
                write_figure(self._folder.path / "figures" / file_name(name), draw(), formats)

    def _tasks(self, restoring: bool = False) -> Iterator[Task]:
        """Yield the tasks of all points in order, omitting finished ones unless `restoring`."""
        recorder = self._recorder
        kept = set() if restoring else set(recorder.finished)
        for point in self._study.points:
            if restoring or recorder.left[point.number]:
                cfg = self._study.config(point.number)
                tasks = tasks_of(self._study.experiment, cfg, point)
                yield from (task for task in tasks if task.key not in kept)

    def _train(self) -> None:
        recorder, checkpoints = self._recorder, dict[Key, Checkpoint]()
        if self._folder.manifest.resumed:
            resumes = "resume" in signature(self._study.experiment.run).parameters
            checkpoints = recorder.restore(self._tasks(restoring=True), resumes)
            self._reporter.skip(len(recorder.finished))
            done = Run(self._folder.path).journal.results
            for point in self._study.points if self._several else ():
                ended = point.number in done and not done[point.number].reason
                if not recorder.left[point.number] and not ended:
                    self._end_point(point)
        executor, left, tasks = self._cfg.executor, sum(recorder.left), self._tasks()
        if executor.kind == "local" and left:
            from kanrun.study.workers import run_local

            workers = executor.workers or max(1, cores() // threads_of(self._cfg))
            seconds = max(0.0, self._limit.end - process_time())
            events = run_local(self._runner, tasks, checkpoints, min(workers, left), seconds)
        elif executor.kind == "dask" and left:
            from kanrun.study.workers import run_dask

            events = run_dask(self._runner, tasks, checkpoints, str(executor.address))
        else:
            events = run_serial(self._runner, tasks, checkpoints)
        limited = monitored(self._reporter.show_progress, self._limit.end)
        with limited, contextlib.closing(events):
            for event in events:
                self._take(event)
            # Trainings are left only if the time limit was reached.
            self._ended_early = time_limit_reached() or any(recorder.left)

    def _take(self, event: TaskEvent) -> None:
        """Record, show and track an event; after the last training of a point, check its claims."""
        self._recorder.handle(event)
        self._reporter.handle(event)
        match event:
            case task, Row(table="metrics") as row:
                self._tracker.row(row.values, task.key if self._recorder.total > 1 else ())
            case task, Finished() | Failure(restarts=False) as end:
                if isinstance(end, Failure):
                    self._failures.setdefault(task.point, (task, end))
                if self._several and not self._recorder.left[task.point]:
                    self._end_point(self._study.points[task.point])

    def _warn(self, text: str) -> None:
        self._recorder.note(text, warning=True)
        self._reporter.warn(text)

    def _end_point(self, point: Point) -> None:
        """Write the result of a point to the journal, after all its trainings have ended."""
        self._folder.record(self._result(self._recorder.tables_of(point), point))

    @contextlib.contextmanager
    def _optional(self, what: str) -> Iterator[None]:
        """Turn an error of the body into a warning, because the results are complete without it.

        StorageFailed is raised all the same.
        """
        try:
            yield
        except StorageFailed:
            raise
        except Exception as error:
            self._warn(f"{what}: {Failure.of(error).reason}")

    def _result(self, tables: Tables, point: Point) -> ResultLine:
        """Return the result of a point: medians of its summary over seeds, and its claims.

        With several cells there are no medians, because cells measure different things. If
        trainings failed or were cut short, all claims are marked as not holding.
        """
        result, number = ResultLine(point.number), point.number
        failed, total = self._recorder.failed[number], self._recorder.trainings[number]
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
            ended = total - failed - self._recorder.left[number]
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
        (named, first), recorder = next(iter(self._failures.values())), self._recorder
        if recorder.total == 1 or not (recorder.failures or self._several):
            return first
        what = f"{recorder.failed[0]} of {recorder.total} trainings"
        if self._several:
            what = f"{len(self._failures)} of {len(self._study.points)} points"
        return Failure(f"{what} failed; the first, {named}: {first.reason}", first.trace)
