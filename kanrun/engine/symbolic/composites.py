"""Edges that no single candidate matches: one function of another, g(f(x)), or a product of two, f(x) g(x).

Searched on coarse grids of both functions' constants at once, then polished: the constants of edges from hidden nodes
have no nice values, as the scales of those nodes are arbitrary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.edge_matching import ROUNDING, EdgeMatch, allowed_values, search_grid
from kanrun.engine.symbolic.edges import Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.invariances import canonical
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import CompositePolicy
from kanrun.engine.symbolic.trees import Call, Joined, Subgraph, graph_of, sound


@dataclass(frozen=True)
class _Pair:
    """second(first(t)), or first(t) second(t)."""

    first: Symbolic
    second: Symbolic
    chain: bool

    @property
    def name(self) -> str:
        """Such as `sin(x^2)` or `x * exp`."""
        first, second = self.first.candidate.name, self.second.candidate.name
        return f"{second}({first})" if self.chain else f"{first} * {second}"

    @property
    def graph(self) -> Graph:
        first, second = Call(self.first), Call(self.second)
        inside = Call(self.second, Joined("sum", (first,))) if self.chain else Joined("product", (first, second))
        return graph_of(Joined("sum", (inside,)))


def match_composites(
    t: Array, values: Array, candidates: Sequence[Candidate], policy: CompositePolicy = CompositePolicy()
) -> list[EdgeMatch]:
    """The few composites nearest to an edge's values (N,) at its arguments t (N,), best score first."""
    order = np.argsort(t, kind="stable")[np.linspace(0, t.size - 1, min(t.size, policy.points)).astype(int)]
    t, values = t[order], values[order]
    half, middle = float(t[-1] - t[0]) / 2, float(t[-1] + t[0]) / 2
    if half == 0.0 or np.var(values) == 0.0:
        return []
    tau = (t - middle) / half
    usable = {candidate.name: candidate for candidate in candidates}
    curve = np.interp(np.linspace(-1, 1, policy.coarse), tau, values)
    curve = (curve - curve.mean()) / max(float(np.std(curve)), 1e-300)
    centre = round(-middle / half, 6)  # where the argument itself is zero, in units of tau
    starts: list[_Pair] = []
    for inner, outer in itertools.product(policy.inner, policy.outer):
        if inner in usable and outer in usable and inner != outer:
            starts += _chains(curve, usable[inner], usable[outer], centre, policy)
    for first, second in itertools.combinations(policy.factors, 2):
        if first in usable and second in usable:
            starts += _products(curve, usable[first], usable[second], centre, policy)
    thin = slice(None, None, 3)
    quick = [(_polished(tau[thin], values[thin], each, (1.0, 0.0), policy.quick_steps), each) for each in starts]
    near = sorted((match.loss, i) for i, (match, _) in enumerate(quick) if match is not None)[: policy.polished]
    found = [m for _, i in near if (m := _polished(tau, values, quick[i][1], (half, middle), policy.steps)) is not None]
    return sorted(found, key=lambda match: match.score)[: policy.returned]


