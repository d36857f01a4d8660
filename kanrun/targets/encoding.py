"""Columns of a table as numbers: faulty values, categories, dates, fills of missing values."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.points import Array
from kanrun.targets.table_files import (
    DEFAULT_LIMITS,
    ColumnBlock,
    TableLimits,
    column_types,
    read_blocks,
)

#: Values of a column: texts, or what Parquet, a DataFrame or an array holds.
Values = Sequence[Any] | NDArray[Any]

MAX_LEVELS = 128  # of a category that have an indicator, the most frequent first
_MIN_ROWS = 2  # with a level; rarer ones have no indicator, as unknown ones
#: Parts of a date, and the days after which each returns.
DAYS = {"day of year": 365.2425, "weekday": 7.0, "hour": 1.0}
_PERIODS = 1.2  # that dates must span, so that a part differs from the date itself
_TEXT_FRACTION = 0.5  # of values from which on a column is a category
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d.*)?$", re.ASCII)
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})$", re.ASCII)  # 007 is a name
_SHOWN = 40  # characters of a value in a message
MISSING_WORDS = frozenset(
    {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "+nan", "null", "none", "nat"}
)
_BOOLEANS = {"true": 1.0, "false": 0.0}


# The next four are written into exported Python files, and depend on NumPy alone.


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


def features_of(column: dict[str, Any], values: Any) -> Array:
    """Return the features (rows, features) of numbers, or of texts if the column has levels."""
    if column["levels"] is not None:
        texts = np.array(values, dtype=object)
        return np.stack([(texts == level).astype(np.float64) for level in column["levels"]], 1)
    missing = np.isnan(values)
    filled = np.where(missing, column["fill"] or 0.0, values)
    features = [filled, *(place_of(filled, part) for part in column["parts"] or ())]
    if column["indicator"]:
        features.append(missing.astype(np.float64))
    return np.stack(features, 1)


def is_number(text: str) -> bool:
    """Return whether a text is a number, infinity and NaN included; 12_1 is a name."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, empty, or a word such as NA."""
    return str(value).strip().casefold() in MISSING_WORDS


def read_numbers(values: Values) -> tuple[Array, dict[str, list[int]]]:
    """Return values as finite numbers; true and false count as 1 and 0.

    Returns:
        Numbers, shape (values,), NaN where a value is none; and the indices of these values by
        what is wrong with them: `missing`, `text` or `infinite`.
    """
    faults: dict[str, list[int]] = defaultdict(list)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        found = np.fromiter(map(float, values), np.float64, len(values))
        names = any("_" in value for value in values if isinstance(value, str))
        if np.isfinite(found).all() and not names:  # Python takes 12_1 for a number
            return found, faults
    found = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        text = str(value).strip().casefold()
        try:
            number = _BOOLEANS[text] if text in _BOOLEANS else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if text in MISSING_WORDS:
            faults["missing"].append(i)
        elif math.isnan(number) or "_" in text:
            faults["text"].append(i)
        elif math.isinf(number):
            faults["infinite"].append(i)
        else:
            found[i] = number
    return found, faults


def numbers_of(
    file: Path, blocks: Iterable[ColumnBlock], names: Sequence[str], **advice: str
) -> Array:
    """Return these columns as numbers, shape (rows, names).

    Raises UsageError for values that are none, with their count and first row, and with the
    `advice` on `text` or on `missing` values.
    """
    faults: _Faults = {}
    parts = []
    for block in blocks:
        columns = []
        for name in names:
            numbers, wrong = read_numbers(block.columns[name])
            _add(faults, name, block, wrong)
            columns.append(numbers)
        parts.append(np.stack(columns, 1))
    _check(faults, file, advice)
    return np.concatenate(parts)


def labels_of(file: Path, block: ColumnBlock, name: str, **advice: str) -> list[str]:
    """Return a column as text; only empty values are missing: a class may be called NA.

    Raises UsageError for missing values as `numbers_of`.
    """
    texts = list(map(text_of, block.columns[name]))
    if missing := [row for row, text in zip(block.rows, texts, strict=True) if text == EMPTY]:
        _check({name: {"missing": (len(missing), missing[0], "")}}, file, advice)
    return texts


#: For each column and rule: how many values break it, row and text of the first.
_Faults = dict[str, dict[str, tuple[int, int, str]]]


def _add(faults: _Faults, name: str, block: ColumnBlock, wrong: Mapping[str, list[int]]) -> None:
    for rule, (first, *others) in wrong.items():
        found = faults.setdefault(name, {})
        text = str(block.columns[name][first])[:_SHOWN]
        count, row, text = found.get(rule, (0, block.rows[first], text))
        found[rule] = count + 1 + len(others), row, text


def _check(faults: _Faults, file: Path, advice: Mapping[str, str]) -> None:
    if not faults:
        return
    (name, found), *others = faults.items()
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
    hint = advice.get("text" if "text" in found else "missing")
    raise UsageError(
        f"column {name!r} of {file.name} has {', '.join(sentences)}{also}; "
        f"correct or remove such rows{f'; {hint}' if hint else ''}."
    )


