"""A KAN of a given shape: trained with sparsity, pruned, trained on, snapped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from kanrun.engine.symbolic.candidates import Candidate
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.numeric import Trained, coarse_fit, extend
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.skeletons import fitted_grids, kan_shape
from kanrun.engine.symbolic.snapping import refine_to_formula
from kanrun.engine.symbolic.sparsity import penalty_rows
from kanrun.engine.symbolic.steps import SearchSettings, Step, Tried

#: Rounds of reweighting, and the growth of the error after which sparsity is given up.
_ROUNDS, _ASTRAY = 4, 1.5


def fixed_shape(
    shape: Sequence[int],
    samples: Samples,
    candidates: Sequence[Candidate],
    settings: SearchSettings,
    generator: np.random.Generator,
    sparsity: float,
) -> Iterator[Step | Tried]:
    """Steps of the stages and what came of them, for the KAN of widths `shape`."""
    name, began = "-".join(map(str, shape)), time.monotonic()
    starts = []
    for attempt in range(settings.numeric.starts):
        fresh = kan_shape(shape, samples.x, samples.y, 3 + 2 * (attempt % 2), settings.degree, generator)
        graph = coarse_fit(fresh, samples, settings.numeric.coarse_penalty)
        starts.append(Trained(graph, samples.error(graph)))
    best = min(starts, key=lambda each: each.error)
    sparse = sparsified(best.graph, samples, sparsity) if sparsity > 0 else best.graph
    trained = extend(sparse, samples, settings.numeric.grids, settings.numeric)
    if trained.error > _ASTRAY * best.error:  # the penalty led into a worse valley than the one it started from
        trained = extend(best.graph, samples, settings.numeric.grids, settings.numeric)
    yield Step("train", name, trained.graph, trained.error, time.monotonic() - began)
    if trained.error < samples.nothing:
        yield from refine_to_formula(name, trained, samples, candidates, settings)


def sparsified(graph: Graph, samples: Samples, weight: float) -> Graph:
    """The graph after a few reweighted fits with the sparsity penalty, `weight` relative to the variance of y."""
    for _ in range(_ROUNDS):
        rows = penalty_rows(graph, samples.x, weight * samples.spread**2)
        graph = refit(graph, samples.x, samples.y, Settings(steps=8, penalty=1e-9, extra=rows, gain=1e-2)).graph
        graph = fitted_grids(graph, samples.x, margin=0.05)
    return graph
