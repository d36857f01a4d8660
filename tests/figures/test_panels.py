"""Shared panels: logarithmic ticks, medians over seeds, power laws, legends, small multiples."""

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure

from kanrun.figures import panels
from kanrun.figures.style import power, styled


def labels(figure):
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    shown = [text.get_text() for text in (*axis.get_majorticklabels(), *axis.get_minorticklabels())]
    return [text for text in shown if text]


@styled
def plot(values, scale):
    figure = Figure()
    axes = figure.subplots()
    axes.plot(values)
    axes.set_yscale(scale)
    return figure


def test_powers_of_ten_are_written_as_such():
    assert "10⁻³" in labels(plot([1e-5, 10.0], "log"))
    assert "4×10⁻⁴" in labels(plot([2e-4, 7e-4], "log"))


@pytest.mark.parametrize("exponent", [-12, -5, 7])
def test_a_common_factor_is_a_power(exponent):
    figure = plot([0.0, 4.0 * 10.0**exponent], "linear")
    assert {"2", "4"} <= {label.removesuffix(".0") for label in labels(figure)}
    assert figure.axes[0].yaxis.get_offset_text().get_text() == f"10{power(str(exponent))}"


def test_an_axis_that_spans_little_around_one_has_numbers():
    assert {"52", "54"} <= set(labels(plot([51.0, 56.0], "log")))
    assert "0.2" in labels(plot([0.15, 0.4], "log"))
    assert {"0.01", "1"} <= set(labels(plot([2e-3, 30.0], "log")))


def test_formatters_that_a_figure_chose_stay():
    @styled
    def named():
        figure = Figure()
        axes = figure.subplots()
        axes.set(yscale="log", ylim=(2, 9))
        panels.ticks_at(axes.yaxis, [3, 7])
        return figure

    assert labels(named()) == ["3", "7"]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (11, 14, ["11", "12", "13", "14"]),
        (40, 800, ["100", "300"]),
        (8, 60, ["10", "20", "50"]),
        (2e4, 5e8, ["10⁵", "10⁶", "10⁷", "10⁸"]),
        (3e-6, 2e-2, ["10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²"]),
        (9, 26, ["10", "15", "20", "25"]),
    ],
)
def test_round_ticks_are_few_and_plain_numbers(low, high, shown):
    @styled
    def empty():
        figure = Figure()
        figure.subplots().set(yscale="log", ylim=(low, high))
        return figure

    figure = empty()
    axis = figure.axes[0].yaxis
    texts = [axis.get_major_formatter()(at) for at in axis.get_majorticklocs() if low <= at <= high]
    assert texts == shown


def test_values_are_named_as_far_as_there_is_room():
    figure = Figure()
    axis = figure.subplots().yaxis
    axis.axes.set(yscale="log", ylim=(2, 300))
    panels.ticks_at(axis, [100, 5, 47, 48, 5, 50])
    assert labels(figure) == ["5", "47", "100"]


def test_medians_have_a_band_or_dots_and_a_floor():
    rows = pandas.DataFrame({"x": [1, 1, 2, 2], "y": [0.0, 2.0, 4.0, 8.0]})
    axes = Figure().subplots()
    panels.medians(axes, rows, ("x", "y"), color="red", floor=1e-3)
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_ydata(), [(1e-3 + 2) / 2, 6.0])
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).ymin == pytest.approx(1e-3)
    panels.medians(axes, rows, ("x", "y"), color="red", spread="dots")
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 4, 2]


def test_a_power_law_goes_through_the_points_that_follow_it():
    axes = Figure().subplots()
    panels.power_law(axes, [1, 2, 4], [3.0, 12.0, 48.0], 2.0)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 3], [4, 48]])


def test_one_legend_names_what_several_panels_draw_once():
    figure, axes = panels.small_multiples(4, 3, 1.0)
    assert len(figure.axes) == 4
    for panel in axes:
        panel.plot([1, 2], label="the same")
    panels.finish(figure, axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the same"]
