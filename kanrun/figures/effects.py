"""What each input of a table does to the output: a curve with its band, and where the rows lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.panels import small_multiples
from kanrun.figures.style import (
    BLUE,
    CYCLE,
    GREY,
    first_seed,
    letters,
    only_some,
    say_above,
    styled,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_MOST, _COLUMNS = 12, 3
_MOST_OUTPUTS = 4


@styled
def effects(
    table: pandas.DataFrame, importance: pandas.DataFrame, values: pandas.DataFrame
) -> Figure:
    """One panel per input, the most important first: the prediction while it moves, all other effects at their mean.

    `table` has the columns input, output, x, value, lower, upper; `importance` orders the inputs; `values` holds
    quantiles of each input, drawn as ticks along the axis. All panels share the scale of the output.
    """
    table, importance, values = (first_seed(one) for one in (table, importance, values))
    names = [name for name in importance["input"] if name in set(table["input"])]
    shown = names[:_MOST]
    outputs = list(dict.fromkeys(table["output"]))[:_MOST_OUTPUTS]
    figure, panels = small_multiples(len(shown), _COLUMNS, 1.9, 0.3)
    part = table[table["input"].isin(shown) & table["output"].isin(outputs)]
    low, high = float(part["value"].min()), float(part["value"].max())
    room = 0.08 * (high - low) or 1.0
    for axes, name in zip(panels, shown, strict=True):
        _draw(axes, part[part["input"] == name], outputs, values[values["input"] == name])
        axes.set(title=letters(str(name), 28), ylim=(low - room, high + room))
    if panels and len(outputs) == 1:
        panels[0].set_ylabel(letters(str(outputs[0]), 24))
    elif panels:
        panels[0].legend()
    say_above(figure, only_some(len(shown), len(names), "inputs"))
    return figure


def _draw(
    axes: Axes, table: pandas.DataFrame, outputs: list[str], values: pandas.DataFrame
) -> None:
    for colour, output in zip((BLUE, *CYCLE[1:]), outputs, strict=False):
        rows = table[table["output"] == output].sort_values("x")
        few = len(rows) <= 2
        axes.fill_between(
            rows["x"], rows["lower"], rows["upper"], color=colour, alpha=0.18, linewidth=0
        )
        axes.plot(
            rows["x"],
            rows["value"],
            color=colour,
            marker="o" if few else "",
            label=letters(str(output), 18),
        )
    at = np.asarray(values["x"], dtype=float)
    axes.plot(
        at,
        np.zeros_like(at),
        "|",
        color=GREY,
        markersize=5,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )


@styled
def pair_maps(table: pandas.DataFrame) -> Figure:
    """One map per strong pair: the prediction over two inputs, all else at its mean; dots where training rows lie.

    `table` has the columns input_1, input_2, output, x, y, value and rows. All maps share the colours of the output.
    """
    table = first_seed(table)
    pairs = list(table.groupby(["input_1", "input_2"], sort=False))
    figure, panels = small_multiples(len(pairs), 2, 2.6, 0.2)
    low, high = float(table["value"].min()), float(table["value"].max())
    for axes, ((first, second), rows) in zip(panels, pairs, strict=True):
        across, up = np.unique(rows["x"]), np.unique(rows["y"])
        values, count = (
            rows.pivot_table(index="y", columns="x", values=name).to_numpy()
            for name in ("value", "rows")
        )
        image = axes.pcolormesh(
            across, up, values, shading="nearest", vmin=low, vmax=high, cmap="viridis"
        )
        places = np.argwhere(count > 0)
        size = 1 + 14 * np.sqrt(count[count > 0] / count.max())
        axes.scatter(
            across[places[:, 1]], up[places[:, 0]], s=size, color="white", alpha=0.6, linewidths=0
        )
        axes.set(xlabel=letters(str(first), 24), ylabel=letters(str(second), 24))
        figure.colorbar(image, ax=axes).set_label(letters(str(rows["output"].iloc[0]), 20))
    return figure
