"""The configuration of each experiment, one dataclass a command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kanrun.config.experiment import ExperimentConfig
from kanrun.config.required import MISSING
from kanrun.config.targets import ExpressionTarget, PointsTarget, SamplingConfig


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
    shapes: list[list[int]] = field(default_factory=lambda: [[1]])  # hidden widths, one list a network
    schedules: list[Any] = MISSING
    most_parameters: int = 4000  # grids with more are left out
    scratch_intervals: list[int] | None = None  # grids of the part `scratch`; null is all of the first schedule
    degrees: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])  # of the part `order`
    order_intervals: list[int] = field(default_factory=lambda: [12, 24, 48, 96])
    order_from: int = 12  # the first grid past the bends of the target
    order_points: int = 3000
    sizes: list[int] = field(default_factory=lambda: [100, 300, 1000])  # training points of the part `sizes`
    size_intervals: list[int] = field(default_factory=lambda: [3, 6, 12, 24, 48, 96])
    overfit_points: int = 200
    overfit_intervals: list[int] = field(default_factory=lambda: [3, 6, 12, 24, 48, 96])
    overfit_noise: float = 0.01  # as sampling.noise: the part `overfit` is run with it too; 0 leaves that out


@dataclass
class CompareMLPConfig(ExperimentConfig):
    """`kanrun compare-mlp`; `comparison` says what is compared, and which of the settings below it reads.

    A case is {target: ..., shapes: [[1], [5]], sampling: ...}: the hidden widths of its KANs, and differences from
    `sampling`. With a `target` that is the only case, and `model.hidden` the only shape. Grids are lists of schedules
    or numbers; each is one KAN, judged at its last grid.
    """

    model: Any = MISSING  # what the KANs have in common
    solver: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    comparison: str = "matched"
    target: Any = None  # instead of `cases`
    cases: list[Any] = MISSING
    grids: list[Any] = field(default_factory=lambda: [[5], [5, 10, 20]])
    match: str | None = "parameters"  # or flops, time; null takes `widths` instead
    depths: list[int] = field(default_factory=lambda: [1, 2])  # hidden layers of the MLPs
    activations: list[str] = field(default_factory=lambda: ["tanh", "silu"])
    widths: list[int] = field(default_factory=list)  # of MLPs in any case, matched or not
    errors: list[float] = field(default_factory=list)  # universal_approximation: relative errors to be reached
    growth: dict[str, list[int]] = field(default_factory=dict)  # widths, depths, intervals: parameters are counted


@dataclass
class InterpretConfig(ExperimentConfig):
    """`kanrun interpret`; `model.hidden=null` searches the shape, numbers fix it. `model.intervals` are the grids.

    `candidates` are names of the table (null: all); `own_candidates` adds functions of x0 by name. With `from_run`,
    target, sampling and network are those of that run of `kanrun fit`. `suite` lists cells as differences from the
    rest.
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
    budget: float = 40.0  # work after which no new structure is begun, in about seconds of one core
    simplify: float = 5.0  # work for simplification, in about seconds of one core
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
    shapes: list[list[int]] = field(default_factory=lambda: [[], [5], [3, 3]])  # part `depth`: hidden widths
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
    layers: list[list[int]] = MISSING
    compiled: bool = True  # measure kanrun's layers and MLPs under torch.compile too; takes a C++ compiler
    peers: list[str] = field(default_factory=lambda: ["pykan", "inkan", "inkan compiled", "jaxkan"])
    growth_shape: list[int] = field(default_factory=lambda: [8, 8])  # inputs, outputs
    growth_batch: int = 4096
    growth_intervals: list[int] = field(default_factory=lambda: [5, 10, 20, 50, 100, 200, 500, 1000, 2000])
    growth_batches: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048, 4096, 8192])
    errors: list[float] = field(default_factory=lambda: [1e-3, 2.5e-4, 8.2e-5])  # to be reached on fresh points
    intervals: list[int] = field(default_factory=lambda: [3, 5, 10, 20])  # schedule of time_to_accuracy
    limit: float = 60.0  # seconds of one training
    pykan_limit: float = 300.0  # its training: all of its grids, so that its level is known
