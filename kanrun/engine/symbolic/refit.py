"""Joint refit of all constants and spline coefficients of a graph, as a least squares problem of the one core.

Loss = mean squared residual + penalty * var(y) * sum over splines of G^(2m - 1) |D^m c|^2, m = degree + 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import sympy
import torch
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
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph, depths
from kanrun.engine.symbolic.search_problem import GraphTrainingPolicy
from kanrun.engine.symbolic.templates import fitted_grids
from kanrun.formulas import to_numpy, variable

#: Evaluations cost more than solutions here, and constants are wanted to the last digit: quick steps, whose damping
#: falls with every step that helps, far below that of trainings.
POLICY = LMPolicy(
    min_damping=1e-16,
    max_damping=1e8,
    damping_search=False,
    damping_increase=6.0,
    damping_decrease=((-inf, 8.0),),
)

#: Constants alone, of any size and to the last digit: thorough steps.
THOROUGH = LMPolicy(min_damping=1e-18)
#: Gauss-Newton steps at most after them.
_POLISHING = 12


@dataclass(frozen=True)
class RefitSettings:
    """`steps` at most; stops when the root mean square residual is below `floor`, or gains less than `gain`
    (relative) in `patience` steps in a row. `rows` @ parameters are further residuals, such as a sparsity penalty."""

    steps: int = 40
    floor: float = 0.0
    gain: float = 1e-4
    patience: int = 3
    penalty: float = 0.0
    damping: float = 1e-2
    rows: Array | None = None
    weights: Array | None = None  # (N,) of the residuals


@dataclass(frozen=True)
class Fitted:
    """The graph after the fit, its root mean square error on the data, and the steps taken."""

    graph: Graph
    rmse: float
    steps: int


class GraphFitting(Problem):
    """The fit of a graph's parameters; a vector of unknowns and its numpy array share their memory."""

    def __init__(self, graph: Graph, x: Array, y: Array, settings: RefitSettings) -> None:
        self.graph, self.x, self.y = graph, x, y
        self._factor = y.size**-0.5 * (
            np.ones_like(y) if settings.weights is None else settings.weights
        )
        self.unknowns = torch.from_numpy(graph.parameters)
        rows = [settings.rows] if settings.rows is not None else []
        if settings.penalty > 0:
            rows.append(_roughness(graph, settings.penalty * float(np.var(y))))
        self._rows = np.concatenate(rows) if rows else np.zeros((0, graph.parameters.size))

    def at(self, unknowns: Tensor) -> Graph:
        """The graph with these parameters."""
        return self.graph.with_parameters(unknowns.numpy())

    def objective(self, unknowns: Tensor) -> list[float]:
        count_work(COSTS.tried(len(self.graph.edges), len(unknowns)))
        data, penalty = (
            (self.at(unknowns)(self.x) - self.y) * self._factor,
            self._rows @ unknowns.numpy(),
        )
        return [float(data @ data + penalty @ penalty)]

    def linearise(self, unknowns: Tensor) -> Linearisation:
        count_work(COSTS.linearised(len(self.graph.edges), len(unknowns), self.y.size))
        value, jacobian = self.at(unknowns).linearise(self.x)
        residual = np.concatenate([(value - self.y) * self._factor, self._rows @ unknowns.numpy()])
        rows = np.concatenate([jacobian * self._factor[:, None], self._rows])
        return Linearisation.of(DenseRows(torch.from_numpy(rows)), torch.from_numpy(residual))


class ConstantsFitting(Problem):
    """The fit of an expression's `constants` to y (N,) at x (N, inputs), from `start` (constants,)."""

    def __init__(
        self,
        expression: sympy.Expr,
        names: Sequence[str],
        constants: Sequence[str],
        data: tuple[Array, Array],
        start: Array,
    ) -> None:
        self._x, self._y = data
        every = [*names, *constants]
        self._value = to_numpy(expression, every)
        self._slopes = [
            to_numpy(sympy.diff(expression, variable(name)), every) for name in constants
        ]
        self.unknowns = torch.from_numpy(np.asarray(start, dtype=np.float64).copy())

    def _points(self, unknowns: Tensor) -> Array:
        return np.concatenate(
            [self._x, np.broadcast_to(unknowns.numpy(), (len(self._x), len(unknowns)))], axis=1
        )

    def residual(self, unknowns: Tensor) -> Tensor:
        return torch.from_numpy(self._value(self._points(unknowns)) - self._y)

    def linearise(self, unknowns: Tensor) -> Linearisation:
        points = self._points(unknowns)
        rows = np.stack([slope(points) for slope in self._slopes], axis=1)
        return Linearisation.of(DenseRows(torch.from_numpy(rows)), self.residual(unknowns))


