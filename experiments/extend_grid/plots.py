"""The figures of `kanrun extend-grid`, each from the stages and steps that its run recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series

from kanrun.figures import Figures
from kanrun.figures.panels import (
    BANDS,
    finish,
    grid_of_panels,
    log_log,
    mark_stages,
    medians,
    one_panel,
    power_law,
    series,
    shape_name,
    small_multiples,
)
from kanrun.figures.style import BLACK, CYCLE, GREY, MARKERS, SPLITS, styled
from kanrun.study.suite import exponents

#: Column of the stages, label and look of each mark of the grid from which on networks can
#: reproduce their points. One mark may lie on the other.
MARKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("threshold", "parameters = training points", {"color": GREY, "lw": 3, "alpha": 0.45}),
    ("paper_threshold", "the paper's E·G = training points", {"color": BLACK, "ls": ":"}),
)
#: A mark beyond this many times the finest grid is named, not drawn.
FARTHEST = 10
GRIDS = "grid intervals G"
PUBLISHED = {"paper": ("x", "paper, Figure 2.3"), "pykan": ("+", "pykan 0.2.8")}
MEASURES = {"test_rmse": "test RMSE", "test_root_median_square": "root of the median square"}


def figures_of(tables: Mapping[str, DataFrame]) -> Figures:
    """Yield the name and the drawing of the figures of each part that was run."""
    stages: Any = tables["stages"]
    parts = dict(list(stages.groupby("part", sort=False)))
    if "schedules" in parts:
        rows = parts["schedules"]
        if "metrics" in tables and len(steps := tables["metrics"].query("part == 'schedules'")):
            yield "staircase", partial(staircase, steps, rows)
        yield "error_against_intervals", partial(against_intervals, rows, tables.get("published"))
    if "scratch" in parts:
        extended = parts.get("schedules", stages.iloc[:0])
        yield "time_against_intervals", partial(time, extended, parts["scratch"])
    if "order" in parts:
        ranged = parts["order"][parts["order"]["in_order"]]
        fits = exponents(ranged, ["degree", "seed"], "intervals", "test_rmse")
        yield "order", partial(order, parts["order"], fits.groupby("degree")["exponent"].median())
    if "sizes" in parts:
        yield "error_against_points", partial(against_points, parts["sizes"])
    if "overfit" in parts:
        yield "overfit", partial(overfit, parts["overfit"])


@styled
def staircase(metrics: DataFrame, stages: DataFrame) -> Figure:
    """Draw train and test RMSE over the steps of the first seed, one panel per schedule.

    Lines show extensions, and where the grid first has as many parameters as there are points;
    `stages` says which grid that is.
    """
    first = metrics[metrics["seed"] == metrics["seed"].min()]
    groups = list(first.groupby(["shape", "schedule"], sort=False))
    figure, panels = small_multiples(len(groups), 3, 2.0, room=0.8, sharey=True)
    several = first["shape"].nunique() > 1
    remarks: dict[str, None] = {} if several else {shape_name(first["shape"].iloc[0]): None}
    remarks["above each stage: its grid intervals G"] = None
    for panel, ((shape, schedule), rows) in zip(panels, groups, strict=True):
        steps = np.arange(1, len(rows) + 1, dtype=float)
        for split in ("train", "test"):
            look: Any = {"color": SPLITS[split], "label": split, "drawstyle": "steps-post"}
            panel.plot(steps, rows[f"{split}_rmse"], **look)
        panel.set(yscale="log", title=f"{shape_name(shape)} {schedule}" if several else schedule)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        mark_stages(panel, steps, rows["stage"], rows["intervals"].to_numpy())
        own = stages[(stages["shape"] == shape) & (stages["schedule"] == schedule)]
        for at, text, mark in _marks(own):
            past = np.flatnonzero(rows["intervals"].to_numpy() >= at)
            if len(past):
                label = f"from here on {text.replace(' = ', ' ≥ ')}"
                panel.axvline(steps[past[0]], zorder=0, label=label, **mark)
            else:
                remarks[f"{text}: not before G = {at:g}"] = None
    for panel in panels[-3:]:
        panel.set_xlabel("step")
    for panel in panels[::3]:
        panel.set_ylabel("RMSE")
    return finish(figure, panels, "\n".join(remarks), ncols=2)


@styled
def against_intervals(stages: DataFrame, published: DataFrame | None) -> Figure:
    """Draw medians of the RMSE of every schedule against G, next to published errors."""
    shapes = list(stages["shape"].unique())
    figure, axes = grid_of_panels(len(shapes), 2, room=1.0)
    remarks = {BANDS: None}
    for line, shape in zip(axes, shapes, strict=True):
        rows = stages[stages["shape"] == shape]
        for panel, (column, label) in zip(line, MEASURES.items(), strict=True):
            for index, (schedule, some) in enumerate(rows.groupby("schedule", sort=False)):
                # Schedules may lie on each other: later ones are smaller, dashed, of another form.
                style = f"{MARKERS[index % len(MARKERS)]}{'--' if index else '-'}"
                look: Any = {"color": CYCLE[index % len(CYCLE)], "ms": max(6 - index, 2)}
                medians(panel, some, ("intervals", column), style, label=str(schedule), **look)
            ticks = (rows[rows["compared"]] if rows["compared"].any() else rows)["intervals"]
            log_log(panel, ticks, xlabel=GRIDS, ylabel=label, title=shape_name(shape))
            remarks |= _mark_thresholds(panel, rows, shape if len(shapes) > 1 else "")
        if published is not None:
            known = published[published["shape"] == shape].drop_duplicates("intervals")
            for column, (marker, label) in PUBLISHED.items():
                look = {"color": BLACK, "ms": 5, "label": label, "zorder": 4}
                line[0].plot(known["intervals"], known[column], marker, **look)
    return finish(figure, axes[:, 0], "\n".join(remarks), ncols=3)


@styled
def time(schedules: DataFrame, scratch: DataFrame) -> Figure:
    """Draw seconds and error of each grid, extended along the first schedule and from scratch."""
    figure, ((left, right),) = grid_of_panels(1, 2)
    warm = schedules[schedules["compared"]]
    ways = {"extended": (warm, "o-"), "from scratch": (scratch, "s--")}
    taken: list[Any] = []
    names: list[tuple[Any, str]] = []
    right.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="test RMSE")
    for index, (shape, way) in enumerate((s, w) for s in scratch["shape"].unique() for w in ways):
        table, style = ways[way]
        rows = table[table["shape"] == shape]
        look: Any = {"color": CYCLE[index % len(CYCLE)], "label": f"{shape_name(shape)} {way}"}
        medians(left, rows, ("intervals", "seconds"), style, **look)
        middle = rows.groupby("intervals")[["seconds", "test_rmse"]].median()
        right.plot(middle["seconds"], middle["test_rmse"], style[0], **look)
        names += [
            (place, f"{grid}") for grid, place in zip(middle.index, middle.to_numpy(), strict=True)
        ]
    for place, name in names:
        at = right.transLimits.transform(np.log10(place))
        # Names must not lie on each other.
        if all((np.abs(at - other) > (0.08, 0.05)).any() for other in taken):
            taken.append(at)
            right.annotate(name, place, (4, 2), textcoords="offset points", size="small")
    grids = [*scratch["intervals"], *warm["intervals"]]
    log_log(left, grids, title="seconds until a grid is done", xlabel=GRIDS, ylabel="seconds")
    right.set_title("error and seconds of each grid G")
    return finish(figure, [left], BANDS, ncols=2)


@styled
def order(stages: DataFrame, exponents: Series) -> Figure:
    """Draw test RMSE against G by degree, with the fitted exponent and the theory's slope."""
    figure, panel = one_panel(3.0)
    degrees: Any = stages.groupby("degree")
    for (degree, rows), colour in zip(degrees, CYCLE, strict=False):
        fitted = exponents.get(degree, np.nan)
        label = f"k = {degree}" + (f": slope {fitted:.2f}" if np.isfinite(fitted) else "")
        medians(panel, rows, ("intervals", "test_rmse"), "o", color=colour, label=label)
        if len(some := rows[rows["in_order"]]):
            power_law(panel, some["intervals"], some["test_rmse"], -(degree + 1), color=colour)
    title = "lines: slope -(k + 1) over the range that is fitted"
    log_log(panel, stages["intervals"], title=title, xlabel=GRIDS, ylabel="test RMSE")
    return finish(figure, [panel], where="outside right center")


