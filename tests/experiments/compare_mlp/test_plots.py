"""Figures of compare-mlp: the error of each target, exponents only for several sizes."""

import pandas as pd
from kanrun.experiments.compare_mlp.plots import errors, scaling


def scaled(sizes, power=-3.3):
    """Return the legend of a figure with networks of these sizes."""
    rows = [(model, size, size**power) for model, each in sizes.items() for size in each]
    table = pd.DataFrame(rows, columns=["model", "parameters", "error"])
    (panel,) = scaling(table.assign(target="product", error_name="test RMSE")).axes
    assert panel.get_ylabel() == "test RMSE"
    legend = panel.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_an_exponent_is_drawn_only_for_three_sizes_that_differ():
    assert scaled({"kan": [100, 200, 400], "mlp": [100, 130, 190]}) == [
        "KAN: power -3.3, 3 sizes",
        "MLP: 2 sizes, no fit",
    ]
    few = ["KAN: 2 sizes, no fit", "MLP: 1 size, no fit"]
    assert scaled({"kan": [100, 400], "mlp": [100]}) == few
    assert scaled({"kan": [99, 100, 400, 410], "mlp": [100]}) == few


def test_each_target_and_grid_has_its_own_row_of_seeds():
    rows = [("f", "3", 0.1), ("f", "3,6", 0.01), ("f", "3,6", 0.02), ("g (train 60)", "3", 0.3)]
    table = pd.DataFrame(rows, columns=["target", "grid", "relative_error"]).assign(
        shape="1-3-1", bound=0.5
    )
    (panel,) = errors(table).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == [
        "f  [1, 3, 1]\nG = 3",
        "f  [1, 3, 1]\nG = 3,6",
        "g (train 60)  [1, 3, 1]\nG = 3",
    ]
    (alone,) = errors(table[table["grid"] == "3"]).axes
    assert [label.get_text() for label in alone.get_yticklabels()] == [
        "f  [1, 3, 1]",
        "g (train 60)  [1, 3, 1]",
    ]


def test_a_long_title_keeps_what_tells_it_from_others():
    table = pd.DataFrame(
        {
            "target": [f"{'x0*' * 30}x1 (train {n})" for n in (60, 90)],
            "error_name": "test RMSE",
            "model": "kan",
            "parameters": 10,
            "error": 0.1,
        }
    )
    titles = [panel.get_title() for panel in scaling(table).axes]
    assert all(title.endswith(f"(train {n})") for title, n in zip(titles, (60, 90), strict=True))
    assert {title.count("\n") for title in titles} == {1}
