"""All tables that describe a fitted table.

They show the effects of its columns (`effects`), how much each column matters (importance and
analysis of variance), and the kernel.

The effect of a set of columns is the partial dependence of the latent function: its average over
rows when these columns have fixed values, minus the mean over rows. An effect is linear in the
coefficients of the model, so the posterior of the coefficients determines the band of the effect.
Interactions are shown for pairs of columns.

Proper scores judge the predictive distributions. Errors of predictions are modelled by Student's t
distribution in the units of the latent function, with a scale that may vary with the prediction
(`error_scale`). The logarithmic score (`nlpd`) is minus the logarithm of the predictive density at
the output, in the user's units. The continuous ranked probability score (`crps`) is twice the
quantile loss, averaged over quantile levels, in the units of the output (T. Gneiting and A.
Raftery, Journal of the American Statistical Association 102 (2007) 359-378).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from pandas import DataFrame, concat
from scipy import optimize, stats
from scipy.spatial.distance import cdist
from scipy.special import expit, logit

from kanrun.engine.tables.encoder import error_scale
from kanrun.engine.tables.folds import loss_of
from kanrun.engine.tables.likelihoods import Power
from kanrun.engine.tables.reduced_basis import PerRow, RowOutputs
from kanrun.engine.tables.table_model import LatentFit, TableModel, in_units
from kanrun.points import Points

#: Number of quantiles that describe the distribution of an input.
QUANTILES = 41
#: Name of the row of `anova_table` that describes interactions.
REMAINDER = "(interactions)"


def report_tables(
    model: TableModel,
    points: Points,
    inputs: Sequence[str],
    outputs: Sequence[str],
    levels: Levels,
    seed: int,
) -> Iterator[tuple[str, DataFrame]]:
    """Yield pairs of a name and a table: effects, importance, variances and others.

    The names are `effects`, `importance`, `anova`, `input_values` (quantiles of the inputs),
    `pairs`, `pair_maps` and `kernel`. Without radial parts, the model has no interactions, and the
    two tables about pairs are left out. `inputs` and `outputs` are the names of the inputs of the
    model, and of its outputs or classes.
    """
    quantiles = np.linspace(0, 1, QUANTILES)
    columns = _columns(inputs, levels)
    if model.policy.exposure is not None:
        del columns[inputs[model.policy.exposure]]
    yield "effects", effect_table(model, points, columns, outputs, levels)
    yield "importance", importance_table(model, points, columns, seed)
    yield "anova", anova_table(model, columns)
    labels = {"input": np.repeat(inputs, QUANTILES), "level": np.tile(quantiles, len(inputs))}
    values = np.quantile(points.x, quantiles, axis=0).T.ravel()
    yield "input_values", DataFrame(labels | {"x": values})
    if len(pairs := pair_table(model, columns)):
        yield "pairs", pairs
        yield "pair_maps", pair_maps(model, points, pairs, columns, outputs, levels)
    yield "kernel", kernel_table(model, inputs)


def _columns(inputs: Sequence[str], levels: Levels) -> dict[str, list[int]]:
    """Map each column name to the indices of the column's inputs; columns of text are first."""
    columns = {
        name: [inputs.index(f"{name}={level}") for level in names[:-1]]
        for name, names in levels.items()
    }
    taken = {j for places in columns.values() for j in places}
    return columns | {name: [j] for j, name in enumerate(inputs) if j not in taken}


