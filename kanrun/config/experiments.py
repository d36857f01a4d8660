"""The experiments, which are the commands: settings, summary and examples of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kanrun.config.registry import experiment
from kanrun.config.rules import MISSING, setting
from kanrun.config.targets import ExpressionTarget, PointsTarget, SamplingConfig

PRECISIONS = ("float64", "float32")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_PLACE: dict[str, Any] = {"minimum": -1e300, "maximum": 1e300}  # a finite number


@dataclass
class ExecutorConfig:
    """Executor of cells."""

    kind: str = setting(
        "serial",
        "in this process, in processes of this machine, or on a Dask cluster",
        choices=("serial", "local", "dask"),
    )
    workers: int | None = setting(
        None, "processes of executor=local; null is one per core", minimum=1
    )
    address: str | None = setting(None, "scheduler of executor=dask, such as tcp://10.0.0.1:8786")

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors for workers that are not local, and for an address of another executor."""
        if self.workers is not None and self.kind != "local":
            yield f"{at}workers={self.workers} is for executor=local, not executor={self.kind}."
        if self.kind == "dask" and not (self.address or "").strip():
            yield f"executor=dask needs {at}address, the scheduler's, such as tcp://10.0.0.1:8786."
        if self.kind != "dask" and self.address is not None:
            yield f"{at}address={self.address} is for executor=dask, not executor={self.kind}."


