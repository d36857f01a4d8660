"""The common look of all figures: colours, tick labels, and the text of labels and remarks.

Sizes of text and lines are set in kanrun.mplstyle. Labels are plain text, because mathtext would
take a third of the time of a figure.
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    AutoLocator,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullLocator,
    ScalarFormatter,
)
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axis import XAxis, YAxis
    from pandas import DataFrame

# Okabe and Ito's palette (jfly.uni-koeln.de/color), without its yellow, which is too pale for
# lines.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
BLACK = "#1A1A1A"
GREY = "#7F7F7F"
PALE = "#D9D9D9"
#: Keyword arguments of matplotlib's drawing functions, such as colour and line width.
Look = dict[str, Any]
#: Name of each figure, and a function that draws it.
Figures = Iterator[tuple[str, Callable[[], Figure]]]
#: Colour of the lines of axes, as in kanrun.mplstyle.
AXIS = "#4D4D4D"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
#: Markers of several curves in one panel, one character each.
MARKERS = "osD^vPX"
DASHED: Look = {"color": GREY, "lw": 0.7, "ls": (0, (4, 3)), "zorder": 1}
SPLITS = {"train": BLUE, "held out": BLUE, "validation": ORANGE, "test": VERMILLION}
#: Splits on which predictions are judged, from the least to the most trustworthy.
JUDGED = ("train", "held out", "test")
DIVERGING = "RdBu_r"
#: Look of a band around a curve. SEED is the look of single seeds, and THIN that of secondary
#: lines.
BAND: Look = {"alpha": 0.2, "lw": 0}
SEED: Look = {"alpha": 0.5}
THIN: Look = {"lw": 0.7, "ms": 2.6, "alpha": 0.6}
#: Look of text on top of lines, with a white outline. Its offset from the data point is in points.
LABEL: Look = {
    "textcoords": "offset points",
    "ha": "center",
    "path_effects": [withStroke(linewidth=3, foreground="white")],
    "zorder": 6,
}
#: Kinds of columns (`dtype.kind`) that hold numbers.
NUMBERS = "fiub"
#: Numbers in this range are written without a power of ten.
PLAIN_RANGE = (1e-3, 1e5)
#: Options of MaxNLocator for all linear axes.
FEW_TICKS: Look = {"nbins": 4, "steps": [1, 2, 5, 10]}
_SUPERSCRIPTS = str.maketrans("-\N{MINUS SIGN}0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

_LOOK = mpl.rc_params_from_file(
    str(resources.files(__package__) / "kanrun.mplstyle"), use_default_template=False
)

P = ParamSpec("P")


def power(text: str) -> str:
    """Return `text` with digits and minus signs as superscripts."""
    return text.translate(_SUPERSCRIPTS)


def subscript(text: object) -> str:
    """Return `text`, or a number, with its digits as subscripts."""
    return str(text).translate(_SUBSCRIPTS)


def write_powers(text: str) -> str:
    """Return `text` with numbers such as 4.0e-05 written as 4×10⁻⁵."""

    def written(number: re.Match[str]) -> str:
        mantissa = f"{float(number[1]):g}×" if float(number[1]) != 1 else ""
        return f"{mantissa}10{power(number[2] + number[3])}"

    return re.sub(r"([\d.]+)e\+?([-\N{MINUS SIGN}]?)0*(\d+)", written, text)


def formula_text(formula: str) -> str:
    """Return a formula as people write it: pi*x0^2 becomes π·x₀²."""
    text = re.sub(r"\^(\d+)", lambda digits: power(digits[1]), formula)
    text = re.sub(r"\bx(\d+)", lambda digits: "x" + subscript(digits[1]), text)
    return re.sub(r"\bpi\b", "π", text).replace("*", "·")


class PlainTicks(ScalarFormatter):
    """Tick labels of a linear axis, with their common power of ten in superscript digits."""

    def get_offset(self) -> str:
        """Return the common factor or offset of the labels."""
        return write_powers(super().get_offset())


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a drawing function so that its figure has the common look.

    The caller's matplotlib settings are ignored and not changed. The first paragraph of the
    function's docstring, without "Draw", becomes the label of the figure, which is its caption.
    """
    paragraph = " ".join((draw.__doc__ or "").partition("\n\n")[0].split())
    caption = paragraph.removeprefix("Draw ")

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_LOOK)
            figure = draw(*args, **kwargs)
            figure.set_label(caption[:1].upper() + caption[1:])
            for axes in figure.axes:
                if not axes.get_title():
                    # Setting a title, even an empty one, fixes its place, so matplotlib need not
                    # measure all ticks each time the layout is computed.
                    axes.set_title("")
                for axis in (axes.xaxis, axes.yaxis):
                    _finish_axis(axis)
            return figure

    return drawn


