"""Splines on a skeleton trained to the data: several coarse starts, the best goes on through finer grids."""

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


@dataclass(frozen=True)
class NumericSettings:
    """`starts` at most at the coarse grid (fewer once one is `good`, relative to the spread of y); then `grids`."""

    starts: int = 6
    good: float = 1e-2
    grids: tuple[int, ...] = (5, 10, 20)
    steps: int = 25
    coarse_penalty: float = 1e-8
    penalty: float = 1e-16
    hopeless: float = 0.3  # a coarse fit no better than this is not refined


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
    if not best[0] < settings.hopeless:
        return Trained(best[1], best[0])
    return extend(best[1], samples, settings.grids, settings)


def coarse_fit(graph: Graph, samples: Samples, penalty: float) -> Graph:
    """A few steps, hidden grids drawn over what reaches them, and again."""
    for _ in range(_COARSE_ROUNDS):
        graph = refit(graph, samples.x, samples.y, Settings(steps=12, penalty=penalty, gain=1e-2)).graph
        graph = fitted_grids(graph, samples.x, margin=0.05)
    return refit(graph, samples.x, samples.y, Settings(steps=15, penalty=penalty, gain=1e-2)).graph


def extend(graph: Graph, samples: Samples, grids: tuple[int, ...], settings: NumericSettings) -> Trained:
    """Finer and finer grids while the validation error falls."""
    best = Trained(graph, samples.error(graph))
    for intervals in grids:
        graph = fitted_grids(graph, samples.x, intervals=intervals)
        fit = Settings(steps=settings.steps, penalty=settings.penalty, gain=1e-2)
        graph = refit(graph, samples.x, samples.y, fit).graph
        error = samples.error(graph)
        if error < best.error:
            best = Trained(graph, error)
        elif error > 1.5 * best.error:
            break
    return best
