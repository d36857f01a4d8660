"""Tables for those who use a trained model or draw a curve: the inputs, and which columns there are."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from kanrun.targets.data import Array
from kanrun.targets.table_columns import MISSING, is_number, opened_parquet, read_columns
from kanrun.targets.table_file import check_path, is_parquet, text_rows


def read_inputs(path: str | Path, names: Sequence[str]) -> Array:
    """The columns `names` of a table, (rows, len(names)), in that order.

    Raises UsageError for a file that is not a table, for columns that are not there, and for missing, infinite
    or text values in them, with their count and first row.
    """
    return read_columns(check_path(path), names).numbers


def columns_of(path: str | Path) -> dict[str, bool]:
    """The columns of a table in their order, and whether all that a column holds are numbers (or missing).

    Raises UsageError for a file that is not a table and for two columns of the same name.
    """
    file = check_path(path)
    if is_parquet(file):
        with opened_parquet(file) as stored:
            types = import_module("pyarrow.types")
            return {f.name: types.is_integer(f.type) or types.is_floating(f.type) for f in stored.schema_arrow}
    rows = text_rows(file)
    header = next(rows).fields
    numeric = set(range(len(header)))
    for row in rows:
        numeric -= {i for i in numeric if row.fields[i].casefold() not in MISSING and not is_number(row.fields[i])}
    return {name or f"column {i + 1}": i in numeric for i, name in enumerate(header)}
