"""All runs of an outputs folder as rows of plain values, from an index that is rebuilt where it is stale.

The index (`.index.msgpack` in the outputs folder) is never the truth: every run whose files have other times or sizes
than it remembers is read again, and without it, or where it cannot be written, everything is. A row has, by name:

- what `run.json` says: `name`, `command`, `status`, `started`, `seconds`, `seeds`, ... (`FIELDS`);
- medians over seeds of the numbers in `summary.csv`, such as `test_rmse`;
- settings by their path, such as `model.hidden`.

A sweep has the row of its best job, with its own name and status, and `jobs` and `best`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from kanrun.errors import KanrunError, StorageFailed
from kanrun.runs.files import write_atomic
from kanrun.runs.locations import run_folders
from kanrun.runs.manifest import MANIFEST_FILE, Status, Sweep
from kanrun.runs.reader import Run, status_of_all, subfolders

FIELDS = (
    "name",
    "command",
    "status",
    "reason",
    "started",
    "ended",
    "seconds",
    "seeds",
    "cells",
    "device",
    "precision",
    "threads",
    "executor",
    "host",
    "overrides",
    "claims",
    "claims_hold",
    "failures",
    "tags",
    "note",
    "jobs",
    "best",
)
"""Columns of a row that are neither metrics nor settings."""
_FILE = ".index.msgpack"
_FORMAT = 2  # of the index; another one is built anew
_UNREAD = msgspec.Raw(msgspec.msgpack.encode(None))
Record = dict[str, Any]
Stamp = tuple[int, int, int]


class Entry(msgspec.Struct, array_like=True):
    """What the index knows of one run or job. `facts` and `settings` are decoded when they are asked for."""

    stamp: Stamp  # times of the folder and of run.json in nanoseconds, and the size of run.json
    status: str
    began: float  # seconds since 1970
    error: float | None  # by which runs compare
    facts: msgspec.Raw
    settings: msgspec.Raw = _UNREAD  # from the stored configuration, when they are first asked for


class _Stored(msgspec.Struct, array_like=True):
    format: int
    entries: dict[str, Entry]


@dataclass
class IndexedRun:
    """A run or sweep with what the index knows of it; `jobs` are those of a sweep."""

    index: RunIndex
    name: str
    entry: Entry
    jobs: tuple[IndexedRun, ...] = ()

    @property
    def began(self) -> float:
        return min((job.began for job in self.jobs), default=self.entry.began)

    @property
    def status(self) -> str:
        """As `Run.status` says it."""
        return status_of_all([job.status for job in self.jobs]) if self.jobs else self.entry.status

    @property
    def best(self) -> IndexedRun:
        """The job with the lowest error; a run that is no sweep, itself."""
        known = [job for job in self.jobs if job.entry.error is not None]
        return min(
            known,
            key=lambda job: job.entry.error or 0.0,
            default=self.jobs[0] if self.jobs else self,
        )

    @property
    def tags(self) -> list[str]:
        found: list[str] = msgspec.msgpack.decode(self.entry.facts)["tags"]
        return found

    @property
    def settings(self) -> Record:
        """The settings by their path, such as `model.hidden`; of a sweep, those of its best job."""
        return self.index.settings_of(self.best)

    def row(self, settings: bool = True) -> Record:
        """All that is known, by the name of its column; `settings` may be left out, which take longer to read."""
        best = self.best
        row = self.settings if settings else {}
        row |= msgspec.msgpack.decode(best.entry.facts)
        row |= {"name": self.name, "status": self.status}
        if self.jobs:
            own = msgspec.msgpack.decode(self.entry.facts)
            row |= {"jobs": len(self.jobs), "tags": own["tags"], "note": own["note"]}
            row["seconds"] = sum(
                msgspec.msgpack.decode(job.entry.facts).get("seconds") or 0.0 for job in self.jobs
            )
            row["best"] = best.name if best.entry.error is not None else None
        return row

    @property
    def run(self) -> Run:
        return Run(self.index.outputs / self.name, self.name)


class RunIndex:
    """The runs below `outputs`, newest first; `save` keeps what was read for the next time."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self._known = _read(outputs / _FILE)
        self._entries: dict[str, Entry] = {}
        self._changed = False
        self.runs = sorted(self._scan(), key=lambda run: (run.began, run.name), reverse=True)
        self._changed |= self._known.keys() != self._entries.keys()

    @property
    def single_runs(self) -> list[IndexedRun]:
        """All runs, the jobs of sweeps in place of the sweeps."""
        return [one for run in self.runs for one in (run.jobs or (run,))]

    def settings_of(self, run: IndexedRun) -> Record:
        """The run's settings by their path, such as `model.hidden`; empty where they cannot be read."""
        found: Record | None = msgspec.msgpack.decode(run.entry.settings)
        if found is None:
            found = {}
            with contextlib.suppress(KanrunError):
                found = flattened(run.run.config)
            run.entry.settings = msgspec.Raw(msgspec.msgpack.encode(found, enc_hook=str))
            self._changed = True
        return found

    def save(self) -> None:
        """Write the index where it changed and the folder can be written."""
        if self._changed and self._entries:
            content = msgspec.msgpack.encode(_Stored(_FORMAT, self._entries))
            with contextlib.suppress(StorageFailed):
                write_atomic(self.outputs / _FILE, content)

    def _scan(self) -> Iterable[IndexedRun]:
        for command, version in run_folders(self.outputs):
            folder, name = f"{self.outputs}/{command}/{version}", f"{command}/{version}"
            found = self._entry(folder, name)
            jobs: tuple[IndexedRun, ...] = ()
            if not found.stamp[1]:  # no record of its own: a sweep, or killed before it began
                declared = msgspec.msgpack.decode(found.facts).get("jobs") or 0
                numbers = {
                    *(job for job in subfolders(Path(folder)) if job.isdecimal()),
                    *map(str, range(declared)),
                }
                each = [(f"{name}/{job}", f"{folder}/{job}") for job in sorted(numbers, key=int)]
                jobs = tuple(IndexedRun(self, job, self._entry(place, job)) for job, place in each)
            yield IndexedRun(self, name, found, jobs)

    def _entry(self, folder: str, name: str) -> Entry:
        stamp = _stamp(folder)
        known = self._known.get(name)
        if (
            known is None
            or known.stamp != stamp
            or known.status in {Status.STARTING, Status.RUNNING}
        ):
            known = _entry_of(Run(Path(folder), name), stamp)
            self._changed = True
        self._entries[name] = known
        return known


