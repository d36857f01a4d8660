"""The data of a search, and the description length by which formulas are compared on them.

The description length is N log(error) + log(N) / 2 for every free constant and unit of complexity,
in nats, over all N points (Schwarz, Annals of Statistics 6, 1978, 461). For few points it is N / (N
- k - 1) for each of the k constants and halves of units if that is more (Hurvich and Tsai,
Biometrika 76, 1989, 297). On noisy data every further constant must pay for itself. On exact data N
log(error) dominates, down to EXACT, below which only the size counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import sympy

from kanrun.engine.symbolic.candidates import TINY, Array, Candidate, input_symbols
from kanrun.engine.symbolic.graph import EdgeMatch, Graph
from kanrun.formulas import to_text, variable

Model = Callable[[Array], Array]

#: Relative error up to which a formula reproduces points exactly: rounding, multiplied by what
#: formulas of some depth make of it. The formulas of the score cards leave at most 6e-15; a
#: quotient of polynomials of ten terms comes within 6e-12 of an exponential. Search, outcome and
#: certificate mean this by "exact".
EXACT = 1e-12
#: Part of the error of an exact formula that is rounding. Quotients that imitate a root or an
#: exponential of small arguments leave more; the formulas of the score cards leave less.
_CERTAIN = 0.02
#: Rounding of a value relative to it, in some operations.
_ROUNDING = 1e-15
#: Size below which values have lost digits to underflow: they have no relative error.
UNDERFLOW = 1e-290
#: Standard errors by which two errors may differ by chance.
_CHANCE = 2.0
#: Number of points for every constant that show a formula to be exact.
_POINTS_PER_CONSTANT = 2
#: Number of points in addition.
_MORE_POINTS = 5
#: Fraction of a budget that the search for a structure may use.
_SEARCH_FRACTION = 0.85


@dataclass(frozen=True, eq=False)
class SearchData:
    """Points for fitting, x (N, inputs) and y (N,), and points for choosing.

    With `relative` noise, errors are those of log |y|, and values have the sign of y.
    """

    x: Array
    y: Array
    validation_x: Array
    validation_y: Array
    relative: bool = False

    @cached_property
    def y_std(self) -> float:
        """Standard deviation of y, or of log |y|: errors are relative to it."""
        return max(float(np.std(np.log(np.abs(self.y)) if self.relative else self.y)), TINY)

    @cached_property
    def exact(self) -> float:
        """Error of a formula that reproduces the points: EXACT, or what the rounding of y makes."""
        rounding = 0.0 if self.relative else float(np.abs(self.y).max()) * _ROUNDING / self.y_std
        return max(EXACT, rounding)

    def residuals(self, model: Model, x: Array, y: Array) -> Array:
        """Return the residuals of a model at x (N, inputs), y (N,).

        Nan without a real logarithm.
        """
        with np.errstate(all="ignore"):
            values = model(x)
            return np.log(values / y) if self.relative else values - y

    @cached_property
    def all_points(self) -> SearchData:
        """All points, for fitting and for choosing; too few points are used twice."""
        if np.array_equal(self.x, self.validation_x):
            return self
        x = np.concatenate([self.x, self.validation_x])
        y = np.concatenate([self.y, self.validation_y])
        return SearchData(x, y, x, y, self.relative)

    def relative_to_size(self) -> SearchData:
        """Return the points with relative errors: those of which y has all its digits."""
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
        """True if all outputs have the sign of the first one."""
        return bool((self.all_points.y * self.y[0] > 0).all())

    @cached_property
    def logarithms(self) -> SearchData:
        """Points with log |y| in place of y."""
        y = np.log(np.abs(self.y))
        validation_y = np.log(np.abs(self.validation_y))
        return replace(self, y=y, validation_y=validation_y, relative=False)

    def mean(self, x: Array) -> Array:
        """Return the mean of y, geometric for relative noise, for each row of x."""
        mean = float(np.mean(self.logarithms.y if self.relative else self.y))
        return np.full(len(x), np.sign(self.y[0]) * np.exp(mean) if self.relative else mean)

    @cached_property
    def no_skill_error(self) -> float:
        """Relative validation error at or above which a model has no skill.

        It is the error of predicting the mean of y, minus what the best of several models gains by
        chance on this many points.
        """
        return self.error(self.mean) * max(0.8, 1 - 2 / float(np.sqrt(self.validation_y.size)))

    @property
    def count(self) -> int:
        return self.all_points.y.size

    def has_enough_points(self, constants: int) -> bool:
        """Return whether the points suffice for an exact formula with this many constants."""
        return _POINTS_PER_CONSTANT * constants + _MORE_POINTS <= self.count

    def interpolated_by(self, parameters: int) -> bool:
        """Return whether a model with this many parameters interpolates the points."""
        return self.count <= parameters + 1

    def overall_error(self, model: Model) -> float:
        """Return the `error` over all points, including those that constants were fitted to."""
        return self.all_points.error(model)

    def error(self, model: Model) -> float:
        """Return the RMS error on the validation data relative to the std of y.

        Inf if the model is not finite.
        """
        residuals = self.residuals(model, self.validation_x, self.validation_y)
        with np.errstate(all="ignore"):
            error = float(np.sqrt(np.mean(residuals**2))) / self.y_std
        return error if np.isfinite(error) else float("inf")

    def not_significantly_worse(self, model: Model, other: Model) -> bool:
        """Return whether `model` is not significantly worse than `other` on the validation points.

        Its mean squared error may be larger by at most `_CHANCE` standard errors of the difference.
        """
        first, second = (
            self.residuals(each, self.validation_x, self.validation_y) ** 2
            for each in (model, other)
        )
        worse = first - second
        return bool(np.mean(worse) <= _CHANCE * np.std(worse) / np.sqrt(worse.size))


def description_length(graph: Graph, data: SearchData) -> float:
    """Return the description length in nats, up to a constant of the data.

    Inf if the graph is not finite on them.
    """
    error = data.overall_error(graph)
    if not np.isfinite(error):
        return np.inf
    return length_of(error, graph.parameters.size, graph.complexity, data)


def length_of(error: float, constants: int, complexity: float, data: SearchData) -> float:
    """Return the nats for a relative `error` over all points.

    Inf without a point more than the constants need.
    """
    count = data.count
    each = 0.5 * float(np.log(data.count))
    taken = constants + complexity / 2
    if taken and count <= taken + 1:
        return float("inf")
    few = max(count / (count - taken - 1) - each, 0.0) * taken
    return count * float(np.log(max(error, data.exact))) + each * (constants + complexity) + few


@dataclass(frozen=True)
class SearchPolicy:
    """Size of a search. Work is in units of about one second of one core (`budget`).

    Attributes:
        budget: Total work; no result depends on a clock.
        simplify_budget: Work for the transforms of an expression.
    """

    budget: float = 60.0
    simplify_budget: float = 2.0

    @property
    def search_budget(self) -> float:
        """Work for the search; the rest is for rounding and simplification."""
        return _SEARCH_FRACTION * self.budget


@dataclass(frozen=True)
class SearchProblem:
    """Data of a formula search, the candidate functions of edges, and its policy.

    `dimensions` are the exponents of the base units of the inputs and, last, the output, shape
    (inputs + 1, bases), if they are known.
    """

    data: SearchData
    candidates: tuple[Candidate, ...]
    policy: SearchPolicy = field(default_factory=SearchPolicy)
    dimensions: Array | None = None


Matches = dict[int, list[EdgeMatch]]


@dataclass(frozen=True)
class SearchStage:
    """One stage of one structure, with its relative validation error on `data`.

    Stages are `train`, `prune`, `retrain`, `snap` (candidates in place, constants as matched) and
    `refit`. The chosen structure adds `mix` (if edges stay numeric), `round` and `verify`. `values`
    is the stage's model if that is not `graph`; `groups` are as in `FittedStructure`.
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
    """A formula with the bits of its description; only differences of bits have a meaning."""

    expression: sympy.Expr
    bits: float


@dataclass(frozen=True)
class FittedStructure:
    """A pruned and retrained `network`, the matches of its edges, and its best `formula`.

    Found in fewer variables, it has these as `groups`: expressions in x0, x1, ...
    Without a formula, that is None, with an infinite `error` and description `length`. `snapped` is
    the graph before the refit of its constants. `rivals` are the shortest descriptions that a
    ranking of many formulas has, and `noise` says whether the first leaves noise alone.
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
        """True if the formula reproduces enough points for its constants."""
        return (
            self.formula is not None
            and self.error <= self.data.exact
            and self.data.has_enough_points(self.formula.parameters.size)
        )

    @property
    def is_certain(self) -> bool:
        """True if it is exact to rounding, as imitations of a formula hardly ever are."""
        return self.is_exact and self.error <= _CERTAIN * self.data.exact


Event = SearchStage | FittedStructure


def titled(event: Event, names: Sequence[str]) -> Event:
    """Return the event with its groups in its name, in the variables `names`."""
    if not event.groups:
        return event
    swap = dict(zip(input_symbols(len(names)), map(variable, names), strict=True))
    listed = ", ".join(to_text(group.xreplace(swap), names) for group in event.groups)
    return replace(event, name=f"{event.name} {listed}", groups=())
