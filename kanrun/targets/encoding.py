"""Columns of a table as numbers: categories as indicators, dates as days and places in the year, week and day.

Missing numbers and dates are the median with an indicator beside it.
"""

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
from kanrun.targets.tables import MISSING_WORDS, lenient_numbers

MOST_LEVELS = 128  # of a category that get an indicator of their own, the most frequent first
FEWEST_ROWS = 2  # with a level; rarer ones are all zeros, like levels that were never seen
DAYS = {
    "day of year": 365.2425,
    "weekday": 7.0,
    "hour": 1.0,
}  # of a date, and the days after which each comes back
LONG_ENOUGH = (
    1.2  # times its period that dates must span for a place in it to be told from the date itself
)


# The next three are written into exported Python files, and stand on NumPy alone.


def text_of(value: Any) -> str:
    """Without blanks around it; "(missing)" for None, NaN and nothing."""
    text = "" if value is None else str(value).strip()
    return "(missing)" if text == "" or (isinstance(value, float) and np.isnan(value)) else text


def days_from(texts: list[str]) -> Array:
    """Dates in ISO 8601 as days since 1970-01-01, NaN for an empty one. Raises ValueError for other texts."""
    instants = np.array(
        [text.split("+")[0].rstrip("Zz") or "NaT" for text in texts], dtype="M8[us]"
    )
    return np.where(np.isnat(instants), np.nan, instants.astype(np.int64) / 86_400e6)


def place_of(days: Array, part: str) -> Array:
    """The day of the year (1 to 366), the weekday (0 is Monday), or the hour."""
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
    """One column: a number (`fill` in place of a missing one, and with `indicator` a 1 beside it), or its levels.

    With `parts`, some of `DAYS`, it holds dates: days since 1970-01-01, and the parts beside them.
    """

    name: str
    levels: tuple[str, ...] | None = None
    fill: float = 0.0
    indicator: bool = False
    parts: tuple[str, ...] | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the numbers that it becomes."""
        if self.levels is not None:
            return tuple(f"{self.name}={level}" for level in self.levels)
        missing = (f"{self.name} is missing",) if self.indicator else ()
        return (self.name, *(f"{part} of {self.name}" for part in self.parts or ()), *missing)

    def encode(self, values: Sequence[Any]) -> tuple[Array, int]:
        """(rows, features), and how many values are of no known level. Raises UsageError for text among numbers."""
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
        parts = [place_of(filled, part) for part in self.parts or ()]
        return np.stack(
            [filled, *parts, *([missing.astype(np.float64)] if self.indicator else [])], 1
        ), 0


@dataclass(frozen=True)
class TableCode:
    """How the columns of a table become the inputs of a model; stored beside the model as plain JSON."""

    columns: tuple[ColumnCode, ...]

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(name for column in self.columns for name in column.features)

    def encode(self, raw: Mapping[str, Sequence[Any]]) -> tuple[Array, Counter[str]]:
        """(rows, features) of the columns `raw`, and how many rows have a level that was not trained on, by column."""
        parts, unknown = [], Counter[str]()
        for column in self.columns:
            part, count = column.encode(raw[column.name])
            parts.append(part)
            if len(column.levels or ()) > 1:
                unknown[column.name] += count
        return np.concatenate(parts, 1), unknown

    def plain(self) -> list[dict[str, Any]]:
        """JSON values, for `from_plain`."""
        return [asdict(column) for column in self.columns]

    @staticmethod
    def from_plain(columns: Sequence[Mapping[str, Any]]) -> TableCode:
        return TableCode(msgspec.convert(columns, tuple[ColumnCode, ...]))


def code_of(
    raw: Mapping[str, Sequence[Any]], categories: Sequence[str], advice: str
) -> tuple[TableCode | None, list[str]]:
    """How to encode these columns (None where all are complete numbers), and sentences about what is left out.

    A column is a category if it is named so, or more than half of its values are text. Raises UsageError for one with
    less text, followed by `advice`, and where no column is left.
    """
    codes, notes = [], []
    for name, values in raw.items():
        numbers, text = lenient_numbers(values)
        parts: tuple[str, ...] | None = None
        if text is not None and name not in categories and (days := days_of(values)) is not None:
            numbers, text, parts = days, None, _parts(days)
        if name in categories or text is not None:
            if name not in categories and _share_of_text(values) <= 0.5:
                raise UsageError(
                    f"column {name!r} has numbers and text, such as {text!r}; {advice}."
                )
            levels = _levels(values)
            if not levels:
                notes.append(
                    f"the column {name!r} is left out: its texts do not repeat, or never change (numbers are read as "
                    "1234.5, dates as 2024-12-31)"
                )
                continue
            codes.append(ColumnCode(name, levels))
            continue
        missing = np.isnan(numbers)
        if missing.all():
            notes.append(f"the column {name!r} is left out: it is empty")
            continue
        codes.append(
            ColumnCode(name, None, float(np.median(numbers[~missing])), bool(missing.any()), parts)
        )
    if not codes:
        raise UsageError("no input column is left: " + "; ".join(notes) + ".")
    plain = (code.levels is None and not code.indicator and code.parts is None for code in codes)
    complete = len(codes) == len(raw) and all(plain)
    return (None if complete else TableCode(tuple(codes))), notes


def unknown_levels(unknown: Mapping[str, int], rows: int) -> list[str]:
    """A sentence per column with levels that a model was not trained on."""
    return [
        f"{count} of {rows} rows have a {name} that the model was not trained on"
        for name, count in unknown.items()
        if count
    ]


def days_of(values: Sequence[Any]) -> Array | None:
    """Dates as days since 1970-01-01, NaN where one is missing; None where a value is no date in ISO 8601.

    These are 2024-12-31 with or without a time after a blank or a T, and what Parquet holds as dates and times.
    """
    texts = [
        EMPTY if text_of(value).casefold() in MISSING_WORDS else text_of(value) for value in values
    ]
    if not any(text != EMPTY for text in texts) or not all(
        text == EMPTY or _DATE.match(text) for text in texts
    ):
        return None
    try:
        return days_from(["" if text == EMPTY else text for text in texts])
    except ValueError:
        return None


_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d.*)?$", re.ASCII)


def _parts(days: Array) -> tuple[str, ...]:
    """The places that dates tell: of periods that they span, and that are not the same for all."""
    there = days[~np.isnan(days)]
    return tuple(
        part
        for part, period in DAYS.items()
        if np.ptp(there) >= LONG_ENOUGH * period and len(np.unique(place_of(there, part))) > 1
    )


def _share_of_text(values: Sequence[Any]) -> float:
    held = [
        value
        for value in values
        if text_of(value).casefold() not in MISSING_WORDS and text_of(value) != EMPTY
    ]
    return sum(lenient_numbers([value])[1] is not None for value in held) / max(len(held), 1)


def _levels(values: Sequence[Any]) -> tuple[str, ...]:
    """The levels that get an indicator; of two that all rows have, the second alone."""
    counts = Counter(text_of(value) for value in values)
    kept = [level for level, count in counts.most_common(MOST_LEVELS) if count >= FEWEST_ROWS]
    if len(counts) == len(kept) <= 2:
        kept = sorted(kept)[1:]
    return tuple(sorted(kept))
