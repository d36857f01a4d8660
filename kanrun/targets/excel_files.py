"""Rows of Excel workbooks, by openpyxl (the extra `excel`)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanrun.errors import UsageError


@contextmanager
def excel_rows(file: Path, numbers: list[int]) -> Iterator[Iterator[list[Any]]]:
    """Open the one sheet of a workbook: an iterator of its rows that are not blank.

    Each row appends its number to `numbers`. Formulas have their stored values. Raises UsageError
    for several sheets with content, a damaged file, and if openpyxl is not installed.
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
    try:
        filled = [sheet for sheet in book.worksheets if next(_rows(sheet), None)]
        if len(filled) != 1:
            named = ", ".join(sheet.title for sheet in filled) or "none"
            raise UsageError(
                f"{file.name} has {len(filled)} sheets with content ({named}); a workbook with one "
                "is needed. Save the sheet as CSV."
            )
        yield _numbered(filled[0], numbers)
    finally:
        book.close()


def _rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """Yield the number and the values of each row that is not blank."""
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        values = ["" if value is None else value for value in row]
        while values and values[-1] == "":
            values.pop()
        if values:
            yield number, values


def _numbered(sheet: Any, numbers: list[int]) -> Iterator[list[Any]]:
    for number, values in _rows(sheet):
        numbers.append(number)
        yield values
