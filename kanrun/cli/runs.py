"""`kanrun runs`: list, query, show, compare and report runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kanrun.cli.commands import (
    OUTPUTS,
    AsCsv,
    AsJson,
    Command,
    Outputs,
    Replace,
    RunName,
    RunNames,
    SpreadsheetSafe,
    check_new,
    find_run,
    output_option,
    runs_commands,
)
from kanrun.errors import KanrunError, StorageFailed, tell

if TYPE_CHECKING:
    from kanrun.runs import Run
    from kanrun.study.report import Columns

#: Default number of runs that `kanrun runs list` shows.
_MOST_LISTED = 20
#: Columns of the last recorded step that are shown for an unfinished run.
_STEP = ("stage", "intervals", "step", "validation_rmse", "test_rmse")
_RESUME = re.compile(r"(point\d+-)?resume-\d+-\d+")
_ABOUT = (
    "command",
    "started",
    "ended",
    "seconds",
    "seeds",
    "device",
    "precision",
    "threads",
    "overrides",
)


@runs_commands.callback()
def _runs(context: typer.Context) -> None:
    """List, show, compare, label, repeat, resume and remove runs."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@runs_commands.command("list", cls=Command)
def list_runs(  # noqa: PLR0913  (each is an option)
    *,
    most: Annotated[
        int | None,
        typer.Option(
            "-n", metavar="N", min=1, help=f"How many. Default: {_MOST_LISTED}; all as JSON or CSV."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help='In SQL, such as "test_rmse < 1e-4 AND seeds > 1".'),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="By a column; with - in front, from the largest."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns, such as name,model.hidden,r2.")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Runs with this tag.")] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="A word in the status, such as completed or killed."),
    ] = None,
    outputs: Outputs = OUTPUTS,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    spreadsheet_safe: SpreadsheetSafe = False,
) -> None:
    """List the runs with the settings in which they differ.

    Conditions, order and columns refer to results such as test_rmse, settings such as model.hidden
    (in conditions in double quotes), and name, command, status, started, seconds, seeds, points,
    tags, note, best. A run of several points is listed with its best point.
    """
    from kanrun.runs.index import RunIndex, listed

    index = RunIndex(outputs)
    rows = index.rows(where or "1", sort, tag, status)
    shown = rows[: most if most is not None or as_json or as_csv else _MOST_LISTED]
    if as_json and columns is None:
        _print_json([{"folder": str(outputs / row["name"]), **row} for row in shown])
    elif rows or as_json or as_csv:
        names = [name.strip() for name in columns.split(",")] if columns else []
        _print_columns(listed(index, shown, names), as_json, as_csv, spreadsheet_safe)
        if not as_json and not as_csv and len(shown) < len(rows):
            print(f"{len(rows) - len(shown)} more runs (-n, --where)")
    elif number := len(index.rows()):
        tell(f"none of the {number} runs in {outputs} is selected")
    else:
        tell(f"no runs in {outputs} yet")


@runs_commands.command("query", cls=Command)
def query_runs(
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help='Such as "SELECT name, test_rmse FROM runs".')
    ],
    *,
    outputs: Outputs = OUTPUTS,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    spreadsheet_safe: SpreadsheetSafe = False,
) -> None:
    """Answer an SQL query over the tables `runs` and `points`.

    SQLite answers, read only. `runs` has one row per run, with the columns of `runs list`; `points`
    one row per point, with `run`, `point`, its results and its swept settings. Names with a dot
    need double quotes.
    """
    from kanrun.runs.index import RunIndex

    _print_columns(RunIndex(outputs).query(sql), as_json, as_csv, spreadsheet_safe)


@runs_commands.command("show", cls=Command)
def show_run(
    run: RunName = "latest", *, outputs: Outputs = OUTPUTS, as_json: AsJson = False
) -> None:
    """Show a run or a point: settings, results, claims, files."""
    from kanrun.runs.files import to_json

    shown = find_run(run, outputs)
    labels = {"tags": list(shown.labels.tags), "note": shown.labels.note}
    if as_json:
        content = {"folder": str(shown.path), **json.loads(to_json(shown.manifest)), **labels}
        names = [point.name for point in shown.points]
        content |= {"points": names, "overrides": shown.overrides}
        _print_json(content)
        return
    _print_about(shown)
    tags = ", ".join(shown.labels.tags)
    note = shown.labels.note
    lines = [f"{name}: {text}" for name, text in (("tags", tags), ("note", note)) if text]
    _print_lines(f"  {line}" for line in (*lines, *_unfinished(shown), *shown.figures))


