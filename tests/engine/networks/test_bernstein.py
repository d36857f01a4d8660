"""Bernstein polynomials, the basis of the model `bezier`, against exact fractions."""

from fractions import Fraction
from math import comb

import pytest
import torch

from kanrun.engine.networks.curves import bernstein
from kanrun.errors import UsageError

UNIT = torch.linspace(0, 1, 33, dtype=torch.float64)


@pytest.mark.parametrize("degree", [0, 1, 4, 9, 20])
def test_bernstein_polynomials_are_their_formula_in_exact_fractions(degree):
    values = bernstein(UNIT, degree)
    for row, u in zip(values, UNIT, strict=True):
        exact = Fraction(float(u))
        for i, value in enumerate(row):
            truth = comb(degree, i) * exact**i * (1 - exact) ** (degree - i)
            assert float(value) == pytest.approx(float(truth), rel=1e-13, abs=1e-300)


@pytest.mark.parametrize("degree", [1, 7, 60, 1000])
def test_bernstein_polynomials_sum_to_one_and_are_not_negative(degree):
    values = bernstein(UNIT, degree)
    assert (values.sum(-1) - 1).abs().max() < 1e-12
    assert values.min() >= 0


def test_high_degrees_in_single_precision():
    values = bernstein(UNIT.float(), 300)
    torch.testing.assert_close(values.double(), bernstein(UNIT, 300), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("degree", [-1, 1001])
def test_degrees_that_have_no_bernstein_polynomials_here_are_refused(degree):
    with pytest.raises(UsageError, match=f"from 0 to 1000, not {degree}"):
        bernstein(UNIT, degree)
