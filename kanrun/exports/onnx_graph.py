"""Export of models as ONNX graphs of standard operators.

The graphs are recorded while the functions of `runtime` run on traced values. The input `x` (rows,
inputs) and the output `y` (rows, outputs) are float32 in the user's units, and the network computes
in float32. The maps between these units and the network's are computed in float64, so that large
offsets do not cost accuracy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.lib.mixins import NDArrayOperatorsMixin
from onnx import TensorProto, helper, numpy_helper

from kanrun.errors import UsageError
from kanrun.exports import runtime
from kanrun.exports.document import Document


def onnx_bytes(pieces: Document) -> bytes:
    """Return the content of the ONNX file for the document `pieces`, which `in_pieces` returns.

    Raises UsageError if the magnitude of an input or output is too large or too small for float32.
    """
    # Largest magnitude of inputs and outputs in the user's units. The smallest allowed magnitude is
    # the inverse. Both are far from the limits of float32.
    extreme = 1e30
    # Version of the ONNX file format, released in 2022. All current runtimes read it; older ones
    # may reject a higher version.
    ir_version = 8
    # Version of the ONNX operators, released in 2022. All current runtimes read it; older ones may
    # reject a higher version.
    opset = 17
    named = [*zip(pieces["inputs"], pieces["domain"], strict=True)]
    for name, output_map in zip(pieces["outputs"], pieces["output_map"] or (), strict=False):
        named.append((name, output_map.get("points") or [output_map["shift"], output_map["scale"]]))
    for name, values in named:
        size = np.abs(values).max()
        if size and not 1 / extreme <= size <= extreme:
            raise UsageError(
                f"{name} has values near {size:.0e}, but --format onnx uses float32, which needs "
                f"values from {1 / extreme:.0e} to {extreme:.0e}. Change the unit, or export "
                "the model as python or c."
            )
    graph = _Graph()
    x = _network(graph, pieces, _Traced(graph, "x"))
    if pieces["classes"] is not None:
        graph.add("Softmax", x, axis=1, name="y")
    else:
        _in_units(graph, x, pieces["output_map"], "values", "points", name="y")
    outputs = pieces["classes"] or pieces["outputs"]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", len(names)])
        for name, names in (("x", pieces["inputs"]), ("y", outputs))
    ]
    body = helper.make_graph(graph.nodes, "kanrun", ends[:1], ends[1:], graph.constants)
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
        producer_name="kanrun",
    )
    described = ("inputs", "outputs", "classes", "columns", "domain")
    helper.set_model_props(model, {key: json.dumps(pieces[key]) for key in described})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants of an ONNX graph, in the order in which they were created.

    `kind`, float32 or float64, is the element type of new constants.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.kind: Any = np.float32

    def in_double(
        self, x: _Traced, function: Callable[[_Traced], _Traced], name: str = ""
    ) -> _Traced:
        """Return function(x), computed in float64."""
        self.kind = np.float64
        value = function(self._cast(x))
        self.kind = np.float32
        return self._cast(value, name)

    def name_of(self, value: Any) -> str:
        """Return the name of a traced value, or of a new constant for a number or an array."""
        # Largest magnitude of constants in float32, whose largest number is 3e38. Larger constants,
        # such as the distance up to which splines are extrapolated, are replaced by this bound.
        largest = 1e18
        if isinstance(value, _Traced):
            return value.name
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.clip(-largest, largest) if self.kind == np.float32 else array
            array = array.astype(self.kind)
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def add(self, operator: str, *inputs: Any, name: str = "", **attributes: Any) -> _Traced:
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(map(self.name_of, inputs)), [name], **attributes)
        )
        return _Traced(self, name)

    def _cast(self, value: _Traced, name: str = "") -> _Traced:
        """Convert a value to the current element type."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.kind))
        return self.add("Cast", value, name=name, to=kind)


