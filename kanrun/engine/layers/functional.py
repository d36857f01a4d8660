"""A spline layer as one function of its numbers: differentiable to any order, under any transform, and compiled.

    y[n, o] = sum_i (w_b[o, i] b(x[n, i]) + w_s[o, i] sum_f B_f(x[n, i]) c[o, i, f])

It makes no tensor of samples x inputs x outputs, except on wide grids in forward mode (`torch.func.jvp`, `jacfwd`,
`hessian`) and under `torch.compile`, which fuses it away.
"""

from __future__ import annotations

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
