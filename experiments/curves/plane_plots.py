"""Figures of planar curves: Bezier and B-spline curves with their polygons, curves through and near points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    PALE,
    SEQUENTIAL,
    VERMILLION,
    legend_of_all,
    new_figure,
    styled,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame, Series

#: Longer control polygons get no labels.
MOST_LABELS = 20


@styled
def de_casteljau(curve: DataFrame, levels: DataFrame) -> Figure:
    """Return a Bezier curve and the points of de Casteljau's construction at one parameter, level by level.

    `curve` has the columns x, y; `levels` level, x, y: level 0 is the control points, the last the curve's point.
    """
    figure, axes = _plane(4.6, levels["x"], levels["y"], beside=1.3)
    axes.plot(curve["x"], curve["y"], color=BLACK, lw=2, zorder=3, label="Bézier curve")
    last = int(levels["level"].max())
    shades = mpl.colormaps[SEQUENTIAL]
    for number in range(last + 1):
        rows = levels[levels["level"] == number]
        if number == 0:
            _polygon(axes, rows["x"], rows["y"], "P")
        elif number < last:
            colour = shades(0.85 * (number - 1) / max(last - 2, 1))
            axes.plot(rows["x"], rows["y"], "o-", color=colour, lw=1.1, label=f"level {number}")
        else:
            axes.plot(rows["x"], rows["y"], "o", color=VERMILLION, ms=6, zorder=5, label="point of the curve")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def bspline_pieces(control: DataFrame, knots: DataFrame, pieces: DataFrame, bezier: DataFrame) -> Figure:
    """Return a B-spline curve in its Bezier pieces, with both control polygons and the knots on the curve.

    `control` and `knots` have the columns x, y; `pieces` (points of the curve) and `bezier` (control points of
    the pieces) piece, x, y.
    """
    figure, axes = _plane(6.0, control["x"], control["y"], above=0.25)
    count = pieces["piece"].nunique()
    for number in range(count):
        colour = CYCLE[number % len(CYCLE)]
        points, rows = bezier[bezier["piece"] == number], pieces[pieces["piece"] == number]
        axes.plot(points["x"], points["y"], "s-", color=colour, ms=2.6, lw=0.7, alpha=0.75)
        axes.plot(rows["x"], rows["y"], color=colour, lw=2.2, zorder=3)
    _polygon(axes, control["x"], control["y"], "P")
    handles = [
        *axes.get_lines()[-1:],
        Line2D([], [], color=CYCLE[0], lw=2.2, label=f"curve in {count} pieces"),
        Line2D([], [], color=CYCLE[0], marker="s", ms=2.6, lw=0.7, alpha=0.75, label="their Bézier polygons"),
        _knots(axes, knots),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


@styled
def local_control(curves: DataFrame, control: DataFrame, knots: DataFrame) -> Figure:
    """Return a B-spline curve before and after one control point moved; what stayed to the bit is black.

    `curves` and `control` have the columns x, y, moved_x, moved_y; `knots` x, y.
    """
    x, y = (pd.concat([control[name], control[f"moved_{name}"]]) for name in ("x", "y"))
    figure, axes = _plane(6.0, x, y, above=0.25)
    changed = (curves["x"] != curves["moved_x"]) | (curves["y"] != curves["moved_y"])
    near, stayed = curves.where(_widened(changed)), curves.where(~changed)
    moved = (control["x"] != control["moved_x"]) | (control["y"] != control["moved_y"])
    legs = control.where(_widened(moved))
    _polygon(axes, control["x"], control["y"])
    axes.plot(legs["moved_x"], legs["moved_y"], "--", color=VERMILLION, lw=0.8, zorder=1)
    handles = [
        *axes.plot(stayed["x"], stayed["y"], color=BLACK, lw=2, label="unchanged"),
        *axes.plot(near["x"], near["y"], color=BLUE, label="before"),
        *axes.plot(near["moved_x"], near["moved_y"], color=VERMILLION, label="after"),
        _knots(axes, knots),
    ]
    for row in control[moved].to_dict("records"):
        axes.plot([row["moved_x"]], [row["moved_y"]], "o", color=VERMILLION, ms=5, zorder=4)
        arrow = {"arrowstyle": "->", "color": VERMILLION, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", (row["moved_x"], row["moved_y"]), (row["x"], row["y"]), arrowprops=arrow)
    handles.insert(0, axes.get_lines()[0])
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure


@styled
def planar(curves: DataFrame, points: DataFrame, control: DataFrame) -> Figure:
    """Return a curve through planar points, and one near them with its fewer control points.

    `curves` has the columns x, y, near_x, near_y; `points` and `control` x, y.
    """
    x, y = (pd.concat([points[name], control[name], curves[name]]) for name in ("x", "y"))
    width = 6.5
    figure = new_figure(1.1 + (width - 1.0) / 2 * _aspect(x, y), width)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.plot(curves["x"], curves["y"], color=BLUE, label="spline through the points")
    left.set_title(f"through {len(points)} points")
    _polygon(right, control["x"], control["y"])
    right.plot(curves["near_x"], curves["near_y"], color=GREEN, label="spline near them")
    right.set_title(f"near them, {len(control)} control points")
    few = len(points) <= 600
    look = {"color": BLACK, "zorder": 4, "ms": 3.2 if len(points) <= 60 else 2} if few else {"color": PALE, "zorder": 0}
    shown = thinned(points)
    for axes in (left, right):
        _equal(axes, x, y)
        axes.plot(shown["x"], shown["y"], "o", label="given points", **look)
    right.set_ylabel("")
    legend_of_all(figure, [left, right], loc="outside lower center", ncols=4)
    return figure


def _polygon(axes: Axes, x: Series[float], y: Series[float], name: str = "") -> None:
    """A control polygon; the labels of its points lie on the outer side of its corners."""
    axes.plot(x, y, "o--", color=GREY, lw=0.8, zorder=1, label="control polygon")
    if not name or len(x) > MOST_LABELS:
        return
    points = np.stack([x, y], axis=1)
    before, after = np.vstack([points[1], points[:-1]]), np.vstack([points[1:], points[-2]])
    for index, (point, away) in enumerate(zip(points, points - (before + after) / 2, strict=True)):
        length = np.linalg.norm(away)
        right, up = 10 * away / length if length > 0 else (0.0, 10.0)
        at = (float(point[0]), float(point[1]))
        label = axes.annotate(f"${name}_{{{index}}}$", at, (right, up), textcoords="offset points", zorder=6)
        label.set(ha="center", va="center", path_effects=[withStroke(linewidth=2, foreground="white")])


def _knots(axes: Axes, knots: DataFrame) -> Line2D:
    return axes.plot(knots["x"], knots["y"], "o", color="white", mec=BLACK, ms=4, zorder=4, label="knots")[0]


def _widened(marked: Series[bool]) -> Series[bool]:
    """The marked rows and those next to them."""
    return marked | marked.shift(fill_value=False) | marked.shift(-1, fill_value=False)


def _plane(
    width: float, x: Series[float], y: Series[float], above: float = 0, beside: float = 0
) -> tuple[Figure, Axes]:
    """A figure with equal scales, as high as the extent of x and y asks for; `above` and `beside` are for legends."""
    figure = new_figure(0.5 + above + (width - 0.6 - beside) * _aspect(x, y), width)
    axes = figure.subplots()
    _equal(axes, x, y)
    return figure, axes


def _equal(axes: Axes, x: Series[float], y: Series[float]) -> None:
    axes.set_aspect("equal", adjustable="box")
    horizontal, vertical = _limits(x, y)
    axes.set(xlabel="$x$", ylabel="$y$", xlim=horizontal, ylim=vertical)


def _aspect(x: Series[float], y: Series[float]) -> float:
    """Height by width of what `_equal` shows, within what a page has room for."""
    (left, right), (low, high) = _limits(x, y)
    return float(np.clip((high - low) / (right - left), 0.2, 1.4))


def _limits(x: Series[float], y: Series[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    margin = 0.1 * max(x.max() - x.min(), y.max() - y.min())
    return (x.min() - margin, x.max() + margin), (y.min() - margin, y.max() + margin)
