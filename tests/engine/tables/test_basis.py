"""The Demmler-Reinsch basis against its definition."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.interpolate import BSpline

from kanrun.engine.tables.reduced_basis import ReducedBasis

LIMIT = 10


RNG = np.random.default_rng(0)
U = np.stack([RNG.normal(size=300), RNG.exponential(size=300), RNG.integers(0, 2, 300)], 1)
BASIS = ReducedBasis.of(U, LIMIT)


def test_functions_of_an_input_are_uncorrelated_and_the_line_comes_first_and_rises():
    z = BASIS.values(U)
    assert_allclose(z.mean(0), 0, atol=1e-9)
    assert (z.std(0) < 1 + 1e-9).all()
    for j in range(3):
        own = z[:, BASIS.column == j] / z[:, BASIS.column == j].std(0)
        assert_allclose(own.T @ own / len(U), np.eye(own.shape[1]), atol=1e-6)
        assert np.corrcoef(own[:, 0], U[:, j])[0, 1] == pytest.approx(1, abs=1e-9)
    assert (BASIS.column == 2).sum() == 1  # an input with two values has only a line


def test_roughness_is_the_integral_of_the_squared_second_derivative():
    edges = BASIS.breakpoints[0]
    before = edges[0] - (edges[1] - edges[0]) * np.arange(3, 0, -1)
    after = edges[-1] + (edges[-1] - edges[-2]) * np.arange(1, 4)
    knots = np.concatenate([before, edges, after])

    def integral(coefficients):
        second = BSpline(knots, coefficients, 3).derivative(2)
        return sum(
            quad(lambda t: float(second(t)) ** 2, a, b)[0] for a, b in itertools.pairwise(edges)
        )

    found = [integral(c) for c in BASIS.coefficients[:6]]
    assert found[0] == pytest.approx(0, abs=1e-6 * found[1])
    assert_allclose(found[1:], found[1], rtol=1e-3)  # each prior variance is 1 / roughness


def test_between_rows_that_are_far_apart_functions_stay_smooth():
    rng = np.random.default_rng(1)
    u = np.concatenate([rng.uniform(0, 1, 150), rng.uniform(9, 10, 150)])[:, None]
    basis = ReducedBasis.of(u, LIMIT)
    inside = basis.values(np.linspace(1, 9, 200)[:, None])
    ends = np.abs(basis.values(u)).max(0)
    assert (np.abs(inside).max(0) <= 5 * ends).all()


def test_a_constant_input_has_no_functions():
    u = np.stack([np.full(50, 3.0), np.arange(50.0)], 1)
    assert set(ReducedBasis.of(u, LIMIT).column) == {1}
