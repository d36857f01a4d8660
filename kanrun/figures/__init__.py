"""Figures drawn from recorded tables alone: DataFrames in, `matplotlib.figure.Figure` out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kanrun.figures.network import edges, network_diagram
from kanrun.figures.prediction import effects, pair_maps, predictions, residuals
from kanrun.figures.runs import loss_curve, over_settings, overlaid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name of each figure, and a function that draws it.
Figures = Iterator[tuple[str, "Callable[[], Figure]"]]

__all__ = [
    "Figures",
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
