"""The figures of `kanrun extend-grid`, each from the stages and steps that its run recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series

from kanrun.figures.panels import (
    BANDS,
    finished,
    log_log,
    medians,
    power_law,
    series,
    shape_name,
    small_multiples,
)
from kanrun.figures.style import (
    BLACK,
    CYCLE,
    GREY,
    SPLITS,
    WIDTH,
    grid_of_axes,
    new_figure,
    one_panel,
    styled,
)

#: From which grid on networks can reproduce their points: column of the stages, label, look. One lies on the other.
MARKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("threshold", "parameters = training points", {"color": GREY, "lw": 3.0, "alpha": 0.45}),
    (
        "paper_threshold",
        "the paper's $E\\,G$ = training points",
        {"color": BLACK, "lw": 1.1, "ls": ":"},
    ),
)
FARTHEST = 10  # times the finest grid: a mark beyond it is named, not drawn
CLOSEST = 0.09  # of the steps, between the numbers of two stages
GRIDS = "grid intervals $G$"


@styled
def staircase(metrics: DataFrame, stages: DataFrame) -> Figure:
    """Train and test RMSE over the steps of the first seed, one panel per schedule, a line at each extension.

    Marked is where the grid first has as many parameters as there are points; `stages` says which grid that is.
    """
    first = metrics[metrics["seed"] == metrics["seed"].min()]
    groups = list(first.groupby(["shape", "schedule"], sort=False))
    figure, panels = small_multiples(len(groups), 3, 2.0, 0.8)
    several = first["shape"].nunique() > 1
    positive = first[["train_rmse", "test_rmse"]].to_numpy(float)
    positive = positive[np.isfinite(positive) & (positive > 0)]
    beyond: dict[str, None] = {}
    for panel, ((shape, schedule), rows) in zip(panels, groups, strict=True):
        steps = np.arange(1, len(rows) + 1)
        for split in ("train", "test"):
            panel.plot(
                steps,
                rows[f"{split}_rmse"],
                color=SPLITS[split],
                label=split,
                drawstyle="steps-post",
                lw=1.2,
            )
        panel.set(yscale="log", title=f"{shape_name(shape)} {schedule}" if several else schedule)
        if len(positive):
            panel.set_ylim(positive.min() / 2, positive.max() * 3)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _mark_grids(panel, steps, rows)
        own = stages[(stages["shape"] == shape) & (stages["schedule"] == schedule)]
        beyond |= dict.fromkeys(_mark_crossings(panel, steps, rows, own))
    for panel in panels[-3:]:
        panel.set_xlabel("step")
    for panel in panels[::3]:
        panel.set_ylabel("RMSE")
    network = "" if several else f"{shape_name(first['shape'].iloc[0])}; "
    return finished(
        figure,
        panels,
        "\n".join([f"{network}above each stage: its grid intervals $G$", *beyond]),
        ncols=2,
    )


def _mark_grids(panel: Axes, steps: np.ndarray[Any, Any], rows: DataFrame) -> None:
    stages = rows["stage"].to_numpy()
    starts = [0, *(np.flatnonzero(stages[1:] != stages[:-1]) + 1)]
    last = np.inf
    for start in reversed(starts):
        if start:
            panel.axvline(steps[start], color=GREY, lw=0.6, ls=(0, (3, 3)), zorder=1)
        if last - steps[start] < CLOSEST * len(steps):
            continue  # its number would lie on that of the next stage
        last = steps[start]
        text, place = f"{rows['intervals'].iloc[start]:g}", (last, 1.0)
        near: Any = {"xytext": (1.5, -1), "textcoords": "offset points", "va": "top"}
        panel.annotate(
            text, place, xycoords=("data", "axes fraction"), fontsize=6.5, color=GREY, **near
        )


def _mark_crossings(
    panel: Axes, steps: np.ndarray[Any, Any], rows: DataFrame, stages: DataFrame
) -> Iterator[str]:
    """Mark the steps; yield a remark on each mark that no grid reaches."""
    for at, text, look in _marks(stages):
        past = np.flatnonzero(rows["intervals"].to_numpy() >= at)
        if len(past):
            panel.axvline(
                steps[past[0]], zorder=0, label=f"from here on {text.replace(' = ', ' ≥ ')}", **look
            )
        else:
            yield f"{text}: not before $G = {at:g}$"


@styled
def against_intervals(stages: DataFrame, published: DataFrame | None) -> Figure:
    """RMSE against G of every schedule, medians over seeds; beside it what was published for the same setting."""
    shapes = list(stages["shape"].unique())
    figure = new_figure(2.7 * len(shapes) + 1.0)
    axes = grid_of_axes(figure, len(shapes), 2)
    beyond: dict[str, None] = {}
    for row, shape in zip(axes, shapes, strict=True):
        rows = stages[stages["shape"] == shape]
        for panel, name in ((row[0], "test_rmse"), (row[1], "test_root_median_square")):
            for number, (schedule, some) in enumerate(rows.groupby("schedule", sort=False)):
                # schedules on top of each other stay visible: later ones are smaller, dashed, and of another form
                style, colour = (
                    f"{'osD^v'[number % 5]}{'-' if number == 0 else '--'}",
                    CYCLE[number % len(CYCLE)],
                )
                medians(panel, some, ("intervals", name), style, color=colour, label=str(schedule))
                panel.lines[-1].set_markersize(max(6.5 - number, 2.5))
            ticks = (rows[rows["compared"]] if rows["compared"].any() else rows)["intervals"]
            log_log(panel, ticks, xlabel=GRIDS, title=shape_name(shape))
            beyond |= dict.fromkeys(_mark_thresholds(panel, rows, shape if len(shapes) > 1 else ""))
        if published is not None:
            known = published[published["shape"] == shape].drop_duplicates("intervals")
            for column, marker, label in (
                ("paper", "x", "paper, Figure 2.3"),
                ("pykan", "+", "pykan 0.2.8"),
            ):
                if len(known):
                    row[0].plot(
                        known["intervals"],
                        known[column],
                        marker,
                        color=BLACK,
                        ms=5,
                        label=label,
                        zorder=4,
                    )
        row[0].set_ylabel("test RMSE")
        row[1].set_ylabel("root of the median square")
    return finished(figure, [row[0] for row in axes], "\n".join([BANDS, *beyond]), ncols=3)


@styled
def time(schedules: DataFrame, scratch: DataFrame) -> Figure:
    """Seconds until a grid is done and the error there: extended along the first schedule, and each from scratch."""
    figure = new_figure(3.0)
    left, right = figure.subplots(1, 2)
    named: list[tuple[float, float, str, str]] = []
    for index, (shape, alone) in enumerate(scratch.groupby("shape", sort=False)):
        warm = schedules[schedules["compared"] & (schedules["shape"] == shape)]
        for rows, style, way in ((warm, "o-", "extended"), (alone, "s--", "from scratch")):
            if not len(rows):
                continue
            label, colour = (
                f"{shape_name(str(shape))} {way}",
                CYCLE[(2 * index + (way != "extended")) % len(CYCLE)],
            )
            medians(left, rows, ("intervals", "seconds"), style, color=colour, label=label)
            middle = rows.groupby("intervals")[["seconds", "test_rmse"]].median()
            right.plot(middle["seconds"], middle["test_rmse"], style[0], color=colour, label=label)
            named += [
                (at["seconds"], at["test_rmse"], f"{grid}", colour)
                for grid, at in middle.iterrows()
            ]
    grids = [*scratch["intervals"], *schedules["intervals"][schedules["compared"]]]
    log_log(left, grids, title="seconds until a grid is done", xlabel=GRIDS, ylabel="seconds")
    right.set(
        title="error and seconds of each grid $G$", xlabel="seconds of training", ylabel="test RMSE"
    )
    right.set(xscale="log", yscale="log")
    taken: list[np.ndarray[Any, Any]] = []
    for x, y, name, colour in named:
        place = right.transLimits.transform(np.log10([x, y]))
        if all(
            (np.abs(place - other) > (0.08, 0.05)).any() for other in taken
        ):  # names do not lie on each other
            taken.append(place)
            right.annotate(
                name, (x, y), (4, 2), textcoords="offset points", fontsize=6.5, color=colour
            )
    return finished(figure, [left], BANDS, ncols=2)


@styled
def order(stages: DataFrame, exponents: Series) -> Figure:
    """Test RMSE against G for every degree, with its fitted exponent and the theory's line of slope -(k + 1)."""
    figure, panel = one_panel(3.4, 5.4)
    degrees: Any = stages.groupby("degree")
    for (degree, rows), colour in zip(degrees, CYCLE, strict=False):
        fitted = exponents.get(degree, np.nan)
        label = (
            f"$k = {degree}$: slope ${fitted:.2f}$" if np.isfinite(fitted) else f"$k = {degree}$"
        )
        medians(panel, rows, ("intervals", "test_rmse"), "o", color=colour, label=label)
        ranged = rows[rows["in_order"]]
        if len(ranged):
            power_law(
                panel, ranged["intervals"], ranged["test_rmse"], -(degree + 1), color=colour, lw=0.9
            )
    title = "lines: slope $-(k + 1)$ over the range that is fitted"
    log_log(panel, stages["intervals"], title=title, xlabel=GRIDS, ylabel="test RMSE")
    return finished(figure, [panel], where="outside right center")


