"""The shape search: structures from simple to deep, each trained, pruned and snapped, until a formula is exact.

Yields a `Step` for every stage of every structure, for tables and figures; the last one is the choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.elimination import eliminate
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.matching import Match
from kanrun.engine.symbolic.modules import MOST_INPUTS, module_scores, trees
from kanrun.engine.symbolic.numeric import NumericSettings, Trained, coarse_fit, extend, train_graph
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.selection import EXACT, NOISY, PER_UNIT, SelectionSettings, select
from kanrun.engine.symbolic.shapes import deep_shapes, first_shapes, tree_shapes
from kanrun.engine.symbolic.skeletons import Skeleton, fitted_grids, kan_shape, start


@dataclass(frozen=True)
class SearchSettings:
    """`worth`: relative error below which a structure is snapped; `within`: a formula this many times as wrong as the
    best network still counts as good (its own simplicity decides); `seconds`: no new structure after that."""

    worth: float = 0.05
    within: float = 1.1
    exact: float = 1e-9
    seconds: float = 40.0
    degree: int = 3
    numeric: NumericSettings = field(default_factory=NumericSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    surrogate: tuple[int, int] = (5, 8)
    module: float = 0.12


@dataclass(frozen=True)
class Step:
    """One stage (`train`, `prune`, `snap`) of one structure; `error` is relative to the spread, on validation data."""

    stage: str
    name: str
    graph: Graph
    error: float
    seconds: float
    matches: dict[int, list[Match]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tried:
    """A structure's pruned network and, where there is one, its formula."""

    name: str
    network: Graph
    network_error: float
    formula: Graph | None
    formula_error: float
    matches: dict[int, list[Match]]

    def is_exact(self, exact: float) -> bool:
        return self.formula is not None and self.formula_error <= exact


def search(
    samples: Samples, candidates: Sequence[Candidate], settings: SearchSettings, generator: np.random.Generator
) -> Iterator[Step | Tried]:
    """Steps as they happen, and a `Tried` for each structure worth it. Stops at the first exact formula."""
    run = _Search(samples, candidates, settings, generator)
    inputs = list(range(samples.x.shape[1]))
    yield from run.attempt(first_shapes(inputs))
    if len(inputs) > 2 and not run.over():
        yield from run.attempt(_module_shapes(samples, settings, generator))
        run.simple_done = True
    for shape in deep_shapes(len(inputs)) if len(inputs) > 1 else ():
        if run.over():
            break
        yield from run.explore("-".join(map(str, shape)), _kan_maker(shape, samples, settings))
    if not run.tried:
        yield from run.last_resort()


Maker = Callable[[np.random.Generator], Trained]


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
        self.end = time.thread_time() + settings.seconds  # of this thread: a busy machine changes no result
        self.tried: list[Tried] = []
        self.trained: list[tuple[str, Trained]] = []
        self.simple_done = samples.x.shape[1] <= 2  # an inaccurate network of several inputs may just lack structure

    def over(self) -> bool:
        """Whether a formula is exact, or as good as any network (noise is then all that is left), or time is up."""
        if self.exact() or time.thread_time() > self.end:
            return True
        best = min((trained.error for _, trained in self.trained), default=np.inf)
        noisy = best > NOISY and len(self.trained) > 2 and self.simple_done
        return noisy and any(each.formula_error <= 1.05 * best for each in self.tried)

    def exact(self) -> bool:
        return any(each.is_exact(self.settings.exact) for each in self.tried)

    def attempt(self, shapes: Sequence[Skeleton]) -> Iterator[Step | Tried]:
        for name, make in _ranked(shapes, self.samples, self.settings, self.generator, self.end):
            if self.over():
                return
            yield from self.explore(name, make)

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
        for event in refine_to_formula(name, trained, self.samples, self.candidates, self.settings):
            self.tried += [event] if isinstance(event, Tried) else []
            yield event

    def last_resort(self) -> Iterator[Step | Tried]:
        """Nothing is accurate: the smallest network within 10 % of the best, if that says anything about y at all."""
        best = min((trained.error for _, trained in self.trained), default=np.inf)
        if best < self.samples.nothing:
            near = [(name, each) for name, each in self.trained if each.error <= 1.1 * best]
            yield from self.snap(*min(near, key=lambda entry: entry[1].graph.active_edges))


