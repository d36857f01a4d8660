"""Reading of table files, block by block.

pandas and pyarrow parse the files, as `ReadOptions` say. This module rejects damaged, huge and
wrongly read files with an error that names the option that helps. The values of text files stay
text; values of Parquet and Excel files keep their types. The index of each block contains the row
numbers in the file. Rows of text files and workbooks are counted from 1, and include the header.

Written files appear complete or not at all.
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
import secrets
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from kanrun.config.rules import FREE_TEXT, Natural, copied
from kanrun.errors import InvalidData, UsageError, did_you_mean, no_file
from kanrun.targets.table_text import is_missing, is_number, read_numbers

if TYPE_CHECKING:
    from pandas import DataFrame

#: Separator of a text file, by file ending. `\\s+` stands for any number of blanks.
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t", ".dat": r"\s+"}
#: Function that opens a compressed file, by file ending.
COMPRESSIONS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_PARQUET = (".parquet", ".pq")
EXCEL = ".xlsx"
_KINDS = f"{', '.join(SEPARATORS)} (also with {', '.join(COMPRESSIONS)}), {_PARQUET[0]}, {EXCEL}"
#: Number of characters that are read at once.
_PIECE = 2**18
#: Number of rows at the beginning of a file that are examined to check its header.
_HEAD_ROWS = 50
_DAMAGED = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True)
class ReadOptions:
    """How a table file is written: the settings `target.read`, named like the options of pandas."""

    sep: Annotated[
        str | None,
        r"separator, such as ';', \t or \s+ (blanks); null: a comma in .csv, blanks in .dat, "
        "else a tab",
        FREE_TEXT,
    ] = None
    decimal: Annotated[str, "decimal mark", FREE_TEXT] = "."
    thousands: Annotated[str | None, "mark between thousands; null: none", FREE_TEXT] = None
    encoding: Annotated[str, "encoding of a text file, such as cp1252"] = "utf-8"
    skiprows: Annotated[Natural, "rows to skip above the header"] = 0
    sheet_name: Annotated[
        str | None, "sheet of a workbook; null: the only one with content", FREE_TEXT
    ] = None
    index_col: Annotated[
        str | None, "column of row numbers or names, which inputs=[all] leaves out", FREE_TEXT
    ] = None
    na_values: Annotated[
        list[str], "further texts that mean missing, such as -999 or unknown", FREE_TEXT
    ] = copied([])

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors: an unknown encoding, or marks that are not one punctuation mark each."""
        try:
            "".encode(self.encoding)
        except LookupError:
            yield f"{at}encoding={self.encoding} must be an encoding, such as cp1252."
        marks = {"sep": self.sep, "decimal": self.decimal, "thousands": self.thousands}
        for name, mark in marks.items():
            special = name == "sep" and mark in (r"\t", r"\s+", "\t", " ")
            if mark is not None and not special and (len(mark) != 1 or mark.isalnum()):
                yield f"{at}{name}={mark!r} must be one punctuation mark" + (
                    r", \t (tab) or \s+ (blanks)." if name == "sep" else "."
                )
        if self.decimal == self.thousands:
            yield f"{at}decimal and {at}thousands are both {self.decimal!r}."

    def separator(self, ending: str) -> str:
        """Return the separator of a text file with this ending."""
        sep = SEPARATORS.get(ending, ",") if self.sep is None else self.sep
        return {r"\t": "\t", " ": r"\s+"}.get(sep, sep)


@dataclass(frozen=True)
class TableLimits:
    """Limits of the size of a table. A small compressed file could exceed them by far.

    Attributes:
        characters: Largest number of characters of a text file, or of uncompressed bytes of a
            workbook or Parquet file.
        cells: Largest number of rows times columns.
        columns: Largest number of columns.
        block: Number of rows of a block.
    """

    characters: int = 2**30
    cells: int = 10**8
    columns: int = 2_000
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
DEFAULT_OPTIONS = ReadOptions()
#: An open table: the header, and a function that takes names of columns and yields these columns
#: block by block.
Source = tuple[list[str], Callable[[list[str]], Iterator[Any]]]


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


