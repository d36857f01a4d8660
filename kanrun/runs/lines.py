"""Lines of the journal of a run, `records.jsonl`, the only file that must survive.

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
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from zlib import crc32

import msgspec

from kanrun.errors import KanrunError
from kanrun.runs.files import JSON_LIMIT, MARKS, Columns, Key, plain_value, to_json
from kanrun.runs.records import Claim

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
