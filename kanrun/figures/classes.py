"""What was learned of classes: where each lies in the plane, which are taken for which, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanrun.figures.maps import lattice
from kanrun.figures.style import BLACK, CYCLE, SPLITS, grid_of_axes, is_numeric, letters, new_figure, one_panel, thinned

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_MOST_CLASSES = 30
_MOST_NUMBERED = 12  # of more classes, no numbers would fit into the cells


def has_classes(table: pandas.DataFrame, output: str) -> bool:
    """Return whether an output is a class: text, or whole numbers in the truth and in what the network says."""
    names = [name for name in (f"truth:{output}", f"prediction:{output}") if name in table]
    columns = [table[name].dropna() for name in names]
    if not is_numeric(table, [name for name, column in zip(names, columns, strict=True) if len(column)]):
        return True
    return len(columns) == 2 and all(len(column) and not (column % 1).any() for column in columns)


class Labels:
    """The labels of an output, in the order of their numbers or of the alphabet."""

    def __init__(self, table: pandas.DataFrame, output: str) -> None:
        seen = [table[name].dropna() for name in (f"truth:{output}", f"prediction:{output}") if name in table]
        values: set[Any] = {value for column in seen for value in column.unique()}
        number = all(isinstance(value, int | float | np.number) for value in values)
        self.shown = [self.of(value) for value in sorted(values, key=None if number else str)][:_MOST_CLASSES]

    @staticmethod
    def of(value: Any) -> str:
        """Return a recorded label as text; one that looks like a whole number was read as one, or as a float."""
        whole = isinstance(value, int | float | np.number) and float(value).is_integer()
        return str(int(value)) if whole else str(value)


def draw_classes(table: pandas.DataFrame, inputs: Sequence[str], outputs: Sequence[str]) -> Figure:
    """Return a confusion matrix for each output, and, beside that of classes in the plane, a map of them."""
    labels = Labels(table, outputs[0])
    grid = table[table["split"] == "grid"]
    flat = (
        len(inputs) == 2 and is_numeric(table, [f"input:{name}" for name in inputs]) and len(labels.shown) <= len(CYCLE)
    )
    cells = None
    if flat and len(outputs) == 1 and len(grid):
        x, y = (grid[f"input:{name}"].to_numpy(float) for name in inputs)
        numbers = {label: number for number, label in enumerate(labels.shown)}
        found = grid[f"prediction:{outputs[0]}"].map(lambda value: numbers.get(labels.of(value), np.nan))
        cells = lattice(x, y, found.to_numpy(float))
    if cells is None:
        figure = new_figure(3.4 * len(outputs), 4.2)
        for (axes,), output in zip(grid_of_axes(figure, len(outputs), 1), outputs, strict=True):
            _confusion(figure, axes, table, output, Labels(table, output))
        return figure
    figure = new_figure(3.3, 7.2)
    left, right = figure.subplots(1, 2)
    _class_map(left, cells, table, inputs, outputs[0], labels)
    _confusion(figure, right, table, outputs[0], labels)
    return figure


def draw_wrong(table: pandas.DataFrame, output: str) -> Figure:
    """Return how many points of each class are taken for another, in per cent, by split."""
    labels = Labels(table, output)
    figure, axes = one_panel(0.32 * len(labels.shown) + 1.2, 5.4)
    for offset, split in ((-0.2, "train"), (0.2, "test")):
        truth, guess = _judged(table, output, split, labels)
        if len(truth):
            shares = [100 * float((guess[truth == label] != label).mean()) if (truth == label).any() else 0.0
                      for label in labels.shown]  # fmt: skip
            places = np.arange(len(shares)) + offset
            bars = axes.barh(places, shares, 0.38, color=SPLITS[split], label=f"{split}: {len(truth)} points")
            axes.bar_label(bars, [f"{share:.3g}" for share in shares], fontsize=6, padding=2)
    axes.set_yticks(range(len(labels.shown)), [letters(label, 20) for label in labels.shown])
    axes.set(xlabel="points taken for another class, %", xlim=(0, max(1.0, 1.15 * axes.get_xlim()[1])))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if axes.containers:
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _judged(table: pandas.DataFrame, output: str, split: str, labels: Labels) -> tuple[Any, Any]:
    """Truth and prediction as labels, of the rows of a split that have both."""
    rows = _known(table[table["split"] == split], output)
    return rows[f"truth:{output}"].map(labels.of), rows[f"prediction:{output}"].map(labels.of)


def _known(table: pandas.DataFrame, output: str) -> pandas.DataFrame:
    """The rows with truth and prediction."""
    if f"truth:{output}" not in table:
        table = table.assign(**{f"truth:{output}": np.nan})
    return table.dropna(subset=[f"truth:{output}", f"prediction:{output}"])


def _confusion(figure: Figure, axes: Axes, table: pandas.DataFrame, output: str, labels: Labels) -> None:
    split = "test" if (table["split"] == "test").any() else "train"
    truth, guess = _judged(table, output, split, labels)
    classes = labels.shown
    if not classes:
        axes.set_axis_off()
        return
    counts = np.array([[int(((truth == a) & (guess == b)).sum()) for b in classes] for a in classes]).reshape(
        len(classes), len(classes)
    )
    image = axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(1, counts.max(initial=0)), aspect="auto")
    axes.grid(visible=False)
    names = [letters(name, 14) for name in classes]
    turned = sum(len(name) + 2 for name in names) > 34  # more letters would touch each other
    axes.set_xticks(range(len(classes)), names, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(len(classes)), names)
    if len(classes) <= _MOST_NUMBERED:
        for (i, j), count in np.ndenumerate(counts):
            dark = count > counts.max() / 2
            axes.text(j, i, str(count), ha="center", va="center", color="white" if dark else BLACK)
    right = float(np.trace(counts)) / max(1, len(truth))
    axes.set(xlabel="prediction", ylabel="truth", title=f"{letters(output, 30)}, {split}: {right:.1%} right")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="points")
    bar.locator = MaxNLocator(5, integer=True)
    bar.update_ticks()


def _class_map(
    axes: Axes, cells: tuple[Any, Any, Any], table: pandas.DataFrame, inputs: Sequence[str], output: str, labels: Labels
) -> None:
    """The prediction everywhere as a pale colour, training and test points in the colour of their truth."""
    colours = list(CYCLE[: len(labels.shown)])
    options: Any = {"cmap": ListedColormap(colours), "vmin": -0.5, "vmax": len(colours) - 0.5, "rasterized": True}
    axes.grid(visible=False)
    axes.pcolormesh(*cells, shading="nearest", alpha=0.25, lw=0, **options)
    points = thinned(table[table["split"].isin(["train", "validation", "test"])])
    points = _known(points, output)
    truth, guess = (points[f"{kind}:{output}"].map(labels.of) for kind in ("truth", "prediction"))
    x, y = (points[f"input:{name}"] for name in inputs)
    for colour, label, marker in zip(colours, labels.shown, "os^DvPX", strict=False):
        some = truth == label
        look: Any = {"s": 12, "c": colour, "lw": 0.3, "ec": "white", "marker": marker, "zorder": 2}
        axes.scatter(x[some], y[some], label=letters(label, 20), **look)
    wrong = truth != guess
    if wrong.any():
        look = {"s": 45, "fc": "none", "ec": BLACK, "lw": 0.9, "zorder": 3}
        axes.scatter(x[wrong], y[wrong], label="taken for another", **look)
    axes.set(xlabel=letters(inputs[0], 30), ylabel=letters(inputs[1], 30), title="areas: prediction; points: truth")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
