"""Panels that several figures share: small multiples, medians with bands, seeds as dots, power laws, ticks, legends."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas
from matplotlib.ticker import NullLocator

from kanrun.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    WIDTH,
    grid_of_axes,
    letters,
    new_figure,
    say_above,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Panels = tuple["Figure", list["Axes"]]
Numbers = Sequence[float] | pandas.Series
#: What the bands of `medians` are, for a remark above the figure.
BANDS = "lines: medians; bands: from the least to the largest of all seeds"
#: What the dots of `medians` are.
DOTS = "dots: seeds; lines: medians"


def small_multiples(
    count: int, columns: int, height: float, room: float = 0.4, width: float = WIDTH
) -> Panels:
    """Return a figure and `count` axes in rows of at most `columns`, each row `height` inches high.

    `room` are further inches for legends and titles; `width` is that of the figure in inches.
    """
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure = new_figure(height * rows + room, width)
    axes = [panel for row in grid_of_axes(figure, rows, columns) for panel in row]
    for panel in axes[count:]:
        panel.remove()
    return figure, axes[:count]


def medians(
    panel: Axes,
    rows: pandas.DataFrame,
    columns: tuple[str, str],
    style: str = "o-",
    *,
    spread: Literal["band", "dots", "none"] = "band",
    floor: float | None = None,
    **look: Any,
) -> None:
    """Draw the median over seeds of one column against another, `columns` = (x, y), as a line of `style` and `look`.

    `spread` shows the seeds: as a band from the least to the largest value, or as dots. Values below `floor` are drawn
    there: zero has no place on a logarithmic axis.
    """
    x, y = columns
    values = rows[y] if floor is None else rows[y].clip(lower=floor)
    by = values.groupby(rows[x])
    middle = by.median()
    if spread == "dots":
        panel.plot(rows[x], values, "o", color=look["color"], ms=2.5, alpha=0.5)
    panel.plot(middle.index, middle, style, **look)
    if spread == "band" and by.size().max() > 1:
        panel.fill_between(middle.index, by.min(), by.max(), color=look["color"], alpha=0.16, lw=0)


def series(
    panel: Axes,
    table: pandas.DataFrame,
    columns: tuple[str, str],
    by: str,
    style: str = "o-",
    **look: Any,
) -> None:
    """Draw `medians` of each group of the column `by`, in the colours of the cycle and under its name.

    A `label` is a format of the group's name, such as "{}: median".
    """
    label = look.pop("label", "{}")
    for number, (name, rows) in enumerate(table.groupby(by, sort=False)):
        own: Any = {
            "color": CYCLE[number % len(CYCLE)],
            "label": label.format(letters(str(name), 30)),
        }
        medians(panel, rows, columns, style, **{**look, **own})


def log_log(panel: Axes, ticks: Iterable[float], **names: Any) -> None:
    """Make both axes logarithmic, with ticks of the lower one at those of the values; `names` are as for `Axes.set`."""
    panel.set(xscale="log", yscale="log", **names)
    ticks_at(panel.xaxis, ticks)


def power_law(panel: Axes, x: Numbers, y: Numbers, power: float, **look: Any) -> None:
    """Draw c x^power over the range of `x`, through the geometric mean of the points: a line on log-log axes."""
    at, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    level = np.exp(np.mean(np.log(values) - power * np.log(at)))
    ends = np.array([at.min(), at.max()])
    panel.plot(ends, level * ends**power, **look)


def seeds_across(panel: Axes, values: pandas.Series[Any], place: float) -> None:
    """Draw the value of each seed on one row of a panel, and their median as a bar."""
    panel.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.5, label="a seed")
    panel.plot(values.median(), place, "|", color=BLACK, ms=11, mew=1.6, label="median")


def named_rows(panel: Axes, names: Sequence[str]) -> None:
    """Name the rows of a panel from the top, the first at the height 0."""
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)


def legend_of_all(
    figure: Figure, panels: Iterable[Axes], where: Any = "outside lower center", **options: Any
) -> None:
    """Write one legend for all panels, in which what several of them draw stands once."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    if handles:
        figure.legend(list(handles.values()), list(handles), loc=where, **options)


def finished(figure: Figure, panels: Iterable[Axes], remark: str = "", **legend: Any) -> Figure:
    """Return the figure with a remark above and one legend of the panels, see `legend_of_all`."""
    say_above(figure, remark)
    legend_of_all(figure, panels, **legend)
    return figure


def ticks_at(axis: Axis, values: Iterable[float]) -> None:
    """Put the ticks of a logarithmic axis at those of `values` that there is room to name, as plain numbers."""
    every = sorted({float(value) for value in values})
    room = max(np.log(every[-1] / every[0]) / 9, 0.3) if every else 0.0
    kept: list[float] = []
    for value in every:
        if not kept or np.log(value / kept[-1]) > room:
            kept.append(value)
    axis.set_ticks(kept, [f"{value:.4g}" for value in kept])
    axis.set_minor_locator(NullLocator())


def two_lines(name: str, most: int) -> str:
    """Return `name` on two lines where one of `most` characters is too short, with its end, which tells names apart."""
    lines = textwrap.wrap(name, most)
    shown = lines if len(lines) < 3 else [f"{lines[0]} …", lines[-1]]
    return "\n".join(letters(line, most + 2) for line in shown)


def shape_name(text: str) -> str:
    """Return the recorded shape 2-5-1 as [2, 5, 1]."""
    return f"[{str(text).replace('-', ', ')}]"
