"""The outcome `exact`: when points show that a formula is their function, and when not."""

import numpy as np
import pytest
from cases import cases
from scipy import special

import kanrun
from kanrun.engine.symbolic import SearchData, evidence
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse

#: Smooth functions that are not elementary: their names in scipy, the parameters before and after
#: x, which of their results is meant, and the starts of their ranges.
SPECIAL = cases("""
j1 | () | () | 0 | 0.0
jv | (2,) | () | 0 | 0.1
jv | (0.3333333333333333,) | () | 0 | 0.5
y0 | () | () | 0 | 0.5
y1 | () | () | 0 | 0.5
i0 | () | () | 0 | 0.0
i1 | () | () | 0 | 0.0
k0 | () | () | 0 | 0.5
k1 | () | () | 0 | 0.5
airy | () | () | 0 | 0.0
airy | () | () | 1 | -1.0
airy | () | () | 2 | -1.0
erf | () | () | 0 | 0.0
erfcx | () | () | 0 | 0.0
dawsn | () | () | 0 | 0.0
fresnel | () | () | 0 | 0.2
fresnel | () | () | 1 | 0.0
gamma | () | () | 0 | 1.0
gammaln | () | () | 0 | 1.2
digamma | () | () | 0 | 1.0
polygamma | (1,) | () | 0 | 1.0
zeta | () | () | 0 | 1.5
ellipk | () | () | 0 | -2.5
ellipe | () | () | 0 | -2.5
ellipj | () | (0.5,) | 0 | 0.0
ellipj | () | (0.7,) | 2 | 0.1
lambertw | () | () | 0 | 0.0
struve | (0,) | () | 0 | 0.0
struve | (1,) | () | 0 | 0.2
modstruve | (0,) | () | 0 | 0.0
expi | () | () | 0 | 0.5
exp1 | () | () | 0 | 0.5
sici | () | () | 0 | 0.0
sici | () | () | 1 | 0.5
spence | () | () | 0 | 0.5
ber | () | () | 0 | 0.1
gammainc | (0.3333333333333333,) | () | 0 | 0.3
hyp1f1 | (0.3, 1.7) | () | 0 | -1.0
lpmv | (0, 0.3333333333333333) | () | 0 | -0.5
voigt_profile | () | (1.0, 0.7) | 0 | 0.0
""")


def special_value(name, before, after, which, x):
    found = getattr(special, name)(*before, x, *after)
    return np.real(found[which] if isinstance(found, tuple) else found)


def points_show(formula, x, y=None, relative=False):
    x = x.reshape(len(x), -1)
    expression = parse(formula)
    names = [f"x{i}" for i in range(x.shape[1])]
    y = to_numpy(expression, names)(x) if y is None else y
    return evidence(expression, names, SearchData(x, y, x, y, relative))


@pytest.mark.parametrize(
    "formula, name, which, width",
    cases("""
x0/2 - x0^3/16 + 0.00260405*x0^5 | j1 | 0 | 0.05
x0/2 - x0^3/16 + x0^5/384 - x0^7/18432 | j1 | 0 | 0.1
0.015593874921927917*x0**3 - 0.592815966761015*x0 + 1.664673912395166*sin(x0/2) \
+ 0.260479010563516*sin(x0) | j1 | 0 | 0.3
0.24673994402404767*x0*(4.052850072391973 - x0**4) | fresnel | 1 | 0.05
x0 - x0^2 + 3*x0^3/2 - 8*x0^4/3 | lambertw | 0 | 3e-4
"""),
)
def test_truncated_series_are_not_shown_to_be_their_function(formula, name, which, width):
    x = np.random.default_rng(0).uniform(0, width, 300)
    found = points_show(formula, x, special_value(name, (), (), which, x))
    assert found.error < 1e-12
    assert not found.is_shown


