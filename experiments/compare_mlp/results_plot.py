"""The table of a comparison with MLPs, and what figures need of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from kanrun.figures.style import letters, new_figure, only_some, say_above, styled

_MOST_ROWS = 40


@styled
def results(summary: DataFrame) -> Figure:
    """The table of the comparison: sizes, seconds, and median and quartiles of the test error."""
    middle, low, high = quartiles(summary)
    shown = middle.assign(quartiles=[f"{a:.2g} .. {b:.2g}" for a, b in zip(low, high, strict=True)]).head(_MOST_ROWS)
    columns = {
        "target": "target", "model": "model", "shape": "shape", "activation": "activation", "intervals": "G",
        "parameters": "parameters", "flops": "FLOPs", "seconds": "train s", "inference_seconds": "pass ms",
        "error": " or ".join(summary["error_name"].unique()), "quartiles": "quartiles",
    }  # fmt: skip
    if "test_accuracy" in shown and shown["test_accuracy"].notna().any():
        columns["test_accuracy"] = "accuracy"
    sizes = _sizes(summary)
    text = [[sizes.get((name, at)) or _cell(name, row[name]) for name in columns] for at, row in shown.iterrows()]
    letters_wide = sum(max(map(len, column)) for column in zip(columns.values(), *text, strict=True))
    figure = new_figure(0.17 * len(text) + 0.5, 0.062 * letters_wide + 0.13 * len(columns))
    say_above(figure, only_some(len(shown), len(middle), "networks"))
    panel = figure.subplots()
    panel.axis("off")
    table = panel.table(text, colLabels=list(columns.values()), loc="center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.3)
    table.auto_set_column_width(list(range(len(columns))))
    return figure


def _sizes(summary: DataFrame) -> dict[tuple[str, Any], str]:
    """Of each network whose seeds ended at different sizes the least and the largest, by column and row."""
    grouped = _networks(summary)[["intervals", "parameters", "flops"]]
    low, high = grouped.min().reset_index(drop=True), grouped.max().reset_index(drop=True)
    differ = low.lt(high)
    return {
        (name, at): f"{low.loc[at, name]:.0f} .. {high.loc[at, name]:.0f}"
        for name in differ for at in differ.index[differ[name]]
    }  # fmt: skip


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return letters(value.upper() if name == "model" else value, 40)
    if value is None or np.isnan(value):
        return ""
    if name == "inference_seconds":
        return f"{1000 * value:.2f}"
    if name in ("error", "test_accuracy"):
        return f"{value:.3g}"
    return f"{value:.2f}" if name == "seconds" else f"{value:.0f}"


def _networks(rows: DataFrame) -> Any:
    """The rows of each network, one a seed."""
    return rows.groupby([name for name in ("cell", "target", "model", "activation") if name in rows], sort=False)


def quartiles(rows: DataFrame) -> tuple[DataFrame, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Medians over the seeds of each network, and the quartiles of its error."""
    grouped = _networks(rows)
    middle = grouped.median(numeric_only=True).reset_index()
    shapes = grouped["shape"].first().reset_index(drop=True)
    low, high = (grouped["error"].quantile(share).to_numpy(float) for share in (0.25, 0.75))
    return middle.assign(shape=shapes), low, high
