"""Effects of the inputs of a fitted table, their importance, and the strongest pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kanrun.engine.tables.cross_validation import loss_of
from kanrun.engine.tables.table_model import TableModel
from kanrun.points import Points

CURVE_POINTS, QUANTILES = 61, 41  # of an effect, and of the distribution of an input
MAX_ROWS, MAX_PAIRS, MAX_MAPS = 2000, 12, 4
PARTS = 5  # of the rows, over which the importance has a spread
# Along each side of a map, and the quantiles at its ends.
MAP_POINTS, MAP_QUANTILES = 25, (0.01, 0.99)
BAND = 1.96  # standard deviations: 95% pointwise
_LOGIT_STD = 2.0  # of one row's logit, 1 / sqrt(p (1 - p)) at p = 1/2
_STREAM = 31  # of the random numbers that choose rows; the next permutes them

Columns = dict[str, ndarray]


def report_tables(
    model: TableModel,
    points: Points,
    inputs: Sequence[str],
    outputs: Sequence[str],
    categories: Mapping[str, Mapping[str, int]],
    seed: int,
) -> Iterator[tuple[str, Columns]]:
    """Yield all tables by name; without pairs there are no tables of pairs.

    `categories` are the inputs that are levels of one column, by the names of columns and levels.
    """
    levels = np.linspace(0, 1, QUANTILES)
    yield "effects", effect_table(model, points, inputs, outputs, categories)
    taken = {j for places in categories.values() for j in places.values()}
    columns = {name: [*places.values()] for name, places in categories.items()}
    columns |= {name: [j] for j, name in enumerate(inputs) if j not in taken}
    yield "importance", importance_table(model, points, columns, seed)
    yield (
        "input_values",
        {
            "input": np.repeat(np.array(inputs), QUANTILES),
            "level": np.tile(levels, len(inputs)),
            "x": np.quantile(points.x, levels, axis=0).T.ravel(),
        },
    )
    if (pairs := pair_table(model, inputs)) is not None:
        yield "pairs", pairs
        yield "pair_maps", pair_maps(model, points, pairs, inputs, outputs)
    names, weights = zip(*stack_weights(model), strict=True)
    yield "stack_weights", {"member": np.array(names), "weight": np.array(weights)}


def effect_table(
    model: TableModel,
    points: Points,
    inputs: Sequence[str],
    outputs: Sequence[str],
    categories: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> Columns:
    """Return predictions along each input, all other effects at their means.

    The band (`lower` to `upper`) is that of the additive part by the evidence, pointwise 95%. Pairs
    have their means; neighbourhoods are averaged over rows. A category has one point for each
    `level`, and one for other rows; its bands are those of the means of the rows, since indicators
    are collinear.
    """
    x, rows = points.x, []
    middle, taken = np.median(x, axis=0), set[int]()
    for name, places in categories.items():
        every, mine = np.eye(len(places) + 1)[:, :-1], [*places.values()]
        count = (x[:, None, mine] == every).all(2).sum(0)
        seen = count > 0
        moved = np.tile(middle, (len(every), 1))
        moved[:, mine] = every
        labels = {"input": name, "level": np.array([*places, "(others)"])[seen]}
        curves = _curves(model, moved[seen], mine, count[seen])
        rows += _rows(labels, np.flatnonzero(seen).astype(float), curves, outputs)
        taken |= {*mine}
    for j in sorted({*range(len(inputs))} - taken):
        at = np.unique(x[:, j])
        if len(at) > 2:
            at = np.linspace(at[0], at[-1], CURVE_POINTS)
        moved = np.tile(middle, (len(at), 1))
        moved[:, j] = at
        labels = {"input": inputs[j], "level": ""}
        rows += _rows(labels, at, _curves(model, moved, [j]), outputs)
    return _joined(rows)


def _curves(
    model: TableModel,
    x: Float[ndarray, "points inputs"],
    inputs: Sequence[int],
    count: Int[ndarray, " points"] | None = None,
) -> tuple[ndarray, ndarray, ndarray]:
    """Return the predictions at x by the effects of these inputs alone, and the ends of a band.

    The band is that of means of `count` rows, by default that of the first input.
    """
    u = model.inputs.apply(x)
    h = model.fit.design.functions(u)[:, model.fit.design.basis.places[inputs[0]]]
    middles = [np.sum([part.fit.effect(j, u) for j in inputs], axis=0) for part in model.parts]
    stds = []
    for fit in (part.fit for part in model.parts):
        variance = np.maximum(((h @ fit.covariance[inputs[0]]) * h).sum(1), 0)
        if count is not None:
            variance = (_LOGIT_STD if model.outputs is None else fit.noise[0]) ** 2 / count
        stds.append(np.sqrt(variance)[:, None])
    curve, *ends = (
        _in_units(model, [m + d * std for m, std in zip(middles, stds, strict=True)])
        for d in (0.0, -BAND, BAND)
    )
    return curve, np.minimum(*ends), np.maximum(*ends)


def _rows(
    labels: Mapping[str, Any], at: ndarray, curves: Sequence[ndarray], outputs: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the columns of one input for each output."""
    names = ("value", "lower", "upper")
    return [
        {**labels, "output": output, "x": at}
        | {name: curve[:, o] for name, curve in zip(names, curves, strict=True)}
        for o, output in enumerate(outputs)
    ]