@dataclass
class ExperimentConfig:
    """Settings of every experiment."""

    seed: int = setting(0, "the first seed", minimum=0)
    n_seeds: int = setting(1, "how many: seed, seed + 1, ...", minimum=1)
    precision: str = setting("float64", "numbers of training", choices=PRECISIONS)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    threads: int | None = setting(
        None, "threads of one training; null is 1: small matrices gain little", minimum=1
    )
    executor: ExecutorConfig = setting(ExecutorConfig(), "where cells run")
    max_cpu_seconds: float | None = setting(
        None,
        "CPU seconds after which the run stops cleanly and keeps the best result; null is no limit",
        above=0,
    )
    figure_formats: list[str] = setting(
        ["png"],
        "file formats of the figures",
        least=1,
        distinct=True,
        choices=("png", "svg", "pdf"),
    )
    tracker: str | None = setting(
        None, "another place that hears of the run", choices=("mlflow", "tensorboard", "trackio")
    )
    tags: list[str] = setting(
        [], "words by which the run is found and listed", distinct=True, free_text=True
    )
    note: str | None = setting(None, "a sentence about the run", free_text=True)

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors for seeds beyond 32 bits, devices, and CPU seconds of a cluster."""
        if self.max_cpu_seconds is not None and self.executor.kind == "dask":
            yield (
                f"max_cpu_seconds={self.max_cpu_seconds:g} is not for executor=dask, "
                "whose workers are not this machine's."
            )
        if self.seed + self.n_seeds > 2**32:
            yield (
                f"seed={self.seed} with n_seeds={self.n_seeds} goes beyond {2**32 - 1}, "
                "the largest seed."
            )
        if not _DEVICE.fullmatch(self.device):
            yield f"device={self.device} is not one of auto, cpu, cuda, cuda:N, mps."
        if self.device == "mps" and self.precision != "float32":
            yield f"device=mps has no {self.precision}; add precision=float32."


#: Keys that one target alone has for users stand for it.
_TARGETS = {
    "target.formula": "target=expression",
    "target.path": "target=table",
    "target.outputs": "target=table",
}


@experiment(
    "fit",
    "Train a model on a function, a formula or a table.",
    examples=(
        "kanrun fit",
        "kanrun fit n_seeds=5 'model.hidden=[1]' sampling.n_train=3000",
        "kanrun fit 'target.formula=exp(-x0)*sin(3*x1)' 'target.domain=[[-1,1],[0,2]]'",
        "kanrun fit target.path=houses.csv 'target.inputs=[rooms,area (m2)]' target.outputs=price",
        "kanrun fit study=toy_suite",
        "kanrun fit -m model.degree=2,3,4",
    ),
    table_model="auto",
    implied=_TARGETS,
)
@dataclass
class FitConfig(ExperimentConfig):
    """`kanrun fit`."""

    target: Any = setting(MISSING, "what is learned")
    model: Any = setting(MISSING, "what learns it")
    solver: Any = setting(MISSING, "how it is trained")
    sampling: SamplingConfig = setting(SamplingConfig(), "points of the target")
    suite: list[Any] = setting([], "cells, each as differences from the rest of the configuration")


@experiment(
    "curves",
    "Go from data points over polynomials and Bézier curves to B-splines.",
    examples=(
        "kanrun curves",
        "kanrun curves 'parts=[planar]' target.path=points.csv control_points=12",
        "kanrun curves 'polynomial_points=[5,10,15]' 'function.formula=abs(x0)'",
        "kanrun curves study=multiplicity",
    ),
)
@dataclass
class CurvesConfig(ExperimentConfig):
    """`kanrun curves`; points are lists of [x, y]. Only the part `identities` uses the seed."""

    target: Any = setting(PointsTarget(), "points of the plane")
    parts: list[str] = setting(
        ["equispaced", "lecture", "bezier", "bspline", "continuity", "planar", "identities"],
        "what is run",
        least=1,
        distinct=True,
        choices=(
            "equispaced",
            "lecture",
            "bezier",
            "bspline",
            "continuity",
            "planar",
            "identities",
        ),
    )
    function: ExpressionTarget = setting(
        ExpressionTarget("1/(1 + 25*x0^2)"), "function of the one variable x0"
    )
    polynomial_points: list[int] = setting(
        [10, 20, 40],
        "points that polynomials go through",
        least=1,
        distinct=True,
        minimum=2,
        maximum=1000,
    )
    spline_points: list[int] = setting(
        [10, 14, 20, 28, 40, 57, 80, 113, 160],
        "points that splines go through",
        least=1,
        distinct=True,
    )
    degree: int = setting(3, "degree of the B-splines drawn", minimum=1)
    degrees: list[int] = setting(
        [1, 2, 3, 4, 5], "degrees of those compared", least=1, distinct=True, minimum=1
    )
    bezier: Any = setting(
        MISSING, "control points, one more than the degree", least=2, width=2, **_PLACE
    )
    parameter: float = setting(0.4, "place of de Casteljau's construction", minimum=0, maximum=1)
    bspline: Any = setting(MISSING, "control points", least=2, width=2, **_PLACE)
    knots: list[float] | None = setting(
        None, "knots inside (0, 1), repeated ones too; null is equally spaced", above=0, below=1
    )
    moved_point: int = setting(
        4, "control point of the B-spline that moves, counted from 0", minimum=0
    )
    displacement: list[float] = setting([0.0, 1.5], "how far it moves", length=2, **_PLACE)
    spacing: str = setting(
        "chord", "parameters of planar points", choices=("chord", "centripetal", "uniform")
    )
    control_points: int | None = setting(
        None,
        "control points of the curve near the planar points; null is half as many, at most 100",
    )


@experiment(
    "extend-grid",
    "Train along grid schedules and from scratch, and see the order of convergence.",
    examples=(
        "kanrun extend-grid",
        "kanrun extend-grid study=paper",
        "kanrun extend-grid 'parts=[order]' 'degrees=[2,3]'",
    ),
    implied=_TARGETS,
)
@dataclass
class ExtendGridConfig(ExperimentConfig):
    """`kanrun extend-grid`; the schedules take the place of `model.intervals`.

    A schedule is {kind: list, intervals: [3, 5, 10]}, {kind: doubling, first: 3, last: 96, nested:
    true}, or {kind: plateau, ...} with the keys of either and `patience` and `steps`. The first one
    is also trained from scratch.
    """

    target: Any = setting(MISSING, "what is learned")
    model: Any = setting(MISSING, "the KAN whose grids are extended")
    solver: Any = setting(MISSING, "how it is trained")
    sampling: SamplingConfig = setting(SamplingConfig(), "points of the target")
    parts: list[str] = setting(
        ["schedules", "scratch", "order", "sizes", "overfit"],
        "what is run",
        least=1,
        choices=("schedules", "scratch", "order", "sizes", "overfit"),
    )
    shapes: list[list[int]] = setting(
        [[1]], "hidden widths, one list per network", least=1, distinct=True, minimum=1
    )
    schedules: list[Any] = setting(MISSING, "schedules of grids", least=1)
    max_parameters: int = setting(4000, "grids with more parameters are left out")
    scratch_intervals: list[int] | None = setting(
        None, "grids of the part scratch; null is all of the first schedule", distinct=True
    )
    degrees: list[int] = setting(
        [1, 2, 3, 4, 5], "degrees of the part order", distinct=True, minimum=1
    )
    order_intervals: list[int] = setting([12, 24, 48, 96], "grids of the part order")
    order_first_grid: int = setting(12, "the first grid past the bends of the target")
    order_points: int = setting(3000, "training points of the part order", minimum=10)
    sizes: list[int] = setting(
        [100, 300, 1000], "training points of the part sizes", distinct=True, minimum=10
    )
    size_intervals: list[int] = setting([3, 6, 12, 24, 48, 96], "grids of the part sizes")
    overfit_points: int = setting(200, "training points of the part overfit", minimum=10)
    overfit_intervals: list[int] = setting([3, 6, 12, 24, 48, 96], "grids of the part overfit")
    overfit_noise: float = setting(
        0.01,
        "noise, as sampling.noise, with which the part overfit is run too; 0 leaves that out",
        minimum=0,
    )


@experiment(
    "interpret",
    "Find the formula behind a function or a table, and verify it.",
    examples=(
        "kanrun interpret",
        "kanrun interpret 'target.formula=x0*log(x1)' 'target.domain=[[0,1],[0.2,2]]'",
        "kanrun interpret 'model.hidden=[5]'",
        "kanrun interpret 'candidates=[sin,exp,x^2]' 'custom_candidates.bump=1/(1+x0^2)'",
        "kanrun interpret from_run=fit/latest",
        "kanrun interpret study=symbolic_suite executor=local",
    ),
    implied=_TARGETS,
)
@dataclass
class InterpretConfig(ExperimentConfig):
    """`kanrun interpret`; `model.hidden=null` searches the shape, numbers fix it."""

    target: Any = setting(MISSING, "what is interpreted")
    model: Any = setting(
        MISSING, "the KAN whose edges become formulas; model.intervals are its grids"
    )
    sampling: SamplingConfig = setting(SamplingConfig(), "points of the target")
    from_run: str | None = setting(
        None, "run of kanrun fit whose target, sampling and network are interpreted", free_text=True
    )
    backend: str = setting(
        "kanrun",
        "search program; the others serve as comparison, with the same points and CPU seconds",
        choices=("kanrun", "operon", "gplearn"),
    )
    candidates: list[str] | None = setting(
        None,
        "names of the functions an edge may become; null allows all built-in functions",
        free_text=True,
    )
    custom_candidates: dict[str, str] = setting(
        {}, "additional functions of x0, by name", free_text=True
    )
    sparsity: float = setting(
        1e-3,
        "weight of L1 and entropy of a fixed shape, relative to the variance of the output",
        minimum=0,
    )
    prune_threshold: float | None = setting(
        None, "minimum score of an edge of from_run; null chooses it on the validation points"
    )
    error_tolerance: float = setting(
        0.1, "relative increase of the network's error that a formula may cause", minimum=0
    )
    n_starts: int = setting(6, "random starts of each structure on the coarse grid", minimum=1)
    budget: float = setting(60.0, "total work, in approximate seconds of one core", above=0)
    simplify_budget: float = setting(
        5.0, "work for simplification, in approximate seconds of one core", minimum=0
    )
    suite: list[Any] = setting([], "cells, each as differences from the rest of the configuration")


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
    implied=_TARGETS,
)
@dataclass
class CompareMLPConfig(ExperimentConfig):
    """`kanrun compare-mlp`.

    A case is {target: ..., shapes: [[1], [5]], sampling: ...}: the hidden widths of its KANs, and
    differences from `sampling`. With a `target` that is the only case, and `model.hidden` the only
    shape. Grids are lists of schedules or numbers; each is one KAN, judged at its last grid.
    """

    model: Any = setting(MISSING, "what the KANs have in common")
    solver: Any = setting(MISSING, "how both are trained")
    sampling: SamplingConfig = setting(SamplingConfig(), "points of the targets")
    comparison: str = setting(
        "matched",
        "what is compared, and which of the settings below it reads",
        choices=(
            "matched",
            "universal_approximation",
            "kolmogorov_arnold",
            "no_activation",
            "implementation_tricks",
        ),
    )
    target: Any = setting(None, "the only target, instead of cases")
    cases: list[Any] = setting(MISSING, "targets with the shapes of their KANs")
    grids: list[Any] = setting([[5], [5, 10, 20]], "grids, each a number or a schedule", least=1)
    match: str | None = setting(
        "parameters",
        "what MLPs have as much of as the KAN; null takes widths instead",
        choices=("parameters", "flops", "time"),
    )
    depths: list[int] = setting([1, 2], "hidden layers of the MLPs", least=1, minimum=0)
    activations: list[str] = setting(["tanh", "silu"], "activations of the MLPs", least=1)
    widths: list[int] = setting([], "widths of MLPs in any case, matched or not", minimum=1)
    errors: list[float] = setting(
        [], "universal_approximation: relative errors to be reached", above=0
    )
    growth: dict[str, list[int]] = setting({}, "widths, depths, intervals: parameters are counted")


@experiment(
    "continual",
    "Learn peak after peak, and measure what is forgotten.",
    examples=(
        "kanrun continual",
        "kanrun continual study=two_dimensional",
        "kanrun continual peaks=7 spacing=0.3 order=random",
    ),
)
@dataclass
class ContinualConfig(ExperimentConfig):
    """`kanrun continual`: peaks exp(-sharpness |x - c|^2), one for each phase.

    A phase sees the box around the centre of its peak alone.

    A learner is {name: ..., kind: kan or mlp} with differences from `model` (kan) or an activation
    (mlp: as many parameters as `model`), and what it keeps of earlier phases: `memory: none`,
    `replay`, `rehearse`, `hold` or `ewc`.
    """

    model: Any = setting(MISSING, "the KAN of the learners")
    solver: Any = setting(MISSING, "how each phase is trained")
    centres: list[Any] | None = setting(
        None,
        "places of the peaks, pairs in two dimensions; null: `peaks` along each axis, around 0",
    )
    peaks: int = setting(5, "peaks along each axis", minimum=1)
    spacing: float = setting(0.4, "distance of the centres, and width of a phase", above=0)
    sharpness: float = setting(300.0, "sharpness of the peaks", above=0)
    dimension: int = setting(1, "number of variables", minimum=1, maximum=2)
    order: Any = setting(
        "ascending", "ascending, descending, random (from the seed), or a list of positions from 0"
    )
    overlap: float = setting(
        0.0,
        "share by which a phase is wider: 0 touches its neighbours, 1 reaches their centres",
        above=-1,
        below=2,
    )
    points: int = setting(100, "points of a phase, evenly spaced", minimum=2, maximum=200_000)
    evaluation_points: int = setting(
        500, "evenly spaced points of the whole domain", minimum=2, maximum=200_000
    )
    trials: int = setting(
        2,
        "trials of every learner; the best on all phases' data after the last one counts",
        minimum=1,
    )
    parts: list[str] = setting(
        ["learners", "intervals", "overlap", "depth"],
        "what is run",
        least=1,
        choices=("learners", "intervals", "overlap", "depth"),
    )
    learners: list[Any] = setting(MISSING, "networks and what they keep")
    intervals: list[int] = setting(
        [100, 200, 400], "grids of `model` in the part intervals", minimum=1
    )
    overlaps: list[float] = setting(
        [0.0, 0.5, 1.0], "overlaps of the part overlap", above=-1, below=2
    )
    overlap_learners: list[str] = setting(["KAN", "MLP tanh"], "learners of the part overlap")
    shapes: list[list[int]] = setting(
        [[], [5], [3, 3]], "hidden widths of the part depth", minimum=1
    )
    memories: list[str] = setting(["none", "hold", "rehearse"], "memories of the part depth")


@experiment(
    "bench",
    "Measure speed side by side with other KAN libraries and an MLP.",
    examples=(
        "kanrun bench",
        "kanrun bench part=layers",
        "kanrun bench part=growth rounds=50",
        "kanrun bench threads=1",
    ),
)
@dataclass
class BenchConfig(ExperimentConfig):
    """`kanrun bench`: competitors run in turn in one process; medians over rounds are compared."""

    precision: str = setting(
        "float32", "numbers of the layers; time_to_accuracy is in float64", choices=PRECISIONS
    )
    part: str = setting(
        "all",
        "what to measure; all excludes tables",
        choices=(
            "all",
            "layers",
            "growth",
            "time_to_accuracy",
            "startup",
            "tables",
        ),
    )
    splits: int = setting(3, "random splits of each table of the part tables", minimum=1)
    tables: list[str] = setting(
        [],
        "tables of the part tables: names, or the sets development and holdout; all by default",
        distinct=True,
    )
    rounds: int = setting(20, "rounds of each measurement", minimum=1)
    case_seconds: float = setting(
        30.0, "seconds after which a case is left, once it has had three rounds", above=0
    )
    layers: list[list[int]] = setting(
        MISSING, "layers as [batch, inputs, outputs, intervals]", least=1, width=4, minimum=1
    )
    compiled: bool = setting(
        True, "whether kanrun's layers and MLPs are also compiled, which takes a C++ compiler"
    )
    libraries: list[str] = setting(
        ["pykan", "inkan", "inkan compiled", "jaxkan"],
        "other KAN libraries; missing ones are reported as not installed",
        choices=("pykan", "inkan", "inkan compiled", "jaxkan"),
    )
    growth_shape: list[int] = setting(
        [8, 8], "inputs and outputs of the part growth", length=2, minimum=1
    )
    growth_batch: int = setting(4096, "samples of the part growth", minimum=1)
    growth_intervals: list[int] = setting(
        [5, 10, 20, 50, 100, 200, 500, 1000, 2000], "grids of the part growth", least=1, minimum=1
    )
    growth_batches: list[int] = setting(
        [256, 512, 1024, 2048, 4096, 8192], "batches of the part growth", least=1, minimum=1
    )
    errors: list[float] = setting(
        [1e-3, 2.5e-4, 8.2e-5], "test RMSEs to be reached on fresh points", least=1, above=0
    )
    intervals: list[int] = setting(
        [3, 5, 10, 20], "grid schedule of time_to_accuracy", least=1, minimum=1, increasing=True
    )
    training_seconds: float = setting(60.0, "time limit of each training, in seconds", above=0)
    pykan_seconds: float = setting(
        300.0, "time limit of pykan's training on all grids, in seconds", above=0
    )
