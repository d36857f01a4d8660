"""Commands that use or change runs: predict, export, and of `kanrun runs` those that write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import typer

from kanrun.cli.commands import (
    OUTPUTS,
    Outputs,
    Overrides,
    Quiet,
    RunName,
    RunNames,
    SpreadsheetSafe,
    Strict,
    check_new,
    command,
    kanrun_commands,
    runs_commands,
)
from kanrun.errors import UsageError, tell
from kanrun.monitoring import enable_gc
from kanrun.runs import RunLabels, find_run, remove_run
from kanrun.runs.records import check_tags


@command(kanrun_commands, "predict")
def predict(  # noqa: PLR0913  # options of a command
    run: RunName,
    file: Path,
    *,
    output: Path,
    model: str | None = None,
    interval: float | None = None,
    quantiles: str = "",
    derivatives: str = "",
    explain: bool = False,
    spreadsheet_safe: SpreadsheetSafe = False,
    force: bool = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Predict new rows with the model of a run.

    Predictions are in the units of the data that the model was trained on.

    Args:
        file (FILE): A table (CSV, TSV, Parquet) with the run's input columns.
        output (-o FILE): File of the predictions; its ending chooses CSV, TSV or Parquet.
        model (NAME): Name of the model's file. Default: that of the first seed.
        interval (LEVEL): Add the bounds of the interval that has this coverage probability, in
            (0, 1).
        quantiles (PROBABILITIES): Add the values that outputs do not exceed with these
            probabilities: 0.1,0.5,0.9.
        derivatives (NAMES): Add derivatives of an equation's solution: u_x,u_xx.
        explain: Add what each column contributes; contributions sum to predictions.
        force: Replace files that exist.
    """
    from kanrun.study.prediction import PredictionOptions, predict_table
    from kanrun.study.saved import LoadedRun
    from kanrun.targets import check_output

    enable_gc()
    if output.exists() and file.exists() and output.samefile(file):
        raise UsageError(
            f"--output {output} is the input file, whose other columns would be lost. Name another."
        )
    check_new(output, force)
    found = find_run(run, outputs, one=True)
    check_output(output)
    wanted = [name.strip() for name in derivatives.split(",") if name.strip()]
    try:
        levels = [float(each) for each in quantiles.split(",") if each.strip()]
    except ValueError:
        raise UsageError(f"--quantiles {quantiles} must be numbers such as 0.1,0.5,0.9.") from None
    options = PredictionOptions(interval, levels, wanted, spreadsheet_safe, explain)
    for warning in predict_table(LoadedRun(found).model(model), file, output, options):
        tell(warning)
    print(output)


