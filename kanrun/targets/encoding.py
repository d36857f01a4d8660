"""Encoding of table columns as numbers: categories, dates, missing values, and faulty values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanrun.errors import InvalidData, UsageError
from kanrun.points import Array
from kanrun.targets.table_files import (
    DEFAULT_LIMITS,
    DEFAULT_OPTIONS,
    ReadOptions,
    TableFile,
    TableLimits,
    in_shell,
)
from kanrun.targets.table_text import (
    Faults,
    Values,
    canonical,
    other_notation,
    read_days,
    read_numbers,
    text_of,
)

#: Parts of a date that can become inputs, with their periods in days.
DAYS = {"day of year": 365.2425, "weekday": 7.0, "hour": 1.0}
#: Largest number of characters of a value in a message.
_SHOWN = 40


# The next two functions are copied into exported Python files, so they may use only NumPy.


def place_of(days: Array, part: str) -> Array:
    """Return a part of dates: day of the year (1 to 366), weekday (0 is Monday), or hour (0 to 24).

    `days` are days since 1970-01-01, with fractions.
    """
    if part == "hour":
        return np.asarray(days % 1.0 * 24)
    whole_days = np.floor(days)
    if part == "weekday":
        return np.asarray((whole_days + 3) % 7)
    dates = whole_days.astype("M8[D]")
    return np.asarray((dates - dates.astype("M8[Y]").astype("M8[D]")).astype(np.float64) + 1)


def features_of(column: dict[str, Any], values: Any) -> Array:
    """Encode the values of a column as features, shape (rows, features).

    `column` is a dict of the attributes of `ColumnCode`. `values` are texts if the column has
    levels, days since 1970-01-01 if it holds dates, and otherwise numbers; NaN means missing.
    """
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
    name: str,
    values: Values,
    faults: Faults,
    where: str,
    rows: Sequence[int] | None = None,
    remedy: str = "",
    kind: str = "number",
) -> None:
    """Raise InvalidData if a column has values that are missing, infinite or of the wrong kind.

    Args:
        name: Name of the column.
        values: Values of the column.
        faults: Indices of the faulty values, by kind of fault.
        where: Name of the file or data in the message.
        rows: Row numbers for the message; None: rows are counted from 0.
        remedy: Advice, in which {name}, {rows} and {texts} stand for the name, the faulty rows and
            the faulty texts of the column. Advice with such fields is given only if there are
            faulty texts.
        kind: What the values should be, such as "number".
    """
    sentences = []
    wrong = []
    for rule in ("missing", "infinite", "text"):
        indices = faults.get(rule)
        if not indices:
            continue
        wrong += [index if rows is None else int(rows[index]) for index in indices]
        several = len(indices) > 1
        place = f"in row {wrong[-len(indices)]}"
        noun = f"{rule} value" + "s" * several
        if rule == "text":
            noun = f"values that are not {kind}s" if several else f"value that is not a {kind}"
            place = f"{str(values[indices[0]])[:_SHOWN]!r} {place}"
        sentences.append(f"{len(indices)} {noun} (first {place})")
    if not sentences:
        return
    texts = [str(values[i])[:_SHOWN] for i in faults.get("text", ())]
    advice = ""
    if texts or "{" not in remedy:
        advice = remedy.format(name=name, rows=_listed(sorted(wrong)), texts=_listed(texts))
    raise InvalidData(
        f"column {name!r} of {where} has {', '.join(sentences)}; "
        f"correct or remove such rows{advice}."
    )


def _listed(values: Sequence[Any]) -> str:
    """Return the first distinct values as text, such as "['a','b',...]" for the command line."""
    # Largest number of values in a message.
    listed = 5
    distinct = list(dict.fromkeys(values))
    shown = [repr(value) for value in distinct[:listed]]
    return f"[{','.join([*shown, *['...'] * (len(distinct) > listed)])}]"


def read_inputs(
    path: str | Path,
    names: Sequence[str],
    limits: TableLimits = DEFAULT_LIMITS,
    options: ReadOptions = DEFAULT_OPTIONS,
    key: str = "",
) -> Array:
    """Return the numeric columns `names` of a table file, shape (rows, columns).

    For `key`, see `TableFile`. Raises UsageError if a value is not a finite number.
    """
    file = TableFile(path, options, limits, key)
    # A column may be named twice, because an axis of a curve may be its parameter.
    distinct = list(dict.fromkeys(names))
    table = file.read(distinct)
    words = tuple(map(canonical, options.na_values))
    reading = Reading(missing=words, file=file.file.name, rows=list(table.index))
    values = reading.outputs({name: table[name].to_numpy() for name in distinct})
    return values[:, [distinct.index(name) for name in names]]


#: Name for all levels without an indicator, unless the training rows contain exactly one of them.
OTHERS = "(others)"
EMPTY = "(missing)"  # what `text_of` returns for a missing value, which is a separate level


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
        missing: Additional texts that count as missing, in the form that `canonical` returns.
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
        """Names of a category's levels, the last of which stands for rows without an indicator."""
        return (*(self.levels or ()), OTHERS if self.other is None else self.other)

    def encode(self, values: Values, where: str, rows: Sequence[int] | None) -> Array:
        """Encode values of the column as inputs, shape (rows, features).

        `where` and `rows` are the name of the data and the numbers of the rows in messages. Raises
        UsageError if there are texts among numbers or dates, or if a value is missing although no
        value was missing in the training rows.
        """
        if self.levels is not None:
            return features_of(vars(self), list(map(text_of, values)))
        kind = "number" if self.parts is None else "date"
        if self.parts is None:
            numbers, faults = read_numbers(values, self.missing)
        else:
            numbers, faults, _ = read_days(values, self.missing, self.day_first)
        if self.fill is not None:
            faults = {**faults, "missing": []}
        untrained = ": the model was trained on none"
        check_values(self.name, values, faults, where, rows, untrained, kind)
        return features_of(vars(self), numbers)


