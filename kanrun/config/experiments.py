"""Experiments, which are the commands: settings, summary and examples of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from kanrun.config.models import Base
from kanrun.config.registry import EXPERIMENTS, experiment
from kanrun.config.rules import (
    DISTINCT,
    FREE_TEXT,
    MISSING,
    Count,
    Natural,
    NonNegative,
    Positive,
    Words,
    copied,
)
from kanrun.config.targets import EquationConfig, ExpressionTarget, PointsTarget, SamplingConfig

Precision = Literal["float64", "float32"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
MAX_SEED = 2**32 - 1
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
CurvesPart = Literal[
    "equispaced", "lecture", "bezier", "bspline", "continuity", "planar", "identities"
]
Coordinate = Annotated[float, Meta(ge=-1e300, le=1e300)]
ControlPoints = Annotated[
    list[Annotated[list[Coordinate], Meta(min_length=2, max_length=2)]], Meta(min_length=2)
]


@dataclass
class ExecutorConfig:
    """Executor of cells."""

    kind: Annotated[
        Literal["serial", "local", "dask"],
        "where cells run: in this process, in processes of this machine, or on a Dask cluster",
    ] = "serial"
    workers: Annotated[Count | None, "processes of executor=local; null is one per core"] = None
    address: Annotated[str | None, "scheduler of executor=dask, such as tcp://10.0.0.1:8786"] = None

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

    seed: Annotated[Natural, "the first seed"] = 0
    n_seeds: Annotated[Count, "number of seeds: seed, seed + 1, ..."] = 1
    precision: Annotated[Precision, "floating-point format of the training"] = "float64"
    device: Annotated[
        str, "device of the training, also cuda:N", Words(("auto", "cpu", "cuda", "mps"))
    ] = "auto"
    threads: Annotated[
        Count | None, "threads of one training; null is 1, since small matrices gain little"
    ] = None
    executor: Annotated[ExecutorConfig, "executor of cells"] = copied(ExecutorConfig())
    max_cpu_seconds: Annotated[
        Positive | None,
        "CPU seconds after which the run stops cleanly and keeps the best result; null is no limit",
    ] = None
    figures: Annotated[
        list[str] | Literal["all", "none"],
        "figures that the run draws: all, none, or a list of names; `kanrun runs figures` draws "
        "the others later",
        DISTINCT,
    ] = "all"
    figure_formats: Annotated[
        list[Literal["png", "svg", "pdf"]],
        Meta(min_length=1),
        "file formats of the figures",
        DISTINCT,
    ] = copied(["png"])
    tracker: Annotated[
        Literal["mlflow", "tensorboard", "trackio"] | None,
        "experiment tracker that also records the run",
    ] = None
    tags: Annotated[
        list[str], "words by which the run is found and listed", DISTINCT, FREE_TEXT
    ] = copied([])
    note: Annotated[str | None, "a sentence about the run", FREE_TEXT] = None

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors for seeds, devices, figures, and CPU seconds of a cluster."""
        kinds = (kind for kind in EXPERIMENTS.values() if kind.settings is type(self))
        known = ", ".join(next((kind.figures for kind in kinds), ()))
        for name in () if isinstance(self.figures, str) else self.figures:
            if known and not any(fnmatch(name, figure) for figure in known.split(", ")):
                yield f"{at}figures=[{name}] names no figure of this command; it draws {known}."
        if self.max_cpu_seconds is not None and self.executor.kind == "dask":
            yield (
                f"max_cpu_seconds={self.max_cpu_seconds:g} is not for executor=dask, "
                "whose workers are not this machine's."
            )
        if self.seed + self.n_seeds - 1 > MAX_SEED:
            yield (
                f"seed={self.seed} with n_seeds={self.n_seeds} goes beyond {MAX_SEED}, "
                "the largest seed."
            )
        if not _DEVICE.fullmatch(self.device):
            yield f"device={self.device} is not one of auto, cpu, cuda, cuda:N, mps."
        if self.device == "mps" and self.precision != "float32":
            yield f"device=mps has no {self.precision}; add precision=float32."


