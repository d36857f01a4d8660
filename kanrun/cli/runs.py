"""`kanrun runs`: list, query, show, compare and report runs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kanrun.cli.completion import complete_run
from kanrun.cli.experiments import OUTPUTS, Outputs
from kanrun.errors import KanrunError

if TYPE_CHECKING:
    from kanrun.runs import Run
    from kanrun.study.report import Columns

app = typer.Typer(
    help="List, show, compare, label, repeat, resume and remove runs.",
    rich_markup_mode=None,
    invoke_without_command=True,
)

_RUN = "latest, fit/latest, fit/v0003, fit/v0003/7 (a point), a path, a tag, or a beginning."
#: Runs that a list shows.
_MOST_LISTED = 20
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

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="As CSV, for programs.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help=_RUN, autocompletion=complete_run)]
RunNames = Annotated[
    list[str], typer.Argument(metavar="RUN...", help=_RUN, autocompletion=complete_run)
]


@app.callback()
def _runs(context: typer.Context) -> None:
    """List, show, compare, label, repeat, resume and remove runs."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_runs(  # noqa: PLR0913, PLR0917  (each is an option)
    most: Annotated[
        int | None,
        typer.Option(
            "-n", metavar="N", min=1, help=f"How many. Default: {_MOST_LISTED}; all as JSON or CSV."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where", metavar="CONDITION", help='In SQL, such as "test_rmse < 1e-4 AND seeds > 1".'
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort", metavar="COLUMN", help="By a column; with - in front, from the largest."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B,...", help="Columns, such as name,model.hidden,r2."),
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="Runs with this tag.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status", metavar="WORD", help="A word in the status, such as completed or killed."
        ),
    ] = None,
    outputs: Outputs = OUTPUTS,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the runs, newest first, with the settings in which they differ.

    Conditions, order and columns refer to results such as test_rmse, settings such as model.hidden
    (in conditions in double quotes), and name, command, status, started, seconds, seeds, points,
    tags, note, best. A run of several points is listed with its best point.
    """
    from kanrun.runs.index import RunIndex
    from kanrun.runs.listing import Selection

    most = most if most is not None or as_json or as_csv else _MOST_LISTED
    named = tuple(name.strip() for name in columns.split(",")) if columns else ()
    index, selection = RunIndex(outputs), Selection(most, where, sort, named, tag, status)
    rows, total = selection.rows(index)
    if as_json and not named:
        print(json.dumps([{"folder": str(outputs / row["name"]), **row} for row in rows], indent=2))
    elif rows or as_json or as_csv:
        chosen = selection.table(rows, index)
        first = ("name", "status", *chosen)
        _print_columns(chosen, as_json, as_csv, total - len(rows), first=first)
    elif number := index.count():
        print(f"kanrun: none of the {number} runs in {outputs} is selected", file=sys.stderr)
    else:
        print(f"kanrun: no runs in {outputs} yet", file=sys.stderr)


@app.command("query")
def query_runs(
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help='Such as "SELECT name, test_rmse FROM runs".')
    ],
    outputs: Outputs = OUTPUTS,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Answer an SQL query (SQLite's, read only) over the tables `runs` and `points`.

    `runs` has one row per run, with the columns of `runs list`; `points` one row per point, with
    `run`, `point`, its results and its swept settings. Names with a dot need double quotes.
    """
    from kanrun.runs.index import RunIndex

    _print_columns(RunIndex(outputs).query(sql), as_json, as_csv)


@app.command("show")
def show_run(run: RunName = "latest", outputs: Outputs = OUTPUTS, as_json: AsJson = False) -> None:
    """Show a run or a point of it: settings, results, claims, files, how to resume it."""
    from kanrun.runs import find_run
    from kanrun.runs.reader import unfinished

    found = find_run(run, outputs)
    labels = {"tags": list(found.labels.tags), "note": found.labels.note}
    if as_json:
        content = {"folder": str(found.path), **found.manifest.to_dict(), **labels}
        content |= {"points": [one.name for one in found.points]} if found.has_points else {}
        print(json.dumps(content, indent=2, default=str))
        return
    from kanrun.study import report

    console = report.output_console()
    _print_about(found)
    lines = [f"  tags: {', '.join(found.labels.tags)}"] if found.labels.tags else []
    lines += [f"  note: {found.labels.note}"] if found.labels.note else []
    lines += [f"  {sentence}" for sentence in unfinished(found)]
    for line in [*lines, *(f"  {path}" for path in found.figures)]:
        report.print_line(console, line)


