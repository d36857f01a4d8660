"""Layers on wide grids take the sparse product here, however few their samples are."""

import pytest

from kanrun.engine.splines import products


@pytest.fixture(autouse=True)
def sparse_on_wide_grids(monkeypatch):
    monkeypatch.setattr(products, "DENSE_NUMBERS", 0)
