"""B-spline curves on repeated knots against scipy and the recursion, both sides of a knot, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline, PPoly
from torch import Tensor

from kanrun.engine.splines.curve_properties import (
    PER_SPAN,
    basis_on,
    identities,
    jumps,
    move_point,
    random_curve,
    samples,
    with_multiple_knot,
)
from kanrun.engine.splines.spline_curve import SplineCurve, clamped_knots
from kanrun.errors import UsageError


def with_repeats(degree: int, seed: int) -> SplineCurve:
    """A random curve whose inner knots have multiplicities from 1 to degree + 1."""
    generator = torch.Generator().manual_seed(seed)
    places = (torch.arange(1, 6, dtype=torch.float64) + 0.4 * torch.rand(5, generator=generator)) / 7
    times = torch.randint(1, degree + 2, (5,), generator=generator)
    knots = clamped_knots(places.repeat_interleave(times), 0.0, 1.0, degree)
    control = torch.randn(len(knots) - degree - 1, 2, dtype=torch.float64, generator=generator)
    return SplineCurve(control, knots, degree)


def recursion(i: int, k: int, knots: list[float], t: float) -> float:
    """Cox and de Boor's definition, 0/0 being 0."""
    if k == 0:
        return float(knots[i] <= t < knots[i + 1])
    left, right = knots[i + k] - knots[i], knots[i + k + 1] - knots[i + 1]
    value = (t - knots[i]) / left * recursion(i, k - 1, knots, t) if left else 0.0
    return value + ((knots[i + k + 1] - t) / right * recursion(i + 1, k - 1, knots, t) if right else 0.0)


@settings(deadline=None, max_examples=25)
@given(degree=st.integers(1, 6), seed=st.integers(0, 999), derivative=st.integers(0, 3))
def test_a_curve_and_its_derivatives_are_scipys(degree: int, seed: int, derivative: int) -> None:
    curve = with_repeats(degree, seed)
    t = torch.cat([torch.linspace(0, 1, 101, dtype=torch.float64), curve.knots])
    truth = BSpline(curve.knots.numpy(), curve.control.numpy(), degree)(t.numpy(), nu=derivative)
    np.testing.assert_allclose(curve.points(t, derivative), truth, rtol=0, atol=1e-12 * max(1.0, np.abs(truth).max()))


@settings(deadline=None, max_examples=15)
@given(degree=st.integers(1, 5), seed=st.integers(0, 999), derivative=st.integers(0, 3))
def test_the_left_side_is_the_piece_before_the_knot(degree: int, seed: int, derivative: int) -> None:
    curve = with_repeats(degree, seed)
    spans = curve.spans()
    pieces = PPoly.from_spline(BSpline(curve.knots.numpy(), curve.control[:, 0].numpy(), degree)).derivative(derivative)
    kept = pieces.x[:-1] < pieces.x[1:]  # scipy keeps the empty pieces between equal knots
    before = [
        np.polyval(c, high - low)
        for c, low, high in zip(pieces.c[:, kept].T, pieces.x[:-1][kept], pieces.x[1:][kept], strict=True)
    ]
    found = curve.points(spans[:, 1].contiguous(), derivative, "left")[:, 0]
    np.testing.assert_allclose(found, before, rtol=0, atol=1e-9 * max(1.0, np.abs(before).max()))


@settings(deadline=None, max_examples=15)
@given(degree=st.integers(1, 4), seed=st.integers(0, 999))
def test_the_basis_is_the_recursion_sums_to_one_and_is_not_negative(degree: int, seed: int) -> None:
    curve = with_repeats(degree, seed)
    t = samples(curve, 4)
    basis = basis_on(curve, t)
    knots = curve.knots.tolist()
    truth = [[recursion(i, degree, knots, float(at)) for i in range(len(curve.control))] for at in t[:-1]]
    np.testing.assert_allclose(basis[:-1], truth, rtol=0, atol=1e-13)
    assert (basis.sum(1) - 1).abs().max() < 1e-13
    assert basis.min() >= 0


