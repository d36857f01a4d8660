"""Candidate functions: derivatives, domains, functions of the user, and refusals."""

import numpy as np
import pytest
from cases import cases
from numpy.testing import assert_allclose

from kanrun.engine.symbolic.candidates import TABLE, choose
from kanrun.engine.symbolic.edge_functions import Symbolic, standardised
from kanrun.engine.symbolic.edge_matching import match_edge
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
    candidate = TABLE[name]
    t = np.random.default_rng(1).uniform(0.1, 1.0, 300)
    values = -1.7 * candidate.value(0.8 * t + 0.05) + 0.4
    (match,) = match_edge(t, values, [candidate])
    assert match.loss < 1e-12
    assert_allclose(match.function.value(t), values, atol=1e-5)


def test_the_simplest_of_equal_matches_comes_first():
    t = np.random.default_rng(2).uniform(-1, 1, 60)
    assert match_edge(t, 3 * t - 1, choose(None))[0].name == "x"
    assert match_edge(t, 2 * t**2, choose(None))[0].name == "x^2"


@pytest.mark.parametrize("name", [name for name in TABLE if name != "0"])
def test_standard_constants_leave_the_function_as_it_is(name):
    t = np.linspace(0.1, 0.9, 40)
    function = Symbolic(TABLE[name], (0.7, 0.1, -2.0, 0.3))
    changed = standardised(function)
    assert_allclose(changed.evaluate(t)[0], function.evaluate(t)[0], rtol=1e-12, atol=1e-13)


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
