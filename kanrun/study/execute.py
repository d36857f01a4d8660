"""Execution of a study: tasks through an executor, records to the run folder, claims, figures."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

from kanrun.config import EXPERIMENTS, ExperimentConfig
from kanrun.errors import StorageFailed
from kanrun.monitoring import monitored, time_limit_reached
from kanrun.runs.artifacts import write_figure
from kanrun.runs.files import file_name
from kanrun.runs.folder import RunFolder
from kanrun.runs.reader import Run
from kanrun.runs.records import (
    Checkpoint,
    Claim,
    Manifest,
    Point,
    Row,
    RunLabels,
    Status,
)
from kanrun.runs.tables import MARKS, Key
from kanrun.study import report
from kanrun.study.comparison import draw_points, print_points
from kanrun.study.executors import (
    Failed,
    Finished,
    Recorded,
    TaskEvent,
    TaskEvents,
    Warned,
    run_dask,
    run_local,
    run_serial,
)
from kanrun.study.experiment import (
    Experiment,
    Failure,
    Tables,
    Task,
    TaskRunner,
    chosen_figures,
    takes_resume,
    tasks_of,
)
from kanrun.study.points import Checked, RunOptions, Study, check, manifest_of
from kanrun.study.progress import Reporter
from kanrun.study.recorder import Recorder
from kanrun.study.resources import TimeLimit, cores, threads_of
from kanrun.study.trackers import Tracker

if TYPE_CHECKING:
    import pandas


#: Fraction of the time limit beyond which the CPU time that was used is named.
_OVERRUN = 1.1


def check_config(experiment: Experiment, cfg: ExperimentConfig) -> None:
    """Check a typed configuration. Raises UsageError if it cannot run."""
    check(experiment, _study_of(experiment, cfg))


def run_config(experiment: Experiment, cfg: ExperimentConfig, outputs: Path) -> Run:
    """Check and run a typed configuration in a new folder below `outputs`, quietly."""
    study = _study_of(experiment, cfg)
    checked = check(experiment, study)
    folder = RunFolder.create(outputs, manifest_of(study, checked))
    execute(experiment, study, folder, checked, RunOptions(quiet=True))
    return Run(folder.path)


def _study_of(experiment: Experiment, cfg: ExperimentConfig) -> Study:
    command = next(one.name for one in EXPERIMENTS.values() if one.settings is type(cfg))
    return Study(command, bases=(asdict(cfg),))


def execute(
    experiment: Experiment,
    study: Study,
    folder: RunFolder,
    checked: Checked,
    options: RunOptions,
) -> Manifest:
    """Run all points, cells and seeds of a study into `folder` and return its record.

    In a folder from `RunFolder.reopen` finished trainings are kept. A training that fails is
    recorded with its cause and the others continue; the status is then FAILED. KeyboardInterrupt
    (also `Terminated`) is recorded as INTERRUPTED and raised again, with all rows kept. With
    `max_cpu_seconds`, trainings stop with the best that they have, others do not begin, and the run
    is COMPLETED with that reason. Raises StorageFailed if nothing can be written. Progress and
    results go to standard error.
    """
    try:
        execution = _Execution(experiment, study, folder, checked, options)
        folder.finish(**execution.run())
    except BaseException as error:
        status, failure = Status.FAILED, Failure.of(error)
        if isinstance(error, KeyboardInterrupt):
            sender = "Ctrl-C" if type(error) is KeyboardInterrupt else "SIGTERM"
            status, failure = Status.INTERRUPTED, Failure(f"stopped by {sender}")
        with contextlib.suppress(StorageFailed):  # the error that ends the run says more
            folder.finish(status, failure.reason, failure.trace)
        raise
    if not options.quiet:
        _report(folder, len(study.points) > 1)
    return folder.manifest


def _report(folder: RunFolder, several: bool) -> None:
    """Print the results, the claims and the failures."""
    console, path, manifest = report.error_console(), folder.path, folder.manifest
    run = Run(path, f"{path.parent.name}/{path.name}")
    if several:
        print_points(console, run)
    elif columns := run.columns("summary"):
        report.print_summary(console, columns)
    report.print_claims(console, manifest.claims)
    if manifest.trainings > 1:
        report.print_failures(console, manifest.failures)


class _Execution:
    """One execution of a study."""

    def __init__(
        self,
        experiment: Experiment,
        study: Study,
        folder: RunFolder,
        checked: Checked,
        options: RunOptions,
    ) -> None:
        self._experiment, self._study, self._folder = experiment, study, folder
        self._several, self._resumed = len(study.points) > 1, bool(folder.manifest.resumed)
        self._runner = TaskRunner(experiment, checked.prepared)
        self._cfg = cfg = study.config(0)
        if self._resumed:
            folder.manifest = replace(folder.manifest, executor=asdict(cfg.executor))
        elif cfg.tags or cfg.note:
            RunLabels(tuple(cfg.tags), cfg.note or "").store(folder.path)
        self._limit: TimeLimit | None = None
        if cfg.max_cpu_seconds is not None:
            began = process_time() if options.began is None else options.began
            self._limit = TimeLimit(cfg.max_cpu_seconds, began)
        self._tracker: Tracker | None = None
        if cfg.tracker is not None:
            self._tracker = Tracker(cfg.tracker, study.command, folder.path, asdict(cfg))
        self._recorder = Recorder(folder, study.points, checked)
        self._reporter = Reporter(
            report.error_console(), self._recorder.total, options.quiet, options.verbose
        )
        self._ended_early = False
        self._broken: dict[int, Failure] = {}  # claims that could not be checked, by point

    def run(self) -> dict[str, Any]:
        """Train, draw, check claims; return the changes of `run.json`."""
        metrics: dict[str, Any] = {}
        claims: tuple[Claim, ...] = ()
        with self._reporter:
            self._train()
            tables = Run(self._folder.path).frames
            if self._recorder.finished and self._cfg.figures != "none":
                with self._optional("the figures could not be drawn"):
                    self._draw(tables)
            if self._recorder.finished and not self._several:
                metrics = _medians(tables.get("summary"))
                claims = self._claims(tables, self._study.points[0])
        failed = self._failure()
        status = Status.FAILED if failed else Status.COMPLETED
        if self._tracker is not None:
            self._tracker.end(metrics, status)
        return {
            "status": status,
            "reason": failed.reason if failed else self._stopped_reason(),
            "trace": failed.trace if failed else None,
            "metrics": metrics,
            "claims": claims,
            "failures": self._recorder.failure_entries(),
        }

    def _draw(self, tables: Tables) -> None:
        names, formats = self._cfg.figures, self._cfg.figure_formats
        if self._several:
            draw_points(Run(self._folder.path), formats)
            return
        chosen = chosen_figures(self._experiment, tables, () if isinstance(names, str) else names)
        for name, draw in chosen:
            with self._optional(f"the figure {name} could not be drawn"):
                place = Run(self._folder.path).figures_folder
                write_figure(place / file_name(name), draw(), formats)

    def _tasks(self, finished: Collection[Key] = ()) -> Iterator[Task]:
        """Yield the tasks of all points in their order, without those that had finished."""
        for point in self._study.points:
            if not finished or self._recorder.left[point.number]:
                for task in tasks_of(self._experiment, self._study.config(point.number), point):
                    if task.key not in finished:
                        yield task

    def _train(self) -> None:
        recorder, checkpoints = self._recorder, dict[Key, Checkpoint]()
        if self._resumed:
            checkpoints = recorder.restore(self._tasks(), takes_resume(self._experiment))
        kept = set(recorder.finished)
        self._reporter.skip(len(kept))
        if recorder.lost:
            self._warn(
                f"{recorder.lost} trainings had finished, but some of their rows are gone: they "
                "restart"
            )
        if self._resumed and self._several:  # trainings of some points had all ended
            done = Run(self._folder.path).journal.results
            for point in self._study.points:
                if not recorder.left[point.number] and point.number not in done:
                    self._end_point(point)
        end = self._limit.end if self._limit else None
        with (
            monitored(self._reporter.show_progress, end),
            contextlib.closing(self._events(self._tasks(kept), checkpoints)) as events,
        ):
            for event in events:
                self._take(event)
            # Only the time limit leaves trainings out.
            self._ended_early = time_limit_reached() or any(recorder.left)

    def _events(self, tasks: Iterator[Task], checkpoints: dict[Key, Checkpoint]) -> TaskEvents:
        executor, left = self._cfg.executor, sum(self._recorder.left)
        if executor.kind == "local" and left:
            workers = executor.workers or max(1, cores() // threads_of(self._cfg))
            seconds = None if self._limit is None else max(0.0, self._limit.end - process_time())
            return run_local(self._runner, tasks, checkpoints, min(workers, left), seconds)
        if executor.kind == "dask" and left:
            return run_dask(self._runner, tasks, checkpoints, str(executor.address))
        return run_serial(self._runner, tasks, checkpoints)

    def _take(self, event: TaskEvent) -> None:
        """Record, show and track an event; check the claims of a point that has ended."""
        self._recorder.handle(event)
        self._reporter.handle(event)
        if isinstance(event, Recorded):
            record = event.record
            if self._tracker is not None and isinstance(record, Row) and record.table == "metrics":
                several = self._recorder.total > 1
                marks = dict(zip(MARKS, event.task.key, strict=True)) if several else {}
                self._tracker.row({**record.values, **marks})
        elif self._several and isinstance(event, Finished | Failed):
            number = event.task.point
            if not self._recorder.left[number]:
                self._end_point(self._study.points[number])

    def _warn(self, text: str) -> None:
        self._take(Warned(text))

    def _end_point(self, point: Point) -> None:
        """Write the result of a point whose trainings have all ended to the journal."""
        tables = self._recorder.take(point)
        metrics = _medians(tables.get("summary"))
        claims = self._claims(tables, point) if "summary" in tables else ()
        failed, broken = self._recorder.failed[point.number], self._broken.get(point.number)
        reason = f"{failed} of its trainings failed" if failed else broken and broken.reason
        line = {"point": point.number, "metrics": metrics, "claims": claims}
        self._folder.journal({**line, "reason": reason})

    @contextlib.contextmanager
    def _optional(self, what: str) -> Iterator[None]:
        """Turn an error of the body into a warning: the results are complete without it."""
        try:
            yield
        except StorageFailed:
            raise
        except Exception as error:
            self._warn(f"{what}: {Failure.of(error).reason}")

    def _claims(self, tables: Mapping[str, pandas.DataFrame], point: Point) -> tuple[Claim, ...]:
        """Check the claims; none holds if trainings failed or were cut short."""
        try:
            claims = tuple(self._experiment.claims(tables))
        except Exception as error:
            reason = f"checking the claims failed: {Failure.of(error).reason}"
            self._broken[point.number] = Failure(reason, traceback.format_exc())
            return ()
        failed = self._recorder.failed[point.number]
        if not failed and not self._ended_early and not time_limit_reached():
            return claims
        total = self._recorder.trainings[point.number]
        why = "the others failed" if failed else "stopped by max_cpu_seconds"
        came = (
            f"from {total - failed - self._recorder.left[point.number]} of {total} trainings, {why}"
        )
        return tuple(
            replace(claim, holds=False, spread="; ".join(filter(None, (claim.spread, came))))
            for claim in claims
        )

    def _failure(self) -> Failure | None:
        """Return why the run failed: the first training that failed, or broken claims."""
        recorder = self._recorder
        broken = [(self._study.points[number], failure) for number, failure in self._broken.items()]
        if not (failures := [*recorder.failures, *broken]):
            return None
        named, first = failures[0]
        if recorder.total == 1 or not (recorder.failures or self._several):
            return first
        if recorder.failures and broken:  # incomplete tables may be why
            self._folder.note(broken[0][1].reason)
        what = f"{recorder.failed[0]} of {recorder.total} trainings failed"
        if self._several:
            bad = recorder.failed.keys() | self._broken.keys()
            what = f"{len(bad)} of {len(self._study.points)} points failed"
        return Failure(f"{what}; the first, {named}: {first.reason}", first.trace)

    def _stopped_reason(self) -> str | None:
        """Return the reason of a run that its time limit stopped."""
        if self._limit is None or not self._ended_early:
            return None
        missing = sum(self._recorder.left)
        text = f"; {missing} of {self._recorder.total} trainings did not begin" if missing else ""
        used, limit = process_time() - self._limit.began, self._limit.seconds
        if used > _OVERRUN * limit:
            text += f"; it took {used:.3g} s, as a step that has begun is not cut short"
        return (
            f"stopped after max_cpu_seconds={limit:g} (CPU time); kept the best result so far{text}"
        )


def _medians(summary: pandas.DataFrame | None) -> dict[str, float | None]:
    """Return the medians over seeds; none of several cells, which measure different things."""
    if summary is None or summary.empty or "cell" in summary:
        return {}
    numbers = summary.select_dtypes("number").drop(columns="seed", errors="ignore")
    return {str(name): float(value) for name, value in numbers.median().items()}
