"""Figures of `kanrun continual`: predictions after each phase, and how much was forgotten."""

from __future__ import annotations

from functools import partial
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures import Figures
from kanrun.figures.panels import (
    DOTS,
    finish,
    grid_of_panels,
    heat_map,
    name_places,
    panels_by,
    series,
)
from kanrun.figures.style import (
    BLACK,
    BLUE,
    GREY,
    PALE,
    VERMILLION,
    first_seed,
    power,
    set_remark,
    shorten,
    styled,
)
from kanrun.study import Tables

#: Largest number of learners on one page.
MAX_ROWS = 12
#: Smaller values of errors and forgetting are drawn at this value, since zero has no logarithm.
SMALLEST = 1e-11
#: Range of numbers that are written without a power of ten.
PLAIN = (0.01, 1000)
#: For each part that varies a setting: the column of the horizontal axis, and the column that
#: distinguishes the lines.
VARIED = {
    "intervals": ("intervals", "memory"),
    "overlap": ("overlap", "learner"),
    "depth": ("shape", "memory"),
}
LABELS = {
    "intervals": "intervals G",
    "overlap": "overlap of neighbouring phases",
    "shape": "nodes of the layers",
}
MEASURES = {"worst_forgetting": "forgetting, worst phase", "rmse": "RMSE on everything"}
PHASES = (
    "filled: the true function; lines: what is known after each phase (blue: KANs, red: MLPs), "
    "thin and grey where no phase has shown data yet, cut off where it leaves the panel"
)


def figures_of(tables: Tables) -> Figures:
    """Yield the name and the drawing function of each figure of the parts that were run."""
    functions = tables.get("functions")
    if functions is not None and "x1" not in functions:
        # Each learner is one cell, so `first_seed` would keep only the first learner.
        known = first_seed(functions.drop(columns="cell", errors="ignore"))
        yield "phases", partial(phases, known, tables["data"])
    if "matrix" not in tables or "summary" not in tables:
        return
    summary = tables["summary"]
    matrix = tables["matrix"]
    for part, rows in summary.groupby("part", sort=False):
        if part == "learners":
            yield "matrices", partial(matrices, matrix[matrix["part"] == part])
        else:
            yield f"forgetting_against_{part}", partial(against, rows, *VARIED[str(part)])


@styled
def phases(functions: DataFrame, data: DataFrame) -> Figure:
    """Draw the predictions of each learner (row) after each phase (column), below the phases' data.

    `functions` has the columns learner, kind (kan or mlp), after (the number of the phase just
    learned), x0, truth and output. `data` has the columns seed, phase, x0 and y.
    """
    low = functions["truth"].min()
    high = functions["truth"].max()
    margin = (high - low or 1.0) / 3
    data = first_seed(data).drop_duplicates(["phase", "x0"])
    ends = data.groupby("phase")["x0"].agg(["min", "max"])
    learners = _some_of(functions["learner"], MAX_ROWS)
    # Largest number of phases on one page.
    columns = 8
    shown = _some_of(functions["after"], columns)
    count = int(functions["after"].max())
    width = 1.25 + 1.6 / len(shown)
    figure, grid = grid_of_panels(len(learners) + 1, len(shown), 0.75, width, 0.6)
    # Largest number of letters in one line of a row's label.
    line_letters = 12
    # Largest number of letters of a learner's name in a row's label.
    name_letters = 36
    for line, name in zip(grid, [None, *learners], strict=True):
        predicted = functions[functions["learner"] == (name or learners[0])]
        for panel, after in zip(line, shown, strict=True):
            known = predicted[predicted["after"] == after].sort_values("x0")
            panel.grid(visible=False)
            panel.fill_between(known["x0"], known["truth"], low, color=PALE, lw=0)
            panel.set(xticks=[], yticks=[], ylim=(low - margin, high + margin))
            if name is None:
                points = data[data["phase"] == after]
                panel.plot(points["x0"], points["y"], ".", color=BLACK, ms=2)
                panel.set_title(f"phase {after}" + (f" of {count}" if count > len(shown) else ""))
                continue
            panel.plot(known["x0"], known["output"], color=GREY, lw=0.4)
            places = [known["x0"].between(*pair) for pair in ends.loc[:after].to_numpy()]
            learned = known["output"].where(np.any(places, axis=0))
            colour = BLUE if (known["kind"] == "kan").all() else VERMILLION
            panel.plot(known["x0"], learned, color=colour, lw=1)
        label = "\n".join(wrap(shorten(name or "data", name_letters), line_letters))
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    left, right = functions["x0"].agg(["min", "max"])
    set_remark(figure, f"{PHASES}; x₀ from {left:.3g} to {right:.3g}")
    return figure


