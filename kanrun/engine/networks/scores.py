"""How much the edges of a KAN matter: attribution carried back through the network.

An edge's magnitude is the standard deviation of its output on the data. Every output has score 1; a node's score is
shared among the edges into it in proportion to their magnitudes, and a node's score is the sum of what its outgoing
edges got. So the scores of each layer's edges add up to the number of outputs. This is the attribution of KAN 2.0 (Liu
et al., arXiv 2408.10205, section 4.1) with shares of the edges' magnitudes in place of ratios to the node's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.layers.functional import of_sums
from kanrun.engine.networks.kan import KAN


def magnitudes(kan: KAN, x: Float[Tensor, "samples inputs"]) -> list[Float[Tensor, "_ _"]]:
    """The standard deviation of every edge's output on x, layer by layer; 0 for pruned edges."""
    with torch.no_grad():
        reaching = kan.activations(x)
        return [layer.edge_values(t).std(0, correction=0) for layer, t in zip(kan, reaching, strict=False)]


def scores(kan: KAN, x: Float[Tensor, "samples inputs"]) -> list[Float[Tensor, "_ _"]]:
    """Attribution of the outputs to the edges on x, (out, in) of every layer; each score lies in [0, outputs]."""
    sizes = magnitudes(kan, x)
    node = torch.ones(sizes[-1].shape[0], dtype=x.dtype, device=x.device)
    edges: list[Tensor] = []
    for size, products in zip(reversed(sizes), reversed(kan.products), strict=True):
        node = of_sums(node, products)
        total = size.sum(1, keepdim=True)
        edge = torch.where(total > 0, size / total.clamp(min=torch.finfo(size.dtype).tiny), 0.0) * node[:, None]
        node = edge.sum(0)
        edges.insert(0, edge)
    return edges
