"""Experiments, which are the commands: settings, summary and examples of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from kanrun.config.models import BASES
from kanrun.config.registry import EXPERIMENTS, experiment
from kanrun.config.rules import MISSING, count_setting, setting, text_setting
from kanrun.config.targets import EquationConfig, ExpressionTarget, PointsTarget, SamplingConfig

PRECISIONS = ("float64", "float32")
MAX_SEED = 2**32 - 1
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_FINITE: dict[str, Any] = {"minimum": -1e300, "maximum": 1e300}


def parts(*names: str) -> Any:
    """Return the setting `parts` of an experiment, which runs all of them by default."""
    return setting(list(names), "parts to run", least=1, distinct=True, choices=names)


@dataclass
class ExecutorConfig:
    """Executor of cells."""

    kind: str = setting(
        "serial",
        "where cells run: in this process, in processes of this machine, or on a Dask cluster",
        choices=("serial", "local", "dask"),
    )
    workers: int | None = count_setting(None, "processes of executor=local; null is one per core")
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
    n_seeds: int = count_setting(1, "number of seeds: seed, seed + 1, ...")
    precision: str = setting("float64", "floating-point format of the training", choices=PRECISIONS)
    device: str = setting(
        "auto", "device of the training, also cuda:N", words=("auto", "cpu", "cuda", "mps")
    )
    threads: int | None = count_setting(
        None, "threads of one training; null is 1, since small matrices gain little"
    )
    executor: ExecutorConfig = setting(ExecutorConfig(), "executor of cells")
    max_cpu_seconds: float | None = setting(
        None,
        "CPU seconds after which the run stops cleanly and keeps the best result; null is no limit",
        above=0,
    )
    figures: list[str] | str = setting(
        "all",
        "figures that the run draws: all, none, or a list of names; `kanrun runs figures` draws "
        "the others later",
        words=("all", "none"),
        distinct=True,
    )
    figure_formats: list[str] = setting(
        ["png"],
        "file formats of the figures",
        least=1,
        distinct=True,
        choices=("png", "svg", "pdf"),
    )
    tracker: str | None = setting(
        None,
        "experiment tracker that also records the run",
        choices=("mlflow", "tensorboard", "trackio"),
    )
    tags: list[str] = text_setting([], "words by which the run is found and listed", distinct=True)
    note: str | None = text_setting(None, "a sentence about the run")

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

    target: Any = setting(MISSING, "function, formula or table to learn")
    model: Any = setting(MISSING, "model to train")
    solver: Any = setting(MISSING, "training method")
    sampling: SamplingConfig = setting(SamplingConfig(), "points of the target")


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

    extra_points: int | None = setting(
        None,
        "maximum number of points of a function that join the training points where the trained "
        "network errs most; null is 1000 for a growing KAN if sampling.n_train is null and "
        "sampling.noise is 0, and else 0",
        minimum=0,
    )
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

    target: Any = setting(PointsTarget(), "points of the plane")
    parts: list[str] = parts(
        "equispaced", "lecture", "bezier", "bspline", "continuity", "planar", "identities"
    )
    function: ExpressionTarget = setting(
        ExpressionTarget("1/(1 + 25*x0^2)"), "function of the one variable x0"
    )
    polynomial_points: list[int] = setting(
        [10, 20, 40],
        "numbers of points that polynomials interpolate",
        least=1,
        distinct=True,
        minimum=2,
        maximum=1000,
    )
    spline_points: list[int] = setting(
        [10, 14, 20, 28, 40, 57, 80, 113, 160],
        "numbers of points that splines interpolate",
        least=1,
        distinct=True,
    )
    degree: int = count_setting(3, "degree of the drawn B-splines")
    degrees: list[int] = count_setting(
        [1, 2, 3, 4, 5], "degrees of the compared B-splines", least=1, distinct=True
    )
    bezier: list[list[float]] = setting(
        MISSING, "control points, one more than the degree", least=2, width=2, **_FINITE
    )
    parameter: float = setting(
        0.4, "parameter of de Casteljau's construction", minimum=0, maximum=1
    )
    bspline: list[list[float]] = setting(MISSING, "control points", least=2, width=2, **_FINITE)
    knots: list[float] | None = setting(
        None, "knots inside (0, 1), which may repeat; null is equally spaced", above=0, below=1
    )
    moved_point: int = setting(4, "moving control point of the B-spline, counted from 0", minimum=0)
    displacement: list[float] = setting(
        [0.0, 1.5], "displacement of this control point", length=2, **_FINITE
    )
    spacing: str = setting(
        "chord", "parameters of planar points", choices=("chord", "centripetal", "uniform")
    )
    control_points: int | None = setting(
        None,
        "control points of the curve near the planar points; null is half of those, at most 100",
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
    implied=IMPLIED_TARGETS,
    figures=("score_card", "predictions", "residuals", "stages", "network", "candidates"),
)
@dataclass
class InterpretConfig(ExperimentConfig):
    """`kanrun interpret`; `model.hidden=null` searches the shape, numbers fix it."""

    target: Any = setting(MISSING, "function or table to interpret")
    model: Any = setting(MISSING, "KAN whose edges become formulas; model.intervals are its grids")
    sampling: SamplingConfig = setting(SamplingConfig(), "points of the target")
    from_run: str | None = text_setting(
        None, "run of kanrun fit whose target, sampling and network are interpreted"
    )
    candidates: list[str] | None = text_setting(
        None,
        "names of the functions an edge may become; null allows all built-in functions",
    )
    custom_candidates: dict[str, str] = text_setting({}, "additional functions of x0, by name")
    prune_threshold: float | None = setting(
        None, "minimum score of an edge of from_run; null chooses it on the validation points"
    )
    error_tolerance: float = setting(
        0.1, "relative increase of the network's error that a formula may cause", minimum=0
    )
    n_starts: int = count_setting(6, "random starts of each structure on the coarse grid")
    budget: float = setting(
        60.0, "counted work for each output, in approximate CPU seconds of one core", above=0
    )
    simplify_budget: float = setting(
        2.0, "work for simplification, in approximate CPU seconds of one core", minimum=0
    )
    suite: list[Any] = setting(
        [],
        "cells, each as differences from the rest of the configuration; a cell with in_view=false "
        "was unknown when rules of the search were chosen, and is claimed apart",
    )


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

    file: str = text_setting(
        MISSING,
        "checkpoint of pykan (the path given to saveckpt), or state dict (torch or safetensors)",
    )
    inputs: list[str] = text_setting([], "names of the inputs; [] is x0, x1, ...", distinct=True)
    outputs: list[str] = text_setting([], "names of the outputs", distinct=True)
    base: str | None = setting(
        None, "base function; null is the one that the checkpoint names, else silu", choices=BASES
    )


@experiment(
    "solve",
    "Solve a differential equation and report how reliable the solution is.",
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

    equation: EquationConfig = setting(EquationConfig(), "equation to solve")
    networks: list[Any] = setting([{"kind": "kan"}], "networks that solve it, in turn", least=1)
    constraints: str = setting(
        "soft",
        "conditions as weighted residuals (soft), or built into the solution where possible (hard)",
        choices=("soft", "hard"),
    )
    tolerance: float = setting(
        1e-6,
        "estimated relative L2 error at which a solution in windows of time or on tensor products "
        "of splines ends",
        minimum=1e-12,
        maximum=1e-1,
    )
    budget: float = setting(60.0, "total work, in approximate seconds of one core", above=0)
    collocation_points: int = setting(
        2000, "collocation points inside the box", minimum=10, maximum=1_000_000
    )
    boundary_points: int = setting(60, "points of each face of the box", minimum=2, maximum=100_000)
    suite: list[Any] = setting(
        [], "equations of the group with further settings: {equation: heat, bounds: {l2: 1e-6}}"
    )
    needles: int | None = setting(
        None,
        "seed of 60 generated problems with narrow features, which are solved instead; their known "
        "solutions do not enter the verdict",
        minimum=0,
    )
    steps: int = count_setting(30, "steps of Levenberg-Marquardt per grid")
