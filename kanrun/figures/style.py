"""One look for all figures: sizes in inches for a paper's page, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullLocator,
    ScalarFormatter,
)
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

# Okabe and Ito's palette (jfly.uni-koeln.de/color), without its yellow, which is too pale for lines.
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
)
BLACK, GREY, PALE = "#1A1A1A", "#7F7F7F", "#D9D9D9"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
SPLITS = {"train": BLUE, "validation": ORANGE, "test": VERMILLION}
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
WIDTH = 6.5  # inches of a text column
MOST_POINTS = 4000  # a scatter plot with more shows no more, and makes huge files


class PlainTicks(ScalarFormatter):
    """Ticks as plain text, and only their common power of ten as mathematics, which takes 10 ms to set."""

    def get_offset(self) -> str:
        self.set_useMathText(True)
        try:
            return super().get_offset()
        finally:
            self.set_useMathText(False)


@functools.cache
def _look() -> Any:
    return mpl.rc_params_from_file(
        str(resources.files(__package__) / "kanrun.mplstyle"), use_default_template=False
    )


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function that returns a Figure draw it in this look, whatever the caller's matplotlib settings."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_look())
            figure = draw(*args, **kwargs)
            for axes in figure.axes:
                for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
                    if axis.get_scale() == "log":
                        _finish_log_axis(axes, name)
                    elif type(axis.get_major_formatter()) is ScalarFormatter:
                        axis.set_major_formatter(PlainTicks())
            return figure

    return drawn


def _finish_log_axis(axes: Axes, name: str) -> None:
    """Give a logarithmic axis ends where nothing has a place on it, which matplotlib refuses to draw, and few ticks.

    Over less than two decades its ticks are at round numbers; from 0.001 to 100,000 they are written as 50 and 2000.
    Ticks that the figure chose stay.
    """
    axis = axes.xaxis if name == "x" else axes.yaxis
    if not min(axis.get_view_interval()) > 0:
        axes.set(**{f"{name}lim": (0.1, 1.0)})
    if type(axis.get_major_formatter()) is not LogFormatterSciNotation:
        return
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    if decades < 2:
        factors = (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
        axis.set_major_locator(
            LogLocator(subs=factors) if decades > 0.8 else MaxNLocator(4, steps=[1, 2, 5, 10])
        )
        axis.set_major_formatter(
            LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf))
        )
        axis.set_minor_locator(NullLocator())
    if low >= 1e-3 and high < 1e5:
        axis.set_major_formatter("{x:g}")


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of that size in inches that keeps labels from overlapping."""
    return Figure(figsize=(width, height), layout="constrained")


def one_panel(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a figure of that size with a single panel."""
    figure = new_figure(height, width)
    return figure, figure.subplots()


def grid_of_axes(figure: Figure, rows: int, columns: int) -> list[list[Axes]]:
    """Return the axes of a grid as rows of columns, also when there is one."""
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    return [list(row) for row in axes]


def first_seed(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of the first cell and its first seed; all rows of a table without these columns."""
    for name in ("cell", "seed"):
        if name in table and len(table):
            table = table[table[name] == table[name].min()]
    return table


def thinned(table: pandas.DataFrame, most: int = MOST_POINTS) -> pandas.DataFrame:
    """Return at most `most` rows, evenly spaced over the table."""
    return table.iloc[:: -(-len(table) // most)] if len(table) > most else table


def reach(errors: NDArray[np.float64]) -> float:
    """Return the half-width of an axis of errors: the largest, or less where a few would hide all others.

    That is so when the largest is more than three times what 99 of 100 errors stay below.
    """
    sizes = np.abs(errors[np.isfinite(errors)])
    if not sizes.size or sizes.max() <= 0:
        return 1.0
    most = float(np.quantile(sizes, 0.99))
    return 1.5 * most if 0 < 3 * most < sizes.max() else float(sizes.max())


def letters(value: str, most: int) -> str:
    """Return `value`, cut to `most` characters, with its dollar signs kept from starting mathematics."""
    short = value if len(value) <= most else value[: most - 1] + "…"
    return short.replace("$", r"\$")


def number(value: float) -> str:
    """Return a number with three digits, plainly from 0.001 to 100,000: 53.8, and 5.38e-07."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.2e}"


def only_some(shown: int, there: int, what: str) -> str:
    """Return a remark that not all are shown, or nothing if they are."""
    return "" if shown >= there else f"{shown} of {there} {what}"


def say_above(figure: Figure, remark: str) -> None:
    """Write `remark`, where there is one, above all panels of a figure."""
    if remark:
        figure.suptitle(remark, fontsize=8, color=GREY)


def truths(column: pandas.Series[Any]) -> pandas.Series[bool]:
    """Return which entries are true: a table read from a file has them as text where some are missing."""
    return column.astype(str).str.lower().isin(["true", "1", "1.0"])


def is_numeric(table: pandas.DataFrame, columns: Sequence[str]) -> bool:
    return all(table[name].dtype.kind in "fiub" for name in columns if name in table)


def draw_small_figure() -> None:
    """Draw a line as PNG and SVG to nowhere, as a measure of what drawing takes on this machine."""
    figure = Figure(layout="constrained")
    figure.subplots().plot([0, 1])
    for form in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=form)