def in_shell(setting: str) -> str:
    """Return a setting as it is typed in a shell, in quotes where needed."""
    return f'"{setting}"' if "'" in setting else quote(setting)


def check_columns(wanted: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise InvalidData if a wanted column is not in `names`; the message suggests similar names.

    `where` is the name of the data in the message.
    """
    names_shown = 20
    columns = dict.fromkeys(names)
    if missing := [name for name in wanted if name not in columns]:
        listed = ", ".join(list(columns)[:names_shown]) + ", ..." * (len(columns) > names_shown)
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
        options: How the file is written.
        limits: Sizes above which the file is rejected.
        key: Path of the settings `options` in messages, such as "target.read."; "" if the user
            cannot set them.

    Raises:
        UsageError: If the file is missing, empty or not in a table format.
    """

    def __init__(
        self,
        path: str | Path,
        options: ReadOptions = DEFAULT_OPTIONS,
        limits: TableLimits = DEFAULT_LIMITS,
        key: str = "target.read.",
    ) -> None:
        self.file = check_path(path)
        self.limits = limits
        self.options = options
        self._key = key

    def names(self) -> list[str]:
        """Return the names of the columns in order, without unnamed columns.

        The names in a text file are read without pandas, which loads slowly, so that invalid names
        in settings are reported quickly.
        """
        if is_parquet(self.file) or self.file.suffix.lower() == EXCEL:
            return list(next(self.blocks()).columns)
        rows = self._first_rows
        return self._named([name.strip() for name in rows[self._rows_above(rows)]])

    def _named(self, header: Sequence[str]) -> list[str]:
        """Return the names in the header; raise UsageError if there are too many or duplicates."""
        self.limits.check_cells(0, len(header), self.file)
        named = list(filter(None, header))
        check_distinct(named, self.file.name)
        return named

    def read(self, names: Sequence[str] | None = None) -> DataFrame:
        """Return the columns `names` (None: all named columns) of all rows; see `blocks`."""
        from pandas import concat

        return concat(self.blocks(names))

    def blocks(
        self, names: Sequence[str] | None = None, inputs: Sequence[str] | None = None
    ) -> Iterator[DataFrame]:
        """Yield the columns `names` (None: all named columns) in blocks of some thousand rows.

        Numbers are written with a decimal point and without marks between thousands. Raises
        UsageError if the file cannot be read as a table, if a column does not exist, or if a column
        in `inputs` (None: any column) holds a number that contradicts `options.decimal`.
        """
        if is_parquet(self.file):
            source = self._parquet()
        else:
            source = self._workbook() if self.file.suffix.lower() == EXCEL else self._text()
        with source as (header, frames):
            named = self._named(header)
            check_columns(names or (), named, self.file.name)
            wanted = named if names is None else list(names)
            count = 0
            for frame in frames(wanted):
                count += len(frame)
                self.limits.check_cells(count, len(header), self.file)
                if len(frame):
                    yield self._cleaned(frame, wanted if inputs is None else inputs)
        if not count:
            raise UsageError(f"{self.file.name} has columns but no rows.")

    def _cleaned(self, block: DataFrame, checked: Sequence[str]) -> DataFrame:
        """Strip blanks around texts, and write numbers as Python does."""
        from pandas import DataFrame

        mark = self.options.decimal
        between = self.options.thousands
        is_text = ending_of(self.file) in SEPARATORS
        if mark == "." and between is None and not is_text:
            return block
        split = r"\s" if (between or "").isspace() else re.escape(between or "")
        groups = rf"|[0-9]{{1,3}}({split}[0-9]{{2,3}})*{split}[0-9]{{3}}" if split else ""
        fraction = rf"({re.escape(mark)}[0-9]*)?"
        pattern = re.compile(rf"[+-]?([0-9]+{groups})?{fraction}([eE][+-]?[0-9]+)?")

        def plain(value: Any, row: Any, name: str) -> Any:
            if not isinstance(value, str):
                return value
            text = value.strip()
            if pattern.fullmatch(text):
                bare = re.sub(split, "", text) if split else text
                return bare.replace(mark, ".")
            if mark != "." and "." in text and is_number(text) and name in checked:
                advice = "correct the value" if split else self._advice("thousands=.")
                raise InvalidData(
                    f"column {name!r} of {self.file.name} holds {text!r} in row {row}, although "
                    f"its decimal mark is {mark!r}; {advice}."
                )
            return text

        if mark == "." and not split:
            columns = {
                name: [value.strip() if isinstance(value, str) else value for value in block[name]]
                for name in block
            }
        else:
            columns = {
                str(name): [plain(value, row, str(name)) for row, value in block[name].items()]
                for name in block
            }
        return DataFrame(columns, block.index, dtype=object)

    def _advice(self, *settings: str) -> str:
        """Return advice to set some of the read options, such as "thousands=."."""
        if not self._key:
            return "write the file like the training rows: UTF-8, with decimal points and commas"
        return "try " + " ".join(in_shell(f"{self._key}{setting}") for setting in settings)

    def _rows_above(self, rows: Sequence[Sequence[Any]]) -> int:
        """Return the number of rows above the header, given the first rows of the file.

        The header is the first row that is not empty, after the rows to skip. Raises UsageError if
        the file has no rows, or if a later row looks more like the header.
        """
        filled = [i for i, row in enumerate(rows) if any(value != "" for value in row)]
        filled = [i for i in filled if i >= self.options.skiprows]
        if not filled:
            raise UsageError(f"{self.file.name} has no rows.")
        above = filled[0]
        widths = Counter(len(rows[i]) for i in filled)
        width = max(widths, key=lambda width: (widths[width], width))
        named = sum(name != "" for name in rows[above])
        if named == 1 < width:
            for i in filled[1:]:
                row = rows[i]
                if len(row) == width and all(row) and not any(is_number(str(v)) for v in row):
                    raise UsageError(
                        f"row {above + 1} of {self.file.name} names 1 of {width} columns; if row "
                        f"{i + 1} is the header, {self._advice(f'skiprows={i}')}."
                    )
        return above

    @cached_property
    def _first_rows(self) -> list[list[str]]:
        """The fields of the first rows of a text file.

        Raises UsageError if another separator than that of `options` occurs more often.
        """
        lines = self._examined.splitlines(keepends=True)[:_HEAD_ROWS]
        separator = self.options.separator(ending_of(self.file))
        filled = [line for line in lines[self.options.skiprows :] if line.strip()][:2]
        if self.options.sep is None and filled:
            used = len(min((re.split(separator, line.strip()) for line in filled), key=len))
            for mark, typed in ((";", ";"), ("\t", r"\t"), ("|", "|"), (",", ",")):
                counts = {line.count(mark) for line in filled}
                if used == 1 and len(counts) == 1 and counts != {0} and mark != separator:
                    raise UsageError(
                        f"{self.file.name} is read as one column, {filled[0].strip()[:40]!r}; "
                        f"{self._advice(f'sep={typed}')}."
                    )
        if separator == r"\s+":
            return [line.split() for line in lines]
        rows: list[list[str]] = []
        with contextlib.suppress(csv.Error):
            rows += csv.reader(lines, delimiter=separator, skipinitialspace=True)
        return rows

    @cached_property
    def _examined(self) -> str:
        """Beginning of the text of a text file.

        All of the text is decoded once, so that the encoding holds for the whole file.
        """
        encoding = self._encoding
        try:
            return self._beginning(encoding)
        except UnicodeError:
            if encoding != "utf-8-sig":
                advice = f"correct {self._key}encoding" if self._key else self._advice()
                raise UsageError(f"{self.file.name} is not text in {encoding}; {advice}.") from None
        with _opened(self.file) as raw:
            wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        advice = self._advice(f"encoding={'utf-16' if wide else 'cp1252'}")
        raise UsageError(f"{self.file.name} is not text in UTF-8; {advice}.")

    @property
    def _encoding(self) -> str:
        name = self.options.encoding
        return "utf-8-sig" if codecs.lookup(name).name == "utf-8" else name

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

        above = self._rows_above(self._first_rows)
        separator = self.options.separator(ending_of(self.file))
        with _opened(self.file) as raw, io.TextIOWrapper(raw, self._encoding, newline="") as stream:
            try:
                blocks = read_csv(
                    stream,
                    sep=separator,
                    header=None,
                    skiprows=above,
                    dtype=object,
                    na_filter=False,
                    skip_blank_lines=False,
                    skipinitialspace=True,
                    chunksize=self.limits.block,
                )
                yield _below_header(blocks, above)
            except ParserError as error:
                raise UsageError(f"{self.file.name}: {_reason(str(error))}.") from None

    @contextlib.contextmanager
    def _workbook(self) -> Iterator[Source]:
        """Read a sheet of a workbook. Formulas are read as stored values."""
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
        titles = ", ".join(filled) or "none"
        wanted = self.options.sheet_name
        if wanted is not None and wanted not in filled:
            raise UsageError(f"{name} has no sheet {wanted!r} with content; it has {titles}.")
        if wanted is None and len(filled) != 1:
            advice = self._advice(f"sheet_name={next(iter(filled))}") if filled else "fill one"
            raise UsageError(f"{name} has {len(filled)} sheets with content ({titles}); {advice}.")
        sheet = filled[next(iter(filled)) if wanted is None else wanted]
        above = self._rows_above(sheet.head(_HEAD_ROWS).to_numpy().tolist())
        yield _below_header(iter([sheet.iloc[above:].reset_index(drop=True)]), above)

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
                yield stored.schema_arrow.names, frames
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


def column_names(path: str | Path, options: ReadOptions = DEFAULT_OPTIONS) -> list[str]:
    """Return the names of a table file's columns in order, without unnamed columns."""
    return TableFile(path, options).names()


def _too_long(name: str, limits: TableLimits) -> str:
    return f"{name} holds more than {limits.characters} characters; larger tables are not read."


def _reason(error: str) -> str:
    """Convert an error message of pandas to the reason given in kanrun's message."""
    fields = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", error)
    if fields:
        wanted, row, count = fields.groups()
        return f"row {row} has {count} fields, but the header has {wanted}"
    return f"it cannot be read as a table ({error.strip().rpartition('error: ')[2]})"


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


_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})$", re.ASCII)
#: Pattern of values such as 007, which are names and not numbers.
_NAME = re.compile(r"[+-]?0\d")


