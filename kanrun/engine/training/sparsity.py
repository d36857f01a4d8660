"""The sparsity penalty of the KAN paper: few edges that matter, and these unequal.

    sum over layers of  |Phi|_1 + S(Phi),   |Phi|_1 = sum_e m_e,   S = - sum_e p_e log p_e,   p_e = m_e / |Phi|_1

with m_e the magnitude of an edge's output on the batch (arXiv 2404.19756, eqs. 2.17 to 2.20, both weights 1; there the
mean of |phi|, here by default its root mean square, which costs no tensor of samples x outputs x inputs).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.layers.functional import nodes_of
from kanrun.engine.layers.magnitudes import edge_magnitudes
from kanrun.engine.networks import Network

#: Shares count as at least this, which keeps the logarithm finite at dead edges.
LEAST_SHARE = 1e-12


def sparsity(network: Network, x: Float[Tensor, "samples inputs"], kind: str = "rms") -> Tensor:
    """The penalty on `x`, differentiable; zero for networks without edges. `kind` is one of `edge_magnitudes`."""
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for layer, products in zip(network.edge_layers, network.products, strict=True):
        magnitudes = edge_magnitudes(layer, x, kind)[layer.mask]
        size = magnitudes.sum()
        shares = (magnitudes / size.clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=LEAST_SHARE)
        total = total + size - (shares * shares.log()).sum()
        x = nodes_of(layer(x), products)
    return total
