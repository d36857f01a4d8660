"""NumPy functions made from expressions agree with sympy's own evaluation."""

import pickle
import runpy

import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
import sympy
from cases import cases, refuses
from hypothesis import given, settings
from matplotlib.mathtext import MathTextParser
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.errors import UsageError
from kanrun.formulas.conversion import to_latex, to_numpy, to_python
from kanrun.formulas.parsing import parse, variable
from kanrun.formulas.syntax import FUNCTIONS

VARIABLES = ("x0", "x1")
POINTS = np.array([[0.3, 0.7], [-0.6, 0.2], [1.7, -1.3], [-2.4, -0.1], [0.05, 3.1]])


def _expressions():
    leaves = st.sampled_from(["x0", "x1", "2", "0.3", "pi", "1.75"])
    forms = [f"{name}({{0}})" for name, entry in FUNCTIONS.items() if entry.arguments == 1]
    forms += [f"({{0}}{sign}{{1}})" for sign in "+-*/"]
    forms += [f"({{0}})^{power}" for power in ("2", "3", "(-1)", "0.5", "(-0.5)", "(1/3)")]
    forms += [f"besselj({order},{{0}})" for order in range(9)]
    forms += ["min({0},{1})", "max({0},{1})", "(-{0})"]

    def extend(inner):
        return st.builds(str.format, st.sampled_from(forms), inner, inner)

    return st.recursive(leaves, extend, max_leaves=5)


def _exactly(expression, point):
    """Return sympy's value with 30 digits; NaN if it is not real and finite."""
    values = {
        variable(name): sympy.Float(float(v), 30) for name, v in zip(VARIABLES, point, strict=False)
    }
    value = expression.subs(values).evalf(30)
    return float(value) if value.is_Number and value.is_finite else float("nan")


@given(_expressions())
@settings(max_examples=40)
def test_numpy_and_sympy_agree_and_text_reads_back(text):
    try:
        expression = parse(text)
    except UsageError:
        return
    by_numpy = to_numpy(expression, VARIABLES)(POINTS)
    # Values are compared only where a tiny change of the input has no effect, which excludes jumps,
    # poles and cancellations.
    moved = to_numpy(expression, VARIABLES)(POINTS * (1 + 1e-13))
    calm = np.isfinite(by_numpy) & (np.abs(moved - by_numpy) <= 1e-9 * (1 + np.abs(by_numpy)))
    # The expressions may differ: sympy may distribute a sign or simplify a Max when it reads them.
    again = to_numpy(parse(str(expression)), VARIABLES)(POINTS)
    assert_allclose(again[calm], by_numpy[calm], rtol=1e-7, atol=1e-9)
    for i in np.flatnonzero(calm)[:2]:
        exact = _exactly(expression, POINTS[i])
        if not np.isnan(exact):
            assert by_numpy[i] == pytest.approx(exact, rel=1e-7, abs=1e-9)


def numpy_of(text, x):
    """Return the values of an expression of x0 at points."""
    return to_numpy(parse(text), ["x0"])(np.asarray(x)[:, None])


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_has_a_numpy_form(name):
    """All but acosh are compared at points between 0 and 1."""
    several = "2, x0" if name == "besselj" else "x0, 1/2, x0^2"
    text = f"{name}({'x0' if FUNCTIONS[name].arguments == 1 else several})"
    x = np.linspace(0.05, 0.95, 9) + 1.0 * (name == "acosh")
    exact = [_exactly(parse(text), [each]) for each in x]
    assert_allclose(numpy_of(text, x), exact, rtol=2e-15, atol=1e-15)


@pytest.mark.parametrize(
    "text",
    cases(
        r"""
sqrt(2)*x0 + pi*x1
2^x0
x0^pi
max(x0, sqrt(2))*min(1, x1)
x0^-3 + 1/x1
x1^0.5/x0^0.5
"""
    ),
)
def test_constants_keep_float64_digits(text):
    expression = parse(text)
    x = np.array([[0.31, 0.72]])
    exact = _exactly(expression, x[0])
    assert to_numpy(expression, VARIABLES)(x)[0] == pytest.approx(exact, rel=5e-16)


