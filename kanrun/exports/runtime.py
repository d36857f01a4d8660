"""The model below as functions of NumPy arrays; NumPy is all that it needs.

    predict({"column": [values, ...], ...})     a dictionary, a DataFrame: columns are found by name
    predict([[values of one row], ...])         rows of numbers in the order of MODEL["inputs"]

return one row per row and one column per output, in the units of the training data; a classifier returns probabilities
in the order of MODEL["classes"]. Missing values are NaN or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kanrun.targets.encoding import days_from, place_of, text_of

Array = np.ndarray[Any, np.dtype[np.float64]]
Data = dict[str, Any]

FARTHEST = 1e154  # beyond a grid, in its units, as far as splines continue linearly: nothing overflows


def encode(model: Data, table: Any) -> Array:
    """Array of the model's inputs (rows, inputs) from columns by name, or from rows of numbers. Raises ValueError."""
    if not hasattr(table, "keys"):
        rows = np.asarray(table, dtype=np.float64)
        if rows.ndim == 1:
            rows = rows[:, None] if len(model["inputs"]) == 1 else rows[None]
        if rows.ndim != 2 or rows.shape[1] != len(model["inputs"]):
            raise ValueError(f"the model has {len(model['inputs'])} inputs, the rows have the shape {rows.shape}")
        return rows
    missing = [column["name"] for column in model["columns"] if column["name"] not in table]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}")
    return np.concatenate([_encoded(column, list(table[column["name"]])) for column in model["columns"]], axis=1)


def _encoded(column: Data, values: list[Any]) -> Array:
    if column["levels"] is not None:
        texts = np.array([text_of(value) for value in values], dtype=object)
        return np.stack([(texts == level).astype(np.float64) for level in column["levels"]], axis=1)
    if column["parts"] is not None:
        numbers = _days(values)
    else:
        numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    missing = np.isnan(numbers)
    if column["fill"] is None and missing.any():
        raise ValueError(f"the column {column['name']!r} has missing values, and the model was trained on none")
    filled = np.where(missing, 0.0 if column["fill"] is None else column["fill"], numbers)
    parts = [place_of(filled, part) for part in column["parts"] or ()]
    return np.stack([filled, *parts, *([missing.astype(np.float64)] if column["indicator"] else [])], axis=1)


def _days(values: list[Any]) -> Array:
    """Dates, such as 2024-12-31 or 2024-12-31T18:00, as days since 1970-01-01; numbers are days already."""
    if all(isinstance(value, float | int) for value in values):
        return np.asarray(values, dtype=np.float64)
    return days_from(["" if text_of(value) in ("(missing)", "NaT") else text_of(value) for value in values])


def evaluate(model: Data, x: Any) -> Array:
    """f(x) (rows, outputs) for rows of inputs x (rows, inputs), both in the units of the training data."""
    x = _network(model, np.asarray(x, dtype=np.float64))
    if model["classes"] is not None:
        raised = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
    return _mapped(model["output_map"], x, "values", "points")


def _network(part: Data, x: Array) -> Array:
    x = _mapped(part["input_map"], x, "points", "values")
    for layer in part["layers"]:
        x = LAYERS[layer["kind"]](layer, x)
    return x


def _mapped(maps: list[Data], x: Array, source: str, to: str) -> Array:
    """Each column through its piecewise linear map, constant beyond its ends, or through (x - shift) / scale."""
    columns = []
    for one, column in zip(maps, x.T, strict=True):
        if "points" in one:
            columns.append(np.interp(column, one[source], one[to]))
        elif source == "points":
            columns.append((column - one["shift"]) / one["scale"])
        else:
            columns.append(column * one["scale"] + one["shift"])
    return np.stack(columns, axis=1)


