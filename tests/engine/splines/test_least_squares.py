"""Least squares splines: against numpy, and without full rank."""

import numpy as np
import pytest
import torch
from made_kan import normal, points
from torch.testing import assert_close

from kanrun.engine.splines import (
    Grid,
    design_matrix,
    extend,
    fit_coefficients,
    uniform_breakpoints,
)


def grid_of(intervals, dtype=torch.float64):
    end = torch.ones(1, dtype=dtype)
    return Grid(extend(uniform_breakpoints(-end, end, intervals), 3), 3, True)


def test_the_solution_is_numpys():
    grid = grid_of(5)
    x = points(200, 1)
    y = normal(200, 2, 1)
    found = fit_coefficients(x, y, grid)[:, 0]
    expected = np.linalg.lstsq(design_matrix(x, grid)[0], y[..., 0], rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype, apart", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize(
    "data", [[0.3] * 40, [-0.9, 0.4], [0.1], [-1.0, 1.0] * 20, [0.01, 0.02, 0.03]]
)
def test_smallest_solution_fits_without_full_rank(data, dtype, apart):
    grid = grid_of(8, dtype)
    x = torch.tensor(data, dtype=dtype)[:, None]
    y = torch.sin(3 * x)
    coefficients = fit_coefficients(x, y[..., None], grid)[0, 0]
    assert coefficients.abs().max() < 100
    assert_close(design_matrix(x, grid)[0] @ coefficients, y[:, 0], atol=apart, rtol=0)
