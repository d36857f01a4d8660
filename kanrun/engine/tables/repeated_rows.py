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
        The points without copies and, for each original row, the index of the merged row that
        represents it, shape (rows,).
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
    """Return, for each row of `different`, whether chance cannot explain that the row is repeated.

    A column has many values if the square of their number exceeds `rows`, the number of rows of the
    table. Chance cannot explain the repetition of a row if no other distinct row has the same
    values in all columns with many values. There are two exceptions, in which chance may explain
    every repetition: if no column with many values has mostly unique values (values that occur in
    one distinct row each, and in more than half of these rows), or if only outputs have many values
    and no two distinct rows have the same inputs.

    Args:
        different: The distinct rows of the table. Its first `inputs` columns are the inputs.
        inputs: Number of inputs.
        rows: Number of rows of the table, including repeated ones.
    """
    counts = {int(j): different[j].value_counts() for j in different.columns}
    many = [j for j, count in counts.items() if len(count) ** 2 > rows]
    if many and min(many) >= inputs and not different.duplicated(subset=range(inputs)).any():
        many = []
    if not any((counts[j] == 1).sum() > len(different) / 2 for j in many):
        return np.zeros(len(different), bool)
    return np.asarray(~different.duplicated(subset=many, keep=False))
