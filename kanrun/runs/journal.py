"""Progress of a run: `progress.jsonl`, one line for each training and point that ended.

Lines are appended and never changed, so that ten thousand points cost no more than ten thousand
lines, and a killed run keeps all of them. Kinds of lines:

- `{"finished": [point, cell, seed], "digest": ..., "rows": {table: [rows, layout]}}`
- `{"failed": [point, cell, seed], "digest": ..., "reason": ..., "trace": ...}`
- `{"layout": ..., "columns": [...]}`: the columns that a training wrote into a table
- `{"point": ..., "metrics": {...}, "claims": [...], "reason": ...}`: a point whose trainings ended
- `{"resumed": ...}`: earlier failures are repeated from here on
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kanrun.runs.manifest import Claim
from kanrun.runs.tables import Key

JOURNAL_FILE = "progress.jsonl"
#: Bytes of a line; a longer one is not of kanrun.
_LONGEST = 2**22


class FinishedTraining(NamedTuple):
    """Digest of a finished training's cell; by table its rows and the mark of its columns."""

    digest: str
    rows: dict[str, tuple[int, str]]


class PointResult(msgspec.Struct):
    """Result of a point: medians over seeds, claims, and why it failed, if it did."""

    point: int
    metrics: dict[str, float | None] = {}
    claims: tuple[Claim, ...] = ()
    reason: str | None = None


@dataclass
class Journal:
    """Content of `progress.jsonl`."""

    finished: dict[Key, FinishedTraining] = field(default_factory=dict)
    failed: dict[Key, dict[str, Any]] = field(default_factory=dict)
    layouts: dict[str, list[str]] = field(default_factory=dict)
    results: dict[int, PointResult] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """Return the journal of the run in `folder`; lines that cannot be read are skipped."""
        journal = cls()
        for line in _lines(folder / JOURNAL_FILE):
            try:
                journal._take(line)
            except (KeyError, TypeError, ValueError, msgspec.ValidationError):
                continue
        return journal

    def _take(self, line: Mapping[str, Any]) -> None:
        if "finished" in line:
            key = _key(line["finished"])
            rows = {str(name): (int(n), str(mark)) for name, (n, mark) in line["rows"].items()}
            self.finished[key] = FinishedTraining(str(line["digest"]), rows)
            self.failed.pop(key, None)
        elif "failed" in line:
            self.failed[_key(line["failed"])] = dict(line)
        elif "layout" in line:
            self.layouts[str(line["layout"])] = [str(name) for name in line["columns"]]
        elif "point" in line:
            result = msgspec.convert(line, PointResult)
            self.results[result.point] = result
        elif "resumed" in line:
            self.failed.clear()
            self.results = {
                number: result for number, result in self.results.items() if not result.reason
            }

    def counts(self) -> Counter[int]:
        """Return how many trainings of each point finished."""
        return Counter(point for point, _, _ in self.finished)

    def layout(self, point: int) -> dict[str, list[str] | None]:
        """Return the columns of each table that the finished trainings of a point wrote.

        None stands for columns that are not known.
        """
        found: dict[str, list[str] | None] = {}
        for key, finished in self.finished.items():
            if key[0] == point:
                for table, (_, mark) in finished.rows.items():
                    columns, before = self.layouts.get(mark), found.get(table, [])
                    known = columns is not None and before is not None
                    found[table] = list(dict.fromkeys([*before, *columns])) if known else None  # type: ignore[misc]
        return found


def _key(values: Any) -> Key:
    point, cell, seed = map(int, values)
    return point, cell, seed


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_symlink() or not path.is_file():
        return
    with open(path, "rb") as stream:
        while line := stream.readline(_LONGEST):
            try:
                content = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                yield content
