"""Figures drawn from recorded tables alone: DataFrames in, `matplotlib.figure.Figure` out."""

from __future__ import annotations

from kanrun.figures.network import edges, network_diagram
from kanrun.figures.prediction import effects, pair_maps, predictions, residuals
from kanrun.figures.runs import loss_curve, over_settings, overlaid

__all__ = [
    "edges",
    "effects",
    "loss_curve",
    "network_diagram",
    "over_settings",
    "overlaid",
    "pair_maps",
    "predictions",
    "residuals",
]
