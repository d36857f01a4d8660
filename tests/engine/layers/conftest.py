"""Layers on wide grids take the sparse product here, however few their samples are."""

import pytest

from kanrun.engine.splines import basis


@pytest.fixture(autouse=True)
def sparse_on_wide_grids(monkeypatch):
    monkeypatch.setattr(basis, "DENSE_NUMBERS", 0)
