"""The reader of run folders. It does not assume that their files are complete, valid or safe."""

from __future__ import annotations

import contextlib
import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from kanrun.config.rules import with_values
from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs.files import (
    Checkpoint,
    checkpoint_path,
    file_name,
    frame_of,
    read_checkpoint,
    read_json,
)
from kanrun.runs.records import MANIFEST_FILE, Journal, Manifest, Point, Status

if TYPE_CHECKING:
    import pandas

#: Errors by which points and runs are compared; the first one that was recorded is used. Errors on
#: validation points come first, so that test points are not used to choose.
ERRORS = ("validation_rmse", "test_rmse", "rmse")
_FIGURES = {".png", ".svg", ".pdf"}


class Run:
    """A run folder, or one point of a run, for reading.

    Files are read only when they are needed, and nothing in the folder is executed. A point of a
    run looks like a run of only that point: its tables hold its rows, without the column `point`.
    """

    def __init__(self, path: Path, name: str | None = None, point: Point | None = None) -> None:
        self.path = path
        self.name = name or path.name
        self.point = point
        self._whole = self

    def __repr__(self) -> str:
        return f"Run({self.address!r})"

    @property
    def address(self) -> str:
        """Path of the folder; for a point, followed by `/` and its number."""
        return f"{self.path}/{self.point.number}" if self.point else str(self.path)

    @cached_property
    def points(self) -> tuple[Run, ...]:
        """The points of a run of several points; otherwise only the run itself."""
        views: list[Run] = []
        with contextlib.suppress(StorageFailed):
            for point in () if self.point else self.manifest.points:
                views.append(Run(self.path, f"{self.name}/{point.number}", point))
                views[-1]._whole = self
        return tuple(views) if len(views) > 1 else (self,)

    @property
    def has_points(self) -> bool:
        """True for a run of several points, if they can be read."""
        return len(self.points) > 1

    @cached_property
    def values_by_key(self) -> dict[str, list[str]]:
        """All values of each swept argument, by the text before the value, such as `seed=`."""
        values = defaultdict[str, dict[str, None]](dict)
        for point in self.manifest.points:
            for word in point.overrides:
                key, equals, text = word.partition("=")
                values[key + equals][text] = None
        return {key: list(texts) for key, texts in values.items()}

    @property
    def overrides(self) -> list[str]:
        """Arguments that reproduce the configurations of all points, such as `seed=0,1`."""
        return [f"{key}{','.join(texts)}" for key, texts in self.values_by_key.items()]

    @cached_property
    def manifest(self) -> Manifest:
        """Content of `run.json`; for a point, as if the run had only that point.

        Raises StorageFailed if the file cannot be read.
        """
        if self.point is None:
            return _read_manifest(self.path / MANIFEST_FILE)
        whole = self._whole.manifest
        failed = self.journal.failed.items()
        failures = tuple(line.entry for key, line in failed if key[0] == self.point.number)
        result = self.journal.results.get(self.point.number)
        reasons = [*(failure["reason"] for failure in failures), result and result.reason]
        status = Status.COMPLETED if result else Status.INTERRUPTED
        if any(reasons):
            status = Status.FAILED
        elif not result and whole.status == Status.RUNNING:
            status = Status.RUNNING
        return replace(
            whole,
            points=(self.point,),
            metrics=result.metrics if result else {},
            claims=result.claims if result else (),
            failures=failures,
            status=status,
            reason=next(filter(None, reasons), None),
            trace=None,
            notes=tuple(note for note in whole.notes if note.startswith(f"{self.point}")),
        )

    @property
    def is_complete(self) -> bool:
        """True if the run has completed, no training run failed, and its journal is undamaged."""
        ended = self.manifest.status == Status.COMPLETED and not self.manifest.failures
        return ended and not self._records.damaged

    @cached_property
    def journal(self) -> Journal:
        """Journal of the whole run, read without rows of tables."""
        return self._whole.journal if self.point else Journal(self.path, rows=False)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the run; none if `run.json` cannot be read."""
        with contextlib.suppress(KanrunError):
            return self.manifest.tags
        return ()

    @property
    def error(self) -> float | None:
        """Error by which runs are compared, or None.

        It is the median over seeds of the first of `ERRORS` that was recorded.
        """
        try:
            metrics = self.manifest.metrics
        except KanrunError:
            return None
        return next((value for name in ERRORS if (value := metrics.get(name)) is not None), None)

    @property
    def best(self) -> Run:
        """Point with the lowest error, or the first point if no errors are known.

        For a run of one point, it is the run itself.
        """
        known = [(error, point) for point in self.points if (error := point.error) is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else self.points[0]

    def check_single(self) -> None:
        """Raise UsageError if the run has several points. The message names the best point."""
        if self.has_points:
            raise UsageError(
                f"{self.name} is a run of {len(self.points)} points; name one of them. The best is "
                f"{self.best.name}."
            )

    def began(self) -> float:
        """Return when the run began, in seconds since 1970.

        If `run.json` has no start time, return the time when the folder was last changed, or 0.
        """
        with contextlib.suppress(KanrunError):
            if (started := self._whole.manifest.started) is not None:
                return started.timestamp()
        with contextlib.suppress(OSError):
            return self.path.stat().st_mtime
        return 0.0

    @property
    def is_alive(self) -> bool:
        """True if a process is writing the run.

        If the run was started on another host and its status is RUNNING, it is assumed to be alive.
        """
        run = self._whole.manifest
        elsewhere = run.host != socket.gethostname()
        return run.status == Status.RUNNING and (elsewhere or is_alive(run.pid, run.process_start))

    def check_ended(self, force: bool) -> None:
        """Raise UsageError if the run is still running.

        A run of another host may still be running; with `force`, it is assumed to have ended.
        """
        host = self.manifest.host
        pid = self.manifest.pid
        if self.is_alive and host == socket.gethostname():
            raise UsageError(
                f"{self.path} is still running (process {pid}). Wait, or stop it first."
            )
        if self.is_alive and not force:
            raise UsageError(
                f"{self.path} was started on the host {host} (process {pid}), and whether it still "
                "runs there cannot be seen from here. If it has ended, add --force."
            )

    @property
    def status(self) -> Status:
        """Recorded status, unless the process of a running run is gone or the record is damaged."""
        if not (self.path / MANIFEST_FILE).exists():
            return Status.NEVER_STARTED
        try:
            if self.manifest.status == Status.RUNNING and not self.is_alive:
                return Status.KILLED
            return self.manifest.status
        except KanrunError:
            return Status.UNREADABLE

    @property
    def config(self) -> dict[str, Any]:
        """Configuration as plain values, with interpolations unresolved.

        For a run of several points, it is that of the first point. Raises StorageFailed if it
        cannot be read.
        """
        point = self.manifest.points[0]
        return with_values(self.manifest.bases[point.base], point.values)

    @cached_property
    def _records(self) -> Journal:
        """Journal of the run, or only its lines about this point."""
        return Journal(self.path, self.point.number if self.point else None)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are recorded."""
        return self._records.tables

    @property
    def frames(self) -> RunTables:
        """Tables by name; a table is read when it is first used."""
        return RunTables(self._records)

    def table(self, name: str) -> pandas.DataFrame:
        """Return a table as recorded so far. Raises KanrunError if it does not exist."""
        if file_name(name) not in self.tables:
            there = ", ".join(self.tables) or "none yet"
            raise KanrunError(f"run {self.name} has no table {name!r}; there are: {there}.")
        return frame_of(self.columns(name))

    def columns(self, name: str) -> dict[str, list[Any]]:
        """Return a table as lists by column; an empty mapping if the table does not exist."""
        table = file_name(name)
        return self._records.columns(table) if table in self.tables else {}

    @property
    def _prefix(self) -> str:
        return f"point{self.point.number}-" if self.point else ""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the stored checkpoints."""
        files = sorted((self.path / "checkpoints").glob(f"{self._prefix}*.safetensors"))
        return tuple(path.stem.removeprefix(self._prefix) for path in files)

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a checkpoint. Raises KanrunError if it is missing or damaged."""
        path = checkpoint_path(self.path / "checkpoints", self._prefix + name)
        if not path.is_file():
            there = ", ".join(self.checkpoints) or "none yet"
            raise KanrunError(f"run {self.name} has no checkpoint {name!r}; there are: {there}.")
        stored = read_checkpoint(path, self._checksums.get(path.stem))
        return replace(stored, name=stored.name.removeprefix(self._prefix))

    def check_checkpoints(self) -> None:
        """Raise StorageFailed if a checkpoint that `run.json` names is no longer there."""
        recorded = {name for name in self._checksums if name.startswith(self._prefix)}
        if gone := sorted(recorded - {self._prefix + name for name in self.checkpoints}):
            raise StorageFailed(
                f"{self.path} has lost its checkpoint {gone[0]}, which run.json names."
            )

    @property
    def _checksums(self) -> dict[str, str]:
        """Checksums of checkpoints in `run.json`; empty while the run is RUNNING."""
        if not (self.path / MANIFEST_FILE).exists():
            return {}
        manifest = self._whole.manifest
        return manifest.checkpoints if manifest.status != Status.RUNNING else {}

    @property
    def figures_folder(self) -> Path:
        """Folder of the figures; a point has a separate folder."""
        folder = self.path / "figures"
        return folder / f"point{self.point.number}" if self.point else folder

    @property
    def figures(self) -> tuple[Path, ...]:
        """Paths of the stored figures."""
        there = self.figures_folder.glob("*.*")
        return tuple(sorted(path for path in there if path.suffix in _FIGURES))


