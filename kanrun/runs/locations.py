"""Where runs lie: new folders `outputs/<command>/vNNNN`, and runs found by name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs.manifest import MANIFEST_FILE, SWEEP_FILE
from kanrun.runs.reader import JOB, Run, folders_in
from kanrun.suggestions import near_names

_VERSION = re.compile(r"v(\d{4,9})")
_LATEST = "latest"


def allocate(outputs: Path, command: str) -> Path:
    """Return a new folder for a run of `command`; `outputs/<command>/latest` points at the newest.

    `mkdir` is the lock: of processes that allocate at once, the loser of a number takes the next one. A number is never
    used twice. Raises UsageError if `outputs` cannot be written, StorageFailed if the disk is full.
    """
    parent = outputs / command
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = _highest(parent) + 1
        while True:
            folder = parent / f"v{number:04d}"
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
    except OSError as error:
        cause = error.strerror or str(error)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFailed(f"cannot make a run folder in {parent}: {cause}.") from error
        raise UsageError(
            f"cannot make a run folder in {parent}: {cause}; choose another place with --outputs."
        ) from error
    _link_latest(parent)
    return folder


def _highest(parent: Path) -> int:
    """The highest number in use; a dangling `latest` still names a folder that was deleted."""
    names = [entry.name for entry in os.scandir(parent)]
    with contextlib.suppress(OSError):
        names.append(os.readlink(parent / _LATEST))
    return max((int(match[1]) for name in names if (match := _VERSION.fullmatch(name))), default=0)


def _link_latest(parent: Path) -> None:
    """Point `latest` at the highest number, where the file system has links."""
    link, temporary = parent / _LATEST, parent / f".{_LATEST}.{secrets.token_hex(4)}.tmp"
    number = 0
    with contextlib.suppress(OSError, NotImplementedError):
        # Whoever links last looks again, so that `latest` is right whatever the order of two processes.
        while (highest := _highest(parent)) != number:
            number = highest
            temporary.symlink_to(f"v{number:04d}", target_is_directory=True)
            os.replace(temporary, link)


def find_runs(outputs: Path) -> list[Run]:
    """Return all runs below `outputs`, jobs of sweeps included, in order of command and number.

    Their names are as `find_run` takes them: `fit/v0003`, or `fit/v0003/0` for a job of a sweep.
    """
    found = []
    for command in folders_in(outputs):
        versions = (folder for folder in folders_in(command) if _VERSION.fullmatch(folder.name))
        for version in sorted(versions, key=lambda folder: int(folder.name[1:])):
            name = f"{command.name}/{version.name}"
            run = Run(version, name)
            found += ([run] if (version / MANIFEST_FILE).exists() or not run.jobs else []) + list(run.jobs)
    return found


def find_run(text: str, outputs: Path) -> Run:
    """Return the run or sweep (a run with `jobs`) that `text` names: the one meaning of a RUN everywhere.

    `fit/latest` is the newest of a command, by number; `latest` that of the command whose run started last. Others are
    `fit/v0003`, `fit/v0003/0` for a job of a sweep, a folder's path, or the beginning of one name alone, such as `ben`.
    Raises UsageError if there is no such run, with near names, or if several begin so.
    """
    runs = find_runs(outputs)
    known = {name: run for run in runs for name, run in _with_sweep(run)}
    wanted = text.strip().rstrip("/")
    command, _, last = wanted.rpartition("/")
    if last == _LATEST and (started := [run for run in runs if not command or run.name.startswith(f"{command}/")]):
        newest = started[-1] if command else max(started, key=_start)
        return _with_sweep(newest)[0][1]
    if wanted in known:
        return known[wanted]
    path = Path(os.path.expanduser(text))  # unlike Path's, it takes a name such as ~old for what it is
    if text.strip() and ((path / MANIFEST_FILE).is_file() or Run(path).jobs):
        return Run(path, str(path))
    begun = [name for name in known if wanted and name.startswith(wanted) and not _is_job(name, known)]
    if len(begun) == 1:
        return known[begun[0]]
    if begun:
        raise UsageError(f"{text!r} is the beginning of {len(begun)} runs: {', '.join(begun[:5])}; name one of them.")
    raise UsageError(_unknown(text, runs, outputs))


def _with_sweep(run: Run) -> list[tuple[str, Run]]:
    """The run by its name, after the sweep that it is a job of."""
    name, _, job = run.name.rpartition("/")
    return [(name, Run(run.path.parent, name)), (run.name, run)] if JOB.fullmatch(job) else [(run.name, run)]


def _is_job(name: str, known: Mapping[str, Run]) -> bool:
    return name.rpartition("/")[0] in known


def resolve_run(text: str, outputs: Path) -> Run:
    """As `find_run`, of a sweep that is the latest its job that started last. Raises UsageError for other sweeps."""
    found = find_run(text, outputs)
    if not found.jobs:
        return found
    if text.strip().rpartition("/")[2] == _LATEST:
        return max(found.jobs, key=_start)
    one = f"{text.rstrip('/')}/{found.jobs[0].path.name}"
    raise UsageError(
        f"{text!r} is a sweep of {len(found.jobs)} runs; name one of them, such as {one} (`runs resume` takes all)."
    )


def resolve_sweep(text: str, outputs: Path) -> Path | None:
    """Return the folder of the sweep that `text` names; None if it names none."""
    with contextlib.suppress(UsageError):
        folder = find_run(text, outputs).path
        return folder if (folder / SWEEP_FILE).is_file() else None
    return None


def _unknown(text: str, runs: list[Run], outputs: Path) -> str:
    if not runs:
        return f"there is no run {text!r}: {outputs} holds no runs yet."
    offer = ", ".join(near_names(text, [run.name for run in runs]) or [run.name for run in runs[-3:]])
    return f"there is no run {text!r} in {outputs}; there are {offer} (see `kanrun runs list`)."


def _start(run: Run) -> tuple[datetime, str]:
    started = None
    with contextlib.suppress(KanrunError):
        started = run.manifest.started
    return started or datetime.min.replace(tzinfo=UTC), run.name
