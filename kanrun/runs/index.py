"""All runs of an outputs folder in one SQLite file, `.index.sqlite`, which is never the truth.

A run whose files have other times or sizes than the index remembers is read again; if the file
cannot be used, the index is built in memory. The tables are made of all records when one changes:

- `runs`: one row per run, with what `run.json` says (`FIELDS`), medians over seeds of the numbers
  in `summary.csv`, such as `test_rmse`, and settings by their path, such as `"model.hidden"`; a run
  of several points has the numbers and settings of its best point, and `best`;
- `points`: one row per point, with `run`, `point`, `name`, `status`, `reason`, `claims`,
  `claims_hold`, the medians, and the swept settings.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from kanrun.errors import KanrunError, UsageError, did_you_mean
from kanrun.runs import find_runs
from kanrun.runs.files import plain
from kanrun.runs.reader import Run
from kanrun.runs.records import MANIFEST_FILE, Claim, Status

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
    "executor",
    "host",
    "overrides",
    "claims",
    "claims_hold",
    "failures",
    "tags",
    "note",
    "best",
)
#: Settings that say what was learned or solved; the first that is given.
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
#: Results that a list shows if some run has them.
RESULTS = ("test_rmse", "test_accuracy", "cv_rmse", "cv_accuracy", "cv_deviance", "rmse", "l2")
#: Settings that say nothing of a training.
ABOUT_A_RUN = ("from_run", "max_cpu_seconds", "figure_formats", "tracker", "tags", "note")
_POINT_FIELDS = ("run", "point", "name", "status", "reason", "claims", "claims_hold")
_FILE = ".index.sqlite"
#: Version of the records; those of another version are read again.
_VERSION = 4
#: Columns of a table, below SQLite's own limit of 2000.
_MOST_COLUMNS = 1900
#: Seconds to wait for another process that writes the index.
_PATIENCE = 2.0
_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
#: SQLite's whole numbers are below this.
_INTEGERS = 2**63
#: Texts, comments and quoted names of SQL; the group is a name in double quotes.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|`[^`]*`|\[[^\]]*\]|"((?:[^"]|"")*)\"""", re.DOTALL
)
Record = dict[str, Any]


class RunIndex:
    """Index of the runs below `outputs`, brought up to date; reads only from then on."""

    def __init__(self, outputs: Path) -> None:
        path, connection = outputs / _FILE, None
        if not path.is_symlink() and outputs.is_dir():
            try:
                connection = _opened(str(path), outputs)
            except sqlite3.OperationalError:  # a folder that is read-only, or locked
                pass
            except sqlite3.DatabaseError:  # a damaged file, or one of something else
                with contextlib.suppress(OSError):
                    path.unlink()
        self._connection = connection or _opened(":memory:", outputs)
        self._connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY
        )

    def columns(self) -> list[str]:
        """Return the columns of `runs`."""
        return self._columns("runs")

    def _columns(self, table: str) -> list[str]:
        return [row[0] for row in self._connection.execute(f"SELECT * FROM {table}").description]

    def rows(
        self,
        where: str = "1",
        sort: str | None = None,
        tag: str | None = None,
        status: str | None = None,
    ) -> list[Record]:
        """Return the rows of the runs that fulfil all conditions, newest first unless sorted.

        Args:
            where: SQL condition on the columns of `runs`.
            sort: Column to sort by; with - in front, from the largest.
            tag: Tag that the runs have.
            status: Word in the status.

        Raises:
            UsageError: If the condition is invalid, or no run has such a column.
        """
        order = "began DESC, name DESC"
        if sort is not None:
            column = _quoted(self.column(sort.removeprefix("-")))
            order = f"{column} IS NULL, {column}{' DESC' * sort.startswith('-')}, {order}"
        # The line break ends a comment in the condition.
        sql = (
            f"SELECT * FROM runs WHERE ({where}\n) AND instr(lower(status), lower(?)) "
            f"AND instr(', ' || coalesce(tags, '') || ', ', ?) ORDER BY {order}"
        )
        columns, rows = self._asked(sql, where, status or "", f", {tag}, " if tag else "")
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def column(self, name: str) -> str:
        """Return a column of `runs` as the index spells it. Raises UsageError."""
        known = {column.lower(): column for column in self.columns()}
        if name.lower() not in known:
            raise self._unknown_column(name, "runs")
        return known[name.lower()]

    def settings(self, name: str) -> Record:
        """Return the settings of a run by their path, such as `model.hidden`."""
        sql = "SELECT record FROM records WHERE name = ?"
        record: Record = json.loads(self._connection.execute(sql, (name,)).fetchone()[0])
        return dict(record["settings"])

    def query(self, sql: str) -> dict[str, list[Any]]:
        """Return the answer to an SQL query as columns. Raises UsageError for all but reading."""
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
        """Return the error of a column that the tables in `sql` do not have."""
        tables = [table for table in ("runs", "points") if re.search(rf"\b{table}\b", sql.lower())]
        known = [column for table in tables for column in self._columns(table)]
        hint = did_you_mean(name, known) or "; see them with --json."
        if name in known:
            hint = f'; names with a dot need double quotes: "{name}".'
        elif name in self.columns():
            hint = f'; runs have it: SELECT runs."{name}" FROM points JOIN runs ON run = runs.name.'
        rows = " or ".join(table.removesuffix("s") for table in tables)
        return UsageError(f"no {rows or 'table'} has a column {name!r}{hint}")


def _strict(sql: str) -> str:
    """Return SQL with backticks around names for double quotes.

    SQLite takes a name in double quotes that is not a column for text, one in backticks never.
    """

    def quoted(token: re.Match[str]) -> str:
        name = (token[1] or "").replace('""', '"').replace("`", "``")
        return token[0] if token[1] is None else f"`{name}`"

    return _QUOTED.sub(quoted, sql)


