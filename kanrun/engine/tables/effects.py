"""Effects of the inputs of a fitted table, their importance, and the strongest pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy import ndarray
from pandas import DataFrame, concat
from scipy.special import expit, logit

from kanrun.engine.tables.bands import JUMP_ROWS, column_effect, jump_effect, standard_errors
from kanrun.engine.tables.cross_validation import LINEAR, MEAN, SPARSE, TRANSFORMED, loss_of
from kanrun.engine.tables.design import strongest
from kanrun.engine.tables.reduced_basis import RowInputs, RowOutputs, spaced
from kanrun.engine.tables.table_model import BlendPart, TableModel
from kanrun.points import Points

CURVE_POINTS, QUANTILES = 61, 41  # of an effect, and of the distribution of an input
MAX_ROWS, MAX_PAIRS, MAX_MAPS = 2000, 12, 4
PARTS = 5  # of the rows, which take the place of folds
REMAINDER = "(interactions)"
# Along each side of a map, and the quantiles at its ends.
MAP_POINTS, MAP_QUANTILES = 25, (0.01, 0.99)
BAND = 1.96  # standard deviations: 95% pointwise
_RARE = 1e-12  # probability, so that its log-odds are finite
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

    The band (`lower` to `upper`) is pointwise 95%, for all rows of which these are a sample, see
    `bands`. Pairs have their means; neighbourhoods are averaged over rows. A category has one point
    for each `level`, and one for other rows.
    """
    columns = _columns(inputs, categories)
    grids = [_grid(points.x, mine, categories.get(name)) for name, mine in columns.items()]
    curves = _curves(model, [*columns.values()], [moved for *_, moved in grids])
    found = []
    for name, (at, level, _), curve in zip(columns, grids, curves, strict=True):
        of_outputs = zip(outputs, *(part.T for part in curve), strict=True)
        for output, value, lower, upper in of_outputs:
            labels = {"input": name, "level": np.resize(level, len(at)), "output": output}
            values = {"x": at, "value": value, "lower": lower, "upper": upper}
            found.append(DataFrame(labels | values))
    return concat(found, ignore_index=True)


def _grid(
    x: RowInputs, mine: Sequence[int], levels: Mapping[str, int] | None
) -> tuple[ndarray, ndarray, ndarray]:
    """Return places on the axis of a column, its levels there, and inputs with the others fixed."""
    at, level = np.unique(x[:, mine[0]]), np.array([""])
    if len(at) > 2:
        at = np.linspace(at[0], at[-1], CURVE_POINTS)
    values = at[:, None]
    if levels:
        every = np.eye(len(mine) + 1)[:, :-1]
        seen = np.flatnonzero((x[:, None, mine] == every).all(2).any(0))
        at, values = seen.astype(float), every[seen]
        level = np.array([*levels, "(others)"])[seen]
    moved = np.tile(np.median(x, axis=0), (len(at), 1))
    moved[:, mine] = values
    return at, level, moved


def _curves(
    model: TableModel, columns: Sequence[Sequence[int]], grids: Sequence[ndarray]
) -> Iterator[tuple[ndarray, ndarray, ndarray]]:
    """Yield the predictions by the effect of each column alone, and the ends of a band."""
    effects = [_effects(part, columns, grids) for part in model.parts]
    if model.selected in (LINEAR, MEAN, SPARSE):
        # What the selected model leaves out is uncertain too: the errors are those of the stack.
        others = zip(effects[0], _effects(model.stack, columns, grids), strict=True)
        whole = _errors(model.stack, columns, grids)
        errors = [[np.hypot(e, b - a) for e, (a, b) in zip(whole, others, strict=True)]]
    else:
        errors = [_errors(part, columns, grids) for part in model.parts]
    of_columns = zip(zip(*effects, strict=True), zip(*errors, strict=True), strict=True)
    for own, spread in of_columns:
        yield _in_units(model, own), *_ends(model, own, spread)


def _effects(
    part: BlendPart, columns: Sequence[Sequence[int]], grids: Sequence[ndarray]
) -> list[ndarray]:
    """Return the effect of each column on its grid."""
    rows, basis = map(part.inputs.apply, grids), part.fit.design.basis
    pairs = zip(columns, rows, strict=True)
    return [column_effect(part.fit, mine, u, basis.values(u)) for mine, u in pairs]


def _errors(
    part: BlendPart, columns: Sequence[Sequence[int]], grids: Sequence[ndarray]
) -> list[ndarray]:
    """Return the standard errors of these effects."""
    return standard_errors(part.fit, columns, [*map(part.inputs.apply, grids)])


def _ends(
    model: TableModel, effects: Sequence[ndarray], errors: Sequence[ndarray]
) -> tuple[ndarray, ndarray]:
    """Return the ends of bands; those of probabilities are symmetric about their log-odds.

    The errors of logits are independent.
    """
    if model.outputs is not None:
        pairs = [*zip(effects, errors, strict=True)]
        low, high = (_in_units(model, [m + d * e for m, e in pairs]) for d in (-BAND, BAND))
        return np.minimum(low, high), np.maximum(low, high)
    likely = np.clip(_in_units(model, effects), _RARE, 1 - _RARE)
    variance = errors[0] ** 2
    if variance.shape[1] > 1:
        own, whole = likely**2 * variance, (likely**2 * variance).sum(1, keepdims=True)
        variance = variance + (whole - own) / (1 - likely) ** 2
    low, high = (expit(logit(likely) + d * np.sqrt(variance)) for d in (-BAND, BAND))
    return low, high


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
    u = fit.u[spaced(len(fit.u), JUMP_ROWS if design.jumps else MAX_ROWS)]
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
            joint += sign / size * jump_effect(fit, u, mine, u[:, mine]).T
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
            rows = fit.u[spaced(len(fit.u), JUMP_ROWS)]
            mean = jump_effect(fit, rows, places, rows[:, places]).mean(0)
            joint.append(fit.raw(h) - fit.terms.offset - mean)
            joint[-1] += jump_effect(fit, rows, places, u[:, places])
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
