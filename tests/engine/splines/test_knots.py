"""Grids made from domains and from data; breakpoints always increase."""

from functools import partial

import numpy as np
import pytest
import torch
from cases import cases, refuses
from made_kan import normal, points
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

tensor = partial(torch.tensor, dtype=torch.float64)
near = partial(assert_close, rtol=0)


def increase(breaks):
    return bool(breaks.isfinite().all() and (breaks.diff(dim=1) > 0).all())


DATA = {
    "duplicates": np.repeat([0.0, 1.0], 50),
    "constant": np.full(10, 3.0),
    "zero": np.zeros(10),
    "large constant": np.full(10, 1e7),
    "two points": [-1.0, 2.0],
    "one point": [0.5],
    "outlier": [*np.arange(100) / 1000, 1e6],
    "tiny": 1e-30 * np.arange(10),
    "far and narrow": 1000.0 + 1e-4 * np.arange(20),
    "nearly constant": [1.0, 1.0 + 1e-7, 1.0 - 1e-7],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("adapt", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("intervals", [1, 5, 100])
@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_breakpoints_from_any_data_increase(data, intervals, adapt, dtype):
    x = torch.tensor(data, dtype=dtype)[:, None]
    breaks = breakpoints_from_data(x, intervals, adapt, 0.05)
    assert increase(breaks)
    assert increase(extend(breaks, 3))
    outside = int(((x < breaks[:, 0]) | (x > breaks[:, -1])).sum())
    assert outside <= (0 if len(x) < knots.FEW else 2 * rare_samples(len(x)))


def test_breakpoints_follow_the_quantiles_as_far_as_asked():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None] ** 3
    uniform, half, quantiles = (breakpoints_from_data(x, 4, a, 0.0)[0] for a in (0.0, 0.5, 1.0))
    near(quantiles, tensor([0, 1 / 64, 8 / 64, 27 / 64, 1]), atol=1e-2)
    near(half, (quantiles + uniform) / 2, atol=1e-2)


SHARES = points(500, 1, 0.0)


@pytest.mark.parametrize(
    "x",
    [
        SHARES,
        normal(500, 1),
        9.0 * (torch.arange(500)[:, None] % 2) + SHARES,  # two clusters
        (torch.arange(500)[:, None] < 3).double(),  # a few at 1
    ],
)
def test_grid_covers_all_samples_without_outliers(x):
    margin = 0.05 * (x.max() - x.min())
    ends = breakpoints_from_data(x, 6, 0.3, 0.05)[0, [0, -1]]
    assert_close(ends, torch.stack([x.min() - margin, x.max() + margin]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("adapt", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("far", [[50.0], [1e6], [-1e6], [5.0, -40.0, 1e3], [7.0, 7.1]])
def test_outliers_do_not_stretch_the_grid(far, adapt):
    x = torch.cat([points(500, 2, seed=0), torch.full((500, 1), 0.3)], 1)
    with_outliers = x.clone()
    with_outliers[: len(far), [0, 2]] = tensor(far)[:, None]
    found, expected = (breakpoints_from_data(each, 8, adapt, 0.05) for each in (with_outliers, x))
    near(found[0], expected[0], atol=0.05)
    assert torch.equal(found[1], expected[1])
    assert -0.9 < found[2, 0] < 0.3 < found[2, -1] < 1.5
    assert increase(found)


def test_a_grid_within_a_range_stays_there():
    x = tensor([50.0, *(0.1 * i for i in range(-9, 0))] * 10)[:, None]
    breaks = breakpoints_from_data(x, 4, 0.5, 0.05, tensor([[-1.0, 1.0]]))
    assert breaks[0, [0, -1]].tolist() == [-1, 1]
    assert increase(breaks)
    assert breaks[0, 2] < 0


def test_ends_are_exact_and_old_points_stay():
    ends = tensor([[0.1, -3.0], [0.7, 5.0]])
    breaks = uniform_breakpoints(*ends, 7)
    assert torch.equal(breaks[:, [0, -1]], ends.T)
    assert torch.equal(redivide(breaks, 35)[:, ::5], breaks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low", [-1.0, 0.0, 1000.0])
@pytest.mark.parametrize("intervals", [2, 7, 200])
@pytest.mark.parametrize("degree", [0, 3, 7])
def test_equal_spacing_is_recognised(degree, intervals, low, dtype):
    ends = torch.tensor([[low], [low + 2.5]], dtype=dtype)
    breaks = uniform_breakpoints(*ends, intervals)
    assert equally_spaced(extend(breaks, degree))
    assert equally_spaced(extend(redivide(breaks, 3 * intervals), degree))
    breaks[0, 1] += 0.3 * (breaks[0, 1] - breaks[0, 0])
    assert not equally_spaced(extend(breaks, degree))


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
    "value, ends",
    cases("""
        3.0 | [1.5, 4.5]
        0.0 | [-0.5, 0.5]
        -1000.0 | [-1500.0, -500.0]
    """),
)
def test_grid_of_a_constant_input_extends_by_half_its_value(value, ends):
    breaks = breakpoints_from_data(tensor([[value]] * 10), 4, 0.02, 0.05)
    assert_close(breaks[0, [0, -1]], tensor(ends))