@styled
def against_points(stages: DataFrame) -> Figure:
    """Test RMSE against G for several numbers of training points, and of the chosen grid against that number."""
    figure = new_figure(3.5)
    left, right = figure.subplots(1, 2)
    stages = stages.sort_values("train_points", kind="stable")
    series(left, stages, ("intervals", "test_rmse"), "train_points", label="$N = {}$")
    for (_, rows), colour in zip(stages.groupby("train_points"), CYCLE * 9, strict=False):
        for at, _, look in _marks(rows):
            if at <= FARTHEST * stages["intervals"].max():
                left.axvline(at, zorder=0, **{**look, "color": colour})
    log_log(
        left,
        stages["intervals"],
        title="marks in the colour of their $N$",
        xlabel=GRIDS,
        ylabel="test RMSE",
    )
    chosen, finest = stages[stages["chosen"]], stages["intervals"].max()
    medians(
        right, chosen, ("train_points", "test_rmse"), color=BLACK, label="median", spread="none"
    )
    right.plot(
        chosen["train_points"], chosen["test_rmse"], "o", color=GREY, alpha=0.6, label="a seed"
    )
    for name, text, look in MARKS:
        at = _points_at(stages, name, finest)
        if np.isfinite(at):
            right.axvline(at, zorder=0, **look)
        right.plot([], [], label=text, **look)
    title = f"chosen on validation; marks for $G = {finest:g}$"
    log_log(right, chosen["train_points"], title=title, xlabel="training points $N$")
    return finished(figure, [left, right], BANDS, ncols=3)


