"""The local basis compared with scipy's B-splines, and outside its domain."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_kan import points
from scipy.interpolate import BSpline
from torch.testing import assert_close

from kanrun.engine.splines import Grid, dense_rows, extend, local_basis

POLICIES = ["linear", "constant", "zero"]


def make_grid(degree, intervals, uniform, outside="linear", seed=0, dtype=torch.float64):
    breaks = torch.linspace(-1.5, 2.0, intervals + 1, dtype=torch.float64).expand(2, -1)
    if not uniform:
        breaks = points(2, intervals + 1, 0.2, 1.2, seed).cumsum(1) - 1
    return Grid(extend(breaks.to(dtype), degree), degree, uniform, outside)


def all_functions(x, grid, derivative=0):
    values, interval = local_basis(x, grid, derivative)
    return dense_rows(values, interval, grid.functions)


@settings(max_examples=80)
@given(st.integers(0, 8), st.integers(1, 12), st.booleans(), st.integers(0, 1000))
def test_values_and_derivatives_on_the_closed_domain_are_scipys(degree, intervals, uniform, seed):
    grid = make_grid(degree, intervals, uniform, seed=seed)
    inside = grid.low + points(20, 2, 0.0, seed=seed) * (grid.high - grid.low)
    x = torch.cat([inside, grid.low[None], grid.high[None]])
    values, interval = local_basis(x, grid)
    assert values.min() >= -1e-13
    assert_close(values.sum(-1), torch.ones_like(x), atol=1e-12, rtol=0)
    assert 0 <= interval.min() <= interval.max() < intervals
    assert not all_functions(x, grid, degree + 1).any()
    for derivative in range(min(degree, 3) + 1):
        found = all_functions(x, grid, derivative).numpy()
        for knots, at, values in zip(grid.knots, x.T, found.swapaxes(0, 1), strict=True):
            spline = BSpline(knots.numpy(), np.eye(grid.functions), degree)
            wanted = spline(at.numpy(), nu=derivative)
            np.testing.assert_allclose(values, wanted, atol=1e-12 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 6])
def test_extrapolation_continues_the_line_holds_the_value_or_gives_zero(degree, uniform):
    line, hold, drop = (make_grid(degree, 4, uniform, outside) for outside in POLICIES)
    ends = torch.stack([line.low, line.high])
    step = torch.tensor([[-0.7], [0.7]]).double()
    far = ends + step
    close = partial(assert_close, atol=1e-12, rtol=0)
    values = all_functions(ends, line)
    slopes = all_functions(ends, line, 1)
    for grid in (line, hold, drop):
        close(all_functions(ends, grid), values)
    close(all_functions(far, line), values + step[..., None] * slopes)
    close(all_functions(far, line, 1), slopes)
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
    breaks = torch.linspace(low, low + 1, 5001, dtype=torch.float64)[None].float()
    x = torch.cat([points(500, 1, low, low + 1).float(), breaks[:, [0, -1]].T])
    values, interval = local_basis(x, Grid(extend(breaks, 3), 3, True))
    assert_close(values.sum(-1), torch.ones_like(x), atol=1e-5, rtol=0)
    assert interval.max() < 5000
