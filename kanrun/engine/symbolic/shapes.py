"""KANs of given widths, trained on the points of a search: every edge is a spline of its own.

The network is a graph whose constants and splines one least squares fit determines together, on
coarse grids first and then on finer ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edge_functions import Spline
from kanrun.engine.symbolic.graph import Edge, Graph, Operation, fitted_grids
from kanrun.engine.symbolic.problem import Event, SearchProblem, SearchStage
from kanrun.engine.symbolic.refit import GOOD, coarse_fit, extend
from kanrun.engine.symbolic.snapping import refine_to_formula

#: Intervals of the starts of a network, one start after another.
_INTERVALS = (3, 3, 7)
#: Intervals of more starts.
_MORE_INTERVALS = 4
#: Smallest and largest slope of random splines.
_SLOPES = (0.3, 1.0)
#: Size of the bends of random splines.
_BENDS = 0.1
#: Margin of the grids of random splines.
_MARGIN = 0.1


def fixed_shape(
    shape: Sequence[int], problem: SearchProblem, generator: np.random.Generator
) -> Iterator[Event]:
    """Train a KAN of widths `shape`, prune it, retrain it and snap it."""
    data = problem.data
    policy = problem.policy
    name = "-".join(map(str, shape))
    fits = list[Graph]()
    for intervals in (*_INTERVALS, *(_MORE_INTERVALS,) * policy.starts)[: policy.starts]:
        start = random_kan(shape, data.x, intervals, policy.degree, generator)
        fits.append(coarse_fit(start, data))
        if data.error(fits[-1]) < GOOD:
            break
    best = min(fits, key=data.error)
    trained = SearchStage("train", name, extend(best, data, policy.grids), data)
    yield trained
    if trained.error < data.no_skill_error:
        yield from refine_to_formula(name, trained.graph, problem)


def random_kan(
    shape: Sequence[int], x: Array, intervals: int, degree: int, generator: np.random.Generator
) -> Graph:
    """Return a KAN of widths `shape` with random splines: lines with small bends.

    Grids cover the arguments at x (N, inputs).
    """
    functions = intervals + degree

    def spline() -> Spline:
        slope = generator.choice([-1.0, 1.0]) * generator.uniform(*_SLOPES)
        line = slope * np.linspace(-1, 1, functions)
        return Spline(-1.0, 1.0, line + _BENDS * generator.normal(size=functions), degree)

    edges = list[Edge]()
    first = 0
    for inputs, outputs in itertools.pairwise(shape):
        targets = range(first + inputs, first + inputs + outputs)
        edges += [Edge(first + i, target, spline()) for target in targets for i in range(inputs)]
        first += inputs
    sums: list[Operation] = ["sum" for _ in range(sum(shape[1:]))]
    graph = Graph(shape[0], tuple(sums), tuple(edges))
    return fitted_grids(graph, x, margin=_MARGIN, keep=False)
