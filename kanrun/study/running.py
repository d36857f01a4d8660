"""A run from its study to its exit code: started, resumed, or repeated."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from kanrun.config import EXPERIMENTS, ExecutorConfig
from kanrun.config import rules as settings
from kanrun.config.plugins import require_plugins
from kanrun.errors import UsageError
from kanrun.monitoring import enable_gc, uninterrupted
from kanrun.runs import Run, RunFolder, Status
from kanrun.study import report
from kanrun.study.dry_run import describe_plan
from kanrun.study.execute import Attempt, check, execute, manifest_of
from kanrun.study.points import Point, Study
from kanrun.study.process import logging_to, signals_raise, stdout_kept_clean

#: Columns that measure the machine and not the training.
_TIMES = ("seconds", "time", "flops_per_second", "clock")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that are not settings.

    Attributes:
        outputs: Folder of run folders.
        quiet: Print warnings and errors only.
        verbose: Print how choices were made.
        strict: Exit with code 1 if a claim does not hold.
        force: Run what may not fit into memory; resume a run that another host started.
        dry_run: Say what would run, and write nothing.
        began: CPU seconds of this process when the run was asked for.
        executor: Executor to resume on; default: the original one.
        address: Address of the Dask scheduler to resume on.
    """

    outputs: Path = Path("outputs")
    quiet: bool = False
    verbose: bool = False
    strict: bool = False
    force: bool = False
    dry_run: bool = False
    began: float | None = None
    executor: str | None = None
    address: str | None = None


def load_experiment(command: str) -> ModuleType:
    """Import the experiment of a command. Raises UsageError if there is none of that name."""
    return importlib.import_module(EXPERIMENTS.find(command).builder)


def run_study(
    study: Study, options: RunOptions, executor: ExecutorConfig | None = None
) -> tuple[int, Path | None]:
    """Check all points, make the run folder, run, and return the exit code and the folder.

    `executor` is one in place of the configured one. Standard output gets the folder as its only
    line. Raises UsageError before the folder exists.
    """
    experiment = load_experiment(study.command)
    checked = check(experiment, study, force=options.force, executor=executor)
    if options.dry_run:
        for line in describe_plan(experiment, study, checked, options.outputs):
            print(line)
        return 0, None
    enable_gc()
    attempt = Attempt(False, executor, options.quiet, options.verbose, options.began)
    folder: RunFolder | None = None
    with signals_raise() as signals:
        try:
            with uninterrupted():  # else a signal could leave a folder that nobody knows of
                manifest = manifest_of(study, checked)
                folder = RunFolder.create(options.outputs, manifest, study.store)
            with stdout_kept_clean(), logging_to(folder.path / "run.log"):
                execute(experiment, study, folder, checked, attempt)
        except KeyboardInterrupt:
            if folder is None:
                raise
            if folder.manifest.status == Status.RUNNING:
                folder.finish(Status.INTERRUPTED, "stopped before it began")
            print_resume_command(folder.path, options)
            return signals.exit_code, folder.path
        except Exception:
            if folder is None:
                raise
            _print_trace()  # run.json has the reason
    return _end(folder.path, options), folder.path


def resume_run(run: Run, options: RunOptions) -> int:
    """Continue a run that stopped early from its stored configuration, and return the exit code.

    Finished trainings are kept. Raises UsageError for a run that is running, or cannot be resumed.
    """
    if run.point is not None:
        raise UsageError(f"{run.name} is a point of a run, which is resumed as a whole.")
    require_plugins(run.manifest.versions)
    if run.manifest.is_complete:
        print(f"kanrun: {run.path} is complete; there is nothing left to do", file=sys.stderr)
        return _end(run.path, options)
    run.check_ended(options.force)
    study = Study.read(run.path)
    executor = _executor(study, run.path, options)
    experiment = load_experiment(study.command)
    checked = check(experiment, study, force=True, executor=executor)
    enable_gc()
    attempt = Attempt(True, executor, options.quiet, options.verbose)
    with signals_raise() as signals:
        folder = RunFolder.reopen(run.path, force=options.force)
        try:
            with stdout_kept_clean(), logging_to(run.path / "run.log"):
                execute(experiment, study, folder, checked, attempt)
        except KeyboardInterrupt:
            print_resume_command(run.path, options)
            return signals.exit_code
        except UsageError:  # such as other cells than those that were recorded
            raise
        except Exception:
            _print_trace()  # run.json has the reason
    return _end(run.path, options)


