"""The figures of `kanrun curves`, each from the tables that its run recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from kanrun.figures.panels import legend_of_all, ticks_at
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame, Series

SMALLEST_JUMP = 1e-17  # jumps below this, zero among them, are drawn here
LARGEST_ERROR = 1e100  # errors above this are drawn here: ticks beyond larger ones are no numbers
MOST_LABELS = 20  # longer control polygons get no labels


@styled
def interpolation(curves: DataFrame) -> Figure:
    """Return polynomial and spline through few, more and many equispaced points, the errors of both below.

    `curves` has the columns points, x, truth, polynomial, spline; of more than three numbers of points the first,
    middle and last are drawn.
    """
    counts = sorted(curves["points"].dropna().unique())
    counts = [counts[i] for i in sorted({0, len(counts) // 2, len(counts) - 1})]
    figure = new_figure(3.9, 2.05 * len(counts) + 0.4)
    axes = figure.subplots(2, len(counts), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2])
    low, high = curves["truth"].min(), curves["truth"].max()
    smallest = 1e-8 * (high - low or 1.0)
    for column, count in enumerate(counts):
        rows, (upper, lower) = curves[curves["points"] == count], axes[:, column]
        for name, colour in (("polynomial", VERMILLION), ("spline", BLUE)):
            upper.plot(rows["x"], rows[name], color=colour, label=name)
            error = (rows[name] - rows["truth"]).abs().clip(smallest, max(LARGEST_ERROR, smallest))
            lower.semilogy(rows["x"], error, color=colour, lw=1)
        upper.plot(rows["x"], rows["truth"], color=BLACK, ls=(0, (2, 2)), lw=0.9, label="function")
        nodes = np.linspace(rows["x"].iloc[0], rows["x"].iloc[-1], int(count))
        upper.plot(nodes, np.interp(nodes, rows["x"], rows["truth"]), "o", color=BLACK, ms=2.2, zorder=3)
        upper.set_title(f"$N = {count:g}$")
        lower.set_xlabel("$x$")
    margin = 0.6 * (high - low or 1.0)
    axes[0, 0].set(ylabel="$f(x)$", ylim=(low - margin, high + margin))
    axes[1, 0].set(ylabel="absolute error")
    axes[1, 0].set_ylim(bottom=smallest)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def errors(summary: DataFrame, splines: DataFrame, orders: DataFrame) -> Figure:
    """Return the largest error against the number of points, with the order fitted to each spline in the legend.

    `summary` and `splines` have the columns curve, degree, points, max_error; `orders` degree, order,
    last_points (nothing where none was fitted). Dotted lines fall as the theory says, to the last point of each fit.
    """
    summary, splines = (
        rows.assign(max_error=rows["max_error"].clip(upper=LARGEST_ERROR)) for rows in (summary, splines)
    )
    figure, axes = one_panel(3.6, 5.4)
    for curve, marker, colour in (("polynomial", "s", BLACK), ("polynomial, Chebyshev points", "D", GREY)):
        rows = summary[summary["curve"] == curve].sort_values("points")
        label = curve.replace(", ", ",\n")
        axes.loglog(rows["points"], rows["max_error"], "--", marker=marker, color=colour, label=label)
    for row, colour in zip(orders.to_dict("records"), CYCLE * len(orders), strict=False):
        degree, order = int(row["degree"]), row["order"]
        rows = splines[(splines["degree"] == degree) & (splines["max_error"] > 0)].sort_values("points")
        if rows.empty:
            continue
        fitted = f": order {order:.1f}" if order == order else ""  # noqa: PLR0124  (a missing order is not itself)
        axes.loglog(rows["points"], rows["max_error"], "o-", color=colour, label=f"spline, $k = {degree}${fitted}")
        last = row["last_points"]
        ahead = rows[(rows["points"] <= last) & (rows["points"] >= last / 5)]
        theory = ahead["max_error"].tail(1).sum() * (last / ahead["points"]) ** (degree + 1)
        axes.loglog(ahead["points"], theory, ":", color=colour, lw=1)
    axes.plot([], [], ":", color=GREY, label="$N^{-(k+1)}$")
    axes.set(xlabel="number of points $N$", ylabel="largest error")
    ticks_at(axes.xaxis, {*summary["points"], *splines["points"]})
    figure.legend(loc="outside right center")
    return figure


@styled
def lecture_points(points: DataFrame, through: DataFrame, drawn: DataFrame) -> Figure:
    """Return four points: polynomial and quadratic spline through them; curves with them as control points.

    `points` has the columns x, y; `through` x, polynomial, spline; `drawn` bezier_x, bezier_y, bspline_x, bspline_y.
    """
    figure = new_figure(2.9)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.plot(through["x"], through["polynomial"], color=VERMILLION, label="polynomial of degree 3")
    left.plot(through["x"], through["spline"], color=BLUE, label="spline of degree 2")
    left.set(title="through the points", ylabel="$y$")
    right.plot(points["x"], points["y"], "--", color=GREY, lw=0.8)
    right.plot(drawn["bezier_x"], drawn["bezier_y"], color=GREEN, label="Bézier curve of degree 3")
    right.plot(drawn["bspline_x"], drawn["bspline_y"], color=BLUE, label="B-spline of degree 2")
    right.set(title="as control points")
    for axes in (left, right):
        axes.plot(points["x"], points["y"], "o", color=BLACK, ms=4, zorder=4)
        axes.set_xlabel("$x$")
        axes.legend(loc="upper left")
    top, bottom = through["polynomial"].max(), points["y"].min()
    left.set_ylim(top=top + 0.35 * (top - bottom))
    return figure


@styled
def bernstein_basis(basis: DataFrame) -> Figure:
    """Return the Bernstein polynomials of one degree, from the columns function, u, value."""
    figure, axes = one_panel(2.6, 3.8)
    degree = int(basis["function"].max())
    for index in range(degree + 1):
        rows, colour = basis[basis["function"] == index], CYCLE[index % len(CYCLE)]
        axes.plot(rows["u"], rows["value"], color=colour)
        if degree <= 8:
            top = rows["value"].max()
            at = (float(rows["u"][rows["value"] == top].iloc[0]), float(top))
            label = axes.annotate(f"$B_{{{index}}}^{{{degree}}}$", at, (0, 2), textcoords="offset points", va="bottom")
            label.set(color=colour, ha="left" if index == 0 else "right" if index == degree else "center")
    axes.set(xlabel="$u$", ylabel="value", xlim=(-0.02, 1.02), ylim=(0, 1.14))
    return figure


@styled
def bspline_basis(basis: DataFrame, knots: DataFrame) -> Figure:
    """Return all basis functions of a knot vector, each knot below as many times as it counts.

    `basis` has the columns function, t, value; `knots` knot, multiplicity.
    """
    figure, axes = one_panel(2.3, 5.6)
    for index in range(int(basis["function"].max()) + 1):
        rows = basis[basis["function"] == index]
        there = rows["value"] != 0
        shown = there | there.shift(fill_value=False) | there.shift(-1, fill_value=False)  # with zeros next to it
        axes.plot(rows["t"], rows["value"].where(shown), color=CYCLE[index % len(CYCLE)])
    for row in knots.to_dict("records"):
        copies = np.arange(int(row["multiplicity"]))
        axes.plot(np.full(len(copies), row["knot"]), -0.05 - 0.06 * copies, "^", color=BLACK, ms=3.2)
    axes.set_xticks(knots["knot"], [f"{knot:.3g}" for knot in knots["knot"]])
    axes.set(xlabel="knots $t_i$", ylabel="value", ylim=(-0.08 - 0.06 * knots["multiplicity"].max(), 1.05))
    axes.set_yticks([0, 0.5, 1])
    return figure


@styled
def continuity(curves: DataFrame, jumps: DataFrame) -> Figure:
    """Return splines of one degree with a knot of multiplicity 1 ... k, and how much derivatives jump there.

    `curves` has the columns curve (multiplicity less 1), t, value; `jumps` degree, multiplicity, derivative, relative.
    """
    degree = int(curves["curve"].max()) + 1
    figure = new_figure(2.7)
    left, right = figure.subplots(1, 2)
    for multiplicity in range(1, degree + 1):
        rows, colour = curves[curves["curve"] == multiplicity - 1], CYCLE[(multiplicity - 1) % len(CYCLE)]
        found = jumps[(jumps["degree"] == degree) & (jumps["multiplicity"] == multiplicity)]
        left.plot(rows["t"], rows["value"], color=colour)
        at = found["derivative"] + 0.12 * (multiplicity - (degree + 1) / 2)
        label = f"$m = {multiplicity}$: $C^{{{degree - multiplicity}}}$"
        right.semilogy(at, found["relative"].clip(lower=SMALLEST_JUMP), "o", color=colour, label=label, ms=4.5)
    left.axvline(0.5, color=GREY, lw=0.8, zorder=0)
    left.set(xlabel="$t$", ylabel=f"splines of degree {degree}", title="a knot of multiplicity $m$ at 0.5")
    right.axhspan(SMALLEST_JUMP / 20, np.finfo(float).eps, color=PALE, zorder=0, label="rounding")
    right.set(xlabel="derivative", ylabel="jump / size of the derivative", title="how far derivatives jump there")
    right.set(ylim=(SMALLEST_JUMP / 20, 100))
    right.set_xticks(range(degree + 1))
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def de_casteljau(curve: DataFrame, levels: DataFrame) -> Figure:
    """Return a Bézier curve and the points of de Casteljau's construction at one parameter, level by level.

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
    """Return a B-spline curve in its Bézier pieces, with both control polygons and the knots on the curve.

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
    figure = new_figure(1.1 + (WIDTH - 1.0) / 2 * _aspect(x, y))
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
    legend_of_all(figure, [left, right], ncols=4)
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


#: Name of each figure, what draws it, and the tables it is drawn from.
FIGURES: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "interpolation": (interpolation, ("interpolation",)),
    "errors": (errors, ("summary", "errors", "orders")),
    "lecture_points": (lecture_points, ("lecture_points", "lecture_through", "lecture_drawn")),
    "bernstein_basis": (bernstein_basis, ("bernstein_basis",)),
    "de_casteljau": (de_casteljau, ("bezier_curve", "de_casteljau")),
    "bspline_basis": (bspline_basis, ("bspline_basis", "bspline_knots")),
    "bspline_pieces": (bspline_pieces, ("bspline_control", "bspline_knots", "bezier_pieces", "bezier_control")),
    "local_control": (local_control, ("local_control", "bspline_control", "bspline_knots")),
    "continuity": (continuity, ("multiple_knots", "continuity")),
    "planar": (planar, ("planar_curves", "planar_points", "planar_control")),
}


def figures_of(tables: Mapping[str, DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Every figure whose tables are there, with its name."""
    for name, (draw, needed) in FIGURES.items():
        if all(table in tables for table in needed):
            yield name, draw(*(tables[table] for table in needed))
