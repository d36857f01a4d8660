"""Files of tables: their kinds and limits, the rows of text files with their numbers, and Parquet files.

The rows of text files go through Python's `csv`. It takes no longer than pandas in text mode (0.6 s of CPU beside 0.8 s
for four million cells), refuses broken quotes, and tells a blank line from a row of empty fields, so that a refusal can
name the row of the file that a value lies in.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import importlib
import io
import itertools
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanrun.errors import UsageError
from kanrun.suggestions import did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_PARQUET = (".parquet", ".pq")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
_KINDS = f"{', '.join(SEPARATORS)} (also with {', '.join(COMPRESSIONS)}) and {_PARQUET[0]}"
_PART = 2**20  # characters that are read at once
_DAMAGED = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
)


@dataclass(frozen=True)
class TableLimits:
    """The most that is read of one file; a small compressed file may hold any amount of text."""

    characters: int = (
        2**30
    )  # of a text file; bytes of a column in one group of rows of a Parquet file
    line: int = 2**24  # characters of one line
    cells: int = 10**8  # rows times columns
    block: int = (
        1000  # rows that are converted at once; more of them keep Python's garbage collector busy
    )

    def check_cells(self, rows: int, columns: int, file: Path) -> None:
        """Raises UsageError for a table that memory is not planned for."""
        if rows * columns > self.cells:
            raise UsageError(
                f"{file.name} has more than {self.cells} cells; take out columns or rows that are not needed."
            )


def check_path(path: str | Path) -> Path:
    """The path of a file that has something in it and a known ending. Raises UsageError."""
    if not str(path):
        raise UsageError("the path of the table is empty; name a file.")
    file = Path(
        os.path.expanduser(path)
    )  # unlike Path's, it takes a name such as ~data.csv for what it is
    try:
        if file.is_dir():
            raise UsageError(f"{str(path)!r} is a directory; name a file in it.")
        if not file.exists():
            raise UsageError(f"there is no file {str(path)!r}.")
        if not file.is_file():
            raise UsageError(f"{str(path)!r} is not a regular file.")
        if file.stat().st_size == 0:
            raise UsageError(f"{str(path)!r} is empty.")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    if not is_parquet(file) and ending_of(file) not in (*SEPARATORS, ".zip"):
        raise UsageError(
            f"{str(path)!r} is not a kind of table that kanrun reads; it reads {_KINDS}."
        )
    return file


def is_parquet(file: Path) -> bool:
    return file.suffix.lower() in _PARQUET


def ending_of(file: Path) -> str:
    """.csv of data.csv and of data.csv.gz; .zip where an archive does not say what it holds."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS and suffixes[-2] in SEPARATORS:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def check_names(names: Sequence[str], file: Path) -> None:
    """Raises UsageError where two columns have the same name; columns without a name do not count."""
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise UsageError(f"{file.name} has two columns called {name!r}; rename one.")
        seen.add(name)


def positions(wanted: Sequence[str], names: Sequence[str], file: Path) -> list[int]:
    """Where the wanted columns lie. Raises UsageError for one that is not there, with near names."""
    places = {name: place for place, name in enumerate(names)}
    for name in wanted:
        if name not in places:
            known = [column for column in names if column]
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise UsageError(
                f"{file.name} has no column {name!r}{did_you_mean(name, known)}; its columns are {listed}."
            )
    return [places[name] for name in wanted]


def text_blocks(file: Path, limits: TableLimits) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    """The header, then blocks of the rows that are not blank: their numbers in the file, and their columns.

    The first line has number 1; fields are stripped. All rows are as wide as the header: one that ends early is filled
    with empty fields. Raises UsageError for a file that is damaged, binary or not UTF-8, for a row with more fields
    than the header, and for a file without rows.
    """
    block: list[list[str]] = []
    number, width, count = 1, 0, 0
    try:
        with _text(file) as stream:
            separator = _separator(file, stream, limits)
            reader = csv.reader(
                _lines(file, stream, limits),
                delimiter=separator,
                skipinitialspace=True,
                strict=True,
            )
            while True:
                block = []
                block.extend(
                    itertools.islice(reader, limits.block if count else 1)
                )  # keeps the rows before an error
                if not block:
                    break
                where, rows = _filled(file, range(number, number + len(block)), block, width)
                number, block = number + len(block), []
                if not rows:
                    continue
                width = len(rows[0])
                limits.check_cells(count + len(rows), width, file)
                columns = [list(map(str.strip, column)) for column in zip(*rows, strict=True)]
                if separator == ";":
                    columns = [list(map(_with_point, column)) for column in columns]
                if not count:
                    check_names([name for (name,) in columns], file)
                count += len(rows)
                yield where, columns
    except csv.Error as error:
        raise UsageError(
            f"{file.name}: row {number + len(block)} cannot be read as a table ({error})."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file.name} is binary or not UTF-8 ({error.reason}); save it as text in UTF-8."
        ) from None
    except _DAMAGED as error:
        raise UsageError(
            f"{file.name} is damaged or not compressed as its name says ({error})."
        ) from None
    except OSError as error:
        raise UsageError(f"{file.name} cannot be read: {error.strerror or error}.") from None
    if count < 2:
        raise UsageError(f"{file.name} has {'a header but ' * count}no rows.")


def _with_point(text: str) -> str:
    """A number with a decimal comma, as files with semicolons write it, with a point."""
    return text.replace(",", ".") if _DECIMAL_COMMA.match(text) else text


