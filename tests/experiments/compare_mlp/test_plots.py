"""What a comparison with MLPs draws: each target by its own error, exponents only where sizes differ."""

from __future__ import annotations

from typing import Any

import pandas as pd
from kanrun.experiments.compare_mlp.plots import (
    bars,
    conventions,
    results,
    scaling,
    variants,
    widths,
)
from matplotlib.figure import Figure

ROW: dict[str, Any] = {
    "seed": 0,
    "shape": "2-1",
    "activation": "silu",
    "intervals": 3.0,
    "flops": 10.0,
    "seconds": 1.0,
    "inference_seconds": 1e-4,
}


def summary() -> pd.DataFrame:
    table = {"target": "diabetes", "error": 53.0, "error_name": "test RMSE", "test_accuracy": None}
    classes = {
        "target": "iris",
        "error": 0.35,
        "error_name": "test cross-entropy",
        "test_accuracy": 0.9,
    }
    rows = [
        {**ROW, **own, "cell": cell, "model": "kan", "parameters": 50 + cell}
        for cell, own in enumerate((table, classes))
    ]
    return pd.DataFrame(rows).astype({"test_accuracy": float})


def test_the_table_says_what_its_errors_are_and_which_rows_it_leaves_out() -> None:
    figure = results(summary())
    cells = {cell.get_text().get_text() for cell in figure.axes[0].tables[0].get_celld().values()}
    assert {"test RMSE or test cross-entropy", "accuracy", "53", "0.35", "0.9"} <= cells
    many = pd.concat([summary().assign(cell=cell) for cell in range(60)])
    remark = results(many).get_suptitle()
    assert remark.startswith("40 of 120")


def test_sizes_in_which_seeds_differ_are_not_averaged() -> None:
    coarser = summary().assign(seed=1, intervals=6.0, parameters=[70, 51])
    figure = results(pd.concat([summary(), coarser]))
    cells = {cell.get_text().get_text() for cell in figure.axes[0].tables[0].get_celld().values()}
    assert {"3 .. 6", "50 .. 70", "51", "10"} <= cells


def scaled(kan: list[int], mlp: list[int]) -> list[str]:
    """What the legend of a figure with networks of these sizes says."""
    medians = pd.DataFrame(
        {
            "target": "product",
            "error_name": "test RMSE",
            "model": ["kan"] * len(kan) + ["mlp"] * len(mlp),
            "parameters": [*kan, *mlp],
            "error": 1e-3,
        }
    )
    fits = pd.DataFrame(
        {
            "target": "product",
            "model": ["kan", "mlp"],
            "exponent": [-3.3, -24.0],
            "low": [min(kan), min(mlp)],
            "high": [max(kan), max(mlp)],
        }
    )
    (panel,) = scaling(medians, fits).axes
    assert panel.get_ylabel() == "test RMSE"
    legend = panel.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_an_exponent_is_drawn_only_where_three_sizes_differ_by_two_in_all() -> None:
    assert scaled([100, 200, 400], [100, 130, 160]) == [
        "KAN: $N^{-3.3}$, 3 sizes",
        "MLP: 3 sizes, no fit",
    ]
    assert scaled([100, 400], [100]) == ["KAN: 2 sizes, no fit", "MLP: 1 size, no fit"]
    assert scaled([99, 100, 400, 410], [100]) == ["KAN: 2 sizes, no fit", "MLP: 1 size, no fit"]


def counts(**more: Any) -> pd.DataFrame:
    rows = {
        "kan": "[2,1] G = 5",
        "exact": 20,
        "convention": ["paper", "pykan"],
        "formula": ["E G", "E (G + k + 6)"],
    }
    return pd.DataFrame({**rows, "count": [10, 28], **more})


def test_flops_stand_below_the_conventions_where_they_were_counted() -> None:
    (alone,) = conventions(counts()).axes
    assert [bar.get_height() for bar in alone.patches] == [0.5, 1.4]
    above, below = conventions(counts(flops=64.0, kanbefair_flops=267.0)).axes
    assert [bar.get_height() for bar in above.patches] == [0.5, 1.4]
    assert [bar.get_height() for bar in below.patches] == [64, 267]
    assert [text.get_text() for text in below.texts] == ["64", "267"]
    assert below.get_ylabel() == "FLOPs per sample"


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_widths_say_what_each_line_and_shape_is() -> None:
    rows = [(kind, width, 1 / width) for kind in ("relu", "tanh") for width in (1, 2, 4)]
    table = pd.DataFrame(rows, columns=["activation", "width", "relative_error"]).assign(target="f")
    figure = widths(table, [0.3, 0.1])
    assert labels(figure) == [
        "relu: median",
        "tanh: median",
        "a seed, in its colour",
        "wanted errors",
    ]


def test_the_variants_say_what_each_line_and_shape_is() -> None:
    rows = {
        "target": "f",
        "variant": ["all tricks", "no base"],
        "error": [0.1, 0.2],
        "error_name": "test cross-entropy",
    }
    figure = variants(pd.DataFrame(rows))
    assert labels(figure) == ["a seed", "median", "median, all tricks"]
    assert figure.axes[0].get_xlabel() == "test cross-entropy"


def test_each_target_and_grid_has_its_own_row_of_seeds() -> None:
    rows = [("f", "3", 0.1), ("f", "3,6", 0.01), ("f", "3,6", 0.02), ("g (train 60)", "3", 0.3)]
    table = pd.DataFrame(rows, columns=["target", "grid", "relative_error"]).assign(
        shape="1-3-1", bound=0.5
    )
    (panel,) = bars(table).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == [
        "f  [1, 3, 1]\nG = 3",
        "f  [1, 3, 1]\nG = 3,6",
        "g (train 60)  [1, 3, 1]\nG = 3",
    ]
    (alone,) = bars(table[table["grid"] == "3"]).axes
    assert [label.get_text() for label in alone.get_yticklabels()] == [
        "f  [1, 3, 1]",
        "g (train 60)  [1, 3, 1]",
    ]


def test_a_long_title_keeps_what_tells_it_from_others() -> None:
    medians = pd.DataFrame(
        {
            "target": [f"{'x0*' * 30}x1 (train {n})" for n in (60, 90)],
            "error_name": "test RMSE",
            "model": "kan",
            "parameters": 10,
            "error": 0.1,
        }
    )
    fits = medians.assign(exponent=-1.0, low=10, high=10)
    titles = [panel.get_title() for panel in scaling(medians, fits).axes]
    assert [title.endswith(f"(train {n})") for title, n in zip(titles, (60, 90), strict=True)] == [
        True,
        True,
    ]
    assert {title.count("\n") for title in titles} == {1}