def fit_constants(problem: ConstantsFitting, steps: int = 2000) -> tuple[Array, int]:
    """The constants (constants,) that least squares gives from the problem's start, and the steps taken.

    Sums of squares tell constants apart to half of float64's digits only; Gauss-Newton steps give the others, as long
    as each is shorter than the one before.
    """
    with np.errstate(all="ignore"):
        state, taken = minimise(problem, THOROUGH, StoppingCriteria(steps, 0.0, 1e-15, 12))
        constants, last = state.unknowns.numpy(), inf
        for _ in range(_POLISHING):
            linear = problem.linearise(torch.from_numpy(constants))
            assert isinstance(linear.rows, DenseRows)
            assert linear.residual is not None
            rows, residual = linear.rows.rows.numpy(), linear.residual.numpy()
            sizes = np.linalg.norm(rows, axis=0)
            if not (np.isfinite(rows).all() and np.isfinite(residual).all() and sizes.all()):
                break
            move = np.linalg.lstsq(rows / sizes, -residual, rcond=None)[0]
            length = float(np.linalg.norm(move))
            if not length < last:
                break
            constants, last = constants + move / sizes, length
    return constants, taken


def refit(graph: Graph, x: Array, y: Array, settings: RefitSettings = RefitSettings()) -> Fitted:
    """`graph` (or the best met on the way) fitted to y (N,) at x (N, inputs).

    A graph that is not finite on the data comes back as it is, with rmse = inf: nothing can be fitted from there.
    """
    steps = 0
    with np.errstate(all="ignore"):
        if graph.parameters.size:
            problem = GraphFitting(graph, x, y, settings)
            stopping = StoppingCriteria(
                settings.steps, settings.floor**2, settings.gain, settings.patience
            )
            state, steps = minimise(problem, POLICY, stopping, [settings.damping])
            graph = problem.at(state.unknowns) if state.n_trials else graph
        else:
            count_work(COSTS.tried(len(graph.edges), 0))
        rest = graph(x) - y
        rmse = float(
            np.sqrt(np.mean((rest if settings.weights is None else settings.weights * rest) ** 2))
        )
    return Fitted(graph, rmse if np.isfinite(rmse) else np.inf, steps)


def refit_to(graph: Graph, data: SearchData, settings: RefitSettings) -> Graph:
    """`graph` fitted to the points of a search; where noise is relative, residuals are relative to its values."""
    if data.relative:
        with np.errstate(all="ignore"):
            settings = replace(settings, weights=1 / np.abs(graph(data.x)))
    return refit(graph, data.x, data.y, settings).graph


def _roughness(graph: Graph, weight: float) -> Array:
    """Rows whose squares sum to weight * sum_edges G^(2m - 1) |D^m c|^2."""
    blocks = []
    sizes = [edge.function.parameters.size for edge in graph.edges]
    for edge, start in zip(graph.edges, np.cumsum([0, *sizes]), strict=False):
        if isinstance(edge.function, Spline):
            order = min(edge.function.degree + 2, edge.function.parameters.size - 1)
            difference = np.diff(np.eye(edge.function.parameters.size), order, axis=0)
            block = np.zeros((difference.shape[0], sum(sizes)))
            block[:, start : start + difference.shape[1]] = difference
            blocks.append(np.sqrt(weight) * edge.function.intervals ** (order - 0.5) * block)
    return np.concatenate(blocks) if blocks else np.zeros((0, sum(sizes)))


@dataclass(frozen=True)
class TrainedGraph:
    """A numeric graph and its relative validation error."""

    graph: Graph
    error: float


def train_graph(
    starts: Iterable[Graph], data: SearchData, policy: GraphTrainingPolicy
) -> TrainedGraph:
    """The best graph over the coarse `starts`, which are drawn while they are needed, and finer grids."""
    best: TrainedGraph | None = None
    for attempt, graph in enumerate(starts):
        fitted = coarse_fit(graph, data, policy)
        best = fitted if best is None or fitted.error < best.error else best
        if attempt + 1 >= policy.starts or (best.error < policy.good and attempt >= 1):
            break
    assert best is not None
    hopeless = not best.error < policy.hopeless and len(best.graph.operations) > 1
    return best if hopeless else extend(best.graph, data, policy.grids, policy)


def coarse_fit(graph: Graph, data: SearchData, policy: GraphTrainingPolicy) -> TrainedGraph:
    """A few steps, hidden grids drawn over what reaches them, and again."""
    for _ in range(policy.rounds):
        graph = refit(
            graph, data.x, data.y, RefitSettings(12, penalty=policy.coarse_penalty, gain=1e-2)
        ).graph
        graph = fitted_grids(graph, data.x, margin=0.05)
    graph = refit(
        graph, data.x, data.y, RefitSettings(15, penalty=policy.coarse_penalty, gain=1e-2)
    ).graph
    return TrainedGraph(graph, data.error(graph))


