"""Rows of files: text, opened whatever its compression and read line by line; Excel workbooks."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kanrun.errors import UsageError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t", ".dat": "\t"}
_HEAD = 4096  # bytes that show a binary file
_DAMAGED = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
)
#: Numbers, with signs around them: of a decimal comma, of dots and of commas between thousands.
_COMMA = re.compile(r"[^\w.,]*(\d+|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?[^\w.,]*$", re.ASCII)
_DOTS = re.compile(r"[^\w.,]*\d{1,3}(\.\d{3})+(,\d+)?[^\w.,]*$", re.ASCII)
_THOUSANDS = re.compile(r"[^\w.,]*\d{1,3}(,\d{3})+[^\w.,]*$", re.ASCII)


@dataclass(frozen=True)
class TableLimits:
    """Limits of one file; a small compressed file may hold any amount of text."""

    #: Characters of a text file, or bytes of a column in one group of rows of a Parquet file.
    characters: int = 2**30
    #: Characters of one line.
    line: int = 2**24
    #: Rows times columns.
    cells: int = 10**8
    #: Columns: each takes 0.1 ms of work before the first row is read, and an input of a network.
    columns: int = 50_000
    #: Rows of a block; more of them keep Python's garbage collector busy.
    block: int = 1000

    def check_cells(self, rows: int, columns: int, file: Path) -> None:
        """Raise UsageError for a table with too many columns or cells."""
        if columns > self.columns:
            raise UsageError(
                f"{file.name} has {columns} columns, and at most {self.columns} are read; take out "
                "those that are not needed, or exchange rows and columns."
            )
        if rows * columns > self.cells:
            raise UsageError(
                f"{file.name} has more than {self.cells} cells; take out columns or rows that are "
                "not needed."
            )


DEFAULT_LIMITS = TableLimits()


@contextlib.contextmanager
def opened_text(file: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file. Raises UsageError for one that is damaged, binary or not UTF-8."""
    openers: dict[str, Callable[..., Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zip": _opened_member,
    }
    try:
        with openers.get(file.suffix.lower(), open)(file, "rb") as raw:
            head = raw.peek(_HEAD)[:_HEAD]
            wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            if b"\0" in head and not wide:
                raise UsageError(
                    f"{file.name} is a binary file; a text table or Parquet is needed."
                )
            yield io.TextIOWrapper(raw, encoding="utf-16" if wide else "utf-8-sig", newline="")
    except UnicodeError as error:
        raise UsageError(
            f"{file.name} is not text in UTF-8 ({getattr(error, 'reason', error)}). If it comes "
            f"from Windows, convert it: iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(file.name)} > "
            f"{shlex.quote(f'utf8-{file.name}')}"
        ) from None
    except _DAMAGED as error:
        raise UsageError(
            f"{file.name} is damaged or not compressed as its name says ({error})."
        ) from None
    except OSError as error:
        raise UsageError(f"{file.name} cannot be read: {error.strerror or error}.") from None


@contextlib.contextmanager
def _opened_member(file: Path, _mode: str) -> Iterator[Any]:
    """Open the only file of an archive."""
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


def rows_of(file: Path, lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each row that is not blank."""
    number = 0
    try:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        for number, row in enumerate(reader, 1):
            if len(row) > 1 or any(map(str.strip, row)):
                yield number, row
    except csv.Error as error:
        raise UsageError(
            f"{file.name}: row {number + 1} cannot be read as a table ({error})."
        ) from None


def lines_of(file: Path, stream: io.TextIOWrapper, limits: TableLimits) -> Iterator[str]:
    """Yield the lines. Raises UsageError beyond the limits of lines and of the file."""
    characters = 0
    for line in iter(partial(stream.readline, limits.line + 1), ""):
        characters += len(line)
        if len(line) > limits.line:
            raise UsageError(
                f"{file.name} has a line of more than {limits.line} characters, "
                "too long for a row of a table."
            )
        if characters > limits.characters:
            raise UsageError(
                f"{file.name} holds more than {limits.characters} characters; "
                "larger tables are not read."
            )
        yield line


def separator_of(ending: str, line: str) -> str:
    """Return the separator of a file whose first line is this one."""
    if ending in (".txt", ".dat"):
        return next((mark for mark in "\t;," if mark in line), " ")
    found = SEPARATORS.get(ending, ",")
    # A semicolon or tab if the line has one and no comma.
    return next((mark for mark in ",;\t" if mark in line), ",") if found == "," else found


def cleaned(column: list[Any], separator: str) -> list[Any]:
    """Return texts without blanks around them, and numbers in them as Python writes these.

    Between other separators than commas, decimal commas become points, and dots of thousands go.
    `1,234` has a decimal comma between semicolons, or if another value certainly has one; `1.234`
    has thousands only if another value certainly has. Values of a workbook stay as they are.
    """
    if not separator:
        return column
    column = list(map(str.strip, column))
    certain = any(_COMMA.match(text) and not _THOUSANDS.match(text) for text in column)
    if separator == "," or not (certain or separator == ";"):
        return column
    dots = any(("," in text or text.count(".") > 1) and _DOTS.match(text) for text in column)
    return [
        text.replace(".", "").replace(",", ".")
        if (dots and _DOTS.match(text)) or _COMMA.match(text)
        else text
        for text in column
    ]


@contextlib.contextmanager
def opened_workbook(file: Path) -> Iterator[Iterator[tuple[int, list[Any]]]]:
    """Open the one sheet of an Excel workbook: its rows that are not blank, with their numbers.

    Formulas have their stored values. Raises UsageError for several sheets with content, a damaged
    file, and if openpyxl is not installed.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise UsageError(
            f"reading {file.name} needs openpyxl, which is not installed; run: "
            "pip install 'kanrun[excel]'."
        ) from None
    try:
        book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{file.name} cannot be read as a workbook of Excel ({error}); save it as CSV."
        ) from None
    with contextlib.closing(book):
        filled = [sheet for sheet in book.worksheets if next(_sheet_rows(sheet), None)]
        if len(filled) != 1:
            named = ", ".join(sheet.title for sheet in filled) or "none"
            raise UsageError(
                f"{file.name} has {len(filled)} sheets with content ({named}); a workbook with one "
                "is needed. Save the sheet as CSV."
            )
        yield _sheet_rows(filled[0])


def _sheet_rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        values = ["" if value is None else value for value in row]
        while values and values[-1] == "":
            values.pop()
        if values:
            yield number, values
