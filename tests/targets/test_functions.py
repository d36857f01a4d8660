"""Functions evaluated independently; the user's formula, its domain, where it is not finite."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import OmegaConf
from scipy import special

from kanrun.errors import UsageError
from kanrun.formulas import to_numpy
from kanrun.targets import build_target
from kanrun.targets.functions import NAMED, SPECIAL, feynman_formulas
from kanrun.targets.settings import (
    ExpressionTarget,
    FeynmanTarget,
    GaussianPeaksTarget,
    NamedTarget,
    SpecialTarget,
)

pi, exp, sin, cos, sqrt, log, arcsin = np.pi, np.exp, np.sin, np.cos, np.sqrt, np.log, np.arcsin


def points_of(target, count=2000):
    lower, upper = target.domain.T
    return np.random.default_rng(5).uniform(lower, upper, (count, len(target.domain)))


TRUTH = {
    "exp_sin_square": lambda x: exp(sin(pi * x[:, 0]) + x[:, 1] ** 2),
    "bessel_j0": lambda x: special.jv(0, 20 * x[:, 0]),
    "product": lambda x: x[:, 0] * x[:, 1],
    "mean_sin_square_100d": lambda x: exp((sin(pi * x / 2) ** 2).mean(axis=1)),
    "nested_4d": lambda x: exp(
        (sin(pi * (x[:, 0] ** 2 + x[:, 1] ** 2)) + sin(pi * (x[:, 2] ** 2 + x[:, 3] ** 2))) / 2
    ),
    "runge": lambda x: 1 / (1 + 25 * x[:, 0] ** 2),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_functions(name):
    target = build_target(NamedTarget(name=name))
    assert TRUTH.keys() == NAMED.keys()
    dimension = {"mean_sin_square_100d": 100, "nested_4d": 4, "bessel_j0": 1, "runge": 1}.get(
        name, 2
    )
    assert target.name == name
    assert target.inputs == tuple(f"x{i}" for i in range(dimension))
    assert target.outputs == ("y",)
    assert_array_equal(target.domain, [[-1, 1]] * dimension)
    x = points_of(target)
    assert_allclose(target.function(x), TRUTH[name](x)[:, None], rtol=1e-14, atol=2e-15)
    assert_array_equal(to_numpy(target.expression, target.inputs)(x), target.function(x)[:, 0])


@pytest.mark.parametrize("dimension", [1, 2])
def test_gaussian_peaks(dimension):
    config = GaussianPeaksTarget(centres=[-0.5, 0.25], sharpness=40.0, dimension=dimension)
    target = build_target(config)
    x = points_of(target)
    truth = sum(exp(-40 * ((x - c) ** 2).sum(axis=1)) for c in (-0.5, 0.25))
    assert_allclose(target.function(x)[:, 0], truth, rtol=1e-13)
    assert_array_equal(target.domain, [[-1, 1]] * dimension)


@pytest.mark.parametrize(
    "config, sentence",
    [
        (
            NamedTarget(name="rung"),
            "target.name='rung' is not one of the named functions; did you mean runge?",
        ),
        (
            FeynmanTarget(id="I.6.3"),
            "target.id='I.6.3' is not one of the 27 formulas; did you mean I.6.2",
        ),
        (
            SpecialTarget(name="ellipkinc", domain=[[0, 2], [0, 2]]),
            "ellipkinc is not finite at x0=",
        ),
        (
            SpecialTarget(name="jv", domain=[[0, 1]]),
            "target.domain has 1 pair, but the target has 2 variables",
        ),
        (FeynmanTarget(id="I.44.4", domain=[[0, 1], [-1, 1]]), "I.44.4 is not finite at x0="),
        (NamedTarget(kind="nmed"), "target.kind=nmed is not one of named, gaussian_peaks"),
    ],
)
def test_refusals(config, sentence):
    with pytest.raises(UsageError) as caught:
        build_target(config)
    assert sentence in str(caught.value)


def test_special_functions_keep_the_domains_of_the_recorded_errors():
    pi = np.pi
    circle = ((-np.pi, np.pi), (0.0, np.pi))
    known = {
        "ellipj": ((-5, 5), (0, 0.9)),
        **dict.fromkeys(("ellipkinc", "ellipeinc"), ((-pi, pi), (-1, 0.9))),
        "jv": ((0, 5), (1, 10)),
        "yv": ((0, 3), (1, 10)),
        **dict.fromkeys(("kv", "iv"), ((0, 3), (1, 5))),
        "lpmv": ((0, 5), (-0.9, 0.9)),
        "sph": circle,
    }
    assert {name.split("_")[0]: each.domain for name, each in SPECIAL.items()} == known


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions_are_finite_and_not_dull(name):
    target = build_target(SpecialTarget(name=name))
    assert target.expression is None
    lower, upper = target.domain.T
    grid = np.stack(np.meshgrid(*np.linspace(lower, upper, 301).T), -1).reshape(-1, 2)
    for x in (grid, points_of(target, 20_000)):
        y = target.function(x)
        assert y.shape == (len(x), 1)
        assert np.isfinite(y).all()
        assert 0.05 < y.std() < 20


@pytest.mark.parametrize(
    "name, x, value",
    [
        ("ellipj", (0.7, 1.0), math.tanh(0.7)),
        ("ellipkinc", (0.5, 1.0), math.atanh(math.sin(0.5))),
        ("jv", (0.5, 2.0), math.sqrt(2 / (math.pi * 2)) * math.sin(2)),
        ("yv", (0.5, 2.0), -math.sqrt(2 / (math.pi * 2)) * math.cos(2)),
        ("lpmv_2", (2.0, 0.3), 3 * (1 - 0.09)),
    ],
)
def test_special_functions_take_arguments_in_scipys_order(name, x, value):
    assert SPECIAL[name](np.array([x]))[0, 0] == pytest.approx(value, rel=1e-12)


HARMONICS = {  # explicit, with the Condon-Shortley phase
    "sph_harm_1_1": lambda azimuth, polar: -sqrt(3 / (8 * pi)) * sin(polar) * cos(azimuth),
    "sph_harm_1_2": lambda azimuth, polar: (
        -sqrt(15 / (8 * pi)) * sin(polar) * cos(polar) * cos(azimuth)
    ),
    "sph_harm_2_2": lambda azimuth, polar: (
        sqrt(15 / (32 * pi)) * sin(polar) ** 2 * cos(2 * azimuth)
    ),
}


@pytest.mark.parametrize("name", HARMONICS)
def test_spherical_harmonics_have_x0_azimuth_and_x1_polar(name):
    target = build_target(SpecialTarget(name=name))
    x = points_of(target)
    assert_allclose(target.function(x)[:, 0], HARMONICS[name](x[:, 0], x[:, 1]), atol=1e-14)
    assert_allclose(target.domain, [[-pi, pi], [0, pi]])


@pytest.mark.parametrize("equation", feynman_formulas())
def test_feynman_formulas_are_finite_on_their_domains(equation):
    target = build_target(FeynmanTarget(id=equation))
    assert len(feynman_formulas()[equation]["vars"]) == len(target.inputs)
    y = target.function(points_of(target))[:, 0]
    assert np.isfinite(y).all()
    assert y.std() > 0


def build(formula, domain=None):
    return build_target(ExpressionTarget(formula=formula, domain=domain))


@pytest.mark.parametrize(
    "formula, domain, expected",
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
    "domain, inputs", [(None, ("r", "t")), ({"t": [0, "0.5*pi"], "r": [1, 2]}, ("t", "r"))]
)
def test_variables_of_other_names(domain, inputs):
    target = build("r^2*exp(-t)", domain)
    assert target.inputs == inputs
    x = np.array([[0.5, 1.5]])
    r, t = x[0] if domain is None else x[0, ::-1]
    assert_allclose(target.function(x), [[r**2 * np.exp(-t)]])


@pytest.mark.parametrize(
    "formula, domain, sentence",
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
        ("x0", [[0, float("inf")]], "target.domain has a number that is not finite"),
        ("x0", [[-1e308, 1e308]], "target.domain of x0 is too wide for float64"),
        ("3", None, "formula '3' does not depend on any variable"),
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
def test_bad_formulas_and_domains(formula, domain, sentence):
    with pytest.raises(UsageError) as caught:
        build(formula, domain)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "formula, domain",
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