def _finish_axis(axis: XAxis | YAxis) -> None:
    """Set a small number of ticks, since ticks are slow, with plain labels; keep ticks set before.

    A logarithmic axis without positive data gets limits, since matplotlib cannot draw it otherwise.
    """
    # Number of decades below which a logarithmic axis also has ticks at 2 and 5 times powers of
    # ten.
    few_decades = 2.0
    # Number of decades below which a logarithmic axis has ticks like a linear one.
    part_of_decade = 0.8
    few = MaxNLocator(**FEW_TICKS)
    if axis.get_scale() != "log":
        if type(axis.get_major_locator()) is AutoLocator:
            axis.set_major_locator(few)
        if type(axis.get_major_formatter()) is ScalarFormatter:
            axis.set_major_formatter(PlainTicks())
        return
    if not min(axis.get_view_interval()) > 0:
        axis.axes.set(**{f"{axis.axis_name}lim": (0.1, 1.0)})
    axis.set_minor_locator(NullLocator())
    if type(axis.get_major_formatter()) is not LogFormatterSciNotation:
        return
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    if decades < part_of_decade:
        axis.set_major_locator(few)
    elif decades < few_decades:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    plain = PLAIN_RANGE[0] <= low and high < PLAIN_RANGE[1]
    axis.set_major_formatter(lambda x, _: f"{x:g}" if plain else write_powers(f"{x:.2e}"))


def first_seed(table: DataFrame) -> DataFrame:
    """Return the rows of the first cell and its first seed; missing columns are ignored."""
    for name in ("cell", "seed"):
        if name in table and len(table):
            table = table[table[name] == table[name].min()]
    return table


def named_columns(table: DataFrame, prefix: str) -> dict[str, str]:
    """Return the columns that start with `prefix`, as column -> name without the prefix."""
    return {name: name.removeprefix(prefix) for name in map(str, table) if name.startswith(prefix)}


def thin(table: DataFrame) -> DataFrame:
    """Return at most 4000 rows, evenly spaced over the table."""
    max_points = 4000  # largest number of points in a scatter plot
    return table.iloc[:: max(1, -(-len(table) // max_points))]


def error_limit(errors: NDArray[np.float64]) -> float:
    """Return the half-width of an axis of errors: usually the largest absolute error.

    If the largest is more than three times the 99% quantile, it would hide the other errors; the
    half-width is then 1.5 times this quantile.
    """
    sizes = np.abs(errors[np.isfinite(errors)])
    largest = float(sizes.max(initial=0.0))
    most = float(np.quantile(sizes, 0.99)) if sizes.size else 0.0
    return 1.5 * most if 0 < 3 * most < largest else largest or 1.0


def shorten(value: Any, max_letters: int = 30) -> str:
    """Return `value` as text of at most `max_letters` letters, with $ escaped for matplotlib."""
    text = str(value)
    short = text if len(text) <= max_letters else text[: max_letters - 1] + "…"
    return short.replace("$", r"\$")


def number(value: float) -> str:
    """Return a number with three significant digits, such as 53.8 or 5.38e-07.

    Powers of ten are used below 0.001 and from 100,000 on.
    """
    low, high = PLAIN_RANGE
    if value and not low <= abs(value) < high:
        return f"{value:.2e}"
    digits = f"{value:.3g}"
    return f"{value:.0f}" if "e" in digits else digits


def note_of_some(shown: int, total: int, what: str) -> str:
    """Return a remark such as "4 of 9 outputs", or "" if all are shown."""
    return "" if shown >= total else f"{shown} of {total} {what}"


def set_remark(figure: Any, *remarks: str, **place: float) -> None:
    """Write the remarks that are not empty above all panels, wrapped to the width of the figure."""
    letters = 16  # number of letters of a remark per inch of the figure's width
    if remark := "; ".join(filter(None, remarks)):
        lines = textwrap.wrap(remark, int(letters * figure.get_figwidth()))
        figure.suptitle("\n".join(lines), color=GREY, **place)
