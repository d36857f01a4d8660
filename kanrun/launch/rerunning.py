"""Running a run or a sweep again from the words that it was started with, and comparing its numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from kanrun.errors import UsageError
from kanrun.launch.quoting import hydra_words
from kanrun.launch.request import Request
from kanrun.launch.running import launched
from kanrun.runs import Run, Sweep

#: Columns that measure the machine and not the training.
_TIMES = ("seconds", "time", "flops_per_second", "clock")
_FOLDERS = {"--config-dir": "config_dir", "-cd": "config_dir", "--config-path": "config_path",
            "-cp": "config_path", "--config-name": "config_name", "-cn": "config_name"}  # fmt: skip


def rerun(run: Run, further: Sequence[str], outputs: Path, *, quiet: bool = False, strict: bool = False) -> int:
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
        command=command, overrides=overrides, argv=("kanrun", *sys.argv[1:]), outputs=outputs,
        multirun=run.is_sweep, quiet=quiet, strict=strict, **options,
    )  # fmt: skip
    code, folder = launched(request)
    if further or folder is None or code:
        return code
    again = Run(folder)
    pairs = list(zip(run.jobs, again.jobs, strict=False)) if run.is_sweep else [(run, again)]
    compared = [each for pair in pairs for each in _compared(*pair)]
    different = [sentence for sentence, same in compared if not same]
    for sentence in different or [f"the same numbers as {run.name}: {_counted(compared)}"]:
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
        text = f"{name} differs from {before.name}: {_first_difference(values, others)}"
        found.append((text, values == others))
    return found


def _first_difference(before: Sequence[object], after: Sequence[object]) -> str:
    pairs = (f"{a!r} then, {b!r} now" for a, b in zip(before, after, strict=False) if a != b)
    return next(pairs, f"{len(before)} rows then, {len(after)} now")


def _counted(compared: Sequence[tuple[str, bool]]) -> str:
    return f"all {len(compared)} columns of summary.csv are equal to the last digit, but for times"