class RunTables(Mapping[str, "pandas.DataFrame"]):
    """The tables of a journal by name; a table is read when it is first used."""

    def __init__(self, journal: Journal) -> None:
        self._names = journal.tables
        self._read = cache(lambda name: frame_of(journal.columns(name)))

    def __getitem__(self, name: str) -> pandas.DataFrame:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read_manifest(path: Path) -> Manifest:
    """Read `run.json`, and check that its points and configurations belong together."""
    manifest = read_json(path, Manifest)
    for number, point in enumerate(manifest.points):
        if point.number != number or point.base >= len(manifest.bases):
            raise StorageFailed(f"{path} does not describe points: entry {number} is {point}.")
    if not manifest.points:
        raise StorageFailed(f"{path} has no points.")
    return manifest


def process() -> dict[str, Any]:
    """Return the manifest's fields `host`, `pid` and `process_start` for this process."""
    this = psutil.Process()
    return {"host": socket.gethostname(), "pid": this.pid, "process_start": this.create_time()}


def is_alive(pid: int | None, start: float | None) -> bool:
    """Return whether a process of this host with this number and start time exists.

    The start time (seconds since 1970) is compared as well, because process numbers are reused.
    """
    try:
        # No process has the number 2**31 - 1; without a number, psutil takes this process.
        began = psutil.Process(pid if pid and pid > 0 else 2**31 - 1).create_time()
    except (psutil.Error, OverflowError):
        return False
    # Two readings of one process differ by seconds when the clock is corrected.
    return start is None or abs(began - start) < 5
