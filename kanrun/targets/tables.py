"""The one reader of tables: columns as float64 numbers and as labels; other values are counted and located."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kanrun.errors import UsageError
from kanrun.points import Array
from kanrun.targets.table_file import (
    TableLimits,
    check_path,
    is_parquet,
    opened_parquet,
    positions,
    text_blocks,
)

MISSING_WORDS = frozenset(
    {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "+nan", "null", "none", "nat"}
)


def read_inputs(
    path: str | Path, names: Sequence[str], limits: TableLimits = TableLimits()
) -> Array:
    """The columns `names` of a table, (rows, len(names)), in that order; see `read_columns`."""
    return read_columns(check_path(path), names, limits=limits)[0]


def read_columns(
    file: Path,
    numbers: Sequence[str],
    labels: Sequence[str] = (),
    advice: Mapping[str, str] | None = None,
    limits: TableLimits = TableLimits(),
    *,
    drop: bool | None = None,
) -> tuple[Array, list[list[str]]]:
    """These columns of a file that `check_path` accepted: numbers (rows, columns), and texts of each label column.

    true and false count as 1 and 0. `advice` says what to do about text in a column. Raises UsageError for a file that
    is not a table, for columns that are not there, and for missing, infinite and text values among the numbers or
    missing labels, with their count and first row; with `drop` missing ones are NaN and "", and where it is False the
    refusal offers it.
    """
    wanted = [*numbers, *labels]
    faults = {name: _Faults() for name in wanted}
    parts: list[Array] = []
    texts: list[list[str]] = [[] for _ in labels]
    for rows, block in (
        _parquet_blocks(file, wanted, limits)
        if is_parquet(file)
        else _text_blocks(file, wanted, limits)
    ):
        parts.append(np.empty((len(rows), len(numbers))))
        for i, name in enumerate(numbers):
            parts[-1][:, i] = _to_numbers(block[i], rows, faults[name])
        for column, name, text in zip(block[len(numbers) :], labels, texts, strict=True):
            text.extend(_to_labels(column, rows, faults[name]))
    offered = "; or set target.missing=drop" if drop is False else ""
    for each in faults.values() if drop else ():
        each.first.pop("missing", None)
    bad = [name for name in faults if faults[name].first]
    if bad:
        others = f"; so have {', '.join(bad[1:6])}" if len(bad) > 1 else ""
        hint = (
            f"; {advice[bad[0]]}"
            if advice and bad[0] in advice and "text" in faults[bad[0]].first
            else ""
        )
        hint = offered if set(faults[bad[0]].first) == {"missing"} else hint
        raise UsageError(
            f"column {bad[0]!r} of {file.name} has {faults[bad[0]]}{others}; correct or remove such rows{hint}."
        )
    return np.concatenate(parts), texts


def read_values(
    path: str | Path, names: Sequence[str] | None = None, limits: TableLimits = TableLimits()
) -> dict[str, list[Any]]:
    """The values of these columns (None: of all that have a name) as they stand: texts, or what Parquet holds.

    Raises UsageError for a file that is not a table and for columns that are not there.
    """
    values: dict[str, list[Any]] = {}
    for block in value_blocks(path, names, limits):
        for name, part in block.items():
            values.setdefault(name, []).extend(part)
    return values


def value_blocks(
    path: str | Path, names: Sequence[str] | None = None, limits: TableLimits = TableLimits()
) -> Iterator[dict[str, list[Any]]]:
    """As `read_values`, some thousand rows at a time."""
    file = check_path(path)
    wanted = [
        *(names if names is not None else (name for name in column_names(file, limits) if name))
    ]
    for _, block in (
        _parquet_blocks(file, wanted, limits)
        if is_parquet(file)
        else _text_blocks(file, wanted, limits)
    ):
        yield dict(zip(wanted, block, strict=True))


def column_kinds(path: str | Path, limits: TableLimits = TableLimits()) -> dict[str, Any]:
    """What each column with a name holds in all rows: `whole` numbers, `numbers` (some may be missing) or `text`.

    Of a Parquet file its types.
    """
    if is_parquet(file := check_path(path)):
        with opened_parquet(file, limits) as stored:
            return {field.name: field.type for field in stored.schema_arrow}
    whole: dict[str, bool] = {}
    numbers: dict[str, bool] = {}
    for block in value_blocks(path, None, limits):
        for name, values in block.items():
            texts = [str(value) for value in values]
            whole[name] = whole.get(name, True) and all(_WHOLE.match(text) for text in texts)
            numbers[name] = numbers.get(name, True) and (
                whole[name] or all(_reads_as_number(text) for text in texts)
            )
    return {
        name: "whole" if whole[name] else "numbers" if numbers[name] else "text" for name in whole
    }


_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})$", re.ASCII)  # 007 is a name


def _reads_as_number(text: str) -> bool:
    return text.casefold() in MISSING_WORDS or (is_number(text) and not re.match(r"[+-]?0\d", text))


def column_names(path: str | Path, limits: TableLimits = TableLimits()) -> list[str]:
    """The names of a table's columns in their order, empty ones included."""
    file = check_path(path)
    if is_parquet(file):
        with opened_parquet(file, limits) as stored:
            return [field.name for field in stored.schema_arrow]
    return [name for (name,) in next(text_blocks(file, limits))[1]]


