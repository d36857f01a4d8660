"""Settings of models and solvers, whose methods create the networks and solvers they describe.

Torch and the engine are imported inside the methods, so that `kanrun --help` does not load them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta

from kanrun.config.registry import Plain, model, solver
from kanrun.config.rules import (
    FREE_TEXT,
    INCREASING,
    Count,
    Natural,
    NonNegative,
    Positive,
    copied,
)

if TYPE_CHECKING:
    from torch import Generator

    from kanrun.engine.networks import Network
    from kanrun.engine.training import Objective, Plan, Solver
    from kanrun.model.planning import LearningProblem

Base = Literal["silu", "identity", "zero", "tanh", "relu", "gelu", "sigmoid", "sin", "gaussian"]
Activation = Literal["silu", "relu", "tanh", "gelu", "sin", "identity"]
Initialisation = Literal["auto", "paper", "lecun", "glorot", "power_law", "spline"]
BASES: tuple[str, ...] = get_args(Base)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
HIGHEST_DEGREE = 20  # highest degree of a spline
AUTO: Literal["auto"] = "auto"
#: Hidden widths that `model.hidden=auto` stands for if the shape does not grow.
AUTO_WIDTHS = (5,)


def widths_of(hidden: Sequence[int] | str) -> tuple[int, ...]:
    """Return the hidden widths that the setting `model.hidden` stands for."""
    return AUTO_WIDTHS if hidden == AUTO else tuple(map(int, hidden))


#: Numbers of grid intervals that `model.intervals=auto` tries in turn, until the network is too
#: large or the validation error no longer falls. Each grid contains the breakpoints of the one
#: before.
AUTO_INTERVALS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass
class ModelConfig:
    """Base class of the settings of models.

    Attributes:
        label: Name in tables and figures.
        inputs: Number of inputs that the model needs; None: any.
        closed_form: Whether the model is fitted by linear least squares, whatever solver is set.
        tables_only: Whether the model is only for tables and is fitted without solver and plan.
    """

    label: ClassVar[str] = ""
    inputs: ClassVar[int | None] = None
    closed_form: ClassVar[bool] = False
    tables_only: ClassVar[bool] = False

    @staticmethod
    def network() -> Any:
        """Return the class of the model's networks, which also restores them from checkpoints."""
        raise NotImplementedError

    def create(self, problem: LearningProblem, generator: Generator) -> Network:
        """Return an untrained network for `problem`."""
        raise NotImplementedError

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return ()

    @property
    def schedule(self) -> tuple[int, ...]:
        """Numbers of grid intervals to train on in turn; empty for models without grids."""
        return ()


