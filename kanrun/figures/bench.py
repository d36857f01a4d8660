"""The figures of `kanrun bench`, each from the tables that its run recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.style import BLUE, CYCLE, GREEN, GREY, PALE, VERMILLION, WIDTH, new_figure, styled

if TYPE_CHECKING:
    from pandas import DataFrame


@styled
def ratios(layers: DataFrame) -> Figure:
    """Return each competitor's time relative to kanrun's, a panel a layer; the fastest other KAN is green.

    `layers` has the columns case, competitor, status, seconds; what could not be measured says so in its place.
    """
    cases = list(layers["case"].unique())
    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    figure = new_figure(WIDTH / 2 * max(columns, 2), 2.1 * lines + 0.4)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    for axes, case in zip(panels, cases, strict=False):
        rows = layers[layers["case"] == case].set_index("competitor")
        ours = rows.loc["kanrun", "seconds"]
        others = [name for name in rows.index if name not in ("kanrun", "MLP") and rows.loc[name, "status"] == "ok"]
        fastest = min(others, key=lambda name: rows.loc[name, "seconds"], default=None)
        for place, name in enumerate(rows.index):
            if rows.loc[name, "status"] != "ok":
                axes.text(1, place, f" {rows.loc[name, 'status'][:28]}", va="center", color=GREY, fontsize=6.5)
                continue
            ratio = rows.loc[name, "seconds"] / ours
            colour = {"kanrun": BLUE, "MLP": GREY, fastest: GREEN}.get(name, PALE)
            axes.barh(place, ratio, color=colour, height=0.7)
            axes.text(ratio, place, f" {ratio:.2g}", va="center", fontsize=6.5)
        axes.axvline(1, color=BLUE, lw=0.8)
        axes.set(xscale="log", title=case, yticks=range(len(rows)), yticklabels=list(rows.index))
        axes.set_xlim(right=axes.get_xlim()[1] * 4)
        axes.invert_yaxis()
        axes.set_xlabel("time / kanrun's")
    return figure


@styled
def growth(table: DataFrame, exponents: dict[str, float]) -> Figure:
    """Return step time and peak memory against G and against the batch, with the fitted exponents in the titles."""
    names = {"intervals": "intervals $G$", "batch": "batch"}
    figure = new_figure(WIDTH, 2.5)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, (varied, label) in zip(panels, names.items(), strict=True):
        rows = table[table["varied"] == varied]
        axes.loglog(rows["value"], 1e3 * rows["seconds"], "o-", color=BLUE)
        axes.set(xlabel=label, ylabel="ms a step", title=f"exponent {exponents.get(varied, float('nan')):.2f}")
        memory = axes.twinx()
        memory.loglog(rows["value"], rows["peak_bytes"] / 2**20, "s--", color=VERMILLION, lw=1)
        memory.set_ylabel("peak MiB", color=VERMILLION)
        memory.grid(visible=False)
    return figure


@styled
def error_against_time(curves: DataFrame, goals: list[float]) -> Figure:
    """Return the best test RMSE so far against the seconds of training; `goals` are dotted lines."""
    figure = new_figure(WIDTH * 0.8, 2.8)
    axes = figure.subplots()
    for colour, (name, rows) in zip(CYCLE, curves.groupby("competitor", sort=False), strict=False):
        axes.loglog(rows["seconds"], np.minimum.accumulate(rows["test_rmse"]), color=colour, label=name)
    for goal in goals:
        axes.axhline(goal, color=GREY, ls=":", lw=0.8)
    axes.set(xlabel="seconds", ylabel="test RMSE")
    axes.legend()
    return figure
