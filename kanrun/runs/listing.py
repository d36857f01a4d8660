"""Selection of runs and columns for `kanrun runs list`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kanrun.errors import UsageError, did_you_mean
from kanrun.runs.index import Record, RunIndex, quoted

#: Results that a list shows if some run has them.
RESULTS = ("test_rmse", "test_accuracy", "rmse")
_LABELS = ("tags", "note")
#: Settings that say nothing of a training.
ABOUT_A_RUN = ("from_run", "max_cpu_seconds", "figure_formats", "tracker", *_LABELS)


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
            column = quoted(index.column(name))
            order = f"{column} IS NULL, {column}{' DESC' * (self.sort != name)}"
        rows = index.rows(self.where or "1", order=order)
        if self.status is not None:
            word = self.status.lower()
            statuses = [row["status"] for row in rows]
            kept = [word in status.lower() for status in statuses]
            known = {status.partition(" (")[0] for status in statuses}
            rows = _kept(rows, kept, f"status {self.status!r}", known)
        if self.tag is not None:
            tags = [(row["tags"] or "").split(", ") for row in rows]
            known = {one for own in tags for one in own if one}
            offer = did_you_mean(self.tag, sorted(known))
            rows = _kept(rows, [self.tag in own for own in tags], f"tag {self.tag!r}", known, offer)
        return rows[: self.most], len(rows)

    def table(self, rows: Sequence[Record], index: RunIndex) -> dict[str, list[Any]]:
        """Return the columns asked for, or those that distinguish the runs. Raises UsageError.

        Those are name, status and results, settings that differ, times, labels and points.
        """
        if self.columns:
            asked = {name: index.column(name) for name in self.columns if rows}
        else:
            results = [name for name in RESULTS if any(row.get(name) is not None for row in rows)]
            settings = differing([index.settings(row["name"]) for row in rows])
            labels = ["points"] if any((row.get("points") or 1) > 1 for row in rows) else []
            labels += [name for name in ("best", *_LABELS) if any(row.get(name) for row in rows)]
            names = ["name", "status", *results, *settings, "started", "seconds", *labels]
            asked = dict(zip(names, names, strict=True))
        return {name: [_shown(own, row.get(own)) for row in rows] for name, own in asked.items()}


def _kept(
    rows: Sequence[Record], kept: Sequence[bool], what: str, known: set[str], offer: str = ""
) -> list[Record]:
    """Return the rows that are kept. Raises UsageError, which names what is known, for none."""
    if rows and not any(kept):
        there = f"; there are {', '.join(sorted(known))}." if known else "; no run has any."
        raise UsageError(f"no run has the {what}{offer or there}")
    return [row for row, stays in zip(rows, kept, strict=True) if stays]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of settings in which the runs that have them differ, most common first."""
    values: dict[str, list[Any]] = {}
    for each in settings:
        for name, value in each.items():
            values.setdefault(name, []).append(value)
    telling = [
        name
        for name, found in values.items()
        if name not in ABOUT_A_RUN and any(value != found[0] for value in found)
    ]
    return sorted(telling, key=lambda name: -len(values[name]))


def local_time(time: Any) -> Any:
    """Return a time in the zone of this machine, to the minute; other values as they are."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(time, datetime) else time


def _shown(name: str, value: Any) -> Any:
    """Return a value of the index as a list shows it: times of this zone, items of a list."""
    if name in {"started", "ended"}:
        return local_time(value and datetime.fromisoformat(value))
    if isinstance(value, str) and value[:1] == "[":
        with contextlib.suppress(ValueError):
            return ", ".join(map(str, json.loads(value))) or None
    return value
