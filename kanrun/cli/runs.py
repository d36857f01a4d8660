"""Commands on runs: predict, export, lesson, and `kanrun runs`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kanrun.cli.commands import (
    OUTPUTS,
    AsCsv,
    AsJson,
    Command,
    Jobs,
    ModelName,
    Outputs,
    Overrides,
    Quiet,
    Replace,
    RunName,
    RunNames,
    Scheduler,
    SpreadsheetSafe,
    Strict,
    check_new,
    find_run,
    kanrun_commands,
    output_option,
    runs_commands,
)
from kanrun.errors import KanrunError, StorageFailed, UsageError, tell

if TYPE_CHECKING:
    from kanrun.runs import Run
    from kanrun.study.report import Columns

#: Number of runs that `kanrun runs list` shows by default.
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


@kanrun_commands.command("predict", cls=Command)
def predict(  # noqa: PLR0913  # options of a command
    run: RunName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A table (CSV, TSV, Parquet) with the run's input columns."
        ),
    ],
    *,
    output: Annotated[
        Path,
        output_option("File of the predictions; its ending chooses CSV, TSV or Parquet."),
    ],
    model: ModelName = None,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="LEVEL",
            help="Add the bounds of the interval that has this coverage probability, in (0, 1).",
        ),
    ] = None,
    quantiles: Annotated[
        str,
        typer.Option(
            metavar="PROBABILITIES",
            help="Add the values that outputs do not exceed with these probabilities: 0.1,0.5,0.9.",
        ),
    ] = "",
    derivatives: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Add derivatives of an equation's solution: u_x,u_xx."),
    ] = "",
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Add what each column contributes; contributions sum to predictions."
        ),
    ] = False,
    spreadsheet_safe: SpreadsheetSafe = False,
    force: Replace = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Predict new rows with the model of a run.

    Predictions are in the units of the data that the model was trained on.
    """
    from kanrun.model.model import LoadedRun
    from kanrun.model.trained import PredictionOptions, predict_table
    from kanrun.monitoring import enable_gc
    from kanrun.targets.table_files import check_output

    enable_gc()
    if output.exists() and file.exists() and output.samefile(file):
        raise UsageError(
            f"--output {output} is the input file, whose other columns would be lost. Name another."
        )
    check_new(output, force)
    named = find_run(run, outputs, one=True)
    check_output(output)
    wanted = [name.strip() for name in derivatives.split(",") if name.strip()]
    try:
        levels = [float(level) for level in quantiles.split(",") if level.strip()]
    except ValueError:
        raise UsageError(f"--quantiles {quantiles} must be numbers such as 0.1,0.5,0.9.") from None
    options = PredictionOptions(interval, levels, wanted, spreadsheet_safe, explain)
    for warning in predict_table(LoadedRun(named).model(model), file, output, options):
        tell(warning)
    print(output)


