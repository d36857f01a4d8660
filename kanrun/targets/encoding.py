"""Encoding of table columns as numbers: categories, dates, missing values, and faulty values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanrun.errors import UsageError
from kanrun.points import Array
from kanrun.targets.table_files import DEFAULT_LIMITS, TableFile, TableLimits
from kanrun.targets.table_text import (
    Faults,
    Values,
    number_from,
    read_days,
    read_numbers,
    text_of,
)

MAX_LEVELS = 500  # largest number of levels of a category with an indicator, most frequent first
#: Number of levels above which a warning names the column, because it may hold numbers or dates in
#: an unknown notation.
MANY_LEVELS = 20
_MIN_ROWS = 2  # rows with a level; rarer levels have no indicator, like unknown levels
#: Parts of a date that can become inputs, with their periods in days.
DAYS = {"day of year": 365.2425, "weekday": 7.0, "hour": 1.0}
_PERIODS = 1.2  # number of periods that dates must span for a part to become an input
_TEXT_FRACTION = 0.5  # fraction of texts among the values above which a column is a category
#: Largest number of characters of a value, and of values, in a message.
_SHOWN = 40
_LISTED = 5


# The next two are written into exported Python files, and depend on NumPy alone.


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


def check_values(
    where: str,
    table: Mapping[str, Values],
    rows: Sequence[int],
    columns: Mapping[str, Faults],
    remedy: str = "",
    kind: str = "number",
) -> None:
    """Raise UsageError if columns have values that are missing, infinite or of the wrong kind.

    Args:
        where: Name of the file or data in messages.
        table: Values by column.
        rows: Row numbers for the message.
        columns: Faults by column: for each kind of fault, the indices of the values.
        remedy: Advice if there are texts; {name}, {rows} and {texts} are replaced by those of the
            first faulty column.
        kind: What the values should be, such as "number".
    """
    rules = {"missing": "missing value", "infinite": "infinite value", "text": "value"}
    bad = {name: faults for name, faults in columns.items() if any(map(faults.get, rules))}
    if not bad:
        return
    name, *others = bad
    values = table[name]
    sentences = []
    wrong = []
    for rule in (rule for rule in rules if bad[name].get(rule)):
        indices = columns[name][rule]
        wrong += indices
        first = indices[0]
        several = len(indices) > 1
        words = rules[rule] + "s" * several
        place = f"in row {rows[first]}"
        if rule == "text":
            words += f" that are not {kind}s" if several else f" that is not a {kind}"
            place = f"{str(values[first])[:_SHOWN]!r} {place}"
        sentences.append(f"{len(indices)} {words} (first {place})")
    also = f"; so have {', '.join(others[:5])}" if others else ""
    advice = ""
    if texts := [str(values[i])[:_SHOWN] for i in columns[name].get("text", ())]:
        places = [int(rows[i]) for i in sorted(wrong)]
        advice = remedy.format(name=name, rows=_listed(places), texts=_listed(texts))
    raise UsageError(
        f"column {name!r} of {where} has {', '.join(sentences)}{also}; "
        f"correct or remove such rows{advice}."
    )


def _listed(values: Sequence[Any]) -> str:
    """Return the first distinct values as a list in the notation of the command line."""
    distinct = list(dict.fromkeys(values))
    shown = [repr(value) for value in distinct[:_LISTED]]
    return f"[{','.join([*shown, *['...'] * (len(distinct) > _LISTED)])}]"


def read_inputs(
    path: str | Path, names: Sequence[str], limits: TableLimits = DEFAULT_LIMITS
) -> Array:
    """Return numeric columns of a table file, shape (rows, names).

    Raises UsageError if a value is not a finite number.
    """
    file = TableFile(path, limits=limits)
    distinct = list(dict.fromkeys(names))  # an axis of a curve may be its parameter
    table = file.read(distinct)
    reading = Reading(file=file.file.name, rows=list(table.index))
    values, _ = reading.outputs({name: table[name].to_numpy() for name in distinct})
    return values[:, [distinct.index(name) for name in names]]


#: Name for all levels without an indicator, unless the training rows contain exactly one of them.
OTHERS = "(others)"
EMPTY = "(missing)"  # what `text_of` returns for a missing value; a level of its own


@dataclass(frozen=True)
class ColumnCode:
    """Encoding of one column of numbers, categories or dates.

    Attributes:
        name: Name of the column.
        levels: For a category, the levels that have an indicator; otherwise None.
        fill: Number that replaces missing values; None if the training rows have none missing.
        indicator: Whether an indicator of missing values is an input.
        parts: For a column of dates, the members of `DAYS` that become inputs, besides the days
            since 1970-01-01; otherwise None.
        day_first: Whether dates such as 04/05/2024 begin with the day.
        missing: Further texts that count as missing, in the form that `canonical` returns.
        other: The level without an indicator, if the training rows contain exactly one such level;
            otherwise None.
    """

    name: str
    levels: tuple[str, ...] | None = None
    fill: float | None = None
    indicator: bool = False
    parts: tuple[str, ...] | None = None
    day_first: bool = False
    missing: tuple[str, ...] = ()
    other: str | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs that encode the column."""
        if self.levels is not None:
            return tuple(f"{self.name}={level}" for level in self.levels)
        missing = (f"{self.name} is missing",) if self.indicator else ()
        return (self.name, *(f"{part} of {self.name}" for part in self.parts or ()), *missing)

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels of a category, last the name for rows without an indicator."""
        return (*(self.levels or ()), OTHERS if self.other is None else self.other)

    def encode(self, values: Values, first: int = 0) -> tuple[Array, int]:
        """Return the inputs (rows, features), and the number of values without an indicator.

        `first` is the number of the first row in messages. Raises UsageError for texts among
        numbers or dates, and for missing values if the training rows had none.
        """
        if self.levels is not None:
            texts = list(map(text_of, values))
            return features_of(vars(self), texts), sum(text not in self.levels for text in texts)
        if self.parts is None:
            kind, (numbers, faults) = "numbers", read_numbers(values, self.missing)
        else:
            kind = "dates such as 2024-12-31"
            numbers, faults, _ = read_days(values, self.missing, self.day_first)
        if wrong := [*faults["text"], *faults["infinite"]]:
            text = str(values[min(wrong)])[:_SHOWN]
            raise UsageError(
                f"the column {self.name!r} holds {text!r}, where the model was trained on {kind}."
            )
        if self.fill is None and faults["missing"]:
            count = len(faults["missing"])
            row = first + min(faults["missing"])
            raise UsageError(
                f"the column {self.name!r} has {count} missing value{'s' * (count > 1)}, first in "
                f"data row {row}, and the model was trained on none. Fill in or remove such rows."
            )
        return features_of(vars(self), numbers), 0


@dataclass(frozen=True)
class TableCode:
    """Encoding of the columns of a table as inputs of a model, stored as JSON with the model."""

    columns: tuple[ColumnCode, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs that encode the columns."""
        return tuple(name for column in self.columns for name in column.features)

    def encode(self, raw: Mapping[str, Values], first: int = 0) -> tuple[Array, Counter[str]]:
        """Return the inputs (rows, features), and by column the number of rows with unknown levels.

        `raw` holds the values by column, and `first` is the number of the first row in messages.
        """
        parts = []
        unknown = Counter[str]()
        for column in self.columns:
            part, count = column.encode(raw[column.name], first)
            parts.append(part)
            if len(column.levels or ()) > 1:
                unknown[column.name] += count
        return np.concatenate(parts, 1), unknown


