"""Predictions against the truth (a curve, maps, a parity plot, or a confusion matrix), and their residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
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
    from matplotlib.axes import Axes

_MOST_OUTPUTS = 4
_BINS = 40  # of a histogram of residuals


@styled
def predictions(table: pandas.DataFrame, title: str | None = None) -> Figure:
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
    numbers = is_numeric(table, [f"input:{name}" for name in inputs])
    if whole or not is_numeric(table, filled):
        figure = draw_classes(table, inputs, shown)
    elif len(inputs) == 1 and numbers:
        figure = _curves(table, inputs[0], shown)
    elif len(inputs) == 2 and numbers:
        figure = draw_maps(table, inputs, shown)
    else:
        figure = _parities(table, shown)
    if title:
        figure.suptitle(title, fontsize=9)
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
        points = axes.scatter(
            given[x], truth_of(given, output), s=size, c=GREY, alpha=0.6, lw=0, zorder=1
        )
        points.set_rasterized(len(given) > 500)
        if len(given):
            points.set_label("training points")
        if truth.notna().any():
            axes.plot(line[x], truth, color=BLACK, lw=2.4, alpha=0.45, label="truth", zorder=2)
        axes.plot(
            line[x],
            line[f"prediction:{output}"],
            color=VERMILLION,
            lw=1.2,
            label="prediction",
            zorder=3,
        )
        axes.set(xlabel=letters(name, 40), ylabel=letters(output, 40))
        axes.margins(x=0.01)
        axes.legend(loc="best")
    return figure


def _parities(table: pandas.DataFrame, outputs: Sequence[str]) -> Figure:
    figure, panels = small_multiples(len(outputs), 2, 3.2, 0.2, 3.4 * min(2, len(outputs)))
    for axes, output in zip(panels, outputs, strict=True):
        _parity(axes, table, output)
    return figure


def _pairs(table: pandas.DataFrame, output: str) -> dict[str, pandas.DataFrame]:
    """Return truth, guess and error of the rows of each split that have both."""
    found = {}
    for split in ("train", "test"):
        rows = table[table["split"] == split]
        both = pandas.DataFrame(
            {"truth": truth_of(rows, output), "guess": rows[f"prediction:{output}"]}
        ).dropna()
        if len(both):
            both = both.assign(error=both["guess"] - both["truth"])
            found[split] = both[np.isfinite(both["error"])]
    return {split: both for split, both in found.items() if len(both)}


def _scatter(
    axes: Axes, x: pandas.Series[Any], y: pandas.Series[Any], split: str, label: str = ""
) -> None:
    pairs, order = thinned(x.to_frame("x").assign(y=y)), 2 + (split == "test")
    points = axes.scatter(
        pairs["x"], pairs["y"], s=6, lw=0, alpha=0.5, c=SPLITS[split], zorder=order, label=label
    )
    points.set_rasterized(len(pairs) > 500)


def _parity(axes: Axes, table: pandas.DataFrame, output: str) -> None:
    parts = _pairs(table, output)
    for split, part in parts.items():
        rmse = float(np.sqrt(np.mean(part["error"] ** 2)))
        _scatter(axes, part["truth"], part["guess"], split, f"{split}, RMSE {number(rmse)}")
    if parts:
        ends = np.concatenate(
            [part[["truth", "guess"]].to_numpy(float).ravel() for part in parts.values()]
        )
        low, high = ends.min(), ends.max()
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
    for (left, right), output in zip(
        grid_of_axes(figure, max(1, len(shown)), 2), shown, strict=False
    ):
        _residuals(left, right, table, output)
    say_above(figure, only_some(len(shown), len(outputs), "outputs"))
    return figure


def _residuals(left: Axes, right: Axes, table: pandas.DataFrame, output: str) -> None:
    parts = _pairs(table, output)
    if parts:
        limit = reach(
            np.concatenate([part["error"].to_numpy(dtype=float) for part in parts.values()])
        )
        bins = list(np.linspace(-limit, limit, _BINS + 1))
        for split, part in parts.items():
            errors, colour = part["error"].clip(-limit, limit), SPLITS[split]
            look: Any = {
                "bins": bins,
                "weights": np.full(len(errors), 100 / len(errors)),
                "color": colour,
            }
            left.hist(errors, alpha=0.35, lw=0, label=split, **look)
            left.hist(errors, histtype="step", lw=1, **look)
            _scatter(right, part["guess"], errors, split)
        left.legend(loc="best")
        if beyond := sum(int((part["error"].abs() > limit).sum()) for part in parts.values()):
            right.set_title(
                f"{beyond} points lie beyond, drawn at the border", fontsize=7, color=GREY
            )
    right.axhline(0, color=BLACK, lw=0.8, zorder=1)
    left.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    left.set(xlabel="prediction - truth", ylabel="points, %")
    right.set(xlabel=f"prediction of {letters(output, 30)}", ylabel="prediction - truth")
