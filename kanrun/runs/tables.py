"""Tables of a run: CSV files that are appended row by row and readable whenever the writer is killed.

Every row is one line and one write to the operating system, so a killed writer leaves at most half a last
line, which readers drop. Newlines inside text become blanks for that reason. The header comes from the
first row; a row with further columns rewrites the file once with a wider header (atomically, earlier rows
get empty fields), and a row that lacks columns leaves them empty. Text that a spreadsheet would run as a formula has an
apostrophe before it in the file.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanrun.errors import StorageFailed
from kanrun.runs.files import read_bytes, storing, write_atomic
from kanrun.spreadsheets import as_text, from_text

if TYPE_CHECKING:
    import pandas

TABLE_LIMIT = 4 * 2**30  # bytes of a table that are read
Columns = Mapping[str, Any]  # arrays or sequences of equal lengths


class CsvFile:
    """The table at `path`, which need not exist yet; opened for appending at the first row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._header: list[str] = []

    def append(self, values: Mapping[str, Any]) -> None:
        """Write one row; on return it is with the operating system. Raises StorageFailed."""
        self.extend({name: [value] for name, value in values.items()})

    def extend(self, columns: Columns) -> None:
        """Write the rows of `columns` (equal lengths) in one go. Raises StorageFailed."""
        lists, rows = _lists(columns)
        descriptor = self._open_with(list(lists))
        empty = [None] * rows
        rest = memoryview(
            csv_lines(zip(*(lists.get(name, empty) for name in self._header), strict=True))
        )
        with storing(self.path):
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def replace(self, columns: Columns) -> None:
        """Make the table hold these rows and no others, atomically. Raises StorageFailed."""
        self.close()
        lists, _ = _lists(columns)
        write_atomic(self.path, csv_lines([list(lists), *zip(*lists.values(), strict=True)]))

    def sync(self) -> None:
        """Make the rows written so far survive a power cut."""
        if self._descriptor is not None:
            with storing(self.path):
                os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with storing(self.path):
                os.close(descriptor)

    def _open_with(self, columns: list[str]) -> int:
        """The file, open for appending, with at least these columns in its header."""
        if self._descriptor is None and (self.path.exists() or self.path.is_symlink()):
            self._header = _mend(self.path)
        if further := [name for name in columns if name not in self._header]:
            self.close()
            rows = read_rows(self.path)[1] if self._header else iter(())
            self._header = [*self._header, *further]
            padding = [""] * len(further)
            write_atomic(self.path, csv_lines([self._header, *(row + padding for row in rows)]))
        if self._descriptor is None:
            flags = (
                os.O_WRONLY
                | os.O_APPEND
                | getattr(os, "O_NOFOLLOW", 0)
                | getattr(os, "O_BINARY", 0)
            )
            with storing(self.path):
                self._descriptor = os.open(self.path, flags)
        return self._descriptor


def read_rows(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    """Return header and whole rows as text; half a last line is left out. Raises StorageFailed."""
    text = _whole_lines(read_bytes(path, TABLE_LIMIT)).decode("utf-8", "replace")
    marked = "'" in text

    def rows() -> Iterator[list[str]]:
        try:
            for row in csv.reader(io.StringIO(text, newline="")):
                yield list(map(from_text, row)) if marked else row
        except csv.Error as error:
            raise StorageFailed(f"{path} is not a CSV table: {error}.") from error

    found = rows()
    return next(found, []), found


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Return the table at `path` as lists by column, numbers where all of a column are, empty fields as None.

    Floats come back to the last bit; half a last line (a killed writer) is left out; text such as `NA` stays text.
    Raises StorageFailed.
    """
    header, rows = read_rows(path)
    columns = zip(*rows, strict=True) if header else iter(())
    try:
        return {
            name: _typed(values)
            for name, values in zip(header, [*columns] or [()] * len(header), strict=True)
        }
    except ValueError as error:
        raise StorageFailed(
            f"{path} is not a CSV table: its rows have different lengths."
        ) from error


def _typed(values: Sequence[str]) -> list[Any]:
    for kind in (
        (int, float, _truth) if not any("_" in value for value in values) else ()
    ):  # 1_0 is no number here
        with contextlib.suppress(ValueError):
            return [kind(value) if value else None for value in values]
    return [None if value in ("", "nan") else value for value in values]


def _truth(text: str) -> bool:
    if text not in {"True", "False"}:
        raise ValueError(text)
    return text == "True"


def read_table(path: Path) -> pandas.DataFrame:
    """As `read_columns`, as a DataFrame: empty fields are missing values, columns without any value are numbers."""
    import pandas

    columns = read_columns(path)
    empty = [
        name
        for name, values in columns.items()
        if values and all(value is None for value in values)
    ]
    return pandas.DataFrame(columns).astype(dict.fromkeys(empty, float))


def _mend(path: Path) -> list[str]:
    """Return the header of the table at `path` after cutting off half a last line."""
    content = read_bytes(path, TABLE_LIMIT)
    whole = _whole_lines(content)
    if len(whole) < len(content):
        write_atomic(path, whole)
    return read_rows(path)[0]


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _lists(columns: Columns) -> tuple[dict[str, list[Any]], int]:
    lists = {}
    for name, column in columns.items():
        values = column.tolist() if hasattr(column, "tolist") else list(column)
        numeric = getattr(getattr(column, "dtype", None), "kind", "O") in "fiub"
        lists[_plain(name)] = values if numeric else [_plain(value) for value in values]
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        raise ValueError(f"the columns of a table must have equal lengths, not {sizes}")
    return lists, lengths.pop() if lengths else 0


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str):
        return value if value.isprintable() else " ".join(value.replace("\0", " ").splitlines())
    return value


def csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV, safe for spreadsheets."""
    buffer = io.StringIO()
    safe = ([as_text(value) if isinstance(value, str) else value for value in row] for row in rows)
    csv.writer(buffer, lineterminator="\n").writerows(safe)
    return buffer.getvalue().encode("utf-8", "replace")
