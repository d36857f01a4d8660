"""Settings of experiments that compare: grid schedules, KANs with MLPs, learners, libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanrun.config.experiments import (
    IMPLIED_TARGETS,
    PRECISIONS,
    ExperimentConfig,
    TrainingConfig,
    parts,
)
from kanrun.config.registry import experiment
from kanrun.config.rules import MISSING, count_setting, setting, text_setting
from kanrun.config.targets import SamplingConfig

LIBRARIES = ("pykan", "inkan", "inkan compiled", "jaxkan")


@experiment(
    "extend-grid",
    "Train along grid schedules and from scratch, and measure the order of convergence.",
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

    parts: list[str] = parts("schedules", "scratch", "order", "overfit")
    shapes: list[list[int]] = count_setting(
        [[1]], "hidden widths, one list per network", least=1, distinct=True
    )
    schedules: list[Any] = setting(MISSING, "schedules of grids", least=1)
    max_parameters: int = setting(4000, "maximum number of parameters; finer grids are skipped")
    scratch_intervals: list[int] | None = setting(
        None, "grids of the part scratch; null is all of the first schedule", distinct=True
    )
    degrees: list[int] = count_setting([1, 2, 3, 4, 5], "degrees of the part order", distinct=True)
    order_intervals: list[int] = setting([12, 24, 48, 96], "grids of the part order")
    order_first_grid: int = setting(12, "first grid that resolves the target")
    order_points: int = setting(3000, "training points of the part order", minimum=10)
    overfit_points: int = setting(200, "training points of the part overfit", minimum=10)
    overfit_intervals: list[int] = setting([3, 6, 12, 24, 48, 96], "grids of the part overfit")
    overfit_noise: float = setting(
        0.01,
        "noise, as sampling.noise, of a second run of the part overfit; 0 skips it",
        minimum=0,
    )


@experiment(
    "compare-mlp",
    "Compare KANs with MLPs of the same parameters, FLOPs or time.",
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
    shape. Grids are lists of schedules or numbers; each is one KAN, judged at its last grid.
    """

    target: Any = setting(None, "the only target, instead of cases")
    comparison: str = setting(
        "matched",
        "comparison to run, which reads some of the settings below",
        choices=(
            "matched",
            "universal_approximation",
            "kolmogorov_arnold",
            "no_activation",
            "implementation_tricks",
        ),
    )
    cases: list[Any] = setting(MISSING, "targets with the shapes of their KANs")
    grids: list[Any] = setting([[5], [5, 10, 20]], "grids, each a number or a schedule", least=1)
    match: str | None = setting(
        "parameters",
        "quantity that MLPs share with the KAN; null takes widths instead",
        choices=("parameters", "flops"),
    )
    depths: list[int] = setting([1, 2], "hidden layers of the MLPs", least=1, minimum=0)
    activations: list[str] = setting(["tanh", "silu"], "activations of the MLPs", least=1)
    widths: list[int] = count_setting([], "widths of further MLPs, matched or not")
    errors: list[float] = setting(
        [], "relative errors to reach in universal_approximation", above=0
    )
    growth: dict[str, list[int]] = setting(
        {}, "widths, depths and intervals whose parameters are counted"
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
    or with `phases`, ranges of that column are. `sequences` are further settings of the tasks, by
    name, which the study goes through one after the other.

    A learner is {name: ..., kind: kan or mlp} with differences from `model` (kan) or an activation
    (mlp: as many parameters as `model`), and what it keeps of earlier phases: `memory: none`,
    `replay`, `rehearse`, `ewc` or `information`.
    """

    model: Any = setting(MISSING, "KAN of the learners")
    solver: Any = setting(MISSING, "training method of each phase")
    target: Any = setting(None, "table or function that is learned in place of the peaks")
    sampling: SamplingConfig = setting(SamplingConfig(), "points of a table; all of them are used")
    phase_column: str | None = text_setting(
        None, "column of the table, or input, that names the phase of each row"
    )
    phases: int | None = setting(
        None,
        "ranges of phase_column with equally many rows; null: a phase for each value",
        minimum=2,
    )
    peaks: int = count_setting(5, "peaks along each axis, around 0")
    spacing: float = setting(0.4, "distance of the centres, and width of a phase", above=0)
    sharpness: float = setting(300.0, "sharpness of the peaks", above=0)
    form: str = setting(
        "smooth",
        "form of the peaks; steps are 1 where the smooth ones exceed 1/2, and else 0",
        choices=("smooth", "step"),
    )
    dimension: int = count_setting(1, "number of variables", maximum=2)
    order: str = setting(
        "ascending",
        "order of the peaks; random is drawn from the seed",
        choices=("ascending", "descending", "random"),
    )
    overlap: float = setting(
        0.0,
        "relative widening of a phase: 0 touches its neighbours, 1 reaches their centres",
        above=-1,
        below=2,
    )
    points: int = setting(100, "evenly spaced points of a phase", minimum=2, maximum=200_000)
    evaluation_points: int = setting(
        500, "evenly spaced points of the whole domain", minimum=2, maximum=200_000
    )
    trials: int = count_setting(
        2,
        "trials of every learner; the one with the lowest final error on all phases counts",
    )
    parts: list[str] = parts("learners", "intervals", "overlap", "depth")
    learners: list[Any] = setting(MISSING, "networks and their memories")
    sequences: dict[str, Any] = setting(
        {}, "task sequences by name, each of settings that differ; {}: the one of the settings"
    )
    intervals: list[int] = count_setting([100, 200, 400], "grids of `model` in the part intervals")
    overlaps: list[float] = setting(
        [0.0, 0.5, 1.0], "overlaps of the part overlap", above=-1, below=2
    )
    overlap_learners: list[str] = setting(["KAN", "MLP tanh"], "learners of the part overlap")
    shapes: list[list[int]] = count_setting([[], [5], [3, 3]], "hidden widths of the part depth")
    memories: list[str] = setting(["none", "rehearse"], "memories of the part depth")


@experiment(
    "bench",
    "Measure speed side by side with other KAN libraries and an MLP.",
    examples=(
        "kanrun bench",
        "kanrun bench part=layers",
        "kanrun bench part=time_to_accuracy",
        "kanrun bench threads=1",
    ),
    figures=("table_ranks",),
)
@dataclass
class BenchConfig(ExperimentConfig):
    """`kanrun bench`: competitors run in turn in one process; medians over rounds are compared."""

    precision: str = setting(
        "float32",
        "floating-point format of the layers; time_to_accuracy is in float64",
        choices=PRECISIONS,
    )
    part: str = setting(
        "all",
        "measurement; all excludes tables",
        choices=("all", "layers", "time_to_accuracy", "startup", "tables"),
    )
    splits: int = count_setting(3, "random splits of each table of the part tables")
    tables: list[str] = setting(
        ["small"],
        "tables of the part tables: names, or the sets small, medium, large and development (on "
        "which constants were chosen)",
        least=1,
        distinct=True,
    )
    rounds: int = count_setting(20, "rounds of each measurement")
    case_seconds: float = setting(
        30.0, "seconds after which a case ends, once it has had three rounds", above=0
    )
    layers: list[list[int]] = count_setting(
        MISSING, "layers as [batch, inputs, outputs, intervals]", least=1, width=4
    )
    compiled: bool = setting(
        True, "whether kanrun's layers and MLPs are also compiled, which takes a C++ compiler"
    )
    libraries: list[str] = setting(
        list(LIBRARIES), "other KAN libraries; missing ones are reported", choices=LIBRARIES
    )
    errors: list[float] = setting(
        [1e-3, 2.5e-4, 8.2e-5], "test RMSEs to reach on new points", least=1, above=0
    )
    intervals: list[int] = count_setting(
        [3, 5, 10, 20], "grid schedule of time_to_accuracy", least=1, increasing=True
    )
    training_seconds: float = setting(60.0, "time limit of each training, in seconds", above=0)
    pykan_seconds: float = setting(
        300.0, "time limit of pykan's training on all grids, in seconds", above=0
    )
