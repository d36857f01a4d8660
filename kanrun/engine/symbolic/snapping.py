"""From a trained network to a formula: pruned, retrained on finer grids, its edges snapped, its constants refitted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from kanrun.engine.symbolic.candidates import Candidate
from kanrun.engine.symbolic.detours import without_detours
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.elimination import eliminate
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.numeric import Trained, extend
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.selection import Selected, select, select_further
from kanrun.engine.symbolic.skeletons import fitted_grids
from kanrun.engine.symbolic.steps import SearchSettings, Step, Tried

#: Grid on which edges are pruned: fine enough to tell, coarse enough to be quick.
_PRUNING_INTERVALS = 8


def refine_to_formula(
    name: str, trained: Trained, samples: Samples, candidates: Sequence[Candidate], settings: SearchSettings
) -> Iterator[Step | Tried]:
    """Prunes a trained network, extends its grids again, and snaps its edges, with composites where they must be."""
    for event in snapped(name, trained, samples, candidates, settings):
        if isinstance(event, Tried):
            yield from deepened(event, samples, candidates, settings)
        else:
            yield event


def snapped(
    name: str, trained: Trained, samples: Samples, candidates: Sequence[Candidate], settings: SearchSettings
) -> Iterator[Step | Tried]:
    """Prunes a trained network, extends its grids again, and snaps its edges to single candidates."""
    began = time.monotonic()
    pruned = pruned_network(trained, samples, settings)
    yield Step("prune", name, pruned, samples.error(pruned), time.monotonic() - began)
    began = time.monotonic()
    network = retrained(pruned, trained, samples, settings)
    yield Step("retrain", name, network.graph, network.error, time.monotonic() - began)
    began = time.monotonic()
    selected = select(network.graph, samples, candidates, settings.exact, settings.selection)
    yield from _steps(name, selected, samples, time.monotonic() - began)
    yield Tried(name, network.error, selected)


def deepened(
    tried: Tried, samples: Samples, candidates: Sequence[Candidate], settings: SearchSettings
) -> Iterator[Step | Tried]:
    """What was tried, after a longer search where it is not exact yet."""
    if tried.is_exact(settings.exact):
        yield tried
        return
    began = time.monotonic()
    selected = select_further(tried.selected, samples, candidates, settings.exact, settings.selection)
    if selected.error < tried.selected.error:
        yield from _steps(tried.name, selected, samples, time.monotonic() - began)
    yield replace(tried, selected=selected)


def _steps(name: str, selected: Selected, samples: Samples, seconds: float) -> Iterator[Step]:
    if selected.graph is not None and selected.snapped is not None:
        yield Step("snap", name, selected.snapped, samples.error(selected.snapped), seconds - selected.refitting)
        yield Step("refit", name, selected.graph, selected.error, selected.refitting)


def pruned_network(trained: Trained, samples: Samples, settings: SearchSettings) -> Graph:
    """The network without the edges and nodes it does not need, which are tried out on a coarser grid; the trained
    network itself where nothing could go."""
    penalty = settings.numeric.penalty
    coarse = trained.graph
    if max((intervals_of(trained.graph)), default=0) > _PRUNING_INTERVALS:
        coarse = fitted_grids(trained.graph, samples.x, intervals=_PRUNING_INTERVALS)
        coarse = refit(coarse, samples.x, samples.y, Settings(steps=15, penalty=penalty, gain=1e-2)).graph
    pruned = eliminate(coarse, samples, slack=0.3, floor=1e-7, penalty=penalty)
    pruned = without_detours(pruned, samples, slack=0.3, floor=1e-7, penalty=penalty)
    return trained.graph if pruned.active_edges == coarse.active_edges else pruned


def retrained(pruned: Graph, trained: Trained, samples: Samples, settings: SearchSettings) -> Trained:
    """A pruned network on finer grids again; as it is where nothing was pruned."""
    if pruned is trained.graph:
        return trained
    return extend(pruned, samples, settings.numeric.grids[-2:], settings.numeric)


def intervals_of(graph: Graph) -> list[int]:
    """G of every spline."""
    return [edge.function.intervals for edge in graph.edges if isinstance(edge.function, Spline)]
