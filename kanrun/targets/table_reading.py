"""The reader of tables: columns of CSV, TSV and Parquet files with the numbers of their rows.

Values stay as they stand; a `Conversion` makes numbers and labels of them.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.points import Array
from kanrun.targets.table_files import (
    DEFAULT_LIMITS,
    TableLimits,
    check_columns,
    check_path,
    is_parquet,
    opened_parquet,
    text_blocks,
)

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})$", re.ASCII)  # 007 is a name
_SHOWN = 40  # characters of a value in a message
MISSING_WORDS = frozenset(
    {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "+nan", "null", "none", "nat"}
)


@dataclass(frozen=True)
class ColumnBlock:
    """Columns of some rows by name, and the numbers of these rows in the file."""

    rows: Sequence[int]
    columns: Mapping[str, list[Any]]

    def take(self, kept: NDArray[np.bool_]) -> ColumnBlock:
        """Return the rows of a mask."""
        rows, *columns = (list(compress(a, kept)) for a in (self.rows, *self.columns.values()))
        return ColumnBlock(rows, dict(zip(self.columns, columns, strict=True)))


def column_names(path: str | Path, limits: TableLimits = DEFAULT_LIMITS) -> list[str]:
    """Return the names of a table's columns in their order, empty ones included."""
    file = check_path(path)
    if is_parquet(file):
        with opened_parquet(file, limits) as stored:
            return list(stored.schema_arrow.names)
    return [name for (name,) in next(text_blocks(file, limits))[1]]


def read_blocks(
    path: str | Path, names: Sequence[str] | None = None, limits: TableLimits = DEFAULT_LIMITS
) -> Iterator[ColumnBlock]:
    """Yield these columns (None: all with a name), some thousand rows at a time.

    Values are texts, or what Parquet holds. Raises UsageError for a file that is not a table and
    for unknown columns.
    """
    file = check_path(path)
    if is_parquet(file):
        with opened_parquet(file, limits, names) as stored:
            wanted = list(stored.schema_arrow.names) if names is None else list(names)
            if not stored.metadata.num_rows:
                raise UsageError(f"{file.name} has no rows.")
            start = 1
            for part in stored.iter_batches(batch_size=limits.block, columns=wanted):
                rows = range(start, start + part.num_rows)
                yield ColumnBlock(rows, {name: part.column(name).to_pylist() for name in wanted})
                start += part.num_rows
        return
    blocks = text_blocks(file, limits)
    header = [name for (name,) in next(blocks)[1]]
    wanted = [name for name in header if name] if names is None else list(names)
    check_columns(wanted, header, file)
    places = {name: i for i, name in enumerate(header)}
    for numbers, columns in blocks:
        yield ColumnBlock(numbers, {name: columns[places[name]] for name in wanted})


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


def read_inputs(
    path: str | Path, names: Sequence[str], limits: TableLimits = DEFAULT_LIMITS
) -> Array:
    """Return these columns of numbers, shape (rows, names). Raises UsageError as `Conversion`."""
    conversion = Conversion(check_path(path))
    parts = [conversion.numbers(block, names) for block in read_blocks(path, names, limits)]
    conversion.check()
    return np.concatenate(parts)


