"""Selection of runs and columns for `kanrun runs list`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kanrun.errors import UsageError, did_you_mean
from kanrun.runs.index import Record, RunIndex, unknown_column

#: Results that a list shows if some run has them.
RESULTS = ("test_rmse", "test_accuracy", "rmse")
_LABELS = ("tags", "note")
#: Settings that say nothing of a training.
_ABOUT_A_RUN = ("from_run", "max_cpu_seconds", "figure_formats", "tracker", *_LABELS)


@dataclass(frozen=True)
class Selection:
    """Options of `kanrun runs list`.

    Attributes:
        most: Largest number of runs.
        where: SQL condition on the columns of `runs`.
        sort: Column to sort by; with - in front, from the largest.
        columns: Columns to show; empty: those in which the runs differ.
        tag: Tag that the runs have.
        status: Word in the status.
    """

    most: int | None = None
    where: str | None = None
    sort: str | None = None
    columns: tuple[str, ...] = ()
    tag: str | None = None
    status: str | None = None

    def rows(self, index: RunIndex) -> tuple[list[Record], int]:
        """Return the rows of the selected runs, and how many they are without `most`.

        Raises UsageError for an invalid condition and for a column, tag or status of no run.
        """
        order = ""
        if self.where is not None:
            index.check_names(self.where)
        if self.sort is not None:
            name = self.sort.removeprefix("-")
            quoted = f'"{_column(name, index.columns())}"'
            order = f"{quoted} IS NULL, {quoted}{' DESC' * (self.sort != name)}"
        rows = index.rows(self.where or "1", order=order)
        if self.status is not None:
            rows = _with_status(rows, self.status)
        if self.tag is not None:
            rows = _with_tag(rows, self.tag)
        return rows[: self.most], len(rows)

    def table(self, rows: Sequence[Record], index: RunIndex) -> dict[str, list[Any]]:
        """Return the columns asked for, or those that distinguish the runs. Raises UsageError."""
        known = index.columns()
        asked = [(name, _column(name, known)) for name in self.columns if rows]
        if not self.columns:
            telling = _telling_columns(rows, [index.settings(row["name"]) for row in rows])
            asked = [(name, name) for name in telling]
        return {name: [_shown(own, row.get(own)) for row in rows] for name, own in asked}


def _column(name: str, known: Sequence[str]) -> str:
    """Return a column as the index spells it. Raises UsageError."""
    for column in known:
        if column.lower() == name.lower():
            return column
    raise unknown_column(name, known)


def _telling_columns(rows: Sequence[Record], settings: Sequence[Record]) -> list[str]:
    """Return name, status and results, settings that differ, times, labels and points."""
    results = [name for name in RESULTS if any(row.get(name) is not None for row in rows)]
    labels = ["points"] if any((row.get("points") or 1) > 1 for row in rows) else []
    labels += [name for name in ("best", *_LABELS) if any(row.get(name) for row in rows)]
    return ["name", "status", *results, *differing(settings), "started", "seconds", *labels]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of settings in which the runs that have them differ, most common first."""
    values: dict[str, list[Any]] = {}
    for each in settings:
        for name, value in each.items():
            values.setdefault(name, []).append(value)
    telling = [
        name for name, found in values.items() if any(value != found[0] for value in found[1:])
    ]
    return sorted(
        (name for name in telling if name not in _ABOUT_A_RUN), key=lambda name: -len(values[name])
    )


def local_time(time: Any) -> Any:
    """Return a time in the zone of this machine, to the minute; other values as they are."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(time, datetime) else time


def _with_status(rows: Sequence[Record], word: str) -> list[Record]:
    kept = [row for row in rows if word.lower() in row["status"].lower()]
    if not kept and rows:
        there = sorted({row["status"].partition(" (")[0] for row in rows})
        raise UsageError(f"no run has the status {word!r}; there are {', '.join(there)}.")
    return kept


def _with_tag(rows: Sequence[Record], tag: str) -> list[Record]:
    tags = [(row["tags"] or "").split(", ") for row in rows]
    kept = [row for row, own in zip(rows, tags, strict=True) if tag in own]
    if not kept and rows:
        known = sorted({one for own in tags for one in own if one})
        there = f"; there are {', '.join(known)}." if known else "; no run has any."
        raise UsageError(f"no run has the tag {tag!r}{did_you_mean(tag, known) or there}")
    return kept


def _shown(name: str, value: Any) -> Any:
    if name in {"started", "ended"}:
        return local_time(value and datetime.fromisoformat(value))
    if isinstance(value, str) and value[:1] == "[":
        try:
            items = json.loads(value)
        except ValueError:
            return value
        return ", ".join(map(str, items)) or None
    return value
