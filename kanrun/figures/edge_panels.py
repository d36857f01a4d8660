"""The learned edge functions, one small panel each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.diagram_layout import text_of
from kanrun.figures.style import BLUE, GREY, first_seed, letters, only_some, styled, truths

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 40
_COLUMNS = 5
KEYS = ["layer", "out", "in"]


@styled
def edges(table: pandas.DataFrame) -> Figure:
    """Return a panel for each edge (layer, out, in) of the first seed: its function over its input range.

    `table` has the columns seed, layer, out, in, x, y, score, and may have input_name, output_name and pruned.
    Pruned edges, which are zero, are counted and not drawn; of many others the 40 with the highest score are.
    """
    table = first_seed(table)
    pruned = pruned_rows(table)
    without = len(table[pruned].drop_duplicates(KEYS))
    table = table[~pruned]
    groups = strongest(table, _MOST)
    count = max(1, len(groups))
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    there = len(table.drop_duplicates(KEYS))
    remark = only_some(len(groups), there, "edges, those with the highest scores")
    if without:
        said = f"{without} pruned edge{'s' if without > 1 else ''} not drawn"
        remark = f"{remark}; {said}" if remark else said
    figure, every = _panels(rows, columns, 0.3 if remark else 0.1)
    for axes in every[len(groups) :]:
        axes.set_axis_off()
    for axes, (key, group) in zip(every, groups, strict=False):
        _panel(axes, group, title_of(key, group))
    if remark:
        figure.text(0.5, 1 - 0.08 / figure.get_figheight(), remark, ha="center", va="top", color=GREY)
    return figure


def pruned_rows(table: pandas.DataFrame) -> pandas.Series[bool]:
    """Return which rows are of pruned edges: none where the table does not say."""
    if "pruned" not in table:
        return pandas.Series(False, index=table.index)
    return truths(table["pruned"])


def _panels(rows: int, columns: int, top: float) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, placed by the inch: constrained layout takes as long as drawing them."""
    wide, high = (1.0, 0.8) if columns > 3 else (1.5, 1.1)
    left, between, above, below = 0.42, 0.42, 0.28, 0.2  # room of tick labels and titles
    width = left + columns * wide + (columns - 1) * between + 0.12
    height = top + rows * (above + high + below)
    figure = Figure(figsize=(width, height))
    axes = []
    for row in range(rows):
        for column in range(columns):
            corner = left + column * (wide + between), height - top - (row + 1) * (above + high) - row * below
            box = corner[0] / width, corner[1] / height, wide / width, high / height
            axes.append(figure.add_axes(box))
    return figure, axes


def strongest(table: pandas.DataFrame, most: int) -> list[tuple[tuple[int, int, int], pandas.DataFrame]]:
    """Return keys (layer, out, in) and rows of the `most` edges with the highest score, in order of the keys."""
    scores = table.groupby(KEYS)["score"].first() if "score" in table else table.groupby(KEYS).size()
    kept = set(scores.fillna(0.0).sort_values(ascending=False, kind="stable").index[:most])
    groups = []
    for name, rows in table.groupby(KEYS):
        key: Any = name
        if key in kept:
            groups.append(((int(key[0]), int(key[1]), int(key[2])), rows))
    return groups


def title_of(key: tuple[int, int, int], rows: pandas.DataFrame) -> str:
    """Return `source → node` with the names of inputs and outputs where the edge has them."""
    layer, out, source = key
    source_name = text_of(rows, "input_name") or f"h{layer}.{source}"
    out_name = text_of(rows, "output_name") or f"h{layer + 1}.{out}"
    return f"{letters(source_name, 12)} → {letters(out_name, 12)}"


def _panel(axes: Axes, rows: pandas.DataFrame, title: str) -> None:
    rows = rows.sort_values("x")
    axes.plot(rows["x"], rows["y"], color=BLUE, lw=1.2)
    axes.set_title(title, fontsize=7)
    axes.tick_params(labelsize=6, length=2, pad=1.5)
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(5.5)
    values = rows["y"].to_numpy(dtype=float)
    if np.isfinite(values).any() and np.nanmax(values) - np.nanmin(values) < 1e-12:
        middle = float(np.nanmean(values))  # a constant: no axis full of rounding errors
        axes.set_ylim(middle - 1, middle + 1)
