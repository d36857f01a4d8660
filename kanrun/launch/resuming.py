"""Going on with a run, or with the jobs of a sweep, that ended early."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kanrun.config import ExperimentConfig
from kanrun.errors import KanrunError, UsageError
from kanrun.launch import refusals
from kanrun.launch.ending import ended_well, is_complete, say_how_to_go_on, sweep_verdict
from kanrun.launch.job import load_experiment
from kanrun.launch.process import sigterm_raises, stdout_kept_clean
from kanrun.launch.request import Request
from kanrun.launch.schemas import typed
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain_stored
from kanrun.runs import Run, RunFolder, Sweep
from kanrun.runs.atomic import storing, write_atomic
from kanrun.study import execute as study


@dataclass(frozen=True)
class GoingOn:
    """How to go on.

    `force` takes it that a run of another host has ended; `executor` is where to go on, if not where it ran; `address`
    is that of the Dask scheduler. Numbers are the same in every executor.
    """

    quiet: bool = False
    strict: bool = False
    force: bool = False
    executor: str | None = None
    address: str | None = None


def resume(folder: Path, how: GoingOn) -> int:
    """Goes on with the run in `folder` from its stored configuration, and returns the exit code."""
    run = Run(folder)
    if is_complete(run.manifest):
        return _nothing_left(folder)
    command = run.manifest.command
    config = _config(command, run.config, folder / ".hydra/config.yaml", folder, how)
    study.check(load_experiment(command), config)
    with sigterm_raises() as signals:
        try:
            _go_on(run, config, how)
        except KeyboardInterrupt:
            say_how_to_go_on(folder)
            print(folder)
            return signals.exit_code
    print(folder)
    return 0 if ended_well(Run(folder).manifest, Request(command, quiet=how.quiet, strict=how.strict)) else 1


def resume_sweep(folder: Path, how: GoingOn) -> int:
    """Goes on with a sweep's jobs, one after the other, those that never began among them; returns the exit code.

    A job that fails does not stop the others. Raises UsageError, before anything is run, if a job still runs or its
    settings are refused.
    """
    sweep = Sweep.read(folder)
    jobs = [Run(folder / str(number)) for number in range(len(sweep.jobs))]
    left = [number for number, run in enumerate(jobs) if not _is_over(run)]
    if not left:
        return _nothing_left(folder)
    for number in left:
        if _began(jobs[number]) and jobs[number].is_alive and not (jobs[number].is_elsewhere and how.force):
            raise UsageError(f"job {number} of {folder} still runs; wait for the sweep, or stop it.")
    experiment = load_experiment(sweep.command)
    stored, file = [job.config for job in sweep.jobs], folder / "sweep.json"
    configs = {number: _config(sweep.command, stored[number], file, folder, how) for number in left}
    for config in configs.values():
        study.check(experiment, config)
    print(f"{len(jobs) - len(left)} of {len(jobs)} jobs were finished before and are kept", file=sys.stderr)
    with sigterm_raises() as signals:
        try:
            for number in left:
                try:
                    if _began(jobs[number]):
                        _go_on(jobs[number], configs[number], how)
                    else:
                        _begin(jobs[number], sweep, number, configs[number], how)
                except KanrunError as error:
                    print(f"kanrun: job {number}: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            say_how_to_go_on(folder)
            print(folder)
            return signals.exit_code
    print(folder)
    return sweep_verdict(
        folder, [job.overrides for job in sweep.jobs], Request(sweep.command, quiet=how.quiet, strict=how.strict)
    )


def _go_on(run: Run, config: ExperimentConfig, how: GoingOn) -> None:
    """Runs what is left of a run that began."""
    manifest = run.manifest
    with stdout_kept_clean(), _logging_to(run.path / "run.log"):
        study.execute(
            load_experiment(manifest.command),
            config,
            RunFolder.reopen(run.path, force=how.force),
            resume=True,
            quiet=how.quiet,
            argv=manifest.argv,
            overrides=manifest.overrides,
        )


def _begin(run: Run, sweep: Sweep, number: int, config: ExperimentConfig, how: GoingOn) -> None:
    """Runs a job that never began; its folder holds what Hydra would have written there."""
    job, hydra = sweep.jobs[number], run.path / ".hydra"
    with storing(hydra):
        hydra.mkdir(parents=True, exist_ok=True)
    write_atomic(hydra / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(job.config))).encode())
    write_atomic(hydra / "overrides.yaml", OmegaConf.to_yaml(list(job.overrides)).encode())
    with stdout_kept_clean(), _logging_to(run.path / "run.log"):
        study.execute(
            load_experiment(sweep.command),
            config,
            RunFolder(run.path, sweep.command),
            quiet=how.quiet,
            argv=sweep.argv,
            overrides=job.overrides,
        )


def _config(command: str, stored: Mapping[str, Any], file: Path, folder: Path, how: GoingOn) -> ExperimentConfig:
    """What is stored in `file` with its types, and where it is to go on. Raises UsageError."""
    try:
        config = typed(command, OmegaConf.create(dict(stored)), extras=True)
    except CONFIGURATION_ERRORS as error:
        raise explain_stored(error, file) from error
    if how.executor is not None:
        config.executor.kind = how.executor
    config.executor.address = refusals.address_of(config.executor, how.address, folder)
    return config


def _began(run: Run) -> bool:
    return (run.path / "run.json").exists()


def _is_over(run: Run) -> bool:
    return _began(run) and is_complete(run.manifest)


def _nothing_left(folder: Path) -> int:
    print(f"kanrun: {folder} is complete; there is nothing left to do", file=sys.stderr)
    print(folder)
    return 0


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Appends the log of the body to a file, as Hydra does in a first run. Raises UsageError for a link."""
    if path.is_symlink():
        raise UsageError(f"{path} is a link; a run that goes on must lie in one folder.")
    root = logging.getLogger()
    level, handler = root.level, logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