#: Structures that are ranked by coarse fits, those that are then trained; and the coarse error that ends the ranking.
_MOST_RANKED, _MOST_EXPLORED, _CLEARLY_GOOD, _SMALL = 14, 7, 3e-3, 10
#: Grid on which edges are pruned: fine enough to tell, coarse enough to be quick.
_PRUNING_INTERVALS = 8


def _ranked(
    shapes: Sequence[Skeleton], samples: Samples, settings: SearchSettings, generator: np.random.Generator, end: float
) -> Iterator[tuple[str, Maker]]:
    """The shapes with how to train them: the first two at once, then the rest in the order of coarse fits."""
    for shape in shapes[:2]:
        yield shape.name, _maker(shape, samples, settings)
    coarse: list[tuple[float, Skeleton, Trained]] = []
    for shape in sorted(shapes[2:], key=lambda shape: shape.edges)[:_MOST_RANKED]:
        fits = [_coarse(shape, samples, settings, generator, intervals) for intervals in _coarse_grids(shape, samples)]
        best = min(fits, key=lambda fit: fit.error)
        coarse.append((best.error * 1.2**shape.edges * shape.handicap, shape, best))
        enough = best.error < _CLEARLY_GOOD and samples.x.shape[1] > 2  # few inputs have few structures: all are ranked
        if enough or time.thread_time() > end:
            break
    for _, shape, best in sorted(coarse, key=lambda entry: entry[0])[:_MOST_EXPLORED]:
        yield shape.name, _continued(shape, best, samples, settings)


def _coarse_grids(shape: Skeleton, samples: Samples) -> tuple[int, ...]:
    """The grids of a structure's coarse fits: more of them for small structures of several inputs, which are cheap and
    often get stuck, so that a larger structure that contains them does not take their place."""
    return (3, 3, 7, 4, 5, 4) if samples.x.shape[1] > 2 and shape.edges <= _SMALL else (3, 3, 7)


def _coarse(
    shape: Skeleton, samples: Samples, settings: SearchSettings, generator: np.random.Generator, intervals: int
) -> Trained:
    graph = start(shape, samples.x, samples.y, intervals, settings.degree, generator)
    graph = coarse_fit(graph, samples, settings.numeric.coarse_penalty)
    return Trained(graph, samples.error(graph))


def _maker(shape: Skeleton, samples: Samples, settings: SearchSettings) -> Maker:
    def make(generator: np.random.Generator) -> Trained:
        fresh: Callable[[np.random.Generator], Graph] = lambda g: start(  # noqa: E731
            shape, samples.x, samples.y, 3, settings.degree, g
        )
        return train_graph(fresh, samples, settings.numeric, generator)

    return make


def _continued(shape: Skeleton, best: Trained, samples: Samples, settings: SearchSettings) -> Maker:
    """On from a coarse fit that is good, else with more starts."""

    def make(generator: np.random.Generator) -> Trained:
        if best.error > settings.numeric.good:
            more = [_coarse(shape, samples, settings, generator, 4) for _ in range(settings.numeric.starts - 3)]
            chosen = min([best, *more], key=lambda fit: fit.error)
        else:
            chosen = best
        if chosen.error > settings.numeric.hopeless:
            return chosen
        return extend(chosen.graph, samples, settings.numeric.grids, settings.numeric)

    return make


def _kan_maker(shape: tuple[int, ...], samples: Samples, settings: SearchSettings) -> Maker:
    def make(generator: np.random.Generator) -> Trained:
        fresh: Callable[[np.random.Generator], Graph] = lambda g: kan_shape(  # noqa: E731
            shape, samples.x, samples.y, 3, settings.degree, g
        )
        return train_graph(fresh, samples, settings.numeric, generator)

    return make


