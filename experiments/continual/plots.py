"""The figures of `kanrun continual`: what was learned and forgotten, as matrices and against what it depends on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

import numpy as np
from kanrun.experiments.continual.phase_plots import MOST_ROWS, phases, some_of, surfaces
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREY,
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
#: Phases up to which the cells of matrices carry their numbers.
MOST_NUMBERS = 10


def figures(tables: Mapping[str, DataFrame]) -> Iterator[tuple[str, Figure]]:
    """The figures of every part that is there."""
    if "functions" in tables:
        functions = tables["functions"]
        functions = functions[functions["seed"] == functions["seed"].min()]
        flat = "x1" in functions and functions["x1"].notna().any()
        yield "phases", surfaces(functions, tables["data"]) if flat else phases(functions, tables["data"])
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
def matrices(matrix: DataFrame) -> Figure:
    """R[i, j], the error on phase j's data after phase i, one panel a learner, medians over seeds.

    `matrix` has the columns learner, after, on, error.
    """
    learners, phases = some_of(matrix["learner"], MOST_ROWS), int(matrix["after"].nunique())
    side = float(np.clip(0.33 * phases, 1.65, 3.3))
    columns = min(max(1, int(8.5 / side)), 4, len(learners))
    lines = -(-len(learners) // columns)
    figure = new_figure((side + 0.4) * lines + 0.3, (side + 0.2) * columns + 1.0)
    axes = grid_of_axes(figure, lines, columns)
    panels = [panel for row in axes for panel in row]
    errors = matrix["error"][np.isfinite(matrix["error"])]
    low = max(SMALLEST, float(errors.min()))
    norm = LogNorm(low, max(1.0, 10 * low, float(errors.quantile(0.95))))
    image: Any = None
    for panel, learner in zip(panels, learners, strict=False):
        rows = matrix[matrix["learner"] == learner]
        table = rows.pivot_table(index="after", columns="on", values="error", aggfunc="median", dropna=False)
        image = panel.imshow(table.to_numpy().clip(low), norm=norm, cmap="viridis_r")
        if phases <= MOST_NUMBERS:
            _number_cells(panel, table.to_numpy(), norm)
        panel.set_title("\n".join(wrap(letters(str(learner), 44), 24)), fontsize=7.5)
        ticks = range(0, len(table), -(-len(table) // 10))
        panel.set_xticks(ticks, [f"{table.columns[t]:g}" for t in ticks])
        panel.set_yticks(ticks, [f"{table.index[t]:g}" for t in ticks])
        panel.grid(visible=False)
        panel.tick_params(length=0)
    for panel in panels[len(learners) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("after phase $i$")
    for panel in panels[max(0, len(learners) - columns) : len(learners)]:
        panel.set_xlabel("on phase $j$")
    figure.colorbar(image, ax=panels[: len(learners)], label="RMSE $R_{ij}$", shrink=0.8, aspect=30, extend="both")
    return figure


def _number_cells(panel: Axes, errors: np.ndarray[Any, Any], norm: LogNorm) -> None:
    for (row, column), error in np.ndenumerate(errors):
        if np.isfinite(error):
            dark = norm(max(error, norm.vmin or SMALLEST)) > 0.45
            panel.text(
                column, row, _short(error), color="white" if dark else BLACK, fontsize=6, ha="center", va="center"
            )


def _short(value: float) -> str:
    """2e-6, 0.03, 1.5, 120, 2e4."""
    if 0.01 <= value < 1000:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    return re.sub(r"e([-+])0*", lambda found: "e" + found[1].strip("+"), f"{value:.0e}") if value else "0"


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
    panel.loglog(middle.index, lost, "s-", color=VERMILLION, label=_folded_floor(middle["worst_forgetting"]), ms=3.5)
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
    say_above(figure, _EACH)
    figure.legend(loc="outside right center")
    return figure


@styled
def against_depth(summary: DataFrame) -> Figure:
    """Forgetting, and the error on everything, of KANs of more and more layers, by what they keep.

    `summary` has the columns shape, layers, memory, worst_forgetting, rmse.
    """
    figure = new_figure(3.2)
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
    say_above(figure, _EACH)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


_MEMORY = {
    "none": "nothing kept",
    "hold": "seen coefficients held",
    "replay": "seen points replayed",
    "rehearse": "own outputs rehearsed",
    "ewc": "EWC",
}
_EACH = "dots: seeds; lines: medians"


def _folded_floor(values: Any) -> str:
    return _of_forgetting(values).replace(" (", "\n(")


def _of_forgetting(values: Any) -> str:
    """The label of an axis of forgetting: what is less than the floor, 0 too, is drawn on it."""
    return "forgetting, worst phase" + (" (10⁻¹¹ or less)" if (values < SMALLEST).any() else "")
