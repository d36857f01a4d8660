"""Fit graphs to points: refit constants and splines together, and train on ever finer grids.

The loss is the mean squared residual plus penalty * var(y) * sum over splines of
G^(2m - 1) |D^m c|^2. Here G is the number of intervals of a spline, c its coefficients, D^m the
m-th difference and m = degree + 2.

Standard errors and confidence intervals of the constants of a formula.

They are estimated from the residuals of the formula at the points to which it was fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import sympy
import torch
from scipy import special
from sympy import Expr
from torch import Tensor

from kanrun.engine.least_squares import (
    DenseRows,
    Linearisation,
    LMPolicy,
    Problem,
    StoppingCriteria,
    minimise,
)
from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import DIGITS, Array, apart
from kanrun.engine.symbolic.graph import Graph, Spline, Symbolic, fitted_grids
from kanrun.engine.symbolic.problem import EXACT, SearchData
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import variable

#: A quick refit ends when steps reduce the loss by less than this fraction.
QUICK = 1e-2
#: Weight of the smoothness penalty on finer grids.
PENALTY = 1e-16

#: Levenberg-Marquardt policy for graphs. Evaluating a graph costs more than solving the linear
#: system, so a step takes the first damping that lowers the loss. Constants are needed to the last
#: digit, so the damping may become much smaller than when networks are trained.
POLICY = LMPolicy(
    min_damping=1e-16,
    max_damping=1e8,
    damping_search=False,
    damping_increase=6.0,
    damping_decrease=((-inf, 8.0),),
)

#: Levenberg-Marquardt policy for the constants of an expression, which may have any size and are
#: needed to the last digit.
THOROUGH = LMPolicy(min_damping=1e-18)


@dataclass(frozen=True)
class RefitSettings:
    """Settings of a refit.

    Attributes:
        steps: Largest number of steps.
        floor: RMS residual below which the refit ends.
        gain: Smallest useful relative decrease of the loss in one step (see `patience`).
        patience: Number of successive steps with too small a decrease after which the refit ends.
        penalty: Weight of the smoothness penalty.
        damping: Initial damping of the Levenberg-Marquardt method.
    """

    steps: int = 40
    floor: float = 0.0
    gain: float = 1e-4
    patience: int = 3
    penalty: float = 0.0
    damping: float = 1e-2


class GraphFitting(Problem):
    """Least-squares problem for the parameters of a graph.

    If the errors of the data are relative, residuals are divided by the initial values of the
    graph, limited to within a factor `near` of |y|. The unknowns are then the parameters of the
    graph, scaled so that the columns of the initial Jacobian have norm 1. Otherwise the unknowns
    are the parameters themselves.
    """

    def __init__(self, graph: Graph, data: SearchData, settings: RefitSettings) -> None:
        # If errors are relative, residuals are divided by the absolute values of the graph. Before
        # the division, each is limited to the interval from |y| / `near` to `near` * |y|.
        near = 2.0
        self.graph = graph
        self.x = data.x
        self.y = data.y
        self._factor = np.full(data.y.size, data.y.size**-0.5)
        self._sizes = np.ones(1)
        if data.relative:
            size = np.abs(data.y)
            self._factor /= np.fmin(np.fmax(np.abs(graph(data.x)), size / near), near * size)
            # Constants may differ in size by many decades, so they are scaled.
            norms = np.linalg.norm(graph.linearise(data.x)[2] * self._factor[:, None], axis=0)
            self._sizes = 1 / np.where(np.isfinite(norms) & (norms > 0), norms, 1.0)
        self.unknowns = torch.from_numpy(graph.parameters / self._sizes)
        weight = settings.penalty * float(np.var(data.y))
        self._rows = _smoothness_rows(graph, weight) * self._sizes

    def at(self, unknowns: Tensor) -> Graph:
        """Return the graph for the given unknowns, after scaling them back to parameters."""
        return self.graph.with_parameters(unknowns.numpy() * self._sizes)

    def objective(self, unknowns: Tensor) -> float:
        count_work(COSTS.trial + COSTS.product * len(unknowns) ** 3 / 2)
        data = (self.at(unknowns)(self.x) - self.y) * self._factor
        penalty = self._rows @ unknowns.numpy()
        return float(data @ data + penalty @ penalty)

    def linearise(self, unknowns: Tensor) -> Linearisation:
        count = len(unknowns)
        count_work(COSTS.step + self.y.size * count * (COSTS.entry / 2 + COSTS.product * count))
        value, _, jacobian = self.at(unknowns).linearise(self.x)
        residual = np.concatenate([(value - self.y) * self._factor, self._rows @ unknowns.numpy()])
        jacobian = jacobian * self._factor[:, None] * self._sizes
        rows = np.concatenate([jacobian, self._rows])
        return Linearisation(DenseRows(torch.from_numpy(rows)), torch.from_numpy(residual))


class _Modulus(sympy.Function):  # type: ignore[misc]  # sympy has no types
    """Absolute value of an argument that is real even if sympy cannot infer that."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.sign(self.args[argindex - 1])


