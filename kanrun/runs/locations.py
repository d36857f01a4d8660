"""Where runs lie: new folders `outputs/<command>/vNNNN`, and runs found by name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs.files import storing, sync
from kanrun.runs.manifest import MANIFEST_FILE
from kanrun.runs.reader import Run, subfolders
from kanrun.suggestions import closest_names

_VERSION = re.compile(r"v(\d{4,9})")
_LATEST = "latest"
_SHOWN = 3  # names in a sentence that lists some of many
_HIDDEN = ".new-"


def allocate(outputs: Path, command: str, fill: Callable[[Path], None] | None = None) -> Path:
    """Return a new folder for a run of `command`; `outputs/<command>/latest` points at the newest.

    Of processes that allocate at once, the loser of a number takes the next one, and a number is never used twice. What
    `fill` writes into the folder that it is given is there as soon as the numbered folder is: it is written under a
    hidden name, and renamed once. Raises UsageError if `outputs` cannot be written, StorageFailed if the disk is full.
    """
    parent = outputs / command
    hidden = parent / f"{_HIDDEN}{secrets.token_hex(4)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        hidden.mkdir()
        (hidden / ".lock").touch()  # a folder that is not empty cannot be replaced by a rename
        if fill is not None:
            fill(hidden)
        folder = _numbered(hidden, parent)
        for place in (parent, outputs, outputs.absolute().parent):
            sync(place)
    except OSError as error:
        cause = error.strerror or str(error)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFailed(f"cannot make a run folder in {parent}: {cause}.") from error
        raise UsageError(
            f"cannot make a run folder in {parent}: {cause}; choose another place with --outputs."
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    _link_latest(parent)
    return folder


def _numbered(hidden: Path, parent: Path) -> Path:
    """Give the folder `hidden` the next free number in `parent`."""
    number = _highest(parent) + 1
    while True:
        folder = parent / f"v{number:04d}"
        try:
            if not folder.exists():  # what earlier versions left empty would be replaced
                hidden.rename(folder)
                return folder
        except OSError as error:
            if (
                error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.EACCES}
                or not folder.exists()
            ):
                raise
        number += 1


def _remove_abandoned(parent: Path) -> None:
    """Delete hidden folders whose process was killed before it gave them a number."""
    for hidden in parent.glob(f"{_HIDDEN}*"):
        with contextlib.suppress(
            KanrunError, OSError
        ):  # one without run.json may be about to get it
            if not Run(hidden).is_alive:
                shutil.rmtree(hidden, ignore_errors=True)


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


def remove_run(run: Run, outputs: Path, *, check_only: bool = False) -> None:
    """Delete the folder of `run`, or only check that it may be deleted; its number is not used again.

    Raises UsageError for a run outside `outputs`, a job of a sweep, a link, and a run that goes on; StorageFailed if
    the folder cannot be deleted.
    """
    path, place = run.path.resolve(), outputs.resolve()
    if run.path.is_symlink() or path.parent.parent != place or not _VERSION.fullmatch(path.name):
        job = path.parent.parent.parent == place and _VERSION.fullmatch(path.parent.name)
        why = (
            f"is a job of the sweep {run.name.rpartition('/')[0]}; remove that"
            if job
            else f"is not a run in {outputs}"
        )
        raise UsageError(f"{run.name} {why}; nothing was deleted.")
    for one in run.jobs or (run,):
        with contextlib.suppress(StorageFailed):
            one.check_ended(force=True)
    if not check_only:
        with storing(path):
            shutil.rmtree(path)


def find_runs(outputs: Path) -> list[Run]:
    """Return the runs below `outputs` in order of command and number; a sweep is one run, with jobs."""
    return [run for command in sorted(subfolders(outputs)) for run in _runs_of(outputs, command)]


def run_folders(outputs: Path) -> list[tuple[str, str]]:
    """The command and the number, such as ("fit", "v0003"), of each run folder below `outputs`, in their order."""
    return [
        (command, version)
        for command in sorted(subfolders(outputs))
        for version in _versions(outputs / command)
    ]


def find_run(text: str, outputs: Path, *, sweeps: bool = True) -> Run:
    """Return the one run that `text` names, in every command by the same rule, the first that fits:

    1. `fit/v0003`, `fit/3`, or `fit/v0003/0` for a job of a sweep; `fit/latest` is the highest number of that command,
       `latest` that of the command whose newest run began last;
    2. the path of a run's folder;
    3. a tag that one run alone bears;
    4. the beginning of a name that no other run's begins with.

    Raises UsageError, with near names, if no run or more than one is meant, and for a sweep where no `sweeps` are
    wanted, with the name of its best job.
    """
    wanted = text.strip().rstrip("/")
    run = _named(wanted, outputs) or _at_path(text, outputs) or _only(wanted, outputs)
    if run is None:
        raise UsageError(_unknown(text, outputs))
    if not sweeps and run.is_sweep:
        raise UsageError(
            f"{run.name} is a sweep of {len(run.jobs)} runs; name one of them, such as {run.single.name}"
            + (", the best." if run.best_job else ".")
        )
    return run


def _named(wanted: str, outputs: Path) -> Run | None:
    """Rule 1: the last part of a name may be a job's number."""
    parts = wanted.split("/")
    if wanted == _LATEST:
        newest = [
            versions[-1]
            for command in subfolders(outputs)
            if (versions := _runs_of(outputs, command))
        ]
        return max(newest, key=_began, default=None)
    if len(parts) not in (2, 3) or parts[0] not in subfolders(outputs):
        return None
    asked = re.fullmatch(r"v?(\d{1,9})", parts[1])
    runs = _runs_of(outputs, parts[0])
    if parts[1] != _LATEST:
        runs = [run for run in runs if asked and int(run.path.name[1:]) == int(asked[1])]
    if not runs:
        return None
    run = runs[-1]
    return (
        next((job for job in run.jobs if job.path.name == parts[2]), None)
        if len(parts) == 3
        else run
    )


