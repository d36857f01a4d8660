"""The figures of `kanrun bench`, each from the tables that its run recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from kanrun.figures.panels import finished, named_rows, power_law, small_multiples
from kanrun.figures.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    PALE,
    VERMILLION,
    WIDTH,
    one_panel,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@styled
def ratios(layers: DataFrame) -> Figure:
    """Return each competitor's time relative to the faster of kanrun's own, one panel per layer.

    Kanrun's are blue, the fastest other KAN is green. `layers` has the columns case, competitor, status, ratio (the
    median over rounds of times within one); what could not be measured says so in its place.
    """
    cases = list(layers["case"].unique())
    figure, panels = small_multiples(
        len(cases), 3, 2.1, width=WIDTH / 2 * min(max(len(cases), 2), 3)
    )
    room = (
        float(layers["ratio"].min()) / 3,
        float(layers["ratio"].max()) * 6,
    )  # for the numbers beside bars
    for axes, case in zip(panels, cases, strict=True):
        rows = layers[layers["case"] == case].set_index("competitor")
        measured = rows[rows["status"] == "ok"]["ratio"]
        others = measured[[not name.startswith(("kanrun", "MLP")) for name in measured.index]]
        fastest = others.astype(float).idxmin() if len(others) else None
        for place, name in enumerate(rows.index):
            if name not in measured:
                axes.text(
                    1,
                    place,
                    f" {rows.loc[name, 'status'][:28]}",
                    va="center",
                    color=GREY,
                    fontsize=6.5,
                )
                continue
            own = {"kanrun": BLUE, "MLP": GREY}.get(name.removesuffix(" compiled"), PALE)
            axes.barh(place, measured[name], color=GREEN if name == fastest else own, height=0.7)
            label = axes.text(
                measured[name], place, f" {measured[name]:.2g}", va="center", fontsize=6.5, zorder=4
            )
            label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        axes.axvline(1, color=BLUE, lw=0.8)
        axes.set(xscale="log", title=case, xlim=room, xlabel="time / kanrun's")
        named_rows(axes, list(rows.index))
    return figure


@styled
def growth(table: DataFrame, exponents: DataFrame) -> Figure:
    """Return step time and peak memory against G and against the batch, with the fitted slopes of the times.

    `exponents` has the columns varied, exponent, and low and high, the ends of what it was fitted to.
    """
    names = {"intervals": "intervals $G$", "batch": "batch"}
    figure, panels = small_multiples(len(names), 2, 2.6, 0.0, 1.2 * WIDTH)
    for axes, (varied, label) in zip(panels, names.items(), strict=True):
        rows = table[table["varied"] == varied]
        axes.loglog(rows["value"], 1e3 * rows["seconds"], "o-", color=BLUE)
        axes.set(xlabel=label, ylabel="ms per step")
        for fit in exponents[exponents["varied"] == varied].dropna().to_dict("records"):
            fitted = rows[rows["value"].between(fit["low"], fit["high"])]
            power_law(
                axes, fitted["value"], 1e3 * fitted["seconds"], fit["exponent"], ls=":", color=GREY
            )
            axes.set_title(f"time grows as the power {fit['exponent']:.2f}")
        _a_decade(axes, 0.5)
        memory = axes.twinx()
        memory.loglog(rows["value"], rows["peak_bytes"] / 2**20, "s--", color=VERMILLION, lw=1)
        memory.set_ylabel("peak MiB", color=VERMILLION)
        memory.grid(visible=False)
        _a_decade(memory, 0.0)
    return figure


def _a_decade(axes: Axes, below: float) -> None:
    """Let the y axis span a factor of ten, the share `below` of it below the values: else noise looks like growth."""
    low, high = axes.get_ylim()
    if high < 10 * low:
        start = (low * high) ** 0.5 if below else low
        axes.set_ylim(start / 10**below, start * 10 ** (1 - below))


@styled
def error_against_time(curves: DataFrame, goals: list[float]) -> Figure:
    """Return the best test RMSE so far against the seconds of training; `goals` are dotted lines."""
    figure, axes = one_panel(2.8)
    for colour, (name, rows) in zip(CYCLE, curves.groupby("competitor", sort=False), strict=False):
        best, marker = np.minimum.accumulate(rows["test_rmse"]), "." if len(rows) < 3 else None
        axes.loglog(rows["seconds"], best, color=colour, label=name, marker=marker)
    for goal in goals:
        axes.axhline(goal, color=GREY, ls=":", lw=0.8)
    axes.set(xlabel="seconds", ylabel="test RMSE")
    return finished(figure, [axes], where="outside right center")


@styled
def critical_differences(table_ranks: DataFrame) -> Figure:
    """Return the mean ranks of models, a panel per task, joined by a bar where they do not differ significantly.

    `table_ranks` has the columns task, model, mean_rank, critical_difference and tables. Bars join groups of models
    whose ranks lie within the critical difference.
    """
    figure, panels = small_multiples(table_ranks["task"].nunique(), 1, 2.4, width=WIDTH)
    for axes, (task, part) in zip(panels, table_ranks.groupby("task", sort=False), strict=True):
        rows = part.sort_values("mean_rank")
        ranks = rows["mean_rank"].to_numpy(dtype=float)
        apart = float(rows["critical_difference"].iloc[0])
        axes.plot(ranks, np.arange(len(ranks)), "o", color=BLUE, ms=4)
        place, last = len(ranks) - 0.4, -1
        for first, rank in enumerate(ranks):
            end = int(np.flatnonzero(ranks <= rank + apart)[-1])
            if end > max(first, last):
                axes.plot(
                    [rank - 0.05, ranks[end] + 0.05],
                    [place, place],
                    color=GREY,
                    lw=2.5,
                    solid_capstyle="butt",
                )
                place, last = place + 0.35, end
        named_rows(axes, [str(name) for name in rows["model"]])
        axes.set_ylim(place + 0.2, -0.6)
        axes.set(
            xlabel="mean rank",
            title=f"{task}, {int(rows['tables'].iloc[0])} tables, critical difference {apart:.2f}",
        )
    return figure
