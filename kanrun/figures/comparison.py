"""Several runs over each other: learning curves, and the functions of the edges that they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from kanrun.figures.edge_panels import KEYS, pruned_rows, strongest, title_of
from kanrun.figures.panels import legend_of_all
from kanrun.figures.style import (
    CYCLE,
    first_seed,
    grid_of_axes,
    letters,
    new_figure,
    only_some,
    say_above,
    styled,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_MOST, _COLUMNS = 12, 4
_ERRORS = ("validation_rmse", "test_rmse", "train_rmse")


@styled
def overlaid(runs: Mapping[str, Mapping[str, pandas.DataFrame]]) -> Figure:
    """Return learning curves above and, of runs with edges, the strongest edges of the first beneath, by colour of run.

    `runs` maps a run's name to its tables `metrics` (columns stage, step and errors) and `edges` (as for `edges`).
    """
    metrics = {
        name: first_seed(tables["metrics"]) for name, tables in runs.items() if "metrics" in tables
    }
    edges = {
        name: first_seed(tables["edges"]) for name, tables in runs.items() if "edges" in tables
    }
    groups = strongest(_drawn(next(iter(edges.values()))), _MOST) if len(edges) > 1 else []
    rows = -(-len(groups) // _COLUMNS)
    figure = new_figure(2.8 * bool(metrics) + 1.35 * rows + 0.4)
    both: Any = (
        figure.subfigures(2, 1, height_ratios=[2.8, 1.35 * rows])
        if metrics and rows
        else (figure, figure)
    )
    upper, lower = both
    colours = dict(zip(runs, [CYCLE[i % len(CYCLE)] for i in range(len(runs))], strict=True))
    panels: list[Axes] = []
    if metrics:
        panels.append(upper.subplots())
        _draw_errors(panels[0], metrics, colours)
    if rows:
        flat = [
            axes for line in grid_of_axes(lower, rows, min(_COLUMNS, len(groups))) for axes in line
        ]
        for axes in flat[len(groups) :]:
            axes.remove()
        panels += flat[: len(groups)]
        for axes, (key, group) in zip(flat, groups, strict=False):
            _draw_edge(axes, key, edges, colours)
            axes.set_title(title_of(key, group), fontsize=7)
        there = len(_drawn(next(iter(edges.values()))).drop_duplicates(KEYS))
        say_above(lower, only_some(len(groups), there, "edges, those with the highest scores"))
    legend_of_all(figure, panels[: 1 if metrics else 2], ncols=min(4, len(runs)))
    return figure


def _drawn(table: pandas.DataFrame) -> pandas.DataFrame:
    return table[~pruned_rows(table)]


def _draw_errors(
    axes: Axes, metrics: Mapping[str, pandas.DataFrame], colours: Mapping[str, str]
) -> None:
    """The lowest error so far over steps, since that network is kept, of the first error that every run has."""
    errors = [
        name
        for name in _ERRORS
        if all(name in table and (table[name] > 0).any() for table in metrics.values())
    ]
    for name, table in metrics.items():
        if errors:
            values = table[errors[0]].to_numpy(dtype=float)
            lowest = np.fmin.accumulate(np.where(values > 0, values, np.nan))
            axes.plot(np.arange(len(lowest)), lowest, color=colours[name], label=letters(name, 30))
    axes.set_yscale("log")
    what = errors[0].replace("_rmse", " RMSE") if errors else "RMSE"
    axes.set(xlabel="recorded step", ylabel=f"lowest {what} so far")


def _draw_edge(
    axes: Axes,
    key: tuple[int, int, int],
    edges: Mapping[str, pandas.DataFrame],
    colours: Mapping[str, str],
) -> None:
    for name, table in edges.items():
        rows = table[(table[KEYS] == list(key)).all(axis=1)].sort_values("x")
        if len(rows):
            axes.plot(rows["x"], rows["y"], color=colours[name], lw=1.1, label=letters(name, 30))
    axes.tick_params(labelsize=6)
