"""The figures of `kanrun bench`, each from the tables that its run recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from kanrun.figures.panels import (
    WIDTH,
    finish,
    grid_of_panels,
    name_rows,
    one_panel,
    power_law,
    small_multiples,
)
from kanrun.figures.style import BLUE, CYCLE, GREEN, GREY, PALE, VERMILLION, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

OURS = {"kanrun": BLUE, "MLP": GREY}
VARIED = {"intervals": "intervals G", "batch": "batch"}


@styled
def ratios(layers: DataFrame) -> Figure:
    """Draw each competitor's time relative to kanrun's faster one, a panel per layer.

    Kanrun's are blue, the fastest other KAN is green. `layers` has the columns case, competitor,
    status, ratio (the median over rounds of times within one); the status of what could not be
    measured is written in its place.
    """
    cases: Any = list(layers.groupby("case", sort=False))
    width = WIDTH / 2 * min(max(len(cases), 2), 3)
    figure, panels = small_multiples(len(cases), 3, 2.1, width=width)
    # Room for the numbers next to the bars.
    room = float(layers["ratio"].min()) / 3, float(layers["ratio"].max()) * 6
    halo: Any = {"path_effects": [withStroke(linewidth=2.5, foreground="white")], "zorder": 4}
    for axes, (case, rows) in zip(panels, cases, strict=True):
        measured = rows[rows["status"] == "ok"].set_index("competitor")["ratio"].astype(float)
        others = measured[[not name.startswith(tuple(OURS)) for name in measured.index]]
        colours = OURS | ({others.idxmin(): GREEN} if len(others) else {})
        for place, (name, status) in enumerate(
            zip(rows["competitor"], rows["status"], strict=True)
        ):
            if name in measured:
                colour = colours.get(name, colours.get(name.removesuffix(" compiled"), PALE))
                axes.barh(place, measured[name], color=colour, height=0.7)
                text = f" {measured[name]:.2g}"
                axes.text(measured[name], place, text, va="center", size="small", **halo)
            else:
                axes.text(1, place, f" {status[:28]}", va="center", size="small", color=GREY)
        axes.axvline(1, color=BLUE, lw=0.8)
        axes.set(xscale="log", title=case, xlim=room, xlabel="time / kanrun's")
        name_rows(axes, list(rows["competitor"]))
    return figure


@styled
def growth(table: DataFrame, exponents: DataFrame) -> Figure:
    """Draw step time and peak memory against G and the batch, with the fitted slopes of the times.

    `exponents` has the columns varied, exponent, and low and high, the ends of what it was fitted
    to.
    """
    figure, (panels,) = grid_of_panels(1, len(VARIED), width=1.2 * WIDTH, room=0)
    for axes, (varied, label) in zip(panels, VARIED.items(), strict=True):
        rows = table[table["varied"] == varied]
        milliseconds = 1000 * rows["seconds"]
        axes.loglog(rows["value"], milliseconds, "o-", color=BLUE)
        axes.set(xlabel=label, ylabel="ms per step")
        for fit in exponents[exponents["varied"] == varied].dropna().to_dict("records"):
            fitted = rows["value"].between(fit["low"], fit["high"])
            look: Any = {"ls": ":", "color": GREY}
            power_law(axes, rows["value"][fitted], milliseconds[fitted], fit["exponent"], **look)
            axes.set_title(f"time grows as the power {fit['exponent']:.2f}")
        memory = axes.twinx()
        memory.loglog(rows["value"], rows["peak_bytes"] / 2**20, "s--", color=VERMILLION)
        memory.set_ylabel("peak MiB", color=VERMILLION)
        memory.grid(visible=False)
        _show_decade(axes)
        _show_decade(memory)
    return figure


def _show_decade(axes: Axes) -> None:
    """Let the y axis span at least a factor of ten, so that noise does not look like growth."""
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)


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
        axes.plot(ranks, np.arange(len(ranks)), "o", color=BLUE, ms=4)
        place, last = len(ranks) - 0.4, -1
        for first, rank in enumerate(ranks):
            end = int(np.flatnonzero(ranks <= rank + apart)[-1])
            if end > max(first, last):
                axes.plot([rank, ranks[end]], [place, place], color=GREY, lw=2.5)
                place, last = place + 0.35, end
        name_rows(axes, [str(name) for name in rows["model"]])
        axes.set_ylim(place + 0.2, -0.6)
        title = f"{task}, {tables:.0f} tables, critical difference {apart:.2f}"
        axes.set(xlabel="mean rank", title=title)
    return figure
