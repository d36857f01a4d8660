"""Symmetries of points, formulas from pairs of small expressions, and graphs of expressions."""

from dataclasses import replace

import numpy as np
import pytest
import sympy
from cases import cases, refuses
from made_graphs import evaluate, points, uniform
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.engine.symbolic import Budget, choose, fit_expression, search
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.formula import finish_formula
from kanrun.engine.symbolic.problem import FittedStructure, SearchData, SearchProblem
from kanrun.engine.symbolic.quotients import rational_functions
from kanrun.engine.symbolic.reductions import dimensionless, power_law
from kanrun.engine.symbolic.regression import output_transforms, pair_formulas
from kanrun.engine.symbolic.symmetries import reduce_variables
from kanrun.errors import KanrunError, UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse
from kanrun.formulas.units import dimensions


@pytest.mark.parametrize(
    "text, inputs, left",
    [
        *cases("""
x0*exp(-x1*x2/x3) | 4 | 1
x0 + exp(x1) | 2 | 2
"""),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in cases("""
3*x0^2*sqrt(x1)/x2 | 3 | 0
x0/((x1-x2)^2 + x3^2) | 4 | 0
x0*x1 + x2^2*sin(x0) | 3 | 2
""")
        ),
    ],
)
def test_symmetries_reduce_the_number_of_variables(text, inputs, left):
    data = points(text, 1, 3, inputs)
    reduction = reduce_variables(data)
    assert len(reduction.variables) == left
    inner = reduction.data(data)
    factor = evaluate(reduction.factor, data.x)
    assert_allclose(factor * inner.y, data.y, rtol=1e-12)
    if left == 0:
        assert_allclose(inner.y, inner.y[0], rtol=1e-12)


@pytest.mark.parametrize(
    "text, variables",
    cases("""
sin(9*x0*x1/x2)^2 | ['x0*x1/x2']
cos(20*(x0 - 2*x1)) | ['x0 - 2*x1']
"""),
)
def test_a_function_that_varies_fast_along_one_product_or_sum(text, variables):
    reduction = reduce_variables(points(text, 1, 3, 3 if "x2" in text else 2, 2000))
    assert list(reduction.variables) == [parse(each) for each in variables]


@pytest.mark.parametrize(
    "text, variables",
    cases("""
sin(6*x0*x1/x2)^2 | ['x0*x1/x2']
x1*tanh(x0/x2)/x2^3 | ['x0/x2']
"""),
)
def test_groups_of_variables_are_found_under_noise(text, variables):
    exact = points(text, 1, 3, 3, 1000)
    rng = np.random.default_rng(0)
    y, validation_y = (
        y + 0.01 * exact.y_std * rng.standard_normal(len(y)) for y in (exact.y, exact.validation_y)
    )
    data = replace(exact, y=y, validation_y=validation_y)
    reduction = reduce_variables(data)
    assert [str(each) for each in reduction.variables] == variables


def test_errors_of_transformed_values_weigh_as_errors_of_y():
    y = np.linspace(0.2, 0.9, 40)
    factor = np.linspace(1, 3, 40)
    transforms = output_transforms(
        y, {"exp", "x^2", "arcsin"}, np.ones(40), (factor, lambda: sympy.S.One)
    )
    assert len(transforms) == 4
    for each in transforms:
        moved = each.restore(each.values + 1e-6) - each.restore(each.values - 1e-6)
        assert_allclose(each.rows, np.abs(moved) / 2e-6, rtol=1e-5)
    assert (replace(transforms[1], size=1.0).rows == 1).all()


def over_decades(text, inputs, angles=()):
    """Return points of both signs whose inputs, other than `angles`, span three decades."""
    rng = np.random.default_rng(0)
    x = 10 ** rng.uniform(-1.5, 1.5, (900, inputs)) * rng.choice([-1, 1], (900, inputs))
    x[:, list(angles)] = rng.uniform(0, 3, (900, len(angles)))
    y = evaluate(parse(text), x)
    return SearchData(x[:800], y[:800], x[800:], y[800:])


@pytest.mark.parametrize(
    "text, angles, reduction",
    cases("""
x0*cos(x2)/x1^2 | (2,) | (['x2'], 'x0/x1**2')
x0^2*x1^4/(x1^2-x2^2)^2 | () | (['x1/x2'], None)
sin(x0*x1)^2 | () | (['x0*x1'], None)
"""),
)
def test_groups_are_found_for_inputs_of_either_sign_over_decades(text, angles, reduction):
    found = reduce_variables(over_decades(text, 2 + ("x2" in text), angles))
    variables, factor = reduction
    assert [str(each) for each in found.variables] == variables
    assert factor is None or str(found.factor) == factor


