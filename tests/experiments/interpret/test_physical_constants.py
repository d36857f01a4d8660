"""Numbers of exact formulas as products of the constants of physics."""

import pytest
import sympy
from kanrun.experiments.interpret.physical_constants import name_constants

from kanrun.formulas import parse


def decimal(text):
    """Return the formula with its fractions as numbers of 17 digits."""
    expression = parse(text, ["x0", "x1", "c"])
    long = [each for each in expression.atoms(sympy.Rational) if len(str(each)) > 5]
    return expression.xreplace({each: sympy.Float(sympy.N(each, 17), 17) for each in long})


@pytest.mark.parametrize(
    "text, shown, values",
    [
        ("x0/(1 - 1.1126500560536183e-17*x1^2)", "x0/(1 - x1**2/c**2)", {"c": 299792458.0}),
        ("8987742437.98822*x0", "x0/(4*pi*epsilon_0)", {"epsilon_0": 8.854e-12}),
        ("c*x0/299792458", "c*x0/c_", {"c_": 299792458.0}),  # c is a variable of the user
        ("0.48780487804878048*x0", "x0/a", {"a": 2.05}),  # the reciprocal of a short number
        ("1.527841*x0", "1.527841*x0", {}),
        ("8987742438.8*x0", "x0/(4*pi*epsilon_0)", {"epsilon_0": 8.854e-12}),  # 0.9e-10 off
        ("8987742439.0*x0", "8987742439.0*x0", {}),  # 1.1e-10 off
    ],
)
def test_constants_of_physics_are_named(text, shown, values):
    found, named = name_constants(decimal(text), ["x0", "x1", "c"] if "c*" in text else ["x0"])
    assert (str(found), named) == (shown, values)
