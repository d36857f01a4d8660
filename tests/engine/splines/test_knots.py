"""Grids made from domains and from data; breakpoints always increase."""

import made_kan
import numpy as np
import pytest
import torch
from cases import cases, refuses
from torch.testing import assert_close

from kanrun.engine.splines import (
    breakpoints_from_data,
    equally_spaced,
    extend,
    knots,
    redivide,
    uniform_breakpoints,
)
from kanrun.engine.splines.knots import rare_samples

DATA = {
    "duplicates": np.repeat([0.0, 1.0], 50),
    "constant": np.full(10, 3.0),
    "zero": np.zeros(10),
    "large constant": np.full(10, 1e7),
    "two points": np.array([-1.0, 2.0]),
    "one point": np.array([0.5]),
    "outlier": np.append(np.arange(100) / 1000, 1e6),
    "tiny": 1e-30 * np.arange(10),
    "far and narrow": 1000.0 + 1e-4 * np.arange(20),
    "nearly constant": np.array([1.0, 1.0 + 1e-7, 1.0 - 1e-7]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("adapt", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("intervals", [1, 5, 100])
@pytest.mark.parametrize("name", DATA)
def test_breakpoints_from_any_data_increase(name, intervals, adapt, dtype):
    x = torch.tensor(DATA[name], dtype=dtype)[:, None]
    points = breakpoints_from_data(x, intervals, adapt, 0.05)
    assert points.isfinite().all()
    assert (points.diff(dim=1) > 0).all()
    assert (extend(points, 3).diff(dim=1) > 0).all()
    outside = int(((x < points[:, 0]) | (x > points[:, -1])).sum())
    assert outside <= (0 if len(x) < knots.FEW else 2 * rare_samples(len(x)))


def test_breakpoints_follow_the_quantiles_as_far_as_asked():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None] ** 3
    quantiles = breakpoints_from_data(x, 4, 1.0, 0.0)
    assert_close(quantiles[0], torch.linspace(0, 1, 5, dtype=torch.float64) ** 3, atol=1e-2, rtol=0)
    half = breakpoints_from_data(x, 4, 0.5, 0.0)
    uniform = breakpoints_from_data(x, 4, 0.0, 0.0)
    assert_close(half, (quantiles + uniform) / 2, atol=1e-2, rtol=0)


SHARES = made_kan.points(500, 1, 0.0)
SPREAD = {
    "uniform": SHARES,
    "normal": made_kan.normal(500, 1),
    "two clusters": 9.0 * (torch.arange(500)[:, None] % 2) + SHARES,
    "a few at one": (torch.arange(500)[:, None] < 3).double(),
}


@pytest.mark.parametrize("x", SPREAD.values(), ids=SPREAD)
def test_grid_covers_all_samples_without_outliers(x):
    found, (low, high) = breakpoints_from_data(x, 6, 0.3, 0.05), x.aminmax()
    margin = 0.05 * float(high - low)
    ends = [float(low) - margin, float(high) + margin]
    assert found[0, [0, -1]].tolist() == pytest.approx(ends, rel=1e-14)


@pytest.mark.parametrize("adapt", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("far", [[50.0], [1e6], [-1e6], [5.0, -40.0, 1e3], [7.0, 7.1]])
def test_outliers_do_not_stretch_the_grid(far, adapt):
    x = made_kan.points(500, 2, seed=0)
    with_outliers = x.clone()
    with_outliers[: len(far), 0] = torch.tensor(far, dtype=torch.float64)
    found = breakpoints_from_data(with_outliers, 8, adapt, 0.05)
    expected = breakpoints_from_data(x, 8, adapt, 0.05)
    assert_close(found[0], expected[0], atol=0.05, rtol=0)
    assert torch.equal(found[1], expected[1])
    constant = torch.full((500, 1), 0.3, dtype=torch.float64)
    constant[: len(far), 0] = torch.tensor(far, dtype=torch.float64)
    points = breakpoints_from_data(constant, 8, adapt, 0.05)
    assert -0.9 < points[0, 0] < 0.3 < points[0, -1] < 1.5
    assert (points.diff(dim=1) > 0).all()


def test_a_grid_within_a_range_stays_there():
    x = torch.tensor([[50.0], *[[0.1 * i] for i in range(-9, 0)]] * 10, dtype=torch.float64)
    ends = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    points = breakpoints_from_data(x, 4, 0.5, 0.05, ends)
    assert points[0, 0] == -1
    assert points[0, -1] == 1
    assert (points.diff(dim=1) > 0).all()
    assert points[0, 2] < 0


def test_ends_are_exact_and_old_points_stay():
    low = torch.tensor([0.1, -3.0], dtype=torch.float64)
    high = torch.tensor([0.7, 5.0], dtype=torch.float64)
    points = uniform_breakpoints(low, high, 7)
    assert torch.equal(points[:, 0], low)
    assert torch.equal(points[:, -1], high)
    assert torch.equal(redivide(points, 35)[:, ::5], points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low", [-1.0, 0.0, 1000.0])
@pytest.mark.parametrize("intervals", [1, 7, 200])
def test_equal_spacing_is_recognised(intervals, low, dtype):
    ends = torch.tensor([low, low + 2.5], dtype=dtype)
    points = uniform_breakpoints(ends[:1], ends[1:], intervals)
    for degree in (0, 3, 7):
        assert equally_spaced(extend(points, degree))
        assert equally_spaced(extend(redivide(points, 3 * intervals), degree))
        if intervals > 1:
            moved = points.clone()
            moved[0, 1] += 0.3 * (points[0, 1] - points[0, 0])
            assert not equally_spaced(extend(moved, degree))


@pytest.mark.parametrize(
    "width, intervals, sentence",
    cases("""
1.0 | 0 | at least 1 interval
0.0 | 3 | lower < upper
0.01 | 1000 | precision
0.01 | 10 | precision
"""),
)
def test_empty_ranges_and_too_narrow_intervals_are_refused(width, intervals, sentence):
    low = torch.tensor([1000.0])
    with refuses(sentence):
        redivide(uniform_breakpoints(low, low + width, intervals), 100 * intervals)


@pytest.mark.parametrize(
    "value, reach",
    cases("""
3.0 | 1.5
0.0 | 0.5
-1000.0 | 500.0
"""),
)
def test_grid_of_a_constant_input_extends_by_half_its_value(value, reach):
    points = breakpoints_from_data(torch.full((10, 1), value).double(), 4, 0.02, 0.05)
    assert_close(points[0, [0, -1]], torch.tensor([value - reach, value + reach]).double())
