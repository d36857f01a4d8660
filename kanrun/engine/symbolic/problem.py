"""The data of a search, and the description length by which formulas are compared.

The description length of a formula with k free constants and complexity c on N points is N
log(error) + (k + c) log(N) / 2, in nats (Schwarz, Annals of Statistics 6, 1978, 461). With few
points, each constant and each two units of complexity add N / (N - k - c/2 - 1) - log(N) / 2, if
this is positive (Hurvich and Tsai, Biometrika 76, 1989, 297). On noisy data, a further constant is
accepted only if it reduces the error enough. On exact data, N log(error) dominates. Errors below
EXACT count as EXACT, so among exact formulas only constants and complexity decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import sympy

from kanrun.engine.symbolic.candidates import TINY, Array, Candidate, input_symbols
from kanrun.engine.symbolic.graph import EdgeMatch, Graph
from kanrun.formulas.conversion import to_text
from kanrun.formulas.parsing import variable

Model = Callable[[Array], Array]

#: Largest relative error of a formula that counts as exact in the search, the outcome and the
#: certificate. It allows for rounding errors that nested functions amplify: the true formulas in
#: collections of known formulas have errors of at most 6e-15. A quotient of polynomials with ten
#: terms can approximate an exponential to 6e-12.
EXACT = 1e-12
#: Rounding error of a value after a few operations, relative to the value.
_ROUNDING = 1e-15
#: Outputs smaller than this have lost digits to underflow and are left out of relative errors.
UNDERFLOW = 1e-290


@dataclass(frozen=True, eq=False)
class SearchData:
    """Training points, to which constants are fitted, and validation points, which select formulas.

    Attributes:
        x: Inputs of the training points, shape (N, inputs).
        y: Outputs of the training points, shape (N,).
        validation_x: Inputs of the validation points, shape (validation points, inputs).
        validation_y: Outputs of the validation points, shape (validation points,).
        relative: Whether the noise is proportional to y. Errors are then errors of log |y|, and the
            values of a formula must have the sign of y.
    """

    x: Array
    y: Array
    validation_x: Array
    validation_y: Array
    relative: bool = False

    @cached_property
    def y_std(self) -> float:
        """Standard deviation of y, or of log |y| if errors are relative; the unit of errors."""
        return max(float(np.std(np.log(np.abs(self.y)) if self.relative else self.y)), TINY)

    @cached_property
    def exact(self) -> float:
        """Largest error of an exact formula: EXACT, or the rounding error of y if larger."""
        rounding = 0.0 if self.relative else float(np.abs(self.y).max()) * _ROUNDING / self.y_std
        return max(EXACT, rounding)

    def residuals(self, model: Model, x: Array, y: Array) -> Array:
        """Return the residuals (N,) of a model at x (N, inputs) for outputs y (N,).

        If errors are relative, residuals are log(value / y); they are nan if the signs differ.
        """
        with np.errstate(all="ignore"):
            values = model(x)
            return np.log(values / y) if self.relative else values - y

    @cached_property
    def all_points(self) -> SearchData:
        """Training and validation points together, both as training and as validation points."""
        if np.array_equal(self.x, self.validation_x):
            return self
        x = np.concatenate([self.x, self.validation_x])
        y = np.concatenate([self.y, self.validation_y])
        return SearchData(x, y, x, y, self.relative)

    def spread(self, most: int) -> SearchData:
        """Return at most `most` training points, evenly spaced in their order.

        The points are used both as training and as validation points.
        """
        rows = np.linspace(0, len(self.y) - 1, min(len(self.y), most)).astype(int)
        x = self.x[rows]
        y = self.y[rows]
        return SearchData(x, y, x, y, self.relative)

    def relative_to_size(self) -> SearchData:
        """Return the points with relative errors, without outputs that lost digits to underflow."""
        rows, held = (np.abs(y) > UNDERFLOW for y in (self.y, self.validation_y))
        x = self.x[rows]
        validation_x = self.validation_x[held]
        return SearchData(x, self.y[rows], validation_x, self.validation_y[held], relative=True)

    @property
    def is_positive(self) -> bool:
        """True if all inputs are positive at all points."""
        return bool((self.all_points.x > 0).all())

    @property
    def has_one_sign(self) -> bool:
        """True if all outputs are positive or all are negative."""
        return bool((self.all_points.y * self.y[0] > 0).all())

    @cached_property
    def logarithms(self) -> SearchData:
        """Points with log |y| instead of y."""
        y = np.log(np.abs(self.y))
        validation_y = np.log(np.abs(self.validation_y))
        return replace(self, y=y, validation_y=validation_y, relative=False)

    def mean(self, x: Array) -> Array:
        """Predict the mean of y for each row of x, shape (N,).

        If errors are relative, the prediction is the geometric mean of |y| with the sign of y.
        """
        mean = float(np.mean(self.logarithms.y if self.relative else self.y))
        return np.full(len(x), np.sign(self.y[0]) * np.exp(mean) if self.relative else mean)

    @cached_property
    def no_skill_error(self) -> float:
        """Relative validation error at or above which a model has no skill.

        It is the error of predicting the mean of y, reduced by as much as the best of several
        models may gain by chance on this many points.
        """
        return self.error(self.mean) * max(0.8, 1 - 2 / float(np.sqrt(self.validation_y.size)))

    @property
    def count(self) -> int:
        return self.all_points.y.size

    def has_enough_points(self, constants: int) -> bool:
        """Return whether a formula with this many constants may count as exact.

        It may if there are at least `points_per_constant` points per constant plus `more_points`.
        """
        # Number of points that a formula needs to count as exact, in addition to those per
        # constant.
        more_points = 5
        # Number of points per constant that a formula needs to count as exact.
        points_per_constant = 2
        return points_per_constant * constants + more_points <= self.count

    def overall_error(self, model: Model) -> float:
        """Return the `error` over training and validation points together."""
        return self.all_points.error(model)

    def error(self, model: Model) -> float:
        """Return the RMS error on the validation points, divided by `y_std`.

        It is inf if the model is not finite at a point.
        """
        residuals = self.residuals(model, self.validation_x, self.validation_y)
        with np.errstate(all="ignore"):
            error = float(np.sqrt(np.mean(residuals**2))) / self.y_std
        return error if np.isfinite(error) else float("inf")

    def not_significantly_worse(self, model: Model, other: Model) -> bool:
        """Return whether `model` is not significantly worse than `other` on the validation points.

        The mean squared error of `model` may be larger by at most `chance` standard errors of the
        difference between the two.
        """
        # Number of standard errors by which two mean squared errors may differ by chance.
        chance = 2.0
        first, second = (
            self.residuals(each, self.validation_x, self.validation_y) ** 2
            for each in (model, other)
        )
        worse = first - second
        return bool(np.mean(worse) <= chance * np.std(worse) / np.sqrt(worse.size))


def description_length(graph: Graph, data: SearchData) -> float:
    """Return the description length of a graph in nats, up to a constant that depends on the data.

    It is inf if the graph is not finite at a point.
    """
    error = data.overall_error(graph)
    if not np.isfinite(error):
        return np.inf
    return length_of(error, graph.parameters.size, graph.complexity, data)


def length_of(error: float, constants: int, complexity: float, data: SearchData) -> float:
    """Return the description length in nats of a formula with this relative `error` on all points.

    It is inf if there are too few points for the number of constants and the complexity.
    """
    count = data.count
    each = 0.5 * float(np.log(data.count))
    taken = constants + complexity / 2
    if taken and count <= taken + 1:
        return float("inf")
    few = max(count / (count - taken - 1) - each, 0.0) * taken
    return count * float(np.log(max(error, data.exact))) + each * (constants + complexity) + few


@dataclass(frozen=True)
class SearchProblem:
    """Input of a formula search.

    Attributes:
        data: Training and validation points.
        candidates: Functions that formulas may contain.
        budget: Total work of search, rounding and simplification, in units of about one second of
            one core (see `budget`).
        dimensions: Exponents of the base units of each input and, in the last row, of the output,
            shape (inputs + 1, base units); None if units are unknown.
    """

    data: SearchData
    candidates: tuple[Candidate, ...]
    budget: float = 60.0
    dimensions: Array | None = None

    @property
    def search_budget(self) -> float:
        """Work that the search for a structure may do."""
        # Fraction of a budget that the search for a structure may use; the rest is for rounding and
        # simplification.
        search_fraction = 0.85
        return search_fraction * self.budget


Matches = dict[int, list[EdgeMatch]]


@dataclass(frozen=True)
class SearchStage:
    """A graph at one stage of the search.

    Attributes:
        stage: `train`, `prune`, `retrain`, `snap` (edges replaced by their matches), `refit` (all
            constants fitted together) or `match` (found without a network). For the structure that
            is chosen, `mix` (some edges stay numeric), `round` and `verify` follow.
        name: Name of the `FittedStructure` to which the stage belongs.
        graph: The network or the formula at this stage.
        data: Points of the search; `error` is measured on the validation points.
        values: Function that is evaluated in place of `graph`, if they differ; otherwise None.
        seconds: Duration of the stage (seconds).
        groups: See `FittedStructure`.
    """

    stage: str
    name: str
    graph: Graph
    data: SearchData
    values: Model | None = None
    seconds: float = 0.0
    groups: tuple[sympy.Expr, ...] = ()

    @property
    def model(self) -> Model:
        return self.values or self.graph

    @cached_property
    def error(self) -> float:
        return self.data.error(self.model)


@dataclass(frozen=True)
class Rival:
    """A formula and its description length in bits; only differences of bits are meaningful."""

    expression: sympy.Expr
    bits: float


@dataclass(frozen=True)
class FittedStructure:
    """A network or an expression that a search found, with the best formula for it.

    Attributes:
        name: What was searched for, such as `power law`, `sparse regression` or `given network`.
        network: The pruned and retrained network, or the formula if no network was trained.
        data: Points of the search.
        formula: The best formula; None if there is none. `error` and `length` are then inf.
        snapped: The network with candidates on its edges, before their constants were refitted
            together; None if no network was trained.
        matches: For each edge of the network, by its index, the candidates that were fitted to it.
        groups: If the formula was searched for in fewer variables than there are inputs, these
            variables as expressions in the inputs x0, x1, ...; otherwise empty.
        rivals: The formulas with the shortest descriptions, if many formulas were ranked.
        noise: Whether the residual of the first rival is only noise or rounding.
    """

    name: str
    network: Graph
    data: SearchData
    formula: Graph | None = None
    snapped: Graph | None = None
    matches: Matches = field(default_factory=dict)
    groups: tuple[sympy.Expr, ...] = ()
    rivals: tuple[Rival, ...] = ()
    noise: bool = False

    @cached_property
    def network_error(self) -> float:
        return self.data.error(self.network)

    @cached_property
    def error(self) -> float:
        return float("inf") if self.formula is None else self.data.error(self.formula)

    @cached_property
    def length(self) -> float:
        return np.inf if self.formula is None else description_length(self.formula, self.data)

    @property
    def is_exact(self) -> bool:
        """True if the formula reproduces the points and there are enough points per constant."""
        return (
            self.formula is not None
            and self.error <= self.data.exact
            and self.data.has_enough_points(self.formula.parameters.size)
        )

    @property
    def is_certain(self) -> bool:
        """True if the error is at rounding level, which approximations hardly ever reach."""
        # A formula is certain if its error is at most this fraction of the largest error of an
        # exact formula. Quotients that approximate a root or an exponential of small arguments have
        # larger errors; true formulas have smaller ones.
        certain = 0.02
        return self.is_exact and self.error <= certain * self.data.exact


Event = SearchStage | FittedStructure


def titled(event: Event, names: Sequence[str]) -> Event:
    """Return the event with its groups added to its name, written in the variables `names`."""
    if not event.groups:
        return event
    swap = dict(zip(input_symbols(len(names)), map(variable, names), strict=True))
    listed = ", ".join(to_text(group.xreplace(swap), names) for group in event.groups)
    return replace(event, name=f"{event.name} {listed}", groups=())
