"""Folders of runs: numbers that are used once, and names by which people find runs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from kanrun.errors import KanrunError, StorageFailed, UsageError, closest_names
from kanrun.runs.files import storing, sync
from kanrun.runs.reader import Run
from kanrun.runs.records import MANIFEST_FILE

#: Names of run folders: `v` and a number of 4 to 9 digits. Other folders are not runs.
VERSION = re.compile(r"v(\d{4,9})")
#: Name of the link to the run with the highest number.
LATEST = "latest"
#: Prefix of folders that are being filled and have no number yet.
_HIDDEN = ".new-"
#: Largest number of run names in an error message.
_SHOWN = 3
#: Point numbers of this many digits or more are refused.
_DIGITS = 10


def remove_run(run: Run, outputs: Path, *, check_only: bool = False) -> None:
    """Delete the folder of `run`; with `check_only`, only check that it may be deleted.

    Raises:
        UsageError: If the run is outside `outputs`, still running, or a point of a run, or if its
            folder is a link.
        StorageFailed: If the folder cannot be deleted.
    """
    path = run.path.resolve()
    place = outputs.resolve()
    if run.point is not None:
        raise UsageError(f"{run.name} is a point of a run, which is removed as a whole.")
    if run.path.is_symlink() or path.parent.parent != place or not VERSION.fullmatch(path.name):
        raise UsageError(f"{run.name} is not a run in {outputs}; nothing was deleted.")
    with contextlib.suppress(StorageFailed):
        run.check_ended(force=True)
    if not check_only:
        with storing(path):
            shutil.rmtree(path)


def find_runs(outputs: Path) -> list[Run]:
    """Return all runs in `outputs`, sorted by command and number."""
    return [run for command in sorted(_subfolders(outputs)) for run in _runs_of(outputs, command)]


def _runs_of(outputs: Path, command: str) -> list[Run]:
    names = filter(VERSION.fullmatch, _subfolders(outputs / command))
    ordered = sorted(names, key=lambda name: int(name[1:]))
    return [Run(outputs / command / name, f"{command}/{name}") for name in ordered]


def _subfolders(parent: Path) -> list[str]:
    """Return the names of the folders in `parent`, except links and hidden folders."""
    try:
        with os.scandir(parent) as entries:
            return [
                entry.name
                for entry in entries
                if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def find_run(text: str, outputs: Path, *, one: bool = False) -> Run:
    """Return the run or point that `text` names.

    These forms are tried in turn:

    1. A name, such as `fit/v0003` or `fit/3`; for point 7 of a run of several points, `fit/3/7`.
       `fit/latest` is the run of `fit` with the highest number. `latest` is the run that began
       last among the latest runs of all commands.
    2. The path of a run folder, or of a point: `PATH/7`.
    3. A tag that only one run has.
    4. The beginning of the name of exactly one run.

    Args:
        text: What the user typed.
        outputs: Folder that contains the run folders.
        one: Whether to refuse a run of several points; the error names its best point.

    Raises:
        UsageError: If `text` names no run (the message lists similar names) or several runs.
    """
    wanted = text.strip().rstrip("/")
    run = _named(wanted, outputs) or run_at(text, outputs) or _only(wanted, outputs)
    if run is None:
        names = [run.name for run in find_runs(outputs)]
        if not names:
            raise UsageError(f"there is no run {text!r}: {outputs} holds no runs yet.")
        offer = ", ".join(closest_names(text, names) or names[-_SHOWN:])
        raise UsageError(
            f"there is no run {text!r} in {outputs}; there are {offer} (see `kanrun runs list`)."
        )
    if one:
        run.check_single()
    return run


def _named(wanted: str, outputs: Path) -> Run | None:
    """Return the run or point that is named in form 1 of `find_run`, or None."""
    if wanted == LATEST:
        runs = [runs[-1] for name in _subfolders(outputs) if (runs := _runs_of(outputs, name))]
        return max(runs, key=Run.began, default=None)
    command, _, rest = wanted.partition("/")
    asked = re.fullmatch(rf"(?:v?(\d{{1,9}})|{LATEST})(?:/([^/]*))?", rest)
    if asked is None or command not in _subfolders(outputs):
        return None
    runs = _runs_of(outputs, command)
    if asked[1] is not None:
        runs = [run for run in runs if int(run.path.name[1:]) == int(asked[1])]
    return _point(runs[-1], asked[2]) if runs else None


def _point(run: Run, number: str | None) -> Run | None:
    """Return the point `number` of `run`, or None if there is none; without a number, the run."""
    if number is None:
        return run
    points = run.points if run.has_points else ()
    is_one = number.isdecimal() and len(number) < _DIGITS and int(number) < len(points)
    return points[int(number)] if is_one else None


def run_at(text: str, outputs: Path) -> Run | None:
    """Return the run or point at the path `text`, or None. Links such as `latest` are followed."""
    if not text.strip():
        return None
    # Unlike Path.expanduser, this does not raise for a name such as ~old.
    path = Path(os.path.expanduser(text)).resolve()
    number = None
    if not (path / MANIFEST_FILE).is_file():
        number = path.name
        path = path.parent
    if not (path / MANIFEST_FILE).is_file():
        return None
    name = str(path)
    with contextlib.suppress(ValueError):
        name = path.relative_to(outputs.resolve()).as_posix()
    return _point(Run(path, name), number)


def _only(wanted: str, outputs: Path) -> Run | None:
    """Return the run named in form 3 or 4 of `find_run`, or None; UsageError if several fit."""
    runs = find_runs(outputs) if wanted else []
    tagged = [run for run in runs if wanted in run.labels.tags]
    fitting = tagged or [run for run in runs if run.name.startswith(wanted)]
    if len(fitting) > 1:
        names = ", ".join(run.name for run in fitting[-_SHOWN:])
        more = " and others" * (len(fitting) > _SHOWN)
        what = f"have the tag {wanted}" if tagged else f"begin with {wanted!r}"
        remedy = "name one of them" if tagged else "write more of the name"
        raise UsageError(f"{len(fitting)} runs {what}: {names}{more}; {remedy}.")
    return fitting[0] if fitting else None


def allocate(outputs: Path, command: str, fill: Callable[[Path], None]) -> Path:
    """Make a new folder for a run of `command`, and point `outputs/<command>/latest` at it.

    `fill` writes into a hidden folder, which is then renamed to the next free number. If several
    processes do this at once, each gets a different number. A number is not used again after its
    run was deleted, because `latest` still names it.

    Raises:
        UsageError: If `outputs` cannot be written.
        StorageFailed: If the disk is full.
    """
    parent = outputs / command
    hidden = parent / f"{_HIDDEN}{secrets.token_hex(4)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for abandoned in parent.glob(f"{_HIDDEN}*"):  # left by processes that were killed
            # A folder without run.json raises an error here and is kept: it may be in preparation.
            with contextlib.suppress(KanrunError, OSError):
                if not Run(abandoned).is_alive:
                    shutil.rmtree(abandoned, ignore_errors=True)
        hidden.mkdir()
        # The lock file makes the folder non-empty, so a rename by another process cannot replace
        # it.
        (hidden / ".lock").touch()
        fill(hidden)
        number = _highest(parent)
        folder = hidden
        while folder is hidden:
            number += 1
            try:
                folder = hidden.rename(parent / f"v{number:04d}")
            except OSError:  # another process has taken that name
                if not (parent / f"v{number:04d}").exists():
                    raise
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


def _highest(parent: Path) -> int:
    """Return the highest number in use, or 0. A dangling `latest` counts: its run was deleted."""
    names = [entry.name for entry in os.scandir(parent)]
    with contextlib.suppress(OSError):
        names.append(os.readlink(parent / LATEST))
    return max((int(match[1]) for name in names if (match := VERSION.fullmatch(name))), default=0)


def _link_latest(parent: Path) -> None:
    """Point the link `latest` at the run with the highest number, if links are supported."""
    link = parent / LATEST
    temporary = parent / f".{LATEST}.{secrets.token_hex(4)}.tmp"
    number = 0
    with contextlib.suppress(OSError, NotImplementedError):
        # After linking, each process looks for a higher number again, so the result does not depend
        # on which of two processes links last.
        while (highest := _highest(parent)) != number:
            number = highest
            temporary.symlink_to(f"v{number:04d}", target_is_directory=True)
            os.replace(temporary, link)
