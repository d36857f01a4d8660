"""The figures of `kanrun curves`: each function draws the tables that its parameters name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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

from kanrun.figures.panels import finished, ticks_at
from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    PALE,
    SEQUENTIAL,
    VERMILLION,
    WIDTH,
    new_figure,
    one_panel,
    styled,
    thinned,
)
from kanrun.study.experiment import Figures

SMALLEST_JUMP = 1e-17  # jumps below this, zero among them, are drawn here
LARGEST_ERROR = 1e100  # errors above this are drawn here: ticks beyond larger ones are no numbers
MOST_LABELS = 20  # longer control polygons get no labels


@styled
def interpolation(interpolation: DataFrame) -> Figure:
    """Polynomial and spline through few, more and many equispaced points, the errors of both below.

    Columns are points, x, truth, polynomial, spline; of more than three numbers of points the first, middle and last
    are drawn.
    """
    counts = sorted(interpolation["points"].dropna().unique())
    counts = [counts[i] for i in sorted({0, len(counts) // 2, len(counts) - 1})]
    figure = new_figure(3.9, 2.05 * len(counts) + 0.4)
    axes = figure.subplots(
        2, len(counts), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2]
    )
    low, high = interpolation["truth"].min(), interpolation["truth"].max()
    size = high - low or 1.0
    for (upper, lower), count in zip(axes.T, counts, strict=True):
        rows = interpolation[interpolation["points"] == count]
        for name, colour in (("polynomial", VERMILLION), ("spline", BLUE)):
            upper.plot(rows["x"], rows[name], color=colour, label=name)
            error = (
                (rows[name] - rows["truth"])
                .abs()
                .clip(1e-8 * size, max(LARGEST_ERROR, 1e-8 * size))
            )
            lower.semilogy(rows["x"], error, color=colour, lw=1)
        upper.plot(rows["x"], rows["truth"], color=BLACK, ls=(0, (2, 2)), lw=0.9, label="function")
        nodes = np.linspace(rows["x"].iloc[0], rows["x"].iloc[-1], int(count))
        upper.plot(
            nodes, np.interp(nodes, rows["x"], rows["truth"]), "o", color=BLACK, ms=2.2, zorder=3
        )
        upper.set_title(f"$N = {count:g}$")
        lower.set_xlabel("$x$")
    axes[0, 0].set(ylabel="$f(x)$", ylim=(low - 0.6 * size, high + 0.6 * size))
    axes[1, 0].set(ylabel="absolute error")
    axes[1, 0].set_ylim(bottom=1e-8 * size)
    return finished(figure, axes[0, :1], where="outside upper center", ncols=3)


@styled
def errors(summary: DataFrame, errors: DataFrame, orders: DataFrame) -> Figure:
    """The largest error against the number of points, with the order fitted to each spline in the legend.

    `summary` and `errors` have the columns curve, degree, points, max_error; `orders` degree, order, last_points
    (nothing where none was fitted). Dotted lines fall as the theory says, to the last point of each fit.
    """
    figure, axes = one_panel(3.6, 5.4)
    both = [
        rows.assign(max_error=rows["max_error"].clip(upper=LARGEST_ERROR))
        for rows in (summary, errors)
    ]
    polynomials, splines = (rows[rows["max_error"] > 0].sort_values("points") for rows in both)
    for curve, marker, colour in (
        ("polynomial", "s", BLACK),
        ("polynomial, Chebyshev points", "D", GREY),
    ):
        rows = polynomials[polynomials["curve"] == curve]
        axes.loglog(
            rows["points"],
            rows["max_error"],
            f"{marker}--",
            color=colour,
            label=curve.replace(", ", ",\n"),
        )
    for row, colour in zip(orders.to_dict("records"), CYCLE * len(orders), strict=False):
        degree, order, last = int(row["degree"]), row["order"], row["last_points"]
        rows = splines[splines["degree"] == degree]
        if len(rows):
            fitted = "" if np.isnan(order) else f": order {order:.1f}"
            axes.loglog(
                rows["points"],
                rows["max_error"],
                "o-",
                color=colour,
                label=f"spline, $k = {degree}${fitted}",
            )
            ahead = rows[rows["points"].between(last / 5, last)]
            theory = ahead["max_error"].tail(1).sum() * (last / ahead["points"]) ** (degree + 1)
            axes.loglog(ahead["points"], theory, ":", color=colour, lw=1)
    axes.plot([], [], ":", color=GREY, label="$N^{-(k+1)}$")
    axes.set(xlabel="number of points $N$", ylabel="largest error")
    ticks_at(axes.xaxis, {*summary["points"], *splines["points"]})
    return finished(figure, [axes], where="outside right center")


@styled
def lecture_points(
    lecture_points: DataFrame, lecture_through: DataFrame, lecture_drawn: DataFrame
) -> Figure:
    """Four points (x, y): polynomial and quadratic spline through them; curves with them as control points."""
    figure, points = new_figure(2.9), lecture_points
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    right.plot(points["x"], points["y"], "--", color=GREY, lw=0.8)
    for axes, table, x, y, colour, label in (
        (left, lecture_through, "x", "polynomial", VERMILLION, "polynomial of degree 3"),
        (left, lecture_through, "x", "spline", BLUE, "spline of degree 2"),
        (right, lecture_drawn, "bezier_x", "bezier_y", GREEN, "Bézier curve of degree 3"),
        (right, lecture_drawn, "bspline_x", "bspline_y", BLUE, "B-spline of degree 2"),
    ):
        axes.plot(table[x], table[y], color=colour, label=label)
    for axes, title in ((left, "through the points"), (right, "as control points")):
        axes.plot(points["x"], points["y"], "o", color=BLACK, ms=4, zorder=4)
        axes.set(xlabel="$x$", title=title)
        axes.legend(loc="upper left")
    top, bottom = lecture_through["polynomial"].max(), points["y"].min()
    left.set(ylabel="$y$", ylim=(None, top + 0.35 * (top - bottom)))
    return figure


@styled
def bernstein_basis(bernstein_basis: DataFrame) -> Figure:
    """The Bernstein polynomials of one degree, from the columns function, u, value."""
    figure, axes = one_panel(2.6, 3.8)
    degree = int(bernstein_basis["function"].max())
    for (index, rows), colour in zip(
        bernstein_basis.groupby("function"), CYCLE * (degree + 1), strict=False
    ):
        axes.plot(rows["u"], rows["value"], color=colour)
        if degree <= 8:
            number, (u, top) = (
                int(str(index).split(".")[0]),
                rows[["u", "value"]].to_numpy()[rows["value"].argmax()],
            )
            name = f"$B_{{{number}}}^{{{degree}}}$"
            label = axes.annotate(
                name, (u, top), (0, 2), textcoords="offset points", va="bottom", color=colour
            )
            label.set(ha="left" if number == 0 else "right" if number == degree else "center")
    axes.set(xlabel="$u$", ylabel="value", xlim=(-0.02, 1.02), ylim=(0, 1.14))
    return figure


@styled
def bspline_basis(bspline_basis: DataFrame, bspline_knots: DataFrame) -> Figure:
    """All basis functions (function, t, value) of a knot vector, each knot below as often as its multiplicity."""
    figure, axes = one_panel(2.3, 5.6)
    knots = bspline_knots
    for (_, rows), colour in zip(
        bspline_basis.groupby("function"), CYCLE * len(bspline_basis), strict=False
    ):
        axes.plot(rows["t"], rows["value"].where(_widened(rows["value"] != 0)), color=colour)
    for knot, multiplicity in zip(knots["knot"], knots["multiplicity"].astype(int), strict=True):
        axes.plot(
            [knot] * multiplicity, -0.05 - 0.06 * np.arange(multiplicity), "^", color=BLACK, ms=3.2
        )
    axes.set_xticks(knots["knot"], [f"{knot:.3g}" for knot in knots["knot"]])
    axes.set(
        xlabel="knots $t_i$",
        ylabel="value",
        ylim=(-0.08 - 0.06 * knots["multiplicity"].max(), 1.05),
    )
    axes.set_yticks([0, 0.5, 1])
    return figure


@styled
def continuity(multiple_knots: DataFrame, continuity: DataFrame) -> Figure:
    """Splines of one degree with a knot of multiplicity 1 ... k, and how much derivatives jump there.

    `multiple_knots` has the columns curve (multiplicity less 1), t, value; `continuity` degree, multiplicity,
    derivative, relative.
    """
    degree = int(multiple_knots["curve"].max()) + 1
    figure = new_figure(2.7)
    left, right = figure.subplots(1, 2)
    for (curve, rows), colour in zip(multiple_knots.groupby("curve"), CYCLE * degree, strict=False):
        multiplicity = int(str(curve).split(".")[0]) + 1
        found = continuity[
            (continuity["degree"] == degree) & (continuity["multiplicity"] == multiplicity)
        ]
        left.plot(rows["t"], rows["value"], color=colour)
        at = found["derivative"] + 0.12 * (multiplicity - (degree + 1) / 2)
        label = f"$m = {multiplicity}$: $C^{{{degree - multiplicity}}}$"
        right.semilogy(
            at, found["relative"].clip(lower=SMALLEST_JUMP), "o", color=colour, label=label, ms=4.5
        )
    left.axvline(0.5, color=GREY, lw=0.8, zorder=0)
    left.set(
        xlabel="$t$",
        ylabel=f"splines of degree {degree}",
        title="a knot of multiplicity $m$ at 0.5",
    )
    right.axhspan(SMALLEST_JUMP / 20, np.finfo(float).eps, color=PALE, zorder=0, label="rounding")
    right.set(
        xlabel="derivative",
        ylabel="jump / size of the derivative",
        title="how far derivatives jump there",
    )
    right.set(ylim=(SMALLEST_JUMP / 20, 100), xticks=range(degree + 1))
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def de_casteljau(bezier_curve: DataFrame, de_casteljau: DataFrame) -> Figure:
    """A Bézier curve (x, y) and the points of de Casteljau's construction at one parameter (level, x, y).

    Level 0 is the control points, the last the curve's point.
    """
    figure, axes = _plane(4.6, de_casteljau["x"], de_casteljau["y"], beside=1.3)
    axes.plot(
        bezier_curve["x"], bezier_curve["y"], color=BLACK, lw=2, zorder=3, label="Bézier curve"
    )
    *levels, last = (rows for _, rows in de_casteljau.groupby("level"))
    for number, rows in enumerate(levels):
        if number == 0:
            _polygon(axes, rows["x"], rows["y"], "P")
        else:
            colour = mpl.colormaps[SEQUENTIAL](0.85 * (number - 1) / max(len(levels) - 2, 1))
            axes.plot(rows["x"], rows["y"], "o-", color=colour, lw=1.1, label=f"level {number}")
    axes.plot(
        last["x"], last["y"], "o", color=VERMILLION, ms=6, zorder=5, label="point of the curve"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def bspline_pieces(
    bspline_control: DataFrame,
    bspline_knots: DataFrame,
    bezier_pieces: DataFrame,
    bezier_control: DataFrame,
) -> Figure:
    """A B-spline curve in its Bézier pieces, with both control polygons and the knots on the curve.

    All have the columns x, y; points of the curve and control points of its pieces also piece.
    """
    figure, axes = _plane(6.0, bspline_control["x"], bspline_control["y"], above=0.25)
    count = bezier_pieces["piece"].nunique()
    thin: dict[str, Any] = {"lw": 0.7, "ms": 2.6, "alpha": 0.75}
    for table, style, look in (
        (bezier_control, "s-", thin),
        (bezier_pieces, "-", {"lw": 2.2, "zorder": 3}),
    ):
        for (_, rows), colour in zip(table.groupby("piece"), CYCLE * count, strict=False):
            axes.plot(rows["x"], rows["y"], style, color=colour, **look)
    _polygon(axes, bspline_control["x"], bspline_control["y"], "P")
    handles = [
        *axes.get_lines()[-1:],
        Line2D([], [], color=CYCLE[0], lw=2.2, label=f"curve in {count} pieces"),
        Line2D([], [], color=CYCLE[0], marker="s", label="their Bézier polygons", **thin),
        _knots(axes, bspline_knots),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


@styled
def local_control(
    local_control: DataFrame, bspline_control: DataFrame, bspline_knots: DataFrame
) -> Figure:
    """A B-spline curve before and after one control point moved; what stayed to the bit is black.

    Curve and control points have the columns x, y, moved_x, moved_y; knots x, y.
    """
    curves, control = local_control, bspline_control
    x, y = (pd.concat([control[name], control[f"moved_{name}"]]) for name in ("x", "y"))
    figure, axes = _plane(6.0, x, y, above=0.25)
    changed, moved = (
        (table["x"] != table["moved_x"]) | (table["y"] != table["moved_y"])
        for table in (curves, control)
    )
    near, stayed, legs = (
        curves.where(_widened(changed)),
        curves.where(~changed),
        control.where(_widened(moved)),
    )
    _polygon(axes, control["x"], control["y"])
    axes.plot(stayed["x"], stayed["y"], color=BLACK, lw=2, label="unchanged")
    axes.plot(near["x"], near["y"], color=BLUE, label="before")
    axes.plot(near["moved_x"], near["moved_y"], color=VERMILLION, label="after")
    axes.plot(legs["moved_x"], legs["moved_y"], "--", color=VERMILLION, lw=0.8, zorder=1)
    _knots(axes, bspline_knots)
    arrow = {"arrowstyle": "->", "color": VERMILLION, "shrinkA": 4, "shrinkB": 4}
    for start, end in (
        control.loc[moved, ["x", "y", "moved_x", "moved_y"]].to_numpy().reshape(-1, 2, 2)
    ):
        axes.plot(*end, "o", color=VERMILLION, ms=5, zorder=4)
        axes.annotate("", end, start, arrowprops=arrow)
    return finished(figure, [axes], where="outside upper center", ncols=5)


@styled
def planar(planar_curves: DataFrame, planar_points: DataFrame, planar_control: DataFrame) -> Figure:
    """A curve through planar points, and one near them with its fewer control points.

    Curves have the columns x, y, near_x, near_y; points and control points x, y.
    """
    curves, points, control = planar_curves, planar_points, planar_control
    x, y = (pd.concat([points[name], control[name], curves[name]]) for name in ("x", "y"))
    figure = new_figure(1.1 + (WIDTH - 1.0) / 2 * _aspect(x, y))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.plot(curves["x"], curves["y"], color=BLUE, label="spline through the points")
    left.set_title(f"through {len(points)} points")
    _polygon(right, control["x"], control["y"])
    right.plot(curves["near_x"], curves["near_y"], color=GREEN, label="spline near them")
    right.set_title(f"near them, {len(control)} control points")
    few = len(points) <= 600
    look = (
        {"color": BLACK, "zorder": 4, "ms": 3.2 if len(points) <= 60 else 2}
        if few
        else {"color": PALE, "zorder": 0}
    )
    shown = thinned(points)
    for axes in (left, right):
        _equal(axes, x, y)
        axes.plot(shown["x"], shown["y"], "o", label="given points", **look)
    right.set_ylabel("")
    return finished(figure, [left, right], ncols=4)


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
        label = axes.annotate(
            f"${name}_{{{index}}}$", at, (right, up), textcoords="offset points", zorder=6
        )
        label.set(
            ha="center", va="center", path_effects=[withStroke(linewidth=2, foreground="white")]
        )


def _knots(axes: Axes, knots: DataFrame) -> Line2D:
    return axes.plot(
        knots["x"], knots["y"], "o", color="white", mec=BLACK, ms=4, zorder=4, label="knots"
    )[0]


def _widened(marked: Series[bool]) -> Series[bool]:
    """The marked rows and those next to them."""
    return marked | marked.shift(fill_value=False) | marked.shift(-1, fill_value=False)


def _plane(
    width: float, x: Series[float], y: Series[float], above: float = 0, beside: float = 0
) -> tuple[Figure, Axes]:
    """A figure with equal scales, as high as the extent of x and y asks for; `above` and `beside` are for legends."""
    figure, axes = one_panel(0.5 + above + (width - 0.6 - beside) * _aspect(x, y), width)
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
    """Every figure whose tables are there, with its name."""
    for draw in FIGURES:
        needed = inspect.signature(draw).parameters
        if all(table in tables for table in needed):
            yield draw.__name__, partial(draw, **{table: tables[table] for table in needed})
