"""Figures of classes: their areas in the plane, which are predicted as which, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.panels import (
    finish,
    grid_of_panels,
    heat_map,
    lattice,
    name_rows,
    one_panel,
    small_multiples,
)
from kanrun.figures.style import (
    BLACK,
    CYCLE,
    MARKERS,
    SPLITS,
    is_numeric,
    shorten,
    thin,
)

MAX_CLASSES = 30


def has_classes(table: pandas.DataFrame, output: str) -> bool:
    """Return whether an output is text, or whole numbers in both truth and prediction."""
    names = [name for name in (f"truth:{output}", f"prediction:{output}") if name in table]
    columns = {name: table[name].dropna() for name in names}
    if not is_numeric(table, [name for name, column in columns.items() if len(column)]):
        return True
    whole = [len(column) and not (column % 1).any() for column in columns.values()]
    return len(columns) == 2 and all(whole)


def _label_text(value: Any) -> str:
    """Return a recorded label as text; a label 7 may have been read as 7.0."""
    whole = isinstance(value, int | float | np.number) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _labelled(table: pandas.DataFrame, output: str) -> tuple[pandas.DataFrame, list[str]]:
    """Return the columns split, truth and guess of all rows as text, and the sorted labels."""
    missing = pandas.Series(np.nan, index=table.index, dtype=object)
    sides = {"truth": table.get(f"truth:{output}", missing), "guess": table[f"prediction:{output}"]}
    values: set[Any] = {value for side in sides.values() for value in side.dropna().unique()}
    numeric = all(isinstance(value, int | float | np.number) for value in values)
    labels = [_label_text(value) for value in sorted(values, key=None if numeric else str)]
    texts = {
        name: side.astype(object).map(_label_text, na_action="ignore")
        for name, side in sides.items()
    }
    return pandas.DataFrame({"split": table["split"], **texts}), labels[:MAX_CLASSES]


def draw_classes(table: pandas.DataFrame, inputs: Sequence[str], outputs: Sequence[str]) -> Figure:
    """Draw a confusion matrix per output; for two inputs, also a map of the classes."""
    rows, labels = _labelled(table, outputs[0])
    columns = [f"input:{name}" for name in inputs]
    grid, cells = rows["split"] == "grid", None
    if len(inputs) == 2 and len(outputs) == 1 and is_numeric(table, columns) and grid.any():
        numbers = {label: float(index) for index, label in enumerate(labels[: len(CYCLE)])}
        x, y = table.loc[grid, columns].to_numpy(dtype=float).T
        cells = lattice(x, y, np.asarray(rows.loc[grid, "guess"].map(numbers), dtype=np.float64))
    if cells is None:
        figure, panels = small_multiples(len(outputs), height=3.2, width=4.2)
        for axes, output in zip(panels, outputs, strict=True):
            _draw_confusion(axes, output, *_labelled(table, output))
        return figure
    figure, ((left, right),) = grid_of_panels(1, 2, 3.2, width=7.2)
    points = rows.assign(x=table[columns[0]], y=table[columns[1]])
    _draw_areas(left, cells, points, labels)
    names = [shorten(name) for name in inputs]
    left.set(xlabel=names[0], ylabel=names[1], title="areas: prediction; points: truth")
    _draw_confusion(right, outputs[0], rows, labels)
    return figure


def draw_wrong(table: pandas.DataFrame, output: str) -> Figure:
    """Draw the fraction of misclassified points of each class, by split."""
    table, labels = _labelled(table, output)
    figure, axes = one_panel(0.32 * len(labels) + 0.8)
    for offset, split in ((-0.2, "train"), (0.2, "test")):
        rows = table[table["split"] == split].dropna()
        if len(rows):
            wrong = (rows["truth"] != rows["guess"]).groupby(rows["truth"]).mean()
            percent = 100 * wrong.reindex(labels, fill_value=0.0).to_numpy(dtype=float)
            look: Any = {"color": SPLITS[split], "label": f"{split}: {len(rows)} points"}
            bars = axes.barh(np.arange(len(labels)) + offset, percent, 0.38, **look)
            axes.bar_label(bars, fmt="{:.3g}", size="small", padding=2)
    name_rows(axes, [shorten(label) for label in labels])
    axes.set(xlabel="misclassified points (%)", xlim=(0, max(1.0, 1.15 * axes.get_xlim()[1])))
    return finish(figure, [axes], where="outside upper center", ncols=2)


def _draw_confusion(axes: Axes, output: str, rows: pandas.DataFrame, labels: list[str]) -> None:
    split = "test" if (rows["split"] == "test").any() else "train"
    rows = rows[rows["split"] == split].dropna()
    if not labels:
        axes.set_axis_off()
        return
    table = pandas.crosstab(rows["truth"], rows["guess"])
    counts = table.reindex(index=labels, columns=labels, fill_value=0).to_numpy(dtype=float)
    look: Any = {"cmap": "Blues", "vmin": 0, "vmax": max(1, counts.max())}
    image = heat_map(axes, counts, labels, labels, "{:.0f}".format, **look)
    right = float((rows["truth"] == rows["guess"]).mean()) if len(rows) else 0.0
    title = f"{shorten(output)}, {split}: {right:.1%} correct"
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    ticks = MaxNLocator(5, integer=True)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="points", ticks=ticks)


def _draw_areas(
    axes: Axes, cells: tuple[Any, Any, Any], rows: pandas.DataFrame, labels: list[str]
) -> None:
    """Draw the predicted class as pale areas, and points in the colour of their true class."""
    colours = ListedColormap(list(CYCLE[: len(labels)]))
    look: Any = {"cmap": colours, "vmin": -0.5, "vmax": len(labels) - 0.5, "rasterized": True}
    axes.grid(visible=False)
    axes.pcolormesh(*cells, shading="nearest", alpha=0.25, lw=0, **look)
    points = thin(rows[rows["split"] != "grid"]).dropna()
    for colour, label, marker in zip(CYCLE, labels, MARKERS, strict=False):
        some = points[points["truth"] == label]
        pen: Any = {"s": 12, "c": colour, "lw": 0.3, "ec": "white", "marker": marker}
        axes.scatter(some["x"], some["y"], label=shorten(label), **pen)
    wrong = points[points["truth"] != points["guess"]]
    if len(wrong):
        axes.scatter(wrong["x"], wrong["y"], s=45, fc="none", ec=BLACK, label="misclassified")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
