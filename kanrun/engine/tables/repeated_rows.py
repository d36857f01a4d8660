"""Rows of a table that repeat others: copies of one measurement, which tell nothing new."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from pandas import DataFrame

from kanrun.points import Points


def merge_copies(points: Points) -> tuple[Points, Int[ndarray, " rows"]]:
    """Return the points without copies of rows, and the place of each row among them.

    Copies are equal in all inputs and outputs, and chance does not explain this. The row that
    remains has the sum of their weights, and the mean of all weights is 1. Of copies at several
    times the earliest remains.
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
    """Return for which of these different rows of a table chance does not explain repetitions.

    In columns of many values, a value does not occur more often, on average, than there are values.
    Some such column must have mostly distinct values: more than half of the rows have a value of
    their own. Outputs that inputs of few values determine do not count, since they are equal
    wherever the inputs are. Repetitions are then those of rows whose values in the columns of many
    values belong to no other row.
    """
    counts = {int(j): different[j].value_counts() for j in different.columns}
    many = [j for j, count in counts.items() if len(count) ** 2 > rows]
    if many and min(many) >= inputs and not different.duplicated(subset=range(inputs)).any():
        many = []
    if not any((counts[j] == 1).sum() > len(different) / 2 for j in many):
        return np.zeros(len(different), bool)
    return np.asarray(~different.duplicated(subset=many, keep=False))
