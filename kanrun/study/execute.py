"""Execution of a study: points checked, tasks through an executor, records to the run folder."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any, Protocol

from kanrun.config import ExecutorConfig, ExperimentConfig, rules
from kanrun.errors import StorageFailed, UsageError
from kanrun.monitoring import monitored, time_limit_reached
from kanrun.runs.folder import RunFolder
from kanrun.runs.manifest import (
    Claim,
    Manifest,
    Point,
    RunLabels,
    Status,
    check_tags,
    claims_to_json,
    finite_or_none,
)
from kanrun.runs.reader import Run, RunTables
from kanrun.runs.records import Row
from kanrun.runs.tables import MARKS, Key
from kanrun.study import report
from kanrun.study.comparison import draw_points, print_points
from kanrun.study.executors import Recorded, TaskEvent, TaskEvents, Warned, run_local, run_serial
from kanrun.study.experiment import (
    Experiment,
    Failure,
    Prepared,
    Task,
    TaskRunner,
    check_size,
    takes_resume,
    tasks_of,
)
from kanrun.study.progress import Reporter
from kanrun.study.recorder import Recorder
from kanrun.study.resources import TimeLimit, check_memory, cores, device_of, threads_of
from kanrun.study.trackers import Tracker

if TYPE_CHECKING:
    import pandas

#: Settings of the whole run, which cannot differ between points.


class Studied(Protocol):
    """A study to run: `kanrun.study.points.Study`, or anything else with its points."""

    @property
    def command(self) -> str: ...

    @property
    def argv(self) -> tuple[str, ...]: ...

    @property
    def points(self) -> tuple[Point, ...]: ...

    def config(self, number: int) -> ExperimentConfig:
        """Return the configuration of a point. Raises UsageError."""


@dataclass(frozen=True)
class OnePoint:
    """Study of one point whose configuration is typed already, for tests and scripts."""

    command: str
    cfg: ExperimentConfig
    argv: tuple[str, ...] = ()
    points: tuple[Point, ...] = (Point(0),)

    def config(self, number: int) -> ExperimentConfig:
        """Return the configuration. Raises UsageError for values against their rules."""
        rules.check(self.cfg)
        return self.cfg


def check_config(experiment: Experiment, cfg: ExperimentConfig) -> None:
    """Check a typed configuration. Raises UsageError if it cannot run."""
    check(experiment, OnePoint("", cfg))


def run_config(experiment: Experiment, cfg: ExperimentConfig, outputs: Path) -> Run:
    """Check and run a typed configuration in a new folder below `outputs`, quietly."""
    name = getattr(experiment, "__name__", type(experiment).__name__).rpartition(".")[2]
    study = OnePoint(name.replace("_", "-"), cfg)
    checked = check(experiment, study)
    folder = RunFolder.create(outputs, manifest_of(study, checked))
    execute(experiment, study, folder, checked, Attempt(quiet=True))
    return Run(folder.path)


@dataclass(frozen=True)
class Checked:
    """A study whose points can run: numbers of cells and seeds, and what the first task needs."""

    cells: tuple[int, ...]
    seeds: tuple[int, ...]
    prepared: Prepared


def check(
    experiment: Experiment,
    study: Studied,
    *,
    force: bool = False,
    executor: ExecutorConfig | None = None,
) -> Checked:
    """Check everything that can be checked before a run exists, and write nothing.

    Calls `check` and `prepare` of the experiment for each point, if it has them. `force` skips the
    memory check; `executor` is one in place of the configured one. Raises UsageError, which names
    the point if there are several.
    """
    cells, seeds, prepared = list[int](), list[int](), Prepared()
    for point in study.points:
        try:
            cfg = study.config(point.number)
            rules.check_files(cfg)
            tasks = _check_point(experiment, cfg, point, force)
            check_size(sum(cells) + len(tasks))
            ready = _prepare(experiment, tasks)
        except UsageError as error:
            if not point.values:
                raise
            raise UsageError(f"{point}: {error}") from error
        prepared = prepared or ready
        cells.append(tasks[-1].index + 1)
        seeds.append(cfg.n_seeds)
    place = executor or study.config(0).executor
    if place.kind == "dask":
        from kanrun.study.dask import probe

        probe(str(place.address))
    return Checked(tuple(cells), tuple(seeds), prepared)


def _check_point(
    experiment: Experiment, cfg: ExperimentConfig, point: Point, force: bool
) -> list[Task]:
    check_memory(cfg, force=force)
    check_tags(cfg.tags)
    if cfg.device not in {"auto", "cpu"}:
        device_of(cfg)
    own_check = getattr(experiment, "check", None)
    if own_check is not None:
        own_check(cfg)
    return tasks_of(experiment, cfg, point)


def _prepare(experiment: Experiment, tasks: list[Task]) -> Prepared:
    """Prepare the first seed of each cell, and return what the first task needs."""
    own = getattr(experiment, "prepare", None)
    if own is None:
        return {}
    first, *others = [task for task in tasks if task.seed == tasks[0].seed]
    prepared = {first.key: own(first.cfg, first.cell, first.seed)}
    for task in others:
        own(task.cfg, task.cell, task.seed)
    return prepared


def manifest_of(study: Studied, checked: Checked) -> Manifest:
    """Return the record of a run that is about to begin."""
    cfg, first = study.config(0), study.points[0]
    pairs = zip(checked.cells, checked.seeds, strict=True)
    return Manifest(
        study.command,
        study.argv,
        first.overrides if len(study.points) == 1 else (),
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.n_seeds)),
        cells=checked.cells[0],
        points=len(study.points),
        trainings=sum(many * each for many, each in pairs),
        device=device_of(cfg),
        precision=cfg.precision,
        threads=threads_of(cfg),
        executor=asdict(cfg.executor),
    )


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


def execute(
    experiment: Experiment,
    study: Studied,
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
        study: Studied,
        folder: RunFolder,
        checked: Checked,
        attempt: Attempt,
    ) -> None:
        self._experiment, self._study, self._folder = experiment, study, folder
        self._attempt, self._prepared, self._several = (
            attempt,
            checked.prepared,
            len(study.points) > 1,
        )
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
        self._recorder = Recorder(folder, study.points, checked.cells, checked.seeds)
        self._ended_early = False
        self._broken: list[tuple[Point, Failure]] = []  # points whose results failed
        self._summary: pandas.DataFrame | None = None

    def run(self) -> dict[str, Any]:
        """Train, draw, check claims; return the changes of `run.json`."""
        self._train()
        metrics: dict[str, Any] = {}
        claims: tuple[Claim, ...] = ()
        if self._several:
            self._draw_points()
        else:
            tables = RunTables(Run(self._folder.path))
            self._summary = tables.get("summary")
            metrics = _medians(self._summary)
            if self._recorder.finished:
                self._draw(tables)
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
            report.print_summary(
                self._console, {str(name): [*values] for name, values in self._summary.items()}
            )
        report.print_claims(self._console, manifest.claims)
        if manifest.trainings > 1:
            report.print_failures(self._console, manifest.failures)

    def _tasks(self, skip: set[Key] | None = None) -> Iterator[Task]:
        """Yield the tasks of all points in their order, without those to skip."""
        for point, left in zip(self._study.points, list(self._recorder.left), strict=True):
            if left or skip is None:
                for task in tasks_of(self._experiment, self._study.config(point.number), point):
                    if skip is None or task.key not in skip:
                        yield task

    def _train(self) -> None:
        recorder, resume = self._recorder, takes_resume(self._experiment)
        checkpoints = recorder.restore(self._tasks(), resume) if self._attempt.resume else {}
        kept, total = set(recorder.finished), recorder.total
        attempt = self._attempt
        with Reporter(self._console, total, attempt.quiet, attempt.verbose) as reporter:
            reporter.skip(len(kept))
            if recorder.lost:
                lost = Warned(
                    f"{recorder.lost} trainings had finished, but some of their rows are gone: "
                    "they restart"
                )
                recorder.handle(lost)
                reporter.handle(lost)
            if attempt.resume and self._several:
                self._end_earlier_points()
            events = self._events(self._tasks(kept), total - len(kept), checkpoints)
            with monitored(reporter.show_progress, self._limit.end if self._limit else None):
                try:
                    for event in events:
                        recorder.handle(event)
                        reporter.handle(event)
                        self._track(event)
                        self._end_point(event)
                finally:
                    events.close()
                # Only the time limit leaves trainings out.
                self._ended_early = time_limit_reached() or any(recorder.left)

    def _events(self, tasks: Iterator[Task], left: int, checkpoints: dict[Key, Any]) -> TaskEvents:
        runner = TaskRunner(self._experiment, self._prepared)

        def resume(task: Task) -> Any:
            return checkpoints.pop(task.key, None)

        if self._executor.kind == "local" and left:
            workers = self._executor.workers or max(1, cores() // threads_of(self._cfg))
            seconds = None if self._limit is None else max(0.0, self._limit.end - process_time())
            return run_local(runner, tasks, resume, min(workers, left), seconds)
        if self._executor.kind == "dask" and left:
            from kanrun.study.dask import run_dask

            return run_dask(runner, tasks, resume, str(self._executor.address))
        return run_serial(runner, tasks, resume)

    def _track(self, event: TaskEvent) -> None:
        """Send a row of `metrics` to the tracker, if there is one."""
        if self._tracker is None or not isinstance(event, Recorded):
            return
        if isinstance(event.record, Row) and event.record.table == "metrics":
            several = self._recorder.total > 1
            marks = dict(zip(MARKS, event.task.key, strict=True)) if several else {}
            self._tracker.row({**event.record.values, **marks})

    def _end_point(self, event: TaskEvent) -> None:
        """Check the claims of the point whose last training this event ended."""
        number = None if isinstance(event, Warned) else event.task.point
        if not self._several or number is None or isinstance(event, Recorded):
            return
        if not self._recorder.left[number]:
            self._store_result(self._study.points[number])

    def _end_earlier_points(self) -> None:
        """Check the claims of points whose trainings had all ended before a run was resumed."""
        done = Run(self._folder.path).journal.results
        for point in self._study.points:
            if not self._recorder.left[point.number] and point.number not in done:
                self._store_result(point)

    def _store_result(self, point: Point) -> None:
        tables = RunTables(self._recorder.take(point))
        metrics, claims = _medians(tables.get("summary")), list[dict[str, Any]]()
        before = len(self._broken)
        if "summary" in tables:
            claims = claims_to_json(self._claims(tables, point))
        reason = self._broken[-1][1].reason if len(self._broken) > before else None
        if point.number in self._recorder.failed:
            reason = f"{self._recorder.failed[point.number]} of its trainings failed"
        line = {"point": point.number, "metrics": finite_or_none(metrics), "claims": claims}
        self._folder.journal({**line, "reason": reason})

    def _draw(self, tables: Mapping[str, pandas.DataFrame]) -> None:
        """Draw and store the figures; warn if one fails: the results are complete without it."""
        figures, name = _each(self._experiment.figures, tables), "figures"
        while True:
            try:
                name, draw = next(figures)
                self._folder.figure(name, draw(), self._cfg.figure_formats)
            except StopIteration:
                return
            except StorageFailed:
                raise
            except Exception as error:
                self._warn(f"the figure {name} could not be drawn: {Failure.of(error).reason}")

    def _warn(self, text: str) -> None:
        """Record a warning and print it."""
        self._recorder.handle(Warned(text))
        self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    def _claims(self, tables: Mapping[str, pandas.DataFrame], point: Point) -> tuple[Claim, ...]:
        try:
            claims = [self._supported(claim, point) for claim in self._experiment.claims(tables)]
        except Exception as error:
            reason = f"checking the claims failed: {Failure.of(error).reason}"
            self._broken.append((point, Failure(reason, traceback.format_exc())))
            return ()
        return tuple(claims)

    def _supported(self, claim: Claim, point: Point) -> Claim:
        """Return the claim; it does not hold if trainings failed or were cut short."""
        failed = self._recorder.failed[point.number]
        if not failed and not self._ended_early and not time_limit_reached():
            return claim
        total = self._recorder.trainings[point.number]
        why = "the others failed" if failed else "stopped by max_cpu_seconds"
        done = total - failed - self._recorder.left[point.number]
        came = f"from {done} of {total} trainings, {why}"
        spread = f"{claim.spread}; {came}" if claim.spread else came
        return replace(claim, holds=False, spread=spread)

    def _draw_points(self) -> None:
        """Draw the result over the swept keys; the points are recorded whatever happens."""
        try:
            draw_points(Run(self._folder.path), self._cfg.figure_formats)
        except Exception as error:
            self._warn(f"the figure over the points was not drawn: {Failure.of(error).reason}")

    def _failure(self) -> Failure | None:
        """Return why the run failed: the first training that failed, or broken results."""
        failures, total = self._recorder.failures, self._recorder.total
        broken = self._broken
        if not failures and not broken:
            return None
        if not failures and not self._several:
            return broken[0][1]
        if failures and total == 1:
            return failures[0][1]
        if failures and broken:  # incomplete tables may be why
            self._folder.note(broken[0][1].reason)
        named, first = failures[0] if failures else broken[0]
        if self._several:
            bad = {*self._recorder.failed, *(point.number for point, _ in broken)}
            what = f"{len(bad)} of {len(self._study.points)} points failed"
        else:
            what = f"{self._recorder.failed[0]} of {total} trainings failed"
        return Failure(f"{what}; the first, {named}: {first.reason}", first.trace)

    def _stopped_reason(self) -> str | None:
        """Return the reason of a run that its time limit stopped."""
        if self._limit is None or not self._ended_early:
            return None
        missing = sum(self._recorder.left)
        text = f"; {missing} of {self._recorder.total} trainings did not begin" if missing else ""
        seconds = f"max_cpu_seconds={self._limit.seconds:g}"
        return f"stopped after {seconds} (CPU time); kept the best result so far{text}"


def _each(figures: Any, tables: Mapping[str, pandas.DataFrame]) -> Iterator[Any]:
    """Yield the figures; whatever they raise is raised while iterating."""
    yield from figures(tables)


def _medians(summary: pandas.DataFrame | None) -> dict[str, float | None]:
    """Return the medians over seeds; none of several cells, which measure different things."""
    if summary is None or summary.empty or "cell" in summary:
        return {}
    numbers = summary.select_dtypes("number").drop(columns=["cell", "seed"], errors="ignore")
    return {str(name): float(value) for name, value in numbers.median().items()}
