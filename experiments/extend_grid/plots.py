"""Figures of `kanrun extend-grid`, drawn from the recorded stages and steps.

If a parameter of a drawing function has the name of a part of the study, it receives the rows of
the table `stages` that belong to this part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from kanrun.figures import Figures, figures_of
from kanrun.figures.panels import (
    BANDS,
    finish,
    grid_of_panels,
    log_log,
    mark_stages,
    medians,
    numbered,
    one_panel,
    panels_by,
    power_law,
    series,
    shape_name,
)
from kanrun.figures.style import BLACK, CYCLE, GREY, SPLITS, Look, styled
from kanrun.study import Tables
from kanrun.study.suite import exponents

#: Label and look of marks, by column of `stages`. Each column has a number of intervals from which
#: on a network can reproduce all training points. The two marks may coincide.
MARKS: dict[str, dict[str, Any]] = {
    "threshold": {
        "label": "parameters = training points",
        "color": GREY,
        "lw": 3,
        "alpha": 0.45,
        "zorder": 0,
    },
    "paper_threshold": {
        "label": "the paper's E·G = training points",
        "color": BLACK,
        "ls": ":",
        "zorder": 0,
    },
}
GRIDS = "grid intervals G"
PUBLISHED = {"paper": ("x", "paper, Figure 2.3"), "pykan": ("+", "pykan 0.2.8")}
THEIRS: Look = {"color": BLACK, "ms": 5, "zorder": 4}
MEASURES = {"test_rmse": "test RMSE", "test_root_median_square": "root of the median square"}
#: Training runs of the part `overfit`: name, whether with a penalty, kind of start, style and
#: colour.
WAYS = (
    ("with penalty", True, "warm", "o-", CYCLE[0]),
    ("without penalty", False, "warm", "s--", CYCLE[1]),
    ("without penalty, from scratch", False, "scratch", "D", BLACK),
)


def draw_parts(tables: Tables) -> Figures:
    """Yield the name and the drawing function of each figure of the parts that were run."""
    parts: Any = dict(list(tables["stages"].groupby("part", sort=False)))
    if "metrics" in tables and len(steps := tables["metrics"].query("part == 'schedules'")):
        parts["steps"] = steps
    none = DataFrame(columns=["shape", "intervals", *PUBLISHED])
    draws = staircase, error_against_intervals, order, overfit
    yield from figures_of({"published": none, **tables, **parts}, draws)


@styled
def staircase(steps: DataFrame, schedules: DataFrame) -> Figure:
    """Draw train and test RMSE over the steps of the first seed, one panel per schedule.

    Vertical lines mark where the grid is extended, and where the network first has as many
    parameters as there are training points.
    """
    steps, stages = (
        table.assign(name=table["shape"].map(shape_name) + " " + table["schedule"])
        for table in (steps[steps["seed"] == steps["seed"].min()], schedules)
    )
    # Height of a panel of steps (inches).
    height = 2.0
    figure, panels = panels_by(steps, "name", 3, height, room=0.8, sharey=True)
    for panel, name, rows in panels:
        steps = numbered(rows)
        for split in ("train", "test"):
            look: Any = {"color": SPLITS[split], "label": split, "drawstyle": "steps-post"}
            panel.plot(steps[f"{split}_rmse"], **look)
        panel.set(yscale="log", xlabel="step")
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        mark_stages(panel, steps)
        for column, look in MARKS.items():
            grid = stages.loc[stages["name"] == name, column].median()
            past = steps.index[steps["intervals"] >= grid]
            if len(past):
                panel.axvline(past[0], **look)
    figure.supylabel("RMSE", size="medium")
    return finish(figure, figure.axes, f"above each stage: its {GRIDS}", ncols=2)


@styled
def error_against_intervals(schedules: DataFrame, published: DataFrame) -> Figure:
    """Draw the median RMSE of every schedule against G, next to published errors."""
    shapes: Any = list(schedules.groupby("shape", sort=False))
    figure, axes = grid_of_panels(len(shapes), 2, room=1.0)
    for line, (shape, rows) in zip(axes, shapes, strict=True):
        ticks = (rows[rows["compared"]] if rows["compared"].any() else rows)["intervals"]
        for panel, (column, label) in zip(line, MEASURES.items(), strict=True):
            series(panel, rows, ("intervals", column), "schedule")
            log_log(panel, ticks, xlabel=GRIDS, ylabel=label, title=shape_name(shape))
            _mark_thresholds(panel, rows)
        known = published[published["shape"] == shape].drop_duplicates("intervals")
        for column, (marker, label) in PUBLISHED.items():
            if len(known):
                line[0].plot(known["intervals"], known[column], marker, label=label, **THEIRS)
    return finish(figure, axes[:, 0], BANDS, ncols=3)


@styled
def order(order: DataFrame) -> Figure:
    """Draw test RMSE against G by degree, with fitted exponents and lines of theoretical slope."""
    # Height of a panel that stands alone (inches).
    height = 3.0
    figure, panel = one_panel(height)
    ranged = order[order["in_order"]]
    fits = exponents(ranged, ["degree", "seed"], "test_rmse")
    fitted = fits.groupby("degree")["exponent"].median()
    degrees: Any = order.groupby("degree")
    for (degree, rows), colour in zip(degrees, CYCLE, strict=False):
        slope = fitted.get(degree, np.nan)
        label = f"k = {degree}" + (f": slope {slope:.2f}" if np.isfinite(slope) else "")
        medians(panel, rows, ("intervals", "test_rmse"), "o", color=colour, label=label)
        if len(some := rows[rows["in_order"]]):
            power_law(panel, some["intervals"], some["test_rmse"], -(degree + 1), color=colour)
    title = "lines: slope -(k + 1) over the range that is fitted"
    log_log(panel, order["intervals"], title=title, xlabel=GRIDS, ylabel="test RMSE")
    return finish(figure, [panel], where="outside right center")


@styled
def overfit(overfit: DataFrame) -> Figure:
    """Draw train and test RMSE against G on few points, with and without penalty and noise."""
    levels = overfit["noise"].map(lambda noise: f"{100 * noise:.3g}% noise" if noise else "exact")
    points = f"{overfit['train_points'].iloc[0]} points, "
    figure, panels = panels_by(overfit.assign(points=points + levels), "points", room=0.8)
    for panel, _, rows in panels:
        for name, penalised, start, style, colour in WAYS:
            some = rows[(rows["start"] == start) & (rows["penalised"] == penalised)]
            look: Any = {"color": colour, "label": f"{name}: test"}
            if some.empty:
                continue
            medians(panel, some, ("intervals", "test_rmse"), style, **look)
            if start == "warm":
                look |= {"label": f"{name}: train", "spread": "none"}
                medians(panel, some, ("intervals", "train_rmse"), ":", **look)
        _mark_thresholds(panel, rows)
        log_log(panel, overfit["intervals"], xlabel=GRIDS)
    panels[0][0].set_ylabel("RMSE")
    return finish(figure, figure.axes, BANDS, ncols=2)


def _mark_thresholds(panel: Axes, rows: DataFrame) -> None:
    """Draw both marks of MARKS on an axis of G, unless they are far beyond the trained grids."""
    # Marks at more than this multiple of the finest grid are not drawn.
    farthest = 10
    for column, look in MARKS.items():
        at = rows[column].median()
        if at <= farthest * rows["intervals"].max():
            panel.axvline(at, **look)
