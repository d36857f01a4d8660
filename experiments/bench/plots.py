"""The figures of `kanrun bench`, each from the tables that its run recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.panels import (
    WIDTH,
    finish,
    grid_of_panels,
    name_rows,
    one_panel,
    power_law,
    small_multiples,
)
from kanrun.figures.style import BLUE, CYCLE, GREEN, GREY, PALE, VERMILLION, shorten, styled

if TYPE_CHECKING:
    from pandas import DataFrame

OURS = {"kanrun": BLUE, "MLP": GREY}
COMPILED = " compiled"
#: Columns of panels, and room for the numbers next to bars (factors of the longest and shortest).
MAX_COLUMNS, ROOM_RIGHT, ROOM_LEFT = 3, 6, 1 / 3
#: Thickness of a bar, and places of the bars that join groups of ranks below the last model.
THICK, FIRST_GROUP, NEXT_GROUP = 0.7, 0.6, 0.35


@styled
def ratios(layers: DataFrame) -> Figure:
    """Draw each competitor's time relative to kanrun's faster one, a panel per layer.

    Kanrun's are blue, the fastest other KAN is green. `layers` has the columns case, competitor,
    status, ratio (the median over rounds of times within one); the status of what could not be
    measured is written in its place.
    """
    cases: Any = list(layers.groupby("case", sort=False))
    width = WIDTH / 2 * min(max(len(cases), 2), MAX_COLUMNS)
    figure, panels = small_multiples(len(cases), MAX_COLUMNS, 2.1, width=width)
    limits = layers["ratio"].min() * ROOM_LEFT, layers["ratio"].max() * ROOM_RIGHT
    for axes, (case, group) in zip(panels, cases, strict=True):
        rows = group.reset_index()
        measured = rows[rows["status"] == "ok"]
        kinds = measured["competitor"].str.removesuffix(COMPILED)
        colours, others = kinds.map(OURS).fillna(PALE), measured["ratio"][~kinds.isin(OURS)]
        if len(others):
            colours[others.idxmin()] = GREEN
        bars = axes.barh(measured.index, measured["ratio"], color=colours, height=THICK)
        axes.bar_label(bars, fmt="%.2g", padding=2, size="small")
        for place, status in rows["status"].drop(measured.index).items():
            text = f" {shorten(status, 28)}"
            axes.text(1, place, text, va="center", size="small", color=GREY)
        axes.axvline(1, color=BLUE, lw=0.8)
        axes.set(xscale="log", title=case, xlim=limits, xlabel="time / kanrun's")
        name_rows(axes, list(rows["competitor"]))
        axes.set_ylim(len(rows) - 1 + THICK, -THICK)
    return figure


@styled
def growth(table: DataFrame, exponents: DataFrame) -> Figure:
    """Draw step time and peak memory against G and the batch, with the fitted slopes of the times.

    `exponents` has the columns varied, exponent, and low and high, the ends of what it was fitted
    to.
    """
    table = table.assign(milliseconds=1000 * table["seconds"], size=table["peak_bytes"] / 2**20)
    figure, (times, sizes) = grid_of_panels(2, 2, 2.0, sharex="col", sharey="row")
    for index, (varied, rows) in enumerate(table.groupby("varied", sort=False)):
        times[index].loglog(rows["value"], rows["milliseconds"], "o-", color=BLUE)
        sizes[index].loglog(rows["value"], rows["size"], "s-", color=VERMILLION)
        sizes[index].set_xlabel("intervals G" if varied == "intervals" else varied)
        fits: Any = exponents[exponents["varied"] == varied].dropna().itertuples()
        for fit in fits:
            fitted = rows[rows["value"].between(fit.low, fit.high)]
            points = fitted["value"], fitted["milliseconds"]
            power_law(times[index], *points, fit.exponent, ls=":", color=GREY)
            times[index].set_title(f"time grows as the power {fit.exponent:.2f}")
    times[0].set_ylabel("ms per step")
    sizes[0].set_ylabel("peak MiB")
    return figure


@styled
def error_against_time(curves: DataFrame, goals: list[float]) -> Figure:
    """Draw the best test RMSE so far against the seconds of training; `goals` are dotted lines."""
    figure, axes = one_panel()
    for colour, (name, rows) in zip(CYCLE, curves.groupby("competitor", sort=False), strict=False):
        style = ".-" if len(rows) < 3 else "-"
        axes.loglog(rows["seconds"], rows["test_rmse"].cummin(), style, color=colour, label=name)
    for goal in goals:
        axes.axhline(goal, color=GREY, ls=":", lw=0.8)
    axes.set(xlabel="seconds", ylabel="test RMSE")
    return finish(figure, [axes], where="outside right center")


@styled
def critical_differences(table_ranks: DataFrame) -> Figure:
    """Draw the mean ranks of models, a panel per task, joined by a bar if they do not differ.

    `table_ranks` has the columns task, model, mean_rank, critical_difference and tables. Bars join
    groups of models whose ranks lie within the critical difference.
    """
    tasks: Any = list(table_ranks.groupby("task", sort=False))
    figure, panels = small_multiples(len(tasks), height=2.4, width=WIDTH)
    for axes, (task, part) in zip(panels, tasks, strict=True):
        rows = part.sort_values("mean_rank")
        ranks = rows["mean_rank"].to_numpy(dtype=float)
        apart, tables = rows[["critical_difference", "tables"]].iloc[0]
        axes.plot(ranks, range(len(ranks)), "o", color=BLUE, ms=4)
        place, last = len(ranks) - 1 + FIRST_GROUP, -1
        for first, rank in enumerate(ranks):
            end = int(np.searchsorted(ranks, rank + apart, side="right")) - 1
            if end > max(first, last):
                axes.plot([rank, ranks[end]], [place, place], color=GREY, lw=2.5)
                place, last = place + NEXT_GROUP, end
        name_rows(axes, [str(name) for name in rows["model"]])
        axes.set_ylim(place, -FIRST_GROUP)
        title = f"{task}, {tables:.0f} tables, critical difference {apart:.2f}"
        axes.set(xlabel="mean rank", title=title)
    return figure
