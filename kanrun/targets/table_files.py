"""Reading of table files, block by block.

pandas and pyarrow parse the files. This module detects the format of a file (encoding, separator,
rows above the header) and rejects damaged, ambiguous and huge files with a one-sentence error. The
values of text files stay text; values of Parquet and Excel files keep their types. The index of
each block contains the row numbers in the file. Rows of text files and workbooks are counted from
1, and include the header.
"""

from __future__ import annotations

import bz2
import codecs
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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanrun.errors import InvalidData, UsageError, did_you_mean, no_file
from kanrun.targets.table_text import is_number

if TYPE_CHECKING:
    from pandas import DataFrame

#: Possible separators of a text file, most likely first, by file ending.
SEPARATORS: dict[str, tuple[str, ...]] = {
    ".csv": (",", ";", "\t"),
    ".tsv": ("\t",),
    ".tab": ("\t",),
    ".txt": ("\t", ";", ",", " "),
    ".dat": ("\t", ";", ",", " "),
}
#: Function that opens a compressed file, by file ending.
COMPRESSIONS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_PARQUET = (".parquet", ".pq")
EXCEL = ".xlsx"
_KINDS = f"{', '.join(SEPARATORS)} (also with {', '.join(COMPRESSIONS)}), {_PARQUET[0]}, {EXCEL}"
_NAMES_SHOWN = 20
#: Number of characters that are read at once. The separator and the header are detected in the
#: first piece of this size.
_PIECE = 2**18
#: Number of rows at the beginning of a file that are examined to find the header.
_HEAD_ROWS = 50
_DAMAGED = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
)
#: Pattern of a number with a decimal comma, possibly between symbols such as a currency.
_COMMA = re.compile(r"[^\w.,]*(\d+|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?[^\w.,]*$", re.ASCII)
#: Pattern of such a number with dots between thousands.
_DOTS = re.compile(r"[^\w.,]*\d{1,3}(\.\d{3})+(,\d+)?[^\w.,]*$", re.ASCII)
#: Pattern of such a number with commas between thousands.
_THOUSANDS = re.compile(r"[^\w.,]*\d{1,3}(,\d{3})+[^\w.,]*$", re.ASCII)


@dataclass(frozen=True)
class TableLimits:
    """Limits of the size of a table. A small compressed file could exceed them by far.

    Attributes:
        characters: Largest number of characters of a text file, or of uncompressed bytes of a
            workbook or Parquet file.
        cells: Largest number of rows times columns.
        columns: Largest number of columns. Every column takes 0.1 ms before the first row is read.
        block: Number of rows of a block.
    """

    characters: int = 2**30
    cells: int = 10**8
    columns: int = 50_000
    block: int = 10_000

    def check_cells(self, rows: int, columns: int, file: Path) -> None:
        """Raise UsageError if a table of this size has too many columns or cells."""
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
#: An open table: the separator ("" unless the table is a text file), the header, and a function
#: that takes names of columns and yields these columns block by block.
Source = tuple[str, list[str], Callable[[list[str]], Iterator[Any]]]


def check_path(path: str | Path) -> Path:
    """Return `path` with ~ expanded.

    Raises UsageError unless the path is a non-empty file with the ending of a known table format.
    """
    if not str(path):
        raise UsageError("the path of the table is empty; name a file.")
    # Unlike Path.expanduser, this does not fail for a file name such as ~data.csv.
    file = Path(os.path.expanduser(path))
    try:
        if file.is_dir():
            raise UsageError(f"{str(path)!r} is a directory; name a file in it.")
        if not file.exists():
            raise UsageError(no_file(path))
        if not file.is_file():
            raise UsageError(f"{str(path)!r} is not a regular file.")
        if file.stat().st_size == 0:
            raise UsageError(f"{str(path)!r} is empty.")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    if not is_table(file):
        raise UsageError(
            f"{str(path)!r} is not a kind of table that kanrun reads; it reads {_KINDS}."
        )
    return file


def is_table(file: Path) -> bool:
    """Return whether the file has the ending of a table format that kanrun reads."""
    return ending_of(file) in (*SEPARATORS, EXCEL, *_PARQUET)


def is_parquet(file: Path) -> bool:
    """Return whether the file has the ending of a Parquet file."""
    return file.suffix.lower() in _PARQUET


def ending_of(file: Path) -> str:
    """Return the file ending, ignoring a compression: .csv for data.csv and data.csv.gz."""
    name = Path(file.stem) if file.suffix.lower() in COMPRESSIONS else file
    return name.suffix.lower()


def pyarrow_for(doing: str, file: Path) -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet. Raises UsageError if they are not installed.

    `doing`, such as "reading", and `file` are for the message.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"{doing} {file.name} needs pyarrow, which is not installed; run: "
            "pip install 'kanrun[parquet]'."
        ) from None


