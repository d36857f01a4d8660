"""Effects: how the predictions of a trained network depend on one column of its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kanrun.model.prediction import (
    Array,
    explained_outputs,
    input_columns,
    predicted_values,
    training_sample,
)
from kanrun.model.trained import TrainedNetwork
from kanrun.targets.datasets import check_known
from kanrun.targets.encoding import features_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of training rows over which partial dependence is averaged. More rows give
#: steadier curves and take more time.
EFFECT_ROWS = 500
#: Largest number of values of a column at which partial dependence is computed. More values show
#: finer details and take more time.
EFFECT_POINTS = 41
#: Quantiles of single rows' curves at the lower and upper edge of the band around partial
#: dependence. Quantiles nearer to 0 and 1 make a wider band.
EFFECT_BAND = (0.1, 0.9)


def partial_dependence(model: TrainedNetwork, name: str) -> pd.DataFrame:
    """Return how predictions depend on the column `name` of the table, over the training rows.

    The result has one row per output and value of the column. Its columns are:

    - `input`, the name of the column; `x`, the value; `is_date`, whether the column holds dates;
      `level`, the level of a text column, otherwise ""; `output`, the name of the output or class
      (only the second of two classes).
    - `value`, the partial dependence: the mean prediction if all rows have this value
      (J. Friedman, Annals of Statistics 29 (2001) 1189-1232).
    - `lower` and `upper`, the bounds of the central 80% of single rows' curves, after each curve is
      shifted to the same mean.
    - `ale`, the accumulated local effect, computed from the rows near x only (D. Apley and J. Zhu,
      Journal of the Royal Statistical Society B 82 (2020) 1059-1086); NaN for text columns.

    Raises UsageError if the column is unknown.
    """
    columns = input_columns(model)
    sample = training_sample(model)
    check_known("column", name, columns, "input columns of this model")
    indices = columns[name]
    x = sample[:: -(-len(sample) // EFFECT_ROWS)]
    code = next(column for column in model.table_code.columns if column.name == name)
    if code.levels is not None:
        features = np.eye(len(code.levels) + 1)[:, :-1]
        points = np.arange(len(code.levels) + 1.0)
    else:
        points = np.unique(np.quantile(x[:, indices[0]], np.linspace(0, 1, EFFECT_POINTS)))
        features = features_of(vars(code), points)
    curves = []
    for feature_values in features:
        moved = x.copy()
        moved[:, indices] = feature_values
        curves.append(predicted_values(model, moved))
    stacked = np.stack(curves)
    value = np.mean(curves, axis=1)
    shifted = stacked - stacked.mean(0)
    lower, upper = (
        np.quantile(shifted - shifted.mean(1, keepdims=True), EFFECT_BAND, axis=1) + value
    )
    ale = np.full_like(value, np.nan)
    if code.levels is None and len(points) > 1:
        ale = _local_effects(stacked, points, x[:, indices[0]]) + predicted_values(model, x).mean(0)
    level = "" if code.levels is None else code.level_names
    tables = []
    for o, output in explained_outputs(model):
        labels = {"input": name, "level": level, "output": output, "x": points}
        curve = {"value": value[:, o], "lower": lower[:, o], "upper": upper[:, o], "ale": ale[:, o]}
        tables.append(pd.DataFrame({**labels, "is_date": code.parts is not None, **curve}))
    return pd.concat(tables, ignore_index=True)


def _local_effects(curves: Array, points: Array, values: Array) -> Array:
    """Return accumulated local effects (points, outputs), centred to a mean of zero over the rows.

    `values` (rows,) are the rows' values of the column, and `points` (points,) are the values at
    which effects are computed. `curves` (points, rows, outputs) are the predictions for the rows
    after the column is set to each of the `points`.
    """
    cell = np.clip(np.searchsorted(points, values) - 1, 0, len(points) - 2)
    rows = np.arange(len(values))
    counts = np.bincount(cell, minlength=len(points) - 1)[:, None]
    steps = np.zeros((len(points) - 1, curves.shape[2]))
    np.add.at(steps, cell, curves[cell + 1, rows] - curves[cell, rows])
    effects = np.cumsum(np.pad(steps / np.maximum(counts, 1), ((1, 0), (0, 0))), 0)
    return np.asarray(effects - (counts * (effects[1:] + effects[:-1])).sum(0) / 2 / len(values))


def effect_figure(model: TrainedNetwork, table: pd.DataFrame) -> Figure:
    """Draw the effects in `table`, the concatenated results of `partial_dependence`."""
    from kanrun import figures  # imported late, because it loads matplotlib

    names = table["input"].unique().tolist()
    plain = table[table["level"] == ""]
    remark = "line: all rows; dashed: rows nearby; band: 80% of rows"
    return figures.effects(table, names, plain, remark, classes=model.classes is not None)
