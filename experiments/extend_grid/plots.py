"""The figures of `kanrun extend-grid`, each from the stages and steps that its run recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from kanrun.experiments.extend_grid.thresholds import FARTHEST, MARKS, mark_thresholds, marks, points_at, shape_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series

from kanrun.figures.style import (
    BLACK,
    CYCLE,
    GREY,
    SPLITS,
    WIDTH,
    grid_of_axes,
    legend_of_all,
    new_figure,
    say_above,
    styled,
)
from kanrun.figures.ticks import name_round, name_values

_BAND, _BANDS = 0.16, "lines: medians; bands: from the least to the largest of all seeds"

_CLOSEST = 0.09  # of the steps, between the numbers of two stages


@styled
def staircase(metrics: DataFrame, stages: DataFrame) -> Figure:
    """Train and test RMSE over the steps of the first seed, one panel a schedule, a line at each extension.

    Marked is where the grid first has as many parameters as there are points; `stages` says which grid that is.
    """
    first = metrics[metrics["seed"] == metrics["seed"].min()]
    groups = list(first.groupby(["shape", "schedule"], sort=False))
    columns = min(3, len(groups))
    figure = new_figure(2.0 * -(-len(groups) // columns) + 0.8)
    axes = grid_of_axes(figure, -(-len(groups) // columns), columns)
    flat = [panel for row in axes for panel in row]
    for panel, ((shape, schedule), rows) in zip(flat, groups, strict=False):
        steps = np.arange(1, len(rows) + 1)
        for split in ("train", "test"):
            panel.plot(steps, rows[f"{split}_rmse"], color=SPLITS[split], label=split, drawstyle="steps-post", lw=1.2)
        panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.set_title(f"{shape_of(shape)} {schedule}", fontsize=8)
        _mark_grids(panel, steps, rows)
        _mark_crossings(panel, steps, rows, stages[(stages["shape"] == shape) & (stages["schedule"] == schedule)])
    for panel in flat[len(groups) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("RMSE")
    for panel in flat[max(0, len(groups) - columns) : len(groups)]:
        panel.set_xlabel("step")
    _same_limits(flat[: len(groups)], first[["train_rmse", "test_rmse"]].to_numpy())
    say_above(figure, "above each stage: its grid intervals $G$")
    legend_of_all(figure, flat[: len(groups)], loc="outside lower center", ncols=2)
    return figure


def _mark_grids(panel: Axes, steps: np.ndarray[Any, Any], rows: DataFrame) -> None:
    stages = rows["stage"].to_numpy()
    starts = [0, *(np.flatnonzero(stages[1:] != stages[:-1]) + 1)]
    last = np.inf
    for start in reversed(starts):
        if start:
            panel.axvline(steps[start], color=GREY, lw=0.6, ls=(0, (3, 3)), zorder=1)
        if last - steps[start] < _CLOSEST * len(steps):
            continue  # its number would lie on that of the next stage
        last = steps[start]
        text, place = f"{rows['intervals'].iloc[start]:g}", (last, 1.0)
        near: Any = {"xytext": (1.5, -1), "textcoords": "offset points", "va": "top"}
        panel.annotate(text, place, xycoords=("data", "axes fraction"), fontsize=6.5, color=GREY, **near)


def _mark_crossings(panel: Axes, steps: np.ndarray[Any, Any], rows: DataFrame, stages: DataFrame) -> None:
    for at, text, look in marks(stages):
        past = np.flatnonzero(rows["intervals"].to_numpy() >= at)
        if len(past):
            panel.axvline(steps[past[0]], zorder=0, label=f"from here on {text.replace(' = ', ' ≥ ')}", **look)
        else:
            panel.plot([], [], label=f"{text}: not before $G = {at:g}$", **look)


@styled
def against_intervals(stages: DataFrame, published: DataFrame | None) -> Figure:
    """RMSE against G of every schedule, medians over seeds; beside it what was published for the same setting."""
    shapes = list(stages["shape"].unique())
    figure = new_figure(2.7 * len(shapes) + 1.0)
    axes = grid_of_axes(figure, len(shapes), 2)
    for row, shape in zip(axes, shapes, strict=True):
        rows = stages[stages["shape"] == shape]
        for panel, name in ((row[0], "test_rmse"), (row[1], "test_root_median_square")):
            for number, (schedule, some) in enumerate(rows.groupby("schedule", sort=False)):
                # those on top of each other stay visible: later ones are smaller, dashed, and of another form
                style, colour = f"{'osD^v'[number % 5]}{'-' if number == 0 else '--'}", CYCLE[number % len(CYCLE)]
                _median_line(panel, some, name, colour=colour, label=str(schedule), style=style)
                panel.lines[-1].set_markersize(max(6.5 - number, 2.5))
            first = rows[rows["compared"]] if rows["compared"].any() else rows
            _log_log(panel, first["intervals"], shape_of(shape))
        if published is not None:
            _published(row[0], published[published["shape"] == shape])
        for panel in row:
            mark_thresholds(panel, rows, shape if len(shapes) > 1 else "")
        row[0].set_ylabel("test RMSE")
        row[1].set_ylabel("root of the median square")
    say_above(figure, _BANDS)
    legend_of_all(figure, [row[0] for row in axes], loc="outside lower center", ncols=3)
    return figure


def _published(panel: Axes, rows: DataFrame) -> None:
    rows = rows.drop_duplicates("intervals")
    for name, marker, label in (("paper", "x", "paper, Figure 2.3"), ("pykan", "+", "pykan 0.2.8")):
        if len(rows):
            panel.plot(rows["intervals"], rows[name], marker, color=BLACK, ms=5, label=label, zorder=4)


@styled
def time(schedules: DataFrame, scratch: DataFrame) -> Figure:
    """Seconds until a grid is done and the error there: extended along the first schedule, and each from scratch."""
    figure = new_figure(3.0)
    left, right = figure.subplots(1, 2)
    networks: Any = scratch.groupby("shape", sort=False)
    named: list[tuple[float, float, str, str]] = []
    for index, (shape, alone) in enumerate(networks):
        warm = schedules[schedules["compared"] & (schedules["shape"] == shape)]
        for rows, style, way in ((warm, "o-", "extended"), (alone, "s--", "from scratch")):
            if not len(rows):
                continue
            label, colour = f"{shape_of(shape)} {way}", CYCLE[2 * index + (way != "extended")]
            _median_line(left, rows, "seconds", colour=colour, label=label, style=style)
            medians = rows.groupby("intervals")[["seconds", "test_rmse"]].median()
            right.plot(medians["seconds"], medians["test_rmse"], style[0], color=colour, label=label)
            named += [(at["seconds"], at["test_rmse"], f"{grid}", colour) for grid, at in medians.iterrows()]
    _log_log(
        left, [*scratch["intervals"], *schedules["intervals"][schedules["compared"]]], "seconds until a grid is done"
    )
    right.set(title="error and seconds of each grid $G$", xlabel="seconds of training", xscale="log", yscale="log")
    right.set_ylabel("test RMSE")
    _name_points(right, named)
    name_round(left.yaxis)
    name_round(right.xaxis)
    left.set_ylabel("seconds")
    say_above(figure, _BANDS)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _name_points(panel: Axes, named: Iterable[tuple[float, float, str, str]]) -> None:
    """Write names beside points (x, y, name, colour) of a log-log panel, but for those that would lie on another's."""
    taken: list[np.ndarray[Any, Any]] = []
    for x, y, name, colour in named:
        place = panel.transLimits.transform(np.log10([x, y]))
        if all((np.abs(place - other) > (0.08, 0.05)).any() for other in taken):
            taken.append(place)
            panel.annotate(name, (x, y), (4, 2), textcoords="offset points", fontsize=6.5, color=colour)


