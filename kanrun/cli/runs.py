"""`kanrun runs`: list, ask, show, compare and report runs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kanrun.cli.completion import complete_run
from kanrun.cli.experiments import Outputs
from kanrun.errors import KanrunError

if TYPE_CHECKING:
    from kanrun.runs import Run
    from kanrun.study.report import Columns

app = typer.Typer(
    help="List, show, compare, label, repeat, continue and remove runs.", rich_markup_mode=None
)

_RUN = "A run: latest, fit/latest, fit/v0003, a path, a tag, or the beginning of a name."
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
            "--where", metavar="CONDITION", help='Such as "test_rmse < 1e-4 and seeds > 1".'
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
        typer.Option(
            "--columns", metavar="A,B,...", help="These columns, such as name,model.hidden,r2."
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="Those that bear it.")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="WORD", help="Such as completed or killed.")
    ] = None,
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the runs, newest first, with the settings in which they differ; a sweep with its best job.

    Conditions, order and columns go by results such as test_rmse, settings such as model.hidden, and name, command,
    status, started, seconds, seeds, tags, note, jobs, best.
    """
    from kanrun.runs.index import RunIndex
    from kanrun.runs.listing import Selection

    for_programs = as_json or as_csv
    most = most if most is not None or for_programs else _MOST_LISTED
    named = tuple(name.strip() for name in columns.split(",")) if columns else ()
    index = RunIndex(outputs)
    runs, total = Selection(most, where, sort, named, tag, status).runs(index)
    chosen = Selection(columns=named).table(runs) if named or not as_json else {}
    rows = (
        [{"folder": str(run.run.path), **run.row()} for run in runs]
        if as_json and not named
        else None
    )
    index.save()
    if rows is not None:
        print(json.dumps(rows, indent=2, default=str))
    elif for_programs or runs:
        _print_columns(
            chosen, as_json, as_csv, total - len(runs), first=("name", "status", *chosen)
        )
    elif index.runs:
        print(
            f"kanrun: none of the {len(index.runs)} runs in {outputs} is meant by that",
            file=sys.stderr,
        )
    else:
        print(f"kanrun: no runs in {outputs} yet", file=sys.stderr)


@app.command("query")
def query_runs(
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help='Such as "SELECT name, test_rmse FROM runs".')
    ],
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Ask SQL (SQLite's) of the table `runs`, one row per run and job, with the columns of `runs list`; read only.

    Names with a dot stand in double quotes: "model.degree".
    """
    from kanrun.runs.index import RunIndex
    from kanrun.runs.listing import query

    index = RunIndex(outputs)
    answer = query(index, sql)
    index.save()
    _print_columns(answer, as_json, as_csv)


@app.command("show")
def show_run(
    run: RunName = "latest", outputs: Outputs = Path("outputs"), as_json: AsJson = False
) -> None:
    """Show one run or sweep: what was asked, how far it came, its results, claims and files, and how to continue it."""
    from kanrun.runs import find_run
    from kanrun.runs.reader import unfinished

    found = find_run(run, outputs)
    if as_json:
        jobs = (
            {"status": found.status, "jobs": [job.name for job in found.jobs]}
            if found.is_sweep
            else {}
        )
        content = jobs or found.manifest.to_dict()
        labels = {"tags": list(found.labels.tags), "note": found.labels.note}
        print(json.dumps({"folder": str(found.path), **content, **labels}, indent=2, default=str))
        return
    from kanrun.study import report
    from kanrun.study.comparison import print_jobs

    console = report.output_console()
    lines = []
    if found.is_sweep:
        report.print_line(
            console, f"{found.path}: {found.status}, a sweep of {len(found.jobs)} jobs"
        )
        print_jobs(console, found)
    else:
        _print_about(found)
    if found.labels.tags:
        lines.append(f"  tags: {', '.join(found.labels.tags)}")
    if found.labels.note:
        lines.append(f"  note: {found.labels.note}")
    lines += [f"  {sentence}" for sentence in unfinished(found)]
    for line in [*lines, *(f"  {path}" for path in found.figures)]:
        report.print_line(console, line)


@app.command("compare")
def compare_runs(
    runs: RunNames,
    outputs: Outputs = Path("outputs"),
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
    """Compare runs: the settings that differ, results side by side, and a figure of learning curves and edges.

    A sweep stands for its best job.
    """
    from kanrun.runs import find_run
    from kanrun.study.comparison import RunComparison, write_figure_of

    comparison = RunComparison([find_run(word, outputs).single for word in runs])
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
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write one HTML page of runs: settings, claims, tables, figures, and the networks themselves to touch and drag.

    It needs no connection and no other file. A sweep is shown by its jobs and its best one.
    """
    from kanrun.runs import find_run
    from kanrun.study.page import write_report

    write_report([find_run(word, outputs) for word in runs], output)
    print(output)


@app.command("diff")
def diff_runs(
    run: RunName,
    other: Annotated[str, typer.Argument(metavar="OTHER", help=_RUN, autocompletion=complete_run)],
    outputs: Outputs = Path("outputs"),
) -> None:
    """Show the settings, versions and commits in which two runs differ: of the first with -, of the other with +."""
    from kanrun.runs import find_run
    from kanrun.study import report
    from kanrun.study.comparison import RunComparison

    comparison = RunComparison([find_run(word, outputs).single for word in (run, other)])
    console = report.output_console()
    for mark, name in zip("-+", comparison.names, strict=True):
        report.print_line(console, f"{mark * 3} {name}")
    for name, (first, second) in {**comparison.settings, **comparison.origins}.items():
        for mark, value in (("-", first), ("+", second)):
            if value is not None:
                report.print_line(console, f"{mark} {name}: {value}")


def _print_columns(
    columns: Columns,
    as_json: bool = False,
    as_csv: bool = False,
    more: int = 0,
    first: Sequence[str] = (),
) -> None:
    """Columns as a table, or for programs; `more` rows are left out, which the table says."""
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
    """What was asked of a run and how it ended: settings of the record, notes, summary, claims."""
    from kanrun.runs.listing import local_time
    from kanrun.study import report

    console = report.output_console()
    try:
        manifest = run.manifest
    except KanrunError as error:
        report.print_line(console, f"{run.path}: {run.status}")
        if run.status == "UNREADABLE":
            report.print_line(console, f"  {error}")
        return
    reason = f" ({manifest.reason})" if manifest.reason else ""
    report.print_line(console, f"{run.path}: {run.status}{reason}")
    for name in _ABOUT:
        value = getattr(manifest, name)
        words = " ".join(map(str, value)) if isinstance(value, tuple) else local_time(value)
        report.print_line(console, f"  {name}: {report.shown(words) or 'none'}")
    for note in manifest.notes:
        report.print_line(console, f"  note: {note}")
    with contextlib.suppress(KanrunError):  # of a summary that is damaged
        report.print_summary(console, run.columns("summary"))
    report.print_claims(console, manifest.claims)