@dataclass(frozen=True)
class Reading:
    """Rules by which columns are read and encoded.

    Attributes:
        categorical: Names of columns that are categories even if their values are numbers.
        missing: Further texts that count as missing, in the form that `canonical` returns.
        day_first: Whether dates such as 04/05/2024 begin with the day; None: the values decide.
        file: Name of the file that contains the columns; None: they are in memory.
        rows: Row numbers for messages; None: counted from 0.
        remedy: Advice about texts among the numbers of an input; see `check_values`.
        output_remedy: Advice about texts among the numbers of an output.
        fills: Whether missing inputs are filled; otherwise they are an error.
    """

    categorical: Collection[str] = ()
    missing: tuple[str, ...] = ()
    day_first: bool | None = None
    file: str | None = None
    rows: Sequence[int] | None = None
    remedy: str = ", or name the column in categorical_columns"
    output_remedy: str = ""
    fills: bool = True

    def outputs(self, table: Mapping[str, Values]) -> tuple[Array, list[str]]:
        """Return the columns as numbers, shape (rows, columns), and notes about them.

        Raises UsageError if a value is missing or not a finite number.
        """
        columns: list[Array] = []
        faulty: dict[str, Faults] = {}
        notes: list[str] = []
        for name, values in table.items():
            numbers, faulty[name] = read_numbers(values, self.missing)
            columns.append(numbers)
            notes += number_notes(name, values, faulty[name])
        check_values(self.file or "y", table, self._rows(columns[0]), faulty, self.output_remedy)
        return np.stack(columns, 1), notes

    def _rows(self, values: Values) -> Sequence[int]:
        return range(len(values)) if self.rows is None else self.rows

    def code(self, name: str, values: Values) -> tuple[ColumnCode | None, list[str]]:
        """Return the encoding of a column (None if the column is useless), and notes about it.

        A column is a category if it is listed in `categorical`, or if more than half of its values
        are neither numbers nor dates. If there are such values, but fewer, raise UsageError.
        """
        known, faults = read_numbers(values, self.missing)
        notes = list(number_notes(name, values, faults))
        kind = "number"
        wrong = [*faults["text"], *faults["infinite"]]
        parts: tuple[str, ...] | None = None
        days, bad, day_first = read_days(values if wrong else (), self.missing, self.day_first)
        if len(bad["text"]) < len(wrong):
            known = days
            wrong = bad["text"]
            kind = "date"
            parts = ()
            faults = bad
        given = len(values) - len(faults["missing"])
        if name in self.categorical or len(wrong) > _TEXT_FRACTION * given:
            return _category(name, values, in_memory=self.file is None)
        rules = ("text", "infinite") if self.fills else ("text", "infinite", "missing")
        faulty = {rule: faults[rule] for rule in rules if faults[rule]}
        where = self.file or "x"
        rows = self._rows(values)
        check_values(where, {name: values}, rows, {name: faulty}, self.remedy, kind)
        present = known[~np.isnan(known)]
        if not len(present):
            return None, [f"the column {name!r} is left out: it is empty"]
        if parts is not None:
            # Keep the parts whose periods the dates span, unless all their values are equal.
            long = [part for part, period in DAYS.items() if np.ptp(present) >= _PERIODS * period]
            parts = tuple(part for part in long if len(np.unique(place_of(present, part))) > 1)
            if day_first is None and any(str(value).strip()[4:5] != "-" for value in values):
                in_memory = "use pandas.to_datetime(..., dayfirst=True)"
                way = in_memory if self.file is None else "set target.day_first=true"
                notes.append(
                    f"the dates of column {name!r} are read with the month first, and no value "
                    f"says so; for days first {way}"
                )
        fill = float(np.median(present)) if len(present) < len(known) else None
        gaps = fill is not None
        return ColumnCode(name, None, fill, gaps, parts, bool(day_first), self.missing), notes


