"""What is left between prediction and truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.prediction import outputs_of
from kanrun.figures.style import (
    BLACK,
    GREY,
    SPLITS,
    first_seed,
    grid_of_axes,
    is_numeric,
    letters,
    new_figure,
    only_some,
    styled,
    thinned,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_MOST_OUTPUTS = 4
_BINS = 40


@styled
def residuals(table: pandas.DataFrame) -> Figure:
    """Return, for each numeric output of the first seed, a histogram of prediction - truth, and it over the prediction.

    `table` is as for `predictions`; rows of the splits train and test count that have a truth.
    """
    table = first_seed(table)
    outputs = [name for name in outputs_of(table) if is_numeric(table, [f"prediction:{name}"])]
    shown = outputs[:_MOST_OUTPUTS]
    figure = new_figure(2.5 * max(1, len(shown)) + 0.1)
    for (left, right), output in zip(grid_of_axes(figure, max(1, len(shown)), 2), shown, strict=False):
        _draw(left, right, table, output)
    remark = only_some(len(shown), len(outputs), "outputs")
    if remark:
        figure.suptitle(remark, fontsize=8, color=GREY)
    return figure


def _draw(left: Axes, right: Axes, table: pandas.DataFrame, output: str) -> None:
    parts = {}
    for split in ("train", "test"):
        rows = table[table["split"] == split]
        guess = rows[f"prediction:{output}"]
        if f"truth:{output}" in rows:
            part = guess.to_frame("guess").assign(error=guess - rows[f"truth:{output}"])
            part = part[np.isfinite(part["error"])]
            if len(part):
                parts[split] = part
    if parts:
        ends = [value for part in parts.values() for value in (part["error"].min(), part["error"].max())]
        low, high = min(ends), max(ends)
        bins = np.linspace(low, high, _BINS + 1) if high > low else np.array([low - 0.5, high + 0.5])
        for order, (split, part) in enumerate(parts.items()):
            weights = np.full(len(part), 100 / len(part))
            colour = SPLITS[split]
            left.hist(part["error"], bins=list(bins), weights=weights, color=colour, alpha=0.35, lw=0, label=split)
            left.hist(part["error"], bins=list(bins), weights=weights, color=colour, histtype="step", lw=1)
            some = thinned(part)
            points = right.scatter(some["guess"], some["error"], s=6, lw=0, alpha=0.5, c=colour, zorder=2 + order)
            points.set_rasterized(len(some) > 500)
        left.legend(loc="upper right")
    right.axhline(0, color=BLACK, lw=0.8, zorder=1)
    left.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    left.set(xlabel="prediction - truth", ylabel="points, %")
    right.set(xlabel=f"prediction of {letters(output, 30)}", ylabel="prediction - truth")
