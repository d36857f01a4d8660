"""The table of points on a network's edge functions, and the network diagram drawn from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.model.prediction import in_numpy
from kanrun.points import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of samples from which the network diagram is drawn.
MOST_POINTS = 2000
#: Largest number of edges in the table of edges; edges with the largest scores are kept. To write
#: and read so many edges with `EDGE_POINTS` points each takes 0.8 CPU s.
MOST_EDGES = 400
#: Largest number of points per edge. More points draw smoother curves and make larger tables.
EDGE_POINTS = 101
#: Smallest number of points per edge, even if the table then has more than `MOST_ROWS` rows. With
#: fewer points, curves look broken.
FEWEST_POINTS = 26
#: Number of rows of the table of edges above which edges get fewer points. A larger number makes
#: smoother curves and larger tables for networks with many edges.
MOST_ROWS = 10_000
#: Columns of the table of edges. The last two exist only if there are multiplication nodes.
EDGE_COLUMNS = (
    *("layer", "out", "in", "x", "x_data", "seen", "y", "score", "pruned"),
    *("input_name", "output_name", "symbolic", "operation"),
)


def network_figure(
    network: Network, x: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Figure:
    """Return the diagram that `KAN.plot` draws.

    Edge scores are computed on the first MOST_POINTS rows of `x` (samples, inputs). If `x` is None,
    they are computed on random points that are uniform on the first grid.
    """
    from kanrun.figures import network_diagram

    first = network.edge_layers[0]
    if x is None:
        fixed = torch.Generator().manual_seed(0)
        drawn = torch.rand(MOST_POINTS, first.inputs, generator=fixed, dtype=torch.float64)
        ends = (first.grid.low.double(), first.grid.high.double())
        x = torch.lerp(*ends, drawn.to(first.knots.device))
    inputs = inputs or [f"x{i}" for i in range(network.shape[0])]
    outputs = outputs or [f"y{i}" for i in range(network.shape[-1])]
    rows = torch.as_tensor(x).to(first.knots)[:MOST_POINTS]
    columns = edge_columns(network, rows, inputs, outputs)
    return network_diagram(pd.DataFrame({"seed": 0, **columns}))


def edge_columns(
    network: Network,
    x: Float[Tensor, "samples inputs"],
    inputs: Sequence[str],
    outputs: Sequence[str],
    invert: Callable[[Array], Array] = np.asarray,
) -> dict[str, Any]:
    """Return the columns EDGE_COLUMNS: points on each edge function over its grid, with scores.

    The `score` of an edge is the standard deviation of its output over the samples `x`. The column
    `x` is the edge's input in the units of its layer (standardised for tables). In the first layer,
    the column `x_data` is `x` converted by `invert` to the units of the data; in other layers, it
    equals `x`. `seen` is True within the range of the edge's inputs at the samples. If a layer has
    multiplication nodes, its sums are listed as separate nodes, and an additional layer of edges
    leads from the sums to the layer's nodes. At most MOST_EDGES edges are returned, those with the
    largest scores.
    """
    rows = list[tuple[Any, ...]]()
    multiply = any(network.products)
    layers = network.edge_layers
    edges = min(sum(layer.mask.numel() for layer in layers), MOST_EDGES)
    points = max(FEWEST_POINTS, min(EDGE_POINTS, MOST_ROWS // edges))
    with torch.no_grad():
        reaching = network.activations(x)
        depth = 0
        for index, layer in enumerate(layers):
            score = layer.edge_values(reaching[index]).std(0, correction=0)
            share = torch.linspace(0, 1, points, dtype=score.dtype, device=score.device)
            on_grid = torch.lerp(layer.grid.low, layer.grid.high, share[:, None])
            y = layer.edge_values(on_grid).cpu().numpy()
            grid_x = in_numpy(on_grid)
            ends = in_numpy(reaching[index])
            seen = (grid_x >= ends.min(0)) & (grid_x <= ends.max(0))
            data = invert(grid_x) if index == 0 else grid_x
            for out, into in itertools.product(range(layer.outputs), range(layer.inputs)):
                where = (depth, out, into, grid_x[:, into], data[:, into], seen[:, into])
                judged = float(score[out, into]), not bool(layer.mask[out, into])
                source = str(inputs[into]) if index == 0 else ""
                result = str(outputs[out]) if index == len(layers) - 1 else ""
                rows.append((*where, y[:, out, into], *judged, source, result, "", "sum"))
            depth += 1
            if multiply and network.products[index]:
                rows += _joints(layer(reaching[index]), network.products[index], depth, points)
                depth += 1
    names = EDGE_COLUMNS if multiply else EDGE_COLUMNS[:-2]
    kept = sorted(rows, key=lambda row: -row[EDGE_COLUMNS.index("score")])[:MOST_EDGES]
    kept.sort(key=lambda row: row[:3])
    columns = zip(names, zip(*kept, strict=True), strict=False)
    return {
        name: np.concatenate([np.broadcast_to(values, points) for values in parts])
        for name, parts in columns
    }


def _joints(sums: Tensor, products: int, depth: int, points: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `edge_columns` for the identity edges from a layer's sums to its nodes.

    `sums` has the shape (samples, sums). The last 2 * `products` sums are multiplied in pairs.
    `depth` is the number of this additional layer in the table.
    """
    plain = sums.shape[1] - 2 * products
    for number, values in enumerate(in_numpy(sums).T):
        x = np.linspace(values.min(), values.max(), points)
        multiplies = number >= plain
        out = plain + (number - plain) // 2 if multiplies else number
        operation = "product" if multiplies else "sum"
        yield depth, out, number, x, x, True, x, float(values.std()), False, "", "", "=", operation
