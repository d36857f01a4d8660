"""Formulas from noisy points: description lengths, and rounding of constants."""

from dataclasses import replace

import numpy as np
import pytest
from cases import cases
from made_graphs import edge, one_edge, split

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.candidates import choose
from kanrun.engine.symbolic.formula import drop_terms, finish_formula, round_constants
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.problem import (
    EXACT,
    FittedStructure,
    SearchData,
    SearchProblem,
    description_length,
    length_of,
)
from kanrun.engine.symbolic.refit import RefitSettings, is_determined, refit
from kanrun.engine.symbolic.search import choose_formula, fit_expression
from kanrun.engine.symbolic.smooth_fit import errors_are_relative, smooth_fit
from kanrun.engine.symbolic.sparse import SparseSearch
from kanrun.formulas.parsing import parse


def noisy(f, low, high, inputs, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, (1500, inputs))
    y = f(x)
    return split(x, y + 0.01 * y.std() * rng.standard_normal(len(y)), 0.2)


@pytest.mark.parametrize("relative", [True, False])
def test_noise_proportional_to_y_is_recognised(relative):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 2.0, (150, 2))
    y = np.exp(2 * x[:, 0]) / x[:, 1]
    noise = 0.02 * rng.standard_normal(150)
    for size, expected in ((1.0, relative), (0.0, False)):
        data = split(x, y * (1 + size * noise) if relative else y + size * noise, 0.2)
        assert errors_are_relative(data) == expected
    scaled = replace(data, relative=True)
    higher = scaled.error(lambda x: 1.1 * np.exp(2 * x[:, 0]) / x[:, 1])
    assert higher == pytest.approx(np.log(1.1) / scaled.y_std, 0.1)


SIGNS = np.resize([1.0, -1.0], 200)


@pytest.mark.parametrize("seed", range(4))
def test_smooth_function_is_not_taken_for_noise(seed):
    x = np.random.default_rng(seed).uniform(-1, 1, (250, 2))
    y = np.sin(3 * x[:, 0]) + np.cos(2 * x[:, 1])
    assert smooth_fit(SearchData(x[:200], y[:200], x[200:], y[200:])).noise < 1e-3


def test_residual_is_noise_only_if_no_input_explains_it():
    x = np.random.default_rng(0).standard_normal((200, 2))
    y = x[:, 0] + x[:, 1] + np.sin(x[:, 0] - x[:, 1]) / 2
    total = x.sum(1, keepdims=True)
    reduced, unreduced = (SearchData(z, y, z, y) for z in (total, x))
    for known, is_noise in ((reduced, True), (unreduced, False)):
        search = SparseSearch(SearchProblem(reduced, choose(["sin"])), known)
        search.run(short=True)
        assert search.is_over() == is_noise


@pytest.mark.parametrize(
    "y, relative",
    [
        (np.geomspace(1, 1e3, 200), False),
        (np.geomspace(1, 1e8, 200), True),
        (np.geomspace(1, 1e16, 200) * SIGNS, True),
        (np.append(1e5, SIGNS[1:]), False),
        (np.append(1e10, SIGNS[1:]), True),
    ],
)
def test_errors_are_relative_over_decades_or_if_one_value_hides_all_others(y, relative):
    x = np.linspace(0, 1, 200)[:, None]
    assert errors_are_relative(SearchData(x, y, x, y)) == relative


def test_values_that_underflow_have_no_relative_error():
    y = np.array([1.0, 0.0, 1e-300, 2.0])
    assert len(SearchData(y[:, None], y, y[:, None], y).relative_to_size().y) == 2


@pytest.mark.parametrize(
    "terms, free, determined",
    cases("""
[(2.1, 1.0)] | c | True
[(2.1, 1.0), (5.0, 0.05)] | c | True
[(2.1, 1.0), (5.0, 0.005)] | c | False
[(2.1, 5.0), (2.1, -4.0)] | '' | True
[(2.1, 50.0), (2.1, -49.0)] | '' | False
"""),
)
def test_terms_that_cancel_or_may_be_zero_are_not_determined(terms, free, determined):
    """The standard error of the factor of a wave is 0.006."""
    t = np.linspace(0, 20, 150)[:, None]
    y = np.sin(2.1 * t[:, 0]) + 0.05 * np.random.default_rng(0).standard_normal(150)
    waves = tuple(edge(0, 1, "sin", a, 0.0, c, 0.0, free=free) for a, c in terms)
    assert is_determined(Graph(1, ("sum",), waves), SearchData(t, y, t, y)) == determined


