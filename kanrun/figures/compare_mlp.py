"""The figures of `kanrun compare-mlp`, each from the tables that its run recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from pandas import DataFrame

from kanrun.figures.compare_results import quartiles
from kanrun.figures.style import BLACK, BLUE, CYCLE, GREY, VERMILLION, grid_of_axes, letters, new_figure, styled
from kanrun.figures.ticks import name_round, name_values

MODELS = {"kan": (BLUE, "o", "KAN"), "mlp": (VERMILLION, "s", "MLP")}
SIZES = {"parameters": "parameters", "flops": "FLOPs a sample", "seconds": "seconds of training"}


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
                panel.set_ylabel(f"{letters(str(target), 22)}\n{rows['error_name'].iloc[0]}")
            if target == targets[-1]:
                panel.set_xlabel(label)
            name_round(panel.xaxis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    title = "bars: quartiles over seeds; steps: nothing is smaller and better"
    figure.legend(handles, labels, loc="outside upper center", ncols=2, title=title, title_fontsize=7.5)
    return figure


def _front(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The points that no other one beats in both, by increasing x."""
    order = np.argsort(x, kind="stable")
    best = np.minimum.accumulate(y[order])
    kept = np.concatenate([[True], best[1:] < best[:-1]])
    return x[order][kept], y[order][kept]