@lru_cache(maxsize=256)
def _curves(candidate: Candidate, centre: float, limit: int, steps: int) -> tuple[Array, Array]:
    """At most `limit` grid points (a, b), those with the argument's own zero first, and the curves there at equal
    steps, each to [-1, 1]."""
    own = np.array([[1.0, -centre], [-1.0, centre]]) if "a" not in candidate.free else np.zeros((0, 2))
    if candidate.name in ("sin", "tanh", "gaussian", "cosh", "arctan"):
        sizes = np.array([0.5, 1, 1.6, 2.5, 4, 6, 9])
        own = np.stack([sizes, -sizes * centre], axis=1)
        if candidate.name == "sin":
            own = np.concatenate([own, own + np.array([0, np.pi / 2])])
    grid = np.array([[1.0, 0.0]]) if candidate.name == "x" else search_grid(candidate)
    grid = np.concatenate([own, grid[:: max(1, len(grid) // limit)][:limit]])
    grid, curves = allowed_values(candidate, grid, steps)
    width = np.ptp(curves, axis=1)
    fine = width > 1e-9 * np.abs(curves).max(axis=1, initial=1e-300)
    return grid[fine], curves[fine]


def _chains(curve: Array, inner: Candidate, outer: Candidate, centre: float, policy: CompositePolicy) -> list[_Pair]:
    points, curves = _curves(inner, centre, policy.chain_grids[0], policy.coarse)
    outer_points = _curves(outer, 0.0, policy.chain_grids[1], policy.coarse)[0]
    if not len(points) or not len(outer_points):
        return []
    low, high = curves.min(1, keepdims=True), curves.max(1, keepdims=True)
    unit = 2 * (curves - low) / (high - low) - 1
    with np.errstate(all="ignore"):
        values = outer.value(outer_points[None, :, :1] * unit[:, None, :] + outer_points[None, :, 1:])
    count_work(COSTS.grid_value * values.size)
    starts = []
    for (i, j), c, d in _best(curve, values, points, policy.kept):
        scale = 2 / float(high[i, 0] - low[i, 0])
        first = Symbolic(inner, (*points[i].tolist(), scale, -1 - scale * float(low[i, 0])), inner.free)
        second = Symbolic(outer, (*outer_points[j].tolist(), c, d), outer.free)
        starts.append(_Pair(first, second, chain=True))
    return starts


def _products(curve: Array, left: Candidate, right: Candidate, centre: float, policy: CompositePolicy) -> list[_Pair]:
    """c f g + d f + e g + ...: the factors' own constants are found by least squares on f g, f, g and 1."""
    points, curves = _curves(left, centre, policy.product_grid, policy.coarse)
    others, other_curves = _curves(right, centre, policy.product_grid, policy.coarse)
    if not len(points) or not len(others):
        return []
    f, g = np.broadcast_arrays(curves[:, None, :], other_curves[None, :, :])
    basis = np.stack([f * g, f, g, np.ones_like(f)], axis=-1)
    count_work(COSTS.grid_value * basis.size)
    size = np.linalg.norm(basis, axis=-2, keepdims=True)
    basis = basis / np.where(size > 0, size, 1.0)
    normal = np.einsum("ijnp,ijnq->ijpq", basis, basis) + 1e-12 * np.eye(4)
    solution = np.linalg.solve(normal, np.einsum("ijnp,n->ijp", basis, curve)[..., None])[..., 0]
    loss = np.mean((np.einsum("ijnp,ijp->ijn", basis, solution) - curve) ** 2, axis=-1)
    starts = []
    for i, j in _apart(loss, points, policy.kept):
        both, only_f, only_g = solution[i, j, :3] / size[i, j, 0, :3]
        if both == 0.0 or loss[i, j] > 0.5:
            continue
        first = Symbolic(left, (*points[i].tolist(), float(both), float(only_g)), left.free)
        second = Symbolic(right, (*others[j].tolist(), 1.0, float(only_f / both)), right.free)
        starts.append(_Pair(first, second, chain=False))
    return starts


def _best(curve: Array, values: Array, points: Array, kept: int) -> list[tuple[tuple[int, int], float, float]]:
    """The few entries of values (I, J, N) nearest to the standardised curve after c v + d: where, c, d."""
    mean = values.mean(-1, keepdims=True)
    centred = values - mean
    with np.errstate(all="ignore"):
        power = np.einsum("ijn,ijn->ij", centred, centred)
        cover = centred @ curve
        r2 = cover**2 / power / float(curve @ curve)
    r2[~np.isfinite(r2) | (power <= 1e-18)] = -1.0
    found = []
    for i, j in _apart(1 - r2, points, kept):
        if r2[i, j] > 0.5:
            c = float(cover[i, j] / power[i, j])
            found.append(((i, j), c, -c * float(mean[i, j, 0])))
    return found


def _apart(loss: Array, points: Array, kept: int) -> list[tuple[int, int]]:
    """The few smallest entries (i, j) whose first functions' scales differ by half or more: where the best of a
    coarse grid is a limit (a very flat cosh is a parabola), the true scale is another one."""
    partner = np.argmin(loss, axis=1)
    smallest = loss[np.arange(len(points)), partner]
    chosen: list[int] = []
    for i in np.argsort(smallest):
        sizes = [abs(float(points[k, 0] / points[i, 0])) for k in chosen if points[i, 0] != 0]
        fresh = all(not 0.67 < size < 1.5 for size in sizes) or (len(chosen) < 2 and len(np.unique(points[:, 0])) < 3)
        if fresh:
            chosen.append(int(i))
        if len(chosen) == kept:
            break
    return [(i, int(partner[i])) for i in chosen]


def _polished(tau: Array, values: Array, start: _Pair, units: tuple[float, float], steps: int) -> EdgeMatch | None:
    half, middle = units
    spread = float(np.std(values))
    if start.chain:
        scaled = replace(start, second=start.second.scaled(spread).shifted(float(values.mean())))
    else:
        scaled = replace(start, first=start.first.scaled(spread))
    simple = canonical(scaled.graph)
    floor = ROUNDING**0.5 * spread
    settings = RefitSettings(steps=steps, gain=1e-4, patience=6, damping=1e-5, floor=floor)
    fitted = refit(simple, tau[:, None], values, settings)
    if not np.isfinite(fitted.rmse) or not sound(fitted.graph, tau):
        return None
    graph = fitted.graph
    for i, edge in enumerate(graph.edges):
        if edge.source == 0 and isinstance(edge.function, Symbolic):
            graph = graph.with_function(i, _moved(edge.function, half, middle))
    complexity = start.first.candidate.complexity + start.second.candidate.complexity + 1.0
    return EdgeMatch(Subgraph(graph, start.name), fitted.rmse**2 / spread**2, complexity, start.name)


def _moved(function: Symbolic, half: float, middle: float) -> Symbolic:
    """The function of t = middle + half tau."""
    a, b, c, d = function.constants
    return replace(function, constants=(a / half, b - a * middle / half, c, d), free=function.candidate.free)