def _at_path(text: str, outputs: Path) -> Run | None:
    """Rule 2; links are followed, so that what is stored of it stays true when `latest` moves on."""
    path = Path(
        os.path.expanduser(text)
    ).resolve()  # unlike Path's, it takes a name such as ~old for what it is
    if not text.strip() or not ((path / MANIFEST_FILE).is_file() or Run(path).is_sweep):
        return None
    with contextlib.suppress(ValueError):
        return Run(path, path.relative_to(outputs.resolve()).as_posix())
    return Run(path, str(path))


def _only(wanted: str, outputs: Path) -> Run | None:
    """Rules 3 and 4. Raises UsageError if several runs are meant."""
    if not wanted:
        return None
    runs = find_runs(outputs)
    tagged = [one for run in runs for one in (run, *run.jobs) if wanted in one.labels.tags]
    if len(tagged) > 1:
        raise UsageError(
            f"{len(tagged)} runs bear the tag {wanted}: {_some(tagged)}; name one of them."
        )
    begun = [run for run in runs if run.name.startswith(wanted)]
    if not tagged and len(begun) > 1:
        raise UsageError(
            f"{len(begun)} runs begin with {wanted!r}: {_some(begun)}; write more of the name."
        )
    return next(iter(tagged or begun), None)


def _some(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs[-_SHOWN:]]
    return f"{', '.join(names)}{' and others' if len(runs) > _SHOWN else ''}"


def _unknown(text: str, outputs: Path) -> str:
    names = [run.name for run in find_runs(outputs)]
    if not names:
        return f"there is no run {text!r}: {outputs} holds no runs yet."
    offer = ", ".join(closest_names(text, names) or names[-_SHOWN:])
    return f"there is no run {text!r} in {outputs}; there are {offer} (see `kanrun runs list`)."


def _began(run: Run) -> float:
    """When the run began, in seconds since 1970; the time of its folder where its record does not say."""
    with contextlib.suppress(KanrunError, OSError):
        if (started := run.manifest.started) is not None:
            return started.timestamp()
    try:
        return run.path.stat().st_mtime
    except OSError:
        return 0.0


def _runs_of(outputs: Path, command: str) -> list[Run]:
    return [
        Run(outputs / command / version, f"{command}/{version}")
        for version in _versions(outputs / command)
    ]


def _versions(command: Path) -> list[str]:
    """Names of the run folders of a command, in order of their numbers."""
    return sorted(
        (name for name in subfolders(command) if _VERSION.fullmatch(name)),
        key=lambda name: int(name[1:]),
    )
