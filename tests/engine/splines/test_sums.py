"""Sums of splines and their gradients in every implementation, compared with dense products."""

import made_kan
import pytest
import torch
from torch.testing import assert_close

from kanrun.engine.splines import (
    Grid,
    dense_rows,
    extend,
    local_basis,
    products,
    sums_of_splines,
)


@pytest.fixture(params=["dense", "sparse"])
def way(request, monkeypatch):
    monkeypatch.setattr(products, "SPARSE_ABOVE", 0.0 if request.param == "sparse" else 1e9)
    monkeypatch.setattr(products, "DENSE_NUMBERS", 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("spread", [0.95, 1.6], ids=["inside", "outside"])
@pytest.mark.parametrize("outside", ["linear", "constant", "zero"])
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_sums_of_splines_have_the_values_and_gradients_of_dense_products(
    degree, uniform, outside, spread
):
    points = torch.linspace(-1, 1, 6, dtype=torch.float64).expand(3, -1)
    if not uniform:
        points = points + made_kan.points(3, 6, 0.0, 0.1)
    grid = Grid(extend(points, degree), degree, uniform, outside)
    x = made_kan.points(10, 3, -spread, spread).requires_grad_()
    table = made_kan.normal(4, 3, grid.functions).requires_grad_()
    g = made_kan.normal(10, 4)
    y = sums_of_splines(*local_basis(x, grid), table)
    by_x, by_table = torch.autograd.grad(y, [x, table], g)
    with torch.no_grad():
        values, interval = local_basis(x, grid)
        rows, steep = (
            dense_rows(each, interval, grid.functions)
            for each in (values, local_basis(x, grid, 1)[0])
        )
        assert_close(y, torch.einsum("nif,oif->no", rows, table), atol=1e-12, rtol=0)
        assert_close(by_table, torch.einsum("no,nif->oif", g, rows), atol=1e-12, rtol=0)
        assert_close(by_x, torch.einsum("no,oif,nif->ni", g, table, steep), atol=1e-11, rtol=0)
