"""Columns of a table as float64 numbers and as labels, with every value that is neither counted and placed."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanrun.errors import UsageError
from kanrun.targets.data import Array
from kanrun.targets.table_file import MOST_CHARACTERS, check_names, check_size, is_parquet, positions, text_rows

MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "+nan", "null", "none", "nat"})
_BLOCK = 5000  # rows converted at once, so that text is never held for the whole table


@dataclass(frozen=True, eq=False)
class Columns:
    """`numbers` is (rows, columns); `labels` has one text a row for each label column."""

    numbers: Array
    labels: list[list[str]]


@dataclass
class _Complaint:
    """How often a column breaks a rule, and where first."""

    count: int = 0
    row: int = 0
    example: str = ""

    def add(self, row: int, example: str) -> None:
        if not self.count:
            self.row, self.example = row, example[:40]
        self.count += 1


@dataclass
class _Complaints:
    """Of one column."""

    missing: _Complaint = field(default_factory=_Complaint)
    text: _Complaint = field(default_factory=_Complaint)
    infinite: _Complaint = field(default_factory=_Complaint)

    def sentences(self) -> Iterator[str]:
        for rule, complaint in (("missing", self.missing), ("infinite", self.infinite)):
            if complaint.count:
                yield f"{complaint.count} {rule} value{'s' * (complaint.count > 1)} (first in row {complaint.row})"
        if self.text.count:
            values = "value that is not a number" if self.text.count == 1 else "values that are not numbers"
            yield f"{self.text.count} {values} (first {self.text.example!r} in row {self.text.row})"


def read_columns(
    file: Path, numbers: Sequence[str], labels: Sequence[str] = (), hints: Mapping[str, str] | None = None
) -> Columns:
    """These columns of a checked file; nothing else of it is kept.

    true and false count as 1 and 0. `hints` say what to do about text in a column. Raises UsageError for
    columns that are not there, and for missing, infinite and text values among the numbers or missing labels,
    with their count and first row.
    """
    complaints = {name: _Complaints() for name in (*numbers, *labels)}
    blocks = _parquet_blocks(file, [*numbers, *labels]) if is_parquet(file) else _text_blocks(file, [*numbers, *labels])
    parts: list[Array] = []
    texts: list[list[str]] = [[] for _ in labels]
    for rows, block in blocks:
        parts.append(np.empty((len(rows), len(numbers))))
        for i, name in enumerate(numbers):
            parts[-1][:, i] = _to_numbers(block[i], rows, complaints[name])
        for column, name, text in zip(block[len(numbers) :], labels, texts, strict=True):
            text.extend(_to_labels(column, rows, complaints[name]))
    bad = {name: ", ".join(complaint.sentences()) for name, complaint in complaints.items()}
    bad = {name: sentence for name, sentence in bad.items() if sentence}
    if bad:
        name, sentence = next(iter(bad.items()))
        others = f"; so have {', '.join(itertools.islice(bad, 1, 6))}" if len(bad) > 1 else ""
        advice = f"; {hints[name]}" if hints and name in hints and complaints[name].text.count else ""
        raise UsageError(f"column {name!r} of {file.name} has {sentence}{others}; correct or remove such rows{advice}.")
    return Columns(np.concatenate(parts), texts)


def _text_blocks(file: Path, wanted: Sequence[str]) -> Iterator[tuple[Sequence[int], list[list[Any]]]]:
    """Row numbers and the wanted columns' texts, some thousand rows at a time."""
    rows = text_rows(file)
    where = positions(wanted, next(rows).fields, file)
    chosen = ((row.number, [row.fields[i] for i in where]) for row in rows)
    while block := list(itertools.islice(chosen, _BLOCK)):
        numbers, fields = zip(*block, strict=True)
        yield numbers, [list(column) for column in zip(*fields, strict=True)]


def _parquet_blocks(file: Path, wanted: Sequence[str]) -> Iterator[tuple[Sequence[int], list[Any]]]:
    """The same of a Parquet file, where the first row is row 1."""
    with opened_parquet(file, wanted) as stored:
        if not stored.metadata.num_rows:
            raise UsageError(f"{file.name} has no rows.")
        start = 1
        for part in stored.iter_batches(batch_size=_BLOCK, columns=list(wanted)):
            yield range(start, start + part.num_rows), [part.column(name).to_pylist() for name in wanted]
            start += part.num_rows


@contextlib.contextmanager
def opened_parquet(file: Path, wanted: Sequence[str] | None = None) -> Iterator[Any]:
    """The opened file, for the body to read its wanted columns (None: all).

    Raises UsageError for a file that is not Parquet, columns that are not there, more cells or data than memory is
    planned for, and where pyarrow is missing.
    """
    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"reading {file.name} needs pyarrow, which is not installed; run: pip install 'kanrun[parquet]'."
        ) from None
    try:
        with parquet.ParquetFile(file) as stored:
            names = stored.schema_arrow.names
            check_names(names, file)
            if wanted is not None:
                positions(wanted, names, file)
            _check_parquet_size(stored.metadata, len(names if wanted is None else wanted), file)
            yield stored
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UsageError(f"{file.name} cannot be read as Parquet ({reason}).") from None


def _check_parquet_size(metadata: Any, columns: int, file: Path) -> None:
    check_size(metadata.num_rows, columns, file)
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    largest = max(
        (group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns)), default=0
    )
    if largest > MOST_CHARACTERS:
        raise UsageError(
            f"{file.name} has a column of {largest} bytes in one group of rows; write it in smaller groups."
        )


def _to_numbers(values: list[Any], rows: Sequence[int], complaints: _Complaints) -> Array:
    """All at once where all are finite numbers, else one by one with complaints."""
    if not any(_is_code(value) for value in values):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            numbers = np.array(values, dtype=object).astype(np.float64)
            if numbers.ndim == 1 and np.isfinite(numbers).all():
                return numbers
    return np.array([_number(value, row, complaints) for value, row in zip(values, rows, strict=True)])


def is_number(text: str) -> bool:
    """Whether a text writes a number."""
    try:
        float(text)
    except ValueError:
        return False
    return not _is_code(text)


def _is_code(value: Any) -> bool:
    """Whether Python alone would take it for a number: 12_1, which in a table is a name."""
    return isinstance(value, str) and "_" in value


def _number(value: Any, row: int, complaints: _Complaints) -> float:
    text = "" if value is None else str(value)
    if text.casefold() in MISSING:
        complaints.missing.add(row, text)
    elif text.casefold() in ("true", "false"):
        return float(text.casefold() == "true")
    elif _is_code(value):
        complaints.text.add(row, text)
    else:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            complaints.text.add(row, text)
        else:
            if math.isfinite(number):
                return number
            complaints.infinite.add(row, text)
    return math.nan


def _to_labels(values: list[Any], rows: Sequence[int], complaints: _Complaints) -> list[str]:
    """Each as text; only nothing at all is missing, so that a class may be called None or NA."""
    for value, row in zip(values, rows, strict=True):
        if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
            complaints.missing.add(row, "")
    return [str(value) for value in values]
