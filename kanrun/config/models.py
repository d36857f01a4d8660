"""Settings of the models, and of the solvers that train them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kanrun.config.registry import MODELS, model, solver
from kanrun.config.rules import check, count_setting, setting, text_setting
from kanrun.errors import UsageError

BASES = ("silu", "identity", "zero", "tanh", "relu", "gelu", "sigmoid", "sin", "gaussian")
ACTIVATIONS = ("silu", "relu", "tanh", "gelu", "sin", "identity")
INITIALISATIONS = ("auto", "paper", "lecun", "glorot", "power_law", "spline")
HIGHEST_DEGREE = 20  # of a spline
AUTO = "auto"
#: Widths of `model.hidden=auto` where no shape grows.
AUTO_WIDTHS = (5,)


def widths_of(hidden: Sequence[int] | str | None) -> tuple[int, ...]:
    """Return the hidden widths of a setting; without a search, null is none."""
    return AUTO_WIDTHS if hidden == AUTO else tuple(map(int, hidden or ()))


@model(
    "kanrun.study.build:create_kan",
    network="kanrun.engine.networks.kan:KAN",
    label="KAN",
    diagram="kanrun.study.evaluation:network_figure",
)
@dataclass
class KANConfig:
    """A Kolmogorov-Arnold Network: a learned spline on each edge."""

    hidden: list[int] | str | None = count_setting(
        AUTO,
        "nodes of each hidden layer; auto grows the shape (kanrun fit with solver=lm, and classes "
        "with solver=auto; elsewhere it is [5]); null lets kanrun interpret search it",
        words=(AUTO,),
    )
    multiplication_nodes: list[int] = setting(
        [],
        "nodes of each hidden layer that multiply two sums (KAN 2.0); [] is none",
        minimum=0,
    )
    intervals: int | list[int] | str = count_setting(
        [5, 10, 20, 50],
        "intervals of the grid: one number, a schedule of finer and finer grids, or auto",
        least=1,
        increasing=True,
        words=("auto",),
    )
    degree: int = setting(3, "degree of the splines", minimum=0, maximum=HIGHEST_DEGREE)
    base: str = setting("zero", "base function b of phi = w_b b + w_s spline", choices=BASES)
    edge_scaling: str = setting(
        "separate",
        "separate: the weights w_b and w_s; single: the one weight of phi = w (b + spline)",
        choices=("separate", "single"),
    )
    extrapolation: str = setting(
        "linear",
        "values outside the grid of an edge; base: the spline keeps its value, w_b b(x) continues",
        choices=("linear", "constant", "zero", "base"),
    )
    initialisation: str = setting("auto", "initial edge functions", choices=INITIALISATIONS)
    grid_eps: float = setting(
        1.0,
        "fraction of uniform spacing in a grid fitted to data; 0 is quantiles",
        minimum=0,
        maximum=1,
    )
    update_grid: bool = setting(True, "whether hidden grids follow the range of the activations")
    freeze_scales: bool = setting(False, "whether w_b and w_s keep their initial values")
    selection: str = setting(
        "validation",
        "choice of the smoothness weight: by points held out (sampling.validation_fraction), or by "
        "the evidence of all training points, for noisy data (solver=lm)",
        choices=("validation", "evidence"),
    )
    budget: str = setting(
        "normal",
        "work of hidden=auto: up to 3 (fast), 6 (normal) or 12 (thorough) nodes of the first "
        "hidden layer, with 4, 8 or 16 candidates for each width",
        choices=("fast", "normal", "thorough"),
    )
    kind: str = "kan"

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors for a budget of a search that widths leave out, and for other layers."""
        if self.hidden != AUTO and self.budget != "normal":
            yield f"{at}budget={self.budget} is for {at}hidden=auto, not {self.hidden}."
        products, widths = self.multiplication_nodes, widths_of(self.hidden)
        if products and (len(products) != len(widths) or any(map(operator.gt, products, widths))):
            yield (
                f"{at}multiplication_nodes={products} must have a number for each layer of "
                f"{at}hidden={list(widths)}, no larger than its nodes."
            )


