"""The figures of `kanrun compare-mlp`, each from the tables that its run recorded."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from kanrun.experiments.compare_mlp.results_plot import quartiles
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREY,
    VERMILLION,
    grid_of_axes,
    legend_of_all,
    letters,
    new_figure,
    say_above,
    styled,
)
from kanrun.figures.ticks import name_round, name_values

MODELS = {"kan": (BLUE, "o", "KAN"), "mlp": (VERMILLION, "s", "MLP")}
SIZES = {"parameters": "parameters", "flops": "FLOPs a sample", "seconds": "seconds of training"}
#: An exponent is shown from this many sizes on; sizes nearer to each other than this factor count as one.
LEAST_SIZES, ONE_SIZE = 3, 1.2
#: Differences below this, zero among them, are drawn here.
SMALLEST = 1e-17
MARKERS = "osD^vPX"


@styled
def pareto(summary: DataFrame) -> Figure:
    """Test error against parameters, FLOPs and seconds: medians with quartiles, and the front of each model."""
    targets = list(summary["target"].unique())
    figure = new_figure(1.9 * len(targets) + 0.4)
    for row, target in zip(grid_of_axes(figure, len(targets), len(SIZES)), targets, strict=True):
        rows = summary[summary["target"] == target]
        middle, low, high = quartiles(rows)
        for panel, (size, label) in zip(row, SIZES.items(), strict=True):
            for model, (colour, marker, name) in MODELS.items():
                some = (middle["model"] == model).to_numpy()
                if not some.any():
                    continue
                x, y = middle.loc[some, size].to_numpy(float), middle.loc[some, "error"].to_numpy(float)
                bars = np.array([np.maximum(y - low[some], 0), np.maximum(high[some] - y, 0)])
                panel.errorbar(x, y, bars, fmt=marker, color=colour, alpha=0.7, lw=0.7, label=name)
                panel.plot(*_front(x, y), color=colour, drawstyle="steps-post", lw=1.0)
            panel.set(xscale="log", yscale="log")
            if row[0] is panel:
                panel.set_ylabel(f"{_two_lines(str(target), 22)}\n{rows['error_name'].iloc[0]}")
            if target == targets[-1]:
                panel.set_xlabel(label)
            name_round(panel.xaxis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    title = "bars: quartiles over seeds; steps: nothing is smaller and better"
    figure.legend(handles, labels, loc="outside upper center", ncols=2, title=title, title_fontsize=7.5)
    return figure


def _two_lines(name: str, most: int) -> str:
    """`name` on two lines where one of `most` characters is too short; its end, which tells cases apart, stays."""
    lines = textwrap.wrap(name, most)
    shown = lines if len(lines) < 3 else [f"{lines[0]} …", lines[-1]]
    return "\n".join(letters(line, most + 2) for line in shown)


def _front(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The points that no other one beats in both, by increasing x."""
    order = np.argsort(x, kind="stable")
    best = np.minimum.accumulate(y[order])
    kept = np.concatenate([[True], best[1:] < best[:-1]])
    return x[order][kept], y[order][kept]