@runs_commands.command("compare", cls=Command)
def compare_runs(
    names: RunNames,
    *,
    outputs: Outputs = OUTPUTS,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the figure goes. Default: in OUTPUTS/comparisons."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the settings, results and learning curves of runs.

    Of a run of several points the best is compared, unless a point is named (fit/v0003/7).
    """
    from kanrun.study.report import as_columns, differences, draw_comparison

    runs = [_one(word, outputs) for word in names]
    settings, results, _ = differences(runs)
    if as_json:
        _print_json({"settings": settings, "results": results})
        return
    for title, part, none in (
        ("settings", settings, "no setting differs"),
        ("results", results, "no run has results"),
    ):
        if part:
            _print_columns(as_columns(runs, part, title))
        else:
            print(none)
    stem = figure or outputs / "comparisons" / "-".join(r.name.replace("/", "-") for r in runs)
    for path in draw_comparison(runs, stem):
        print(path)


@runs_commands.command("report", cls=Command)
def report_runs(
    names: RunNames,
    *,
    output: Annotated[Path, output_option("Where the page goes.")] = Path("report.html"),
    force: Replace = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Write one HTML page of runs, with figures and tables.

    It needs no connection and no other file. A run of several points is shown by a table of them
    and the best one.
    """
    from kanrun.study.page import write_report

    check_new(output, force)
    write_report([find_run(word, outputs) for word in names], output)
    print(output)


@runs_commands.command("diff", cls=Command)
def diff_runs(run: RunName, other: RunName, *, outputs: Outputs = OUTPUTS) -> None:
    """Show the settings and versions in which two runs differ.

    Values of the first run begin with -, those of the other with +.
    """
    from kanrun.study.report import differences

    runs = [_one(word, outputs) for word in (run, other)]
    settings, _, origins = differences(runs)
    _print_lines(f"{mark * 3} {compared.name}" for mark, compared in zip("-+", runs, strict=True))
    for name, values in {**settings, **origins}.items():
        pairs = zip("-+", values, strict=True)
        _print_lines(f"{mark} {name}: {value}" for mark, value in pairs if value is not None)


def _unfinished(run: Run) -> Iterator[str]:
    """Yield lines on an incomplete run: its last step, and what `kanrun runs resume` would do."""
    if run.status in {"COMPLETED", "RUNNING", "UNREADABLE"}:
        return
    try:
        total = run.manifest.trainings
    except KanrunError:
        yield "It was killed before it recorded anything. Start it again."
        return
    with contextlib.suppress(StorageFailed):
        last = {name: values[-1] for name, values in run.columns("metrics").items() if values}
        shown = [
            f"{name} {last[name]:.3g}" for name in _STEP if isinstance(last.get(name), int | float)
        ]
        if shown:
            yield f"last recorded step: {', '.join(shown)}"
    begun = sum(bool(_RESUME.fullmatch(name)) for name in run.checkpoints)
    finished = len(run.journal.finished)
    rest = total - finished - begun
    parts = [f"{finished} of {total} trainings are finished and kept"] if total > 1 else []
    parts += [f"{begun} continue{'s' * (begun == 1)} from the last checkpoint"] if begun else []
    if rest > 0:
        parts.append(f"{rest} restart{'s' * (rest == 1)}" if total > 1 else "it restarts")
    # Show a path, because the run may be in an outputs folder other than the default.
    yield f"`kanrun runs resume {os.path.relpath(run.path)}`: {', '.join(parts)}"


def _one(word: str, outputs: Path) -> Run:
    """Return the run or point that `word` names; for a run with points, its best point."""
    run = find_run(word, outputs)
    if run.has_points:
        tell(f"{run.name} has {len(run.points)} points; {run.best.name}, the best, is taken")
    return run.best


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _print_lines(lines: Iterable[str]) -> None:
    """Print lines that contain text from runs, without terminal control characters."""
    from kanrun.study import report

    console = report.output_console()
    for line in lines:
        report.print_line(console, line)


def _print_columns(
    columns: Columns,
    as_json: bool = False,
    as_csv: bool = False,
    spreadsheet_safe: bool = False,
) -> None:
    """Print columns as a table that fits the terminal, or as JSON or CSV.

    If the table is too wide, the last columns are omitted.
    """
    from kanrun.runs.files import as_text, csv_lines

    rows = list(zip(*columns.values(), strict=True))
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif as_csv:
        lists = [[name, *values] for name, values in columns.items()]
        if spreadsheet_safe:
            lists = [list(map(as_text, column)) for column in lists]
        print(csv_lines(lists).decode(), end="")
    else:
        from kanrun.study import report

        console = report.output_console()
        narrow = report.print_table(console, columns)
        if narrow:
            names = ", ".join(narrow)
            _print_lines([f"{len(narrow)} more columns (--columns, --csv): {names}"])


def _print_about(run: Run) -> None:
    """Print the facts recorded about a run, its notes, its results or points, and its claims."""
    from kanrun.runs.index import local_time
    from kanrun.study import report
    from kanrun.study.progress import shown

    lines = [f"{run.address}: {run.status}"]
    try:
        manifest = run.manifest
    except KanrunError as error:
        _print_lines([*lines, f"  {error}"] if run.status == "UNREADABLE" else lines)
        return
    lines[0] += f" ({manifest.reason})" if manifest.reason else ""
    for name in _ABOUT:
        value = tuple(run.overrides) if name == "overrides" else getattr(manifest, name)
        text = " ".join(map(str, value)) if isinstance(value, tuple) else local_time(value)
        lines.append(f"  {name}: {shown(text) or 'none'}")
    _print_lines([*lines, *(f"  note: {note}" for note in manifest.notes)])
    report.print_results(report.output_console(), run)
