"""Who writes a run: one process at a time."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from kanrun.errors import StorageFailed, UsageError
from kanrun.runs import environment
from kanrun.runs.files import read_json, storing
from kanrun.runs.manifest import MANIFEST_FILE, Manifest

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # what file systems without locks answer


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold the run or sweep in `folder` for this process in the body.

    The lock is the system's, not the file's, which stays: it ends with the process that holds it and is never stale.
    Where a file system has no locks, nothing is held, and `run.json` alone says who writes.
    Raises UsageError if another process holds the run, StorageFailed if the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    path = folder / ".lock"
    lock = FileLock(path)
    with storing(path):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(_still_running(folder)) from error
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise
    try:
        yield
    finally:
        lock.release()


def _still_running(folder: Path) -> str:
    try:
        owner = read_json(folder / MANIFEST_FILE, Manifest)
    except StorageFailed:  # a sweep's folder has none
        owner = Manifest("")
    known = owner.is_open and environment.is_alive(owner.pid, owner.process_start)
    return still_running(folder, owner.host, owner.pid if known else None)


def still_running(folder: Path, host: str | None, pid: int | None) -> str:
    """The sentence that refuses a second writer of the run that process `pid` on `host` writes."""
    where = "" if host == environment.host() else f" on {host}"
    who = "" if pid is None else f" (process {pid}{where})"
    return f"{folder} is still running{who}; wait or end it first."
