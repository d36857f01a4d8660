"""Functions of two variables as maps, from rows that lie on a lattice or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from kanrun.figures.style import (
    DIVERGING,
    SEQUENTIAL,
    WIDTH,
    grid_of_axes,
    letters,
    new_figure,
    number,
    reach,
    thinned,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

Values = NDArray[np.float64]


def draw_maps(table: pandas.DataFrame, inputs: Sequence[str], outputs: Sequence[str]) -> Figure:
    """Return truth, prediction and error side by side, one row an output; the prediction alone without truth.

    Truth and prediction share their colours; the error's are centred at zero.
    """
    split = next(
        (name for name in ("grid", "test", "train") if (table["split"] == name).any()), "test"
    )
    rows = thinned(table[table["split"] == split], 40_000)
    x, y = (rows[f"input:{name}"].to_numpy(dtype=float) for name in inputs)
    missing = np.full(len(rows), np.nan)
    truths = [np.asarray(rows.get(f"truth:{name}", missing), dtype=float) for name in outputs]
    known = bool(np.isfinite(truths).any())
    figure = new_figure((2.9 if known else 2.3) * len(outputs) + 0.2, WIDTH if known else 3.2)
    below: dict[str, Any] = {"location": "bottom", "pad": 0.04, "shrink": 0.9}
    for line, output, truth in zip(
        grid_of_axes(figure, len(outputs), 3 if known else 1), outputs, truths, strict=True
    ):
        prediction, label = rows[f"prediction:{output}"].to_numpy(dtype=float), letters(output, 24)
        limits = _limits(np.concatenate([truth, prediction]))
        shown = {"truth": truth, "prediction": prediction} if known else {"prediction": prediction}
        for axes, (title, values) in zip(line, shown.items(), strict=False):
            image = draw_map(axes, x, y, values, limits)
            axes.set_title(title)
        if known:
            figure.colorbar(image, ax=line[:2], aspect=44, **below).set_label(f"value of {label}")
            _draw_error(line[2], x, y, prediction - truth, below)
        else:
            figure.colorbar(image, ax=line[0], pad=0.02, aspect=22).set_label(label)
        line[0].set_ylabel(letters(inputs[1], 20))
        for axes in line:
            axes.set_xlabel(letters(inputs[0], 20))
            axes.tick_params(labelleft=axes is line[0])
    return figure


def _draw_error(axes: Axes, x: Values, y: Values, error: Values, below: dict[str, Any]) -> None:
    """The error in colours around zero, with the largest beside its power of ten."""
    most, largest = reach(error), float(np.nanmax(np.abs(error), initial=0.0))
    image = draw_map(axes, x, y, error, (-most, most), DIVERGING)
    axes.set_title("prediction - truth")
    beyond = "both" if largest > most else "neither"
    bar = axes.figure.colorbar(
        image, ax=axes, aspect=22, extend=beyond, ticks=MaxNLocator(3), **below
    )
    bar.set_label(f"largest {number(largest)}", loc="left")


def draw_map(
    axes: Axes,
    x: Values,
    y: Values,
    values: Values,
    limits: tuple[float, float],
    colours: str = SEQUENTIAL,
) -> Any:
    """Draw `values` at the points (x, y), all of shape (N,), and return what a colour bar needs.

    Points that fill a lattice become cells; others are joined by triangles, or stay points when they lie
    on a line.
    """
    axes.grid(visible=False)
    options: dict[str, Any] = {
        "vmin": limits[0],
        "vmax": limits[1],
        "cmap": colours,
        "rasterized": True,
    }
    there = np.isfinite(x) & np.isfinite(y) & np.isfinite(values)
    x, y, values = x[there], y[there], values[there]
    cells = lattice(x, y, values)
    if cells is not None:
        return axes.pcolormesh(*cells, shading="nearest", **options)
    try:
        triangles = Triangulation(x, y)
        return axes.tripcolor(triangles, values, shading="gouraud", **options)
    except (ValueError, RuntimeError):  # fewer than three points, or all on one line
        return axes.scatter(x, y, c=values, s=8, **options)


def lattice(x: Values, y: Values, values: Values) -> tuple[Values, Values, Values] | None:
    """Return the places across and up, and the values (up, across), where the points fill a lattice."""
    across, column = np.unique(x, return_inverse=True)
    up, row = np.unique(y, return_inverse=True)
    if len(across) < 2 or len(up) < 2 or len(across) * len(up) != len(values):
        return None
    cells = np.full((len(up), len(across)), np.nan)
    cells[row, column] = values
    return None if np.isnan(cells).any() else (across, up, cells)


def _limits(values: Values) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)
