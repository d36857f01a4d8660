"""Building blocks of figures: panels side by side, medians over seeds, maps, ticks, legends."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.tri import Triangulation
from numpy.typing import NDArray
from pandas import DataFrame, Series

from kanrun.figures.style import (
    BAND,
    BLACK,
    BLUE,
    CYCLE,
    DASHED,
    DIVERGING,
    GREY,
    MARKERS,
    SEED,
    Look,
    error_limit,
    number,
    set_remark,
    shorten,
)

Values = NDArray[np.float64]
Numbers = Sequence[float] | NDArray[np.float64] | Series
#: For each panel, its axes, the name of its group of rows, and these rows.
Panels = list[tuple[Axes, Any, DataFrame]]
#: Remark that explains the lines and bands of `medians`.
BANDS = "lines: medians; bands: range over seeds"
DOTS = "dots: seeds; lines: medians"
#: Width of a figure with several columns of panels (inches).
WIDTH = 6.5
#: Height of a panel (inches).
HEIGHT = 2.6
#: Height of one row in a panel with named rows (inches).
ROW = 0.32
#: Largest number of entries of a heat map for which each shows its number.
MAX_NUMBERED = 144
#: Names below an axis are written side by side if they have at most this many characters in total,
#: plus two per name. Longer names are rotated.
MAX_LETTERS = 34
TURNED: Look = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
MEDIAN: Look = {"color": BLACK, "ms": 11, "mew": 1.6, "label": "median"}
#: Smallest width of the other curves (points).
THIN = 1.0


def grid_of_panels(
    rows: int,
    columns: int,
    height: float = HEIGHT,
    width: float | None = None,
    room: float = 0.4,
    **options: Any,
) -> tuple[Figure, Any]:
    """Return a figure and its axes, shape (rows, columns).

    `height` and `width` are those of one panel, and `room` is additional height for legends and
    titles, all in inches. `options` are those of `Figure.subplots`.
    """
    single_width = 5.4  # width of a figure with a single panel (inches)
    width = width or (single_width if columns == 1 else WIDTH / columns)
    figure = Figure(figsize=(columns * width, height * rows + room), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def small_multiples(
    count: int,
    max_columns: int = 1,
    height: float = HEIGHT,
    width: float | None = None,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and `count` axes in rows of at most `max_columns`; see `grid_of_panels`."""
    columns = max(1, min(max_columns, count))
    figure, grid = grid_of_panels(max(1, -(-count // columns)), columns, height, width, **options)
    axes = list(grid.flat)
    for panel in axes[count:]:
        panel.remove()
    return figure, axes[:count]


def panels_by(
    table: DataFrame, by: str, max_columns: int = 3, height: float = HEIGHT, **options: Any
) -> tuple[Figure, Panels]:
    """Return a figure with one panel for each value of the column `by`, which is its title.

    Most figures of studies have a panel for each target, task or learner, in which `medians` or
    `series` draw lines by group, and `log_log` makes both axes logarithmic. Also return, for each
    panel in the order of the table, its axes, the value of `by` and the rows. `options` are those
    of `small_multiples`.
    """
    groups: Any = list(table.groupby(by, sort=False))
    figure, axes = small_multiples(len(groups), max_columns, height, **options)
    panels = [(panel, *group) for panel, group in zip(axes, groups, strict=True)]
    for panel, name, _ in panels:
        panel.set_title(two_lines(str(name)))
    return figure, panels


def one_panel(height: float = HEIGHT, **options: Any) -> tuple[Figure, Axes]:
    """Return a figure with a single panel; see `grid_of_panels`."""
    figure, (panel,) = small_multiples(1, height=height, **options)
    return figure, panel


def panel_of_rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a figure with a single panel that has one horizontal row for each of `names`."""
    around_rows = 0.6  # additional height of a panel with named rows (inches)
    figure, panel = one_panel(ROW * len(names) + around_rows)
    name_rows(panel, names)
    return figure, panel


def medians(
    panel: Axes,
    rows: DataFrame,
    columns: tuple[str, str],
    style: str = "o-",
    *,
    spread: str = "band",
    floor: float | None = None,
    **look: Any,
) -> None:
    """Draw the median over seeds of column y against column x, where `columns` = (x, y).

    `spread` shows the values of the seeds: as a "band" from the smallest to the largest, as "dots",
    or not at all ("none").
    Values below `floor` are drawn at `floor`, because a logarithmic axis cannot show zero.
    """
    x, y = columns
    values = rows[y].clip(lower=floor)
    groups = values.groupby(rows[x])
    middle = groups.median()
    if spread == "dots":
        panel.plot(rows[x], values, ".", color=look["color"], **SEED)
    panel.plot(middle.index, middle, style, **look)
    if spread == "band" and groups.size().max() > 1:
        panel.fill_between(middle.index, groups.min(), groups.max(), color=look["color"], **BAND)


def series(panel: Axes, table: DataFrame, columns: tuple[str, str], by: str, **look: Any) -> None:
    """Draw the `medians` of each group of the column `by` in a different colour and marker.

    Each curve is thinner and has smaller markers than the one before, so that curves on top of each
    other can be seen.
    """
    thickest = 2.0  # width of the first of several curves (points)
    smallest = 2  # smallest size of the markers of the other curves (points)
    largest = 6  # size of the markers of the first of several curves (points)
    for index, (name, rows) in enumerate(table.groupby(by, sort=False)):
        look |= {"color": CYCLE[index % len(CYCLE)], "label": shorten(name)}
        look |= {"ms": max(largest - index, smallest), "lw": max(thickest - index / 2, THIN)}
        medians(panel, rows, columns, MARKERS[index % len(MARKERS)] + "-", **look)


def power_law(
    panel: Axes, x: Series[float], y: Series[float], exponent: float, **look: Any
) -> None:
    """Draw c x^exponent over the range of `x`, through the geometric mean of the points."""
    ends = np.array([x.min(), x.max()], dtype=float)
    level = np.exp(np.mean(np.log(y.astype(float)) - exponent * np.log(x.astype(float))))
    panel.plot(ends, level * ends**exponent, **{"lw": 0.9, **look})


def seeds_across(panel: Axes, values: Series[Any], place: float) -> None:
    """Draw the values of all seeds on the row `place` of a panel, and their median as a bar."""
    panel.plot(values, [place] * len(values), "o", color=BLUE, label="a seed", **SEED)
    panel.plot(values.median(), place, "|", **MEDIAN)


def name_rows(panel: Axes, names: Sequence[str]) -> None:
    """Label the rows y = 0, 1, ... of a panel, with the first at the top."""
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)


def name_places(axis: Axis, names: Sequence[object], letters: int = MAX_LETTERS) -> None:
    """Label the positions 0, 1, ... of an axis with `names`.

    Names below a panel are rotated if they have more than `letters` letters in total, counting two
    for each gap.
    """
    place_letters = 24  # largest number of characters of a text tick label
    shown = [shorten(name, place_letters) for name in names]
    turned = isinstance(axis, XAxis) and sum(len(name) + 2 for name in shown) > letters
    axis.set_ticks(range(len(shown)), shown, **(TURNED if turned else {}))


def heat_map(
    panel: Axes,
    values: Values,
    rows: Sequence[Any],
    columns: Sequence[Any],
    form: Callable[[float], str] | None = None,
    **look: Any,
) -> Any:
    """Draw a matrix in colours, with named rows and columns; return the image for a colour bar.

    If `form` is given and there are few entries, write each number as `form` converts it to text.
    """
    image: Any = panel.imshow(values, **{"aspect": "auto", **look})
    panel.grid(visible=False)
    name_places(panel.xaxis, columns)
    name_places(panel.yaxis, rows)
    if form is not None and values.size <= MAX_NUMBERED:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if image.norm(value) > 0.5 else BLACK
                look = {"ha": "center", "va": "center", "color": colour, "in_layout": False}
                panel.text(j, i, form(value), size="small", **look)
    return image


def value_limits(values: Numbers) -> tuple[float, float]:
    """Return the smallest and the largest finite value; if equal, that value minus and plus 1."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low - 1, high + 1)


def draw_map(
    panel: Axes,
    x: Numbers,
    y: Numbers,
    values: Numbers,
    limits: tuple[float, float],
    colours: str | None = None,
) -> Any:
    """Draw values at points (x, y), all of shape (samples,); return the artist for a colour bar.

    Points on a complete lattice are drawn as rectangles. Other points are joined by triangles, or
    drawn as dots if they lie on a line.
    """
    panel.grid(visible=False)
    look: Any = {"vmin": limits[0], "vmax": limits[1], "cmap": colours, "rasterized": True}
    points = DataFrame({"x": x, "y": y, "value": values}, dtype=float)
    points = points.replace([np.inf, -np.inf], np.nan).dropna()
    sides = points[["x", "y"]].nunique()
    if sides.min() > 1 and len(points.drop_duplicates(["x", "y"])) == len(points) == sides.prod():
        cells = points.pivot(index="y", columns="x", values="value")
        return panel.pcolormesh(cells.columns, cells.index, cells, shading="nearest", **look)
    try:
        joined = Triangulation(points["x"], points["y"])
        return panel.tripcolor(joined, points["value"], shading="gouraud", **look)
    except (ValueError, RuntimeError):
        return panel.scatter(points["x"], points["y"], c=points["value"], **look)


def map_with_bar(
    panel: Axes,
    x: Numbers,
    y: Numbers,
    values: Numbers,
    limits: tuple[float, float] | None = None,
    label: str = "",
) -> None:
    """Draw values as `draw_map` does, with a colour bar below whose label is `label`.

    Without `limits`, the values are errors. The colour scale is then centred at zero, and ignores a
    few large errors that would hide the others. The label gives the largest error.
    """
    bar: Any = {"location": "bottom", "pad": 0.04, "aspect": 20, "ticks": MaxNLocator(3)}
    if limits is None:
        sizes = np.abs(np.asarray(values, dtype=float))
        limit = error_limit(sizes)
        image = draw_map(panel, x, y, values, (-limit, limit), DIVERGING)
        label = f"largest {number(np.nanmax(sizes, initial=0.0))}"
    else:
        image = draw_map(panel, x, y, values, limits)
    panel.figure.colorbar(image, ax=panel, **bar).set_label(label, loc="left")


def numbered(rows: DataFrame) -> DataFrame:
    """Return the rows of one training run, with the number of the step, from 1, as their index."""
    return rows.set_axis(range(1, len(rows) + 1))


def mark_stages(panel: Axes, steps: DataFrame) -> None:
    """Draw a line at the first step of each later stage, and write numbers of intervals at the top.

    `steps` are rows as returned by `numbered`, with the columns stage and intervals. The number of
    a stage stands at its first step; it is left out if the next number is too near.
    """
    # Smallest spacing of the labels of two stages, as a fraction of the number of steps.
    stage_room = 0.09
    starts = steps.loc[steps["stage"].diff() != 0, "intervals"]
    last = np.inf
    for step in starts.index.tolist()[::-1]:
        if step > 1:
            panel.axvline(step, **DASHED)
        if last - step >= stage_room * len(steps):
            last = step
            place: Any = {"transform": panel.get_xaxis_transform(), "va": "top"}
            panel.text(step, 1, f" {starts[step]:g}", color=GREY, size="small", **place)


def log_log(panel: Axes, ticks: Iterable[float], **names: Any) -> None:
    """Make both axes logarithmic, with `ticks` on the horizontal one; `names` go to `Axes.set`."""
    panel.set(xscale="log", yscale="log", **names)
    ticks_at(panel.xaxis, ticks)


def ticks_at(axis: Axis, values: Iterable[float]) -> None:
    """Put the ticks of a logarithmic axis at `values`, except where labels would be too close."""
    # Smallest natural logarithm of the ratio of two labelled ticks on a logarithmic axis.
    tick_ratio = 0.3
    # Smallest spacing of labelled ticks on a logarithmic axis (fraction of the axis).
    tick_room = 1 / 9
    every = sorted({float(value) for value in values})
    room = max(np.log(every[-1] / every[0]) * tick_room, tick_ratio) if every else 0.0
    kept: list[float] = []
    for value in every:
        if not kept or np.log(value / kept[-1]) > room:
            kept.append(value)
    axis.set_ticks(kept, [f"{value:.4g}" for value in kept])
    axis.set_minor_locator(NullLocator())


def finish(
    figure: Figure,
    panels: Iterable[Axes],
    remark: str = "",
    where: str = "outside lower center",
    **legend: Any,
) -> Figure:
    """Add a remark, and one legend for all of `panels`, to a figure; return the figure.

    The remark is above the panels. The legend has each label once; `where` is its location.
    """
    set_remark(figure, remark)
    handles = dict[str, Any]()
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    if handles:
        look: Any = {"loc": where, **legend}
        figure.legend(list(handles.values()), list(handles), **look)
    return figure


def two_lines(name: str, max_letters: int = 30) -> str:
    """Return `name` on at most two lines.

    A long name loses its middle, because names often differ at the end.
    """
    lines = textwrap.wrap(name, max_letters)
    shown = lines if len(lines) <= 2 else [f"{lines[0]} …", lines[-1]]
    return "\n".join(shorten(line, max_letters + 2) for line in shown)


def shape_name(text: str) -> str:
    """Convert a recorded shape such as 2-5-1 to [2, 5, 1]."""
    return f"[{str(text).replace('-', ', ')}]"
