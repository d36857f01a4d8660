"""Predicted classes and their probabilities: confusion matrices, a map of classes, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from pandas import CategoricalDtype, DataFrame, Series, concat, crosstab

from kanrun.figures.panels import (
    MAX_NUMBERED,
    draw_map,
    grid_of_panels,
    heat_map,
    small_multiples,
)
from kanrun.figures.style import (
    BAND,
    BLACK,
    CYCLE,
    JUDGED,
    MARKERS,
    NUMBERS,
    Look,
    first_seed,
    named_columns,
    number,
    shorten,
    styled,
    thin,
)
from kanrun.points import Array

#: Largest number of classes of a confusion matrix.
MAX_CLASSES = 30
#: Height and width of a confusion matrix (inches).
MATRIX = (3.2, 4.2)
#: Height of a map of classes and of curves of probabilities (inches).
SIDE = 3.2
#: Number of groups of rows with similar probabilities, whose mean is compared with the observed
#: frequency.
GROUPS = 10
#: Number of rows whose precision is drawn first: that of fewer rows jumps between 0 and 1.
FEWEST_ROWS = 10
POINTS: Look = {"s": 12, "lw": 0.3, "ec": "white"}
WRONG: Look = {"s": 45, "fc": "none", "ec": BLACK, "label": "misclassified"}
CHANCE: Look = {"color": BLACK, "lw": 0.8, "ls": ":"}
#: Columns of the true and of the predicted class.
SIDES = ["truth", "guess"]


@styled
def class_predictions(table: DataFrame) -> Figure:
    """Draw the confusion matrix of the first seed; of two numeric inputs, also a map of classes.

    `table` has the columns seed, split, `input:<name>` per input, and `truth:<name>` and
    `prediction:<name>` of the output. The matrix is that of the test points, or else of the
    held-out or training points.
    """
    output, rows = _labelled(table)
    split = max(set(rows["split"]) & set(JUDGED), key=JUDGED.index, default="train")
    inputs = named_columns(rows, "input:")
    is_map = all(rows[name].dtype.kind in NUMBERS for name in inputs) and len(inputs) == 2
    if not is_map or not (rows["split"] == "grid").any():
        return _matrices(output, rows, [split])
    figure, ((left, right),) = grid_of_panels(1, 2, SIDE)
    _draw_matrix(right, output, rows, split)
    (x, across), (y, up) = inputs.items()
    left.set(xlabel=across, ylabel=up, title="areas: prediction; points: truth")
    grid = rows[rows["split"] == "grid"]
    codes = grid["guess"].cat.codes
    codes = codes.where(codes.between(0, len(CYCLE) - 1))
    pale = ListedColormap([to_rgba(colour, BAND["alpha"]) for colour in CYCLE])
    draw_map(left, grid[x], grid[y], codes, (-0.5, len(CYCLE) - 0.5), pale)
    points = thin(rows[rows["split"] != "grid"]).dropna()
    for colour, label, marker in zip(CYCLE, rows["truth"].cat.categories, MARKERS, strict=False):
        some = points[points["truth"] == label]
        pen: Any = {"c": colour, "marker": marker, "label": shorten(label), **POINTS}
        left.scatter(some[x], some[y], **pen)
    wrong = points[points["truth"] != points["guess"]]
    left.scatter(wrong[x], wrong[y], **WRONG)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure


@styled
def confusion(table: DataFrame) -> Figure:
    """Draw a confusion matrix of the first seed's training, held-out and test points each.

    `table` is as for `class_predictions`.
    """
    output, rows = _labelled(table)
    return _matrices(output, rows, [split for split in JUDGED if (rows["split"] == split).any()])


def _labelled(table: DataFrame) -> tuple[str, DataFrame]:
    """Return the output's name, and the first seed's rows with truth and guess as categories.

    The categories are texts in the order of the values. A label 7 may have been read as 7.0.
    """
    rows = first_seed(table)
    ((column, output),) = named_columns(rows, "prediction:").items()
    unknown = Series(index=rows.index, dtype=object)
    sides = {"truth": rows.get(f"truth:{output}", unknown), "guess": rows[column]}
    values = sorted(concat(sides.values()).dropna().unique())
    texts = [f"{value:.15g}" if isinstance(value, float) else str(value) for value in values]
    for name, side in sides.items():
        sides[name] = side.astype(CategoricalDtype(values)).cat.rename_categories(texts)
    return output, rows.assign(**sides)


def _matrices(output: str, rows: DataFrame, splits: Sequence[str]) -> Figure:
    """Draw the confusion matrices of these splits, two in a row."""
    figure, panels = small_multiples(len(splits), 2, *MATRIX)
    for axes, split in zip(panels, splits, strict=True):
        _draw_matrix(axes, output, rows, split)
    return figure


def _draw_matrix(axes: Axes, output: str, rows: DataFrame, split: str) -> None:
    """Draw the confusion matrix of a split; nothing if no row has a truth and a prediction."""
    rows = rows.loc[rows["split"] == split, SIDES].dropna()
    if rows.empty:
        axes.set_axis_off()
        return
    counts = crosstab(rows["truth"], rows["guess"], dropna=False)
    counts = counts.iloc[:MAX_CLASSES, :MAX_CLASSES]
    values = counts.to_numpy(dtype=float)
    names = list(counts.index), list(counts.columns)
    image = heat_map(axes, values, *names, "{:.0f}".format, cmap="Blues", vmin=0)
    right = (rows["truth"] == rows["guess"]).mean()
    largest = rows["truth"].value_counts(normalize=True).max()
    title = f"{shorten(output)}, {split}: {right:.1%} correct\n(largest class {largest:.1%})"
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    if counts.size > MAX_NUMBERED:
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="points")


@styled
def class_curves(held_out: DataFrame) -> Figure:
    """Draw ROC, precision-recall and calibration curves of the first seed's held-out rows.

    `held_out` has the columns seed, truth:<output> and probability:<class>. Of two classes the
    second is drawn, of more the first few against all others. Areas under the curves are named; the
    precision of fewer than 10 rows is not drawn. The calibration compares the mean probability of
    tenths of the rows with the observed frequency.
    """
    table = first_seed(held_out)
    (truth,) = named_columns(table, "truth:")
    classes = list(named_columns(table, "probability:").items())
    figure, (panels,) = grid_of_panels(1, 3, SIDE)
    roc, recall, calibration = panels
    for colour, (name, label) in zip(CYCLE, classes[len(classes) == 2 :], strict=False):
        rows = table.sort_values(name, ascending=False, kind="stable")
        hit = np.asarray(rows[truth].astype(str) == label, dtype=float)
        _draw_class(panels, hit, rows[name].to_numpy(dtype=float), label, colour)
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], **CHANCE)
    roc.set(xlabel="false positives", ylabel="true positives")
    recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.03))
    calibration.set(xlabel="predicted probability", ylabel="observed frequency")
    roc.legend(loc="lower right")
    recall.legend(loc="lower left")
    return figure


def _draw_class(panels: Sequence[Axes], hit: Array, likely: Array, label: str, colour: str) -> None:
    """Draw the three curves of a class from its probabilities `likely`, in descending order.

    `hit` is 1 for rows that have the class and 0 for others; both have the shape (rows,).
    """
    roc, recall, calibration = panels
    last = np.append(np.flatnonzero(np.diff(likely)), len(likely) - 1)  # of equal probabilities
    count = last + 1
    right = np.cumsum(hit)[last]
    found = right / max(1.0, hit.sum())
    false = (count - right) / max(1.0, (1 - hit).sum())
    precision = right / count
    area = np.trapezoid([0.0, *found], [0.0, *false])
    name = f"{shorten(label)}, area {number(area)}"
    roc.plot([0.0, *false], [0.0, *found], color=colour, label=name)
    drawn = count >= FEWEST_ROWS
    mean = number(float(np.diff(found, prepend=0.0) @ precision))
    recall.plot(found[drawn], precision[drawn], color=colour, label=f"mean {mean}")
    parts = [part for part in np.array_split(np.arange(len(hit)), GROUPS) if len(part)]
    means = [(likely[part].mean(), hit[part].mean()) for part in parts]
    calibration.plot(*np.transpose(means[::-1]), "o-", color=colour, ms=3)
