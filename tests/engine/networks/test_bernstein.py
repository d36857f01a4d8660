"""Bernstein polynomials, the basis of the model `bezier`, against exact fractions."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch

from kanrun.engine.networks.classical import bernstein

UNIT = torch.linspace(0, 1, 33, dtype=torch.float64)


@pytest.mark.parametrize("degree", [0, 1, 4, 9, 20])
def test_bernstein_polynomials_are_their_formula_in_exact_fractions(degree):
    u = [Fraction(float(u)) for u in UNIT]
    truth = [
        [comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)] for t in u
    ]
    np.testing.assert_allclose(bernstein(UNIT, degree), np.array(truth, dtype=float), rtol=1e-13)


@pytest.mark.parametrize("degree", [1, 7, 60, 1000])
def test_bernstein_polynomials_sum_to_one_and_are_not_negative(degree):
    values = bernstein(UNIT, degree)
    assert (values.sum(-1) - 1).abs().max() < 1e-12
    assert values.min() >= 0
