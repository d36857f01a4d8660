"""Effects of inputs on predictions: of single ones as curves, of pairs as maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series

from kanrun.figures.panels import draw_map, finish, small_multiples
from kanrun.figures.style import (
    BAND,
    BLACK,
    CYCLE,
    DASHED,
    FEW_TICKS,
    GREY,
    as_bool,
    first_seed,
    note_of_some,
    shorten,
    styled,
)

#: Largest number of inputs whose effects are drawn.
MAX_INPUTS = 12
#: Candidate ticks of a probability axis; every other one is taken if all would be too many.
TICKS = (1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
#: Smallest number of ticks of a probability axis; with fewer, another choice of ticks is tried.
FEWEST_TICKS = 3
#: Largest number of ticks of a probability axis; with more, another choice of ticks is tried.
MOST_TICKS = 7
#: Smallest probability that is drawn; smaller ones are raised to it, and 1 - p likewise.
SMALLEST_PROBABILITY = 1e-6
#: Height of a panel of effects (inches).
EFFECT = 1.9
#: Height of a map of a pair (inches).
MAP = 2.6
#: Margin on either side of the data, as a fraction of their range.
ROOM = 0.08
#: Bands are cut off at this distance above and below the curves, relative to the curves' range.
BAND_ROOM = 1.0
#: Margins of an axis of levels before the first and after the last level (in levels).
LEVELS_ROOM = (0.3, 0.7)
#: Distance of the name of a level from its dot and from the axis (in points).
BESIDE_DOT = (3, 4)
#: Largest total length of the names of levels, plus two letters per name, at which they fit side by
#: side under a panel a third of a page wide.
LEVEL_LETTERS = 24
#: Length of the ticks at quantiles of an input (in points).
QUANTILE = 5
#: Area of a dot on a map in the limit of no rows (square points).
SMALLEST = 1
#: Additional area of the dot with the most rows (square points).
LARGER = 14
#: Remark below a figure in which bands were cut off.
CUT = "wide bands are cut"
#: Name of the level of all rows that do not have one of the named levels.
REST = "(others)"
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

    `table` has the columns input, level (of a category), output, x, value, lower, upper, is_date (x
    are days since 1970-01-01) and, optionally, ale (a second curve). `order` lists the inputs; at
    most 12 are drawn. `values` holds quantiles of inputs, drawn as ticks along the axis. All panels
    share the scale of the output. Probabilities of `classes` are drawn over their log-odds, so that
    effects on rare classes show; of two classes the second is drawn.
    """
    table = first_seed(table)
    values = first_seed(values)
    outputs = table["output"].unique()
    outputs = outputs[1:] if classes and len(outputs) == 2 else outputs
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
        _show_input(panel, rows)
        _show_quantiles(panel, values.loc[values["input"] == name, "x"])
        panel.set_title(shorten(name))
    if panels:
        cut = _show_output(panels[0], table, is_probability=classes)
    if panels and len(outputs) == 1:
        panels[0].set_ylabel("probability of " * classes + shorten(outputs[0]))
    notes = [remark, note_of_some(len(shown), len(names), "inputs"), CUT * cut]
    remark = "; ".join(filter(None, notes))
    return finish(figure, panels[: len(outputs) > 1], remark, ncols=len(outputs))


def _show_quantiles(panel: Axes, x: Series[float]) -> None:
    """Draw a tick at each quantile of an input.

    Nothing is drawn without quantiles, because an empty line has no extent for the layout.
    """
    look: Any = {"ms": QUANTILE, "transform": panel.get_xaxis_transform(), "clip_on": False}
    if len(x):
        panel.plot(x, 0 * x, "|", color=GREY, **look)


def _draw_effect(panel: Axes, rows: DataFrame, colour: str, label: str) -> None:
    """Draw the effect of an input on one output, with its band."""
    x, value, lower, upper = rows[["x", "value", "lower", "upper"]].to_numpy(dtype=float).T
    is_level = bool(rows["level"].astype(object).fillna("").all())
    if is_level:
        panel.vlines(x, lower, upper, color=colour)
    else:
        panel.fill_between(x, lower, upper, color=colour, **BAND)
    style = "o" if is_level else "o-" if len(rows) <= 2 else "-"
    panel.plot(x, value, style, color=colour, label=label)
    if "ale" in rows and not is_level:
        panel.plot(x, rows["ale"], **{**DASHED, "color": BLACK, "zorder": 2})


