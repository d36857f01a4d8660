"""Settings of `kanrun bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from msgspec import Meta

from kanrun.config import (
    DISTINCT,
    INCREASING,
    MISSING,
    Count,
    ExperimentConfig,
    NonEmpty,
    Positive,
    Precision,
    copied,
    experiment,
)

Library = Literal["pykan", "inkan", "inkan compiled"]
LIBRARIES: tuple[str, ...] = get_args(Library)


@experiment(
    "bench",
    "Measure speed next to other KAN libraries and an MLP.",
    examples=(
        "kanrun bench",
        "kanrun bench part=layers",
        "kanrun bench part=time_to_accuracy",
        "kanrun bench threads=1",
    ),
)
@dataclass
class BenchConfig(ExperimentConfig):
    """`kanrun bench`: competitors take turns in one process; medians over rounds are compared."""

    precision: Annotated[
        Precision, "floating-point format of the layers; time_to_accuracy is in float64"
    ] = "float32"
    part: Annotated[
        Literal["all", "layers", "time_to_accuracy", "startup", "tables"],
        "measurement; all excludes tables",
    ] = "all"
    splits: Annotated[Count, "random splits of each table of the part tables"] = 3
    tables: Annotated[
        NonEmpty[str],
        "tables of the part tables: names, or the sets small, medium, large and development (on "
        "which constants were chosen)",
        DISTINCT,
    ] = copied(["small"])
    rounds: Annotated[Count, "rounds of each measurement"] = 20
    case_seconds: Annotated[
        Positive, "seconds after which a case ends, once it has had three rounds"
    ] = 30.0
    layers: Annotated[
        NonEmpty[Annotated[list[Count], Meta(min_length=4, max_length=4)]],
        "layers as [batch, inputs, outputs, intervals]",
    ] = MISSING
    compiled: Annotated[
        bool, "whether kanrun's layers and MLPs are also compiled, which takes a C++ compiler"
    ] = True
    libraries: Annotated[list[Library], "other KAN libraries; missing ones are reported"] = copied(
        list(LIBRARIES)
    )
    errors: Annotated[NonEmpty[Positive], "test RMSEs to reach on new points"] = copied(
        [0.001, 0.00025, 8.2e-05]
    )
    intervals: Annotated[NonEmpty[Count], "grid schedule of time_to_accuracy", INCREASING] = copied(
        [3, 5, 10, 20]
    )
    training_seconds: Annotated[Positive, "time limit of each training, in seconds"] = 60.0
    pykan_seconds: Annotated[
        Positive, "time limit of pykan's training on all grids, in seconds"
    ] = 300.0
