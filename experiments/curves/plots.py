"""The figures of `kanrun curves`: each function draws the tables that its parameters name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from pandas import DataFrame, Series

from kanrun.figures import Figures
from kanrun.figures.panels import finish, grid_of_panels, one_panel, ticks_at
from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    PALE,
    SEQUENTIAL,
    VERMILLION,
    power,
    styled,
    thin,
)

SMALLEST_JUMP = 1e-17  # jumps below this, zero among them, are drawn here
LARGEST_ERROR = 1e100  # errors above this are drawn here: ticks beyond larger ones are no numbers
SMALLEST_ERROR = 1e-8  # of the function's size: the lower end of the axis of errors
MAX_LABELS = 20  # longer control polygons get no labels
#: Height by width of a plane that is as wide as a page.
ASPECTS = (0.2, 1.4)
THIN: dict[str, Any] = {"lw": 0.7, "ms": 2.6, "alpha": 0.75}
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _groups(table: DataFrame, by: str) -> Iterator[tuple[int, DataFrame, str]]:
    """Yield number, rows and colour of each group of a numeric column."""
    for index, (number, rows) in enumerate(table.groupby(by)):
        yield int(str(number).split(".")[0]), rows, CYCLE[index % len(CYCLE)]


@styled
def interpolation(interpolation: DataFrame) -> Figure:
    """Draw polynomial and spline through few, more and many equispaced points, and their errors.

    Columns are points, x, truth, polynomial, spline. Of more than three numbers of points, the
    first, middle and last are drawn.
    """
    counts = sorted(interpolation["points"].dropna().unique())
    counts = [counts[i] for i in sorted({0, len(counts) // 2, len(counts) - 1})]
    options: Any = {"sharex": True, "sharey": "row", "height_ratios": [3, 2]}
    figure, axes = grid_of_panels(2, len(counts), 1.8, **options)
    low, high = interpolation["truth"].min(), interpolation["truth"].max()
    size = high - low or 1.0
    floor = SMALLEST_ERROR * size
    for (upper, lower), count in zip(axes.T, counts, strict=True):
        rows = interpolation[interpolation["points"] == count]
        for name, colour in (("polynomial", VERMILLION), ("spline", BLUE)):
            upper.plot(rows["x"], rows[name], color=colour, label=name)
            error = (rows[name] - rows["truth"]).abs().clip(floor, max(LARGEST_ERROR, floor))
            lower.semilogy(rows["x"], error, color=colour)
        upper.plot(rows["x"], rows["truth"], ":", color=BLACK, label="function")
        nodes = np.linspace(rows["x"].iloc[0], rows["x"].iloc[-1], int(count))
        upper.plot(nodes, np.interp(nodes, rows["x"], rows["truth"]), "o", color=BLACK)
        upper.set_title(f"N = {count:g}")
        lower.set_xlabel("x")
    axes[0, 0].set(ylabel="f(x)", ylim=(low - 0.6 * size, high + 0.6 * size))
    axes[1, 0].set(ylabel="absolute error")
    axes[1, 0].set_ylim(bottom=floor)
    return finish(figure, axes[0, :1], where="outside upper center", ncols=3)


@styled
def errors(summary: DataFrame, errors: DataFrame, orders: DataFrame) -> Figure:
    """Draw the largest error against the number of points, with the order fitted to each spline.

    `summary` and `errors` have the columns curve, degree, points, max_error; `orders` degree,
    order, last_points (missing if none was fitted). Dotted lines have the theory's slope, up to the
    last point of each fit.
    """
    figure, axes = one_panel(3.2)
    rows = pd.concat([summary, errors.assign(curve="errors")])
    rows = rows.assign(max_error=rows["max_error"].clip(upper=LARGEST_ERROR))
    rows = rows[rows["max_error"] > 0].sort_values("points")
    polynomials = {"polynomial": ("s--", BLACK), "polynomial, Chebyshev points": ("D--", GREY)}
    for curve, (style, colour) in polynomials.items():
        some = rows[rows["curve"] == curve]
        label = curve.replace(", ", ",\n")
        axes.plot(some["points"], some["max_error"], style, color=colour, label=label)
    splines = rows[rows["curve"] == "errors"]
    for degree, fitted, colour in _groups(orders, "degree"):
        order, last = fitted[["order", "last_points"]].iloc[0]
        some = splines[splines["degree"] == degree]
        label = f"spline, k = {degree}" + ("" if np.isnan(order) else f": order {order:.1f}")
        axes.plot(some["points"], some["max_error"], "o-", color=colour, label=label)
        ahead = some[some["points"].between(last / 5, last)]
        theory = ahead["max_error"].tail(1).sum() * (last / ahead["points"]) ** (degree + 1)
        axes.plot(ahead["points"], theory, ":", color=colour)
    axes.plot([], [], ":", color=GREY, label="1 / Nᵏ⁺¹")
    axes.set(xscale="log", yscale="log", xlabel="number of points N", ylabel="largest error")
    ticks_at(axes.xaxis, {*summary["points"], *splines["points"]})
    return finish(figure, [axes], where="outside right center")


@styled
def lecture_points(
    lecture_points: DataFrame, lecture_through: DataFrame, lecture_drawn: DataFrame
) -> Figure:
    """Draw curves through four points (x, y), and curves with these as control points."""
    figure, ((left, right),) = grid_of_panels(1, 2, sharex=True, sharey=True)
    points = lecture_points
    right.plot(points["x"], points["y"], "--", color=GREY)
    for axes, table, x, y, colour, label in (
        (left, lecture_through, "x", "polynomial", VERMILLION, "polynomial of degree 3"),
        (left, lecture_through, "x", "spline", BLUE, "spline of degree 2"),
        (right, lecture_drawn, "bezier_x", "bezier_y", GREEN, "Bézier curve of degree 3"),
        (right, lecture_drawn, "bspline_x", "bspline_y", BLUE, "B-spline of degree 2"),
    ):
        axes.plot(table[x], table[y], color=colour, label=label)
    for axes, title in ((left, "through the points"), (right, "as control points")):
        axes.plot(points["x"], points["y"], "o", color=BLACK, ms=4, zorder=4)
        axes.set(xlabel="x", title=title)
        axes.legend(loc="upper left")
    top, bottom = lecture_through["polynomial"].max(), points["y"].min()
    left.set(ylabel="y", ylim=(None, top + (top - bottom) / 2))
    return figure


@styled
def bernstein_basis(bernstein_basis: DataFrame) -> Figure:
    """Draw the Bernstein polynomials of one degree, from the columns function, u, value."""
    figure, axes = one_panel(width=3.8)
    degree = int(bernstein_basis["function"].max())
    for index, rows, colour in _groups(bernstein_basis, "function"):
        axes.plot(rows["u"], rows["value"], color=colour)
        if degree <= 8:
            u, top = rows[["u", "value"]].to_numpy()[rows["value"].argmax()]
            name = f"B{str(index).translate(_SUBSCRIPTS)}{power(str(degree))}"
            side = "left" if index == 0 else "right" if index == degree else "center"
            axes.text(u, top + 0.02, name, ha=side, color=colour)
    axes.set(xlabel="u", ylabel="value", ylim=(0, 1.14))
    return figure


@styled
def bspline_basis(bspline_basis: DataFrame, bspline_knots: DataFrame) -> Figure:
    """Draw all basis functions (function, t, value) above the knots and their repetitions."""
    figure, axes = one_panel(2.0)
    for _, rows, colour in _groups(bspline_basis, "function"):
        axes.plot(rows["t"], rows["value"].where(_widened(rows["value"] != 0)), color=colour)
    knots, step = bspline_knots, -0.06
    for knot, multiplicity in zip(knots["knot"], knots["multiplicity"].astype(int), strict=True):
        below = step * np.arange(1, multiplicity + 1)
        axes.plot([knot] * multiplicity, below, "^", color=BLACK)
    axes.set_xticks(knots["knot"], [f"{knot:.3g}" for knot in knots["knot"]])
    axes.set(xlabel="knots t", ylabel="value", yticks=[0, 0.5, 1])
    return figure


@styled
def continuity(multiple_knots: DataFrame, continuity: DataFrame) -> Figure:
    """Draw splines with a knot of multiplicity 1 ... k, and how much derivatives jump there.

    `multiple_knots` has the columns curve (multiplicity less 1), t, value; `continuity` degree,
    multiplicity, derivative, relative.
    """
    degree = int(multiple_knots["curve"].max()) + 1
    figure, ((left, right),) = grid_of_panels(1, 2)
    for curve, rows, colour in _groups(multiple_knots, "curve"):
        m = curve + 1
        jumps = continuity[(continuity["degree"] == degree) & (continuity["multiplicity"] == m)]
        left.plot(rows["t"], rows["value"], color=colour)
        beside = jumps["derivative"] + (m - (degree + 1) / 2) / 8
        label = f"m = {m}: C{power(str(degree - m))}"
        right.plot(beside, jumps["relative"].clip(SMALLEST_JUMP), "o", color=colour, label=label)
    left.axvline(0.5, color=GREY, lw=0.8, zorder=0)
    title = "a knot of multiplicity m at 0.5"
    left.set(xlabel="t", ylabel=f"splines of degree {degree}", title=title)
    right.axhspan(SMALLEST_JUMP / 20, np.finfo(float).eps, color=PALE, zorder=0, label="rounding")
    right.set(xlabel="derivative", ylabel="jump / size of the derivative", yscale="log")
    right.set(ylim=(SMALLEST_JUMP / 20, 100), xticks=range(degree + 1), title="jumps there")
    right.legend(**BESIDE)
    return figure


@styled
def de_casteljau(bezier_curve: DataFrame, de_casteljau: DataFrame) -> Figure:
    """Draw a Bézier curve (x, y) and de Casteljau's construction of one point (level, x, y).

    Level 0 is the control points, the last one the curve's point.
    """
    figure, axes = _plane(4.6, de_casteljau, beside=1.3)
    axes.plot(bezier_curve["x"], bezier_curve["y"], color=BLACK, lw=2, label="Bézier curve")
    *levels, (_, last, _) = _groups(de_casteljau, "level")
    for level, rows, _ in levels:
        if level == 0:
            _polygon(axes, rows, "P")
        else:
            colour = mpl.colormaps[SEQUENTIAL](0.85 * (level - 1) / max(len(levels) - 2, 1))
            axes.plot(rows["x"], rows["y"], "o-", color=colour, label=f"level {level}")
    label = "point of the curve"
    axes.plot(last["x"], last["y"], "o", color=VERMILLION, ms=6, zorder=5, label=label)
    axes.legend(**BESIDE)
    return figure


@styled
def bspline_pieces(
    bspline_control: DataFrame,
    bspline_knots: DataFrame,
    bezier_pieces: DataFrame,
    bezier_control: DataFrame,
) -> Figure:
    """Draw a B-spline curve in its Bézier pieces, with both control polygons and the knots.

    All have the columns x, y; points of the curve and control points of its pieces also piece.
    """
    figure, axes = _plane(6.0, bspline_control, above=0.25)
    for _, rows, colour in _groups(bezier_control, "piece"):
        axes.plot(rows["x"], rows["y"], "s-", color=colour, **THIN)
    pieces = list(_groups(bezier_pieces, "piece"))
    for _, rows, colour in pieces:
        axes.plot(rows["x"], rows["y"], color=colour, lw=2, zorder=3)
    _polygon(axes, bspline_control, "P")
    handles = [
        *axes.get_lines()[-1:],
        Line2D([], [], color=CYCLE[0], lw=2, label=f"curve in {len(pieces)} pieces"),
        Line2D([], [], color=CYCLE[0], marker="s", label="their Bézier polygons", **THIN),
        _knots(axes, bspline_knots),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


@styled
def local_control(
    local_control: DataFrame, bspline_control: DataFrame, bspline_knots: DataFrame
) -> Figure:
    """Draw a B-spline curve before and after one control point moved; equal samples are black.

    Curve and control points have the columns x, y, moved_x, moved_y; knots x, y.
    """
    control, moved = bspline_control, ["moved_x", "moved_y"]
    after = control[moved].set_axis(["x", "y"], axis=1)
    figure, axes = _plane(6.0, pd.concat([control[["x", "y"]], after]), above=0.25)
    changed, apart = (
        (table[["x", "y"]].to_numpy() != table[moved].to_numpy()).any(axis=1)
        for table in (local_control, control)
    )
    near = local_control.where(_widened(Series(changed)))
    stayed = local_control.where(~Series(changed))
    _polygon(axes, control)
    axes.plot(stayed["x"], stayed["y"], color=BLACK, lw=2, label="unchanged")
    axes.plot(near["x"], near["y"], color=BLUE, label="before")
    axes.plot(near["moved_x"], near["moved_y"], color=VERMILLION, label="after")
    legs = control.where(_widened(Series(apart)))
    axes.plot(legs["moved_x"], legs["moved_y"], "--", color=VERMILLION, lw=0.8, zorder=1)
    _knots(axes, bspline_knots)
    arrow: Any = {"arrowstyle": "->", "color": VERMILLION, "shrinkA": 4, "shrinkB": 4}
    for row in control[apart].itertuples():
        axes.plot(row.moved_x, row.moved_y, "o", color=VERMILLION, ms=5, zorder=4)
        axes.annotate("", (row.moved_x, row.moved_y), (row.x, row.y), arrowprops=arrow)
    return finish(figure, [axes], where="outside upper center", ncols=5)


@styled
def planar(planar_curves: DataFrame, planar_points: DataFrame, planar_control: DataFrame) -> Figure:
    """Draw a curve through planar points, and one near them with its fewer control points.

    Curves have the columns x, y, near_x, near_y; points and control points x, y.
    """
    curves, points, control = planar_curves, planar_points, planar_control
    extent = pd.concat([points, control, curves])[["x", "y"]]
    shared: Any = {"sharex": True, "sharey": True}
    figure, ((left, right),) = grid_of_panels(1, 2, 2.75 * _aspect(extent), room=1.1, **shared)
    left.plot(curves["x"], curves["y"], color=BLUE, label="spline through the points")
    _polygon(right, control)
    right.plot(curves["near_x"], curves["near_y"], color=GREEN, label="spline near them")
    look: dict[str, Any] = {"color": PALE, "zorder": 0}
    if len(points) <= 600:
        look = {"color": BLACK, "zorder": 4, "ms": 3.2 if len(points) <= 60 else 2}
    shown = thin(points)
    for axes in (left, right):
        _set_equal(axes, extent)
        axes.plot(shown["x"], shown["y"], "o", label="given points", **look)
    left.set_title(f"through {len(points)} points")
    right.set(title=f"near them, {len(control)} control points", ylabel="")
    return finish(figure, [left, right], ncols=4)


def _polygon(axes: Axes, points: DataFrame, name: str = "") -> None:
    """Draw a control polygon, with labels on the outer side of its corners."""
    axes.plot(points["x"], points["y"], "o--", color=GREY, zorder=1, label="control polygon")
    if not name or len(points) > MAX_LABELS:
        return
    places = points[["x", "y"]].to_numpy(dtype=float)
    before, after = np.vstack([places[1], places[:-1]]), np.vstack([places[1:], places[-2]])
    halo: Any = {"path_effects": [withStroke(linewidth=2, foreground="white")], "zorder": 6}
    for index, away in enumerate(places - (before + after) / 2):
        length = np.linalg.norm(away)
        shift = 10 * away / length if length > 0 else np.array([0.0, 10.0])
        text, at = f"{name}{str(index).translate(_SUBSCRIPTS)}", places[index].tolist()
        where: Any = {"textcoords": "offset points", "ha": "center", "va": "center"}
        axes.annotate(text, at, shift.tolist(), **where, **halo)


def _knots(axes: Axes, knots: DataFrame) -> Line2D:
    look: Any = {"color": "white", "mec": BLACK, "ms": 4, "zorder": 4, "label": "knots"}
    return axes.plot(knots["x"], knots["y"], "o", **look)[0]


def _widened(marked: Series[bool]) -> Series[bool]:
    """Return the marked rows and those next to them."""
    return marked | marked.shift(fill_value=False) | marked.shift(-1, fill_value=False)


def _plane(
    width: float, points: DataFrame, above: float = 0, beside: float = 0
) -> tuple[Figure, Axes]:
    """Return a panel with equal scales; `above` and `beside` are inches for legends."""
    height = (width - 0.6 - beside) * _aspect(points)
    figure, axes = one_panel(height, width=width, room=0.5 + above)
    _set_equal(axes, points)
    return figure, axes


def _set_equal(axes: Axes, points: DataFrame) -> None:
    axes.set_aspect("equal", adjustable="box")
    low, high = _limits(points)
    axes.set(xlabel="x", ylabel="y", xlim=(low["x"], high["x"]), ylim=(low["y"], high["y"]))


def _aspect(points: DataFrame) -> float:
    """Return height by width of what `_set_equal` shows, within the room of a page."""
    low, high = _limits(points)
    size = high - low
    return float(np.clip(size["y"] / size["x"], *ASPECTS))


def _limits(points: DataFrame) -> tuple[Series[float], Series[float]]:
    """Return the lower and upper limits of x and y, with a margin."""
    low, high = points[["x", "y"]].min(), points[["x", "y"]].max()
    margin = (high - low).max() / 10
    return low - margin, high + margin


FIGURES = (
    interpolation,
    errors,
    lecture_points,
    bernstein_basis,
    de_casteljau,
    bspline_basis,
    bspline_pieces,
    local_control,
    continuity,
    planar,
)


def figures_of(tables: Mapping[str, DataFrame]) -> Figures:
    """Yield the name and the drawing of every figure whose tables are there."""
    for draw in FIGURES:
        needed = inspect.signature(draw).parameters
        if all(table in tables for table in needed):
            yield draw.__name__, partial(draw, **{table: tables[table] for table in needed})
