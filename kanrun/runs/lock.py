"""Who writes a run: one process at a time, told by a lock that the system lets go when its process ends."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import IO, Any

from kanrun.errors import UsageError
from kanrun.runs import environment
from kanrun.runs.atomic import storing

try:
    import fcntl
except ImportError:  # not POSIX: what run.json says of the process has to do
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock"
_LONGEST = 4096  # of what the file says about its owner


def hold(folder: Path) -> IO[bytes]:
    """Take the run in `folder` for this process until the file that is returned is closed, or the process ends.

    No lock is ever stale, since it is the system's and not the file's, which stays. Where a file system has no locks,
    nothing is held. Raises UsageError if another process has the run, StorageFailed if the folder cannot be written.
    """
    path = folder / _NAME
    with storing(path):
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = _owner(file)
        file.close()
        raise UsageError(still_running(folder, owner.get("host"), owner.get("pid"))) from error
    except OSError:
        return file
    with storing(path):
        file.truncate(0)
        file.write(json.dumps(environment.process()).encode())
    return file


def still_running(folder: Path, host: Any, pid: Any) -> str:
    """The sentence that refuses a second writer."""
    where = "" if host == environment.host() else f" on {host}"
    who = "" if pid is None else f" (process {pid}{where})"
    return f"{folder} is still running{who}; wait or end it first."


def _owner(file: IO[bytes]) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(file.read(_LONGEST))
        if isinstance(found, dict):
            return found
    return {}  # it has only just taken the lock
