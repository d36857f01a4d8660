"""Candidates with constants, a f(b x + c) + d, that match the values of an edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import (
    CONSTANT,
    GRID_STEPS,
    TINY,
    TWINS,
    Array,
    Candidate,
    grid_values,
)
from kanrun.engine.symbolic.edge_functions import Symbolic, standardised
from kanrun.engine.symbolic.graph import ROUNDING, Edge, EdgeMatch, Graph
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import (
    covered,
)

#: Samples of an edge that are used.
POINTS = 120
#: Matching candidates: best candidates that are refitted, grid points from which they are and of
#: which they are chosen, and the distance of these relative to a.
_POLISHED, _STARTS, _RANKED, _APART = 12, 2, 40, 0.3
_MATCHED = RefitSettings(steps=40, gain=3e-4, patience=5, damping=1e-4)


def thinned(points: int, t: Array, *others: Array) -> tuple[Array, ...]:
    """Return at most this many of the arguments t (N,), in order, and of the values there."""
    order = np.argsort(t, kind="stable")[
        np.linspace(0, t.size - 1, min(t.size, points)).astype(int)
    ]
    return tuple(each[order] for each in (t, *others))


def match_edge(t: Array, values: Array, candidates: Sequence[Candidate]) -> list[EdgeMatch]:
    """Return the candidates' matches of an edge's values (N,) at t (N,), best score first.

    They are defined on the range of t. Twins (sigmoid and tanh, ...) are matched once; candidates
    that are far off on the coarse grid are left out.
    """
    t, values = thinned(POINTS, t, values)
    spread = float(np.var(values))
    constant = _matched(
        Symbolic(CONSTANT, (1.0, 0.0, 0.0, float(values.mean())), "d"), 1.0 if spread > 0 else 0.0
    )
    found = [constant] if CONSTANT in candidates else []
    if spread == 0.0 or t[-1] == t[0]:
        return found
    names = {candidate.name for candidate in candidates}
    coarse = [
        (candidate, *_coarse(t, values, candidate))
        for candidate in candidates
        if candidate is not CONSTANT and TWINS.get(candidate.name) not in names
    ]
    coarse.sort(key=lambda entry: entry[1] * 2 ** entry[0].complexity)
    matches = (_match(t, values, each, at) for each, _, at in coarse[:_POLISHED])
    found += [match for match in matches if match is not None]
    return sorted(found, key=lambda match: match.score)


def _match(
    t: Array, values: Array, candidate: Candidate, starts: Sequence[tuple[float, float]]
) -> EdgeMatch | None:
    """Return the candidate with its constants fitted from the better of the starts, or None.

    Starts are for t scaled to [-1, 1].
    """
    middle, half, spread = float(t[-1] + t[0]) / 2, float(t[-1] - t[0]) / 2, float(np.var(values))
    settings = replace(_MATCHED, floor=(ROUNDING * spread) ** 0.5)
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
    t: Array, values: Array, candidate: Candidate
) -> tuple[float, list[tuple[float, float]]]:
    """Return the smallest loss on the grid, and its best points (a, b), apart from each other.

    The edge is taken at equal steps.
    """
    grid, f = grid_values(candidate)
    if not len(grid):
        return np.inf, []
    target = np.interp(np.linspace(t[0], t[-1], GRID_STEPS), t, values)
    target = target - target.mean()
    constant = np.full((GRID_STEPS, 1), GRID_STEPS**-0.5)
    r2 = covered(target, f, constant)[0] / max(float(target @ target), TINY)
    chosen: list[int] = []
    for i in np.argsort(-r2)[:_RANKED]:
        if r2[i] <= 0 or len(chosen) == _STARTS:
            break
        if all(np.abs(grid[i] - grid[j]).max() > _APART * abs(grid[j, 0]) for j in chosen):
            chosen.append(int(i))
    loss = 1 - float(r2[chosen[0]]) if chosen else np.inf
    return loss, [(float(grid[i, 0]), float(grid[i, 1])) for i in chosen]
