"""Learning curves, and results as a function of settings, tested by the data that they draw."""

import itertools

import numpy as np
import pandas
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sample_tables import legend, stored, ticks

from kanrun.figures import loss_curve, over_settings


def metrics(seeds=1):
    """Return four steps on each of three grids; errors fall from step to step."""
    places = itertools.product(range(seeds), range(3), range(4))
    table = pandas.DataFrame(places, columns=["seed", "stage", "step"])
    error = 10.0 ** -(table["stage"] + table["step"] / 4) * (1 + table["seed"])
    table["intervals"] = table["stage"].map([5, 10, 20].__getitem__)
    return table.assign(train_rmse=error, validation_rmse=2 * error, test_rmse=3 * error)


def test_the_loss_curve_has_the_errors_and_the_stages():
    table = metrics(seeds=3)
    figure = loss_curve(table)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 12]
    assert len(curves) == 9
    assert_array_equal(curves[0].get_xdata(), np.arange(1, 13))
    assert_array_equal(curves[0].get_ydata(), table.query("seed == 0")["train_rmse"])
    assert axes.get_yscale() == "log"
    assert figure.get_label().startswith("The error over steps on a logarithmic axis, ")
    others = [line.get_xdata() for line in axes.lines if line not in curves]
    assert sorted(x[0] for x in others if len(x)) == [5, 9]
    assert sorted(text.get_text() for text in axes.texts) == [" 10", " 20", " 5"]
    assert legend(figure) == ["train", "test", "validation", "further seeds: 2"]
    stored(figure)


def test_a_loss_curve_without_test_errors_or_stages():
    table = metrics().assign(test_rmse=np.nan, validation_rmse=0.0, intervals=None)
    figure = loss_curve(table)
    assert legend(figure) == ["train"]
    assert not figure.axes[0].texts
    stored(figure)


@pytest.mark.parametrize(
    "setting, x, y",
    [
        (["100", "10", "1000", "10"], [10, 100, 1000], [0.15, 0.01, 0.001]),
        (["kan", "mlp", "tree", "mlp"], [0, 1, 2], [0.01, 0.15, 0.001]),
    ],
)
def test_one_setting_is_a_curve_of_medians_over_its_numbers_or_texts(setting, x, y):
    table = pandas.DataFrame({"n": setting, "test_rmse": [0.01, 0.2, 0.001, 0.1]})
    axes = over_settings(table, ["n"], "test_rmse").axes[0]
    line = axes.get_lines()[1]
    assert_allclose(line.get_xdata(), x)
    assert_allclose(line.get_ydata(), y)
    assert axes.get_yscale() == "log"
    assert axes.get_xscale() == "log" or ticks(axes.xaxis) == ["kan", "mlp", "tree"]


def test_two_settings_are_a_map_with_its_own_colour_bar_and_numbers_in_order():
    table = pandas.DataFrame({"model": ["kan", "kan", "mlp", "mlp"], "n": ["100", "20"] * 2})
    table["test_rmse"] = [3.0, 2.0, 5.0, 4.0]
    panel, _ = over_settings(table, ["model", "n"], "test_rmse").axes
    assert np.sort(panel.images[0].get_array(), axis=None).tolist() == [2.0, 3.0, 4.0, 5.0]
    assert ["20", "100"] in [ticks(axis) for axis in (panel.xaxis, panel.yaxis)]
