"""Lines of the journal of a run, `records.jsonl`, the only file that must survive.

Every line is one record with the point (if there are several), the cell (likewise) and the seed of
its training. Lines are appended and never changed: a training that begins again says so, and its
earlier records no longer count. Everything else in the folder follows from these lines.

The lines, by their `kind`:

- `begun`: an attempt at a training. Its earlier records are void, except those up to the checkpoint
  from which the attempt continues. `digest` identifies the settings of the cell.
- `row` and `table`: rows of a table. A `table` replaces all rows that its training wrote to the
  table before. Columns that are too large for a line are in `records/<sha256>.json`.
- `checkpoint`: the training can continue from the checkpoint of this checksum.
- `finished` and `failed`: how the attempt ended.
- `result`: medians and claims of a point whose trainings have all ended.
- `resumed`: from here on, failed trainings are repeated.

Numbers that JSON lacks (NaN, infinities, integers above 64 bits) are lists of one text: `["nan"]`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from kanrun.runs.files import (
    MARKS,
    Columns,
    Key,
    make_folder,
    plain_value,
    write_atomic,
)
from kanrun.runs.records import Claim, value_text

#: Bytes of the columns of a table from which on they are written to a file of their own.
LARGE = 2**20
#: Integers of at least this size are stored as text.
_INTEGERS = 2**63
Stored = str | int | float | bool | tuple[str] | None
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
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


class RowLine(Line, tag="row"):
    """One row of a table."""

    table: _TableName = ""
    values: dict[str, Stored] = {}


class TableLine(Line, tag="table"):
    """A table by columns; if they are null, they are in the file of this size and checksum."""

    table: _TableName = ""
    columns: dict[str, msgspec.Raw] = {}
    size: int = 0
    sha256: _Digest | None = None


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


class ResumedLine(Line, tag="resumed"):
    """The run was resumed."""


LINES = (
    BegunLine
    | RowLine
    | TableLine
    | CheckpointLine
    | FinishedLine
    | FailedLine
    | ResultLine
    | ResumedLine
)
_values_decoder = msgspec.json.Decoder(list[Stored])


def stored_value(value: Any) -> Stored:
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


def stored_values(values: Any) -> list[Stored]:
    """Return an array or a sequence as the journal holds it."""
    import numpy as np  # which the help of the command line does without

    if isinstance(values, np.ndarray) and values.dtype.kind in "bif" and np.isfinite(values).all():
        stored: list[Stored] = values.tolist()
        return stored
    listed: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    if set(map(type, listed)) == {str} and "".join(listed).isascii():
        return listed
    return list(map(stored_value, listed))


def restored_value(value: Stored) -> Any:
    """Return what `stored_value` was given. Raises ValueError for a list that it never makes."""
    if not isinstance(value, tuple):
        return value
    (text,) = value
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def restored_values(encoded: msgspec.Raw) -> list[Any]:
    """Return the values of a column. Raises ValueError for what is none."""
    values = _values_decoder.decode(encoded)
    return list(map(restored_value, values)) if tuple in set(map(type, values)) else values


def values_of(line: RowLine) -> dict[str, list[Any]]:
    """Return a row as columns."""
    return {name: [restored_value(value)] for name, value in line.values.items()}


def row_line(table: str, values: Mapping[str, Any], marks: Mapping[str, Any]) -> RowLine:
    """Return the line of one row."""
    stored = {plain_value(name): stored_value(value) for name, value in values.items()}
    return RowLine(**marks, table=table, values=stored)


def table_line(folder: Path, table: str, columns: Columns, marks: Mapping[str, Any]) -> TableLine:
    """Return the line of a table; large columns are written to a file, durably.

    Raises ValueError for columns of different lengths, StorageFailed if the file cannot be written.
    """
    lists = {plain_value(name): stored_values(values) for name, values in columns.items()}
    if len(set(map(len, lists.values()))) > 1:
        sizes = {name: len(values) for name, values in lists.items()}
        raise ValueError(f"the columns of a table must have equal lengths, not {sizes}")
    encode = msgspec.json.encode
    raw = {name: encode(values) for name, values in lists.items()}
    parts = {name: msgspec.Raw(values) for name, values in raw.items()}
    if sum(map(len, raw.values())) <= LARGE:
        return TableLine(**marks, table=table, columns=parts)
    content = encode(parts)
    digest = hashlib.sha256(content).hexdigest()
    make_folder(folder / "records")
    write_atomic(large_file(folder, digest), content, durable=True)
    names = dict.fromkeys(parts, msgspec.Raw(b"null"))
    return TableLine(**marks, table=table, columns=names, size=len(content), sha256=digest)


def marked(line: RowLine | TableLine, columns: Columns, swept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a record behind point, swept settings (of a summary), cell and seed."""
    rows = len(next(iter(columns.values()), ()))
    leading: dict[str, Any] = line.marks
    if line.point is not None and line.table == "summary":
        settings = {
            name: value if isinstance(value, str | int | float) else value_text(value)
            for name, value in swept.items()
            if name not in columns
        }
        leading = {"point": line.point, **settings, **line.marks}
    return {**{name: [value] * rows for name, value in leading.items()}, **columns}


def large_file(folder: Path, digest: str) -> Path:
    """Return the file of a table whose columns have this SHA-256."""
    return folder / "records" / f"{digest}.json"
