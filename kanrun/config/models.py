"""Settings of the models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kanrun.config.registry import model
from kanrun.config.rules import setting

BASES = ("silu", "identity", "zero", "tanh", "relu", "gelu", "sigmoid", "sin", "gaussian")
ACTIVATIONS = ("silu", "relu", "tanh", "gelu", "sin", "identity")
INITIALISATIONS = ("auto", "paper", "lecun", "glorot", "power_law", "spline")
HIGHEST_DEGREE = 20  # of a spline


@model(
    "kanrun.study.build:create_kan",
    network="kanrun.engine.networks.kan:KAN",
    label="KAN",
    diagram="kanrun.study.evaluation:network_figure",
)
@dataclass
class KANConfig:
    """A Kolmogorov-Arnold Network: a learned spline on each edge."""

    hidden: list[int] | None = setting(
        [5], "nodes of each hidden layer; null: kanrun interpret searches", minimum=1
    )
    multiplication_nodes: list[int] = setting(
        [],
        "of each hidden layer, how many of its nodes multiply two sums (KAN 2.0); [] is none",
        minimum=0,
    )
    intervals: Any = setting(
        [5, 10, 20, 50],
        "intervals of the grid: one number, a schedule of finer and finer grids, or auto",
        whole=True,
        minimum=1,
        least=1,
        increasing=True,
        words=("auto",),
    )
    degree: int = setting(3, "degree of the splines", minimum=0, maximum=HIGHEST_DEGREE)
    base: str = setting("zero", "base function b of phi = w_b b + w_s spline", choices=BASES)
    edge_scaling: str = setting(
        "separate",
        "w_b and w_s apart, or the single w of phi = w (b + spline)",
        choices=("separate", "single"),
    )
    extrapolation: str = setting(
        "linear",
        "what a spline does beyond its grid",
        choices=("linear", "constant", "zero"),
    )
    initialisation: str = setting("auto", "how edges start", choices=INITIALISATIONS)
    grid_eps: float = setting(
        1.0,
        "share of uniform spacing in a grid drawn from data; 0 is quantiles",
        minimum=0,
        maximum=1,
    )
    update_grid: bool = setting(True, "whether hidden grids follow the range of what reaches them")
    freeze_scales: bool = setting(False, "whether w_b and w_s stay where they start")
    selection: str = setting(
        "validation",
        "what chooses the weight of the smoothness penalty: points held out "
        "(sampling.validation_fraction), or the evidence of "
        "all training points, for noisy data (solver=lm)",
        choices=("validation", "evidence"),
    )
    kind: str = "kan"


@model("kanrun.study.build:create_mlp", network="kanrun.engine.networks.mlp:MLP", label="MLP")
@dataclass
class MLPConfig:
    """A multi-layer perceptron."""

    # fewer numbers than the default target has points
    hidden: list[int] = setting([16, 16], "nodes of each hidden layer", minimum=1)
    activation: str = setting("silu", "function of each hidden node", choices=ACTIVATIONS)
    kind: str = "mlp"


@model(
    "kanrun.study.build:create_polynomial",
    network="kanrun.engine.networks.curves:Polynomial",
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
    "kanrun.study.build:create_bezier",
    network="kanrun.engine.networks.curves:Bezier",
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
    "kanrun.study.build:create_bspline",
    network="kanrun.engine.networks.curves:BSpline",
    label="B-spline",
    inputs=1,
    closed_form=True,
)
@dataclass
class BSplineConfig:
    """One B-spline by least squares, for one input variable."""

    control_points: int = setting(12, "control points of the curve", minimum=1)
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

    pairs: bool = setting(True, "whether pairs of inputs may act together")
    extrapolation: str = setting(
        "clip",
        "clip: predictions stay near the training outputs' range; linear: they may leave it; "
        "constant: inputs are held "
        "at their range's ends; zero: an input beyond its range adds nothing",
        choices=("clip", "linear", "constant", "zero"),
    )
    monotone: dict[str, str] = setting(
        {},
        "inputs whose effect only increases or decreases, such as {age: increasing}",
        choices=("increasing", "decreasing"),
        free_text=True,
    )
    curvature: dict[str, str] = setting(
        {},
        "inputs whose effect is convex or concave",
        choices=("convex", "concave"),
        free_text=True,
    )
    bounds: list[float] | None = setting(
        None,
        "least and largest value that outputs can have, such as [0,1]; predictions never leave "
        "them",
        length=2,
    )
    selection: str = setting(
        "cv",
        "what chooses among candidates, and errors are measured on: each of the folds left out,"
        " one of them "
        "(validation), or rows left out one by one in closed form (evidence)",
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
        for name in self.monotone:
            if name in self.curvature:
                yield (
                    f"the input {name!r} is both in {at}monotone and in {at}curvature; "
                    "keep one of them."
                )
