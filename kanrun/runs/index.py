"""All runs of an outputs folder as two SQL tables, which are built in memory on request.

- `runs` has one row per run. Its columns are the fields of `run.json` (`FIELDS`), medians over
  seeds of the numbers in the summary, such as `test_rmse`, and settings by their path, such as
  `"model.hidden"`. A run of several points has the numbers and settings of its best point, which
  the column `best` names.
- `points` has one row per point, with the columns `run`, `point`, `name`, `status`, `reason`,
  `claims`, `claims_hold`, the medians, and the swept settings.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from kanrun.errors import KanrunError, UsageError, did_you_mean
from kanrun.runs import find_runs
from kanrun.runs.files import flattened
from kanrun.runs.reader import Run
from kanrun.runs.records import Claim

#: Columns of `runs` that are neither metrics nor settings.
FIELDS = (
    "name",
    "command",
    "status",
    "reason",
    "target",
    "started",
    "ended",
    "seconds",
    "seeds",
    "cells",
    "points",
    "trainings",
    "device",
    "precision",
    "threads",
    "host",
    "overrides",
    "claims",
    "claims_hold",
    "failures",
    "tags",
    "note",
    "best",
)
#: Settings that say what was learned or solved. The first one that a run sets is its `target`.
LEARNED = (
    "target.name",
    "target.formula",
    "target.id",
    "target.path",
    "target.kind",
    "equation.name",
    "equation.formula",
    "file",
)
#: Results that `kanrun runs list` shows if at least one run has them.
RESULTS = ("test_rmse", "test_accuracy", "cv_rmse", "cv_accuracy", "cv_deviance", "rmse", "l2")
#: Settings that do not affect training.
ABOUT_A_RUN = ("from_run", "max_cpu_seconds", "figure_formats", "tracker", "tags", "note")
#: First columns of each table.
_FIELDS = {
    "runs": (*FIELDS, "began"),
    "points": ("run", "point", "name", "status", "reason", "claims", "claims_hold"),
}
#: Largest number of columns of a table, below SQLite's limit of 2000. Further columns are dropped.
_MOST_COLUMNS = 1900
_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
#: Integers of at least this size do not fit into SQLite's 64 bits and are stored as text.
_INTEGERS = 2**63
#: Matches strings, comments and quoted names in SQL; the group captures a name in double quotes.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|`[^`]*`|\[[^\]]*\]|"((?:[^"]|"")*)\"""", re.DOTALL
)
Record = dict[str, Any]


class RunIndex:
    """A read-only SQL index of the runs in `outputs`, as they are when it is made."""

    def __init__(self, outputs: Path) -> None:
        runs = find_runs(outputs)
        pairs = [_run_row(run) for run in runs]
        self._settings = {row["name"]: settings for row, settings in pairs}
        self._connection = sqlite3.connect(":memory:")
        #: Names of the columns of each table.
        self.columns = {
            "runs": _fill(self._connection, "runs", [settings | row for row, settings in pairs]),
            "points": _fill(self._connection, "points", chain.from_iterable(map(_points, runs))),
        }
        self._connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY
        )

    def rows(
        self,
        where: str = "1",
        sort: str | None = None,
        tag: str | None = None,
        status: str | None = None,
    ) -> list[Record]:
        """Return the runs that satisfy all conditions, as rows by column name.

        Args:
            where: SQL condition on the columns of `runs`.
            sort: Column to sort by, ascending; with a leading `-`, descending. By default, the
                newest run comes first.
            tag: Tag that the runs must have.
            status: Text that the status must contain, ignoring case.

        Raises:
            UsageError: If the condition is invalid, or if no run has one of the columns.
        """
        order = "began DESC, name DESC"
        if sort is not None:
            column = _quoted(self.column(sort.removeprefix("-")))
            order = f"{column} IS NULL, {column}{' DESC' * sort.startswith('-')}, {order}"
        # The line break ends a comment at the end of the condition, if there is one.
        sql = (
            f"SELECT * FROM runs WHERE ({where}\n) AND instr(lower(status), lower(?)) "
            f"AND instr(', ' || coalesce(tags, '') || ', ', ?) ORDER BY {order}"
        )
        columns, rows = self._asked(sql, where, status or "", f", {tag}, " if tag else "")
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def column(self, name: str) -> str:
        """Return the name of the column of `runs` that equals `name`, ignoring case.

        Raises UsageError if there is no such column.
        """
        known = {column.lower(): column for column in self.columns["runs"]}
        if name.lower() not in known:
            raise self._unknown_column(name, "runs")
        return known[name.lower()]

    def settings(self, name: str) -> Record:
        """Return the settings of the run `name` by their path, such as `model.hidden`."""
        return self._settings[name]

    def query(self, sql: str) -> dict[str, list[Any]]:
        """Return the result of an SQL query as lists by column.

        Raises UsageError if the query is invalid or would change anything.
        """
        columns, rows = self._asked(sql, sql)
        return {name: [row[at] for row in rows] for at, name in enumerate(columns)}

    def _asked(self, sql: str, shown: str, *values: str) -> tuple[list[str], list[Any]]:
        try:
            answer = self._connection.execute(_strict(sql), values)
            names = [column[0].replace("`", '"') for column in answer.description or ()]
            return names, answer.fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            text = str(error)
            name = text.removeprefix("no such column: ")
            if name != text:
                raise self._unknown_column(name, sql) from error
            cause = "it may only read" if "not authorized" in text else text
            raise UsageError(
                f"{shown!r} is not valid SQL here: {cause}. Write it as in test_rmse < 1e-4 AND "
                "\"model.kind\" = 'kan', names with a dot in double quotes."
            ) from error

    def _unknown_column(self, name: str, sql: str) -> UsageError:
        """Return the error for a column `name` that the tables in `sql` do not have."""
        tables = [table for table in _FIELDS if re.search(rf"\b{table}\b", sql.lower())]
        known = [column for table in tables for column in self.columns[table]]
        hint = did_you_mean(name, known) or "; see them with --json."
        if name in known:
            hint = f'; names with a dot need double quotes: "{name}".'
        elif name in self.columns["runs"]:
            hint = f'; runs have it: SELECT runs."{name}" FROM points JOIN runs ON run = runs.name.'
        rows = " or ".join(table.removesuffix("s") for table in tables)
        return UsageError(f"no {rows or 'table'} has a column {name!r}{hint}")


