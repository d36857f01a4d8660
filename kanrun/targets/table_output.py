"""Writing of table files. A file appears complete or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanrun.errors import UsageError
from kanrun.targets.table_files import (
    COMPRESSIONS,
    SEPARATORS,
    ending_of,
    is_parquet,
    pyarrow_for,
)
from kanrun.targets.table_text import is_missing, is_number, read_numbers

if TYPE_CHECKING:
    from pandas import DataFrame

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
        return np.array(texts, dtype=np.int64)
    if all(is_missing(text) or (is_number(text) and not _NAME.match(text)) for text in texts):
        return read_numbers(texts)[0]
    return texts
