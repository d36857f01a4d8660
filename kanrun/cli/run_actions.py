"""Commands that use or change runs: predict, export, and of `kanrun runs` those that write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kanrun.cli.completion import complete_override
from kanrun.cli.experiments import OUTPUTS, Outputs, Quiet, Strict
from kanrun.cli.runs import RunName, RunNames, app
from kanrun.errors import UsageError
from kanrun.monitoring import enable_gc

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Name of the model's file. Default: that of the first seed.",
    ),
]
Replace = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


def _check_new(file: Path, force: bool) -> None:
    """Raise UsageError for a file that exists, unless it may be replaced."""
    if file.is_file() and not force:
        raise UsageError(f"{file} exists. Add --force to replace it, or name another file.")


def predict(  # noqa: PLR0913  # options of a command
    run: RunName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A table (CSV, TSV, Parquet) with the run's input columns."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File of the predictions; its ending chooses CSV, TSV or Parquet.",
        ),
    ],
    *,
    model: ModelName = None,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="LEVEL",
            help="Add the bounds of the interval that has this coverage probability, in (0, 1).",
        ),
    ] = None,
    derivatives: Annotated[
        str,
        typer.Option(
            "--derivatives",
            metavar="NAMES",
            help="Add derivatives of an equation's solution: u_x,u_xx.",
        ),
    ] = "",
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Add what each column contributes; contributions sum to predictions."
        ),
    ] = False,
    spreadsheet_safe: Annotated[
        bool,
        typer.Option(
            "--spreadsheet-safe",
            help="Mark cells that a spreadsheet would run as text: '=A1.",
        ),
    ] = False,
    force: Replace = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Predict new rows with the model of a run.

    Predictions are in the units of the data that the model was trained on.
    """
    from kanrun.runs import find_run
    from kanrun.study.saved import PredictionOptions, predict_table

    enable_gc()
    if output.exists() and file.exists() and output.samefile(file):
        raise UsageError(
            f"--output {output} is the input file, whose other columns would be lost. Name another."
        )
    _check_new(output, force)
    found = find_run(run, outputs, one=True)
    wanted = [name.strip() for name in derivatives.split(",") if name.strip()]
    options = PredictionOptions(model, interval, wanted, spreadsheet_safe, explain)
    for warning in predict_table(found, file, output, options):
        print(f"kanrun: {warning}", file=sys.stderr)
    print(output)


