"""The journal of a run, `records.jsonl`: the only file that must survive.

Every line is one record. It identifies its training by point and cell (each only if there are
several) and seed, and ends with a checksum. Lines are appended and never changed. If a training
begins again, a line says so, and the earlier records of the training become void. All tables can be
restored from the journal.

The kinds of lines are:

- `begun`: an attempt at a training begins. Earlier records of the training become void, except
  those up to the checkpoint from which the attempt continues. `digest` identifies the settings of
  the cell.
- `rows`: rows of a table, as lists by column. A large table takes several lines.
- `checkpoint`: the training can continue from the checkpoint with this checksum.
- `finished` or `failed`: the attempt has ended.
- `result`: medians and claims of a point; all of its trainings have ended.

Numbers that JSON lacks (NaN, infinities, integers beyond 64 bits) are stored as text in a list of
one element, such as `["nan"]`. `Journal` first reads all lines to find which trainings have ended
and which records are void. Each table is then read in a separate pass, line by line.
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
#: Beginning of the lines that hold rows.
_ROWS = b'{"kind":"rows"'
#: Largest number of values of a table in one line. Fewer make more lines, which take longer to
#: read; more need more memory.
MOST_VALUES = 50_000
#: Integers of at least this size are stored as text.
_INTEGERS = 2**63
#: Text before the checksum, which is the last key of a line.
_CHECKSUM = b',"crc":'
Stored = str | int | float | bool | tuple[str] | None
#: Name of a table as returned by `file_name`, so never a path. Its CSV file has this name.
_TableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_=+,][A-Za-z0-9_.=+,-]*\Z")]


class Line(msgspec.Struct, tag_field="kind", omit_defaults=True):
    """A line of the journal.

    If the run has only one point, `point` is None; if the point has only one cell, `cell` is None.
    """

    point: int | None = None
    cell: int | None = None
    seed: int | None = None

    @property
    def key(self) -> Key:
        """Key of the training: the numbers of its point and cell (0 if there is one), its seed."""
        return self.point or 0, self.cell or 0, self.seed or 0

    @property
    def marks(self) -> dict[str, int]:
        """Columns that say which training a row belongs to."""
        pairs = ((mark, getattr(self, mark)) for mark in MARKS)
        return {mark: value for mark, value in pairs if value is not None}


class BegunLine(Line, tag="begun"):
    """An attempt at a training begins, from the checkpoint with this checksum or from scratch."""

    digest: str = ""
    checkpoint: str | None = None


class RowsLine(Line, tag="rows"):
    """Rows of a table as lists by column. The lists are decoded only on request."""

    table: _TableName = ""
    columns: dict[str, msgspec.Raw] = {}

    def values(self) -> dict[str, list[Any]]:
        """Return the decoded columns. Raises one of MALFORMED if they are damaged."""
        return {name: _restored(values) for name, values in self.columns.items()}


class CheckpointLine(Line, tag="checkpoint"):
    """A checkpoint from which the training can continue, identified by its checksum."""

    sha256: str = ""


class FinishedLine(Line, tag="finished"):
    """The training has finished."""


class FailedLine(Line, tag="failed"):
    """The training has failed. Its records are kept until it begins again."""

    settings: dict[str, Any] = {}
    reason: str = ""
    trace: str | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The failure as an entry of `failures` in `run.json`."""
        told = {"settings": self.settings, "reason": self.reason, "trace": self.trace}
        return {"cell": 0, **self.marks, **told}


class ResultLine(Line, tag="result"):
    """Result of a point: medians over seeds, claims, and, if it failed, the reason."""

    metrics: dict[str, float | None] = {}
    claims: tuple[Claim, ...] = ()
    reason: str | None = None


_decoder = msgspec.json.Decoder(
    BegunLine | RowsLine | CheckpointLine | FinishedLine | FailedLine | ResultLine
)
_values_decoder = msgspec.json.Decoder(list[Stored])