@pytest.mark.parametrize(
    "nome", [0.001, 0.003, 0.01, 0.0175, 0.019, 0.02, 0.022, 0.025, 0.03, 0.05, 0.08]
)
def test_series_that_converge_faster_and_faster_are_not_shown(nome):
    """Theta functions have terms q^(n^2), whose ratios decrease."""
    x = np.random.default_rng(0).uniform(0, 3, 300)
    terms = [2 * nome ** (n * n) * np.cos(2 * n * x) for n in range(8, 0, -1)]
    for count in range(1, 5):
        text = " + ".join(f"{2 * nome ** (n * n)!r}*cos({2 * n}*x0)" for n in range(1, count + 1))
        found = points_show(f"1 + {text}", x, 1 + np.sum(terms, axis=0))
        if 1e-15 < found.error < 1e-12:
            assert not found.is_shown, (count, found)


@pytest.mark.parametrize("width", [0.05, 0.3, 1.0, 3.0])
@pytest.mark.parametrize(
    "formula",
    cases("""
3*x0**2 + 1
sin(x0) + x0**2
exp(-2*x0)*cos(3*x0)
1/(1 + x0**2)
x0*sqrt(1 + x0)
1.23456789*exp(-0.7654321*x0) + 0.3456789
2.345678901234567*x0 + 1.2345678901234567
x0**3 - 2.3*x0**2 + 1.7*x0 - 0.4
x0/(1 + x0) + x0**3
tanh(x0)
log(1 + x0) + sqrt(x0)
"""),
)
def test_true_functions_are_shown_even_on_short_ranges(formula, width):
    x = np.random.default_rng(0).uniform(0, width, 300)
    assert points_show(formula, x).is_shown


@pytest.mark.parametrize(
    "formula, low",
    cases("""
sqrt(x0) + x1 | 0.0
sqrt(x0^2 - 2*x0*x1*cos(x1) + x1^2) | 0.1
(x0 + 1)*(x0^2 + 1)*(x1 - 2)*sqrt(2 + x1) | 0.1
exp(x0 - 1)*log(2*x0*x1 + 3) | 0.1
besselj(2, 3*x0) + 5*x1 | 0.1
max(x0 - 0.3, 0.2*x1) + floor(3*x1) | 0.0
2.5*x0 | 0.0
x0 | 0.0
"""),
)
def test_redundant_constants_do_not_count(formula, low):
    x = np.random.default_rng(1).uniform(low, 1, (300, 2))
    x[0] = low
    assert points_show(formula, x).is_shown


def test_evidence_compares_the_error_with_the_smallest_part_of_the_formula():
    x = np.random.default_rng(0).uniform(-1, 1, 1000)
    found = points_show("100 + x0 + 1e-8*sin(9*x0)", x)
    assert not found.is_shown
    assert 1e-9 < found.smallest < 1e-7
    assert found.next_part < 1e-14
    assert found.error == pytest.approx(1e-16 * 100 * np.sqrt(3), rel=0.3), "the rounding of 100"
    off = points_show("x0", x, x * (1 + 1e-6))
    assert off.error == pytest.approx(1e-6, rel=1e-2)


def test_evidence_over_decades_is_relative_to_each_value():
    x = np.random.default_rng(0).uniform(0, 30, 500)
    y = np.exp(x) + 2.0
    assert points_show("exp(x0) + 2", x, relative=True).is_shown
    off = points_show("exp(x0) + 1", x, y, relative=True)
    assert not off.is_shown
    assert off.error > 1e-3


def test_formula_without_finite_slopes_is_not_shown():
    x = np.zeros((50, 1))
    assert not points_show("x0^0.3", x, np.linspace(0, 1, 50)).is_shown


@pytest.mark.slow
def test_an_imitation_of_two_inputs_is_not_called_exact():
    x = np.random.default_rng(0).uniform(0, 0.3, (300, 2))
    assert kanrun.interpret(x, x[:, 0] * special.j1(x[:, 1]), budget=5.0).outcome != "exact"


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.05, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("number", range(len(SPECIAL)))
def test_no_special_function_is_called_exact(number, width):
    *function, low = SPECIAL[number]
    x = np.random.default_rng(number).uniform(low, low + width, 300)
    assert kanrun.interpret(x, special_value(*function, x), budget=8.0).outcome != "exact"
