"""A trained model (MODEL, below) as functions of NumPy arrays, which need only NumPy.

    predict({"column": [values, ...], ...})     dictionary or DataFrame: columns are found by name
    predict([[values of one row], ...])         rows of values in the order of MODEL["columns"], or
                                                of numbers in the order of MODEL["inputs"]

Both return an array with one row per row of the table and one column per output, in the units of
the training data. A classifier returns probabilities in the order of MODEL["classes"]. Missing
values are NaN or None, and in a table also the numbers and words that MODEL lists as "missing" for
the column.
"""

from __future__ import annotations

import math
import re  # noqa: F401  (for the functions that are appended)
from collections.abc import Callable
from typing import Any

import numpy as np

from kanrun.targets.encoding import features_of
from kanrun.targets.table_text import canonical, days_from, number_from, text_of

Array = np.ndarray[Any, np.dtype[np.float64]]
Data = dict[str, Any]

ERF = np.frompyfunc(math.erf, 1, 1)


def encode(model: Data, table: Any) -> Array:
    """Return the model's inputs (rows, inputs) for a table of columns by name, or for rows.

    A numeric array with one column per input is returned as it is. Other rows hold one value per
    column of the table. Raises ValueError if a column is missing or the shape is wrong.
    """
    names = [column["name"] for column in model["columns"]]
    if not hasattr(table, "keys"):
        rows = np.asarray(table)
        inputs = len(model["inputs"])
        if rows.ndim == 1:
            rows = rows[:, None] if inputs == 1 else rows[None]
        if rows.ndim == 2 and rows.shape[1] == inputs and rows.dtype.kind in "biuf":
            return np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(names):
            columns = f" in {len(names)} columns" if len(names) < inputs else ""
            raise ValueError(
                f"the model has {inputs} inputs{columns}, the rows have the shape {rows.shape}"
            )
        table = dict(zip(names, np.asarray(table, dtype=object).reshape(rows.shape).T, strict=True))
    features = []
    for name, column in zip(names, model["columns"], strict=True):
        missing = column["missing"]
        if name not in table:
            raise ValueError(f"the table has no column {name!r}")
        values = list(table[name]) if np.ndim(table[name]) else [table[name]]
        if column["levels"] is not None:
            features.append(features_of(column, [text_of(value) for value in values]))
            continue
        values = [math.nan if canonical(value) in missing else value for value in values]
        if column["parts"] is None or all(isinstance(value, float | int) for value in values):
            numbers = np.array([number_from(value) for value in values], dtype=np.float64)
        else:  # for dates, numbers are already days since 1970-01-01
            texts = [
                "" if text_of(v) in ("(missing)", "NaT", "nan") else text_of(v) for v in values
            ]
            numbers = days_from(texts, column["day_first"])
        if column["fill"] is None and np.isnan(numbers).any():
            raise ValueError(
                f"the column {name!r} has missing values, and the model was trained on none"
            )
        features.append(features_of(column, numbers))
    return np.concatenate(features, axis=1)


