"""The journal of a run, `records.jsonl`: the only file that must survive.

Every line is one record with the point (if there are several), the cell (likewise) and the seed of
its training, and ends with a checksum. Lines are appended and never changed: a training that begins
again says so, and its earlier records no longer count. All else in the folder follows from them.

The lines, by their `kind`:

- `begun`: an attempt at a training. Its earlier records are void, except those up to the checkpoint
  from which the attempt continues. `digest` identifies the settings of the cell.
- `rows`: rows of a table, by columns. A large table takes several lines.
- `checkpoint`: the training can continue from the checkpoint of this checksum.
- `finished` and `failed`: how the attempt ended.
- `result`: medians and claims of a point whose trainings have all ended.

Numbers that JSON lacks (NaN, infinities, integers above 64 bits) are lists of one text: `["nan"]`.
`Journal` reads the lines: a first pass finds which trainings ended and which records are void; each
table is then read in a pass of its own, line by line.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import msgspec

from kanrun.errors import MALFORMED, KanrunError, StorageFailed
from kanrun.runs.files import (
    JSON_LIMIT,
    MARKS,
    TABLE_LIMIT,
    Columns,
    Key,
    frame_of,
    plain_value,
    to_json,
)
from kanrun.runs.records import Claim, Point, read_points

if TYPE_CHECKING:
    import pandas

JOURNAL_FILE = "records.jsonl"
#: Tables that every run has. They are listed first, and their files lie in the run folder itself;
#: other tables are in `tables/`.
TOP_TABLES = ("metrics", "summary")
#: How lines that hold rows begin.
_ROWS = b'{"kind":"rows"'
#: Values of a table in one line; more lines cost more to read, longer ones more memory.
MOST_VALUES = 50_000
#: Integers of at least this size are stored as text.
_INTEGERS = 2**63
#: What stands before the checksum, which is the last key of a line.
_CHECKSUM = b',"crc":'
Stored = str | int | float | bool | tuple[str] | None
#: Name of a table as `file_name` returns it, never a path: its CSV file has this name.
_TableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_=+,][A-Za-z0-9_.=+,-]*\Z")]


class Line(msgspec.Struct, tag_field="kind", omit_defaults=True):
    """A line of the journal; a training of a run of one point or cell has no number of it."""

    point: int | None = None
    cell: int | None = None
    seed: int | None = None

    @property
    def key(self) -> Key:
        """Numbers of the point and the cell, and the seed."""
        return self.point or 0, self.cell or 0, self.seed or 0

    @property
    def marks(self) -> dict[str, int]:
        """Columns that say which training a row belongs to."""
        pairs = ((mark, getattr(self, mark)) for mark in MARKS)
        return {mark: value for mark, value in pairs if value is not None}


class BegunLine(Line, tag="begun"):
    """An attempt at a training, which continues from the checkpoint of this checksum, if any."""

    digest: str = ""
    checkpoint: str | None = None


class RowsLine(Line, tag="rows"):
    """Rows of a table as lists by column, which are decoded when they are asked for."""

    table: _TableName = ""
    columns: dict[str, msgspec.Raw] = {}

    def values(self) -> dict[str, list[Any]]:
        """Return the columns. Raises one of MALFORMED for what is none."""
        return {name: _restored(values) for name, values in self.columns.items()}


class CheckpointLine(Line, tag="checkpoint"):
    """A checkpoint that the training can continue from."""

    sha256: str = ""


class FinishedLine(Line, tag="finished"):
    """The training has finished."""


class FailedLine(Line, tag="failed"):
    """The training has failed; what it recorded stays until it begins again."""

    settings: dict[str, Any] = {}
    reason: str = ""
    trace: str | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The failure as `run.json` lists it."""
        told = {"settings": self.settings, "reason": self.reason, "trace": self.trace}
        return {"cell": 0, **self.marks, **told}


