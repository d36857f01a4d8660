"""Reading the journal of a run: which trainings have ended, and the tables.

The journal is the single source of truth about a run (`lines.py` describes its lines); all other
results in the folder are derived from it. A first pass finds which trainings finished or failed and
which records are void, because a later attempt or a later table replaces them. Each table is then
read in a pass of its own, record by record.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kanrun.errors import MALFORMED, StorageFailed
from kanrun.runs.files import (
    JSON_LIMIT,
    MARKS,
    TABLE_LIMIT,
    Columns,
    Key,
    frame_of,
    read_bytes,
)
from kanrun.runs.lines import (
    LINES,
    BegunLine,
    CheckpointLine,
    FailedLine,
    FinishedLine,
    ResultLine,
    ResumedLine,
    RowLine,
    TableLine,
    large_file,
    marked,
    restored_values,
    values_of,
)
from kanrun.runs.records import Point, read_points

if TYPE_CHECKING:
    import pandas

JOURNAL_FILE = "records.jsonl"
#: Tables that every run has. They are listed first, and their files lie in the run folder itself;
#: other tables are in `tables/`.
TOP_TABLES = ("metrics", "summary")
#: How lines that hold rows begin.
_ROWS = (b'{"kind":"row"', b'{"kind":"table"')
_decoder = msgspec.json.Decoder(LINES)
_columns_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass
class _Attempt:
    """Records of an unfinished training.

    Attributes:
        checkpoints: Byte position in the journal of each checkpoint, by its SHA-256 checksum.
        tables: Names of the tables that have records.
    """

    checkpoints: dict[str, int] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)


class Journal:
    """Contents of the journal of a run, or of its part about one point.

    An incomplete last line is ignored. Memory grows with the number of trainings, not with the
    number of their records.

    Attributes:
        end: Byte position after the last line that was read.
        damaged: Whether a complete line is unreadable. It and all later lines are ignored.
        digests: Digest of the cell of each training that has begun.
        finished: Finished trainings, with the large tables that each wrote.
        failed: Trainings that failed and have not been repeated.
        results: Result of each point that has ended.
        begins: Byte position of the first record of each point.
    """

    def __init__(
        self, folder: Path, point: int | None = None, start: int = 0, *, rows: bool = True
    ) -> None:
        """Read the journal in `folder` from the byte `start` on.

        Without `rows`, lines that hold rows of tables are skipped, which is faster.
        """
        self.path, self.end, self.damaged = folder / JOURNAL_FILE, start, False
        self._folder, self._point, self._start = folder, point, start
        self.digests: dict[Key, str] = {}
        self.finished: dict[Key, tuple[TableLine, ...]] = {}
        self.failed: dict[Key, FailedLine] = {}
        self.results: dict[int, ResultLine] = {}
        self.begins: dict[int, int] = {}
        self._columns: dict[str, dict[str, None]] = {}  # columns in order, by table
        self._marks: dict[str, set[str]] = defaultdict(set)
        self._sizes = Counter[str]()
        self._attempts: dict[Key, _Attempt] = defaultdict(_Attempt)
        self._large: dict[Key, tuple[TableLine, ...]] = {}
        # For each training, (table, start, end): its records between these bytes are void, in all
        # tables if the table is None.
        self._void: dict[Key, list[tuple[str | None, int, int]]] = defaultdict(list)
        if self.path.is_symlink() or not self.path.is_file():
            return
        for at, line, size in self._lines(lambda text: rows or not text.startswith(_ROWS)):
            self.end = at + size
            if point is None or point == line.point:
                self._take(line, at, size)

    def _lines(
        self, wanted: Callable[[bytes], bool], end: int | None = None
    ) -> Iterator[tuple[int, Any, int]]:
        """Yield byte position, line and size of the wanted lines, up to the first damaged one."""
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self._start)
                at = self._start
                while (text := stream.readline(JSON_LIMIT)).endswith(b"\n"):
                    if end is not None and at >= end:
                        return
                    if wanted(text):
                        yield at, _decoder.decode(text), len(text)
                    at += len(text)
        except OSError as error:
            raise StorageFailed(f"cannot read {self.path}: {error.strerror or error}.") from error
        except MALFORMED:
            self.damaged = True

    def _take(self, line: Any, at: int, size: int) -> None:
        key = line.key
        match line:
            case RowLine() | TableLine():
                own = line.values if isinstance(line, RowLine) else line.columns
                self._columns.setdefault(line.table, {}).update(dict.fromkeys(own))
                self._marks[line.table].update(line.marks)
                self._sizes[line.table] += size + getattr(line, "size", 0)
                self.begins.setdefault(key[0], at)
                tables = self._attempts[key].tables
                if isinstance(line, TableLine) and line.table in tables:
                    self._void[key].append((line.table, 0, at))
                if isinstance(line, TableLine) and line.sha256:
                    self._large[key] = (*self._large.get(key, ()), line)
                tables.add(line.table)
            case BegunLine():
                self.digests[key] = sys.intern(line.digest)
                if attempt := self._attempts.get(key):
                    since = attempt.checkpoints.get(line.checkpoint or "", 0)
                    kept = attempt.checkpoints.items()
                    attempt.checkpoints = {name: place for name, place in kept if place <= since}
                    self._void[key].append((None, since, at))
            case CheckpointLine():
                self._attempts[key].checkpoints[line.sha256] = at
            case FinishedLine():
                self.finished[key] = self._large.pop(key, ())
                self.failed.pop(key, None)
                self._attempts.pop(key, None)
            case FailedLine():
                self.failed[key] = line
            case ResultLine():
                self.results[key[0]] = line
            case ResumedLine():
                self.failed.clear()
                self.results = {n: one for n, one in self.results.items() if not one.reason}

    def checkpoints(self, key: Key) -> set[str]:
        """Return the checksums of the checkpoints that an unfinished training wrote."""
        return set(self._attempts[key].checkpoints) if key in self._attempts else set()

    def is_finished(self, key: Key) -> bool:
        """Return whether a training has finished and its large tables are undamaged."""
        if key not in self.finished:
            return False
        try:
            return all(map(self._large_columns, self.finished[key]))
        except StorageFailed:
            return False

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(sorted(self._columns, key=lambda name: (name not in TOP_TABLES, name)))

    @cached_property
    def _points(self) -> Sequence[Point]:
        return read_points(self._folder)

    def _swept(self, table: str, point: int | None) -> Mapping[str, Any]:
        """Return the swept settings that are added as columns to the records of a point.

        Only the summary of all points gets them, and only those that are not its columns already.
        """
        if point is None or table != "summary" or self._point is not None:
            return {}
        own, swept = self._columns[table], self._points[point].values
        return {name: value for name, value in swept.items() if name not in own}

    def header(self, table: str) -> list[str]:
        """Return the columns of a table: point, swept settings, cell, seed, and recorded ones."""
        marks: dict[str, Any] = {mark: 0 for mark in MARKS if mark in self._marks[table]}
        first, own = RowLine(**marks, table=table), dict.fromkeys(self._columns[table], ())
        header = marked(first, own, self._swept(table, first.point))
        return [name for name in header if name != "point" or self._point is None]

    def blocks(self, table: str) -> Iterator[tuple[Key, Columns]]:
        """Yield the records of a table in the order of the journal.

        Each comes as the key of its training and its columns. Raises StorageFailed if the columns
        cannot be decoded, or if their file is missing or damaged.
        """
        holding = b'"table":' + msgspec.json.encode(table)
        for at, line, _ in self._lines(lambda text: holding in text, self.end):
            if not isinstance(line, RowLine | TableLine) or line.table != table:
                continue
            if self._point not in (None, line.point) or self._is_void(line, at):
                continue
            try:
                block = marked(line, self._columns_of(line), self._swept(table, line.point))
            except MALFORMED as error:
                raise StorageFailed(f"{self.path} is damaged at byte {at}: {error}.") from error
            if self._point is not None:
                block.pop("point", None)
            yield line.key, block

    def _columns_of(self, line: RowLine | TableLine) -> dict[str, list[Any]]:
        """Return the columns of one record. Raises StorageFailed if their file is damaged."""
        if isinstance(line, RowLine):
            return values_of(line)
        stored = self._large_columns(line) if line.sha256 else line.columns
        return {name: restored_values(values) for name, values in stored.items()}

    def _is_void(self, line: RowLine | TableLine, at: int) -> bool:
        stretches = self._void.get(line.key, ())
        return any(
            start <= at < end and table in (None, line.table) for table, start, end in stretches
        )

    def _large_columns(self, line: TableLine) -> dict[str, msgspec.Raw]:
        """Read the columns of a table from its own file. Raises StorageFailed if it is damaged."""
        path = large_file(self._folder, str(line.sha256))
        content = read_bytes(path, TABLE_LIMIT)
        if len(content) != line.size or hashlib.sha256(content).hexdigest() != line.sha256:
            raise StorageFailed(f"{path} is damaged: its size or checksum is not the recorded one.")
        return _columns_decoder.decode(content)

    def columns(self, table: str) -> dict[str, list[Any]]:
        """Return a table as lists by column, with rows sorted by point, cell and seed.

        Fields that were not recorded are None. Raises StorageFailed if the journal is damaged or
        the table is too large to be read.
        """
        if self.damaged:
            raise StorageFailed(
                f"{self.path} is damaged at byte {self.end}; `kanrun runs resume` repeats what is "
                "recorded from there on."
            )
        if (size := self._sizes[table]) > TABLE_LIMIT:
            raise StorageFailed(
                f"the table {table} of {self.path} has {size} bytes, more than the {TABLE_LIMIT} "
                "that are read."
            )
        header = self.header(table)
        trainings: dict[Key, dict[str, list[Any]]] = {}
        for key, block in self.blocks(table):
            columns = trainings.setdefault(key, {name: [] for name in header})
            rows = len(next(iter(block.values()), ()))
            for name, values in columns.items():
                values.extend(block.get(name, [None] * rows))
        ordered = [trainings[key] for key in sorted(trainings)]
        return {name: list(chain.from_iterable(one[name] for one in ordered)) for name in header}

    @property
    def frames(self) -> RunTables:
        """Tables by name, each read when it is first asked for."""
        return RunTables(self.tables, lambda name: frame_of(self.columns(name)))


class RunTables(Mapping[str, "pandas.DataFrame"]):
    """Tables by name, each read when it is first asked for."""

    def __init__(self, names: tuple[str, ...], read: Callable[[str], pandas.DataFrame]) -> None:
        self._names, self._read = names, cache(read)

    def __getitem__(self, name: str) -> pandas.DataFrame:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