class _Floor(sympy.Function):  # type: ignore[misc]  # sympy has no types
    """Floor of a real number, with derivative 0."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.S.Zero


def _slope(expression: sympy.Expr, name: str) -> sympy.Expr:
    """Differentiate with respect to a variable, and write the result with functions of NumPy."""
    smooth = expression.replace(sympy.Abs, _Modulus).replace(sympy.floor, _Floor)
    slope = sympy.diff(smooth, variable(name)).replace(_Modulus, sympy.Abs)
    slope = slope.replace(sympy.Heaviside, lambda u, _: (1 + sympy.sign(u)) / 2)
    return slope.replace(_Floor, sympy.floor)


class ConstantsFitting(Problem):
    """Least-squares problem for the constants of an expression.

    Args:
        expression: The expression, in the inputs `names` and the symbols `constants`.
        names: Names of the inputs.
        constants: Names of the constants.
        data: Inputs x (N, inputs) and outputs y (N,).
        start: Initial values of the constants.
    """

    def __init__(
        self,
        expression: sympy.Expr,
        names: Sequence[str],
        constants: Sequence[str],
        data: tuple[Array, Array],
        start: Array,
    ) -> None:
        self._x, self._y = data
        slopes = [_slope(expression, name) for name in constants]
        self._columns = [to_numpy(each, [*names, *constants]) for each in (expression, *slopes)]
        self.unknowns = torch.from_numpy(np.asarray(start, dtype=np.float64).copy())

    def linearised(self, constants: Array) -> tuple[Array, Array]:
        """Return the residuals (N,) and their Jacobian (N, constants)."""
        count_work(COSTS.trial + COSTS.entry * self._y.size * len(self._columns))
        points = np.concatenate([self._x, np.tile(constants, (len(self._x), 1))], axis=1)
        value, *slopes = (column(points) for column in self._columns)
        return value - self._y, np.stack(slopes, axis=1)

    def residual(self, unknowns: Tensor) -> Tensor:
        return torch.from_numpy(self.linearised(unknowns.numpy())[0])

    def linearise(self, unknowns: Tensor) -> Linearisation:
        residual, rows = map(torch.from_numpy, self.linearised(unknowns.numpy()))
        return Linearisation(DenseRows(rows), residual)


def fit_constants(problem: ConstantsFitting) -> Array:
    """Return the least-squares constants (constants,), starting from the problem's initial values.

    Minimising the sum of squares determines the constants only to half of the digits of a float64.
    Gauss-Newton steps determine the remaining digits; they continue as long as each step is shorter
    than the previous one.
    """
    with np.errstate(all="ignore"):
        state, _ = minimise(problem, THOROUGH, StoppingCriteria(2000, 0.0, 1e-15, 12))
        constants = state.unknowns.numpy()
        last = inf
        while True:
            residual, rows = problem.linearised(constants)
            sizes = np.linalg.norm(rows, axis=0)
            if not (np.isfinite(rows).all() and np.isfinite(residual).all() and sizes.all()):
                return constants
            move = np.linalg.lstsq(rows / sizes, -residual, rcond=None)[0]
            length = float(np.linalg.norm(move))
            if not length < last:
                return constants
            constants = constants + move / sizes
            last = length


def refit(graph: Graph, data: SearchData, settings: RefitSettings = RefitSettings()) -> Graph:
    """Refit the parameters of a graph to the training points, and return the best graph.

    A graph that is not finite on these points cannot be fitted and is returned unchanged.
    """
    if not graph.parameters.size:
        return graph
    with np.errstate(all="ignore"):
        problem = GraphFitting(graph, data, settings)
        stopping = StoppingCriteria(
            settings.steps, settings.floor**2, settings.gain, settings.patience
        )
        state, _ = minimise(problem, POLICY, stopping, settings.damping)
    return problem.at(state.unknowns) if state.loss < inf else graph


def refit_on_grids(
    graph: Graph, data: SearchData, settings: RefitSettings, rounds: int = 1, margin: float = 0.02
) -> Graph:
    """Refit a graph, adapting its grids to the ranges of their arguments.

    Refitting and then adapting the grids is repeated `rounds` times. A last refit follows.
    """
    for _ in range(rounds):
        graph = fitted_grids(refit(graph, data, settings), data.x, margin=margin)
    return refit(graph, data, settings)


def _smoothness_rows(graph: Graph, weight: float) -> Array:
    """Return a matrix R (rows, parameters): |R p|^2 is the smoothness penalty of parameters p.

    The penalty of a spline with G intervals and coefficients c is `weight` * G^(2m - 1) |D^m c|^2,
    where D^m is the m-th difference and m = degree + 2 (or the number of coefficients minus one, if
    that is smaller). The penalties of all splines are added.
    """
    blocks = []
    for edge, columns in zip(graph.edges, graph.parameter_slices(), strict=True):
        if isinstance(edge.function, Spline):
            size = edge.function.parameters.size
            order = min(edge.function.degree + 2, size - 1)
            block = np.zeros((size - order, graph.parameters.size))
            block[:, columns] = np.diff(np.eye(size), order, axis=0)
            blocks.append(np.sqrt(weight) * edge.function.intervals ** (order - 0.5) * block)
    return np.concatenate([np.zeros((0, graph.parameters.size)), *blocks])


def extend(graph: Graph, data: SearchData, grids: Sequence[int]) -> Graph:
    """Train a graph on finer grids, and return the one with the lowest validation error.

    The numbers of intervals in `grids` are used one after another, until the error grows. Because
    the function may have a narrow feature, the last number is then doubled repeatedly as long as
    the error is still large, each doubling at least halves the error, and there are enough points.
    """
    # Smallest number of points per spline coefficient on grids that are doubled further.
    points_each = 4
    # Weight of the smoothness penalty on grids that are doubled further (see `unresolved`). It is
    # small because narrow features have large derivatives.
    sharp_penalty = 1e-22
    # Validation error, relative to the standard deviation of y, above which the number of intervals
    # is doubled further, because the function may have a narrow feature.
    unresolved = 3e-3
    # Refinement ends if the validation error on a finer grid exceeds the lowest error by this
    # factor.
    grid_growth = 1.5
    # Largest number of steps on each finer grid.
    grid_steps = 25

    def finer(graph: Graph, intervals: int, penalty: float) -> Graph:
        settings = RefitSettings(grid_steps, penalty=penalty, gain=QUICK)
        return refit(fitted_grids(graph, data.x, intervals=intervals), data, settings)

    best = graph
    last = max(grids, default=0)
    for intervals in grids:
        graph = finer(graph, intervals, PENALTY)
        if data.error(graph) > grid_growth * data.error(best):
            break
        best = min(best, graph, key=data.error)
    finest = data.y.size / (points_each * max(len(best.numeric_edges()), 1))
    while 0 < 2 * last <= finest and (before := data.error(best)) >= unresolved:
        last *= 2
        best = min(best, finer(best, last, sharp_penalty), key=data.error)
        if data.error(best) > before / 2:
            break
    return best


#: A constant of an edge: the index of the edge and the letter (a, b, c or d) of the constant.
Key = tuple[int, str]


def standard_errors(graph: Graph, data: SearchData) -> dict[Key, float]:
    """Return the standard errors of the free constants of all symbolic edges, by edge and letter.

    The result is empty if there are no more points than constants, or the Jacobian is not finite.
    """
    with np.errstate(all="ignore"):
        value, _, jacobian = graph.linearise(data.x)
        residual = value - data.y
        if data.relative:
            residual = residual / value
            jacobian = jacobian / value[:, None]
    freedom = residual.size - jacobian.shape[1]
    if freedom < 1 or not jacobian.size or not np.isfinite(jacobian).all():
        return {}
    errors = np.sqrt(residual @ residual / freedom) * _standard_deviations(jacobian)
    return {
        (index, name): float(error)
        for index, columns in enumerate(graph.parameter_slices())
        if isinstance(function := graph.edges[index].function, Symbolic)
        for name, error in zip(function.free, errors[columns], strict=True)
    }


def is_determined(graph: Graph, data: SearchData) -> bool:
    """Return whether the points determine all terms of a formula.

    This holds if the formula is exact. Otherwise the factor c of every edge function c f(a x + b) +
    d, if it is free, must be more than `determined` standard errors away from 0, and the terms of
    the output must not cancel (`cancels`).
    """
    # Terms of a sum count as cancelling if the standard deviation of one term is more than this
    # many times that of the sum. In a formula for a damped wave, the terms are as large as their
    # sum; in sums of waves that only approximate it, they are 10 to 1000 times as large.
    cancels = 10.0
    # The factor c of an edge function c f(a x + b) + d counts as determined if |c| is more than
    # this many standard errors.
    determined = 2.0
    if data.overall_error(graph) <= EXACT:
        return True
    with np.errstate(all="ignore"):
        values, outs = graph.edge_outputs(data.x)
    if graph.operation(graph.output) == "sum":
        terms = [np.std(outs[i]) for i in graph.into(graph.output)]
        if max(terms) > cancels * np.std(values[graph.output]):
            return False
    errors = standard_errors(graph, data)
    return all(
        abs(function.constants[2]) > determined * error
        for (index, name), error in errors.items()
        if name == "c" and isinstance(function := graph.edges[index].function, Symbolic)
    )


def _standard_deviations(jacobian: Array) -> Array:
    """Return the standard deviations (constants,) of fitted constants for noise of variance 1.

    `jacobian` (N, constants) contains the derivatives of the values with respect to the constants.
    """
    norms = np.linalg.norm(jacobian, axis=0)
    norms[norms == 0] = 1.0
    scaled = jacobian / norms
    covariance = np.linalg.pinv(scaled.T @ scaled, rcond=1e-12, hermitian=True)
    return np.asarray(np.sqrt(np.clip(np.diag(covariance), 0, None)) / norms)


@dataclass(frozen=True)
class ConstantInterval:
    """A number of a formula with its confidence interval and standard error.

    Attributes:
        text: The number as the formula writes it.
        value: The number.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        standard_error: Standard error of the number.
    """

    text: str
    value: float
    low: float
    high: float
    standard_error: float

    @property
    def digits(self) -> int:
        """Number of significant digits up to the first decimal place of the standard error."""
        if not (self.standard_error > 0 and self.value):
            return DIGITS
        size = np.floor(np.log10(abs(self.value))) - np.floor(np.log10(self.standard_error))
        return int(np.clip(size + 1, 1, DIGITS))

    def __str__(self) -> str:
        return f"{self.value:.{self.digits}g} +- {self.standard_error:.1g}"


def open_constants(expression: Expr, units: bool = False) -> tuple[Expr, dict[sympy.Symbol, Expr]]:
    """Replace the constants of an expression with symbols.

    Constants are numeric factors and summands other than -1, 0 and 1, and numeric exponents that
    are not integers. Equal numbers get different symbols, unless they belong to two occurrences of
    the same subexpression.

    Args:
        expression: The expression.
        units: Whether factors of 1 also get a symbol: one factor for the whole expression, one for
            every argument of a function, and one for every summand but the first, whose factor
            would be redundant.

    Returns:
        The expression with symbols, and the number that each symbol replaces.
    """
    constants: dict[sympy.Symbol, Expr] = {}
    known: dict[Expr, Expr] = {}

    def symbol_for(number: Expr) -> Expr:
        symbol = variable(f"constant{len(constants)}")
        constants[symbol] = number
        return symbol

    def unknown(number: Expr) -> Expr:
        return number if number in (-1, 0, 1) else symbol_for(number)

    def with_factor(part: Expr) -> Expr:
        is_unit = units and (part.is_Add or apart(part)[0] in (-1, 1))
        return opened(part) * (symbol_for(sympy.S.One) if is_unit else 1)

    def opened(part: Expr) -> Expr:
        if part.is_number:
            return unknown(part)
        if part.is_Symbol:
            return part
        if part not in known:
            if part.is_Mul:
                factor, rest = apart(part)
                parts = [opened(each) for each in sympy.Mul.make_args(rest)]
                known[part] = sympy.Mul(unknown(factor), *parts)
            elif part.is_Pow and part.exp.is_Integer:
                known[part] = opened(part.base) ** part.exp
            elif part.is_Add and units:
                factor, rest = apart(part.args[0])
                known[part] = sympy.Add(factor * opened(rest), *map(with_factor, part.args[1:]))
            elif part.is_Add or part.is_Pow:
                known[part] = part.func(*map(opened, part.args))
            else:
                arguments = (each if each.is_number else with_factor(each) for each in part.args)
                known[part] = part.func(*arguments)
        return known[part]

    return with_factor(expression), constants


def confidence_intervals(
    expression: Expr,
    names: Sequence[str],
    x: Array,
    y: Array,
    confidence: float = 0.95,
    *,
    relative: bool = False,
) -> list[ConstantInterval]:
    """Return confidence intervals of the constants of a formula.

    The intervals follow from the residuals and the Gauss-Newton matrix, with Student's t
    distribution.

    Args:
        expression: The formula.
        names: Names of the inputs.
        x: Inputs, shape (N, inputs).
        y: Outputs, shape (N,).
        confidence: Probability that an interval contains the constant.
        relative: Whether the noise is proportional to y.

    Returns:
        One interval per constant; none if there are no more points than constants, or a residual
        or a derivative is not finite.
    """
    open_form, constants = open_constants(expression)
    numbers = list(constants.values())
    freedom = y.size - len(numbers)
    values = np.array([float(each) for each in numbers])
    if not numbers or freedom < 1:
        return []
    unknowns = [each.name for each in constants]
    with np.errstate(all="ignore"):
        fitting = ConstantsFitting(open_form, names, unknowns, (x, y), values)
        residual, jacobian = fitting.linearised(values)
        scale = y if relative else np.ones_like(y)
        residual = residual / scale
        jacobian = jacobian / scale[:, None]
    if not (np.isfinite(jacobian).all() and np.isfinite(residual).all()):
        return []
    deviation = np.sqrt(residual @ residual / freedom) * _standard_deviations(jacobian)
    half = special.stdtrit(freedom, 0.5 + confidence / 2) * deviation
    texts = [repr(float(each)) if each.is_Float else str(each) for each in numbers]
    return [
        ConstantInterval(text, value, value - h, value + h, error)
        for text, value, h, error in zip(
            texts, values.tolist(), half.tolist(), deviation.tolist(), strict=True
        )
    ]


def significant(expression: Expr, intervals: Sequence[ConstantInterval]) -> Expr:
    """Return the formula with its decimal constants rounded to the digits that the data determine.

    If there are fewer `intervals` than constants, the formula is returned unchanged.
    """
    open_form, constants = open_constants(expression)
    if len(intervals) < len(constants):
        return expression
    pairs = zip(constants.items(), intervals, strict=True)
    return open_form.xreplace(
        {
            symbol: sympy.Float(each.value, each.digits) if number.has(sympy.Float) else number
            for (symbol, number), each in pairs
        }
    )