def _module_shapes(samples: Samples, settings: SearchSettings, generator: np.random.Generator) -> list[Skeleton]:
    """Structures from the modules of a wide network; none where it did not train or nothing acts together."""
    width, intervals = settings.surrogate
    shape = (samples.x.shape[1], width, 1)
    wide = replace(settings.numeric, starts=2, grids=(intervals,))
    trained = train_graph(
        lambda g: kan_shape(shape, samples.x, samples.y, 4, settings.degree, g), samples, wide, generator
    )
    if trained.error > 0.3:
        return []
    gradient = _gradient(trained.graph, samples.x.std(0))
    strength = np.sqrt(np.mean(gradient(samples.x) ** 2, axis=0)) / samples.spread
    used = [i for i in range(shape[0]) if strength[i] > max(2 * trained.error, 1e-3)]
    if not 2 < len(used) <= MOST_INPUTS:
        return first_shapes(used) if 0 < len(used) < shape[0] else []
    scores = module_scores(lambda x: gradient(_with(samples.x, used, x))[:, used], samples.x[:, used], generator)
    families = trees(scores, len(used), settings.module)
    renamed = [[tuple(used[i] for i in module) for module in family] for family in families]
    return tree_shapes(renamed, used)


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


def refine_to_formula(
    name: str, trained: Trained, samples: Samples, candidates: Sequence[Candidate], settings: SearchSettings
) -> Iterator[Step | Tried]:
    """Prunes a trained network, extends its grids again, and snaps its edges."""
    began = time.monotonic()
    pruned, error = pruned_network(trained, samples, settings)
    yield Step("prune", name, pruned, error, time.monotonic() - began)
    began = time.monotonic()
    selected = select(pruned, samples, candidates, settings.exact, settings.selection)
    if selected.graph is not None:
        yield Step("snap", name, selected.graph, selected.error, time.monotonic() - began, selected.matches)
    yield Tried(name, pruned, error, selected.graph, selected.error, selected.matches)


def pruned_network(trained: Trained, samples: Samples, settings: SearchSettings) -> tuple[Graph, float]:
    """The network without the edges it does not need, and its error; the edges are tried out on a coarser grid, which
    is then extended again. The trained network itself where nothing could go."""
    penalty = settings.numeric.penalty
    coarse = trained.graph
    if max((intervals_of(trained.graph)), default=0) > _PRUNING_INTERVALS:
        coarse = fitted_grids(trained.graph, samples.x, intervals=_PRUNING_INTERVALS)
        coarse = refit(coarse, samples.x, samples.y, Settings(steps=15, penalty=penalty, gain=1e-2)).graph
    pruned = eliminate(coarse, samples, slack=0.3, floor=1e-7, penalty=penalty)
    if pruned.active_edges == coarse.active_edges:
        return trained.graph, trained.error
    again = extend(pruned, samples, settings.numeric.grids[-2:], settings.numeric)
    return again.graph, again.error


def intervals_of(graph: Graph) -> list[int]:
    """G of every spline."""
    return [edge.function.intervals for edge in graph.edges if isinstance(edge.function, Spline)]


def choose_formula(tried: Sequence[Tried], settings: SearchSettings) -> Tried | None:
    """The exact one, else the formula with the smallest error, complexity weighing PER_UNIT a unit; None if nothing
    trained."""
    exact = [each for each in tried if each.is_exact(max(settings.exact, EXACT))]
    if exact:
        return min(exact, key=lambda each: each.formula.complexity if each.formula else np.inf)
    if not tried:
        return None
    return min(
        tried,
        key=lambda each: (
            each.formula_error * (1 + PER_UNIT * each.formula.complexity) if each.formula else 100 * each.network_error
        ),
    )
