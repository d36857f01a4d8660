"""Figures of predicted classes: confusion matrices, and ROC, precision and calibration curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series, crosstab

from kanrun.figures.panels import (
    MAX_NUMBERED,
    grid_of_panels,
    heat_map,
    small_multiples,
)
from kanrun.figures.style import (
    BLACK,
    CYCLE,
    JUDGED,
    Look,
    first_seed,
    named_columns,
    note_of_some,
    number,
    set_remark,
    shorten,
    styled,
)
from kanrun.points import Array

#: Largest number of classes in a confusion matrix. A remark says if there are more.
MAX_CLASSES = 30
#: Height and width of a confusion matrix (inches).
MATRIX = (3.2, 4.2)
#: Height of a panel of curves (inches).
SIDE = 3.2
#: Number of groups in a calibration curve. Each group has rows with similar probabilities, whose
#: mean is compared with the observed frequency.
GROUPS = 10
#: The precision curve starts at this many rows. With fewer rows, precision jumps between 0 and 1.
FEWEST_ROWS = 10
CHANCE: Look = {"color": BLACK, "lw": 0.8, "ls": ":"}


@styled
def confusion(table: DataFrame) -> Figure:
    """Draw confusion matrices of the first seed for the training, held-out and test points.

    `table` has the columns seed, split, `truth:<name>` and `prediction:<name>`, where `<name>` is
    the output.
    """
    rows = first_seed(table)
    ((guess, output),) = named_columns(rows, "prediction:").items()
    true = f"truth:{output}"
    known = rows[rows["split"].isin(JUDGED)].dropna(subset=[true, guess])
    splits: Any = list(known.groupby("split", sort=False))
    figure, panels = small_multiples(len(splits), 2, *MATRIX)
    for axes, (split, part) in zip(panels, splits, strict=True):
        _draw_matrix(axes, part[true], part[guess], f"{shorten(output)}, {split}")
    count = len({*known[true], *known[guess]})
    set_remark(figure, note_of_some(MAX_CLASSES, count, "classes, the first in order"))
    return figure


def _draw_matrix(axes: Axes, truth: Series[str], predicted: Series[str], name: str) -> None:
    """Draw a confusion matrix; the title has the accuracy and the fraction of the largest class."""
    labels = sorted({*truth, *predicted}, key=_order)[:MAX_CLASSES]
    counts = crosstab(truth, predicted).reindex(index=labels, columns=labels, fill_value=0)
    values = counts.to_numpy(dtype=float)
    image = heat_map(axes, values, labels, labels, "{:.0f}".format, cmap="Blues", vmin=0)
    largest = truth.value_counts(normalize=True).max()
    title = f"{name}: {(truth == predicted).mean():.1%} correct\n(largest class {largest:.1%})"
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    if counts.size > MAX_NUMBERED:
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="points")


def _order(label: str) -> tuple[float, str]:
    """Return a key that sorts numbers by their values, and other labels as text."""
    try:
        return float(label), label
    except ValueError:
        return math.inf, label


@styled
def class_curves(held_out: DataFrame) -> Figure:
    """Draw ROC, precision-recall and calibration curves of the first seed's held-out rows.

    `held_out` has the columns seed, `truth:<output>` and `probability:<class>`. With two classes,
    the curves are those of the second class; otherwise each of the first classes is compared with
    all others. The legend gives the areas under the curves. The calibration curve compares the mean
    predicted probability in each tenth of the rows with the observed frequency.
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
    set_remark(figure, note_of_some(len(CYCLE), len(classes), "classes"))
    return figure


def _draw_class(panels: Sequence[Axes], hit: Array, likely: Array, label: str, colour: str) -> None:
    """Draw the three curves of one class.

    `likely` has the predicted probabilities of the class in descending order. `hit` is 1 for rows
    of the class and 0 for others. Both have the shape (rows,).
    """
    roc, recall, calibration = panels
    # The last row of each group of equal probabilities.
    last = np.append(np.flatnonzero(np.diff(likely)), len(likely) - 1)
    count = last + 1
    right = np.cumsum(hit)[last]
    recalled = right / max(1.0, hit.sum())
    false = (count - right) / max(1.0, (1 - hit).sum())
    precision = right / count
    area = np.trapezoid([0.0, *recalled], [0.0, *false])
    name = f"{shorten(label)}, area {number(area)}"
    roc.plot([0.0, *false], [0.0, *recalled], color=colour, label=name)
    drawn = count >= FEWEST_ROWS
    mean = number(float(np.diff(recalled, prepend=0.0) @ precision))
    recall.plot(recalled[drawn], precision[drawn], color=colour, label=f"mean {mean}")
    parts = [part for part in np.array_split(np.arange(len(hit)), GROUPS) if len(part)]
    means = [(likely[part].mean(), hit[part].mean()) for part in parts]
    calibration.plot(*np.transpose(means[::-1]), "o-", color=colour, ms=3)