@app.command("compare")
def compare_runs(
    runs: RunNames,
    outputs: Outputs = OUTPUTS,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            metavar="FILE",
            help="Where the figure goes. Default: in OUTPUTS/comparisons.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: settings that differ, results, and a figure of learning curves and edges.

    Of a run of several points the best is compared, unless a point is named (fit/v0003/7).
    """
    from kanrun.study.comparison import RunComparison, write_figure_of

    comparison = RunComparison([_one(word, outputs) for word in runs])
    if as_json:
        print(
            json.dumps(
                {"settings": comparison.settings, "results": comparison.results},
                indent=2,
                default=str,
            )
        )
        return
    for title, part in (("settings", comparison.settings), ("results", comparison.results)):
        if part:
            rows = comparison.columns(part, title)
            _print_columns(rows, first=tuple(rows))
        else:
            print("no setting differs" if title == "settings" else "no run has results")
    stem = figure or outputs / "comparisons" / "-".join(
        name.replace("/", "-") for name in comparison.names
    )
    for path in write_figure_of(comparison, stem):
        print(path)


@app.command("report")
def report_runs(
    runs: RunNames,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the page goes.")
    ] = Path("report.html"),
    outputs: Outputs = OUTPUTS,
) -> None:
    """Write one HTML page of runs: settings, claims, tables, figures and interactive networks.

    It needs no connection and no other file, and holds at most ten networks. A run of several
    points is shown by a table of them and the best one.
    """
    from kanrun.runs import find_run
    from kanrun.study.page import write_report

    write_report([find_run(word, outputs) for word in runs], output)
    print(output)


@app.command("diff")
def diff_runs(
    run: RunName,
    other: Annotated[str, typer.Argument(metavar="OTHER", help=_RUN, autocompletion=complete_run)],
    outputs: Outputs = OUTPUTS,
) -> None:
    """Show settings, versions and commits in which two runs differ: first with -, other +."""
    from kanrun.study import report
    from kanrun.study.comparison import RunComparison

    comparison = RunComparison([_one(word, outputs) for word in (run, other)])
    console = report.output_console()
    for mark, name in zip("-+", comparison.names, strict=True):
        report.print_line(console, f"{mark * 3} {name}")
    for name, (first, second) in {**comparison.settings, **comparison.origins}.items():
        for mark, value in (("-", first), ("+", second)):
            if value is not None:
                report.print_line(console, f"{mark} {name}: {value}")


def _one(word: str, outputs: Path) -> Run:
    """Return the run or point that `word` names, or its best point, and say so."""
    from kanrun.runs import find_run

    run = find_run(word, outputs)
    if run.has_points:
        print(
            f"kanrun: {run.name} has {len(run.points)} points; {run.best.name}, the best, is taken",
            file=sys.stderr,
        )
    return run.best


def _print_columns(
    columns: Columns,
    as_json: bool = False,
    as_csv: bool = False,
    more: int = 0,
    first: Sequence[str] = (),
) -> None:
    """Print columns as a table, or for programs; `more` rows are left out."""
    names = list(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
        return
    if as_csv:
        from kanrun.runs.tables import csv_lines

        print(csv_lines([names, *([*row.values()] for row in rows)]).decode(), end="")
        return
    from rich.text import Text

    from kanrun.study import report

    console = report.output_console()
    _, narrow = report.print_table(console, columns, first=first)
    said = [f"{more} more runs (-n, --where)"] if more else []
    said += (
        [f"{len(narrow)} more columns (--columns, --csv): {', '.join(narrow)}"] if narrow else []
    )
    for line in said:
        report.print_line(console, Text(line, style="dim"))


def _print_about(run: Run) -> None:
    """Print the record of a run, its notes, its summary or points, and its claims."""
    from kanrun.runs.listing import local_time
    from kanrun.study import report
    from kanrun.study.comparison import print_points

    console = report.output_console()
    try:
        manifest = run.manifest
    except KanrunError as error:
        report.print_line(console, f"{run.address}: {run.status}")
        if run.status == "UNREADABLE":
            report.print_line(console, f"  {error}")
        return
    reason = f" ({manifest.reason})" if manifest.reason else ""
    report.print_line(console, f"{run.address}: {run.status}{reason}")
    for name in _ABOUT:
        value = getattr(manifest, name)
        words = " ".join(map(str, value)) if isinstance(value, tuple) else local_time(value)
        report.print_line(console, f"  {name}: {report.shown(words) or 'none'}")
    for note in manifest.notes:
        report.print_line(console, f"  note: {note}")
    with contextlib.suppress(KanrunError):  # of tables that are damaged
        if run.has_points:
            print_points(console, run)
        else:
            report.print_summary(console, run.columns("summary"))
    report.print_claims(console, manifest.claims)
