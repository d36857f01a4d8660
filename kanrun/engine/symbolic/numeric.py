"""Splines on a skeleton trained to the data: several coarse starts, the best goes on through finer grids.

This is a training of its own, and not that of `kanrun.engine.training`, since what it trains are graphs: with nodes
that multiply, edges that skip layers, and edges that are symbolic already while others are splines. The very same
solver has to refit the constants of all of these in float64 down to rounding errors, hundreds of times a search, for
which a torch network would have to be built each time. A network of `kanrun fit` comes in through `from_network`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.skeletons import fitted_grids

Start = Callable[[np.random.Generator], Graph]

_COARSE_ROUNDS = 3
#: Of the penalty, on grids for sharp functions.
_SHARP = 1e-6


@dataclass(frozen=True)
class NumericSettings:
    """`starts` at most at the coarse grid (fewer once one is `good`, relative to the spread of y); then `grids`."""

    starts: int = 6
    good: float = 1e-2
    grids: tuple[int, ...] = (5, 10, 20)
    steps: int = 25
    coarse_penalty: float = 1e-8
    penalty: float = 1e-16
    hopeless: float = 0.3  # a coarse fit no better than this is not refined, unless that is a linear problem
    unresolved: float = 3e-3  # above this, grids go on doubling after the last one while that halves the error
    finest: int = 160


@dataclass(frozen=True)
class Trained:
    """A numeric graph and its relative validation error."""

    graph: Graph
    error: float


def train_graph(start: Start, samples: Samples, settings: NumericSettings, generator: np.random.Generator) -> Trained:
    """The best graph over the starts and grids, by validation error; `start` draws a fresh coarse graph."""
    best: tuple[float, Graph] | None = None
    for attempt in range(settings.starts):
        graph = coarse_fit(start(generator), samples, settings.coarse_penalty)
        error = samples.error(graph)
        if best is None or error < best[0]:
            best = error, graph
        if best[0] < settings.good and attempt >= 1:
            break
    assert best is not None
    if not best[0] < settings.hopeless and len(best[1].operations) > 1:
        return Trained(best[1], best[0])
    return extend(best[1], samples, settings.grids, settings)


def coarse_fit(graph: Graph, samples: Samples, penalty: float) -> Graph:
    """A few steps, hidden grids drawn over what reaches them, and again."""
    for _ in range(_COARSE_ROUNDS):
        graph = refit(graph, samples.x, samples.y, Settings(steps=12, penalty=penalty, gain=1e-2)).graph
        graph = fitted_grids(graph, samples.x, margin=0.05)
    return refit(graph, samples.x, samples.y, Settings(steps=15, penalty=penalty, gain=1e-2)).graph


def extend(graph: Graph, samples: Samples, grids: tuple[int, ...], settings: NumericSettings) -> Trained:
    """Finer and finer grids while the validation error falls; beyond the last of `grids` for what is too sharp for it,
    with hardly any penalty, as a sharp function is large in the derivatives that it weighs."""
    best, last = Trained(graph, samples.error(graph)), max(grids, default=0)
    for intervals in grids:
        graph, best, going = _finer(graph, best, samples, intervals, settings.penalty, settings.steps)
        if not going:
            break
    for intervals in _further(last, best, samples, settings):
        before = best.error
        _, best, _ = _finer(best.graph, best, samples, intervals, _SHARP * settings.penalty, settings.steps)
        if best.error < settings.unresolved or best.error > 0.5 * before:
            break
    return best


def _finer(
    graph: Graph, best: Trained, samples: Samples, intervals: int, penalty: float, steps: int
) -> tuple[Graph, Trained, bool]:
    """`graph` on another grid, the best so far, and whether finer grids are worth it."""
    graph = fitted_grids(graph, samples.x, intervals=intervals)
    graph = refit(graph, samples.x, samples.y, Settings(steps=steps, penalty=penalty, gain=1e-2)).graph
    error = samples.error(graph)
    return graph, Trained(graph, error) if error < best.error else best, error <= 1.5 * best.error


def _further(last: int, best: Trained, samples: Samples, settings: NumericSettings) -> list[int]:
    """The last grid's doubles, as long as there are four points a coefficient, of a network that is not accurate."""
    if best.error < settings.unresolved or last == 0:
        return []
    most = min(settings.finest, samples.y.size / (4 * max(len(best.graph.numeric_edges()), 1)))
    return [last * 2**k for k in range(1, 8) if last * 2**k <= most]
