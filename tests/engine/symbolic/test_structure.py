"""Fewer variables, formulas from pairs of terms or quotients, and graphs of expressions."""

from dataclasses import replace

import numpy as np
import pytest
import sympy
from cases import cases, refuses
from made_graphs import evaluate, points, split, uniform
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.engine.symbolic import Budget, choose, fit_expression, search
from kanrun.engine.symbolic.columns import covered
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.dictionary import (
    OutputTransform,
    dictionary_of_one,
    expand_dictionary,
    output_transforms,
    pair_formulas,
    solve_terms,
)
from kanrun.engine.symbolic.formula import finish_formula
from kanrun.engine.symbolic.problem import FittedStructure, SearchData, SearchProblem
from kanrun.engine.symbolic.quotients import rational_functions
from kanrun.engine.symbolic.reductions import (
    MANY,
    Reduction,
    dimensionless,
    of_one_sign,
    power_factor,
    power_law,
    reduce_variables,
    relevant_inputs,
)
from kanrun.errors import KanrunError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import dimensions, parse


def slow(text):
    """Return the rows of a table as slow cases."""
    rows = ((row if isinstance(row, tuple) else (row,)) for row in cases(text))
    return [pytest.param(*row, marks=pytest.mark.slow) for row in rows]


def named(found):
    return list(map(str, found.variables))


@pytest.mark.parametrize(
    "text, inputs, count, noise, variables",
    [
        *cases("""
x0*exp(-x1*x2/x3) | 4 | 500 | 0 | ['x1*x2/x3']
x0 + exp(x1) | 2 | 500 | 0 | ['x0', 'x1']
sin(9*x0*x1/x2)^2 | 3 | 2000 | 0 | ['x0*x1/x2']
cos(20*(x0 - 2*x1)) | 2 | 2000 | 0 | ['x0 - 2*x1']
sin(6*x0*x1/x2)^2 | 3 | 1000 | 0.01 | ['x0*x1/x2']
x1*tanh(x0/x2)/x2^3 | 3 | 1000 | 0.01 | ['x0/x2']
"""),
        *slow("""
3*x0^2*sqrt(x1)/x2 | 3 | 500 | 0 | []
x0/((x1-x2)^2 + x3^2) | 4 | 500 | 0 | []
x0*x1 + x2^2*sin(x0) | 3 | 500 | 0 | ['x0', 'x2/sqrt(x1)']
"""),
    ],
)
def test_symmetries_reduce_the_number_of_variables(text, inputs, count, noise, variables):
    """Two functions vary fast along a product or sum; two have noise."""
    data = points(text, 1, 3, inputs, count)
    rng = np.random.default_rng(0)
    y, held = (
        each + noise * data.y_std * rng.standard_normal(each.size)
        for each in (data.y, data.validation_y)
    )
    reduction = reduce_variables(replace(data, y=y, validation_y=held))
    assert named(reduction) == variables
    if not variables:
        assert_allclose(reduction.data(data).y, reduction.data(data).y[0], rtol=1e-12)


@pytest.mark.parametrize("seed", [0, 3])
def test_noise_with_a_few_large_quotients_shows_no_symmetry(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-2, 2, (2, 160))
    y = 3 * a - 2.4 * b**2 + 1.4 + 0.4 * rng.normal(size=160)
    assert reduce_variables(split(np.column_stack([a, b]), y)) == Reduction.none(2)


@pytest.mark.parametrize("count", [MANY - 1, MANY + 2])
def test_relevant_inputs_are_selected_among_many(count):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, count))
    y = x[:, 1] + 2 * x[:, 4] * x[:, 6] + 0.3 * rng.normal(size=200)
    every = [f"x{i}" for i in range(count)]
    assert named(relevant_inputs(split(x, y))) == (["x1", "x4", "x6"] if count >= MANY else every)


def test_constant_inputs_and_the_last_of_exclusive_indicators_are_left_out():
    rng = np.random.default_rng(1)
    levels = np.eye(3)[rng.integers(0, 3, 60)]
    size = rng.uniform(1, 9, 60)
    x = np.column_stack([levels, np.full(60, 7.0), size, 2 * size - 1, size**2])
    data = split(x, levels[:, 1] + size + rng.normal(size=60))
    found = relevant_inputs(data)
    assert named(found) == ["x0", "x1", "x4", "x6"]
    assert not rational_functions(found.data(data))


@pytest.mark.parametrize("sign", [1, -1])
def test_output_transforms_are_undone_and_weigh_errors_as_errors_of_y(sign):
    y = sign * np.linspace(0.2, 0.9, 40)
    factor = np.linspace(1, 3, 40)
    names = {"1/x", "sqrt", "exp", "1/sqrt", "x^2", "1/x^2", "log", "arcsin", "arctan", "tanh"}
    transforms = output_transforms(y, names, np.ones(40), (factor, lambda: sympy.S.One))
    assert len(transforms) == 11
    for each in transforms:
        assert_allclose(each.restore(each.values), y)
        moved = each.restore(each.values + 1e-6) - each.restore(each.values - 1e-6)
        assert_allclose(each.rows, np.abs(moved) / 2e-6, rtol=1e-5)
    assert (replace(transforms[1], size=1.0).rows == 1).all()


