"""Selection of runs and columns for `kanrun runs list`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kanrun.runs.index import LEARNED, Record, RunIndex, quoted

#: Results that a list shows if some run has them.
RESULTS = ("test_rmse", "test_accuracy", "cv_rmse", "cv_accuracy", "rmse", "l2")
#: Settings that say nothing of a training.
ABOUT_A_RUN = ("from_run", "max_cpu_seconds", "figure_formats", "tracker", "tags", "note")


def selected(
    index: RunIndex, where: str | None, sort: str | None, tag: str | None, status: str | None
) -> list[Record]:
    """Return the rows of the runs that fulfil all conditions, newest first unless sorted.

    Args:
        index: The index of the runs.
        where: SQL condition on the columns of `runs`.
        sort: Column to sort by; with - in front, from the largest.
        tag: Tag that the runs have.
        status: Word in the status.

    Raises:
        UsageError: If the condition is invalid, or no run has such a column.
    """
    order = ""
    if where is not None:
        index.check_names(where)
    if sort is not None:
        column = quoted(index.column(sort.removeprefix("-")))
        order = f"{column} IS NULL, {column}{' DESC' * sort.startswith('-')}"
    return [
        row
        for row in index.rows(where or "1", order=order)
        if (status or "").lower() in row["status"].lower()
        and (tag is None or tag in (row["tags"] or "").split(", "))
    ]


def listed(
    index: RunIndex, rows: Sequence[Record], names: Sequence[str]
) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the columns `names`, or those that distinguish the runs, and all in order of priority.

    First comes what was learned, when, and with which error, then the settings that differ. Raises
    UsageError for a column that no run has.
    """
    asked = {name: index.column(name) for name in names if rows}
    first = list(asked)
    if not names:
        results = [name for name in RESULTS if any(row.get(name) is not None for row in rows)]
        settings = differing([index.settings(row["name"]) for row in rows])
        settings = [name for name in settings if name not in LEARNED]
        labels = ["points"] if any((row.get("points") or 1) > 1 for row in rows) else []
        labels += [name for name in ("best", "tags", "note") if any(row.get(name) for row in rows)]
        first = ["name", "target", "started", *results, "status", *settings, "seconds", *labels]
        order = ["name", "status", "target", *results, *settings, "started", "seconds", *labels]
        asked = dict(zip(order, order, strict=True))
    return {name: [_shown(own, row.get(own)) for row in rows] for name, own in asked.items()}, first


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