@dataclass
class TrainingConfig(ExperimentConfig):
    """Settings of experiments that train a model on points of a target."""

    target: Annotated[Any, "function, formula or table to learn"] = MISSING
    model: Annotated[Any, "model to train"] = MISSING
    solver: Annotated[Any, "training method"] = MISSING
    sampling: Annotated[SamplingConfig, "points of the target"] = copied(SamplingConfig())


#: Keys that select their target.
IMPLIED_TARGETS = {
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
    implied=IMPLIED_TARGETS,
    figures=(
        "effects",
        "pair_maps",
        "loss",
        "growth",
        "predictions",
        "residuals",
        "class_curves",
        "edges",
        "network",
    ),
)
@dataclass
class FitConfig(TrainingConfig):
    """`kanrun fit`."""

    extra_points: Annotated[
        Natural | None,
        "maximum number of points of a function that join the training points where the trained "
        "network errs most; null is 1000 for a growing KAN if sampling.n_train is null and "
        "sampling.noise is 0, and else 0",
    ] = None
    suite: Annotated[list[Any], "cells, each as differences from the rest of the configuration"] = (
        copied([])
    )


@experiment(
    "curves",
    "Draw curves through points: polynomials, Bézier, B-splines.",
    examples=(
        "kanrun curves",
        "kanrun curves 'parts=[planar]' target.path=points.csv control_points=12",
        "kanrun curves 'polynomial_points=[5,10,15]' 'function.formula=abs(x0)'",
        "kanrun curves study=multiplicity",
    ),
    figures=(
        "interpolation",
        "errors",
        "lecture_points",
        "bernstein_basis",
        "de_casteljau",
        "bspline_basis",
        "bspline_pieces",
        "local_control",
        "continuity",
        "planar",
    ),
)
@dataclass
class CurvesConfig(ExperimentConfig):
    """`kanrun curves`; points are lists of [x, y]. Only the part `identities` uses the seed."""

    target: Annotated[Any, "points of the plane"] = copied(PointsTarget())
    parts: Annotated[list[CurvesPart], Meta(min_length=1), "parts to run", DISTINCT] = copied(
        list(get_args(CurvesPart))
    )
    function: Annotated[ExpressionTarget, "function of the one variable x0"] = copied(
        ExpressionTarget("1/(1 + 25*x0^2)")
    )
    polynomial_points: Annotated[
        list[Annotated[int, Meta(ge=2, le=1000)]],
        Meta(min_length=1),
        "numbers of points that polynomials interpolate",
        DISTINCT,
    ] = copied([10, 20, 40])
    spline_points: Annotated[
        list[int], Meta(min_length=1), "numbers of points that splines interpolate", DISTINCT
    ] = copied([10, 14, 20, 28, 40, 57, 80, 113, 160])
    degree: Annotated[Count, "degree of the drawn B-splines"] = 3
    degrees: Annotated[
        list[Count], Meta(min_length=1), "degrees of the compared B-splines", DISTINCT
    ] = copied([1, 2, 3, 4, 5])
    bezier: Annotated[
        ControlPoints,
        "control points, one more than the degree",
    ] = MISSING
    parameter: Annotated[float, Meta(ge=0, le=1), "parameter of de Casteljau's construction"] = 0.4
    bspline: Annotated[
        ControlPoints,
        "control points",
    ] = MISSING
    knots: Annotated[
        list[Annotated[float, Meta(gt=0, lt=1)]] | None,
        "knots inside (0, 1), which may repeat; null is equally spaced",
    ] = None
    moved_point: Annotated[Natural, "moving control point of the B-spline, counted from 0"] = 4
    displacement: Annotated[
        list[Coordinate],
        Meta(min_length=2, max_length=2),
        "displacement of this control point",
    ] = copied([0.0, 1.5])
    spacing: Annotated[
        Literal["chord", "centripetal", "uniform"], "parameters of planar points"
    ] = "chord"
    control_points: Annotated[
        int | None,
        "control points of the curve near the planar points; null is half of those, at most 100",
    ] = None


