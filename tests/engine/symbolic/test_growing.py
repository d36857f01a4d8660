"""Tests of the proposers that work until the budget ends."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from kanrun.engine.symbolic import SearchData, SearchProblem, choose
from kanrun.engine.symbolic.growing import Growing, polynomials
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse


def points(text, inputs, low=-1.0, high=1.0):
    names = [f"x{i}" for i in range(inputs)]
    x = np.random.default_rng(0).uniform(low, high, (400, inputs))
    y = to_numpy(parse(text, names), names)(x)
    return SearchData(x[:300], y[:300], x[300:], y[300:])


def error(expression, data):
    names = [f"x{i}" for i in range(data.x.shape[1])]
    return data.error(to_numpy(expression, names))


@pytest.mark.parametrize(
    "text, inputs, terms",
    [("x0+x0^2+x0^3+x0^4+x0^5+x0^6+x0^7+x0^8+x0^9", 1, 9), ("x0^3*x1-2*x1^4+x0", 2, 3)],
)
def test_polynomials_are_found_with_the_terms_that_they_have(text, inputs, terms):
    data = points(text, inputs)
    (found,) = polynomials(data)
    assert error(found, data) < 1e-12
    assert len(sympy.Add.make_args(found)) == terms


def test_other_functions_are_no_polynomials():
    assert not list(polynomials(points("exp(3*x0)/(x0+1.01)", 1)))


@pytest.mark.parametrize("text", ["cos((1-1.7*x0)^2)", "x0*sin(2*x0+1)"])
def test_expressions_grow_to_compositions_and_products(text):
    data = points(text, 1)
    growing = Growing(SearchProblem(data, choose(None)))
    assert min(error(each, data) for each in growing.expressions.grown(8.0)) < 1e-8


def test_equal_problems_grow_equal_expressions():
    data = points("tanh(x0)*cos(x1)", 2)
    first, second = (
        list(Growing(SearchProblem(data, choose(["x", "tanh", "cos"]))).expressions.grown(1.0))
        for _ in range(2)
    )
    assert first == second