@dataclass(frozen=True)
class TableCode:
    """Encoding of the columns of a table as inputs of a model, stored as JSON with the model.

    Attributes:
        columns: Encoding of each column.
        read: How files of such tables are written.
    """

    columns: tuple[ColumnCode, ...]
    read: ReadOptions = DEFAULT_OPTIONS

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs that encode the columns."""
        return tuple(name for column in self.columns for name in column.features)

    def encode(
        self, raw: Mapping[str, Values], where: str = "x", rows: Sequence[int] | None = None
    ) -> Array:
        """Encode the columns in `raw`, values by column name, as inputs, shape (rows, features).

        `where` and `rows` are the name of the data and the numbers of the rows in messages. Raises
        UsageError as `ColumnCode.encode` does.
        """
        return np.concatenate(
            [column.encode(raw[column.name], where, rows) for column in self.columns], 1
        )


def plain_code(names: Sequence[str]) -> TableCode:
    """Return the encoding of numeric columns without missing values: every column is one input."""
    return TableCode(tuple(map(ColumnCode, names)))


@dataclass(frozen=True)
class Reading:
    """Rules by which columns are read and encoded.

    Attributes:
        categorical: Names of columns that are categories even if their values are numbers.
        missing: Additional texts that count as missing, in the form that `canonical` returns.
        day_first: Whether dates such as 04/05/2024 begin with the day; None: the values decide.
        file: Name of the file that contains the columns; None: they are in memory.
        rows: Row numbers for messages; None: rows are counted from 0.
        remedy: Advice about texts among the numbers of an input; see `check_values`.
        output_remedy: Advice about texts among the numbers of an output.
        fills: Whether missing inputs are filled. If not, a missing input is an error.
    """

    categorical: Collection[str] = ()
    missing: tuple[str, ...] = ()
    day_first: bool | None = None
    file: str | None = None
    rows: Sequence[int] | None = None
    remedy: str = ", or name the column in categorical_columns"
    output_remedy: str = ""
    fills: bool = True

    def outputs(self, table: Mapping[str, Values]) -> Array:
        """Return the columns as numbers, shape (rows, columns).

        Raises UsageError if a value is missing or not a finite number.
        """
        columns: list[Array] = []
        for name, values in table.items():
            numbers, faults = read_numbers(values, self.missing)
            self._check_notation(name, values, faults["text"], "target.task=classification")
            check_values(name, values, faults, self.file or "y", self.rows, self.output_remedy)
            columns.append(numbers)
        return np.stack(columns, 1)

    def _check_notation(
        self, name: str, values: Values, wrong: Sequence[int], category: str
    ) -> None:
        """Raise InvalidData if most values at the indices `wrong` are numbers in another notation.

        The message says how to read them, and names the setting `category` for texts.
        """
        seen = other_notation([str(values[i]) for i in wrong])
        if seen is None:
            return
        text, options, signs = seen
        advice = [f"remove {' and '.join(map(repr, signs))} from the values"] if signs else []
        if self.file is None:
            advice = ["convert the column to numbers"]
            category = category.removeprefix("target.")
        elif options:
            marks = {mark: "' '" if mark.isspace() else mark for mark in options.values()}
            settings = (f"target.read.{key}={marks[mark]}" for key, mark in options.items())
            advice.append("try " + " ".join(map(in_shell, settings)))
        raise InvalidData(
            f"column {name!r} of {self.file or 'x'} holds {text!r}, which is not read as a number; "
            f"{' and '.join(advice)} (if its values are names: {category})."
        )

    def code(self, name: str, values: Values) -> tuple[ColumnCode | None, list[str]]:
        """Return the encoding of a column and notes about the column.

        The encoding is None if the column is empty, or is a category whose texts do not repeat. A
        column is a category if it is listed in `categorical`, or if more than half of its values
        are neither numbers nor dates. Raises UsageError if some, but at most half, of the values
        are neither.
        """
        # fraction of texts among the values above which a column is a category
        text_fraction = 0.5
        # number of periods that dates must span for a part to become an input
        periods = 1.2
        numbers, faults = read_numbers(values, self.missing)
        notes: list[str] = []
        kind = "number"
        wrong = [*faults["text"], *faults["infinite"]]
        parts: tuple[str, ...] | None = None
        days, bad, day_first = read_days(values if wrong else (), self.missing, self.day_first)
        if len(bad["text"]) < len(wrong):
            numbers = days
            wrong = bad["text"]
            kind = "date"
            parts = ()
            faults = bad
        present_count = len(values) - len(faults["missing"])
        if name not in self.categorical:
            self._check_notation(name, values, wrong, f"target.categorical_columns=[{name}]")
        if name in self.categorical or len(wrong) > text_fraction * present_count:
            return _category(name, values, in_memory=self.file is None)
        wrong_values = {**faults, "missing": []} if self.fills else faults
        check_values(name, values, wrong_values, self.file or "x", self.rows, self.remedy, kind)
        present = numbers[~np.isnan(numbers)]
        if not len(present):
            return None, [f"the column {name!r} is left out: it is empty"]
        if parts is not None:
            # Keep the parts whose periods the dates span, unless all values of a part are equal.
            spanned = [part for part, period in DAYS.items() if np.ptp(present) >= periods * period]
            parts = tuple(part for part in spanned if len(np.unique(place_of(present, part))) > 1)
            if day_first is None and any(str(value).strip()[4:5] != "-" for value in values):
                in_memory = "use pandas.to_datetime(..., dayfirst=True)"
                way = in_memory if self.file is None else "set target.day_first=true"
                notes.append(
                    f"the dates of column {name!r} are read with the month first, and no value "
                    f"says so; for days first {way}"
                )
        fill = float(np.median(present)) if len(present) < len(numbers) else None
        gaps = fill is not None
        return ColumnCode(name, None, fill, gaps, parts, bool(day_first), self.missing), notes


def encode_columns(
    raw: Mapping[str, Values], reading: Reading
) -> tuple[TableCode | None, Array, tuple[str, ...]]:
    """Return the encoding of columns, the encoded inputs (rows, features), and notes.

    The encoding is None if all columns are numeric without missing values. Raises UsageError if a
    column cannot be encoded (see `Reading.code`), or if no useful column is left.
    """
    encodings = {name: reading.code(name, values) for name, values in raw.items()}
    notes = tuple(note for _, column_notes in encodings.values() for note in column_notes)
    codes = tuple(code for code, _ in encodings.values() if code)
    if not codes:
        raise UsageError("no input column is left: " + "; ".join(notes) + ".")
    code = TableCode(codes)
    return None if code == plain_code(tuple(raw)) else code, code.encode(raw), notes


def _category(name: str, values: Values, *, in_memory: bool) -> tuple[ColumnCode | None, list[str]]:
    """Return the encoding of a category and notes about the column.

    The encoding is None if no text repeats, or if all rows have the same text.
    """
    # Smallest number of rows with a level that gets an indicator; rarer levels get none.
    min_rows = 2
    # Number of levels above which a warning names the column, because the column may hold numbers
    # or dates in an unknown notation.
    many_levels = 20
    # largest number of levels of a category with an indicator, most frequent first
    max_levels = 500
    counts = Counter(map(text_of, values))
    kept = [level for level, count in counts.most_common(max_levels) if count >= min_rows]
    other = None
    if len(counts) == len(kept) <= 2:  # if two levels cover all rows, only the second is encoded
        other, *kept = sorted(kept)
    if not kept:
        return None, [
            f"the column {name!r} is left out: its texts do not repeat, or never change "
            "(numbers are read as 1234.5, dates as 2024-12-31)"
        ]
    warning = (
        f"the column {name!r} has {len(counts)} different texts, of which {len(kept)} become "
        "inputs; if it is not a category, leave it out"
    )
    warning += "" if in_memory else f" (target.exclude=[{name}])"
    return ColumnCode(name, tuple(sorted(kept)), other=other), [warning] * (
        len(counts) > many_levels
    )
