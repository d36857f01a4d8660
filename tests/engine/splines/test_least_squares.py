"""Least squares splines: against numpy, and without full rank."""

import made_kan
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kanrun.engine.splines import (
    Grid,
    design_matrix,
    extend,
    fit_coefficients,
    uniform_breakpoints,
)


def grid_of(intervals, degree, dtype=torch.float64):
    end = torch.ones(1, dtype=dtype)
    points = uniform_breakpoints(-end, end, intervals)
    return Grid(extend(points, degree), degree, True)


def test_the_solution_is_numpys():
    grid = grid_of(5, 3)
    x = made_kan.points(200, 1)
    y = made_kan.normal(200, 2, 1)
    found = fit_coefficients(x, y, grid)[:, 0]
    rows = design_matrix(x, grid)[0].numpy()
    expected = np.linalg.lstsq(rows, y[..., 0].numpy(), rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "data", [[0.3] * 40, [-0.9, 0.4], [0.1], [-1.0, 1.0] * 20, [0.01, 0.02, 0.03]]
)
def test_smallest_solution_fits_without_full_rank(data, dtype):
    grid = grid_of(8, 3, dtype)
    x = torch.tensor(data, dtype=dtype)[:, None]
    y = torch.sin(3 * x)[:, None, :]
    coefficients = fit_coefficients(x, y, grid)
    assert coefficients.isfinite().all()
    assert coefficients.abs().max() < 100
    fitted = torch.einsum("sn,on->so", design_matrix(x, grid)[0], coefficients[:, 0])
    assert_close(fitted, y[..., 0], atol=1e-4 if dtype == torch.float32 else 1e-9, rtol=0)