class _Traced(NDArrayOperatorsMixin):
    """A value of a graph; NumPy functions applied to it add nodes to the graph (NEP 13 and 18)."""

    def __init__(self, graph: _Graph, name: str) -> None:
        self.graph = graph
        self.name = name

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any) -> _Traced:
        name = function.__name__
        # Softplus is log(exp(0) + exp(x)).
        arguments = inputs[1:] if function is np.logaddexp else inputs
        numbers = [np.asarray(x, float) if isinstance(x, int) else x for x in arguments]
        return self.graph.add(_OPERATORS.get(name, name.title()), *numbers)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> _Traced:
        return _FUNCTIONS[function](self.graph, *args, **kwargs)

    def __getitem__(self, key: tuple[Any, ...]) -> _Traced:
        value = self
        axis = 0
        for index in key:
            if index is None:
                value = self.graph.add("Unsqueeze", value, np.array([axis]))
            elif not isinstance(index, slice):
                value = self.graph.add("Gather", value, np.array(index), axis=axis)
                axis = axis - 1
            elif index != slice(None):
                ends = (
                    index.start or 0,
                    np.iinfo(np.int64).max if index.stop is None else index.stop,
                )
                places = [np.array([number]) for number in (*ends, axis, index.step or 1)]
                value = self.graph.add("Slice", value, *places)
            axis += 1
        return value

    def sum(self, axis: int) -> _Traced:
        return self.graph.add("ReduceSum", self, np.array([axis]), keepdims=0)

    def prod(self, axis: int) -> _Traced:
        return self.graph.add("ReduceProd", self, axes=[axis], keepdims=0)

    def reshape(self, *shape: int) -> _Traced:
        return self.graph.add("Reshape", self, np.array(shape))

    def entries_of(self, table: Any) -> _Traced:
        return self.graph.add("Gather", table, self)

    def astype(self, _: Any) -> _Traced:
        return self


#: ONNX operators by the name of the NumPy function, where the names differ in more than the first
#: letter.
_OPERATORS = {
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "true_divide": "Div",
    "negative": "Neg",
    "absolute": "Abs",
    "power": "Pow",
    "matmul": "MatMul",
    "minimum": "Min",
    "maximum": "Max",
    "greater_equal": "GreaterOrEqual",
    "bitwise_or": "Or",
    "logaddexp": "Softplus",
    runtime.ERF.__name__: "Erf",
}
_FUNCTIONS: dict[Any, Callable[..., _Traced]] = {
    np.where: lambda graph, *values: graph.add("Where", *values),
    np.clip: lambda graph, x, low, high: graph.add("Min", graph.add("Max", x, low), high),
    np.concatenate: lambda graph, parts, axis: graph.add("Concat", *parts, axis=axis),
    np.stack: lambda graph, parts, axis: graph.add(
        "Concat", *(part[:, None] for part in parts), axis=axis
    ),
    # Sum over the pieces: the length by which a piece lies below x, times the slope of the piece.
    np.interp: lambda _, x, points, values: (
        np.clip(x[:, None] - np.array(points[:-1]), 0.0, np.diff(points))
        @ (np.diff(values) / np.diff(points))
        + values[0]
    ),
}


def _in_units(
    graph: _Graph, x: _Traced, maps: list[Document], *ways: str, name: str = ""
) -> _Traced:
    return graph.in_double(x, lambda values: runtime.mapped(maps, values, *ways), name)


def _network(graph: _Graph, document: Document, x: _Traced) -> _Traced:
    """Add the nodes of a network to the graph, and return the network's output.

    The nodes compute the same as `runtime.network`. The input map is computed in float64.
    """
    x = _in_units(graph, x, document["input_map"], "points", "values")
    for layer in document["layers"]:
        if layer["kind"] == "windows":
            # Evaluate all windows at all points, then select the window of each point.
            first, *later = layer["windows"]
            value = _network(graph, first, x)
            least = np.full(len(document["input_map"]), -np.inf)
            for end, start, window in zip(layer["ends"], layer["starts"], later, strict=True):
                least[-1] = start
                inside = _network(graph, window, graph.add("Max", x, least.copy()))
                value = graph.add("Where", x[:, -1:] > end, inside, value)
            x = value
        # Computed in float64, because the heights of the exponentials may cancel each other.
        elif layer["kind"] == "radial":
            x = graph.in_double(x, partial(runtime.LAYERS["radial"], layer))
        else:
            x = runtime.LAYERS[layer["kind"]](layer, x)
    return x