@styled
def order(stages: DataFrame, exponents: Series) -> Figure:
    """Test RMSE against G for every degree, with its fitted exponent and the theory's line of slope -(k + 1)."""
    figure = new_figure(3.4, 5.4)
    panel = figure.subplots()
    degrees: Any = stages.groupby("degree")
    for (degree, rows), colour in zip(degrees, CYCLE, strict=False):
        fitted = exponents.get(degree, np.nan)
        label = f"$k = {degree}$: slope ${fitted:.2f}$" if np.isfinite(fitted) else f"$k = {degree}$"
        _median_line(panel, rows, "test_rmse", colour=colour, label=label, style="o")
        ranged = rows[rows["in_order"]]
        if len(ranged):
            ends = np.array([ranged["intervals"].min(), ranged["intervals"].max()], dtype=float)
            middle = np.exp(np.log(ranged[["intervals", "test_rmse"]].astype(float)).mean())
            panel.plot(ends, middle["test_rmse"] * (ends / middle["intervals"]) ** -(degree + 1), color=colour, lw=0.9)
    _log_log(panel, stages["intervals"], "lines: slope $-(k + 1)$ over the range that is fitted")
    panel.set_ylabel("test RMSE")
    figure.legend(loc="outside right center")
    return figure


@styled
def against_points(stages: DataFrame) -> Figure:
    """Test RMSE against G for several numbers of training points, and of the chosen grid against that number."""
    figure = new_figure(3.5)
    left, right = figure.subplots(1, 2)
    for (points, rows), colour in zip(stages.groupby("train_points"), CYCLE * 9, strict=False):
        _median_line(left, rows, "test_rmse", colour=colour, label=f"$N = {points}$")
        for at, _, look in marks(rows):
            if at <= FARTHEST * stages["intervals"].max():
                left.axvline(at, zorder=0, **{**look, "color": colour})
    _log_log(left, stages["intervals"], "marks in the colour of their $N$")
    left.set_ylabel("test RMSE")
    chosen = stages[stages["chosen"]]
    right.plot(chosen["train_points"], chosen["test_rmse"], "o", color=GREY, alpha=0.6, label="a seed")
    medians = chosen.groupby("train_points")["test_rmse"].median()
    right.plot(medians.index, medians, "o-", color=BLACK, label="median")
    finest = stages["intervals"].max()
    for name, _, look in MARKS:
        at = points_at(stages, name, finest)
        if np.isfinite(at):
            right.axvline(at, zorder=0, **look)
    _log_log(right, chosen["train_points"], f"chosen on validation; marks for $G = {finest:g}$", "training points $N$")
    for _, text, look in MARKS:
        right.plot([], [], label=text, **look)
    say_above(figure, _BANDS)
    legend_of_all(figure, [left, right], loc="outside lower center", ncols=3)
    return figure


