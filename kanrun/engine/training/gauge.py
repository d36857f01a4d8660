"""The constants that a KAN's edges can exchange without changing its function.

The basis functions of an edge sum to one, so a constant added to all coefficients of one edge into a node and taken
from another's changes nothing: least squares leaves these directions open, penalties on differences do too, and
rounding divided by a tiny damping would let coefficients drift until nothing else is left of their digits.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kanrun.engine.networks import KAN


class Gauge:
    """Removes from moves of a network's unknowns what changes no function; the identity for networks without edges."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = list(network) if isinstance(network, KAN) else []

    def fixed(self, move: Float[Tensor, " unknowns"], seen: Float[Tensor, " unknowns"]) -> Float[Tensor, " unknowns"]:
        """A move that changes every node as `move` does, without what its edges exchange.

        An edge's constant is the mean of its coefficients, each counted by how much of it is `seen`; the node's, their
        sum times w_s, is shared among its edges by w_s^2.
        """
        parts, start = [], 0
        for layer in self._layers:
            span = slice(start, start + layer.coefficients.numel())
            start = span.stop
            if layer.spec.outside == "zero":  # then the basis does not sum to one everywhere
                parts.append(move[span])
                continue
            scales = layer.scales()[1].detach()
            part, counted = (v[span].view(layer.coefficients.shape) for v in (move, seen))
            means = (part * counted).sum(-1) / counted.sum(-1).clamp(min=1e-300)
            squares = scales.square()
            total = (means * scales).sum(1, keepdim=True) / squares.sum(1, keepdim=True).clamp(min=1e-300)
            shift = torch.where((squares > 0) & (counted.sum(-1) > 0), total * scales - means, 0)
            parts.append((part + shift[..., None]).reshape(-1))
        return torch.cat(parts) if parts else move
