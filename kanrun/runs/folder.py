"""The writer of run folders, and the lock that gives one process the right to write a run."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import importlib.metadata
import os
import platform
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kanrun.config.registry import RECORDED, loaded_plugins
from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs.artifacts import checkpoint_path, checksums, seal
from kanrun.runs.files import (
    Appender,
    file_name,
    make_folder,
    storing,
    sync,
    write_atomic,
    write_json,
)
from kanrun.runs.journal import JOURNAL_FILE, CheckpointLine, Journal, Line, encoded, rows_lines
from kanrun.runs.reader import Run, process
from kanrun.runs.records import MANIFEST_FILE, Checkpoint, Manifest, Row, Status, Table
from kanrun.runs.tables import CsvTables

#: Error numbers of file systems that have no locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
#: Names of run folders: `v` and a number of 4 to 9 digits. Other folders are not runs.
VERSION = re.compile(r"v(\d{4,9})")
#: Name of the link to the run with the highest number.
LATEST = "latest"
#: Prefix of folders that are being filled and have no number yet.
_HIDDEN = ".new-"
_PACKAGES = (
    "kanrun",
    "torch",
    "numpy",
    "scipy",
    "sympy",
    "pandas",
    "matplotlib",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "distributed",
)
#: Folder of kanrun's source.
_SOURCE = Path(__file__).parents[2]
#: Time limit of a git command (seconds).
GIT_SECONDS = 5
_PLACES = ("tables", "checkpoints", "figures")


class RunFolder:
    """Writes one run: `run.json`, the journal, checkpoints, and the CSV tables that people read.

    `create` makes a new folder; `reopen` resumes a run that stopped early. Until `finish`, a lock
    keeps other processes from writing the run. Methods that write raise StorageFailed if the disk
    is full or read-only. If a CSV table cannot be written, a warning is logged instead, since the
    journal has its rows.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._journal = Appender(path / JOURNAL_FILE)
        self._tables = CsvTables(path)
        self._clock = time.monotonic()
        self._earlier = manifest.seconds or 0.0
        self._held = contextlib.ExitStack()

    @classmethod
    def create(
        cls, outputs: Path, manifest: Manifest, fill: Callable[[Path], None] = lambda _: None
    ) -> RunFolder:
        """Make a new folder `outputs/<command>/vNNNN` with `run.json`, whose status is RUNNING.

        `fill` is called with a hidden folder, and may write files into it before it becomes the run
        folder. Raises UsageError if `outputs` cannot be written.
        """
        manifest = dataclasses.replace(
            manifest,
            status=Status.RUNNING,
            started=now(),
            git=repository(),
            versions=versions(),
            **process(),
        )

        def write(hidden: Path) -> None:
            fill(hidden)
            (hidden / JOURNAL_FILE).touch()
            write_json(hidden / MANIFEST_FILE, manifest, durable=True)

        folder = cls(allocate(outputs, file_name(manifest.command), write), manifest)
        folder._held.enter_context(holding(folder.path))
        return folder

    @classmethod
    def reopen(cls, path: Path, *, force: bool = False) -> RunFolder:
        """Open the folder of a run that was killed, was interrupted or failed, to continue it.

        Its status becomes RUNNING. If the run was started on another host, whether it has ended
        cannot be seen from here; `force` assumes that it has.

        Raises:
            UsageError: If the run is still running, or may be on another host.
            StorageFailed: If `run.json` cannot be read.
        """
        _ = Run(path).manifest  # raises before a lock file is made in a folder that is not a run
        with contextlib.ExitStack() as stack:
            stack.enter_context(holding(path))
            # Another process may have written run.json before the lock was held.
            run = Run(path)
            run.check_ended(force)
            for place in (path, *(path / name for name in _PLACES)):
                if place != path and place.is_symlink():
                    raise UsageError(
                        f"{place} is a link; a run that is resumed must lie in one folder."
                    )
                for leftover in place.glob(".*.tmp"):  # left by `write_atomic` if it was killed
                    with contextlib.suppress(OSError):
                        leftover.unlink()
            journal = Journal(path)
            if journal.path.is_file():  # cut off an incomplete last line, and all after damage
                with storing(journal.path):
                    os.truncate(journal.path, journal.end)
            folder = cls(path, run.manifest)
            folder._save(
                status=Status.RUNNING,
                resumed=(*run.manifest.resumed, now()),
                reason=None,
                trace=None,
                ended=None,
                failures=(),
                checkpoints={},
                **process(),
            )
            folder._held = stack.pop_all()
        return folder

    def checkpoint(self, checkpoint: Checkpoint, marks: Mapping[str, int] | None = None) -> None:
        """Store `checkpoint`, replacing any checkpoint of the same name.

        If `marks` is given, it identifies a training that can continue from the checkpoint. The
        checksum is then written to the journal first, so that the journal knows whichever
        checkpoint is stored if the process is killed.
        """
        sealed = seal(checkpoint)
        if marks is not None:
            self.record(CheckpointLine(**marks, sha256=sealed.checksum))
        self.sync()
        path = checkpoint_path(make_folder(self.path / "checkpoints"), checkpoint.name)
        write_atomic(path, sealed.content, durable=True)

    def discard(self, checkpoint: str) -> None:
        """Delete the checkpoint called `checkpoint`, if it exists."""
        path = checkpoint_path(self.path / "checkpoints", checkpoint)
        with storing(path):
            path.unlink(missing_ok=True)

    def note(self, text: str) -> None:
        """Add a note to `run.json`. It is written with the next change of that file."""
        self.manifest = dataclasses.replace(self.manifest, notes=(*self.manifest.notes, text))

    def record(self, line: Line) -> None:
        """Append one line to the journal. Raises KanrunError if it is too long to be read."""
        self._journal.write(encoded(line))

    def rows(self, record: Row | Table, marks: dict[str, int]) -> None:
        """Record rows of the training that `marks` identifies (point, cell and seed).

        A single row is also appended to its CSV table. Raises ValueError if the columns have
        different lengths.
        """
        table = file_name(record.name)
        columns = record.columns
        for line in rows_lines(table, columns, marks):
            self.record(line)
        if all(len(values) == 1 for values in columns.values()):
            self._tables.append(table, marks | {name: one for name, (one,) in columns.items()})

    def size(self) -> int:
        """Return the size of the journal in bytes."""
        return self._journal.size()

    def sync(self) -> None:
        """Flush all records written so far to disk, so that they survive a power cut."""
        self._journal.sync()

    def write_tables(self) -> None:
        """Write all CSV tables again from the journal."""
        self._tables.write()

    def finish(
        self, status: Status, reason: str | None = None, trace: str | None = None, **changes: Any
    ) -> None:
        """Write the CSV tables and the final `run.json`, and release the lock.

        The journal is flushed to disk first, so that `run.json` describes only records that survive
        a power cut. `changes` are further fields of `run.json`.
        """
        try:
            self.sync()
            self.write_tables()
            self._save(
                status=status,
                reason=reason,
                trace=trace,
                ended=now(),
                seconds=round(self._earlier + time.monotonic() - self._clock, 3),
                checkpoints=checksums(self.path / "checkpoints"),
                **changes,
            )
        finally:
            self._journal.close()
            self._held.close()

    def _save(self, **changes: Any) -> None:
        """Change fields of the manifest and write `run.json`."""
        self.manifest = dataclasses.replace(self.manifest, **changes)
        write_json(self.path / MANIFEST_FILE, self.manifest, durable=True)


