"""Values and domains of named functions, and of formulas of the user."""

import numpy as np
import pytest
import yaml
from cases import cases, refuses
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import OmegaConf

from kanrun.config.registry import TARGETS
from kanrun.config.rules import typed
from kanrun.formulas.conversion import to_numpy
from kanrun.targets.datasets import build_target
from kanrun.targets.functions import NAMED, SPECIAL, feynman_formulas
from kanrun.targets.settings import ExpressionTarget


def built(settings):
    """Build the target that settings in YAML describe."""
    plain = yaml.safe_load(f"{{{settings}}}")
    return build_target(typed(TARGETS[plain["kind"]], plain, "target."))


#: Target, number of inputs, and the values at the points of |cos(0)|, |cos(1)|, ..., computed once
#: with NumPy and SciPy from independent formulas. Spherical harmonics have the Condon-Shortley
#: phase; x0 is the azimuth, and x1 the polar angle.
TRUTH = """
kind: named, name: exp_sin_square | 2 | [1.3390047066165618, 6.997738362553879]
kind: named, name: bessel_j0 | 1 | [0.16702466434058322, -0.20233894372719183]
kind: named, name: product | 2 | [0.5403023058681398, 0.411982245665683]
kind: named, name: mean_sin_square_100d | 100 | [1.9168250926409724, 1.925534540233209]
kind: named, name: nested_4d | 4 | [0.5334042778591251, 1.000085528846319]
kind: named, name: runge | 1 | [0.038461538461538464, 0.12050857690261055]
kind: named, name: sph_harm_1_1 | 2 | [-0.09602282422712806, -0.2641890721318537]
kind: named, name: sph_harm_1_2 | 2 | [-0.18412830589054482, -0.32413934611464973]
kind: named, name: sph_harm_2_2 | 2 | [-0.04253399886838263, 0.18174525814166873]
kind: gaussian_peaks, centres: [-0.5, 0.25], sharpness: 40, dimension: 1 | 1 | [1.6918979226151304e-10, 0.034354675649267946]
kind: gaussian_peaks, centres: [-0.5, 0.25], sharpness: 40, dimension: 2 | 2 | [5.812460436311315e-12, 1.0182691530662732e-10]
"""  # noqa: E501
TRUTH = {settings: values for settings, *values in cases(TRUTH)}


@pytest.mark.parametrize("settings", sorted({*TRUTH, *map("kind: named, name: {}".format, NAMED)}))
def test_functions_have_their_values_and_domains(settings):
    target = built(settings)
    count, values = TRUTH[settings]
    sphere = [[-np.pi, np.pi], [0, np.pi]]
    assert_allclose(target.domain, sphere if "sph_" in settings else [[-1, 1]] * count)
    assert target.inputs == tuple(f"x{i}" for i in range(count))
    x = np.abs(np.cos(np.arange(2 * count))).reshape(2, count)
    y = target.function(x)
    assert_allclose(y[:, 0], values, rtol=1e-13, atol=1e-14)
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
    places = np.random.default_rng(5).random((2000, len(target.domain)))
    if special:  # including the borders
        places = np.indices((301, 301)).reshape(2, -1).T / 300
    x = target.inputs_at(places)
    y = target.function(x)
    assert np.isfinite(y).all()
    assert y.std() > (0.05 if special else 0)


@pytest.mark.parametrize(
    "name, x, value",
    cases("""
        ellipj | (0.7, 1.0) | 0.6043677771171634
        ellipkinc | (0.5, 1.0) | 0.5222381032784403
        jv | (0.5, 2.0) | 0.5130161365618278
        yv | (0.5, 2.0) | 0.2347857104062485
        lpmv_2 | (2.0, 0.3) | 2.73
    """),
)
def test_special_functions_take_arguments_in_scipys_order(name, x, value):
    """The values are those of elementary functions, such as tanh(0.7) of ellipj."""
    assert SPECIAL[name](np.array([x]))[0, 0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "formula, domain, inputs, box, value",
    cases("""
        x0*x1 | None | ('x0', 'x1') | [[-1, 1], [-1, 1]] | 0.75
        x0*x1 | [0, 'pi/2'] | ('x0', 'x1') | [[0, 1.5707963267948966], [0, 1.5707963267948966]] | 0.75
        x2 | ((0, 1), (0, 2), (0, 3)) | ('x0', 'x1', 'x2') | [[0, 1], [0, 2], [0, 3]] | 2.5
        x1 + 2 + 0*x2 | None | ('x0', 'x1', 'x2') | [[-1, 1], [-1, 1], [-1, 1]] | 3.5
        r^2*exp(-t) | None | ('r', 't') | [[-1, 1], [-1, 1]] | 0.055782540037107455
        r^2*exp(-t) | {'t': [0, '0.5*pi'], 'r': [1, 2]} | ('t', 'r') | [[0, 1.5707963267948966], [1, 2]] | 1.3646939843534251
    """),  # noqa: E501
)
def test_formulas_have_their_variables_in_order_domain_and_value(
    formula, domain, inputs, box, value
):
    target = build_target(ExpressionTarget(formula, domain))
    assert target.inputs == inputs
    assert_allclose(target.domain, box)
    assert_allclose(target.function(np.array([[0.5, 1.5, 2.5][: len(box)]])), [[value]])


@pytest.mark.parametrize("container", [OmegaConf.create, np.array])
def test_domains_of_hydra_and_numpy_are_read(container):
    target = build_target(ExpressionTarget("x0", container([[0.0, 2e3]])))
    assert target.domain.tolist() == [[0, 2000]]


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