@styled
def against_points(stages: DataFrame) -> Figure:
    """Draw test RMSE against G by number of training points, and of the chosen grid against it."""
    figure, ((left, right),) = grid_of_panels(1, 2, 3.0)
    stages = stages.sort_values("train_points", kind="stable")
    series(left, stages, ("intervals", "test_rmse"), "train_points", label="N = {}")
    finest = stages["intervals"].max()
    for index, (_, rows) in enumerate(stages.groupby("train_points")):
        for at, _, look in _marks(rows):
            if at <= FARTHEST * finest:
                left.axvline(at, zorder=0, **{**look, "color": CYCLE[index % len(CYCLE)]})
    title = "marks in the colour of their N"
    log_log(left, stages["intervals"], title=title, xlabel=GRIDS, ylabel="test RMSE")
    chosen = stages[stages["chosen"]]
    columns = ("train_points", "test_rmse")
    medians(right, chosen, columns, color=BLACK, label="median", spread="none")
    right.plot(chosen[columns[0]], chosen[columns[1]], "o", color=GREY, alpha=0.6, label="a seed")
    for name, text, look in MARKS:
        at = _points_at(stages, name, finest)
        right.plot([], [], label=text, **look)
        if np.isfinite(at):
            right.axvline(at, zorder=0, **look)
    title = f"chosen on validation; marks for G = {finest:g}"
    log_log(right, chosen["train_points"], title=title, xlabel="training points N")
    return finish(figure, [left, right], BANDS, ncols=3)


