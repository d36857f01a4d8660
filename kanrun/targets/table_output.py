"""Writing a table as the ending of its file says: the same kinds that are read."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kanrun.errors import UsageError
from kanrun.targets.table_file import KINDS, TEXT, ending_of, is_parquet

if TYPE_CHECKING:
    import pandas as pd

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, mtime=0),  # the same bytes whenever it is written
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def check_output(file: Path) -> None:
    """Raises UsageError for a file whose ending names no kind of table, and for Parquet where pyarrow is missing."""
    if is_parquet(file):
        try:
            importlib.import_module("pyarrow")
        except ImportError:
            raise UsageError(
                f"writing {file.name} needs pyarrow, which is not installed; run: pip install 'kanrun[parquet]'."
            ) from None
    elif ending_of(file) not in TEXT:
        raise UsageError(f"{str(file)!r} is not a kind of table that kanrun writes; it writes {KINDS}.")


def table_bytes(table: pd.DataFrame, file: Path) -> bytes:
    """The content of `file`, checked by `check_output`, that holds `table` without its index."""
    if is_parquet(file):
        stream = io.BytesIO()
        table.to_parquet(stream, index=False)
        return stream.getvalue()
    content = table.to_csv(index=False, sep=TEXT[ending_of(file)]).encode()
    last = file.suffix.lower()
    return _zipped(content, file.stem) if last == ".zip" else _COMPRESS.get(last, bytes)(content)


def _zipped(content: bytes, name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()