def encoded(line: Line) -> bytes:
    """Return a line as text with its checksum. Raises KanrunError if it is too long to be read."""
    text = to_json(line)
    if len(text) > JSON_LIMIT:
        raise KanrunError(f"a record has {len(text)} bytes; {JSON_LIMIT} are read at most.")
    return b"%s%s%d}\n" % (text[:-1], _CHECKSUM, crc32(text))


def decoded(text: bytes) -> Any:
    """Return the line that `encoded` wrote as `text`. Raises one of MALFORMED if it is damaged."""
    head, _, checksum = text.rpartition(_CHECKSUM)
    if crc32(head + b"}") != int(checksum.removesuffix(b"}\n")):
        raise ValueError("its checksum is another")
    return _decoder.decode(head + b"}")


def rows_lines(table: str, columns: Columns, marks: Mapping[str, Any]) -> Iterator[RowsLine]:
    """Yield the lines that hold these rows of `table`.

    `marks` identifies the training (point, cell and seed). Raises ValueError if the columns have
    different lengths.
    """
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
    """Convert an array or a sequence to a list that the journal can store."""
    listed: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    kinds = set(map(type, listed))
    # Most columns hold only finite numbers or ASCII text, which need no conversion.
    if kinds == {float} and all(map(math.isfinite, listed)):
        return listed
    if kinds == {str} and "".join(listed).isascii():
        return listed
    return list(map(_stored_value, listed))


def _stored_value(value: Any) -> Stored:
    """Convert a value to what the journal stores. Other objects than numbers become text."""
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
    """Contents of the journal of a run, or only those about one point.

    An incomplete last line is ignored. The memory needed grows with the number of trainings, but
    not with the number of their records.

    Attributes:
        end: Byte position after the last line that was read.
        damaged: Whether a complete line is unreadable. That line and all later ones are ignored.
        digests: Digest of the cell's settings, for each training that has begun.
        finished: Keys of the finished trainings.
        failed: For each training that failed and was not repeated, the line that says so.
        results: Result of each point whose trainings have all ended.
        begins: Byte position of the first rows of each point.
        checkpoints: For each unfinished training, the checkpoints from which it can continue, as
            checksum -> byte position of the line in the journal.
    """

    def __init__(
        self, folder: Path, point: int | None = None, start: int = 0, *, rows: bool = True
    ) -> None:
        """Read the journal in `folder`, starting at the byte position `start`.

        With `point`, only lines about that point are used. Without `rows`, lines that hold rows of
        tables are skipped, which is faster.
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
        # For each training, the ranges of byte positions in which its records are void.
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
        """Yield the byte position, content and size in bytes of each wanted line.

        It stops at the first damaged line, or at the byte position `end`.
        """
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
        """Return the swept settings of a point, if they are columns of `table`.

        Only the summary of all points has such columns.
        """
        several = self._point is None and "point" in self._marks[table]
        if table != "summary" or not several:
            return {}
        return {name: swept_text(value) for name, value in self._points[point].values.items()}

    def header(self, table: str) -> list[str]:
        """Return the column names of a table.

        Point, swept settings, cell and seed come first, followed by the recorded columns.
        """
        own = self._columns[table]
        swept = [name for name in self._swept(table, 0) if name not in own]
        point, *others = MARKS
        marks = self._marks[table] - (set() if self._point is None else {point})
        leading = [point, *swept, *others]
        return [name for name in leading if name in marks or name in swept] + list(own)

    def blocks(self, table: str) -> Iterator[tuple[Key, Columns]]:
        """Yield the rows of a table, one line of the journal at a time, without void records.

        Each item is the key of the training and the rows as lists by column. Raises StorageFailed
        if the columns cannot be decoded.
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

        Values that were not recorded are None. Raises StorageFailed if the journal is damaged, or
        if the table is too large to be read.
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
        """Tables by name; a table is read when it is first used."""
        return RunTables(self.tables, lambda name: frame_of(self.columns(name)))


class RunTables(Mapping[str, "pandas.DataFrame"]):
    """Mapping of table names to DataFrames; a table is read when it is first used."""

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
    """Convert a swept value to an entry of a table: lists and mappings become JSON text."""
    return value if isinstance(value, str | int | float) else msgspec.json.encode(value).decode()
