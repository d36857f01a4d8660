"""Scores of predicted classes: the area under the ROC curve, and the recall of each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pandas import Series

from kanrun.points import Array
from kanrun.runs.records import Note, Value

#: Largest number of classes whose recall is listed; further classes are counted.
MAX_LISTED = 8


def class_scores(
    y: NDArray[np.float64],
    probabilities: Array,
    guess: NDArray[np.intp],
    classes: Sequence[str],
    prefix: str,
) -> dict[str, Value]:
    """Return the columns of a summary that score predicted classes.

    Args:
        y: Numbers of the true classes, from 0, shape (rows,).
        probabilities: Predicted probabilities, shape (rows, classes).
        guess: Numbers of the predicted classes, shape (rows,).
        classes: Labels of the classes.
        prefix: Beginning of the column names: `test` for test rows, `cv` for held-out rows.

    Returns:
        Values by column name. `PREFIX_auc` is the area under the ROC curve. With more than two
        classes, it is the mean of the areas of each class against all others; None if only one
        class occurs. `PREFIX_recall` is text with the recall of each class: the fraction of its
        rows that are predicted correctly. `largest_class` is the fraction of rows in the largest
        class: the accuracy of always predicting that class.
    """
    counts = np.bincount(y.astype(int), minlength=len(classes))
    present = np.flatnonzero(counts).tolist()
    recall = {classes[k]: float((guess[y == k] == k).mean()) for k in present}
    drawn = present[-1:] if len(classes) == 2 else present
    areas = [area_under_curve(y == k, probabilities[:, k]) for k in drawn]
    listed = ", ".join(f"{name} {share:.3g}" for name, share in [*recall.items()][:MAX_LISTED])
    more = len(recall) - MAX_LISTED
    return {
        f"{prefix}_auc": float(np.mean(areas)) if len(present) > 1 else None,
        f"{prefix}_recall": listed + f", and {more} more" * (more > 0),
        "largest_class": float(counts.max() / max(1, len(y))),
    }


def area_under_curve(hit: NDArray[np.bool_], score: Array) -> float:
    """Return the area under the ROC curve of `score` for the rows where `hit` is true.

    The area is the probability that a random row with `hit` has a higher score than a random row
    without; equal scores count one half (Mann and Whitney, 1947). Return NaN if `hit` is the same
    for all rows. Both arguments have the shape (rows,).
    """
    hits = int(hit.sum())
    misses = int((~hit).sum())
    if not hits or not misses:
        return float("nan")
    ranks = Series(score).rank().to_numpy()
    return float((ranks[hit].sum() - hits * (hits + 1) / 2) / (hits * misses))


def unpredicted_classes(
    y: NDArray[np.float64], guess: NDArray[np.intp], classes: Sequence[str], rows: str
) -> Iterator[Note]:
    """Yield a warning for each class that occurs in `y` but is predicted for no row.

    `rows` describes the rows in the warning, such as "test rows".
    """
    for number in np.unique(y.astype(int)):
        if not (guess == number).any():
            count = int((y == number).sum())
            yield Note(
                f"the class {classes[number]}, which {count} of {len(y)} {rows} have, is predicted "
                "for none of them: its probability is always too low",
                warning=True,
            )
