"""Layers of spline edges: their functions, initialisation, and change of grid."""

from kanrun.engine.layers.edges import (
    BASES,
    SLOPES,
    Edges,
    EdgesAt,
    EdgeSpec,
    base_values,
    by_sums,
    linearised,
    nodes_of,
    of_sums,
    traced,
)
from kanrun.engine.layers.initialisation import SCHEMES, fresh_layers, initialise
from kanrun.engine.layers.spline_layer import LearnedEdge, SplineLayer