@model
@dataclass
class KANConfig(ModelConfig):
    """A Kolmogorov-Arnold Network: a learned spline on each edge."""

    label: ClassVar[str] = "KAN"

    hidden: Annotated[
        list[Count] | Literal["auto"],
        "nodes of each hidden layer; auto grows the shape (kanrun fit with solver=lm, and "
        "classes with solver=auto; elsewhere it is [5])",
    ] = AUTO
    multiplication_nodes: Annotated[
        list[Natural], "nodes of each hidden layer that multiply two sums (KAN 2.0); [] is none"
    ] = copied([])
    intervals: Annotated[
        Count | Annotated[list[Count], Meta(min_length=1)] | Literal["auto"],
        "intervals of the grid: one number, a schedule of finer and finer grids, or auto",
        INCREASING,
    ] = copied([5, 10, 20, 50])
    degree: Annotated[int, Meta(ge=0, le=HIGHEST_DEGREE), "degree of the splines"] = 3
    base: Annotated[Base, "base function b of phi = w_b b + w_s spline"] = "zero"
    extrapolation: Annotated[
        Literal["linear", "constant", "zero", "base"],
        "values outside the grid of an edge; base: the spline keeps its value, w_b b(x) continues",
    ] = "linear"
    initialisation: Annotated[Initialisation, "initial edge functions"] = "auto"
    grid_eps: Annotated[
        float,
        Meta(ge=0, le=1),
        "fraction of uniform spacing in a grid fitted to data; 0 is quantiles",
    ] = 1.0
    update_grid: Annotated[bool, "whether hidden grids follow the range of the activations"] = True
    freeze_scales: Annotated[bool, "whether w_b and w_s keep their initial values"] = False
    budget: Annotated[
        Literal["fast", "normal", "thorough"],
        "work of hidden=auto: up to 3 (fast), 6 (normal) or 12 (thorough) nodes of the first "
        "hidden layer, with 4, 8 or 16 candidates for each width",
    ] = "normal"
    kind: str = "kan"

    @staticmethod
    def network() -> Any:
        """Return the class `KAN`. It is imported here, because it loads torch."""
        from kanrun.engine.networks import KAN

        return KAN

    def create(self, problem: LearningProblem, generator: Generator) -> Network:
        """Return an untrained KAN on the first grid, for first-order solvers.

        `Network.for_second_order` then freezes the scales that second-order solvers do not train.
        """
        made: Network = self.network().create(
            problem.shape_of(self),
            self.schedule[0],
            self.edges(second_order=False),
            domain=problem.domain,
            initialisation=self.initialisation,
            generator=generator,
            products=self.multiplication_nodes,
        )
        return made

    @staticmethod
    def draw(network: Any, x: Any, inputs: Any, outputs: Any) -> Any:
        """Return the diagram of `KAN.plot`."""
        from kanrun.model.model import network_figure

        return network_figure(network, x, inputs, outputs)

    def edges(self, *, second_order: bool) -> Any:
        """Return the `EdgeSpec` of the edges; second-order solvers do not train the scale w_s."""
        from kanrun.engine.layers import EdgeSpec

        trained: Literal["all", "base", "none"] = "base" if second_order else "all"
        return EdgeSpec(
            self.degree,
            self.base,
            self.extrapolation,
            "none" if self.freeze_scales else trained,
        )

    @property
    def grows(self) -> bool:
        """Whether the shape is chosen by growth."""
        return self.hidden == AUTO

    @property
    def refines(self) -> bool:
        """Whether training chooses the number of grid intervals."""
        return self.intervals == AUTO

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return widths_of(self.hidden)

    @property
    def schedule(self) -> tuple[int, ...]:
        """Numbers of grid intervals to train on in turn."""
        if self.intervals == AUTO:
            return AUTO_INTERVALS
        return (self.intervals,) if isinstance(self.intervals, int) else tuple(self.intervals)

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield an error if a budget is combined with a given `hidden`, or nodes are invalid."""
        if self.hidden != AUTO and self.budget != "normal":
            yield f"{at}budget={self.budget} is for {at}hidden=auto, not {self.hidden}."
        products = self.multiplication_nodes
        widths = self.widths
        if products and (len(products) != len(widths) or any(map(operator.gt, products, widths))):
            yield (
                f"{at}multiplication_nodes={products} must have a number for each layer of "
                f"{at}hidden={list(widths)}, no larger than its nodes."
            )


@model
@dataclass
class MLPConfig(ModelConfig):
    """A multi-layer perceptron."""

    label: ClassVar[str] = "MLP"

    # With these widths, the network has fewer parameters than the default target has points.
    hidden: Annotated[list[Count], "nodes of each hidden layer"] = copied([16, 16])
    activation: Annotated[Activation, "activation of the hidden nodes"] = "silu"
    kind: str = "mlp"

    @staticmethod
    def network() -> Any:
        from kanrun.engine.networks import MLP

        return MLP

    def create(self, problem: LearningProblem, generator: Generator) -> Network:
        """Return an MLP with random weights."""
        shape = problem.shape_of(self)
        dtype = problem.domain.dtype
        network: Network = self.network()(shape, self.activation, dtype=dtype, generator=generator)
        return network.to(problem.domain.device)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(self.hidden)


@dataclass
class CurveConfig(ModelConfig):
    """Settings of a curve of one input, which is fitted by least squares."""

    inputs: ClassVar[int | None] = 1
    closed_form: ClassVar[bool] = True

    def arguments(self) -> Plain:
        """Return the arguments of the network's class, except `outputs` and `domain`."""
        raise NotImplementedError

    def create(self, problem: LearningProblem, generator: Generator) -> Network:
        """Return an unfitted curve."""
        curve: Network = self.network()(
            outputs=problem.outputs, domain=problem.domain, **self.arguments()
        )
        return curve


