"""Decisions of the formula search: what it accepts, and where it ends."""

import numpy as np
import pytest
import sympy
from cases import cases
from made_graphs import one_edge

from kanrun.engine.symbolic import SearchData, reductions
from kanrun.engine.symbolic.candidates import IDENTITY, choose
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.dictionary import dictionary_of_one, without_twins
from kanrun.engine.symbolic.formula import round_constants
from kanrun.engine.symbolic.problem import FittedStructure
from kanrun.engine.symbolic.regression import OutputTransform, output_transforms, solve_terms
from kanrun.engine.symbolic.search import choose_formula
from kanrun.engine.symbolic.smooth_fit import smooth_fit
from kanrun.engine.symbolic.written_numbers import as_written
from kanrun.formulas.parsing import parse

X = np.linspace(1, 2, 101)[:, None]
Y = np.resize([1.0, -1.0], 101)
DATA = SearchData(X, Y, X, Y)


def test_few_points_limit_constants_and_the_error_without_skill():
    few = SearchData(X[:15], Y[:15], X[:15], Y[:15])
    assert [few.has_enough_points(constants) for constants in (5, 6)] == [True, False]
    assert few.no_skill_error == pytest.approx(0.8 * few.error(few.mean))
    assert DATA.no_skill_error == pytest.approx((1 - 2 / 101**0.5) * DATA.error(DATA.mean))


@pytest.mark.parametrize(
    "error, certain",
    cases("""
1e-15 | True
1e-13 | False
1e-11 | None
"""),
)
def test_search_goes_on_from_a_formula_that_only_imitates(error, certain):
    """The error counts as exact, but is above rounding, so the search goes on."""
    data = SearchData(X, np.exp(X[:, 0]), X, np.exp(X[:, 0]))
    line, true = (one_edge(name, 1.0, 0.0, 1.0, 0.0) for name in ("x", "exp"))
    near = one_edge("exp", 1.0, 0.0, 1.0, data.y_std * error)
    found = FittedStructure("1-1", line, data, near)
    assert (found.is_exact, found.is_certain) == (certain is not None, bool(certain))
    other = FittedStructure("1-1", line, data, true)
    assert choose_formula([found, other], data).is_certain


@pytest.mark.parametrize(
    "offset, exact",
    cases("""
900.0 | 1e-12
1100.0 | 1.1e-12
"""),
)
def test_bound_on_an_exact_error_allows_for_the_rounding_of_y(offset, exact):
    y = np.resize([offset + 1, offset - 1], 100)
    assert SearchData(X[:100], y, X[:100], y).exact == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_output_transforms_are_undone_by_their_inverses(sign):
    y = sign * np.linspace(0.1, 0.9, 20)
    names = {"1/x", "sqrt", "exp", "1/sqrt", "x^2", "1/x^2", "log", "arcsin", "arctan", "tanh"}
    found = output_transforms(y, {*names, "sin"})
    assert len(found) == 12
    for each in found:
        np.testing.assert_allclose(each.restore(each.values), y)


@pytest.mark.parametrize(
    "number, text",
    cases("""
1/8 | 1/8
213/500 | '0.426'
1/5 | '0.2'
1/3 | 1/3
1000000001/4 | 1000000001/4
"""),
)
def test_fractions_are_decimal_numbers_where_these_are_not_longer(number, text):
    written = as_written(sympy.Rational(number) * sympy.Symbol("x0"))
    assert str(written) == str(sympy.sympify(text) * sympy.Symbol("x0")).replace("000000000000", "")


@pytest.mark.parametrize(
    "text, free",
    cases("""
sin(x0) | ['']
3*sin(2*x0) + 5 | ['acd']
sin(x0 - 2) | ['b']
x0 + sin(x0) | ['', '']
x0/2 + sin(x0) | ['c', '']
"""),
)
def test_numbers_of_an_expression_are_free_constants_but_for_0_and_1(text, free):
    assert [each.function.free for each in graph_of_expression(parse(text), 1).edges] == free


def test_a_constant_input_does_not_disturb_a_smooth_fit():
    x = np.column_stack([X[:, 0], np.ones(101)])
    fit = smooth_fit(SearchData(x, x[:, 0] ** 2, x, x[:, 0] ** 2))
    assert fit.error < 1e-3


def test_quotient_of_two_terms_is_fitted_to_rounding():
    t = X[:, 0]
    line = dictionary_of_one(t, choose(["x"])).first(1)
    found = solve_terms(OutputTransform((1 + 2 * t) / (1 + t / 3)), line, line)
    assert found.error < 1e-14
    assert found.coefficients == pytest.approx([2, -1 / 3, 1])


def test_only_candidates_of_the_user_are_in_the_dictionary():
    names = [
        [one.name for one in without_twins(choose(candidates))]
        for candidates in (["x", "sigmoid"], ["cos"], ["sin", "cos", "tanh", "sigmoid"])
    ]
    assert names == [["sigmoid"], ["cos"], ["sin", "tanh"]]


def test_dictionary_drops_entries_that_are_multiples_or_shifts_of_others():
    line = dictionary_of_one(X[:, 0], choose(["x"])).first(1)
    both = line.functions(IDENTITY, np.array([(1.0, 0.0), (-2.0, 0.0), (1.0, 3.0)]))
    assert [len(both.simplest(9, shifted=shifted)) for shifted in (True, False)] == [1, 2]


@pytest.mark.parametrize(
    "count, kept",
    cases("""
79 | False
80 | True
"""),
)
def test_only_outputs_of_one_sign_are_used_if_they_are_enough(count, kept):
    """Inputs have both signs and span decades; outputs of the first sign have the smaller range."""
    sizes = np.geomspace(1e-3, 1.0, count)
    x = np.concatenate([sizes, -sizes])[:, None]
    y = np.concatenate([0 * sizes + 1, np.exp(3 * sizes)])
    assert len(reductions.of_one_sign(SearchData(x, y, x, y)).y) == (count if kept else 2 * count)


@pytest.mark.parametrize(
    "sign, factor",
    cases("""
1 | x0**(3/2)
-1 | x0**2
"""),
)
def test_half_powers_of_positive_inputs_are_factors(sign, factor):
    x = np.geomspace(1e-3, 1.0, 100)[:, None]
    data = SearchData(x, x[:, 0] ** 1.5, x, x[:, 0] ** 1.5)
    every = SearchData(sign * x, data.y, x, data.y)
    found = reductions.power_factor(data, every)
    assert str(found.factor) == factor


@pytest.mark.parametrize(
    "name, exact",
    cases("""
sin | True
tanh | False
"""),
)
def test_only_phases_of_waves_are_rounded_to_multiples_of_a_quarter_turn(name, exact):
    graph = one_edge(name, 1.0, 2 - np.pi / 2, 1.0, 0.0, free="b")
    data = SearchData(X, graph(X), X, graph(X))
    assert bool(round_constants(graph, data, 1e-9).edges[0].function.exact) == exact
