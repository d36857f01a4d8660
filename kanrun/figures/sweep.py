"""The result of a sweep over its settings: a curve over one, a map over two, the spread of seeds alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from kanrun.figures.panels import DOTS, medians, named_rows, seeds_across, ticks_at
from kanrun.figures.style import BLACK, BLUE, letters, one_panel, say_above, styled

_DECADE = 10.0
_MOST_WRITTEN = 60  # cells of a map in which numbers are written


@styled
def over_settings(table: pandas.DataFrame, settings: Sequence[str], result: str) -> Figure:
    """Return the median of `result` over `settings`, columns of text as typed, of which at most two are drawn.

    `table` has one row per job and seed. Of more settings the two with the most values are, the others' medians taken.
    """
    table = table[np.isfinite(table[result].astype(float))]
    axes = sorted(settings, key=lambda name: -table[name].nunique())[:2]
    figure, panel = one_panel(3.2 if len(axes) == 1 else 3.6, 5.4)
    if not axes:
        seeds_across(panel, table[result], 0)
        named_rows(panel, [letters(result, 30)])
        panel.legend(loc="upper right")
    elif len(axes) == 1:
        _curve(panel, table, axes[0], result)
    else:
        _map(figure, panel, table, (axes[0], axes[1]), result)
    if left := [name for name in settings if name not in axes]:
        say_above(figure, f"medians over {', '.join(left)}")
    elif len(axes) == 1:
        say_above(figure, DOTS)
    return figure


def _curve(panel: Any, table: pandas.DataFrame, name: str, result: str) -> None:
    numbers = pandas.to_numeric(table[name], errors="coerce")
    if numbers.isna().any():
        words = list(dict.fromkeys(table[name]))
        table = table.assign(place=[words.index(word) for word in table[name]])
        medians(panel, table, ("place", result), "_", spread="dots", color=BLUE, ms=14, mew=1.8)
        panel.set_xticks(
            range(len(words)),
            [letters(word, 24) for word in words],
            rotation=20 if len(words) > 4 else 0,
        )
        panel.margins(x=0.1)
    else:
        table = table.assign(place=numbers)
        medians(panel, table, ("place", result), "o-", spread="dots", color=BLUE)
        if numbers.min() > 0 and numbers.max() >= _DECADE * numbers.min():
            panel.set_xscale("log")
            ticks_at(panel.xaxis, numbers)
    values = table[result].astype(float)
    if (values > 0).all() and values.max() >= _DECADE * values.min():
        panel.set_yscale("log")
    panel.set(xlabel=letters(name, 40), ylabel=letters(result, 30))


def _map(
    figure: Figure, panel: Any, table: pandas.DataFrame, axes: tuple[str, str], result: str
) -> None:
    across, up = axes
    grid = table.groupby([up, across], sort=False)[result].median().unstack()
    grid = grid.reindex(index=_in_order(grid.index), columns=_in_order(grid.columns))
    values = grid.to_numpy(float)
    positive = values[np.isfinite(values) & (values > 0)]
    spread = (
        positive.size == np.isfinite(values).sum()
        and positive.size
        and positive.max() >= _DECADE * positive.min()
    )
    image = panel.imshow(
        values, aspect="auto", origin="lower", cmap="viridis_r", norm=LogNorm() if spread else None
    )
    panel.grid(visible=False)
    panel.set_xticks(range(len(grid.columns)), [letters(word, 16) for word in grid.columns])
    panel.set_yticks(range(len(grid.index)), [letters(word, 16) for word in grid.index])
    if values.size <= _MOST_WRITTEN:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = image.norm(value) > 0.5
                panel.text(
                    j,
                    i,
                    f"{value:.2g}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else BLACK,
                )
    panel.set(xlabel=letters(across, 40), ylabel=letters(up, 40))
    figure.colorbar(image, ax=panel, label=letters(result, 30))


def _in_order(words: Any) -> list[str]:
    """Numbers by their size, other words as they came."""
    numbers = pandas.to_numeric(pandas.Series(list(words)), errors="coerce")
    return (
        list(words)
        if numbers.isna().any()
        else [words[i] for i in np.argsort(numbers.to_numpy(), kind="stable")]
    )