def _print_trace() -> None:
    if os.environ.get("KANRUN_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)


def _executor(study: Study, folder: Path, options: RunOptions) -> ExecutorConfig:
    """Return where to resume. A stored address is not used: who answers there can run code here."""
    executor = study.config(0).executor
    if options.executor not in (None, executor.kind):
        executor = ExecutorConfig(str(options.executor))
    if executor.kind == "dask" and options.address is None:
        raise UsageError(
            f"{folder} is to run on a Dask cluster (executor.address={executor.address}). Name the "
            "scheduler again with --address, since it can run code here, or add --executor local."
        )
    if executor.kind != "dask" and options.address is not None:
        raise UsageError(
            f"--address is for runs with executor=dask; {folder} has executor={executor.kind}."
        )
    executor = replace(executor, address=options.address)
    settings.check(executor, "executor.")
    return executor


def print_resume_command(folder: Path, options: RunOptions) -> None:
    """Print the command that resumes an interrupted run, and its folder to standard output."""
    words = ["kanrun", "runs", "resume", str(folder)]
    for option, value in (("--executor", options.executor), ("--address", options.address)):
        words += [option, value] if value is not None else []
    print(f"kanrun: interrupted; `{shlex.join(words)}` continues from there", file=sys.stderr)
    print(folder)


def _end(path: Path, options: RunOptions) -> int:
    print(path)
    return 0 if report_outcome(Run(path), options) else 1


def report_outcome(run: Run, options: RunOptions) -> bool:
    """Return whether the run succeeded; print why not, or why it stopped early."""
    manifest = run.manifest
    if manifest.status != Status.COMPLETED or manifest.reason:
        reason = manifest.reason or f"the run ended {manifest.status}"
        print(f"kanrun: {reason}", file=sys.stderr)
    # A run with several trainings has listed what failed already, unless it was quiet.
    for failure in manifest.failures if options.quiet and manifest.trainings > 1 else ():
        reason = failure.get("reason", "failed")
        print(f"kanrun: {report.training_of(failure)}: {reason}", file=sys.stderr)
    broken = 0
    for point in run.points if options.strict else ():
        name = f"{point.point}: " if point.point else ""
        for claim in point.manifest.claims:
            if not claim.holds:
                broken += 1
                detail = f"{claim.sentence} ({claim.measured}, {claim.bound})"
                print(f"kanrun: {name}does not hold: {detail}", file=sys.stderr)
    return manifest.is_complete and not broken


def rerun(run: Run, options: RunOptions) -> int:
    """Run `run`, or a point of it, again from its stored configuration, and compare the summaries.

    Returns 1 if numbers differ that the same version on the same machine should reproduce.
    """
    require_plugins(run.manifest.versions)
    study = Study.read(run.path)
    if run.point is not None:
        point = Point(0, run.point.overrides)
        study = replace(study, bases=(run.config,), points=(point,))
    study = replace(study, argv=("kanrun", *sys.argv[1:]))
    code, folder = run_study(study, options, _executor(study, run.path, options))
    if folder is None or code:
        return code
    compared = list(_compared(run, Run(folder)))
    different = [sentence for sentence, equal in compared if not equal]
    same = f"all {len(compared)} columns of summary.csv are equal to the last digit, but for times"
    for sentence in different or [f"the same numbers as {run.name}: {same}"]:
        print(f"kanrun: {sentence}", file=sys.stderr)
    return 1 if different else 0


def _compared(before: Run, after: Run) -> Iterator[tuple[str, bool]]:
    """Yield a sentence and whether it is equal, for each column that does not measure time."""
    old, new = before.columns("summary"), after.columns("summary")
    if not old:
        raise UsageError(f"{before.name} has no summary to compare with.")
    for name, values in old.items():
        if any(word in name for word in _TIMES):
            continue
        others = new.get(name, [])
        pairs = (f"{a!r} then, {b!r} now" for a, b in zip(values, others, strict=False) if a != b)
        difference = next(pairs, f"{len(values)} rows then, {len(others)} now")
        yield f"{name} differs from {before.name}: {difference}", values == others
