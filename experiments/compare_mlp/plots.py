"""Figures of `kanrun compare-mlp`. The parameters of each function name the tables it draws."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.panels import (
    DOTS,
    ROW,
    finish,
    grid_of_panels,
    log_log,
    name_rows,
    one_panel,
    panel_of_rows,
    panels_by,
    power_law,
    seeds_across,
    series,
    shape_name,
    two_lines,
)
from kanrun.figures.style import BLUE, CYCLE, DASHED, MARKERS, VERMILLION, Look, power, styled
from kanrun.study.suite import exponent

MODELS = {"kan": (BLUE, "o", "KAN"), "mlp": (VERMILLION, "s", "MLP")}
SIZES = {"parameters": "parameters", "flops": "FLOPs per sample", "seconds": "seconds of training"}
#: Columns of sizes with which the number of parameters grows: for each, its label and the power
#: that the lecture states.
LAWS = {"width": ("nodes N", 2), "depth": ("layers L", 1), "functions": ("G + k", 1)}
DIFFERENCES = {
    "from_least_squares": "from ordinary least squares",
    "from_product": "from the product of the matrices",
}
QUARTILES = (0.25, 0.75)
RELATIVE = "test RMSE / std of the target"
#: Horizontal distance between the marks of two columns (hidden layers).
BESIDE = 1 / 12
ABOVE: Look = {"where": "outside upper center"}
BELOW_PANEL: Look = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.28)}
QUARTILE_BARS: Look = {"alpha": 0.7, "lw": 0.7}


@styled
def pareto(summary: DataFrame) -> Figure:
    """Draw test error against parameters, FLOPs and seconds: quartiles and Pareto fronts."""
    targets: Any = list(summary.groupby("target", sort=False))
    # Height of a panel of errors against sizes (inches).
    height = 1.9
    figure, grid = grid_of_panels(len(targets), len(SIZES), height, sharey="row")
    keys = [name for name in ("cell", "activation") if name in summary]
    # Largest number of letters in one line of the label of a row of panels.
    letters = 22
    for line, (target, rows) in zip(grid, targets, strict=True):
        for panel, size in zip(line, SIZES, strict=True):
            for model, trainings in rows.groupby("model"):
                colour, marker, name = MODELS[str(model)]
                networks = trainings.groupby(keys, sort=False)
                middle = networks[[size, "error"]].median().sort_values(size)
                low, high = (networks["error"].quantile(share)[middle.index] for share in QUARTILES)
                bars = [middle["error"] - low, high - middle["error"]]
                look: Any = {"fmt": marker, "color": colour, "label": name, **QUARTILE_BARS}
                panel.errorbar(middle[size], middle["error"], bars, **look)
                front = middle.assign(error=middle["error"].cummin()).dropna()
                panel.plot(*front.to_numpy().T, color=colour, drawstyle="steps-post", lw=1)
            panel.set(xscale="log", yscale="log")
        error = rows["error_name"].iloc[0]
        line[0].set_ylabel(f"{two_lines(str(target), letters)}\n{error}")
    for panel, label in zip(grid[-1], SIZES.values(), strict=True):
        panel.set_xlabel(label)
    title = "bars: quartiles over seeds; steps: the best up to a size"
    return finish(figure, grid[0, :1], ncols=2, title=title, **ABOVE)


@styled
def scaling(summary: DataFrame) -> Figure:
    """Draw test error against parameters, with a power law if there are at least three sizes."""
    keys = ["target", "error_name", "model", "parameters"]
    middle = summary.groupby(keys, sort=False)["error"].median().reset_index()
    figure, panels = panels_by(middle, "target", room=0.2)
    # Smallest number of different sizes for which a power law is fitted.
    fewest = 3
    # Two sizes whose ratio is at most this count as the same size.
    same = 1.4
    for panel, _, rows in panels:
        for model, some in rows.groupby("model"):
            colour, marker, name = MODELS[str(model)]
            x = some["parameters"]
            y = some["error"]
            sizes = 1 + int((np.diff(np.log(np.sort(x))) > np.log(same)).sum())
            fit = exponent(x, y) if sizes >= fewest else np.nan
            counted = f"{sizes} size{'s' * (sizes > 1)}"
            if np.isfinite(fit):
                power_law(panel, x, y, fit, color=colour)
                label = f"{name}: power {fit:.1f}, {counted}"
            else:
                label = f"{name}: {counted}, no fit"
            panel.plot(x, y, marker, color=colour, label=label)
        error = rows["error_name"].iloc[0]
        panel.set(xscale="log", yscale="log", xlabel="parameters N", ylabel=error)
        panel.legend(**BELOW_PANEL)
    return figure


def along(growth: DataFrame, name: str) -> DataFrame:
    """Return the rows in which all sizes but `name` have their largest value."""
    others = growth[list({"width", "depth", "functions"} - {name})]
    return growth[(others.isna() | (others == others.max())).all(axis=1)]


@styled
def growth(growth: DataFrame) -> Figure:
    """Draw parameters of networks against width, depth and G + k, with the lecture's power laws."""
    # Height of a panel of growth (inches).
    height = 2.2
    figure, (panels,) = grid_of_panels(1, len(LAWS), height, sharey=True)
    for panel, (name, (label, law)) in zip(panels, LAWS.items(), strict=True):
        table = growth.dropna(subset=[name])
        for model, rows in table.groupby("model"):
            colour, marker, word = MODELS[str(model)]
            largest = along(rows, name)
            panel.plot(largest[name], largest["parameters"], marker, color=colour, label=word)
            power_law(panel, largest[name], largest["parameters"], law, color=colour)
        log_log(panel, table[name], xlabel=label, title=f"lines: power {law}")
    panels[0].set_ylabel("parameters")
    panels[0].legend(loc="upper left")
    return figure


