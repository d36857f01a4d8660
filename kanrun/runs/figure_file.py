"""Figures as PNG and SVG files whose bytes depend on what is drawn only, not on when."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kanrun.runs.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200


def write_figure(stem: Path, figure: Figure) -> None:
    """Write `stem`.png and `stem`.svg, each atomically. Raises StorageFailed."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "kanrun", "svg.fonttype": "path"}), _laid_out(figure):
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
            write_atomic(stem.parent / f"{stem.name}.{kind}", buffer.getvalue())


@contextlib.contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Lay the figure out once for all formats, since that takes as long as drawing it."""
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)
