"""How much the edges of a KAN matter, and the KAN without some of them, their nodes or inputs.

An edge's magnitude is the standard deviation of its output on the data. Every output has score 1; a node's score is
shared among the edges into it in proportion to their magnitudes, and a node's score is the sum of what its outgoing
edges got; a product gives each of its sums its own score. This is the attribution of KAN 2.0 (Liu et al., arXiv
2408.10205, section 4.1) with shares of the edges' magnitudes in place of ratios to the node's. What prunes returns a
new network and keeps every setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from kanrun.engine.layers.functional import of_sums
from kanrun.engine.networks.network import Network

N = TypeVar("N", bound=Network)

#: The validation error may grow by this when edges go.
SLACK = 0.05


def magnitudes(kan: Network, x: Float[Tensor, "samples inputs"]) -> list[Float[Tensor, "_ _"]]:
    """The standard deviation of every edge's output on x, layer by layer; 0 for pruned edges."""
    with torch.no_grad():
        reaching = kan.activations(x)
        return [
            layer.edge_values(t).std(0, correction=0)
            for layer, t in zip(kan.edge_layers, reaching, strict=False)
        ]


def scores(kan: Network, x: Float[Tensor, "samples inputs"]) -> list[Float[Tensor, "_ _"]]:
    """Attribution of the outputs to the edges on x, (out, in) of every layer; each score lies in [0, outputs]."""
    sizes = magnitudes(kan, x)
    node = torch.ones(sizes[-1].shape[0], dtype=x.dtype, device=x.device)
    edges: list[Tensor] = []
    for size, products in zip(reversed(sizes), reversed(kan.products), strict=True):
        node = of_sums(node, products)
        total = size.sum(1, keepdim=True)
        edge = (
            torch.where(total > 0, size / total.clamp(min=torch.finfo(size.dtype).tiny), 0.0)
            * node[:, None]
        )
        node = edge.sum(0)
        edges.insert(0, edge)
    return edges


def with_masks(kan: N, masks: Sequence[Bool[Tensor, "_ _"]]) -> N:
    """A copy of `kan` in which only the edges of `masks` (one a layer) are alive; those pruned before stay pruned.

    Edges into a node from which nothing alive leads to an output go too, so the function is that of the masks
    alone. What led nowhere, and out of nodes that nothing alive reaches (whose value is zero), keeps its
    contribution: a constant is not dropped.
    """
    new = deepcopy(kan)
    alive = [
        layer.mask & mask.to(layer.mask) for layer, mask in zip(new.edge_layers, masks, strict=True)
    ]
    for index in range(len(alive) - 2, -1, -1):
        alive[index] = alive[index] & of_sums(alive[index + 1].any(0), kan.products[index])[:, None]
    with torch.no_grad():
        for layer, mask in zip(new.edge_layers, alive, strict=True):
            layer.mask.copy_(mask)
    return new


def pruned(kan: N, x: Float[Tensor, "samples inputs"] | ArrayLike, threshold: float) -> N:
    """`kan` without the edges whose score on x is below `threshold`; at least the best edge into each output stays,
    and the means of lost edges stay as constants."""
    data = torch.as_tensor(x).to(kan.edge_layers[0].knots)
    edges = scores(kan, data)
    masks = [edge >= threshold for edge in edges]
    masks[-1] |= edges[-1] == edges[-1].amax(1, keepdim=True)
    for layer in range(len(masks) - 2, -1, -1):  # a node that is needed keeps the best way into it
        needed = of_sums(masks[layer + 1].any(0), kan.products[layer])[:, None]
        masks[layer] |= needed & (edges[layer] == edges[layer].amax(1, keepdim=True))
    return _with_means(with_masks(kan, masks), kan, data)


def _with_means(new: N, old: N, x: Tensor) -> N:
    """`new` with the mean on x of every edge that it lost added to the largest edge kept into the same node: a constant
    is not noise. B-splines sum to one, so it is added to the coefficients."""
    with torch.no_grad():
        for layer, before, reaching in zip(
            new.edge_layers, old.edge_layers, old.activations(x), strict=False
        ):
            values = before.edge_values(reaching)
            lost = (values.mean(0) * (before.mask & ~layer.mask)).sum(1)
            size = values.std(0, correction=0) * layer.mask
            scale = layer.scales()[1]
            for out in range(layer.outputs):
                keeper = int(size[out].argmax())
                if layer.mask[out, keeper] and lost[out] != 0 and scale[out, keeper] != 0:
                    layer.coefficients[out, keeper] += lost[out] / scale[out, keeper]
    return new


def prune_on_validation(
    kan: Network,
    x: ArrayLike,
    validation_x: ArrayLike,
    validation_y: ArrayLike,
    output: int,
    slack: float = SLACK,
) -> Network:
    """The smallest of the networks that thresholds leave, whose validation error is within `slack` of the whole one's.

    Selected on output `output` of validation points; `slack` 0.05 allows 5 %.
    """
    like = kan.edge_layers[0].knots
    inside, target = torch.as_tensor(validation_x).to(like), torch.as_tensor(validation_y).to(like)
    levels = torch.cat(
        [edge.flatten() for edge in scores(kan, torch.as_tensor(x).to(like))]
    ).unique()

    def error(network: Network) -> float:
        with torch.no_grad():
            return float((network(inside)[:, output] - target).square().mean().sqrt())

    allowed, best = (1 + slack) * error(kan), kan
    for threshold in levels[
        1:
    ]:  # what lies below it goes: one more edge, or several alike, each time
        smaller = pruned(kan, x, float(threshold))
        if not error(smaller) <= allowed:  # nor where either is NaN
            break
        best = smaller
    return best
