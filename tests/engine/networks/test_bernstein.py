"""Bernstein polynomials, the basis of the model `bezier`, are binomial probabilities."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from kanrun.engine.networks.classical import bernstein

UNIT = torch.linspace(0, 1, 33, dtype=torch.float64)


@pytest.mark.parametrize("degree", [0, 1, 9, 20, 60, 1000])
def test_bernstein_polynomials_are_those_of_scipy_and_sum_to_one(degree):
    values = bernstein(UNIT, degree)
    expected = binom.pmf(np.arange(degree + 1), degree, UNIT[:, None])
    atol = 0 if degree <= 20 else 1e-13
    np.testing.assert_allclose(values, expected, rtol=1e-13, atol=atol)
    assert (values.sum(-1) - 1).abs().max() < 1e-12
    assert values.min() >= 0
