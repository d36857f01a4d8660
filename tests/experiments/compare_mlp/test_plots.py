"""Figures of compare-mlp: errors of each target; exponents only for at least three sizes."""

import pandas as pd
from kanrun.experiments.compare_mlp.plots import scaling
from sample_tables import legend


def scaled(sizes, power=-3.3):
    """Return the legend of a figure with networks of these sizes."""
    rows = [(model, size, size**power) for model, each in sizes.items() for size in each]
    table = pd.DataFrame(rows, columns=["model", "parameters", "error"])
    figure = scaling(table.assign(target="product", error_name="test RMSE"))
    assert figure.axes[0].get_ylabel() == "test RMSE"
    return legend(figure)


def test_an_exponent_is_drawn_only_for_three_sizes_that_differ():
    assert scaled({"kan": [100, 200, 400], "mlp": [100, 130, 190]}) == [
        "KAN: power -3.3, 3 sizes",
        "MLP: 2 sizes, no fit",
    ]
    few = ["KAN: 2 sizes, no fit", "MLP: 1 size, no fit"]
    assert scaled({"kan": [100, 400], "mlp": [100]}) == few
    assert scaled({"kan": [99, 100, 400, 410], "mlp": [100]}) == few
