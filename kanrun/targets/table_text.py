"""Text of tables: rows of files, and single values as numbers, dates or missing values.

Files are opened whatever their compression and read line by line; Excel workbooks have rows too.
`text_of`, `number_from`, `days_from`, `is_number` and `canonical` are written into exported Python
files, and depend on NumPy and `re` alone.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import math
import re
import shlex
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.points import Array

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
#: Values of a column: texts, or what Parquet, a DataFrame or an array holds.
Values = Sequence[Any] | NDArray[Any]
#: Indices of values of a column by what is wrong with them, or unusual about them.
Faults = dict[str, list[int]]

_EMPTY_WORDS = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "+nan", "null", "none", "nat")
#: Texts that stand for a missing value among numbers and dates; those that do not say so are noted.
UNUSUAL_WORDS = frozenset(
    ("-", "--", "?", ".", "..", "*", "k.a.", "k. a.", "#n/v", "#div/0!", "#value!", "#ref!")
)
MISSING_WORDS = UNUSUAL_WORDS | set(_EMPTY_WORDS)
_BOOLEANS = {"true": 1.0, "false": 0.0}
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d|(\d{1,2})([./-])(\d{1,2})\3\d{4})([ T]\d\d:\d\d.*)?$", re.ASCII
)


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
        names = archive.namelist()
        members = [name for name in names if name[-1] != "/" and not name.startswith("__MACOSX/")]
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


def text_of(value: Any) -> str:
    """Return a value without blanks around it; "(missing)" for None, NaN and nothing."""
    text = "" if value is None else str(value).strip()
    return "(missing)" if text == "" or (isinstance(value, float) and np.isnan(value)) else text


def number_from(value: Any) -> float:
    """Return a number, also one written as $1,234.50, 12.3% (as 12.3) or 1 234; NaN for others."""
    try:
        return math.nan if "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        sign = r"[$\u20ac\xa3\xa5]"
        text = re.sub(rf"^([+-]?)\s*{sign}\s*|\s*(?:{sign}|%)$", r"\1", str(value).strip())
        groups = r"[+-]?[0-9]{1,3}([,'\u2019\s])[0-9]{3}(\1[0-9]{3})*(\.[0-9]*)?"
        if re.fullmatch(groups, text):
            text = re.sub("[^0-9.+-]", "", text)
        try:
            return float(text)
        except ValueError:
            return math.nan


def days_from(texts: list[str], day_first: bool) -> Array:
    """Return dates as days since 1970-01-01, NaN for "". Raises ValueError for others.

    Dates are 2024-12-31, or 31.12.2024 with the day first, or 12/31/2024 with the month first.
    Times with a zone become those of UTC.
    """
    instants, minutes = [], []
    for text in texts:
        year, rest = text, ""
        date = re.fullmatch(r"(\d{1,2})[./-](\d{1,2})[./-](\d{4})(.*)", text)
        if date:
            first, second, year, rest = date.groups()
            day, month = (first, second) if day_first else (second, first)
            rest = f"-{month:0>2}-{day:0>2}{rest}"
        plain = year + rest or "NaT"
        zone = re.fullmatch(r"(.*:[\d.]+) ?(?:[Zz]|([+-])(\d\d):?(\d\d)?)", plain)
        if zone:
            plain, sign, hours, rest = zone.groups()
            minutes.append(float(f"{sign or ''}1") * (60 * int(hours or 0) + int(rest or 0)))
        else:
            minutes.append(0.0)
        instants.append(plain)
    found = np.array(instants, dtype="M8[us]")
    days = found.astype(np.int64) / 86_400e6 - np.array(minutes) / 1440
    return np.where(np.isnat(found), np.nan, days)


def is_number(text: str) -> bool:
    """Return whether Python reads a text as a number, infinity and NaN included; 12_1 is a name."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def canonical(value: Any) -> str:
    """Return a text by which equal numbers are equal, and words in any case."""
    text = str(value).strip()
    return f"{float(text):.17g}" if is_number(text) else text.casefold()


def is_missing(value: Any, words: Collection[str] = ()) -> bool:
    """Return whether a value is None, NaN, empty, a word such as NA, or in canonical `words`."""
    if str(value).strip().casefold() in MISSING_WORDS:
        return True
    return bool(words) and canonical(value) in words


def read_numbers(values: Values, words: Collection[str] = ()) -> tuple[Array, Faults]:
    """Return values as finite numbers; true and false count as 1 and 0.

    `words` stand for missing values, as `MISSING_WORDS` do.

    Returns:
        Numbers, shape (values,), NaN where a value is none; and the indices of these values by
        what is wrong with them: `missing`, `text` or `infinite`. Further indices are those of
        numbers that Python would not read, `written`, and of unusual words for missing, `word`.
    """
    faults: Faults = defaultdict(list)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        found = np.fromiter(map(float, values), np.float64, len(values))
        names = any("_" in value for value in values if isinstance(value, str))
        if np.isfinite(found).all() and not names and not words:  # Python takes 12_1 for a number
            return found, faults
    found = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        text = str(value).strip().casefold()
        number = _BOOLEANS[text] if text in _BOOLEANS else number_from(value)
        if is_missing(value, words):
            faults["missing"].append(i)
            if text in UNUSUAL_WORDS or text not in MISSING_WORDS:
                faults["word"].append(i)
        elif math.isnan(number):
            faults["text"].append(i)
        elif math.isinf(number):
            faults["infinite"].append(i)
        else:
            found[i] = number
            if text not in _BOOLEANS and not is_number(text):
                faults["written"].append(i)
    return found, faults


def read_days(
    values: Values, words: Collection[str] = (), day_first: bool | None = None
) -> tuple[Array, Faults, bool | None]:
    """Return dates as days since 1970-01-01, as `read_numbers` does, and whether days come first.

    Without `day_first` the values decide, dots being for dates with the day first; None if they
    leave it open, or have no such dates: months are then read first.
    """
    texts = ["" if is_missing(value, words) else text_of(value) for value in values]
    faults: Faults = defaultdict(list, missing=[i for i, text in enumerate(texts) if not text])
    matches = [_DATE.match(text) for text in texts]
    if day_first is None:
        parts = [m.group(2, 3, 4) for m in matches if m and m[3]]
        first, second = (max((int(p[k]) for p in parts), default=0) for k in (0, 2))
        if first > 12 or second > 12 or any(p[1] == "." for p in parts):
            day_first = second <= 12
    days = np.full(len(texts), np.nan)
    known = [i for i, m in enumerate(matches) if m]
    wrong = [i for i, m in enumerate(matches) if texts[i] and not m]
    try:
        days[known] = days_from([texts[i] for i in known], bool(day_first))
    except ValueError:  # such as 2023-02-30
        for i in known:
            try:
                days[i] = days_from([texts[i]], bool(day_first))[0]
            except ValueError:
                wrong.append(i)
    faults["text"] = sorted(wrong)
    return days, faults, day_first
