"""Columns of a table as numbers: categories as indicators of their levels, missing numbers as median and indicator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kanrun.errors import UsageError
from kanrun.targets.data import Array
from kanrun.targets.tables import MISSING_WORDS, lenient_numbers

MOST_LEVELS = 40  # of a category that get an indicator of their own, the most frequent first
FEWEST_ROWS = 2  # with a level; rarer ones are all zeros, like levels that were never seen
EMPTY = "(missing)"  # the level of rows without one


@dataclass(frozen=True)
class ColumnCode:
    """One column: a number (`fill` in place of a missing one, and with `indicator` a 1 beside it), or its levels."""

    name: str
    levels: tuple[str, ...] | None = None
    fill: float = 0.0
    indicator: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the numbers that it becomes."""
        if self.levels is not None:
            return tuple(f"{self.name}={level}" for level in self.levels)
        return (self.name, f"{self.name} is missing") if self.indicator else (self.name,)

    def encode(self, values: Sequence[Any]) -> tuple[Array, int]:
        """(rows, features), and how many values are of no known level. Raises UsageError for text among numbers."""
        if self.levels is not None:
            texts = np.array([_text(value) for value in values], dtype=object)
            columns = [(texts == level).astype(np.float64) for level in self.levels]
            known = {*self.levels, self.levels[0] if self.levels else EMPTY}
            return np.stack(columns, 1), sum(text not in known for text in texts)
        numbers, text = lenient_numbers(values)
        if text is not None:
            raise UsageError(f"the column {self.name!r} holds {text!r}, where the model was trained on numbers.")
        missing = np.isnan(numbers)
        filled = np.where(missing, self.fill, numbers)
        return np.stack([filled, missing.astype(np.float64)] if self.indicator else [filled], 1), 0


@dataclass(frozen=True)
class TableCode:
    """How the columns of a table become the inputs of a model; stored beside the model as plain JSON."""

    columns: tuple[ColumnCode, ...]

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(name for column in self.columns for name in column.features)

    def encode(self, raw: Mapping[str, Sequence[Any]]) -> tuple[Array, list[str]]:
        """(rows, features) of the columns `raw`, and a sentence per column with levels that were not trained on."""
        parts, notes = [], []
        for column in self.columns:
            part, unknown = column.encode(raw[column.name])
            parts.append(part)
            if unknown and len(column.levels or ()) > 1:
                notes.append(f"{unknown} of {len(part)} rows have a {column.name} that the model was not trained on")
        return np.concatenate(parts, 1), notes

    def plain(self) -> list[dict[str, Any]]:
        """JSON values, for `from_plain`."""
        return [asdict(column) for column in self.columns]

    @staticmethod
    def from_plain(columns: Sequence[Mapping[str, Any]]) -> TableCode:
        return TableCode(
            tuple(
                ColumnCode(
                    str(c["name"]),
                    tuple(map(str, c["levels"])) if c["levels"] is not None else None,
                    float(c["fill"]),
                    bool(c["indicator"]),
                )
                for c in columns
            )
        )


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
        if name in categories or text is not None:
            if name not in categories and _share_of_text(values) <= 0.5:
                raise UsageError(f"column {name!r} has numbers and text, such as {text!r}; {advice}.")
            levels = _levels(values)
            if not levels:
                notes.append(f"the column {name!r} is left out: its texts do not repeat, or never change")
                continue
            codes.append(ColumnCode(name, levels))
            continue
        missing = np.isnan(numbers)
        if missing.all():
            notes.append(f"the column {name!r} is left out: it is empty")
            continue
        codes.append(ColumnCode(name, None, float(np.median(numbers[~missing])), bool(missing.any())))
    if not codes:
        raise UsageError("no input column is left: " + "; ".join(notes) + ".")
    complete = len(codes) == len(raw) and all(code.levels is None and not code.indicator for code in codes)
    return (None if complete else TableCode(tuple(codes))), notes


def _text(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    return EMPTY if text == "" or (isinstance(value, float) and np.isnan(value)) else text


def _share_of_text(values: Sequence[Any]) -> float:
    held = [value for value in values if _text(value).casefold() not in MISSING_WORDS and _text(value) != EMPTY]
    return sum(lenient_numbers([value])[1] is not None for value in held) / max(len(held), 1)


def _levels(values: Sequence[Any]) -> tuple[str, ...]:
    """The levels that get an indicator; of two that all rows have, the second alone."""
    counts = Counter(_text(value) for value in values)
    kept = [level for level, count in counts.most_common(MOST_LEVELS) if count >= FEWEST_ROWS]
    if len(counts) == len(kept) <= 2:
        kept = sorted(kept)[1:]
    return tuple(sorted(kept))
