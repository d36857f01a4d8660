"""Knot insertion keeps the function up to rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_kan import normal, points
from torch.testing import assert_close

from kanrun.engine.splines import Grid, dense_rows, extend, insert_knots, local_basis, redivide
from kanrun.engine.splines.fitting import contains


def random_breaks(intervals, decades, seed):
    widths = 10 ** points(2, intervals, 0.0, decades, seed)
    ends = torch.nn.functional.pad(widths.cumsum(1), (1, 0))
    return 4.0 * ends / ends[:, -1:] - 0.5


def value(coefficients, grid, x):
    basis, interval = local_basis(x, grid)
    return torch.einsum("sin,oin->soi", dense_rows(basis, interval, grid.functions), coefficients)


def assert_same_function(coarse, fine, seed=0):
    assert contains(fine, coarse)
    share = points(80, len(coarse.knots), -0.3, 1.3, seed)
    x = coarse.low + share * (coarse.high - coarse.low)
    coefficients = normal(3, len(coarse.knots), coarse.functions, seed=seed)
    old = value(coefficients, coarse, x)
    new = value(insert_knots(coefficients, coarse, fine), fine, x)
    assert_close(new, old, atol=1e-12 * float(old.abs().max()), rtol=0)


def more_breaks(breaks, seed):
    """Return the breakpoints, with as many random ones added between each two."""
    inputs, count = breaks.shape
    shares = points(inputs, 2 * count - 2, 0.1, 0.9, seed).view(inputs, -1, 2).sort(-1).values
    new = breaks[:, :-1, None] + shares * breaks.diff(dim=1)[..., None]
    return torch.cat([breaks, new.flatten(1)], 1).sort(1).values


@settings(max_examples=60)
@given(
    degree=st.integers(0, 6),
    intervals=st.integers(1, 8),
    factor=st.sampled_from([None, 1, 2, 3, 7]),
    outside=st.sampled_from(["linear", "constant", "zero"]),
    decades=st.sampled_from([0.7, 4, 6]),
    seed=st.integers(0, 10_000),
)
def test_inserted_knots_keep_the_function(degree, intervals, factor, outside, decades, seed):
    breaks = random_breaks(intervals, decades, seed)
    finer = redivide(breaks, factor * intervals) if factor else more_breaks(breaks, seed + 1)
    grids = (Grid(extend(each, degree), degree, False, outside) for each in (breaks, finer))
    assert_same_function(*grids, seed)


def test_breakpoints_that_rounding_moved_are_still_the_old_ones():
    breaks = torch.linspace(0.1, 0.7, 8, dtype=torch.float64)[None]
    finer = redivide(breaks, 21)
    finer[:, 3:-1:3] += 2**-54 * torch.tensor([1, -1, 1, -1, 1, -1])
    assert_same_function(Grid(extend(breaks, 3), 3), Grid(extend(finer, 3), 3))


BREAKS = torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
MOVED = BREAKS + torch.tensor([0, 0.1, 0, 0, 0, 0.0])
WIDER = torch.cat([BREAKS - 2.0, BREAKS], 1).sort(1).values


@pytest.mark.parametrize(
    "breaks, degree", [(MOVED, 3), (WIDER, 3), (BREAKS[:, ::5], 3), (BREAKS, 2)]
)
def test_contains_recognises_grids_without_all_old_knots(breaks, degree):
    assert not contains(Grid(extend(breaks, degree), degree), Grid(extend(BREAKS, 3), 3))
