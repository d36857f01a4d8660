"""A spline layer as one function of its numbers: differentiable to any order, under any transform, and compiled.

    y[n, o] = sum_i (w_b[o, i] b(x[n, i]) + w_s[o, i] sum_f B_f(x[n, i]) c[o, i, f])

It makes no tensor of samples x inputs x outputs, except on wide grids under `torch.vmap`, in forward mode
(`torch.func.jvp`, `jacfwd`, `hessian`) and under `torch.compile`, which fuses it away.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.layers.bases import Base
from kanrun.engine.splines import local_basis
from kanrun.engine.splines.basis_products import sums_of_splines


def edge_sums(
    x: Float[Tensor, "samples inputs"],
    coefficients: Float[Tensor, "out inputs functions"],
    base_weight: Float[Tensor, "out inputs"],
    spline_weight: Float[Tensor, "out inputs"],
    base: Base,
) -> Float[Tensor, "samples out"]:
    """y of the module; the splines lie on `base.grid`, and weights of pruned edges are zero."""
    y = sums_of_splines(*local_basis(x, base.grid), coefficients * spline_weight[..., None])
    return y if base.name == "zero" else y + base(x) @ base_weight.T


# Nodes that multiply (KAN 2.0: Liu et al., arXiv 2408.10205, section 3.1). The last 2 m sums of a layer are the factors
# of m products, two after each other: a layer of n + m sums has n nodes, the products last.


def nodes_of(sums: Float[Tensor, "*batch sums"], products: int) -> Float[Tensor, "*batch nodes"]:
    """The values of a layer's nodes."""
    if not products:
        return sums
    plain = sums.shape[-1] - 2 * products
    return torch.cat([sums[..., :plain], sums[..., plain::2] * sums[..., plain + 1 :: 2]], -1)


def by_sums(
    upstream: Float[Tensor, "*batch nodes"], sums: Float[Tensor, "*batch sums"], products: int
) -> Float[Tensor, "*batch sums"]:
    """d y / d sums of d y / d nodes; `sums` may have dimensions of size 1 where `upstream` has others."""
    if not products:
        return upstream
    plain = sums.shape[-1] - 2 * products
    swapped = sums[..., plain:].unflatten(-1, (products, 2)).flip(-1)
    factors = (upstream[..., plain:, None] * swapped).flatten(-2)
    return torch.cat([upstream[..., :plain], factors], -1)


def of_sums(nodes: Float[Tensor, nodes * rest], products: int) -> Float[Tensor, sums * rest]:
    """What holds for each node, for each of its sums: products are repeated."""
    if not products:
        return nodes
    plain = nodes.shape[0] - products
    return torch.cat([nodes[:plain], nodes[plain:].repeat_interleave(2, 0)])
