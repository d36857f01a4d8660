"""Named functions compared with independent formulas; formulas and domains of the user."""

import numpy as np
import pytest
import yaml
from cases import cases, refuses
from numpy import cos, exp, pi, sin, sqrt
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import OmegaConf
from scipy import special

from kanrun.config.conversion import typed
from kanrun.config.registry import TARGETS
from kanrun.formulas.conversion import to_numpy
from kanrun.targets.datasets import build_target
from kanrun.targets.functions import NAMED, SPECIAL, feynman_formulas
from kanrun.targets.settings import ExpressionTarget


def built(settings):
    """Build the target that settings in YAML describe."""
    plain = yaml.safe_load(f"{{{settings}}}")
    return build_target(typed(TARGETS[plain["kind"]], plain, "target."))


def points_of(target, count=2000):
    lower, upper = target.domain.T
    return np.random.default_rng(5).uniform(lower, upper, (count, len(target.domain)))


#: Target, ends of the domain, and the function in NumPy of coordinates (inputs, points). Spherical
#: harmonics have the Condon-Shortley phase; x0 is the azimuth, and x1 the polar angle.
CUBE = (-1, 1)
SPHERE = ([-pi, 0], pi)
PEAKS = "kind: gaussian_peaks, centres: [-0.5, 0.25], sharpness: 40, dimension"
TRUTH = {
    "exp_sin_square": (CUBE, lambda x: exp(sin(pi * x[0]) + x[1] ** 2)),
    "bessel_j0": (CUBE, lambda x: special.jv(0, 20 * x[0])),
    "product": (CUBE, lambda x: x[0] * x[1]),
    "mean_sin_square_100d": (CUBE, lambda x: exp((sin(pi * x / 2) ** 2).mean(axis=0))),
    "nested_4d": (CUBE, lambda x: exp(sin(pi * (x.reshape(2, 2, -1) ** 2).sum(1)).sum(0) / 2)),
    "runge": (CUBE, lambda x: 1 / (1 + 25 * x[0] ** 2)),
    "sph_harm_1_1": (SPHERE, lambda x: -sqrt(3 / (8 * pi)) * sin(x[1]) * cos(x[0])),
    "sph_harm_1_2": (SPHERE, lambda x: -sqrt(15 / (32 * pi)) * sin(2 * x[1]) * cos(x[0])),
    "sph_harm_2_2": (SPHERE, lambda x: sqrt(15 / (32 * pi)) * sin(x[1]) ** 2 * cos(2 * x[0])),
    f"{PEAKS}: 1": (CUBE, lambda x: sum(exp(-40 * (x[0] - c) ** 2) for c in (-0.5, 0.25))),
    f"{PEAKS}: 2": (CUBE, lambda x: sum(exp(-40 * sum((x - c) ** 2)) for c in (-0.5, 0.25))),
}


@pytest.mark.parametrize("name", sorted({*TRUTH, *NAMED}))
def test_functions_have_their_values_and_domains(name):
    target = built(name if "kind" in name else f"kind: named, name: {name}")
    (lower, upper), truth = TRUTH[name]
    assert_allclose(target.domain[:, 0], lower)
    assert_allclose(target.domain[:, 1], upper)
    assert target.inputs == tuple(f"x{i}" for i in range(len(target.domain)))
    x = points_of(target)
    y = target.function(x)
    assert_allclose(y, truth(x.T)[:, None], rtol=1e-13, atol=1e-14)
    if target.expression is not None:
        assert_array_equal(to_numpy(target.expression, target.inputs)(x), y[:, 0])


#: Domains of the recorded errors of special functions, by the first word of their names.
DOMAINS = """
ellipj | (-5, 5) | (0, 0.9)
ellipkinc | (-3.141592653589793, 3.141592653589793) | (-1, 0.9)
ellipeinc | (-3.141592653589793, 3.141592653589793) | (-1, 0.9)
jv | (0, 5) | (1, 10)
yv | (0, 3) | (1, 10)
kv | (0, 3) | (1, 5)
iv | (0, 3) | (1, 5)
lpmv | (0, 5) | (-0.9, 0.9)
sph | (-3.141592653589793, 3.141592653589793) | (0, 3.141592653589793)
"""


def test_special_functions_keep_the_domains_of_the_recorded_errors():
    found = {(name.split("_")[0], *each.domain) for name, each in SPECIAL.items()}
    assert found == {*cases(DOMAINS)}


@pytest.mark.parametrize("name", [*SPECIAL, *feynman_formulas()])
def test_functions_are_finite_and_not_constant_on_their_domains(name):
    special = name in SPECIAL
    target = built(f"kind: named, name: {name}" if special else f"kind: feynman, id: {name}")
    assert (target.expression is None) == special
    x = points_of(target)
    if special:  # including the borders
        x = np.stack(np.meshgrid(*np.linspace(*target.domain.T, 301).T), -1).reshape(-1, 2)
    y = target.function(x)
    assert np.isfinite(y).all()
    assert y.std() > (0.05 if special else 0)


