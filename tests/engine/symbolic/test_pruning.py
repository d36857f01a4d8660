"""What pruning takes out of a numeric graph, and what it leaves of the edges that it takes out."""

import numpy as np
import pytest

from kanrun.engine.symbolic.edge_functions import Identity, Spline
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.graph_changes import edge_scores, eliminate, without
from kanrun.engine.symbolic.problem import SearchData


def spline(function, intervals=10):
    points = np.linspace(-1, 1, 200)
    return Spline.through(points, function(points), (-1.0, 1.0), intervals, 3)


def flat(value):
    return spline(lambda t: np.full_like(t, value))


def samples_of(graph):
    x = np.random.default_rng(0).uniform(-1, 1, (400, graph.inputs))
    y = graph(x)
    return SearchData(x[:300], y[:300], x[300:], y[300:])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_mean_of_a_term_goes_to_another_term(index):
    functions = [flat(3.0), flat(-1.0), flat(0.5)]
    edges = tuple(Edge(i, 3, function) for i, function in enumerate(functions))
    graph = Graph(3, ("sum",), edges)
    samples = samples_of(graph)
    smaller = without(graph, index, samples)
    assert len(smaller.edges) == 2
    np.testing.assert_allclose(smaller(samples.x), 2.5, rtol=1e-12)


@pytest.mark.parametrize("index", [0, 1])
def test_the_mean_of_a_factor_goes_to_the_other_factor(index):
    factors = [flat(3.0), spline(lambda t: t**3)]
    edges = (*(Edge(i, 2, factors[i != index]) for i in (0, 1)), Edge(2, 3, Identity()))
    graph = Graph(2, ("product", "sum"), edges)
    samples = samples_of(graph)
    smaller = without(graph, index, samples)
    assert smaller.active_edges == 1
    np.testing.assert_allclose(smaller(samples.x), graph(samples.x), rtol=1e-12, atol=1e-12)


def test_an_edge_that_is_flat_counts_nothing():
    graph = Graph(2, ("sum",), (Edge(0, 2, flat(3.0)), Edge(1, 2, spline(np.sin))))
    samples = samples_of(graph)
    first, second = edge_scores(graph, samples)
    assert first < 1e-12
    assert second == pytest.approx(1.0)


def test_what_a_graph_needs_stays():
    needed = Graph(3, ("sum",), (Edge(0, 3, spline(np.exp)), Edge(2, 3, spline(np.sin))))
    samples = samples_of(needed)
    bump = spline(lambda t: 2.0 + 1e-3 * t**2)
    graph = Graph(3, ("sum",), (needed.edges[0], Edge(1, 3, bump), needed.edges[1]))
    smaller = eliminate(graph, samples)
    assert [edge.source for edge in smaller.edges] == [0, 2]
    assert samples.error(smaller) < 1e-5
