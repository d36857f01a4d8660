"""Predictions against the truth (a curve, maps, a parity plot, or a confusion matrix), and their residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.classes import draw_classes, draw_wrong, has_classes
from kanrun.figures.maps import draw_maps
from kanrun.figures.panels import small_multiples
from kanrun.figures.style import (
    BLACK,
    GREY,
    SPLITS,
    VERMILLION,
    first_seed,
    grid_of_axes,
    is_numeric,
    letters,
    new_figure,
    number,
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
_BINS = 40  # of a histogram of residuals


@styled
def predictions(table: pandas.DataFrame) -> Figure:
    """Return the predictions of the first seed against the truth, in the form that the inputs allow.

    `table` has the columns seed, split (train, validation, test, grid), `input:<name>` per input, and for each output
    `truth:<name>` (which may be missing or empty) and `prediction:<name>`. One input gives curves with the
    training points, two give maps of truth, prediction and error, more give a parity plot, and classes
    (text or whole numbers) a confusion matrix, of two inputs with a map of the classes. At most
    four outputs are drawn.
    """
    table = first_seed(table)
    inputs, outputs = _named(table, "input"), _named(table, "prediction")
    shown = outputs[:_MOST_OUTPUTS]
    columns = [f"{kind}:{name}" for name in shown for kind in ("truth", "prediction")]
    filled = [name for name in columns if name in table and not table[name].isna().all()]
    whole = bool(shown) and all(has_classes(table, name) for name in shown)
    if whole or not is_numeric(table, filled):
        figure = draw_classes(table, inputs, shown)
    elif len(inputs) == 1 and is_numeric(table, [f"input:{name}" for name in inputs]):
        figure = _curves(table, inputs[0], shown)
    elif len(inputs) == 2 and is_numeric(table, [f"input:{name}" for name in inputs]):
        figure = draw_maps(table, inputs, shown)
    else:
        figure = _parities(table, shown)
    say_above(figure, only_some(len(shown), len(outputs), "outputs"))
    return figure


def _named(table: pandas.DataFrame, kind: str) -> list[str]:
    """Return the names of the columns of one kind, `input` or `prediction`, of a table of predictions."""
    names = [str(name) for name in table.columns]
    return [name.partition(":")[2] for name in names if name.startswith(f"{kind}:")]


def truth_of(table: pandas.DataFrame, output: str) -> pandas.Series[Any]:
    """Return the column of the truth, all missing where the table has none."""
    name = f"truth:{output}"
    return table[name] if name in table else table[f"prediction:{output}"] * np.nan


def _curves(table: pandas.DataFrame, name: str, outputs: Sequence[str]) -> Figure:
    figure = new_figure(0.6 + 2.6 * len(outputs))
    split = "grid" if (table["split"] == "grid").any() else "test"
    x = f"input:{name}"
    line = table[table["split"] == split].sort_values(x)
    given = thinned(table[table["split"].isin(["train", "validation"])])
    for (axes,), output in zip(grid_of_axes(figure, len(outputs), 1), outputs, strict=True):
        truth = truth_of(line, output)
        size = 14 if len(given) <= 30 else 5
        points = axes.scatter(given[x], truth_of(given, output), s=size, c=GREY, alpha=0.6, lw=0, zorder=1)
        points.set_rasterized(len(given) > 500)
        if len(given):
            points.set_label("training points")
        if truth.notna().any():
            axes.plot(line[x], truth, color=BLACK, lw=2.4, alpha=0.45, label="truth", zorder=2)
        axes.plot(line[x], line[f"prediction:{output}"], color=VERMILLION, lw=1.2, label="prediction", zorder=3)
        axes.set(xlabel=letters(name, 40), ylabel=letters(output, 40))
        axes.margins(x=0.01)
        axes.legend(loc="best")
    return figure


def _parities(table: pandas.DataFrame, outputs: Sequence[str]) -> Figure:
    figure, panels = small_multiples(len(outputs), 2, 3.2, 0.2, 3.4 * min(2, len(outputs)))
    for axes, output in zip(panels, outputs, strict=True):
        _parity(axes, table, output)
    return figure


def _parity(axes: Axes, table: pandas.DataFrame, output: str) -> None:
    ends: list[float] = []
    for order, split in enumerate(("train", "test")):
        rows = table[table["split"] == split]
        truth, guess = truth_of(rows, output), rows[f"prediction:{output}"]
        there = truth.notna() & guess.notna()
        if not there.any():
            continue
        truth, guess = truth[there], guess[there]
        rmse = float(np.sqrt(np.mean((truth - guess) ** 2)))
        ends += [truth.min(), truth.max(), guess.min(), guess.max()]
        pairs = thinned(truth.to_frame("truth").assign(guess=guess))
        points = axes.scatter(pairs["truth"], pairs["guess"], s=6, lw=0, alpha=0.5, c=SPLITS[split], zorder=2 + order)
        points.set_rasterized(len(pairs) > 500)
        points.set_label(f"{split}, RMSE {number(rmse)}")
    if ends:
        low, high = min(ends), max(ends)
        axes.plot([low, high], [low, high], color=BLACK, lw=0.8, zorder=1)
        margin = 0.05 * (high - low or 1.0)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.set(xlabel=f"{letters(output, 30)}: truth", ylabel="prediction")
    axes.set_aspect("equal", adjustable="box")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


@styled
def residuals(table: pandas.DataFrame) -> Figure:
    """Return, for each numeric output of the first seed, a histogram of prediction - truth, and it over the prediction.

    `table` is as for `predictions`; rows of the splits train and test count that have a truth. Classes
    have no difference from the truth: of them it is how often each is taken for another.
    """
    table = first_seed(table)
    every = _named(table, "prediction")
    if every and all(has_classes(table, name) for name in every):
        return draw_wrong(table, every[0])
    outputs = [name for name in every if is_numeric(table, [f"prediction:{name}"])]
    shown = outputs[:_MOST_OUTPUTS]
    figure = new_figure(2.5 * max(1, len(shown)) + 0.1)
    for (left, right), output in zip(grid_of_axes(figure, max(1, len(shown)), 2), shown, strict=False):
        _residuals(left, right, table, output)
    say_above(figure, only_some(len(shown), len(outputs), "outputs"))
    return figure


def _residuals(left: Axes, right: Axes, table: pandas.DataFrame, output: str) -> None:
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
