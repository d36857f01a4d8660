"""The figures of `kanrun bench`, each from the tables that its run recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from kanrun.figures.style import BLUE, CYCLE, GREEN, GREY, PALE, VERMILLION, WIDTH, new_figure, styled
from kanrun.figures.ticks import name_round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@styled
def ratios(layers: DataFrame) -> Figure:
    """Return each competitor's time relative to the faster of kanrun's own, a panel a layer.

    Kanrun's are blue, the fastest other KAN is green. `layers` has the columns case, competitor, status, ratio (the
    median over rounds of times within one); what could not be measured says so in its place.
    """
    cases = list(layers["case"].unique())
    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    figure = new_figure(height=2.1 * lines + 0.4, width=WIDTH / 2 * max(columns, 2))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    ends = _ends(layers)
    for axes, case in zip(panels, cases, strict=False):
        rows = layers[layers["case"] == case].set_index("competitor")
        others = [
            name for name in rows.index if not name.startswith(("kanrun", "MLP")) and rows.loc[name, "status"] == "ok"
        ]
        fastest = min(others, key=lambda name: rows.loc[name, "ratio"], default=None)
        for place, name in enumerate(rows.index):
            if rows.loc[name, "status"] != "ok":
                axes.text(1, place, f" {rows.loc[name, 'status'][:28]}", va="center", color=GREY, fontsize=6.5)
                continue
            ratio = rows.loc[name, "ratio"]
            own = {"kanrun": BLUE, "MLP": GREY}.get(name.removesuffix(" compiled"), PALE)
            colour = GREEN if name == fastest else own
            axes.barh(place, ratio, color=colour, height=0.7)
            label = axes.text(ratio, place, f" {ratio:.2g}", va="center", fontsize=6.5, zorder=4)
            label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        axes.axvline(1, color=BLUE, lw=0.8)
        axes.set(xscale="log", title=case, yticks=range(len(rows)), yticklabels=list(rows.index))
        axes.set_xlim(ends)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set_xlabel("time / kanrun's")
    return figure


def _ends(layers: DataFrame) -> tuple[float, float]:
    """The ends of the axis of ratios, one for all panels, with room for the numbers beside bars."""
    return float(layers["ratio"].min()) / 3, float(layers["ratio"].max()) * 6


@styled
def growth(table: DataFrame, exponents: DataFrame) -> Figure:
    """Return step time and peak memory against G and against the batch, with the fitted slopes of the times.

    `exponents` has the columns varied, exponent, and low and high, the ends of what it was fitted to.
    """
    names = {"intervals": "intervals $G$", "batch": "batch"}
    figure = new_figure(height=2.6, width=1.2 * WIDTH)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, (varied, label) in zip(panels, names.items(), strict=True):
        rows = table[table["varied"] == varied]
        axes.loglog(rows["value"], 1e3 * rows["seconds"], "o-", color=BLUE)
        axes.set(xlabel=label, ylabel="ms a step")
        for fit in exponents[exponents["varied"] == varied].dropna().to_dict("records"):
            _slope(axes, rows[rows["value"].between(fit["low"], fit["high"])], fit["exponent"])
        # Within a factor of ten the ticks of a logarithmic axis would be crowded, and wiggles look like growth.
        low, high = axes.get_ylim()
        if high < 10 * low:
            middle = (low * high) ** 0.5
            axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
        memory = axes.twinx()
        memory.loglog(rows["value"], rows["peak_bytes"] / 2**20, "s--", color=VERMILLION, lw=1)
        memory.set_ylabel("peak MiB", color=VERMILLION)
        memory.grid(visible=False)
        low, high = memory.get_ylim()
        if high < 10 * low:
            memory.set_ylim(low / 2, low * 10)
        for axis in (axes.xaxis, axes.yaxis, memory.yaxis):
            name_round(axis)
    return figure


def _slope(axes: Axes, rows: DataFrame, exponent: float) -> None:
    """The power that was fitted to these rows, and its exponent as the title."""
    at, times = rows["value"].to_numpy(float), 1e3 * rows["seconds"].to_numpy(float)
    level = np.exp(np.mean(np.log(times) - exponent * np.log(at)))
    axes.loglog(at, level * at**exponent, ":", color=GREY)
    axes.set_title(f"time grows as the power {exponent:.2f}")


@styled
def error_against_time(curves: DataFrame, goals: list[float]) -> Figure:
    """Return the best test RMSE so far against the seconds of training; `goals` are dotted lines."""
    figure = new_figure(height=2.8)
    axes = figure.subplots()
    for colour, (name, rows) in zip(CYCLE, curves.groupby("competitor", sort=False), strict=False):
        axes.loglog(
            rows["seconds"],
            np.minimum.accumulate(rows["test_rmse"]),
            color=colour,
            label=name,
            marker="." if len(rows) < 3 else None,
        )
    for goal in goals:
        axes.axhline(goal, color=GREY, ls=":", lw=0.8)
    axes.set(xlabel="seconds", ylabel="test RMSE")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
