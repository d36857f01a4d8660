"""Figures of a sweep, by the data drawn."""

from __future__ import annotations

import numpy as np
import pandas

from kanrun.figures import over_settings


def test_one_setting_is_a_curve_of_medians_over_its_numbers() -> None:
    table = pandas.DataFrame(
        {"n": ["100", "10", "1000", "10"], "test_rmse": [0.01, 0.2, 0.001, 0.1]}
    )
    axes = over_settings(table, ["n"], "test_rmse").axes[0]
    line = axes.get_lines()[1]
    np.testing.assert_allclose(line.get_xdata(), [10, 100, 1000])
    np.testing.assert_allclose(line.get_ydata(), [0.15, 0.01, 0.001])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_two_settings_are_a_map_with_its_own_colour_bar_and_numbers_in_order() -> None:
    rows = [
        (model, str(n), error)
        for model, row in (("kan", (3.0, 2.0)), ("mlp", (5.0, 4.0)))
        for n, error in zip((100, 20), row, strict=True)
    ]
    figure = over_settings(
        pandas.DataFrame(rows, columns=["model", "n", "test_rmse"]), ["model", "n"], "test_rmse"
    )
    panel = figure.axes[0]
    assert np.sort(np.asarray(panel.images[0].get_array()).ravel()).tolist() == [2.0, 3.0, 4.0, 5.0]
    labels = [
        [text.get_text() for text in axis.get_ticklabels()] for axis in (panel.xaxis, panel.yaxis)
    ]
    assert ["20", "100"] in labels
    assert len(figure.axes) == 2


def test_seeds_alone_are_a_spread_and_text_is_categories() -> None:
    table = pandas.DataFrame({"model": ["kan", "mlp", "mlp"], "test_rmse": [1.0, 2.0, 4.0]})
    spread = over_settings(table, [], "test_rmse").axes[0]
    assert sorted(spread.get_lines()[0].get_xdata()) == [1.0, 2.0, 4.0]
    categories = over_settings(table, ["model"], "test_rmse").axes[0]
    assert [text.get_text() for text in categories.get_xticklabels()] == ["kan", "mlp"]
    np.testing.assert_allclose(categories.get_lines()[1].get_ydata(), [1.0, 3.0])
