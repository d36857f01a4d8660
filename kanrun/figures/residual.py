"""What is left between prediction and truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.classes import draw_wrong, has_classes
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
    reach,
    say_above,
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

    `table` is as for `predictions`; rows of the splits train and test count that have a truth. Classes
    have no difference from the truth: of them it is how often each is taken for another.
    """
    table = first_seed(table)
    every = outputs_of(table)
    if every and all(has_classes(table, name) for name in every):
        return draw_wrong(table, every[0])
    outputs = [name for name in every if is_numeric(table, [f"prediction:{name}"])]
    shown = outputs[:_MOST_OUTPUTS]
    figure = new_figure(2.5 * max(1, len(shown)) + 0.1)
    for (left, right), output in zip(grid_of_axes(figure, max(1, len(shown)), 2), shown, strict=False):
        _draw(left, right, table, output)
    say_above(figure, only_some(len(shown), len(outputs), "outputs"))
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
        limit = reach(np.concatenate([part["error"].to_numpy(dtype=float) for part in parts.values()]))
        beyond = sum(int((part["error"].abs() > limit).sum()) for part in parts.values())
        for order, (split, part) in enumerate(parts.items()):
            colour, errors = SPLITS[split], part["error"].clip(-limit, limit)
            _histogram(left, errors, limit, split)
            some = thinned(part.assign(error=errors))
            points = right.scatter(some["guess"], some["error"], s=6, lw=0, alpha=0.5, c=colour, zorder=2 + order)
            points.set_rasterized(len(some) > 500)
        left.legend(loc="best")
        if beyond:
            right.set_title(f"{beyond} points lie beyond, drawn at the border", fontsize=7, color=GREY)
    right.axhline(0, color=BLACK, lw=0.8, zorder=1)
    left.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    left.set(xlabel="prediction - truth", ylabel="points, %")
    right.set(xlabel=f"prediction of {letters(output, 30)}", ylabel="prediction - truth")


def _histogram(axes: Axes, errors: pandas.Series[Any], limit: float, split: str) -> None:
    bins = list(np.linspace(-limit, limit, _BINS + 1))
    weights = np.full(len(errors), 100 / len(errors))
    axes.hist(errors, bins=bins, weights=weights, color=SPLITS[split], alpha=0.35, lw=0, label=split)
    axes.hist(errors, bins=bins, weights=weights, color=SPLITS[split], histtype="step", lw=1)
