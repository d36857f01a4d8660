"""Formulas from graphs: recovery of known formulas, rounding of constants, certificates."""

import numpy as np
import pytest
import sympy
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from made_graphs import edge, evaluate, one_edge, split, uniform
from numpy.testing import assert_allclose

from kanrun.engine.symbolic import (
    Budget,
    ConstantsFitting,
    Edge,
    Graph,
    SearchData,
    SearchProblem,
    Symbolic,
    VerificationData,
    certify,
    choose,
    finish_formula,
)
from kanrun.engine.symbolic.conversions import to_expression
from kanrun.engine.symbolic.formula import Formula, widened
from kanrun.engine.symbolic.graph import Spline
from kanrun.engine.symbolic.refit import (
    confidence_intervals,
    open_constants,
    refit,
    significant,
    standard_errors,
)
from kanrun.engine.symbolic.simplification import (
    as_written,
    equivalent_forms,
    exact_decimals,
    expansion_terms,
    nice,
)
from kanrun.engine.symbolic.snapping import select
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse

BUDGET = 5.0
XS = ["x0", "x1"]
INNER = ("x", "x^2", "x^3", "sin", "exp", "tanh")
OUTER = ("x", "exp", "sin", "sqrt", "x^2")


UNIT = uniform(0.1, 0.9, 50, 2)


def as_spline(function, t):
    ends = float(t.min()), float(t.max())
    points = np.linspace(*ends, 300)
    return Spline.through(points, function.evaluate(points)[0], ends, 30, 3)


def test_a_planted_formula_is_recovered_from_its_network():
    recovered(("sin", "x^2", "exp"), (1.3, 0.9))


@pytest.mark.slow
@settings(max_examples=25)
@given(
    names=st.tuples(*map(st.sampled_from, (INNER, INNER, OUTER))),
    scales=st.tuples(st.floats(0.8, 2.0), st.floats(0.8, 2.0)),
)
def test_many_planted_formulas_are_recovered(names, scales):
    recovered(names, scales)


def recovered(names, scales):
    """Check that splines fitted to the edges of a formula are snapped to a formula equal to it."""
    constants = [(scale, 0.1, 0.5, 1.5) for scale in scales] + [(0.6, 0.2, 1.3, 0.0)]
    ends = ((0, 2), (1, 2), (2, 3))
    planted = Graph(
        2,
        ("sum", "sum"),
        tuple(
            edge(*nodes, name, *each)
            for nodes, name, each in zip(ends, names, constants, strict=True)
        ),
    )
    x = np.random.default_rng(5).uniform(-1, 1, (300, 2))
    y = planted(x)
    if not np.isfinite(y).all():
        return
    values = planted.edge_outputs(x)[0]
    network = planted
    for i, one in enumerate(planted.edges):
        assert isinstance(one.function, Symbolic)
        network = network.with_function(i, as_spline(one.function, values[one.source]))
    problem = SearchProblem(split(x, y), choose(None))
    found = select("planted", network, problem)
    assert found.formula is not None
    assert found.error < 1e-9


@pytest.mark.parametrize(
    "value, text",
    [
        *cases("""
0.5 | 1/2
-3.0 | '-3'
2.13 | 213/100
0.426 | 213/500
6.674e-11 | 3337/50000000000000
0.7234871234 | 'None'
"""),
        (np.pi, "pi"),
        (2 * np.e, "2*E"),
        (np.sqrt(2) / 2, "sqrt(2)/2"),
        (np.pi**2, "pi**2"),
        (1 / (8 * np.pi**2), "1/(8*pi**2)"),
        (np.sqrt(10), "sqrt(10)"),
        (np.log(2), "log(2)"),
    ],
)
def test_nice_numbers_have_units_or_few_digits(value, text):
    assert str(nice(value, 1e-10 * abs(value))) == text
    assert nice(1e-14, 1e-10) == 0


def test_rounding_needs_the_data_to_allow_it():
    x = uniform(0, 1, 400, 1)
    for scale, shown in ((2.0, True), (2.0003, False)):
        y = np.exp(scale * x[:, 0])
        graph = one_edge("exp", 1.9, 0.0, 1.0, 0.0, free="acd")
        formula = finish_formula(graph, split(x, y), Budget(BUDGET))
        assert (formula.expression == sympy.exp(2 * parse("x0"))) is shown
        assert_allclose(formula(x), y, rtol=1e-10)


