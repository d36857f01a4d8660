"""Curves compared with exact fractions, with slow recursions and with scipy."""

import numpy as np
import pytest
from cases import cases, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from kanrun.experiments.curves.geometry import (
    approximate,
    basis_on,
    bezier_pieces,
    check_parameters,
    clamped_knots,
    de_casteljau,
    interpolate,
    parameters_along,
)
from numpy.testing import assert_allclose
from scipy.interpolate import BSpline


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    "degree, inner, count",
    cases("""
        3 | [] | 1
        3 | [0.2, 0.5, 0.5, 0.9] | 4
        2 | [0.5, 0.5, 0.5] | 2
        4 | [0.3, 0.3, 0.3, 0.3] | 2
    """),
)
def test_bezier_pieces_are_the_curve(degree, inner, count):
    control = drawn(len(inner) + degree + 1, 2)
    curve = BSpline(clamped_knots(inner, 0.0, 1.0, degree), control, degree)
    pieces, ends = bezier_pieces(curve)
    assert pieces.shape == (count, degree + 1, 2)
    at = np.linspace(0, 1, 33)[:-1]
    for piece, (low, high) in zip(pieces, ends, strict=True):
        expected = curve(low + (high - low) * at)
        assert_allclose(de_casteljau(piece, at), expected, rtol=0, atol=1e-13)


def planar(count, seed=0):
    points = drawn(count, 2, seed=seed).cumsum(0)
    return points, parameters_along(points, "chord")


@settings(max_examples=25)
@given(degree=st.integers(1, 7), extra=st.integers(0, 30), seed=st.integers(0, 999))
def test_a_spline_through_points_meets_them_on_knots_that_are_means_of_parameters(
    degree, extra, seed
):
    points, t = planar(degree + 1 + extra, seed)
    curve = interpolate(t, points, degree)
    assert_allclose(curve(t), points, rtol=0, atol=1e-9 * np.abs(points).max())
    means = [t[i : i + degree].mean() for i in range(1, len(t) - degree)]
    assert_allclose(curve.t[degree + 1 : -degree - 1], means, rtol=0, atol=1e-15)


@settings(max_examples=25)
@given(degree=st.integers(1, 5), fewer=st.integers(0, 20), seed=st.integers(0, 999))
def test_a_curve_near_points_is_the_least_squares_one(degree, fewer, seed):
    points, t = planar(degree + 25, seed)
    curve = approximate(t, points, degree, len(points) - fewer)
    assert curve.c.shape == (len(points) - fewer, 2)
    # For the nearest curve, the residual is orthogonal to every basis function up to rounding.
    assert np.abs(basis_on(curve, t).T @ (curve(t) - points)).max() < 1e-13 * np.abs(curve.c).max()


CORNER = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 9.0]])


@pytest.mark.parametrize(
    "spacing, middle", [("chord", 0.1), ("centripetal", 0.25), ("uniform", 0.5)]
)
def test_steps_of_parameters_are_powers_of_the_distances(spacing, middle):
    assert_allclose(parameters_along(CORNER, spacing), [0.0, middle, 1.0], rtol=1e-15)


def test_points_and_parameters_that_make_no_curve_are_refused():
    with refuses("at least 2 points, not 1"):
        parameters_along(CORNER[:1], "chord")
    with refuses("Points 2 and 3 are the same"):
        parameters_along(CORNER[[0, 1, 1, 2]], "chord")
    with refuses("must increase strictly"):
        check_parameters(np.array([0.0, float("nan"), 0.2, 1.0]))
