"""Effects of the inputs of a fitted table, their importance, and the strongest pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy import ndarray
from pandas import DataFrame, concat

from kanrun.engine.tables.cross_validation import MEAN, TRANSFORMED, loss_of
from kanrun.engine.tables.design import strongest
from kanrun.engine.tables.reduced_basis import RowFunctions, RowInputs, RowOutputs, spaced
from kanrun.engine.tables.table_fit import TableFit
from kanrun.engine.tables.table_model import TableModel
from kanrun.points import Points

CURVE_POINTS, QUANTILES = 61, 41  # of an effect, and of the distribution of an input
MAX_ROWS, MAX_PAIRS, MAX_MAPS = 2000, 12, 4
PARTS = 5  # of the rows, which take the place of folds
REMAINDER = "(interactions)"
# Along each side of a map, and the quantiles at its ends.
MAP_POINTS, MAP_QUANTILES = 25, (0.01, 0.99)
BAND = 1.96  # standard deviations: 95% pointwise
_EFFECT_ROWS = 100  # over which effects of neighbourhoods are averaged
_LOGIT_STD = 2.0  # of one row's logit, 1 / sqrt(p (1 - p)) at p = 1/2
_STREAM = 31  # of the random numbers that choose rows; the next permutes them

#: Inputs that are levels of one column, by the names of columns and levels.
Categories = Mapping[str, Mapping[str, int]]


def report_tables(
    model: TableModel,
    points: Points,
    inputs: Sequence[str],
    outputs: Sequence[str],
    categories: Categories,
    seed: int,
) -> Iterator[tuple[str, DataFrame]]:
    """Yield all tables by name; without pairs there are no tables of pairs."""
    levels = np.linspace(0, 1, QUANTILES)
    yield "effects", effect_table(model, points, inputs, outputs, categories)
    columns = _columns(inputs, categories)
    yield "importance", importance_table(model, points, columns, seed)
    if model.selected != MEAN:
        yield "anova", anova_table(model, columns)
    labels = {"input": np.repeat(inputs, QUANTILES), "level": np.tile(levels, len(inputs))}
    values = np.quantile(points.x, levels, axis=0).T.ravel()
    yield "input_values", DataFrame(labels | {"x": values})
    if len(pairs := pair_table(model, inputs)):
        yield "pairs", pairs
        yield "pair_maps", pair_maps(model, points, pairs, inputs, outputs)
    yield "stack_weights", DataFrame(stack_weights(model), columns=["member", "weight"])


def _columns(inputs: Sequence[str], categories: Categories) -> dict[str, list[int]]:
    """Return the indices of the inputs of each column, categories first."""
    columns = {name: [*places.values()] for name, places in categories.items()}
    taken = {j for places in columns.values() for j in places}
    return columns | {name: [j] for j, name in enumerate(inputs) if j not in taken}


def effect_table(
    model: TableModel,
    points: Points,
    inputs: Sequence[str],
    outputs: Sequence[str],
    categories: Categories = MappingProxyType({}),
) -> DataFrame:
    """Return predictions along each input, all other effects at their means.

    The band (`lower` to `upper`) is that of the additive part by the evidence, pointwise 95%. Pairs
    have their means; neighbourhoods are averaged over rows. A category has one point for each
    `level`, and one for other rows; its bands are those of the means of the rows, since indicators
    are collinear.
    """
    x, found = points.x, []
    for name, mine in _columns(inputs, categories).items():
        at, level, count = np.unique(x[:, mine[0]]), np.array([""]), None
        if len(at) > 2:
            at = np.linspace(at[0], at[-1], CURVE_POINTS)
        values = at[:, None]
        if name in categories:
            every = np.eye(len(mine) + 1)[:, :-1]
            count = (x[:, None, mine] == every).all(2).sum(0)
            seen = np.flatnonzero(count)
            at, values, count = seen.astype(float), every[seen], count[seen]
            level = np.array([*categories[name], "(others)"])[seen]
        moved = np.tile(np.median(x, axis=0), (len(at), 1))
        moved[:, mine] = values
        curves = zip(*(curve.T for curve in _curves(model, moved, mine, count)), strict=True)
        for output, (value, lower, upper) in zip(outputs, curves, strict=True):
            labels = {"input": name, "level": np.resize(level, len(at)), "output": output}
            columns = {"x": at, "value": value, "lower": lower, "upper": upper}
            found.append(DataFrame(labels | columns))
    return concat(found, ignore_index=True)


def column_effect(
    fit: TableFit, inputs: Sequence[int], u: RowInputs, h: RowFunctions
) -> RowOutputs:
    """Return the effect of a column of inputs, that of neighbourhoods being averaged over rows.

    `h` holds the functions of single inputs for u.
    """
    terms, radial, jumps = fit.terms, fit.design.radial, fit.design.jumps
    mine = np.flatnonzero(np.isin(fit.design.basis.column, inputs))
    effect = h[:, mine] @ terms.main[:, mine].T
    if radial is None and not jumps:
        return np.asarray(effect)
    rows, size = fit.u[spaced(len(fit.u), _EFFECT_ROWS)], len(fit.design.main)
    bells = terms.main[:, len(fit.design.lines) : size]
    for j in inputs:
        at = np.unique(np.append(u[:, j], rows[:, j]))
        at = at if len(at) <= _EFFECT_ROWS else np.quantile(at, np.linspace(0, 1, _EFFECT_ROWS))
        levels = _jump_effect(fit, rows, [j], at[:, None]).T
        if radial is not None:
            levels += radial.partial_dependence(rows, j, at, bells).T
        moved, mean = (
            np.stack([np.interp(x[:, j], at, one) for one in levels], 1) for x in (u, rows)
        )
        effect += moved - mean.mean(0)
    return np.asarray(effect)


def _jump_effect(fit: TableFit, rows: RowInputs, inputs: Sequence[int], at: ndarray) -> ndarray:
    """Return the mean of the jumps (points, outputs) over rows with these inputs set to `at`."""
    heights = fit.terms.main[:, len(fit.design.main) :]
    effect = np.zeros((len(at), len(heights)))
    for one, height in zip(fit.design.jumps, heights.T, strict=True):
        effect += np.outer(one.partial_dependence(rows, inputs, at), height)
    return effect


def _curves(
    model: TableModel, x: RowInputs, inputs: Sequence[int], count: ndarray | None = None
) -> tuple[ndarray, ndarray, ndarray]:
    """Return the predictions at x by the effects of these inputs alone, and the ends of a band.

    The band is that of means of `count` rows, by default that of the first input.
    """
    u, middles, stds = model.inputs.apply(x), [], []
    for fit in (part.fit for part in model.parts):
        h = fit.design.basis.values(u)
        middles.append(column_effect(fit, inputs, u, h))
        mine = fit.design.basis.places[inputs[0]]
        own, covariance = h[:, mine], fit.main.covariance[np.ix_(mine, mine)]
        std = fit.unit * np.sqrt(np.maximum(((own @ covariance) * own).sum(1), 0))
        if count is not None:
            std = (_LOGIT_STD if model.outputs is None else fit.noise[0]) / np.sqrt(count)
        stds.append(std[:, None])
    curve, *ends = (
        _in_units(model, [m + d * std for m, std in zip(middles, stds, strict=True)])
        for d in (0.0, -BAND, BAND)
    )
    return curve, np.minimum(*ends), np.maximum(*ends)


def _in_units(model: TableModel, effects: Sequence[ndarray]) -> RowOutputs:
    """Return predictions from the mean outputs of the parts and the effects on each."""
    pairs = zip(model.parts, effects, strict=True)
    return np.asarray(
        sum(part.weight * part.in_units(part.fit.mean + effect) for part, effect in pairs)
    )


def importance_table(
    model: TableModel, points: Points, columns: Mapping[str, Sequence[int]], seed: int
) -> DataFrame:
    """Return the importance of columns of inputs, the most important first.

    The permutation importance is the increase of the loss (RMSE or log loss) when the values of the
    column are permuted: the mean over folds, and `std` the standard deviation over them. Each fold
    has its own model and the rows that this was not fitted to. Without folds, five parts of the
    training rows take their place.
    """
    folds: list[tuple[Callable[[ndarray], ndarray], ndarray]]
    if model.folds is None:
        rows = np.random.default_rng([seed, _STREAM]).permutation(len(points))[:MAX_ROWS]
        folds = [(model.predict, part) for part in np.array_split(rows, min(PARTS, len(rows)))]
    else:
        number = model.folds.number
        held_out = [np.flatnonzero(number == k)[:MAX_ROWS] for k in range(number.max() + 1)]
        folds = [*zip(model.folds.predict, held_out, strict=True)]
    rng, increases = np.random.default_rng([seed, _STREAM + 1]), []
    every = np.arange(points.x.shape[1])
    for predict, rows in folds:
        x, y, order = points.x[rows], points.y[rows], rng.permutation(len(rows))
        before, *permuted = (
            loss_of(predict(np.where(np.isin(every, mine), x[order], x)), y, model.family)
            for mine in ([], *columns.values())
        )
        increases.append(np.array(permuted) - before)
    means, stds = np.mean(increases, axis=0), np.std(increases, axis=0)
    table = DataFrame({"input": list(columns), "permutation_importance": means, "std": stds})
    by = "permutation_importance"
    return table.sort_values(by, ascending=False, kind="stable", ignore_index=True)


def anova_table(model: TableModel, columns: Mapping[str, Sequence[int]]) -> DataFrame:
    """Return degrees of freedom, fraction of variance and Bayes factor of each column's effect.

    The fraction is the covariance of an effect f_j with the sum f of all terms over the variance of
    f, on training rows and summed over outputs: it is negative where an effect counteracts others,
    and all add up to 1 (G. Li et al., Journal of Physical Chemistry A 114 (2010) 6022-6032, their
    S_j). The last row is what several columns add together. Degrees of freedom and Bayes factor are
    those of the first output in the candidate without pairs, see `MainPosterior`.
    """
    fit = model.fit
    u = fit.u[spaced(len(fit.u), MAX_ROWS)]
    h, whole = fit.design.basis.values(u), fit.raw(fit.design.functions(u))
    whole = whole - whole.mean(0)
    size = np.abs(whole).max() or 1.0  # squares in other units may overflow
    left = whole = whole / size
    found = []
    for name, inputs in columns.items():
        effect = column_effect(fit, inputs, u, h) / size
        left = left - effect
        places = np.concatenate([fit.design.basis.places[j] for j in inputs])
        freedom, factor = (
            one(places) for one in (fit.main.degrees_of_freedom, fit.main.log_bayes_factor)
        )
        found.append((name, freedom, float((effect * whole).sum()), factor / np.log(10)))
    found.sort(key=lambda row: -row[2])
    found.append((REMAINDER, np.nan, float((left * whole).sum()), np.nan))
    names = ["term", "degrees_of_freedom", "variance_fraction", "log10_bayes_factor"]
    table = DataFrame(found, columns=names)
    table["variance_fraction"] /= float((whole**2).sum()) or 1.0
    return table


def pair_table(model: TableModel, inputs: Sequence[str]) -> DataFrame:
    """Return the strongest pairs with the standard deviation of their terms over training rows.

    The unit is that of the output of the larger part: logits for classes, or the transformed
    output.
    """
    fit, terms, design = model.fit, model.fit.terms, model.fit.design
    # The effect of jumps has the work of all pairs of rows.
    u = fit.u[spaced(len(fit.u), _EFFECT_ROWS if design.jumps else MAX_ROWS)]
    h, size = design.basis.values(u)[:, terms.places], np.abs(terms.pairs).max(initial=0.0) or 1.0
    scaled = terms.pairs / size
    energy, pairs = (scaled**2).sum(0), list[tuple[int, int]]()
    if energy.size:
        pairs = design.strongest_pairs(energy, 2 * MAX_PAIRS)
    for nodes in design.jumps:
        pairs += strongest(nodes.pair_energy(len(design.relevance)), 2 * MAX_PAIRS)
    column, found = design.basis.column[terms.places], []
    for i, j in dict.fromkeys(pairs):
        a, b = column == i, column == j
        joint = np.array([((h[:, a] @ p[np.ix_(a, b)]) * h[:, b]).sum(1) for p in scaled])
        for sign, mine in ((1, [i, j]), (-1, [i]), (-1, [j])) if design.jumps else ():
            joint += sign / size * _jump_effect(fit, u, mine, u[:, mine]).T
        found.append((inputs[i], inputs[j], size * np.sqrt(np.var(joint, axis=1).sum())))
    table = DataFrame(found, columns=["input_1", "input_2", "std"])
    return table.sort_values("std", ascending=False, ignore_index=True)[:MAX_PAIRS]


def pair_maps(
    model: TableModel,
    points: Points,
    pairs: DataFrame,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> DataFrame:
    """Return predictions over the inputs of each strong pair, other effects at their means.

    The grid covers the middle of both ranges; `rows` counts the training rows nearest to each of
    its points. The output is the first, or the last class.
    """
    x, o = points.x, len(outputs) - 1 if model.outputs is None else 0
    basis, found = model.fit.design.basis, []
    for names in pairs[["input_1", "input_2"]].to_numpy()[:MAX_MAPS].tolist():
        places, sides = [inputs.index(name) for name in names], []
        for values in x[:, places].T:
            side = np.unique(values)
            if len(side) > MAP_POINTS:
                low, high = np.quantile(values, MAP_QUANTILES)
                side = np.linspace(low, high, MAP_POINTS)
            sides.append(side)
        grid = np.stack([side.ravel() for side in np.meshgrid(*sides, indexing="ij")], 1)
        moved = np.tile(np.median(x, axis=0), (len(grid), 1))
        moved[:, places] = grid
        mine = np.isin(basis.column, places)
        u = model.inputs.apply(moved)
        h, joint = np.where(mine, basis.values(u), 0.0), list[ndarray]()
        for fit in (part.fit for part in model.parts):
            rows = fit.u[spaced(len(fit.u), _EFFECT_ROWS)]
            mean = _jump_effect(fit, rows, places, rows[:, places]).mean(0)
            joint.append(fit.raw(h) - fit.terms.offset - mean)
            joint[-1] += _jump_effect(fit, rows, places, u[:, places])
        nearest = [
            np.abs(values[:, None] - side).argmin(1)
            for values, side in zip(x[:, places].T, sides, strict=True)
        ]
        cell = np.ravel_multi_index(nearest, [len(side) for side in sides])
        labels = {"input_1": names[0], "input_2": names[1], "output": outputs[o]}
        labels |= {"x": grid[:, 0], "y": grid[:, 1], "value": _in_units(model, joint)[:, o]}
        found.append(DataFrame(labels | {"rows": np.bincount(cell, minlength=len(grid))}))
    return concat(found, ignore_index=True)


def stack_weights(model: TableModel) -> list[tuple[str, float]]:
    """Return the members and their weights.

    Those of a transformed output are named `transformed ...`.
    """
    found = []
    for part in model.parts:
        of = "transformed " if part.name == TRANSFORMED else ""
        found += [(of + name, part.weight * weight) for name, weight in part.fit.weights.items()]
    return found
