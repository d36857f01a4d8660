"""Marks in figures of grids: where networks can reproduce their points, by their parameters and as the paper counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame

from kanrun.figures.style import BLACK, GREY

#: From which grid networks can reproduce the points: column of the stages, what it says, look. One lies on the other.
MARKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("threshold", "parameters = training points", {"color": GREY, "lw": 3.0, "alpha": 0.45}),
    ("paper_threshold", "the paper's $E\\,G$ = training points", {"color": BLACK, "lw": 1.1, "ls": ":"}),
)
FARTHEST = 10  # times the finest grid: a mark beyond is named, not drawn


def marks(stages: DataFrame) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """The grid at which each mark is, its words and its look, as far as the table has it."""
    for name, text, look in MARKS:
        at = stages[name].median() if name in stages else np.nan
        if np.isfinite(at):
            yield float(at), text, look


def points_at(stages: DataFrame, name: str, intervals: float) -> float:
    """How many training points a mark of `intervals` belongs to, between those that were tried; NaN beyond them."""
    if name not in stages:
        return float("nan")
    known = stages.groupby("train_points")[name].median().dropna()
    grids, points = np.log(known.to_numpy(float)), np.log(known.index.to_numpy(float))
    if len(known) < 2 or not (np.diff(grids) > 0).all():
        return float("nan")
    return float(np.exp(np.interp(np.log(intervals), grids, points, left=np.nan, right=np.nan)))


def mark_thresholds(panel: Axes, rows: DataFrame, shape: str = "") -> None:
    """Both marks on an axis of G; `shape` is named with what is too far to be drawn, which differs between shapes."""
    for at, text, look in marks(rows):
        if at <= FARTHEST * rows["intervals"].max():
            panel.axvline(at, zorder=0, label=text, **look)
        else:
            whose = f" for {shape_of(shape)}" if shape else ""
            panel.plot([], [], label=f"{text}: at $G = {at:g}${whose}", **look)


def shape_of(text: str) -> str:
    return f"[{str(text).replace('-', ', ')}]"