def test_two_nested_functions_are_dropped_together():
    """A line is fitted by exp(a sqrt(x)); dropping only one function gives a longer description."""
    samples = noisy(lambda x: 2 - x[:, 0], 5, 6, 1, 0)
    edges = (edge(0, 1, "sqrt", 1.0, -3.0, 0.9, 0.0, free="bc"),)
    nested = Graph(1, ("sum", "sum"), (*edges, edge(1, 2, "exp", 1.0, 0.0, -1.0, 0.0, free="cd")))
    fitted = refit(nested, samples, RefitSettings(steps=60, damping=1e-6))
    assert drop_terms(fitted, samples).complexity == 1.0


def test_a_shorter_description_is_more_accurate_or_smaller():
    samples = noisy(lambda x: x[:, 0], 0, 1, 1, 0)
    assert length_of(1e-3, 10, 20.0, samples) < length_of(1e-2, 1, 2.0, samples)
    assert length_of(1e-2, 1, 2.0, samples) < length_of(1e-2, 2, 2.0, samples)
    assert length_of(0.1 * EXACT, 1, 2.0, samples) == length_of(EXACT, 1, 2.0, samples)
    undefined = one_edge("log", 1.0, -2.0, 1.0, 0.0, free="bcd")
    assert description_length(undefined, samples) == np.inf


def test_few_points_do_not_pay_for_many_constants_and_show_no_formula_as_exact():
    x = np.linspace(0, 1, 8)[:, None]
    few = SearchData(x, x[:, 0], x, x[:, 0])
    assert length_of(1e-2, 2, 2.0, few) < length_of(1e-9, 6, 2.0, few)
    line = one_edge("x", 1.0, 0.0, 1.0, 0.0, free="cd")
    assert not FittedStructure("", line, few, line).is_exact
    fixed = one_edge("x", 1.0, 0.0, 1.0, 0.0, free="c")
    assert FittedStructure("", fixed, few, fixed).is_exact


def test_rounding_of_large_values_does_not_make_a_formula_inexact():
    x = np.linspace(1, 2, 100)[:, None]
    y = 1e6 + np.exp(x[:, 0]) / 3
    data = SearchData(x, y, x, y)
    found = fit_expression("", parse("exp(x0)/3 + 999999"), data)
    assert found.error > EXACT
    assert found.is_exact
    assert not fit_expression("", parse("sin(x0) + 999999"), data).is_exact


def test_a_formula_that_is_exact_to_rounding_precedes_one_that_only_imitates():
    x = np.linspace(1, 2, 101)[:, None]
    y = np.exp(x[:, 0])
    data = SearchData(x, y, x, y)
    near, true = (one_edge("exp", 1.0, 0.0, 1.0, off) for off in (1e-13, 0.0))
    imitation, formula = (FittedStructure("", graph, data, graph) for graph in (near, true))
    assert imitation.is_exact, "the search goes on nevertheless, because it is not certain"
    assert not imitation.is_certain
    assert choose_formula([imitation, formula], data) is formula


def test_a_constant_is_rounded_once_others_are_known():
    """Width and height of a wide Gaussian are uncertain until the offset is known to be zero."""
    data = noisy(lambda x: np.exp(-(x[:, 0] ** 2) / 2) / np.sqrt(2 * np.pi), -1, 1, 1, 2)
    begun = one_edge("gaussian", 0.7, 0.0, 0.4, 0.0, free="abcd")
    graph = refit(begun, data, RefitSettings(steps=100))
    rounded = round_constants(graph, data, 1.02 * data.error(graph))
    assert {name: str(number) for name, number in rounded.edges[0].function.exact} == {
        "a": "sqrt(2)/2",
        "b": "0",
        "c": "sqrt(2)/(2*sqrt(pi))",
        "d": "0",
    }


def test_a_sine_becomes_a_cosine_where_that_has_the_nicer_shift():
    samples = noisy(lambda x: 2 * np.cos(3 * x[:, 0] - 1), -1, 1, 1, 4)
    graph = one_edge("sin", 3.0, 0.57, 2.0, 0.0, free="abcd")
    assert str(finish_formula(graph, samples, Budget(5.0)).expression) == "2*cos(3*x0 - 1)"


@pytest.mark.parametrize("name, rounded", [("sin", True), ("tanh", False)])
def test_only_phases_of_waves_are_rounded_to_multiples_of_a_quarter_turn(name, rounded):
    graph = one_edge(name, 1.0, 2 - np.pi / 2, 1.0, 0.0, free="b")
    x = np.linspace(1, 2, 101)[:, None]
    data = SearchData(x, graph(x), x, graph(x))
    assert bool(round_constants(graph, data, 1e-9).edges[0].function.exact) == rounded
