"""Files of tables that are written, which appear whole or not at all."""

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
#: Texts such as 007, which are names.
_NAME = re.compile(r"[+-]?0\d")


def check_output(file: Path) -> None:
    """Raise UsageError for a file that is not a table, and for Parquet without pyarrow."""
    if is_parquet(file):
        pyarrow_for("writing", file)
    elif ending_of(file) not in SEPARATORS:
        raise UsageError(
            f"{str(file)!r} is not a kind of table that kanrun writes; it writes "
            f"{', '.join(SEPARATORS)} (also with {', '.join(COMPRESSIONS)}), .parquet."
        )


@contextlib.contextmanager
def table_writer(file: Path, texts: Collection[str]) -> Iterator[Callable[[DataFrame], None]]:
    """Yield a function that appends a block to `file`, which appears when the body ends.

    `file` is one that `check_output` accepts. Parquet is collected in memory; its columns `texts`,
    which come from a text file, become whole numbers, numbers or text. Raises UsageError for a
    file that cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            if is_parquet(file):
                yield from _parquet(temporary, texts)
            else:
                yield from _text(temporary, file)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror or error}; choose another --output."
        ) from error


def _text(temporary: Path, file: Path) -> Iterator[Callable[[DataFrame], None]]:
    opened = COMPRESSIONS.get(file.suffix.lower(), open)
    with opened(temporary, "wt", encoding="utf-8", newline="") as stream:
        started = False

        def write(block: DataFrame) -> None:
            nonlocal started
            separator = SEPARATORS[ending_of(file)][0]
            block.to_csv(
                stream, sep=separator, index=False, header=not started, lineterminator="\n"
            )
            started = True

        yield write


def _parquet(temporary: Path, texts: Collection[str]) -> Iterator[Callable[[DataFrame], None]]:
    from pandas import concat

    blocks: list[DataFrame] = []
    yield blocks.append
    table = concat(blocks)
    typed = {name: _typed(list(table[name])) for name in texts}
    table.assign(**typed).to_parquet(temporary, index=False)


def _typed(texts: list[str]) -> Any:
    """Return texts as whole numbers, as numbers with gaps, or as they are."""
    if all(map(_WHOLE.match, texts)):
        return np.array(texts, dtype=np.int64)
    if all(is_missing(text) or (is_number(text) and not _NAME.match(text)) for text in texts):
        return read_numbers(texts)[0]
    return texts
