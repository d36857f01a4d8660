"""Layers of spline edges: their functions, initialisation, change of grid, and norms (here).

Norms of an edge's function: `rms`, sqrt(mean phi^2 + EPSILON), or `mean_abs`, the paper's mean
|phi| (arXiv 2404.19756, eq. 2.17). Both are computed on a chunk of samples at a time, and again for
the gradients, so that no tensor of all samples x outputs x inputs is made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kanrun.engine.layers.edges import (
    BASES,
    SPLINES,
    Domain,
    EdgeSpec,
    base_values,
    check_place,
    check_samples,
    checked_edges,
    checked_shape,
    domain_of,
    linearised,
    nodes_of,
    of_sums,
)
from kanrun.engine.layers.initialisation import initialise
from kanrun.engine.layers.radial_layer import RadialLayer
from kanrun.engine.layers.spline_layer import LearnedEdge, SplineLayer
from kanrun.errors import UsageError

#: Added under the root of a norm, so that the norm of a zero edge can be differentiated.
EPSILON = 1e-12
#: For each norm of edges, the exponent p in the mean of |phi|^p.
POWERS = {"rms": 2, "mean_abs": 1}
NUMBERS = ("coefficients", "base_weight", "spline_weight")
#: Maximum number of edge values in a chunk.
CHUNK = 1 << 20


def edge_norms(
    layer: SplineLayer, x: Float[Tensor, "samples inputs"], kind: str = "rms"
) -> Float[Tensor, "out inputs"]:
    """Return the norm of the function of every edge on x, including the base function.

    The norms can be differentiated with respect to x and the parameters of the layer. The norm of a
    pruned edge is sqrt(EPSILON) or 0. Raises UsageError if the kind is unknown or there are no
    samples.
    """
    check_samples(x, layer.inputs, layer.knots)
    if x.shape[0] == 0:
        raise UsageError("Norms of edges need at least one sample.")
    if kind not in POWERS:
        raise UsageError(f"{kind!r} is not a valid norm of edges. Choose rms or mean_abs.")
    # In float64, because the parts of an edge may cancel.
    edges = layer.edges
    fine: dict[str, Any] = {name: getattr(edges, name).double() for name in NUMBERS}
    edges = replace(edges, grid=edges.grid.double(), **fine)
    total = torch.zeros_like(edges.base_weight)
    for part in x.double().split(max(1, CHUNK // layer.mask.numel())):
        total = total + checkpoint(
            lambda at: edges.values(edges.at(at)).abs().pow(POWERS[kind]).sum(0),
            part,
            use_reentrant=False,
        )
    mean = total / x.shape[0]
    return ((mean + EPSILON).sqrt() if kind == "rms" else mean).to(x.dtype)
