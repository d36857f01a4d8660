"""New folders `outputs/<command>/vNNNN`: `mkdir` is the lock, a number is never used twice."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from kanrun.errors import StorageFailed, UsageError

VERSION = re.compile(r"v(\d{4,9})")
_LATEST = "latest"


def allocate(outputs: Path, command: str) -> Path:
    """Return a new folder for a run of `command`; `outputs/<command>/latest` points at the newest.

    Processes that allocate at once get different folders: the loser of a number takes the next one.
    Raises UsageError if `outputs` cannot be written, StorageFailed if the disk is full.
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
    """Return the highest number in use; a dangling `latest` still tells of a folder deleted since."""
    names = [entry.name for entry in os.scandir(parent)]
    with contextlib.suppress(OSError):
        names.append(os.readlink(parent / _LATEST))
    return max((int(match[1]) for name in names if (match := VERSION.fullmatch(name))), default=0)


def _link_latest(parent: Path) -> None:
    """Point `latest` at the highest number, where the file system has links."""
    link, temporary = parent / _LATEST, parent / f".{_LATEST}.{os.getpid()}.tmp"
    number = 0
    with contextlib.suppress(OSError, NotImplementedError):
        # Whoever links last looks again, so that `latest` is right whatever the order of two processes.
        while (highest := _highest(parent)) != number:
            number = highest
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(f"v{number:04d}", target_is_directory=True)
            os.replace(temporary, link)
