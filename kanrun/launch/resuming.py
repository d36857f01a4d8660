"""Going on with a run, or with the jobs of a sweep, that ended early."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kanrun.config import ExecutorConfig, ExperimentConfig
from kanrun.config.plugins import require_plugins
from kanrun.errors import UsageError
from kanrun.launch.composing import typed
from kanrun.launch.exit_status import ended_well, gather_summaries, is_complete, say_how_to_go_on, sweep_verdict
from kanrun.launch.job import Job, load_experiment
from kanrun.launch.process import signals_raise, stdout_kept_clean
from kanrun.launch.refusals import address_of
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain_stored
from kanrun.runs import Run, Sweep
from kanrun.runs.manifest import SWEEP_FILE
from kanrun.runs.reader import holding
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
    if not run.has_begun and (folder.parent / SWEEP_FILE).is_file():
        raise UsageError(
            f"{folder} never began; `kanrun runs resume {folder.parent}` runs it with the rest of its sweep."
        )
    require_plugins(run.manifest.versions)
    command = run.manifest.command
    if is_complete(run.manifest):
        print(f"kanrun: {folder} is complete; there is nothing left to do", file=sys.stderr)
    else:
        run.check_ended(how.force)
        config = _config(command, run.config, folder / ".hydra/config.yaml", folder, how)
        prepared = study.check(load_experiment(command), config, force=True)
        with signals_raise() as signals:
            try:
                with stdout_kept_clean():
                    Job(command, run.manifest.argv, how.quiet).resume(run, config, how.force, prepared)
            except KeyboardInterrupt:
                say_how_to_go_on(folder, how.executor, how.address)
                return signals.exit_code
    print(folder)
    return 0 if ended_well(Run(folder).manifest, how.quiet, how.strict) else 1


def resume_sweep(folder: Path, how: GoingOn) -> int:
    """Goes on with a sweep's jobs, one after the other, those that never began among them; returns the exit code.

    A job that fails does not stop the others. Raises UsageError, before anything is run, if the sweep or a job of it
    still goes on, or if its settings are refused.
    """
    sweep = Sweep.read(folder)
    with holding(folder), signals_raise() as signals:
        try:
            configs = _what_is_left(folder, sweep, how)
            with stdout_kept_clean():
                Job(sweep.command, sweep.argv, how.quiet, sweep=True).run_jobs(folder, sweep, configs, how.force)
        except KeyboardInterrupt:
            gather_summaries(folder)
            say_how_to_go_on(folder, how.executor, how.address)
            return signals.exit_code
    print(folder)
    return sweep_verdict(folder, how.quiet, how.strict)


def _what_is_left(folder: Path, sweep: Sweep, how: GoingOn) -> dict[int, ExperimentConfig]:
    runs = [Run(folder / str(number)) for number in range(len(sweep.jobs))]
    left = [number for number, run in enumerate(runs) if not (run.has_begun and is_complete(run.manifest))]
    for number in left:
        if runs[number].has_begun:
            runs[number].check_ended(how.force)
    file = folder / SWEEP_FILE
    configs = {number: _config(sweep.command, sweep.jobs[number].config, file, folder, how) for number in left}
    for config in configs.values():
        study.check(load_experiment(sweep.command), config, force=True)
    if not how.quiet:
        kept = f"{len(runs) - len(left)} of {len(runs)} jobs are finished and kept"
        print(f"kanrun: {folder} is complete; there is nothing left to do" if not left else kept, file=sys.stderr)
    return configs


def _config(command: str, stored: Mapping[str, Any], file: Path, folder: Path, how: GoingOn) -> ExperimentConfig:
    """What is stored in `file` with its types, and where it is to go on. Raises UsageError."""
    try:
        config = typed(command, OmegaConf.create(dict(stored)), extras=True)
    except CONFIGURATION_ERRORS as error:
        raise explain_stored(error, file) from error
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    if how.executor not in (None, config.executor.kind):
        config.executor = ExecutorConfig(str(how.executor))  # how many workers the other had says nothing of this one
    config.executor.address = address_of(config.executor, how.address, folder)
    return config
