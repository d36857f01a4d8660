"""The typed configuration: what Hydra composes is checked against these dataclasses and handed on as them.

A group with several kinds (targets, models, solvers, executors) has one dataclass a kind, told apart by
`kind`; fields that say `Any` take several shapes, and the room that uses them checks which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

# ---------------------------------------------------------------------------------------------- targets


@dataclass
class NamedTarget:
    """A function that kanrun knows by name; `domain` (a list of [lower, upper]) overrides its own."""

    name: str = MISSING
    domain: Any = None
    kind: str = "named"


@dataclass
class GaussianPeaksTarget:
    """Sum of exp(-sharpness |x - c|^2) over the centres c, on [-1, 1]^dimension."""

    centres: list[float] = field(default_factory=lambda: [-0.8, -0.4, 0.0, 0.4, 0.8])
    sharpness: float = 300.0
    dimension: int = 1
    domain: Any = None
    kind: str = "gaussian_peaks"


@dataclass
class ExpressionTarget:
    """A formula in x0, x1, ...; `domain` has one [lower, upper] a variable (default [-1, 1] each)."""

    formula: str = MISSING
    domain: Any = None
    kind: str = "expression"


@dataclass
class SpecialTarget:
    """A function of scipy.special in two variables."""

    name: str = MISSING
    domain: Any = None
    kind: str = "special"


@dataclass
class FeynmanTarget:
    """One of the 27 dimensionless Feynman formulas by its equation id, such as I.6.2."""

    id: str = MISSING
    domain: Any = None
    kind: str = "feynman"


@dataclass
class TableTarget:
    """Columns of a CSV, TSV (compressed too) or Parquet file."""

    path: str = MISSING
    inputs: list[str] = MISSING
    outputs: list[str] = MISSING
    task: str = "regression"  # or classification
    kind: str = "table"


@dataclass
class PointsTarget:
    """Points of the plane in the order of a curve, from two columns of a file; without a path, kanrun's own."""

    path: str | None = None
    columns: list[str] | None = None  # null: x and y where they exist, else the first two that hold numbers
    parameter: str | None = None  # column of increasing parameters; null: from the distances (see `spacing`)
    kind: str = "points"


@dataclass
class SamplingConfig:
    """How many points; for tables `null` means a seeded split of all rows."""

    train: int | None = 1000
    test: int | None = 1000
    noise: float = 0.0  # standard deviation relative to the target's
    validation: float = 0.1  # share of the training points that selections may look at


# ----------------------------------------------------------------------------------------------- models


@dataclass
class KANConfig:
    hidden: list[int] | None = field(default_factory=lambda: [5])  # null: `kanrun interpret` searches the shape
    intervals: Any = field(default_factory=lambda: [5, 10, 20, 50])  # one number, a schedule, or auto
    degree: int = 3
    base: str = "silu"
    scale: str = "separate"  # w_b and w_s; `single`: the one w of phi = w (b + spline)
    outside: str = "linear"  # or constant, zero: what a spline does beyond its grid
    initialisation: str = "auto"  # or paper, lecun, glorot, power_law, spline
    adapt: float = 0.0  # share of quantile spacing in a grid drawn from data; 0 is uniform
    update_grid: bool = True  # hidden grids follow the range of what reaches them
    frozen_scales: bool = False  # w_b and w_s stay where they start
    kind: str = "kan"


@dataclass
class MLPConfig:
    hidden: list[int] = field(default_factory=lambda: [32, 32])
    activation: str = "silu"
    kind: str = "mlp"


@dataclass
class PolynomialConfig:
    degree: int = 10
    kind: str = "polynomial"


@dataclass
class BezierConfig:
    control_points: int = 8
    kind: str = "bezier"


@dataclass
class BSplineConfig:
    control_points: int = 12
    degree: int = 3
    kind: str = "bspline"


# ---------------------------------------------------------------------------------------------- solvers


@dataclass
class AutoSolver:
    """Picks by the numbers of parameters and data, and says which."""

    steps: int | None = None  # per grid; null is the chosen solver's default
    starts: int | None = None
    narrow: bool = True  # lm: validation may also choose fewer hidden nodes; the others are pruned
    kind: str = "auto"


@dataclass
class LMSolver:
    """Levenberg-Marquardt."""

    steps: int | None = None
    starts: int | None = None  # at the coarse grid; the best goes on
    narrow: bool = True  # validation may also choose fewer hidden nodes; the others are pruned
    penalty: Any = "auto"  # weight of the smoothness penalty, or `auto`: chosen on validation data
    local: bool = False  # never move coefficients whose basis functions saw no data
    kind: str = "lm"


@dataclass
class LBFGSSolver:
    steps: int | None = None
    starts: int | None = None
    history: int = 30
    penalty: Any = "auto"  # weight of the smoothness penalty; auto is 0, and 1e-3 for classification
    local: bool = False
    kind: str = "lbfgs"


