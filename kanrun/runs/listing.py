"""Runs chosen, ordered and laid out as a table, and what tells several runs apart."""

from __future__ import annotations

import ast
import contextlib
import json
import operator
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kanrun.errors import UsageError
from kanrun.runs.index import FIELDS, IndexedRun, Record, RunIndex
from kanrun.suggestions import did_you_mean

#: Results that a list shows where some run has them.
RESULTS = ("test_rmse", "test_accuracy", "rmse")
_LABELS = ("tags", "note")
_ABOUT_A_RUN = (
    "from_run",
    "max_cpu_seconds",
    "figure_formats",
    "tracker",
    *_LABELS,
)  # settings that say nothing of a training
_MOST_COLUMNS = 1900  # of an SQL table; sqlite's own limit is 2000
_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
Part = Callable[[Record], Any]
_LONGEST = 2000
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


@dataclass(frozen=True)
class Selection:
    """Which runs, in which order, and which columns: the options of `kanrun runs list`."""

    most: int | None = None
    where: str | None = None
    sort: str | None = None  # a column; with - in front, from the largest
    columns: tuple[str, ...] = ()
    tag: str | None = None
    status: str | None = None

    def runs(self, index: RunIndex) -> tuple[list[IndexedRun], int]:
        """The runs that are meant, and how many they are without `most`.

        Raises UsageError for a condition that cannot be read and for a column, tag or status that no run has.
        """
        condition = RunFilter(self.where) if self.where is not None else None
        runs = index.runs
        if self.status is not None:
            runs = _with_status(runs, self.status)
        if self.tag is not None:
            runs = _with_tag(runs, self.tag)
        if condition is not None or self.sort is not None:
            by = (self.sort or "").lstrip("-")
            rows = _rows_with(
                runs, {*(condition.columns if condition else ()), *([by] if by else ())}
            )
            if condition is not None:
                rows = [(run, row) for run, row in rows if condition.holds(row)]
            if by:
                rows.sort(key=lambda pair: _sort_key(pair[1].get(by)), reverse=self.sort != by)
                rows.sort(key=lambda pair: pair[1].get(by) is None)
            runs = [run for run, _ in rows]
        return list(runs[: self.most]), len(runs)

    def table(self, runs: Sequence[IndexedRun]) -> dict[str, list[Any]]:
        """The columns asked for, or those that tell the runs apart. Raises UsageError for one that no run has."""
        rows = [run.row() for run in runs]
        known = {name for row in rows for name in row}
        for name in self.columns:
            if rows and name not in known:
                raise unknown_column(name, known)
        names = self.columns or _telling_columns(rows, [run.settings for run in runs])
        return {name: [_shown(name, row.get(name)) for row in rows] for name in names}


def _telling_columns(rows: Sequence[Record], settings: Sequence[Record]) -> list[str]:
    """Name, status and results, the settings that differ, when and how long, labels and jobs where a row has them."""
    results = [name for name in RESULTS if any(row.get(name) is not None for row in rows)]
    labels = [name for name in ("jobs", "best", *_LABELS) if any(row.get(name) for row in rows)]
    return ["name", "status", *results, *differing(settings), "started", "seconds", *labels]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of settings in which the runs that have them differ, those that most runs have first."""
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


def query(index: RunIndex, sql: str) -> dict[str, list[Any]]:
    """The answer to an SQL query over the table `runs`, one row per run and job, as columns.

    The table lies in memory, and nothing but reading it is allowed: no writing, no attaching of files, no settings.
    Raises UsageError for anything else and for SQL that cannot be read.
    """
    rows = [run.row() for run in index.single_runs]
    names = list(dict.fromkeys((*FIELDS, *(name for row in rows for name in row))))[:_MOST_COLUMNS]
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        columns = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
        connection.execute(f"CREATE TABLE runs ({columns})")
        places = ", ".join("?" * len(names))
        connection.executemany(
            f"INSERT INTO runs VALUES ({places})",
            ([_sql_value(row.get(name)) for name in names] for row in rows),
        )
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY
        )
        try:
            answer = connection.execute(sql)
            header = [column[0] for column in answer.description or ()]
            found = answer.fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            cause = "it may only read" if "not authorized" in str(error) else str(error)
            raise UsageError(
                f"the query {sql!r} is refused: {cause}; write SELECT ... FROM runs, names with a dot in double quotes."
            ) from error
    return {name: [row[at] for row in found] for at, name in enumerate(header)}


def local_time(time: Any) -> Any:
    """A time in the zone of this machine, to the minute; what is no time stays."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(time, datetime) else time


def _rows_with(runs: Iterable[IndexedRun], names: set[str]) -> list[tuple[IndexedRun, Record]]:
    """The rows with at least these columns; settings are read if results do not have them."""
    runs = list(runs)
    rows = [(run, run.row(settings=False)) for run in runs]
    if _missing(rows, names):
        rows = [(run, run.row()) for run in runs]
    for name in sorted(_missing(rows, names)) if rows else ():
        raise unknown_column(name, {name for _, row in rows for name in row})
    return rows


