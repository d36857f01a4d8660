"""Runs an experiment: settings checked, cells x seeds through an executor, records to the run folder."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import asdict

from kanrun.config import ExperimentConfig
from kanrun.errors import StorageFailed
from kanrun.runs.folder import RunFolder
from kanrun.runs.manifest import Manifest, Status
from kanrun.study import report
from kanrun.study.conduct import Outcome, Study
from kanrun.study.experiment import Experiment, Failure, Task, tasks_of
from kanrun.study.settings import check_settings, device_of, executor_of, threads_of


def check(experiment: Experiment, cfg: ExperimentConfig) -> None:
    """Refuse what can be refused before a run exists: common settings, device, cells, the Dask address.

    Calls `experiment.check(cfg)` where there is one. Raises UsageError; writes nothing.
    """
    check_settings(cfg)
    if cfg.device not in {"auto", "cpu"}:
        device_of(cfg)
    own_check = getattr(experiment, "check", None)
    if own_check is not None:
        own_check(cfg)
    tasks_of(experiment, cfg)
    executor = executor_of(cfg)
    if executor.kind == "dask":
        from kanrun.study.dask import probe

        probe(str(executor.address))


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
    if not resume:
        folder.start(_manifest(experiment, cfg, folder, tasks, argv, overrides))
    study = Study(experiment, cfg, folder, tasks, report.error_console(), quiet)
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
        executor=asdict(executor_of(cfg)),
    )


def _sender(error: KeyboardInterrupt) -> str:
    return "Ctrl-C" if type(error) is KeyboardInterrupt else "SIGTERM"


def _finish_if_possible(folder: RunFolder, status: Status, reason: str, trace: str | None) -> None:
    try:
        folder.finish(status, reason, trace)
    except StorageFailed:
        return  # the error on its way out tells more
