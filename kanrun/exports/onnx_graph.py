"""A model as an ONNX graph of standard operators, written from its polynomial pieces.

Input `x` (rows, inputs) and output `y` (rows, outputs) are float32 in the user's units, and so is the network; the maps
between the units and the network are in float64, so that a large offset costs no digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.exports.document import Document

OPSET, IR_VERSION = 17, 8  # of 2022, which every runtime of today reads
_EXTREME = 1e30  # units of inputs and outputs from its inverse to itself are far enough from the ends of float32
_LARGEST = 1e18  # beyond a grid, in its units, as far as splines continue: float32 ends at 3e38


def onnx_bytes(pieces: Document) -> bytes:
    """The file's content. Raises UsageError for units beyond float32, and where the package onnx is missing."""
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise UsageError("--format onnx needs onnx, which is not installed: pip install 'kanrun[onnx]'.") from error
    _check_units(pieces)
    graph = _Graph()
    x = _network(graph, pieces, "x")
    if pieces["classes"] is not None:
        graph.add("Softmax", x, axis=1, name="y")
    else:
        x = _mapped(graph, pieces["output_map"], graph.cast(x, np.float64), "values", "points")
        graph.cast(x, np.float32, to="y")
    outputs = pieces["classes"] or pieces["outputs"]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", len(names)])
        for name, names in (("x", pieces["inputs"]), ("y", outputs))
    ]
    whole = helper.make_graph(graph.nodes, "kanrun", ends[:1], ends[1:], graph.constants)
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="kanrun"
    )
    for key in ("inputs", "outputs", "classes", "columns", "domain"):
        helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {
            key: json.dumps(pieces[key])
        })  # fmt: skip
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _check_units(pieces: Document) -> None:
    sizes = {name: np.abs(ends).max() for name, ends in zip(pieces["inputs"], pieces["domain"], strict=True)}
    for name, one in zip(pieces["outputs"], pieces["output_map"] or (), strict=False):
        sizes[name] = np.abs(one["points"] if "points" in one else (one["shift"], one["scale"])).max()
    for name, size in sizes.items():
        if size and not 1 / _EXTREME <= size <= _EXTREME:
            raise UsageError(
                f"{name} has values near {size:.0e}, and the inputs and outputs of --format onnx are float32, "
                f"for {1 / _EXTREME:.0e} to {_EXTREME:.0e}; change its unit, or export the model as python or c."
            )


