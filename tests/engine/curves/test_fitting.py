"""Polynomials and B-spline curves through points, and near them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import make_interp_spline
from torch import Tensor

from kanrun.engine.splines.curve_fitting import approximate, check_parameters, interpolate, parameters_along
from kanrun.engine.splines.polynomial import PolynomialThrough, chebyshev_points
from kanrun.errors import UsageError


def runge(x: Tensor) -> Tensor:
    return (1 / (1 + 25 * x**2))[:, None]


def equispaced(count: int) -> Tensor:
    return torch.linspace(-1, 1, count, dtype=torch.float64)


def planar(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).cumsum(0)


def lagrange(nodes: list[float], values: list[float], x: float) -> float:
    """The polynomial by Lagrange's formula in exact fractions."""
    exact = [Fraction(node) for node in nodes]
    total = Fraction(0)
    for j, (node, value) in enumerate(zip(exact, values, strict=True)):
        term = Fraction(value)
        for i, other in enumerate(exact):
            term *= (Fraction(x) - other) / (node - other) if i != j else 1
        total += term
    return float(total)


def test_the_four_points_of_the_lecture_are_met_to_the_last_bit() -> None:
    x = torch.tensor([0, 1, 2, 5], dtype=torch.float64)
    y = torch.tensor([[5], [1], [3], [2]], dtype=torch.float64)
    assert torch.equal(PolynomialThrough(x, y)(x), y)


@pytest.mark.parametrize("count", [2, 5, 20, 40])
def test_the_polynomial_is_lagranges_in_exact_fractions(count: int) -> None:
    x = equispaced(count)
    values = runge(x)[:, 0].tolist()
    at = torch.tensor([-0.999, -0.3, 0.01, 0.5, 0.97], dtype=torch.float64)
    truth = [lagrange(x.tolist(), values, point) for point in at.tolist()]
    # The error may grow with the polynomial's own sensitivity to its data (Lebesgue's function), 1e10 at N = 40.
    found = PolynomialThrough(x, runge(x))(at)[:, 0]
    np.testing.assert_allclose(found, truth, rtol=1e-11, atol=1e-13)


def test_abscissae_may_come_in_any_order() -> None:
    x, order = chebyshev_points(12), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    at = equispaced(50)
    mixed = PolynomialThrough(x[order], runge(x)[order])(at)
    torch.testing.assert_close(mixed, PolynomialThrough(x, runge(x))(at), rtol=1e-12, atol=1e-13)


def test_products_stay_in_range_up_to_the_largest_number_of_points() -> None:
    x = 1e-3 * chebyshev_points(1000)
    at = 1e-3 * equispaced(77)
    torch.testing.assert_close(PolynomialThrough(x, x[:, None])(at), at[:, None], rtol=0, atol=1e-15)


