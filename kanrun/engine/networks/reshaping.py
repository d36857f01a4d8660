"""Changes of a network's shape: removing edges, adding a node, adding a layer.

Edges are removed (pruned) by score. The *magnitude* of an edge is the standard deviation of its
output on the data. Scores are computed from the outputs back to the inputs: every output has score
1; a node's score is divided among its incoming edges in proportion to their magnitudes; the score
of a hidden node is the sum of the scores of its outgoing edges. Both sums of a multiplication node
get the score of the node. This is the attribution of KAN 2.0 (Liu et al., arXiv 2408.10205, section
4.1), but with an edge's share in the sum of magnitudes instead of its ratio to the magnitude of the
node. Pruning returns a new network with the same settings.

A node or a layer is added with splines that represent given functions; other edges do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import combinations
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from kanrun.engine.layers import SplineLayer, of_sums
from kanrun.engine.networks.network import MARGIN, Network
from kanrun.engine.splines import (
    Inputs,
    breakpoints_from_data,
    find_interval,
    fit_coefficients,
    sample_points,
)
from kanrun.errors import UsageError

N = TypeVar("N", bound=Network)

#: Largest relative increase of the validation error that pruning may cause.
SLACK = 0.05


def scores(kan: Network, x: Inputs) -> list[Float[Tensor, "_ _"]]:
    """Return the scores of the edges on `x`, one array of shape (out, in) per layer.

    Scores lie in [0, outputs]. Raises UsageError if `x` has no samples or is not finite.
    """
    if len(x) == 0 or not bool(x.isfinite().all()):
        raise UsageError("Scores of edges need at least one sample, and finite x.")
    with torch.no_grad():
        sizes = [layer.edge_values(t).std(0, correction=0) for layer, t in kan.edge_inputs(x)]
    node = torch.ones(sizes[-1].shape[0], dtype=x.dtype, device=x.device)
    edges: list[Tensor] = []
    for size, products in zip(reversed(sizes), reversed(kan.products), strict=True):
        total = size.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
        edge = size / total * of_sums(node, products)[:, None]
        node = edge.sum(0)
        edges.insert(0, edge)
    return edges


def with_masks(kan: N, masks: Sequence[Bool[Tensor, "_ _"]]) -> N:
    """Return a copy of `kan` with only the edges for which `masks` (one per layer) are true.

    Edges that were pruned before stay pruned. Edges to a node without a path to an output are
    pruned too, which does not change the function. Edges from a node without incoming edges are
    kept, because they may contribute a constant.
    """
    new = deepcopy(kan)
    layers = list(zip(new.edge_layers, masks, kan.products, strict=True))
    with torch.no_grad():
        after: Tensor | None = None
        for layer, mask, products in reversed(layers):
            alive = layer.mask & mask.to(layer.mask)
            if after is not None:
                alive &= of_sums(after, products)[:, None]
            layer.mask.copy_(alive)
            after = alive.any(0)
    return new


def prune_edges(kan: N, x: Inputs | ArrayLike, threshold: float) -> N:
    """Return `kan` without the edges whose score on `x` is below `threshold`.

    The edge with the highest score into each output is always kept, and so is one incoming edge of
    every node that is still needed. The mean outputs of removed edges are added to kept edges.
    """
    data = torch.as_tensor(x).to(kan.edge_layers[0].knots)
    masks: list[Tensor] = []
    needed = torch.ones(kan.shape[-1], dtype=torch.bool, device=data.device)
    for edge, products in zip(reversed(scores(kan, data)), reversed(kan.products), strict=True):
        best = edge == edge.amax(1, keepdim=True)
        masks.insert(0, (edge >= threshold) | (of_sums(needed, products)[:, None] & best))
        needed = masks[0].any(0)
    new = with_masks(kan, masks)
    # The mean of each removed edge is added to the largest kept edge into the same node. Because
    # B-splines sum to one, the mean is added to all coefficients of this edge.
    with torch.no_grad():
        for layer, (before, at) in zip(new.edge_layers, kan.edge_inputs(data), strict=True):
            values = before.edge_values(at)
            lost = (values.mean(0) * (before.mask & ~layer.mask)).sum(1)
            keeper = (values.std(0, correction=0) * layer.mask).argmax(1, keepdim=True)
            scale = layer.scales()[1].gather(1, keeper)[:, 0]
            shift = torch.where(scale != 0, lost / scale, 0.0)
            edges = torch.arange(layer.outputs, device=keeper.device), keeper[:, 0]
            layer.coefficients[edges] += shift[:, None]
    return new


def prune_on_validation(
    kan: Network,
    x: ArrayLike,
    validation_x: ArrayLike,
    validation_y: ArrayLike,
    output: int,
    slack: float = SLACK,
) -> Network:
    """Prune `kan` as far as the validation error of one output allows.

    Edges are removed in the order of their scores on `x`, until the RMSE of the output with index
    `output` exceeds (1 + slack) times that of `kan` on the validation points.
    """
    like = kan.edge_layers[0].knots
    inside = torch.as_tensor(validation_x).to(like)
    target = torch.as_tensor(validation_y).to(like)
    edge_scores = scores(kan, torch.as_tensor(x).to(like))
    levels = torch.cat([edge.flatten() for edge in edge_scores]).unique()

    def error(network: Network) -> float:
        with torch.no_grad():
            return float((network(inside)[:, output] - target).square().mean().sqrt())

    allowed = (1 + slack) * error(kan)
    best = kan
    # Each threshold removes one more edge, or several edges with equal scores.
    for threshold in levels[1:]:
        smaller = prune_edges(kan, x, float(threshold))
        # The condition is written so that NaN ends the search too.
        if not error(smaller) <= allowed:
            break
        best = smaller
    return best


# -------------------- larger networks

#: Number of points per interval at which a spline is fitted to a function.
POINTS = 5
#: Highest degree of the polynomials to which a residual is fitted. A higher degree recognises more
#: complicated factors but needs more samples.
DEGREE = 6
#: Upper bound (exclusive) of the number of polynomials and products in a fit; the degree is reduced
#: until it is met. The time of the fit grows with the cube of this number.
MAX_PRODUCTS = 600

#: Function that maps the values of a node (points, 1) to outputs (points, outputs).
Outer = Callable[[Tensor], Tensor]


def add_node(
    network: Network, inner: Float[Tensor, "inputs functions"], outer: Outer, x: Inputs
) -> Network:
    """Return the network with one more node in its first hidden layer.

    Args:
        network: A network with a hidden layer.
        inner: Coefficients of the splines from the inputs to the node, on the first grid.
        outer: Functions from the node to the next layer. If they are zero, the network's function
            does not change.
        x: Samples, shape (samples, inputs). The node's grid covers the node's values at the
            samples, extended by `MARGIN`.
    """
    first, second, *others = network.edge_layers
    wider = _enlarged(first, first.grid.breakpoints, first.outputs + 1)
    with torch.no_grad():
        wider.coefficients[-1] = inner
        values = wider(x)[:, -1:]
    points = breakpoints_from_data(values, second.grid.intervals, 0.0, MARGIN)
    after = _enlarged(second, torch.cat([second.grid.breakpoints, points]), second.outputs)
    with torch.no_grad():
        after.coefficients[:, -1:] = _spline(points, outer, second)
    return network.of_layers([wider, after, *others])


def add_identity_layer(network: Network, x: Inputs) -> Network:
    """Return the network with an additional last layer, which begins as the identity."""
    last = network.edge_layers[-1]
    with torch.no_grad():
        values = network(x)
    points = breakpoints_from_data(values, last.grid.intervals, 0.0, MARGIN)
    identity = SplineLayer.on_grid(points, last.outputs, last.spec, uniform=True)
    with torch.no_grad():
        for output, ends in enumerate(points):
            identity.coefficients[output, output] = _spline(ends[None], lambda t: t, last)[0, 0]
    return network.of_layers([*network.edge_layers, identity])


def halve_intervals(
    network: Network, x: Inputs, squares: Float[Tensor, " samples"], rare: float
) -> tuple[Network, tuple[int, float, float]] | None:
    """Refine the first layer's grids where a few samples cause half of the squared residual.

    The network's function does not change. In the input in which the residual is most concentrated,
    the intervals that contain these samples are halved, and their neighbours too. All inputs must
    have the same number of intervals, so in the other inputs the same number of intervals are
    halved, those with the largest residuals.

    Args:
        network: A network of spline layers.
        x: Samples, shape (samples, inputs).
        squares: Squared residuals at the samples.
        rare: Largest fraction (exclusive) of the samples that counts as few.

    Returns:
        The network, and a tuple: the index of the input in which the residual is most concentrated,
        and the lower and upper end of this input's interval with the largest mean squared residual.
        None if the residual is not concentrated in any input.
    """
    layer, *others = network.edge_layers
    at = find_interval(x, layer.grid)
    points = layer.grid.breakpoints
    sums, counts = (
        x.new_zeros(layer.grid.intervals, layer.inputs).scatter_add_(0, at, values)
        for values in (squares[:, None].expand(at.shape), torch.ones_like(x))
    )
    order = (sums / counts.clamp(min=1)).argsort(0, descending=True)
    ordered = sums.gather(0, order)
    needed = ordered.cumsum(0) - ordered < squares.sum() / 2
    samples = (counts.gather(0, order) * needed).sum(0)
    if not bool((samples < rare * len(x)).any()):
        return None
    i = int(samples.argmin())
    near = order[needed[:, i], i][:, None] + torch.arange(-1, 2, device=x.device)
    halved = near.clamp(0, layer.grid.intervals - 1).unique()
    first = order[: len(halved)].T.clone()
    first[i] = halved
    middle = (points.gather(1, first) + points.gather(1, first + 1)) / 2
    finer, _ = layer.moved(torch.cat([points, middle], 1).sort(1).values, uniform=False)
    low, high = points[i, order[0, i] : order[0, i] + 2].tolist()
    return network.of_layers([finer, *others], network.products[:-1]), (i, low, high)


def product_directions(
    x: Inputs,
    y: Float[Tensor, "samples 1"],
    slope: Float[Tensor, "samples 1"],
    domain: Float[Tensor, "inputs 2"],
    count: int,
    degree: int = DEGREE,
) -> list[tuple[float, Float[Tensor, "inputs degree"]]]:
    """Return eigenvalues and eigenvectors of the matrix of products of inputs that fits y best.

    `y` is fitted by `slope` times a linear combination of Legendre polynomials of each input, and
    of products of the polynomials of two inputs. The coefficients of the products form a symmetric
    matrix, called M in `kanrun.engine.training.growth`. The `count` eigenvalues with the largest
    magnitude are returned, largest first, each with its eigenvector (inputs, degree). `degree` is
    reduced if there are too few samples. If there are too few even for degree 1, or only one input,
    the list is empty.
    """
    inputs = x.shape[1]
    pairs = list(combinations(range(x.shape[1]), 2))
    most = min(MAX_PRODUCTS, len(x) // 2)
    fitting = [d for d in range(1, degree + 1) if len(pairs) * d * d + inputs * d < most]
    if not (pairs and fitting):
        return []
    degree = fitting[-1]
    p = legendre_polynomials(x, domain, degree)
    products = [(p[:, i, :, None] * p[:, j, None]).flatten(1) for i, j in pairs]
    columns = torch.cat([torch.ones_like(y), p.flatten(1), *products], 1) * slope
    gram = columns.T @ columns / len(x)
    # Ridge parameter of the fit by products, relative to polynomials of unit variance.
    ridge = 1e-6
    gram.diagonal().add_(ridge * float(slope.square().mean()) + torch.finfo().tiny)
    solution = torch.linalg.solve(gram, columns.T @ y / len(x))[1 + inputs * degree :, 0]
    matrix = solution.new_zeros(inputs, degree, inputs, degree)
    for (i, j), block in zip(pairs, solution.view(len(pairs), degree, degree), strict=True):
        matrix[i, :, j], matrix[j, :, i] = block / 2, block.T / 2
    sizes, vectors = torch.linalg.eigh(matrix.view(inputs * degree, -1))
    order = sizes.abs().argsort(descending=True)[:count].tolist()
    return [(float(sizes[k]), vectors[:, k].view(inputs, degree)) for k in order]


def legendre_polynomials(
    x: Tensor, domain: Tensor, degree: int
) -> Float[Tensor, "samples inputs degree"]:
    """Return Legendre polynomials of degrees 1 to `degree`, of unit variance on the domain."""
    t = 2 * (x - domain[:, 0]) / (domain[:, 1] - domain[:, 0]) - 1
    p = np.polynomial.legendre.legvander(t.numpy(force=True), degree)[..., 1:]
    return t.new_tensor(p * np.sqrt(2 * np.arange(1, degree + 1) + 1))


def _spline(points: Tensor, function: Outer, like: SplineLayer) -> Tensor:
    """Return coefficients (outputs, 1, functions) of splines fitted to `function` on `points`.

    `points` are the breakpoints; the degree is that of the layer `like`.
    """
    grid = SplineLayer.on_grid(points, 1, like.spec, uniform=True).grid
    at = sample_points(grid, POINTS)
    return fit_coefficients(at, function(at)[..., None], grid)


def _enlarged(layer: SplineLayer, breakpoints: Tensor, outputs: int) -> SplineLayer:
    """Return the layer with additional inputs and outputs, whose edges are zero.

    `breakpoints` are those of all inputs, the old inputs first.
    """
    new = SplineLayer.on_grid(breakpoints, outputs, layer.spec, uniform=layer.uniform)
    with torch.no_grad():
        for name, value in new.state_dict(keep_vars=True).items():
            if name != "knots":
                value[: layer.outputs, : layer.inputs] = getattr(layer, name)
    return new
