"""What learners of `kanrun continual` know after each phase, drawn on the truth: curves, or maps of the plane."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas import DataFrame, Series

from kanrun.figures.style import BLACK, BLUE, PALE, VERMILLION, grid_of_axes, letters, new_figure, say_above, styled

#: Rows and columns of panels that one page holds.
MOST_ROWS, MOST_COLUMNS = 12, 8


@styled
def phases(functions: DataFrame, data: DataFrame) -> Figure:
    """One row a learner, one column a phase: what is known after it, on the truth; above them the phases' data.

    `functions` has the columns learner, kind (kan or mlp), after, x0, truth, output; `data` seed, phase, x0, y.
    """
    learners, count = some_of(functions["learner"], MOST_ROWS), int(functions["after"].max())
    shown = some_of(functions["after"], MOST_COLUMNS)
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
            colour = BLUE if (known["kind"] == "kan").all() else VERMILLION
            rows[below][column].plot(known["x0"], known["output"], color=colour, lw=1.0)
    for row, name in zip(rows, ["data", *learners], strict=True):
        row[0].set_ylabel(_folded(str(name)), rotation=0, ha="right", va="center", fontsize=7.5)
        for panel in row:
            _bare(panel)
            panel.set_ylim(low - margin, high + margin)
    for panel in rows[-1]:
        _ends(panel, functions["x0"])
    say_above(
        figure,
        "grey: the truth; lines: what is known after each phase (blue: KANs, red: MLPs),\n"
        "cut off where it leaves the panel",
    )
    return figure


@styled
def surfaces(functions: DataFrame, data: DataFrame) -> Figure:
    """The same in two dimensions: above the truth and where each phase lies, below what each learner knows after it.

    `functions` has the columns learner, after, x0, x1, truth, output; `data` seed, phase, x0, x1.
    """
    learners, shown = some_of(functions["learner"], MOST_ROWS), some_of(functions["after"], MOST_COLUMNS)
    figure = _with_labels(new_figure(1.0 * (len(learners) + 1) + 0.6, 1.0 * len(shown) + 2.1))
    rows = grid_of_axes(figure, len(learners) + 1, len(shown))
    scale: Any = {"vmin": functions["truth"].min(), "vmax": functions["truth"].max()}
    boxes = _boxes(data[data["seed"] == data["seed"].min()])
    image: Any = None
    for column, after in enumerate(shown):
        for row, name in zip(rows, [learners[0], *learners], strict=True):
            known = functions[(functions["learner"] == name) & (functions["after"] == after)]
            image = _surface(row[column], known, "truth" if row is rows[0] else "output", scale) or image
            for phase, ((left, right), (low, high)) in boxes.items():
                if phase == after or (phase < after and row is not rows[0]):
                    look: Any = {"ls": "-", "lw": 1.2} if phase == after else {"ls": (0, (2, 2)), "lw": 0.8}
                    box = Rectangle((left, low), right - left, high - low, fill=False, ec="white", **look)
                    row[column].add_patch(box)
        rows[0][column].set_title(f"phase {after}", fontsize=8)
        _ends(rows[-1][column], functions["x0"])
    for row, name in zip(rows, ["truth", *learners], strict=True):
        row[0].set_ylabel(_folded(str(name)), rotation=0, ha="right", va="center", fontsize=7.5, labelpad=20)
        row[0].text(-0.05, 0.5, "$x_1$", transform=row[0].transAxes, ha="right", va="center", fontsize=7.5)
    every = [panel for row in rows for panel in row]
    figure.colorbar(image, ax=every, label="truth, and what is known", shrink=0.6, aspect=30, extend="both")
    say_above(figure, "solid boxes: the phase just learned; dashed: earlier ones")
    return figure


def _boxes(data: DataFrame) -> dict[int, tuple[tuple[float, float], tuple[float, float]]]:
    """Where each phase lies, as its ends in x0 and x1."""
    ends = data.groupby("phase")[["x0", "x1"]].agg(["min", "max"])
    rows = zip(ends.index, ends.to_numpy(float), strict=True)
    return {int(phase): ((left, right), (low, high)) for phase, (left, right, low, high) in rows}


def _surface(panel: Axes, known: DataFrame, column: str, scale: Mapping[str, Any]) -> Any:
    _bare(panel)
    if known.empty:
        return None
    table = known.pivot_table(index="x1", columns="x0", values=column, dropna=False)
    extent: Any = (known["x0"].min(), known["x0"].max(), known["x1"].min(), known["x1"].max())
    return panel.imshow(table.to_numpy(), origin="lower", extent=extent, **scale)


def _ends(panel: Axes, values: Series[float]) -> None:
    """The name of the axis below a panel without ticks, and where it starts and ends."""
    ends = [float(values.min()), float(values.max())]
    panel.set_xticks(ends, [f"{end:.3g}".replace("-", "\N{MINUS SIGN}") for end in ends])
    left, right = panel.get_xticklabels()
    left.set_horizontalalignment("left")  # centred ones would touch those of the next panel
    right.set_horizontalalignment("right")
    panel.tick_params(length=2, labelsize=6.5)
    panel.set_xlabel("$x_0$", labelpad=-6)


def _bare(panel: Axes) -> None:
    panel.grid(visible=False)
    panel.set_xticks([])
    panel.set_yticks([])


def some_of(column: Any, most: int) -> list[Any]:
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
