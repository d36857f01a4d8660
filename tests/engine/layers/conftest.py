"""Layers on wide grids use the sparse product in these tests, even for few samples."""

import pytest

from kanrun.engine.splines import products


@pytest.fixture(autouse=True)
def sparse_on_wide_grids(monkeypatch):
    monkeypatch.setattr(products, "DENSE_NUMBERS", 0)