@experiment(
    "interpret",
    "Find the formula behind a function or a table, and verify it.",
    examples=(
        "kanrun interpret",
        "kanrun interpret 'target.formula=x0*log(x1)' 'target.domain=[[0,1],[0.2,2]]'",
        "kanrun interpret 'candidates=[sin,exp,x^2]' 'custom_candidates.bump=1/(1+x0^2)'",
        "kanrun interpret from_run=fit/latest",
        "kanrun interpret study=symbolic_suite executor=local",
    ),
    implied=IMPLIED_TARGETS,
    figures=("score_card", "predictions", "residuals", "stages", "network", "candidates"),
)
@dataclass
class InterpretConfig(ExperimentConfig):
    """`kanrun interpret`."""

    target: Annotated[Any, "function or table to interpret"] = MISSING
    sampling: Annotated[SamplingConfig, "points of the target"] = copied(SamplingConfig())
    from_run: Annotated[
        str | None,
        "run of kanrun fit whose target, sampling and network are interpreted",
        FREE_TEXT,
    ] = None
    candidates: Annotated[
        list[str] | None,
        "names of the functions an edge may become; null allows all built-in functions",
        FREE_TEXT,
    ] = None
    custom_candidates: Annotated[
        dict[str, str], "additional functions of x0, by name", FREE_TEXT
    ] = copied({})
    prune_threshold: Annotated[
        float | None,
        "minimum score of an edge of from_run; null chooses it on the validation points",
    ] = None
    error_tolerance: Annotated[
        NonNegative, "relative increase of the network's error that a formula may cause"
    ] = 0.1
    budget: Annotated[
        Positive, "counted work for each output, in approximate CPU seconds of one core"
    ] = 60.0
    simplify_budget: Annotated[
        NonNegative, "work for simplification, in approximate CPU seconds of one core"
    ] = 2.0
    suite: Annotated[
        list[Any],
        "cells, each as differences from the rest of the configuration; a cell with "
        "in_view=false was unknown when rules of the search were chosen, and is claimed apart",
    ] = copied([])


@experiment(
    "import",
    "Read a trained network of pykan or efficient-kan as a run.",
    examples=(
        "kanrun import model/0.5",
        "kanrun import kan.pt 'inputs=[length,mass]' 'outputs=[period]'",
        "kanrun import kan.safetensors base=gelu",
    ),
    module="kanrun.experiments.imported",
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


@experiment(
    "solve",
    "Solve a differential equation and report its reliability.",
    examples=(
        "kanrun solve",
        "kanrun solve equation=pendulum",
        "kanrun solve 'equation.variables={x: [0,1]}' 'equation.formula=u_xx = -u' "
        '\'equation.conditions=["u = 0 at x=0","u_x = 1 at x=0"]\'',
        "kanrun solve -m equation=heat,wave,beam",
        "kanrun solve study=paper",
    ),
    implied=dict.fromkeys(("equation.variables", "equation.formula"), "equation=own"),
    figures=("convergence*", "windows*", "solution_*", "sections_*"),
)
@dataclass
class SolveConfig(ExperimentConfig):
    """`kanrun solve`.

    A network is {kind: kan, hidden: [], degree: 5} (6 for equations of order 4) with the ansatz of
    the equation, or {kind: kan, hidden: [2], terms: 1, factors: 1}, or
    {kind: mlp, hidden: [20, 20], activation: tanh}.
    """

    equation: Annotated[EquationConfig, "equation to solve"] = copied(EquationConfig())
    networks: Annotated[list[Any], Meta(min_length=1), "networks that solve it, in turn"] = copied(
        [{"kind": "kan"}]
    )
    tolerance: Annotated[
        float,
        Meta(ge=1e-12, le=0.1),
        "estimated relative L2 error at which a solution in windows of time or on tensor "
        "products of splines ends",
    ] = 1e-06
    budget: Annotated[Positive, "total work, in approximate seconds of one core"] = 60.0
    collocation_points: Annotated[
        int, Meta(ge=10, le=1000000), "collocation points inside the box"
    ] = 2000
    boundary_points: Annotated[int, Meta(ge=2, le=100000), "points of each face of the box"] = 60
    suite: Annotated[
        list[Any],
        "equations of the group with further settings: {equation: heat, bounds: {l2: 1e-6}}",
    ] = copied([])
    needles: Annotated[
        Natural | None,
        "seed of 60 generated problems with narrow features, which are solved instead; their "
        "known solutions do not enter the verdict",
    ] = None
    steps: Annotated[Count, "steps of Levenberg-Marquardt per grid"] = 30