@model
@dataclass
class PolynomialConfig(CurveConfig):
    """A polynomial in one input variable, fitted by least squares."""

    label: ClassVar[str] = "polynomial"

    degree: Annotated[int, Meta(ge=0, le=500), "degree of the polynomial"] = 10
    kind: str = "polynomial"

    @staticmethod
    def network() -> Any:
        from kanrun.engine.networks import Polynomial

        return Polynomial

    def arguments(self) -> Plain:
        """Return the number of functions, one more than the degree."""
        return {"functions": self.degree + 1}


@model
@dataclass
class BezierConfig(CurveConfig):
    """A Bezier curve of one input variable, fitted by least squares."""

    label: ClassVar[str] = "Bezier curve"

    control_points: Annotated[
        int, Meta(ge=2, le=1001), "control points, one more than the degree"
    ] = 8
    kind: str = "bezier"

    @staticmethod
    def network() -> Any:
        from kanrun.engine.networks import Bezier

        return Bezier

    def arguments(self) -> Plain:
        """Return the number of functions, which is that of the control points."""
        return {"functions": self.control_points}


@model
@dataclass
class BSplineConfig(CurveConfig):
    """A B-spline of one input variable, fitted by least squares."""

    label: ClassVar[str] = "B-spline"

    control_points: Annotated[Count, "control points of the curve"] = 12
    degree: Annotated[int, Meta(ge=0, le=HIGHEST_DEGREE), "degree of the curve"] = 3
    kind: str = "bspline"

    @staticmethod
    def network() -> Any:
        from kanrun.engine.networks import BSpline

        return BSpline

    def arguments(self) -> Plain:
        """Return the number of functions, which is that of the control points, and the degree."""
        return {"functions": self.control_points, "degree": self.degree}

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield an error if there are fewer than degree + 1 control points."""
        if self.control_points <= self.degree:
            yield (
                f"{at}control_points={self.control_points} is too few: a B-spline of degree "
                f"{self.degree} has at least {self.degree + 1}."
            )


@model
@dataclass
class AutoConfig(ModelConfig):
    """One Gaussian model of lines, curves and joint effects, as one KAN; the default for tables."""

    label: ClassVar[str] = "automatic model"
    tables_only: ClassVar[bool] = True

    pairs: Annotated[bool, "whether pairs of inputs may interact"] = True
    extrapolation: Annotated[
        Literal["clip", "linear", "constant", "zero"],
        "clip: predictions stay near the range of the training outputs; linear: they may leave "
        "it; constant: inputs are clipped to their range; zero: an input outside its range adds "
        "nothing",
    ] = "clip"
    monotone: Annotated[
        dict[str, Literal["increasing", "decreasing"]],
        "inputs with an increasing or decreasing effect, such as {age: increasing}",
        FREE_TEXT,
    ] = copied({})
    curvature: Annotated[
        dict[str, Literal["convex", "concave"]], "inputs with a convex or concave effect", FREE_TEXT
    ] = copied({})
    bounds: Annotated[
        Annotated[list[float], Meta(min_length=2, max_length=2)] | None,
        "smallest and largest possible output, such as [0,1]; predictions never leave them",
    ] = None
    selection: Annotated[
        Literal["cv", "validation", "evidence"],
        "rows that choose among candidates and measure errors: each fold held out in turn (cv), "
        "one fold held out (validation), or single rows left out in closed form (evidence)",
    ] = "cv"
    folds: Annotated[int, Meta(ge=2), "folds of the cross-validation"] = 5
    baselines: Annotated[
        bool, "whether mean, ridge and boosting are cross-validated on the same folds"
    ] = True
    kind: str = "auto"

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors if bounds are not increasing or an input is monotone and curved at once."""
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            yield f"{at}bounds={self.bounds} must be a smaller and a larger number."
        for name in self.monotone.keys() & self.curvature.keys():
            yield (
                f"the input {name!r} is both in {at}monotone and in {at}curvature; "
                "keep one of them."
            )


