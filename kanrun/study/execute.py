"""Execution of a study: tasks through an executor, records to the run folder, claims, figures."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

from kanrun.config import ExecutorConfig, ExperimentConfig
from kanrun.errors import StorageFailed
from kanrun.monitoring import monitored, time_limit_reached
from kanrun.runs.folder import RunFolder
from kanrun.runs.reader import Run
from kanrun.runs.records import (
    Claim,
    Manifest,
    Point,
    Row,
    RunLabels,
    Status,
    claims_to_json,
    finite_or_none,
)
from kanrun.runs.tables import MARKS, Key
from kanrun.study import report
from kanrun.study.comparison import draw_points, print_points
from kanrun.study.executors import (
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
    Task,
    TaskRunner,
    takes_resume,
    tasks_of,
)
from kanrun.study.points import Checked, Study, check, manifest_of
from kanrun.study.progress import Reporter
from kanrun.study.recorder import Recorder
from kanrun.study.resources import TimeLimit, cores, threads_of
from kanrun.study.trackers import Tracker

if TYPE_CHECKING:
    import pandas


#: Fraction of the time limit beyond which the CPU time that was used is named.
_OVERRUN = 1.1


@dataclass(frozen=True)
class Attempt:
    """Options of the execution of a study.

    Attributes:
        resume: Continue in a folder from `RunFolder.reopen`: finished trainings are kept.
        executor: Executor in place of the configured one.
        quiet: Print warnings and errors only.
        verbose: Print how choices were made.
        began: CPU seconds of this process when the run was asked for.
    """

    resume: bool = False
    executor: ExecutorConfig | None = None
    quiet: bool = False
    verbose: bool = False
    began: float | None = None


def check_config(experiment: Experiment, cfg: ExperimentConfig) -> None:
    """Check a typed configuration. Raises UsageError if it cannot run."""
    check(experiment, Study("", typed=cfg))


def run_config(experiment: Experiment, cfg: ExperimentConfig, outputs: Path) -> Run:
    """Check and run a typed configuration in a new folder below `outputs`, quietly."""
    name = getattr(experiment, "__name__", type(experiment).__name__).rpartition(".")[2]
    study = Study(name.replace("_", "-"), typed=cfg)
    checked = check(experiment, study)
    folder = RunFolder.create(outputs, manifest_of(study, checked))
    execute(experiment, study, folder, checked, Attempt(quiet=True))
    return Run(folder.path)


def execute(
    experiment: Experiment,
    study: Study,
    folder: RunFolder,
    checked: Checked,
    attempt: Attempt = Attempt(),
) -> Manifest:
    """Run all points, cells and seeds of a study into `folder` and return its record.

    A training that fails is recorded with its cause and the others continue; the status is then
    FAILED. KeyboardInterrupt (also `Terminated`) is recorded as INTERRUPTED and raised again, with
    all rows kept. With `max_cpu_seconds`, trainings stop with the best that they have, others do
    not begin, and the run is COMPLETED with that reason. Raises StorageFailed if nothing can be
    written. Progress and results go to standard error.
    """
    try:
        execution = _Execution(experiment, study, folder, checked, attempt)
        folder.finish(**execution.run())
    except BaseException as error:
        status, failure = Status.FAILED, Failure.of(error)
        if isinstance(error, KeyboardInterrupt):
            sender = "Ctrl-C" if type(error) is KeyboardInterrupt else "SIGTERM"
            status, failure = Status.INTERRUPTED, Failure(f"stopped by {sender}")
        with contextlib.suppress(StorageFailed):  # the error that ends the run says more
            folder.finish(status, failure.reason, failure.trace)
        raise
    if not attempt.quiet:
        execution.report(folder.manifest)
    return folder.manifest


class _Execution:
    """One execution of a study."""

    def __init__(
        self,
        experiment: Experiment,
        study: Study,
        folder: RunFolder,
        checked: Checked,
        attempt: Attempt,
    ) -> None:
        self._experiment, self._study, self._folder = experiment, study, folder
        self._attempt, self._several = attempt, len(study.points) > 1
        self._runner = TaskRunner(experiment, checked.prepared)
        self._console = report.error_console()
        self._cfg = cfg = study.config(0)
        self._executor = attempt.executor or cfg.executor
        if attempt.resume:
            folder.manifest = replace(folder.manifest, executor=asdict(self._executor))
        elif cfg.tags or cfg.note:
            RunLabels(tuple(cfg.tags), cfg.note or "").store(folder.path)
        self._limit: TimeLimit | None = None
        if cfg.max_cpu_seconds is not None:
            began = process_time() if attempt.began is None else attempt.began
            self._limit = TimeLimit(cfg.max_cpu_seconds, began)
        self._tracker: Tracker | None = None
        if cfg.tracker is not None:
            self._tracker = Tracker(cfg.tracker, study.command, folder.path, asdict(cfg))
        self._recorder = Recorder(folder, study.points, checked)
        self._ended_early = False
        self._broken: dict[int, Failure] = {}  # claims that could not be checked, by point
        self._summary: pandas.DataFrame | None = None

    def run(self) -> dict[str, Any]:
        """Train, draw, check claims; return the changes of `run.json`."""
        self._train()
        metrics: dict[str, Any] = {}
        claims: tuple[Claim, ...] = ()
        if self._several:
            with self._optional("the figure over the points was not drawn"):
                draw_points(Run(self._folder.path), self._cfg.figure_formats)
        else:
            tables = Run(self._folder.path).frames
            self._summary = tables.get("summary")
            metrics = _medians(self._summary)
            if self._recorder.finished:
                with self._optional("the figures could not be drawn"):
                    for name, draw in self._experiment.figures(tables):
                        with self._optional(f"the figure {name} could not be drawn"):
                            self._folder.figure(name, draw(), self._cfg.figure_formats)
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

    def report(self, manifest: Manifest) -> None:
        """Print the results, the claims and the failures."""
        if self._several:
            path = self._folder.path
            print_points(self._console, Run(path, f"{path.parent.name}/{path.name}"))
        elif self._summary is not None:
            columns = {str(name): [*values] for name, values in self._summary.items()}
            report.print_summary(self._console, columns)
        report.print_claims(self._console, manifest.claims)
        if manifest.trainings > 1:
            report.print_failures(self._console, manifest.failures)

    def _tasks(self, finished: set[Key] | None = None) -> Iterator[Task]:
        """Yield the tasks of all points in their order, without those that had finished."""
        for point in self._study.points:
            if finished is None or self._recorder.left[point.number]:
                for task in tasks_of(self._experiment, self._study.config(point.number), point):
                    if finished is None or task.key not in finished:
                        yield task

    def _train(self) -> None:
        recorder, attempt, resumes = self._recorder, self._attempt, takes_resume(self._experiment)
        checkpoints = recorder.restore(self._tasks(), resumes) if attempt.resume else {}
        kept = set(recorder.finished)
        total, quiet, verbose = recorder.total, attempt.quiet, attempt.verbose
        with Reporter(self._console, total, quiet, verbose) as reporter:
            reporter.skip(len(kept))
            if recorder.lost:
                lost = Warned(
                    f"{recorder.lost} trainings had finished, but some of their rows are gone: "
                    "they restart"
                )
                recorder.handle(lost)
                reporter.handle(lost)
            if attempt.resume and self._several:  # trainings of some points had all ended
                done = Run(self._folder.path).journal.results
                for point in self._study.points:
                    if not recorder.left[point.number] and point.number not in done:
                        self._end_point(point)
            events = self._events(self._tasks(kept), total - len(kept), checkpoints)
            with monitored(reporter.show_progress, self._limit.end if self._limit else None):
                try:
                    for event in events:
                        recorder.handle(event)
                        reporter.handle(event)
                        self._follow(event)
                finally:
                    events.close()
                # Only the time limit leaves trainings out.
                self._ended_early = time_limit_reached() or any(recorder.left)

    def _events(self, tasks: Iterator[Task], left: int, checkpoints: dict[Key, Any]) -> TaskEvents:
        def resume(task: Task) -> Any:
            return checkpoints.pop(task.key, None)

        if self._executor.kind == "local" and left:
            workers = self._executor.workers or max(1, cores() // threads_of(self._cfg))
            seconds = None if self._limit is None else max(0.0, self._limit.end - process_time())
            return run_local(self._runner, tasks, resume, min(workers, left), seconds)
        if self._executor.kind == "dask" and left:
            return run_dask(self._runner, tasks, resume, str(self._executor.address))
        return run_serial(self._runner, tasks, resume)

    def _follow(self, event: TaskEvent) -> None:
        """Send rows of `metrics` to the tracker; check the claims of a point that has ended."""
        if isinstance(event, Warned):
            return
        if isinstance(event, Recorded):
            record = event.record
            if self._tracker is not None and isinstance(record, Row) and record.table == "metrics":
                several = self._recorder.total > 1
                marks = dict(zip(MARKS, event.task.key, strict=True)) if several else {}
                self._tracker.row({**record.values, **marks})
        elif self._several and not self._recorder.left[event.task.point]:
            self._end_point(self._study.points[event.task.point])

    def _end_point(self, point: Point) -> None:
        """Write the result of a point whose trainings have all ended to the journal."""
        tables = self._recorder.take(point)
        metrics = finite_or_none(_medians(tables.get("summary")))
        claims = self._claims(tables, point) if "summary" in tables else ()
        failed, broken = self._recorder.failed[point.number], self._broken.get(point.number)
        reason = f"{failed} of its trainings failed" if failed else broken and broken.reason
        line = {"point": point.number, "metrics": metrics, "claims": claims_to_json(claims)}
        self._folder.journal({**line, "reason": reason})

    @contextlib.contextmanager
    def _optional(self, what: str) -> Iterator[None]:
        """Turn an error of the body into a warning: the results are complete without it."""
        try:
            yield
        except StorageFailed:
            raise
        except Exception as error:
            text = f"{what}: {Failure.of(error).reason}"
            self._recorder.handle(Warned(text))
            self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

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
        done = total - failed - self._recorder.left[point.number]
        came = f"from {done} of {total} trainings, {why}"
        return tuple(
            replace(claim, holds=False, spread=f"{claim.spread}; {came}" if claim.spread else came)
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
