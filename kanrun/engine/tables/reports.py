"""All tables that describe a fitted table.

They show the effects of its columns (`effects`), how much each column matters (importance and
analysis of variance), and the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pandas import DataFrame

from kanrun.engine.tables.effects import (
    Levels,
    column_effect,
    effect_table,
    pair_maps,
    pair_table,
)
from kanrun.engine.tables.folds import loss_of
from kanrun.engine.tables.table_model import TableModel
from kanrun.points import Points

#: Number of quantiles that describe the distribution of an input.
QUANTILES = 41
#: Largest number of rows on which importance is measured: of each fold or, without folds, in all.
MAX_ROWS = 2000
#: Number of parts into which the training rows are divided if there are no folds.
PARTS = 5
#: Name of the row of `anova_table` that describes interactions.
REMAINDER = "(interactions)"
#: Combined with the seed to choose the rows on which importance is measured. The next larger number
#: is used to permute these rows.
_STREAM = 31


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
    `PARTS` parts, each of which is predicted by the model that was fitted to all rows.
    """
    folds = model.folds
    predict = [*folds.predict] or [model.predict] * min(PARTS, len(points))
    held_out = [np.flatnonzero(folds.number == k)[:MAX_ROWS] for k in range(len(predict))]
    if not folds.predict:
        rows = np.random.default_rng([seed, _STREAM]).permutation(len(points))[:MAX_ROWS]
        held_out = np.array_split(rows, len(predict))
    rng = np.random.default_rng([seed, _STREAM + 1])
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
