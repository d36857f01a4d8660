"""Settings of `kanrun import`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kanrun.config import DISTINCT, FREE_TEXT, MISSING, ExperimentConfig, copied, experiment
from kanrun.model.settings import Base


@experiment(
    "import",
    "Read a trained network of pykan or efficient-kan as a run.",
    examples=(
        "kanrun import model/0.5",
        "kanrun import kan.pt 'inputs=[length,mass]' 'outputs=[period]'",
        "kanrun import kan.safetensors base=gelu",
    ),
    argument="file",
    figures=("predictions", "residuals", "edges", "network"),
)
@dataclass
class ImportConfig(ExperimentConfig):
    """`kanrun import FILE`."""

    file: Annotated[
        str,
        "checkpoint of pykan (the path given to saveckpt), or state dict (torch or safetensors)",
        FREE_TEXT,
    ] = MISSING
    inputs: Annotated[list[str], "names of the inputs; [] is x0, x1, ...", DISTINCT, FREE_TEXT] = (
        copied([])
    )
    outputs: Annotated[list[str], "names of the outputs", DISTINCT, FREE_TEXT] = copied([])
    base: Annotated[
        Base | None, "base function; null is the one that the checkpoint names, else silu"
    ] = None
