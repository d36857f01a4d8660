"""The run folder's only writer."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanrun.errors import UsageError
from kanrun.monitoring import uninterrupted
from kanrun.runs import environment
from kanrun.runs.artifacts import checkpoint_path, checksums, write_checkpoint, write_figure
from kanrun.runs.files import file_name, remove_temporary, storing, sync, write_atomic, write_json
from kanrun.runs.locations import allocate
from kanrun.runs.manifest import MANIFEST_FILE, PROGRESS_FILE, Manifest, Status, StudyProgress
from kanrun.runs.reader import TOP_TABLES, Run, holding
from kanrun.runs.records import Checkpoint, Record, Row, Table
from kanrun.runs.tables import CsvFile, csv_lines, read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[int, int]  # number of the cell, and seed
Rows = Iterable[tuple[Pair, list[str]]]  # of a table


class RunFolder:
    """Writes one run: `run.json`, tables, checkpoints and figures, each whole or absent.

    `RunFolder.create` allocates a new folder, `RunFolder(path)` takes one that exists and has no run yet
    (a job of a sweep), `RunFolder.reopen(path)` resumes a run that ended early. From its start to its finish
    no other process writes the run. All writing methods raise StorageFailed, one sentence, when the disk is full or
    the folder read-only.
    """

    def __init__(self, path: Path, command: str = "") -> None:
        self.path = path
        self.command = command
        self._manifest: Manifest | None = None
        self._tables: dict[str, CsvFile] = {}
        self._clock = time.monotonic()
        self._earlier = 0.0  # seconds of what ran before it was resumed
        self._held = contextlib.ExitStack()

    @classmethod
    def create(
        cls, outputs: Path, command: str, fill: Callable[[Path], None] | None = None
    ) -> RunFolder:
        """Return a new folder `outputs/<command>/vNNNN`; UsageError if `outputs` cannot be written.

        What `fill` writes into the folder that it is given appears together with the folder.
        """
        return cls(allocate(outputs, file_name(command), fill), command)

    @classmethod
    def reopen(cls, path: Path, *, force: bool = False) -> RunFolder:
        """Return the folder of a run that was killed, interrupted, or failed, RUNNING again.

        Whether a run of another host still runs cannot be seen from here: it counts as running unless `force` says
        that it has ended. Raises UsageError if the run is still running, or another process resumes it at the same
        time; StorageFailed if its `run.json` cannot be read.
        """
        folder = cls(path, Run(path).manifest.command)
        folder._held.enter_context(holding(path))
        try:
            folder._take_over(
                Run(path), force
            )  # read again: until the lock was held, others might have written it
        except BaseException:
            folder._held.close()
            raise
        return folder

    def _take_over(self, run: Run, force: bool) -> None:
        run.check_ended(force)
        manifest = run.manifest
        for place in (
            self.path,
            *(self.path / name for name in ("tables", "checkpoints", "figures")),
        ):
            if place != self.path and place.is_symlink():
                raise UsageError(
                    f"{place} is a link; a run that is resumed must lie in one folder."
                )
            remove_temporary(place)
        self._earlier = manifest.seconds or 0.0
        again = (*manifest.resumed, environment.now())
        changes: dict[str, Any] = {
            "reason": None,
            "trace": None,
            "ended": None,
            "failures": (),
            "checkpoints": {},
        }
        changes |= {"status": Status.RUNNING, "resumed": again, **environment.process()}
        self._manifest = dataclasses.replace(manifest, **changes)
        self._save()

    @property
    def started(self) -> bool:
        """Whether this object has begun the run, or reopened it."""
        return self._manifest is not None

    @property
    def manifest(self) -> Manifest:
        if self._manifest is None:
            raise RuntimeError("the run has not been started: call start() first")
        return self._manifest

    def start(self, manifest: Manifest) -> None:
        """Write `run.json`, status RUNNING, with time, host, process, versions and repository filled in."""
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if Run(self.path).has_begun:
            raise UsageError(f"{self.path} holds a run already; each run gets a folder of its own.")
        with uninterrupted():  # else a signal could leave a lock that nobody knows of
            self._held.enter_context(holding(self.path))
            self._clock = time.monotonic()
            self._manifest = dataclasses.replace(
                manifest,
                status=Status.RUNNING,
                started=environment.now(),
                git=environment.repository(),
                versions=environment.versions(),
                **environment.process(),
            )
            self._save()

    def record(self, record: Record) -> None:
        """Store one record: a Row is appended, a Table or Checkpoint replaces one of its name.

        A Note goes to `run.json` at its next writing.
        """
        if isinstance(record, Row):
            self._table(record.table).append(record.values)
        elif isinstance(record, Table):
            self._table(record.name).replace(record.columns)
        elif isinstance(record, Checkpoint):
            self._place("checkpoints")
            write_checkpoint(self.path / "checkpoints", record)
        else:
            notes = (*self.manifest.notes, record.text)
            self._manifest = dataclasses.replace(self.manifest, notes=notes)

    def extend(self, table: Table) -> None:
        """Append the rows of `table` to the table of its name (several cells share one)."""
        self._table(table.name).extend(table.columns)

    def remove(self, table: str) -> None:
        """Delete the table of that name, if it is there."""
        path = self._paths().get(file_name(table))
        if path is not None:
            with storing(path):
                path.unlink(missing_ok=True)

    def discard(self, checkpoint: str) -> None:
        """Delete the checkpoint of that name, if it is there."""
        path = checkpoint_path(self.path / "checkpoints", checkpoint)
        with storing(path):
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)

    def figure(self, name: str, figure: Figure, formats: Sequence[str] = ("png",)) -> None:
        """Store `figure` in the folder `figures` in each of the formats (see `write_figure`)."""
        self._place("figures")
        write_figure(self.path / "figures" / file_name(name), figure, formats)

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest (`metrics=...`, `claims=...`) and write `run.json`."""
        self._manifest = dataclasses.replace(self.manifest, **changes)
        self._save()

    def finish(
        self, status: Status, reason: str | None = None, trace: str | None = None, **changes: Any
    ) -> None:
        """Write the final `run.json`, with further `changes` of the manifest, close all tables and release the run.

        It says nothing of rows that a power cut could still take away.
        """
        for path in (*self._paths().values(), self.path / "tables"):
            sync(path)
        seconds = round(self._earlier + time.monotonic() - self._clock, 3)
        changes |= {
            "status": status,
            "reason": reason,
            "trace": trace,
            "ended": environment.now(),
            "seconds": seconds,
        }
        changes["checkpoints"] = checksums(self.path / "checkpoints")
        try:
            self.update(**changes)
        finally:
            self._held.close()

    def progress(self, progress: StudyProgress) -> None:
        """Write `progress.json`."""
        write_json(self.path / PROGRESS_FILE, progress)

    def sync(self) -> None:
        """Make all rows written so far survive a power cut."""
        for table in self._tables.values():
            table.sync()

    def retain(self, finished: Collection[Pair], partial: Mapping[Pair, Mapping[str, int]]) -> None:
        """Drop the rows of cells that did not finish, in every table.

        Rows are told apart by their columns `cell` (0 where there is none) and `seed`. All rows of a pair
        in `finished` stay; of a pair in `partial` the first `partial[pair][table]` stay; all others go.
        """

        def kept(name: str, rows: Rows) -> Rows:
            left = Counter({pair: counts.get(name, 0) for pair, counts in partial.items()})
            for pair, row in rows:
                left[pair] -= 1
                if pair in finished or left[pair] >= 0:
                    yield pair, row

        self._rewrite(kept)

    def forget(self, pair: Pair, table: str | None = None) -> None:
        """Drop the rows of one cell and seed, in one table or in all."""
        own = None if table is None else file_name(table)
        self._rewrite(
            lambda name, rows: (one for one in rows if own not in (None, name) or one[0] != pair)
        )

    def order(self) -> None:
        """Sort the rows of every table by `cell` and `seed`, whatever the order in which tasks finished."""
        self._rewrite(lambda _, rows: sorted(rows, key=lambda one: one[0]))

    def _rewrite(self, change: Callable[[str, Rows], Rows]) -> None:
        """Write what `change` makes of the rows of each table, where it changes them, atomically."""
        for name, path in self._paths().items():
            header, found = read_rows(path)
            rows = [(_pair(dict(zip(header, row, strict=False))), row) for row in found]
            changed = list(change(name, rows))
            if changed != rows:
                write_atomic(path, csv_lines([header, *(row for _, row in changed)]))

    def _paths(self) -> dict[str, Path]:
        self._close_tables()
        return Run(self.path).table_paths

    def _close_tables(self) -> None:
        for table in self._tables.values():
            table.close()
        self._tables.clear()

    def _table(self, name: str) -> CsvFile:
        if name not in self._tables:
            place = self.path if name in TOP_TABLES else self._place("tables")
            self._tables[name] = CsvFile(place / f"{file_name(name)}.csv")
        return self._tables[name]

    def _place(self, name: str) -> Path:
        place = self.path / name
        with storing(place):
            place.mkdir(exist_ok=True)
        return place

    def _save(self) -> None:
        write_json(self.path / MANIFEST_FILE, self.manifest.to_dict(), durable=True)


def _pair(row: Mapping[str, str]) -> Pair:
    try:
        return int(row.get("cell") or 0), int(row.get("seed") or 0)
    except ValueError:
        return -1, -1
