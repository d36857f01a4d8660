"""`kanrun predict` and `kanrun export`: predictions of a trained model, and a file of it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kanrun.cli.experiments import Outputs
from kanrun.cli.runs import RunName
from kanrun.errors import UsageError
from kanrun.monitoring import enable_gc

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Which of its models, by its file's name. Default: the first seed's.",
    ),
]


def predict(  # noqa: PLR0913  # options of a command
    run: RunName,
    input: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help="A table (CSV, TSV, Parquet) with the run's input columns.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where the predictions go; the ending says as what (CSV, TSV, Parquet).",
        ),
    ],
    *,
    model: ModelName = None,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="SHARE",
            help="Add the ends between which the output lies with this probability.",
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
    spreadsheet_safe: Annotated[
        bool,
        typer.Option(
            "--spreadsheet-safe",
            help="Write the input's cells that a spreadsheet would run as text: '=A1.",
        ),
    ] = False,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Predict new rows with the model of a run.

    Predictions are in the units of the data that the model was trained on.
    """
    from kanrun.runs import find_run
    from kanrun.study.saved import predict_table

    enable_gc()
    if output.exists() and input.exists() and output.samefile(input):
        raise UsageError(
            f"--output {output} is the input file, whose other columns would be lost. Name another."
        )
    found = find_run(run, outputs, one=True)
    wanted = [name.strip() for name in derivatives.split(",") if name.strip()]
    for warning in predict_table(found, input, output, model, interval, wanted, spreadsheet_safe):
        print(f"kanrun: {warning}", file=sys.stderr)


class ExportFormat(StrEnum):
    """Choices of --format."""

    C = "c"
    PYTHON = "python"
    JSON = "json"
    ONNX = "onnx"
    TORCH = "torch"
    FORMULA = "formula"


def export(
    run: RunName,
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="c, python (NumPy alone), json, onnx, torch (.pt2); formula: of kanrun interpret.",
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
    model: ModelName = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write the model of a run as one file that works without kanrun, in the units of the data."""
    from kanrun.runs import find_run
    from kanrun.study.saved import LoadedRun

    found = find_run(run, outputs, one=True)
    for sentence in LoadedRun(found).export(form, output, model):
        print(f"kanrun: {sentence}", file=sys.stderr)
    print(output)
