"""The figures of `kanrun continual`: what is known after each phase, and how much was forgotten."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas import DataFrame, Series

from kanrun.figures.panels import (
    DOTS,
    finished,
    log_log,
    medians,
    power_law,
    series,
    small_multiples,
)
from kanrun.figures.style import (
    BLACK,
    BLUE,
    GREY,
    PALE,
    VERMILLION,
    grid_of_axes,
    letters,
    new_figure,
    one_panel,
    say_above,
    styled,
)
from kanrun.study.experiment import Figures

MOST_ROWS, MOST_COLUMNS = 12, 8  # of panels on one page
MOST_NUMBERS = 10  # phases up to which the cells of matrices carry their numbers
#: Errors and forgetting below this are drawn here: logarithms need a floor.
SMALLEST = 1e-11
MEMORIES = {
    "none": "nothing kept",
    "hold": "seen coefficients held",
    "replay": "seen points replayed",
    "rehearse": "own outputs rehearsed",
    "ewc": "EWC",
}


def figures_of(tables: Mapping[str, DataFrame]) -> Figures:
    """The figures of every part that is there."""
    if "functions" in tables:
        functions = tables["functions"]
        functions = functions[functions["seed"] == functions["seed"].min()]
        flat = "x1" in functions and functions["x1"].notna().any()
        yield "phases", partial(surfaces if flat else phases, functions, tables["data"])
    if "matrix" not in tables or "summary" not in tables:
        return
    parts = {str(part): rows for part, rows in tables["summary"].groupby("part", sort=False)}
    if "learners" in parts:
        yield "matrices", partial(matrices, tables["matrix"].query("part == 'learners'"))
    if "intervals" in parts:
        yield "error_against_intervals", partial(against_intervals, parts["intervals"])
    if "overlap" in parts:
        yield "forgetting_against_overlap", partial(against_overlap, parts["overlap"])
    if "depth" in parts:
        yield "forgetting_against_depth", partial(against_depth, parts["depth"])


@styled
def phases(functions: DataFrame, data: DataFrame) -> Figure:
    """One row per learner, one column per phase: what is known after it, on the truth; above them the phases' data.

    `functions` has the columns learner, kind (kan or mlp), after, x0, truth, output; `data` seed, phase, x0, y.
    """
    low, high = functions["truth"].min(), functions["truth"].max()
    margin = 0.3 * (high - low or 1.0)
    data = data[data["seed"] == data["seed"].min()].drop_duplicates(["phase", "x0"])
    ends = data.groupby("phase")["x0"].agg(["min", "max"])

    def draw(panel: Axes, known: DataFrame, after: int, name: str | None) -> None:
        panel.fill_between(known["x0"], known["truth"], low, color=PALE, lw=0)
        panel.set_ylim(low - margin, high + margin)
        if name is None:
            points = data[data["phase"] == after]
            panel.plot(points["x0"], points["y"], ".", color=BLACK, ms=2)
            return
        colour = BLUE if (known["kind"] == "kan").all() else VERMILLION
        panel.plot(known["x0"], known["output"], color=GREY, lw=0.4)
        seen = np.any([known["x0"].between(*pair) for pair in ends.loc[:after].to_numpy()], axis=0)
        panel.plot(known["x0"], known["output"].where(seen), color=colour, lw=1.0)

    figure, _ = _by_learner_and_phase(functions, "data", draw, (0.72, 0.5), (1.25, 1.2))
    remark = "filled: the truth; lines: what is known after each phase (blue: KANs, red: MLPs),\n"
    say_above(
        figure,
        f"{remark}thin and grey where no phase has shown data yet, cut off where it leaves the panel",
    )
    return figure


@styled
def surfaces(functions: DataFrame, data: DataFrame) -> Figure:
    """The same in two dimensions: above the truth and where each phase lies, below what each learner knows after it.

    `functions` has the columns learner, after, x0, x1, truth, output; `data` seed, phase, x0, x1.
    """
    scale: Any = {
        "vmin": functions["truth"].min(),
        "vmax": functions["truth"].max(),
        "origin": "lower",
    }
    ends = (
        data[data["seed"] == data["seed"].min()].groupby("phase")[["x0", "x1"]].agg(["min", "max"])
    )

    def draw(panel: Axes, known: DataFrame, after: int, name: str | None) -> None:
        if len(known):
            values = "truth" if name is None else "output"
            table = known.pivot_table(index="x1", columns="x0", values=values, dropna=False)
            extent: Any = (
                known["x0"].min(),
                known["x0"].max(),
                known["x1"].min(),
                known["x1"].max(),
            )
            panel.imshow(table.to_numpy(), extent=extent, **scale)
        for phase, (left, right, low, high) in zip(ends.index, ends.to_numpy(float), strict=True):
            if phase == after or (phase < after and name is not None):
                look: Any = (
                    {"ls": "-", "lw": 1.2} if phase == after else {"ls": (0, (2, 2)), "lw": 0.8}
                )
                panel.add_patch(
                    Rectangle((left, low), right - left, high - low, fill=False, ec="white", **look)
                )

    figure, rows = _by_learner_and_phase(
        functions, "truth", draw, (1.0, 0.6), (1.0, 2.1), labelpad=20
    )
    for row in rows:
        row[0].text(
            -0.05, 0.5, "$x_1$", transform=row[0].transAxes, ha="right", va="center", fontsize=7.5
        )
    every = [panel for row in rows for panel in row]
    image = next(panel.images[0] for panel in every if panel.images)
    figure.colorbar(
        image, ax=every, label="truth, and what is known", shrink=0.6, aspect=30, extend="both"
    )
    say_above(figure, "solid boxes: the phase just learned; dashed: earlier ones")
    return figure


def _by_learner_and_phase(
    functions: DataFrame,
    first: str,
    draw: Callable[[Axes, DataFrame, int, str | None], None],
    height: tuple[float, float],
    width: tuple[float, float],
    **options: Any,
) -> tuple[Figure, list[list[Axes]]]:
    """Bare panels, a row per learner below one named `first`, a column per phase; `draw` takes what is known in each.

    Sizes are inches of each panel and of what is beside. There is room at the left: the layout does not see all of a
    label that is turned upright.
    """
    learners, shown = (
        _some_of(functions["learner"], MOST_ROWS),
        _some_of(functions["after"], MOST_COLUMNS),
    )
    figure = new_figure(
        height[0] * (len(learners) + 1) + height[1], width[0] * len(shown) + width[1]
    )
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.06, 0, 0.94, 1))
    rows = grid_of_axes(figure, len(learners) + 1, len(shown))
    for row, name in zip(rows, [None, *learners], strict=True):
        for panel, after in zip(row, shown, strict=True):
            panel.grid(visible=False)
            panel.set(xticks=[], yticks=[])
            known = functions[
                (functions["learner"] == (name or learners[0])) & (functions["after"] == after)
            ]
            draw(panel, known, after, name)
        text = "\n".join(wrap(letters(str(name or first), 36), 12))
        row[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7.5, **options)
    count = int(functions["after"].max())
    for above, below, after in zip(rows[0], rows[-1], shown, strict=True):
        above.set_title(
            f"phase {after}" + (f" of {count}" if count > len(shown) else ""), fontsize=8
        )
        _name_ends(below, functions["x0"])
    return figure, rows


def _name_ends(panel: Axes, values: Series[float]) -> None:
    """The name of the axis below a panel without ticks, and where it starts and ends."""
    ends = [float(values.min()), float(values.max())]
    panel.set_xticks(ends, [f"{end:.3g}".replace("-", "\N{MINUS SIGN}") for end in ends])
    left, right = panel.get_xticklabels()
    left.set_horizontalalignment("left")  # centred ones would touch those of the next panel
    right.set_horizontalalignment("right")
    panel.tick_params(length=2, labelsize=6.5)
    panel.set_xlabel("$x_0$", labelpad=-6)


def _some_of(column: Any, most: int) -> list[Any]:
    """The different values in their order; of more than `most`, evenly spaced ones with the last."""
    values = list(dict.fromkeys(column))
    if len(values) <= most:
        return values
    return [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]


@styled
def matrices(matrix: DataFrame) -> Figure:
    """R[i, j], the error on phase j's data after phase i, one panel per learner, medians over seeds.

    `matrix` has the columns learner, after, on, error.
    """
    learners, count = _some_of(matrix["learner"], MOST_ROWS), int(matrix["after"].nunique())
    side = float(np.clip(0.33 * count, 1.65, 3.3))
    columns = min(max(1, int(8.5 / side)), 4, len(learners))
    figure, panels = small_multiples(
        len(learners), columns, side + 0.4, 0.3, (side + 0.2) * columns + 1.0
    )
    errors = matrix["error"][np.isfinite(matrix["error"])]
    low = max(SMALLEST, float(errors.min()))
    norm = LogNorm(low, max(1.0, 10 * low, float(errors.quantile(0.95))))
    image: Any = None
    for panel, learner in zip(panels, learners, strict=True):
        rows = matrix[matrix["learner"] == learner]
        table = rows.pivot_table(
            index="after", columns="on", values="error", aggfunc="median", dropna=False
        )
        image = panel.imshow(table.to_numpy().clip(low), norm=norm, cmap="viridis_r")
        if count <= MOST_NUMBERS:
            _number_cells(panel, table.to_numpy(), norm)
        panel.set_title("\n".join(wrap(letters(str(learner), 44), 24)), fontsize=7.5)
        ticks = range(0, len(table), -(-len(table) // 10))
        panel.set_xticks(ticks, [f"{table.columns[t]:g}" for t in ticks])
        panel.set_yticks(ticks, [f"{table.index[t]:g}" for t in ticks])
        panel.grid(visible=False)
        panel.tick_params(length=0)
    for panel in panels[-columns:]:
        panel.set_xlabel("on phase $j$")
    for panel in panels[::columns]:
        panel.set_ylabel("after phase $i$")
    figure.colorbar(image, ax=panels, label="RMSE $R_{ij}$", shrink=0.8, aspect=30, extend="both")
    return figure


def _number_cells(panel: Axes, errors: np.ndarray[Any, Any], norm: LogNorm) -> None:
    for (row, column), error in np.ndenumerate(errors):
        if np.isfinite(error):
            dark = norm(max(error, norm.vmin or SMALLEST)) > 0.45
            look: Any = {
                "color": "white" if dark else BLACK,
                "fontsize": 6,
                "ha": "center",
                "va": "center",
            }
            panel.text(column, row, short_number(error), **look)


def short_number(value: float) -> str:
    """Return a number in few letters: 2e-6, 0.03, 1.5, 120, 2e4."""
    if 0.01 <= value < 1000:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    return (
        re.sub(r"e([-+])0*", lambda found: "e" + found[1].strip("+"), f"{value:.0e}")
        if value
        else "0"
    )


@styled
def against_intervals(summary: DataFrame) -> Figure:
    """RMSE on everything after the last phase against G, beside the best spline's and the theory's slope.

    `summary` has the columns intervals, rmse, best_spline_rmse, worst_forgetting, degree.
    """
    figure, panel = one_panel(2.9, 4.6)
    lost = _of_forgetting(summary["worst_forgetting"]).replace(" (", "\n(")
    for column, style, colour, label in (
        ("rmse", "o-", BLUE, "KAN, after all phases"),
        ("best_spline_rmse", "x", BLACK, "best spline"),
        ("worst_forgetting", "s-", VERMILLION, lost),
    ):
        look: Any = {"floor": SMALLEST, "spread": "none", "ms": 6 if style == "x" else 3}
        medians(panel, summary, ("intervals", column), style, color=colour, label=label, **look)
    power = -(summary["degree"].iloc[0] + 1)
    power_law(
        panel,
        summary["intervals"],
        summary["rmse"],
        power,
        ls=":",
        color=GREY,
        label=f"$G^{{{power:g}}}$",
    )
    log_log(
        panel,
        summary["intervals"],
        xlabel="intervals $G$",
        ylabel="RMSE, and how much it grew again",
    )
    return finished(figure, [panel], where="outside right center")


@styled
def against_overlap(summary: DataFrame) -> Figure:
    """Forgetting of the worst phase against the overlap of phases: medians, and all seeds as points.

    `summary` has the columns learner, overlap, worst_forgetting.
    """
    figure, panel = one_panel(2.7, 4.6)
    series(
        panel,
        summary,
        ("overlap", "worst_forgetting"),
        "learner",
        "-",
        floor=SMALLEST,
        spread="dots",
    )
    label = _of_forgetting(summary["worst_forgetting"])
    panel.set(yscale="log", xlabel="overlap of neighbouring phases", ylabel=label)
    return finished(figure, [panel], DOTS, where="outside right center")


@styled
def against_depth(summary: DataFrame) -> Figure:
    """Forgetting, and the error on everything, of KANs of more and more layers, by what they keep.

    `summary` has the columns shape, layers, memory, worst_forgetting, rmse.
    """
    figure = new_figure(3.2)
    panels = figure.subplots(1, 2, sharex=True)
    shapes = list(dict.fromkeys(summary.sort_values("layers", kind="stable")["shape"]))
    summary = summary.assign(
        place=summary["shape"].map(shapes.index), memory=summary["memory"].map(MEMORIES)
    )
    names = [f"[{shape}]".replace("-", ",") for shape in shapes]
    turned = 30 if sum(map(len, names)) > 30 else 0  # more letters would touch each other
    labels = {
        "worst_forgetting": _of_forgetting(summary["worst_forgetting"]),
        "rmse": "RMSE on everything",
    }
    for panel, (column, label) in zip(panels, labels.items(), strict=True):
        series(panel, summary, ("place", column), "memory", floor=SMALLEST, spread="dots")
        panel.set(yscale="log", xlabel="nodes of the layers", ylabel=label)
        panel.set_xticks(
            range(len(shapes)), names, rotation=turned, ha="right" if turned else "center"
        )
    return finished(figure, panels[:1], DOTS, ncols=2)


def _of_forgetting(values: Series[float]) -> str:
    """The label of an axis of forgetting: what is less than the floor, 0 too, is drawn on it."""
    return "forgetting, worst phase" + (" (10⁻¹¹ or less)" if (values < SMALLEST).any() else "")
