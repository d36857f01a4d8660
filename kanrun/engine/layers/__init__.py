"""Layers of spline edges: their functions, initialisation and changes of grids, and norms of edges.

The norm of an edge function phi is either `rms`, sqrt(mean phi^2 + EPSILON), or `mean_abs`, the
mean of |phi| (arXiv 2404.19756, eq. 2.17). Means are over samples.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

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

#: Added to the mean square under the root, so that the norm of a zero edge can be differentiated.
EPSILON = 1e-12


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
    if kind not in ("rms", "mean_abs"):
        raise UsageError(f"{kind!r} is not a valid norm of edges. Choose rms or mean_abs.")
    values = layer.edge_values(x)
    if kind == "mean_abs":
        return values.abs().mean(0)
    return (values.square().mean(0) + EPSILON).sqrt()