@styled
def overfit(stages: DataFrame) -> Figure:
    """Train and test RMSE against G on few points, exact and noisy: with and without penalty, extended and alone."""
    levels: Any = stages.groupby("noise")
    figure = new_figure(3.2, WIDTH if len(levels) > 1 else 4.4)
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    looks = ((True, "with penalty", "o-", CYCLE[0]), (False, "without penalty", "s--", CYCLE[1]))
    beyond: dict[str, None] = {}
    for panel, (noise, rows) in zip(panels, levels, strict=True):
        for penalised, label, style, colour in looks:
            some = rows[(rows["start"] == "warm") & (rows["penalised"] == penalised)]
            if len(some):
                medians(
                    panel,
                    some,
                    ("intervals", "test_rmse"),
                    style,
                    color=colour,
                    label=f"{label}: test",
                )
                train: Any = {"color": colour, "label": f"{label}: train", "spread": "none"}
                medians(panel, some, ("intervals", "train_rmse"), ":", **train)
        alone = rows[rows["start"] == "scratch"]
        if len(alone):
            label = "without penalty, from scratch: test"
            panel.plot(alone["intervals"], alone["test_rmse"], "D", color=BLACK, label=label)
        beyond |= dict.fromkeys(_mark_thresholds(panel, rows))
        level = f"{100 * noise:.3g} % noise" if noise else "exact"
        title = f"{stages['train_points'].iloc[0]} points, {level}"
        log_log(panel, stages["intervals"], title=title, xlabel=GRIDS)
    panels[0].set_ylabel("RMSE")
    return finished(figure, panels, "\n".join([BANDS, *beyond]), ncols=2)


def _marks(stages: DataFrame) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """The grid at which each mark is, its label and its look, as far as the table has it."""
    for name, text, look in MARKS:
        at = stages[name].median() if name in stages else np.nan
        if np.isfinite(at):
            yield float(at), text, look


def _mark_thresholds(panel: Axes, rows: DataFrame, shape: str = "") -> Iterator[str]:
    """Draw both marks on an axis of G; yield a remark on each that is too far, with its `shape`."""
    for at, text, look in _marks(rows):
        if at <= FARTHEST * rows["intervals"].max():
            panel.axvline(at, zorder=0, label=text, **look)
        else:
            whose = f" for {shape_name(shape)}" if shape else ""
            yield f"{text}: at $G = {at:g}${whose}"


def _points_at(stages: DataFrame, name: str, intervals: float) -> float:
    """How many training points a mark of `intervals` belongs to, between those that were tried; NaN beyond them."""
    if name not in stages:
        return float("nan")
    known = stages.groupby("train_points")[name].median().dropna()
    grids, points = np.log(known.to_numpy(float)), np.log(known.index.to_numpy(float))
    if len(known) < 2 or not (np.diff(grids) > 0).all():
        return float("nan")
    return float(np.exp(np.interp(np.log(intervals), grids, points, left=np.nan, right=np.nan)))
