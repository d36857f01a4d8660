"""Rows of a linear map: local and dense rows are the same matrix, however it is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kanrun.engine.least_squares import DenseRows, LocalRows, problem


def random_rows(rows: int = 40, terms: int = 4, unknowns: int = 25) -> tuple[LocalRows, Tensor]:
    g = torch.Generator().manual_seed(0)
    index = torch.stack([torch.randperm(unknowns, generator=g)[:terms] for _ in range(rows)])
    values = torch.randn(rows, terms, dtype=torch.float64, generator=g)
    dense = values.new_zeros(rows, unknowns).scatter_(1, index, values)
    return LocalRows(index, values, unknowns), dense


@pytest.mark.parametrize("sparse_gain", [0.01, 1e9])
@pytest.mark.parametrize("piece", [1, 60, 1 << 24])
def test_local_rows_are_the_dense_matrix(
    monkeypatch: pytest.MonkeyPatch, sparse_gain: float, piece: int
) -> None:
    monkeypatch.setattr(problem, "SPARSE_GAIN", sparse_gain)
    monkeypatch.setattr(problem, "PIECE", piece)
    local, dense = random_rows()
    d, r = (
        torch.linspace(-1, 2, 25, dtype=torch.float64),
        torch.linspace(1, 3, 40, dtype=torch.float64),
    )
    torch.testing.assert_close(local.times(d), dense @ d)
    torch.testing.assert_close(local.transposed(r), dense.T @ r)
    torch.testing.assert_close(local.gram(), dense.T @ dense)


def test_blocks_of_a_large_gram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "BLOCK", 3)
    _, dense = random_rows()
    torch.testing.assert_close(DenseRows(dense).gram(), dense.T @ dense)