def encode_columns(
    raw: Mapping[str, Values], reading: Reading
) -> tuple[TableCode | None, Array, tuple[str, ...]]:
    """Return the encoding of columns, the encoded inputs (rows, features), and notes.

    The encoding is None if all columns are complete numbers. Raises UsageError in the cases of
    `Reading.code`, and if no useful column is left.
    """
    found = {name: reading.code(name, values) for name, values in raw.items()}
    notes = tuple(note for _, said in found.values() for note in said)
    codes = tuple(code for code, _ in found.values() if code)
    if not codes:
        raise UsageError("no input column is left: " + "; ".join(notes) + ".")
    complete = len(codes) == len(raw) and all(code == ColumnCode(code.name) for code in codes)
    code = TableCode(codes)
    return None if complete else code, code.encode(raw)[0], notes


def number_notes(name: str, values: Values, faults: Mapping[str, list[int]]) -> Iterator[str]:
    """Yield notes about numbers in unusual notation and unusual words for missing values."""
    if faults["text"]:
        return
    if faults["written"]:
        text = str(values[faults["written"][0]])
        yield f"column {name!r} is read as numbers: {text!r} is {number_from(text):.15g}"
    if faults["word"]:
        count = len(faults["word"])
        text = str(values[faults["word"][0]])
        yield f"column {name!r} has {count} missing value{'s' * (count > 1)} written {text!r}"


def _category(name: str, values: Values, *, in_memory: bool) -> tuple[ColumnCode | None, list[str]]:
    """Return the encoding of a category and notes; None as encoding if its texts do not repeat."""
    counts = Counter(map(text_of, values))
    kept = [level for level, count in counts.most_common(MAX_LEVELS) if count >= _MIN_ROWS]
    other = None
    if len(counts) == len(kept) <= 2:  # if two levels cover all rows, only the second is encoded
        other, *kept = sorted(kept)
    if not kept:
        return None, [
            f"the column {name!r} is left out: its texts do not repeat, or never change "
            "(numbers are read as 1234.5, dates as 2024-12-31)"
        ]
    said = (
        f"the column {name!r} has {len(counts)} different texts, of which {len(kept)} become "
        "inputs; if it is not a category, leave it out"
    )
    said += "" if in_memory else f" (target.exclude=[{name}])"
    return ColumnCode(name, tuple(sorted(kept)), other=other), [said] * (len(counts) > MANY_LEVELS)


def unknown_levels(unknown: Mapping[str, int], rows: int) -> list[str]:
    """Return a warning for each column that has levels unknown to the model.

    `unknown` is the number of such rows by column, and `rows` the number of all rows.
    """
    return [
        f"{count} of {rows} rows have a {name} that the model was not trained on"
        for name, count in unknown.items()
        if count
    ]
