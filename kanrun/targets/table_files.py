"""Files of tables: their kinds and limits, and their rows, read and written block by block.

A table of any length takes the memory of a block. Values stay as they stand: texts, or what Parquet
holds. Text goes through Python's `csv`. That takes no longer than pandas in text mode (0.6 s of CPU
compared with 0.8 s for four million cells), rejects broken quotes, and distinguishes a blank line
from a row of empty fields, so that a message can name the row of the file.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import importlib
import io
import lzma
import os
import secrets
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import InvalidData, UsageError, did_you_mean, no_file
from kanrun.targets.table_text import (
    DEFAULT_LIMITS,
    SEPARATORS,
    TableLimits,
    cleaned,
    lines_of,
    opened_text,
    opened_workbook,
    read_numbers,
    rows_of,
    separator_of,
)

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip")
_PARQUET = (".parquet", ".pq")
EXCEL = ".xlsx"
_KINDS = f"{', '.join(SEPARATORS)} (also with {', '.join(COMPRESSIONS)}), {_PARQUET[0]}"
_NAMES_SHOWN = 20


@dataclass(frozen=True)
class ColumnBlock:
    """Columns of some rows by name, and the numbers of these rows in the file."""

    rows: Sequence[int]
    columns: Mapping[str, list[Any]]

    def take(self, kept: NDArray[np.bool_]) -> ColumnBlock:
        """Return the rows of a mask."""
        columns = {name: list(compress(values, kept)) for name, values in self.columns.items()}
        return ColumnBlock(list(compress(self.rows, kept)), columns)


def check_path(path: str | Path) -> Path:
    """Return the path of a file with content and a known ending. Raises UsageError for others."""
    if not str(path):
        raise UsageError("the path of the table is empty; name a file.")
    # Unlike Path's method, this takes a name such as ~data.csv for what it is.
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
    if not is_table(file) and ending_of(file) != ".zip":
        raise UsageError(
            f"{str(path)!r} is not a kind of table that kanrun reads; it reads {_KINDS}, {EXCEL}."
        )
    return file


def is_table(file: Path) -> bool:
    """Return whether the name is that of a table that kanrun reads."""
    return is_parquet(file) or ending_of(file) in (*SEPARATORS, EXCEL)


def is_parquet(file: Path) -> bool:
    """Return whether the name is that of a Parquet file."""
    return file.suffix.lower() in _PARQUET


def ending_of(file: Path) -> str:
    """Return .csv for data.csv and data.csv.gz, and .zip for an archive of unknown content."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS and suffixes[-2] in SEPARATORS:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def check_output(file: Path) -> None:
    """Raise UsageError for a file that is not a table, and for Parquet without pyarrow."""
    if is_parquet(file):
        pyarrow_for("writing", file)
    elif ending_of(file) not in SEPARATORS:
        raise UsageError(
            f"{str(file)!r} is not a kind of table that kanrun writes; it writes {_KINDS}."
        )