@pytest.mark.parametrize(
    "text",
    [
        "+".join(f"sin({k}*x0)*exp(x1/{k})" for k in range(1, 60)),
        "(x0+x1+1)^40 - x1",
        "tanh(123456789*x0)",
        "sinh(123456789*x0)",
        "x1 + 5000000*log(x0/1000000)",
    ],
)
def test_expressions_too_large_to_simplify_are_returned_unchanged(text):
    assert equivalent_forms(parse(text), XS, UNIT, 0.1)[0] == parse(text)


def test_large_multiples_of_an_angle_are_expanded_up_to_a_limit():
    assert expansion_terms(parse("(x0+x1+1)^40 - x1")) == 861 + 1
    assert expansion_terms(parse("sin(256*x0/3)")) == 1
    assert expansion_terms(parse("sin(512*x0/3)")) == 512, "an angle is halved nine times"


def test_numbers_with_many_digits_are_not_factored():
    bells = "+".join(
        f"0.{k}1234567890123*exp(-(0.1234567890{k}*x0-0.5432109876{k})^2)" for k in range(2, 6)
    )
    assert len(equivalent_forms(exact_decimals(parse(bells)), XS, UNIT, BUDGET)) < 6


def certified(graph, text, other=None):
    """Return the certificate, for the function `other`, of the formula for `text`."""
    x = uniform(-1, 1, 300, 1)
    truth = to_numpy(parse(text), ["x0"])
    formula = finish_formula(graph, split(x, truth(x)), Budget(BUDGET))
    truth = to_numpy(parse(other or text), ["x0"])
    return certify(formula, truth, VerificationData(x, truth(x), x, x, truth))


def sine(size):
    return one_edge("sin", np.pi, 0.0, size, 0.0)


def test_certificate_tells_the_true_formula_from_a_similar_one():
    good = certified(sine(1.0), "sin(pi*x0)")
    assert good.recovered == "yes"
    assert good.difference < 1e-12
    off = certified(sine(1.0), "sin(pi*x0)", "sin(3*x0)")
    assert off.recovered == "no"


def test_certificate_without_a_true_function_is_unknown():
    x = uniform(-1, 1, 30, 1)
    formula = Formula(parse("x0"), ("x0",), sine(1.0))
    known = VerificationData(x, x[:, 0], x, x, None)
    assert certify(formula, formula, known).recovered == "unknown"


def test_certificate_measures_errors_relative_to_the_scale_of_the_truth():
    near = certified(sine(1e-3), "sin(pi*x0)/1000", "sin(pi*x0 + 1e-7)/1000")
    assert near.formula_rmse < 1e-9
    assert near.recovered == "no"


def test_formula_with_a_spline_is_never_recovered():
    x = np.linspace(-1, 1, 300)
    spline = Spline.through(x, 1e-9 * x, (-1.0, 1.0), 5, 3)
    found = certified(Graph(1, ("sum",), (Edge(0, 1, spline),)), "1e-9*x0")
    assert found.formula_rmse < 1e-20
    assert found.recovered == "no"


@pytest.mark.parametrize(
    "text, expected",
    cases("""
2.6371234123*x0/(2.6371234123*x1^2+2.6371234123) | x0/(x1**2 + 1)
exp(-(3.1622776601683795*x0-0.94868329805051377)^2) | exp(-10*(x0 - 0.3)**2)
2.13*x0 | 2.13*x0
1.5*x0 - 6.731767878463172*sin(x1)^3 + 5.048825908847379*sin(x1) \
+ 4.322418446945118*cos(x1)^3 - 3.241813835208838*cos(x1) | 1.5*x0 + 2*cos(3*x1 - 1)
"""),
)
def test_a_formula_is_written_as_a_person_would(text, expected):
    expression = parse(text)
    decimal = expression.xreplace(
        {n: sympy.Float(n, 17) for n in expression.atoms(sympy.Rational) if not n.is_Integer}
    )
    assert str(as_written(equivalent_forms(decimal, XS, UNIT, BUDGET)[0])) == expected


