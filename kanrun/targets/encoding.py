"""Columns of a table as numbers: indicators of categories, dates, medians for missing values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np

from kanrun.errors import UsageError
from kanrun.points import Array
from kanrun.targets.table_reading import MISSING_WORDS, lenient_numbers

MAX_LEVELS = 128  # of a category that have an indicator, the most frequent first
_MIN_ROWS = 2  # with a level; rarer ones have no indicator, as unknown ones
#: Parts of a date, and the days after which each returns.
DAYS = {"day of year": 365.2425, "weekday": 7.0, "hour": 1.0}
_PERIODS = 1.2  # that dates must span, so that a part differs from the date itself
_TEXT_FRACTION = 0.5  # of values from which on a column is a category
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d.*)?$", re.ASCII)


# The next three are written into exported Python files, and depend on NumPy alone.


def text_of(value: Any) -> str:
    """Return a value without blanks around it; "(missing)" for None, NaN and nothing."""
    text = "" if value is None else str(value).strip()
    return "(missing)" if text == "" or (isinstance(value, float) and np.isnan(value)) else text


def days_from(texts: list[str]) -> Array:
    """Return ISO 8601 dates as days since 1970-01-01, NaN for "". Raises ValueError for others."""
    instants = np.array(
        [text.split("+")[0].rstrip("Zz") or "NaT" for text in texts], dtype="M8[us]"
    )
    return np.where(np.isnat(instants), np.nan, instants.astype(np.int64) / 86_400e6)


def place_of(days: Array, part: str) -> Array:
    """Return the day of the year (1 to 366), the weekday (0 is Monday), or the hour."""
    if part == "hour":
        return np.asarray(days % 1.0 * 24)
    whole = np.floor(days)
    if part == "weekday":
        return np.asarray((whole + 3) % 7)
    dates = whole.astype("M8[D]")
    return np.asarray((dates - dates.astype("M8[Y]").astype("M8[D]")).astype(np.float64) + 1)


EMPTY = text_of(None)  # the level of rows without one


@dataclass(frozen=True)
class ColumnCode:
    """One column: a number, a category or a date.

    Attributes:
        levels: Levels of a category, each with an indicator.
        fill: Replacement of a missing number.
        indicator: Whether there is an indicator of missing numbers.
        parts: Some of `DAYS` for a column of dates, which become days since 1970-01-01.
    """

    name: str
    levels: tuple[str, ...] | None = None
    fill: float = 0.0
    indicator: bool = False
    parts: tuple[str, ...] | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numbers that the column becomes."""
        if self.levels is not None:
            return tuple(f"{self.name}={level}" for level in self.levels)
        missing = (f"{self.name} is missing",) if self.indicator else ()
        return (self.name, *(f"{part} of {self.name}" for part in self.parts or ()), *missing)

    def encode(self, values: Sequence[Any]) -> tuple[Array, int]:
        """Return features (rows, features), and how many values have an unknown level.

        Raises UsageError for text among numbers.
        """
        if self.levels is not None:
            texts = np.array([text_of(value) for value in values], dtype=object)
            columns = [(texts == level).astype(np.float64) for level in self.levels]
            known = {*self.levels, self.levels[0] if self.levels else EMPTY}
            return np.stack(columns, 1), sum(text not in known for text in texts)
        numbers, text = lenient_numbers(values)
        if self.parts is not None:
            days, text = days_of(values), f"{values[0]}"
            numbers, text = (days, None) if days is not None else (numbers, text)
        if text is not None:
            kind = "numbers" if self.parts is None else "dates such as 2024-12-31"
            raise UsageError(
                f"the column {self.name!r} holds {text!r}, where the model was trained on {kind}."
            )
        missing = np.isnan(numbers)
        filled = np.where(missing, self.fill, numbers)
        columns = [filled, *(place_of(filled, part) for part in self.parts or ())]
        if self.indicator:
            columns.append(missing.astype(np.float64))
        return np.stack(columns, 1), 0


