"""Runs an experiment: settings checked, cells x seeds through an executor, records to the run folder."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kanrun.config import ExperimentConfig
from kanrun.config import rules as settings
from kanrun.errors import StorageFailed
from kanrun.runs.folder import RunFolder
from kanrun.runs.manifest import Claim, Manifest, Status
from kanrun.runs.reader import Run
from kanrun.runs.records import Note
from kanrun.study import report
from kanrun.study.executors import Resume, TaskEvents, Warned, run_local, run_serial
from kanrun.study.experiment import Experiment, Failure, Task, TaskRunner, takes_resume, tasks_of
from kanrun.study.progress import Reporter
from kanrun.study.recorder import Recorder
from kanrun.study.settings import cores, device_of, threads_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Outcome:
    """How a study ended; `failures` has one entry (cell, seed, reason, trace) a training that failed."""

    status: Status
    failures: tuple[dict[str, Any], ...] = ()
    claims: tuple[Claim, ...] = ()
    reason: str | None = None


def check(experiment: Experiment, cfg: ExperimentConfig) -> None:
    """Refuse what can be refused before a run exists: common settings, device, cells, the Dask address.

    Calls `experiment.check(cfg)` where there is one. Raises UsageError; writes nothing.
    """
    settings.check(cfg)
    if cfg.device not in {"auto", "cpu"}:
        device_of(cfg)
    own_check = getattr(experiment, "check", None)
    if own_check is not None:
        own_check(cfg)
    tasks_of(experiment, cfg)
    if cfg.executor.kind == "dask":
        from kanrun.study.dask import probe

        probe(str(cfg.executor.address))


def execute(
    experiment: Experiment,
    cfg: ExperimentConfig,
    folder: RunFolder,
    *,
    resume: bool = False,
    quiet: bool = False,
    argv: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Outcome:
    """Run all cells and seeds of `experiment` into `folder` and return how that ended.

    `resume=True` goes on with a folder from `RunFolder.reopen`: finished trainings are kept, others start
    again, from their last checkpoint where the experiment can. A training that fails is recorded with its
    cause and the others go on; the status is then FAILED. KeyboardInterrupt (also `Terminated`) is recorded
    as INTERRUPTED and raised again, with all rows kept. StorageFailed is raised when nothing can be written.
    Progress and results go to standard error.
    """
    tasks = tasks_of(experiment, cfg)
    if resume:
        folder.update(executor=asdict(cfg.executor))
    else:
        folder.start(_manifest(experiment, cfg, folder, tasks, argv, overrides))
    study = _Study(experiment, cfg, folder, tasks, report.error_console(), quiet)
    try:
        outcome = study.run(resume)
        folder.finish(outcome.status, outcome.reason, study.trace)
    except StorageFailed as error:
        _finish_if_possible(folder, Status.FAILED, str(error), traceback.format_exc())
        raise
    except KeyboardInterrupt as error:
        _finish_if_possible(folder, Status.INTERRUPTED, f"stopped by {_sender(error)}", None)
        raise
    except BaseException as error:
        _finish_if_possible(folder, Status.FAILED, Failure.of(error).reason, traceback.format_exc())
        raise
    if not quiet:
        study.report(outcome)
    return outcome


class _Study:
    """One execution of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        cfg: ExperimentConfig,
        folder: RunFolder,
        tasks: Sequence[Task],
        console: Console,
        quiet: bool,
    ) -> None:
        self._experiment, self._cfg, self._folder = experiment, cfg, folder
        self._tasks, self._console, self._quiet = tasks, console, quiet
        self._recorder = Recorder(folder, tasks)
        self._summary: pandas.DataFrame | None = None
        self.trace: str | None = None

    def run(self, resume: bool) -> Outcome:
        """Train, draw, check claims; raises only what ends the whole run (see `execute`)."""
        self._train(resume)
        self._folder.order()
        failures = self._recorder.failure_entries()
        tables = self._tables()
        self._summary = tables.get("summary")
        self._folder.update(metrics=_medians(self._summary))
        claims, broken = self._evaluate(tables) if self._recorder.finished else ((), None)
        reason = self._reason(broken)
        return Outcome(Status.FAILED if reason else Status.COMPLETED, failures, claims, reason)

    def report(self, outcome: Outcome) -> None:
        """Print the summary, the claims and the failures."""
        if self._summary is not None:
            report.print_summary(self._console, self._summary)
        report.print_claims(self._console, outcome.claims)
        if len(self._tasks) > 1:
            report.print_failures(self._console, outcome.failures)

    def _train(self, resume: bool) -> None:
        continuing = takes_resume(self._experiment)
        checkpoints = self._recorder.restore(self._tasks, continuing) if resume else {}
        open_tasks = [task for task in self._tasks if task.pair not in self._recorder.finished]
        with Reporter(self._console, len(self._tasks), self._quiet) as reporter:
            reporter.skip(len(self._tasks) - len(open_tasks))
            if self._recorder.lost:
                lost = Warned(
                    f"{self._recorder.lost} trainings had finished, but rows of them are gone: they start again"
                )
                self._recorder.handle(lost)
                reporter.handle(lost)
            events = self._events(open_tasks, lambda task: checkpoints.get(task.pair))
            try:
                for event in events:
                    self._recorder.handle(event)
                    reporter.handle(event)
            finally:
                events.close()

    def _events(self, tasks: Sequence[Task], resume: Resume) -> TaskEvents:
        executor = self._cfg.executor
        threads = threads_of(self._cfg)
        runner = TaskRunner(self._experiment, self._cfg, threads)
        kind = executor.kind if tasks else "serial"  # nothing left to do needs no workers
        if kind == "local":
            return run_local(runner, tasks, resume, executor.workers or max(1, cores() // threads))
        if kind == "dask":
            from kanrun.study.dask import run_dask

            return run_dask(runner, tasks, resume, str(executor.address))
        return run_serial(runner, tasks, resume)

    def _tables(self) -> dict[str, pandas.DataFrame]:
        run = Run(self._folder.path)
        return {name: run.table(name) for name in run.tables}

    def _evaluate(self, tables: Mapping[str, pandas.DataFrame]) -> tuple[tuple[Claim, ...], Failure | None]:
        """Draw figures and check claims; one that fails does not keep the other from being made."""
        broken = None
        claims: tuple[Claim, ...] = ()
        try:
            for name, figure in self._experiment.figures(tables):
                self._folder.figure(name, figure)
        except StorageFailed:
            raise
        except Exception as error:  # the trainings are recorded and stay
            broken = Failure(f"drawing the figures failed: {Failure.of(error).reason}", traceback.format_exc())
        try:
            claims = tuple(self._supported(claim) for claim in self._experiment.claims(tables))
        except Exception as error:
            broken = Failure(f"checking the claims failed: {Failure.of(error).reason}", traceback.format_exc())
        self._folder.update(claims=claims)
        return claims, broken

    def _supported(self, claim: Claim) -> Claim:
        """The claim, which does not hold where trainings failed: those that did not may be the good ones."""
        if not self._recorder.failures:
            return claim
        came = f"from {len(self._recorder.finished)} of {len(self._tasks)} trainings, the others failed"
        return replace(claim, holds=False, spread=f"{claim.spread}; {came}" if claim.spread else came)

    def _reason(self, broken: Failure | None) -> str | None:
        failures = self._recorder.failures
        if not failures:
            self.trace = broken.trace if broken else None
            return broken.reason if broken else None
        if broken:  # incomplete tables may be why
            self._folder.record(Note(broken.reason, warning=True))
        first = failures[0][1]
        self.trace = first.trace
        if len(self._tasks) == 1:
            return first.reason
        return f"{len(failures)} of {len(self._tasks)} trainings failed; the first: {first.reason}"


def _manifest(
    experiment: Experiment,
    cfg: ExperimentConfig,
    folder: RunFolder,
    tasks: Sequence[Task],
    argv: Sequence[str],
    overrides: Sequence[str],
) -> Manifest:
    name = getattr(experiment, "__name__", type(experiment).__name__).rpartition(".")[2]
    return Manifest(
        command=folder.command or name.replace("_", "-"),
        argv=tuple(argv),
        overrides=tuple(overrides),
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.seeds)),
        cells=len({task.index for task in tasks}),
        device=device_of(cfg),
        precision=cfg.precision,
        threads=threads_of(cfg),
        executor=asdict(cfg.executor),
    )


def _sender(error: KeyboardInterrupt) -> str:
    return "Ctrl-C" if type(error) is KeyboardInterrupt else "SIGTERM"


def _finish_if_possible(folder: RunFolder, status: Status, reason: str, trace: str | None) -> None:
    try:
        folder.finish(status, reason, trace)
    except StorageFailed:
        return  # the error on its way out tells more


def _medians(summary: pandas.DataFrame | None) -> dict[str, float | None]:
    """Return the medians over seeds; none of several cells, whose numbers are of different things."""
    if summary is None or summary.empty or "cell" in summary:
        return {}
    numbers = summary.select_dtypes("number").drop(columns=["cell", "seed"], errors="ignore")
    return {str(name): float(value) for name, value in numbers.median().items()}
