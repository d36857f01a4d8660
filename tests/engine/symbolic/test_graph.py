"""Graphs: values, Jacobians compared with finite differences, and canonical forms."""

import numpy as np
from made_graphs import edge, one_edge
from numpy.testing import assert_allclose

from kanrun.engine.symbolic.conversions import canonicalise
from kanrun.engine.symbolic.graph import (
    IDENTITY_EDGE,
    Edge,
    Graph,
    Spline,
    fitted_grids,
    shape_of,
)
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.refit import RefitSettings, refit

X = np.random.default_rng(3).uniform(0.2, 1.0, (200, 2))


def mixed():
    """Return the graph of (2 sin(3 x0 + 1) + s(x1)) exp(x0) + x1^2, with a spline s."""
    spline = Spline(0.1, 1.1, np.random.default_rng(4).normal(size=9), 3)
    return Graph(
        2,
        ("sum", "product", "sum", "sum"),
        (
            edge(0, 2, "sin", 3.0, 1.0, 0.3, 5.0),
            Edge(1, 2, spline),
            Edge(2, 3, IDENTITY_EDGE),
            edge(0, 3, "exp", 1.2, 0.1, 0.9, 0.2),
            Edge(3, 4, IDENTITY_EDGE),
            edge(1, 4, "x^2", 0.7, 0.1, 2.0, 1.0),
            edge(4, 5, "log", 0.5, 8.0, 2.0, -1.0),
        ),
    )


def check_jacobian(graph, x, atol):
    value, _, jacobian = graph.linearise(x)
    assert_allclose(value, graph(x))
    p = graph.parameters
    for i, shift in enumerate(1e-6 * np.eye(p.size)):
        ends = [graph.with_parameters(p + sign * shift)(x) for sign in (1, -1)]
        assert_allclose(jacobian[:, i], (ends[0] - ends[1]) / 2e-6, atol=atol)


def test_the_jacobian_is_the_derivative_in_the_parameters():
    check_jacobian(mixed(), X, 2e-8)


def test_canonical_graph_keeps_the_function_without_redundant_constants():
    graph = mixed()
    simple = canonicalise(graph)
    assert_allclose(simple(X), graph(X), rtol=1e-11, atol=1e-11)
    assert simple.parameters.size < graph.parameters.size
    *_, jacobian = simple.linearise(X)
    norms = np.linalg.norm(jacobian, axis=0)
    assert norms.min() > 0


def test_splines_on_another_grid_keep_their_function():
    bends = np.random.default_rng(1).normal(size=(6, 8)).cumsum(1)
    splines = [Spline(-3.0, 3.0, each, 3) for each in bends]
    places = [(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4)]
    edges = tuple(Edge(*place, each) for place, each in zip(places, splines, strict=True))
    graph = Graph(2, ("sum", "sum", "sum"), edges)
    finer = fitted_grids(graph, X, intervals=10, margin=0.05)
    assert np.abs(finer(X) - graph(X)).max() < 5e-2 * np.std(graph(X))


def test_refit_reaches_the_data_and_never_makes_them_worse():
    truth = one_edge("tanh", 2.0, -0.5, 1.5, 0.3)
    begun = one_edge("tanh", 1.0, 0.0, 1.0, 0.0)
    y = truth(X[:, :1])
    data = SearchData(X[:, :1], y, X[:, :1], y)
    fitted = refit(begun, data, RefitSettings(steps=60))
    assert data.error(fitted) < 1e-12
    assert data.error(refit(begun, data, RefitSettings(steps=1))) <= data.error(begun)


def test_a_graph_that_is_not_defined_comes_back_as_it_is():
    graph = one_edge("log", 1.0, -5.0, 1.0, 0.0)
    assert refit(graph, SearchData(X[:, :1], X[:, 0], X[:, :1], X[:, 0])) is graph


def test_the_shape_counts_products():
    ends = [(0, 2), (1, 2), (0, 3), (0, 4), (1, 4), (2, 5), (3, 5), (4, 5)]
    edges = tuple(edge(*each, "x", 1.0, 0.0, 1.0, 0.0) for each in ends)
    assert shape_of(Graph(2, ("sum", "sum", "product", "sum"), edges)) == "2-2+1p-1"
