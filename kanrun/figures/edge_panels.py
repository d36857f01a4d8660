"""The learned edge functions, one small panel each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.panels import small_multiples
from kanrun.figures.style import BLUE, first_seed, letters, only_some, say_above, styled, truths

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
    there = len(table.drop_duplicates(KEYS))
    remark = only_some(len(groups), there, "edges, those with the highest scores")
    if without:
        said = f"{without} pruned edge{'s' if without > 1 else ''} not drawn"
        remark = f"{remark}; {said}" if remark else said
    wide, high = (1.45, 1.3) if columns > 3 else (1.95, 1.6)
    figure, panels = small_multiples(len(groups), columns, high, 0.2, wide * columns + 0.1)
    for axes, (key, group) in zip(panels, groups, strict=True):
        _panel(axes, group, title_of(key, group))
    say_above(figure, remark)
    return figure


def pruned_rows(table: pandas.DataFrame) -> pandas.Series[bool]:
    """Return which rows are of pruned edges: none where the table does not say."""
    if "pruned" not in table:
        return pandas.Series(False, index=table.index)
    return truths(table["pruned"])


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


def text_of(rows: pandas.DataFrame, column: str) -> str:
    """Return the text in `column` of the first row, empty where there is none."""
    value = rows[column].iloc[0] if column in rows else None
    return "" if value is None or value != value else str(value)  # noqa: PLR0124  (a missing value)