class _Graph:
    """Nodes and constants in the order in which they are made; what makes one returns the name of its value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def cast(self, value: str, kind: Any, to: str = "") -> str:
        from onnx import helper

        number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return self.add("Cast", value, name=to, to=number)

    def total(self, value: str, axis: int) -> str:
        return self.add("ReduceSum", value, self.constant([axis], np.int64), keepdims=0)

    def wider(self, value: str) -> str:
        """A further last axis of size 1."""
        return self.add("Unsqueeze", value, self.constant([-1], np.int64))


def _interval(graph: _Graph, held: str, inner: NDArray[np.float64], kind: Any) -> str:
    """Which of all intervals, those of earlier columns counted first, each entry of `held` (rows, columns) lies in."""
    columns, count = inner.shape
    if not count:
        inner, count = np.full((columns, 1), np.inf), 0
    above = graph.add("GreaterOrEqual", graph.wider(held), graph.constant(inner, kind))
    number = graph.total(graph.cast(above, np.int64), 2)
    return graph.add("Add", number, graph.constant(np.arange(columns) * (count + 1), np.int64))


def _held(graph: _Graph, x: str, low: Any, high: Any, kind: Any) -> str:
    return graph.add("Min", graph.add("Max", x, graph.constant(low, kind)), graph.constant(high, kind))


def _network(graph: _Graph, part: Document, x: str) -> str:
    x = graph.cast(_mapped(graph, part["input_map"], graph.cast(x, np.float64), "points", "values"), np.float32)
    for layer in part["layers"]:
        x = _LAYERS[layer["kind"]](graph, layer, x)
    return x


def _mapped(graph: _Graph, maps: Sequence[Document], x: str, source: str, to: str) -> str:
    """The columns of x in float64 through their maps, see `runtime`."""
    if "points" in maps[0]:
        widest = max(len(one["points"]) for one in maps)

        def padded(rows: list[Any], fill: float) -> NDArray[np.float64]:
            return np.array([[*row, *[fill] * (widest - 1 - len(row))] for row in rows])

        starts, ends = ([np.asarray(one[key]) for one in maps] for key in (source, to))
        held = _held(graph, x, [a[0] for a in starts], [a[-1] for a in starts], np.float64)
        inner = padded([a[1:-1] for a in starts], np.inf)[:, : widest - 2]
        at = _interval(graph, held, inner, np.float64)
        first, value, slope = (
            graph.add("Gather", graph.constant(padded(rows, 0.0).ravel(), np.float64), at)
            for rows in (
                [a[:-1] for a in starts],
                [b[:-1] for b in ends],
                [np.diff(b) / np.diff(a) for a, b in zip(starts, ends, strict=True)],
            )
        )
        return graph.add("Add", graph.add("Mul", graph.add("Sub", held, first), slope), value)
    shift, scale = (graph.constant([one[key] for one in maps], np.float64) for key in ("shift", "scale"))
    if source == "points":
        return graph.add("Div", graph.add("Sub", x, shift), scale)
    return graph.add("Add", graph.add("Mul", x, scale), shift)


def _splines(graph: _Graph, layer: Document, x: str) -> str:
    points, degree, sums = np.asarray(layer["breakpoints"]), layer["degree"], layer["sums"]
    inputs, intervals = points.shape[0], points.shape[1] - 1
    low, high, policy = points[:, 0], points[:, -1], layer["extrapolation"]
    held = _held(graph, x, low, high, np.float32)
    at = _interval(graph, held, points[:, 1:-1], np.float32)
    density = 2 / np.diff(points, axis=1)
    left, steep = (graph.add("Gather", graph.constant(a.ravel()), at) for a in (points[:, :-1], density))
    u = graph.wider(graph.add("Sub", graph.add("Mul", graph.add("Sub", held, left), steep), graph.constant(1.0)))
    table = np.zeros((degree + 1, inputs, intervals, sums))
    weights = np.zeros((inputs, sums))
    for edge in layer["edges"]:
        table[:, edge["from"], :, edge["to"]] = np.asarray(edge["pieces"]).T
        weights[edge["from"], edge["to"]] = edge["base_weight"]
    powers = [graph.add("Gather", graph.constant(t.reshape(-1, sums)), at) for t in table]  # (rows, inputs, sums)
    value, slope = powers[-1], ""
    for power in powers[-2::-1]:
        slope = graph.add("Add", graph.add("Mul", slope, u), value) if slope else value
        value = graph.add("Add", graph.add("Mul", value, u), power)
    beyond = graph.add("Sub", x, held)
    if policy == "linear" and slope:
        far = _held(graph, beyond, -_LARGEST, _LARGEST, np.float32)
        value = graph.add("Add", value, graph.add("Mul", graph.wider(graph.add("Mul", far, steep)), slope))
    inside = ""
    if policy == "zero":
        within = [
            graph.add("GreaterOrEqual", x, graph.constant(low)), graph.add("LessOrEqual", x, graph.constant(high))
        ]  # fmt: skip
        inside = graph.cast(graph.add("And", *within), np.float32)
        value = graph.add("Mul", value, graph.wider(inside))
    total = graph.total(value, 1)
    if layer["base"] != "zero":
        base = _based(graph, layer, x, held, beyond, inside)
        total = graph.add("Add", total, graph.add("MatMul", base, graph.constant(weights)))
    return _nodes(graph, total, sums, layer["products"])


def _based(graph: _Graph, layer: Document, x: str, held: str, beyond: str, inside: str) -> str:
    name = layer["base"]
    if layer["base_continues"]:
        return _function(graph, name, x)[0]
    value, slope = _function(graph, name, held)
    if layer["extrapolation"] == "linear":
        return graph.add("Add", value, graph.add("Mul", beyond, slope))
    return graph.add("Mul", value, inside) if inside else value


def _nodes(graph: _Graph, sums: str, count: int, products: int) -> str:
    if not products:
        return sums
    plain = count - 2 * products

    def columns(which: range) -> str:
        return graph.add("Gather", sums, graph.constant(list(which), np.int64), axis=1)

    factors = graph.add("Mul", columns(range(plain, count, 2)), columns(range(plain + 1, count, 2)))
    return graph.add("Concat", columns(range(plain)), factors, axis=1) if plain else factors


def _function(graph: _Graph, name: str, x: str) -> tuple[str, str]:
    """A base function and its slope at x, as in `runtime.BASES`."""

    def number(value: float) -> str:
        return graph.constant(value)

    def times(a: str, b: str) -> str:
        return graph.add("Mul", a, b)

    def less_than_one(a: str) -> str:
        return graph.add("Sub", number(1.0), a)

    one = graph.add("Add", times(x, number(0.0)), number(1.0))
    if name == "identity":
        return x, one
    if name in ("silu", "sigmoid"):
        gate = graph.add("Sigmoid", x)
        rest = less_than_one(gate)
        if name == "sigmoid":
            return gate, times(gate, rest)
        return times(x, gate), times(gate, graph.add("Add", number(1.0), times(x, rest)))
    if name == "tanh":
        value = graph.add("Tanh", x)
        return value, less_than_one(times(value, value))
    if name == "relu":
        return graph.add("Relu", x), graph.cast(graph.add("Greater", x, number(0.0)), np.float32)
    if name == "sin":
        return graph.add("Sin", x), graph.add("Cos", x)
    if name == "gaussian":
        value = graph.add("Exp", graph.add("Neg", times(x, x)))
        return value, times(times(number(-2.0), x), value)
    error = graph.add("Erf", times(x, number(0.5**0.5)))  # gelu
    normal = times(number(0.5), graph.add("Add", number(1.0), error))
    density = times(graph.add("Exp", times(number(-0.5), times(x, x))), number((2 * np.pi) ** -0.5))
    return times(x, normal), graph.add("Add", normal, times(x, density))


def _dense(graph: _Graph, layer: Document, x: str) -> str:
    product = graph.add("MatMul", x, graph.constant(np.transpose(layer["weights"])))
    return _function(graph, layer["activation"], graph.add("Add", product, graph.constant(layer["biases"])))[0]


def _place(graph: _Graph, layer: Document, x: str) -> str:
    low, high = layer["domain"]
    return graph.add("Div", graph.add("Sub", x, graph.constant(low)), graph.constant(high - low))


def _chebyshev(graph: _Graph, layer: Document, x: str) -> str:
    twice = graph.add("Sub", graph.add("Mul", _place(graph, layer, x), graph.constant(4.0)), graph.constant(2.0))
    rows = [graph.constant([row]) for row in layer["coefficients"]]
    later = last = graph.add("Mul", twice, graph.constant(np.zeros((1, len(layer["coefficients"][0])))))
    for row in rows[:0:-1]:
        later, last = graph.add("Sub", graph.add("Add", row, graph.add("Mul", twice, later)), last), later
    half = graph.add("Mul", graph.add("Mul", twice, graph.constant(0.5)), later)
    return graph.add("Sub", graph.add("Add", rows[0], half), last)


def _bernstein(graph: _Graph, layer: Document, x: str) -> str:
    u = graph.wider(_place(graph, layer, x))  # (rows, 1, 1)
    count = len(layer["coefficients"])
    points = graph.add("Add", graph.constant([layer["coefficients"]]), graph.add("Mul", u, graph.constant(0.0)))
    for left in range(count - 1, 0, -1):
        first, second = (
            graph.add("Gather", points, graph.constant(list(range(at, at + left)), np.int64), axis=1) for at in (0, 1)
        )
        points = graph.add("Add", first, graph.add("Mul", u, graph.add("Sub", second, first)))
    return graph.total(points, 1)


def _sums_of_products(graph: _Graph, layer: Document, x: str) -> str:
    shape = graph.constant([-1, len(layer["sizes"]), layer["terms"], layer["factors"]], np.int64)
    products = graph.add("ReduceProd", graph.add("Reshape", x, shape), axes=[3], keepdims=0)
    return graph.add("Mul", graph.total(products, 2), graph.constant(layer["sizes"]))


def _windows(graph: _Graph, layer: Document, x: str) -> str:
    """Every window's outputs at all points, of which each point takes its own."""
    last = graph.cast(graph.add("Gather", x, graph.constant([-1], np.int64), axis=1), np.float64)
    found, *later = (_network(graph, window, x) for window in layer["windows"])
    for end, window in zip(layer["ends"], later, strict=True):
        found = graph.add("Where", graph.add("Greater", last, graph.constant(end, np.float64)), window, found)
    return found


_LAYERS = {
    "splines": _splines, "dense": _dense, "chebyshev": _chebyshev, "bernstein": _bernstein,
    "sums_of_products": _sums_of_products, "windows": _windows,
}  # fmt: skip