def check_output(file: Path) -> None:
    """Raise UsageError if kanrun cannot write this table format, or Parquet lacks pyarrow."""
    if is_parquet(file):
        pyarrow_for("writing", file)
    elif ending_of(file) not in SEPARATORS:
        raise UsageError(
            f"{str(file)!r} is not a kind of table that kanrun writes; it writes "
            f"{', '.join(SEPARATORS)} (also with {', '.join(COMPRESSIONS)}), .parquet."
        )


@contextlib.contextmanager
def table_writer(file: Path, texts: Collection[str]) -> Iterator[Callable[[DataFrame], None]]:
    """Return a context manager that yields a function, which appends a block of rows to `file`.

    `file` must be accepted by `check_output`; it appears when the context ends without an error.
    The blocks of a Parquet file are collected in memory. Its columns `texts` contain values from a
    text file, which are converted to integers or floats if all values of the column allow it.
    Raises UsageError if the file cannot be written.
    """
    from pandas import concat

    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    blocks: list[DataFrame] = []

    def append(block: DataFrame) -> None:
        first = not temporary.exists()
        opened = COMPRESSIONS.get(file.suffix.lower(), open)
        with opened(temporary, "at", encoding="utf-8", newline="") as stream:
            separator = SEPARATORS[ending_of(file)].replace(r"\s+", "\t")
            block.to_csv(stream, sep=separator, index=False, header=first, lineterminator="\n")

    try:
        try:
            yield blocks.append if is_parquet(file) else append
            if blocks:
                table = concat(blocks)
                typed = {name: _typed(list(table[name])) for name in texts}
                table.assign(**typed).to_parquet(temporary, index=False)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror or error}; choose another --output."
        ) from error


def _typed(texts: list[str]) -> Any:
    """Convert texts to integers, or to floats with NaN for missing values, if all texts allow it.

    Otherwise, return the texts unchanged.
    """
    if all(map(_WHOLE.match, texts)):
        return list(map(int, texts))
    if all(is_missing(text) or (is_number(text) and not _NAME.match(text)) for text in texts):
        return read_numbers(texts)[0]
    return texts
