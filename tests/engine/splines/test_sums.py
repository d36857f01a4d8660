"""Sums of splines and their gradients in every implementation, compared with dense products."""

import pytest
import torch
from made_kan import normal, points
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
    breaks = torch.linspace(-1, 1, 6, dtype=torch.float64).expand(3, -1)
    if not uniform:
        breaks = breaks + points(3, 6, 0.0, 0.1)
    grid = Grid(extend(breaks, degree), degree, uniform, outside)
    x = points(10, 3, -spread, spread).requires_grad_()
    table = normal(4, 3, grid.functions).requires_grad_()
    g = normal(10, 4)
    y = sums_of_splines(*local_basis(x, grid), table)
    by_x, by_table = torch.autograd.grad(y, [x, table], g)
    rows, steep = (dense_rows(*local_basis(x, grid, d), grid.functions).detach() for d in (0, 1))
    assert_close(y, torch.einsum("nif,oif->no", rows, table), atol=1e-12, rtol=0)
    assert_close(by_table, torch.einsum("no,nif->oif", g, rows), atol=1e-12, rtol=0)
    expected = torch.einsum("no,oif,nif->ni", g, table.detach(), steep)
    assert_close(by_x, expected, atol=1e-11, rtol=0)