_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?$", re.ASCII)


def _filled(
    file: Path, numbers: Sequence[int], rows: list[list[str]], width: int
) -> tuple[Sequence[int], list[list[str]]]:
    """The rows that are not blank, filled up to `width`, by default that of the first; and their numbers."""
    if width > 1 and set(map(len, rows)) == {width}:
        return numbers, rows
    kept = [
        (n, row)
        for n, row in zip(numbers, rows, strict=True)
        if len(row) > 1 or any(map(str.strip, row))
    ]
    width = width or max((len(row) for _, row in kept[:1]), default=0)
    for number, row in kept:
        if len(row) > width:
            raise UsageError(
                f"{file.name}: row {number} has {len(row)} fields, but the header has {width}."
            )
        row += [""] * (width - len(row))  # noqa: PLW2901  # in place
    return [number for number, _ in kept], [row for _, row in kept]


def _lines(file: Path, stream: io.TextIOWrapper, limits: TableLimits) -> Iterator[str]:
    """The lines of a file, none of them longer than the limit, nor all of them together; read in parts."""
    characters, rest = 0, ""
    while part := stream.read(_PART):
        characters += len(part)
        if characters > limits.characters:
            raise UsageError(
                f"{file.name} holds more than {limits.characters} characters; larger tables are not read."
            )
        text = rest + part
        end = (
            max(text.rfind("\n"), text.rfind("\r", 0, -1)) + 1
        )  # \r at the end may be the first half of \r\n
        if len(text) > limits.line and max(map(len, io.StringIO(text, newline=""))) > limits.line:
            raise UsageError(
                f"{file.name} has a line of more than {limits.line} characters, too long for a row of a table."
            )
        yield from io.StringIO(text[:end], newline="")
        rest = text[end:]
    if rest:
        yield rest


def _separator(file: Path, stream: io.TextIOWrapper, limits: TableLimits) -> str:
    """Of a CSV: a semicolon or tab where its first line has one and no comma. The stream goes back to its start."""
    first = next((line for line in _lines(file, stream, limits) if line.strip()), "")
    stream.seek(0)
    separator = SEPARATORS.get(ending_of(file), ",")
    return (
        separator if separator != "," else next((other for other in ",;\t" if other in first), ",")
    )


@contextlib.contextmanager
def _text(file: Path) -> Iterator[io.TextIOWrapper]:
    with _bytes(file) as raw:
        if b"\0" in raw.peek(4096)[:4096]:
            raise UsageError(f"{file.name} is a binary file; a text table or Parquet is needed.")
        yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


@contextlib.contextmanager
def _bytes(file: Path) -> Iterator[Any]:
    ending = file.suffix.lower()
    openers: dict[str, Callable[[Path, str], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
    }
    if ending != ".zip":
        with openers.get(ending, open)(file, "rb") as raw:
            yield raw
        return
    with zipfile.ZipFile(file) as archive:
        members = [
            name
            for name in archive.namelist()
            if not name.endswith("/") and not name.startswith("__MACOSX/")
        ]
        if len(members) != 1:
            raise UsageError(
                f"{file.name} holds {len(members)} files; an archive with one table is needed."
            )
        if archive.getinfo(members[0]).flag_bits & 1:
            raise UsageError(f"{file.name} is encrypted; unpack it first.")
        with archive.open(members[0]) as raw:
            yield raw


@contextlib.contextmanager
def opened_parquet(
    file: Path, limits: TableLimits, wanted: Sequence[str] | None = None
) -> Iterator[Any]:
    """The opened file, for the body to read its wanted columns (None: all).

    Raises UsageError for a file that is not Parquet, columns that are not there, more cells or data than `limits`,
    and where pyarrow is missing.
    """
    try:
        pyarrow, parquet = (
            importlib.import_module("pyarrow"),
            importlib.import_module("pyarrow.parquet"),
        )
    except ImportError:
        raise UsageError(_without_pyarrow("reading", file)) from None
    try:
        with parquet.ParquetFile(file) as stored:
            names, groups = stored.schema_arrow.names, range(stored.metadata.num_row_groups)
            check_names(names, file)
            columns = len(positions(names if wanted is None else wanted, names, file))
            limits.check_cells(stored.metadata.num_rows, columns, file)
            for group in (stored.metadata.row_group(i) for i in groups):
                if (
                    largest := max(
                        group.column(i).total_uncompressed_size for i in range(group.num_columns)
                    )
                ) > limits.characters:
                    raise UsageError(
                        f"{file.name} has a column of {largest} bytes in one group of rows; write it in smaller groups."
                    )
            yield stored
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(
            f"{file.name} cannot be read as Parquet ({str(error).splitlines()[0][:100]})."
        ) from None


def _without_pyarrow(doing: str, file: Path) -> str:
    return f"{doing} {file.name} needs pyarrow, which is not installed; run: pip install 'kanrun[parquet]'."


def check_output(file: Path) -> None:
    """Raises UsageError for a file whose ending names no kind of table, and for Parquet where pyarrow is missing."""
    if is_parquet(file):
        try:
            importlib.import_module("pyarrow")
        except ImportError:
            raise UsageError(_without_pyarrow("writing", file)) from None
    elif ending_of(file) not in SEPARATORS:
        raise UsageError(
            f"{str(file)!r} is not a kind of table that kanrun writes; it writes {_KINDS}."
        )