def export(  # noqa: PLR0913  # options of a command
    run: RunName,
    form: Annotated[
        Literal["c", "python", "json", "onnx", "torch", "lut", "formula"],
        typer.Option(
            "--format",
            help="c, python (NumPy alone), json, onnx, torch (.pt2), lut (tables of integers); "
            "formula: of kanrun interpret.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file; a formula's is LaTeX for .tex, else text.",
        ),
    ],
    *,
    model: ModelName = None,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", help="lut: proven largest error, which chooses the bits."),
    ] = None,
    input_bits: Annotated[
        int | None, typer.Option("--input-bits", help="lut: bits of inputs and nodes.")
    ] = None,
    index_bits: Annotated[
        int | None,
        typer.Option("--index-bits", help="lut: of these, bits that address a table."),
    ] = None,
    output_bits: Annotated[
        int | None, typer.Option("--output-bits", help="lut: bits of the entries of tables.")
    ] = None,
    accumulator_bits: Annotated[
        int | None, typer.Option("--accumulator-bits", help="lut: limit of the bits of sums.")
    ] = None,
    force: Replace = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Write the model of a run as one file that works without kanrun, in the units of the data."""
    bits = {
        "max_error": max_error,
        "input_bits": input_bits,
        "index_bits": index_bits,
        "output_bits": output_bits,
        "accumulator_bits": accumulator_bits,
    }
    from kanrun.runs import find_run
    from kanrun.study.saved import LoadedRun

    _check_new(output, force)
    reference = output.parent / f"{output.stem}.py"
    if form == "lut":
        _check_new(reference, force)
    found = find_run(run, outputs, one=True)
    options = {key: value for key, value in bits.items() if value is not None}
    for sentence in LoadedRun(found).export(form, output, model, **options):
        print(f"kanrun: {sentence}", file=sys.stderr)
    if form == "lut":
        print(f"kanrun: {reference} is its reference in Python and its test", file=sys.stderr)
    print(output)


def lesson(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML file.")
    ] = Path("lesson.html"),
    force: Replace = False,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
) -> None:
    """Write the lecture as one page whose parts move, from runs with the tag `lesson`.

    A command without such a run is run first, in a small study that takes seconds.
    """
    from kanrun.launch.composing import Source, compose
    from kanrun.study.page.lesson import STUDIES, TAG, recorded_runs, write_lesson
    from kanrun.study.running import RunOptions, run_study

    _check_new(output, force)
    if not output.parent.is_dir():
        raise UsageError(f"cannot write {output}: its folder is not there; choose another file.")
    there = recorded_runs(outputs)
    for command in (name for name in STUDIES if name not in there):
        words = (*STUDIES[command], f"tags=[{TAG}]")
        study = compose(Source(command, outputs), words, argv=("kanrun", command, *words))
        if code := run_study(study, RunOptions(outputs, quiet))[0]:
            raise typer.Exit(code)
    write_lesson(recorded_runs(outputs), output)
    print(output)


Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Resume also if another host started the run, which must have ended there."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="ADDRESS", help="Dask scheduler of a run with executor=dask."
    ),
]
Elsewhere = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="KIND", help="Executor instead of the run's: serial, local or dask."
    ),
]


@app.command("rerun")
def rerun_run(
    run: RunName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OVERRIDES", help="Further changes.", autocompletion=complete_override
        ),
    ] = None,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
    strict: Strict = False,
    executor: Elsewhere = None,
    address: Address = None,
) -> None:
    """Repeat a run or one of its points; without further overrides, compare the numbers.

    Exits with 1 if numbers differ that the same version on the same machine should reproduce.
    """
    from kanrun.launch.composing import compose_again
    from kanrun.runs import find_run
    from kanrun.study.running import RunOptions, rerun, run_study

    options = RunOptions(outputs, quiet, strict=strict, executor=executor, address=address)
    found = find_run(run, outputs)
    if not overrides:
        raise typer.Exit(rerun(found, options))
    raise typer.Exit(run_study(compose_again(found, overrides, outputs), options)[0])


@app.command("resume")
def resume_interrupted(
    run: RunName,
    outputs: Outputs = OUTPUTS,
    quiet: Quiet = False,
    strict: Strict = False,
    force: Force = False,
    executor: Elsewhere = None,
    address: Address = None,
) -> None:
    """Continue a run that was interrupted or failed; its finished trainings are kept."""
    from kanrun.runs import find_run
    from kanrun.study.running import RunOptions, resume_run

    options = RunOptions(
        outputs, quiet, strict=strict, force=force, executor=executor, address=address
    )
    raise typer.Exit(resume_run(find_run(run, outputs), options))


@app.command("tag")
def tag_run(
    run: RunName,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="TAG...", help="Words without blanks.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove these tags; without tags, all.")
    ] = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Give a run tags, by which it is found and listed; without TAG, print its tags."""
    from kanrun.runs import find_run
    from kanrun.runs.records import RunLabels, check_tags

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


@app.command("note")
def note_run(
    run: RunName,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="A sentence; an empty one removes it."),
    ] = None,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Write a note about a run, which replaces the last one; without TEXT, print it."""
    from kanrun.runs import find_run
    from kanrun.runs.records import RunLabels

    found = find_run(run, outputs)
    if text is not None:
        RunLabels(found.labels.tags, " ".join(text.split())).store(found.path)
    print(f"{found.name}: {found.labels.note or 'no note'}")


@app.command("remove")
def remove_runs(
    runs: RunNames,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Delete the folders of runs, after asking; nothing outside OUTPUTS, and no running run."""
    from kanrun.runs import find_run
    from kanrun.runs.locations import remove_run

    found = list({run.address: run for run in (find_run(word, outputs) for word in runs)}.values())
    for run in found:
        remove_run(run, outputs, check_only=True)
    if not yes:
        names = ", ".join(run.name for run in found)
        files = sum(path.is_file() for run in found for path in run.path.rglob("*"))
        print(
            f"Delete {names} with all {files} files? [y/N]: ", end="", file=sys.stderr, flush=True
        )
        answer = sys.stdin.readline()
        if not (sys.stdin.isatty() and answer):  # nobody pressed Enter on a terminal
            print(file=sys.stderr)
        if answer.strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was deleted.")
    for run in found:
        remove_run(run, outputs)
        print(f"deleted {run.path}")


@app.command("figures")
def redraw_figures(
    run: RunName,
    formats: Annotated[
        list[str],
        typer.Option("--format", metavar="FORMAT", help="png, svg or pdf; repeat for several."),
    ] = ["png"],  # noqa: B006  (Typer reads the default; nothing changes it)
    point: Annotated[
        int | None, typer.Option("--point", metavar="N", help="One point of a run of several.")
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            "--figure", metavar="NAME", help="Only this one, such as network or class_curves."
        ),
    ] = None,
    outputs: Outputs = OUTPUTS,
) -> None:
    """Redraw the figures of a run, or of one of its points, from the recorded tables."""
    from kanrun.runs import find_run
    from kanrun.study.comparison import redraw

    found = find_run(run if point is None else f"{run}/{point}", outputs)
    for path in redraw(found, formats, figure or ()):
        print(path)
