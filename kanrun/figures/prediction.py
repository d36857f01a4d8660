"""Predictions against true values, residuals, and the effect of each input on a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.classes import draw_classes, draw_wrong, has_classes
from kanrun.figures.panels import draw_map, grid_of_panels, small_multiples
from kanrun.figures.style import (
    BLACK,
    CYCLE,
    DIVERGING,
    GREY,
    SPLITS,
    VERMILLION,
    error_limit,
    first_seed,
    is_numeric,
    note_of_some,
    number,
    set_remark,
    shorten,
    styled,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_OUTPUTS, MAX_INPUTS = 4, 12
#: Rows of a map: its cells are small, but files grow with them.
MAX_CELLS = 40_000


@styled
def predictions(table: pandas.DataFrame, title: str | None = None) -> Figure:
    """Draw predictions of the first seed against true values, in a form that suits the inputs.

    `table` has the columns seed, split (train, validation, test, grid), `input:<name>` per input,
    and for each output `truth:<name>` (which may be missing or empty) and `prediction:<name>`. One
    input gives curves with the training points, two give maps of truth, prediction and error, more
    give a parity plot. Classes (text or whole numbers) give a confusion matrix, of two inputs with
    a map of the classes. At most four outputs are drawn.
    """
    table = first_seed(table)
    inputs, outputs = _names(table, "input"), _names(table, "prediction")
    shown = outputs[:MAX_OUTPUTS]
    columns = [f"{kind}:{name}" for name in shown for kind in ("truth", "prediction")]
    filled = [name for name in columns if name in table and not table[name].isna().all()]
    classified = bool(shown) and all(has_classes(table, name) for name in shown)
    numeric = is_numeric(table, [f"input:{name}" for name in inputs])
    if classified or not is_numeric(table, filled):
        figure = draw_classes(table, inputs, shown)
    elif len(inputs) == 1 and numeric:
        figure = _curves(table, inputs[0], shown)
    elif len(inputs) == 2 and numeric:
        figure = _maps(table, inputs, shown)
    else:
        figure, panels = small_multiples(len(shown), 2, 3.2, width=3.4 * min(2, len(shown)))
        for axes, output in zip(panels, shown, strict=True):
            _parity(axes, table, output)
    set_remark(figure, title or note_of_some(len(shown), len(outputs), "outputs"))
    return figure


def _names(table: pandas.DataFrame, kind: str) -> list[str]:
    """Return the names of the columns `kind:<name>`."""
    names = [str(name).partition(":") for name in table.columns]
    return [name for start, _, name in names if start == kind]


def _truth(table: pandas.DataFrame, output: str) -> pandas.Series[Any]:
    """Return the column of true values; missing values if the table has none."""
    missing = pandas.Series(np.nan, index=table.index)
    return table.get(f"truth:{output}", missing)


def _curves(table: pandas.DataFrame, name: str, outputs: Sequence[str]) -> Figure:
    figure, panels = small_multiples(len(outputs), width=6.5)
    x = f"input:{name}"
    line = table[table["split"] == ("grid" if (table["split"] == "grid").any() else "test")]
    line = line.sort_values(x)
    given = thin(table[table["split"].isin(["train", "validation"])])
    for axes, output in zip(panels, outputs, strict=True):
        if len(given):
            values, size = _truth(given, output), 14 if len(given) < 50 else 5
            axes.scatter(
                given[x],
                values,
                s=size,
                c=GREY,
                alpha=0.6,
                rasterized=True,
                label="training points",
            )
        truth = _truth(line, output)
        if truth.notna().any():
            axes.plot(line[x], truth, color=BLACK, lw=2.4, alpha=0.45, label="truth")
        prediction = line[f"prediction:{output}"]
        axes.plot(line[x], prediction, color=VERMILLION, label="prediction")
        axes.set(xlabel=shorten(name), ylabel=shorten(output))
        axes.margins(x=0.01)
        axes.legend()
    return figure


def _maps(table: pandas.DataFrame, inputs: Sequence[str], outputs: Sequence[str]) -> Figure:
    """Draw truth, prediction and error of each output side by side.

    Without truth, draw the prediction alone. Truth and prediction share their colours; those of the
    error are centred at zero.
    """
    splits = [name for name in ("grid", "test", "train") if (table["split"] == name).any()]
    rows = thin(table[table["split"].isin(splits[:1])], MAX_CELLS)
    x, y = (rows[f"input:{name}"].to_numpy(dtype=float) for name in inputs)
    truths = [_truth(rows, name).to_numpy(dtype=float) for name in outputs]
    known = bool(np.isfinite(truths).any())
    width = None if known else 3.2
    figure, grid = grid_of_panels(len(outputs), 3 if known else 1, width=width, sharey=True)
    for line, output, truth in zip(grid, outputs, truths, strict=True):
        prediction = rows[f"prediction:{output}"].to_numpy(dtype=float)
        both = np.concatenate([truth, prediction])
        limits = float(np.nanmin(both, initial=np.inf)), float(np.nanmax(both, initial=-np.inf))
        limits = limits if limits[0] < np.inf else (0.0, 1.0)
        shown = {"truth": truth, "prediction": prediction} if known else {"prediction": prediction}
        for axes, (title, values) in zip(line, shown.items(), strict=False):
            image = draw_map(axes, x, y, values, limits)
            axes.set_title(title)
        below: Any = {"location": "bottom", "pad": 0.04, "shrink": 0.9}
        figure.colorbar(image, ax=line[: len(shown)], aspect=44, label=shorten(output), **below)
        if known:
            error = prediction - truth
            limit, largest = error_limit(error), float(np.nanmax(np.abs(error), initial=0.0))
            image = draw_map(line[2], x, y, error, (-limit, limit), DIVERGING)
            line[2].set_title("prediction - truth")
            extend = "both" if largest > limit else "neither"
            ticks = MaxNLocator(3)
            bar = figure.colorbar(image, ax=line[2], aspect=22, extend=extend, ticks=ticks, **below)
            bar.set_label(f"largest {number(largest)}", loc="left")
        line[0].set_ylabel(shorten(inputs[1]))
        for axes in line:
            axes.set_xlabel(shorten(inputs[0]))
    return figure


def _errors(table: pandas.DataFrame, output: str) -> dict[str, pandas.DataFrame]:
    """Return, for train and test, the columns truth, guess and error of the rows that have both."""
    columns = {"truth": _truth(table, output), "guess": table[f"prediction:{output}"]}
    numbers = {name: pandas.to_numeric(each, errors="coerce") for name, each in columns.items()}
    both = pandas.DataFrame({"split": table["split"], **numbers})
    both = both.assign(error=both["guess"] - both["truth"])
    both = both[np.isfinite(both["error"])]
    parts = {split: both[both["split"] == split] for split in ("train", "test")}
    return {split: part for split, part in parts.items() if len(part)}


def _scatter(axes: Axes, part: pandas.DataFrame, x: str, y: str, split: str, label: str) -> None:
    rows = thin(part)
    look: Any = {"s": 6, "alpha": 0.5, "zorder": 2 + (split == "test"), "rasterized": True}
    axes.scatter(rows[x], rows[y], c=SPLITS[split], label=label, **look)


def _parity(axes: Axes, table: pandas.DataFrame, output: str) -> None:
    parts = _errors(table, output)
    for split, part in parts.items():
        rmse = float(np.sqrt(np.mean(part["error"] ** 2)))
        _scatter(axes, part, "truth", "guess", split, f"{split}, RMSE {number(rmse)}")
    if parts:
        axes.axline((0, 0), slope=1, color=BLACK, lw=0.8, zorder=1)
        ends = pandas.concat(parts.values())[["truth", "guess"]].to_numpy(dtype=float)
        margin = 0.05 * float(np.ptp(ends)) or 1.0
        limits = ends.min() - margin, ends.max() + margin
        axes.set(xlim=limits, ylim=limits)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.set(xlabel=f"{shorten(output)}: truth", ylabel="prediction")
    axes.set_aspect("equal", adjustable="box")


@styled
def residuals(table: pandas.DataFrame) -> Figure:
    """Draw a histogram of prediction - truth, and it over the prediction, for each numeric output.

    `table` is as for `predictions`; rows of the first seed and the splits train and test count. For
    classes, draw how often each is predicted as another one.
    """
    table = first_seed(table)
    every = _names(table, "prediction")
    if every and all(has_classes(table, name) for name in every):
        return draw_wrong(table, every[0])
    outputs = [name for name in every if is_numeric(table, [f"prediction:{name}"])]
    shown = outputs[:MAX_OUTPUTS]
    figure, grid = grid_of_panels(max(1, len(shown)), 2, room=0.1)
    for (left, right), output in zip(grid, shown, strict=False):
        _residuals(left, right, table, output)
    set_remark(figure, note_of_some(len(shown), len(outputs), "outputs"))
    return figure


def _residuals(left: Axes, right: Axes, table: pandas.DataFrame, output: str) -> None:
    parts = _errors(table, output)
    if parts:
        errors = pandas.concat(parts.values())["error"].to_numpy(dtype=float)
        limit = error_limit(errors)
        for split, part in parts.items():
            clipped = part.assign(error=part["error"].clip(-limit, limit))
            look: Any = {"weights": np.full(len(part), 100 / len(part)), "range": (-limit, limit)}
            left.hist(clipped["error"], color=SPLITS[split], alpha=0.5, label=split, **look)
            _scatter(right, clipped, "guess", "error", split, "")
        left.legend()
        if beyond := int((np.abs(errors) > limit).sum()):
            right.set_title(
                f"{beyond} points beyond, drawn at the border", size="small", color=GREY
            )
    right.axhline(0, color=BLACK, lw=0.8, zorder=1)
    left.set(xlabel="prediction - truth", ylabel="points (%)")
    right.set(xlabel=f"prediction of {shorten(output)}", ylabel="prediction - truth")


@styled
def effects(
    table: pandas.DataFrame, importance: pandas.DataFrame, values: pandas.DataFrame
) -> Figure:
    """Draw a panel per input, the most important first: its effect with the others at their mean.

    `table` has the columns input, output, x, value, lower, upper; `importance` orders the inputs;
    `values` holds quantiles of each input, drawn as ticks along the axis. All panels share the
    scale of the output.
    """
    table, importance, values = (first_seed(one) for one in (table, importance, values))
    names = [name for name in importance["input"] if name in set(table["input"])]
    shown, outputs = names[:MAX_INPUTS], list(dict.fromkeys(table["output"]))[:MAX_OUTPUTS]
    figure, panels = small_multiples(len(shown), 3, 1.9, room=0.3, sharey=True)
    part = table[table["input"].isin(shown) & table["output"].isin(outputs)]
    low, high = float(part["value"].min()), float(part["value"].max())
    room = 0.08 * (high - low) or 1.0
    for axes, name in zip(panels, shown, strict=True):
        for colour, output in zip(CYCLE, outputs, strict=False):
            rows = part[(part["input"] == name) & (part["output"] == output)].sort_values("x")
            axes.fill_between(
                rows["x"], rows["lower"], rows["upper"], color=colour, alpha=0.2, lw=0
            )
            style = "o-" if len(rows) <= 2 else "-"
            axes.plot(rows["x"], rows["value"], style, color=colour, label=shorten(output))
        at = values.loc[values["input"] == name, "x"].to_numpy(dtype=float)
        bottom: Any = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(at, np.zeros_like(at), "|", color=GREY, ms=5, **bottom)
        axes.set(title=shorten(name), ylim=(low - room, high + room))
    if panels and len(outputs) == 1:
        panels[0].set_ylabel(shorten(outputs[0]))
    elif panels:
        panels[0].legend()
    set_remark(figure, note_of_some(len(shown), len(names), "inputs"))
    return figure


@styled
def pair_maps(table: pandas.DataFrame) -> Figure:
    """Draw a map per strong pair of inputs: the prediction with all others at their mean.

    `table` has the columns input_1, input_2, output, x, y, value and rows. Dots show where training
    rows lie. All maps share the colours of the output.
    """
    table = first_seed(table)
    pairs = list(table.groupby(["input_1", "input_2"], sort=False))
    figure, panels = small_multiples(len(pairs), 2, room=0.2)
    limits = float(table["value"].min()), float(table["value"].max())
    for axes, ((first, second), rows) in zip(panels, pairs, strict=True):
        x, y, values = (rows[name].to_numpy(dtype=float) for name in ("x", "y", "value"))
        image = draw_map(axes, x, y, values, limits)
        some = rows[rows["rows"] > 0]
        size = 1 + 14 * np.sqrt(some["rows"] / rows["rows"].max())
        axes.scatter(some["x"], some["y"], s=size, color="white", alpha=0.6)
        axes.set(xlabel=shorten(first), ylabel=shorten(second))
        figure.colorbar(image, ax=axes, label=shorten(rows["output"].iloc[0]))
    return figure
