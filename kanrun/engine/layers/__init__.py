"""Modules made of edges: spline edges, their initialisation, their change of grid."""

from kanrun.engine.layers.bases import BASES, SLOPES, Base
from kanrun.engine.layers.initialisation import SCHEMES, fresh_layers, initialise
from kanrun.engine.layers.magnitudes import edge_magnitudes, edge_penalty
from kanrun.engine.layers.regrid import carry_coefficients, move_layer, refine_layer
from kanrun.engine.layers.settings import EdgeSpec
from kanrun.engine.layers.spline_layer import SplineLayer