def _strict(sql: str) -> str:
    """Replace double quotes around names in SQL by backticks.

    If a name in double quotes is not a column, SQLite silently treats it as text. With backticks,
    this is an error.
    """

    def quoted(token: re.Match[str]) -> str:
        name = (token[1] or "").replace('""', '"').replace("`", "``")
        return token[0] if token[1] is None else f"`{name}`"

    return _QUOTED.sub(quoted, sql)


def _fill(connection: sqlite3.Connection, table: str, records: Iterable[Record]) -> list[str]:
    """Create a table from records, with the columns of `_FIELDS` first; return its columns."""
    rows = list(records)
    names: dict[str, str] = {}  # first spelling, by lower case: SQLite's names ignore case
    for name in chain(_FIELDS[table], *rows):
        names.setdefault(name.lower(), name)
    columns = list(names.values())[:_MOST_COLUMNS]
    connection.execute(f"CREATE TABLE {table} ({', '.join(map(_quoted, columns))})")
    connection.executemany(
        f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})",
        ([_value(row.get(name)) for name in columns] for row in rows),
    )
    return columns


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _value(value: Any) -> Any:
    """Convert a value to what SQLite stores: lists, and integers beyond 64 bits, become text."""
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int) and abs(value) < _INTEGERS:
        return int(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value, default=str)


def _run_row(run: Run) -> tuple[Record, Record]:
    """Return the row of a run and the run's settings, which are those of its best point."""
    labels = run.labels
    best = run.best
    settings = Record()
    row = Record(
        name=run.name,
        command=run.path.parent.name,
        status=run.status,
        tags=", ".join(labels.tags) or None,
        note=labels.note or None,
        began=run.began(),
    )
    with contextlib.suppress(KanrunError):
        manifest = run.manifest
        settings = flattened(best.config)
        claims = manifest.claims
        failures = len(manifest.failures)
        if run.has_points:
            row["best"] = best.name if best.error is not None else None
            results = run.journal.results.values()
            claims = tuple(claim for result in results for claim in result.claims)
            failures = len(run.journal.failed) or failures
        learned = (settings.get(key) for key in LEARNED)
        row = {
            **best.manifest.metrics,
            **{name: value for name, value in vars(manifest).items() if name in FIELDS},
            "target": next((str(value) for value in learned if value not in (None, "own")), None),
            "points": len(manifest.points),
            "seeds": len(manifest.seeds),
            "overrides": " ".join(run.overrides) or None,
            "failures": failures,
            **_counted(claims),
            **row,
        }
    return row, settings


def _points(run: Run) -> Iterator[Record]:
    with contextlib.suppress(KanrunError):
        for number, point in enumerate(run.points):
            manifest = point.manifest
            yield {
                **manifest.metrics,
                **(point.point.values if point.point else {}),
                "run": run.name,
                "point": number,
                "name": point.name,
                "status": point.status,
                "reason": manifest.reason,
                **_counted(manifest.claims),
            }


def _counted(claims: Sequence[Claim]) -> Record:
    return {"claims": len(claims), "claims_hold": sum(claim.holds for claim in claims)}


def listed(index: RunIndex, rows: Sequence[Record], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns of a list of runs, as lists by column.

    Args:
        index: The index of runs.
        rows: Rows of `index`.
        names: Columns to return. If empty, return the columns that say what was learned, when, and
            with which error, followed by the settings in which the runs differ, the most common
            settings first.

    Raises:
        UsageError: If no run has one of the columns.
    """
    columns = {name: index.column(name) for name in names if rows}
    if not names:
        values: dict[str, list[Any]] = {}
        for row in rows:
            for name, value in index.settings(row["name"]).items():
                values.setdefault(name, []).append(value)
        settings = [
            name
            for name, known in values.items()
            if name not in (*LEARNED, *ABOUT_A_RUN) and any(value != known[0] for value in known)
        ]
        settings.sort(key=lambda name: -len(values[name]))
        results, labels = (
            [name for name in group if any(row.get(name) is not None for row in rows)]
            for group in (RESULTS, ("best", "tags", "note"))
        )
        if any((row.get("points") or 1) > 1 for row in rows):
            labels.insert(0, "points")
        order = ["name", "target", "started", *results, "status", *settings, "seconds", *labels]
        columns = dict(zip(order, order, strict=True))
    return {name: [_shown(key, row.get(key)) for row in rows] for name, key in columns.items()}


def local_time(time: Any) -> Any:
    """Return a time as text in the local time zone, to the minute; other values unchanged."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(time, datetime) else time


def _shown(name: str, value: Any) -> Any:
    """Return a value of the column `name` for display: local times, and lists without brackets."""
    if name in {"started", "ended"}:
        return local_time(value and datetime.fromisoformat(value))
    if isinstance(value, str) and value[:1] == "[":
        with contextlib.suppress(ValueError):
            return ", ".join(map(str, json.loads(value))) or None
    return value