@pytest.mark.parametrize("text", ["x0/8", "x0/3", "1000000001*x0/4", "0.426*x0", "0.2*x0"])
def test_fractions_are_decimal_numbers_where_these_are_not_longer(text):
    assert str(as_written(parse(text))) == text


def least_squares_errors(noise, *slopes):
    """Return the standard errors of constants whose derivatives are `slopes`."""
    slopes = np.stack(slopes, axis=1)
    return noise * np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)))


def intervals(expression, noise, low, high):
    """Return points, and the intervals of the constants of a noisy expression at these points."""
    generator = np.random.default_rng(0)
    x = generator.uniform(low, high, (400, 1))
    y = to_numpy(expression, ["x0"])(x) + noise * generator.normal(size=400)
    return x[:, 0], confidence_intervals(expression, ["x0"], x, y)


def test_confidence_intervals_hold_the_constants():
    x, found = intervals(2.5 * sympy.exp(-0.7 * parse("x0")), 0.1, 0, 4)
    assert sorted(abs(each.value) for each in found) == [0.7, 2.5]
    rate = min(found, key=lambda each: abs(each.value))
    exact = least_squares_errors(0.1, np.exp(-0.7 * x), -2.5 * x * np.exp(-0.7 * x))[1]
    assert rate.high - rate.low == pytest.approx(2 * 1.966 * exact, rel=0.1)
    assert rate.standard_error == pytest.approx(exact, rel=0.1)
    assert str(rate).startswith("-0.7 +- 0.00")


def test_constants_within_absolute_values_have_intervals():
    """Sympy does not know that x/sign(x) is positive, so its powers could be complex."""
    power = parse("x0/sign(x0)") ** sympy.Float("0.7")
    x, found = intervals(sympy.Abs(power - sympy.Float("0.25")), 0.01, -1, 1)
    found = sorted(found, key=lambda each: each.value)
    power = np.abs(x) ** 0.7
    side = np.sign(power - 0.25)
    exact = least_squares_errors(0.01, side, side * power * np.log(np.abs(x)))
    assert [abs(each.value) for each in found] == [0.25, 0.7]
    assert [each.standard_error for each in found] == pytest.approx(exact, rel=0.1)


def test_equal_constants_are_shared_only_within_one_kind_of_term():
    x, found = intervals(parse("x0/2 + sqrt(x0)"), 0.03, 0, 2)
    exact = least_squares_errors(0.03, np.sqrt(x) * np.log(x), x)
    assert [each.standard_error for each in found] == pytest.approx(exact, rel=0.1)
    assert [each.text for each in found] == ["1/2", "1/2"]
    opened = open_constants(parse("sin(x0 - 0.3) + 3*cos(x0 - 0.3)^2 - 0.3 - x1"))[1]
    assert sorted(map(str, opened.values())) == ["-3/10", "-3/10", "3"]


def test_formulas_are_shown_with_the_digits_that_the_points_determine():
    expression = sympy.N(parse("2.34567*x0 + 12.3456789"), 17)
    _, found = intervals(expression, 0.02, 0, 1)
    assert str(significant(expression, found)) == "2.346*x0 + 12.346"
    _, exact = intervals(expression, 0.0, 0, 1)
    assert significant(expression, exact).free_symbols == expression.free_symbols


def test_equivalent_forms_are_different_ways_of_writing_the_same():
    forms = equivalent_forms(parse("x0^2-x1^2"), XS, UNIT, BUDGET)
    assert {"x0**2 - x1**2", "(x0 - x1)*(x0 + x1)"} <= {str(form) for form in forms}
    for form in forms:
        assert_allclose(evaluate(form, UNIT), UNIT[:, 0] ** 2 - UNIT[:, 1] ** 2, atol=1e-13)


POSITIVE = uniform(0.1, 0.9, 50, 4) + np.array([0, 0, 2, 0])
POSITIVE = np.concatenate([POSITIVE, widened(POSITIVE)])


