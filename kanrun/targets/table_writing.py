"""Tables that are written block by block: a table of any length takes the memory of a block."""

from __future__ import annotations

import bz2
import csv
import gzip
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
from kanrun.targets.notation import read_numbers
from kanrun.targets.row_files import SEPARATORS
from kanrun.targets.table_files import ending_of, is_parquet, pyarrow_for

#: Columns of some rows by name; the values of a column are of one type in all blocks.
Columns = Mapping[str, Any]


@contextmanager
def table_writer(
    file: Path, kinds: Mapping[str, Any] | None = None
) -> Iterator[Callable[[Columns], None]]:
    """Yield a function that appends a block to `file`, which appears, whole, when the body ends.

    `file` is one that `check_output` accepts. Parquet columns get the types of `kinds`, see
    `column_kinds`. Raises UsageError for a file that cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with ExitStack() as stack:
            stack.callback(temporary.unlink, missing_ok=True)
            with ExitStack() as opened:
                if is_parquet(file):
                    yield _parquet(opened, temporary, kinds or {})
                else:
                    yield _text(opened, temporary, file)
            os.replace(temporary, file)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror or error}; choose another --output."
        ) from error


def _text(opened: ExitStack, temporary: Path, file: Path) -> Callable[[Columns], None]:
    raw: Any = opened.enter_context(io.BufferedWriter(io.FileIO(temporary, "x")))
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
    opened: ExitStack, temporary: Path, kinds: Mapping[str, Any]
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
