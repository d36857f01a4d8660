"""Effects of inputs on predictions: of single ones as curves, of pairs as maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.figure import Figure

from kanrun.figures.boxes import Box, Ticks, boxes, date_ticks, few_ticks
from kanrun.figures.panels import draw_map, finish
from kanrun.figures.style import (
    BAND,
    BLACK,
    CYCLE,
    DASHED,
    GREY,
    as_bool,
    first_seed,
    note_of_some,
    shorten,
    styled,
)

MAX_INPUTS = 12
#: Ticks of probabilities, if at least this many are in view, and the smallest one drawn.
TICKS = (1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
FEWEST_TICKS, SMALLEST_PROBABILITY = 3, 1e-6
#: Heights of panels, room around all of them (left, below, right, above) and between two (inches).
EFFECT, AROUND_EFFECTS, BETWEEN_EFFECTS = 1.45, (0.6, 0.3, 0.15, 0.3), (0.15, 0.5)
MAP, AROUND_MAPS, BETWEEN_MAPS = 2.2, (0.6, 0.45, 1.0, 0.1), (0.65, 0.6)
#: Free part of an axis around its data; free room of an axis of levels beside these; distance of
#: the name of a level from its dot (inches).
ROOM, LEVELS_ROOM, BESIDE_DOT = 0.08, (0.3, 0.7), 0.05
#: Length of the ticks at quantiles of an input, and size of the dots of rows on a map.
QUANTILE, SMALLEST, LARGER = 0.07, 1, 14
#: Part of the room on the right of maps that the colour bar and its numbers take, and its width.
BAR, BAR_WIDTH = 0.8, 0.14


@styled
def effects(
    table: pandas.DataFrame,
    order: Sequence[str],
    values: pandas.DataFrame,
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
    table, values = first_seed(table), first_seed(values)
    if classes:
        table = _log_odds(table)
    names = [name for name in dict.fromkeys(order) if name in set(table["input"])]
    shown = names[:MAX_INPUTS]
    remark = "; ".join(filter(None, [remark, note_of_some(len(shown), len(names), "inputs")]))
    layout = (None, EFFECT), AROUND_EFFECTS, BETWEEN_EFFECTS
    part = table[table["input"].isin(shown)]
    outputs = part["output"].unique()
    figure, panels = boxes(len(shown), 3, *layout, remark or " " * (len(outputs) > 1))
    low, high = float(part["value"].min()), float(part["value"].max())
    room = ROOM * (high - low) or 1.0
    limits = low - room, high + room
    up = few_ticks(limits)
    if classes:
        inside = [p for p in TICKS if limits[0] < _logit(p) < limits[1]]
        if len(inside) < FEWEST_TICKS:
            ends = [1 / (1 + np.exp(-each)) for each in limits]
            inside = [p for p, _ in few_ticks((ends[0], ends[1]))]
        up = [(float(_logit(p)), f"{p:g}") for p in inside]
    for place, (panel, name) in enumerate(zip(panels, shown, strict=True)):
        rows = part[part["input"] == name].sort_values("x")
        box = _framed(panel, rows, limits, [(at, "") for at, _ in up] if place % 3 else up)
        for colour, output in zip(CYCLE, outputs, strict=False):
            _draw_effect(box, rows[rows["output"] == output], colour, shorten(output))
        x, bottom = box.at(values.loc[values["input"] == name, "x"], limits[0])
        below, above = bottom - QUANTILE / 2, bottom + QUANTILE / 2
        box.axes.vlines(x, below, above, color=GREY, lw=0.8, zorder=3)
        if len(outputs) == 1 and place == 0:
            box.names("", "probability of " * classes + shorten(outputs[0]))
        box.title(shorten(name))
    named = [panel.axes for panel in panels[: len(outputs) > 1]]
    return finish(figure, named, where="upper right", ncols=len(outputs), borderpad=0)


def _logit(p: Any) -> Any:
    """Return the log-odds of probabilities."""
    p = np.clip(p, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.log(p / (1 - p))


def _log_odds(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return the table with log-odds; of two classes only the second."""
    outputs = table["output"].unique()
    table = table[table["output"] != outputs[0]] if len(outputs) == 2 else table
    values = [name for name in ("value", "lower", "upper", "ale") if name in table]
    return table.assign(**{name: _logit(table[name].to_numpy(dtype=float)) for name in values})


