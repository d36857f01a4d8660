"""What a comparison with MLPs draws: each target by its own error, exponents only where sizes differ."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kanrun.figures.compare_mlp import scaling
from kanrun.figures.compare_results import results

ROW: dict[str, Any] = {
    "seed": 0, "shape": "2-1", "activation": "silu", "intervals": 3.0, "flops": 10.0, "seconds": 1.0,
    "inference_seconds": 1e-4,
}  # fmt: skip


def summary() -> pd.DataFrame:
    table = {"target": "diabetes", "error": 53.0, "error_name": "test RMSE", "test_accuracy": None}
    classes = {"target": "iris", "error": 0.35, "error_name": "test cross-entropy", "test_accuracy": 0.9}
    rows = [{**ROW, **own, "cell": cell, "model": "kan", "parameters": 50 + cell}
            for cell, own in enumerate((table, classes))]  # fmt: skip
    return pd.DataFrame(rows).astype({"test_accuracy": float})


def test_the_table_says_what_its_errors_are_and_which_rows_it_leaves_out() -> None:
    figure = results(summary())
    cells = {cell.get_text().get_text() for cell in figure.axes[0].tables[0].get_celld().values()}
    assert {"test RMSE or test cross-entropy", "accuracy", "53", "0.35", "0.9"} <= cells
    many = pd.concat([summary().assign(cell=cell) for cell in range(60)])
    remark = results(many).get_suptitle()
    assert remark.startswith("40 of 120")


def test_an_exponent_is_drawn_only_where_sizes_differ_by_two() -> None:
    medians = pd.DataFrame({
        "target": "product", "error_name": "test RMSE", "model": ["kan", "kan", "mlp", "mlp"],
        "parameters": [100, 400, 100, 110], "error": [1e-2, 1e-4, 1e-2, 1e-3],
    })  # fmt: skip
    fits = pd.DataFrame({
        "target": "product", "model": ["kan", "mlp"], "exponent": [-3.3, -24.0], "low": [100, 100], "high": [400, 110],
    })  # fmt: skip
    (panel,) = scaling(medians, fits).axes
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["KAN: $N^{-3.3}$", "MLP"]
    assert panel.get_ylabel() == "test RMSE"
