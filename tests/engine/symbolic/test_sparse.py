"""Sparse regression: formulas found under noise, their description lengths, and the end."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import sympy
from cases import cases
from numpy.testing import assert_allclose

from kanrun.engine.symbolic import SearchData, SearchProblem, choose
from kanrun.engine.symbolic.products import Products
from kanrun.engine.symbolic.reductions import Reduction
from kanrun.engine.symbolic.refit import refit
from kanrun.engine.symbolic.search import FormulaSearch
from kanrun.engine.symbolic.templates import (
    IDENTITY_TRANSFORM,
    Coordinates,
    Template,
    TemplateFitting,
    Term,
)
from kanrun.formulas.conversion import to_numpy
from tests.engine.made_graphs import points, uniform


def noisy(text, low, high, inputs, noise, count=300):
    exact = points(text, low, high, inputs, count)
    rng = np.random.default_rng(0)
    y, held = (
        y + noise * exact.y_std * rng.standard_normal(len(y)) for y in (exact.y, exact.validation_y)
    )
    return exact, replace(exact, y=y, validation_y=held)


def found_in(data, names=None, budget=30.0):
    run = FormulaSearch(SearchProblem(data, choose(names), budget))
    return list(run.sparse(Reduction.none(data.x.shape[1])))[-1]


@pytest.mark.parametrize(
    "text, inputs, noise",
    [
        *cases("""
2.5*x0*x1^2/x2 | 3 | 0.1
x0*exp(-0.7*x1)/x2^2 | 3 | 0.01
x0 + 3*sin(2*x0) | 1 | 0.1
2*cos(3*x0 - 1) + 1/2 | 1 | 0.1
2*exp(-0.4*x0)*cos(9*x0 - 1) | 1 | 0.05
"""),
        pytest.param("x0*sqrt(x1^2 + x2^2)", 3, 0.01, marks=pytest.mark.slow),
    ],
)
def test_the_form_is_found_under_noise(text, inputs, noise):
    exact, data = noisy(text, 1, 3, inputs, noise)
    found = found_in(data)
    assert found.noise
    assert exact.error(refit(found.formula, exact)) < 1e-9


def test_a_scale_of_exact_points_is_refined_to_rounding():
    assert found_in(points("x0/(exp(x0/7) - 1)", 0.1, 18, 1)).is_certain


def test_rivals_come_in_the_order_of_their_bits_and_with_their_formulas():
    _, data = noisy("x0/(1 - 0.01*x1^2)", 1, 3, 2, 0.05)
    found = found_in(data)
    bits = [each.bits for each in found.rivals]
    assert 1 < len(bits) <= 10
    assert bits == sorted(bits)
    values = to_numpy(found.rivals[0].expression, ["x0", "x1"])(data.x)
    assert_allclose(values, found.formula(data.x), rtol=1e-9)


def fitted(y, x, *powers):
    """Return the fit of a sum of powers of x."""
    terms = tuple(Term(1.0, ((0, Fraction(power)),)) for power in powers)
    template = Template(IDENTITY_TRANSFORM, Term(1.0), terms)
    return TemplateFitting(template, Coordinates.of_inputs(x), y, np.ones(len(y))).run()


def test_a_term_without_evidence_costs_more_than_it_gains():
    x = uniform(1, 2, 400, 1)
    y = 2 * x[:, 0] ** 2 + 0.1 * np.random.default_rng(1).standard_normal(400)
    short = fitted(y, x, 2)
    long = fitted(y, x, 2, 1)
    assert long.error < 1.01 * short.error
    assert long.bits > short.bits


def test_terms_that_cancel_each_other_need_all_their_digits():
    x = uniform(1, 2, 400, 1)
    y = x[:, 0] + 1e-3 * np.random.default_rng(1).standard_normal(400)
    assert fitted(y, x, 1, 2, 3).bits > fitted(y, x, 1).bits + 20


def test_only_candidates_asked_for_are_in_the_formulas():
    _, data = noisy("x0 + 3*sin(2*x0)", 1, 3, 1, 0.05, 100)
    found = found_in(data, ["x", "x^2", "exp"])
    for each in found.rivals:
        assert not each.expression.has(sympy.sin, sympy.cos, sympy.log, sympy.tanh)


@pytest.mark.parametrize("levels, slope", [((0.0, 1.0), 10.0), ((1.0, 2.0), 0.0)])
def test_an_input_with_two_values_is_in_no_function_and_no_power(levels, slope):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(1, 3, 200), rng.choice(levels, 200)])
    y = 40 + 100 * x[:, 1] + slope * x[:, 0] + 12 * rng.standard_normal(200)
    found = found_in(SearchData(x, y, x, y))
    level = sympy.Symbol("x1", real=True)
    for each in found.rivals:
        parts = each.expression.atoms(sympy.Function, sympy.Pow)
        assert not [part for part in parts if part.free_symbols == {level}]
    shortest = found.rivals[0].expression
    assert shortest.has(level)
    assert sympy.diff(shortest, level, 2) == 0


def test_search_goes_on_if_y_is_nothing_but_noise():
    x = uniform(1, 2, 200, 1)
    y = np.random.default_rng(0).standard_normal(200)
    assert not found_in(SearchData(x, y, x, y), budget=4.0).noise


def test_a_second_search_in_the_same_variables_goes_on_where_the_first_ended(monkeypatch):
    proposals = []
    singles = Products.singles
    monkeypatch.setattr(Products, "singles", lambda self: proposals.append(1) or singles(self))
    _, data = noisy("exp(x0) - 4*x0", -3, 3, 1, 0.01, 60)
    none = Reduction.none(1)
    run = FormulaSearch(SearchProblem(data, choose(["x", "exp"]), 30.0))
    short = list(run.sparse(none, short=True))[-1]
    assert not short.noise
    assert list(run.sparse(none))[-1].noise
    assert proposals == [1]
