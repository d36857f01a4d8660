"""Layers on wide grids take the sparse product here, however few their samples are."""

from __future__ import annotations

import pytest

from kanrun.engine.splines import sums


@pytest.fixture(autouse=True)
def sparse_on_wide_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "DENSE_NUMBERS", 0)
