"""Loss curve of a training: the error over its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from kanrun.figures.style import GREY, SPLITS, one_panel, styled, truths

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

Values = NDArray[np.float64]
DASHES = {
    "train": "-",
    "test": "-",
    "validation": (0, (3, 2)),
}  # validation last: it often lies on test
CLOSEST = 0.045  # of the axis, between two labels of stages


@styled
def loss_curve(metrics: pandas.DataFrame, error: str = "RMSE") -> Figure:
    """Return the error over steps on a logarithmic axis, with the grid stages of the first seed marked.

    `error` says what the recorded errors are. `metrics` has the columns seed, stage, step, intervals, train_rmse,
    validation_rmse, test_rmse, and may have best (whether a step's network is the best of its stage so far). Curves
    then show the errors of the best network, which is the one that training keeps, and faint dots those of the others.
    Steps that start again with each stage are put one after the other. Further seeds are thin lines.
    """
    figure, axes = one_panel(3.2)
    runs = _runs(metrics)
    handles = []
    for split, dash in DASHES.items():
        colour = SPLITS[split]
        name = f"{split}_rmse"
        if name not in metrics or not (metrics[name] > 0).any():
            continue
        for number, (steps, rows) in enumerate(runs):
            values = rows[name].to_numpy(dtype=float)
            values = np.where(values > 0, values, np.nan)  # zero has no place on a logarithmic axis
            width, alpha, order = (1.4, 1.0, 3) if number == 0 else (0.7, 0.35, 2)
            path = _kept(rows, values)
            axes.plot(steps, path, color=colour, ls=dash, lw=width, alpha=alpha, zorder=order)
            if number == 0 and not np.array_equal(path, values, equal_nan=True):
                tried = np.where(path == values, np.nan, values)
                axes.plot(steps, tried, ".", color=colour, ms=3, alpha=0.3, zorder=1)
        handles.append(Line2D([], [], color=colour, ls=dash, label=split))
    if runs and "best" in runs[0][1] and not truths(runs[0][1]["best"]).all():
        handles.append(
            Line2D([], [], color=GREY, ls="", marker=".", ms=3, alpha=0.6, label="tried, not kept")
        )
    if len(runs) > 1:
        label = f"{len(runs) - 1} more seed{'s' if len(runs) > 2 else ''}"
        handles.append(Line2D([], [], color=GREY, lw=0.7, alpha=0.6, label=label))
    axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=error)
    axes.margins(x=0.01)
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if runs:
        _mark_stages(axes, *runs[0])
    return figure


def _kept(rows: pandas.DataFrame, values: Values) -> Values:
    """Return `values`, where a step was not the best so far those of the best."""
    if "best" not in rows:
        return values
    return np.asarray(
        values[np.maximum.accumulate(np.where(truths(rows["best"]), np.arange(len(values)), 0))]
    )


def _runs(metrics: pandas.DataFrame) -> list[tuple[Values, pandas.DataFrame]]:
    """Return steps that only go up, and rows, for each (cell, seed)."""
    keys = [name for name in ("cell", "seed") if name in metrics]
    groups = [rows for _, rows in metrics.groupby(keys)] if keys else [metrics]
    runs = []
    for rows in groups:
        steps = rows["step"].to_numpy(dtype=float)
        if np.any(np.diff(steps) <= 0):
            steps = np.arange(len(rows), dtype=float)
        runs.append((steps, rows))
    return [run for run in runs if len(run[0])]


def _mark_stages(axes: Axes, steps: Values, rows: pandas.DataFrame) -> None:
    """Draw a line where each stage starts, and write its number of intervals above."""
    if "intervals" not in rows or rows["intervals"].isna().all():
        return
    intervals = rows["intervals"].to_numpy()
    stages = rows["stage"].to_numpy() if "stage" in rows else intervals
    starts = [0, *(np.flatnonzero(stages[1:] != stages[:-1]) + 1)]
    low, high = axes.get_xlim()
    places: list[float] = []
    labels: list[str] = []
    for start in starts:
        if start:
            axes.axvline(steps[start], color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=1)
        if not places or steps[start] - places[-1] > CLOSEST * (high - low):
            places.append(float(steps[start]))
            labels.append(f"{intervals[start]:g}")
    top = axes.secondary_xaxis("top")
    top.set_xticks(places, labels)
    top.set_xlabel("intervals of the grid")
    top.spines["top"].set_visible(False)
