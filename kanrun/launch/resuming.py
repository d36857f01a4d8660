"""Going on with a run or sweep that ended early, and running one again from its words to compare its numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kanrun.config import ExecutorConfig, ExperimentConfig
from kanrun.config.plugins import require_plugins
from kanrun.errors import UsageError
from kanrun.launch.composing import typed
from kanrun.launch.job import (
    Job,
    ended_well,
    gather_summaries,
    is_complete,
    load_experiment,
    say_how_to_go_on,
    sweep_verdict,
)
from kanrun.launch.process import signals_raise, stdout_kept_clean
from kanrun.launch.quoting import hydra_words
from kanrun.launch.refusals import address_of
from kanrun.launch.request import Request
from kanrun.launch.running import launched
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain_stored
from kanrun.runs import Run, Sweep
from kanrun.runs.manifest import SWEEP_FILE
from kanrun.runs.reader import holding
from kanrun.study import execute as study

#: Columns that measure the machine and not the training.
_TIMES = ("seconds", "time", "flops_per_second", "clock")
_FOLDERS = {
    "--config-dir": "config_dir",
    "-cd": "config_dir",
    "--config-path": "config_path",
    "-cp": "config_path",
    "--config-name": "config_name",
    "-cn": "config_name",
}


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
                    Job(command, run.manifest.argv, how.quiet).resume(
                        run, config, how.force, prepared
                    )
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
                Job(sweep.command, sweep.argv, how.quiet, sweep=True).run_jobs(
                    folder, sweep, configs, how.force
                )
        except KeyboardInterrupt:
            gather_summaries(folder)
            say_how_to_go_on(folder, how.executor, how.address)
            return signals.exit_code
    print(folder)
    return sweep_verdict(folder, how.quiet, how.strict)


def _what_is_left(folder: Path, sweep: Sweep, how: GoingOn) -> dict[int, ExperimentConfig]:
    runs = [Run(folder / str(number)) for number in range(len(sweep.jobs))]
    left = [
        number
        for number, run in enumerate(runs)
        if not (run.has_begun and is_complete(run.manifest))
    ]
    for number in left:
        if runs[number].has_begun:
            runs[number].check_ended(how.force)
    file = folder / SWEEP_FILE
    configs = {
        number: _config(sweep.command, sweep.jobs[number].config, file, folder, how)
        for number in left
    }
    for config in configs.values():
        study.check(load_experiment(sweep.command), config, force=True)
    if not how.quiet:
        kept = f"{len(runs) - len(left)} of {len(runs)} jobs are finished and kept"
        print(
            f"kanrun: {folder} is complete; there is nothing left to do" if not left else kept,
            file=sys.stderr,
        )
    return configs


def _config(
    command: str, stored: Mapping[str, Any], file: Path, folder: Path, how: GoingOn
) -> ExperimentConfig:
    """What is stored in `file` with its types, and where it is to go on. Raises UsageError."""
    try:
        config = typed(command, OmegaConf.create(dict(stored)), extras=True)
    except CONFIGURATION_ERRORS as error:
        raise explain_stored(error, file) from error
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    if how.executor not in (None, config.executor.kind):
        config.executor = ExecutorConfig(
            str(how.executor)
        )  # how many workers the other had says nothing of this one
    config.executor.address = address_of(config.executor, how.address, folder)
    return config


def rerun(
    run: Run, further: Sequence[str], outputs: Path, *, quiet: bool = False, strict: bool = False
) -> int:
    """Run `run` again into a new folder, with `further` overrides, and return the exit code.

    Without further overrides the numbers of `summary.csv` are compared, and what was found is said on standard error; 1
    if they differ. Raises UsageError for a run that does not say how it was started.
    """
    command, words, argv = _words_of(run)
    new = hydra_words(list(further), command, run.is_sweep)
    keys = {_key(word) for word in new}
    overrides = (*(word for word in words if _key(word) not in keys), *new)
    options: dict[str, Any] = {}
    for option, value in pairwise(argv):
        if option in _FOLDERS:
            options[_FOLDERS[option]] = value
    request = Request(
        command=command,
        overrides=overrides,
        argv=("kanrun", *sys.argv[1:]),
        outputs=outputs,
        multirun=run.is_sweep,
        quiet=quiet,
        strict=strict,
        **options,
    )
    code, folder = launched(request)
    if further or folder is None or code:
        return code
    again = Run(folder)
    pairs = list(zip(run.jobs, again.jobs, strict=False)) if run.is_sweep else [(run, again)]
    compared = [each for pair in pairs for each in _compared(*pair)]
    different = [sentence for sentence, equal in compared if not equal]
    same = f"all {len(compared)} columns of summary.csv are equal to the last digit, but for times"
    for sentence in different or [f"the same numbers as {run.name}: {same}"]:
        print(f"kanrun: {sentence}", file=sys.stderr)
    return 1 if different else 0


def _words_of(run: Run) -> tuple[str, list[str], Sequence[str]]:
    """The command of a run, its overrides in Hydra's grammar, and its words as typed."""
    if not run.is_sweep:
        manifest = run.manifest
        return manifest.command, list(manifest.overrides), manifest.argv
    sweep = Sweep.read(run.path)
    values: dict[str, list[str]] = {}
    for job in sweep.jobs:
        for word in job.overrides:
            key, _, value = word.partition("=")
            if value not in values.setdefault(key, []):
                values[key].append(value)
    words = [f"{key}={','.join(each)}" for key, each in values.items()]
    return sweep.command, words, sweep.argv


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _compared(before: Run, after: Run) -> list[tuple[str, bool]]:
    """A sentence and whether it is equal, for each number column of the summaries that does not measure time."""
    old, new = before.columns("summary"), after.columns("summary")
    if not old:
        raise UsageError(f"{before.name} has no summary to compare with.")
    found = []
    for name, values in old.items():
        if any(word in name for word in _TIMES):
            continue
        others = new.get(name, [])
        pairs = (f"{a!r} then, {b!r} now" for a, b in zip(values, others, strict=False) if a != b)
        difference = next(pairs, f"{len(values)} rows then, {len(others)} now")
        found.append((f"{name} differs from {before.name}: {difference}", values == others))
    return found