@pytest.mark.parametrize(
    "names, value",
    cases("""
['x0', 'x1'] | -19
['x1', 'x0'] | 8
['x0', 'unused', 'x1'] | -199
"""),
)
def test_columns_follow_the_order_of_the_variables(names, value):
    x = np.array([[1.0, 10.0, 100.0]])[:, : len(names)]
    assert to_numpy(parse("x0 - 2*x1"), names)(x)[0] == value


def test_symbols_are_matched_by_name_whatever_their_assumptions():
    assert to_numpy(sympy.Symbol("a") ** 2, ["a"])([[3.0]])[0] == 9


@pytest.mark.parametrize("text", ["1/3", "pi", "0"])
def test_a_constant_expression_is_broadcast(text):
    constant = sympy.sympify(text)
    value = to_numpy(constant, VARIABLES)(np.zeros((4, 2)))
    assert value.tolist() == [float(constant)] * 4
    value[0] = 1.0  # the result is writable, not a read-only view


def test_not_real_values_are_nan_without_a_warning():
    with np.errstate(all="raise"):
        value = numpy_of("sqrt(x0) + log(x0) + 1/x0", [-1.0, 0.0, 1.0])
    assert np.isnan(value[0])
    assert not np.isfinite(value[1])
    assert value[2] == 2


def test_derivatives_of_kinks_are_evaluated():
    kink = to_numpy(sympy.diff(parse("max(x0, 0)^2 + abs(x0)"), variable("x0")), ["x0"])
    assert kink([[-2.0], [0.0], [3.0]]).tolist() == [-1.0, 0.0, 7.0]


@pytest.mark.parametrize(
    "expression, sentence",
    [
        (parse("x0 + x1"), "uses x1, which is not among the variables"),
        (sympy.gamma(variable("x0")), "has no numeric form"),
        (sympy.I * variable("x0"), "the constant I is not a real number"),
    ],
)
def test_expressions_without_a_numeric_form_are_refused(expression, sentence):
    with refuses(sentence):
        to_numpy(expression, ["x0"])


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"must be 1; their shape is \(3, 2\)"):
        to_numpy(parse("x0"), ["x0"])(np.zeros((3, 2)))


def test_numpy_functions_travel_between_processes():
    function = to_numpy(parse("besselj(2, x0) + max(x0, 1) + x0^3"), ["x0"])
    x = np.array([[0.5], [2.0]])
    assert_array_equal(pickle.loads(pickle.dumps(function))(x), function(x))


@pytest.mark.parametrize("order", [0, 1, 2, 8])
def test_bessel_functions_agree_with_mpmath(order):
    x = np.concatenate([np.linspace(-60, 60, 11), [0, 1e-300, 1e-8, 24.999999, 25.0, 1e3, -1e4]])
    value = numpy_of(f"besselj({order}, x0)", x)
    exact = [float(mpmath.besselj(order, float(v))) for v in x]
    assert_allclose(value, exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "text",
    cases(
        r"""
exp(sin(pi*x0) + x1^2)
j0(20*x0)/2 + erf(x1)
max(x0, x1, 1)*abs(x0)
cot(x0) - sec(x1)*csc(x0)
coth(2*x0)*sech(x1) + csch(x0)
"""
    ),
)
def test_python_source_is_the_same_function(text, tmp_path):
    expression = parse(text)
    path = tmp_path / "printed.py"
    path.write_text(to_python(expression, VARIABLES))
    value = runpy.run_path(str(path))["formula"](*POINTS.T)
    assert_allclose(value, to_numpy(expression, VARIABLES)(POINTS), rtol=1e-14)


def test_latex_and_python_names():
    assert to_latex(parse("x0^2/3")) == r"\frac{x_{0}^{2}}{3}"
    assert "def formula(b, a):" in to_python(parse("a*b", ["a", "b"]), ["b", "a"])
    with refuses("'petal width' is not a Python name"):
        to_python(parse("x0"), ["petal width"])


@pytest.mark.parametrize(
    "text",
    cases(
        r"""
1.5e-9*x0/(x1+0.7)
exp(-x0^2/2)/sqrt(2*pi)
abs(x0)^(3/2)*atan(x1)
asinh(x0*x1)
x0^x1*sec(x0)
"""
    ),
)
def test_latex_is_accepted_by_a_typesetter(text):
    MathTextParser("path").parse(f"${to_latex(parse(text))}$")