@pytest.mark.parametrize("square, high", [(1000, 1), (299.792458**2, 10)])
def test_a_quotient_that_is_nearly_a_root_is_the_root(square, high):
    """For small x1, x1/sqrt(1 - x1^2) equals a quotient of degree 2 up to 1e-12."""
    text = f"x0*x1/sqrt(1 - x1^2/{square})"
    data = points(text, 0.1, high, 2)
    x = uniform(high, 8 * high, 50, 2, 8)
    problem = SearchProblem(data, choose(None))
    *_, found = (each for each in search(problem) if isinstance(each, FittedStructure))
    assert found.is_exact
    assert_allclose(found.formula(x), evaluate(parse(text), x), rtol=1e-9)


def test_a_variable_that_is_zero_somewhere_is_no_divisor():
    data = points("x0^2*(1 + x1)", -1, 1, 2)
    data.x[4, 0], data.y[4] = 1e-6, 1e-12 * (1 + data.x[4, 1])  # almost zero
    assert reduce_variables(data).factor == parse("x0^2")
    data.x[3, 0] = data.y[3] = 0.0
    data = replace(data)  # without cached values
    reduction = reduce_variables(data)
    assert np.isfinite(reduction.data(data).y).all()
    assert reduction.factor == 1


@pytest.mark.parametrize(
    "text",
    [
        "(1 - x0*x1)/sqrt(1 - x0^2)",
        *(
            pytest.param(text, marks=pytest.mark.slow)
            for text in (
                "sqrt(1 + x0^2 - 2*x0*cos(x1))",
                "exp(-x0/x1) + x0/x1^2",
                "x1*log(x0 + x1^2)",
                "(x0 + 2)/(1 + 3*x1*x0)",
                "exp(x1*log(x0))",
            )
        ),
    ],
)
def test_pairs_of_small_expressions_are_found(text):
    data = points(text, 0.2, 0.9, 2)
    expression = next(pair_formulas(data, choose(None)))
    x = uniform(0.2, 0.9, 50, 2, 8)
    assert_allclose(evaluate(expression, x), evaluate(parse(text), x), rtol=1e-9)


@pytest.mark.parametrize(
    "text, inputs",
    [
        *cases("""
x0*x3 + x1*x4 + 2.5*x2^3 - x0*x1*x2 | 5
20 - x0 - x0*x1/(1 + 0.5*x0^2) | 2
sqrt(x0^2 + 3*x1*x2 + 1) | 3
(x0 - x1)/sqrt(x2^2/5 + x3^2/7) | 4
x0/2 + sqrt(x0*x1 + x2) | 3
x0^2/(3 + x0*cos(x1)) | 2
sqrt(x0 + 2*cos(x1 - x2) + 3) | 3
"""),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in cases("""
0.8 + 24.3*(2*x1 + 3*x2^2)/(4*x3^3 + 5*x0^4) | 4
""")
        ),
    ],
)
def test_quotients_of_polynomials_are_found_at_once(text, inputs):
    expression = rational_functions(points(text, 1, 3, inputs, 900), waves=True)[0]
    x = uniform(1, 3, 50, inputs, 8)
    assert_allclose(evaluate(expression, x), evaluate(parse(text), x), rtol=1e-9)


def test_values_over_decades_are_weighted_by_their_size():
    x = 10 ** uniform(-2, 2, 400, 2)
    y = x[:, 0] ** 3 / (1 + x[:, 1] ** 2)
    data = SearchData(x, y, x, y, relative=True)
    assert data.overall_error(to_numpy(rational_functions(data)[0], ["x0", "x1"])) < 1e-12


def test_a_sine_is_no_quotient_of_polynomials():
    assert not rational_functions(points("sin(2*x0)*x1", -1, 2, 2))
    near = points("x0-x1*exp(-x2*x3/10)", 0.5, 1.0, 4)
    assert not rational_functions(near), "a quotient that approximates is none"


