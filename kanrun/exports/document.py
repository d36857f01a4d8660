"""A trained model as a document of plain data, from which all exports are made.

`null` corresponds to None. Its entries are:

- `schema`: `kanrun-model/1`; the number is increased if a change of the format breaks readers.
- `columns`: one object per column of the table. `name`: name of the column. `levels`: the texts
  that have an indicator, or null for numbers and dates. `fill`: the number that replaces missing
  values, or null if values must not be missing. `indicator`: whether an additional input is 1 if
  the value is missing and 0 otherwise. `parts`: for dates, the parts (`day of year`, `weekday`,
  `hour`) that are inputs besides the days since 1970-01-01; otherwise null. `day_first`: whether
  dates such as 04/05/2024 begin with the day. `missing`: additional texts that mean a missing
  number or date; numbers are written with 17 digits, words in lower case. `other`: the level
  without an indicator if there is exactly one such level, otherwise null.
- `inputs`: names of the model's inputs, in the order in which the columns are encoded.
- `outputs`: names of the outputs.
- `classes`: labels of a classifier, otherwise null.
- `domain`: [lowest, highest] training value of each input.
- `input_map`: one map per input, from the user's units to the network's. It is either linear,
  (value - `shift`) / `scale`, or piecewise linear from `points` (user's units) to `values`
  (network's units), and constant outside.
- `output_map`: one such map per output, from the user's units to the network's, so that outputs
  need the inverse map; null for a classifier, whose outputs are the softmax of the network's
  outputs.
- `layers`: the layers from inputs to outputs, described below.
- `errors`: per output, a list of rows in the network's units. A row consists of a prediction,
  followed by quantiles of the errors of held-out rows near this prediction, at equally spaced
  probabilities from 0.005 to 0.995. null if no errors are stored.

A layer of `kind` `splines` has `inputs` inputs and `sums` sums. `degree` is k, `knots` are the
G + 2k + 1 knots of each input, of which the middle G + 1 bound the grid's intervals, and `base` is
the name of a base function. Each entry of `edges` leads `from` an input `to` a sum; it has G + k
B-spline `coefficients`, and a `base_weight` that multiplies the base function. `extrapolation` is
the rule outside the grid: `linear`, `constant`, `zero`, or `base` (the spline is constant and the
base function follows its formula). The last 2 `products` sums are multiplied in pairs; all other
sums are nodes. A layer `dense` has `weights` (out, in), `biases` and `activation`. `chebyshev` and
`bernstein` have `coefficients` (functions, outputs) of these polynomials on their `domain`.
`radial` contains a layer of splines, `splines`, and adds to each sum its `level` and, for each of
the `centres` z,

    heights[0] exp(-sum_i w_i (x_i - z_i)^2 / 2) + heights[1] exp(-sum_i m_i |t_i(x_i) - t_i(z_i)|)

with `smooth_rates` w and `rough_rates` m of the inputs; `heights` has the shape (2, sums,
centres), `ranks` are piecewise linear maps t, and `ranked` holds t(z).

A layer `sums_of_products` takes `terms` x `factors` consecutive values for each output. It
multiplies each `factors` consecutive values, adds up the `terms` products, and multiplies the sum
by the output's entry of `sizes`.

A layer `windows` divides the range of the last input into `windows`, each of which has its own
`input_map` and `layers`. `ends` are the upper ends of all windows but the last. A point belongs to
the first window whose end is not below the point's last input, or to the last window if there is
none. `starts` are the lower ends of all windows but the first; a last input below its window's
start is replaced by the start.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from math import factorial
from typing import Any, Protocol

import msgspec
import numpy as np
from scipy.interpolate import BSpline as ScipySpline

from kanrun.engine.equations import Field, Windows
from kanrun.engine.layers import RadialLayer, SplineLayer
from kanrun.engine.networks import MLP, Bezier, BSpline, Network, Polynomial
from kanrun.engine.splines import Grid, extend, uniform_breakpoints
from kanrun.errors import UsageError
from kanrun.points import Array, PiecewiseScaling, Scaling
from kanrun.targets.encoding import TableCode, plain_code

SCHEMA = "kanrun-model/1"
Document = dict[str, Any]


class Exportable(Protocol):
    """Attributes that a model needs to be exported; `kanrun.model.model.Model` has them."""

    @property
    def network(self) -> Network: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def domain(self) -> Array: ...
    @property
    def input_scaling(self) -> Scaling | PiecewiseScaling: ...
    @property
    def output_scaling(self) -> Scaling | PiecewiseScaling: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    @property
    def code(self) -> TableCode | None: ...
    @property
    def errors(self) -> Array | None: ...


def document_of(model: Exportable) -> Document:
    """Return the document of a model, as JSON values.

    Raises UsageError if the document cannot represent the network, or a number is not finite.
    """
    document = {
        "schema": SCHEMA,
        "columns": msgspec.to_builtins((model.code or plain_code(model.inputs)).columns),
        "inputs": model.inputs,
        "outputs": model.outputs,
        "classes": model.classes,
        "domain": model.domain.tolist(),
        **_part(deepcopy(model.network).cpu().double(), model.input_scaling),
        "output_map": None if model.classes else _maps(model.output_scaling),
        "errors": None if model.errors is None else np.asarray(model.errors).tolist(),
    }
    try:
        values: Document = json.loads(json.dumps(document, allow_nan=False))
    except ValueError as error:
        raise UsageError(
            "the model contains NaN or infinite numbers, so it cannot be exported."
        ) from error
    return values


def _part(network: Network, inputs: Scaling | PiecewiseScaling) -> Document:
    """Return the entries `input_map` and `layers` of the document for a network."""
    # A field maps its box to [-1, 1] in every input; this map is combined with the input scaling.
    if isinstance(network, Field) and isinstance(inputs, Scaling):
        middle = network.box.mean(1).numpy()
        half = network.half_extent.numpy()
        inputs = Scaling(inputs.shift + middle * inputs.scale, half * inputs.scale)
    return {"input_map": _maps(inputs), "layers": _layers(network)}


def _maps(scaling: Scaling | PiecewiseScaling) -> list[Document]:
    fields = msgspec.to_builtins(msgspec.structs.asdict(scaling), enc_hook=np.ndarray.tolist)
    return [
        dict(zip(fields, entries, strict=True)) for entries in zip(*fields.values(), strict=True)
    ]


def _layers(network: Network) -> list[Document]:
    if layers := network.edge_layers:
        return [_layer(*pair) for pair in zip(layers, network.products, strict=True)]
    if isinstance(network, MLP):
        kinds = [network.activation] * (len(network.linear) - 1) + ["identity"]
        weights = [[tensor.tolist() for tensor in layer.parameters()] for layer in network.linear]
        return [
            {"kind": "dense", "weights": weight, "biases": bias, "activation": kind}
            for (weight, bias), kind in zip(weights, kinds, strict=True)
        ]
    if isinstance(network, BSpline):
        coefficients = network.coefficients.detach().T[:, None].numpy()
        alive = np.ones(coefficients.shape[:2])
        return [_splines(network.grid, coefficients, 0 * alive, alive)]
    if isinstance(network, Polynomial | Bezier):
        kind = "chebyshev" if isinstance(network, Polynomial) else "bernstein"
        points = network.coefficients.tolist()
        domain = network.domain[0].tolist()
        return [{"kind": kind, "domain": domain, "coefficients": points}]
    if isinstance(network, Field):
        sums = {"terms": network.form.terms, "factors": network.form.factors}
        last = {"kind": "sums_of_products", **sums, "sizes": network.sizes.tolist()}
        return [*_layers(network.network), last]
    if isinstance(network, Windows):
        inputs = Scaling.identity(network.shape[0])
        windows = [_part(field, inputs) for field in network.parts]
        ends = network.ends.tolist()
        starts = network.lowest[1:, -1].tolist()
        return [{"kind": "windows", "ends": ends, "starts": starts, "windows": windows}]
    raise UsageError(
        f"A model of kind {network.kind} is not one network of splines or linear layers, so it "
        "cannot be exported."
    )


def _layer(layer: SplineLayer, products: int) -> Document:
    splines = _edges(layer, products)
    if not isinstance(layer, RadialLayer):
        return splines
    numbers = {name: entry.numpy() for name, entry in layer.named_numbers()}
    pairs = zip(numbers.pop("points"), numbers.pop("ranks"), strict=True)
    maps = []
    for points, ranks in pairs:
        different = np.append(True, np.diff(points) > 0)  # the last points may be repeated
        maps.append({"points": points[different].tolist(), "values": ranks[different].tolist()})
    ranked = np.stack(
        [
            np.interp(column, entry["points"], entry["values"])
            for column, entry in zip(numbers["centres"].T, maps, strict=True)
        ],
        1,
    )
    named = {name: entry.tolist() for name, entry in numbers.items()}
    return {"kind": "radial", "splines": splines, "ranks": maps, "ranked": ranked.tolist(), **named}


def _edges(layer: SplineLayer, products: int) -> Document:
    spec = layer.spec
    grid = layer.grid
    # Knots rounded to float32 are not exactly uniform, but a uniform layer ignores that.
    if layer.uniform:
        points = uniform_breakpoints(grid.low, grid.high, grid.intervals)
        grid = replace(grid, knots=extend(points, spec.degree))
    base, spline = (weights.detach().numpy() for weights in layer.scales())
    coefficients = layer.coefficients.detach().numpy() * spline[:, :, None]
    fields = _splines(grid, coefficients, base * (spec.base != "zero"), layer.mask.numpy())
    return {**fields, "products": products, "base": spec.base}


def _splines(grid: Grid, coefficients: Array, base_weights: Array, alive: Any) -> Document:
    """Return the document of a layer of splines, without pruned edges.

    `coefficients` has the shape (out, in, functions), `base_weights` and `alive` (out, in).
    """
    return {
        "kind": "splines",
        "inputs": len(grid.knots),
        "sums": len(coefficients),
        "products": 0,
        "degree": grid.degree,
        "extrapolation": grid.extrapolation,
        "base": "zero",
        "knots": grid.knots.tolist(),
        "edges": [
            {
                "from": int(i),
                "to": int(o),
                "coefficients": coefficients[o, i].tolist(),
                "base_weight": float(base_weights[o, i]),
            }
            for o, i in np.argwhere(alive)
        ],
    }


def in_pieces(document: Document) -> Document:
    """Return the document with piecewise polynomials instead of B-splines.

    The `knots` of each input are replaced by its G + 1 `breakpoints`, and the `coefficients` of
    each edge by `pieces` (G, k + 1). These are, for each interval, the coefficients of the powers
    of u, lowest power first, where u runs from -1 to 1 over the interval.
    """
    layers = deepcopy(document["layers"])
    for layer in layers:
        if layer["kind"] == "windows":
            layer["windows"] = list(map(in_pieces, layer["windows"]))
    for layer in [whole_layer.get("splines", whole_layer) for whole_layer in layers]:
        if layer["kind"] != "splines":
            continue
        degree = layer["degree"]
        knots = np.asarray(layer.pop("knots"))
        breakpoints = knots[:, degree : knots.shape[1] - degree]
        layer["breakpoints"], half = breakpoints.tolist(), np.diff(breakpoints) / 2
        for edge in layer["edges"]:
            points = breakpoints[edge["from"]]
            half_widths = half[edge["from"]]
            spline = ScipySpline(knots[edge["from"]], edge.pop("coefficients"), degree)
            powers = [  # Taylor series about the middle of each interval
                spline(points[:-1] + half_widths, nu=power) * half_widths**power / factorial(power)
                for power in range(degree + 1)
            ]
            edge["pieces"] = np.stack(powers, 1).tolist()
    return {**document, "layers": layers}


def python_literal(values: Document) -> str:
    """Return a dictionary as Python source text in ASCII, with one entry per line."""
    return "\n".join(["{", *(f"    {key!a}: {value!a}," for key, value in values.items()), "}"])