def extend(
    graph: Graph, data: SearchData, grids: Sequence[int], policy: GraphTrainingPolicy
) -> TrainedGraph:
    """Finer and finer grids while the validation error falls, then doubled ones for what is too sharp for the last."""
    best, last = TrainedGraph(graph, data.error(graph)), max(grids, default=0)
    for intervals in grids:
        finer = _on_grid(graph, data, intervals, policy.penalty, policy.steps)
        graph = finer.graph
        if finer.error > 1.5 * best.error:
            break
        best = min(best, finer, key=lambda each: each.error)
    most = min(
        policy.finest, data.y.size / (4 * max(len(best.graph.numeric_edges()), 1))
    )  # four points a coefficient
    while 0 < 2 * last <= most and best.error >= policy.unresolved:
        last, before = 2 * last, best.error
        finer = _on_grid(best.graph, data, last, policy.sharp * policy.penalty, policy.steps)
        best = min(best, finer, key=lambda each: each.error)
        if best.error > 0.5 * before:
            break
    return best


def _on_grid(
    graph: Graph, data: SearchData, intervals: int, penalty: float, steps: int
) -> TrainedGraph:
    graph = fitted_grids(graph, data.x, intervals=intervals)
    graph = refit(graph, data.x, data.y, RefitSettings(steps, penalty=penalty, gain=1e-2)).graph
    return TrainedGraph(graph, data.error(graph))


def sparsified(graph: Graph, data: SearchData, weight: float, policy: GraphTrainingPolicy) -> Graph:
    """The graph after a few reweighted fits with the sparsity penalty, `weight` relative to the variance of y."""
    for _ in range(policy.sparse_rounds):
        rows = sparsity_rows(graph, data.x, weight * data.y_std**2)
        settings = RefitSettings(steps=8, penalty=1e-9, rows=rows, gain=1e-2)
        graph = fitted_grids(refit(graph, data.x, data.y, settings).graph, data.x, margin=0.05)
    return graph


def magnitudes(graph: Graph, x: Array) -> Array:
    """m_e of every edge at x (N, inputs)."""
    _, outs = graph.edge_outputs(x)
    return np.array([float(np.std(out)) for out in outs])


def sparsity_rows(graph: Graph, x: Array, weight: float) -> Array:
    """The paper's sparsity penalty near `graph` as rows over the parameters of the same edges.

    lambda (sum_e m_e + sum_layers S), m_e the root mean square deviation of an edge's output, S = -sum p log p of its
    layer's shares p = m / sum m (arXiv 2404.19756, eqs. 2.17 to 2.20, with squares for absolute values). Near the
    current graph it is sum_e w_e m_e^2 with w_e = lambda (1 + dS/dm_e) / (2 m_e): iteratively reweighted least squares.
    """
    sizes = [edge.function.parameters.size for edge in graph.edges]
    starts = np.cumsum([0, *sizes])
    layer = depths(graph)
    size = magnitudes(graph, x)
    values = graph.node_values(x)
    pull = _entropy_pull(size, [layer[edge.target] for edge in graph.edges])
    floor = 1e-3 * max(float(size.max(initial=0.0)), 1e-300)
    blocks = []
    for i, edge in enumerate(graph.edges):
        if not isinstance(edge.function, Spline):
            continue
        _, _, design = edge.function.evaluate(values[edge.source])
        assert design is not None
        triangle = np.linalg.qr((design - design.mean(0)) / np.sqrt(x.shape[0]))[1]
        block = np.zeros((triangle.shape[0], int(starts[-1])))
        pulled = weight * max(1 + float(pull[i]), 0.0) / (2 * max(float(size[i]), floor))
        block[:, starts[i] : starts[i + 1]] = np.sqrt(pulled) * triangle
        blocks.append(block)
    return np.concatenate(blocks) if blocks else np.zeros((0, int(starts[-1])))


def _entropy_pull(size: Array, layer: list[int]) -> Array:
    """dS/dm_e times the layer's total, so that it is comparable to the 1 of the L1 term."""
    pull = np.zeros_like(size)
    for number in set(layer):
        inside = np.array([each == number for each in layer])
        shares = np.maximum(size[inside], 1e-300) / max(float(size[inside].sum()), 1e-300)
        pull[inside] = -(np.log(shares) + float(-(shares * np.log(shares)).sum()))
    return np.clip(pull, -0.9, 10.0)