@pytest.mark.parametrize(
    "text, meant",
    cases("""
tanh(atanh(x0)+atanh(x1)) | (x0 + x1)/(1 + x0*x1)
(x0+x1)^2/4-(x0-x1)^2/4 | x0*x1
exp(log(x0)+2*log(x1)) | x0*x1^2
2*atanh((x1-1)/(x1+1)) | log(x1)
log(2*x0)*x1-log(2)*x1 | x1*log(x0)
2*log(x0)+log(3*x1)-log(3) | log(x0^2*x1)
-x0*(exp(x1)-1)^3 | x0*(1-exp(x1))^3
x0-x0*exp(-x1)+x1*exp(-x1) | x0+(x1-x0)*exp(-x1)
x0*x1*x2/(x0*x1 + x0*x2 + x1*x2) | 1/(1/x2 + 1/x1 + 1/x0)
x0*x1*x3/(x1*x3 + x2*x3 + x0*x2) | x0*x1/(x0*x2/x3 + x1 + x2)
x0*x3*sqrt(1+(x1^2+x2^2)/x3^2) | x0*sqrt(x1^2+x2^2+x3^2)
x1*sqrt(x0^2/x1^2-2*x0*cos(x2-x3)/x1+1) | sqrt(x0^2-2*x0*x1*cos(x2-x3)+x1^2)
(1+x1^2/x0^2)^(-3/2)/x0^2 | x0/(x0^2+x1^2)^(3/2)
x0*sqrt(-1/(x1 - 9)) | x0/sqrt(9 - x1)
sqrt(x0*x1)/sqrt(x2) | sqrt(x0*x1/x2)
1/2 - cos(2*x0*x1)/2 | sin(x0*x1)^2
x0*x3/(3 - 6*x1^2/x2^2 + 3*x1^4/x2^4) | x0*x2^4*x3/(3*(x1^2 - x2^2)^2)
sqrt((100*x0^2 + 20*x0*x1*x2 + x1^2*x2^2)/x3) | (10*x0 + x1*x2)/sqrt(x3)
"""),
)
def test_the_first_form_is_short_and_what_textbooks_write(text, meant):
    names = [f"x{i}" for i in range(4)]
    assert equivalent_forms(parse(text), names, POSITIVE, BUDGET)[0] == parse(meant)


def test_a_sign_that_the_points_show_stays_before_its_root():
    signed = uniform(-2, 2, 50, 2)
    odd = parse("x0*sqrt(1+x1^2/x0^2)")
    found = equivalent_forms(odd, XS, signed, BUDGET)[0]
    assert_allclose(evaluate(found, signed), evaluate(odd, signed))


def test_both_standard_errors_divide_by_the_same_degrees_of_freedom():
    x = np.linspace(0, 1, 12)[:, None]
    y = 2 * x[:, 0] + 1 + 0.1 * np.random.default_rng(0).standard_normal(12)
    data = SearchData(x, y, x, y)
    graph = refit(one_edge("x", 1.0, 0.0, 2.0, 1.0, free="cd"), data)
    found = confidence_intervals(to_expression(graph, ("x0",)), ("x0",), x, y)
    errors = sorted(each.standard_error for each in found)
    assert sorted(standard_errors(graph, data).values()) == pytest.approx(errors, rel=1e-6)
    few = SearchData(x[:2], y[:2], x[:2], y[:2])
    assert standard_errors(graph, few) == {}, "two points leave nothing of two constants"


@pytest.mark.parametrize(
    "formula",
    [
        "3.7*max(0.3*x0 - 0.1, 0.2*x1)",
        "x1*floor(5.3*x0) + 0.7*abs(2.1*x0 - 0.9)",
        "besselj(2, 3.3*x0) + 1.4*sign(x1 - 0.3)",
    ],
)
def test_constants_of_functions_with_steps_have_slopes(formula):
    x = np.random.default_rng(0).uniform(0, 1, (200, 2))
    expression, constants = open_constants(parse(formula))
    unknowns = [each.name for each in constants]
    values = np.array([float(each) for each in constants.values()])
    problem = ConstantsFitting(expression, XS, unknowns, (x, 0 * x[:, 0]), values)
    slopes = problem.linearised(values)[1]
    for column, change in zip(slopes.T, 1e-7 * np.eye(len(values)), strict=True):
        above, below = (problem.linearised(values + s * change)[0] for s in (1, -1))
        apart = np.abs((above - below) / 2e-7 - column)
        assert np.median(apart) < 1e-7
        assert np.mean(apart > 1e-6) < 0.05, "only where a step or a kink lies between"
