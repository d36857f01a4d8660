"""Figures of effects on predictions: of single inputs as curves, of pairs of inputs as maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pandas import DataFrame

from kanrun.figures.panels import (
    MAX_LETTERS,
    draw_map,
    finish,
    name_places,
    small_multiples,
    value_limits,
)
from kanrun.figures.style import (
    BAND,
    BLACK,
    CYCLE,
    DASHED,
    FEW_TICKS,
    GREY,
    first_seed,
    note_of_some,
    set_remark,
    shorten,
    styled,
)

#: Largest number of inputs whose effects are drawn.
MAX_INPUTS = 12
#: Probabilities p are drawn between this and 1 minus this, since log-odds of 0 and 1 are infinite.
SMALLEST_PROBABILITY = 1e-6
#: Height of a panel of effects (inches).
EFFECT = 1.9
#: Height of a map of a pair (inches).
MAP = 2.6
#: Margin on either side of the data, as a fraction of the range of the data.
ROOM = 0.08
#: How far a band may extend above or below the curves, as a multiple of the range of the curves.
#: Wider bands are cut off.
BAND_ROOM = 1.0
#: Margin on either side of the levels of an input, as a fraction of their range.
LEVELS_ROOM = 0.2
#: Largest total number of letters in the names of levels, plus two per name, for which the names
#: are written side by side below a panel of effects. Longer names are rotated.
LEVEL_LETTERS = 24
#: Area of the marks at quantiles of an input (square points).
QUANTILE = 25
#: Area of the smallest dot on a map, for few rows (square points).
SMALLEST = 1
#: Area that is added for the dot with the most rows (square points).
LARGER = 14
#: Remark below a figure in which bands were cut off.
CUT = "wide bands are cut"
#: Prefix of the name of an input that is a day of the week, from 0 (Monday).
WEEKDAY = "weekday of "
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@styled
def effects(
    table: DataFrame,
    order: Sequence[str],
    values: DataFrame,
    remark: str = "",
    *,
    classes: bool = False,
) -> Figure:
    """Draw a panel per input, the most important first: its effect with the others at their mean.

    All panels share the scale of the output.

    Args:
        table: Columns input, level (of a category, otherwise empty), output, x, value, lower,
            upper, is_date (whether x is in days since 1970-01-01) and, optionally, ale (the
            accumulated local effect, a second curve).
        order: Names of the inputs, the most important first; at most 12 are drawn.
        values: Columns input and x: quantiles of the inputs, drawn as ticks.
        remark: Text above the panels.
        classes: Whether the values are probabilities. They are drawn on a log-odds scale, so that
            effects on rare classes are visible. Of two classes, only the second is drawn; of many,
            the first seven.
    """
    table = _placed(first_seed(table))
    values = first_seed(values)
    outputs = table["output"].unique()
    count = len(outputs)
    outputs = outputs[classes and count == 2 :][: len(CYCLE)]
    table = table[table["output"].isin(outputs)]
    names = [name for name in dict.fromkeys(order) if name in set(table["input"])]
    shown = names[:MAX_INPUTS]
    table = table[table["input"].isin(shown)]
    figure, panels = small_multiples(len(shown), 3, EFFECT, sharey=True)
    cut = False
    for panel, name in zip(panels, shown, strict=True):
        rows = table[table["input"] == name].sort_values("x")
        for colour, output in zip(CYCLE, outputs, strict=False):
            _draw_effect(panel, rows[rows["output"] == output], colour, shorten(output))
        _show_input(panel.xaxis, rows, LEVEL_LETTERS)
        x = values.loc[values["input"] == name, "x"]
        look: Any = {"transform": panel.get_xaxis_transform(), "clip_on": False}
        panel.scatter(x, 0 * x, QUANTILE, GREY, marker="|", **look)
        panel.set_title(shorten(name))
    if panels:
        cut = _show_output(panels[0], table, is_probability=classes)
        several = len(outputs) > 1
        panels[0].set_ylabel("" if several else "probability of " * classes + shorten(outputs[0]))
    inputs = note_of_some(MAX_INPUTS, len(names), "inputs")
    set_remark(figure, remark, inputs, note_of_some(len(CYCLE), count, "outputs"), CUT * cut)
    return finish(figure, panels[: len(outputs) > 1], ncols=len(outputs))


def _placed(rows: DataFrame) -> DataFrame:
    """Return the rows with levels as text, and with x = 0, 1, ... for the levels of each input."""
    levels = rows["level"].astype(object).fillna("").astype(str)
    places = rows.groupby("input")["x"].rank("dense") - 1
    return rows.assign(level=levels, x=rows["x"].where(levels == "", places))


def _draw_effect(panel: Axes, rows: DataFrame, colour: str, label: str) -> None:
    """Draw the effect of an input on one output, with its band."""
    x, value, lower, upper = rows[["x", "value", "lower", "upper"]].to_numpy(dtype=float).T
    is_level = bool(rows["level"].all())
    if is_level:
        panel.vlines(x, lower, upper, color=colour)
        panel.margins(x=LEVELS_ROOM)
    else:
        panel.fill_between(x, lower, upper, color=colour, **BAND)
    style = "o" if is_level else "o-" if len(rows) <= 2 else "-"
    panel.plot(x, value, style, color=colour, label=label)
    if "ale" in rows and not is_level:
        panel.plot(x, rows["ale"], **{**DASHED, "color": BLACK, "zorder": 2})


def _show_input(axis: Axis, rows: DataFrame, letters: int = MAX_LETTERS) -> None:
    """Set the ticks of an input's axis: names of levels, weekdays, dates, or numbers.

    Names of levels with more than `letters` letters in total are rotated.
    """
    levels = rows.drop_duplicates("x").sort_values("x")["level"]
    if levels.all():
        name_places(axis, list(levels), letters)
    elif str(rows["input"].iloc[0]).startswith(WEEKDAY):
        axis.set_ticks(range(len(DAYS)), DAYS)
    elif "is_date" in rows and rows["is_date"].any():
        locator = AutoDateLocator(minticks=2, maxticks=4)  # type: ignore[no-untyped-call]
        axis.set_major_locator(locator)
        form = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]
        axis.set_major_formatter(form)
    elif len(different := np.unique(rows["x"])) <= FEW_TICKS["nbins"]:
        axis.set_ticks(different)


def _show_output(panel: Axes, table: DataFrame, *, is_probability: bool) -> bool:
    """Set scale, limits and ticks of the vertical axis that all panels share.

    Probabilities get a logit scale. The limits follow the curves: bands are cut off where they
    extend too far beyond them. Return whether a band was cut off.
    """
    parts = table[["value", "lower", "upper"]].astype(float)
    if is_probability:
        parts = parts.clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        panel.set_yscale("logit", nonpositive="clip")
    scale = panel.yaxis.get_transform()
    values, lower, upper = (scale.transform(parts[name].to_numpy()) for name in parts)
    low = values.min()
    high = values.max()
    most = BAND_ROOM * (high - low) or 1.0
    ends = np.nanmin([*lower, low]), np.nanmax([*upper, high])
    low = max(ends[0], low - most)
    high = min(ends[1], high + most)
    room = ROOM * (high - low) or 1.0
    panel.set_ylim(*scale.inverted().transform(np.array([low - room, high + room])))
    if is_probability:
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(NullLocator())
    return bool(ends[0] < low or ends[1] > high)


@styled
def pair_maps(table: DataFrame) -> Figure:
    """Draw a map per strong pair of inputs: the prediction with all others at their mean.

    `table` has the columns input_1, input_2, output, x, y, level_1, level_2, value and rows. For a
    category, `level_1` or `level_2` has the name of the level with the number x or y. `rows` is the
    number of training rows at this point of the map, which the size of a dot shows. All maps share
    one colour scale.
    """
    table = first_seed(table)
    pairs: Any = list(table.groupby(["input_1", "input_2"], sort=False))
    figure, panels = small_multiples(len(pairs), 2, MAP)
    limits = value_limits(table["value"])
    for panel, (names, rows) in zip(panels, pairs, strict=True):
        sides = [
            _placed(DataFrame({"input": name, "x": rows[at], "level": rows[level]}))
            for name, at, level in zip(names, "xy", ("level_1", "level_2"), strict=True)
        ]
        x, y = (side["x"] for side in sides)
        image = draw_map(panel, x, y, rows["value"], limits)
        some = rows["rows"] > 0
        size = SMALLEST + LARGER * np.sqrt(rows["rows"][some] / rows["rows"].max())
        panel.scatter(x[some], y[some], s=size, color="white", alpha=0.6)
        for axis, side, name in zip((panel.xaxis, panel.yaxis), sides, names, strict=True):
            _show_input(axis, side)
            axis.set_label_text(shorten(name))
    if panels:
        figure.colorbar(image, ax=panels, label=shorten(table["output"].iloc[0]))
    return figure