def check_columns(wanted: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise InvalidData if a wanted column is not in `names`; the message suggests similar names.

    `where` is the name of the data in the message.
    """
    columns = dict.fromkeys(names)
    if missing := [name for name in wanted if name not in columns]:
        listed = ", ".join(list(columns)[:_NAMES_SHOWN]) + ", ..." * (len(columns) > _NAMES_SHOWN)
        raise InvalidData(
            f"{where} has no column {missing[0]!r}{did_you_mean(missing[0], columns)}; "
            f"its columns are {listed}."
        )


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raise InvalidData if two columns have the same name."""
    (name, count), *_ = Counter(names).most_common(1) or [("", 1)]
    if count > 1:
        raise InvalidData(f"{where} has two columns called {name!r}; rename one.")


class TableFile:
    """A file that contains a table.

    Args:
        path: A text file (possibly compressed), an Excel workbook or a Parquet file.
        encoding: Encoding of a text file; None: UTF-8 or UTF-16, otherwise Windows-1252.
        skip_rows: Number of rows above the header of a text file or workbook; None: detected.
        limits: Sizes above which the file is rejected.

    Attributes:
        notes: Notes on what was detected during reading, by the argument that would set it.

    Raises:
        UsageError: If the file is missing, empty or not in a table format.
    """

    def __init__(
        self,
        path: str | Path,
        encoding: str | None = None,
        skip_rows: int | None = None,
        limits: TableLimits = DEFAULT_LIMITS,
    ) -> None:
        self.file = check_path(path)
        self.limits = limits
        self.encoding = encoding
        self.skip_rows = skip_rows
        self.notes: dict[str, str] = {}

    def names(self) -> list[str]:
        """Return the names of the columns in order, without unnamed columns.

        The names in a text file are read without pandas, which loads slowly, so that invalid names
        in settings are reported quickly.
        """
        if is_parquet(self.file) or self.file.suffix.lower() == EXCEL:
            return list(next(self._blocks(None))[1].columns)
        _, rows = _layout(ending_of(self.file), self._examined[1])
        return self._named([name.strip() for name in rows[self._rows_above(rows)]])

    def _named(self, header: Sequence[str]) -> list[str]:
        """Return the names in the header; raise UsageError if there are too many or duplicates."""
        self.limits.check_cells(0, len(header), self.file)
        named = list(filter(None, header))
        check_distinct(named, self.file.name)
        return named

    def blocks(self, names: Sequence[str] | None = None) -> Iterator[DataFrame]:
        """Yield the columns `names` (None: all named columns) in blocks of some thousand rows.

        Decimal commas in numbers are replaced by points. Raises UsageError if the file cannot be
        read as a table or a column does not exist.
        """
        for separator, block in self._blocks(names):
            yield _cleaned(block, separator)

    def read(self, names: Sequence[str] | None = None) -> DataFrame:
        """Return the columns `names` (None: all named columns) of all rows; see `blocks`."""
        from pandas import concat

        separators, blocks = zip(*self._blocks(names), strict=True)
        return _cleaned(concat(blocks), separators[0])

    def _blocks(self, names: Sequence[str] | None) -> Iterator[tuple[str, DataFrame]]:
        """Yield pairs of the file's separator and a block of unchanged values.

        The separator is "" for Parquet files and workbooks.
        """
        if is_parquet(self.file):
            source = self._parquet()
        else:
            source = self._workbook() if self.file.suffix.lower() == EXCEL else self._text()
        with source as (separator, header, frames):
            named = self._named(header)
            check_columns(names or (), named, self.file.name)
            wanted = named if names is None else list(names)
            count = 0
            for frame in frames(wanted):
                count += len(frame)
                self.limits.check_cells(count, len(header), self.file)
                if len(frame):
                    yield separator, frame
        if not count:
            raise UsageError(f"{self.file.name} has columns but no rows.")

    def _rows_above(self, rows: Sequence[Sequence[Any]]) -> int:
        """Return the number of rows above the header, given the first rows of the file.

        The header is the first row that has as many fields as most rows, and no empty field except
        perhaps its first field. If this row contains numbers, the first row that is not empty is
        the header instead. Title rows of a sheet are not taken for a header, because only their
        first field is filled. Skipped rows are reported in `notes`.
        """
        filled = [i for i, row in enumerate(rows) if any(value != "" for value in row)]
        filled = [i for i in filled if i >= (self.skip_rows or 0)]
        if not filled:
            raise UsageError(f"{self.file.name} has no rows.")
        if self.skip_rows is not None:
            return filled[0]
        widths = Counter(len(rows[i]) for i in filled)
        width = max(widths, key=lambda width: (widths[width], width))
        headers = (i for i in filled if len(rows[i]) == width and all(rows[i][1:]))
        above = next(headers, filled[0])
        if above == filled[0] or any(is_number(str(name)) for name in rows[above]):
            return filled[0]
        self.notes["skip_rows"] = (
            f"{self.file.name} has {above} row{'s' * (above > 1)} above its header, which "
            f"{'are' if above > 1 else 'is'} not read"
        )
        return above

    @cached_property
    def _examined(self) -> tuple[str, str]:
        """Encoding of a text file, and the beginning of its text.

        All of the text is decoded once, so that the encoding holds for the whole file.
        """
        with _opened(self.file) as raw:
            wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        guesses = ("utf-16",) if wide else ("utf-8-sig", "cp1252")
        for encoding in (self.encoding,) if self.encoding else guesses:
            with contextlib.suppress(UnicodeError):
                head = self._beginning(encoding)
                if encoding == "cp1252" and not self.encoding:
                    self.notes["encoding"] = (
                        f"{self.file.name} is not text in UTF-8 and is read as Windows-1252"
                    )
                return encoding, head
        expected = f"not text in {self.encoding or guesses[0]}; correct"
        if not self.encoding and not wide:
            expected = "text neither in UTF-8 nor in Windows-1252; name its encoding in"
        raise UsageError(f"{self.file.name} is {expected} target.encoding.")

    def _beginning(self, encoding: str) -> str:
        """Decode and check the whole text, and return its beginning."""
        with _opened(self.file) as raw, io.TextIOWrapper(raw, encoding, newline="") as stream:
            head = text = stream.read(_PIECE)
            characters = 0
            while text:
                characters += len(text)
                if "\0" in text:
                    raise UsageError(
                        f"{self.file.name} is a binary file; a text table or Parquet is needed."
                    )
                if characters > self.limits.characters:
                    raise UsageError(_too_long(self.file.name, self.limits))
                text = stream.read(_PIECE)
        return head

    @contextlib.contextmanager
    def _text(self) -> Iterator[Source]:
        """Open a text file."""
        from pandas import read_csv
        from pandas.errors import ParserError

        encoding, head = self._examined
        separator, rows = _layout(ending_of(self.file), head)
        above = self._rows_above(rows)
        with _opened(self.file) as raw, io.TextIOWrapper(raw, encoding, newline="") as stream:
            try:
                blocks = read_csv(
                    stream,
                    sep=r"\s+" if separator == " " else separator,
                    header=None,
                    skiprows=above,
                    dtype=object,
                    na_filter=False,
                    skip_blank_lines=False,
                    skipinitialspace=True,
                    chunksize=self.limits.block,
                )
                yield separator, *_below_header(blocks, above)
            except ParserError as error:
                raise UsageError(f"{self.file.name}: {_reason(str(error))}.") from None

    @contextlib.contextmanager
    def _workbook(self) -> Iterator[Source]:
        """Read the only sheet with content of a workbook. Formulas are read as stored values."""
        from pandas import read_excel

        name = self.file.name
        try:
            with zipfile.ZipFile(self.file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > self.limits.characters:
                raise UsageError(_too_long(name, self.limits))
            sheets = read_excel(
                self.file, sheet_name=None, header=None, dtype=object, na_filter=False
            )
        except ImportError:
            raise UsageError(
                f"reading {name} needs openpyxl, which is not installed; run: "
                "pip install 'kanrun[excel]'."
            ) from None
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{name} cannot be read as a workbook of Excel ({error}); save it as CSV."
            ) from None
        filled = {title: sheet for title, sheet in sheets.items() if (sheet != "").any(axis=None)}
        if len(filled) != 1:
            raise UsageError(
                f"{name} has {len(filled)} sheets with content ({', '.join(filled) or 'none'}); "
                "a workbook with one is needed. Save the sheet as CSV."
            )
        (sheet,) = filled.values()
        above = self._rows_above(sheet.head(_HEAD_ROWS).to_numpy().tolist())
        yield "", *_below_header(iter([sheet.iloc[above:].reset_index(drop=True)]), above)

    @contextlib.contextmanager
    def _parquet(self) -> Iterator[Source]:
        """Open a Parquet file. Raises UsageError if it is damaged or too large."""
        pyarrow, parquet = pyarrow_for("reading", self.file)

        def frames(wanted: list[str]) -> Iterator[DataFrame]:
            start = 1
            for batch in stored.iter_batches(batch_size=self.limits.block, columns=wanted):
                frame = batch.to_pandas(integer_object_nulls=True, ignore_metadata=True)
                yield frame[wanted].set_axis(range(start, start + len(frame)))
                start += len(frame)

        try:
            with parquet.ParquetFile(self.file) as stored:
                groups = map(stored.metadata.row_group, range(stored.metadata.num_row_groups))
                if sum(group.total_byte_size for group in groups) > self.limits.characters:
                    raise UsageError(_too_long(self.file.name, self.limits))
                yield "", stored.schema_arrow.names, frames
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(
                f"{self.file.name} cannot be read as Parquet ({str(error).splitlines()[0][:100]})."
            ) from None


def _below_header(
    blocks: Iterator[DataFrame], above: int
) -> tuple[list[str], Callable[[list[str]], Iterator[DataFrame]]]:
    """Split a table into its header, which is the first row of `blocks`, and the columns below it.

    The second result is a function that yields the columns of the given names, block by block and
    without empty rows. `above` is the number of rows of the file above the header.
    """
    first = next(blocks)
    header = [str(name).strip() for name in first.iloc[0]]

    def frames(wanted: list[str]) -> Iterator[DataFrame]:
        places = [header.index(name) for name in wanted]
        for block in itertools.chain([first.iloc[1:]], blocks):
            rows = block[(block != "").any(axis=1)]
            yield rows.iloc[:, places].set_axis(wanted, axis=1).set_axis(rows.index + above + 1)

    return header, frames


def column_names(path: str | Path) -> list[str]:
    """Return the names of a table file's columns in order, without unnamed columns."""
    return TableFile(path).names()


def _too_long(name: str, limits: TableLimits) -> str:
    return f"{name} holds more than {limits.characters} characters; larger tables are not read."


def _reason(error: str) -> str:
    """Convert an error message of pandas to the reason given in kanrun's message."""
    fields = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", error)
    if fields:
        wanted, row, count = fields.groups()
        return f"row {row} has {count} fields, but the header has {wanted}"
    return f"it cannot be read as a table ({error.strip().rpartition('error: ')[2]})"


def _layout(ending: str, head: str) -> tuple[str, list[list[str]]]:
    """Detect the separator of a text file, and return it with the fields of the first rows.

    `head` is the beginning of the text. The separator is the one with which the largest number of
    rows have the same number of fields.
    """
    marks = SEPARATORS.get(ending, SEPARATORS[".csv"])
    lines = head.splitlines(keepends=True)[:_HEAD_ROWS]
    fields: dict[str, list[list[str]]] = {}
    equal: dict[str, int] = {}
    for mark in marks:
        stripped = map(str.strip, lines) if mark == " " else lines
        fields[mark] = []
        with contextlib.suppress(csv.Error):
            fields[mark] += csv.reader(stripped, delimiter=mark, skipinitialspace=True)
        widths = Counter(len(row) for row in fields[mark] if len(row) > 1)
        equal[mark] = max(widths.values(), default=0)
    separator = max(marks, key=lambda mark: equal[mark])
    return separator, fields[separator]


def _cleaned(block: DataFrame, separator: str) -> DataFrame:
    """Strip blanks around the values of a text file, and replace decimal commas by points.

    Blocks of other files (`separator` "") are returned unchanged.
    """
    from pandas import DataFrame

    if not separator:
        return block
    columns = {
        name: _decimal_points(list(map(str.strip, block[name])), separator) for name in block
    }
    return DataFrame(columns, block.index, dtype=object)


def _decimal_points(column: list[str], separator: str) -> list[str]:
    """Return a column of text with decimal commas replaced by points, and without thousands dots.

    If the separator of the file is a comma, the column is unchanged. The comma of `1,234` is a
    decimal comma if the separator is a semicolon, or if another value in the column has an
    unambiguous decimal comma. The dot of `1.234` separates thousands only if another value in the
    column has an unambiguous thousands dot.
    """
    if separator == ",":
        return column
    certain = any(_COMMA.match(text) and not _THOUSANDS.match(text) for text in column)
    if not (certain or separator == ";"):
        return column
    dots = any(("," in text or text.count(".") > 1) and _DOTS.match(text) for text in column)
    return [
        text.replace(".", "").replace(",", ".")
        if (dots and _DOTS.match(text)) or _COMMA.match(text)
        else text
        for text in column
    ]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a possibly compressed file to read bytes. Raises UsageError if it is damaged."""
    try:
        with COMPRESSIONS.get(file.suffix.lower(), open)(file, "rb") as raw:
            yield raw
    except _DAMAGED as error:
        raise UsageError(
            f"{file.name} is damaged or not compressed as its name says ({error})."
        ) from None
    except OSError as error:
        raise UsageError(f"{file.name} cannot be read: {error.strerror or error}.") from None
