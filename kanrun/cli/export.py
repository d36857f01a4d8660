"""`kanrun export`: a trained model as a file that works without kanrun."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kanrun.cli.experiments import Outputs
from kanrun.cli.runs import RunName


class ExportFormat(StrEnum):
    """What --format takes."""

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
            "--format", help="c, python (NumPy alone), json, onnx, torch (.pt2); formula: of kanrun interpret."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file; a formula's is LaTeX for .tex, else text.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="Which of its models, by its file's name. Default: the first seed's."
        ),
    ] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write the model of a run as one file that works without kanrun, in the units of the data."""
    from kanrun.runs import find_run
    from kanrun.study.saved import load_run

    for sentence in load_run(find_run(run, outputs, sweeps=False).path).export(form, output, model):
        print(f"kanrun: {sentence}", file=sys.stderr)
    print(output)
