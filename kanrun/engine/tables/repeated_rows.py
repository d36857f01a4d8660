"""Merge repeated rows of a table, which are copies of one measurement and add no information."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from pandas import DataFrame

from kanrun.points import Points


def merge_copies(points: Points) -> tuple[Points, Int[ndarray, " rows"]]:
    """Merge rows that are copies of each other.

    Rows are copies if they are equal in all inputs and outputs, unless that may be chance (see
    `_is_unexplained`). The merged row has the sum of the weights of its copies; weights are then
    scaled to the mean 1. If the copies have different times, the earliest one is kept.

    Returns:
        The points without copies, and the index of each original row among them, shape (rows,).
    """
    rows, inputs = points.x.shape
    table = DataFrame(np.concatenate([points.x, points.y], 1))
    if not table.duplicated().any():
        return points, np.arange(rows)
    group = table.groupby([*table], sort=False).ngroup().to_numpy()
    repeats = _is_unexplained(table.drop_duplicates(), inputs, rows)[group]
    group = np.where(repeats, group, rows + np.arange(rows))
    order = np.arange(rows) if points.groups is None else np.argsort(points.groups, kind="stable")
    _, first, place = np.unique(group[order], return_index=True, return_inverse=True)
    if len(first) == rows:
        return points, np.arange(rows)
    place[order] = place.copy()
    weights = np.bincount(place, points.shares)
    return replace(points.take(order[first]), weights=weights / weights.mean()), place


def _is_unexplained(different: DataFrame, inputs: int, rows: int) -> Bool[ndarray, " different"]:
    """Return for each distinct row whether chance cannot explain that it is repeated.

    A column has many values if the square of their number exceeds the number of rows. Repetitions
    are unexplained only if at least one such column has mostly unique values, in more than half of
    the distinct rows. They may also be due to chance if only outputs have many values and the
    inputs determine the outputs. Otherwise, the repetition of a row is unexplained if no other
    distinct row has the same values in the columns with many values.
    """
    counts = {int(j): different[j].value_counts() for j in different.columns}
    many = [j for j, count in counts.items() if len(count) ** 2 > rows]
    if many and min(many) >= inputs and not different.duplicated(subset=range(inputs)).any():
        many = []
    if not any((counts[j] == 1).sum() > len(different) / 2 for j in many):
        return np.zeros(len(different), bool)
    return np.asarray(~different.duplicated(subset=many, keep=False))