def flattened(settings: Any, prefix: str = "") -> Record:
    """Nested settings by their path, lists left whole: {"model": {"degree": 3}} is {"model.degree": 3}."""
    flat: Record = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        flat |= flattened(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return flat


def _stamp(folder: str) -> Stamp:
    place = (0, 0, 0)
    with contextlib.suppress(OSError):
        place = (
            os.stat(folder).st_mtime_ns,
            0,
            0,
        )  # which changes with every file that is renamed into it
        record = os.stat(f"{folder}/{MANIFEST_FILE}")
        return place[0], record.st_mtime_ns, record.st_size
    return place


def _entry_of(run: Run, stamp: Stamp) -> Entry:
    labels = run.labels
    facts: Record = {
        "tags": list(labels.tags),
        "note": labels.note or None,
        "command": run.path.parent.name,
    }
    try:
        manifest = run.manifest
    except KanrunError:
        with contextlib.suppress(StorageFailed):
            facts["jobs"] = len(Sweep.read(run.path).jobs)
        return Entry(stamp, run.status, stamp[0] / 1e9, None, _raw(facts))
    metrics: Record = {
        name: value for name, value in manifest.metrics.items() if name not in FIELDS
    }
    facts = metrics | facts
    kept = ("command", "reason", "seconds", "cells", "device", "precision", "threads", "host")
    facts |= {name: getattr(manifest, name) for name in kept}
    facts |= {name: _time(getattr(manifest, name)) for name in ("started", "ended")}
    facts |= {
        "seeds": len(manifest.seeds),
        "executor": manifest.executor.get("kind"),
        "overrides": list(manifest.overrides),
        "claims": len(manifest.claims),
        "claims_hold": sum(claim.holds for claim in manifest.claims),
        "failures": len(manifest.failures),
    }
    began = manifest.started.timestamp() if manifest.started else stamp[0] / 1e9
    return Entry(stamp, run.status, began, run.error, _raw(facts))


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds")


def _raw(values: Record) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(values))


def _read(path: Path) -> dict[str, Entry]:
    try:
        stored = msgspec.msgpack.decode(path.read_bytes(), type=_Stored)
    except (OSError, msgspec.DecodeError):
        return {}
    return stored.entries if stored.format == _FORMAT else {}