def importance_table(
    model: TableModel, points: Points, columns: Mapping[str, Sequence[int]], seed: int
) -> DataFrame:
    """Return the permutation importance of each column, the most important first.

    `permutation_importance` is the increase of the loss (see `loss_of`) if the values of a column
    are permuted: the mean over folds. `std` is the standard deviation over folds. In each fold, the
    model of the fold predicts the held-out rows. Without folds, the training rows are divided into
    `parts` parts, each of which is predicted by the model that was fitted to all rows.
    """
    # Combined with the seed to choose the rows on which importance is measured. The next larger
    # number is used to permute these rows.
    stream = 31
    # Number of parts into which the training rows are divided if there are no folds.
    parts = 5
    # Largest number of rows on which importance is measured: of each fold or, without folds, in
    # all.
    max_rows = 2000
    folds = model.folds
    predict = [*folds.predict] or [model.predict] * min(parts, len(points))
    held_out = [np.flatnonzero(folds.number == k)[:max_rows] for k in range(len(predict))]
    if not folds.predict:
        rows = np.random.default_rng([seed, stream]).permutation(len(points))[:max_rows]
        held_out = np.array_split(rows, len(predict))
    rng = np.random.default_rng([seed, stream + 1])
    increases = []
    every = np.arange(points.x.shape[1])
    for fold, rows in zip(predict, held_out, strict=True):
        x = points.x[rows]
        y = points.y[rows]
        order = rng.permutation(len(rows))
        before, *permuted = (
            loss_of(fold(np.where(np.isin(every, mine), x[order], x)), y, model.family)
            for mine in ([], *columns.values())
        )
        increases.append(np.array(permuted) - before)
    means = np.mean(increases, axis=0)
    stds = np.std(increases, axis=0)
    order = np.argsort(-means, kind="stable")
    table = {"input": np.array([*columns]), "permutation_importance": means, "std": stds}
    return DataFrame(table).iloc[order].reset_index(drop=True)


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
    column = fit.encoder.basis.column
    whole = fit.at_scores(model.effect_rows)
    whole = whole - whole.mean(0)
    effects = [column_effect(model, mine) for mine in columns.values()]
    effects.append(whole - sum(effects))
    fractions = np.array([(effect * whole).sum() for effect in effects])
    determined = np.sum([each.determined for each in fit.outputs], axis=0)
    explicit, radial = np.split(determined, [len(column)])
    freedom = [explicit[np.isin(column, mine)].sum() for mine in columns.values()]
    evidence = fit.sample.log_evidence(fit.kernel)
    factors = [evidence - _without(model, mine) for mine in columns.values()]
    table = {
        "term": [*columns, REMAINDER],
        "degrees_of_freedom": [*freedom, radial.sum()],
        "variance_fraction": fractions / ((whole**2).sum() or 1.0),
        "log10_bayes_factor": np.append(factors, np.nan) / np.log(10),
    }
    order = np.argsort(-fractions[:-1], kind="stable")
    return DataFrame(table).iloc[[*order, len(order)]].reset_index(drop=True)


def _without(model: TableModel, columns: Sequence[int]) -> float:
    """Return the log evidence of the kernel after the inputs `columns` are removed."""
    fit = model.fit
    kept = ~np.isin(fit.encoder.basis.column, columns)
    inside = ~np.isin(np.arange(model.u.shape[1]), columns)
    return fit.sample.only(kept).log_evidence(fit.kernel.among(inside))


def kernel_table(model: TableModel, inputs: Sequence[str]) -> DataFrame:
    """Return the hyperparameters of the model.

    Returns:
        One row per rate of an input, per variance of the kernel, and per noise variance and power
        of an output. The columns are `part` (`smooth rate`, `rough rate`, `variance`, `noise`,
        `power`), `name` and `value`. Rates refer to standardised inputs.
    """
    kernel = model.fit.kernel
    rows = [("smooth rate", *pair) for pair in zip(inputs, kernel.smooth_rates, strict=True)]
    rows += [("rough rate", *pair) for pair in zip(inputs, kernel.rough_rates, strict=True)]
    parts = ("lines", "curves", "smooth", "rough")
    rows += [("variance", name, getattr(kernel, name)) for name in parts]
    if model.outputs is not None:
        for k, output in enumerate(model.fit.outputs):
            rows.append(("noise", str(k), output.likelihood.dispersion))
            rows.append(("power", str(k), output.likelihood.power.exponent))
    return DataFrame(rows, columns=["part", "name", "value"])


#: Quantile levels of a column of numbers between which a map extends along this column.
MAP_QUANTILES = (0.01, 0.99)

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
    # Half width of a pointwise 95% band, in standard deviations.
    band = 1.96
    # Number of points of the effect curve of an input with many values.
    curve_points = 61
    tables = []
    mean = model.fit.at_scores(model.effect_rows).mean(0)
    for name, inputs in columns.items():
        names = levels.get(name, ())
        grid = _Grid.of(points.x[:, inputs], names, len(names) or curve_points, (0.0, 1.0))
        size = len(grid.values)
        moved = np.repeat(points.x[:1], size, 0)
        moved[:, inputs] = grid.inputs
        contrast = _Contrast.of(model, inputs, model.inputs.apply(moved))
        latent = mean + contrast.effect
        ends = [_moved(model, latent, sign * band * contrast.std) for sign in (-1, 1)]
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
    # Lower limit of class probabilities in bands, which keeps the log-odds finite.
    rare = 1e-12
    if model.outputs is not None:
        return in_units(latent + difference, model.outputs)
    return np.asarray(expit(logit(np.clip(in_units(latent, None), rare, 1 - rare)) + difference))


