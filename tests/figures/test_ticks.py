"""Labels of ticks are plain text, whatever matplotlib would typeset."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, NullFormatter

from kanrun.figures.style import styled, truths
from kanrun.figures.ticks import PlainPowers, name_round, name_values, plain_ticks


def labels(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    return [text.get_text() for text in (*axis.get_majorticklabels(), *axis.get_minorticklabels()) if text.get_text()]


@styled
def plot(values: list[float], scale: str) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot(values)
    axes.set_yscale(scale)
    return figure


def test_powers_of_ten_are_letters() -> None:
    shown = labels(plot([1e-5, 10.0], "log"))
    assert "10⁻³" in shown
    assert not any("$" in label for label in shown)


def test_labels_between_powers_are_letters() -> None:
    shown = labels(plot([2e-4, 7e-4], "log"))
    assert "3×10⁻⁴" in shown
    assert not any("$" in label for label in shown)


@pytest.mark.parametrize("exponent", [-12, -5, 7])
def test_a_common_factor_is_a_power(exponent: int) -> None:
    figure = plot([0.0, 4.0 * 10.0**exponent], "linear")
    assert {"1", "2"} <= {label.removesuffix(".0") for label in labels(figure)}
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert figure.axes[0].yaxis.get_offset_text().get_text() == f"×10{raised}"


def test_an_offset_keeps_its_sign_and_factor() -> None:
    figure = plot([123456.0, 123456.0 + 1e-3], "linear")
    labels(figure)
    offset = figure.axes[0].yaxis.get_offset_text().get_text()
    assert offset.startswith("×10⁻")
    assert "+1.23456×10⁵" in offset


def test_plain_powers_say_what_matplotlib_says() -> None:
    theirs, ours = LogFormatterSciNotation(), PlainPowers()
    for value in [0.0, *10.0 ** np.arange(-12, 13), -1e-3]:
        plain = theirs(value).replace(r"$\mathdefault{", "").replace("}$", "").replace("-", "")
        plain = plain.replace("^{", "^").replace("}", "")
        heard = ours(value).translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")).replace("⁻", "").replace("−", "")
        assert heard == plain.replace("^", "")


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
def test_round_ticks_are_few_and_plain_numbers(low: float, high: float, shown: list[str]) -> None:
    figure = Figure()
    axis = figure.subplots().yaxis
    axis.axes.set(yscale="log", ylim=(low, high))
    name_round(axis)
    assert labels(figure) == shown


def test_values_are_named_as_far_as_there_is_room() -> None:
    figure = Figure()
    axis = figure.subplots().yaxis
    axis.axes.set(yscale="log", ylim=(2, 300))
    name_values(axis, [100, 5, 47, 48, 5, 50])
    assert labels(figure) == ["5", "47", "100"]


def test_truth_is_read_from_text_too() -> None:
    table = pandas.Series([True, "True", "false", 1.0, None, "1"], dtype=object)
    assert truths(table).tolist() == [True, True, False, True, False, True]


def test_formatters_that_a_figure_chose_stay() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.xaxis.set_major_formatter(NullFormatter())
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.plot([0, 1e7])
    plain_ticks(figure)
    assert isinstance(axes.xaxis.get_major_formatter(), NullFormatter)
    assert "10000000" in labels(figure)


def test_an_axis_that_spans_little_around_one_has_numbers() -> None:
    assert {"52", "54"} <= set(labels(plot([51.0, 56.0], "log")))
    assert "0.2" in labels(plot([0.15, 0.4], "log"))
    assert "2×10⁻³" in labels(plot([1.5e-3, 4e-3], "log"))
