"""Match candidates c f(a t + b) + d to an edge by least squares.

Fits start from the best pairs (a, b) of a grid.
"""

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
from kanrun.engine.symbolic.edge_functions import Symbolic, flat, standardised
from kanrun.engine.symbolic.graph import ROUNDING, Edge, EdgeMatch, Graph
from kanrun.engine.symbolic.pairs import covered
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.refit import RefitSettings, refit

#: Largest number of candidates whose constants are fitted to an edge: those that fit best on the
#: grid of pairs (a, b).
_CANDIDATES = 12
_FIT = RefitSettings(steps=40, gain=3e-4, patience=5, damping=1e-4)


def match_edge(t: Array, values: Array, candidates: Sequence[Candidate]) -> list[EdgeMatch]:
    """Fit candidates to an edge, and return the fitted candidates, best score first.

    Candidates that are not defined on the whole range of t, or that fit badly on the coarse grid,
    are left out. Only one of two candidates that differ by constants is fitted (see `TWINS`).

    Args:
        t: Arguments of the edge, shape (N,).
        values: Values of the edge, shape (N,).
        candidates: The candidates.
    """
    # Largest number of samples of an edge that are used.
    points = 120
    places = np.linspace(0, t.size - 1, min(t.size, points)).astype(int)
    order = np.argsort(t, kind="stable")[places]
    x = t[order, None]
    y = values[order]
    data = SearchData(x, y, x, y)
    mean = float(values.mean())
    varies = float(np.var(data.y)) > 0
    found = [EdgeMatch(flat(mean), float(varies))] if CONSTANT in candidates else []
    if not varies or not np.ptp(data.x):
        return found
    names = {candidate.name for candidate in candidates}
    coarse = [
        (*_coarse(data, candidate), candidate)
        for candidate in candidates
        if candidate is not CONSTANT and TWINS.get(candidate.name) not in names
    ]
    coarse.sort(key=lambda entry: entry[0] * 2 ** entry[-1].complexity)
    for _, starts, candidate in coarse[:_CANDIDATES]:
        matches = [match for start in starts if (match := _match(data, candidate, *start))]
        found += sorted(matches, key=lambda match: match.loss)[:1]
    return sorted(found, key=lambda match: match.score)


def _match(data: SearchData, candidate: Candidate, a: float, b: float) -> EdgeMatch | None:
    """Fit the constants of a candidate to an edge.

    The result is None if the fit is not finite, or if the fitted function is not defined on the
    whole range of the arguments.

    The initial pair (a, b) refers to f(a tau + b), where tau is the argument scaled to [-1, 1].
    """
    t = data.x[:, 0]
    middle = float(t[-1] + t[0]) / 2
    half = float(t[-1] - t[0]) / 2
    begun = Symbolic(candidate, (a / half, b - a * middle / half, 1.0, 0.0), candidate.free)
    with np.errstate(all="ignore"):
        design = np.stack([begun.value(t), np.ones_like(t)], axis=1)
    if not np.isfinite(design).all():
        return None
    c, d = np.linalg.lstsq(design, data.y, rcond=None)[0].tolist()
    graph = Graph(1, ("sum",), (Edge(0, 1, begun.changed(c=c, d=d)),))
    fitted = refit(graph, data, replace(_FIT, floor=ROUNDING**0.5 * data.y_std))
    result = fitted.edges[0].function
    loss = data.error(fitted) ** 2
    assert isinstance(result, Symbolic), "as the edge was begun"
    is_sound = result.allows(t) and np.isfinite(loss)
    return EdgeMatch(standardised(result), loss) if is_sound else None


def _coarse(data: SearchData, candidate: Candidate) -> tuple[float, list[tuple[float, float]]]:
    """Compare a candidate with an edge for all pairs (a, b) of the grid.

    Returns:
        The smallest 1 - R^2, and up to two starts (a, b) for a fit: the best pair, and the best
        pair at some distance from it. If no pair explains anything, inf and no start.
    """
    # Smallest distance between the two starts of a fit, as a fraction of |a|.
    apart = 0.3
    # Number of the best pairs (a, b) of a candidate from which the two starts of its fit are
    # chosen.
    ranked = 40
    grid, f = grid_values(candidate)
    t = data.x[:, 0]
    target = np.interp(np.linspace(t[0], t[-1], GRID_STEPS), t, data.y)
    target = target - target.mean()
    constant = np.full((GRID_STEPS, 1), GRID_STEPS**-0.5)
    explained = covered(target, f, constant)[0]
    order = np.argsort(-explained)[:ranked]
    order = order[explained[order] > 0]
    if not order.size:
        return np.inf, []
    best = grid[order]
    others = best[np.abs(best - best[0]).max(axis=1) > apart * abs(best[0, 0])]
    loss = 1 - float(explained[order[0]]) / max(float(target @ target), TINY)
    return loss, [tuple(each) for each in (best[0], *others[:1])]