def evaluate(model: Data, x: Any) -> Array:
    """Return outputs (rows, outputs) for inputs (rows, inputs), in the units of the data."""
    # Number of rows that are computed at once. A layer stores rows x inputs x outputs numbers.
    rows = 500
    x = np.asarray(x, dtype=np.float64)
    y = np.concatenate(
        [network(model, x[start : start + rows]) for start in range(0, max(len(x), 1), rows)]
    )
    if model["classes"] is not None:
        raised = np.exp(y - y.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
    return np.asarray(mapped(model["output_map"], y, "values", "points"))


def network(model: Data, x: Any) -> Any:
    x = mapped(model["input_map"], x, "points", "values")
    for layer in model["layers"]:
        x = LAYERS[layer["kind"]](layer, x)
    return x


def mapped(maps: list[Data], x: Any, source: str, to: str) -> Any:
    """Map each column of x by its entry of `maps`.

    The map is linear (shift and scale), or interpolates from the points `source` to the points `to`
    and is constant beyond their ends.
    """
    if "points" not in maps[0]:
        shift, scale = (np.array([entry[key] for entry in maps]) for key in ("shift", "scale"))
        return (x - shift) / scale if source == "points" else x * scale + shift
    return np.stack(
        [np.interp(x[:, i], entry[source], entry[to]) for i, entry in enumerate(maps)], axis=1
    )


def _entries(table: Any, indices: Any) -> Any:
    """Return table[indices]; `indices` are an array, or a traced value of `onnx_graph`."""
    return table[indices] if isinstance(indices, np.ndarray) else indices.entries_of(table)


def _splines(layer: Data, x: Any) -> Any:
    """Compute the nodes of a layer of spline edges.

    The outputs of the edges are added up to sums. The last 2 m sums are multiplied in pairs, which
    gives m nodes. Every other sum is a node.
    """
    # Distance beyond a grid, in units of an interval, up to which splines continue linearly. It
    # keeps squares from overflowing.
    farthest = 1e154
    points = np.asarray(layer["breakpoints"])
    sums = layer["sums"]
    policy = layer["extrapolation"]
    inputs = points.shape[0]
    intervals = points.shape[1] - 1
    pieces = np.zeros((layer["degree"] + 1, inputs, intervals, sums))
    weights = np.zeros((inputs, sums))
    for edge in layer["edges"]:
        pieces[:, edge["from"], :, edge["to"]] = np.transpose(edge["pieces"])
        weights[edge["from"], edge["to"]] = edge["base_weight"]
    low = points[:, 0]
    high = points[:, -1]
    half = np.diff(points) / 2
    clamped = np.clip(x, low, high)
    piece = (
        np.where(clamped[:, :, None] >= points[:, 1:-1], 1, 0).sum(2)
        + np.arange(inputs) * intervals
    )
    steep = 1 / _entries(half.ravel(), piece)
    u = ((clamped - _entries(points[:, :-1].ravel(), piece)) * steep - 1)[:, :, None]
    # Each power has the shape (rows, inputs, sums).
    *lower, value = (_entries(power.reshape(-1, sums), piece) for power in pieces)
    slope = value * 0
    for power in reversed(lower):
        slope = slope * u + value
        value = value * u + power
    if policy == "linear":
        value = value + (np.clip(x - clamped, -farthest, farthest) * steep)[:, :, None] * slope
    outside = (x < low) | (x > high)
    if policy == "zero":
        value = np.where(outside[:, :, None], 0.0, value)
    total = value.sum(1)
    if layer["base"] != "zero":
        value, slope = BASES[layer["base"]]
        base = value(x if policy == "base" else clamped)
        if policy == "linear":
            base = base + (x - clamped) * slope(clamped)
        elif policy == "zero":
            base = np.where(outside, 0.0, base)
        total = total + base @ weights
    plain = sums - 2 * layer["products"]
    if plain == sums:
        return total
    return np.concatenate([total[:, :plain], total[:, plain::2] * total[:, plain + 1 :: 2]], 1)


def _radial(layer: Data, x: Any) -> Any:
    """Return splines of the inputs, plus exponentials of minus their distances from centres."""
    total = _splines(layer["splines"], x) + np.asarray(layer["level"])
    if not layer["centres"]:
        return total
    t = mapped(layer["ranks"], x, "points", "values")
    centres = np.asarray(layer["centres"])
    ranked = np.asarray(layer["ranked"])
    smooth = np.zeros(len(centres))
    rough = np.zeros(len(centres))
    for i, (w, m) in enumerate(zip(layer["smooth_rates"], layer["rough_rates"], strict=True)):
        smooth = smooth - 0.5 * w * (x[:, i : i + 1] - centres[:, i]) ** 2
        rough = rough - m * abs(t[:, i : i + 1] - ranked[:, i])
    first, second = np.asarray(layer["heights"])
    return total + np.exp(smooth) @ first.T + np.exp(rough) @ second.T


def _chebyshev(layer: Data, x: Any) -> Any:
    """Return a sum of Chebyshev polynomials of t, which runs from -1 to 1 over the domain."""
    low, high = layer["domain"]
    t = 2 * ((x - low) / (high - low)) - 1
    coefficients = np.asarray(layer["coefficients"])
    later = last = t * (0 * coefficients[0])
    for row in coefficients[:0:-1]:
        later, last = row + 2 * t * later - last, later
    return coefficients[0] + t * later - last


def _bernstein(layer: Data, x: Any) -> Any:
    """Return a Bezier curve by de Casteljau's algorithm."""
    low, high = layer["domain"]
    u = ((x - low) / (high - low))[:, :, None]
    points = np.asarray(layer["coefficients"])[None] + 0 * u
    for _ in layer["coefficients"][1:]:
        points = (1 - u) * points[:, :-1] + u * points[:, 1:]
    return points[:, 0]


def _windows(layer: Data, x: Any) -> Any:
    chosen = np.searchsorted(layer["ends"], x[:, -1])
    least = np.full(x.shape, -np.inf)
    least[:, -1] = np.array([-np.inf, *layer["starts"]])[chosen]
    x = np.maximum(x, least)
    values = [
        network(window, x[chosen == number]) for number, window in enumerate(layer["windows"])
    ]
    return np.concatenate(values)[np.argsort(np.argsort(chosen, kind="stable"))]


def _sigmoid(x: Any) -> Any:
    return np.exp(-np.logaddexp(0, -x))


def _normal(x: Any) -> Any:
    return 0.5 * (1 + ERF(x / math.sqrt(2)).astype(np.float64))


LAYERS: dict[str, Callable[[Data, Any], Any]] = {
    "splines": _splines,
    "radial": _radial,
    "dense": lambda layer, x: BASES[layer["activation"]][0](
        x @ np.transpose(layer["weights"]) + np.asarray(layer["biases"])
    ),
    "chebyshev": _chebyshev,
    "bernstein": _bernstein,
    "sums_of_products": lambda layer, x: (
        x.reshape(-1, len(layer["sizes"]), layer["terms"], layer["factors"]).prod(3).sum(2)
        * np.asarray(layer["sizes"])
    ),
    "windows": _windows,
}

#: Base functions and activations by name, each with its slope.
BASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "identity": (lambda x: x, lambda x: 1 + 0 * x),
    "silu": (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x)))),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "gelu": (
        lambda x: x * _normal(x),
        lambda x: _normal(x) + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi),
    ),
    "sin": (np.sin, np.cos),
    "gaussian": (lambda x: np.exp(-(x**2)), lambda x: -2 * x * np.exp(-(x**2))),
}
