"""Effects of the columns of a fitted table: curves with bands, importance, and interactions.

The effect of a set of columns is the partial dependence of the latent function: its average over
rows when these columns have fixed values, minus the mean over rows. An effect is linear in the
coefficients of the model, so their posterior gives its band. Interactions are shown for pairs of
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from pandas import DataFrame, concat
from scipy.spatial.distance import cdist
from scipy.special import expit, logit

from kanrun.engine.tables.folds import loss_of
from kanrun.engine.tables.reduced_basis import RowOutputs, spaced
from kanrun.engine.tables.table_model import LatentFit, TableModel, in_units
from kanrun.points import Points

#: Number of points of the effect curve of an input with many values.
CURVE_POINTS = 61
#: Number of quantiles that describe the distribution of an input.
QUANTILES = 41
#: Largest number of rows per fold on which importance is measured.
MAX_ROWS = 2000
#: Largest number of pairs in the table of pairs.
MAX_PAIRS = 12
#: Number of the strongest pairs for which maps are computed.
MAX_MAPS = 4
#: Number of parts into which the training rows are divided if there are no folds.
PARTS = 5
#: Name of the interactions of several columns in the table of variances.
REMAINDER = "(interactions)"
#: Largest number of points along each side of a map.
MAP_POINTS = 25
#: Quantiles of a column at which the side of its map begins and ends.
MAP_QUANTILES = (0.01, 0.99)
#: Half width of a pointwise 95% band, in standard deviations.
BAND = 1.96
#: Smallest probability of a class in a band; it keeps the log-odds finite.
_RARE = 1e-12
#: Number of rows over which effects are averaged, and at which pairs are compared.
_EFFECT_ROWS = 200
#: Number of rows from which the variance of an effect due to the choice of rows is estimated.
_SAMPLE_ROWS = 60
#: Number of values of an input at which the variance due to the choice of rows is estimated.
_SAMPLE_PLACES = 13
#: Number of columns whose pairs are compared: those with the largest rates in the kernel.
_PAIRED_COLUMNS = 12
#: Number that is combined with the seed to choose rows; the next larger number is used to permute
#: them.
_STREAM = 31

#: Names of the levels of each column of text, by the name of the column. Every level but the last
#: is an indicator among the inputs, called `column=level`.
Levels = Mapping[str, Sequence[str]]


def report_tables(
    model: TableModel,
    points: Points,
    inputs: Sequence[str],
    outputs: Sequence[str],
    levels: Levels,
    seed: int,
) -> Iterator[tuple[str, DataFrame]]:
    """Yield the tables of effects, importance, variances, input values, pairs and the kernel.

    Without radial parts, the model has no interactions, and there are no tables of pairs.
    """
    quantiles = np.linspace(0, 1, QUANTILES)
    yield "effects", effect_table(model, points, inputs, outputs, levels)
    columns = _columns(inputs, levels)
    yield "importance", importance_table(model, points, columns, seed)
    yield "anova", anova_table(model, columns)
    labels = {"input": np.repeat(inputs, QUANTILES), "level": np.tile(quantiles, len(inputs))}
    values = np.quantile(points.x, quantiles, axis=0).T.ravel()
    yield "input_values", DataFrame(labels | {"x": values})
    if len(pairs := pair_table(model, columns)):
        yield "pairs", pairs
        yield "pair_maps", pair_maps(model, points, pairs, inputs, outputs, levels)
    yield "kernel", kernel_table(model, inputs)


def kernel_table(model: TableModel, inputs: Sequence[str]) -> DataFrame:
    """Return the hyperparameters of the model.

    Returns:
        One row per rate of an input, per variance of the kernel, and per noise variance and power
        of an output. The columns are `part` (`smooth rate`, `rough rate`, `variance`, `noise`,
        `power`), `name` and `value`. Rates refer to standardised inputs.
    """
    fit = model.fit
    kernel = fit.kernel
    rows = [("smooth rate", *pair) for pair in zip(inputs, kernel.smooth_rates, strict=True)]
    rows += [("rough rate", *pair) for pair in zip(inputs, kernel.rough_rates, strict=True)]
    parts = ("lines", "curves", "smooth", "rough")
    rows += [("variance", name, getattr(kernel, name)) for name in parts]
    if model.outputs is not None:
        for number, each in enumerate(fit.outputs):
            rows.append(("noise", str(number), each.likelihood.dispersion))
            rows.append(("power", str(number), each.likelihood.power.exponent))
    return DataFrame(rows, columns=["part", "name", "value"])


def _columns(inputs: Sequence[str], levels: Levels) -> dict[str, list[int]]:
    """Return the indices of the inputs that belong to each column, with columns of text first."""
    columns = {
        name: [inputs.index(f"{name}={level}") for level in names[:-1]]
        for name, names in levels.items()
    }
    taken = {j for places in columns.values() for j in places}
    return columns | {name: [j] for j, name in enumerate(inputs) if j not in taken}


def _level_numbers(indicators: ndarray) -> ndarray:
    """Return the level number of each row, shape (rows,), for indicators (rows, levels - 1)."""
    return np.asarray(np.where(indicators.any(1), indicators.argmax(1), indicators.shape[1]))


def column_effect(fit: LatentFit, columns: Sequence[int], u: ndarray, rows: ndarray) -> RowOutputs:
    """Return the centred effect of some inputs on each latent function, shape (points, outputs).

    Args:
        fit: The latent functions.
        columns: Indices of the inputs.
        u: Scores at which the effect is evaluated, shape (points, inputs).
        rows: Scores of the rows (rows, inputs) over which the other inputs are averaged.
    """
    contrasts = _contrasts(fit, columns, u, rows)
    return np.asarray(fit.factor * sum(map(np.matmul, contrasts, fit.weights)))


def _effect_std(fit: LatentFit, columns: Sequence[int], u: ndarray, rows: ndarray) -> RowOutputs:
    """Return the standard deviation of `column_effect`, shape (points, outputs).

    It includes the posterior uncertainty of the coefficients and the variance due to the choice of
    the rows over which the effect is averaged.
    """
    functions, covariances = _contrasts(fit, columns, u, rows)
    features = np.concatenate([functions, fit.centres.whitened(covariances)], 1)
    variance = np.stack([fit.factor**2 * each.spread(features) for each in fit.outputs], 1)
    return np.asarray(np.sqrt(variance + _sampling_variance(fit, columns, u, rows)))


def _sampling_variance(
    fit: LatentFit, columns: Sequence[int], u: ndarray, rows: ndarray
) -> RowOutputs:
    """Return the variance of an effect (points, outputs) that is due to the choice of the rows.

    It is the variance of the effect curves of single rows, divided by the number of rows.
    """
    if not len(fit.centres.inputs):
        return np.zeros((len(u), len(fit.outputs)))
    at = u[:, columns]
    at = at[np.argsort(at[:, 0])[spaced(len(at), _SAMPLE_PLACES)]] if len(columns) == 1 else at
    some = rows[spaced(len(rows), _SAMPLE_ROWS)]
    moved = np.repeat(some, len(at), 0)
    moved[:, columns] = np.tile(at, (len(some), 1))
    curves = fit.at_scores(moved).reshape(len(some), len(at), -1)
    nearest = cdist(rows[:, columns], at).argmin(1)
    shares = np.bincount(nearest, minlength=len(at)) / len(rows)
    middles = np.einsum("rpo,p->ro", curves, shares)[:, None]
    variance = np.var(curves - middles, axis=0) / len(rows)
    if len(columns) > 1:
        return np.asarray(variance)
    return np.stack([np.interp(u[:, columns[0]], at[:, 0], one) for one in variance.T], 1)


def _contrasts(
    fit: LatentFit, columns: Sequence[int], u: ndarray, rows: ndarray
) -> tuple[ndarray, ndarray]:
    """Return the features whose weighted sum is the centred effect of some inputs.

    Features that belong to other inputs are 0.

    Returns:
        Functions of the inputs at the points `u`, shape (points, functions), and covariances with
        the R centres, averaged over `rows`, shape (points, R). The mean over rows is subtracted
        from both.
    """
    encoder = fit.encoder
    both = np.concatenate([u, rows])
    count = len(u)
    functions = encoder.functions(both)
    functions[:, ~np.isin(encoder.basis.column, columns)] = 0.0
    covariances = fit.centres.averaged(encoder.radial(rows), columns, encoder.radial(both))
    return (
        functions[:count] - functions[count:].mean(0),
        covariances[:count] - covariances[count:].mean(0),
    )


def effect_table(
    model: TableModel,
    points: Points,
    inputs: Sequence[str],
    outputs: Sequence[str],
    levels: Levels = MappingProxyType({}),
) -> DataFrame:
    """Return predictions along each column, averaged over the other columns, with a 95% band.

    The band (`lower` to `upper`) is for each point by itself, with the kernel as given. A column of
    text has one point per `level` that occurs in the rows; `x` is then the number of the level.
    """
    x = points.x
    found = []
    rows = model.u[spaced(len(model.u), _EFFECT_ROWS)]
    mean = model.fit.at_scores(rows).mean(0)
    for name, mine in _columns(inputs, levels).items():
        at = np.unique(x[:, mine[0]])
        labels = np.array([""])
        if len(at) > 2:
            at = np.linspace(at[0], at[-1], CURVE_POINTS)
        values = at[:, None]
        if name in levels:
            seen = np.unique(_level_numbers(x[:, mine]))
            at = seen.astype(float)
            values = np.eye(len(mine) + 1)[seen, :-1]
            labels = np.array(levels[name])[seen]
        moved = np.tile(np.median(x, axis=0), (len(at), 1))
        moved[:, mine] = values
        scores = model.inputs.apply(moved)
        latent = mean + column_effect(model.fit, mine, scores, rows)
        width = BAND * _effect_std(model.fit, mine, scores, rows)
        middle = in_units(latent, model.outputs)
        ends = [_moved(model, latent, d) for d in (-width, width)]
        curves = zip(middle.T, np.minimum(*ends).T, np.maximum(*ends).T, strict=True)
        for output, (value, lower, upper) in zip(outputs, curves, strict=True):
            names = {"input": name, "level": np.resize(labels, len(at)), "output": output}
            numbers = {"x": at, "value": value, "lower": lower, "upper": upper}
            found.append(DataFrame(names | numbers))
    return concat(found, ignore_index=True)


def _moved(model: TableModel, latent: RowOutputs, difference: RowOutputs) -> ndarray:
    """Return the predictions after `difference` is added to the latent values.

    For classes, the log-odds of each class are changed independently.
    """
    if model.outputs is not None:
        return in_units(latent + difference, model.outputs)
    return np.asarray(expit(logit(np.clip(in_units(latent, None), _RARE, 1 - _RARE)) + difference))


def importance_table(
    model: TableModel, points: Points, columns: Mapping[str, Sequence[int]], seed: int
) -> DataFrame:
    """Return the permutation importance of each column, the most important first.

    `permutation_importance` is the increase of the loss (see `loss_of`) when the values of a column
    are permuted, averaged over folds; `std` is its standard deviation over folds. In each fold, the
    model of the fold predicts the rows to which it was not fitted. Without folds, the model
    predicts five parts of its own training rows.
    """
    folds: list[tuple[Callable[[ndarray], ndarray], ndarray]]
    if model.folds is None:
        rows = np.random.default_rng([seed, _STREAM]).permutation(len(points))[:MAX_ROWS]
        folds = [(model.predict, part) for part in np.array_split(rows, min(PARTS, len(rows)))]
    else:
        number = model.folds.number
        held_out = [np.flatnonzero(number == k)[:MAX_ROWS] for k in range(number.max() + 1)]
        folds = [*zip(model.folds.predict, held_out, strict=True)]
    rng = np.random.default_rng([seed, _STREAM + 1])
    increases = []
    every = np.arange(points.x.shape[1])
    for predict, rows in folds:
        x = points.x[rows]
        y = points.y[rows]
        order = rng.permutation(len(rows))
        before, *permuted = (
            loss_of(predict(np.where(np.isin(every, mine), x[order], x)), y, model.family)
            for mine in ([], *columns.values())
        )
        increases.append(np.array(permuted) - before)
    means = np.mean(increases, axis=0)
    stds = np.std(increases, axis=0)
    table = DataFrame({"input": list(columns), "permutation_importance": means, "std": stds})
    by = "permutation_importance"
    return table.sort_values(by, ascending=False, kind="stable", ignore_index=True)


def anova_table(model: TableModel, columns: Mapping[str, Sequence[int]]) -> DataFrame:
    """Return degrees of freedom, fraction of variance and Bayes factor of each column.

    `degrees_of_freedom` is the effective number of coefficients of the column's lines and curves.
    `variance_fraction` is the covariance of the effect f_j with the latent function f divided by
    the variance of f, on training rows and summed over outputs. It is negative if an effect
    counteracts others; all fractions add up to 1 (S_j in G. Li et al., Journal of Physical
    Chemistry A 114 (2010) 6022-6032). `log10_bayes_factor` is the logarithm of the ratio of the
    evidence with the column to the evidence without it, on the rows that determined the kernel. The
    last row describes the interactions; its degrees of freedom are those of the radial parts.
    """
    fit = model.fit
    rows = model.u[spaced(len(model.u), _EFFECT_ROWS)]
    whole = fit.at_scores(rows)
    whole = whole - whole.mean(0)
    # Divided by the largest value, because squares in other units may overflow.
    size = np.abs(whole).max() or 1.0
    left = whole = whole / size
    evidence = fit.sample.log_evidence(fit.kernel)
    found = []
    determined = np.sum([each.determined for each in fit.outputs], axis=0)
    for name, mine in columns.items():
        effect = column_effect(fit, mine, rows, rows) / size
        left = left - effect
        places = np.isin(fit.encoder.basis.column, mine)
        freedom = float(determined[: len(places)][places].sum())
        factor = (evidence - _without(fit, mine)) / np.log(10)
        found.append((name, freedom, float((effect * whole).sum()), factor))
    found.sort(key=lambda row: -row[2])
    freedom = float(determined[len(fit.encoder.basis.column) :].sum())
    found.append((REMAINDER, freedom, float((left * whole).sum()), np.nan))
    names = ["term", "degrees_of_freedom", "variance_fraction", "log10_bayes_factor"]
    table = DataFrame(found, columns=names)
    table["variance_fraction"] /= float((whole**2).sum()) or 1.0
    return table


def _without(fit: LatentFit, columns: Sequence[int]) -> float:
    """Return the logarithm of the evidence of the kernel without these inputs."""
    column = fit.encoder.basis.column
    is_line = fit.encoder.is_line
    sample = fit.sample
    lines, curves = (~np.isin(column[part], columns) for part in (is_line, ~is_line))
    others = replace(sample, lines=sample.lines[:, lines], curves=sample.curves[:, curves])
    return others.log_evidence(fit.kernel.among(np.delete(np.arange(sample.inputs), columns)))


def pair_table(model: TableModel, columns: Mapping[str, Sequence[int]]) -> DataFrame:
    """Return the pairs of columns with the strongest interactions.

    `std` is the standard deviation over training rows of the joint effect of both columns minus
    their single effects. It has the unit of the latent functions: logits for classes, the
    transformed output for numbers. `columns` maps each column to the indices of its inputs.
    """
    fit = model.fit
    rows = model.u[spaced(len(model.u), _EFFECT_ROWS)]
    found = []
    if len(fit.centres.inputs):
        kernel = fit.kernel
        rates = kernel.smooth * kernel.smooth_rates + kernel.rough * kernel.rough_rates
        largest = sorted(columns, key=lambda name: -rates[list(columns[name])].max())
        paired = [name for name in columns if name in largest[:_PAIRED_COLUMNS]]
        single = {name: column_effect(fit, columns[name], rows, rows) for name in paired}
        for pair in combinations(paired, 2):
            inputs = [j for name in pair for j in columns[name]]
            alone = single[pair[0]] + single[pair[1]]
            joint = column_effect(fit, inputs, rows, rows) - alone
            found.append((*pair, float(np.sqrt(np.var(joint, axis=0).sum()))))
    table = DataFrame(found, columns=["input_1", "input_2", "std"])
    return table.sort_values("std", ascending=False, ignore_index=True)[:MAX_PAIRS]


def pair_maps(
    model: TableModel,
    points: Points,
    pairs: DataFrame,
    inputs: Sequence[str],
    outputs: Sequence[str],
    levels: Levels = MappingProxyType({}),
) -> DataFrame:
    """Return predictions on a grid over both columns of each strong pair.

    Predictions are averaged over the other columns. The grid covers the ranges between the 1% and
    99% quantiles; `rows` is the number of training rows nearest to a grid point. For a column of
    text, the grid has its most frequent levels by number, and `level_1` or `level_2` has their
    names. The output is the first one or, for classes, the last class.
    """
    x = points.x
    o = len(outputs) - 1 if model.outputs is None else 0
    rows = model.u[spaced(len(model.u), _EFFECT_ROWS)]
    found = []
    mean = model.fit.at_scores(rows).mean(0)
    columns = _columns(inputs, levels)
    for names in pairs[["input_1", "input_2"]].to_numpy()[:MAX_MAPS].tolist():
        sides = [_map_side(x[:, columns[name]], levels.get(name, ())) for name in names]
        indices = np.indices([len(side.values) for side in sides]).reshape(2, -1)
        moved = np.tile(np.median(x, axis=0), (indices.shape[1], 1))
        labels = {"input_1": names[0], "input_2": names[1], "output": outputs[o]}
        keys = ("x", "level_1"), ("y", "level_2")
        for name, side, index, (value, level) in zip(names, sides, indices, keys, strict=True):
            moved[:, columns[name]] = side.inputs[index]
            labels |= {value: side.values[index], level: side.levels[index]}
        mine = [j for name in names for j in columns[name]]
        effect = column_effect(model.fit, mine, model.inputs.apply(moved), rows)
        near = np.all([side.nearest >= 0 for side in sides], axis=0)
        nearest = [side.nearest[near] for side in sides]
        cell = np.ravel_multi_index(nearest, [len(side.values) for side in sides])
        labels |= {"value": in_units(mean + effect, model.outputs)[:, o]}
        found.append(DataFrame(labels | {"rows": np.bincount(cell, minlength=len(moved))}))
    return concat(found, ignore_index=True)


class _Side(NamedTuple):
    """Grid points of one column of a map.

    Attributes:
        values: Values of the column, or numbers of its levels, shape (points,).
        levels: Names of the levels, shape (points,); empty strings for a column of numbers.
        inputs: Inputs of the model at these values, shape (points, inputs of the column).
        nearest: Index of the grid point nearest to each row, shape (rows,); -1 if the level of the
            row is not on the grid.
    """

    values: ndarray
    levels: ndarray
    inputs: ndarray
    nearest: ndarray


def _map_side(x: ndarray, levels: Sequence[str]) -> _Side:
    """Return the grid points of a column whose inputs in the rows are `x` (rows, inputs)."""
    if not levels:
        values = np.unique(x)
        if len(values) > MAP_POINTS:
            low, high = np.quantile(x, MAP_QUANTILES)
            values = np.linspace(low, high, MAP_POINTS)
        nearest = np.abs(x - values).argmin(1)
        return _Side(values, np.full(len(values), ""), values[:, None], nearest)
    numbers = _level_numbers(x)
    counts = np.bincount(numbers, minlength=len(levels))
    frequent = np.argsort(-counts, kind="stable")[: min(MAP_POINTS, np.count_nonzero(counts))]
    values = np.sort(frequent)
    places = np.full(len(levels), -1)
    places[values] = np.arange(len(values))
    indicators = np.eye(len(levels))[values, :-1]
    return _Side(values.astype(float), np.array(levels)[values], indicators, places[numbers])
