"""What was learned of classes: where each lies in the plane, which are taken for which, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.maps import lattice
from kanrun.figures.panels import finished, named_rows
from kanrun.figures.style import (
    BLACK,
    CYCLE,
    SPLITS,
    grid_of_axes,
    is_numeric,
    letters,
    new_figure,
    one_panel,
    thinned,
)

_MOST_CLASSES = 30
_MOST_NUMBERED = 12  # of more classes, no numbers would fit into the cells


def has_classes(table: pandas.DataFrame, output: str) -> bool:
    """Return whether an output is a class: text, or whole numbers in the truth and in what the network says."""
    names = [name for name in (f"truth:{output}", f"prediction:{output}") if name in table]
    columns = [table[name].dropna() for name in names]
    if not is_numeric(
        table, [name for name, column in zip(names, columns, strict=True) if len(column)]
    ):
        return True
    return len(columns) == 2 and all(len(column) and not (column % 1).any() for column in columns)


def _text_of(value: Any) -> str:
    """Return a recorded label as text; one that looks like a whole number was read as one, or as a float."""
    whole = isinstance(value, int | float | np.number) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _labelled(table: pandas.DataFrame, output: str) -> tuple[pandas.DataFrame, list[str]]:
    """Return split, truth and guess of all rows as text, and the labels by their numbers or the alphabet."""
    missing = pandas.Series(np.nan, index=table.index, dtype=object)
    sides = {"truth": table.get(f"truth:{output}", missing), "guess": table[f"prediction:{output}"]}
    values: set[Any] = {value for side in sides.values() for value in side.dropna().unique()}
    number = all(isinstance(value, int | float | np.number) for value in values)
    shown = [_text_of(value) for value in sorted(values, key=None if number else str)][
        :_MOST_CLASSES
    ]
    texts = {
        name: side.astype(object).map(_text_of, na_action="ignore") for name, side in sides.items()
    }
    return pandas.DataFrame({"split": table["split"], **texts}), shown


def draw_classes(table: pandas.DataFrame, inputs: Sequence[str], outputs: Sequence[str]) -> Figure:
    """Return a confusion matrix for each output, and, beside that of classes in the plane, a map of them."""
    rows, labels = _labelled(table, outputs[0])
    flat = (
        len(inputs) == 2
        and len(outputs) == 1
        and is_numeric(table, [f"input:{name}" for name in inputs])
    )
    grid, cells = rows["split"] == "grid", None
    if flat and len(labels) <= len(CYCLE) and grid.any():
        x, y = (table.loc[grid, f"input:{name}"].to_numpy(float) for name in inputs)
        numbers = {label: float(number) for number, label in enumerate(labels)}
        cells = lattice(
            x, y, np.array([numbers.get(guess, np.nan) for guess in rows.loc[grid, "guess"]])
        )
    if cells is None:
        figure = new_figure(3.4 * len(outputs), 4.2)
        for (axes,), output in zip(grid_of_axes(figure, len(outputs), 1), outputs, strict=True):
            _confusion(axes, output, *_labelled(table, output))
        return figure
    figure = new_figure(3.3, 7.2)
    left, right = figure.subplots(1, 2)
    _class_map(
        left,
        cells,
        rows.assign(x=table[f"input:{inputs[0]}"], y=table[f"input:{inputs[1]}"]),
        labels,
    )
    left.set(
        xlabel=letters(inputs[0], 30),
        ylabel=letters(inputs[1], 30),
        title="areas: prediction; points: truth",
    )
    _confusion(right, outputs[0], rows, labels)
    return figure


def draw_wrong(table: pandas.DataFrame, output: str) -> Figure:
    """Return how many points of each class are taken for another, in per cent, by split."""
    table, labels = _labelled(table, output)
    figure, axes = one_panel(0.32 * len(labels) + 1.2, 5.4)
    for offset, split in ((-0.2, "train"), (0.2, "test")):
        rows = table[table["split"] == split].dropna()
        if len(rows):
            wrong = (rows["truth"] != rows["guess"]).groupby(rows["truth"]).mean()
            shares = 100 * wrong.reindex(labels, fill_value=0.0).to_numpy(float)
            places, label = np.arange(len(shares)) + offset, f"{split}: {len(rows)} points"
            bars = axes.barh(places, shares, 0.38, color=SPLITS[split], label=label)
            axes.bar_label(bars, [f"{share:.3g}" for share in shares], fontsize=6, padding=2)
    named_rows(axes, [letters(label, 20) for label in labels])
    axes.set(
        xlabel="points taken for another class, %", xlim=(0, max(1.0, 1.15 * axes.get_xlim()[1]))
    )
    return finished(figure, [axes], where="outside upper center", ncols=2)


def _confusion(axes: Axes, output: str, rows: pandas.DataFrame, labels: list[str]) -> None:
    split = "test" if (rows["split"] == "test").any() else "train"
    rows = rows[rows["split"] == split].dropna()
    if not labels:
        axes.set_axis_off()
        return
    table = pandas.crosstab(rows["truth"], rows["guess"])
    counts = table.reindex(index=labels, columns=labels, fill_value=0).to_numpy(dtype=int)
    image = axes.imshow(
        counts, cmap="Blues", vmin=0, vmax=max(1, counts.max(initial=0)), aspect="auto"
    )
    axes.grid(visible=False)
    names = [letters(name, 14) for name in labels]
    turned = sum(len(name) + 2 for name in names) > 34  # more letters would touch each other
    axes.set_xticks(
        range(len(labels)), names, rotation=45 if turned else 0, ha="right" if turned else "center"
    )
    axes.set_yticks(range(len(labels)), names)
    if len(labels) <= _MOST_NUMBERED:
        for (i, j), count in np.ndenumerate(counts):
            dark = count > counts.max() / 2
            axes.text(j, i, str(count), ha="center", va="center", color="white" if dark else BLACK)
    right = float((rows["truth"] == rows["guess"]).mean()) if len(rows) else 0.0
    axes.set(
        xlabel="prediction",
        ylabel="truth",
        title=f"{letters(output, 30)}, {split}: {right:.1%} right",
    )
    axes.figure.colorbar(
        image, ax=axes, shrink=0.8, label="points", ticks=MaxNLocator(5, integer=True)
    )


def _class_map(
    axes: Axes, cells: tuple[Any, Any, Any], rows: pandas.DataFrame, labels: list[str]
) -> None:
    """The prediction everywhere as a pale colour, training and test points in the colour of their truth."""
    colours = list(CYCLE[: len(labels)])
    options: Any = {
        "cmap": ListedColormap(colours),
        "vmin": -0.5,
        "vmax": len(colours) - 0.5,
        "rasterized": True,
    }
    axes.grid(visible=False)
    axes.pcolormesh(*cells, shading="nearest", alpha=0.25, lw=0, **options)
    points = thinned(rows[rows["split"].isin(["train", "validation", "test"])]).dropna()
    for colour, label, marker in zip(colours, labels, "os^DvPX", strict=False):
        some = points[points["truth"] == label]
        look: Any = {"s": 12, "c": colour, "lw": 0.3, "ec": "white", "marker": marker, "zorder": 2}
        axes.scatter(some["x"], some["y"], label=letters(label, 20), **look)
    wrong = points[points["truth"] != points["guess"]]
    if len(wrong):
        look = {"s": 45, "fc": "none", "ec": BLACK, "lw": 0.9, "zorder": 3}
        axes.scatter(wrong["x"], wrong["y"], label="taken for another", **look)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
