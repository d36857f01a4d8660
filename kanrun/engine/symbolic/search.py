"""The shape search: structures from simple to deep, each trained, pruned and snapped, until a formula is exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.modules import MOST_INPUTS, module_scores, trees
from kanrun.engine.symbolic.numeric import Trained, train_graph
from kanrun.engine.symbolic.ranking import Maker, kan_maker, ranked
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.selection import NOISY
from kanrun.engine.symbolic.shapes import deep_shapes, first_shapes, tree_shapes
from kanrun.engine.symbolic.skeletons import Skeleton, kan_shape
from kanrun.engine.symbolic.snapping import deepened, snapped
from kanrun.engine.symbolic.steps import SearchSettings, Step, Tried
from kanrun.engine.symbolic.work import work_done


def search(
    samples: Samples, candidates: Sequence[Candidate], settings: SearchSettings, generator: np.random.Generator
) -> Iterator[Step | Tried]:
    """A `Step` for every stage of every structure as it happens, and a `Tried` for each structure worth it, a second
    one after a longer look. Stops at an exact formula, where only noise is left, or when the budget is spent."""
    run = _Search(samples, candidates, settings, generator)
    inputs = list(range(samples.x.shape[1]))
    yield from run.attempt(first_shapes(inputs))
    yield from run.deepen()
    if len(inputs) > 2 and not run.over():
        shapes, run.unstructured = _module_shapes(samples, settings, generator)
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
        samples: Samples,
        candidates: Sequence[Candidate],
        settings: SearchSettings,
        generator: np.random.Generator,
    ) -> None:
        self.samples, self.candidates, self.settings, self.generator = samples, candidates, settings, generator
        self.end = work_done() + settings.budget  # not by the clock: a busy machine changes no result
        self.tried: list[Tried] = []
        self.deep = 0  # of `tried`, those that had their longer look
        self.effort = settings.further  # left for longer looks
        self.trained: list[tuple[str, Trained]] = []
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

    def attempt(self, shapes: Sequence[Skeleton]) -> Iterator[Step | Tried]:
        if self.over():
            return
        for name, make in ranked(shapes, self.samples, self.settings, self.generator, self.end):
            yield from self.explore(name, make)
            if self.over():  # asked before the next one, as ranking takes long
                return

    def explore(self, name: str, make: Maker) -> Iterator[Step | Tried]:
        """Trains a structure, and where that went better than the best formula so far, prunes and snaps it."""
        began = time.monotonic()
        trained = make(self.generator)
        self.trained.append((name, trained))
        yield Step("train", name, trained.graph, trained.error, time.monotonic() - began)
        best = min((each.formula_error for each in self.tried), default=np.inf)
        if trained.error <= self.settings.worth and (trained.error < NOISY or trained.error < 0.9 * best):
            yield from self.snap(name, trained)

    def snap(self, name: str, trained: Trained) -> Iterator[Step | Tried]:
        for event in snapped(name, trained, self.samples, self.candidates, self.settings):
            self.tried += [event] if isinstance(event, Tried) else []
            yield event

    def deepen(self) -> Iterator[Step | Tried]:
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

    def last_resort(self) -> Iterator[Step | Tried]:
        """Nothing is accurate: the smallest network within 10 % of the best, if that says anything about y at all."""
        best = min((trained.error for _, trained in self.trained), default=np.inf)
        if best < self.samples.nothing:
            near = [(name, each) for name, each in self.trained if each.error <= 1.1 * best]
            yield from self.snap(*min(near, key=lambda entry: entry[1].graph.active_edges))
            yield from self.deepen()


def _promise(tried: Tried) -> float:
    """Lower for networks of few edges, one more edge for 1.5 digits of accuracy, of which four count."""
    return float(np.log10(max(tried.network_error, 1e-4))) + 1.5 * tried.network.active_edges


def _module_shapes(
    samples: Samples, settings: SearchSettings, generator: np.random.Generator
) -> tuple[list[Skeleton], float]:
    """Structures from the modules of a wide network, none where it did not train or nothing acts together; and its
    error."""
    width, intervals = settings.surrogate
    shape = (samples.x.shape[1], width, 1)
    wide = replace(settings.numeric, starts=2, grids=(intervals,))
    trained = train_graph(
        lambda g: kan_shape(shape, samples.x, samples.y, 4, settings.degree, g), samples, wide, generator
    )
    if trained.error > 0.3:
        return [], trained.error
    gradient = _gradient(trained.graph, samples.x.std(0))
    strength = np.sqrt(np.mean(gradient(samples.x) ** 2, axis=0)) / samples.spread
    used = [i for i in range(shape[0]) if strength[i] > max(2 * trained.error, 1e-3)]
    if not 2 < len(used) <= MOST_INPUTS:
        return (first_shapes(used) if 0 < len(used) < shape[0] else []), trained.error
    scores = module_scores(lambda x: gradient(_with(samples.x, used, x))[:, used], samples.x[:, used], generator)
    families = trees(scores, max(settings.module, trained.error))  # angles are as uncertain as the network
    renamed = [[tuple(used[i] for i in module) for module in family] for family in families]
    return tree_shapes(renamed, used), trained.error


def _with(x: Array, used: list[int], values: Array) -> Array:
    """Full rows: `values` in the used columns, the mean of x in the others."""
    rows = np.repeat(x.mean(0, keepdims=True), values.shape[0], axis=0)
    rows[:, used] = values
    return rows


def _gradient(graph: Graph, spread: Array) -> Callable[[Array], Array]:
    def gradient(x: Array) -> Array:
        steps = 1e-4 * spread
        columns = [(graph(x + steps * unit) - graph(x - steps * unit)) / 2e-4 for unit in np.eye(x.shape[1])]
        return np.stack(columns, axis=1)

    return gradient