@dataclass
class AdamSolver:
    steps: int | None = None
    starts: int | None = None
    learning_rate: float = 1e-2
    schedule: str = "cosine"  # or constant
    batch: int | None = None  # null is all points at once
    weight_decay: float = 0.0
    penalty: Any = "auto"  # as for lbfgs
    local: bool = False
    patience: int | None = None  # steps without a better validation error until a grid is left
    kind: str = "adam"


# -------------------------------------------------------------------------------------------- executors


@dataclass
class ExecutorConfig:
    """Where cells run: `serial`, `local` processes, or a `dask` cluster by its address."""

    kind: str = "serial"
    workers: int | None = None
    address: str | None = None


# ------------------------------------------------------------------------------------------- experiments


@dataclass
class ExperimentConfig:
    """What every experiment's configuration has."""

    seed: int = 0
    seeds: int = 1  # how many: seed, seed + 1, ...
    precision: str = "float64"
    device: str = "auto"
    threads: int | None = None  # of one training; null is 1: small matrices gain nothing from more
    executor: Any = field(default_factory=ExecutorConfig)


@dataclass
class FitConfig(ExperimentConfig):
    """`kanrun fit`; `suite` lists cells as differences from the rest of the configuration."""

    target: Any = MISSING
    model: Any = MISSING
    solver: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    suite: list[Any] = field(default_factory=list)


@dataclass
class CurvesConfig(ExperimentConfig):
    """`kanrun curves`; points are lists of [x, y]. Only the part `identities` draws anything from the seed."""

    target: Any = field(default_factory=PointsTarget)
    parts: list[str] = field(
        default_factory=lambda: ["equispaced", "lecture", "bezier", "bspline", "continuity", "planar", "identities"]
    )
    function: ExpressionTarget = field(default_factory=lambda: ExpressionTarget("1/(1 + 25*x0^2)"))  # of one variable
    polynomial_points: list[int] = field(default_factory=lambda: [10, 20, 40])
    spline_points: list[int] = field(default_factory=lambda: [10, 14, 20, 28, 40, 57, 80, 113, 160])
    degree: int = 3  # of the B-splines drawn
    degrees: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])  # of those compared
    bezier: Any = MISSING  # control points; there is one more than the degree
    parameter: float = 0.4  # in [0, 1], where de Casteljau's construction is drawn
    bspline: Any = MISSING  # control points
    knots: list[float] | None = None  # inside (0, 1), repeated ones too; null is equally spaced
    moved: int = 4  # which control point of the B-spline moves, counted from 0
    by: list[float] = field(default_factory=lambda: [0.0, 1.5])
    spacing: str = "chord"  # or centripetal, uniform: parameters of planar points
    control_points: int | None = None  # of the curve near the planar points; null is half as many, at most 100


@dataclass
class ExtendGridConfig(ExperimentConfig):
    """`kanrun extend-grid`; `model.intervals` is not used: the schedules say which grids there are.

    A schedule is {kind: list, intervals: [3, 5, 10]}, {kind: doubling, first: 3, last: 96, nested: true}, or
    {kind: plateau, ...} with the keys of either and `patience` and `steps`. The first one is also trained from scratch.
    """

    target: Any = MISSING
    model: Any = MISSING
    solver: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    parts: list[str] = field(default_factory=lambda: ["schedules", "scratch", "order", "sizes", "overfit"])
    shapes: list[Any] = field(default_factory=lambda: [[1]])  # hidden widths, one list a network
    schedules: list[Any] = MISSING
    most_parameters: int = 4000  # grids with more are left out
    degrees: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])  # of the part `order`
    order_intervals: list[int] = field(default_factory=lambda: [6, 12, 24, 48, 96])
    order_from: int = 12  # the first grid past the bends of the target
    order_points: int = 3000
    sizes: list[int] = field(default_factory=lambda: [100, 300, 1000])  # training points of the part `sizes`
    size_intervals: list[int] = field(default_factory=lambda: [3, 6, 12, 24, 48, 96])
    overfit_points: int = 200
    overfit_intervals: list[int] = field(default_factory=lambda: [3, 6, 12, 24, 48, 96])


@dataclass
class CompareMLPConfig(ExperimentConfig):
    """`kanrun compare-mlp`; `comparison` says what is compared, and which of the settings below it reads.

    A case is {target: ..., shapes: [[1], [5]], sampling: ...}: the hidden widths of its KANs, and differences from
    `sampling`. Grids are lists of schedules or numbers; each is one KAN, judged at its last grid.
    """

    model: Any = MISSING  # what the KANs have in common
    solver: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    comparison: str = "matched"
    cases: list[Any] = MISSING
    grids: list[Any] = field(default_factory=lambda: [[5], [5, 10, 20]])
    match: str | None = "parameters"  # or flops, time; null takes `widths` instead
    depths: list[int] = field(default_factory=lambda: [1, 2])  # hidden layers of the MLPs
    activations: list[str] = field(default_factory=lambda: ["tanh", "silu"])
    widths: list[int] = field(default_factory=list)  # of MLPs in any case, matched or not
    errors: list[float] = field(default_factory=list)  # universal_approximation: relative errors to be reached
    growth: Any = field(default_factory=dict)  # widths, depths, intervals whose parameters are counted


