"""Where runs lie: new folders `outputs/<command>/vNNNN`, and runs found by name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs.manifest import MANIFEST_FILE, SWEEP_FILE, Sweep
from kanrun.runs.reader import Run
from kanrun.suggestions import near_names

_VERSION = re.compile(r"v(\d{4,9})")
_JOB = re.compile(r"\d{1,9}")
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

    Their names are as `resolve_run` takes them: `fit/v0003`, or `fit/v0003/0` for a job of a sweep.
    """
    found = []
    for command in _folders(outputs):
        versions = (folder for folder in _folders(command) if _VERSION.fullmatch(folder.name))
        for version in sorted(versions, key=lambda folder: int(folder.name[1:])):
            name = f"{command.name}/{version.name}"
            jobs = _jobs(version)
            if (version / MANIFEST_FILE).exists() or not jobs:
                found.append(Run(version, name))
            found += [Run(job, f"{name}/{job.name}") for job in jobs]
    return found


def resolve_run(text: str, outputs: Path) -> Run:
    """Return the run that `text` names: `latest`, `fit/latest`, `fit/v0003`, `fit/v0003/0`, or a path.

    `latest` is the run that started last. Raises UsageError if there is no such run, with near names.
    """
    runs = find_runs(outputs)
    wanted = text.strip().rstrip("/")
    command, _, last = wanted.rpartition("/")
    if last == _LATEST:
        started = [run for run in runs if not command or run.name.startswith(f"{command}/")]
        if started:
            return max(started, key=_start)
    for run in runs:
        if run.name == wanted:
            return run
    path = Path(os.path.expanduser(text))  # unlike Path's, it takes a name such as ~old for what it is
    if text.strip() and (path / MANIFEST_FILE).is_file():
        return Run(path, str(path))
    raise UsageError(_unknown(text, path if text.strip() else outputs, runs, outputs))


def resolve_sweep(text: str, outputs: Path) -> Path | None:
    """Return the folder of the sweep that `text` names, or whose job `latest` is; None if it names none."""
    wanted = text.strip().rstrip("/")
    if wanted.rpartition("/")[2] == _LATEST:
        with contextlib.suppress(UsageError):
            folder = resolve_run(text, outputs).path.parent
            return folder if (folder / SWEEP_FILE).is_file() else None
    for folder in (outputs / wanted, Path(os.path.expanduser(text))):
        if wanted and (folder / SWEEP_FILE).is_file():
            return folder
    return None


def _unknown(text: str, path: Path, runs: list[Run], outputs: Path) -> str:
    jobs = _jobs(path if path.is_dir() else outputs / text)
    if jobs:
        one = f"{text.rstrip('/')}/{jobs[0].name}"
        return f"{text!r} is a sweep of {len(jobs)} runs; name one of them, such as {one} (`runs resume` takes all)."
    if not runs:
        return f"there is no run {text!r}: {outputs} holds no runs yet."
    offer = ", ".join(near_names(text, [run.name for run in runs]) or [run.name for run in runs[-3:]])
    return f"there is no run {text!r} in {outputs}; there are {offer} (see `kanrun runs list`)."


def _start(run: Run) -> tuple[datetime, str]:
    started = None
    with contextlib.suppress(KanrunError):
        started = run.manifest.started
    return started or datetime.min.replace(tzinfo=UTC), run.name


def _folders(parent: Path) -> Iterator[Path]:
    try:
        entries = sorted(parent.iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir() and not entry.is_symlink():
            yield entry


def _jobs(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs, those that are still to begin among them."""
    names = {job.name for job in _folders(folder) if _JOB.fullmatch(job.name) and (job / MANIFEST_FILE).exists()}
    if (folder / SWEEP_FILE).is_file():
        with contextlib.suppress(StorageFailed):
            names |= {str(number) for number in range(len(Sweep.read(folder).jobs))}
    return [folder / name for name in sorted(names, key=int)]