@model("kanrun.study.build:create_mlp", network="kanrun.engine.networks.classical:MLP", label="MLP")
@dataclass
class MLPConfig:
    """A multi-layer perceptron."""

    # The default has fewer parameters than the default target has points.
    hidden: list[int] = count_setting([16, 16], "nodes of each hidden layer")
    activation: str = setting("silu", "activation of the hidden nodes", choices=ACTIVATIONS)
    kind: str = "mlp"


@model(
    "kanrun.study.build:create_curve",
    network="kanrun.engine.networks.classical:Polynomial",
    label="polynomial",
    inputs=1,
    closed_form=True,
)
@dataclass
class PolynomialConfig:
    """One polynomial by least squares, for one input variable."""

    degree: int = setting(10, "degree of the polynomial", minimum=0, maximum=500)
    kind: str = "polynomial"


@model(
    "kanrun.study.build:create_curve",
    network="kanrun.engine.networks.classical:Bezier",
    label="Bezier curve",
    inputs=1,
    closed_form=True,
)
@dataclass
class BezierConfig:
    """One Bezier curve by least squares, for one input variable."""

    control_points: int = setting(
        8, "control points, one more than the degree", minimum=2, maximum=1001
    )
    kind: str = "bezier"


@model(
    "kanrun.study.build:create_curve",
    network="kanrun.engine.networks.classical:BSpline",
    label="B-spline",
    inputs=1,
    closed_form=True,
)
@dataclass
class BSplineConfig:
    """One B-spline by least squares, for one input variable."""

    control_points: int = count_setting(12, "control points of the curve")
    degree: int = setting(3, "degree of the curve", minimum=0, maximum=HIGHEST_DEGREE)
    kind: str = "bspline"

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield an error for fewer than degree + 1 control points."""
        if self.control_points <= self.degree:
            yield (
                f"{at}control_points={self.control_points} is too few: a B-spline of degree "
                f"{self.degree} has at least {self.degree + 1}."
            )


@model("kanrun.engine.tables:fit_table", label="automatic model", tables_only=True)
@dataclass
class AutoConfig:
    """Effects of inputs and pairs by evidence, stacked into one KAN; the default for tables."""

    pairs: bool = setting(True, "whether pairs of inputs may interact")
    extrapolation: str = setting(
        "clip",
        "clip: predictions stay near the range of the training outputs; linear: they may leave it; "
        "constant: inputs are clipped to their range; zero: an input outside its range adds "
        "nothing",
        choices=("clip", "linear", "constant", "zero"),
    )
    monotone: dict[str, str] = text_setting(
        {},
        "inputs with an increasing or decreasing effect, such as {age: increasing}",
        choices=("increasing", "decreasing"),
    )
    curvature: dict[str, str] = text_setting(
        {},
        "inputs with a convex or concave effect",
        choices=("convex", "concave"),
    )
    bounds: list[float] | None = setting(
        None,
        "smallest and largest possible output, such as [0,1]; predictions never leave them",
        length=2,
    )
    selection: str = setting(
        "cv",
        "rows that choose among candidates and measure errors: each fold held out in turn (cv), "
        "one fold held out (validation), or single rows left out in closed form (evidence)",
        choices=("cv", "validation", "evidence"),
    )
    folds: int = setting(5, "folds of the cross-validation", minimum=2)
    baselines: bool = setting(
        True, "whether mean, ridge and boosting are cross-validated on the same folds"
    )
    kind: str = "auto"

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors for bounds out of order and for inputs with two shapes."""
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            yield f"{at}bounds={self.bounds} must be a smaller and a larger number."
        for name in self.monotone.keys() & self.curvature.keys():
            yield (
                f"the input {name!r} is both in {at}monotone and in {at}curvature; "
                "keep one of them."
            )


