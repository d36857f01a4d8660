"""Figures of `kanrun curves`. The parameters of each function name the tables that it draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from kanrun.figures.panels import finish, grid_of_panels, one_panel, ticks_at
from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    LABEL,
    PALE,
    THIN,
    VERMILLION,
    Look,
    power,
    styled,
    subscript,
    thin,
)

#: Larger errors are drawn at this value, since matplotlib cannot label much larger ticks.
LARGEST_ERROR = 1e100
#: Height of a panel that shows planar curves (inches).
PLANE = 3.2
CURVE: Look = {"lw": 2, "zorder": 3}
GIVEN: Look = {"color": BLACK, "zorder": 4}
KNOTS: Look = {"color": "white", "mec": BLACK, "ms": 4, "zorder": 4, "label": "knots"}
POINT: Look = {"color": VERMILLION, "ms": 6, "zorder": 5}
ARROW: Look = {"arrowstyle": "->", "color": VERMILLION, "shrinkA": 4, "shrinkB": 4}
BESIDE = "outside right center"
ON_TOP = "outside upper center"


def _groups(table: DataFrame, by: str) -> Iterator[tuple[int, DataFrame, str]]:
    """Yield the number, the rows and the colour of each group of equal values in column `by`."""
    for index, (number, rows) in enumerate(table.groupby(table[by].astype(int))):
        yield int(str(number)), rows, CYCLE[index % len(CYCLE)]


@styled
def interpolation(interpolation: DataFrame) -> Figure:
    """Draw polynomial and spline through few, more and many equispaced points, and their errors.

    The table has the columns points, x, truth, polynomial and spline. If there are more than three
    numbers of points, the first, the middle and the last one are drawn.
    """
    groups: Any = list(interpolation.groupby("points"))
    groups = [groups[i] for i in sorted({0, len(groups) // 2, len(groups) - 1})]
    options: Any = {"sharex": True, "sharey": "row", "height_ratios": [3, 2]}
    figure, axes = grid_of_panels(2, len(groups), 1.8, **options)
    low, high = interpolation["truth"].agg(["min", "max"])
    size = high - low or 1.0
    # Lower end of the axis of errors, relative to the range of the function's values.
    smallest = 1e-8
    floor = smallest * size
    for (upper, lower), (count, rows) in zip(axes.T, groups, strict=True):
        for name, colour in (("polynomial", VERMILLION), ("spline", BLUE)):
            upper.plot(rows["x"], rows[name], color=colour, label=name)
            error = (rows[name] - rows["truth"]).abs().clip(floor, max(LARGEST_ERROR, floor))
            lower.semilogy(rows["x"], error, color=colour)
        upper.plot(rows["x"], rows["truth"], ":", color=BLACK, label="function")
        nodes = np.linspace(rows["x"].min(), rows["x"].max(), int(count))
        upper.plot(nodes, np.interp(nodes, rows["x"], rows["truth"]), "o", color=BLACK)
        upper.set_title(f"N = {count:g}")
        lower.set_xlabel("x")
    axes[0, 0].set(ylabel="f(x)", ylim=(low - 0.6 * size, high + 0.6 * size))
    axes[1, 0].set(ylabel="absolute error", ylim=(floor, None))
    return finish(figure, axes[0, :1], where=ON_TOP, ncols=3)


@styled
def errors(summary: DataFrame, errors: DataFrame, orders: DataFrame) -> Figure:
    """Draw the largest error against the number of points, with the order fitted to each spline.

    `summary` and `errors` have the columns curve, degree, points and max_error. `orders` has the
    columns degree, order and last_points, which are missing if no order was fitted. Dotted lines
    have the theoretical slope and end at the last point of each fit.
    """
    figure, axes = one_panel(3.2)
    both = pd.concat([summary[summary["curve"] != "spline"], errors]).sort_values("points")
    curves = both["curve"].array
    degrees = both["degree"].array
    largest = both.set_index("points")["max_error"].clip(upper=LARGEST_ERROR)
    largest = largest.where(largest > 0)
    for curve, style, colour in (
        ("polynomial", "s--", BLACK),
        ("polynomial, Chebyshev points", "D--", GREY),
    ):
        axes.plot(largest[curves == curve], style, color=colour, label=curve.replace(", ", ",\n"))
    for degree, fitted, colour in _groups(orders, "degree"):
        order, last = fitted[["order", "last_points"]].iloc[0]
        some = largest[(curves == "spline") & (degrees == degree)]
        label = f"spline, k = {degree}" + ("" if np.isnan(order) else f": order {order:.1f}")
        axes.plot(some, "o-", color=colour, label=label)
        ahead = some[(some.index >= last / 5) & (some.index <= last)]
        theory = ahead.tail(1).sum() * (last / ahead.index) ** (degree + 1)
        axes.plot(ahead.index, theory, ":", color=colour)
    axes.plot([], [], ":", color=GREY, label="1 / Nᵏ⁺¹")
    axes.set(xscale="log", yscale="log", xlabel="number of points N", ylabel="largest error")
    ticks_at(axes.xaxis, largest.index)
    return finish(figure, [axes], where=BESIDE)


@styled
def lecture_points(
    lecture_points: DataFrame, lecture_through: DataFrame, lecture_drawn: DataFrame
) -> Figure:
    """Draw curves through four points, and curves whose control points they are."""
    figure, ((left, right),) = grid_of_panels(1, 2, sharex=True, sharey=True)
    _draw(right, lecture_points, "--", color=GREY)
    through = lecture_through.set_index("x")
    left.plot(through["polynomial"], color=VERMILLION, label="polynomial of degree 3")
    left.plot(through["spline"], color=BLUE, label="spline of degree 2")
    _draw(right, lecture_drawn, "-", "bezier_", color=GREEN, label="Bézier curve of degree 3")
    _draw(right, lecture_drawn, "-", "bspline_", color=BLUE, label="B-spline of degree 2")
    for axes, title in ((left, "through the points"), (right, "as control points")):
        _draw(axes, lecture_points, "o", ms=4, **GIVEN)
        axes.set(xlabel="x", title=title)
        axes.legend(loc="upper left")
    top = through["polynomial"].max()
    left.set(ylabel="y", ylim=(None, top + (top - lecture_points["y"].min()) / 2))
    return figure


@styled
def bernstein_basis(bernstein_basis: DataFrame) -> Figure:
    """Draw the Bernstein polynomials of one degree.

    The table has the columns function, u and value.
    """
    figure, axes = one_panel(width=3.8)
    degree = int(bernstein_basis["function"].max())
    # Largest degree whose Bernstein polynomials are labelled.
    most = 8
    # Vertical distance of a label from the top of its curve (units of the axis).
    above = 0.02
    for index, rows, colour in _groups(bernstein_basis, "function"):
        axes.plot(rows["u"], rows["value"], color=colour)
        if degree <= most:
            u, top = rows[["u", "value"]].to_numpy()[rows["value"].argmax()]
            name = f"B{subscript(index)}{power(str(degree))}"
            axes.text(u, top + above, name, ha="center", color=colour)
    axes.set(xlabel="u", ylabel="value", ylim=(0, 1.14))
    return figure


@styled
def bspline_basis(bspline_basis: DataFrame, bspline_knots: DataFrame) -> Figure:
    """Draw all B-spline basis functions above the knots with their multiplicities.

    `bspline_basis` has the columns function, t and value; `bspline_knots` has knot and
    multiplicity.
    """
    figure, axes = one_panel(2.0)
    for _, rows, colour in _groups(bspline_basis, "function"):
        axes.plot(rows["t"], rows["value"].where(_widened(rows["value"] != 0)), color=colour)
    knots = bspline_knots["knot"]
    # Vertical distance between marks of a repeated knot (units of the axis).
    below = -0.06
    for knot, times in zip(knots, bspline_knots["multiplicity"].astype(int), strict=True):
        axes.plot([knot] * times, below * np.arange(1, times + 1), "^", color=BLACK)
    axes.set_xticks(knots, [f"{knot:.3g}" for knot in knots])
    axes.set(xlabel="knots t", ylabel="value", yticks=[0, 0.5, 1])
    return figure


@styled
def continuity(multiple_knots: DataFrame, continuity: DataFrame) -> Figure:
    """Draw splines with a knot of multiplicity 1 to k, and how much derivatives jump there.

    `multiple_knots` has the columns curve (the multiplicity minus 1), t and value. `continuity` has
    the columns degree, multiplicity, derivative and relative (the relative jump).
    """
    degree = int(multiple_knots["curve"].max()) + 1
    figure, ((left, right),) = grid_of_panels(1, 2)
    # Jumps below this value, including zero, are drawn at this value.
    smallest = 1e-17
    for curve, rows, colour in _groups(multiple_knots, "curve"):
        m = curve + 1
        jumps = continuity[(continuity["degree"] == degree) & (continuity["multiplicity"] == m)]
        left.plot(rows["t"], rows["value"], color=colour)
        beside = jumps["derivative"] + (m - (degree + 1) / 2) / 8
        label = f"m = {m}: C{power(str(degree - m))}"
        right.plot(beside, jumps["relative"].clip(smallest), "o", color=colour, label=label)
    left.axvline(0.5, color=GREY, lw=0.8, zorder=0)
    title = "a knot of multiplicity m at 0.5"
    left.set(xlabel="t", ylabel=f"splines of degree {degree}", title=title)
    bottom = smallest / 20
    right.axhspan(bottom, np.finfo(float).eps, color=PALE, zorder=0, label="rounding")
    right.set(xlabel="derivative", ylabel="jump / size of the derivative", title="jumps there")
    right.set(yscale="log", ylim=(bottom, 100), xticks=range(degree + 1))
    return finish(figure, [right], where=BESIDE)


@styled
def de_casteljau(bezier_curve: DataFrame, de_casteljau: DataFrame) -> Figure:
    """Draw a Bézier curve and de Casteljau's construction of one of its points.

    `bezier_curve` has the columns x and y; `de_casteljau` also has `level`. Level 0 has the control
    points, the last level the point of the curve.
    """
    figure, axes = one_panel(PLANE)
    _draw(axes, bezier_curve, "-", color=BLACK, lw=2, label="Bézier curve")
    (_, control, _), *levels, (_, last, _) = _groups(de_casteljau, "level")
    _polygon(axes, control, "P")
    # Fraction of the colour map that the levels of de Casteljau's construction use.
    share = 0.85
    shades = mpl.colormaps["viridis"](np.linspace(0, share, len(levels)))
    for (level, rows, _), shade in zip(levels, shades, strict=True):
        _draw(axes, rows, "o-", color=shade, label=f"level {level}")
    _draw(axes, last, "o", label="point of the curve", **POINT)
    _set_equal(axes)
    return finish(figure, [axes], where=BESIDE)


@styled
def bspline_pieces(
    bspline_control: DataFrame,
    bspline_knots: DataFrame,
    bezier_pieces: DataFrame,
    bezier_control: DataFrame,
) -> Figure:
    """Draw the Bézier pieces of a B-spline curve, the control polygons of both, and the knots.

    All tables have the columns x and y. `bezier_pieces` and `bezier_control` also have `piece`.
    """
    figure, axes = one_panel(PLANE)
    pieces = bezier_pieces["piece"].nunique()
    _polygon(axes, bspline_control, "P")
    for label, table, style, look in (
        (f"curve in {pieces} pieces", bezier_pieces, "-", CURVE),
        ("their Bézier polygons", bezier_control, "s-", THIN),
    ):
        for _, rows, colour in _groups(table, "piece"):
            _draw(axes, rows, style, color=colour, label=label, **look)
    _draw(axes, bspline_knots, "o", **KNOTS)
    _set_equal(axes)
    return finish(figure, [axes], where=ON_TOP, ncols=4)


@styled
def local_control(
    local_control: DataFrame, bspline_control: DataFrame, bspline_knots: DataFrame
) -> Figure:
    """Draw a B-spline curve before and after one control point moved; what did not change is black.

    `local_control` and `bspline_control` have the columns x, y, moved_x and moved_y;
    `bspline_knots` has x and y.
    """
    control = bspline_control
    figure, axes = one_panel(PLANE)
    changed, apart = (
        (table["x"] != table["moved_x"]) | (table["y"] != table["moved_y"])
        for table in (local_control, control)
    )
    near = local_control.where(_widened(changed))
    stayed = local_control.where(~changed)
    _polygon(axes, control)
    _draw(axes, stayed, "-", color=BLACK, lw=2, label="unchanged")
    _draw(axes, near, "-", color=BLUE, label="before")
    _draw(axes, near, "-", "moved_", color=VERMILLION, label="after")
    legs = control.where(_widened(apart))
    _draw(axes, legs, "--", "moved_", color=VERMILLION, lw=0.8, zorder=1)
    _draw(axes, bspline_knots, "o", **KNOTS)
    for x, y, to_x, to_y in control.loc[apart, ["x", "y", "moved_x", "moved_y"]].to_numpy():
        axes.plot(to_x, to_y, "o", **POINT)
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=ARROW)
    _set_equal(axes)
    return finish(figure, [axes], where=ON_TOP, ncols=5)


@styled
def planar(planar_curves: DataFrame, planar_points: DataFrame, planar_control: DataFrame) -> Figure:
    """Draw a curve through planar points, and a curve near them with fewer control points.

    `planar_curves` has the columns x, y, near_x and near_y; the other tables have x and y.
    """
    curves = planar_curves
    points = planar_points
    control = planar_control
    figure, ((left, right),) = grid_of_panels(1, 2, PLANE)
    _draw(left, curves, "-", color=BLUE, label="spline through the points")
    _polygon(right, control)
    _draw(right, curves, "-", "near_", color=GREEN, label="spline near them")
    look: Look = {"color": PALE, "zorder": 0}
    # Largest number of points that are drawn black and in front of the curves.
    many = 600
    if len(points) <= many:
        look = {"ms": 3.2 if len(points) <= 60 else 2, **GIVEN}
    for axes in (left, right):
        _set_equal(axes)
        _draw(axes, thin(points), "o", label="given points", **look)
    left.set_title(f"through {len(points)} points")
    right.set(title=f"near them, {len(control)} control points", ylabel="")
    return finish(figure, [left, right], ncols=4)


def _draw(axes: Axes, points: DataFrame, style: str, prefix: str = "", **look: Any) -> None:
    """Draw the column `<prefix>y` against `<prefix>x`."""
    axes.plot(points[f"{prefix}x"], points[f"{prefix}y"], style, **look)


def _polygon(axes: Axes, points: DataFrame, name: str = "") -> None:
    """Draw a control polygon.

    If `name` is given and there are at most 20 points, label each point with `name` and its
    number, above corners that point up and below the other corners.
    """
    _draw(axes, points, "o--", color=GREY, zorder=1, label="control polygon")
    # Largest number of control points that are labelled.
    most = 20
    if not name or len(points) > most:
        return
    around = np.pad(points["y"].to_numpy(dtype=float), 1, mode="reflect")
    middles = (around[:-2] + around[2:]) / 2
    # Distance of a label from its point (points).
    away = 10
    for index, (x, y, middle) in enumerate(zip(points["x"], points["y"], middles, strict=True)):
        shift = 0, away if y >= middle else -away
        axes.annotate(f"{name}{subscript(index)}", (x, y), shift, va="center", **LABEL)


def _widened(marked: Series[bool]) -> Series[bool]:
    """Return `marked` with the neighbours of the marked rows marked as well."""
    return marked | marked.shift(fill_value=False) | marked.shift(-1, fill_value=False)


def _set_equal(axes: Axes) -> None:
    """Give both axes of a plane the same scale."""
    axes.margins(0.1)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="x", ylabel="y")


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