def _joined(rows: Sequence[dict[str, Any]]) -> Columns:
    """Concatenate columns; a single value holds for all rows of its part."""
    lengths = [len(one["x"]) for one in rows]
    return {
        name: np.concatenate(
            [np.broadcast_to(one[name], n) for one, n in zip(rows, lengths, strict=True)]
        )
        for name in rows[0]
    }


def _in_units(
    model: TableModel, effects: Sequence[Float[ndarray, "points logits"]]
) -> Float[ndarray, "points outputs"]:
    """Return predictions from the mean outputs of the parts and the effects on each."""
    pairs = zip(model.parts, effects, strict=True)
    return np.asarray(
        sum(part.weight * part.in_units(part.fit.mean + effect) for part, effect in pairs)
    )


def importance_table(
    model: TableModel, points: Points, columns: Mapping[str, Sequence[int]], seed: int
) -> Columns:
    """Return the importance of columns of inputs, the most important first.

    The effect is the standard deviation of the column's effects, as a fraction of all such; the
    permutation importance is the increase of the loss (RMSE or log loss) on training rows when the
    values of the column are permuted, and `std` its standard deviation over five parts of them.
    """
    rows = np.random.default_rng([seed, _STREAM]).permutation(len(points))[:MAX_ROWS]
    some, classes = points.take(rows), model.classes
    parts = np.array_split(np.arange(len(some)), min(PARTS, len(some)))

    def losses(x: ndarray) -> ndarray:
        """Return the loss on all rows, then on each part."""
        found = model.predict(x)
        each = [np.arange(len(some)), *parts]
        return np.array([loss_of(found[rows], some.y[rows], classes) for rows in each])

    before, u = losses(some.x), model.inputs.apply(some.x)
    order = np.random.default_rng([seed, _STREAM + 1]).permutation(len(some))
    effect, increase = np.zeros(len(columns)), []
    for place, inputs in enumerate(map(list, columns.values())):
        for part in model.parts:
            unit = 1.0 if part.outputs is None else float(part.outputs.scale.mean())
            together = np.sum([part.fit.effect(j, u) for j in inputs], axis=0)
            effect[place] += part.weight * unit * np.sqrt(together.var(0).sum())
        moved = some.x.copy()
        moved[:, inputs] = moved[order][:, inputs]
        increase.append(losses(moved) - before)
    importance, *others = np.transpose(increase)
    largest = np.argsort(-importance, kind="stable")
    table = {
        "input": np.array([*columns]),
        "effect_share": effect / effect.sum() if effect.sum() > 0 else effect,
        "permutation_importance": importance,
        "std": np.std(others, axis=0),
    }
    return {name: values[largest] for name, values in table.items()}