def _some_of(column: Any, max_values: int) -> list[Any]:
    """Return the different values of `column` in order.

    If there are more than `max_values`, return evenly spaced ones, including the first and the
    last.
    """
    values = list(dict.fromkeys(column))
    count = min(len(values), max_values)
    return [values[i] for i in np.linspace(0, len(values) - 1, count).round().astype(int)]


@styled
def against(summary: DataFrame, across: str, by: str) -> Figure:
    """Draw the forgetting and the error on all phases against one setting, with lines for another.

    `across` is the column of the horizontal axis; lines join the rows with equal values of the
    column `by`. `summary` also has the columns worst_forgetting and rmse.
    """
    figure, (panels,) = grid_of_panels(1, 2, sharex=True)
    places = list(dict.fromkeys(summary[across]))
    if across == "shape":
        summary = summary.assign(shape=summary["shape"].map(places.index))
    for panel, (column, label) in zip(panels, MEASURES.items(), strict=True):
        series(panel, summary, (across, column), by, floor=SMALLEST, spread="dots")
        panel.set(yscale="log", xlabel=LABELS[across], ylabel=label)
        if across == "shape":
            name_places(panel.xaxis, [f"[{shape}]".replace("-", ",") for shape in places])
    floored = (summary["worst_forgetting"] < SMALLEST).any()
    remark = DOTS + (f"; at 10{power('-11')}: that or less" if floored else "")
    return finish(figure, panels[:1], remark, ncols=2)


@styled
def matrices(matrix: DataFrame) -> Figure:
    """Draw R[i, j], the error on phase j's data after phase i: medians over seeds, by learner.

    `matrix` has the columns learner, after (i), on (j) and error.
    """
    learners = _some_of(matrix["learner"], MAX_ROWS)
    count = int(matrix["after"].nunique())
    # Smallest side of a matrix (inches).
    smallest = 1.65
    # Largest side of a matrix (inches).
    largest = 3.3
    side = float(np.clip(count / 3, smallest, largest))
    # Width of a page of matrices (inches).
    page = 8.5
    # Largest number of matrices in a row.
    most_columns = 4
    columns = min(max(1, int(page / side)), most_columns, len(learners))
    shown = matrix[matrix["learner"].isin(learners)]
    width = side + 0.2 + 1 / columns
    figure, panels = panels_by(shown, "learner", columns, side + 0.4, width=width, sharey=True)
    errors = matrix["error"][np.isfinite(matrix["error"])]
    low = max(SMALLEST, float(errors.min()))
    # Quantile of the errors at the upper end of the colour scale of matrices.
    brightest = 0.95
    norm = LogNorm(low, max(1.0, 10 * low, float(errors.quantile(brightest))))
    look: Any = {"norm": norm, "cmap": "viridis_r", "aspect": "equal"}
    # Largest number of phases for which matrices show their numbers.
    most = 10
    form = short_number if count <= most else None
    for panel, _, rows in panels:
        table = rows.groupby(["after", "on"])["error"].median().unstack()
        values = table.to_numpy(dtype=float).clip(low)
        names = [f"{phase:g}" for phase in table]
        image = heat_map(panel, values, names, names, form, **look)
        panel.tick_params(length=0)
    figure.supxlabel("on phase j", size="medium")
    figure.supylabel("after phase i", size="medium")
    axes = list(figure.axes)
    figure.colorbar(image, ax=axes, label="RMSE", shrink=0.7, aspect=30, extend="both")
    return figure


def short_number(value: float) -> str:
    """Return a number in few characters, such as 2e-6, 0.03, 1.5, 120 or 2e4."""
    if value == 0 or PLAIN[0] <= value < PLAIN[1]:
        return f"{value:.0f}" if value == 0 or value >= 10 else f"{value:.2g}"
    return np.format_float_scientific(value, 0, trim="-", exp_digits=1).replace("+", "")
