"""Curves of `kanrun curves` against slow references: exact fractions, the recursion, scipy."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kanrun.experiments.curves.geometry import (
    approximate,
    basis_on,
    bezier_pieces,
    check_parameters,
    clamped_knots,
    de_casteljau,
    identities,
    interpolate,
    jumps,
    parameters_along,
    polynomial_through,
    random_curve,
    spans,
    with_multiple_knot,
)
from numpy.testing import assert_allclose
from scipy.interpolate import BSpline, PPoly

from kanrun.errors import UsageError

UNIT = np.linspace(0, 1, 33)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def curve_with(degree, inner, seed=0):
    return BSpline(
        clamped_knots(inner, 0.0, 1.0, degree), drawn(len(inner) + degree + 1, 2, seed=seed), degree
    )


def with_repeats(degree, seed):
    """A random curve whose inner knots have multiplicities from 1 to degree + 1."""
    draws = np.random.default_rng(seed)
    places = (np.arange(1, 6) + 0.4 * draws.random(5)) / 7
    return curve_with(degree, list(np.repeat(places, draws.integers(1, degree + 2, 5))), seed)


@settings(deadline=None, max_examples=15)
@given(degree=st.integers(3, 5), seed=st.integers(0, 999), derivative=st.integers(0, 3))
def test_the_left_side_is_the_piece_before_the_knot(degree, seed, derivative):
    curve = with_repeats(degree, seed)
    pieces = PPoly.from_spline(BSpline(curve.t, curve.c[:, 0], degree)).derivative(derivative)
    kept = pieces.x[:-1] < pieces.x[1:]  # scipy keeps the empty pieces between equal knots
    before = [
        np.polyval(c, high - low)
        for c, low, high in zip(
            pieces.c[:, kept].T, pieces.x[:-1][kept], pieces.x[1:][kept], strict=True
        )
    ]
    found = [list(jumps(curve, end))[derivative]["left"] for end in spans(curve)[:, 1]]
    assert_allclose(found, before, rtol=0, atol=1e-9 * max(1.0, np.abs(before).max()))


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6])
def test_a_knot_of_multiplicity_m_leaves_the_curve_k_less_m_times_differentiable(degree):
    for multiplicity in range(1, degree + 1):
        found = list(jumps(with_multiple_knot(degree, multiplicity), 0.5))
        assert [jump["derivative"] for jump in found] == list(range(degree + 1))
        for jump in found[: degree - multiplicity + 1]:
            assert jump["relative"] < 1e-12
        assert found[degree - multiplicity + 1]["relative"] > 1e-3
    assert next(jumps(with_multiple_knot(degree, degree + 1), 0.5))["relative"] > 1e-2  # is torn


@pytest.mark.parametrize("degree", [1, 4])
def test_the_identities_hold_on_a_random_curve_and_are_those_of_its_size(degree):
    found = identities(random_curve(degree, 14, np.random.default_rng(2)), np.ones(2))
    assert found["pieces"] == found["pieces_expected"] == 14 - degree
    assert found["most_spans"] == degree + 1
    assert found["stray_samples"] == 0
    assert max(found["casteljau"], found["partition"], found["reproduction"]) < 1e-13
    assert found["lowest"] == 0


@pytest.mark.parametrize(
    "degree, inner, count",
    [
        (3, [], 1),
        (3, [0.2, 0.5, 0.5, 0.9], 4),
        (2, [0.5, 0.5, 0.5], 2),  # not even continuous
        (4, [0.3, 0.3, 0.3, 0.3], 2),
    ],
)
def test_bezier_pieces_are_the_curve(degree, inner, count):
    curve = curve_with(degree, inner)
    pieces, ends = bezier_pieces(curve)
    assert pieces.shape == (count, degree + 1, 2)
    assert count == len(set(inner)) + 1
    for piece, (low, high) in zip(pieces, ends, strict=True):
        inside = UNIT[:-1]
        assert_allclose(
            de_casteljau(piece, inside), curve(low + (high - low) * inside), rtol=0, atol=1e-13
        )


def runge(x):
    return (1 / (1 + 25 * x**2))[:, None]


def equispaced(count):
    return np.linspace(-1, 1, count)


def planar(count, seed=0):
    return drawn(count, 2, seed=seed).cumsum(0)


def lagrange(nodes, values, x):
    """The polynomial by Lagrange's formula in exact fractions."""
    exact = [Fraction(node) for node in nodes]
    total = Fraction(0)
    for j, (node, value) in enumerate(zip(exact, values, strict=True)):
        term = Fraction(value)
        for i, other in enumerate(exact):
            term *= (Fraction(x) - other) / (node - other) if i != j else 1
        total += term
    return float(total)


@pytest.mark.parametrize("count", [2, 5, 20, 40])
def test_the_polynomial_is_lagranges_in_exact_fractions(count):
    x = equispaced(count)
    at = np.array([-0.999, -0.3, 0.01, 0.5, 0.97])
    truth = [lagrange(x.tolist(), runge(x)[:, 0].tolist(), point) for point in at.tolist()]
    # The error may grow with the polynomial's sensitivity to its data (Lebesgue's function), 1e10
    # at N = 40.
    assert_allclose(polynomial_through(x, runge(x), at)[:, 0], truth, rtol=1e-11, atol=1e-13)


@settings(deadline=None, max_examples=25)
@given(degree=st.integers(1, 7), extra=st.integers(0, 30), seed=st.integers(0, 999))
def test_a_spline_through_points_meets_them_on_knots_that_are_means_of_parameters(
    degree, extra, seed
):
    points = planar(degree + 1 + extra, seed)
    t = parameters_along(points, "chord")
    curve = interpolate(t, points, degree)
    assert_allclose(curve(t), points, rtol=0, atol=1e-9 * np.abs(points).max())
    means = [t[i : i + degree].mean() for i in range(1, len(t) - degree)]
    assert_allclose(curve.t[degree + 1 : -degree - 1], means, rtol=0, atol=1e-15)


@settings(deadline=None, max_examples=25)
@given(degree=st.integers(1, 5), fewer=st.integers(0, 20), seed=st.integers(0, 999))
def test_a_curve_near_points_is_the_least_squares_one(degree, fewer, seed):
    points = planar(degree + 25, seed)
    t = parameters_along(points, "chord")
    curve = approximate(t, points, degree, len(points) - fewer)
    assert curve.c.shape == (len(points) - fewer, 2)
    # Nearest means that the residual is orthogonal to every basis function, to the rounding of sums
    # of control points.
    assert np.abs(basis_on(curve, t).T @ (curve(t) - points)).max() < 1e-13 * np.abs(curve.c).max()


@pytest.mark.parametrize(
    "spacing, middle", [("chord", 0.1), ("centripetal", 0.25), ("uniform", 0.5)]
)
def test_steps_of_parameters_are_powers_of_the_distances(spacing, middle):
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 9.0]])
    assert_allclose(parameters_along(points, spacing), [0.0, middle, 1.0], rtol=1e-15)


def test_points_and_parameters_that_make_no_curve_are_refused():
    points = planar(6)
    with pytest.raises(UsageError, match="at least 2 points, not 1"):
        parameters_along(points[:1], "chord")
    with pytest.raises(UsageError, match="Points 3 and 4 are the same"):
        parameters_along(points[[0, 1, 2, 2, 4]], "chord")
    for wrong in ([0.0, 0.2, 0.2, 1.0], [0.0, 0.3, 0.2, 1.0], [0.0, float("nan"), 0.2, 1.0]):
        with pytest.raises(UsageError, match="must increase strictly"):
            check_parameters(np.array(wrong))
