"""How large the edges of a layer are on data: what sparsity penalties add up.

`rms`: sqrt(mean phi^2 + EPSILON) from second moments of the basis and the base, which are (inputs, G + k, k + 1)
numbers a batch, so that no tensor of samples x outputs x inputs is made. `mean_abs`: the paper's mean |phi| (arXiv
2404.19756, eq. 2.17), a chunk of samples at a time, made again for the gradients.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kanrun.engine.layers.bases import Base
from kanrun.engine.layers.settings import check_samples
from kanrun.engine.layers.spline_layer import SplineLayer
from kanrun.engine.splines import local_basis
from kanrun.errors import UsageError

#: Keeps the root differentiable at an edge that is zero.
EPSILON = 1e-12
#: Shares of magnitudes count as at least this in the entropy, which keeps the logarithm finite at dead edges.
LEAST_SHARE = 1e-12
#: Most numbers in a chunk of edge values.
CHUNK = 1 << 20


def edge_magnitudes(
    layer: SplineLayer, x: Float[Tensor, "samples inputs"], kind: str = "rms"
) -> Float[Tensor, "out inputs"]:
    """The size of every edge on x, base included; differentiable in x and the layer's numbers.

    Pruned edges have sqrt(EPSILON) or 0. Raises UsageError for another kind or without samples.
    """
    check_samples(x, layer.inputs, layer.knots)
    if x.shape[0] == 0:
        raise UsageError("Edge magnitudes need at least one sample.")
    if kind == "rms":
        return _root_mean_square(layer, x)
    if kind == "mean_abs":
        return _mean_absolute(layer, x)
    raise UsageError(f"{kind} is not a magnitude of edges; choose rms or mean_abs.")


def edge_penalty(
    layer: SplineLayer, x: Float[Tensor, "samples inputs"], l1: float, entropy: float, kind: str
) -> Tensor:
    """l1 |Phi|_1 + entropy S(Phi) of the layer's edges on x, differentiable; see `KAN.regularisation`."""
    magnitudes = edge_magnitudes(layer, x, kind)[layer.mask]
    size = magnitudes.sum()
    shares = (magnitudes / size.clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=LEAST_SHARE)
    return l1 * size - entropy * (shares * shares.log()).sum()


def _root_mean_square(layer: SplineLayer, x: Tensor) -> Tensor:
    # In float64 from the inputs on: where the parts of an edge cancel, roundings of their squares would be all that is
    # left.
    base_weight, spline_weight = (weight.double() for weight in layer.scales())
    spline = layer.coefficients.double() * spline_weight[..., None]
    grid, at = layer.grid.double(), x.double()
    basis, interval = local_basis(at, grid)
    base = Base(layer.spec.base, grid, layer.spec.base_goes_on)(at)
    square = base_weight.square() * base.square().sum(0)
    # The basis overlaps itself no farther than k functions: its Gram matrix is k + 1 diagonals.
    for distance in range(grid.degree + 1):
        reach = grid.functions - distance
        pairs = basis[..., : grid.degree + 1 - distance] * basis[..., distance:]
        moments = _per_function(pairs, interval, grid.functions)[:, :reach]
        overlap = (spline[..., :reach] * spline[..., distance:] * moments).sum(-1)
        square = square + (overlap if distance == 0 else 2 * overlap)
    cross = _per_function(basis * base[..., None], interval, grid.functions)
    square = square + 2 * base_weight * (spline * cross).sum(-1)
    # Sums that cancel to zero may round below it.
    return (square.clamp(min=0) / x.shape[0] + EPSILON).sqrt().to(x.dtype)


def _per_function(terms: Tensor, interval: Tensor, functions: int) -> Tensor:
    """Terms (samples, inputs, p) of functions interval, interval + 1, ... summed over samples: (inputs, functions)."""
    inputs = interval.shape[1]
    offsets = torch.arange(inputs, device=interval.device) * functions
    index = (interval + offsets)[..., None] + torch.arange(terms.shape[-1], device=interval.device)
    flat = terms.new_zeros(inputs * functions).index_add(0, index.reshape(-1), terms.reshape(-1))
    return flat.view(inputs, functions)


def _mean_absolute(layer: SplineLayer, x: Tensor) -> Tensor:
    size = max(1, CHUNK // layer.mask.numel())
    total = x.new_zeros(layer.mask.shape)
    for part in x.split(size):
        total = total + checkpoint(_absolute_sum, layer, part, use_reentrant=False)
    return total / x.shape[0]


def _absolute_sum(layer: SplineLayer, x: Tensor) -> Tensor:
    return layer.edge_values(x).abs().sum(0)
