"""Figures as PNG and SVG files whose bytes depend on what is drawn only, not on when."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from kanrun.runs.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200


def write_figure(stem: Path, figure: Figure) -> None:
    """Write `stem`.png and `stem`.svg, each atomically. Raises StorageFailed."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "kanrun", "svg.fonttype": "path"}):
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
            write_atomic(stem.parent / f"{stem.name}.{kind}", buffer.getvalue())
