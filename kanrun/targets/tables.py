"""Tables for those who use a trained model: a whole table, or the inputs out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kanrun.targets.data import Array
from kanrun.targets.table_columns import MISSING, read_columns, read_parquet
from kanrun.targets.table_file import check_path, is_parquet, text_rows

if TYPE_CHECKING:
    import pandas as pd


def read_inputs(path: str | Path, names: Sequence[str]) -> Array:
    """The columns `names` of a table, (rows, len(names)), in that order.

    Raises UsageError for a file that is not a table, for columns that are not there, and for missing, infinite
    or text values in them, with their count and first row.
    """
    return read_columns(check_path(path), names).numbers


def read_table(path: str | Path) -> pd.DataFrame:
    """All of a table: CSV, TSV (compressed too) or Parquet, whatever its columns hold.

    Columns of a text file whose every value is a number (or missing) become numbers, the others stay text.
    Raises UsageError for a file that is not a table and for two columns of the same name.
    """
    import pandas as pd

    file = check_path(path)
    if is_parquet(file):
        frame: pd.DataFrame = read_parquet(file).to_pandas(ignore_metadata=True)
        return frame
    rows = text_rows(file)
    header = next(rows).fields
    names = [name or f"column {i}" for i, name in enumerate(header, 1)]
    columns = zip(*(row.fields for row in rows), strict=True)
    return pd.DataFrame({name: _column(list(values)) for name, values in zip(names, columns, strict=True)})


def _column(values: list[str]) -> pd.Series:
    import pandas as pd

    present = pd.Series([None if value.casefold() in MISSING else value for value in values], dtype=object)
    try:
        return pd.to_numeric(present)
    except (ValueError, TypeError):
        return pd.Series(values, dtype=object)