def pyarrow_for(doing: str, file: Path) -> tuple[Any, Any]:
    """Return pyarrow and its module for Parquet. Raises UsageError if it is not installed."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"{doing} {file.name} needs pyarrow, which is not installed; run: "
            "pip install 'kanrun[parquet]'."
        ) from None


def check_columns(wanted: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise InvalidData for a wanted column that is not there, with similar names."""
    known = dict.fromkeys(names)
    if missing := [name for name in wanted if name not in known]:
        listed = ", ".join(list(known)[:_NAMES_SHOWN]) + ", ..." * (len(known) > _NAMES_SHOWN)
        raise InvalidData(
            f"{where} has no column {missing[0]!r}{did_you_mean(missing[0], known)}; "
            f"its columns are {listed}."
        )


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raise InvalidData for two columns with the same name."""
    (name, count), *_ = Counter(names).most_common(1) or [("", 1)]
    if count > 1:
        raise InvalidData(f"{where} has two columns called {name!r}; rename one.")


@contextlib.contextmanager
def opened_parquet(
    file: Path, limits: TableLimits, wanted: Sequence[str] | None = None
) -> Iterator[Any]:
    """Open a Parquet file for reading. Raises UsageError for a damaged or too large one."""
    pyarrow, parquet = pyarrow_for("reading", file)
    try:
        with parquet.ParquetFile(file) as stored:
            names, metadata = stored.schema_arrow.names, stored.metadata
            check_distinct(list(filter(None, names)), file.name)
            check_columns(wanted or (), names, file.name)
            count = len(names if wanted is None else wanted)
            limits.check_cells(metadata.num_rows, count, file)
            for group in map(metadata.row_group, range(metadata.num_row_groups)):
                columns = map(group.column, range(group.num_columns))
                largest = max(column.total_uncompressed_size for column in columns)
                if largest > limits.characters:
                    raise UsageError(
                        f"{file.name} has a column of {largest} bytes in one group of rows; "
                        "write it in smaller groups."
                    )
            yield stored
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(
            f"{file.name} cannot be read as Parquet ({str(error).splitlines()[0][:100]})."
        ) from None


def column_names(path: str | Path, limits: TableLimits = DEFAULT_LIMITS) -> list[str]:
    """Return the names of the columns that have one, in their order."""
    return list(next(read_blocks(path, None, limits)).columns)


def read_blocks(
    path: str | Path, names: Sequence[str] | None, limits: TableLimits
) -> Iterator[ColumnBlock]:
    """Yield these columns (None: all with a name), some thousand rows at a time.

    Raises UsageError for a file that is not a table, and for unknown columns.
    """
    file = check_path(path)
    if not is_parquet(file):
        yield from _text_blocks(file, names, limits)
        return
    with opened_parquet(file, limits, names) as stored:
        if not stored.metadata.num_rows:
            raise UsageError(f"{file.name} has no rows.")
        wanted, start = list(stored.schema_arrow.names if names is None else names), 1
        for part in stored.iter_batches(batch_size=limits.block, columns=wanted):
            rows = range(start, start + part.num_rows)
            yield ColumnBlock(rows, {name: part.column(name).to_pylist() for name in wanted})
            start += part.num_rows


def read_table(
    path: str | Path, names: Sequence[str] | None = None, limits: TableLimits = DEFAULT_LIMITS
) -> ColumnBlock:
    """Return these columns of all rows, see `read_blocks`."""
    rows: list[int] = []
    columns: dict[str, list[Any]] = {}
    for block in read_blocks(path, names, limits):
        rows += block.rows
        for name, values in block.columns.items():
            columns.setdefault(name, []).extend(values)
    return ColumnBlock(rows, columns)


@contextlib.contextmanager
def _opened_rows(
    file: Path, limits: TableLimits
) -> Iterator[tuple[str, Iterator[tuple[int, list[Any]]]]]:
    """Open a text file or workbook: its separator (of a workbook "") and its numbered rows."""
    if file.suffix.lower() == EXCEL:
        with opened_workbook(file) as rows:
            yield "", rows
        return
    with opened_text(file) as stream:
        first = next((line for line in lines_of(file, stream, limits) if line.strip()), "")
        stream.seek(0)
        separator = separator_of(ending_of(file), first.strip())
        lines = lines_of(file, stream, limits)
        lines = map(str.strip, lines) if separator == " " else lines
        yield separator, rows_of(file, lines, separator)


def _text_blocks(
    file: Path, names: Sequence[str] | None, limits: TableLimits
) -> Iterator[ColumnBlock]:
    """Yield the rows of a text file or workbook; its first line has number 1.

    Texts are stripped, and short rows filled with empty fields. Raises UsageError for a row with
    more fields than the header.
    """
    with _opened_rows(file, limits) as (separator, rows):
        header = [str(name).strip() for name in next(rows, (0, []))[1]]
        if not header:
            raise UsageError(f"{file.name} has no rows.")
        limits.check_cells(0, len(header), file)
        named = list(filter(None, header))  # a column without a name is not read
        check_distinct(named, file.name)
        wanted = named if names is None else list(names)
        check_columns(wanted, named, file.name)
        count = 0
        while block := list(islice(rows, limits.block)):
            count += len(block)
            limits.check_cells(count, len(header), file)
            for number, row in block:
                if len(row) > len(header):
                    raise UsageError(
                        f"{file.name}: row {number} has {len(row)} fields, but the header has "
                        f"{len(header)}."
                    )
            numbers, lines = zip(*block, strict=True)
            columns = {name: values for name, *values in zip_longest(header, *lines, fillvalue="")}
            yield ColumnBlock(numbers, {name: cleaned(columns[name], separator) for name in wanted})
    if not count:
        raise UsageError(f"{file.name} has a header but no rows.")


#: Columns of some rows by name; the values of a column are of one type in all blocks.
Columns = Mapping[str, Any]


@contextlib.contextmanager
def table_writer(file: Path, kinds: Mapping[str, Any]) -> Iterator[Callable[[Columns], None]]:
    """Yield a function that appends a block to `file`, which appears, whole, when the body ends.

    `file` is one that `check_output` accepts. Parquet columns get the types of `kinds`, see
    `column_kinds`. Raises UsageError for a file that cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with contextlib.ExitStack() as opened:
                if is_parquet(file):
                    yield _parquet(opened, temporary, kinds)
                else:
                    yield _text(opened, temporary, file)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror or error}; choose another --output."
        ) from error


def _text(opened: contextlib.ExitStack, temporary: Path, file: Path) -> Callable[[Columns], None]:
    raw: Any = opened.enter_context(temporary.open("xb"))
    ending = file.suffix.lower()
    if ending == ".gz":  # the same bytes whenever it is written
        raw = opened.enter_context(gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0))
    elif ending == ".bz2":
        raw = opened.enter_context(bz2.BZ2File(raw, "wb"))
    elif ending == ".xz":
        raw = opened.enter_context(lzma.LZMAFile(raw, "wb"))  # noqa: SIM115
    elif ending == ".zip":
        archive = opened.enter_context(zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED))
        raw = opened.enter_context(archive.open(file.stem, "w", force_zip64=True))
    stream = opened.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
    writer = csv.writer(stream, delimiter=SEPARATORS[ending_of(file)], lineterminator="\n")
    started = False

    def write(block: Columns) -> None:
        nonlocal started
        if not started:
            writer.writerow(block)
            started = True
        columns = (c.tolist() if isinstance(c, np.ndarray) else c for c in block.values())
        writer.writerows(zip(*columns, strict=True))

    return write


def _parquet(
    opened: contextlib.ExitStack, temporary: Path, kinds: Mapping[str, Any]
) -> Callable[[Columns], None]:
    pyarrow, parquet = pyarrow_for("writing", temporary)
    writer: Any = None

    def column(name: str, values: Sequence[Any]) -> Any:
        kind = kinds.get(name)
        if kind == "whole":
            return pyarrow.array([int(value) for value in values])
        if kind == "numbers":
            return pyarrow.array(read_numbers(values)[0], from_pandas=True)  # null for NaN
        return pyarrow.array(values, pyarrow.string() if kind == "text" else kind)

    def write(block: Columns) -> None:
        nonlocal writer
        table = pyarrow.table({name: column(name, values) for name, values in block.items()})
        if writer is None:
            writer = opened.enter_context(parquet.ParquetWriter(temporary, table.schema))
        writer.write_table(table)

    return write
