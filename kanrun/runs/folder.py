"""The writer of run folders, and the lock that gives one process the right to write a run.

kanrun itself reads the journal; the CSV files are for people and other programs. While a run is
running, single rows are also appended to the CSV files, so that people can watch them. At the end
of a run, and when it is resumed, all CSV files are written again from the journal. They then have
all tables and columns, and no void rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import importlib.metadata
import logging
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from kanrun.config.registry import RECORDED, loaded_plugins
from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs.files import (
    Appender,
    Checkpoint,
    checkpoint_path,
    checksums,
    csv_lines,
    file_name,
    make_folder,
    plain,
    seal,
    storing,
    sync,
    write_atomic,
    write_json,
)
from kanrun.runs.finding import LATEST, VERSION
from kanrun.runs.reader import Run, process
from kanrun.runs.records import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    TOP_TABLES,
    CheckpointLine,
    Journal,
    Line,
    Manifest,
    Row,
    Status,
    Table,
    encoded,
    rows_lines,
)

#: Error numbers of file systems that have no locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
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
_PLACES = ("tables", "checkpoints", "figures")
_logger = logging.getLogger("kanrun")


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
        # The open CSV file and the columns of each table; None after a failure.
        self._csv: dict[str, tuple[Appender, list[str]] | None] = {}
        self._clock = time.monotonic()
        self._earlier = manifest.seconds or 0.0
        self._held = contextlib.ExitStack()

    @classmethod
    def create(cls, outputs: Path, manifest: Manifest) -> RunFolder:
        """Make a new folder `outputs/<command>/vNNNN` with `run.json`, whose status is RUNNING.

        The configurations are also written as `config.yaml`, `config-1.yaml`, ..., for people.
        Raises UsageError if `outputs` cannot be written.
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
            import yaml  # type: ignore[import-untyped]

            for number, base in enumerate(manifest.bases):
                text = yaml.safe_dump(plain(base), sort_keys=False, allow_unicode=True)
                file = hidden / (f"config-{number}.yaml" if number else "config.yaml")
                write_atomic(file, text.encode())
            (hidden / JOURNAL_FILE).touch()
            write_json(hidden / MANIFEST_FILE, manifest, durable=True)

        folder = cls(allocate(outputs, file_name(manifest.command), write), manifest)
        folder._held.enter_context(holding(folder.path))
        return folder

    @classmethod
    def reopen(cls, path: Path, *, force: bool = False) -> RunFolder:
        """Open the folder of a run that failed or was killed or interrupted, to continue the run.

        Its status becomes RUNNING. Whether a run that was started on another host has ended cannot
        be determined on this host; with `force`, it is assumed to have ended.

        Raises:
            UsageError: If the run is still running, or may still be running on another host.
            StorageFailed: If `run.json` cannot be read.
        """
        # This raises an error if the folder is not a run, so that no lock file is made in it.
        _ = Run(path).manifest
        with contextlib.ExitStack() as stack:
            stack.enter_context(holding(path))
            # Another process may have written run.json before the lock was held.
            run = Run(path)
            run.check_ended(force)
            _clean(path)
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

        If `marks` is given, it identifies a training run that can continue from the checkpoint. In
        this case the checksum is written to the journal before the file is written. If the process
        is killed in between, the journal knows the checksums of both the old and the new
        checkpoint.
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
        """Add a note to `run.json`, to be written with the next change of that file."""
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
        for line in rows_lines(table, record.columns, marks):
            self.record(line)
        if all(len(values) == 1 for values in record.columns.values()):
            with _warning():
                row = marks | {name: value for name, (value,) in record.columns.items()}
                self._append(table, row)

    def _append(self, table: str, row: Mapping[str, Any]) -> None:
        """Append a row to the CSV file of `table`, which is not written again after a failure.

        The first row determines the columns; values of other columns are dropped for now.
        """
        header = table not in self._csv
        if header:
            self._csv[table] = Appender(csv_path(self.path, table)), list(row)
        if (opened := self._csv[table]) is not None:
            self._csv[table] = None
            columns = ([name] * header + [row.get(name)] for name in opened[1])
            opened[0].write(csv_lines(columns))
            self._csv[table] = opened

    def size(self) -> int:
        """Return the size of the journal in bytes."""
        return self._journal.size()

    def sync(self) -> None:
        """Flush all records written so far to disk, so that they survive a power cut."""
        self._journal.sync()

    def finish(
        self, status: Status, reason: str | None = None, trace: str | None = None, **changes: Any
    ) -> None:
        """Write the CSV tables and the final `run.json`, and release the lock.

        The journal is flushed to disk first, so that `run.json` describes only records that survive
        a power cut. `changes` are further fields of `run.json`.
        """
        try:
            self.sync()
            for opened in filter(None, self._csv.values()):
                opened[0].close()
            write_tables(self.path)
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


def _clean(path: Path) -> None:
    """Remove what a killed process left in a run folder: temporary files and an incomplete line.

    Raises UsageError if a folder of the run is a link.
    """
    for place in (path, *(path / name for name in _PLACES)):
        if place != path and place.is_symlink():
            raise UsageError(f"{place} is a link; a run that is resumed must lie in one folder.")
        for leftover in place.glob(".*.tmp"):  # left by `write_atomic`
            with contextlib.suppress(OSError):
                leftover.unlink()
    journal = Journal(path)
    if journal.path.is_file():  # cut off an incomplete or damaged line and all that follows
        with storing(journal.path):
            os.truncate(journal.path, journal.end)


def write_tables(folder: Path) -> None:
    """Write all CSV files of a run from its journal, in constant memory."""
    with _warning():
        journal = Journal(folder)
        for table in journal.tables:
            header = [[name] for name in journal.header(table)]
            blocks = chain([header], (columns for _, columns in journal.blocks(table)))
            lines = map(csv_lines, blocks)
            write_atomic(csv_path(folder, table), lines, durable=True)


def csv_path(folder: Path, table: str) -> Path:
    """Return the path of a table's CSV file, and make its folder if it is missing."""
    place = folder if table in TOP_TABLES else make_folder(folder / "tables")
    return place / f"{table}.csv"


@contextlib.contextmanager
def _warning() -> Iterator[None]:
    """Log a warning if the body cannot write a CSV file."""
    try:
        yield
    except StorageFailed as error:
        _logger.warning(
            "%s The records are in records.jsonl; `kanrun runs resume` writes the tables anew.",
            error,
        )


def now() -> datetime:
    """Return the current time in UTC, to the millisecond."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform, plug-ins, and packages that affect results."""
    installed = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed | {RECORDED + module: origin for module, origin in loaded_plugins().items()}


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
            timeout=5,  # seconds
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
    beginning = ".new-"  # of folders that are being filled and have no number yet
    hidden = parent / f"{beginning}{secrets.token_hex(4)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for abandoned in parent.glob(f"{beginning}*"):  # left by processes that were killed
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