def test_clamped_knots_lead_from_the_first_control_point_to_the_last() -> None:
    curve = with_repeats(3, 5)
    ends = curve.points(torch.tensor(curve.domain, dtype=torch.float64))
    torch.testing.assert_close(ends, curve.control[[0, -1]], rtol=0, atol=1e-15)


def test_outside_its_domain_a_curve_goes_on_in_a_straight_line() -> None:
    curve = with_repeats(3, 5)
    at = curve.points(torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64))
    torch.testing.assert_close(at[2] - at[1], at[1] - at[0])


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6])
def test_a_knot_of_multiplicity_m_leaves_the_curve_k_less_m_times_differentiable(degree: int) -> None:
    for multiplicity in range(1, degree + 1):
        found = jumps(with_multiple_knot(degree, multiplicity), 0.5)
        assert [jump.derivative for jump in found] == list(range(degree + 1))
        for jump in found[: degree - multiplicity + 1]:
            assert jump.relative < 1e-12
        assert found[degree - multiplicity + 1].relative > 1e-3


def test_a_knot_of_multiplicity_k_plus_1_tears_the_curve() -> None:
    assert jumps(with_multiple_knot(2, 3), 0.5)[0].relative > 1e-2


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_moving_a_control_point_moves_its_support_and_no_bit_elsewhere(degree: int) -> None:
    curve = random_curve(degree, 3 * degree + 4, torch.Generator().manual_seed(1))
    t = samples(curve)
    for index in range(len(curve.control)):
        moved = move_point(curve, index, torch.tensor([0.3, -2.0], dtype=torch.float64))
        changed = (moved.points(t) != curve.points(t)).any(1)
        support = (t > curve.knots[index]) & (t < curve.knots[index + degree + 1])
        inside = support & (t > 0) & (t < 1)
        assert torch.equal(changed & inside, inside)
        assert not (changed & ~support)[1:-1].any()
        assert int(changed[:-1].reshape(-1, PER_SPAN).any(1).sum()) <= degree + 1


def test_moving_a_control_point_leaves_the_curve_it_came_from_alone() -> None:
    curve = with_repeats(2, 3)
    before = curve.control.clone()
    move_point(curve, 1, torch.ones(2, dtype=torch.float64))
    assert torch.equal(curve.control, before)


def test_the_identities_hold_on_a_random_curve_and_are_those_of_its_size() -> None:
    found = identities(random_curve(4, 14, torch.Generator().manual_seed(2)), torch.ones(2, dtype=torch.float64))
    assert found.pieces == found.pieces_expected == 10
    assert found.most_spans == 5
    assert found.stray_samples == 0
    assert max(found.casteljau, found.partition, found.reproduction) < 1e-13
    assert found.lowest == 0


def a_curve(control: int, knots: list[float], degree: int) -> SplineCurve:
    values: Tensor = torch.zeros(control, 2, dtype=torch.float64)
    return SplineCurve(values, torch.tensor(knots, dtype=torch.float64), degree)


@pytest.mark.parametrize(
    ("control", "knots", "degree", "sentence"),
    [
        (3, [0, 0, 1, 1], 0, "degree must be at least 1, not 0"),
        (3, [0, 0, 0, 1, 1, 1], 3, "degree 3 needs at least 4 control points, not 3"),
        (3, [0, 0, 0, 1, 1], 2, "3 control points of degree 2 need 6 knots, not 5"),
        (4, [0, 0, 0.7, 0.3, 1, 1], 1, "never decrease"),
        (4, [0, 0, float("nan"), 0.5, 1, 1], 1, "finite"),
        (5, [0, 0, 0.5, 0.5, 0.5, 1, 1], 1, "repeated at most 2 times in degree 1"),
        (3, [0, 0, 0, 1, 1], 1, "repeated at most 2 times|strictly between"),
        (4, [0, 1, 1, 2, 3, 4], 1, "strictly between its ends"),
    ],
)
def test_what_is_no_curve_is_refused(control: int, knots: list[float], degree: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        a_curve(control, knots, degree)