def _show_input(panel: Axes, rows: DataFrame) -> None:
    """Set the horizontal axis of a panel: names of levels, days of the week, dates or numbers."""
    x = rows["x"].to_numpy(dtype=float)
    levels = rows["level"].astype(object).fillna("")
    if levels.all():
        shown = _level_names(list(dict.fromkeys(levels)))
        names = {at: shorten(level) for at, level in zip(np.unique(x), shown, strict=True)}
        if sum(len(name) + 2 for name in names.values()) <= LEVEL_LETTERS:
            panel.set_xticks(list(names), list(names.values()))
            panel.set_xlim(x.min() - max(LEVELS_ROOM), x.max() + max(LEVELS_ROOM))
            return
        panel.set_xticks(list(names), [])
        panel.set_xlim(x.min() - LEVELS_ROOM[0], x.max() + LEVELS_ROOM[1])
        # Inside the panel, because the panel below leaves no room for long names.
        look: Any = {"rotation": 90, "va": "bottom", "ha": "left", "size": 7.5, "zorder": 4}
        look |= {"xycoords": panel.get_xaxis_transform(), "textcoords": "offset points"}
        for at, name in names.items():
            panel.annotate(name, (at, 0), BESIDE_DOT, **look)
        return
    panel.margins(x=ROOM / 2)
    if str(rows["input"].iloc[0]).startswith(WEEKDAY):
        panel.set_xticks(range(len(DAYS)), DAYS)
    elif "is_date" in rows and as_bool(rows["is_date"]).any():
        locator = AutoDateLocator(minticks=2, maxticks=4)  # type: ignore[no-untyped-call]
        panel.xaxis.set_major_locator(locator)
        form = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]
        panel.xaxis.set_major_formatter(form)
    else:
        _mark_few(panel.xaxis, x)


def _level_names(levels: list[str]) -> list[str]:
    """Return the names of levels. If there is one named level, the other one becomes `not NAME`."""
    if len(levels) == 2 and levels[1] == REST:
        return [levels[0], f"not {levels[0]}"]
    return levels


def _mark_few(axis: Axis, values: Any) -> None:
    """Place ticks at the distinct values if there are few of them."""
    if len(different := np.unique(values)) <= FEW_TICKS["nbins"]:
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
        bottom, top = panel.get_ylim()
        few = MaxNLocator(**FEW_TICKS).tick_values(bottom, top)
        for places in (TICKS, TICKS[1::2], few):
            ticks: Any = [tick for tick in places if bottom < tick < top]
            if FEWEST_TICKS <= len(ticks) <= MOST_TICKS:
                break
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_yticks([], minor=True)
    return bool(ends[0] < low or ends[1] > high)


def _name_side(axis: Axis, name: str, values: Series[float]) -> str:
    """Set the ticks of an axis of a map and return its label.

    The ticks of an indicator `column=level` are `not level` and `level`.
    """
    column, _, level = name.partition("=")
    if level and set(values) <= {0, 1}:
        axis.set_ticks([0, 1], [f"not {shorten(level)}", shorten(level)])
        return shorten(column)
    if name.startswith(WEEKDAY):
        axis.set_ticks(range(len(DAYS)), DAYS)
    else:
        _mark_few(axis, values)
    return shorten(name)


@styled
def pair_maps(table: DataFrame) -> Figure:
    """Draw a map per strong pair of inputs: the prediction with all others at their mean.

    `table` has the columns input_1, input_2, output, x, y, value and rows. Dots show where training
    rows lie. All maps share the colours of the output.
    """
    table = first_seed(table)
    pairs: Any = list(table.groupby(["input_1", "input_2"], sort=False))
    figure, panels = small_multiples(len(pairs), 2, MAP)
    limits = float(table["value"].min()), float(table["value"].max())
    for panel, ((first, second), rows) in zip(panels, pairs, strict=True):
        image = draw_map(panel, rows["x"], rows["y"], rows["value"], limits)
        some = rows[rows["rows"] > 0]
        size = SMALLEST + LARGER * np.sqrt(some["rows"] / rows["rows"].max())
        panel.scatter(some["x"], some["y"], s=size, color="white", alpha=0.6)
        panel.set_xlabel(_name_side(panel.xaxis, first, rows["x"]))
        panel.set_ylabel(_name_side(panel.yaxis, second, rows["y"]))
    if panels:
        figure.colorbar(image, ax=panels, label=shorten(table["output"].iloc[0]))
    return figure
