"""What a fitted table says of its inputs, as plain tables for figures: effects, importance, the strongest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy import ndarray
from pandas import DataFrame, concat
from scipy.special import softmax

from kanrun.engine.evidence import all_logits
from kanrun.runs.records import Table
from kanrun.study.cross_validation import loss_of
from kanrun.study.table_model import TableModel
from kanrun.targets import Points

CURVE_POINTS, QUANTILES = 61, 41  # of an effect, and of the distribution of the input below it
MOST_ROWS, MOST_PAIRS, MOST_MAPS = 2000, 12, 4
MAP_POINTS, QUANTILE_ENDS = (
    25,
    (0.01, 0.99),
)  # of a side of a map over two inputs, and where it begins and ends
BAND = 1.96  # standard deviations: 95 % pointwise


def effect_table(
    model: TableModel, points: Points, inputs: Sequence[str], outputs: Sequence[str]
) -> Table:
    """For each input and output, the prediction while the input moves and all other effects are at their mean.

    Columns input, output, x, value, lower, upper in the user's units (probabilities of a class for classes); the band
    is that of the additive part by the evidence, pointwise 95 %. Pairs are not in it: at their mean; of neighbourhoods
    their mean over rows is.
    """
    x, fit = points.x, model.fit
    centre = np.median(x, axis=0)
    low, high = x.min(0), x.max(0)
    parts = []
    for j, name in enumerate(inputs):
        at = np.linspace(low[j], high[j], CURVE_POINTS) if high[j] > low[j] else low[j : j + 1]
        if len(values := np.unique(x[:, j])) <= 2:
            at = values
        moved = np.tile(centre, (len(at), 1))
        moved[:, j] = at
        u = model.inputs.apply(moved)
        h = fit.design.functions(u)[:, fit.design.basis.places[j]]

        middles = [part.fit.effect(j, u) for part in model.parts]
        spreads = [
            np.sqrt(np.maximum(((h @ part.fit.covariance[j]) * h).sum(1), 0))[:, None]
            for part in model.parts
        ]
        curves = [
            _in_units(
                model,
                [middle + d * spread for middle, spread in zip(middles, spreads, strict=True)],
            )
            for d in (0.0, -BAND, BAND)
        ]
        low_ends, high_ends = np.minimum(*curves[1:]), np.maximum(*curves[1:])
        for o, output in enumerate(outputs):
            ends = {"lower": low_ends[:, o], "upper": high_ends[:, o]}
            parts.append(
                DataFrame(
                    {"input": name, "output": output, "x": at, "value": curves[0][:, o], **ends}
                )
            )
    return _table("effects", parts)


def _table(name: str, parts: Sequence[DataFrame]) -> Table:
    return Table(name, {str(column): values.to_numpy() for column, values in concat(parts).items()})


def _in_units(model: TableModel, effects: Sequence[ndarray]) -> ndarray:
    """Predictions from the mean outputs of the parts and what an input adds to each."""
    total: ndarray | float = 0.0
    for part, effect in zip(model.parts, effects, strict=True):
        whole = part.fit.mean + effect
        total = total + part.weight * (
            softmax(all_logits(whole), 1) if part.outputs is None else part.outputs.invert(whole)
        )
    return np.asarray(total)


def importance_table(
    model: TableModel, points: Points, inputs: Sequence[str], classes: int | None, seed: int
) -> Table:
    """For each input, the largest first: how far its effect moves the output, and the error when it is shuffled.

    `effect_share` is the standard deviation of its main effect over the training rows as a share of the sum of all inputs';
    `permutation_importance` the loss on the training rows with the input's values permuted, minus that without (root mean square
    error in the user's units, or log loss).
    """
    rows = np.random.default_rng([seed, 31]).permutation(len(points))[:MOST_ROWS]
    some = points.take(np.sort(rows))
    before = loss_of(model.values(some.x), some.y, classes)
    effect, shuffled = np.zeros(len(inputs)), np.zeros(len(inputs))
    order = np.random.default_rng([seed, 32]).permutation(len(some))
    for j in range(len(inputs)):
        effect[j] = sum(
            part.weight
            * np.sqrt(part.fit.effect(j, model.inputs.apply(some.x)).var(0).sum())
            * (1.0 if part.outputs is None else float(part.outputs.scale.mean()))
            for part in model.parts
        )
        moved = some.x.copy()
        moved[:, j] = moved[order, j]
        shuffled[j] = loss_of(model.values(moved), some.y, classes) - before
    share = effect / effect.sum() if effect.sum() > 0 else effect
    largest = np.argsort(-shuffled, kind="stable")
    columns = {
        "input": np.array(inputs),
        "effect_share": share,
        "permutation_importance": shuffled,
    }
    return Table("importance", {name: values[largest] for name, values in columns.items()})


def pair_table(model: TableModel, points: Points, inputs: Sequence[str]) -> Table | None:
    """The strongest pairs: the standard deviation over training rows of what two inputs do together.

    In units of the output of the larger part (logits for classes, or the transformed output). None without pairs.
    """
    pairs = [one.pairs for one in model.fit.terms if one.pairs is not None]
    if not pairs:
        return None
    design = model.fit.design
    strongest = design.strongest_pairs(np.sum([p**2 for p in pairs], axis=0), 2 * MOST_PAIRS)
    if not len(strongest):
        return None
    h, column = (
        model.fit.functions()[:MOST_ROWS][:, design.places],
        design.basis.column[design.places],
    )
    sizes = []
    for i, j in strongest:
        a, b = column == i, column == j
        joint = [((h[:, a] @ p[np.ix_(a, b)]) * h[:, b]).sum(1) for p in pairs]
        sizes.append(float(np.sqrt(sum(np.var(part) for part in joint))))
    order = np.argsort(sizes)[::-1][:MOST_PAIRS]
    first, second = (np.array([inputs[strongest[k][side]] for k in order]) for side in (0, 1))
    return Table("pairs", {"input_1": first, "input_2": second, "std": np.array(sizes)[order]})


def pair_map_table(
    model: TableModel, points: Points, inputs: Sequence[str], outputs: Sequence[str]
) -> Table | None:
    """The prediction over two inputs of a strong pair, all else at its mean, in the user's units.

    Columns input_1, input_2, output, x, y, value for MAP_POINTS^2 places over the middle of both ranges (QUANTILE_ENDS), and
    `rows`, how many training rows are nearest to each. The output is the first, of classes the last.
    """
    pairs = pair_table(model, points, inputs)
    if pairs is None:
        return None
    fit, x = model.fit, points.x
    o = len(outputs) - 1 if model.outputs is None else 0
    parts = []
    for first, second in list(zip(pairs.columns["input_1"], pairs.columns["input_2"], strict=True))[
        :MOST_MAPS
    ]:
        i, j = list(inputs).index(first), list(inputs).index(second)
        sides = [_side(x[:, k]) for k in (i, j)]
        grid = np.stack([side.ravel() for side in np.meshgrid(*sides, indexing="ij")], 1)
        moved = np.tile(np.median(x, axis=0), (len(grid), 1))
        moved[:, [i, j]] = grid
        mine = np.isin(fit.design.basis.column, (i, j))
        functions = replace(fit.design, radial=None).functions
        h = np.where(mine, functions(model.inputs.apply(moved)), 0.0)

        joint = [
            np.stack([one.values(h) - one.offset for one in part.fit.terms], 1)
            for part in model.parts
        ]
        nearest = [
            np.abs(x[:, k, None] - side).argmin(1) for k, side in zip((i, j), sides, strict=True)
        ]
        rows = np.bincount(nearest[0] * len(sides[1]) + nearest[1], minlength=len(grid))
        marks = {
            "input_1": first,
            "input_2": second,
            "output": outputs[o],
            "x": grid[:, 0],
            "y": grid[:, 1],
        }
        parts.append(DataFrame({**marks, "value": _in_units(model, joint)[:, o], "rows": rows}))
    return _table("pair_maps", parts)


def _side(values: ndarray) -> ndarray:
    distinct = np.unique(values)
    if len(distinct) <= MAP_POINTS:
        return distinct
    low, high = np.quantile(values, QUANTILE_ENDS)
    return np.asarray(np.linspace(float(low), float(high), MAP_POINTS))


def distribution_table(points: Points, inputs: Sequence[str]) -> Table:
    """Quantiles of each input over the training rows."""
    levels = np.linspace(0, 1, QUANTILES)
    return Table(
        "input_values",
        {
            "input": np.repeat(np.array(inputs), QUANTILES),
            "level": np.tile(levels, len(inputs)),
            "x": np.concatenate([np.quantile(column, levels) for column in points.x.T]),
        },
    )


def member_weights(model: TableModel) -> Sequence[tuple[str, float]]:
    """The members and their weights; those for the transformed output have their name with `transformed` before it."""
    found = []
    for part in model.parts:
        of = "transformed " if part.outputs is not None and len(part.outputs.values[0]) > 2 else ""
        found += [(of + name, part.weight * weight) for name, weight in part.fit.weights.items()]
    return found