class ResultLine(Line, tag="result"):
    """Result of a point: medians over seeds, claims, and why it failed, if it did."""

    metrics: dict[str, float | None] = {}
    claims: tuple[Claim, ...] = ()
    reason: str | None = None


_decoder = msgspec.json.Decoder(
    BegunLine | RowsLine | CheckpointLine | FinishedLine | FailedLine | ResultLine
)
_values_decoder = msgspec.json.Decoder(list[Stored])


def encoded(line: Line) -> bytes:
    """Return a line with its checksum. Raises KanrunError for one that is too long to be read."""
    text = to_json(line)
    if len(text) > JSON_LIMIT:
        raise KanrunError(f"a record has {len(text)} bytes; {JSON_LIMIT} are read at most.")
    return b"%s%s%d}\n" % (text[:-1], _CHECKSUM, crc32(text))


def decoded(text: bytes) -> Any:
    """Return the line of `encoded`. Raises one of MALFORMED for another text."""
    head, _, checksum = text.rpartition(_CHECKSUM)
    if crc32(head + b"}") != int(checksum.removesuffix(b"}\n")):
        raise ValueError("its checksum is another")
    return _decoder.decode(head + b"}")


def rows_lines(table: str, columns: Columns, marks: Mapping[str, Any]) -> Iterator[RowsLine]:
    """Yield the lines of rows of a table. Raises ValueError for columns of different lengths."""
    lists = {plain_value(name): _stored(values) for name, values in columns.items()}
    sizes = {name: len(values) for name, values in lists.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the columns of a table must have equal lengths, not {sizes}")
    step = max(1, MOST_VALUES // max(1, len(lists)))
    for first in range(0, max(1, *sizes.values()), step):
        parts = {name: values[first : first + step] for name, values in lists.items()}
        raw = {name: msgspec.Raw(msgspec.json.encode(part)) for name, part in parts.items()}
        yield RowsLine(**marks, table=table, columns=raw)


def _stored(values: Any) -> list[Stored]:
    """Return an array or a sequence as the journal holds it."""
    listed: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    kinds = set(map(type, listed))
    # Most columns are numbers or plain text, which need no second look.
    if kinds == {float} and all(map(math.isfinite, listed)):
        return listed
    if kinds == {str} and "".join(listed).isascii():
        return listed
    return list(map(_stored_value, listed))


def _stored_value(value: Any) -> Stored:
    """Return a value as the journal holds it; what is neither number nor text becomes text."""
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else (repr(value),)
    if isinstance(value, int):
        return int(value) if -_INTEGERS <= value < _INTEGERS else (str(value),)
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _restored(encoded_values: msgspec.Raw) -> list[Any]:
    values = _values_decoder.decode(encoded_values)
    return list(map(_restored_value, values)) if tuple in set(map(type, values)) else values


def _restored_value(value: Stored) -> Any:
    if not isinstance(value, tuple):
        return value
    (text,) = value
    return int(text) if text.lstrip("-").isdecimal() else float(text)


class Journal:
    """Contents of the journal of a run, or of its part about one point.

    An incomplete last line is ignored. Memory grows with the number of trainings, not with the
    number of their records.

    Attributes:
        end: Byte position after the last line that was read.
        damaged: Whether a complete line is unreadable. It and all later lines are ignored.
        digests: Digest of the cell of each training that has begun.
        finished: Finished trainings.
        failed: Trainings that failed and have not been repeated.
        results: Result of each point that has ended.
        begins: Byte position of the first record of each point.
        checkpoints: For each unfinished training, the byte position in the journal of each
            checkpoint that it can continue from, by its checksum.
    """

    def __init__(
        self, folder: Path, point: int | None = None, start: int = 0, *, rows: bool = True
    ) -> None:
        """Read the journal in `folder` from the byte `start` on.

        Without `rows`, lines that hold rows of tables are skipped, which is faster.
        """
        self.path = folder / JOURNAL_FILE
        self.end = start
        self.damaged = False
        self._folder = folder
        self._point = point
        self._start = start
        self.digests: dict[Key, str] = {}
        self.finished: set[Key] = set()
        self.failed: dict[Key, FailedLine] = {}
        self.results: dict[int, ResultLine] = {}
        self.begins: dict[int, int] = {}
        self.checkpoints: dict[Key, dict[str, int]] = defaultdict(dict)
        self._columns: dict[str, dict[str, None]] = {}  # columns in order, by table
        self._marks: dict[str, set[str]] = defaultdict(set)
        self._sizes = Counter[str]()
        # For each training, the stretches of bytes in which its records are void.
        self._void: dict[Key, list[tuple[int, int]]] = defaultdict(list)
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
                        yield at, decoded(text), len(text)
                    at += len(text)
        except OSError as error:
            raise StorageFailed(f"cannot read {self.path}: {error.strerror or error}.") from error
        except MALFORMED:
            self.damaged = True

    def _take(self, line: Any, at: int, size: int) -> None:
        key = line.key
        match line:
            case RowsLine():
                self._columns.setdefault(line.table, {}).update(dict.fromkeys(line.columns))
                self._marks[line.table].update(line.marks)
                self._sizes[line.table] += size
                self.begins.setdefault(key[0], at)
            case BegunLine():
                if key in self.digests:
                    own = self.checkpoints.pop(key, {})
                    since = own.get(line.checkpoint or "", 0)
                    self.checkpoints[key] |= {
                        n: place for n, place in own.items() if place <= since
                    }
                    self._void[key].append((since, at))
                self.digests[key] = sys.intern(line.digest)
                self.failed.pop(key, None)
                self.results.pop(key[0], None)
            case CheckpointLine():
                self.checkpoints[key][line.sha256] = at
            case FinishedLine():
                self.finished.add(key)
                self.checkpoints.pop(key, None)
            case FailedLine():
                self.failed[key] = line
            case ResultLine():
                self.results[key[0]] = line

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(sorted(self._columns, key=lambda name: (name not in TOP_TABLES, name)))

    @cached_property
    def _points(self) -> Sequence[Point]:
        return read_points(self._folder)

    def _swept(self, table: str, point: int) -> Mapping[str, Any]:
        """Return the swept settings of a point, which are columns of the summary of all points."""
        several = self._point is None and "point" in self._marks[table]
        if table != "summary" or not several:
            return {}
        return {name: swept_text(value) for name, value in self._points[point].values.items()}

    def header(self, table: str) -> list[str]:
        """Return the columns of a table: point, swept settings, cell, seed, and recorded ones."""
        own = self._columns[table]
        swept = [name for name in self._swept(table, 0) if name not in own]
        point, *others = MARKS
        marks = self._marks[table] - (set() if self._point is None else {point})
        leading = [point, *swept, *others]
        return [name for name in leading if name in marks or name in swept] + list(own)

    def blocks(self, table: str) -> Iterator[tuple[Key, Columns]]:
        """Yield the rows of a table line by line, as the key of their training and columns.

        Raises StorageFailed if the columns cannot be decoded.
        """
        holding = b'"table":' + msgspec.json.encode(table)
        for at, line, _ in self._lines(lambda text: holding in text, self.end):
            key = line.key
            if not isinstance(line, RowsLine) or line.table != table:
                continue
            is_void = any(start <= at < end for start, end in self._void.get(key, ()))
            if is_void or self._point not in (None, line.point):
                continue
            try:
                columns = line.values()
                rows = len(next(iter(columns.values()), ()))
                leading = {**self._swept(table, key[0]), **line.marks}
            except MALFORMED as error:
                raise StorageFailed(f"{self.path} is damaged at byte {at}: {error}.") from error
            yield key, {**{name: [value] * rows for name, value in leading.items()}, **columns}

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


def swept_text(value: Any) -> Any:
    """Return a swept value as a column of a table holds it: lists and mappings as JSON."""
    return value if isinstance(value, str | int | float) else msgspec.json.encode(value).decode()