def _splines(layer: Data, x: Array) -> Array:
    """The sums of a layer of edges, then its nodes: the last 2 m sums are the factors of m products."""
    pairs = zip(layer["breakpoints"], x.T, strict=True)
    reached = [_reached(layer, np.asarray(points), column) for points, column in pairs]
    sums = np.zeros((len(x), layer["sums"]))
    for edge in layer["edges"]:
        interval, u, slopes, inside, base = reached[edge["from"]]
        coefficients = np.asarray(edge["pieces"])[interval]
        value: Any = coefficients[:, -1]
        slope: Any = np.zeros(len(x))
        for power in range(layer["degree"] - 1, -1, -1):
            slope = slope * u + value
            value = value * u + coefficients[:, power]
        sums[:, edge["to"]] += (value + slopes * slope) * inside + base * edge["base_weight"]
    plain = layer["sums"] - 2 * layer["products"]
    return np.concatenate([sums[:, :plain], sums[:, plain::2] * sums[:, plain + 1 :: 2]], axis=1)


def _reached(layer: Data, points: Array, x: Array) -> tuple[Any, ...]:
    """Of one input: its interval, its place u in [-1, 1] there, what multiplies a slope beyond the grid, whether it
    counts, and the base function."""
    held = np.clip(x, points[0], points[-1])
    interval = np.searchsorted(points[1:-1], held, side="right")
    half = (points[interval + 1] - points[interval]) / 2
    beyond, policy = x - held, layer["extrapolation"]
    inside = np.where((x < points[0]) | (x > points[-1]), 0.0, 1.0) if policy == "zero" else 1.0
    slopes = np.clip(beyond, -FARTHEST, FARTHEST) / half if policy == "linear" else 0.0
    value, slope = BASES[layer["base"]]
    if layer["base_continues"]:
        base = value(x)
    else:
        base = (value(held) + (beyond * slope(held) if policy == "linear" else 0.0)) * inside
    return interval, (held - points[interval]) / half - 1, slopes, inside, base


def _dense(layer: Data, x: Array) -> Array:
    sums = x @ np.asarray(layer["weights"]).T + np.asarray(layer["biases"])
    return np.asarray(BASES[layer["activation"]][0](sums))


def _chebyshev(layer: Data, x: Array) -> Array:
    """A sum of Chebyshev polynomials of t, -1 at the lower end of the domain and 1 at the upper one."""
    low, high = layer["domain"]
    t, coefficients = 2 * ((x - low) / (high - low)) - 1, np.asarray(layer["coefficients"])
    later = last = np.zeros((len(x), coefficients.shape[1]))
    for row in coefficients[:0:-1]:
        later, last = row + 2 * t * later - last, later
    return np.asarray(coefficients[0] + t * later - last)


def _bernstein(layer: Data, x: Array) -> Array:
    """A Bezier curve by de Casteljau's means of neighbouring control points."""
    low, high = layer["domain"]
    u = ((x - low) / (high - low))[:, :, None]
    points: Any = np.asarray(layer["coefficients"])[None]
    while points.shape[1] > 1:
        points = (1 - u) * points[:, :-1] + u * points[:, 1:]
    return np.broadcast_to(points[:, 0], (len(x), points.shape[2]))


def _sums_of_products(layer: Data, x: Array) -> Array:
    factors = x.reshape(len(x), len(layer["sizes"]), layer["terms"], layer["factors"])
    return np.asarray(factors.prod(axis=3).sum(axis=2) * np.asarray(layer["sizes"]))


def _windows(layer: Data, x: Array) -> Array:
    chosen = np.searchsorted(layer["ends"], x[:, -1])
    parts = [_network(window, x[chosen == number]) for number, window in enumerate(layer["windows"])]
    return np.concatenate(parts)[np.argsort(np.argsort(chosen, kind="stable"))]


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def _normal(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))))


def _density(x: Array) -> Array:
    return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


LAYERS: dict[str, Callable[[Data, Array], Array]] = {
    "splines": _splines,
    "dense": _dense,
    "chebyshev": _chebyshev,
    "bernstein": _bernstein,
    "sums_of_products": _sums_of_products,
    "windows": _windows,
}

#: Base functions and activations by name, each with its slope.
BASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "zero": (np.zeros_like, np.zeros_like),
    "identity": (lambda x: x, np.ones_like),
    "silu": (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x)))),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float64)),
    "gelu": (lambda x: x * _normal(x), lambda x: _normal(x) + x * _density(x)),
    "sin": (np.sin, np.cos),
    "gaussian": (lambda x: np.exp(-(x**2)), lambda x: -2 * x * np.exp(-(x**2))),
}