def _opened(place: str, outputs: Path) -> sqlite3.Connection:
    """Return a connection to a file that knows the runs below `outputs` as they are now."""
    connection = sqlite3.connect(place, timeout=_PATIENCE)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA synchronous = OFF")  # the index can be rebuilt at any time
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS records (name PRIMARY KEY, stamp, record)"
            )
            _update(connection, outputs)
    except BaseException:
        connection.close()
        raise
    return connection


def _update(connection: sqlite3.Connection, outputs: Path) -> None:
    """Forget the runs that are gone, read those that are new or changed, and make the tables."""
    known = dict(connection.execute("SELECT name, stamp FROM records"))
    there = {run.name: run for run in find_runs(outputs)}
    stamps = {name: _stamp(run.path) for name, run in there.items()}
    gone = [(name,) for name in known if name not in there]
    read = {name: _record(there[name]) for name in stamps if known.get(name) != stamps[name]}
    if known and not gone and not read:
        return
    connection.executemany("DELETE FROM records WHERE name = ?", gone)
    for name, record in read.items():
        stamp = "" if record["row"]["status"] == Status.RUNNING else stamps[name]
        values = (name, stamp, json.dumps(record, default=str))
        connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", values)
    records = [json.loads(text) for (text,) in connection.execute("SELECT record FROM records")]
    rows = [{**one["settings"], **one["row"]} for one in records]
    points = [point for one in records for point in one["points"]]
    for table, fields, content in (
        ("runs", (*FIELDS, "began"), rows),
        ("points", _POINT_FIELDS, points),
    ):
        names: dict[str, str] = {}  # as first spelled: SQLite's names have no case
        for name in chain(fields, *content):
            names.setdefault(name.lower(), name)
        columns = list(names.values())[:_MOST_COLUMNS]
        connection.execute(f"DROP TABLE IF EXISTS {table}")
        connection.execute(f"CREATE TABLE {table} ({', '.join(map(_quoted, columns))})")
        connection.executemany(
            f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})",
            ([_value(row.get(name)) for name in columns] for row in content),
        )


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _value(value: Any) -> Any:
    """Return a value as SQLite holds it: text for lists, and for whole numbers beyond 64 bits."""
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int) and abs(value) < _INTEGERS:
        return int(value)
    return json.dumps(value, default=str)


def _record(run: Run) -> Record:
    """Return the row of a run, the settings of it or its best point, and the rows of its points."""
    labels, best, settings = run.labels, run, Record()
    with contextlib.suppress(KanrunError):
        best = run.best
    with contextlib.suppress(KanrunError):
        settings = flattened(best.config)
    learned = (settings.get(key) for key in LEARNED)
    row: Record = {
        "name": run.name,
        "command": run.path.parent.name,
        "status": run.status,
        "target": next((str(value) for value in learned if value not in (None, "own")), None),
        "tags": ", ".join(labels.tags) or None,
        "note": labels.note or None,
        "began": run.began(),
    }
    points = list[Record]()
    with contextlib.suppress(KanrunError):
        manifest, journal = run.manifest, run.journal
        several, record = manifest.points > 1, plain(manifest)
        results = journal.results.values() if several else ()
        claims = [claim for result in results for claim in result.claims] or manifest.claims
        row = {
            **best.manifest.metrics,
            **{name: record[name] for name in FIELDS if name in record},
            "seeds": len(manifest.seeds),
            "executor": manifest.executor.get("kind"),
            "overrides": " ".join(run.overrides) or None,
            "failures": len(journal.failed) or len(manifest.failures),
            "best": best.name if several and best.error is not None else None,
            **_counted(claims),
            **row,
        }
        points = [_point_row(run, number, point) for number, point in enumerate(run.points)]
    return {"row": row, "settings": settings, "points": points}


def _point_row(run: Run, number: int, point: Run) -> Record:
    manifest = point.manifest
    return {
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


def _stamp(folder: Path) -> str:
    """Return times and size that change with every file renamed into the folder, and run.json."""
    try:
        place = os.stat(folder).st_mtime_ns
        record = os.stat(f"{folder}/{MANIFEST_FILE}")
    except OSError:
        return ""
    return f"{_VERSION} {place} {record.st_mtime_ns} {record.st_size}"


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Record:
    """Return nested settings by their path: {"model": {"degree": 3}} is {"model.degree": 3}."""
    flat: Record = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        flat |= flattened(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return flat


def listed(index: RunIndex, rows: Sequence[Record], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns `names`, or those that distinguish the runs.

    First comes what was learned, when, and with which error, then the settings in which the runs
    that have them differ, the most common first. Raises UsageError for a column that no run has.
    """
    asked = {name: index.column(name) for name in names if rows}
    if not names:
        results = [name for name in RESULTS if any(row.get(name) is not None for row in rows)]
        values: dict[str, list[Any]] = {}
        for row in rows:
            for name, value in index.settings(row["name"]).items():
                values.setdefault(name, []).append(value)
        telling = (name for name in values if name not in (*LEARNED, *ABOUT_A_RUN))
        settings = [name for name in telling if any(one != values[name][0] for one in values[name])]
        settings.sort(key=lambda name: -len(values[name]))
        labels = ["points"] if any((row.get("points") or 1) > 1 for row in rows) else []
        labels += [name for name in ("best", "tags", "note") if any(row.get(name) for row in rows)]
        order = ["name", "target", "started", *results, "status", *settings, "seconds", *labels]
        asked = dict(zip(order, order, strict=True))
    return {name: [_shown(own, row.get(own)) for row in rows] for name, own in asked.items()}


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
