"""The figures of `kanrun continual`: what is known after each phase, and how much was forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas import DataFrame

from kanrun.figures import Figures
from kanrun.figures.panels import (
    DOTS,
    draw_map,
    finish,
    grid_of_panels,
    heat_map,
    log_log,
    medians,
    name_columns,
    one_panel,
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
    first_seed,
    power,
    set_remark,
    shorten,
    styled,
)

#: Rows and columns of panels on one page, and phases up to which matrices show their numbers.
MAX_ROWS, MAX_COLUMNS, MAX_NUMBERED = 12, 8, 10
#: Width of a page of matrices, and limits of the side of one and of their columns.
PAGE, SMALLEST_SIDE, LARGEST_SIDE, MAX_MATRICES = 8.5, 1.65, 3.3, 4
#: Quantile of the errors at which the colours of matrices end.
BRIGHTEST = 0.95
#: Errors and forgetting below this are drawn here: logarithms need a floor.
SMALLEST = 1e-11
#: Range of numbers that are written without a power of ten.
PLAIN = (0.01, 1000)
#: Letters of a line and of a whole name next to a row, and above a matrix.
ROW_NAME, MATRIX_NAME = (12, 36), (24, 44)
MEMORIES = {
    "none": "nothing kept",
    "hold": "seen coefficients frozen",
    "replay": "seen points replayed",
    "rehearse": "own outputs rehearsed",
    "ewc": "EWC",
}
PHASES = (
    "filled: the true function; lines: what is known after each phase (blue: KANs, red: MLPs),\n"
    "thin and grey where no phase has shown data yet, cut off where it leaves the panel"
)


def figures_of(tables: Mapping[str, DataFrame]) -> Figures:
    """Yield the name and the drawing of the figures of every part that was run."""
    if "functions" in tables:
        functions = first_seed(tables["functions"])
        flat = "x1" in functions and functions["x1"].notna().any()
        yield "phases", partial(surfaces if flat else phases, functions, tables["data"])
    if "matrix" not in tables or "summary" not in tables:
        return
    summary = tables["summary"]
    parts = {
        "learners": ("matrices", matrices, tables["matrix"]),
        "intervals": ("error_against_intervals", against_intervals, summary),
        "overlap": ("forgetting_against_overlap", against_overlap, summary),
        "depth": ("forgetting_against_depth", against_depth, summary),
    }
    for part, (name, draw, table) in parts.items():
        if (summary["part"] == part).any():
            yield name, partial(draw, table[table["part"] == part])


@styled
def phases(functions: DataFrame, data: DataFrame) -> Figure:
    """Draw what each learner (row) knows after each phase (column), below the phases' data.

    `functions` has the columns learner, kind (kan or mlp), after, x0, truth, output; `data` seed,
    phase, x0, y.
    """
    low, high = functions["truth"].min(), functions["truth"].max()
    margin = (high - low or 1.0) / 3
    data = first_seed(data).drop_duplicates(["phase", "x0"])
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
        panel.plot(known["x0"], known["output"].where(seen), color=colour, lw=1)

    figure, _ = _by_learner_and_phase(functions, "data", draw, 0.75, 1.25)
    set_remark(figure, PHASES)
    return figure


@styled
def surfaces(functions: DataFrame, data: DataFrame) -> Figure:
    """Draw the same in two dimensions, below the true function and the box of each phase.

    `functions` has the columns learner, after, x0, x1, truth, output; `data` seed, phase, x0, x1.
    """
    limits = float(functions["truth"].min()), float(functions["truth"].max())
    ends = first_seed(data).groupby("phase")[["x0", "x1"]].agg(["min", "max"])

    def draw(panel: Axes, known: DataFrame, after: int, name: str | None) -> None:
        values = known["truth" if name is None else "output"].to_numpy()
        if np.isfinite(values).any():
            x, y = known[["x0", "x1"]].to_numpy().T
            images.append(draw_map(panel, x, y, values, limits))
        shown = ends.loc[:after] if name is not None else ends[ends.index == after]
        for phase, (left, right, bottom, top) in zip(
            shown.index, shown.to_numpy(float), strict=True
        ):
            style: Any = {"fill": False, "ec": "white", "ls": "-" if phase == after else ":"}
            panel.add_patch(Rectangle((left, bottom), right - left, top - bottom, **style))

    images = list[Any]()
    figure, grid = _by_learner_and_phase(functions, "truth", draw, 1.0, 1.0, labelpad=20)
    for panel in grid[:, 0]:
        place: Any = {"transform": panel.transAxes, "ha": "right", "va": "center"}
        panel.text(-0.05, 0.5, "x₁", **place)
    _colour_bar(figure, images[0], list(grid.flat), "truth, and what is known")
    set_remark(figure, "solid boxes: the phase just learned; dotted: earlier ones")
    return figure


def _colour_bar(figure: Figure, image: Any, panels: list[Axes], label: str) -> None:
    figure.colorbar(image, ax=panels, label=label, shrink=0.7, aspect=30, extend="both")


def _by_learner_and_phase(
    functions: DataFrame,
    first: str,
    draw: Callable[[Axes, DataFrame, int, str | None], None],
    height: float,
    width: float,
    **label: Any,
) -> tuple[Figure, Any]:
    """Return bare panels: a row per learner below one named `first`, a column per phase.

    `draw` takes the panel, the rows of `functions`, the phase and the learner (None in the first
    row).
    """
    learners = _some_of(functions["learner"], MAX_ROWS)
    shown = _some_of(functions["after"], MAX_COLUMNS)
    size = width * len(shown) + 1.6
    figure, grid = grid_of_panels(len(learners) + 1, len(shown), height, size, room=0.6)
    engine: Any = figure.get_layout_engine()
    # The layout does not see all of a label that is turned upright.
    engine.set(rect=(0.06, 0, 0.94, 1))
    for line, name in zip(grid, [None, *learners], strict=True):
        own = functions[functions["learner"] == (name or learners[0])]
        for panel, after in zip(line, shown, strict=True):
            panel.grid(visible=False)
            panel.set(xticks=[], yticks=[])
            draw(panel, own[own["after"] == after], after, name)
        text = _wrapped(name or first, ROW_NAME)
        line[0].set_ylabel(text, rotation=0, ha="right", va="center", **label)
    count, ends = int(functions["after"].max()), functions["x0"].agg(["min", "max"])
    for above, below, after in zip(grid[0], grid[-1], shown, strict=True):
        above.set_title(f"phase {after}" + (f" of {count}" if count > len(shown) else ""))
        below.set_xticks(ends, [f"{end:.3g}".replace("-", "\N{MINUS SIGN}") for end in ends])
        # Centred labels would touch those of the next panel.
        for tick, side in zip(below.get_xticklabels(), ("left", "right"), strict=True):
            tick.set_horizontalalignment(side)
        below.tick_params(length=2)
        below.set_xlabel("x₀", labelpad=-6)
    return figure, grid


def _wrapped(name: str, letters: tuple[int, int]) -> str:
    """Return a name in lines, of at most `letters` in a line and in all."""
    line, most = letters
    return "\n".join(wrap(shorten(name, most), line))


def _some_of(column: Any, max_values: int) -> list[Any]:
    """Return the different values; of more than `max_values`, evenly spaced ones with the last."""
    values = list(dict.fromkeys(column))
    count = min(len(values), max_values)
    return [values[i] for i in np.linspace(0, len(values) - 1, count).round().astype(int)]


@styled
def matrices(matrix: DataFrame) -> Figure:
    """Draw R[i, j], the error on phase j's data after phase i: medians over seeds, by learner.

    `matrix` has the columns learner, after, on, error.
    """
    learners, count = _some_of(matrix["learner"], MAX_ROWS), int(matrix["after"].nunique())
    side = float(np.clip(count / 3, SMALLEST_SIDE, LARGEST_SIDE))
    columns = min(max(1, int(PAGE / side)), MAX_MATRICES, len(learners))
    width = (side + 0.2) * columns + 1
    figure, panels = small_multiples(len(learners), columns, side + 0.4, width=width)
    errors = matrix["error"][np.isfinite(matrix["error"])]
    low = max(SMALLEST, float(errors.min()))
    norm = LogNorm(low, max(1.0, 10 * low, float(errors.quantile(BRIGHTEST))))
    look: Any = {"norm": norm, "cmap": "viridis_r", "aspect": "equal"}
    form = short_number if count <= MAX_NUMBERED else None
    for index, (panel, learner) in enumerate(zip(panels, learners, strict=True)):
        rows = matrix[matrix["learner"] == learner]
        table = rows.groupby(["after", "on"])["error"].median().unstack()
        values, names = table.to_numpy(dtype=float).clip(low), [f"{phase:g}" for phase in table]
        image = heat_map(panel, values, names, names, form, **look)
        panel.set_title(_wrapped(learner, MATRIX_NAME), size="medium")
        panel.tick_params(length=0)
        if index + columns >= len(learners):
            panel.set_xlabel("on phase j")
        if index % columns == 0:
            panel.set_ylabel("after phase i")
    _colour_bar(figure, image, panels, "RMSE")
    return figure


def short_number(value: float) -> str:
    """Return a number in few letters: 2e-6, 0.03, 1.5, 120, 2e4."""
    if value == 0 or PLAIN[0] <= value < PLAIN[1]:
        return f"{value:.0f}" if value == 0 or value >= 10 else f"{value:.2g}"
    return np.format_float_scientific(value, 0, trim="-", exp_digits=1).replace("+", "")


@styled
def against_intervals(summary: DataFrame) -> Figure:
    """Draw the RMSE on everything after the last phase against G, and the best spline's.

    `summary` has the columns intervals, rmse, best_spline_rmse, worst_forgetting, degree.
    """
    figure, panel = one_panel()
    for column, style, colour, label in (
        ("rmse", "o-", BLUE, "KAN, after all phases"),
        ("best_spline_rmse", "x", BLACK, "best spline"),
        ("worst_forgetting", "s-", VERMILLION, _forgetting_label(summary).replace(" (", "\n(")),
    ):
        look: Any = {"color": colour, "label": label, "floor": SMALLEST, "spread": "none"}
        medians(panel, summary, ("intervals", column), style, **look)
    exponent, x = -(summary["degree"].iloc[0] + 1), summary["intervals"]
    label = f"G{power(f'{exponent:g}')}"
    power_law(panel, x, summary["rmse"], exponent, ls=":", color=GREY, label=label)
    log_log(panel, x, xlabel="intervals G", ylabel="RMSE, and how much it grew again")
    return finish(figure, [panel], where="outside right center")


@styled
def against_overlap(summary: DataFrame) -> Figure:
    """Draw the forgetting of the worst phase against the overlap of phases.

    `summary` has the columns learner, overlap, worst_forgetting.
    """
    figure, panel = one_panel()
    columns = ("overlap", "worst_forgetting")
    series(panel, summary, columns, "learner", floor=SMALLEST, spread="dots")
    label = _forgetting_label(summary)
    panel.set(yscale="log", xlabel="overlap of neighbouring phases", ylabel=label)
    return finish(figure, [panel], DOTS, where="outside right center")


@styled
def against_depth(summary: DataFrame) -> Figure:
    """Draw forgetting, and the error on everything, of deeper and deeper KANs by their memory.

    `summary` has the columns shape, layers, memory, worst_forgetting, rmse.
    """
    figure, (panels,) = grid_of_panels(1, 2, sharex=True)
    shapes = list(summary.sort_values("layers", kind="stable")["shape"].unique())
    places, words = summary["shape"].map(shapes.index), summary["memory"].map(MEMORIES)
    summary = summary.assign(place=places, memory=words)
    labels = {"worst_forgetting": _forgetting_label(summary), "rmse": "RMSE on everything"}
    for panel, (column, label) in zip(panels, labels.items(), strict=True):
        series(panel, summary, ("place", column), "memory", floor=SMALLEST, spread="dots")
        panel.set(yscale="log", xlabel="nodes of the layers", ylabel=label)
        name_columns(panel, [f"[{shape}]".replace("-", ",") for shape in shapes])
    return finish(figure, panels[:1], DOTS, ncols=2)


def _forgetting_label(summary: DataFrame) -> str:
    """Return the label of an axis of forgetting; values below the floor, 0 too, are drawn on it."""
    floored = (summary["worst_forgetting"] < SMALLEST).any()
    return "forgetting, worst phase" + (f" (10{power('-11')} or less)" if floored else "")