def allocate(outputs: Path, command: str, fill: Callable[[Path], None]) -> Path:
    """Make a new folder for a run of `command`, and point `outputs/<command>/latest` at it.

    `fill` writes into a hidden folder, which is then renamed to the next free number. If several
    processes do this at once, each gets another number. A number is not used again after its run
    was deleted, because `latest` still names it.

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
        # A folder that is not empty cannot be replaced by a rename.
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


def now() -> datetime:
    """Return the present time in UTC, to the millisecond."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform, plug-ins, and packages that affect results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found | {RECORDED + module: origin for module, origin in loaded_plugins().items()}


def repository(source: Path = _SOURCE, working: Path | None = None) -> dict[str, Any] | None:
    """Return the git commit of the code, or None if there is none.

    The result has the keys `commit` and `of`. If `source` is a git checkout, `of` is "kanrun";
    otherwise the commit is that of the working directory, and `of` is "working directory".
    """
    is_own = (source / ".git").exists()
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    try:
        # Unlike some git commands, this one starts no program that the repository configures.
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=source if is_own else working or Path.cwd(),
            env={name: value for name, value in os.environ.items() if name not in elsewhere},
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return {"of": "kanrun" if is_own else "working directory", "commit": done.stdout.strip()}


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Lock the run in `folder` for this process while the body runs.

    The operating system releases the lock when the process ends, so the lock is never stale,
    although the file `.lock` remains. On file systems without locks, nothing is locked, and only
    `run.json` says which process writes the run.

    Raises:
        UsageError: If another process holds the lock.
        StorageFailed: If the lock file cannot be written.
    """
    path = folder / ".lock"
    with storing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            Run(folder).check_ended(force=True)
            raise UsageError(f"{folder} is still running. Wait, or stop it first.") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise StorageFailed(f"cannot lock {path}: {error.strerror}.") from error
        yield
    finally:
        os.close(descriptor)
