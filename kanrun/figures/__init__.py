"""Figures drawn from recorded tables alone: DataFrames in, `matplotlib.figure.Figure` out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from kanrun.figures.classes import class_curves, confusion
from kanrun.figures.effects import effects, pair_maps
from kanrun.figures.network import edges, network_diagram
from kanrun.figures.prediction import predictions, residuals
from kanrun.figures.runs import loss_curve, over_settings, overlaid, training_figures
from kanrun.figures.style import Figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures_of(tables: Mapping[str, Any], draws: Iterable[Callable[..., Figure]]) -> Figures:
    """Yield the name and the drawing of each figure whose tables are there.

    A function of `draws` has the name of its figure, and its parameters those of its tables.
    """
    for draw in draws:
        needed = inspect.signature(draw).parameters
        if all(name in tables for name in needed):
            yield draw.__name__, partial(draw, **{name: tables[name] for name in needed})