@styled
def scaling(medians: DataFrame, fits: DataFrame) -> Figure:
    """Test error against parameters with the power law fitted to each model whose sizes differ by a factor of two.

    `medians` has the columns target, model, parameters, error, error_name; `fits` target, model, exponent, low, high.
    """
    targets = list(medians["target"].unique())
    columns = min(3, len(targets))
    figure = new_figure(2.1 * -(-len(targets) // columns) + 0.2)
    axes = grid_of_axes(figure, -(-len(targets) // columns), columns)
    panels = [panel for row in axes for panel in row]
    for panel, target in zip(panels, targets, strict=False):
        for model, (colour, marker, name) in MODELS.items():
            rows = medians[(medians["target"] == target) & (medians["model"] == model)]
            fit = fits[(fits["target"] == target) & (fits["model"] == model)]
            if not len(rows):
                continue
            wide = fit["high"].iloc[0] >= 2 * fit["low"].iloc[0]
            power = float(fit["exponent"].iloc[0]) if wide else np.nan
            label = f"{name}: $N^{{{power:.1f}}}$" if np.isfinite(power) else name
            panel.plot(rows["parameters"], rows["error"], marker, color=colour, label=label)
            if np.isfinite(power):
                ends = np.array([rows["parameters"].min(), rows["parameters"].max()], dtype=float)
                middle = np.exp(np.log(rows[["parameters", "error"]].astype(float)).mean())
                line = middle["error"] * (ends / middle["parameters"]) ** power
                panel.plot(ends, line, color=colour, lw=0.9)
        word = medians.loc[medians["target"] == target, "error_name"].iloc[0]
        panel.set(xscale="log", yscale="log", title=letters(str(target), 30), ylabel=word)
        name_round(panel.xaxis)
        panel.legend(loc="best")
    for panel in panels[len(targets) :]:
        panel.remove()
    for panel in panels[max(0, len(targets) - columns) : len(targets)]:
        panel.set_xlabel("parameters $N$")
    return figure


@styled
def conventions(counts: DataFrame) -> Figure:
    """One network's parameters by every convention, relative to what its modules hold."""
    networks = counts.drop_duplicates("kan")["kan"].tolist()[:6]
    figure = new_figure(2.8)
    panel = figure.subplots()
    names = counts.drop_duplicates("convention")
    places = np.arange(len(names))
    for index, kan in enumerate(networks):
        rows = counts[counts["kan"] == kan].drop_duplicates("convention")
        heights = rows["count"] / rows["exact"]
        width = 0.8 / len(networks)
        offset = (index - (len(networks) - 1) / 2) * width
        label = f"{kan}: {rows['exact'].iloc[0]}"
        panel.bar(places + offset, heights, width, color=CYCLE[index], label=label)
    panel.axhline(1, color=BLACK, lw=0.8)
    pairs = zip(names["convention"], names["formula"], strict=True)
    words = [f"{name.replace('_', ' ')}\n{formula}" for name, formula in pairs]
    panel.set_xticks(places, words, fontsize=6.5)
    panel.set_ylabel("count / trainable numbers of the modules")
    panel.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


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
        name_round(panel.xaxis)
    panels[0].set_ylabel("parameters")
    panels[0].legend()
    return figure


@styled
def widths(summary: DataFrame, wanted: Sequence[float]) -> Figure:
    """Relative error of one hidden layer against its width, each seed and the median; lines at the wanted errors."""
    targets = list(summary["target"].unique())
    figure = new_figure(2.6)
    axes = grid_of_axes(figure, 1, len(targets))[0]
    for panel, target in zip(axes, targets, strict=True):
        rows = summary[summary["target"] == target]
        for index, activation in enumerate(rows["activation"].unique()):
            some = rows[rows["activation"] == activation]
            medians = some.groupby("width")["relative_error"].median()
            panel.plot(some["width"], some["relative_error"], ".", color=CYCLE[index], alpha=0.35)
            panel.plot(medians.index, medians, "o-", color=CYCLE[index], label=activation)
        for error in wanted:
            panel.axhline(error, color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=1)
        panel.set(xscale="log", yscale="log", title=letters(str(target), 30), xlabel="hidden nodes")
        name_values(panel.xaxis, rows["width"])
    axes[0].set_ylabel("test RMSE / deviation")
    axes[0].legend()
    return figure


@styled
def bars(summary: DataFrame, name: str, bound: str) -> Figure:
    """Relative error of every seed and their median, with the stated bound as a line."""
    groups = list(summary[name].unique())
    figure = new_figure(0.32 * len(groups) + 0.9, 5.4)
    panel = figure.subplots()
    for place, group in enumerate(groups):
        rows = summary[summary[name] == group]
        panel.plot(rows["relative_error"], [place] * len(rows), "o", color=BLUE, alpha=0.5)
        panel.plot(rows["relative_error"].median(), place, "|", color=BLACK, ms=11, mew=1.6)
        panel.plot([rows[bound].iloc[0]] * 2, [place - 0.35, place + 0.35], color=VERMILLION)
    labels = [f"{letters(str(group), 34)}  [{_shape(summary, name, group)}]" for group in groups]
    panel.set_yticks(range(len(groups)), labels)
    panel.set(xscale="log", xlabel="test RMSE / deviation")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_title("dots: seeds, bar: median, red: bound", fontsize=8)
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    return figure


def _shape(summary: DataFrame, name: str, group: Any) -> str:
    return str(summary.loc[summary[name] == group, "shape"].iloc[0]).replace("-", ", ")


@styled
def differences(linear: DataFrame) -> Figure:
    """How far networks without activations are from least squares and from the product of their matrices."""
    figure = new_figure(2.6, 4.6)
    panel = figure.subplots()
    for index, (column, label) in enumerate(
        (("from_least_squares", "from ordinary least squares"), ("from_product", "from the product of the matrices"))
    ):
        values = linear[column].clip(lower=1e-17)
        panel.plot(linear["depth"] + 0.08 * (index - 0.5), values, "o", color=CYCLE[index], label=label)
    panel.set(yscale="log", xlabel="hidden layers", ylabel="largest difference, relative")
    panel.set_xticks(sorted(linear["depth"].unique()))
    panel.set_ylim(top=max(1e-7, float(linear["from_least_squares"].max()) * 10))
    panel.legend()
    return figure


@styled
def variants(summary: DataFrame) -> Figure:
    """Test error of a KAN with all tricks and with each switched off: dots are seeds, bars medians."""
    targets = list(summary["target"].unique())
    names = list(summary["variant"].unique())
    figure = new_figure(0.28 * len(names) + 1.0)
    axes = grid_of_axes(figure, 1, len(targets))[0]
    for panel, target in zip(axes, targets, strict=True):
        for place, variant in enumerate(names):
            rows = summary[(summary["target"] == target) & (summary["variant"] == variant)]
            panel.plot(rows["test_rmse"], [place] * len(rows), "o", color=BLUE, alpha=0.5)
            panel.plot(rows["test_rmse"].median(), place, "|", color=BLACK, ms=11, mew=1.6)
        panel.set(xscale="log", title=letters(str(target), 30), xlabel="test RMSE")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_yticks(range(len(names)), names if panel is axes[0] else [""] * len(names))
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
    return figure
