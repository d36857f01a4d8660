"""Effects of the columns of a fitted table: curves with bands, and maps of pairs of columns.

The effect of a set of columns is the partial dependence of the latent function: its average over
rows when these columns have fixed values, minus the mean over rows. An effect is linear in the
coefficients of the model, so the posterior of the coefficients determines the band of the effect.
Interactions are shown for pairs of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from pandas import DataFrame, concat
from scipy.spatial.distance import cdist
from scipy.special import expit, logit

from kanrun.engine.tables.reduced_basis import RowOutputs
from kanrun.engine.tables.table_model import LatentFit, TableModel, in_units
from kanrun.points import Points

#: Number of points of the effect curve of an input with many values.
CURVE_POINTS = 61
#: Largest number of pairs in the table of pairs.
MAX_PAIRS = 12
#: Number of the strongest pairs for which maps are computed.
MAX_MAPS = 4
#: Largest number of points along each side of a map.
MAP_POINTS = 25
#: Quantile levels of a column of numbers between which a map extends along this column.
MAP_QUANTILES = (0.01, 0.99)
#: Half width of a pointwise 95% band, in standard deviations.
BAND = 1.96
#: Lower limit of class probabilities in bands, which keeps the log-odds finite.
_RARE = 1e-12
#: Number of columns whose pairs are compared: those with the largest rates in the kernel.
_PAIRED_COLUMNS = 12

#: Names of the levels of each column of text, by the name of the column. Every level but the last
#: is represented by an indicator among the inputs, which is called `column=level`.
Levels = Mapping[str, Sequence[str]]


class _Contrast(NamedTuple):
    """Features from which the effect of some inputs, at some points, is computed.

    The effect is averaged over rows, and its mean over rows is subtracted (it is centred).

    Attributes:
        fit: The latent functions.
        functions: Lines and curves of these inputs, centred by their means over rows, shape
            (points, functions). The columns of lines and curves of other inputs are 0.
        own: Factors of the radial covariances that depend on these inputs (see `Centres.factors`),
            centred by their means over rows, shape (points, 2, R).
        others: Factors that depend on the other inputs, for each row, shape (rows, 2, R).
    """

    fit: LatentFit
    functions: ndarray
    own: ndarray
    others: ndarray

    @staticmethod
    def of(model: TableModel, columns: Sequence[int], u: ndarray) -> _Contrast:
        """Compute the features at scores `u` (points, inputs).

        `columns` are the indices of the inputs whose effect is computed. Other inputs have the
        scores of each of `model.effect_rows`, over which the effect is averaged.
        """
        fit = model.fit
        encoder = fit.encoder
        both = np.concatenate([u, model.effect_rows])
        functions = encoder.functions(both)
        functions[:, ~np.isin(encoder.basis.column, columns)] = 0.0
        own, others = fit.centres.factors(both, columns, model.effect_rows)
        functions, own = (part[: len(u)] - part[len(u) :].mean(0) for part in (functions, own))
        return _Contrast(fit, functions, own, others)

    @property
    def covariances(self) -> ndarray:
        """Centred radial covariances, averaged over rows, shape (points, R)."""
        return np.asarray((self.own * self.others.mean(0)).sum(1))

    @property
    def effect(self) -> RowOutputs:
        """The centred effect on each latent function, shape (points, outputs)."""
        weights, heights = self.fit.weights
        return np.asarray(self.functions @ weights + self.covariances @ heights)

    @property
    def std(self) -> RowOutputs:
        """The standard deviation of the effect, shape (points, outputs).

        It includes the posterior uncertainty of the coefficients, and the sampling error of the
        average over rows: the variance of the radial part of the effect between rows, divided by
        the number of rows.
        """
        fit = self.fit
        features = np.concatenate([self.functions, fit.centres.whitened(self.covariances)], 1)
        variances = []
        for output, heights in zip(fit.outputs, fit.weights[1].T, strict=True):
            curves = np.einsum("pkc,rkc->pr", self.own, self.others * heights, optimize=True)
            variances.append(output.spread(features) + curves.var(1) / len(self.others))
        return np.asarray(np.sqrt(np.stack(variances, 1)))


def column_effect(
    model: TableModel, columns: Sequence[int], u: ndarray | None = None
) -> RowOutputs:
    """Return the centred effect of some inputs on each latent function, shape (points, outputs).

    Args:
        model: The fitted model.
        columns: Indices of the inputs.
        u: Scores at which the effect is evaluated, shape (points, inputs); by default
            `model.effect_rows`, over which the other inputs are averaged.
    """
    return _Contrast.of(model, columns, model.effect_rows if u is None else u).effect


class _Grid(NamedTuple):
    """Points along one column.

    Attributes:
        values: Values of the column, or numbers of its levels, shape (points,).
        levels: Names of the levels, shape (points,); empty strings for a column of numbers.
        inputs: Inputs of the model at these values, shape (points, inputs of the column).
    """

    values: ndarray
    levels: ndarray
    inputs: ndarray

    @staticmethod
    def of(x: ndarray, levels: Sequence[str], most: int, ends: tuple[float, float]) -> _Grid:
        """Return at most `most` points along a column.

        A column of numbers has all its values as points or, if there are more than `most` values,
        evenly spaced ones between the quantiles `ends`. A column of text has its most frequent
        levels as points.

        Args:
            x: The column's inputs in the training rows, shape (rows, inputs of the column).
            levels: Names of all levels of the column; empty for a column of numbers.
            most: Largest number of points.
            ends: Lower and upper quantile level.
        """
        if not levels:
            values = np.unique(x)
            if len(values) > most:
                low, high = np.quantile(x, ends)
                values = np.linspace(low, high, most)
            return _Grid(values, np.full(len(values), ""), values[:, None])
        indicators = np.eye(len(levels))[:, :-1]
        counts = np.append(x.sum(0), (x.sum(1) == 0).sum())
        frequent = np.argsort(-counts, kind="stable")[: min(most, np.count_nonzero(counts))]
        values = np.sort(frequent)
        return _Grid(values.astype(float), np.array(levels)[values], indicators[values])

    def nearest(self, x: ndarray) -> ndarray:
        """Return the index of the point nearest to each row of inputs x, shape (rows,).

        The index is -1 for rows whose level is not among the points.
        """
        distances = cdist(x, self.inputs)
        return np.where(self.levels.any() & (distances.min(1) > 0), -1, distances.argmin(1))


def effect_table(
    model: TableModel,
    points: Points,
    columns: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    levels: Levels = MappingProxyType({}),
) -> DataFrame:
    """Return predictions along each column, averaged over the other columns, with a 95% band.

    The band (`lower` to `upper`) is pointwise, and ignores the uncertainty of the kernel. A column
    of text has one point per `level` that occurs in the rows; `x` is then the number of the level.
    `columns` maps each column to the indices of its inputs.
    """
    tables = []
    mean = model.fit.at_scores(model.effect_rows).mean(0)
    for name, inputs in columns.items():
        names = levels.get(name, ())
        grid = _Grid.of(points.x[:, inputs], names, len(names) or CURVE_POINTS, (0.0, 1.0))
        size = len(grid.values)
        moved = np.repeat(points.x[:1], size, 0)
        moved[:, inputs] = grid.inputs
        contrast = _Contrast.of(model, inputs, model.inputs.apply(moved))
        latent = mean + contrast.effect
        ends = [_moved(model, latent, sign * BAND * contrast.std) for sign in (-1, 1)]
        shown = {
            "input": name,
            "level": np.tile(grid.levels, len(outputs)),
            "output": np.repeat(outputs, size),
            "x": np.tile(grid.values, len(outputs)),
            "value": in_units(latent, model.outputs).T.ravel(),
            "lower": np.minimum(*ends).T.ravel(),
            "upper": np.maximum(*ends).T.ravel(),
        }
        tables.append(DataFrame(shown))
    return concat(tables, ignore_index=True)


def _moved(model: TableModel, latent: RowOutputs, difference: RowOutputs) -> ndarray:
    """Return the predictions after `difference` is added to the latent values.

    For classes, the log-odds of each class are changed independently.
    """
    if model.outputs is not None:
        return in_units(latent + difference, model.outputs)
    return np.asarray(expit(logit(np.clip(in_units(latent, None), _RARE, 1 - _RARE)) + difference))


def pair_table(model: TableModel, columns: Mapping[str, Sequence[int]]) -> DataFrame:
    """Return the pairs of columns with the strongest interactions.

    `std` is the standard deviation over training rows of the joint effect of both columns minus
    their single effects. It has the unit of the latent functions: logits for classes, the
    transformed output for numbers. `columns` maps each column to the indices of its inputs.
    """
    found = []
    kernel = model.fit.kernel
    if kernel.radial_variance:
        rates = kernel.smooth * kernel.smooth_rates + kernel.rough * kernel.rough_rates
        largest = sorted(columns, key=lambda name: -rates[list(columns[name])].max())
        paired = [name for name in columns if name in largest[:_PAIRED_COLUMNS]]
        single = {name: column_effect(model, columns[name]) for name in paired}
        for pair in combinations(paired, 2):
            both = column_effect(model, [j for name in pair for j in columns[name]])
            joint = both - single[pair[0]] - single[pair[1]]
            found.append((*pair, float(np.sqrt(np.var(joint, axis=0).sum()))))
    table = DataFrame(found, columns=["input_1", "input_2", "std"])
    return table.sort_values("std", ascending=False, ignore_index=True)[:MAX_PAIRS]


def pair_maps(
    model: TableModel,
    points: Points,
    pairs: DataFrame,
    columns: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    levels: Levels = MappingProxyType({}),
) -> DataFrame:
    """Return predictions on a grid over both columns of each strong pair.

    Predictions are averaged over the other columns. The grid covers the ranges between the 1% and
    99% quantiles; `rows` is the number of training rows that are nearest to a grid point. For a
    column of text, the grid contains the numbers of its most frequent levels, and `level_1` or
    `level_2` contains their names. Only the first output is predicted or, for classes, the
    probability of the last class.
    """
    o = len(outputs) - 1 if model.outputs is None else 0
    mean = model.fit.at_scores(model.effect_rows).mean(0)
    tables = []
    for names in pairs[["input_1", "input_2"]].to_numpy()[:MAX_MAPS].tolist():
        places = [columns[name] for name in names]
        values = [points.x[:, inputs] for inputs in places]
        grids = [
            _Grid.of(x, levels.get(name, ()), MAP_POINTS, MAP_QUANTILES)
            for name, x in zip(names, values, strict=True)
        ]
        shape = [len(grid.values) for grid in grids]
        first, second = np.indices(shape).reshape(2, -1)
        both = [*places[0], *places[1]]
        moved = np.repeat(points.x[:1], len(first), 0)
        moved[:, both] = np.hstack([grids[0].inputs[first], grids[1].inputs[second]])
        effect = column_effect(model, both, model.inputs.apply(moved))
        nearest = np.stack([grid.nearest(x) for grid, x in zip(grids, values, strict=True)])
        cells = np.ravel_multi_index(nearest[:, (nearest >= 0).all(0)], shape)
        table = {
            "input_1": names[0],
            "input_2": names[1],
            "output": outputs[o],
            "x": grids[0].values[first],
            "level_1": grids[0].levels[first],
            "y": grids[1].values[second],
            "level_2": grids[1].levels[second],
            "value": in_units(mean + effect, model.outputs)[:, o],
            "rows": np.bincount(cells, minlength=len(moved)),
        }
        tables.append(DataFrame(table))
    return concat(tables, ignore_index=True)