@dataclass(kw_only=True)
class SolverConfig:
    """Settings of every solver."""

    steps: int | None = count_setting(None, "steps on each grid; null is the solver's default")
    n_starts: int | None = count_setting(
        None,
        "random starts on the coarse grid, the best of which continues; null: chosen by size",
    )
    smoothness_weight: float | str = setting(
        "auto",
        "weight of the smoothness penalty; auto: chosen on validation data by lm, tiny for lbfgs, "
        "0 for adam, and 1e-3 for classification by the last two",
        minimum=0,
        words=("auto",),
    )
    freeze_unseen: bool = setting(
        False, "whether coefficients whose basis functions saw no data stay fixed"
    )


@dataclass(kw_only=True)
class WidthConfig(SolverConfig):
    """Settings of second-order solvers."""

    select_width: bool = setting(
        True, "whether validation may choose a smaller shape that grows within the given one"
    )


@dataclass(kw_only=True)
class GradientConfig(SolverConfig):
    """Settings of first-order solvers."""

    sparsity: float = setting(
        0.0,
        "weight of the KAN paper's penalty, L1 norm and entropy of the edges' magnitudes",
        minimum=0,
    )
    sparsity_norm: str = setting(
        "rms",
        "magnitude of an edge in this penalty: its root mean square, or the paper's mean |phi|",
        choices=("rms", "mean_abs"),
    )
    patience: int | None = count_setting(
        None, "steps without a better validation error after which a grid ends"
    )


@solver("", second_order=True)
@dataclass
class AutoSolver(WidthConfig):
    """Chosen by the numbers of parameters and data; the run says which and why."""

    kind: str = "auto"


@solver(
    "kanrun.engine.training.solvers:create_lm",
    steps=300,
    label="Levenberg-Marquardt",
    second_order=True,
)
@dataclass
class LMSolver(WidthConfig):
    """Levenberg-Marquardt in float64."""

    damping: float | None = setting(
        None,
        "damping of the first step on a grid, relative to columns of unit norm; null: chosen by"
        " size",
        above=0,
    )
    tolerance: float = setting(
        1e-3, "relative decrease of the loss in one step, below which a grid ends", minimum=0
    )
    plateau_tolerance: float = setting(
        0.02,
        "relative decrease of the loss in each of two successive steps, below which a grid ends",
        minimum=0,
    )
    kind: str = "lm"


@solver("kanrun.engine.training.lbfgs:LBFGS", label="LBFGS", curvature=True)
@dataclass
class LBFGSSolver(GradientConfig):
    """LBFGS with a line search."""

    history_size: int = count_setting(30, "past steps that the metric is built from")
    kind: str = "lbfgs"


@solver("kanrun.engine.training.solvers:Adam", steps=1000, label="Adam")
@dataclass
class AdamSolver(GradientConfig):
    """Adam, in batches where solver.batch_size is given."""

    learning_rate: float = setting(1e-2, "initial step size", above=0)
    lr_schedule: str = setting("cosine", "decay of the step size", choices=("cosine", "constant"))
    batch_size: int | None = count_setting(None, "samples per step; null is all of them")
    weight_decay: float = setting(0.0, "decay of all parameters in each step", minimum=0)
    kind: str = "adam"


def check_model(model: Any, inputs: int) -> None:
    """Raise UsageError for a setting of `model` that breaks a rule, or a wrong number of inputs."""
    kind = MODELS[model.kind]
    if vars(model).get("hidden", ()) is None:
        raise UsageError(
            "model.hidden=null is for kanrun interpret, which searches the shape. Set the widths "
            "here."
        )
    check(model, "model.")
    if kind.tables_only:
        raise UsageError(
            f"model={model.kind} is for tables, and for kanrun fit alone. Use model=kan or mlp "
            "here."
        )
    if kind.inputs is not None and inputs != kind.inputs:
        raise UsageError(
            f"model={model.kind} is a curve of one input, and the target has {inputs}. Use "
            "model=kan or mlp."
        )