def _missing(rows: Iterable[tuple[IndexedRun, Record]], names: set[str]) -> set[str]:
    left = names - set(FIELDS)
    for _, row in rows:
        left -= row.keys()
        if not left:
            break
    return left


def _with_status(runs: Sequence[IndexedRun], word: str) -> list[IndexedRun]:
    statuses = [run.status for run in runs]
    kept = [
        run for run, status in zip(runs, statuses, strict=True) if word.lower() in status.lower()
    ]
    if not kept and runs:
        there = sorted({status.partition(" (")[0] for status in statuses})
        raise UsageError(f"no run has the status {word!r}; there are {', '.join(there)}.")
    return kept


def _with_tag(runs: Sequence[IndexedRun], tag: str) -> list[IndexedRun]:
    tags = {run.name: run.tags for run in runs}
    kept = [run for run in runs if tag in tags[run.name]]
    if not kept and runs:
        known = sorted({one for each in tags.values() for one in each})
        there = f"; there are {', '.join(known)}" if known else "; no run has any"
        raise UsageError(f"no run bears the tag {tag!r}{did_you_mean(tag, known) or there + '.'}")
    return kept


def _sort_key(value: Any) -> tuple[int, Any]:
    """Numbers first, then text; a list by its words."""
    if isinstance(value, int | float):
        return 0, value
    return 1, str(value)


def _shown(name: str, value: Any) -> Any:
    if name in {"started", "ended"}:
        return local_time(value and datetime.fromisoformat(value))
    if isinstance(value, list):
        return (" " if name == "overrides" else ", ").join(map(str, value)) if value else None
    return value


def _sql_value(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


class RunFilter:
    """A condition as people type it, such as `test_rmse < 1e-4 and model.kind == 'kan'`; `columns` are the names in it.

    The text is parsed by Python's own grammar and held to a whitelist of its nodes: names of columns, constants, lists,
    comparisons, `in`, `and`, `or`, `not`. Nothing is evaluated but those. Raises UsageError for what cannot be read.
    """

    def __init__(self, text: str) -> None:
        self.text, self.columns = text, set[str]()
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"it is longer than {_LONGEST} characters")
            self._holds = self._part(ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            cause = (
                error.msg
                if isinstance(error, SyntaxError)
                else str(error) or "it is nested too deeply"
            )
            raise UsageError(
                f"the condition {text!r} cannot be read: {cause}; write it like test_rmse < 1e-4 and seed == 0."
            ) from error

    def holds(self, row: Record) -> bool:
        """Whether `row` fulfils it. What a row does not have is None, and a comparison of other types is false."""
        return bool(self._holds(row))

    def _part(self, node: ast.AST) -> Part:
        match node:
            case ast.BoolOp(op=op, values=values):
                parts, combine = (
                    [self._part(value) for value in values],
                    all if isinstance(op, ast.And) else any,
                )
                return lambda row: combine(part(row) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                part = self._part(inner)
                return lambda row: not part(row)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return lambda row: -number
            case ast.Compare(left=left, ops=ops, comparators=rest):
                return self._comparison(
                    [self._part(one) for one in (left, *rest)], [type(op) for op in ops]
                )
            case ast.Constant(value=None | str() | int() | float() as value):
                return lambda row: value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                parts = [self._part(element) for element in elements]
                return lambda row: [part(row) for part in parts]
            case ast.Name() | ast.Attribute():
                return self._column(ast.unparse(node))
        raise ValueError(f"{ast.unparse(node)!r} is no column, value or comparison")

    def _column(self, name: str) -> Part:
        if not all(word.isidentifier() for word in name.split(".")):
            raise ValueError(f"{name!r} is no name of a column")
        if name.lower() in _WORDS:
            value = _WORDS[name.lower()]
            return lambda row: value
        self.columns.add(name)
        return lambda row: row.get(name)

    @staticmethod
    def _comparison(parts: list[Part], kinds: list[type]) -> Part:
        for kind in kinds:
            if kind not in _COMPARISONS:
                raise ValueError("`is` compares nothing here")
        tests = [_COMPARISONS[kind] for kind in kinds]

        def compare(row: Record) -> bool:
            values = [part(row) for part in parts]
            try:
                return all(
                    test(a, b) for test, a, b in zip(tests, values, values[1:], strict=False)
                )
            except TypeError:
                return False

        return compare


def unknown_column(name: str, known: Collection[str], where: str = "") -> UsageError:
    """The error of a column that no run has."""
    place = f" {where}" if where else ""
    return UsageError(
        f"no run has a column {name!r}{place}{did_you_mean(name, known) or '; see them with --json.'}"
    )