@styled
def overfit(stages: DataFrame) -> Figure:
    """Draw train and test RMSE against G on few points, with and without penalty and noise."""
    levels: Any = list(stages.groupby("noise"))
    figure, panels = small_multiples(len(levels), len(levels), 2.8)
    looks = {True: ("with penalty", "o-", CYCLE[0]), False: ("without penalty", "s--", CYCLE[1])}
    remarks = {BANDS: None}
    for panel, (noise, rows) in zip(panels, levels, strict=True):
        for penalised, (name, style, colour) in looks.items():
            some = rows[(rows["start"] == "warm") & (rows["penalised"] == penalised)]
            if len(some):
                test: Any = {"color": colour, "label": f"{name}: test"}
                medians(panel, some, ("intervals", "test_rmse"), style, **test)
                train: Any = {"color": colour, "label": f"{name}: train", "spread": "none"}
                medians(panel, some, ("intervals", "train_rmse"), ":", **train)
        alone = rows[rows["start"] == "scratch"]
        if len(alone):
            label = "without penalty, from scratch: test"
            panel.plot(alone["intervals"], alone["test_rmse"], "D", color=BLACK, label=label)
        remarks |= _mark_thresholds(panel, rows)
        level = f"{100 * noise:.3g}% noise" if noise else "exact"
        title = f"{stages['train_points'].iloc[0]} points, {level}"
        log_log(panel, stages["intervals"], title=title, xlabel=GRIDS)
    panels[0].set_ylabel("RMSE")
    return finish(figure, panels, "\n".join(remarks), ncols=2)


def _marks(stages: DataFrame) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Yield grid, label and look of each mark that the table has."""
    for name, text, look in MARKS:
        at = stages[name].median() if name in stages else np.nan
        if np.isfinite(at):
            yield float(at), text, look


def _mark_thresholds(panel: Axes, rows: DataFrame, shape: str = "") -> dict[str, None]:
    """Draw both marks on an axis of G; return a remark on each that is too far, by `shape`."""
    remarks: dict[str, None] = {}
    for at, text, look in _marks(rows):
        if at <= FARTHEST * rows["intervals"].max():
            panel.axvline(at, zorder=0, label=text, **look)
        else:
            whose = f" for {shape_name(shape)}" if shape else ""
            remarks[f"{text}: at G = {at:g}{whose}"] = None
    return remarks


def _points_at(stages: DataFrame, name: str, intervals: float) -> float:
    """Return the number of training points for which a mark is at `intervals`; NaN if unknown."""
    known = stages.groupby("train_points")[name].median().dropna() if name in stages else Series()
    grids = np.log(known.to_numpy(dtype=float))
    if len(known) < 2 or not (np.diff(grids) > 0).all():
        return float("nan")
    points, ends = np.log(known.index.to_numpy(dtype=float)), {"left": np.nan, "right": np.nan}
    return float(np.exp(np.interp(np.log(intervals), grids, points, **ends)))