def pair_table(model: TableModel, columns: Mapping[str, Sequence[int]]) -> DataFrame:
    """Return the pairs of columns with the strongest interactions.

    `std` is the standard deviation over training rows of the joint effect of both columns minus
    their single effects. It has the unit of the latent functions: logits for classes, the
    transformed output for numbers. `columns` maps each column to the indices of its inputs.
    """
    # Number of columns whose pairs are compared: those with the largest rates in the kernel.
    paired_columns = 12
    # Largest number of pairs in the table of pairs.
    max_pairs = 12
    found = []
    kernel = model.fit.kernel
    if kernel.radial_variance:
        rates = kernel.smooth * kernel.smooth_rates + kernel.rough * kernel.rough_rates
        largest = sorted(columns, key=lambda name: -rates[list(columns[name])].max())
        paired = [name for name in columns if name in largest[:paired_columns]]
        single = {name: column_effect(model, columns[name]) for name in paired}
        for pair in combinations(paired, 2):
            both = column_effect(model, [j for name in pair for j in columns[name]])
            joint = both - single[pair[0]] - single[pair[1]]
            found.append((*pair, float(np.sqrt(np.var(joint, axis=0).sum()))))
    table = DataFrame(found, columns=["input_1", "input_2", "std"])
    return table.sort_values("std", ascending=False, ignore_index=True)[:max_pairs]


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
    # Largest number of points along each side of a map.
    map_points = 25
    # Number of the strongest pairs for which maps are computed.
    max_maps = 4
    o = len(outputs) - 1 if model.outputs is None else 0
    mean = model.fit.at_scores(model.effect_rows).mean(0)
    tables = []
    for names in pairs[["input_1", "input_2"]].to_numpy()[:max_maps].tolist():
        places = [columns[name] for name in names]
        values = [points.x[:, inputs] for inputs in places]
        grids = [
            _Grid.of(x, levels.get(name, ()), map_points, MAP_QUANTILES)
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


#: Levels at which quantile losses are averaged.
_LEVELS = (np.arange(100) + 0.5) / 100
#: Limits of the degrees of freedom; the upper limit is practically a normal distribution.
_FREEDOM = (2.1, 1000.0)
#: Limits of the scale, relative to the root mean square of the errors.
_SCALES = (0.01, 3.0)


class ProperScores(NamedTuple):
    """Scores averaged over rows; lower is better."""

    nlpd: float
    crps: float


def proper_scores(model: TableModel, y: RowOutputs, new: Points | None = None) -> ProperScores:
    """Return the scores of the rows `new` or, if it is None, of the held-out training rows.

    The error distribution of new rows is estimated from all held-out predictions, and that of a
    fold from the predictions of the other folds. `y` (rows, outputs) are the outputs of the
    training rows.
    """
    assert model.outputs is not None  # An invariant: callers ask for numbers only.
    inside = model.held_out_rows
    latent = model.outputs.apply(model.held_out[inside])
    y = y[inside]
    number = model.folds.number[inside]
    parts = [(number != k, latent[number == k], y[number == k]) for k in np.unique(number)]
    if new is not None:
        parts = [(np.full(len(number), True), model.outputs.apply(model.predict(new.x)), new.y)]
    scores = []
    for others, f, truth in parts:
        known = others if others.any() else ~others
        for j, output in enumerate(model.fit.outputs):
            ends = model.outputs.points[j][[0, -1]]
            power = output.likelihood.power
            scores.append(
                row_scores(power, ends, (latent[known, j], y[known, j]), (f[:, j], truth[:, j]))
            )
    return ProperScores(*np.concatenate(scores, 1).mean(1).tolist())


def row_scores(
    power: Power, ends: ndarray, known: tuple[ndarray, ndarray], judged: tuple[ndarray, ndarray]
) -> ndarray:
    """Return the logarithmic score and the CRPS of each judged row, shape (2, rows).

    Args:
        power: Transform between outputs and latent values.
        ends: Lower and upper limit of the outputs, shape (2,).
        known: Predicted latent values and outputs from which the distribution is estimated.
        judged: Predicted latent values and outputs of the judged rows.
    """
    predicted, truth = known
    latent, y = judged
    errors = power.apply(truth) - predicted
    middles, scale = error_scale(predicted, errors)
    unit, freedom = _student(errors / np.interp(predicted, middles, scale))
    size = np.interp(latent, middles, scale * unit)
    nlpd = np.log(size * power.unit) - power.log_slopes(y)
    nlpd -= stats.t.logpdf((power.apply(y) - latent) / size, freedom)
    at = latent[:, None] + size[:, None] * stats.t.ppf(_LEVELS, freedom)
    off = y[:, None] - np.clip(power.invert(at), *ends)
    return np.stack([nlpd, 2 * (off * (_LEVELS - (off < 0))).mean(1)])


def _student(errors: PerRow) -> tuple[float, float]:
    """Return the scale and the degrees of freedom of Student's t distribution of `errors`.

    They are fitted by maximum likelihood.
    """
    unit = max(float(np.sqrt(np.mean(errors**2))), np.sqrt(np.finfo(float).tiny))

    def surprise(p: ndarray) -> float:
        size, freedom = np.exp(p)
        return float(p[0] - stats.t.logpdf(errors / unit / size, freedom).mean())

    bounds = optimize.Bounds(*np.log([_SCALES, _FREEDOM]).T)
    found = optimize.minimize(surprise, np.log([0.8, 8.0]), method="L-BFGS-B", bounds=bounds)
    size, freedom = np.exp(found.x).tolist()
    return unit * size, freedom