def lenient_numbers(values: Sequence[Any]) -> tuple[Array, str | None]:
    """The values as numbers, NaN where one is missing, and the first that is text or infinite (None: there is none)."""
    faults = _Faults()
    numbers = _to_numbers(list(values), range(len(values)), faults)
    first = faults.first.get("text") or faults.first.get("infinite")
    return numbers, first[1] if first else None


def columns_of(path: str | Path, limits: TableLimits = TableLimits()) -> dict[str, bool]:
    """The columns of a table in their order, and whether all that a column holds are numbers (or missing).

    Raises UsageError for a file that is not a table and for two columns of the same name.
    """
    file = check_path(path)
    if is_parquet(file):
        with opened_parquet(file, limits) as stored:
            types = import_module("pyarrow.types")
            return {
                f.name: types.is_integer(f.type) or types.is_floating(f.type)
                for f in stored.schema_arrow
            }
    blocks = text_blocks(file, limits)
    header = next(blocks)[1]
    numeric = set(range(len(header)))
    for _, columns in blocks:
        numeric = {
            i
            for i in numeric
            if all(t.casefold() in MISSING_WORDS or is_number(t) for t in columns[i])
        }
    return {name or f"column {i + 1}": i in numeric for i, (name,) in enumerate(header)}


def is_number(text: str) -> bool:
    """Whether a text writes a number, infinity and NaN included."""
    try:
        float(text)
    except ValueError:
        return False
    return not _is_code(text)


@dataclass
class _Faults:
    """Of one column: for each rule that values break, their number, and the row and text of the first."""

    count: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, rule: str, row: int, value: Any) -> None:
        self.count[rule] = self.count.get(rule, 0) + 1
        self.first.setdefault(rule, (row, str(value)[:40]))

    def __str__(self) -> str:
        sentences = []
        for rule in ("missing", "infinite"):
            if rule in self.first:
                many = "s" * (self.count[rule] > 1)
                sentences.append(
                    f"{self.count[rule]} {rule} value{many} (first in row {self.first[rule][0]})"
                )
        if "text" in self.first:
            row, example = self.first["text"]
            values = (
                "value that is not a number"
                if self.count["text"] == 1
                else "values that are not numbers"
            )
            sentences.append(f"{self.count['text']} {values} (first {example!r} in row {row})")
        return ", ".join(sentences)


_NUMBERS = msgspec.json.Decoder(list[float])
_Block = tuple[Sequence[int], list[list[Any]]]  # row numbers, and the values of each wanted column


def _text_blocks(file: Path, wanted: Sequence[str], limits: TableLimits) -> Iterator[_Block]:
    blocks = text_blocks(file, limits)
    where = positions(wanted, [name for (name,) in next(blocks)[1]], file)
    for numbers, columns in blocks:
        yield numbers, [columns[i] for i in where]


def _parquet_blocks(file: Path, wanted: Sequence[str], limits: TableLimits) -> Iterator[_Block]:
    """The first row is row 1."""
    with opened_parquet(file, limits, wanted) as stored:
        if not stored.metadata.num_rows:
            raise UsageError(f"{file.name} has no rows.")
        start = 1
        for part in stored.iter_batches(batch_size=limits.block, columns=list(wanted)):
            yield (
                range(start, start + part.num_rows),
                [part.column(name).to_pylist() for name in wanted],
            )
            start += part.num_rows


def _to_numbers(values: list[Any], rows: Sequence[int], faults: _Faults) -> Array:
    """All at once where all are finite numbers, else one by one."""
    with contextlib.suppress(
        TypeError, ValueError
    ):  # numbers as JSON writes them are read twice as fast
        numbers = np.array(_NUMBERS.decode(f"[{','.join(values)}]"))
        if len(numbers) == len(values) and np.isfinite(numbers).all():
            return numbers
    if not _any_code(values):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            numbers = np.fromiter(map(float, values), np.float64, len(values))
            if np.isfinite(numbers).all():
                return numbers
    numbers = np.empty(len(values))
    for i, (value, row) in enumerate(zip(values, rows, strict=True)):
        numbers[i], rule = _read_number(value)
        if rule is not None:
            faults.add(rule, row, value)
    return numbers


def _read_number(value: Any) -> tuple[float, str | None]:
    """A number, or NaN and which rule the value breaks: "missing", "text" or "infinite"."""
    text = "" if value is None else str(value).casefold()
    if text in MISSING_WORDS:
        return math.nan, "missing"
    if text in ("true", "false"):
        return float(text == "true"), None
    if _is_code(value):
        return math.nan, "text"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan, "text"
    return (number, None) if math.isfinite(number) else (math.nan, "infinite")


def _any_code(values: list[Any]) -> bool:
    """Whether `_is_code` holds for one of them."""
    try:
        return "_" in "".join(values)
    except TypeError:  # not all are text
        return any(_is_code(value) for value in values)


def _is_code(value: Any) -> bool:
    """Whether Python alone would take it for a number: 12_1, which in a table is a name."""
    return isinstance(value, str) and "_" in value


def _to_labels(values: list[Any], rows: Sequence[int], faults: _Faults) -> list[str]:
    """Each as text; only nothing at all is missing, so that a class may be called None or NA."""
    for value, row in zip(values, rows, strict=True):
        if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
            faults.add("missing", row, "")
    return [str(value) for value in values]