@dataclass
class InterpretConfig(ExperimentConfig):
    """`kanrun interpret`; `model.hidden=null` searches the shape, numbers fix it. `model.intervals` is the grid
    schedule.

    `candidates` are names of the table (null: all); `own_candidates` adds functions of x0 by name. With `from_run`,
    target,
    sampling and network are those of that run of `kanrun fit`. `suite` lists cells as differences from the rest.
    """

    target: Any = MISSING
    model: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    from_run: str | None = None
    candidates: list[str] | None = None
    own_candidates: dict[str, str] = field(default_factory=dict)
    sparsity: float = 1e-3  # weight of L1 and entropy of a fixed shape, relative to the variance of the output
    prune: float | None = None  # least edge score of a network from a run; null is chosen on validation points
    slack: float = 0.1  # a formula may be this much worse than the network and still stand for it
    starts: int = 6  # of each structure at the coarse grid
    budget: float = 40.0  # seconds after which no new structure is begun
    simplify: float = 5.0  # seconds for simplification
    suite: list[Any] = field(default_factory=list)


@dataclass
class ContinualConfig(ExperimentConfig):
    """`kanrun continual`: peaks exp(-sharpness |x - c|^2), one a phase; a phase sees the box around its centre alone.

    A learner is {name: ..., kind: kan or mlp} with differences from `model` (kan) or an activation (mlp: as many
    parameters as `model`), and what it keeps of earlier phases: `memory: none`, `replay`, `rehearse`, `hold` or `ewc`.
    """

    model: Any = MISSING
    solver: Any = MISSING
    centres: list[Any] | None = None  # places, pairs in two dimensions; null: `peaks` along each axis, around 0
    peaks: int = 5
    spacing: float = 0.4  # of the centres; also the width of a phase
    sharpness: float = 300.0
    dimension: int = 1  # or 2
    order: Any = "ascending"  # or descending, random (drawn from the seed), or a list of positions from 0
    overlap: float = 0.0  # a phase is this share wider: 0 touches its neighbours, 1 reaches their centres
    points: int = 100  # of a phase, evenly spaced
    evaluation: int = 500  # evenly spaced points of the whole domain
    trials: int = 2  # of every learner; the best on all phases' data after the last one counts
    parts: list[str] = field(default_factory=lambda: ["learners", "intervals", "overlap", "depth"])
    learners: list[Any] = MISSING
    intervals: list[int] = field(default_factory=lambda: [100, 200, 400])  # part `intervals`: grids of `model`
    overlaps: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.0])  # part `overlap`
    compared: list[str] = field(default_factory=lambda: ["KAN", "MLP tanh"])  # learners of the part `overlap`
    shapes: list[Any] = field(default_factory=lambda: [[], [5], [3, 3]])  # part `depth`: hidden widths, same parameters
    memories: list[str] = field(default_factory=lambda: ["none", "hold", "rehearse"])  # of the part `depth`


@dataclass
class BenchConfig(ExperimentConfig):
    """`kanrun bench`: what is measured runs in turn in one process, and is compared by medians over rounds.

    A layer is [batch, inputs, outputs, intervals]. Peers that are not installed are named as such.
    """

    precision: str = "float32"  # of the layers; time_to_accuracy is in float64
    part: str = "all"  # or layers, growth, time_to_accuracy, startup
    rounds: int = 20
    case_seconds: float = 30.0  # after which a case is left, once it has had three rounds
    layers: list[Any] = MISSING
    peers: list[str] = field(default_factory=lambda: ["pykan", "inkan", "inkan compiled", "jaxkan"])
    growth_shape: list[int] = field(default_factory=lambda: [8, 8])  # inputs, outputs
    growth_batch: int = 4096
    growth_intervals: list[int] = field(default_factory=lambda: [5, 10, 20, 50, 100, 200, 500, 1000, 2000])
    growth_batches: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048, 4096, 8192])
    errors: list[float] = field(default_factory=lambda: [1e-3, 2.5e-4, 8.2e-5])  # to be reached on fresh points
    intervals: list[int] = field(default_factory=lambda: [3, 5, 10, 20])  # schedule of time_to_accuracy
    limit: float = 60.0  # seconds of one training


#: The kinds of each group: what `kind` may say, and the dataclass it stands for.
GROUPS: dict[str, tuple[type, ...]] = {
    "target": (
        NamedTarget,
        GaussianPeaksTarget,
        ExpressionTarget,
        SpecialTarget,
        FeynmanTarget,
        TableTarget,
        PointsTarget,
    ),
    "model": (KANConfig, MLPConfig, PolynomialConfig, BezierConfig, BSplineConfig),
    "solver": (AutoSolver, LMSolver, LBFGSSolver, AdamSolver),
}
