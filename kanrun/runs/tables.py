"""CSV files of a run's tables, for people and other programs; kanrun itself reads the journal.

While a run is running, single rows are also appended to the CSV files, so that people can watch
them. These files may be incomplete. At the end of a run, and when it is resumed, all files are
written again from the journal. They then have all tables and columns, and no void rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanrun.errors import StorageFailed
from kanrun.runs.files import Appender, Columns, csv_lines, make_folder, plain_value, write_atomic
from kanrun.runs.journal import TOP_TABLES, Journal

#: Approximate number of bytes of a CSV file that are written at once.
_BLOCK = 2**20
_logger = logging.getLogger("kanrun")


class CsvTables:
    """Writes the CSV files of the run in `folder`. Failures to write are logged as warnings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The open file and the columns of each table; None after a failure.
        self._files: dict[str, tuple[Appender, list[str]] | None] = {}

    def append(self, table: str, values: Mapping[str, Any]) -> None:
        """Append a row to the file of `table`. After a failure, that file is not written again.

        The first row determines the columns; values of other columns are dropped for now.
        """
        try:
            if table not in self._files:
                file = Appender(self._path(table))
                self._files[table] = file, list(values)
                file.write(csv_lines([list(values)]))
            if (opened := self._files[table]) is not None:
                file, header = opened
                file.write(csv_lines([[plain_value(values.get(name)) for name in header]]))
        except StorageFailed as error:
            self._files[table] = None
            _warn(error)

    def write(self) -> None:
        """Write all files again from the journal, in constant memory."""
        for opened in self._files.values():
            if opened is not None:
                opened[0].close()
        self._files.clear()
        try:
            journal = Journal(self._folder)
            for table in journal.tables:
                write_atomic(self._path(table), _parts(journal, table), durable=True)
        except StorageFailed as error:
            _warn(error)

    def _path(self, table: str) -> Path:
        place = self._folder if table in TOP_TABLES else make_folder(self._folder / "tables")
        return place / f"{table}.csv"


def _parts(journal: Journal, table: str) -> Iterator[bytes]:
    """Yield a table as CSV, in parts of about `_BLOCK` bytes."""
    header = journal.header(table)
    part = bytearray(csv_lines([header]))
    for _, block in journal.blocks(table):
        part += _csv(header, block)
        if len(part) >= _BLOCK:
            yield bytes(part)
            part.clear()
    yield bytes(part)


def _csv(header: Sequence[str], block: Columns) -> bytes:
    """Return the rows of `block` as CSV, with the columns in `header`."""
    rows = len(next(iter(block.values()), ()))
    lists = [block.get(name, [None] * rows) for name in header]
    # Numbers in the journal are Python numbers already, so only text needs conversion.
    plain = (map(plain_value, each) if str in set(map(type, each)) else each for each in lists)
    return csv_lines(zip(*plain, strict=True))


def _warn(error: StorageFailed) -> None:
    _logger.warning(
        "%s The records are in records.jsonl; `kanrun runs resume` writes the tables anew.", error
    )
