"""The user's formula: its inputs, its domain, and where it is not finite."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import OmegaConf

from kanrun.config import ExpressionTarget
from kanrun.errors import UsageError
from kanrun.targets import build_target


def build(formula, domain=None):
    return build_target(ExpressionTarget(formula=formula, domain=domain))


def test_a_formula_with_its_domain():
    target = build("exp(-x0)*sin(3*x1)", [[-1, 1], [0, 2]])
    assert target.inputs == ("x0", "x1")
    assert target.name == "exp(-x0)*sin(3*x1)"
    assert_array_equal(target.domain, [[-1, 1], [0, 2]])
    x = np.array([[0.5, 1.0], [0.1, 0.2]])
    assert_allclose(
        target.function(x), (np.exp(-x[:, 0]) * np.sin(3 * x[:, 1]))[:, None], rtol=1e-15
    )


@pytest.mark.parametrize(
    ("formula", "domain", "expected"),
    [
        ("x0*x1", None, [[-1, 1], [-1, 1]]),
        ("x0*x1", [0, "pi/2"], [[0, np.pi / 2], [0, np.pi / 2]]),
        ("x0", [[0, 1]], [[0, 1]]),
        ("x2", ((0, 1), (0, 2), (0, 3)), [[0, 1], [0, 2], [0, 3]]),
        ("x0", OmegaConf.create([["-0.5*pi", 1e3]]), [[-np.pi / 2, 1000]]),
        ("x0", np.array([[0.0, 2.0]]), [[0, 2]]),
    ],
)
def test_ways_to_write_a_domain(formula, domain, expected):
    assert_allclose(build(formula, domain).domain, expected)


def test_an_input_that_cancels_is_still_an_input():
    target = build("1.5*x0 + 2*cos(3*x1 - 1) + 0*x2")
    assert target.inputs == ("x0", "x1", "x2")
    assert target.function(np.zeros((4, 3))).shape == (4, 1)


@pytest.mark.parametrize(
    ("domain", "inputs"), [(None, ("r", "t")), ({"t": [0, "0.5*pi"], "r": [1, 2]}, ("t", "r"))]
)
def test_variables_of_other_names(domain, inputs):
    target = build("r^2*exp(-t)", domain)
    assert target.inputs == inputs
    x = np.array([[0.5, 1.5]])
    r, t = x[0] if domain is None else x[0, ::-1]
    assert_allclose(target.function(x), [[r**2 * np.exp(-t)]])


@pytest.mark.parametrize(
    ("formula", "domain", "sentence"),
    [
        ("x0*y", None, "unknown name 'y'; the variables are x0"),
        ("r*t", {"r": [0, 1]}, "domain has no range of the variable 't'"),
        ("x0", [[1, -1]], "target.domain of x0 is [1, -1], but lower must be below upper"),
        ("x0*x1", [[0, 1], [2, 2]], "target.domain of x1 is [2, 2], but lower must be below upper"),
        (
            "x0*x1",
            [[0, 1]],
            "target.domain has 1 pair, but the target has 2 variables; write one [lower, upper]",
        ),
        ("x0", 3, "target.domain=3 is not a list of pairs"),
        ("x0", [[0, 1, 2]], "target.domain of x0 is [0, 1, 2], not a pair"),
        ("x0", [["a", 1]], "target.domain of x0: number 'a': unknown name 'a'"),
        ("x0", [[0, float("inf")]], "target.domain of x0: inf is not a finite number"),
        ("x0", [[-1e308, 1e308]], "target.domain of x0 is too wide for float64"),
        ("3", None, "formula '3' does not depend on any variable"),
    ],
)
def test_bad_formulas_and_domains(formula, domain, sentence):
    with pytest.raises(UsageError) as caught:
        build(formula, domain)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "domain", "sentence"),
    [
        (
            "1/x0",
            None,
            "1/x0 is not finite at x0=0 and at no other of the 4203 points tried; change",
        ),
        (
            "log(x0)",
            [[0, 1]],
            "log(x0) is not finite at x0=0 and at 1 more of the 4203 points tried",
        ),
        ("acos(x0)", [[-1, 1.01]], "is not finite at x0=1.01"),
        ("exp(x0)", [[0, 1000]], "is not finite at x0=710"),
        ("1/(x0 - 0.3)", None, "1/(x0 - 0.3) is not finite near x0=0.3, where it divides by zero"),
        ("tan(x0)", [[-1, 2]], "tan(x0) is not finite near x0=1.5708"),
        ("cot(x0 - 0.3)", None, "cot(x0 - 0.3) is not finite near x0=0.3"),
        (
            "+".join(f"log(x{i})" for i in range(12)),
            None,
            "is not finite at x0=-1, x1=0, x2=0, x3=0, x4=0, x5=0",
        ),
    ],
)
def test_where_a_formula_is_not_finite(formula, domain, sentence):
    with pytest.raises(UsageError) as caught:
        build(formula, domain)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "domain"),
    [
        ("1/(x0 - 0.3)", [[0.31, 1]]),
        ("exp(-1/(x0 - 0.3)^2)", None),  # finite beside the zero it divides by
        ("sin(x0 - 0.3)/(x0 - 0.3)", None),
        ("1/(x0^2 + x1^2)", [[0.1, 1], [-1, 1]]),
        ("sec(x0)*cot(x0 + 1.5)", None),
        ("x0^(1/3)", [[0, 1]]),
    ],
)
def test_what_is_finite_passes(formula, domain):
    build(formula, domain)