def pair_table(model: TableModel, inputs: Sequence[str]) -> Columns | None:
    """Return the strongest pairs with the standard deviation of their terms over training rows.

    None without pairs.

    The unit is that of the output of the larger part: logits for classes, or the transformed
    output.
    """
    pairs = [one.pairs for one in model.fit.terms if one.pairs is not None]
    design = model.fit.design
    energy = np.sum([p**2 for p in pairs], axis=0)
    strongest = design.strongest_pairs(energy, 2 * MAX_PAIRS) if pairs else []
    if not strongest:
        return None
    h = model.fit.functions()[:MAX_ROWS][:, design.places]
    column = design.basis.column[design.places]
    sizes = []
    for i, j in strongest:
        a, b = column == i, column == j
        joint = [((h[:, a] @ p[np.ix_(a, b)]) * h[:, b]).sum(1) for p in pairs]
        sizes.append(float(np.sqrt(sum(np.var(part) for part in joint))))
    order = np.argsort(sizes)[::-1][:MAX_PAIRS]
    first, second = np.array(inputs)[np.array(strongest)[order]].T
    return {"input_1": first, "input_2": second, "std": np.array(sizes)[order]}


def pair_maps(
    model: TableModel,
    points: Points,
    pairs: Columns,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Columns:
    """Return predictions over the inputs of each strong pair, other effects at their means.

    The grid covers the middle of both ranges; `rows` counts the training rows nearest to each of
    its points. The output is the first, or the last class.
    """
    x, o = points.x, len(outputs) - 1 if model.outputs is None else 0
    design, rows = model.fit.additive, []
    named = list(zip(pairs["input_1"], pairs["input_2"], strict=True))[:MAX_MAPS]
    for first, second in named:
        i, j = list(inputs).index(first), list(inputs).index(second)
        sides = [_side(x[:, k]) for k in (i, j)]
        grid = np.stack([side.ravel() for side in np.meshgrid(*sides, indexing="ij")], 1)
        moved = np.tile(np.median(x, axis=0), (len(grid), 1))
        moved[:, [i, j]] = grid
        mine = np.isin(design.basis.column, (i, j))
        h = np.where(mine, design.functions(model.inputs.apply(moved)), 0.0)
        offsets = [[one.offset for one in part.fit.terms] for part in model.parts]
        pairs_of = zip(model.parts, offsets, strict=True)
        joint = [part.fit.raw(h) - offset for part, offset in pairs_of]
        nearest = [
            np.abs(x[:, k, None] - side).argmin(1) for k, side in zip((i, j), sides, strict=True)
        ]
        counts = np.bincount(nearest[0] * len(sides[1]) + nearest[1], minlength=len(grid))
        labels = {"input_1": first, "input_2": second, "output": outputs[o]}
        values = {"value": _in_units(model, joint)[:, o], "rows": counts}
        rows.append({**labels, "x": grid[:, 0], "y": grid[:, 1], **values})
    return _joined(rows)


def _side(values: Float[ndarray, " rows"]) -> Float[ndarray, " points"]:
    distinct = np.unique(values)
    if len(distinct) <= MAP_POINTS:
        return distinct
    low, high = np.quantile(values, MAP_QUANTILES)
    return np.linspace(low, high, MAP_POINTS)


def stack_weights(model: TableModel) -> list[tuple[str, float]]:
    """Return the members and their weights.

    Those of a transformed output are named `transformed ...`.
    """
    found = []
    for part in model.parts:
        of = "transformed " if part.outputs is not None and len(part.outputs.values[0]) > 2 else ""
        found += [(of + name, part.weight * weight) for name, weight in part.fit.weights.items()]
    return found