@kanrun_commands.command("export", cls=Command)
def export(
    run: RunName,
    *,
    format: Annotated[
        Literal["c", "javascript", "python", "onnx", "formula"],
        typer.Option(
            help="c, javascript, python (NumPy alone), onnx; formula: of kanrun interpret."
        ),
    ],
    output: Annotated[
        Path,
        output_option("The file; a formula's is LaTeX for .tex, else text."),
    ],
    model: ModelName = None,
    force: Replace = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Write the model of a run as a file that needs no kanrun.

    Its inputs and outputs are in the units of the data.
    """
    from kanrun.model.model import LoadedRun

    check_new(output, force)
    named = find_run(run, outputs, one=True)
    for sentence in LoadedRun(named).export(format, output, model):
        tell(sentence)
    print(output)


@kanrun_commands.command("lesson", cls=Command)
def lesson(
    *,
    output: Annotated[Path, output_option("The HTML file.")] = Path("lesson.html"),
    force: Replace = False,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
) -> None:
    """Write the lecture as one interactive page.

    It shows runs with the tag `lesson`. A command without such a run is run first, in a small study
    that takes seconds.
    """
    from kanrun.launch import Source, compose
    from kanrun.study.page import STUDIES, TAG, recorded_runs, write_lesson
    from kanrun.study.running import run_study
    from kanrun.study.studies import RunOptions

    check_new(output, force)
    there = recorded_runs(outputs)
    for name in (name for name in STUDIES if name not in there):
        arguments = (*STUDIES[name], f"tags=[{TAG}]")
        study = compose(Source(name, outputs), arguments, argv=("kanrun", name, *arguments))
        if code := run_study(study, RunOptions(outputs, quiet))[0]:
            raise typer.Exit(code)
    write_lesson(recorded_runs(outputs), output)
    print(output)


@runs_commands.callback()
def _runs(context: typer.Context) -> None:
    """List, show, compare, repeat, resume and remove runs."""
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
        typer.Option(
            metavar="CONDITION", help="Such as \"test_rmse < 1e-4 and model.kind == 'kan'\"."
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="By a column; with - in front, from the largest."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns, such as name,model.hidden,r2.")
    ] = None,
    outputs: Outputs = OUTPUTS,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    spreadsheet_safe: SpreadsheetSafe = False,
) -> None:
    """List the runs with the settings in which they differ.

    Conditions, order and columns refer to results such as test_rmse, settings such as model.hidden,
    and name, command, status, created, seconds, seeds, points, tags, note, best, as in "'final' in
    tags and status == 'COMPLETED'". A run of several points is listed with its best point.
    """
    from kanrun.runs.finding import in_order, listed, run_entries, selected

    found = run_entries(outputs)
    chosen = selected(found, where) if where is not None and found else found
    if sort is not None and chosen:
        chosen = in_order(chosen, sort)
    shown = chosen[: most if most is not None or as_json or as_csv else _MOST_LISTED]
    if as_json and columns is None:
        _print_json(
            [{"folder": str(outputs / entry.columns["name"]), **entry.columns} for entry in shown]
        )
    elif chosen or as_json or as_csv:
        names = [name.strip() for name in columns.split(",")] if columns else []
        _print_columns(listed(shown, names), as_json, as_csv, spreadsheet_safe)
        if not as_json and not as_csv and len(shown) < len(chosen):
            print(f"{len(chosen) - len(shown)} more runs (-n, --where)")
    elif found:
        tell(f"none of the {len(found)} runs in {outputs} is selected")
    else:
        tell(f"no runs in {outputs} yet")


@runs_commands.command("show", cls=Command)
def show_run(
    run: RunName = "latest", *, outputs: Outputs = OUTPUTS, as_json: AsJson = False
) -> None:
    """Show a run or a point: settings, results, claims, files."""
    from kanrun.runs.files import to_json

    shown = find_run(run, outputs)
    if as_json:
        content = {"folder": str(shown.path), **json.loads(to_json(shown.manifest))}
        names = [point.name for point in shown.points]
        content |= {"points": names, "overrides": shown.overrides}
        _print_json(content)
        return
    _print_about(shown)
    _print_lines(f"  {line}" for line in (*_unfinished(shown), *shown.figures))


@runs_commands.command("compare", cls=Command)
def compare_runs(
    names: RunNames,
    *,
    outputs: Outputs = OUTPUTS,
    as_json: AsJson = False,
) -> None:
    """Compare the settings and results of runs.

    Of a run of several points the best is compared, unless a point is named (fit/v0003/7).
    """
    from kanrun.study.report import as_columns, differences

    runs = [_one(word, outputs) for word in names]
    settings, results = differences(runs)
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


@runs_commands.command("rerun", cls=Command)
def rerun_run(
    run: RunName,
    overrides: Overrides = None,
    *,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
    strict: Strict = False,
    n_jobs: Jobs = None,
    scheduler: Scheduler = None,
) -> None:
    """Repeat a run or a point, and compare the numbers.

    With overrides, nothing is compared. Exits with 1 if numbers differ that the same version on the
    same machine should reproduce.
    """
    from kanrun.launch import compose_again
    from kanrun.study.running import rerun, run_study
    from kanrun.study.studies import RunOptions

    options = RunOptions(outputs, quiet, strict=strict, n_jobs=n_jobs, scheduler=scheduler)
    named = find_run(run, outputs)
    if not overrides:
        raise typer.Exit(rerun(named, options))
    places = {"n_jobs": n_jobs, "scheduler": scheduler}
    words = [f"{name}={value}" for name, value in places.items() if value is not None]
    study = compose_again(named, [*overrides, *words], outputs)
    raise typer.Exit(run_study(study, options)[0])


@runs_commands.command("resume", cls=Command)
def resume_interrupted(
    run: RunName,
    *,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
    strict: Strict = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Resume also if another host started the run, which must have ended there.",
        ),
    ] = False,
    n_jobs: Jobs = None,
    scheduler: Scheduler = None,
) -> None:
    """Continue a run that stopped; finished trainings are kept."""
    from kanrun.study.running import resume_run
    from kanrun.study.studies import RunOptions

    options = RunOptions(
        outputs, quiet, strict=strict, force=force, n_jobs=n_jobs, scheduler=scheduler
    )
    raise typer.Exit(resume_run(find_run(run, outputs), options))


@runs_commands.command("remove", cls=Command)
def remove_runs(
    names: RunNames,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Delete the folders of runs, after asking.

    Nothing outside OUTPUTS and no running run is deleted.
    """
    from kanrun.runs import remove_run

    runs = list({run.address: run for run in (find_run(word, outputs) for word in names)}.values())
    for run in runs:
        remove_run(run, outputs, check_only=True)
    if not yes:
        listed = ", ".join(run.name for run in runs)
        files = sum(path.is_file() for run in runs for path in run.path.rglob("*"))
        print(
            f"Delete {listed} with all {files} files? [y/N]: ", end="", file=sys.stderr, flush=True
        )
        answer = sys.stdin.readline()
        if not (sys.stdin.isatty() and answer):  # there was no answer on a terminal
            print(file=sys.stderr)
        if answer.strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was deleted.")
    for run in runs:
        remove_run(run, outputs)
        print(f"deleted {run.path}")


@runs_commands.command("figures", cls=Command)
def redraw_figures(
    run: RunName,
    *,
    format: Annotated[
        list[str], typer.Option(metavar="FORMAT", help="png, svg or pdf; repeat for several.")
    ] = ["png"],  # noqa: B006  (Typer reads the default)
    point: Annotated[
        int | None, typer.Option(metavar="N", help="One point of a run of several.")
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this one, such as network or class_curves."),
    ] = None,
    effect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Instead, how predictions depend on a column: partial dependence and "
            "accumulated local effects, as a figure and as CSV.",
        ),
    ] = None,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Redraw the figures of a run from its recorded tables."""
    from kanrun.study.report import redraw

    named = find_run(run if point is None else f"{run}/{point}", outputs)
    for path in redraw(named, format, figure or (), effect or ()):
        print(path)


def _unfinished(run: Run) -> Iterator[str]:
    """Yield lines on an incomplete run: its last step, and what `kanrun runs resume` would do."""
    from kanrun.runs import Status

    if run.status in {Status.COMPLETED, Status.RUNNING, Status.UNREADABLE}:
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
    from kanrun.runs import Status, local_time
    from kanrun.study import report
    from kanrun.study.progress import shown

    lines = [f"{run.address}: {run.status}"]
    try:
        manifest = run.manifest
    except KanrunError as error:
        _print_lines([*lines, f"  {error}"] if run.status == Status.UNREADABLE else lines)
        return
    lines[0] += f" ({manifest.reason})" if manifest.reason else ""
    for name in _ABOUT:
        value = tuple(run.overrides) if name == "overrides" else getattr(manifest, name)
        text = " ".join(map(str, value)) if isinstance(value, tuple) else local_time(value)
        lines.append(f"  {name}: {shown(text) or 'none'}")
    own = {"tags": ", ".join(manifest.tags), "note": manifest.note}
    lines += [f"  {name}: {text}" for name, text in own.items() if text]
    _print_lines([*lines, *(f"  note: {note}" for note in manifest.notes)])
    report.print_results(report.output_console(), run)
