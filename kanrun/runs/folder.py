"""Writer of run folders, the only one."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kanrun.errors import UsageError
from kanrun.runs import environment
from kanrun.runs.artifacts import checkpoint_path, checksums, write_checkpoint
from kanrun.runs.files import file_name, remove_temporary, storing, sync, to_json, write_json
from kanrun.runs.locations import allocate
from kanrun.runs.reader import TOP_TABLES, Run, holding
from kanrun.runs.records import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    Checkpoint,
    Manifest,
    Status,
)
from kanrun.runs.tables import CsvFile, Key, LineFile, key_reader, read_rows, rewrite

Filter = Callable[[str, Key], bool]  # whether a row of this table and training stays
_PLACES = ("tables", "checkpoints", "figures")


class RunFolder:
    """Writes one run: `run.json`, tables, journal and checkpoints.

    `create` makes a new folder, `reopen` resumes a run that stopped early. Until `finish`, no other
    process writes the run. Writing methods raise StorageFailed if the disk is full or read-only.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._tables: dict[str, CsvFile] = {}
        self._journal = LineFile(path / JOURNAL_FILE)
        self._clock = time.monotonic()
        self._earlier = manifest.seconds or 0.0
        self._held = contextlib.ExitStack()

    @classmethod
    def create(
        cls, outputs: Path, manifest: Manifest, fill: Callable[[Path], None] | None = None
    ) -> RunFolder:
        """Return a new folder `outputs/<command>/vNNNN` with `run.json`, status RUNNING.

        What `fill` writes into the folder that it is given appears together with the folder.
        Raises UsageError if `outputs` cannot be written.
        """
        manifest = dataclasses.replace(
            manifest,
            status=Status.RUNNING,
            started=environment.now(),
            git=environment.repository(),
            versions=environment.versions(),
            **environment.process(),
        )

        def write(hidden: Path) -> None:
            if fill is not None:
                fill(hidden)
            write_json(hidden / MANIFEST_FILE, manifest, durable=True)

        folder = cls(allocate(outputs, file_name(manifest.command), write), manifest)
        folder._held.enter_context(holding(folder.path))
        return folder

    @classmethod
    def reopen(cls, path: Path, *, force: bool = False) -> RunFolder:
        """Return the folder of a run that was killed, interrupted, or failed, RUNNING again.

        `force` assumes that a run of another host has ended, which cannot be seen from here. Raises
        UsageError if the run is running, StorageFailed if its `run.json` cannot be read.
        """
        _ = Run(path).manifest  # without one, no lock is left there
        with contextlib.ExitStack() as stack:
            stack.enter_context(holding(path))
            # Until the lock was held, others might have written the record.
            run = Run(path)
            run.check_ended(force)
            for place in (path, *(path / name for name in _PLACES)):
                if place != path and place.is_symlink():
                    raise UsageError(
                        f"{place} is a link; a run that is resumed must lie in one folder."
                    )
                remove_temporary(place)
            folder = cls(path, run.manifest)
            folder._save(
                status=Status.RUNNING,
                resumed=(*run.manifest.resumed, environment.now()),
                reason=None,
                trace=None,
                ended=None,
                failures=(),
                checkpoints={},
                **environment.process(),
            )
            folder._held = stack.pop_all()
        return folder

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store `checkpoint`, replacing one of its name."""
        write_checkpoint(checkpoint_path(self._place("checkpoints"), checkpoint.name), checkpoint)

    def discard(self, checkpoint: str) -> None:
        """Delete the checkpoint of that name, if it is there."""
        path = checkpoint_path(self.path / "checkpoints", checkpoint)
        with storing(path):
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)

    def note(self, text: str) -> None:
        """Add a note to `run.json`, at its next writing."""
        self.manifest = dataclasses.replace(self.manifest, notes=(*self.manifest.notes, text))

    def journal(self, line: Mapping[str, Any]) -> None:
        """Append one line to `progress.jsonl`."""
        self._journal.write(to_json(line) + b"\n")

    def finish(
        self, status: Status, reason: str | None = None, trace: str | None = None, **changes: Any
    ) -> None:
        """Write the final `run.json`, close all tables and release the run.

        It says nothing of rows that a power cut could still take away.
        """
        try:
            for path in (*self._paths().values(), self._journal.path, self.path / "tables"):
                sync(path)
            self._save(
                status=status,
                reason=reason,
                trace=trace,
                ended=environment.now(),
                seconds=round(self._earlier + time.monotonic() - self._clock, 3),
                checkpoints=checksums(self.path / "checkpoints"),
                **changes,
            )
        finally:
            self._journal.close()
            self._held.close()

    def sync(self) -> None:
        """Make all rows written so far survive a power cut."""
        for table in self._tables.values():
            table.sync()

    def table(self, name: str) -> CsvFile:
        """Return the open table of that name."""
        if name not in self._tables:
            place = self.path if name in TOP_TABLES else self._place("tables")
            self._tables[name] = CsvFile(place / f"{file_name(name)}.csv")
        return self._tables[name]

    def remove(self, table: str) -> None:
        """Delete the table of that name, if it is there."""
        path = self._paths().get(file_name(table))
        if path is not None:
            with storing(path):
                path.unlink(missing_ok=True)

    def retain(self, make: Callable[[], Filter], table: str | None = None) -> None:
        """Drop the rows for which the filter that `make` returns says False, in one table or all.

        A filter may count the rows that it is shown; each pass over the tables gets a new one.
        """
        for name, path in self._paths().items():
            if table not in (None, name):
                continue
            header, rows = read_rows(path)
            key_of, stays = key_reader(header), make()
            if sum(not stays(name, key_of(row)) for row in rows):
                rows, stays = read_rows(path)[1], make()
                rewrite(path, header, (row for row in rows if stays(name, key_of(row))))

    def _paths(self) -> dict[str, Path]:
        """Return the files of all tables, which are closed: whoever asks may change them."""
        for table in self._tables.values():
            table.close()
        self._tables.clear()
        return Run(self.path).tables

    def _place(self, name: str) -> Path:
        place = self.path / name
        with storing(place):
            place.mkdir(exist_ok=True)
        return place

    def _save(self, **changes: Any) -> None:
        """Write `run.json` with changes."""
        self.manifest = dataclasses.replace(self.manifest, **changes)
        write_json(self.path / MANIFEST_FILE, self.manifest, durable=True)