def test_powers_of_noisy_points_are_simple_fractions():
    exact = points("3e-7*x0^(3/2)/x1", 1, 9, 2)
    noise = np.random.default_rng(2).normal(1, 0.02, exact.y.shape)
    law = power_law(replace(exact, y=exact.y * noise))
    factor, shape = law.as_coeff_Mul()
    assert shape == parse("x0^(3/2)/x1")
    assert float(factor) == pytest.approx(3e-7, rel=0.01)
    assert power_law(points("x0 - 1.5", 1, 2, 1)) is None


def test_only_candidates_asked_for_are_used():
    data = points("sin(x0)*x1 + x0", 0.2, 0.9, 2, 150)
    for expression in pair_formulas(data, choose(["x", "x^2", "exp"])):
        assert not expression.atoms(sympy.sin, sympy.cos, sympy.tan, sympy.log)


EXPRESSIONS = [
    "2*x0*x1^2/(3*x2)",
    "x0^6 - 4*x1^(3/2)/x2^3 + 5",
    "exp(-(2*x0 - 1)^2)*sin(3*x1 + 2) + log(x2/x0)",
    "sqrt((x0 + x1)/(x1*x2 + 2)) - 7*(x0 - x2)*(x1 + x2)",
    "x0^x1 + tanh(x2*(x0 + 1))",
    "sqrt(35)*(x0 - x1)/sqrt(7*x1 + pi*x2)",
    "1/(1 + exp(x0*x1)) + abs(x0 - x1)*asin(x2/9)",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_graph_of_an_expression_has_its_values(text):
    x = uniform(1, 2, 40, 3)
    graph = graph_of_expression(parse(text), 3)
    assert_allclose(graph(x), evaluate(parse(text), x), rtol=1e-12)
    *_, jacobian = graph.linearise(x)
    assert jacobian.shape == (40, graph.parameters.size)
    assert np.isfinite(jacobian).all()


def test_expressions_without_a_graph_are_refused():
    with pytest.raises(KanrunError, match="is not a candidate"):
        graph_of_expression(parse("erf(x0) + x1"), 2)
    with pytest.raises(KanrunError, match="not finite"):
        graph_of_expression(parse("x0") + sympy.zoo, 1)
    with pytest.raises(KanrunError, match="not real"):
        graph_of_expression(sympy.sqrt(-2) * parse("x0"), 1)


def test_units_reduce_variables_to_dimensionless_groups():
    dims = dimensions({"x0": "kg", "x1": "m", "x2": "mm/ms", "y": "N"}, ["x0", "x1", "x2", "y"])
    data = points("x0*x2^2/x1", 1, 2, 3)
    reduction = dimensionless(data, dims)
    assert reduction.variables == ()
    assert sympy.simplify(reduction.factor - parse("x0*x2^2/x1")) == 0
    pendulum = dimensions({"x0": "m", "x1": "m/s^2", "y": "s"}, ["x0", "x1", "x2", "y"])
    assert dimensionless(data, pendulum).variables == (sympy.Symbol("x2", real=True),)
    with refuses("no product of powers"):
        dimensionless(data, dimensions({"x0": "m", "y": "s"}, ["x0", "x1", "x2", "y"]))


@pytest.mark.parametrize(
    "units, sentence",
    cases("""
{'x9': 'm'} | target.units has 'x9'
{'x0': 'furlongs'} | 'furlongs', which is not known
{'x0': 'm+s'} | not a product of powers
"""),
)
def test_unknown_units_are_refused(units, sentence):
    with pytest.raises(UsageError, match=sentence):
        dimensions(units, ["x0", "y"])


def test_units_are_exponents_of_the_base_units():
    units = {"a": "J/(mol*K)", "b": "kPa", "c": "m^(1/2)", "d": "1"}
    found = dimensions(units, list("abcd"))
    assert_array_equal(found[0], [2, 1, -2, 0, -1, -1, 0])
    assert_array_equal(found[1], [-1, 1, -2, 0, 0, 0, 0])
    assert_array_equal(found[2], [0.5, 0, 0, 0, 0, 0, 0])
    assert not found[3].any()


def test_two_sines_of_nearly_equal_frequency_become_one():
    data = points("sin(3*x0)*exp(-x1)", -1, 1, 2)
    split = parse("(0.158*sin(2.9999996*x0) + 0.842*sin(3.00000008*x0))*exp(-x1)")
    exact = fit_expression("", split, data)
    plain = finish_formula(exact.formula, data, Budget(5.0)).expression
    assert len(plain.atoms(sympy.sin)) == 1
