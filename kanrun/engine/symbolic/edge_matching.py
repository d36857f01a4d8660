"""Candidates for an edge: c f(a x + b) + d matched to its values, R^2 against complexity.

A coarse global search over (a, b) on a grid for each candidate, with (c, d) solved for, then
Levenberg-Marquardt on all constants from the best few grid points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, TWINS, Array, Candidate, search_grid
from kanrun.engine.symbolic.edge_functions import EdgeFunction, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import covered
from kanrun.engine.symbolic.search_problem import MatchingPolicy

#: 1 - R^2 at which only the rounding errors of float64 are left.
ROUNDING = 1e-14


@dataclass(frozen=True)
class EdgeMatch:
    """`function` fits the edge with 1 - R^2 = `loss`."""

    function: EdgeFunction
    loss: float
    complexity: float
    name: str
    #: Loss below which all candidates count as equal.
    floor: float = ROUNDING

    @property
    def r2(self) -> float:
        return 1.0 - self.loss

    @property
    def score(self) -> float:
        """Lower is better: digits of R^2, each worth what one more unit of complexity must gain."""
        return float(np.log10(max(self.loss, self.floor))) + 0.5 * self.complexity


def thinned(points: int, t: Array, *others: Array) -> tuple[Array, ...]:
    """Return at most this many of the arguments t (N,), in order, and of the values there."""
    order = np.argsort(t, kind="stable")[
        np.linspace(0, t.size - 1, min(t.size, points)).astype(int)
    ]
    return tuple(each[order] for each in (t, *others))


def match_edge(
    t: Array,
    values: Array,
    candidates: Sequence[Candidate],
    policy: MatchingPolicy = MatchingPolicy(),
) -> list[EdgeMatch]:
    """Return the candidates' matches of an edge's values (N,) at t (N,), best score first.

    They are defined on the range of t. Twins (sigmoid and tanh, ...) are matched once; candidates
    that are far off on the coarse grid are left out.
    """
    t, values = thinned(policy.points, t, values)
    spread = float(np.var(values))
    constant = _matched(
        Symbolic(CONSTANT, (1.0, 0.0, 0.0, float(values.mean())), "d"), 1.0 if spread > 0 else 0.0
    )
    found = [constant] if CONSTANT in candidates else []
    if spread == 0.0 or t[-1] == t[0]:
        return found
    names = {candidate.name for candidate in candidates}
    coarse = [
        (candidate, *_coarse(t, values, candidate, policy))
        for candidate in candidates
        if candidate is not CONSTANT and TWINS.get(candidate.name) not in names
    ]
    coarse.sort(key=lambda entry: entry[1] * 2 ** entry[0].complexity)
    matches = (
        _match(t, values, each, at, policy.steps) for each, _, at in coarse[: policy.polished]
    )
    found += [match for match in matches if match is not None]
    return sorted(found, key=lambda match: match.score)


def _match(
    t: Array, values: Array, candidate: Candidate, starts: Sequence[tuple[float, float]], steps: int
) -> EdgeMatch | None:
    """Return the candidate with its constants fitted from the better of the starts, or None.

    Starts are for t scaled to [-1, 1].
    """
    middle, half, spread = float(t[-1] + t[0]) / 2, float(t[-1] - t[0]) / 2, float(np.var(values))
    settings = RefitSettings(
        steps, gain=3e-4, patience=5, damping=1e-4, floor=(ROUNDING * spread) ** 0.5
    )
    best: EdgeMatch | None = None
    for a, b in starts:
        begun = Symbolic(candidate, (a / half, b - a * middle / half, 1.0, 0.0), candidate.free)
        with np.errstate(all="ignore"):
            design = np.stack([begun.value(t), np.ones_like(t)], axis=1)
        if not np.isfinite(design).all():
            continue
        c, d = np.linalg.lstsq(design, values, rcond=None)[0].tolist()
        graph = Graph(1, ("sum",), (Edge(0, 1, begun.changed(c=c, d=d)),))
        fitted = refit(graph, t[:, None], values, settings)
        result, loss = fitted.graph.edges[0].function, fitted.rmse**2 / spread
        if (
            isinstance(result, Symbolic)
            and np.isfinite(loss)
            and result.allows(t)
            and (not best or loss < best.loss)
        ):
            best = _matched(standardised(result), loss)
        if best is not None and best.loss < ROUNDING:
            break
    return best


def _matched(function: Symbolic, loss: float) -> EdgeMatch:
    return EdgeMatch(function, loss, function.candidate.complexity, function.candidate.name)


def _coarse(
    t: Array, values: Array, candidate: Candidate, policy: MatchingPolicy
) -> tuple[float, list[tuple[float, float]]]:
    """Return the smallest loss on the grid, and its best points (a, b), apart from each other.

    The edge is taken at equal steps.
    """
    grid, f = grid_values(candidate, policy.coarse)
    if not len(grid):
        return np.inf, []
    target = np.interp(np.linspace(t[0], t[-1], policy.coarse), t, values)
    target = target - target.mean()
    constant = np.full((policy.coarse, 1), policy.coarse**-0.5)
    r2 = covered(target, f, constant)[0] / max(float(target @ target), 1e-300)
    chosen: list[int] = []
    for i in np.argsort(-r2)[:40]:
        if r2[i] <= 0 or len(chosen) == policy.starts:
            break
        if all(np.abs(grid[i] - grid[j]).max() > 0.3 * abs(grid[j, 0]) for j in chosen):
            chosen.append(int(i))
    loss = 1 - float(r2[chosen[0]]) if chosen else np.inf
    return loss, [(float(grid[i, 0]), float(grid[i, 1])) for i in chosen]


@lru_cache(maxsize=64)
def grid_values(candidate: Candidate, steps: int) -> tuple[Array, Array]:
    """Return the points (a, b) of the search grid, and f(a tau + b) at equal steps of tau.

    It is defined for all tau in [-1, 1].
    """
    grid = search_grid(candidate)
    ends = np.sort(np.stack([grid[:, 1] - grid[:, 0], grid[:, 1] + grid[:, 0]]), axis=0)
    grid = grid[candidate.domain.allowed(*ends)]
    with np.errstate(all="ignore"):
        f = candidate.value(grid[:, :1] * np.linspace(-1, 1, steps) + grid[:, 1:])
    usable = np.isfinite(f).all(axis=1)
    return grid[usable], f[usable]


def standardised(function: Symbolic) -> Symbolic:
    """Return the same function with its redundant constants at their simplest.

    These are a = 1 or -1 for powers and log, b = 0 for exp, a > 0 for odd and even functions.
    """
    a, b, c, d = function.constants
    candidate = function.candidate
    if candidate is CONSTANT:
        return function
    if "a" not in candidate.free and a != 0.0:
        size = abs(a)
        if candidate.name == "log":
            d += c * float(np.log(size))
        else:
            c *= float(candidate.value(np.array([size]))[0] / candidate.value(np.ones(1))[0])
        a, b = a / size, b / size
        if candidate.name == "x":
            d, b = d + c * b, 0.0
    elif "b" not in candidate.free:
        c, b = c * float(np.exp(b)), 0.0
    if a < 0 and candidate.odd_or_even:
        at = np.array([0.3, 0.7])
        if candidate.name == "arccos":
            return replace(function, constants=(a, b, c, d))
        if candidate.name == "sigmoid":  # sigmoid(-u) = 1 - sigmoid(u)
            return replace(function, constants=(-a, -b, -c, d + c))
        even = np.allclose(candidate.value(at), candidate.value(-at))
        a, b, c = -a, -b, c if even else -c
    return replace(function, constants=(a, b, c, d))
