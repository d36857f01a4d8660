"""Run an experiment: settings checked, cells x seeds through an executor, records to the run folder."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import process_time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kanrun.config import ExperimentConfig
from kanrun.config import rules as settings
from kanrun.errors import StorageFailed
from kanrun.monitoring import monitored, time_limit_reached
from kanrun.runs.folder import RunFolder
from kanrun.runs.manifest import Claim, Manifest, RunLabels, Status, check_tags
from kanrun.runs.reader import Run
from kanrun.runs.records import Note, Row
from kanrun.study import report
from kanrun.study.executors import (
    Recorded,
    Resume,
    TaskEvent,
    TaskEvents,
    Warned,
    run_local,
    run_serial,
)
from kanrun.study.experiment import (
    Experiment,
    Failure,
    Prepared,
    Task,
    TaskRunner,
    prepare,
    takes_resume,
    tasks_of,
)
from kanrun.study.progress import Reporter
from kanrun.study.recorder import Recorder
from kanrun.study.resources import check_memory, cores, device_of, threads_of
from kanrun.study.trackers import Tracker

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def check(experiment: Experiment, cfg: ExperimentConfig, *, force: bool = False) -> Prepared:
    """Refuse what can be refused before a run exists: common settings, size (unless `force`d), device, cells, address.

    Calls `check` and `prepare` of the experiment where it has them. Returns what was prepared for the first task, which
    `execute` takes. Raises UsageError; writes nothing.
    """
    settings.check(cfg)
    check_memory(cfg, force=force)
    check_tags(cfg.tags)
    if cfg.device not in {"auto", "cpu"}:
        device_of(cfg)
    own_check = getattr(experiment, "check", None)
    if own_check is not None:
        own_check(cfg)
    prepared = prepare(experiment, cfg, tasks_of(experiment, cfg))
    if cfg.executor.kind == "dask":
        from kanrun.study.dask import probe

        probe(str(cfg.executor.address))
    return prepared


def execute(  # noqa: PLR0913  (each is an option)
    experiment: Experiment,
    cfg: ExperimentConfig,
    folder: RunFolder,
    *,
    prepared: Prepared | None = None,
    resume: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    manifest: Manifest | None = None,
    began: float | None = None,
) -> Manifest:
    """Run all cells and seeds of `experiment` into `folder` and return its record.

    `manifest` has the words that asked for the run, `began` the CPU seconds of this process at that time.

    `resume=True` continues in a folder from `RunFolder.reopen`: finished trainings are kept, others start
    again, from their last checkpoint where the experiment can. A training that fails is recorded with its
    cause and the others continue; the status is then FAILED. KeyboardInterrupt (also `Terminated`) is recorded
    as INTERRUPTED and raised again, with all rows kept. StorageFailed is raised when nothing can be written.
    With `max_cpu_seconds`, trainings end in order with the best that they have, others do not begin, and the run is
    COMPLETED with that as its reason. Progress and results go to standard error. `prepared` is what `check` returned
    for these settings.
    """
    tasks = tasks_of(experiment, cfg)
    if resume:
        folder.update(executor=asdict(cfg.executor))
    else:
        folder.start(_filled(manifest or Manifest(""), experiment, cfg, folder, tasks))
    if cfg.tags or cfg.note:
        RunLabels(tuple(cfg.tags), cfg.note or "").store(folder.path)
    runner = TaskRunner(experiment, cfg, threads_of(cfg), prepared or {})
    limit = None
    if cfg.max_cpu_seconds is not None:
        limit = TimeLimit(cfg.max_cpu_seconds, process_time() if began is None else began)
    tracker = None
    if cfg.tracker is not None:
        tracker = Tracker(cfg.tracker, folder.manifest.command, folder.path, asdict(cfg))
    execution = _Execution(
        runner, folder, tasks, report.error_console(), quiet, verbose, limit, tracker
    )
    try:
        ended = execution.run(resume)
        if tracker is not None:
            tracker.end(ended["metrics"], ended["status"])
        folder.finish(**ended)
    except BaseException as error:
        status, failure = Status.FAILED, Failure.of(error)
        if isinstance(error, KeyboardInterrupt):
            sender = "Ctrl-C" if type(error) is KeyboardInterrupt else "SIGTERM"
            status, failure = Status.INTERRUPTED, Failure(f"stopped by {sender}")
        with contextlib.suppress(StorageFailed):  # the error that ends the run says more
            folder.finish(status, failure.reason, failure.trace)
        raise
    if not quiet:
        execution.report(folder.manifest)
    return folder.manifest


@dataclass(frozen=True)
class TimeLimit:
    """CPU time of a run: limit, time at its start, and time reserved for figures and claims."""

    seconds: float
    began: float
    #: Loading matplotlib takes 0.7 CPU s, six figures at most 1.5 CPU s.
    results: float = 3.0
    share: float = 0.98
    """Of the seconds, since the last step of a training ends a little later."""
    program: float = 0.8
    """Seconds of the program itself, before the command is read and after its results are shown."""

    @property
    def end(self) -> float:
        """CPU seconds of the process at which trainings end; they have a third of the seconds in any case."""
        return self.began + max(
            self.share * self.seconds - self.results - self.program, self.seconds / 3
        )


class _Execution:
    """One execution of a study."""

    def __init__(  # noqa: PLR0913, PLR0917  (what `execute` was asked for)
        self,
        runner: TaskRunner,
        folder: RunFolder,
        tasks: Sequence[Task],
        console: Console,
        quiet: bool,
        verbose: bool = False,
        limit: TimeLimit | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self._runner, self._folder, self._tasks, self._limit = runner, folder, tasks, limit
        self._ended_early, self._tracker = False, tracker
        self._console, self._quiet, self._verbose = console, quiet, verbose
        self._recorder = Recorder(folder, tasks)
        self._summary: pandas.DataFrame | None = None

    def run(self, resume: bool) -> dict[str, Any]:
        """Train, draw, check claims; what `run.json` says of it. Raises what ends the whole run."""
        self._train(resume)
        self._folder.order()
        run = Run(self._folder.path)
        tables = {name: run.table(name) for name in run.tables}
        self._summary = tables.get("summary")
        claims, broken = self._evaluate(tables) if self._recorder.finished else ((), None)
        failed = self._failure(broken)
        return {
            "status": Status.FAILED if failed else Status.COMPLETED,
            "reason": failed.reason if failed else self._time_was_up(),
            "trace": failed.trace if failed else None,
            "metrics": _medians(self._summary),
            "claims": claims,
            "failures": self._recorder.failure_entries(),
        }

    def report(self, manifest: Manifest) -> None:
        """Print the summary, the claims and the failures."""
        if self._summary is not None:
            report.print_summary(
                self._console, {str(name): [*values] for name, values in self._summary.items()}
            )
        report.print_claims(self._console, manifest.claims)
        if len(self._tasks) > 1:
            report.print_failures(self._console, manifest.failures)

    def _train(self, resume: bool) -> None:
        checkpoints = (
            self._recorder.restore(takes_resume(self._runner.experiment)) if resume else {}
        )
        left = [task for task in self._tasks if task.pair not in self._recorder.finished]
        with Reporter(self._console, len(self._tasks), self._quiet, self._verbose) as reporter:
            reporter.skip(len(self._tasks) - len(left))
            if self._recorder.lost:
                text = f"{self._recorder.lost} trainings had finished, but rows of them are gone: they start again"
                self._recorder.handle(Warned(text))
                reporter.handle(Warned(text))
            events = self._events(left, lambda task: checkpoints.get(task.pair))
            with monitored(reporter.show_advance, self._limit.end if self._limit else None):
                try:
                    for event in events:
                        self._recorder.handle(event)
                        reporter.handle(event)
                        self._track(event)
                finally:
                    events.close()
                ended = {
                    *self._recorder.finished,
                    *(task.pair for task, _ in self._recorder.failures),
                }
                # only the end of the time leaves trainings out
                self._ended_early = time_limit_reached() or any(
                    task.pair not in ended for task in left
                )

    def _track(self, event: TaskEvent) -> None:
        """Tell the tracker, where there is one, of a row of metrics."""
        if (
            self._tracker is None
            or not isinstance(event, Recorded)
            or not isinstance(event.record, Row)
        ):
            return
        if event.record.table == "metrics":
            several = len(self._tasks) > 1
            marks = dict(zip(("cell", "seed"), event.task.pair, strict=True)) if several else {}
            self._tracker.row({**event.record.values, **marks})

    def _time_was_up(self) -> str | None:
        """The reason of a run that ended at its limit of seconds."""
        if self._limit is None or not self._ended_early:
            return None
        missing = len(self._tasks) - len(self._recorder.finished)
        what = f"; {missing} of {len(self._tasks)} trainings were not begun" if missing else ""
        return f"ended by max_cpu_seconds={self._limit.seconds:g} with the best so far{what}"

    def _events(self, tasks: Sequence[Task], resume: Resume) -> TaskEvents:
        executor = self._runner.cfg.executor
        if executor.kind == "local" and tasks:
            workers = executor.workers or max(1, cores() // self._runner.threads)
            seconds = None if self._limit is None else max(0.0, self._limit.end - process_time())
            return run_local(self._runner, tasks, resume, min(workers, len(tasks)), seconds)
        if executor.kind == "dask" and tasks:
            from kanrun.study.dask import run_dask

            return run_dask(self._runner, tasks, resume, str(executor.address))
        return run_serial(self._runner, tasks, resume)

    def _evaluate(
        self, tables: Mapping[str, pandas.DataFrame]
    ) -> tuple[tuple[Claim, ...], Failure | None]:
        """Draw the figures and check the claims; return the claims and why checking failed."""
        experiment = self._runner.experiment
        broken = None
        claims: tuple[Claim, ...] = ()
        try:
            for name, draw in experiment.figures(tables):
                self._draw(name, draw)
        except StorageFailed:
            raise
        except Exception as error:
            self._warn(f"the figures could not be drawn: {Failure.of(error).reason}")
        try:
            claims = tuple(self._supported(claim) for claim in experiment.claims(tables))
        except Exception as error:
            broken = Failure(
                f"checking the claims failed: {Failure.of(error).reason}", traceback.format_exc()
            )
        return claims, broken

    def _draw(self, name: str, draw: Callable[[], Figure]) -> None:
        """Draw and store a figure; warn if that fails, since the results are complete without it."""
        try:
            self._folder.figure(name, draw(), self._runner.cfg.figure_formats)
        except StorageFailed:
            raise
        except Exception as error:
            self._warn(f"the figure {name} could not be drawn: {Failure.of(error).reason}")

    def _warn(self, text: str) -> None:
        """Record a warning and print it."""
        self._recorder.handle(Warned(text))
        self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    def _supported(self, claim: Claim) -> Claim:
        """The claim, which does not hold where trainings failed or were cut short: the others may be the good ones."""
        missing = len(self._recorder.finished) < len(self._tasks)
        if not missing and not self._ended_early:
            return claim
        why = "the others failed" if self._recorder.failures else "ended by max_cpu_seconds"
        came = f"from {len(self._recorder.finished)} of {len(self._tasks)} trainings, {why}"
        return replace(
            claim, holds=False, spread=f"{claim.spread}; {came}" if claim.spread else came
        )

    def _failure(self, broken: Failure | None) -> Failure | None:
        """Why the run failed, if it did: the first training that failed, else `broken`, of its figures or claims."""
        failures = self._recorder.failures
        if not failures:
            return broken
        if broken:  # incomplete tables may be why
            self._folder.record(Note(broken.reason, warning=True))
        first = failures[0][1]
        if len(self._tasks) == 1:
            return first
        return Failure(
            f"{len(failures)} of {len(self._tasks)} trainings failed; the first: {first.reason}",
            first.trace,
        )


def _filled(
    manifest: Manifest,
    experiment: Experiment,
    cfg: ExperimentConfig,
    folder: RunFolder,
    tasks: Sequence[Task],
) -> Manifest:
    name = getattr(experiment, "__name__", type(experiment).__name__).rpartition(".")[2]
    return replace(
        manifest,
        command=folder.command or name.replace("_", "-"),
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.n_seeds)),
        cells=len({task.index for task in tasks}),
        device=device_of(cfg),
        precision=cfg.precision,
        threads=threads_of(cfg),
        executor=asdict(cfg.executor),
    )


def _medians(summary: pandas.DataFrame | None) -> dict[str, float | None]:
    """The medians over seeds; none of several cells, whose numbers measure different things."""
    if summary is None or summary.empty or "cell" in summary:
        return {}
    numbers = summary.select_dtypes("number").drop(columns=["cell", "seed"], errors="ignore")
    return {str(name): float(value) for name, value in numbers.median().items()}