@dataclass(frozen=True)
class TableCode:
    """Encoding of table columns as inputs of a model; stored with it as plain JSON."""

    columns: tuple[ColumnCode, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(name for column in self.columns for name in column.features)

    def encode(self, raw: Mapping[str, Sequence[Any]]) -> tuple[Array, Counter[str]]:
        """Return inputs (rows, features), and for each column how many rows have unknown levels."""
        parts, unknown = [], Counter[str]()
        for column in self.columns:
            part, count = column.encode(raw[column.name])
            parts.append(part)
            if len(column.levels or ()) > 1:
                unknown[column.name] += count
        return np.concatenate(parts, 1), unknown

    def plain(self) -> list[dict[str, Any]]:
        """Return JSON values for `from_plain`."""
        return [asdict(column) for column in self.columns]

    @staticmethod
    def from_plain(columns: Sequence[Mapping[str, Any]]) -> TableCode:
        """Return the code of `plain()`."""
        return TableCode(msgspec.convert(columns, tuple[ColumnCode, ...]))


def code_of(
    raw: Mapping[str, Sequence[Any]], categorical: Sequence[str], advice: str
) -> tuple[TableCode | None, list[str]]:
    """Return how to encode columns (None for complete numbers), and notes on omitted ones.

    A column is a category if it is listed, or if more than half of its values are text. Raises
    UsageError for a column with less text, followed by `advice`, and if no column is left.
    """
    codes, notes = [], []
    for name, values in raw.items():
        numbers, text = lenient_numbers(values)
        parts: tuple[str, ...] | None = None
        listed = name in categorical
        if text is not None and not listed and (days := days_of(values)) is not None:
            numbers, text, parts = days, None, _parts(days)
        if listed or text is not None:
            given = [value for value in values if not _is_missing(value)]
            texts = sum(lenient_numbers([value])[1] is not None for value in given)
            if not listed and texts <= _TEXT_FRACTION * max(len(given), 1):
                raise UsageError(
                    f"column {name!r} has numbers and text, such as {text!r}; {advice}."
                )
            if levels := _levels(values):
                codes.append(ColumnCode(name, levels))
            else:
                notes.append(
                    f"the column {name!r} is left out: its texts do not repeat, or never change "
                    "(numbers are read as 1234.5, dates as 2024-12-31)"
                )
            continue
        missing = np.isnan(numbers)
        if missing.all():
            notes.append(f"the column {name!r} is left out: it is empty")
            continue
        known = np.sort(numbers[~missing])
        middle = known[(len(known) - 1) // 2 : len(known) // 2 + 1]  # of which the median is made
        fill = float(middle[0] if len(middle) == 1 else middle.mean())
        codes.append(ColumnCode(name, None, fill, bool(missing.any()), parts))
    if not codes:
        raise UsageError("no input column is left: " + "; ".join(notes) + ".")
    plain = (code.levels is None and not code.indicator and code.parts is None for code in codes)
    complete = len(codes) == len(raw) and all(plain)
    return (None if complete else TableCode(tuple(codes))), notes


def unknown_levels(unknown: Mapping[str, int], rows: int) -> list[str]:
    """Return a sentence for each column with levels that a model was not trained on."""
    return [
        f"{count} of {rows} rows have a {name} that the model was not trained on"
        for name, count in unknown.items()
        if count
    ]


def days_of(values: Sequence[Any]) -> Array | None:
    """Return dates as days since 1970-01-01, NaN for missing ones; None if a value is not a date.

    Dates are 2024-12-31, with or without a time after a blank or a T, and those of Parquet.
    """
    texts = ["" if _is_missing(value) else text_of(value) for value in values]
    if not any(texts) or not all(_DATE.match(text) for text in texts if text):
        return None
    try:
        return days_from(texts)
    except ValueError:
        return None


def _is_missing(value: Any) -> bool:
    text = text_of(value)
    return text == EMPTY or text.casefold() in MISSING_WORDS


def _parts(days: Array) -> tuple[str, ...]:
    """Return the parts of dates with periods that the dates span, unless all are equal."""
    known = days[~np.isnan(days)]
    return tuple(
        part
        for part, period in DAYS.items()
        if np.ptp(known) >= _PERIODS * period and len(np.unique(place_of(known, part))) > 1
    )


def _levels(values: Sequence[Any]) -> tuple[str, ...]:
    """Return the levels with an indicator; of two that cover all rows, the second alone."""
    counts = Counter(text_of(value) for value in values)
    kept = [level for level, count in counts.most_common(MAX_LEVELS) if count >= _MIN_ROWS]
    if len(counts) == len(kept) <= 2:
        kept = sorted(kept)[1:]
    return tuple(sorted(kept))
