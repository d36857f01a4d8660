"""Candidate functions: derivatives, domains, functions of the user, and refusals."""

import numpy as np
import pytest
from cases import cases
from numpy.testing import assert_allclose

from kanrun.engine.symbolic.candidates import TABLE, choose
from kanrun.engine.symbolic.dictionary import without_twins
from kanrun.engine.symbolic.graph import Symbolic, standardised
from kanrun.engine.symbolic.snapping import match_edge
from kanrun.errors import UsageError


@pytest.mark.parametrize("name", list(TABLE))
def test_slope_is_the_derivative(name):
    candidate = TABLE[name]
    x = np.linspace(0.2, 0.8, 13)
    step = 1e-6
    numeric = (candidate.value(x + step) - candidate.value(x - step)) / (2 * step)
    assert_allclose(candidate.slope(x), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "0"])
def test_an_edge_made_of_a_candidate_is_matched_by_it(name):
    t = np.random.default_rng(1).uniform(0.1, 1.0, 300)
    function = Symbolic(TABLE[name], (0.8, 0.05, -1.7, 0.4))
    values = function.value(t)
    assert_allclose(standardised(function).value(t), values, rtol=1e-12, atol=1e-13)
    (match,) = match_edge(t, values, [TABLE[name]])
    assert match.loss < 1e-12
    assert_allclose(match.function.value(t), values, atol=1e-5)


@pytest.mark.parametrize("power, name", [(1, "x"), (2, "x^2")])
def test_the_simplest_of_equal_matches_comes_first(power, name):
    t = np.random.default_rng(2).uniform(-1, 1, 60)
    assert match_edge(t, 3 * t**power - 1, choose(None))[0].name == name


def test_candidates_are_ruled_out_where_they_are_not_defined():
    t = np.linspace(-1, 1, 100)
    names = {match.name for match in match_edge(t, np.abs(t), choose(["log", "1/x", "abs"]))}
    assert "abs" in names
    pole = TABLE["1/x"].domain
    assert not pole.allows(-1.0, 1.0)
    assert pole.allows(0.5, 1.0)
    tan = TABLE["tan"].domain
    assert tan.allows(-1.5, 1.5)
    assert not tan.allows(1.5, 1.7)


@pytest.mark.parametrize(
    "names, left",
    cases("""
['x', 'sigmoid'] | ['sigmoid']
['cos'] | ['cos']
['sin', 'cos', 'tanh', 'sigmoid'] | ['sin', 'tanh']
"""),
)
def test_of_functions_that_differ_by_constants_one_is_tried(names, left):
    assert [each.name for each in without_twins(choose(names))] == left


def test_users_add_candidates_through_the_parser():
    own = choose(["x"], {"bump": "exp(-abs(x0))"})
    t = np.linspace(-2, 2, 300)
    best = match_edge(t, 2 * np.exp(-np.abs(1.5 * t)), own)[0]
    assert best.name == "bump"
    assert best.loss < 1e-10


@pytest.mark.parametrize(
    "names, own, message",
    cases("""
['sine'] | None | sine
[] | None | No candidate is left
['0'] | None | No candidate is left
None | {'f': 'x1+1'} | x1
None | {'f': "__import__('os')"} | f|cannot|unknown
None | {'f': '3'} | depend on any variable
"""),
)
def test_bad_candidates_are_refused(names, own, message):
    with pytest.raises(UsageError, match=message):
        choose(names, own)
