"""Finding runs: by names that people type, and by conditions on what the runs recorded."""

from __future__ import annotations

import ast
import contextlib
import itertools
import operator
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kanrun.errors import KanrunError, StorageFailed, UsageError, closest_names, did_you_mean
from kanrun.runs.files import flattened, storing
from kanrun.runs.reader import Run
from kanrun.runs.records import MANIFEST_FILE

if TYPE_CHECKING:
    import pandas

#: Names of run folders: `v` and a number of 4 to 9 digits. Other folders are not runs.
VERSION = re.compile(r"v(\d{4,9})")
#: Name of the link to the run with the highest number.
LATEST = "latest"
#: Largest number of run names in an error message.
_SHOWN = 3
#: First columns of the table of runs; results and settings follow.
FIELDS = (
    *("name", "command", "status", "reason", "created", "tags", "note", "target", "best"),
    *("seconds", "seeds", "cells", "points", "trainings", "device", "precision", "threads"),
    *("host", "overrides", "claims", "claims_hold", "failures"),
)
#: Settings that say what was learned or solved. The first one that a run sets is its `target`.
LEARNED = (
    *("target.name", "target.formula", "target.id", "target.path", "target.kind"),
    *("equation.name", "equation.formula", "file"),
)
#: Results that `kanrun runs list` shows if at least one run has them.
RESULTS = ("test_rmse", "test_accuracy", "cv_rmse", "cv_accuracy", "cv_deviance", "rmse", "l2")
#: Settings that do not affect training.
ABOUT_A_RUN = ("from_run", "max_cpu_seconds", "figure_formats", "tracker", "tags", "note")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda part, whole: part in whole,
    ast.NotIn: lambda part, whole: part not in whole,
}
_CONSTANTS = {"true": True, "false": False, "null": None}


def remove_run(run: Run, outputs: Path, *, check_only: bool = False) -> None:
    """Delete the folder of `run`; with `check_only`, only check that it may be deleted.

    Raises:
        UsageError: If the run is outside `outputs`, still running, or a point of a run, or if its
            folder is a link.
        StorageFailed: If the folder cannot be deleted.
    """
    path = run.path.resolve()
    place = outputs.resolve()
    if run.point is not None:
        raise UsageError(f"{run.name} is a point of a run, which is removed as a whole.")
    if run.path.is_symlink() or path.parent.parent != place or not VERSION.fullmatch(path.name):
        raise UsageError(f"{run.name} is not a run in {outputs}; nothing was deleted.")
    with contextlib.suppress(StorageFailed):
        run.check_ended(force=True)
    if not check_only:
        with storing(path):
            shutil.rmtree(path)


def find_runs(outputs: Path) -> list[Run]:
    """Return all runs in `outputs`, sorted by command and number."""
    return [run for command in sorted(_subfolders(outputs)) for run in _runs_of(outputs, command)]


def _runs_of(outputs: Path, command: str) -> list[Run]:
    names = filter(VERSION.fullmatch, _subfolders(outputs / command))
    ordered = sorted(names, key=lambda name: int(name[1:]))
    return [Run(outputs / command / name, f"{command}/{name}") for name in ordered]