def _framed(panel: Box, rows: pandas.DataFrame, limits: tuple[float, float], up: Ticks) -> Box:
    """Draw the axes of an input: of its levels with their names, of dates, or of numbers."""
    x, levels = rows["x"].to_numpy(dtype=float), rows["level"].fillna("")
    ends = float(x.min()), float(x.max())
    margin = ROOM / 2 * (ends[1] - ends[0])
    if levels.all():
        box = panel.showing((ends[0] - LEVELS_ROOM[0], ends[1] + LEVELS_ROOM[1]), limits)
        across = [(value, "") for value in np.unique(x)]
        # Within the panel: the one below leaves no room for long names.
        look: Any = {"rotation": 90, "va": "bottom", "ha": "left", "size": 7.5, "zorder": 4}
        for value, level in dict(zip(x, levels, strict=True)).items():
            at, bottom = box.at(value, limits[0])
            box.axes.text(at + BESIDE_DOT, bottom + BESIDE_DOT, shorten(level), **look)
    else:
        box = panel.showing((ends[0] - margin, ends[1] + margin), limits)
        is_date = "is_date" in rows and as_bool(rows["is_date"]).any()
        across = date_ticks(ends) if is_date and ends[1] > ends[0] else few_ticks(box.limits[0], x)
    box.ticks(across, up)
    return box


def _draw_effect(box: Box, rows: pandas.DataFrame, colour: str, label: str) -> None:
    """Draw the effect of an input on one output, with its band."""
    x, value, lower, upper = rows[["x", "value", "lower", "upper"]].to_numpy(dtype=float).T
    (at, low), (_, high) = box.at(x, lower), box.at(x, upper)
    is_level = bool(rows["level"].fillna("").all())
    if is_level:
        box.axes.vlines(at, low, high, color=colour)
    else:
        box.axes.fill_between(at, low, high, color=colour, **BAND)
    style = "o" if is_level else "o-" if len(rows) <= 2 else "-"
    box.axes.plot(*box.at(x, value), style, color=colour, label=label)
    if "ale" in rows and not is_level:
        box.axes.plot(*box.at(x, rows["ale"]), **{**DASHED, "color": BLACK, "zorder": 2})


@styled
def pair_maps(table: pandas.DataFrame) -> Figure:
    """Draw a map per strong pair of inputs: the prediction with all others at their mean.

    `table` has the columns input_1, input_2, output, x, y, value and rows. Dots show where training
    rows lie. All maps share the colours of the output.
    """
    table = first_seed(table)
    pairs: Any = list(table.groupby(["input_1", "input_2"], sort=False))
    figure, panels = boxes(len(pairs), 2, (None, MAP), AROUND_MAPS, BETWEEN_MAPS)
    limits = float(table["value"].min()), float(table["value"].max())
    for panel, ((first, second), rows) in zip(panels, pairs, strict=True):
        x, y, values = rows[["x", "y", "value"]].to_numpy(dtype=float).T
        box = panel.showing(_ends(x), _ends(y))
        image = draw_map(box.axes, *box.at(x, y), values, limits)
        some = rows[rows["rows"] > 0]
        size = SMALLEST + LARGER * np.sqrt(some["rows"] / rows["rows"].max())
        box.axes.scatter(*box.at(some["x"], some["y"]), s=size, color="white", alpha=0.6)
        box.ticks(few_ticks(box.limits[0], x), few_ticks(box.limits[1], y), grid=False)
        box.names(shorten(first), shorten(second))
    if panels:
        (width, height), (_, below, right, above) = figure.get_size_inches(), AROUND_MAPS
        place = width - BAR * right, below, BAR_WIDTH, height - below - above
        side = figure.add_axes(tuple(np.divide(place, [width, height] * 2)))
        figure.colorbar(image, cax=side, label=shorten(table["output"].iloc[0]))
    return figure


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the cells around values on a lattice, half a cell beyond the last ones."""
    different = np.unique(values)
    steps = np.diff(different) if len(different) > 1 else np.ones(1)
    return float(different[0] - steps[0] / 2), float(different[-1] + steps[-1] / 2)
