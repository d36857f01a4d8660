"""Layers of spline edges: their functions, initialisation, and change of grid."""

from kanrun.engine.layers.edges import (
    BASES,
    Domain,
    Edges,
    EdgeScaling,
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
from kanrun.engine.layers.initialisation import SCHEMES, initialise
from kanrun.engine.layers.spline_layer import LearnedEdge, SplineLayer
