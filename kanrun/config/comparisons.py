"""Settings of experiments that compare: grid schedules, KANs with MLPs, learners, libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from kanrun.config.experiments import (
    IMPLIED_TARGETS,
    ExperimentConfig,
    Precision,
    TrainingConfig,
)
from kanrun.config.registry import experiment
from kanrun.config.rules import (
    DISTINCT,
    FREE_TEXT,
    INCREASING,
    MISSING,
    Count,
    Natural,
    NonNegative,
    Positive,
    copied,
)
from kanrun.config.targets import SamplingConfig

GridPart = Literal["schedules", "scratch", "order", "overfit"]
ContinualPart = Literal["learners", "intervals", "overlap", "depth"]
Library = Literal["pykan", "inkan", "inkan compiled"]
LIBRARIES: tuple[str, ...] = get_args(Library)


@experiment(
    "extend-grid",
    "Train on finer and finer grids, and measure the convergence.",
    examples=(
        "kanrun extend-grid",
        "kanrun extend-grid study=paper",
        "kanrun extend-grid 'parts=[order]' 'degrees=[2,3]'",
    ),
    implied=IMPLIED_TARGETS,
    figures=("staircase", "error_against_intervals", "order", "overfit"),
)
@dataclass
class ExtendGridConfig(TrainingConfig):
    """`kanrun extend-grid`; the schedules take the place of `model.intervals`.

    A schedule is {kind: list, intervals: [3, 5, 10]}, {kind: doubling, first: 3, last: 96, nested:
    true}, or {kind: plateau, ...} with the keys of either and `patience` and `steps`. The first one
    is also trained from scratch.
    """

    parts: Annotated[list[GridPart], Meta(min_length=1), "parts to run", DISTINCT] = copied(
        list(get_args(GridPart))
    )
    shapes: Annotated[
        list[list[Count]], Meta(min_length=1), "hidden widths, one list per network", DISTINCT
    ] = copied([[1]])
    schedules: Annotated[list[Any], Meta(min_length=1), "schedules of grids"] = MISSING
    max_parameters: Annotated[int, "maximum number of parameters; finer grids are skipped"] = 4000
    scratch_intervals: Annotated[
        list[int] | None, "grids of the part scratch; null is all of the first schedule", DISTINCT
    ] = None
    degrees: Annotated[list[Count], "degrees of the part order", DISTINCT] = copied([1, 2, 3, 4, 5])
    order_intervals: Annotated[list[int], "grids of the part order"] = copied([12, 24, 48, 96])
    order_first_grid: Annotated[int, "first grid that resolves the target"] = 12
    order_points: Annotated[int, Meta(ge=10), "training points of the part order"] = 3000
    overfit_points: Annotated[int, Meta(ge=10), "training points of the part overfit"] = 200
    overfit_intervals: Annotated[list[int], "grids of the part overfit"] = copied(
        [3, 6, 12, 24, 48, 96]
    )
    overfit_noise: Annotated[
        NonNegative, "noise, as sampling.noise, of a second run of the part overfit; 0 skips it"
    ] = 0.01


@experiment(
    "compare-mlp",
    "Compare KANs with MLPs of the same parameters or FLOPs.",
    examples=(
        "kanrun compare-mlp",
        "kanrun compare-mlp match=flops",
        "kanrun compare-mlp 'target.formula=x0*sin(x1)' 'model.hidden=[2]'",
        "kanrun compare-mlp target.path=houses.csv 'target.inputs=[rooms]' target.outputs=price",
        "kanrun compare-mlp study=no_activation",
    ),
    implied=IMPLIED_TARGETS,
    figures=(
        "pareto",
        "scaling",
        "growth",
        "widths",
        "errors",
        "differences",
        "variants",
    ),
)
@dataclass
class CompareMLPConfig(TrainingConfig):
    """`kanrun compare-mlp`.

    A case is {target: ..., shapes: [[1], [5]], sampling: ...}: the hidden widths of its KANs, and
    differences from `sampling`. With a `target` that is the only case, and `model.hidden` the only
    shape. Each schedule of `grids` is one KAN, judged at its last grid.
    """

    target: Annotated[Any, "the only target, instead of cases"] = None
    comparison: Annotated[
        Literal[
            "matched",
            "universal_approximation",
            "kolmogorov_arnold",
            "no_activation",
            "implementation_tricks",
        ],
        "comparison to run, which reads some of the settings below",
    ] = "matched"
    cases: Annotated[list[Any], "targets with the shapes of their KANs"] = MISSING
    grids: Annotated[
        list[Annotated[list[Count], Meta(min_length=1), INCREASING]],
        Meta(min_length=1),
        "schedules of grids, one KAN for each",
        DISTINCT,
    ] = copied([[5], [5, 10, 20]])
    match: Annotated[Literal["parameters", "flops"], "quantity that MLPs share with the KAN"] = (
        "parameters"
    )
    depths: Annotated[list[Natural], Meta(min_length=1), "hidden layers of the MLPs"] = copied(
        [1, 2]
    )
    activations: Annotated[list[str], Meta(min_length=1), "activations of the MLPs"] = copied(
        ["tanh", "silu"]
    )
    widths: Annotated[list[Count], "widths of further MLPs"] = copied([])
    errors: Annotated[list[Positive], "relative errors to reach in universal_approximation"] = (
        copied([])
    )


@experiment(
    "continual",
    "Learn peak after peak, and measure forgetting.",
    examples=(
        "kanrun continual",
        "kanrun continual study=two_dimensional",
        "kanrun continual peaks=7 spacing=0.3 order=random",
        "kanrun continual target.path=houses.csv target.outputs=price phase_column=year",
    ),
    implied=IMPLIED_TARGETS,
    figures=("phases", "matrices*", "forgetting_against_*", "memory_against_error"),
)
@dataclass
class ContinualConfig(ExperimentConfig):
    """`kanrun continual`: peaks exp(-sharpness |x - c|^2), one for each phase.

    A phase sees the box around the centre of its peak alone. With a table as `target`, the rows
    with one value of `phase_column` are a phase, in the order of the values; with any other target,
    or with `phases`, ranges of that column are.

    A learner is {name: ..., kind: kan or mlp} with differences from `model` (kan) or an activation
    (mlp: as many parameters as `model`), and what it keeps of earlier phases: `memory: none`,
    `replay`, `rehearse`, `ewc` or `information`.
    """

    model: Annotated[Any, "KAN of the learners"] = MISSING
    solver: Annotated[Any, "training method of each phase"] = MISSING
    target: Annotated[Any, "table or function that is learned in place of the peaks"] = None
    sampling: Annotated[SamplingConfig, "points of a table; all of them are used"] = copied(
        SamplingConfig()
    )
    phase_column: Annotated[
        str | None, "column of the table, or input, that names the phase of each row", FREE_TEXT
    ] = None
    phases: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        "ranges of phase_column with equally many rows; null: a phase for each value",
    ] = None
    peaks: Annotated[int, Meta(ge=1, le=100), "peaks along each axis, around 0"] = 5
    spacing: Annotated[Positive, "distance of the centres, and width of a phase"] = 0.4
    sharpness: Annotated[Positive, "sharpness of the peaks"] = 300.0
    form: Annotated[
        Literal["smooth", "step"],
        "form of the peaks; steps are 1 where the smooth ones exceed 1/2, and else 0",
    ] = "smooth"
    dimension: Annotated[int, Meta(ge=1, le=2), "number of variables"] = 1
    order: Annotated[
        Literal["ascending", "descending", "random"],
        "order of the peaks; random is drawn from the seed",
    ] = "ascending"
    overlap: Annotated[
        float,
        Meta(gt=-1, lt=2),
        "relative widening of a phase: 0 touches its neighbours, 1 reaches their centres",
    ] = 0.0
    points: Annotated[int, Meta(ge=2, le=200000), "evenly spaced points of a phase"] = 100
    evaluation_points: Annotated[
        int, Meta(ge=2, le=200000), "evenly spaced points of the whole domain"
    ] = 500
    trials: Annotated[
        Count, "trials of every learner; the one with the lowest final error on all phases counts"
    ] = 2
    parts: Annotated[list[ContinualPart], Meta(min_length=1), "parts to run", DISTINCT] = copied(
        list(get_args(ContinualPart))
    )
    learners: Annotated[list[Any], "networks and their memories"] = MISSING
    intervals: Annotated[list[Count], "grids of `model` in the part intervals"] = copied(
        [100, 200, 400]
    )
    overlaps: Annotated[
        list[Annotated[float, Meta(gt=-1, lt=2)]], "overlaps of the part overlap"
    ] = copied([0.0, 0.5, 1.0])
    overlap_learners: Annotated[list[str], "learners of the part overlap"] = copied(
        ["KAN", "MLP tanh"]
    )
    shapes: Annotated[list[list[Count]], "hidden widths of the part depth"] = copied(
        [[], [5], [3, 3]]
    )
    memories: Annotated[list[str], "memories of the part depth"] = copied(["none", "rehearse"])


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
    """`kanrun bench`: competitors run in turn in one process; medians over rounds are compared."""

    precision: Annotated[
        Precision, "floating-point format of the layers; time_to_accuracy is in float64"
    ] = "float32"
    part: Annotated[
        Literal["all", "layers", "time_to_accuracy", "startup", "tables"],
        "measurement; all excludes tables",
    ] = "all"
    splits: Annotated[Count, "random splits of each table of the part tables"] = 3
    tables: Annotated[
        list[str],
        Meta(min_length=1),
        "tables of the part tables: names, or the sets small, medium, large and development (on "
        "which constants were chosen)",
        DISTINCT,
    ] = copied(["small"])
    rounds: Annotated[Count, "rounds of each measurement"] = 20
    case_seconds: Annotated[
        Positive, "seconds after which a case ends, once it has had three rounds"
    ] = 30.0
    layers: Annotated[
        list[Annotated[list[Count], Meta(min_length=4, max_length=4)]],
        Meta(min_length=1),
        "layers as [batch, inputs, outputs, intervals]",
    ] = MISSING
    compiled: Annotated[
        bool, "whether kanrun's layers and MLPs are also compiled, which takes a C++ compiler"
    ] = True
    libraries: Annotated[list[Library], "other KAN libraries; missing ones are reported"] = copied(
        list(LIBRARIES)
    )
    errors: Annotated[list[Positive], Meta(min_length=1), "test RMSEs to reach on new points"] = (
        copied([0.001, 0.00025, 8.2e-05])
    )
    intervals: Annotated[
        list[Count], Meta(min_length=1), "grid schedule of time_to_accuracy", INCREASING
    ] = copied([3, 5, 10, 20])
    training_seconds: Annotated[Positive, "time limit of each training, in seconds"] = 60.0
    pykan_seconds: Annotated[
        Positive, "time limit of pykan's training on all grids, in seconds"
    ] = 300.0
