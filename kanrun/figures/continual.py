"""The figures of `kanrun continual`, each from the tables that its run recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREY,
    PALE,
    VERMILLION,
    grid_of_axes,
    letters,
    new_figure,
    say_above,
    styled,
)
from kanrun.figures.ticks import name_values

#: Errors and forgetting below this are drawn here: logarithms need a floor.
SMALLEST = 1e-11
#: Rows and columns of panels that one page holds.
MOST_ROWS, MOST_COLUMNS = 12, 8


def figures(tables: Mapping[str, DataFrame]) -> Iterator[tuple[str, Figure]]:
    """The figures of every part that is there."""
    if "functions" in tables:
        functions = tables["functions"]
        functions = functions[functions["seed"] == functions["seed"].min()]
        flat = "x1" in functions and functions["x1"].notna().any()
        yield "phases", surfaces(functions) if flat else phases(functions, tables["data"])
    if "matrix" not in tables or "summary" not in tables:
        return
    parts = {str(part): rows for part, rows in tables["summary"].groupby("part", sort=False)}
    if "learners" in parts:
        yield "matrices", matrices(tables["matrix"][tables["matrix"]["part"] == "learners"])
    if "intervals" in parts:
        yield "error_against_intervals", against_intervals(parts["intervals"])
    if "overlap" in parts:
        yield "forgetting_against_overlap", against_overlap(parts["overlap"])
    if "depth" in parts:
        yield "forgetting_against_depth", against_depth(parts["depth"])


@styled
def phases(functions: DataFrame, data: DataFrame) -> Figure:
    """One row a learner, one column a phase: what is known after it, on the truth; above them the phases' data.

    `functions` has the columns learner, after, x0, truth, output; `data` seed, phase, x0, y.
    """
    learners, count = _some(functions["learner"], MOST_ROWS), int(functions["after"].max())
    shown = _some(functions["after"], MOST_COLUMNS)
    figure = _with_labels(new_figure(0.72 * (len(learners) + 1) + 0.5, 1.25 * len(shown) + 1.2))
    rows = grid_of_axes(figure, len(learners) + 1, len(shown))
    low, high = functions["truth"].min(), functions["truth"].max()
    margin = 0.3 * (high - low or 1.0)
    data = data[data["seed"] == data["seed"].min()].drop_duplicates(["phase", "x0"])
    for column, after in enumerate(shown):
        points = data[data["phase"] == after]
        truth = functions[(functions["learner"] == learners[0]) & (functions["after"] == after)]
        panel = rows[0][column]
        panel.fill_between(truth["x0"], truth["truth"], low, color=PALE, lw=0)
        panel.plot(points["x0"], points["y"], ".", color=BLACK, ms=2)
        panel.set_title(f"phase {after}" + (f" of {count}" if count > len(shown) else ""), fontsize=8)
        for below, learner in enumerate(learners, 1):
            known = functions[(functions["learner"] == learner) & (functions["after"] == after)]
            rows[below][column].fill_between(known["x0"], known["truth"], low, color=PALE, lw=0)
            colour = BLUE if str(learner).startswith("KAN") else VERMILLION
            rows[below][column].plot(known["x0"], known["output"], color=colour, lw=1.0)
    for row, name in zip(rows, ["data", *learners], strict=True):
        row[0].set_ylabel(_folded(str(name)), rotation=0, ha="right", va="center", fontsize=7.5)
        for panel in row:
            _bare(panel)
            panel.set_ylim(low - margin, high + margin)
    for panel in rows[-1]:
        panel.set_xlabel("$x_0$")
    say_above(figure, "grey: the truth; lines: what is known after each phase, cut off where it leaves the panel")
    return figure


@styled
def surfaces(functions: DataFrame) -> Figure:
    """The same in two dimensions: the truth above, below it what each learner knows after each phase.

    `functions` has the columns learner, after, x0, x1, truth, output.
    """
    learners, shown = _some(functions["learner"], MOST_ROWS), _some(functions["after"], MOST_COLUMNS)
    figure = _with_labels(new_figure(0.95 * (len(learners) + 1) + 0.3, 1.0 * len(shown) + 1.9))
    rows = grid_of_axes(figure, len(learners) + 1, len(shown))
    scale: Any = {"vmin": functions["truth"].min(), "vmax": functions["truth"].max()}
    first = functions[(functions["learner"] == learners[0]) & (functions["after"] == shown[0])]
    image = _surface(rows[0][0], first, "truth", scale)
    for panel in rows[0][1:]:
        panel.remove()
    for row, learner in zip(rows[1:], learners, strict=True):
        for panel, after in zip(row, shown, strict=True):
            known = functions[(functions["learner"] == learner) & (functions["after"] == after)]
            _surface(panel, known, "output", scale)
            if row is rows[1]:
                panel.set_title(f"after phase {after}", fontsize=7.5)
    for row, name in zip(rows, ["truth", *learners], strict=True):
        row[0].set_ylabel(_folded(str(name)), rotation=0, ha="right", va="center", fontsize=7.5)
    there = [panel for row in rows[1:] for panel in row]
    figure.colorbar(image, ax=there, shrink=0.6, extend="both")
    return figure


@styled
def matrices(matrix: DataFrame) -> Figure:
    """R[i, j], the error on phase j's data after phase i, one panel a learner, medians over seeds.

    `matrix` has the columns learner, after, on, error.
    """
    learners = _some(matrix["learner"], MOST_ROWS)
    columns = min(4, len(learners))
    figure = new_figure(1.75 * -(-len(learners) // columns) + 0.2, 1.55 * columns + 0.9)
    axes = grid_of_axes(figure, -(-len(learners) // columns), columns)
    panels = [panel for row in axes for panel in row]
    norm = LogNorm(max(SMALLEST, float(matrix["error"].min())), max(1.0, float(matrix["error"].quantile(0.95))))
    image: Any = None
    for panel, learner in zip(panels, learners, strict=False):
        rows = matrix[matrix["learner"] == learner]
        table = rows.pivot_table(index="after", columns="on", values="error", aggfunc="median")
        image = panel.imshow(table.to_numpy().clip(norm.vmin), norm=norm, cmap="viridis_r")
        panel.set_title("\n".join(wrap(letters(str(learner), 44), 24)), fontsize=7.5)
        ticks = range(0, len(table), -(-len(table) // 10))
        panel.set_xticks(ticks, [str(t + 1) for t in ticks])
        panel.set_yticks(ticks, [str(t + 1) for t in ticks])
        panel.grid(visible=False)
        panel.tick_params(length=0)
    for panel in panels[len(learners) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("after phase $i$")
    for panel in panels[max(0, len(learners) - columns) : len(learners)]:
        panel.set_xlabel("on phase $j$")
    figure.colorbar(image, ax=panels[: len(learners)], label="RMSE $R_{ij}$", shrink=0.8, extend="both")
    return figure


@styled
def against_intervals(summary: DataFrame) -> Figure:
    """RMSE on everything after the last phase against G, beside the best spline's and the theory's slope.

    `summary` has the columns intervals, rmse, best_spline_rmse, worst_forgetting, degree.
    """
    figure = new_figure(2.9, 4.6)
    panel = figure.subplots()
    middle = summary.groupby("intervals")[["rmse", "best_spline_rmse", "worst_forgetting"]].median()
    panel.loglog(middle.index, middle["rmse"], "o-", color=BLUE, label="KAN, after all phases", ms=4)
    panel.loglog(middle.index, middle["best_spline_rmse"], "x", color=BLACK, label="best spline", ms=6)
    lost = middle["worst_forgetting"].clip(lower=SMALLEST)
    panel.loglog(middle.index, lost, "s-", color=VERMILLION, label="forgetting, worst phase", ms=3.5)
    power = summary["degree"].iloc[0] + 1
    at = np.array([middle.index.min(), middle.index.max()], dtype=float)
    theory = middle["rmse"].iloc[0] * (at / at[0]) ** -power
    panel.loglog(at, theory, ":", color=GREY, label=f"$G^{{-{power:g}}}$")
    panel.set(xlabel="intervals $G$", ylabel="RMSE, and how much it grew again")
    name_values(panel.xaxis, middle.index)
    figure.legend(loc="outside right center")
    return figure


@styled
def against_overlap(summary: DataFrame) -> Figure:
    """Forgetting of the worst phase against the overlap of phases: medians, and all seeds as points.

    `summary` has the columns learner, overlap, worst_forgetting.
    """
    figure = new_figure(2.7, 4.6)
    panel = figure.subplots()
    for (learner, rows), colour in zip(summary.groupby("learner", sort=False), CYCLE * 9, strict=False):
        lost = rows["worst_forgetting"].clip(lower=SMALLEST)
        middle = lost.groupby(rows["overlap"]).median()
        panel.semilogy(rows["overlap"], lost, "o", color=colour, ms=2.5, alpha=0.6)
        panel.semilogy(middle.index, middle, "-", color=colour, label=letters(str(learner), 30))
    panel.set(xlabel="overlap of neighbouring phases", ylabel=_of_forgetting(summary["worst_forgetting"]))
    figure.legend(loc="outside right center")
    return figure


@styled
def against_depth(summary: DataFrame) -> Figure:
    """Forgetting, and the error on everything, of KANs of more and more layers, by what they keep.

    `summary` has the columns shape, layers, memory, worst_forgetting, rmse.
    """
    figure = new_figure(2.7)
    left, right = figure.subplots(1, 2, sharex=True)
    shapes = list(dict.fromkeys(summary.sort_values("layers", kind="stable")["shape"]))
    for (memory, rows), colour in zip(summary.groupby("memory", sort=False), CYCLE * 9, strict=False):
        at = rows["shape"].map(shapes.index)
        for panel, name in ((left, "worst_forgetting"), (right, "rmse")):
            values = rows[name].clip(lower=SMALLEST)
            middle = values.groupby(at).median()
            panel.semilogy(at, values, "o", color=colour, ms=2.5, alpha=0.6)
            panel.semilogy(middle.index, middle, "o-", color=colour, label=_MEMORY.get(str(memory), str(memory)))
    left.set(ylabel=_of_forgetting(summary["worst_forgetting"]))
    right.set(ylabel="RMSE on everything")
    names = [f"[{shape}]".replace("-", ",") for shape in shapes]
    turned = 30 if sum(map(len, names)) > 30 else 0  # more letters would touch each other
    for panel in (left, right):
        panel.set_xlabel("nodes of the layers")
        panel.set_xticks(range(len(shapes)), names, rotation=turned, ha="right" if turned else "center")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


_MEMORY = {"none": "nothing kept", "hold": "seen coefficients held", "rehearse": "own outputs rehearsed"}


def _of_forgetting(values: Any) -> str:
    """The label of an axis of forgetting: what is less than the floor, 0 too, is drawn on it."""
    return "forgetting, worst phase" + (" (10⁻¹¹ or less)" if (values < SMALLEST).any() else "")


def _surface(panel: Axes, known: DataFrame, column: str, scale: Mapping[str, Any]) -> Any:
    table = known.pivot_table(index="x1", columns="x0", values=column)
    extent: Any = (known["x0"].min(), known["x0"].max(), known["x1"].min(), known["x1"].max())
    image = panel.imshow(table.to_numpy(), origin="lower", extent=extent, **scale)
    _bare(panel)
    return image


def _bare(panel: Axes) -> None:
    panel.grid(visible=False)
    panel.set_xticks([])
    panel.set_yticks([])


def _some(column: Any, most: int) -> list[Any]:
    """The different values in their order; of more than `most`, evenly spaced ones with the last."""
    values = list(dict.fromkeys(column))
    if len(values) <= most:
        return values
    return [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]


def _with_labels(figure: Figure) -> Figure:
    """Room at the left: the layout does not see all of a label that is turned upright."""
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.06, 0, 0.94, 1))
    return figure


def _folded(name: str) -> str:
    return "\n".join(wrap(letters(name, 36), 12))
