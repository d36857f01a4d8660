"""Predictions of a trained model for encoded inputs, with intervals and notes on extrapolation.

`Model` checks what users pass and calls these functions; programs that predict in blocks call them
directly. Everywhere, x are encoded inputs of shape (samples, inputs), and `raw` are the outputs of
the network for them, in its units.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kanrun.engine.training import predict
from kanrun.errors import UsageError
from kanrun.targets import PiecewiseScaling
from kanrun.targets.datasets import check_known
from kanrun.targets.encoding import ColumnCode, features_of

if TYPE_CHECKING:
    from kanrun.study.model import Model

Array = NDArray[np.float64]
#: Standard deviation of the noise on logits that formulas are fitted to: a probability changes by
#: at most 0.075 then.
LOGIT_NOISE = 0.3
#: Training rows and values of a column of which partial dependence is computed, and the quantiles
#: of the rows' own curves at the ends of its band.
EFFECT_ROWS, EFFECT_POINTS, EFFECT_BAND = 500, 41, (0.1, 0.9)


def network_outputs(model: Model, x: Array) -> Array:
    """Return the outputs of the network, in its units, shape (samples, outputs)."""
    scaled = model.input_scaling.apply(np.asarray(x, dtype=np.float64))
    parameter = next(model.network.parameters())
    in_numpy = parameter.dtype == torch.float64 and parameter.device.type == "cpu"
    if in_numpy and isinstance(model.input_scaling, PiecewiseScaling):
        from kanrun.engine.tables.to_kan import table_outputs  # only for tables

        return table_outputs(model.network, scaled)
    return predict(model.network, torch.as_tensor(scaled).to(parameter)).double().cpu().numpy()


def predicted_values(model: Model, x: Array) -> Array:
    """Return outputs in the units of the data, or class probabilities: (samples, outputs)."""
    return in_units(model, network_outputs(model, x))


def in_units(model: Model, raw: Array) -> Array:
    """Return `raw` in the units of the data, or as class probabilities: (samples, outputs)."""
    if model.classes:
        return torch.as_tensor(raw).softmax(-1).numpy()
    return model.output_scaling.invert(raw)


def logit_values(model: Model, x: Array, noise: float = LOGIT_NOISE) -> Array:
    """Return the log-odds of the second of two classes, or logits that sum to zero.

    The shape is (samples, 1) or (samples, classes). They have noise, without which a formula would
    have to follow what no labels determine.
    """
    raw = network_outputs(model, x)
    logits = raw[:, 1:] - raw[:, :1] if raw.shape[1] == 2 else raw - raw.mean(1, keepdims=True)
    return logits + noise * np.random.default_rng(model.seed).standard_normal(logits.shape)


def logit_names(model: Model) -> tuple[str, ...]:
    """Return the names of `logit_values`."""
    classes = model.classes or ()
    return tuple(f"logit of {name}" for name in (classes[1:] if len(classes) == 2 else classes))


def contributions(model: Model, x: Array) -> tuple[Array, dict[str, Array]]:
    """Return the predictions that explanations start from, and what each column adds to them.

    The start is the prediction at the medians of the training inputs, (outputs,); each column of
    the table adds (samples, outputs), the mean of the changes when the columns of a row replace the
    medians in their order and in the reverse order. These are the Shapley values if at most two
    columns act together (Castro et al., Computers and Operations Research 36 (2009) 1726-1730).
    """
    columns = _input_columns(model)
    start = np.median(training_sample(model), axis=0)
    added = {name: np.zeros(1) for name in columns}
    for order in (list(columns), list(columns)[::-1]):
        at = np.tile(start, (len(x), 1))
        before = predicted_values(model, at)
        for name in order:
            at[:, columns[name]] = x[:, columns[name]]
            now = predicted_values(model, at)
            added[name] = added[name] + (now - before) / 2
            before = now
    return predicted_values(model, start[None])[0], added


def _input_columns(model: Model) -> dict[str, list[int]]:
    """Return the inputs of each column of the table."""
    if model.code is None:
        return {name: [j] for j, name in enumerate(model.inputs)}
    counts = [len(column.features) for column in model.code.columns]
    inputs = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    names = (column.name for column in model.code.columns)
    return {name: each.tolist() for name, each in zip(names, inputs, strict=True)}


def partial_dependence(model: Model, name: str) -> pd.DataFrame:
    """Return how predictions depend on a column of the table, over the training rows.

    Columns: input, level (of texts), output (of two classes the second), x, is_date, `value`, the
    mean prediction when all rows have x (J. Friedman, Annals of Statistics 29 (2001) 1189-1232),
    `lower` and `upper`, between which 80% of the rows' own predictions lie when all are moved to
    the same mean, and `ale`, the accumulated local effects, from rows near x alone (D. Apley and J.
    Zhu, Journal of the Royal Statistical Society B 82 (2020) 1059-1086); not of texts. Raises
    UsageError for an unknown column.
    """
    columns, sample = _input_columns(model), training_sample(model)
    check_known("column", name, columns, "input columns of this model")
    mine, x = columns[name], sample[:: -(-len(sample) // EFFECT_ROWS)]
    codes = model.code.columns if model.code else ()
    code = next((one for one in codes if one.name == name), ColumnCode(name))
    if code.levels is not None:
        features, at = np.eye(len(code.levels) + 1)[:, :-1], np.arange(len(code.levels) + 1.0)
    else:
        at = np.unique(np.quantile(x[:, mine[0]], np.linspace(0, 1, EFFECT_POINTS)))
        features = features_of(vars(code), at)
    curves = []
    for each in features:
        moved = x.copy()
        moved[:, mine] = each
        curves.append(predicted_values(model, moved))
    every, value = np.stack(curves), np.mean(curves, axis=1)
    own = every - every.mean(0)
    lower, upper = np.quantile(own - own.mean(1, keepdims=True), EFFECT_BAND, axis=1) + value
    ale = np.full_like(value, np.nan)
    if code.levels is None and len(at) > 1:
        ale = _local_effects(every, at, x[:, mine[0]]) + predicted_values(model, x).mean(0)
    level = "" if code.levels is None else [*code.levels, "(others)"]
    names, found = model.classes or model.outputs, []
    for o in range(int(len(model.classes or ()) == 2), len(names)):
        labels = {"input": name, "level": level, "output": names[o], "x": at}
        curve = {"value": value[:, o], "lower": lower[:, o], "upper": upper[:, o], "ale": ale[:, o]}
        found.append(pd.DataFrame({**labels, "is_date": code.parts is not None, **curve}))
    return pd.concat(found, ignore_index=True)


def _local_effects(curves: Array, at: Array, values: Array) -> Array:
    """Return accumulated local effects (points, outputs), whose mean over rows is zero.

    `curves` (points, rows, outputs) are predictions of rows with `values` when these are `at`.
    """
    cell, rows = np.clip(np.searchsorted(at, values) - 1, 0, len(at) - 2), np.arange(len(values))
    counts = np.bincount(cell, minlength=len(at) - 1)[:, None]
    steps = np.zeros((len(at) - 1, curves.shape[2]))
    np.add.at(steps, cell, curves[cell + 1, rows] - curves[cell, rows])
    effects = np.cumsum(np.pad(steps / np.maximum(counts, 1), ((1, 0), (0, 0))), 0)
    return np.asarray(effects - (counts * (effects[1:] + effects[:-1])).sum(0) / 2 / len(values))


def error_levels(count: int = 199) -> Array:
    """Return the probabilities of the error quantiles that a model stores."""
    return np.linspace(0.005, 0.995, count)


def quantile_values(model: Model, raw: Array, probability: float) -> Array:
    """Return the outputs (samples, outputs) that are not exceeded with this probability."""
    if model.errors is None:
        raise UsageError(
            "this model stores no held-out errors, so it has no intervals and quantiles. "
            "Fit a regression with model=auto."
        )
    levels = error_levels(model.errors.shape[2] - 1)
    if not levels[0] <= probability <= levels[-1]:
        raise UsageError(
            f"the probability {probability:g} of a quantile must be from {levels[0]:g} to "
            f"{levels[-1]:g}."
        )
    errors = np.zeros_like(raw)
    for o, (middles, *quantiles) in enumerate(model.errors.swapaxes(1, 2)):
        at = [np.interp(probability, levels, each) for each in np.transpose(quantiles)]
        errors[:, o] = np.interp(raw[:, o], middles, at)
    if model.family:
        return model.family.quantile(errors, model.output_scaling.invert(raw))
    return model.output_scaling.invert(raw + errors)


def interval_bounds(model: Model, raw: Array, level: float) -> tuple[Array, Array]:
    """Return lower and upper bounds (samples, outputs) of the prediction interval. See `Model`."""
    widest = float(np.ptp(error_levels()))
    if model.errors is not None and not 0 < level <= widest:
        raise UsageError(f"level={level} of an interval must be above 0 and at most {widest:g}.")
    low, high = (quantile_values(model, raw, (1 + side * level) / 2) for side in (-1, 1))
    return low, high


def count_out_of_range(model: Model, x: Array, raw: Array) -> Counter[Any]:
    """Count all samples, those outside the training range or in a gap of it, and clipped ones.

    The keys are "samples", ("outside", j) and ("gap", j) for input j, and "clipped" for predictions
    that were clipped to the allowed range.
    """
    low, high = model.domain.T
    counts = Counter[Any]({"samples": len(x)})
    for j, outside in enumerate(((x < low) | (x > high)).sum(0)):
        counts["outside", j] = int(outside)
    for j, gaps in enumerate(model.gaps):
        inside = (((x[:, j] > first) & (x[:, j] < last)).sum() for first, last in gaps)
        counts["gap", j] = int(sum(inside))
    scaling = model.output_scaling
    if not model.classes and isinstance(scaling, PiecewiseScaling):
        low, high = np.transpose([(values[0], values[-1]) for values in scaling.values])
        counts["clipped"] = int(((raw < low) | (raw > high)).any(1).sum())
    return counts


def range_warnings(model: Model, counts: Counter[Any]) -> list[str]:
    """Return a sentence per input that leaves the training data, and one on clipped values."""
    is_table = isinstance(model.input_scaling, PiecewiseScaling)
    what = "rows" if is_table else "samples"
    note = "no training rows lie" if is_table else model.network.extrapolation_note
    dates = {one.name for one in model.code.columns if one.parts is not None} if model.code else ()

    def shown(name: str, values: Array) -> str:
        days = [str(np.datetime64(int(day), "D")) for day in values] if name in dates else ()
        return ", ".join(days or (f"{value:.6g}" for value in values))

    def part(key: Any) -> str:
        return f"{counts[key] / counts['samples']:.1%}"

    found = [
        f"{part(('outside', j))} of the {what} have {name} outside the training range "
        f"[{shown(name, model.domain[j])}], where {note}"
        for j, name in enumerate(model.inputs)
        if counts["outside", j]
    ]
    found += [
        f"{part(('gap', j))} of the {what} have {name} in a gap of the training data, such as "
        f"({shown(name, model.gaps[j][0])})"
        for j, name in enumerate(model.inputs)
        if counts["gap", j]
    ]
    if counts["clipped"]:
        found.append(f"{part('clipped')} of the predictions were clipped to the allowed range")
    return found


def training_sample(model: Model) -> Array:
    """Return the encoded training inputs; without stored tables, 1000 points of the domain."""
    columns = [f"input:{name}" for name in model.inputs]
    if "memory" in model.tables:
        return model.tables["memory"][columns].to_numpy(dtype=np.float64)
    if "predictions" not in model.tables:
        places = np.random.default_rng(model.seed).random((1000, len(model.inputs)))
        return model.domain[:, 0] + places * (model.domain[:, 1] - model.domain[:, 0])
    table = model.tables["predictions"]
    rows = table[table["split"] == "train"].drop_duplicates(columns)
    return rows[columns].to_numpy(dtype=np.float64)