@command(kanrun_commands, "export")
def export(
    run: RunName,
    *,
    format: Literal["c", "javascript", "python", "json", "onnx", "torch", "formula"],
    output: Path,
    model: str | None = None,
    force: bool = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Write the model of a run as one file that works without kanrun, in the units of the data.

    Args:
        format: c, javascript, python (NumPy alone), json, onnx, torch (.pt2); formula: of kanrun
            interpret.
        output (-o FILE): The file; a formula's is LaTeX for .tex, else text.
        model (NAME): Name of the model's file. Default: that of the first seed.
        force: Replace files that exist.
    """
    from kanrun.study.saved import LoadedRun

    check_new(output, force)
    found = find_run(run, outputs, one=True)
    for sentence in LoadedRun(found).export(format, output, model):
        tell(sentence)
    print(output)


@command(kanrun_commands, "lesson")
def lesson(
    *,
    output: Path = Path("lesson.html"),
    force: bool = False,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
) -> None:
    """Write the lecture as one page whose parts move, from runs with the tag `lesson`.

    A command without such a run is run first, in a small study that takes seconds.

    Args:
        output (-o FILE): The HTML file.
        force: Replace a file that exists.
    """
    from kanrun.launch import Source, compose
    from kanrun.study.page import STUDIES, TAG, recorded_runs, write_lesson
    from kanrun.study.running import run_study
    from kanrun.study.studies import RunOptions

    check_new(output, force)
    there = recorded_runs(outputs)
    for name in (name for name in STUDIES if name not in there):
        words = (*STUDIES[name], f"tags=[{TAG}]")
        study = compose(Source(name, outputs), words, argv=("kanrun", name, *words))
        if code := run_study(study, RunOptions(outputs, quiet))[0]:
            raise typer.Exit(code)
    write_lesson(recorded_runs(outputs), output)
    print(output)


@command(runs_commands, "rerun")
def rerun_run(
    run: RunName,
    overrides: Overrides = None,
    *,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
    strict: Strict = False,
    executor: str | None = None,
    address: str | None = None,
) -> None:
    """Repeat a run or one of its points; without further overrides, compare the numbers.

    Exits with 1 if numbers differ that the same version on the same machine should reproduce.

    Args:
        executor (KIND): Executor instead of the run's: serial, local or dask.
        address (ADDRESS): Dask scheduler of a run with executor=dask.
    """
    from kanrun.launch import compose_again
    from kanrun.study.running import rerun, run_study
    from kanrun.study.studies import RunOptions

    options = RunOptions(outputs, quiet, strict=strict, executor=executor, address=address)
    found = find_run(run, outputs)
    if not overrides:
        raise typer.Exit(rerun(found, options))
    raise typer.Exit(run_study(compose_again(found, overrides, outputs), options)[0])


@command(runs_commands, "resume")
def resume_interrupted(
    run: RunName,
    *,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
    strict: Strict = False,
    force: bool = False,
    executor: str | None = None,
    address: str | None = None,
) -> None:
    """Continue a run that was interrupted or failed; its finished trainings are kept.

    Args:
        force: Resume also if another host started the run, which must have ended there.
        executor (KIND): Executor instead of the run's: serial, local or dask.
        address (ADDRESS): Dask scheduler of a run with executor=dask.
    """
    from kanrun.study.running import resume_run
    from kanrun.study.studies import RunOptions

    options = RunOptions(
        outputs, quiet, strict=strict, force=force, executor=executor, address=address
    )
    raise typer.Exit(resume_run(find_run(run, outputs), options))


@command(runs_commands, "tag")
def tag_run(
    run: RunName,
    tags: list[str] | None = None,
    *,
    remove: bool = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Give a run tags, by which it is found and listed; without TAG, print its tags.

    Args:
        tags (TAG...): Words without blanks.
        remove: Remove these tags; without tags, all.
    """
    check_tags(tags or ())
    found = find_run(run, outputs)
    before = found.labels.tags
    if remove:
        if missing := [tag for tag in tags or () if tag not in before]:
            there = ", ".join(before) or "none"
            raise UsageError(f"{found.name} does not have the tag {missing[0]}; it has {there}.")
        after = tuple(tag for tag in before if tags and tag not in tags)
    else:
        after = tuple(dict.fromkeys((*before, *(tags or ()))))
    if after != before:
        RunLabels(after, found.labels.note).store(found.path)
    print(f"{found.name}: {', '.join(after) or 'no tags'}")


@command(runs_commands, "note")
def note_run(run: RunName, text: str | None = None, *, outputs: Outputs = OUTPUTS) -> None:
    """Write a note about a run, which replaces the last one; without TEXT, print it.

    Args:
        text (TEXT): A sentence; an empty one removes it.
    """
    found = find_run(run, outputs)
    if text is not None:
        RunLabels(found.labels.tags, " ".join(text.split())).store(found.path)
    print(f"{found.name}: {found.labels.note or 'no note'}")


@command(runs_commands, "remove")
def remove_runs(names: RunNames, *, yes: bool = False, outputs: Outputs = OUTPUTS) -> None:
    """Delete the folders of runs, after asking; nothing outside OUTPUTS, and no running run.

    Args:
        yes (-y): Do not ask.
    """
    found = list({run.address: run for run in (find_run(word, outputs) for word in names)}.values())
    for run in found:
        remove_run(run, outputs, check_only=True)
    if not yes:
        listed = ", ".join(run.name for run in found)
        files = sum(path.is_file() for run in found for path in run.path.rglob("*"))
        print(
            f"Delete {listed} with all {files} files? [y/N]: ", end="", file=sys.stderr, flush=True
        )
        answer = sys.stdin.readline()
        if not (sys.stdin.isatty() and answer):  # nobody pressed Enter on a terminal
            print(file=sys.stderr)
        if answer.strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was deleted.")
    for run in found:
        remove_run(run, outputs)
        print(f"deleted {run.path}")


@command(runs_commands, "figures")
def redraw_figures(
    run: RunName,
    *,
    format: list[str] = ["png"],  # noqa: B006  (Typer reads the default)
    point: int | None = None,
    figure: list[str] | None = None,
    effect: list[str] | None = None,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Redraw the figures of a run, or of one of its points, from the recorded tables.

    Args:
        format (FORMAT): png, svg or pdf; repeat for several.
        point (N): One point of a run of several.
        figure (NAME): Only this one, such as network or class_curves.
        effect (COLUMN): Instead, how predictions depend on a column: partial dependence and
            accumulated local effects, as a figure and as CSV.
    """
    from kanrun.study.report import redraw

    found = find_run(run if point is None else f"{run}/{point}", outputs)
    for path in redraw(found, format, figure or (), effect or ()):
        print(path)
