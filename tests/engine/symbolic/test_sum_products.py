"""Products of sums by alternating least squares: inputs of a factor, oscillating functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import TrainedGraph
from kanrun.engine.symbolic.search_problem import SearchProblem, SumProductPolicy
from kanrun.engine.symbolic.separability import sum_product
from kanrun.engine.symbolic.snapping import SearchStage, snapped


def points(function: Callable[..., Any], inputs: int, size: float = 1.0) -> SearchData:
    x = np.random.default_rng(0).uniform(-size, size, (800, inputs))
    y = function(*x.T)
    return SearchData(x[:600], y[:600], x[600:], y[600:])


def factors(graph: Graph) -> set[tuple[int, ...]]:
    """The inputs of each factor of the product before the output."""
    product = graph.output - 1
    sources = [graph.edges[i].source for i in graph.into(product)]
    return {
        (k,) if k < graph.inputs else tuple(graph.edges[i].source for i in graph.into(k))
        for k in sources
    }


@pytest.mark.parametrize(
    ("function", "inputs", "expected"),
    [
        (lambda a, b: 3 + np.exp(a) * (b - 0.3), 2, {(0,), (1,)}),
        (lambda a, b, c: 1 - (a + b**3) * np.sin(c), 3, {(0, 1), (2,)}),
        (lambda a, b, c, d: (a - d) * np.exp(b) * (c + 2), 4, {(0, 3), (1,), (2,)}),
    ],
)
def test_the_inputs_of_each_factor_are_found(
    function: Any, inputs: int, expected: set[tuple[int, ...]]
) -> None:
    data = points(function, inputs)
    graph = sum_product(data, 3, SumProductPolicy(), np.random.default_rng(1))
    assert graph is not None
    assert {tuple(sorted(each)) for each in factors(graph)} == expected
    assert data.error(graph) < 5e-3


def test_waves_need_a_finer_grid_which_pruning_keeps() -> None:
    data = points(lambda a, b: 2 - np.cos(10 * a) * np.sin(b), 2, 2.0)
    assert sum_product(data, 3, SumProductPolicy(grids=(6,)), np.random.default_rng(1)) is None
    graph = sum_product(data, 3, SumProductPolicy(), np.random.default_rng(1))
    assert graph is not None
    assert data.error(graph) < 0.05
    stages = snapped("waves", TrainedGraph(graph, data.error(graph)), SearchProblem(data, ()))
    pruned = next(stages)
    assert isinstance(pruned, SearchStage)
    assert pruned.stage == "prune"
    assert pruned.error < 0.1


def test_a_sum_of_products_is_none_and_few_points_are_not_asked() -> None:
    data = points(lambda a, b, c, d: a * b + c * d, 4)
    assert sum_product(data, 3, SumProductPolicy(), np.random.default_rng(1)) is None
    few = SearchData(data.x[:30], data.y[:30], data.x[30:40], data.y[30:40])
    assert sum_product(few, 3, SumProductPolicy(), np.random.default_rng(1)) is None
