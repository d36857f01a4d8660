"""The figures of `kanrun compare-mlp`, each from the tables that its run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from kanrun.figures import Figures
from kanrun.figures.panels import (
    finish,
    grid_of_panels,
    log_log,
    medians,
    name_rows,
    one_panel,
    power_law,
    seeds_across,
    shape_name,
    small_multiples,
    two_lines,
)
from kanrun.figures.style import BLUE, CYCLE, DASHED, GREY, MARKERS, VERMILLION, power, styled
from kanrun.study.suite import exponents

MODELS = {"kan": (BLUE, "o", "KAN"), "mlp": (VERMILLION, "s", "MLP")}
SIZES = {"parameters": "parameters", "flops": "FLOPs per sample", "seconds": "seconds of training"}
#: Column and label of what parameters grow with, and the power that the lecture states.
LAWS = {"width": ("nodes N", 2), "depth": ("layers L", 1), "functions": ("G + k", 1)}
DIFFERENCES = {
    "from_least_squares": "from ordinary least squares",
    "from_product": "from the product of the matrices",
}
#: An exponent is shown from this many sizes on; sizes nearer to each other than this factor are
#: one.
MIN_SIZES, ONE_SIZE = 3, 1.2
SMALLEST = 1e-17  # differences below this, zero among them, are drawn here
TITLE_LETTERS = 30
QUARTILES = [0.25, 0.5, 0.75]
RELATIVE = "test RMSE / std of the target"


def figures_of(tables: Mapping[str, DataFrame]) -> Figures:
    """Yield the name and the drawing of the figures of the comparison that was run."""
    summary = tables["summary"]
    comparison = summary["comparison"].iloc[0]
    if comparison == "universal_approximation":
        wanted = sorted(tables["reached"]["wanted"].unique())
        yield "widths", partial(widths, summary, wanted)
    elif comparison == "kolmogorov_arnold":
        yield "errors", partial(bars, summary)
    elif comparison == "no_activation":
        yield "differences", partial(differences, tables["linear"])
    elif comparison == "implementation_tricks":
        yield "variants", partial(variants, summary)
    else:
        yield "pareto", partial(pareto, summary)
        yield "scaling", partial(scaling, summary)
        if "growth" in tables:
            yield "growth", partial(growth, tables["growth"])


@styled
def pareto(summary: DataFrame) -> Figure:
    """Draw test error against parameters, FLOPs and seconds: quartiles and Pareto fronts."""
    targets = list(summary["target"].unique())
    figure, grid = grid_of_panels(len(targets), len(SIZES), 1.9, sharey="row")
    keys = [name for name in ("cell", "target", "model", "activation") if name in summary]
    for line, target in zip(grid, targets, strict=True):
        rows = summary[summary["target"] == target]
        for panel, (size, label) in zip(line, SIZES.items(), strict=True):
            for model, (colour, marker, name) in MODELS.items():
                networks = rows[rows["model"] == model].groupby(keys, sort=False)
                x = networks[size].median().to_numpy(dtype=float)
                errors = networks["error"].quantile(QUARTILES).unstack().to_numpy(dtype=float)
                low, y, high = errors.reshape(-1, len(QUARTILES)).T
                look: Any = {"fmt": marker, "color": colour, "alpha": 0.7, "lw": 0.7, "label": name}
                if len(x):
                    panel.errorbar(x, y, [y - low, high - y], **look)
                    panel.plot(*_front(x, y), color=colour, drawstyle="steps-post", lw=1)
            panel.set(xscale="log", yscale="log", xlabel=label if target == targets[-1] else "")
        line[0].set_ylabel(f"{two_lines(str(target), 22)}\n{rows['error_name'].iloc[0]}")
    title = "bars: quartiles over seeds; steps: nothing is smaller and better"
    return finish(figure, grid[0, :1], where="outside upper center", ncols=2, title=title)


def _front(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the Pareto front (points not dominated in x and y), sorted by x."""
    order = np.argsort(x, kind="stable")
    best = np.minimum.accumulate(y[order])
    kept = np.concatenate([[True], best[1:] < best[:-1]])
    return x[order][kept], y[order][kept]


@styled
def scaling(summary: DataFrame) -> Figure:
    """Draw test error against parameters, with a power law for models of at least three sizes."""
    keys = ["target", "error_name", "model", "parameters"]
    middle = summary.groupby(keys, sort=False)["error"].median().reset_index()
    targets: Any = list(middle.groupby("target", sort=False))
    figure, panels = small_multiples(len(targets), 3, room=0.2)
    for panel, (target, rows) in zip(panels, targets, strict=True):
        for model, (colour, marker, name) in MODELS.items():
            some = rows[rows["model"] == model]
            x, y = some["parameters"], some["error"]
            if not len(some):
                continue
            sizes = _different_sizes(x)
            fit = exponents(some, ["model"], "parameters", "error")["exponent"].iloc[0]
            counted = f"{sizes} size{'s' * (sizes > 1)}"
            if sizes >= MIN_SIZES and x.max() >= 2 * x.min() and np.isfinite(fit):
                power_law(panel, x, y, fit, color=colour)
                counted = f"power {fit:.1f}, {counted}"
            else:
                counted += ", no fit"
            panel.plot(x, y, marker, color=colour, label=f"{name}: {counted}")
        panel.set(xscale="log", yscale="log", title=two_lines(str(target), TITLE_LETTERS))
        panel.set(xlabel="parameters N", ylabel=rows["error_name"].iloc[0])
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28))
    return figure


