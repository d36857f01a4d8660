"""The shape search: structures from simple to deep, each trained, pruned and snapped, until a formula is exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.budget import work_done
from kanrun.engine.symbolic.candidates import Candidate
from kanrun.engine.symbolic.description_length import EXACT, SearchData, length_of
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.graph_training import (
    TrainedGraph,
    coarse_fit,
    extend,
    penalty_rows,
    train_graph,
)
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import SearchSettings
from kanrun.engine.symbolic.selection import NOISY
from kanrun.engine.symbolic.separability import module_shapes
from kanrun.engine.symbolic.snapping import Stage, Tried, deepened, refine_to_formula, snapped
from kanrun.engine.symbolic.templates import Template, deep_shapes, first_shapes, fitted_grids, kan_shape, start

Maker = Callable[[np.random.Generator], TrainedGraph]


#: Structures that are ranked by coarse fits, those that are then trained; the coarse error that ends the ranking; and
#: the edges of a structure that counts as small.
_MOST_RANKED, _MOST_EXPLORED, _CLEARLY_GOOD, _SMALL = 14, 7, 3e-3, 10


def ranked(
    shapes: Sequence[Template],
    samples: SearchData,
    settings: SearchSettings,
    generator: np.random.Generator,
    end: float,
) -> Iterator[tuple[str, Maker]]:
    """The shapes with how to train them: the first two at once, then the rest in the order of coarse fits, which are
    begun until this thread has done work up to `end`."""
    for shape in shapes[:2]:
        yield shape.name, _maker(shape, samples, settings)
    coarse: list[tuple[float, Template, TrainedGraph]] = []
    for shape in sorted(shapes[2:], key=lambda shape: shape.edges)[:_MOST_RANKED]:
        fits = [_coarse(shape, samples, settings, generator, intervals) for intervals in _coarse_grids(shape, samples)]
        best = min(fits, key=lambda fit: fit.error)
        coarse.append((best.error * 1.2**shape.edges * shape.handicap, shape, best))
        enough = best.error < _CLEARLY_GOOD and samples.x.shape[1] > 2  # few inputs have few structures: all are ranked
        if enough or work_done() > end:
            break
    for _, shape, best in sorted(coarse, key=lambda entry: entry[0])[:_MOST_EXPLORED]:
        yield shape.name, _continued(shape, best, samples, settings)


def _coarse_grids(shape: Template, samples: SearchData) -> tuple[int, ...]:
    """The grids of a structure's coarse fits: more of them for small structures of several inputs, which are cheap and
    often get stuck, so that a larger structure that contains them does not take their place."""
    return (3, 3, 7, 4, 5, 4) if samples.x.shape[1] > 2 and shape.edges <= _SMALL else (3, 3, 7)


def _coarse(
    shape: Template, samples: SearchData, settings: SearchSettings, generator: np.random.Generator, intervals: int
) -> TrainedGraph:
    graph = start(shape, samples.x, samples.y, intervals, settings.degree, generator)
    graph = coarse_fit(graph, samples, settings.numeric.coarse_penalty)
    return TrainedGraph(graph, samples.error(graph))


def _maker(shape: Template, samples: SearchData, settings: SearchSettings) -> Maker:
    def make(generator: np.random.Generator) -> TrainedGraph:
        fresh: Callable[[np.random.Generator], Graph] = lambda g: start(  # noqa: E731
            shape, samples.x, samples.y, 3, settings.degree, g
        )
        return train_graph(fresh, samples, settings.numeric, generator)

    return make


def _continued(shape: Template, best: TrainedGraph, samples: SearchData, settings: SearchSettings) -> Maker:
    """On from a coarse fit that is good, else with more starts."""

    def make(generator: np.random.Generator) -> TrainedGraph:
        if best.error > settings.numeric.good:
            more = [_coarse(shape, samples, settings, generator, 4) for _ in range(settings.numeric.starts - 3)]
            chosen = min([best, *more], key=lambda fit: fit.error)
        else:
            chosen = best
        if chosen.error > settings.numeric.hopeless:
            return chosen
        return extend(chosen.graph, samples, settings.numeric.grids, settings.numeric)

    return make


def kan_maker(shape: tuple[int, ...], samples: SearchData, settings: SearchSettings) -> Maker:
    def make(generator: np.random.Generator) -> TrainedGraph:
        fresh: Callable[[np.random.Generator], Graph] = lambda g: kan_shape(  # noqa: E731
            shape, samples.x, samples.y, 3, settings.degree, g
        )
        return train_graph(fresh, samples, settings.numeric, generator)

    return make


#: Rounds of reweighting, and the growth of the error after which sparsity is given up.
_ROUNDS, _ASTRAY = 4, 1.5


def fixed_shape(
    shape: Sequence[int],
    samples: SearchData,
    candidates: Sequence[Candidate],
    settings: SearchSettings,
    generator: np.random.Generator,
    sparsity: float,
) -> Iterator[Stage | Tried]:
    """Steps of the stages and what came of them, for the KAN of widths `shape`."""
    name, began = "-".join(map(str, shape)), time.monotonic()
    starts = []
    for attempt in range(settings.numeric.starts):
        fresh = kan_shape(shape, samples.x, samples.y, 3 + 2 * (attempt % 2), settings.degree, generator)
        graph = coarse_fit(fresh, samples, settings.numeric.coarse_penalty)
        starts.append(TrainedGraph(graph, samples.error(graph)))
    best = min(starts, key=lambda each: each.error)
    sparse = sparsified(best.graph, samples, sparsity) if sparsity > 0 else best.graph
    trained = extend(sparse, samples, settings.numeric.grids, settings.numeric)
    if trained.error > _ASTRAY * best.error:  # the penalty led into a worse valley than the one it started from
        trained = extend(best.graph, samples, settings.numeric.grids, settings.numeric)
    yield Stage("train", name, trained.graph, trained.error, time.monotonic() - began)
    if trained.error < samples.nothing:
        yield from refine_to_formula(name, trained, samples, candidates, settings)


def sparsified(graph: Graph, samples: SearchData, weight: float) -> Graph:
    """The graph after a few reweighted fits with the sparsity penalty, `weight` relative to the variance of y."""
    for _ in range(_ROUNDS):
        rows = penalty_rows(graph, samples.x, weight * samples.spread**2)
        graph = refit(graph, samples.x, samples.y, RefitSettings(steps=8, penalty=1e-9, extra=rows, gain=1e-2)).graph
        graph = fitted_grids(graph, samples.x, margin=0.05)
    return graph


def search(
    samples: SearchData, candidates: Sequence[Candidate], settings: SearchSettings, generator: np.random.Generator
) -> Iterator[Stage | Tried]:
    """A `Stage` for every stage of every structure as it happens, and a `Tried` for each structure worth it, a second
    one after a longer look. Stops at an exact formula, where only noise is left, or when the budget is spent."""
    run = _Search(samples, candidates, settings, generator)
    inputs = list(range(samples.x.shape[1]))
    yield from run.attempt(first_shapes(inputs))
    yield from run.deepen()
    if len(inputs) > 2 and not run.over():
        shapes, run.unstructured = module_shapes(samples, settings, generator)
        run.simple_done = True
        yield from run.attempt(shapes)
        yield from run.deepen()
    for shape in deep_shapes(len(inputs)) if len(inputs) > 1 else ():
        if run.over():
            break
        yield from run.explore("-".join(map(str, shape)), kan_maker(shape, samples, settings))
        yield from run.deepen()
    if not run.tried:
        yield from run.last_resort()


class _Search:
    """What has been tried so far, and what is worth trying still."""

    def __init__(
        self,
        samples: SearchData,
        candidates: Sequence[Candidate],
        settings: SearchSettings,
        generator: np.random.Generator,
    ) -> None:
        self.samples, self.candidates, self.settings, self.generator = samples, candidates, settings, generator
        self.end = work_done() + settings.budget  # not by the clock: a busy machine changes no result
        self.tried: list[Tried] = []
        self.deep = 0  # of `tried`, those that had their longer look
        self.effort = settings.further  # left for longer looks
        self.trained: list[tuple[str, TrainedGraph]] = []
        self.unstructured = np.inf  # the error of a wide network, once it is trained
        self.simple_done = samples.x.shape[1] <= 2  # an inaccurate network of several inputs may just lack structure

    def over(self) -> bool:
        """Whether a formula is exact, or as good as any network (noise is then all that is left), or the budget is
        spent."""
        if self.exact() or work_done() > self.end:
            return True
        best = min([self.unstructured, *(trained.error for _, trained in self.trained)])
        noisy = best > NOISY and len(self.trained) > 2 and self.simple_done
        return noisy and any(each.formula_error <= 1.05 * best for each in self.tried)

    def exact(self) -> bool:
        return any(each.is_exact(self.settings.exact) for each in self.tried)

    def attempt(self, shapes: Sequence[Template]) -> Iterator[Stage | Tried]:
        if self.over():
            return
        for name, make in ranked(shapes, self.samples, self.settings, self.generator, self.end):
            yield from self.explore(name, make)
            if self.over():  # asked before the next one, as ranking takes long
                return

    def explore(self, name: str, make: Maker) -> Iterator[Stage | Tried]:
        """Trains a structure, and where that went better than the best formula so far, prunes and snaps it."""
        began = time.monotonic()
        trained = make(self.generator)
        self.trained.append((name, trained))
        yield Stage("train", name, trained.graph, trained.error, time.monotonic() - began)
        best = min((each.formula_error for each in self.tried), default=np.inf)
        if trained.error <= self.settings.worth and (trained.error < NOISY or trained.error < 0.9 * best):
            yield from self.snap(name, trained)

    def snap(self, name: str, trained: TrainedGraph) -> Iterator[Stage | Tried]:
        for event in snapped(name, trained, self.samples, self.candidates, self.settings):
            self.tried += [event] if isinstance(event, Tried) else []
            yield event

    def deepen(self) -> Iterator[Stage | Tried]:
        """A longer look at what is not exact so far: accurate and small networks first."""
        for index in sorted(range(self.deep, len(self.tried)), key=lambda i: _promise(self.tried[i])):
            if self.over() or self.effort <= 0:
                break
            selection = replace(self.settings.selection, effort=min(self.settings.selection.effort, self.effort))
            allowed = replace(self.settings, selection=selection)
            for event in deepened(self.tried[index], self.samples, self.candidates, allowed):
                if isinstance(event, Tried):
                    self.effort -= event.selected.effort
                    self.tried[index] = event
                yield event
        self.deep = len(self.tried)

    def last_resort(self) -> Iterator[Stage | Tried]:
        """Nothing is accurate: the smallest network within 10 % of the best, if that says anything about y at all."""
        best = min((trained.error for _, trained in self.trained), default=np.inf)
        if best < self.samples.nothing:
            near = [(name, each) for name, each in self.trained if each.error <= 1.1 * best]
            yield from self.snap(*min(near, key=lambda entry: entry[1].graph.active_edges))
            yield from self.deepen()


def _promise(tried: Tried) -> float:
    """Lower for networks of few edges, one more edge for 1.5 digits of accuracy, of which four count."""
    return float(np.log10(max(tried.network_error, 1e-4))) + 1.5 * tried.network.active_edges


#: How many times as wrong as its network a structure without a formula is taken to be.
_UNREAD = 100.0


def choose_formula(tried: Sequence[Tried], samples: SearchData, settings: SearchSettings) -> Tried | None:
    """The exact one of least complexity, else the formula of the shortest description; None if nothing trained.

    A network without a formula counts as one that is `_UNREAD` times as wrong.
    """
    exact = [each for each in tried if each.is_exact(max(settings.exact, EXACT))]
    if exact:
        return min(exact, key=lambda each: each.formula.complexity if each.formula else np.inf)

    def length(each: Tried) -> float:
        return each.selected.length if each.formula else length_of(_UNREAD * each.network_error, 0.0, samples)

    return min(tried, key=length, default=None)