def test_power_factors_and_one_sign_of_inputs_over_decades():
    """Half powers need positive inputs everywhere, and one sign needs points enough."""
    sizes = np.geomspace(1e-3, 1.0, 100)
    data = SearchData(sizes[:, None], sizes**1.5, sizes[:, None], sizes**1.5)
    for sign, factor in ((1, "x0**(3/2)"), (-1, "x0**2")):
        found = power_factor(data, replace(data, x=sign * data.x))
        assert str(found.factor) == factor
    for count, kept in ((100, 100), (20, 40)):
        x = np.concatenate([sizes[:count], -sizes[:count]])[:, None]
        y = np.concatenate([np.ones(count), np.exp(3 * sizes[:count])])
        assert len(of_one_sign(SearchData(x, y, x, y)).y) == kept


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
    "text, low, high, inputs",
    [
        *cases("""
cos(x0) + sin(2*x0 - x0^2) | -1 | 1 | 1
log(x0^2 + x0 + 1) + log(x0 + 2) | 0 | 2 | 1
x0^1.6/(0.8 + x0^1.6) | 0.1 | 5 | 1
x0^3/(exp(x0) - 1) | 0.2 | 8 | 1
abs(x0)^1.5 | -2 | 2 | 1
sin(x0^2) + x0^2 | 0.1 | 3 | 1
(1 - x0*x1)/sqrt(1 - x0^2) | 0.2 | 0.9 | 2
"""),
        *slow("""
sqrt(1 + x0^2 - 2*x0*cos(x1)) | 0.2 | 0.9 | 2
exp(-x0/x1) + x0/x1^2 | 0.2 | 0.9 | 2
x1*log(x0 + x1^2) | 0.2 | 0.9 | 2
(x0 + 2)/(1 + 3*x1*x0) | 0.2 | 0.9 | 2
exp(x1*log(x0)) | 0.2 | 0.9 | 2
"""),
    ],
)
def test_pairs_of_small_expressions_are_found(text, low, high, inputs):
    expression = next(pair_formulas(points(text, low, high, inputs), choose(None)))
    x = uniform(low, high, 50, inputs, 8)
    assert_allclose(evaluate(expression, x), evaluate(parse(text), x), rtol=1e-9)


def test_quotient_of_two_terms_is_fitted_to_rounding():
    t = np.linspace(1, 2, 101)
    line = dictionary_of_one(t, choose(["x"])).first(1)
    found = solve_terms(OutputTransform((1 + 2 * t) / (1 + t / 3)), line, line)
    assert found.error < 1e-14
    assert found.coefficients == pytest.approx([2, -1 / 3, 1])


def test_variance_explained_by_an_entry_is_that_of_least_squares():
    rng = np.random.default_rng(5)
    values = rng.normal(size=50)
    entries = 3.0 * rng.normal(size=(4, 50))
    basis = np.linalg.qr(rng.normal(size=(50, 2)))[0]
    explained, slopes = covered(values, np.vstack([entries, basis[:, 0]]), basis)
    without = np.linalg.lstsq(basis, values)[1][0]
    for entry, found, slope in zip(entries, explained, slopes, strict=False):
        solution, left = np.linalg.lstsq(np.column_stack([basis, entry]), values)[:2]
        assert_allclose([found, slope], [without - left[0], solution[2]], rtol=1e-10)
    assert (explained[4], slopes[4]) == (-np.inf, 0.0)


def test_functions_that_overflow_at_some_points_are_left_out():
    t = np.linspace(1.0, 900.0, 60)[:, None]
    y = 3 * np.log(t[:, 0]) + np.cos(t[:, 0])
    assert list(pair_formulas(SearchData(t, y, t, y), choose(["x", "log", "sin", "cos", "exp"])))


def test_dictionary_entries_are_finite_and_have_the_values_of_their_expressions():
    t = np.linspace(-2.0, 3.0, 50)
    entries = expand_dictionary(t[:, None], choose(None))
    assert np.isfinite(entries.values).all()
    inverses = entries.values[entries.families == "1/x"]
    assert len(inverses) > 0
    assert (np.sign(inverses) == np.sign(inverses[:, :1])).all()  # no pole within the range
    shown = entries.values / np.linalg.norm(entries.values, axis=1, keepdims=True)
    twice = (shown[:200] @ shown[:200].T).round(9) == 1
    assert twice.sum() == 200, "no entry is a multiple of another"
    for build, found in zip(entries.builds[::797], entries.values[::797], strict=True):
        assert_allclose(evaluate(build(), t[:, None]), found, rtol=1e-12, atol=1e-13)


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
        *slow("0.8 + 24.3*(2*x1 + 3*x2^2)/(4*x3^3 + 5*x0^4) | 4"),
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
    data = points("sin(x0)*x1 + x0", 0.2, 0.9, 2, 60)
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


@pytest.mark.parametrize(
    "units, sentence",
    cases("""
{'x9': 'm'} | target.units has 'x9'
{'x0': 'furlongs'} | 'furlongs', which is not known
{'x0': 'm+s'} | not a product of powers
{'x0': 'm', 'y': 's'} | no product of powers
"""),
)
def test_units_that_are_unknown_or_do_not_give_those_of_the_output_are_refused(units, sentence):
    with refuses(sentence):
        dimensionless(points("x0", 1, 2, 1), dimensions(units, ["x0", "y"]))


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