@dataclass(kw_only=True)
class SolverConfig:
    """Settings that every solver has.

    Attributes:
        label: Name of the solver in messages.
        default_steps: Number of steps on each grid if `steps` is not set.
        second_order: Whether the solver minimises a sum of squares in float64, and validation
            chooses the weight of the smoothness penalty.
        curvature: Whether the solver is preconditioned by the curvature of the objective. If so,
            the smoothness penalty is small by default, and hidden grids are adapted to the
            activations after the first steps.
    """

    label: ClassVar[str] = ""
    default_steps: ClassVar[int] = 200
    second_order: ClassVar[bool] = False
    curvature: ClassVar[bool] = False

    def create(
        self, network: Network, objective: Objective, plan: Plan, generator: Generator
    ) -> Solver:
        """Return a solver that minimises `objective` over the parameters of `network`, in place."""
        solver: Solver = self.maker()(network, objective, plan, generator)
        return solver

    @staticmethod
    def maker() -> Any:
        """Return the solver's class, or a function that takes the arguments of `create`."""
        raise NotImplementedError

    steps: Annotated[Count | None, "steps on each grid; null is the solver's default"] = None
    n_starts: Annotated[
        Count | None,
        "random starts on the coarse grid, the best of which continues; null: chosen by size",
    ] = None
    smoothness_weight: Annotated[
        NonNegative | Literal["auto"],
        "weight of the smoothness penalty; auto: chosen on validation data by lm, tiny for "
        "lbfgs, 0 for adam, and 1e-3 for classification by the last two",
    ] = "auto"
    freeze_unseen: Annotated[
        bool, "whether coefficients whose basis functions saw no data stay fixed"
    ] = False


@dataclass(kw_only=True)
class WidthConfig(SolverConfig):
    """Settings of second-order solvers."""

    select_width: Annotated[
        bool, "whether validation may choose a smaller shape that grows within the given one"
    ] = True


@dataclass(kw_only=True)
class GradientConfig(SolverConfig):
    """Settings of first-order solvers."""

    sparsity: Annotated[
        NonNegative,
        "weight of the KAN paper's penalty, L1 norm and entropy of the edges' magnitudes",
    ] = 0.0
    sparsity_norm: Annotated[
        Literal["rms", "mean_abs"],
        "magnitude of an edge in this penalty: its root mean square, or the paper's mean |phi|",
    ] = "rms"
    patience: Annotated[
        Count | None, "steps without a better validation error after which a grid ends"
    ] = None


@solver
@dataclass
class AutoSolver(WidthConfig):
    """The solver is chosen by the numbers of parameters and data; the run says which, and why."""

    second_order: ClassVar[bool] = True

    kind: str = "auto"


@solver
@dataclass
class LMSolver(WidthConfig):
    """Levenberg-Marquardt in float64."""

    label: ClassVar[str] = "Levenberg-Marquardt"
    default_steps: ClassVar[int] = 300
    second_order: ClassVar[bool] = True

    damping: Annotated[
        Positive | None,
        "damping of the first step on a grid, relative to columns of unit norm; null: chosen by "
        "size",
    ] = None
    tolerance: Annotated[
        NonNegative, "relative decrease of the loss in one step, below which a grid ends"
    ] = 0.001
    plateau_tolerance: Annotated[
        NonNegative,
        "relative decrease of the loss in each of two successive steps, below which a grid ends",
    ] = 0.02
    kind: str = "lm"

    @staticmethod
    def maker() -> Any:
        from kanrun.engine.training.solvers import create_lm

        return create_lm


@solver
@dataclass
class LBFGSSolver(GradientConfig):
    """LBFGS with a line search."""

    label: ClassVar[str] = "LBFGS"
    curvature: ClassVar[bool] = True

    history_size: Annotated[Count, "past steps that the metric is built from"] = 30
    kind: str = "lbfgs"

    @staticmethod
    def maker() -> Any:
        from kanrun.engine.training.solvers import LBFGS

        return LBFGS


@solver
@dataclass
class AdamSolver(GradientConfig):
    """Adam, with mini-batches if `solver.batch_size` is set."""

    label: ClassVar[str] = "Adam"
    default_steps: ClassVar[int] = 1000

    learning_rate: Annotated[Positive, "initial step size"] = 0.01
    lr_schedule: Annotated[Literal["cosine", "constant"], "decay of the step size"] = "cosine"
    batch_size: Annotated[Count | None, "samples per step; null is all of them"] = None
    weight_decay: Annotated[NonNegative, "decay of all parameters in each step"] = 0.0
    kind: str = "adam"

    @staticmethod
    def maker() -> Any:
        from kanrun.engine.training.solvers import Adam

        return Adam
