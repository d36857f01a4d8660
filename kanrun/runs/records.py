"""What a run records: the records that an experiment yields, `run.json`, and the journal.

The journal is the file `records.jsonl`, the only file that must survive.

Every line is one record. It identifies its training run by the numbers of the point and the cell
(each omitted if there is only one) and by the seed, and it ends with a checksum. Lines are appended
and never changed. If a training run begins again, a line records this, and the earlier records of
the training run become void. All tables can be restored from the journal. The kinds of lines are
the subclasses of `Line`; a large table takes several `rows` lines.

Numbers that JSON lacks (NaN, infinities, integers beyond 64 bits) are stored as text in a list of
one element, such as `["nan"]`. `Journal` first reads all lines to find which training runs have
ended and which records are void. Each table is then read in a separate pass, line by line.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import msgspec
from msgspec import Meta

from kanrun.errors import MALFORMED, KanrunError, StorageFailed, UsageError
from kanrun.runs.files import (
    JSON_LIMIT,
    MARKS,
    TABLE_LIMIT,
    Checkpoint,
    Columns,
    Key,
    plain_value,
    read_json,
    to_json,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: File of the manifest in the folder of a run; a folder without it is not a run.
MANIFEST_FILE = "run.json"
Value = str | int | float | bool | None
Time = Annotated[datetime, Meta(tz=True)]


@dataclass(frozen=True)
class Row:
    """One row of a table. Tables other than `metrics` and `summary` are stored in `tables/`."""

    table: str
    values: dict[str, Value]

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.table

    @property
    def columns(self) -> dict[str, tuple[Value]]:
        """The row as columns with one value each."""
        return {name: (value,) for name, value in self.values.items()}


@dataclass(frozen=True)
class Table:
    """Rows of the table `name`, as columns of equal length."""

    name: str
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Note:
    """A sentence for the user and the log: a choice with its reason, or a warning.

    A note with `detail` is shown only with -v.
    """

    text: str
    warning: bool = False
    detail: bool = False


Record = Row | Table | Checkpoint | Note
Records = Iterator[Record]


class Status(StrEnum):
    """State of a run, or of one of its points, as it is printed.

    The last three are never recorded: they are what a reader finds.
    """

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    KILLED = "INTERRUPTED (killed)"
    NEVER_STARTED = "INTERRUPTED (killed before it started)"
    UNREADABLE = "UNREADABLE"


@dataclass(frozen=True)
class Claim:
    """A statement that a run checked, with the result.

    Attributes:
        sentence: The claim.
        measured: The measured value. A value that is not finite is stored as null, so it is None
            when read from a file.
        bound: The bound in words, such as "at most 1e-12".
        holds: Whether the measured value is within the bound.
        spread: Range of the values, such as "3e-7 .. 8e-7 over 5 seeds".
    """

    sentence: str
    measured: float | str | None
    bound: str
    holds: bool
    spread: str | None = None


@dataclass(frozen=True)
class Point:
    """One combination of swept values.

    Attributes:
        number: Number of the point, from 0.
        overrides: Arguments that would give this point without -m.
        values: Swept values by full key, such as "model.degree", or "target" for a group. Empty if
            the study has only one point.
        base: Number of the composed configuration (in `bases` of the run) to which the values are
            applied.
    """

    number: Annotated[int, Meta(ge=0)]
    overrides: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    base: Annotated[int, Meta(ge=0)] = 0

    def __str__(self) -> str:
        words = ", ".join(f"{key}={value}" for key, value in self.values.items())
        return f"point {self.number} ({words})" if words else f"point {self.number}"


@dataclass(frozen=True)
class Manifest:
    """Contents of `run.json`. Times are ISO 8601 with their time zone.

    Attributes:
        points: Points of the run in the order of their numbers.
        bases: Composed configurations, to which the points apply their values.
        seeds: Seeds of the first point.
        cells: Number of cells of the first point.
        trainings: Number of training runs of all points.
        seconds: Wall-clock seconds, including those before the run was resumed.
        git: `commit` is the git commit; `of` says whether it is that of kanrun's code or of the
            working directory. None if neither is a git repository.
        metrics: Medians over seeds of the numeric columns of `summary.csv`. Empty if the run has
            several points or cells.
        claims: Claims, if the run has one point. Those of several points are in `records.jsonl`.
        failures: Point, cell, seed, settings, reason and traceback of the first failed training
            runs.
        checkpoints: Checksum of each stored checkpoint, by name.
        tags: Words by which the run is found.
        note: A sentence of the user about the run.
    """

    command: str
    argv: tuple[str, ...] = ()
    points: tuple[Point, ...] = (Point(0),)
    bases: tuple[dict[str, Any], ...] = ({},)
    seeds: tuple[int, ...] = ()
    cells: int = 1
    trainings: int = 1
    device: str = "cpu"
    precision: str = "float64"
    threads: int | None = None
    status: Status = Status.RUNNING
    reason: str | None = None
    trace: str | None = None
    started: Time | None = None
    ended: Time | None = None
    seconds: float | None = None
    resumed: tuple[Time, ...] = ()
    git: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    host: str | None = None
    pid: int | None = None
    process_start: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    failures: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    checkpoints: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    note: str = ""


def check_tags(tags: Iterable[str]) -> None:
    """Raise UsageError for a tag that cannot be used on the command line like the name of a run."""
    for tag in tags:
        if not re.fullmatch(r"[\w.+-]{1,40}", tag) or tag == "latest":
            raise UsageError(
                f"{tag!r} is not a valid tag: a tag has up to 40 letters, digits and . + - _, "
                "without blanks, and is not `latest`."
            )


JOURNAL_FILE = "records.jsonl"
#: Tables that every run has. They are listed first, and their files lie in the run folder itself;
#: other tables are in `tables/`.
TOP_TABLES = ("metrics", "summary")
#: Beginning of the lines that hold rows.
_ROWS = b'{"kind":"rows"'
#: Largest number of values of a table in one line. With fewer values, there are more lines, which
#: take longer to read; with more values, reading needs more memory.
MOST_VALUES = 50_000
#: Integers of at least this size are stored as text.
_INTEGERS = 2**63
#: Text before the checksum, which is the last key of a line.
_CHECKSUM = b',"crc":'
#: For each type of values, a function that is true for those that are stored unchanged.
_STORABLE: dict[type, Callable[[Any], bool]] = {float: math.isfinite, str: str.isascii}
Stored = str | int | float | bool | tuple[str] | None
#: Name of a table as returned by `file_name`, so never a path. Its CSV file has this name.
_TableName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_=+,][A-Za-z0-9_.=+,-]*\Z")]


class Line(msgspec.Struct, tag_field="kind", omit_defaults=True):
    """A line of the journal.

    If the run has only one point, `point` is None; if the point has only one cell, `cell` is None.
    """

    point: int | None = None
    cell: int | None = None
    seed: int | None = None

    @property
    def key(self) -> Key:
        """Numbers of the point and cell (0 if there is only one), and the seed of the training."""
        return self.point or 0, self.cell or 0, self.seed or 0

    @property
    def marks(self) -> dict[str, int]:
        """The numbers that identify the training in tables, by column: point, cell and seed."""
        pairs = ((mark, getattr(self, mark)) for mark in MARKS)
        return {mark: value for mark, value in pairs if value is not None}


class BegunLine(Line, tag="begun"):
    """A training run is attempted, from scratch or from the checkpoint with this checksum."""

    digest: str = ""
    checkpoint: str | None = None


class RowsLine(Line, tag="rows"):
    """Rows of a table as lists by column. The lists are decoded only on request."""

    table: _TableName = ""
    columns: dict[str, msgspec.Raw] = {}

    def values(self) -> dict[str, list[Any]]:
        """Return the decoded columns. Raises one of MALFORMED if they are damaged."""
        decoded_columns = {}
        for name, raw in self.columns.items():
            values: list[Any] = _values_decoder.decode(raw)
            has_text_numbers = tuple in set(map(type, values))
            decoded_columns[name] = list(map(_restored, values)) if has_text_numbers else values
        return decoded_columns


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
    """Decode a line of the journal, and check its checksum.

    Raises one of MALFORMED if the line is damaged.
    """
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
        raw = {
            name: msgspec.Raw(msgspec.json.encode(values[first : first + step]))
            for name, values in lists.items()
        }
        yield RowsLine(**marks, table=table, columns=raw)


def _stored(values: Any) -> list[Stored]:
    """Convert an array or a sequence to a list that the journal can store."""
    listed: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    # Most columns hold only finite numbers or plain text, which need no conversion.
    kinds = set(map(type, listed))
    is_storable = _STORABLE.get(*kinds) if len(kinds) == 1 else None
    if is_storable and all(map(is_storable, listed)):
        return listed
    return list(map(_stored_value, listed))


def _stored_value(value: Any) -> Stored:
    """Convert a value to what the journal stores. Objects that are not numbers become text."""
    value = value.item() if hasattr(value, "item") else value  # convert NumPy's numbers
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else (repr(value),)
    if isinstance(value, int):
        return int(value) if -_INTEGERS <= value < _INTEGERS else (str(value),)
    return str(value).encode("utf-8", "replace").decode()


def _restored(value: Stored) -> Any:
    if not isinstance(value, tuple):
        return value
    (text,) = value
    return int(text) if text.lstrip("-").isdecimal() else float(text)


@dataclass
class Attempts:
    """The attempts at one training run.

    Attributes:
        digest: Digest of the cell's settings.
        checkpoints: Checkpoints from which the training can continue, as checksum -> byte position
            of the line in the journal.
        void: Ranges of byte positions in which the records of the training are void.
    """

    digest: str = ""
    checkpoints: dict[str, int] = field(default_factory=dict)
    void: list[tuple[int, int]] = field(default_factory=list)

    def begin(self, line: BegunLine, position: int) -> None:
        """Begin a new attempt at a byte position; only records up to its checkpoint stay valid."""
        since = self.checkpoints.get(line.checkpoint or "", 0)
        self.checkpoints = {name: at for name, at in self.checkpoints.items() if at <= since}
        self.void.append((since, position))
        self.digest = sys.intern(line.digest)


class Journal:
    """Contents of the journal of a run, or of its lines about one point.

    An incomplete last line is ignored. The memory needed grows with the number of training runs,
    but not with the number of their records.

    Attributes:
        end: Byte position after the last line that was read.
        damaged: Whether a complete line is unreadable. That line and all later ones are ignored.
        trainings: The attempts at each training run, by its key.
        finished: Keys of the finished training runs.
        failed: For each training run that failed and was not repeated, the line that records the
            failure.
        results: Result of each point whose training runs have all ended.
        begins: Byte position of the first line with rows of each point.
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
        self.trainings = defaultdict[Key, Attempts](Attempts)
        self.finished = set[Key]()
        self.failed: dict[Key, FailedLine] = {}
        self.results: dict[int, ResultLine] = {}
        self.begins: dict[int, int] = {}
        self._folder = folder
        self._point = point
        self._start = start
        # Columns of each table in order of appearance; those that identify the training are in
        # `_marks`.
        self._columns = defaultdict[str, dict[str, None]](dict)
        self._marks = defaultdict[str, dict[str, None]](dict)
        self._sizes = Counter[str]()
        if self.path.is_symlink() or not self.path.is_file():
            return
        for position, line, size in self._lines(lambda text: rows or not text.startswith(_ROWS)):
            self.end = position + size
            if point is None or point == line.point:
                self._take(line, position, size)

    def _lines(
        self, wanted: Callable[[bytes], bool], end: float = math.inf
    ) -> Iterator[tuple[int, Any, int]]:
        """Yield the byte position, content and size in bytes of each wanted line.

        It stops at the first damaged line, or at the byte position `end`.
        """
        position = self._start
        try:
            with open(self.path, "rb") as stream:
                stream.seek(position)
                while (text := stream.readline(JSON_LIMIT)).endswith(b"\n") and position < end:
                    if wanted(text):
                        yield position, decoded(text), len(text)
                    position += len(text)
        except OSError as error:
            raise StorageFailed(f"cannot read {self.path}: {error.strerror or error}.") from error
        except MALFORMED:
            self.damaged = True

    def _take(self, line: Any, position: int, size: int) -> None:
        match line:
            case RowsLine():
                self._columns[line.table] |= dict.fromkeys(line.columns)
                self._marks[line.table] |= dict.fromkeys(line.marks)
                self._sizes[line.table] += size
                self.begins.setdefault(line.key[0], position)
            case BegunLine():
                self.trainings[line.key].begin(line, position)
                self.finished.discard(line.key)
                self.failed.pop(line.key, None)
                self.results.pop(line.key[0], None)
            case CheckpointLine():
                self.trainings[line.key].checkpoints[line.sha256] = position
            case FinishedLine():
                self.finished.add(line.key)
            case FailedLine():
                self.failed[line.key] = line
            case ResultLine():
                self.results[line.key[0]] = line

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(sorted(self._columns, key=lambda name: (name not in TOP_TABLES, name)))

    @cached_property
    def _points(self) -> Sequence[Point]:
        return read_json(self._folder / MANIFEST_FILE, Manifest).points

    def _leading(self, table: str, line: Line) -> dict[str, Any]:
        """Return the values in `line` of the first columns of `table`: point, cell and seed.

        In the summary of all points, the swept settings of the point follow its number.
        """
        marks = line.marks
        point = marks.pop("point", None)
        if point is None or self._point is not None:
            return marks
        swept = self._points[point].values if table == "summary" else {}
        new = {name: swept_text(swept[name]) for name in swept if name not in self._columns[table]}
        return {"point": point, **new, **marks}

    def header(self, table: str) -> list[str]:
        """Return the column names of a table, beginning with the columns of `_leading`."""
        marks = self._marks[table]
        any_line = Line(**{mark: 0 for mark in MARKS if mark in marks})
        return [*self._leading(table, any_line), *self._columns[table]]

    def blocks(self, table: str) -> Iterator[tuple[Key, list[list[Any]]]]:
        """Yield the rows of a table, one line of the journal at a time, without void records.

        Each item is the key of the training and the values of each column of `header`. Values that
        were not recorded are None. Raises StorageFailed if the columns cannot be decoded.
        """
        header = self.header(table)
        holding = b'"table":' + msgspec.json.encode(table)
        for position, line, _ in self._lines(lambda text: holding in text, self.end):
            if not isinstance(line, RowsLine) or line.table != table:
                continue
            void = self.trainings[line.key].void
            if self._point not in (None, line.point) or any(a <= position < b for a, b in void):
                continue
            try:
                columns = line.values()
                rows = len(next(iter(columns.values()), ()))
                columns |= {k: [v] * rows for k, v in self._leading(table, line).items()}
            except MALFORMED as error:
                raise StorageFailed(
                    f"{self.path} is damaged at byte {position}: {error}."
                ) from error
            yield line.key, [columns.get(name, [None] * rows) for name in header]

    def columns(self, table: str) -> dict[str, list[Any]]:
        """Return a table as lists by column, with rows sorted by point, cell and seed.

        Raises StorageFailed if the journal is damaged, or if the table is too large to be read.
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
        # A stable sort, which keeps the order of rows within a training run.
        blocks = sorted(self.blocks(table), key=itemgetter(0))
        return {
            name: list(chain.from_iterable(lists[place] for _, lists in blocks))
            for place, name in enumerate(self.header(table))
        }


def swept_text(value: Any) -> Any:
    """Convert a swept value to an entry of a table: lists and mappings become JSON text."""
    return value if isinstance(value, str | int | float) else msgspec.json.encode(value).decode()
