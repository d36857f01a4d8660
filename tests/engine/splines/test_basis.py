"""The local basis compared with a slow recurrence and with scipy's B-splines."""

from functools import partial

import made_kan
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from torch.testing import assert_close

from kanrun.engine.splines import Grid, dense_rows, extend, local_basis

DEGREES = [0, 1, 2, 3, 4, 5, 6, 8]
POLICIES = ["linear", "constant", "zero"]


def make_grid(degree, intervals, uniform, outside="linear", inputs=2, seed=0, dtype=torch.float64):
    points = torch.linspace(-1.5, 2.0, intervals + 1, dtype=torch.float64).expand(inputs, -1)
    if not uniform:
        points = made_kan.points(inputs, intervals + 1, 0.2, 1.2, seed).cumsum(1) - 1
    return Grid(extend(points.to(dtype), degree), degree, uniform, outside)


def points_of(grid, count=40, seed=1):
    share = made_kan.points(count, grid.knots.shape[0], 0.0, seed=seed)
    return grid.low + share * (grid.high - grid.low)


def all_functions(x, grid, derivative=0):
    values, interval = local_basis(x, grid, derivative)
    return dense_rows(values, interval, grid.functions)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("degree", DEGREES)
def test_values_and_derivatives_are_scipys(degree, uniform):
    grid = make_grid(degree, 7, uniform)
    x = points_of(grid)
    assert not all_functions(x, grid, degree + 1).any()
    for derivative in range(min(degree, 3) + 1):
        found = all_functions(x, grid, derivative).numpy()
        for knots, at, values in zip(grid.knots, x.T, found.swapaxes(0, 1), strict=True):
            spline = BSpline(knots.numpy(), np.eye(grid.functions), degree)
            wanted = spline(at.numpy(), nu=derivative)
            np.testing.assert_allclose(values, wanted, atol=1e-12 * max(1, np.abs(wanted).max()))


@settings(max_examples=40)
@given(
    degree=st.integers(0, 7),
    intervals=st.integers(1, 12),
    uniform=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_values_sum_to_one_on_the_closed_domain(degree, intervals, uniform, seed):
    grid = make_grid(degree, intervals, uniform, seed=seed)
    x = torch.cat([points_of(grid, 20, seed), grid.low[None], grid.high[None]])
    values, interval = local_basis(x, grid)
    assert_close(values.sum(-1), torch.ones_like(x), atol=1e-12, rtol=0)
    assert values.min() >= -1e-13
    assert interval.min() >= 0
    assert interval.max() < intervals


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 6])
def test_extrapolation_continues_the_line_holds_the_value_or_gives_zero(degree, uniform):
    grid, hold, drop = (make_grid(degree, 4, uniform, outside) for outside in POLICIES)
    ends = torch.stack([grid.low, grid.high])
    step = torch.tensor([[-0.7], [0.7]]).double()
    for made in (grid, hold, drop):
        assert all_functions(ends, made).sum(-1).allclose(torch.ones_like(ends))
    values = all_functions(ends, grid)
    slopes = all_functions(ends, grid, 1)
    far = ends + step
    close = partial(assert_close, atol=1e-12, rtol=0)
    close(all_functions(far, grid), values + step[..., None] * slopes)
    close(all_functions(far, grid, 1), slopes)
    close(all_functions(far, hold), values)
    assert not all_functions(far, hold, 1).any()
    assert not all_functions(far, drop).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outside", POLICIES)
@pytest.mark.parametrize("uniform", [True, False])
def test_far_inputs_stay_finite_and_nan_stays_with_its_own_sample(uniform, outside, dtype):
    grid = make_grid(3, 5, uniform, outside, dtype=dtype)
    far = torch.tensor([1e6, 1e18, torch.finfo(dtype).max, float("inf")], dtype=dtype)
    x = torch.cat([-far, far, far[:1] * 0])[:, None].repeat(1, 2)
    x[-1, 0] = float("nan")
    for derivative in (0, 1, 2):
        values, interval = local_basis(x, grid, derivative)
        assert values[:-1].isfinite().all()
        assert values[-1, 1].isfinite().all()
        assert interval[:4].eq(0).all()
        assert interval[4:8].eq(4).all()
        assert 0 <= interval.min() <= interval.max() < 5
    assert local_basis(x, grid)[0][-1, 0].isnan().any()


@pytest.mark.parametrize("low", [0.0, 100.0])
def test_many_intervals_in_single_precision(low):
    points = torch.linspace(low, low + 1, 5001, dtype=torch.float64)[None].float()
    grid = Grid(extend(points, 3), 3, True)
    x = torch.cat([made_kan.points(500, 1, low, low + 1).float(), points[:, [0, -1]].T])
    values, interval = local_basis(x, grid)
    assert_close(values.sum(-1), torch.ones_like(x), atol=1e-5, rtol=0)
    assert interval.max() < 5000
