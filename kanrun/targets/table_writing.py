"""Tables written block after block, so that a table of any length takes the memory of a block."""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib
import io
import lzma
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kanrun.errors import UsageError
from kanrun.targets.table_file import COMPRESSIONS, SEPARATORS, ending_of, is_parquet
from kanrun.targets.tables import MISSING_WORDS

#: A block of columns by name; values of one column are of one type in all blocks.
Block = Mapping[str, Any]


@contextmanager
def table_writer(
    file: Path, kinds: Mapping[str, Any] | None = None
) -> Iterator[Callable[[Block], None]]:
    """A function that appends a block to `file`, which is there when the body ends without an error, and whole.

    `file` is one that `check_output` accepts. In Parquet, columns become what `kinds` (see `column_kinds`) says of
    them. Raises UsageError where the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with ExitStack() as stack:
            stack.callback(temporary.unlink, missing_ok=True)
            with ExitStack() as opened:
                yield (
                    _parquet(opened, temporary, kinds or {})
                    if is_parquet(file)
                    else _text(opened, temporary, file)
                )
            os.replace(temporary, file)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror or error}; choose another --output."
        ) from error


def _text(opened: ExitStack, temporary: Path, file: Path) -> Callable[[Block], None]:
    compression = COMPRESSIONS.get(file.suffix.lower())
    raw: Any = opened.enter_context(io.BufferedWriter(io.FileIO(temporary, "x")))
    if compression == "gzip":  # the same bytes whenever it is written
        raw = opened.enter_context(gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0))
    elif compression in _PLAIN:
        raw = opened.enter_context(_PLAIN[compression](raw, "wb"))
    elif compression == "zip":
        archive = opened.enter_context(zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED))
        raw = opened.enter_context(archive.open(file.stem, "w", force_zip64=True))
    stream = opened.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
    separator = SEPARATORS[ending_of(file)]
    writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
    started = False

    def write(block: Block) -> None:
        nonlocal started
        if not started:
            writer.writerow(block)
            started = True
        columns = [
            column.tolist() if isinstance(column, np.ndarray) else column
            for column in block.values()
        ]
        texts = [
            column if {*map(type, column)} <= {str} else list(map(_text_of, column))
            for column in columns
        ]
        plain = "".join([f"{separator.join(row)}\n" for row in zip(*texts, strict=True)])
        signs = len(columns[0]) * np.array([len(columns) - 1, 1, 0, 0])
        if (
            len(columns) > 1
            and [plain.count(sign) for sign in (separator, "\n", "\r", '"')] == signs.tolist()
        ):
            stream.write(plain)  # nothing needs quotes: in a third of csv's time
        else:
            writer.writerows(zip(*texts, strict=True))

    return write


def _text_of(value: Any) -> str:
    """As Python's `csv` writes it."""
    return "" if value is None else str(value)


_PLAIN: dict[str | None, Callable[..., Any]] = {"bz2": bz2.BZ2File, "xz": lzma.LZMAFile}


def _parquet(
    opened: ExitStack, temporary: Path, kinds: Mapping[str, Any]
) -> Callable[[Block], None]:
    pyarrow, parquet = (
        importlib.import_module("pyarrow"),
        importlib.import_module("pyarrow.parquet"),
    )
    writer: Any = None

    def column(name: str, values: Sequence[Any]) -> Any:
        kind = kinds.get(name)
        if kind == "whole":
            return pyarrow.array([int(value) for value in values])
        if kind == "numbers":
            numbers = [
                None if str(value).casefold() in MISSING_WORDS else float(value) for value in values
            ]
            return pyarrow.array(numbers, pyarrow.float64())
        return pyarrow.array(values, pyarrow.string() if kind == "text" else kind)

    def write(block: Block) -> None:
        nonlocal writer
        table = pyarrow.table({name: column(name, values) for name, values in block.items()})
        if writer is None:
            writer = opened.enter_context(parquet.ParquetWriter(temporary, table.schema))
        writer.write_table(table)

    return write