@styled
def widths(summary: DataFrame, reached: DataFrame) -> Figure:
    """Draw the relative error of MLPs with one hidden layer against its width.

    Lines mark the errors to be reached. `summary` has the columns target, activation, width and
    relative_error; `reached` has the column wanted.
    """
    figure, panels = panels_by(summary, "target")
    for panel, _, rows in panels:
        series(panel, rows, ("width", "relative_error"), "activation", spread="dots")
        for error in reached["wanted"].unique():
            panel.axhline(error, label="wanted errors", **DASHED)
        log_log(panel, rows["width"], xlabel="hidden nodes")
    panels[0][0].set_ylabel(RELATIVE)
    return finish(figure, figure.axes, DOTS, ncols=4)


@styled
def errors(summary: DataFrame) -> Figure:
    """Draw the relative error of each seed, its median and its bound, by target and grid."""
    groups: Any = list(summary.groupby(["target", "grid"], sort=False))
    several = summary["grid"].nunique() > 1
    names = [
        f"{two_lines(str(target))}  {shape_name(rows['shape'].iloc[0])}" + f"\nG = {grid}" * several
        for (target, grid), rows in groups
    ]
    figure, panel = panel_of_rows(names)
    # Half the height of the line that marks a bound (rows).
    half = 0.35
    for place, (_, rows) in enumerate(groups):
        seeds_across(panel, rows["relative_error"], place)
        ends = place - half, place + half
        panel.vlines(rows["bound"].iloc[0], *ends, color=VERMILLION, label="bound")
    panel.set(xscale="log", xlabel=RELATIVE)
    return finish(figure, [panel], ncols=3, **ABOVE)


@styled
def differences(linear: DataFrame) -> Figure:
    """Draw how far MLPs without activations are from least squares and their matrix product."""
    figure, panel = one_panel()
    # Differences below this value, including zero, are drawn at this value.
    smallest = 1e-17
    for index, (column, label) in enumerate(DIFFERENCES.items()):
        values = linear[column].clip(lower=smallest)
        beside = linear["depth"] + index * BESIDE
        panel.plot(beside, values, MARKERS[index], color=CYCLE[index], label=label)
    panel.set(yscale="log", xlabel="hidden layers", ylabel="largest difference, relative")
    panel.set_xticks(sorted(linear["depth"].unique()))
    remark = f"one mark per seed; at 10{power('-17')}: that or less"
    return finish(figure, [panel], remark, ncols=2)


@styled
def variants(summary: DataFrame) -> Figure:
    """Draw the test error of a KAN with all tricks, and with each trick switched off."""
    names = list(summary["variant"].unique())
    columns = summary["target"].nunique()
    figure, panels = panels_by(summary, "target", columns, ROW * len(names), room=1.0, sharey=True)
    for panel, _, rows in panels:
        for place, variant in enumerate(names):
            seeds_across(panel, rows.loc[rows["variant"] == variant, "error"], place)
        first = rows.loc[rows["variant"] == names[0], "error"].median()
        panel.axvline(first, label=f"median, {names[0]}", **DASHED)
        panel.set(xscale="log", xlabel=rows["error_name"].iloc[0])
        panel.grid(axis="y", visible=False)
    name_rows(panels[0][0], names)
    return finish(figure, figure.axes, ncols=3)
