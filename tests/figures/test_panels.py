"""Shared elements of panels: logarithmic ticks, medians over seeds, power laws, legends."""

import numpy as np
import pandas
import pytest
from cases import cases
from matplotlib.figure import Figure

from kanrun.figures import panels
from kanrun.figures.style import formula_text, power, styled


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
    assert "4×10⁻⁴" in labels(plot([2e-4, 7e-4], "log"))


def test_formulas_are_written_as_people_do():
    assert formula_text("exp(sin(pi*x0) + x12^2)") == "exp(sin(π·x₀) + x₁₂²)"
    assert formula_text("spin*max(a, b)^10") == "spin·max(a, b)¹⁰"


@pytest.mark.parametrize("exponent", [-12, -5, 7])
def test_common_factor_of_the_ticks_is_a_power_of_ten(exponent):
    figure = plot([0.0, 4.0 * 10.0**exponent], "linear")
    assert {"2", "4"} <= {label.removesuffix(".0") for label in labels(figure)}
    assert figure.axes[0].yaxis.get_offset_text().get_text() == f"10{power(str(exponent))}"


@pytest.mark.parametrize(
    "low, high, shown",
    cases("""
        40 | 800 | ['50', '100', '200', '500']
        8 | 60 | ['10', '20', '50']
        3e-06 | 0.02 | ['10⁻⁵', '10⁻⁴', '10⁻³', '10⁻²']
    """),
)
def test_round_ticks_are_few_and_plain_numbers(low, high, shown):
    figure = plot([low, high], "log")
    axis = figure.axes[0].yaxis
    axis.set_view_interval(low, high, ignore=True)
    places = [place for place in axis.get_majorticklocs() if low <= place <= high]
    assert [*map(axis.get_major_formatter(), places)] == shown


def test_medians_have_a_band_or_dots_and_a_floor():
    rows = pandas.DataFrame({"x": [1, 1, 2, 2], "y": [0.0, 2.0, 4.0, 8.0]})
    axes = Figure().subplots()
    panels.medians(axes, rows, ("x", "y"), color="red", floor=1e-3)
    assert axes.lines[0].get_ydata() == pytest.approx([(1e-3 + 2) / 2, 6.0])
    assert axes.collections[0].get_datalim(axes.transData).ymin == pytest.approx(1e-3)
    panels.medians(axes, rows, ("x", "y"), color="red", spread="dots")
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 4, 2]


def test_a_power_law_goes_through_the_points_that_follow_it():
    axes = Figure().subplots()
    panels.power_law(axes, pandas.Series([1, 2, 4]), pandas.Series([48, 12, 3]), -2)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 48], [4, 3]])


def test_panels_share_one_legend():
    figure, axes = panels.small_multiples(4, 3, 1.0)
    assert len(figure.axes) == 4
    for panel in axes:
        panel.plot([1, 2], label="the same")
    panels.finish(figure, axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the same"]