def read_inputs(
    path: str | Path, names: Sequence[str], limits: TableLimits = DEFAULT_LIMITS
) -> Array:
    """Return these columns of numbers, shape (rows, names). Raises UsageError as `numbers_of`."""
    return numbers_of(Path(path), read_blocks(path, names, limits), names)


def column_kinds(path: str | Path, limits: TableLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the kind of each column with a name: `whole`, `numbers` (or missing), or `text`.

    The kinds of a Parquet file are its types.
    """
    if types := column_types(path, limits):
        return types
    kinds: dict[str, str] = {}
    for block in read_blocks(path, None, limits):
        for name, values in block.columns.items():
            kind = kinds.get(name, "whole")
            if kind == "whole" and not all(map(_WHOLE.match, values)):
                kind = "numbers"
            if kind == "numbers" and not all(map(_is_plain_number, values)):
                kind = "text"
            kinds[name] = kind
    return kinds


def _is_plain_number(text: str) -> bool:
    """Return whether a text is missing or a number, and no name such as 007."""
    named = re.match(r"[+-]?0\d", text)
    return is_missing(text) or (is_number(text) and not named)


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

    def encode(self, values: Values) -> tuple[Array, int]:
        """Return features (rows, features), and how many values have an unknown level.

        Raises UsageError for text among numbers.
        """
        if self.levels is not None:
            texts = list(map(text_of, values))
            return features_of(vars(self), texts), sum(text not in self.levels for text in texts)
        kind = "numbers" if self.parts is None else "dates such as 2024-12-31"
        if self.parts is None:
            numbers, faults = read_numbers(values)
            wrong = faults["text"] or faults["infinite"]
        else:
            days = days_of(values)
            numbers, wrong = (np.empty(0), [0]) if days is None else (days, [])
        if wrong:
            text = str(values[wrong[0]])[:_SHOWN]
            raise UsageError(
                f"the column {self.name!r} holds {text!r}, where the model was trained on {kind}."
            )
        return features_of(vars(self), numbers), 0


@dataclass(frozen=True)
class TableCode:
    """Encoding of table columns as inputs of a model; stored with it as plain JSON."""

    columns: tuple[ColumnCode, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(name for column in self.columns for name in column.features)

    def encode(self, raw: Mapping[str, Values]) -> tuple[Array, Counter[str]]:
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


def encode_columns(
    raw: Mapping[str, Values], categorical: Sequence[str], advice: str
) -> tuple[TableCode | None, Array, tuple[str, ...]]:
    """Return how to encode columns (None for complete numbers), the inputs, and notes.

    The inputs have the shape (rows, features); the notes are on omitted columns. A column is a
    category if it is listed, or if more than half of its values are text. Raises UsageError for a
    column with less text, followed by `advice`, and if no column is left.
    """
    codes, notes = [], []
    for name, values in raw.items():
        listed = name in categorical
        numbers, faults = read_numbers(values)
        wrong = [*faults["text"], *faults["infinite"]]
        days = days_of(values) if wrong and not listed else None
        if listed or (wrong and days is None):
            given = len(values) - len(faults["missing"])
            if not listed and len(wrong) <= _TEXT_FRACTION * given:
                text = str(values[wrong[0]])[:_SHOWN]
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
        known = numbers if days is None else days
        if (missing := np.isnan(known)).all():
            notes.append(f"the column {name!r} is left out: it is empty")
            continue
        parts = None if days is None else tuple(_parts(days[~missing]))
        codes.append(
            ColumnCode(name, None, float(np.median(known[~missing])), bool(missing.any()), parts)
        )
    if not codes:
        raise UsageError("no input column is left: " + "; ".join(notes) + ".")
    plain = (code.levels is None and not code.indicator and code.parts is None for code in codes)
    complete = len(codes) == len(raw) and all(plain)
    code = TableCode(tuple(codes))
    return None if complete else code, code.encode(raw)[0], tuple(notes)


def _parts(days: Array) -> Iterator[str]:
    """Yield the parts of dates with periods that the dates span, unless all are equal."""
    for part, period in DAYS.items():
        if np.ptp(days) >= _PERIODS * period and len(np.unique(place_of(days, part))) > 1:
            yield part


def _levels(values: Values) -> tuple[str, ...]:
    """Return the levels with an indicator; of two that cover all rows, the second alone."""
    counts = Counter(map(text_of, values))
    kept = [level for level, count in counts.most_common(MAX_LEVELS) if count >= _MIN_ROWS]
    if len(counts) == len(kept) <= 2:
        kept = sorted(kept)[1:]
    return tuple(sorted(kept))


def days_of(values: Values) -> Array | None:
    """Return dates as days since 1970-01-01, NaN for missing ones; None if a value is not a date.

    Dates are 2024-12-31, with or without a time after a blank or a T, and those of Parquet.
    """
    texts = ["" if is_missing(value) else text_of(value) for value in values]
    if not any(texts) or not all(_DATE.match(text) for text in texts if text):
        return None
    try:
        return days_from(texts)
    except ValueError:
        return None


def unknown_levels(unknown: Mapping[str, int], rows: int) -> list[str]:
    """Return a sentence for each column with levels that a model was not trained on."""
    return [
        f"{count} of {rows} rows have a {name} that the model was not trained on"
        for name, count in unknown.items()
        if count
    ]
