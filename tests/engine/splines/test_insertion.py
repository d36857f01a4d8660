"""Knot insertion keeps the function up to rounding."""

import pytest
import torch
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from made_kan import normal, points
from torch.testing import assert_close

from kanrun.engine.splines import Grid, dense_rows, extend, insert_knots, local_basis, redivide
from kanrun.engine.splines.fitting import contains


def random_points(intervals, inputs, decades, seed):
    widths = 10 ** points(inputs, intervals, 0.0, decades, seed)
    ends = torch.nn.functional.pad(widths.cumsum(1), (1, 0))
    return 4.0 * ends / ends[:, -1:] - 0.5


def value(coefficients, grid, x):
    basis, interval = local_basis(x, grid)
    return torch.einsum("sin,oin->soi", dense_rows(basis, interval, grid.functions), coefficients)


def assert_same_function(coefficients, coarse, fine, x):
    assert contains(fine, coarse)
    old = value(coefficients, coarse, x)
    new = value(insert_knots(coefficients, coarse, fine), fine, x)
    assert_close(new, old, atol=1e-12 * float(old.abs().max()), rtol=0)


def more_points(breaks, seed):
    """Return the breakpoints, with as many random ones added between each two."""
    inputs, count = breaks.shape
    shares = points(inputs, 2 * count - 2, 0.1, 0.9, seed).view(inputs, -1, 2).sort(-1).values
    new = breaks[:, :-1, None] + shares * breaks.diff(dim=1)[..., None]
    return torch.cat([breaks, new.flatten(1)], 1).sort(1).values


@settings(max_examples=60)
@given(
    degree=st.integers(0, 6),
    intervals=st.integers(1, 8),
    factor=st.sampled_from([1, 2, 3, 7]),
    arbitrary=st.booleans(),
    outside=st.sampled_from(["linear", "constant", "zero"]),
    decades=st.sampled_from([0.7, 4, 6]),
    seed=st.integers(0, 10_000),
)
def test_inserted_knots_keep_the_function(
    degree, intervals, factor, arbitrary, outside, decades, seed
):
    breaks = random_points(intervals, 2, decades, seed)
    coarse = Grid(extend(breaks, degree), degree, False, outside)
    finer = more_points(breaks, seed + 1) if arbitrary else redivide(breaks, factor * intervals)
    fine = Grid(extend(finer, degree), degree, False, outside)
    coefficients = normal(3, 2, coarse.functions, seed=seed)
    share = points(80, 2, -0.3, 1.3, seed)
    x = coarse.low + share * (coarse.high - coarse.low)
    assert_same_function(coefficients, coarse, fine, x)


def test_breakpoints_that_rounding_moved_are_still_the_old_ones():
    points = torch.linspace(0.1, 0.7, 8, dtype=torch.float64)[None]
    coarse = Grid(extend(points, 3), 3)
    finer = redivide(points, 3 * (points.shape[1] - 1))
    finer[:, 3:-1:3] += 2**-54 * torch.tensor([1, -1, 1, -1, 1, -1])
    x = torch.linspace(0.1, 0.7, 101, dtype=torch.float64)[:, None]
    assert_same_function(normal(2, 1, coarse.functions), coarse, Grid(extend(finer, 3), 3), x)


@pytest.mark.parametrize(
    "change",
    cases("""
moved
wider
fewer
degree
"""),
)
def test_contains_recognises_grids_without_all_old_knots(change):
    points = torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
    coarse = Grid(extend(points, 3), 3)
    degree = 2 if change == "degree" else 3
    other = {
        "moved": points + torch.tensor([0, 0.1, 0, 0, 0, 0.0]),
        "wider": torch.cat([points - 2.0, points], 1).sort(1).values,
        "fewer": points[:, ::5],
        "degree": points,
    }[change]
    assert not contains(Grid(extend(other, degree), degree), coarse)