def column_kinds(path: str | Path, limits: TableLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the kind of each column with a name: `whole`, `numbers` (or missing), or `text`.

    The kinds of a Parquet file are its types.
    """
    if is_parquet(file := check_path(path)):
        with opened_parquet(file, limits) as stored:
            return {field.name: field.type for field in stored.schema_arrow}
    kinds: dict[str, str] = {}
    for block in read_blocks(file, None, limits):
        for name, values in block.columns.items():
            kind = kinds.get(name, "whole")
            if kind == "whole" and not all(map(_WHOLE.match, values)):
                kind = "numbers"
            if kind == "numbers" and not all(map(_is_plain_number, values)):
                kind = "text"
            kinds[name] = kind
    return kinds


def _is_plain_number(text: str) -> bool:
    if text.casefold() in MISSING_WORDS or _WHOLE.match(text):
        return True
    return is_number(text) and not re.match(r"[+-]?0\d", text)


def is_number(text: str) -> bool:
    """Return whether a text is a number, infinity and NaN included; 12_1 is a name."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def lenient_numbers(values: Sequence[Any]) -> tuple[Array, str | None]:
    """Return the values as numbers, missing ones as NaN, and the first that is text or infinite."""
    conversion = Conversion(Path())
    numbers = conversion.numbers(ColumnBlock(range(len(values)), {"": list(values)}), [""])[:, 0]
    first = conversion.faults.get("", {})
    wrong = first.get("text") or first.get("infinite")
    return numbers, wrong[2] if wrong else None


@dataclass
class Conversion:
    """Numbers and labels of blocks; values that break a rule are counted, and the first is located.

    Attributes:
        advice: What to do about `text` and about `missing` values, to follow the message of
            `check`.
        faults: For each column and rule: how many values break it, row and text of the first.
    """

    file: Path
    advice: Mapping[str, str] = field(default_factory=dict)
    faults: dict[str, dict[str, tuple[int, int, str]]] = field(default_factory=dict)

    def numbers(self, block: ColumnBlock, names: Sequence[str]) -> Array:
        """Return these columns as numbers (rows, names); true and false count as 1 and 0."""
        out = np.empty((len(block.rows), len(names)))
        for i, name in enumerate(names):
            out[:, i] = self._column(name, block)
        return out

    def _column(self, name: str, block: ColumnBlock) -> Array:
        """Convert all values at once if they are finite numbers, otherwise one by one."""
        values = block.columns[name]
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            found = np.fromiter(map(float, values), np.float64, len(values))
            if np.isfinite(found).all() and not _has_names(values):
                return found
        found = np.empty(len(values))
        for i, (value, row) in enumerate(zip(values, block.rows, strict=True)):
            found[i], rule = _read_number(value)
            if rule is not None:
                self._add(name, rule, row, value)
        return found

    def labels(self, block: ColumnBlock, name: str) -> list[str]:
        """Return a column as text; only empty values are missing: a class may be called NA."""
        values = block.columns[name]
        for value, row in zip(values, block.rows, strict=True):
            if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
                self._add(name, "missing", row, "")
        return [str(value) for value in values]

    def _add(self, name: str, rule: str, row: int, value: Any) -> None:
        found = self.faults.setdefault(name, {})
        count, first, text = found.get(rule, (0, row, str(value)[:_SHOWN]))
        found[rule] = count + 1, first, text

    def check(self) -> None:
        """Raise UsageError for values that broke a rule, with their count and first row."""
        if not self.faults:
            return
        (name, found), *others = self.faults.items()
        sentences = [
            f"{count} {rule} value{'s' * (count > 1)} (first in row {row})"
            for rule, (count, row, _) in sorted(found.items(), reverse=True)
            if rule != "text"
        ]
        if "text" in found:
            count, row, text = found["text"]
            plural = "values that are not numbers" if count > 1 else "value that is not a number"
            sentences.append(f"{count} {plural} (first {text!r} in row {row})")
        also = f"; so have {', '.join(name for name, _ in others[:5])}" if others else ""
        advice = self.advice.get("text" if "text" in found else "missing", "")
        hint = f"; {advice}" if advice else ""
        raise UsageError(
            f"column {name!r} of {self.file.name} has {', '.join(sentences)}{also}; "
            f"correct or remove such rows{hint}."
        )


def _has_names(values: Sequence[Any]) -> bool:
    """Return whether Python takes a name for a number: 12_1."""
    try:
        return "_" in "".join(values)
    except TypeError:  # not all are text
        return any(isinstance(value, str) and "_" in value for value in values)


def _read_number(value: Any) -> tuple[float, str | None]:
    """Return a number, or NaN and the rule that the value breaks."""
    text = "" if value is None else str(value).casefold()
    if text in MISSING_WORDS:
        return math.nan, "missing"
    if text in ("true", "false"):
        return float(text == "true"), None
    try:
        number = math.nan if isinstance(value, str) and "_" in value else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan, "text"
    if math.isnan(number):
        return math.nan, "text"
    return (number, None) if math.isfinite(number) else (math.nan, "infinite")
