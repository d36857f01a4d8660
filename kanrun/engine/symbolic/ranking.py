"""How structures are trained, and which of a list are worth it: ranked by coarse fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.numeric import Trained, coarse_fit, extend, train_graph
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.skeletons import Skeleton, kan_shape, start
from kanrun.engine.symbolic.steps import SearchSettings
from kanrun.engine.symbolic.work import work_done

Maker = Callable[[np.random.Generator], Trained]

#: Structures that are ranked by coarse fits, those that are then trained; the coarse error that ends the ranking; and
#: the edges of a structure that counts as small.
_MOST_RANKED, _MOST_EXPLORED, _CLEARLY_GOOD, _SMALL = 14, 7, 3e-3, 10


def ranked(
    shapes: Sequence[Skeleton], samples: Samples, settings: SearchSettings, generator: np.random.Generator, end: float
) -> Iterator[tuple[str, Maker]]:
    """The shapes with how to train them: the first two at once, then the rest in the order of coarse fits, which are
    begun until this thread has done work up to `end`."""
    for shape in shapes[:2]:
        yield shape.name, _maker(shape, samples, settings)
    coarse: list[tuple[float, Skeleton, Trained]] = []
    for shape in sorted(shapes[2:], key=lambda shape: shape.edges)[:_MOST_RANKED]:
        fits = [_coarse(shape, samples, settings, generator, intervals) for intervals in _coarse_grids(shape, samples)]
        best = min(fits, key=lambda fit: fit.error)
        coarse.append((best.error * 1.2**shape.edges * shape.handicap, shape, best))
        enough = best.error < _CLEARLY_GOOD and samples.x.shape[1] > 2  # few inputs have few structures: all are ranked
        if enough or work_done() > end:
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


def kan_maker(shape: tuple[int, ...], samples: Samples, settings: SearchSettings) -> Maker:
    def make(generator: np.random.Generator) -> Trained:
        fresh: Callable[[np.random.Generator], Graph] = lambda g: kan_shape(  # noqa: E731
            shape, samples.x, samples.y, 3, settings.degree, g
        )
        return train_graph(fresh, samples, settings.numeric, generator)

    return make
