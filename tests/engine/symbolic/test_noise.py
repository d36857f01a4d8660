"""Formulas from noisy points: description lengths, and rounding of constants."""

from dataclasses import replace

import numpy as np
import pytest
from cases import cases
from made_graphs import edge, one_edge, split
from scipy.special import erf

import kanrun
from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.constant_errors import is_determined
from kanrun.engine.symbolic.formula import drop_terms, finish_formula, round_constants
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.problem import (
    EXACT,
    SearchData,
    description_length,
    length_of,
)
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.smooth_fit import errors_are_relative


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
        told = y * (1 + size * noise) if relative else y + size * noise
        data = SearchData(x[:120], told[:120], x[120:], told[120:])
        assert errors_are_relative(data) == expected
    scaled = replace(data, relative=True)
    higher = scaled.error(lambda x: 1.1 * np.exp(2 * x[:, 0]) / x[:, 1])
    assert higher == pytest.approx(np.log(1.1) / scaled.y_std, 0.1)


@pytest.mark.parametrize(
    "decades, relative",
    cases("""
4.5 | False
5.5 | True
"""),
)
def test_errors_are_relative_over_decades(decades, relative):
    """The two quantiles that are compared enclose 80% of the decades."""
    x = np.linspace(0, 1, 200)[:, None]
    y = 10 ** (decades * x[:, 0])
    assert errors_are_relative(SearchData(x, y, x, y)) == relative
    signed = np.resize([1.0, -1.0], 200) * y**2
    assert errors_are_relative(SearchData(x, signed, x, signed)) == relative


@pytest.mark.parametrize(
    "largest, relative",
    cases("""
90000000.0 | False
110000000.0 | True
"""),
)
def test_errors_are_relative_where_few_values_hide_all_others(largest, relative):
    x = np.linspace(0, 1, 200)[:, None]
    y = np.resize([1.0, -1.0], 200)
    y[0] = largest
    data = SearchData(x, y, x, y)
    assert errors_are_relative(data) == relative
    y[1:3] = 0.0, 1e-300
    assert len(data.relative_to_size().y) == 198, "values that underflow have no relative error"


def test_terms_that_cancel_or_may_be_zero_are_not_determined():
    t = np.linspace(0, 20, 150)[:, None]
    y = np.sin(2.1 * t[:, 0]) + 0.05 * np.random.default_rng(0).standard_normal(150)
    data = SearchData(t, y, t, y)

    def waves(*terms, free="c"):
        edges = (edge(0, 1, "sin", a, 0.0, c, 0.0, free=free) for a, c in terms)
        return Graph(1, ("sum",), tuple(edges))

    assert is_determined(waves((2.1, 1.0)), data)
    assert is_determined(waves((2.1, 1.0), (5.0, 0.02)), data)  # standard error 0.006
    assert not is_determined(waves((2.1, 1.0), (5.0, 0.01)), data)
    assert is_determined(waves((2.1, 9.0), (2.1, -8.0), free=""), data)
    assert not is_determined(waves((2.1, 12.0), (2.1, -11.0), free=""), data)


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
    x = samples.x[:8]
    y = samples.y[:8]
    few = SearchData(x, y, x, y)
    assert length_of(1e-2, 2, 2.0, few) < length_of(1e-9, 6, 2.0, few), (
        "eight points do not pay for six constants"
    )
    assert not few.has_enough_points(2), (
        "a formula of two constants through eight points is not known as exact"
    )
    undefined = one_edge("log", 1.0, -2.0, 1.0, 0.0, free="bcd")
    assert description_length(undefined, samples) == np.inf


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


@pytest.mark.slow
def test_error_function_is_not_called_exact():
    """Many sums of candidates approximate the error function well."""
    x = np.random.default_rng(3).uniform(0, 1, 300)
    assert kanrun.interpret(x, erf(x), budget=15.0).outcome != "exact"
