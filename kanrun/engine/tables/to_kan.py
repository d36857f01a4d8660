"""Terms as one KAN: effects through a straight node, pairs as squares, centres as bells.

h'W h / 2 = sum_r lambda_r (v_r'h)^2 / 2 by the eigenvectors of W: node r is v_r'h, a sum of
functions of one input each, and its outer edge is the parabola lambda_r z^2 / 2, which a cubic
spline holds exactly. A weighted sum of candidates has the weighted sum of their W, so a stack is
one network too. Beyond the range that training rows give a node its parabola continues as a
straight line: unseen combinations of values do not grow quadratically.

A node of jumps has steps on its edges, between breakpoints that are near to each other, and
an outer edge that takes its whole numbers to the values of its cells.

A centre z of neighbourhoods is a node whose edges are the parabolas w_j (x_j - z_j)^2 / 2, followed
by the spline for exp(-s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy import ndarray
from scipy import linalg
from scipy.interpolate import make_interp_spline
from torch import nn

from kanrun.engine.layers import STEP_KNOTS, EdgeSpec, SplineLayer, StepLayer
from kanrun.engine.networks import KAN, Network
from kanrun.engine.splines import Extrapolation, extend
from kanrun.engine.tables.design import CURVATURES, SHAPES, Design, Terms
from kanrun.engine.tables.gaussian_process import INTERVALS, psi, psi_values
from kanrun.engine.tables.jumps import JumpNodes, cells_of, sums_of_cells
from kanrun.engine.tables.reduced_basis import (
    DEGREE,
    Columns,
    RowInputs,
    RowOutputs,
    blocks,
    spaced,
)
from kanrun.engine.tables.table_fit import TableFit
from kanrun.engine.tables.variance_components import TablePolicy
from kanrun.engine.training import predict

OUTER_INTERVALS = 2  # of outer edges that are lines and parabolas; bells need `INTERVALS`
_NODE_ROWS = 100_000  # by which nodes are judged
# Margin within which a node's parabola continues, relative to its range on the training rows.
_MARGIN = 0.1
_STEP_WIDTH = 0.01  # of a step, relative to the distance of the training values next to it
_MIN_MARGIN = 1e-6  # relative to the size of the values
_ROUNDING = 1e-12  # relative, of the coefficients of bells


#: Inputs, thresholds and widths of steps, (nodes, depth) each.
Steps = tuple[ndarray, ...]


def to_kan(
    fit: TableFit,
    policy: TablePolicy,
    *,
    noise: ndarray | float | None = None,
    split: bool = False,
    outer_intervals: int | None = None,
    extrapolation: Extrapolation = "linear",
) -> KAN:
    """Return the network of a fit; [inputs, outputs] without pairs and neighbourhoods.

    The network equals the terms except for omitted nodes, as long as nodes stay within the range of
    the training rows. With `split` the one logit f of two classes becomes -f/2 and f/2.
    `outer_intervals` forces a hidden layer, with these intervals on its outer edges. `noise` is the
    residual standard deviation, by default that of the fit.
    """
    outer_spec = EdgeSpec(degree=DEGREE, base="zero", trained_scales="none")
    spec = replace(outer_spec, extrapolation=extrapolation)
    design, terms, radial = fit.design, fit.terms, fit.design.radial
    mixing = np.array([[-0.5], [0.5]]) if split else np.eye(len(terms.main))
    noises = np.broadcast_to(fit.noise if noise is None else noise, len(terms.main))
    h = fit.functions()
    some = h[spaced(len(h), _NODE_ROWS)]
    nodes = [_nodes(terms, t, some, noise, policy) for t, noise in enumerate(noises)]
    main, bells, heights = np.split(terms.main, [len(design.lines), len(design.main)], axis=1)
    breakpoints, bare = design.basis.breakpoints, radial is None and not design.jumps
    if outer_intervals is None and bare and not any(len(one[1]) for one in nodes):
        edges = _monotone(_edges(design, mixing @ main), design)
        edges[:, 0] += (mixing @ terms.offset)[:, None]  # B-splines sum to one
        return KAN.of_layers([_layer(breakpoints, edges, spec)])
    directions = np.concatenate([main, *(one[0] for one in nodes)])
    edges = _edges(design, directions)
    _monotone(edges[: len(main)], design)
    intervals = outer_intervals or (OUTER_INTERVALS if bare else INTERVALS)
    cuts = _node_grids(h, directions, intervals)
    coefficients = _outer_edges(cuts, [factors for _, factors in nodes], terms.offset)
    if radial:
        # Parabolas w_j (x_j - z_j)^2 / 2.
        line, square = _lines(breakpoints), _squares(breakpoints)
        z = radial.centres[:, :, None]
        bowls = radial.kernel.precisions[:, None] / 2 * (square - 2 * z * line + z**2)
        edges = np.concatenate([edges, bowls])
        bells = radial.of_centres(bells)
        cuts = np.concatenate([cuts, np.tile(psi().t[DEGREE:-DEGREE], (bells.shape[1], 1))])
        coefficients = np.concatenate([coefficients, bells[:, :, None] * psi().c], 1)
    mask = mixing @ np.any(coefficients, axis=2) != 0
    outer = np.tensordot(mixing, coefficients, 1)
    last = _layer(cuts, outer, outer_spec, mask, uniform=True)
    network = KAN.of_layers([_layer(breakpoints, edges, spec), last])
    for jumps, height in zip(design.jumps, heights.T, strict=True):
        network = _add_jumps(network, jumps, mixing @ height)
    return network


def _add_jumps(network: KAN, jumps: JumpNodes, heights: ndarray) -> KAN:
    """Return the network with nodes of jumps, times `heights` (outputs,)."""
    first, second = network.stored_layers
    # Each whole number is a breakpoint, at which three functions add up to 1.
    cells = np.repeat(jumps.values, DEGREE, 1)
    table = np.pad(cells, ((0, 0), (0, second.grid.functions - cells.shape[1])))
    known = second.coefficients.detach().numpy()
    outer = np.concatenate([known, heights[:, None, None] * table], 1)
    grids = np.linspace(0, second.grid.intervals / DEGREE, second.grid.intervals + 1)
    grids = np.concatenate([second.grid.breakpoints.numpy(), np.tile(grids, (len(table), 1))])
    mask = np.any(outer, axis=2)
    steps = jumps.inputs, jumps.cuts, _STEP_WIDTH * jumps.rooms
    last = _layer(grids, outer, second.spec, mask, uniform=True)
    return KAN.of_layers([_with_steps([first], [steps]), last])


def _with_steps(layers: Sequence[SplineLayer], more: Sequence[Steps] = ()) -> SplineLayer:
    """Return the nodes of layers on one grid, and behind them all nodes of steps."""
    edges = np.concatenate([one.coefficients.detach().numpy() for one in layers])
    smooth = _layer(layers[0].grid.breakpoints, edges, layers[0].spec)
    every = [*map(_steps, [one for one in layers if isinstance(one, StepLayer)]), *more]
    if not every:
        return smooth
    parts = (torch.as_tensor(np.concatenate(part)) for part in zip(*every, strict=True))
    return StepLayer.of(smooth, *parts)


def _steps(layer: StepLayer) -> Steps:
    return tuple(each.numpy() for each in (layer.sources, layer.places, layer.widths))


def _node_grids(h: Columns, directions: ndarray, intervals: int) -> ndarray:
    """Return breakpoints (nodes, intervals + 1) over the range of each node on the rows."""
    nodes = (h[part] @ directions.T for part in blocks(len(h)))
    ends = np.array([(z.min(0), z.max(0)) for z in nodes])
    low, high = ends[:, 0].min(0), ends[:, 1].max(0)
    room = np.maximum(_MARGIN * (high - low), _MIN_MARGIN * np.maximum(1.0, np.abs(high)))
    return np.linspace(low - room, high + room, intervals + 1, axis=1)


def _outer_edges(cuts: ndarray, factors: Sequence[ndarray], offsets: ndarray) -> ndarray:
    """Return lines of the main nodes, and parabolas of the squared nodes with these factors.

    The shape is (terms, nodes, functions).
    """
    count = len(offsets)
    lines = np.eye(count)[:, :, None] * (_lines(cuts[:count]) + offsets[:, None])
    squares = linalg.block_diag(*(own[None] for own in factors))[:, :, None] * _squares(
        cuts[count:]
    )
    return np.concatenate([lines, squares], 1)


def add_offset(network: KAN, place: int, ends: tuple[float, float]) -> KAN:
    """Return the network of one output with a further input, at `place`, that is added to it.

    `ends` are those of the input's grid.
    """
    first, *others = network.stored_layers
    cuts = np.linspace(*ends, first.grid.intervals + 1)[None]
    breakpoints = np.insert(first.grid.breakpoints.numpy(), place, cuts, 0)
    edges = np.insert(first.coefficients.detach().numpy(), place, 0.0, 1)
    mask = np.insert(first.mask.numpy(), place, False, 1)
    edges[0, place], mask[0, place] = _lines(cuts), True  # node 0 is the sum of all effects
    layer = _layer(breakpoints, edges, first.spec, mask)
    if isinstance(first, StepLayer):
        sources = first.sources + (first.sources >= place)
        layer = StepLayer.of(layer, sources, first.places, first.widths)
    return KAN.of_layers([layer, *others])


def blend(networks: Sequence[KAN], maps: Sequence[tuple[ndarray, ndarray]]) -> KAN:
    """Return the sum of networks of one output on one grid, each through its map (from, to).

    The edges of a third layer are the maps, by Schoenberg's approximation: it reproduces straight
    lines, and stays within the range of the map, whose ends continue as constants.
    """
    first, second = ([one.stored_layers[i] for one in networks] for i in (0, 1))
    inner = _with_steps(first)
    is_step = np.concatenate([np.arange(one.outputs) >= len(one.mask) for one in first])
    order = np.argsort(is_step, kind="stable")
    cuts = torch.cat([one.grid.breakpoints for one in second])[order]
    flat = linalg.block_diag(*(one.coefficients.detach().numpy().reshape(1, -1) for one in second))
    mask = linalg.block_diag(*(one.mask.numpy() for one in second))[:, order]
    flat = flat.reshape(len(networks), len(cuts), -1)[:, order]
    middle = _layer(cuts, flat, second[0].spec, mask, uniform=True)
    points = max(len(values) for values, _ in maps)
    ends = np.stack([v if len(v) == points else np.linspace(v[0], v[-1], points) for v, _ in maps])
    ways = [make_interp_spline(*one, k=1)(at) for at, one in zip(_lines(ends), maps, strict=True)]
    spec = replace(second[0].spec, extrapolation="constant")
    return KAN.of_layers([inner, middle, _layer(ends, np.stack(ways)[None], spec)])


def _layer(
    breakpoints: torch.Tensor | ndarray,
    coefficients: ndarray,
    spec: EdgeSpec,
    mask: ndarray | None = None,
    *,
    uniform: bool = False,
) -> SplineLayer:
    points = torch.as_tensor(breakpoints)
    layer = SplineLayer.on_grid(points, len(coefficients), spec, uniform=uniform)
    with torch.no_grad():
        layer.coefficients.copy_(torch.as_tensor(coefficients))
        if mask is not None:
            layer.mask.copy_(torch.as_tensor(mask))
    return layer


def _lines(breakpoints: ndarray) -> ndarray:
    """Return the B-spline coefficients of z, shape (inputs, functions): means of three knots."""
    return np.asarray(sum(_inner_knots(breakpoints)) / DEGREE)


def _squares(breakpoints: ndarray) -> ndarray:
    """Return those of z^2: means of the products of two of the three knots (its blossom)."""
    a, b, c = _inner_knots(breakpoints)
    return np.asarray((a * b + a * c + b * c) / DEGREE)


def _inner_knots(breakpoints: ndarray) -> list[ndarray]:
    """Return the three knots inside the support of each B-spline, each (inputs, functions)."""
    knots = extend(torch.as_tensor(breakpoints), DEGREE).numpy()
    return [knots[:, i : knots.shape[1] - DEGREE - 1 + i] for i in range(1, DEGREE + 1)]


def _nodes(
    terms: Terms, output: int, h: ndarray, noise: float, policy: TablePolicy
) -> tuple[ndarray, ndarray]:
    """Return directions and half the eigenvalues of an output's pairs, without the weakest.

    The shapes are (nodes, functions) and (nodes,). What is omitted has, in sum, at most
    `policy.omitted` times the standard deviation of the noise.
    """
    pairs = terms.pairs[output]
    inside = np.flatnonzero(np.any(pairs != 0, axis=0))
    active = terms.places[inside]
    values, vectors = np.linalg.eigh(pairs[np.ix_(inside, inside)])
    part = (h[:, active] @ vectors) ** 2 * (values / noise / 2)
    part -= part.mean(0)
    order = np.argsort((part**2).mean(0))[::-1]
    rest = part[:, order][:, ::-1].cumsum(1)[:, ::-1].std(0)  # of all nodes from this one on
    keep = order[: min(int(np.sum(rest > policy.omitted)), policy.max_nodes)]
    directions = np.zeros((len(keep), h.shape[1]))
    directions[:, active] = vectors[:, keep].T
    return directions, values[keep] / 2


def _edges(design: Design, weights: ndarray) -> ndarray:
    """Return the B-spline coefficients of weighted sums of the scaled functions.

    The shape is (nodes, inputs, splines).
    """
    basis = design.basis
    return np.stack([weights[:, mine] @ basis.coefficients[mine] for mine in basis.places], 1)


def _monotone(edges: ndarray, design: Design) -> ndarray:
    """Set differences of the wrong sign, which are due to rounding, to zero on monotone edges."""
    for j, shape in design.shapes:
        if shape in CURVATURES:
            continue
        sign = SHAPES[shape]
        for edge in edges[:, j]:
            # The logit of the first of two classes turns the other way.
            turn = sign if edge[-1] * sign >= edge[0] * sign else -sign
            edge[:] = turn * np.maximum.accumulate(turn * edge)
    return edges


def table_outputs(network: Network, u: RowInputs) -> RowOutputs:
    """Evaluate a network of `to_kan` or `blend`: bells by a product of matrices, steps by tables.

    This takes a tenth of the time of the network, whose nodes are evaluated one by one.
    """
    if not isinstance(network, KAN) or len(network.stored_layers) == 1:
        return _plain_outputs(network, u)
    (first, second, *last), bell = network.stored_layers, psi()
    if second.grid.functions != len(bell.c):
        return _plain_outputs(network, u)
    coefficients, knots = second.coefficients.detach().numpy(), second.grid.breakpoints.numpy()
    # Heights (outputs, nodes) of bells, 0 for other nodes.
    heights = coefficients @ bell.c / (bell.c @ bell.c)
    error = np.abs(coefficients - heights[:, :, None] * bell.c).max((0, 2))
    same = np.isclose(knots, bell.t[DEGREE:-DEGREE]).all(1)
    is_bell = same & (error <= _ROUNDING * np.abs(coefficients).max()) & heights.any(0)
    smooth = np.arange(len(is_bell)) < len(first.mask)
    plain, inner = np.flatnonzero(~is_bell & smooth), first.coefficients.detach().numpy()
    nodes = _layer(first.grid.breakpoints, inner[plain], first.spec)
    cuts = second.grid.breakpoints[plain]
    lines = _layer(cuts, coefficients[:, plain], second.spec, uniform=True)
    out = _plain_outputs(KAN.of_layers([nodes, lines]), u)
    out += _bells(first, inner[is_bell[smooth]], heights[:, is_bell], u)
    slow = np.zeros(len(u), bool)
    if isinstance(first, StepLayer):
        inputs, places, widths = _steps(first)
        cells, before = (cells_of(u, inputs, places + end * widths) for end in STEP_KNOTS[::3])
        slow = (cells != before).any(1)  # on the slope of a step
        ends = slice(None, DEGREE << places.shape[1], DEGREE)
        out += sums_of_cells(cells, coefficients[:, ~smooth, ends])
    for layer in last:
        out = _plain_outputs(layer, out)
    out[slow] = _plain_outputs(network, u[slow])
    return out


def _plain_outputs(network: nn.Module, u: ndarray) -> RowOutputs:
    return predict(network, torch.as_tensor(u)).double().numpy()


def _bells(first: SplineLayer, inner: ndarray, heights: ndarray, u: RowInputs) -> RowOutputs:
    """Return the sums of bells with these edges and heights (outputs, bells)."""
    cuts = first.grid.breakpoints.numpy()
    line, square = _lines(cuts), _squares(cuts)
    # Coefficients (inputs, bells) of parabolas, which continue as straight lines beyond the grids.
    powers = np.linalg.pinv(np.stack([square, line, np.ones_like(line)], 2))
    squares, lines, constants = np.einsum("jpf,bjf->pjb", powers, inner, optimize=True)
    low, high = first.grid.low.numpy(), first.grid.high.numpy()
    out = np.empty((len(u), len(heights)))
    for rows in blocks(len(u)):
        inside = np.clip(u[rows], low, high)
        columns = np.concatenate([(2 * u[rows] - inside) * inside, u[rows]], 1)
        distances = columns @ np.concatenate([squares, lines]) + constants.sum(0)
        out[rows] = psi_values(distances) @ heights.T
    return out