def _different_sizes(values: Series[Any]) -> int:
    """Count the sizes; those within a fifth of each other, as of matched networks, are one."""
    count, last = 0, 0.0
    for value in sorted(values):
        if value > ONE_SIZE * last:
            count, last = count + 1, value
    return count


@styled
def growth(table: DataFrame) -> Figure:
    """Draw parameters of real modules against width, depth and G + k, with the lecture's powers."""
    figure, (panels,) = grid_of_panels(1, len(LAWS), 2.2, sharey=True)
    for panel, (name, (label, law)) in zip(panels, LAWS.items(), strict=True):
        for model, (colour, marker, word) in MODELS.items():
            rows = table[table["model"] == model].dropna(subset=[name])
            for column in LAWS.keys() - {name}:
                rows = rows[rows[column].isna() | (rows[column] == rows[column].max())]
            if len(rows):
                panel.plot(rows[name], rows["parameters"], marker, color=colour, label=word)
                power_law(panel, rows[name], rows["parameters"], law, color=colour)
        log_log(panel, table[name].dropna(), xlabel=label, title=f"lines: power {law}")
    panels[0].set_ylabel("parameters")
    panels[0].legend(loc="upper left")
    return figure


@styled
def widths(summary: DataFrame, wanted: Sequence[float]) -> Figure:
    """Draw the relative error of one hidden layer against its width; lines at the wanted errors."""
    targets: Any = list(summary.groupby("target", sort=False))
    figure, panels = small_multiples(len(targets), len(targets))
    for panel, (target, rows) in zip(panels, targets, strict=True):
        for index, (activation, some) in enumerate(rows.groupby("activation", sort=False)):
            look: Any = {"color": CYCLE[index % len(CYCLE)], "label": f"{activation}: median"}
            style = f"{MARKERS[index % len(MARKERS)]}-"
            medians(panel, some, ("width", "relative_error"), style, spread="dots", **look)
        panel.plot([], [], ".", color=GREY, alpha=0.5, label="a seed, in its colour")
        for error in wanted:
            panel.axhline(error, label="wanted errors", **DASHED)
        title = two_lines(str(target), TITLE_LETTERS)
        log_log(panel, rows["width"], title=title, xlabel="hidden nodes")
    panels[0].set_ylabel(RELATIVE)
    return finish(figure, panels, ncols=4)


@styled
def bars(summary: DataFrame) -> Figure:
    """Draw the relative error of each seed by target and grid, the median, and the stated bound."""
    groups = [rows for _, rows in summary.groupby(["target", "grid"], sort=False)]
    several = summary["grid"].nunique() > 1
    figure, panel = one_panel(0.32 * len(groups) + 0.6)
    names = []
    for place, rows in enumerate(groups):
        seeds_across(panel, rows["relative_error"], place)
        ends = [place - 0.35, place + 0.35]
        panel.plot([rows["bound"].iloc[0]] * 2, ends, color=VERMILLION, label="bound")
        target, shape, grid = rows[["target", "shape", "grid"]].iloc[0]
        second = f"\nG = {grid}" if several else ""
        names.append(f"{two_lines(str(target), TITLE_LETTERS)}  {shape_name(shape)}{second}")
    name_rows(panel, names)
    panel.set(xscale="log", xlabel=RELATIVE)
    return finish(figure, [panel], where="outside upper center", ncols=3)


@styled
def differences(linear: DataFrame) -> Figure:
    """Draw how far networks without activations are from least squares and their matrix product."""
    figure, panel = one_panel()
    for index, (column, label) in enumerate(DIFFERENCES.items()):
        values, beside = linear[column].clip(lower=SMALLEST), linear["depth"] + (index - 0.5) / 12
        panel.plot(beside, values, MARKERS[index], color=CYCLE[index], label=label)
    panel.set(yscale="log", xlabel="hidden layers", ylabel="largest difference, relative")
    panel.set_xticks(sorted(linear["depth"].unique()))
    smallest = linear[list(DIFFERENCES)].to_numpy(dtype=float).min(initial=1.0)
    floor = f"; at 10{power('-17')}: that or less" if smallest < SMALLEST else ""
    return finish(figure, [panel], f"one mark per seed{floor}", ncols=2)


@styled
def variants(summary: DataFrame) -> Figure:
    """Draw the test error of a KAN with all tricks and with each one switched off."""
    names = list(summary["variant"].unique())
    targets: Any = list(summary.groupby("target", sort=False))
    figure, panels = small_multiples(
        len(targets), len(targets), 0.28 * len(names) + 0.8, sharey=True
    )
    for panel, (target, rows) in zip(panels, targets, strict=True):
        for place, variant in enumerate(names):
            errors = rows.loc[rows["variant"] == variant, "error"]
            seeds_across(panel, errors, place)
            if place == 0:
                panel.axvline(errors.median(), label=f"median, {variant}", **DASHED)
        title = two_lines(str(target), TITLE_LETTERS)
        panel.set(xscale="log", title=title, xlabel=rows["error_name"].iloc[0])
        panel.grid(axis="y", visible=False)
    name_rows(panels[0], names)
    return finish(figure, panels, ncols=3)