@styled
def scaling(medians: DataFrame, fits: DataFrame) -> Figure:
    """Test error against parameters with the power law fitted to each model that has three sizes or more.

    `medians` has the columns target, model, parameters, error, error_name; `fits` target, model, exponent, low, high.
    """
    targets = list(medians["target"].unique())
    columns = min(3, len(targets))
    figure = new_figure(2.5 * -(-len(targets) // columns) + 0.2)
    axes = grid_of_axes(figure, -(-len(targets) // columns), columns)
    panels = [panel for row in axes for panel in row]
    for panel, target in zip(panels, targets, strict=False):
        for model, (colour, marker, name) in MODELS.items():
            rows = medians[(medians["target"] == target) & (medians["model"] == model)]
            fit = fits[(fits["target"] == target) & (fits["model"] == model)]
            if not len(rows):
                continue
            sizes = _sizes(rows["parameters"])
            wide = sizes >= LEAST_SIZES and fit["high"].iloc[0] >= 2 * fit["low"].iloc[0]
            power = float(fit["exponent"].iloc[0]) if wide else np.nan
            counted = f"{sizes} size{'s' if sizes > 1 else ''}"
            label = f"{name}: {f'$N^{{{power:.1f}}}$, {counted}' if np.isfinite(power) else f'{counted}, no fit'}"
            panel.plot(rows["parameters"], rows["error"], marker, color=colour, label=label)
            if np.isfinite(power):
                ends = np.array([rows["parameters"].min(), rows["parameters"].max()], dtype=float)
                middle = np.exp(np.log(rows[["parameters", "error"]].astype(float)).mean())
                line = middle["error"] * (ends / middle["parameters"]) ** power
                panel.plot(ends, line, color=colour, lw=0.9)
        word = medians.loc[medians["target"] == target, "error_name"].iloc[0]
        panel.set(xscale="log", yscale="log", title=_two_lines(str(target), 30), ylabel=word, xlabel="parameters $N$")
        name_round(panel.xaxis)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28))
    for panel in panels[len(targets) :]:
        panel.remove()
    return figure


def _sizes(values: Series[Any]) -> int:
    """How many sizes there are: those within a fifth of each other, as networks matched to one KAN, are one."""
    count, last = 0, 0.0
    for value in sorted(values):
        if value > ONE_SIZE * last:
            count, last = count + 1, value
    return count


@styled
def conventions(counts: DataFrame) -> Figure:
    """A network's parameters by every convention, relative to what its modules hold, and its FLOPs by two.

    `counts` has the columns kan, exact, convention, formula, count, and may have flops (executed), kanbefair_flops.
    """
    networks = counts.drop_duplicates("kan")["kan"].tolist()[: len(CYCLE)]
    flops = {
        "flops": "executed:\nlocal basis functions, once an input",
        "kanbefair_flops": "KANbeFair:\nall basis functions, once an edge",
    }
    both = all(name in counts and counts[name].notna().any() for name in flops)
    figure = new_figure(5.0 if both else 2.8)
    panels = figure.subplots(1 + both, 1, squeeze=False)[:, 0]
    names = counts.drop_duplicates("convention")
    parts = [counts[counts["kan"] == kan].drop_duplicates("convention") for kan in networks]
    _grouped_bars(panels[0], [part["count"] / part["exact"] for part in parts])
    for bars, kan, part in zip(panels[0].containers, networks, parts, strict=True):
        bars.set_label(f"{kan}: {part['exact'].iloc[0]} parameters")
    panels[0].axhline(1, color=BLACK, lw=0.8)
    pairs = zip(names["convention"], names["formula"], strict=True)
    words = [f"{name.replace('_', ' ')}\n{formula}" for name, formula in pairs]
    panels[0].set_xticks(range(len(names)), words, fontsize=6.5)
    panels[0].set_ylabel("parameters by convention\n/ trainable numbers")
    if both:
        _grouped_bars(panels[1], [part[list(flops)].iloc[0] for part in parts])
        for bars in panels[1].containers:
            panels[1].bar_label(bars, fmt="{:,.0f}", fontsize=6, padding=1)
        panels[1].set_xticks(range(len(flops)), list(flops.values()))
        panels[1].set(yscale="log", ylabel="FLOPs a sample")
        panels[1].margins(y=0.12)
    legend_of_all(figure, panels[:1], loc="outside upper center", ncols=3)
    return figure


def _grouped_bars(panel: Axes, heights: Sequence[Series[Any]]) -> None:
    """A group of bars for each entry of the series, in it one bar a series."""
    width = 0.8 / max(1, len(heights))
    for index, series in enumerate(heights):
        offset = (index - (len(heights) - 1) / 2) * width
        panel.bar(np.arange(len(series)) + offset, series.to_numpy(float), width, color=CYCLE[index])
    panel.grid(axis="x", visible=False)


@styled
def growth(table: DataFrame) -> Figure:
    """Parameters of real modules against width, depth and G + k, with lines of the lecture's powers."""
    figure = new_figure(2.6)
    panels = figure.subplots(1, 3, sharey=True)
    for panel, (name, label, power) in zip(
        panels, (("width", "nodes $N$", 2), ("depth", "layers $L$", 1), ("functions", "$G + k$", 1)), strict=True
    ):
        others = [column for column in ("width", "depth", "functions") if column != name]
        for model, (colour, marker, word) in MODELS.items():
            rows = table[table["model"] == model]
            if name == "functions" and model == "mlp":
                continue
            for column in others:
                rows = rows[rows[column].isna() | (rows[column] == rows[column].max())]
            rows = rows.sort_values(name)
            panel.plot(rows[name], rows["parameters"], marker, color=colour, label=word)
            last = rows.iloc[-1]
            panel.plot(rows[name], last["parameters"] * (rows[name] / last[name]) ** power, color=colour, lw=0.9)
        panel.set(xscale="log", yscale="log", xlabel=label, title=f"lines: power {power}")
        name_values(panel.xaxis, table[name].dropna())
    panels[0].set_ylabel("parameters")
    panels[0].legend(loc="upper left")
    return figure


@styled
def widths(summary: DataFrame, wanted: Sequence[float]) -> Figure:
    """Relative error of one hidden layer against its width, each seed and the median; lines at the wanted errors."""
    targets = list(summary["target"].unique())
    figure = new_figure(3.0)
    axes = grid_of_axes(figure, 1, len(targets))[0]
    for panel, target in zip(axes, targets, strict=True):
        rows = summary[summary["target"] == target]
        for index, activation in enumerate(rows["activation"].unique()):
            some, colour = rows[rows["activation"] == activation], CYCLE[index % len(CYCLE)]
            medians = some.groupby("width")["relative_error"].median()
            panel.plot(some["width"], some["relative_error"], ".", color=colour, alpha=0.35)
            label = f"{activation}: median"
            panel.plot(medians.index, medians, f"{MARKERS[index % 7]}-", color=colour, label=label, ms=4)
        panel.plot([], [], ".", color=GREY, alpha=0.6, label="a seed, in its colour")
        for error in wanted:
            panel.axhline(error, color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=1, label="wanted errors")
        panel.set(xscale="log", yscale="log", title=_two_lines(str(target), 30), xlabel="hidden nodes")
        name_values(panel.xaxis, rows["width"])
    axes[0].set_ylabel("test RMSE / deviation")
    legend_of_all(figure, axes, loc="outside lower center", ncols=4)
    return figure


def _dots(panel: Axes, values: Series[Any], place: int) -> None:
    """What each seed reached, and the median."""
    panel.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.5, label="a seed")
    panel.plot(values.median(), place, "|", color=BLACK, ms=11, mew=1.6, label="median")


@styled
def bars(summary: DataFrame) -> Figure:
    """Relative error of every seed of a target and grid, and their median, with the stated bound as a line."""
    groups = [rows for _, rows in summary.groupby(["target", "grid"], sort=False)]
    figure = new_figure(0.32 * len(groups) + 1.0, 5.4)
    panel = figure.subplots()
    for place, rows in enumerate(groups):
        _dots(panel, rows["relative_error"], place)
        panel.plot([rows["bound"].iloc[0]] * 2, [place - 0.35, place + 0.35], color=VERMILLION, label="bound")
    several = summary["grid"].nunique() > 1
    panel.set_yticks(range(len(groups)), [_network(rows.iloc[0], several) for rows in groups])
    panel.set(xscale="log", xlabel="test RMSE / deviation")
    name_round(panel.xaxis)
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    legend_of_all(figure, [panel], loc="outside upper center", ncols=3)
    return figure


def _network(row: Series[Any], several: bool) -> str:
    """The target with the network's shape, and its grids on a second line where there are several."""
    grids = f"\nG = {row['grid']}" if several else ""
    return f"{_two_lines(str(row['target']), 34)}  [{row['shape'].replace('-', ', ')}]{grids}"


@styled
def differences(linear: DataFrame) -> Figure:
    """How far networks without activations are from least squares and from the product of their matrices."""
    figure = new_figure(2.9, 4.6)
    panel = figure.subplots()
    for index, (column, label) in enumerate(
        (("from_least_squares", "from ordinary least squares"), ("from_product", "from the product of the matrices"))
    ):
        values, beside = linear[column].clip(lower=SMALLEST), linear["depth"] + 0.08 * (index - 0.5)
        panel.plot(beside, values, MARKERS[index], color=CYCLE[index], label=label)
    panel.set(yscale="log", xlabel="hidden layers", ylabel="largest difference, relative")
    panel.set_xticks(sorted(linear["depth"].unique()))
    least = float(linear[["from_least_squares", "from_product"]].to_numpy(float).min(initial=1.0))
    say_above(figure, "a mark for each seed" + ("; at 10⁻¹⁷: that or less" if least < SMALLEST else ""))
    legend_of_all(figure, [panel], loc="outside lower center", ncols=2)
    return figure


@styled
def variants(summary: DataFrame) -> Figure:
    """Test error of a KAN with all tricks and with each switched off: dots are seeds, bars medians."""
    targets = list(summary["target"].unique())
    names = list(summary["variant"].unique())
    figure = new_figure(0.28 * len(names) + 1.2)
    axes = grid_of_axes(figure, 1, len(targets))[0]
    for panel, target in zip(axes, targets, strict=True):
        for place, variant in enumerate(names):
            rows = summary[(summary["target"] == target) & (summary["variant"] == variant)]
            _dots(panel, rows["error"], place)
            if variant == names[0]:
                look: Any = {"color": GREY, "lw": 0.8, "ls": (0, (4, 3)), "zorder": 1}
                panel.axvline(rows["error"].median(), label=f"median, {variant}", **look)
        word = summary.loc[summary["target"] == target, "error_name"].iloc[0]
        panel.set(xscale="log", title=_two_lines(str(target), 30), xlabel=word)
        name_round(panel.xaxis)
        panel.set_yticks(range(len(names)), names if panel is axes[0] else [""] * len(names))
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
    legend_of_all(figure, axes, loc="outside lower center", ncols=3)
    return figure
