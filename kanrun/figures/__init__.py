"""Figures that are drawn only from recorded tables.

Functions take DataFrames and return a `matplotlib.figure.Figure`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from kanrun.figures.network import edges, network_diagram
from kanrun.figures.prediction import (
    class_curves,
    confusion,
    effects,
    pair_maps,
    predictions,
    residuals,
)
from kanrun.figures.runs import loss_curve, over_settings, training_figures
from kanrun.figures.style import Figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures_of(tables: Mapping[str, Any], draws: Iterable[Callable[..., Figure]]) -> Figures:
    """Yield the name of each figure whose tables exist, and a function that draws it.

    Each function in `draws` has the name of its figure, and its parameters have the names of the
    tables that the function needs.
    """
    for draw in draws:
        needed = inspect.signature(draw).parameters
        if all(name in tables for name in needed):
            yield draw.__name__, partial(draw, **{name: tables[name] for name in needed})