def test_error_at_equispaced_points_grows_and_at_chebyshev_points_falls() -> None:
    at = equispaced(4001)

    def error(nodes: Tensor) -> float:
        return float((PolynomialThrough(nodes, runge(nodes))(at) - runge(at)).abs().max())

    assert error(equispaced(10)) < error(equispaced(20)) / 10 < error(equispaced(40)) / 1000
    assert error(chebyshev_points(10)) > 5 * error(chebyshev_points(20)) > 25 * error(chebyshev_points(40))


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(1, dtype=torch.float64), "2 to 1000 points, not 1"),
        (torch.zeros(1001, dtype=torch.float64), "2 to 1000 points, not 1001"),
        (torch.tensor([0.0, 2.0, 1.0, 2.0], dtype=torch.float64), "2 comes twice"),
    ],
)
def test_points_without_a_polynomial_are_refused(x: Tensor, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        PolynomialThrough(x, x[:, None])


@settings(deadline=None, max_examples=25)
@given(degree=st.integers(1, 7), extra=st.integers(0, 30), seed=st.integers(0, 999))
def test_a_spline_through_points_meets_them_and_is_scipys_on_its_knots(degree: int, extra: int, seed: int) -> None:
    points = planar(degree + 1 + extra, seed)
    t = parameters_along(points)
    curve = interpolate(t, points, degree)
    size = float(points.abs().max())
    torch.testing.assert_close(curve.points(t), points, rtol=0, atol=1e-9 * size)
    truth = make_interp_spline(t.numpy(), points.numpy(), degree, t=curve.knots.numpy())
    np.testing.assert_allclose(curve.control, truth.c, rtol=0, atol=1e-7 * np.abs(truth.c).max())


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_the_splines_error_falls_at_order_k_plus_1(degree: int) -> None:
    at, counts, found = equispaced(5001), [20, 28, 40, 56], []
    for count in counts:
        x = equispaced(count)
        curve = interpolate(x, torch.exp(x)[:, None], degree)
        found.append(float((curve.points(at)[:, 0] - torch.exp(at)).abs().max()))
    slope = np.polyfit(-np.log(np.array(counts) - 1), np.log(found), 1)[0]
    assert slope == pytest.approx(degree + 1, abs=0.2)


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_polynomials_of_the_splines_degree_are_reproduced(degree: int) -> None:
    x = chebyshev_points(15)
    truth = torch.stack([x**degree, 1 - x], 1)
    at = equispaced(101)
    for curve in (interpolate(x, truth, degree), approximate(x, truth, degree, degree + 4)):
        torch.testing.assert_close(curve.points(at), torch.stack([at**degree, 1 - at], 1), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(degree=st.integers(1, 5), fewer=st.integers(0, 20), seed=st.integers(0, 999))
def test_a_curve_near_points_is_the_least_squares_one(degree: int, fewer: int, seed: int) -> None:
    count = degree + 25
    points = planar(count, seed)
    t = parameters_along(points)
    curve = approximate(t, points, degree, count - fewer)
    assert curve.control.shape == (count - fewer, 2)
    residual = curve.points(t) - points
    basis = torch.stack([curve_at(curve.control.shape[0], i, curve.knots, degree, t) for i in range(count - fewer)], 1)
    # Nearest means: what is left is orthogonal to every basis function, to the rounding of sums of control points.
    assert (basis.T @ residual).abs().max() < 1e-13 * curve.control.abs().max()


def curve_at(functions: int, index: int, knots: Tensor, degree: int, t: Tensor) -> Tensor:
    from scipy.interpolate import BSpline

    return torch.from_numpy(BSpline(knots.numpy(), np.eye(functions)[index], degree)(t.numpy()))


def test_many_points_are_a_banded_system() -> None:
    x = equispaced(50_000)
    curve = interpolate(x, torch.stack([x, torch.sin(9 * x)], 1), 3)
    torch.testing.assert_close(curve.points(x)[:, 1], torch.sin(9 * x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("spacing", "power"), [("chord", 1.0), ("centripetal", 0.5), ("uniform", 0.0)])
def test_parameters_are_powers_of_distances_from_0_to_1(spacing: str, power: float) -> None:
    points = planar(9)
    steps = points.diff(dim=0).norm(dim=1) ** power
    t = parameters_along(points, spacing)
    assert t[0] == 0
    assert t[-1] == 1
    torch.testing.assert_close(t.diff(), steps / steps.sum())


def test_points_and_parameters_that_make_no_curve_are_refused() -> None:
    points = planar(6)
    with pytest.raises(UsageError, match="at least 2 points, not 1"):
        parameters_along(points[:1])
    with pytest.raises(UsageError, match="one of chord, centripetal, uniform, not arc"):
        parameters_along(points, "arc")
    with pytest.raises(UsageError, match="Points 3 and 4 are the same"):
        parameters_along(points[[0, 1, 2, 2, 4]])
    for wrong in ([0.0, 0.2, 0.2, 1.0], [0.0, 0.3, 0.2, 1.0], [0.0, float("nan"), 0.2, 1.0]):
        with pytest.raises(UsageError, match="must increase strictly"):
            check_parameters(torch.tensor(wrong, dtype=torch.float64))
    t = parameters_along(points)
    with pytest.raises(UsageError, match="degree must be at least 1, not 0"):
        interpolate(t, points, 0)
    with pytest.raises(UsageError, match="degree 6 needs at least 7 control points, not 6"):
        interpolate(t, points, 6)
    with pytest.raises(UsageError, match="degree 3 needs at least 4 control points, not 3"):
        approximate(t, points, 3, 3)
    with pytest.raises(UsageError, match="control_points is 7, but there are 6 points"):
        approximate(t, points, 3, 7)
