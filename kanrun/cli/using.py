"""Commands that use or change runs: predict, export, lesson, and some of `kanrun runs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kanrun.cli.commands import (
    OUTPUTS,
    Command,
    DaskAddress,
    ModelName,
    OtherExecutor,
    Outputs,
    Overrides,
    Quiet,
    Replace,
    RunName,
    RunNames,
    SpreadsheetSafe,
    Strict,
    check_new,
    find_run,
    kanrun_commands,
    output_option,
    runs_commands,
)
from kanrun.errors import UsageError, tell


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
    from kanrun.model.loaded_run import LoadedRun
    from kanrun.model.prediction import PredictionOptions, predict_table
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
    from kanrun.model.loaded_run import LoadedRun

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


@runs_commands.command("rerun", cls=Command)
def rerun_run(
    run: RunName,
    overrides: Overrides = None,
    *,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
    strict: Strict = False,
    executor: OtherExecutor = None,
    address: DaskAddress = None,
) -> None:
    """Repeat a run or a point, and compare the numbers.

    With overrides, nothing is compared. Exits with 1 if numbers differ that the same version on the
    same machine should reproduce.
    """
    from kanrun.launch import compose_again
    from kanrun.study.running import rerun, run_study
    from kanrun.study.studies import RunOptions

    options = RunOptions(outputs, quiet, strict=strict, executor=executor, address=address)
    named = find_run(run, outputs)
    if not overrides:
        raise typer.Exit(rerun(named, options))
    raise typer.Exit(run_study(compose_again(named, overrides, outputs), options)[0])


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
    executor: OtherExecutor = None,
    address: DaskAddress = None,
) -> None:
    """Continue a run that stopped; finished trainings are kept."""
    from kanrun.study.running import resume_run
    from kanrun.study.studies import RunOptions

    options = RunOptions(
        outputs, quiet, strict=strict, force=force, executor=executor, address=address
    )
    raise typer.Exit(resume_run(find_run(run, outputs), options))


@runs_commands.command("tag", cls=Command)
def tag_run(
    run: RunName,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="TAG...", help="Words without blanks.")
    ] = None,
    *,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove these tags; without tags, all.")
    ] = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Give a run tags, or print its tags."""
    from kanrun.runs import RunLabels
    from kanrun.runs.records import check_tags

    check_tags(tags or ())
    named = find_run(run, outputs)
    before = named.labels.tags
    if remove:
        if missing := [tag for tag in tags or () if tag not in before]:
            there = ", ".join(before) or "none"
            raise UsageError(f"{named.name} does not have the tag {missing[0]}; it has {there}.")
        after = tuple(tag for tag in before if tags and tag not in tags)
    else:
        after = tuple(dict.fromkeys((*before, *(tags or ()))))
    if after != before:
        RunLabels(after, named.labels.note).store(named.path)
    print(f"{named.name}: {', '.join(after) or 'no tags'}")


@runs_commands.command("note", cls=Command)
def note_run(
    run: RunName,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A sentence; an empty one removes it.")
    ] = None,
    *,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Write a note about a run, or print it."""
    from kanrun.runs import RunLabels

    named = find_run(run, outputs)
    if text is not None:
        RunLabels(named.labels.tags, " ".join(text.split())).store(named.path)
    print(f"{named.name}: {named.labels.note or 'no note'}")


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