@pytest.mark.parametrize(
    "name, x, value",
    [
        ("ellipj", (0.7, 1.0), np.tanh(0.7)),
        ("ellipkinc", (0.5, 1.0), np.arctanh(sin(0.5))),
        ("jv", (0.5, 2.0), sqrt(1 / pi) * sin(2)),
        ("yv", (0.5, 2.0), -sqrt(1 / pi) * cos(2)),
        ("lpmv_2", (2.0, 0.3), 3 * (1 - 0.09)),
    ],
)
def test_special_functions_take_arguments_in_scipys_order(name, x, value):
    assert SPECIAL[name](np.array([x]))[0, 0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "formula, domain, expected",
    [
        ("x0*x1", None, [[-1, 1], [-1, 1]]),
        ("x0*x1", [0, "pi/2"], [[0, pi / 2], [0, pi / 2]]),
        ("x2", ((0, 1), (0, 2), (0, 3)), [[0, 1], [0, 2], [0, 3]]),
        ("x0", OmegaConf.create([["-0.5*pi", 1e3]]), [[-pi / 2, 1000]]),
        ("x0", np.array([[0.0, 2.0]]), [[0, 2]]),
    ],
)
def test_every_way_to_write_a_domain_is_read(formula, domain, expected):
    assert_allclose(build_target(ExpressionTarget(formula, domain)).domain, expected)


def test_input_that_cancels_in_the_formula_is_kept():
    target = built("kind: expression, formula: 1.5*x0 + 2*cos(3*x1 - 1) + 0*x2")
    assert target.inputs == ("x0", "x1", "x2")
    assert target.function(np.zeros((4, 3))).shape == (4, 1)


@pytest.mark.parametrize(
    "domain, inputs", [(None, ("r", "t")), ({"t": [0, "0.5*pi"], "r": [1, 2]}, ("t", "r"))]
)
def test_variables_of_a_formula_may_have_any_names(domain, inputs):
    target = build_target(ExpressionTarget("r^2*exp(-t)", domain))
    assert target.inputs == inputs
    x = np.array([[0.5, 1.5]])
    r, t = x[0] if domain is None else x[0, ::-1]
    assert_allclose(target.function(x), [[r**2 * np.exp(-t)]])


REFUSED = """
kind: bundled, name: irs | target.name='irs' is not one of the bundled tables; did you mean iris
kind: named, name: rung | target.name='rung' is not one of the named functions; did you mean runge?
kind: feynman, id: I.6.3 | target.id='I.6.3' is not one of the 27 formulas; did you mean I.6.2
kind: named, name: ellipkinc, domain: [[0, 2], [0, 2]] | ellipkinc is not finite at x0=
kind: named, name: jv, domain: [[0, 1]] | target.domain has 1 pair, but the target has 2 variables
kind: feynman, id: I.44.4, domain: [[0, 1], [-1, 1]] | I.44.4 is not finite at x0=
kind: expression, formula: x0*y | unknown name 'y'; the variables are x0
kind: expression, formula: r*t, domain: {r: [0, 1]} | domain has no range of the variable 't'
kind: expression, formula: x0, domain: [[1, -1]] | target.domain of x0 is [1, -1], but lower must be below upper
kind: expression, formula: x0*x1, domain: [[0, 1], [2, 2]] | target.domain of x1 is [2, 2], but lower must be below upper
kind: expression, formula: x0*x1, domain: [[0, 1]] | has 1 pair, but the target has 2 variables; write one [lower, upper]
kind: expression, formula: x0, domain: 3 | target.domain=3 is not a list of pairs
kind: expression, formula: x0, domain: [[0, 1, 2]] | target.domain of x0 is [0, 1, 2], not a pair
kind: expression, formula: x0, domain: [[a, 1]] | target.domain of x0: number 'a': unknown name 'a'
kind: expression, formula: x0, domain: [[0, .inf]] | target.domain has a number that is not finite
kind: expression, formula: x0, domain: [[-1.0e+308, 1.0e+308]] | target.domain of x0 is too wide for float64
kind: expression, formula: "3" | formula '3' does not depend on any variable
kind: expression, formula: 1/x0 | 1/x0 is not finite at x0=0 and at no other of the 4203 points tried; change
kind: expression, formula: log(x0), domain: [[0, 1]] | log(x0) is not finite at x0=0 and at 1 more of the 4203 points tried
kind: expression, formula: acos(x0), domain: [[-1, 1.01]] | is not finite at x0=1.01
kind: expression, formula: exp(x0), domain: [[0, 1000]] | is not finite at x0=710
kind: expression, formula: 1/(x0 - 0.3) | 1/(x0 - 0.3) is not finite near x0=0.3, where it divides by zero
kind: expression, formula: tan(x0), domain: [[-1, 2]] | tan(x0) is not finite near x0=1.5708
kind: expression, formula: cot(x0 - 0.3) | cot(x0 - 0.3) is not finite near x0=0.3
kind: expression, formula: log(x0)+log(x1)+log(x2)+log(x3)+log(x4)+log(x5)+log(x6)+log(x7)+log(x8)+log(x9)+log(x10)+log(x11) | is not finite at x0=-1, x1=0, x2=0, x3=0, x4=0, x5=0
"""  # noqa: E501


@pytest.mark.parametrize("settings, sentence", cases(REFUSED))
def test_impossible_targets_are_refused(settings, sentence):
    with refuses(sentence):
        built(settings)


@pytest.mark.parametrize(
    "formula, domain",
    cases("""
        1/(x0 - 0.3) | [[0.31, 1]]
        exp(-1/(x0 - 0.3)^2) | None
        sin(x0 - 0.3)/(x0 - 0.3) | None
        1/(x0^2 + x1^2) | [[0.1, 1], [-1, 1]]
        sec(x0)*cot(x0 + 1.5) | None
        x0^(1/3) | [[0, 1]]
    """),
)
def test_functions_finite_on_their_domain_are_accepted(formula, domain):
    build_target(ExpressionTarget(formula, domain))