@styled
def overfit(stages: DataFrame) -> Figure:
    """Train and test RMSE against G on few points, exact and noisy: with and without penalty, extended and alone."""
    levels: Any = stages.groupby("noise")
    figure = new_figure(3.2, WIDTH if len(levels) > 1 else 4.4)
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for panel, (noise, rows) in zip(panels, levels, strict=True):
        _overfitted(panel, rows)
        points = f"{stages['train_points'].iloc[0]} points"
        _log_log(panel, stages["intervals"], f"{points}, {100 * noise:.3g} % noise" if noise else f"{points}, exact")
    panels[0].set_ylabel("RMSE")
    say_above(figure, _BANDS)
    legend_of_all(figure, panels, loc="outside lower center", ncols=2)
    return figure


def _overfitted(panel: Axes, stages: DataFrame) -> None:
    styles = {("warm", True): ("o-", "with penalty"), ("warm", False): ("s--", "without penalty")}
    for (key, (style, label)), colour in zip(styles.items(), CYCLE, strict=False):
        rows = stages[(stages["start"] == key[0]) & (stages["penalised"] == key[1])]
        if len(rows):
            _median_line(panel, rows, "test_rmse", colour=colour, label=f"{label}: test", style=style)
            _median_line(panel, rows, "train_rmse", colour=colour, label=f"{label}: train", style=":", band=False)
    alone = stages[stages["start"] == "scratch"]
    if len(alone):
        label = "without penalty, from scratch: test"
        panel.plot(alone["intervals"], alone["test_rmse"], "D", color=BLACK, label=label)
    mark_thresholds(panel, stages)


def _median_line(
    panel: Axes, rows: DataFrame, name: str, *, colour: str, label: str, style: str = "o-", band: bool = True
) -> None:
    by = rows.groupby("intervals")[name]
    medians = by.median()
    panel.plot(medians.index, medians, style, color=colour, label=label)
    if band and by.size().max() > 1:
        panel.fill_between(medians.index, by.min(), by.max(), color=colour, alpha=_BAND, lw=0)


def _log_log(panel: Axes, values: Iterable[float], title: str, label: str = "grid intervals $G$") -> None:
    panel.set(xscale="log", yscale="log", title=title, xlabel=label)
    name_values(panel.xaxis, values)


def _same_limits(panels: Sequence[Axes], values: np.ndarray[Any, Any]) -> None:
    positive = values[np.isfinite(values) & (values > 0)]
    for panel in panels if len(positive) else ():
        panel.set_ylim(positive.min() / 2, positive.max() * 3)
