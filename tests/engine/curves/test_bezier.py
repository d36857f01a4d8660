"""Bernstein polynomials, de Casteljau's construction and Boehm's knot insertion against slow truths."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kanrun.engine.networks import Bezier
from kanrun.engine.splines.bezier import (
    bernstein,
    bezier_pieces,
    bezier_points,
    construction,
    de_casteljau,
    insert_knot,
)
from kanrun.engine.splines.spline_curve import SplineCurve, clamped_knots
from kanrun.errors import UsageError

UNIT = torch.linspace(0, 1, 33, dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def curve_with(degree: int, inner: list[float], seed: int = 0) -> SplineCurve:
    knots = clamped_knots(torch.tensor(inner, dtype=torch.float64), 0.0, 1.0, degree)
    return SplineCurve(drawn(len(inner) + degree + 1, 2, seed=seed), knots, degree)


@pytest.mark.parametrize("degree", [0, 1, 4, 9, 20])
def test_bernstein_polynomials_are_their_formula_in_exact_fractions(degree: int) -> None:
    values = bernstein(UNIT, degree)
    for row, u in zip(values, UNIT, strict=True):
        exact = Fraction(float(u))
        for i, value in enumerate(row):
            truth = comb(degree, i) * exact**i * (1 - exact) ** (degree - i)
            assert float(value) == pytest.approx(float(truth), rel=1e-13, abs=1e-300)


@pytest.mark.parametrize("degree", [1, 7, 60, 1000])
def test_bernstein_polynomials_sum_to_one_and_are_not_negative(degree: int) -> None:
    values = bernstein(UNIT, degree)
    assert (values.sum(-1) - 1).abs().max() < 1e-12
    assert values.min() >= 0


def test_bernstein_polynomials_have_the_shape_of_their_batch_and_its_precision() -> None:
    values = bernstein(torch.rand(2, 3, dtype=torch.float32), 4)
    assert values.shape == (2, 3, 5)
    assert values.dtype == torch.float32


def test_high_degrees_in_single_precision() -> None:
    values = bernstein(UNIT.float(), 300)
    torch.testing.assert_close(values.double(), bernstein(UNIT, 300), rtol=1e-6, atol=1e-30)


def test_the_curve_model_has_the_same_basis() -> None:
    model = Bezier(7, 1, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(model.basis(UNIT[:, None]), bernstein(UNIT, 6), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("degree", [-1, 1001])
def test_degrees_that_have_no_bernstein_polynomials_here_are_refused(degree: int) -> None:
    with pytest.raises(UsageError, match=f"from 0 to 1000, not {degree}"):
        bernstein(UNIT, degree)


@settings(deadline=None, max_examples=30)
@given(degree=st.integers(0, 25), seed=st.integers(0, 999))
def test_de_casteljau_equals_bernstein(degree: int, seed: int) -> None:
    control = drawn(degree + 1, 3, seed=seed)
    apart = (de_casteljau(control, UNIT) - bezier_points(control, UNIT)).abs().max()
    assert apart <= 1e-12 * control.abs().max()


def test_the_construction_ends_in_the_point_of_the_curve_and_starts_with_the_control_points() -> None:
    control = drawn(5, 2)
    levels = construction(control, 0.3)
    assert [len(level) for level in levels] == [5, 4, 3, 2, 1]
    assert torch.equal(levels[0], control)
    torch.testing.assert_close(levels[1], 0.7 * control[:-1] + 0.3 * control[1:])
    at = torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(levels[-1], de_casteljau(control, at), rtol=0, atol=1e-15)


@settings(deadline=None, max_examples=40)
@given(degree=st.integers(1, 7), at=st.sampled_from([0.1, 0.2, 0.5, 0.77]), times=st.integers(1, 3))
def test_a_knot_inserted_leaves_the_curve_and_brings_a_control_point(degree: int, at: float, times: int) -> None:
    curve = curve_with(degree, [0.2, 0.5, 0.5, 0.9] if degree > 1 else [0.2, 0.5, 0.9])
    finer = curve
    for _ in range(min(times, degree + 1 - int((curve.knots == at).sum()))):
        finer = insert_knot(finer, at)
    assert len(finer.control) - len(curve.control) == len(finer.knots) - len(curve.knots)
    torch.testing.assert_close(finer.points(UNIT), curve.points(UNIT), rtol=0, atol=1e-13)


def test_a_knot_can_be_inserted_at_the_ends_of_knots_that_are_not_clamped() -> None:
    curve = SplineCurve(drawn(7, 2), torch.arange(11, dtype=torch.float64), 3)
    finer = insert_knot(insert_knot(curve, 3.0), 7.0)
    t = torch.linspace(3, 7, 41, dtype=torch.float64)
    assert finer.domain == curve.domain
    assert len(finer.control) == len(curve.control)  # at an end one point goes for each that comes
    torch.testing.assert_close(finer.points(t), curve.points(t), rtol=0, atol=1e-13)


def test_inserting_outside_or_too_often_is_refused() -> None:
    curve = curve_with(2, [0.5, 0.5, 0.5])
    with pytest.raises(UsageError, match=r"from 0 to 1, not at 1\.5"):
        insert_knot(curve, 1.5)
    with pytest.raises(UsageError, match=r"0\.5 has multiplicity 3 already"):
        insert_knot(curve, 0.5)


@pytest.mark.parametrize(
    ("degree", "inner", "count"),
    [
        (1, [0.2, 0.5, 0.9], 4),
        (3, [0.2, 0.5, 0.9], 4),
        (3, [], 1),
        (3, [0.2, 0.5, 0.5, 0.9], 4),
        (2, [0.5, 0.5, 0.5], 2),  # not even continuous
        (4, [0.3, 0.3, 0.3, 0.3], 2),
    ],
)
def test_bezier_pieces_are_the_curve(degree: int, inner: list[float], count: int) -> None:
    curve = curve_with(degree, inner)
    pieces, ends = bezier_pieces(curve)
    assert pieces.shape == (count, degree + 1, 2)
    assert count == len(set(inner)) + 1
    for piece, (low, high) in zip(pieces, ends.tolist(), strict=True):
        inside = UNIT[:-1]
        there = curve.points(low + (high - low) * inside)
        torch.testing.assert_close(de_casteljau(piece, inside), there, rtol=0, atol=1e-13)


def test_simple_knots_give_n_less_k_pieces_also_where_the_knots_are_not_clamped() -> None:
    curve = SplineCurve(drawn(9, 2), torch.arange(13, dtype=torch.float64), 3)
    pieces, ends = bezier_pieces(curve)
    assert len(pieces) == 9 - 3
    middle = torch.tensor([0.5], dtype=torch.float64)
    for piece, (low, high) in zip(pieces, ends.tolist(), strict=True):
        torch.testing.assert_close(de_casteljau(piece, middle), curve.points(low + (high - low) * middle))
