"""Kinks, jumps and other places where functions are not smooth, found from nearby points."""

import numpy as np
import pytest
from cases import cases

from kanrun.targets.functions import named_formula, rough_places

SMOOTH = (
    "exp(sin(pi*x0) + x1^2)",
    "tanh(1000*x0)",
    "exp(-1e6*(x0 - 0.3)^2)",
    "sin(60*x0*x1)",
    "sqrt(x0^2 + x1^2 + 1e-4)",
    "1e6 + sin(x0)",
    "abs(x0)^3",
    "x0*x1*x2",
    "x0",
)
#: Formulas, and the function that is 0 where they are not smooth.
ROUGH = """
abs(x0*x1 - 0.2) | x0*x1 - 0.2
sin(20*x0) + 0.05*abs(x0 - 0.3) | x0 - 0.3
sign(x0 - 0.1) + exp(x1) | x0 - 0.1 + 0*x1
sqrt(abs(x0 - 0.2)) | x0 - 0.2
max(x0, x1^2) | x0 - x1^2
1000 + sqrt(x0^2 + x1^2) | sqrt(x0^2 + x1^2)
"""


def places(formula, count=300):
    target = named_formula(formula, None)
    points = target.inputs_at(np.random.default_rng(0).random((count, len(target.domain))))
    sizes = target.function(points).std(axis=0)
    return rough_places(target.function, points, target.domain, sizes)


@pytest.mark.parametrize("formula", SMOOTH)
def test_smooth_function_has_no_kink(formula):
    assert np.isnan(places(formula)).all()


@pytest.mark.parametrize("formula, zero", cases(ROUGH))
def test_kinks_jumps_and_infinite_slopes_are_found_from_nearby(formula, zero):
    found = places(formula)
    found = found[~np.isnan(found[:, 0])]
    assert len(found) >= 5
    assert np.abs(named_formula(zero, None).function(found)).max() < 1e-5
