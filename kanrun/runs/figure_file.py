"""Figures as PNG and SVG files whose bytes depend on what is drawn only, not on when or on the user's settings."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanrun.runs.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200


def write_figure(stem: Path, figure: Figure) -> None:
    """Write `stem`.png and `stem`.svg, each atomically. Raises StorageFailed."""
    import matplotlib

    settings: Any = {
        "svg.hashsalt": "kanrun",
        "svg.fonttype": "path",
        "figure.autolayout": False,
        "figure.constrained_layout.use": False,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ticks are made, and their labels styled, while a figure is saved
        matplotlib.rcParams.update(settings)
        _save(stem, figure)


def _save(stem: Path, figure: Figure) -> None:
    with _laid_out(figure):
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
            write_atomic(stem.parent / f"{stem.name}.{kind}", buffer.getvalue())


@contextlib.contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Lay the figure out once for all formats, since that takes as long as drawing it.

    While a figure has a layout engine, even one that does nothing, each saving draws it twice. At other dots per inch
    than it is saved with, labels have other widths, and long ones would be clipped.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    dots = figure.get_dpi()
    figure.set_dpi(DPI)
    for _ in range(2):  # ticks go by the size of the axes, and that by the width of the ticks' labels
        engine.execute(figure)
    figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_dpi(dots)
        figure.set_layout_engine(engine)
