"""The learned edge functions, one small panel each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kanrun.figures.panels import small_multiples
from kanrun.figures.style import (
    BLUE,
    GREY,
    first_seed,
    letters,
    number,
    only_some,
    say_above,
    styled,
    truths,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 40
_COLUMNS = 5
KEYS = ["layer", "out", "in"]


@styled
def edges(table: pandas.DataFrame) -> Figure:
    """Return a panel for each edge (layer, out, in) of the first seed: its function over its input range.

    `table` has the columns seed, layer, out, in, x, y, score, and may have input_name, output_name, pruned, x_data (x
    in the user's units) and seen (false where no data reach). Pruned edges, which are zero, are counted and not drawn;
    of many others the 40 with the highest score are. All panels of a layer have one scale, so that a dead edge looks
    dead; titles have the score, and what no data reach is thin and grey.
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
    wide, high = (1.45, 1.42) if columns > 3 else (1.95, 1.72)
    figure, panels = small_multiples(len(groups), columns, high, 0.2, wide * columns + 0.1)
    spans = {
        layer: max((_span(rows) for (at, _, _), rows in groups if at == layer), default=0.0)
        for layer in {key[0] for key, _ in groups}
    }
    for axes, (key, group) in zip(panels, groups, strict=True):
        score = f"\nscore {number(float(group['score'].iloc[0]))}" if "score" in group else ""
        _panel(axes, group, title_of(key, group) + score, spans[key[0]])
    say_above(figure, remark)
    return figure


def pruned_rows(table: pandas.DataFrame) -> pandas.Series[bool]:
    """Return which rows are of pruned edges: none where the table does not say."""
    if "pruned" not in table:
        return pandas.Series(False, index=table.index)
    return truths(table["pruned"])


def strongest(
    table: pandas.DataFrame, most: int
) -> list[tuple[tuple[int, int, int], pandas.DataFrame]]:
    """Return keys (layer, out, in) and rows of the `most` edges with the highest score, in order of the keys."""
    scores = (
        table.groupby(KEYS)["score"].first() if "score" in table else table.groupby(KEYS).size()
    )
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


def _span(rows: pandas.DataFrame) -> float:
    """How far the values of an edge lie apart."""
    values = _finite(rows)
    return float(np.ptp(values)) if values.size else 0.0


def _finite(rows: pandas.DataFrame) -> NDArray[np.float64]:
    values: NDArray[np.float64] = rows["y"].to_numpy(dtype=float)
    return values[np.isfinite(values)]


def _panel(axes: Axes, rows: pandas.DataFrame, title: str, span: float) -> None:
    """One edge, on an axis `span` high around its middle."""
    rows = rows.sort_values("x")
    x, y = rows["x_data" if "x_data" in rows else "x"], rows["y"]
    if "seen" in rows:
        axes.plot(x, y, color=GREY, lw=0.6)
        y = y.where(truths(rows["seen"]))
    axes.plot(x, y, color=BLUE, lw=1.2)
    axes.set_title(title, fontsize=7)
    axes.tick_params(labelsize=6, length=2, pad=1.5)
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(5.5)
    values = _finite(rows)
    if values.size:
        middle = float(values.min() + values.max()) / 2
        half = 0.55 * span if span > 1e-12 else 1.0  # of constants: no axis full of rounding errors
        axes.set_ylim(middle - half, middle + half)


def text_of(rows: pandas.DataFrame, column: str) -> str:
    """Return the text in `column` of the first row, empty where there is none."""
    value = rows[column].iloc[0] if column in rows else None
    return "" if value is None or value != value else str(value)  # noqa: PLR0124  (a missing value)