def _subfolders(parent: Path) -> list[str]:
    """Return the names of the folders in `parent`, except links and hidden folders."""
    try:
        with os.scandir(parent) as entries:
            return [
                entry.name
                for entry in entries
                if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def find_run(text: str, outputs: Path, *, one: bool = False) -> Run:
    """Return the run or point that `text` names.

    These forms are tried in turn:

    1. A name, such as `fit/v0003` or `fit/3`; for point 7 of a run of several points, `fit/3/7`.
       `fit/latest` is the run of `fit` with the highest number. `latest` is the run that began
       last among the latest runs of all commands.
    2. The path of a run folder, or of a point: `PATH/7`.
    3. A tag that only one run has.
    4. The beginning of the name of exactly one run.

    Args:
        text: What the user typed.
        outputs: Folder that contains the run folders.
        one: Whether to refuse a run of several points; the error names its best point.

    Raises:
        UsageError: If `text` names no run (the message lists similar names) or several runs.
    """
    wanted = text.strip().rstrip("/")
    run = _named(wanted, outputs) or run_at(text, outputs) or _only(wanted, outputs)
    if run is None:
        names = [run.name for run in find_runs(outputs)]
        if not names:
            raise UsageError(f"there is no run {text!r}: {outputs} holds no runs yet.")
        offer = ", ".join(closest_names(text, names) or names[-_SHOWN:])
        raise UsageError(
            f"there is no run {text!r} in {outputs}; there are {offer} (see `kanrun runs list`)."
        )
    if one:
        run.check_single()
    return run


def _named(wanted: str, outputs: Path) -> Run | None:
    """Return the run or point that is named in form 1 of `find_run`, or None."""
    if wanted == LATEST:
        runs = [runs[-1] for name in _subfolders(outputs) if (runs := _runs_of(outputs, name))]
        return max(runs, key=Run.began, default=None)
    command, _, rest = wanted.partition("/")
    asked = re.fullmatch(rf"(?:v?(\d{{1,9}})|{LATEST})(?:/([^/]*))?", rest)
    if asked is None or command not in _subfolders(outputs):
        return None
    runs = _runs_of(outputs, command)
    if asked[1] is not None:
        runs = [run for run in runs if int(run.path.name[1:]) == int(asked[1])]
    return _point(runs[-1], asked[2]) if runs else None


def _point(run: Run, number: str | None) -> Run | None:
    """Return the point `number` of `run`, or None if there is none; without a number, the run."""
    if number is None:
        return run
    points = run.points if run.has_points else ()
    # Longer numbers would take long to convert, and no run has so many points.
    is_one = number.isdecimal() and len(number) < 10 and int(number) < len(points)
    return points[int(number)] if is_one else None


def run_at(text: str, outputs: Path) -> Run | None:
    """Return the run or point at the path `text`, or None. Links such as `latest` are followed."""
    if not text.strip():
        return None
    # Unlike Path.expanduser, this does not raise for a name such as ~old.
    path = Path(os.path.expanduser(text)).resolve()
    number = None
    if not (path / MANIFEST_FILE).is_file():
        number = path.name
        path = path.parent
    if not (path / MANIFEST_FILE).is_file():
        return None
    name = str(path)
    with contextlib.suppress(ValueError):
        name = path.relative_to(outputs.resolve()).as_posix()
    return _point(Run(path, name), number)


def _only(wanted: str, outputs: Path) -> Run | None:
    """Return the run named in form 3 or 4 of `find_run`, or None; UsageError if several fit."""
    runs = find_runs(outputs) if wanted else []
    tagged = [run for run in runs if wanted in run.tags]
    fitting = tagged or [run for run in runs if run.name.startswith(wanted)]
    if len(fitting) > 1:
        names = ", ".join(run.name for run in fitting[-_SHOWN:])
        more = " and others" * (len(fitting) > _SHOWN)
        what = f"have the tag {wanted}" if tagged else f"begin with {wanted!r}"
        remedy = "name one of them" if tagged else "write more of the name"
        raise UsageError(f"{len(fitting)} runs {what}: {names}{more}; {remedy}.")
    return fitting[0] if fitting else None


class Entry(NamedTuple):
    """The columns of one run by name, and the names of those that are settings."""

    columns: dict[str, Any]
    settings: tuple[str, ...] = ()


def runs(outputs: str | Path = "outputs") -> pandas.DataFrame:
    """Return all runs of an outputs folder as a table with one row per run, the newest first.

    Args:
        outputs: The folder that contains the run folders.

    Returns:
        A DataFrame with the columns `name`, `command`, `status`, `created`, `tags`, `note` and
        others that describe the run, its settings by their path, such as `model.hidden`, and its
        results (medians over seeds), such as `test_rmse`. A run of several points has the settings
        and results of its best point, which the column `best` names.

    Examples:
        >>> import kanrun
        >>> runs = kanrun.runs()
        >>> len(runs[runs["status"] == "COMPLETED"])
        1
    """
    import pandas

    entries = run_entries(Path(outputs))
    return pandas.DataFrame([entry.columns for entry in entries], columns=_columns_of(entries))


def run_entries(outputs: Path) -> list[Entry]:
    """Return the rows of `runs` without importing pandas, which takes longer than reading them."""
    found = sorted(find_runs(outputs), key=lambda run: (run.began(), run.name), reverse=True)
    return [_entry(run) for run in found]


def _columns_of(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(chain(FIELDS, *(entry.columns for entry in entries))))


def _entry(run: Run) -> Entry:
    own = {"name": run.name, "command": run.path.parent.name, "status": str(run.status)}
    try:
        manifest = run.manifest
        best = run.best
        settings = flattened(best.config)
        claims = manifest.claims
        failures = len(manifest.failures)
        if run.has_points:
            results = run.journal.results.values()
            claims = tuple(claim for result in results for claim in result.claims)
            failures = len(run.journal.failed) or failures
        learned = (settings.get(key) for key in LEARNED)
        facts = {
            **{name: value for name, value in vars(manifest).items() if name in FIELDS},
            **own,
            "created": manifest.started,
            "tags": list(manifest.tags),
            "note": manifest.note or None,
            "target": next((str(value) for value in learned if value not in (None, "own")), None),
            "best": best.name if run.has_points and best.error is not None else None,
            "seeds": len(manifest.seeds),
            "points": len(manifest.points),
            "overrides": " ".join(run.overrides) or None,
            "claims": len(claims),
            "claims_hold": sum(claim.holds for claim in claims),
            "failures": failures,
        }
        return Entry({**settings, **best.manifest.metrics, **facts}, tuple(settings))
    except KanrunError:
        return Entry({**own, "tags": []})


def selected(entries: Sequence[Entry], condition: str) -> list[Entry]:
    """Return the runs that satisfy a condition in Python's notation.

    A condition compares columns with numbers, lists and texts in quotes, as in `test_rmse < 1e-4
    and model.kind == "kan"` and `"final" in tags`. It can do nothing else, so no code is run. A
    column that a run does not have is `null`, which is neither smaller nor larger than a number.

    Raises:
        UsageError: If the condition is invalid, or names a column that no run has.
    """
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
        holds = _compiled(tree, _columns_of(entries))
        return [entry for entry in entries if holds(entry.columns)]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        cause = getattr(error, "msg", "it is too deep")
        raise UsageError(
            f"{condition!r} is not a condition: {cause}. Write it as in test_rmse < 1e-4 and "
            "model.kind == 'kan', texts in quotes and names without."
        ) from error


def _compiled(node: ast.expr, known: Sequence[str]) -> Callable[[dict[str, Any]], Any]:
    """Return a function that computes a part of a condition from the columns of a run.

    Raises SyntaxError if it is neither a comparison nor a combination of comparisons, and
    UsageError if a column is not `known`.
    """
    match node:
        case ast.Constant(value=value):
            return lambda _: value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return lambda _: -number
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            negated = _compiled(operand, known)
            return lambda row: not negated(row)
        case ast.List(elts=nodes) | ast.Tuple(elts=nodes):
            items = [_compiled(item, known) for item in nodes]
            return lambda row: [item(row) for item in items]
        case ast.BoolOp(op=combination, values=nodes):
            parts = [_compiled(part, known) for part in nodes]
            combine = all if isinstance(combination, ast.And) else any
            return lambda row: combine(part(row) for part in parts)
        case ast.Compare(left=left, ops=signs, comparators=others):
            sides = [_compiled(side, known) for side in (left, *others)]
            if not any(isinstance(side, ast.Name | ast.Attribute) for side in (left, *others)):
                raise SyntaxError("no column is compared")
            comparisons = [_COMPARISONS[type(sign)] for sign in signs]
            return lambda row: _all_hold(comparisons, [side(row) for side in sides])
        case ast.Name() | ast.Attribute():
            name = ast.unparse(node)
            if name in _CONSTANTS:
                return lambda _: _CONSTANTS[name]
            check_column(name, known)
            return lambda row: row.get(name)
    raise SyntaxError("only comparisons with and, or, not are allowed")


def _all_hold(comparisons: Iterable[Callable[[Any, Any], Any]], values: Sequence[Any]) -> bool:
    try:
        pairs = itertools.pairwise(values)
        return all(map(lambda hold, pair: hold(*pair), comparisons, pairs))
    except TypeError:  # a text has no order with a number, and null has none with anything
        return False


def check_column(name: str, known: Sequence[str]) -> None:
    """Raise UsageError if `name` is not one of the `known` columns."""
    if name not in known:
        raise UsageError(
            f"no run has a column {name!r}{did_you_mean(name, known) or '; see them with --json.'}"
        )


def in_order(entries: Sequence[Entry], column: str) -> list[Entry]:
    """Return runs sorted by a column; with a leading `-`, the largest value comes first.

    Runs without a value come last. Raises UsageError if no run has the column.
    """
    name = column.removeprefix("-")
    check_column(name, _columns_of(entries))
    having = [entry for entry in entries if entry.columns.get(name) is not None]

    def rank(entry: Entry) -> Any:
        value = entry.columns[name]
        number = value.timestamp() if isinstance(value, datetime) else value
        return (0, number, "") if isinstance(number, int | float) else (1, 0, str(value))

    rest = [entry for entry in entries if entry.columns.get(name) is None]
    return sorted(having, key=rank, reverse=column != name) + rest


def listed(entries: Sequence[Entry], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return columns of a list of runs for display, as lists by column.

    Args:
        entries: The runs.
        names: Columns to return. If empty, return the columns that say what was learned, when, and
            with which error, followed by the settings in which the runs differ, the most common
            settings first.

    Raises:
        UsageError: If no run has one of the columns.
    """
    rows = [entry.columns for entry in entries]
    if names and rows:
        known = _columns_of(entries)
        for name in names:
            check_column(name, known)
    if not names:
        values = defaultdict[str, list[Any]](list)
        for entry in entries:
            for name in entry.settings:
                values[name].append(entry.columns[name])
        settings = [
            name
            for name, known_values in values.items()
            if name not in (*LEARNED, *ABOUT_A_RUN)
            and any(value != known_values[0] for value in known_values)
        ]
        settings.sort(key=lambda name: -len(values[name]))
        results, labels = (
            [name for name in group if any(row.get(name) not in (None, []) for row in rows)]
            for group in (RESULTS, ("best", "tags", "note"))
        )
        if any((row.get("points") or 1) > 1 for row in rows):
            labels.insert(0, "points")
        names = ["name", "target", "created", *results, "status", *settings, "seconds", *labels]
    return {name: [_shown(row.get(name)) for row in rows] for name in names}


def _shown(value: Any) -> Any:
    """Return a value of a column for display: local times, and lists without brackets."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    return local_time(value)


def local_time(time: Any) -> Any:
    """Return a time as text in the local time zone, to the minute; other values unchanged."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(time, datetime) else time
