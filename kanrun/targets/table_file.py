"""A table's file: the path checked, opened and decompressed, its header, and its rows with their numbers.

The rows go through Python's `csv`, strictly, rather than through `pandas.read_csv`: pandas drops the surplus
fields of a row that is too long when it reads chosen columns, and cannot say in which row of the file a value
lies once there are blank lines or line breaks in quotes.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanrun.errors import UsageError
from kanrun.near import near

TEXT = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
KINDS = f"{', '.join(TEXT)} (also with {', '.join(COMPRESSED)}) and {PARQUET[0]}"

# A small compressed file may hold any amount of text: so much is read of one, and of one line.
MOST_CHARACTERS = 2**30
MOST_IN_LINE = 2**24
MOST_CELLS = 10**8  # rows times columns, of any file

_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True)
class Row:
    """Stripped fields; `number` counts as a person does in the file: the header is 1 when it comes first."""

    number: int
    fields: list[str]


def check_path(path: str | Path) -> Path:
    """The path of a file that has something in it and a known ending. Raises UsageError."""
    if not str(path):
        raise UsageError("the path of the table is empty; name a file.")
    file = Path(os.path.expanduser(path))  # unlike Path's, it takes a name such as ~data.csv for what it is
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
        raise UsageError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not is_parquet(file) and ending_of(file) not in (*TEXT, ".zip"):
        raise UsageError(f"{str(path)!r} is not a kind of table that kanrun reads; it reads {KINDS}.")
    return file


def is_parquet(file: Path) -> bool:
    return file.suffix.lower() in PARQUET


def ending_of(file: Path) -> str:
    """.csv of data.csv and of data.csv.gz; .zip where an archive does not say what it holds."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSED and suffixes[-2] in TEXT:
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
    for name in wanted:
        if name not in names:
            known = [column for column in names if column]
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise UsageError(f"{file.name} has no column {name!r}{near(name, known)}; its columns are {listed}.")
    return [list(names).index(name) for name in wanted]


def text_rows(file: Path) -> Iterator[Row]:
    """The header, then every row that is not blank, all as wide as the header.

    A row that ends early is filled with empty fields. Raises UsageError for a file that is damaged, binary or
    not UTF-8, for a row with more fields than the header, and for a file without rows.
    """
    number, width, count = 0, 0, 0
    try:
        with _text(file) as stream:
            separator = _separator(file, stream)
            reader = csv.reader(_lines(file, stream), delimiter=separator, skipinitialspace=True, strict=True)
            for number, fields in enumerate(reader, 1):
                row = Row(number, [field.strip() for field in fields])
                if len(row.fields) < 2 and not any(row.fields):
                    continue
                width = width or len(row.fields)
                if len(row.fields) > width:
                    raise UsageError(
                        f"{file.name}: row {number} has {len(row.fields)} fields, but the header has {width}."
                    )
                row.fields.extend([""] * (width - len(row.fields)))
                check_size(count + 1, width, file)
                if not count:
                    check_names(row.fields, file)
                yield row
                count += 1
    except csv.Error as error:
        raise UsageError(f"{file.name}: row {number + 1} cannot be read as a table ({error}).") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file.name} is binary or not UTF-8 ({error.reason}); save it as text in UTF-8.") from None
    except _DAMAGED as error:
        raise UsageError(f"{file.name} is damaged or not compressed as its name says ({error}).") from None
    except OSError as error:
        raise UsageError(f"{file.name} cannot be read: {error.strerror or error}.") from None
    if count < 2:
        raise UsageError(f"{file.name} has {'a header but ' * count}no rows.")


def check_size(rows: int, columns: int, file: Path) -> None:
    """Raises UsageError for a table that memory is not planned for."""
    if rows * columns > MOST_CELLS:
        raise UsageError(f"{file.name} has more than {MOST_CELLS} cells; take out columns or rows that are not needed.")


def _lines(file: Path, stream: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a file, none of them longer than memory is planned for, nor all of them together."""
    characters = 0
    while line := stream.readline(MOST_IN_LINE + 1):
        characters += len(line)
        if len(line) > MOST_IN_LINE:
            raise UsageError(
                f"{file.name} has a line of more than {MOST_IN_LINE} characters, too long for a row of a table."
            )
        if characters > MOST_CHARACTERS:
            raise UsageError(f"{file.name} holds more than {MOST_CHARACTERS} characters; larger tables are not read.")
        yield line


def _separator(file: Path, stream: io.TextIOWrapper) -> str:
    """Of a CSV: a semicolon or tab where its first line has one and no comma. The stream goes back to its start."""
    first = next((line for line in _lines(file, stream) if line.strip()), "")
    stream.seek(0)
    if (ending := ending_of(file)) in TEXT and TEXT[ending] != ",":
        return TEXT[ending]
    return next((separator for separator in ",;\t" if separator in first), ",")


@contextmanager
def _text(file: Path) -> Iterator[io.TextIOWrapper]:
    with _bytes(file) as raw:
        if b"\0" in raw.peek(4096)[:4096]:
            raise UsageError(f"{file.name} is a binary file; a text table or Parquet is needed.")
        yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


@contextmanager
def _bytes(file: Path) -> Iterator[Any]:
    ending = file.suffix.lower()
    openers: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if ending != ".zip":
        with openers.get(ending, open)(file, "rb") as raw:
            yield raw
        return
    with zipfile.ZipFile(file) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if len(members) != 1:
            raise UsageError(f"{file.name} holds {len(members)} files; an archive with one table is needed.")
        if archive.getinfo(members[0]).flag_bits & 1:
            raise UsageError(f"{file.name} is encrypted; unpack it first.")
        with archive.open(members[0]) as raw:
            yield raw
