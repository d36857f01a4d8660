"""Figures drawn from recorded tables alone: DataFrames in, `matplotlib.figure.Figure` out."""

from __future__ import annotations

from kanrun.figures.edge_panels import edges
from kanrun.figures.effects import effects, pair_maps
from kanrun.figures.network import network_diagram
from kanrun.figures.prediction import predictions, residuals

__all__ = ["edges", "effects", "network_diagram", "pair_maps", "predictions", "residuals"]
