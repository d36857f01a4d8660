"""Many small panels as boxes of one axes.

An axes of matplotlib with its ticks takes longer than the curves in it: 40 axes take 4 CPU s. Here
one axes without ticks covers the figure, measured in inches, and each panel is a rectangle of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, num2date
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from kanrun.figures.panels import SINGLE_WIDTH, WIDTH
from kanrun.figures.style import (
    AXIS,
    BLACK,
    FEW_TICKS,
    GRID,
    set_remark,
    write_powers,
)

Array = NDArray[np.float64]
#: Values of ticks and their texts.
Ticks = list[tuple[float, str]]
#: Length of a tick; distances of its text and of a title from the panel, and of a remark from the
#: edge; distances of the names of both axes from the panel (inches).
TICK, TICK_TEXT, TITLE, REMARK, NAMES = 0.05, 0.08, 0.05, 0.05, (0.36, 0.4)
#: Height of a remark above all panels.
HEAD = 0.22
#: Ticks may lie beyond the limits, or off zero, by this fraction of their range.
ROUNDING = 1e-9
#: Sizes of the texts of ticks and of titles (points).
SMALL, LARGE = 7.5, 9.0


@dataclass(frozen=True, eq=False)
class Box:
    """A panel, into which data are drawn.

    Attributes:
        axes: The axes of the whole figure, in inches.
        corner: Left and lower end of the panel; `size` is its width and height.
        limits: Lower and upper end of the data, shape (2, 2), across and up.
    """

    axes: Axes
    corner: Array
    size: Array
    limits: Array

    def showing(self, *limits: tuple[float, float]) -> Box:
        """Return the panel with these limits across and up; empty ranges are widened."""
        ends = [(low, high) if high > low else (low - 1, low + 1) for low, high in limits]
        return replace(self, limits=np.array(ends))

    def at(self, x: ArrayLike, y: ArrayLike) -> tuple[Any, Any]:
        """Return where data lie, in inches; the panel ends at its limits."""
        low, high = self.limits.T
        data = np.stack(np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float)), -1)
        across, up = (self.corner + self.size * np.clip((data - low) / (high - low), 0, 1)).T
        return across, up

    def title(self, text: str, size: float = LARGE) -> None:
        """Write the title above the panel."""
        x, y = self.corner + self.size * (0.5, 1)
        self.axes.text(x, y + TITLE, text, ha="center", va="bottom", size=size)

    def names(self, below: str, beside: str) -> None:
        """Name the axes, below the numbers and on their left."""
        (left, bottom), (x, y) = self.corner, self.corner + self.size / 2
        look: Any = {"ha": "center", "va": "center", "color": BLACK}
        self.axes.text(x, bottom - NAMES[0], below, **look)
        self.axes.text(left - NAMES[1], y, beside, rotation=90, **look)

    def ticks(self, x: Ticks, y: Ticks, *, grid: bool = True) -> None:
        """Draw both axes with ticks and their texts, and lines across the panel."""
        (left, bottom), (right, top) = self.corner, self.corner + self.size
        lines, pale = [[(left, top), (left, bottom), (right, bottom)]], []
        for value, text in x:
            at = float(self.at(value, 0)[0])
            pale.append([(at, bottom), (at, top)])
            lines.append([(at, bottom), (at, bottom - TICK)])
            self.axes.text(at, bottom - TICK_TEXT, text, ha="center", va="top", size=SMALL)
        for value, text in y:
            at = float(self.at(0, value)[1])
            pale.append([(left, at), (right, at)])
            lines.append([(left, at), (left - TICK, at)])
            self.axes.text(left - TICK_TEXT, at, text, ha="right", va="center", size=SMALL)
        if grid:
            self.axes.add_collection(LineCollection(pale, colors=GRID, lw=0.6, zorder=0.5))
        self.axes.add_collection(LineCollection(lines, colors=AXIS, lw=0.7, zorder=2.5))


def boxes(
    count: int,
    max_columns: int,
    size: tuple[float | None, float],
    free: tuple[float, float, float, float],
    gaps: tuple[float, float],
    remark: str = "",
) -> tuple[Figure, list[Box]]:
    """Return a figure and its panels, in rows of at most `max_columns`.

    Args:
        count: Number of panels.
        max_columns: Panels in a row; fewer are wider.
        size: Width and height of a panel (inches); None: as wide as fits a page.
        free: Room left of all panels, below, right and above them.
        gaps: Room between two panels across and up.
        remark: Text above all panels, which gets room of its own.
    """
    columns = max(1, min(max_columns, count))
    rows = max(1, -(-count // columns))
    left, bottom, right, top = free
    top += HEAD * bool(remark)
    around, (width, height) = left + right + gaps[0] * (columns - 1), size
    width = width or ((SINGLE_WIDTH if columns == 1 else WIDTH) - around) / columns
    whole, tall = around + width * columns, bottom + top + height * rows + gaps[1] * (rows - 1)
    figure = Figure(figsize=(whole, tall))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, whole), ylim=(0, tall))
    axes.set_axis_off()
    set_remark(figure, remark, y=1 - REMARK / tall)
    first, panel = np.array([left, tall - top - height]), np.array([width, height])
    step = np.array([width + gaps[0], -height - gaps[1]])
    places = (first + step * (place % columns, place // columns) for place in range(count))
    return figure, [Box(axes, place, panel, np.array([(0, 1), (0, 1)])) for place in places]


def few_ticks(limits: tuple[float, float], values: ArrayLike = ()) -> Ticks:
    """Return ticks between `limits` with their texts; of few different values, these values."""
    different = np.unique(values).tolist()
    if not 0 < len(different) <= FEW_TICKS["nbins"]:
        room = ROUNDING * (limits[1] - limits[0])
        found = MaxNLocator(**FEW_TICKS).tick_values(limits[0], limits[1])
        inside = (each for each in found if limits[0] - room <= each <= limits[1] + room)
        different = [0.0 if abs(each) <= room else float(each) for each in inside]
    return [(value, plain_number(value)) for value in different]


def plain_number(value: float) -> str:
    """Return a number as the text of a tick."""
    return write_powers(f"{value:.6g}").replace("-", "\N{MINUS SIGN}")


def date_ticks(limits: tuple[float, float]) -> Ticks:
    """Return ticks for days since 1970-01-01 with their texts."""
    locator = AutoDateLocator(minticks=2, maxticks=4)  # type: ignore[no-untyped-call]
    found = locator.tick_values(*map(num2date, limits))  # type: ignore[no-untyped-call]
    inside = [value for value in found if limits[0] <= value <= limits[1]]
    form = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    return [*zip(inside, form.format_ticks(inside), strict=True)]  # type: ignore[no-untyped-call]
